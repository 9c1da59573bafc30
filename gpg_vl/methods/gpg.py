"""Group Policy Gradient (GPG), arXiv 2504.02546: the method on one page.

The update is weighted log-likelihood, `loss = -sum(weight * log p)`, so the whole method is in the
weights:

- Eq. 6: advantage = (reward - mean of the group) / F_norm, with F_norm = 1 by default.
- Eq. 5, read literally: the token mean inside a group, then the mean over groups (`group_token`).
- Eq. 7, alpha = B / (B - M): groups whose rewards are all equal (M of B, zero variance) leave the
  loss *and* its denominator. A mean over the B - M informative groups is alpha times the mean over
  B, so nothing is left to multiply.
- The threshold beta_th bounds alpha: never fewer units are divided by than `min_groups`.

Differences from the authors' code: one alpha per optimizer step, not per micro-batch; a group has
zero variance by its raw rewards, never by its advantages; a completion that could not be scored
(NaN) is left out of its group's mean and gets weight 0.

Shape letters: B groups, G completions of a group. `rewards_BG` [B, G] with NaN = could not be
scored, `lengths_BG` [B, G] in tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gpg_vl.errors import UserError
from gpg_vl.methods.estimator import Estimator, min_informative_groups
from gpg_vl.types import ZERO_VARIANCE_RANGE

if TYPE_CHECKING:  # only methods of tensors are used, so `gpg-vl plan` needs no torch
    from torch import Tensor

Aggregation = Literal["group_token", "completion", "token", "constant"]
Scale = Literal["none", "std", "batch_std"]

STD_EPSILON = 1e-4
"""Added to a standard deviation before dividing by it, as in the authors' code."""


