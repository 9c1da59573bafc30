"""REINFORCE leave-one-out (RLOO), arXiv 2402.14740."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpg_vl.methods.estimator import Estimator
from gpg_vl.methods.gpg import centre, scored, shares_over_all_groups, zero_variance

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Rloo(Estimator):
    """REINFORCE leave-one-out, "Back to basics", arXiv 2402.14740.

    Advantage r_i - mean of the *other* completions = n/(n-1) (r_i - mean), whole-sequence
    log-likelihood, mean over completions. Strictly on-policy: there is no ratio.
    """

    def weights(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        count_B1 = scored(rewards_BG).sum(1, keepdim=True).to(rewards_BG.dtype)
        leave_one_out_BG = centre(rewards_BG) * count_B1 / (count_B1 - 1).clamp(min=1)
        informative_BG = leave_one_out_BG.masked_fill(zero_variance(rewards_BG)[:, None], 0.0)
        return informative_BG * self.shares(rewards_BG, lengths_BG)

    def shares(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        return shares_over_all_groups(rewards_BG, lengths_BG, "constant", 1)
