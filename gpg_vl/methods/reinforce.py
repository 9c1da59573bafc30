"""REINFORCE (Williams 1992) with a constant baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpg_vl.methods.estimator import Estimator
from gpg_vl.methods.gpg import shares_over_all_groups

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Reinforce(Estimator):
    """REINFORCE, Williams 1992: (r - baseline) log p, whole sequences, mean over completions.

    No group is compared with itself, so a group of equal rewards is trained on like any other.
    Strictly on-policy.
    """

    baseline: float = 0.0
    """Subtracted from every reward."""

    def weights(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        advantages_BG = (rewards_BG - self.baseline).nan_to_num(0.0)
        return advantages_BG * self.shares(rewards_BG, lengths_BG)

    def shares(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        return shares_over_all_groups(rewards_BG, lengths_BG, "constant", 1)
