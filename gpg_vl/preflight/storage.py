"""Count the bytes of a policy's parameters, by how each part of it is stored and trained.

Parts that are not trained, and matrices under adapters, are held in `policy.dtype`; matrices of
the language model's layers in 4 bits with `policy.quantise: nf4`. Trained parts are held in
`policy.weights`, adapters in float32.
"""

from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod

from gpg_vl.config.models import TINY
from gpg_vl.config.schema import PolicyConfig
from gpg_vl.policy.adapter_files import AdapterFiles
from gpg_vl.policy.model_folder import BYTES
from gpg_vl.policy.part_names import part_of
from gpg_vl.policy.sizes import Matrix, Size

NF4_BLOCK, NF4_OUTER_BLOCK = 64, 256
"""Numbers of bitsandbytes that share a scale of 1 byte, and scales that share one of 4 bytes."""
SMALLEST_8BIT, BLOCK_8BIT = 4096, 256
"""Numbers of a tensor from which on bitsandbytes keeps moments in 8 bits, and numbers that share a
scale of 4 bytes."""


@dataclass(frozen=True, kw_only=True)  # without slots, which cached properties cannot have
class Storage:
    """Numbers of parameters by their storage, and their bytes."""

    policy: PolicyConfig
    size: Size
    files: AdapterFiles | None = None
    """Adapter on disk that is trained on, in its own size; None = adapters are new."""

    @property
    def wide(self) -> int:
        """Bytes of a number of an adapter, its gradient and its moments."""
        return 8 if self.policy.dtype == "float64" else 4

    @property
    def narrow(self) -> int:
        """Bytes of a number that is not trained, and of one in the forward."""
        return BYTES[self.policy.dtype]

    @property
    def trained_width(self) -> int:
        """Bytes of a number of a part that is trained whole, and of its gradient."""
        return 2 if self.policy.weights == "bfloat16" else self.wide

    @property
    def trained_type(self) -> str:
        """Name of the type of parts that are trained whole."""
        return "bfloat16" if self.policy.weights == "bfloat16" else self.wide_type

    @property
    def wide_type(self) -> str:
        """Name of the type of adapters."""
        return f"float{8 * self.wide}"

    @cached_property
    def full(self) -> int:
        """Number of parameters of the parts that are trained whole."""
        return sum(self.size.parameters[part] for part in self._parts("full"))

    def adapted(self, part: str) -> tuple[Matrix, ...]:
        """Return the matrices of a part that have an adapter."""
        if getattr(self.policy, part) != "lora":
            return ()
        if self.files is not None:
            return self._on_disk(part, self.files)
        return self.chosen(self.size.matrices(part))

    def chosen(self, matrices: tuple[Matrix, ...]) -> tuple[Matrix, ...]:
        """Return the matrices that `policy.lora.targets` names; all, if it names none.

        A target may be a whole path; a path that names one layer is counted as if it named all. So
        are the activations of an adapter on disk, whose names stand there.
        """
        targets = self.policy.lora.targets
        if not targets:
            return matrices
        names = {target.rpartition(".")[2] for target in targets}
        return tuple(matrix for matrix in matrices if matrix.name in names)

    def _on_disk(self, part: str, files: AdapterFiles) -> tuple[Matrix, ...]:
        """Return the matrices of a part that an adapter on disk is for."""
        found: list[Matrix] = []
        for name, (outputs, inputs) in files.adapted.items():
            if part_of(f".{name}.") == part:
                found.append(Matrix(name.rpartition(".")[2], inputs, outputs))
        return tuple(found)

    @cached_property
    def all_adapted(self) -> tuple[Matrix, ...]:
        """Matrices of all parts that have an adapter."""
        return self.adapted("language") + self.adapted("projector") + self.adapted("vision")

    @cached_property
    def adapter_tensors(self) -> tuple[int, ...]:
        """Numbers of parameters of all A and B: A has rank x inputs, B outputs x rank."""
        if self.files is not None:  # their ranks may differ
            shapes = self.files.shapes.items()
            return tuple(prod(shape) for name, shape in shapes if ".lora_" in name)
        ends: list[int] = []
        for matrix in self.all_adapted:
            ends += matrix.inputs, matrix.outputs
        return tuple(self.policy.lora.rank * end for end in ends)

    @property
    def adapters(self) -> int:
        """Number of parameters of all adapters."""
        return sum(self.adapter_tensors)

    @property
    def trained(self) -> int:
        """Number of parameters that are trained."""
        return self.full + self.adapters

    @cached_property
    def in_4_bits(self) -> tuple[Matrix, ...]:
        """Matrices held in 4 bits; those whose rows are no whole blocks stay as they are."""
        if self.policy.quantise == "none":
            return ()
        matrices = self.size.matrices("language")
        return tuple(matrix for matrix in matrices if matrix.inputs % NF4_BLOCK == 0)

    @property
    def quantised(self) -> int:
        """Number of parameters that are held in 4 bits."""
        return sum(matrix.numbers for matrix in self.in_4_bits)

    @property
    def quantised_bytes(self) -> int:
        """Bytes of the parameters that are held in 4 bits, with their scales."""
        return sum(nf4_bytes(matrix.numbers) for matrix in self.in_4_bits)

    @property
    def frozen(self) -> int:
        """Number of parameters that are held in `policy.dtype`, without the quantised ones.

        peft keeps the first values of a part that is trained whole beside adapters.
        """
        originals = self.full if self.policy.trains_adapters else 0
        return self.size.total - self.full - self.quantised + originals

    @property
    def gradient_bytes(self) -> int:
        """Bytes of the gradients of all that is trained."""
        return self.trained_width * self.full + self.wide * self.adapters

    @property
    def saved_bytes(self) -> int:
        """Bytes of the weights of a checkpoint.

        Beside adapters, frozen weights are not saved, but for those of a tiny model, whose base
        model is nowhere else.
        """
        trained = self.trained_width * self.full + self.wide * self.adapters
        if not self.policy.trains_adapters:
            return trained + self.narrow * self.frozen
        if self.policy.model == TINY:
            return trained + self.narrow * self.size.total
        return trained

    @property
    def largest_trained(self) -> int:
        """Numbers of the largest tensor of the parts that are trained whole."""
        largest = 0
        for part in self._parts("full"):
            if part == "language":
                largest = max(largest, self.size.head)
            for matrix in self.size.matrices(part):
                largest = max(largest, matrix.numbers)
        return largest

    def moment_bytes(self, kind: str) -> int:
        """Return the bytes of both moments of the optimizer `kind`."""
        if kind == "adamw":
            return 2 * self.wide * self.trained
        return self._moment_bytes_8bit

    @cached_property
    def _moment_bytes_8bit(self) -> int:
        count = sum(map(moments_8bit, self.adapter_tensors))
        for part in self._parts("full"):
            tensors = [matrix.numbers for matrix in self.size.matrices(part)]
            if part == "language":
                tensors += [self.size.head] * (1 if self.size.tied else 2)
            rest = self.size.parameters[part] - sum(tensors)
            if part == "vision":  # nearly all of the rest embeds patches and their places
                tensors.append(rest)
                rest = 0
            # Norms and biases are too small for 8 bits.
            count += sum(map(moments_8bit, tensors)) + 2 * 4 * rest
        return count

    def _parts(self, training: str) -> list[str]:
        parts = self.size.parameters
        return [part for part in parts if getattr(self.policy, part) == training]


def nf4_bytes(numbers: int) -> int:
    """Return the bytes of a matrix in NF4 with double quantisation (arXiv 2305.14314).

    Each number has half a byte, each block a scale in one byte, and the scales have scales. The two
    tables of levels, 16 and 256 numbers, and the mean scale belong to each matrix.
    """
    scales = ceil(numbers / NF4_BLOCK)
    outer_scales = ceil(scales / NF4_OUTER_BLOCK)
    return ceil(numbers / 2) + scales + 4 * (outer_scales + 16 + 256 + 1)


def moments_8bit(numbers: int) -> int:
    """Return the bytes of both moments of a tensor of bitsandbytes' AdamW8bit."""
    if numbers < SMALLEST_8BIT:
        return 2 * 4 * numbers
    return 2 * (numbers + 4 * ceil(numbers / BLOCK_8BIT))
