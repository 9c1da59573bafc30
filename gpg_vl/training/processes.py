"""The few words that training needs from accelerate: how many ranks, a sum, a maximum, everybody's small matrices."""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, gather_object
from torch import Tensor

from gpg_vl.errors import UserError
from gpg_vl.types import Group

LONGEST_WAIT = timedelta(hours=6)
"""Of one process for another: while the main one examines the model, or one waits for its server, the others wait."""
SHARDING = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}
"""What `accelerate launch` tells its processes -> who divides the weights. On a CPU accelerate itself does not listen to it."""
PRECISION = "ACCELERATE_MIXED_PRECISION"


def start_accelerator() -> Accelerator:
    """accelerate on the GPU if there is one, its gradients kept once: DDP's buckets are the gradients.

    Raises:
        UserError: it was launched in a way that would give wrong numbers here.
    """
    _refuse([name for key, name in SHARDING.items() if _is_set(key)], os.environ.get(PRECISION, "no"))
    patience = InitProcessGroupKwargs(timeout=LONGEST_WAIT)
    once = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[patience, once])
    kind = accelerator.distributed_type.value
    _refuse([name for name in SHARDING.values() if kind == name.upper().replace("-", "_")], accelerator.mixed_precision)
    return accelerator


def _is_set(key: str) -> bool:
    return os.environ.get(key, "").lower() in {"1", "true", "yes", "y", "on", "t"}


def _refuse(sharding: list[str], precision: str) -> None:
    """Refuse what is not right yet.

    DeepSpeed's own backward takes a step in every micro-batch; the rollout and the gate go past what FSDP gathers; and a loss scaled for
    float16 is a loss that clipping and the check for non-finite gradients do not know.
    """
    if sharding:
        raise UserError(
            f"accelerate: launched with {sharding[0]}, which trains a wrong model here or none; every GPU holds the whole model: set "
            "distributed_type to MULTI_GPU (or NO), see configs/accelerate; gpg-vl plan says what fits"
        )
    if precision.lower() not in {"no", "bf16"}:
        raise UserError(f"accelerate: got mixed_precision {precision}, expected no; gpg_vl casts by itself: policy.dtype=bfloat16")


@dataclass(frozen=True, slots=True)
class Processes:
    """All processes of a run."""

    accelerator: Accelerator

    @property
    def rank(self) -> int:
        """Of this process."""
        return self.accelerator.process_index

    @property
    def count(self) -> int:
        """How many there are."""
        return self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.accelerator.is_main_process

    def total(self, value: int) -> int:
        """Sum over all ranks."""
        return sum(self.everybodys(value))

    def largest(self, value: int) -> int:
        """Maximum over all ranks."""
        return max(self.everybodys(value))

    def everybodys(self, value: Any) -> list[Any]:
        """One small picklable value per rank, in rank order."""
        return gather_object([value]) if self.count > 1 else [value]

    def matrices(self, groups: tuple[Group, ...]) -> tuple[Tensor, Tensor, slice]:
        """`rewards_BG` and `lengths_BG` of all ranks, and which rows are this rank's."""
        sizes: list[Any] = self.everybodys(([group.rewards for group in groups], [group.lengths for group in groups]))
        before = sum(len(rewards) for rewards, _ in sizes[: self.rank])
        rows = [row for rewards, _ in sizes for row in rewards] or torch.empty(0, 1)  # a round of which nothing could be asked
        rewards_BG = torch.as_tensor(rows, dtype=torch.float64)
        lengths_BG = torch.tensor([row for _, lengths in sizes for row in lengths]).view(rewards_BG.shape)
        return rewards_BG, lengths_BG, slice(before, before + len(groups))


@contextmanager
def raise_on_all_ranks(everybodys: Callable[[Any], list[Any]]) -> Generator[None, None, None]:
    """What only one process meets, such as an engine that is gone, is raised by all of them: nobody waits for one that has left."""
    met: UserError | None = None
    try:
        yield
    except UserError as error:
        met = error
    if first := next(filter(None, everybodys(met)), None):
        raise first
