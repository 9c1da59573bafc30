"""Which weights travel from the trainer to an engine with a copy of its own, and what proves that they have landed."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpg_vl.policy.load import Policy

HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Weights(Mapping[str, Tensor]):
    """Tensors by name, each turned into the engine's number format when it is read, so that no second copy of all is held."""

    parameters: dict[str, Tensor]
    dtype: torch.dtype

    def __getitem__(self, name: str) -> Tensor:
        return self.parameters[name].detach().to(self.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)


def trainable_weights(policy: Policy, *, frozen_too: bool = False) -> Weights:
    """Every tensor that training changes, by its name in the checkpoint, in the number format that the engine computes in.

    A head that is tied to a trained embedding travels under its own name too: a vLLM that repacks weights when it loads them (its CPU
    backend does) keeps a copy of the head, which would stay what it was.

    Args:
        frozen_too: for an engine that has lost everything, or has served somebody else.
    """
    named: dict[str, Tensor] = {name: it for name, it in policy.model.named_parameters() if frozen_too or it.requires_grad}
    embedding = policy.model.get_input_embeddings().weight
    if policy.model.lm_head.weight is embedding and any(parameter is embedding for parameter in named.values()):
        named[HEAD] = embedding
    return Weights(named, policy.dtype)


def checksums(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """SHA-256 of each tensor's bytes."""
    return {name: checksum(tensor) for name, tensor in tensors.items()}


def checksum(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes, wherever it lies."""
    data: Any = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.sha256(data).hexdigest()


def check_received(tensors: Iterator[tuple[str, Tensor]], names: list[str], wanted: Mapping[str, str]) -> None:
    """Make sure that each of `names` comes exactly once, with its digest where one is given.

    Raises:
        ValueError: one is missing, strange, doubled or altered.
    """
    waiting = set(names)
    for name, tensor in tensors:
        if name not in waiting:
            raise ValueError(f"{name} came, but was not announced or came before")
        waiting.remove(name)
        if name in wanted and checksum(tensor) != wanted[name]:
            raise ValueError(f"{name} is not what was sent: its checksum differs")
    if waiting:
        raise ValueError(f"{len(waiting)} announced tensors did not come, {min(waiting)} among them")
