"""Select the weights that a weight sync sends, and check that they arrive unaltered.

Every vLLM process loads this module through the plugin: it imports nothing of `gpg_vl.policy`.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gpg_vl.policy.adapters import WholeWeight
    from gpg_vl.policy.load import Policy

HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Weights(Mapping[str, Tensor]):
    """Tensors by name, converted to the engine's number type one at a time, when they are read.

    So no second copy of all weights is held.
    """

    parameters: "Mapping[str, Tensor | WholeWeight]"
    """The trainer's tensors, in their own type; those of a model with adapters are merged when they
    are read."""
    dtype: torch.dtype
    """Number type of the tensors that are read."""

    def __getitem__(self, name: str) -> Tensor:
        parameter = self.parameters[name]
        tensor = parameter.detach() if isinstance(parameter, Tensor) else parameter.read()
        return tensor.to(self.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors, of which none is read: that may merge an adapter."""
        return {name: tuple(parameter.shape) for name, parameter in self.parameters.items()}

    @property
    def size(self) -> int:
        """Bytes of all tensors together."""
        return sum(map(math.prod, self.shapes.values())) * self.dtype.itemsize


def trainable_weights(policy: "Policy", *, include_frozen: bool = False) -> Weights:
    """Return every tensor that training changes, in the type that the engine computes in.

    Names are those of the checkpoint. A head that is tied to a trained embedding is sent under its
    own name too: a vLLM that repacks weights when it loads them (its CPU backend does) holds a copy
    of the head, which would otherwise keep its old values.

    Adapters are sent merged, each with the matrices that vLLM fuses with it, of which it takes all
    or none. Matrices that are held in 4 bits are sent as they are computed with: a server has
    loaded others.

    Args:
        include_frozen: return all tensors, for an engine that has lost its weights or holds those
            of another run.
    """
    parameters: dict[str, Tensor | WholeWeight] = {}
    if policy.adapters is None:
        for name, parameter in policy.model.named_parameters():
            if include_frozen or parameter.requires_grad:
                parameters[name] = parameter
    else:
        for name, weight in policy.adapters.whole_weights().items():
            if include_frozen or weight.is_changed:
                parameters[name] = weight
    embedding = policy.model.get_input_embeddings().weight
    if policy.model.lm_head.weight is embedding:
        for name, parameter in policy.model.named_parameters():
            if parameter is embedding and name in parameters:
                parameters[HEAD] = parameters[name]
    return Weights(parameters, policy.dtype)


def checksums(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the SHA-256 of each tensor's bytes."""
    return {name: checksum(tensor) for name, tensor in tensors.items()}


def checksum(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's bytes, on whatever device it is."""
    data: Any = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.sha256(data).hexdigest()


def check_received(
    tensors: Iterator[tuple[str, Tensor]], names: list[str], expected: Mapping[str, str]
) -> None:
    """Check that each announced tensor arrives exactly once and unaltered.

    Args:
        names: the announced tensors.
        expected: checksums of some or all of them; the others are not compared.

    Raises:
        ValueError: a tensor is missing, unknown, sent twice or altered.
    """
    missing = set(names)
    for name, tensor in tensors:
        if name not in missing:
            raise ValueError(f"{name} came, but was not announced or came before")
        missing.remove(name)
        if name in expected and checksum(tensor) != expected[name]:
            raise ValueError(f"{name} is not what was sent: its checksum differs")
    if missing:
        raise ValueError(
            f"{len(missing)} announced tensors did not come, {min(missing)} among them"
        )