@dataclass(frozen=True, kw_only=True)
class Gpg(Estimator):
    """Group Policy Gradient: no critic, no reference model, no divergence, no surrogate.

    More groups are sampled until at least `min_informative` (beta_th) of a step are informative, so
    alpha <= 1 / beta_th. Assumes that the policy that is updated is the one that sampled; groups
    carried over from an earlier step are corrected by a truncated ratio.
    """

    scale: Scale = "none"
    """F_norm: none (the paper's final recipe) | std of the group | batch_std of the step."""
    aggregation: Aggregation = "group_token"
    """group_token (Eq. 5) | completion (the authors' multimodal code) | token | constant."""
    min_informative: float = 0.6
    """beta_th, a share of groups_per_step (0.4 in the authors' multimodal code)."""
    max_ratio: float = 2.0
    """Upper bound of the per-token ratio of a carried-over group."""
    groups_per_step: int = 16
    """Filled from rollout.groups_per_step."""
    max_tokens: int = 1
    """Filled from rollout.max_tokens; the length of `constant`."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_informative <= 1:
            raise UserError(
                f"estimator.min_informative: got {self.min_informative}, "
                "expected a share from 0 to 1"
            )

    @property
    def min_groups(self) -> int:
        """Fewest groups that are divided by."""
        return min_informative_groups(self.min_informative, self.groups_per_step)

    def weights(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        advantages_BG = advantages(rewards_BG, self.scale)
        return advantages_BG * self.shares(rewards_BG, lengths_BG)

    def shares(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        return token_shares(
            rewards_BG,
            lengths_BG,
            ~zero_variance(rewards_BG),
            aggregation=self.aggregation,
            min_groups=self.min_groups,
            max_tokens=self.max_tokens,
        )

    def alpha(self, rewards_BG: Tensor) -> float:
        return alpha(rewards_BG, groups_per_step=self.groups_per_step, min_groups=self.min_groups)

    def objective(self, logprobs_N: Tensor, sampled_logprobs_N: Tensor, weight_N: Tensor) -> Tensor:
        ratio_N = (logprobs_N.detach() - sampled_logprobs_N).exp().clamp(max=self.max_ratio)
        return -(weight_N * ratio_N * logprobs_N).sum()


def scored(rewards_BG: Tensor) -> Tensor:
    """Return [B, G]: True where a completion could be scored."""
    is_matrix = rewards_BG.ndim == 2 and rewards_BG.is_floating_point()
    got = f"{rewards_BG.dtype} {list(rewards_BG.shape)}"
    assert is_matrix, f"rewards_BG must be a float [B, G], got {got}"
    return ~rewards_BG.isnan()


def zero_variance(rewards_BG: Tensor) -> Tensor:
    """Return [B]: True where a group has nothing to learn from.

    It has fewer than two scored completions, or all its scored rewards are equal. The tensor twin
    of `not Group.informative`.
    """
    is_scored_BG = scored(rewards_BG)
    highest_B = rewards_BG.masked_fill(~is_scored_BG, -math.inf).amax(1)
    lowest_B = rewards_BG.masked_fill(~is_scored_BG, math.inf).amin(1)
    return (is_scored_BG.sum(1) < 2) | ~(highest_B - lowest_B > ZERO_VARIANCE_RANGE)


def centre(rewards_BG: Tensor) -> Tensor:
    """Return [B, G]: reward minus the mean over the group's scored completions; 0 if unscored.

    Eq. 6 with F_norm = 1.
    """
    is_scored_BG = scored(rewards_BG)
    count_B1 = is_scored_BG.sum(1, keepdim=True).clamp(min=1)
    mean_B1 = rewards_BG.nan_to_num(0.0).sum(1, keepdim=True) / count_B1
    return (rewards_BG - mean_B1).masked_fill(~is_scored_BG, 0.0)


def advantages(rewards_BG: Tensor, scale: Scale) -> Tensor:
    """Return [B, G]: centred rewards divided by F_norm (Eq. 6).

    Args:
        scale: none: 1 | std: the group's unbiased standard deviation | batch_std: the unbiased
            standard deviation over all scored completions of the step.
    """
    centred_BG = centre(rewards_BG)
    if scale == "none":
        return centred_BG
    is_scored_BG = scored(rewards_BG)
    if scale == "batch_std":
        all_rewards = rewards_BG[is_scored_BG]
        if len(all_rewards) < 2:
            return centred_BG
        return centred_BG / (all_rewards.std() + STD_EPSILON)
    degrees_B1 = (is_scored_BG.sum(1, keepdim=True) - 1).clamp(min=1)
    std_B1 = (centred_BG.square().sum(1, keepdim=True) / degrees_B1).sqrt()
    return centred_BG / (std_B1 + STD_EPSILON)


def token_shares(
    rewards_BG: Tensor,
    lengths_BG: Tensor,
    counted_B: Tensor,
    *,
    aggregation: Aggregation,
    min_groups: int = 1,
    max_tokens: int = 1,
) -> Tensor:
    """Return [B, G]: what one token of each completion counts in the loss.

    That is the aggregation inside a group, divided by the one denominator of the step.

    Args:
        counted_B: groups that are in the denominator (GPG: the informative ones; GRPO: all).
        min_groups: fewest groups divided by; bounds alpha by groups / min_groups.
        max_tokens: length of `constant` (Dr. GRPO divides by the length limit, not the length).

    The aggregations:

    - `group_token`: token mean inside a group, mean over groups (Eq. 5).
    - `completion`: token mean inside a completion, mean over completions, mean over groups (the
      authors' multimodal code).
    - `token`: mean over all tokens of the counted groups.
    - `constant`: token sum over `max_tokens`, mean over completions, mean over groups.
    """
    shapes = f"lengths {list(lengths_BG.shape)} against rewards {list(rewards_BG.shape)}"
    assert lengths_BG.shape == rewards_BG.shape, shapes
    counts_BG = scored(rewards_BG) & counted_B[:, None]
    tokens_BG = (lengths_BG * counts_BG).to(rewards_BG.dtype)
    completions_B1 = counts_BG.sum(1, keepdim=True).clamp(min=1).to(rewards_BG.dtype)
    groups = int(counts_BG.any(1).sum())
    units = max(groups, min_groups, 1)
    if aggregation == "group_token":
        share_BG = 1.0 / tokens_BG.sum(1, keepdim=True).clamp(min=1)
    elif aggregation == "completion":
        share_BG = 1.0 / (tokens_BG.clamp(min=1) * completions_B1)
    elif aggregation == "token":
        share_BG = max(groups, 1) / tokens_BG.sum().clamp(min=1)
    else:
        share_BG = 1.0 / (max_tokens * completions_B1)
    return counts_BG * share_BG / units


def shares_over_all_groups(
    rewards_BG: Tensor, lengths_BG: Tensor, aggregation: Aggregation, max_tokens: int
) -> Tensor:
    """Return [B, G]: token shares with every group in the denominator, as in GRPO.

    Also a group without a scored completion is counted.
    """
    every_B = rewards_BG.new_ones(len(rewards_BG)) > 0
    return token_shares(
        rewards_BG,
        lengths_BG,
        every_B,
        aggregation=aggregation,
        min_groups=len(rewards_BG),
        max_tokens=max_tokens,
    )


def alpha(rewards_BG: Tensor, *, groups_per_step: int, min_groups: int) -> float:
    """Return the factor that the weights contain (Eq. 7), for the log; at least 1.

    It is groups_per_step / max(informative groups, min_groups).
    """
    informative = int((~zero_variance(rewards_BG)).sum())
    return max(1.0, groups_per_step / max(informative, min_groups, 1))
