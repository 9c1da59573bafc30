"""Define what a method is: rewards and lengths of a step in, one weight per completion out.

An estimator sees `rewards_BG` (NaN = could not be scored) and `lengths_BG` of every group of the
step, over all processes, and nothing else. A method of your own derives from `Estimator` and writes
`weights`; everything else has a default. A frozen dataclass is its own config: its fields are the
keys of `estimator:` in a YAML file.

Shape letters: B groups, G completions of a group, N tokens of any number of completions in one row.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Estimator(ABC):
    """A method: what each completion of a step weighs in the update.

    Example:
        class Centred(Estimator):
            def weights(self, rewards_BG, lengths_BG):
                advantages_BG = rewards_BG - rewards_BG.nanmean(1, keepdim=True)
                return advantages_BG.nan_to_num(0.0) / lengths_BG.sum()
    """

    min_informative: float = 0.0
    """Share of rollout.groups_per_step that must be informative before a step is taken, from 0 to
    1; 0 = take the groups of one round."""
    kl: float = 0.0
    """Weight of the k3 divergence from the reference policy; there is a reference only if > 0."""
    has_ratio: bool = False
    """True if the objective corrects for a policy that has moved since it sampled, so that several
    updates per rollout are sound."""

    @abstractmethod
    def weights(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        """Return [B, G]: the weight of each token of a completion in `-sum(weight * log p)`.

        A completion of weight 0 is not trained on.
        """

    def shares(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        """Return [B, G]: the weight of each token's divergence term, whatever its advantage.

        Default: token mean of a completion, then mean over all completions.
        """
        return rewards_BG.new_ones(rewards_BG.shape) / lengths_BG.clamp(min=1) / rewards_BG.numel()

    def alpha(self, rewards_BG: Tensor) -> float:
        """Return how much larger the step is than the mean over all groups, for the log.

        1 if zero-variance groups stay in the denominator.
        """
        del rewards_BG
        return 1.0

    def objective(self, logprobs_N: Tensor, sampled_logprobs_N: Tensor, weight_N: Tensor) -> Tensor:
        """Return []: the loss of these tokens. Default: weighted log-likelihood.

        It may be summed in pieces: micro-batches and processes each compute a part.

        Args:
            logprobs_N: under the policy that is updated, with gradients.
            sampled_logprobs_N: under the policy that sampled; on-policy `logprobs_N.detach()`.
        """
        del sampled_logprobs_N
        return -(weight_N * logprobs_N).sum()


def min_informative_groups(share: float, groups_per_step: int) -> int:
    """Return the fewest groups that are at least this share of a step.

    A share of 0.28 of 25 groups is 7, although 0.28 * 25 is 7.000000000000001 in floats.
    """
    return math.ceil(share * groups_per_step - 1e-9)


def k3(logprobs_N: Tensor, reference_logprobs_N: Tensor) -> Tensor:
    """Return [N]: Schulman's k3 estimate of KL(policy || reference), which is never negative.

    It is exp(d) - d - 1 with d = log p_reference - log p.
    """
    difference_N = reference_logprobs_N - logprobs_N
    return difference_N.exp() - difference_N - 1
