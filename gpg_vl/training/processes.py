"""Wrap the parts of accelerate that training needs: ranks, and small values of all processes."""

import atexit
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object
from torch import Tensor

from gpg_vl.errors import UserError

MAX_WAIT = timedelta(hours=6)
"""Time limit of one process waiting for another: the main process evaluates the model, or one
waits for its server, while the others wait."""

SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
"""Variable that `accelerate launch` sets -> what shards the weights. On a CPU accelerate itself
ignores them."""
PRECISION = "ACCELERATE_MIXED_PRECISION"


def start_accelerator() -> Accelerator:
    """Start accelerate, on the GPU if there is one.

    Raises:
        UserError: it was launched in a way that would give wrong numbers here.
    """
    launched_with = [name for variable, name in SHARDING.items() if _is_set(variable)]
    _refuse(launched_with, os.environ.get(PRECISION, "no"))
    time_limit = InitProcessGroupKwargs(timeout=MAX_WAIT)
    on_cpu = not torch.cuda.is_available()
    accelerator = Accelerator(cpu=on_cpu, kwargs_handlers=[time_limit])
    kind = accelerator.distributed_type.value
    found = [name for name in SHARDING.values() if kind == name.upper().replace("-", "_")]
    _refuse(found, accelerator.mixed_precision)
    atexit.register(_end_process_group)
    return accelerator


def _end_process_group() -> None:
    """Leave the process group before the interpreter is torn down.

    Else gloo aborts a process now and then (SIGABRT) whose peers have left first, after all work
    is done. NCCL is left alone: with a peer that has died, it could wait here for ever.
    """
    distributed = torch.distributed
    if distributed.is_initialized() and distributed.get_backend() == "gloo":
        distributed.destroy_process_group()


def _is_set(key: str) -> bool:
    return os.environ.get(key, "").lower() in {"1", "true", "yes", "y", "on", "t"}


def _refuse(sharding: list[str], precision: str) -> None:
    """Refuse what would be wrong.

    DeepSpeed's own backward takes a step in every micro-batch. Rollout and gate read weights
    outside the forward, which FSDP has not gathered then. And clipping and the check for non-finite
    gradients do not know that float16 scales the loss.
    """
    if sharding:
        raise UserError(
            f"accelerate: launched with {sharding[0]}, which trains a wrong model here or none; "
            "every GPU holds the whole model: set distributed_type to MULTI_GPU (or NO), see "
            "configs/accelerate; gpg-vl plan says what fits"
        )
    if precision.lower() not in {"no", "bf16"}:
        raise UserError(
            f"accelerate: got mixed_precision {precision}, expected no; gpg_vl casts by itself: "
            "policy.dtype=bfloat16"
        )


@dataclass(frozen=True, slots=True)
class Processes:
    """All processes of a run."""

    accelerator: Accelerator

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return self.accelerator.process_index

    @property
    def count(self) -> int:
        """Number of processes."""
        return self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        """True on the one process that writes files."""
        return self.accelerator.is_main_process

    def all_gather(self, value: Any) -> list[Any]:
        """Return the values that all processes give, in rank order; small and picklable."""
        return gather_object([value]) if self.count > 1 else [value]

    def all_reduce_sum(self, value: int) -> int:
        """Return the sum over all processes."""
        return sum(self.all_gather(value))

    def all_reduce_max(self, value: int) -> int:
        """Return the maximum over all processes."""
        return max(self.all_gather(value))

    def any(self, value: bool) -> bool:
        """Return True if the value is true on any process."""
        return bool(self.all_reduce_max(int(value)))

    def take_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of the first process; each process gives the same shapes."""
        if self.count == 1:
            return
        for tensor in tensors:
            torch.distributed.broadcast(tensor.detach(), src=0)

    def sum_in_place(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their sums over all processes, the same bits on each of them.

        Narrow ones are summed in float32. Each process gives the same shapes in the same order.
        """
        if self.count == 1:
            return
        for tensor in tensors:
            wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
            torch.distributed.all_reduce(wide)
            if wide is not tensor:
                tensor.copy_(wide)
