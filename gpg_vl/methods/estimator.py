"""From two matrices to one weight per completion: Gpg, and its neighbours Grpo, DrGrpo, Rloo, Reinforce.

An estimator sees `rewards_BG` (NaN = unscored) and `lengths_BG`, nothing else, of every group of the step over all ranks; it decides
weights and denominator. `objective` turns the weights into a number to minimise, token by token, so it may be summed in pieces.
Each class is frozen and is its own config: the fields are the keys of `estimator:` in a YAML file.

Shape letters: B groups, G completions, N tokens of any number of completions in one row.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Estimator(Protocol):
    """What the learner needs of a method."""

    min_informative: float
    """Share of groups_per_step that must be informative before the step is taken; 0 = take what was drawn."""
    kl: float
    """Weight of the k3 divergence from the reference policy; a reference exists only where this is > 0."""
    has_ratio: bool
    """Whether the objective corrects for a policy that has moved since it sampled, so that several updates per rollout are sound."""

    def weights(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        """[B, G] weight of each token of a completion in `-sum(weight * log p)`; 0 = not trained on."""
        ...

    def shares(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        """[B, G] what a token counts regardless of its advantage: the weight of its divergence term."""
        ...

    def alpha(self, rewards_BG: Tensor) -> float:
        """How much larger the step is than the mean over all groups, for the log; 1 where silent groups stay in the denominator."""
        ...

    def objective(self, logprobs_N: Tensor, sampled_logprobs_N: Tensor, weight_N: Tensor) -> Tensor:
        """[] loss of these tokens. `sampled_logprobs_N` is what the sampling policy said; on-policy it equals `logprobs_N.detach()`."""
        ...


def min_informative_groups(share: float, groups_per_step: int) -> int:
    """The fewest groups that are at least this share of a step; 0.28 of 25 is 7, whatever floats say."""
    return math.ceil(share * groups_per_step - 1e-9)


def k3(logprobs_N: Tensor, reference_logprobs_N: Tensor) -> Tensor:
    """[N] Schulman's k3 estimate of KL(policy || reference): exp(d) - d - 1 with d = log ref - log p; never negative."""
    difference_N = reference_logprobs_N - logprobs_N
    return difference_N.exp() - difference_N - 1
