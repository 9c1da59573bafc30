"""REINFORCE (Williams 1992) with a constant baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


from gpg_vl.methods.gpg import shares_over_all_groups


@dataclass(frozen=True, kw_only=True)
class Reinforce:
    """REINFORCE, Williams 1992, with a constant baseline: (r - baseline) log p, whole sequences, mean over completions.

    No group is compared with itself, so a group of equal rewards speaks like any other. Strictly on-policy.
    """

    baseline: float = 0.0
    """Subtracted from every reward."""

    min_informative = 0.0
    kl = 0.0
    has_ratio = False

    def weights(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        return (rewards_BG - self.baseline).nan_to_num(0.0) * self.shares(rewards_BG, lengths_BG)

    def shares(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        return shares_over_all_groups(rewards_BG, lengths_BG, "constant", 1)

    def alpha(self, rewards_BG: Tensor) -> float:
        return 1.0

    def objective(self, logprobs_N: Tensor, sampled_logprobs_N: Tensor, weight_N: Tensor) -> Tensor:
        return -(weight_N * logprobs_N).sum()
