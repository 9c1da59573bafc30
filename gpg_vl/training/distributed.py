"""The few words that training needs from accelerate: how many ranks, a sum, a maximum, everybody's small matrices."""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from gpg_vl.types import Group


@dataclass(frozen=True, slots=True)
class Ranks:
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
