"""REINFORCE leave-one-out (arXiv 2402.14740)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpg_vl.methods import gpg

if TYPE_CHECKING:
    from torch import Tensor


from gpg_vl.methods.gpg import shares_over_all_groups


@dataclass(frozen=True, kw_only=True)
class Rloo:
    """REINFORCE leave-one-out, "Back to basics", arXiv 2402.14740.

    Advantage r_i - mean of the *other* completions = n/(n-1) (r_i - mean), whole-sequence log-likelihood, mean over completions. Strictly
    on-policy: there is no ratio.
    """

    min_informative = 0.0
    kl = 0.0
    has_ratio = False

    def weights(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        count_B1 = gpg.scored(rewards_BG).sum(1, keepdim=True).to(rewards_BG.dtype)
        leave_one_out_BG = gpg.centre(rewards_BG) * count_B1 / (count_B1 - 1).clamp(min=1)
        spoken_BG = leave_one_out_BG.masked_fill(gpg.zero_variance(rewards_BG)[:, None], 0.0)
        return spoken_BG * self.shares(rewards_BG, lengths_BG)

    def shares(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        return shares_over_all_groups(rewards_BG, lengths_BG, "constant", 1)

    def alpha(self, rewards_BG: Tensor) -> float:
        return 1.0

    def objective(self, logprobs_N: Tensor, sampled_logprobs_N: Tensor, weight_N: Tensor) -> Tensor:
        return -(weight_N * logprobs_N).sum()
