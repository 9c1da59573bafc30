"""Group Policy Gradient (GPG), arXiv 2504.02546: from rewards and lengths to one weight per completion. Pure torch.

The update is weighted log-likelihood, `loss = -sum(weight * log p)`, so the whole method is in the weights:

- Eq. 6: advantage = (reward - mean of the group) / F_norm, with F_norm = 1 by default.
- Eq. 5, read literally: the token mean inside a group, then the mean over groups (`group_token`).
- Eq. 7, alpha = B / (B - M): groups whose rewards are all equal (M of B) leave the loss *and* its denominator.
  A mean over the B - M informative groups is alpha times the mean over B: nothing is left to multiply.
- The threshold beta_th bounds alpha: never fewer units are divided by than `min_groups`.

What differs from the authors' code: one alpha per optimizer step, not per micro-batch; a group is silent by its raw rewards, never by its
advantages; a completion that could not be scored (NaN) is left out of its group's mean and gets weight 0.

Shape letters: B groups, G completions of a group. `rewards_BG` [B, G] with NaN = unscored, `lengths_BG` [B, G] in tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpg_vl.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
from typing import TYPE_CHECKING, Literal

from gpg_vl.types import ZERO_VARIANCE_RANGE

if TYPE_CHECKING:  # methods of tensors are all that is needed: a plan names a method in a moment, without torch
    from torch import Tensor
from gpg_vl.methods.estimator import min_informative_groups

Aggregation = Literal["group_token", "completion", "token", "constant"]
Scale = Literal["none", "std", "batch_std"]
STD_EPSILON = 1e-4
"""Added to a standard deviation before dividing by it, as in the authors' code."""


def scored(rewards_BG: Tensor) -> Tensor:
    """[B, G] True where a completion could be scored."""
    _check(rewards_BG)
    return ~rewards_BG.isnan()


def zero_variance(rewards_BG: Tensor) -> Tensor:
    """[B] True where a group has nothing to say: fewer than two scored completions, or all scored rewards equal."""
    is_scored_BG = scored(rewards_BG)
    highest_B = rewards_BG.masked_fill(~is_scored_BG, -math.inf).amax(1)
    lowest_B = rewards_BG.masked_fill(~is_scored_BG, math.inf).amin(1)
    return (is_scored_BG.sum(1) < 2) | ~(highest_B - lowest_B > ZERO_VARIANCE_RANGE)


def centre(rewards_BG: Tensor) -> Tensor:
    """[B, G] reward minus the mean over the group's scored completions (Eq. 6 with F_norm = 1); 0 where unscored."""
    is_scored_BG = scored(rewards_BG)
    count_B1 = is_scored_BG.sum(1, keepdim=True).clamp(min=1)
    mean_B1 = rewards_BG.nan_to_num(0.0).sum(1, keepdim=True) / count_B1
    return (rewards_BG - mean_B1).masked_fill(~is_scored_BG, 0.0)


def scale_advantages(advantages_BG: Tensor, rewards_BG: Tensor, scale: Scale) -> Tensor:
    """Divide by F_norm (Eq. 6): 1, the group's unbiased std, or the unbiased std over all scored completions of the step."""
    if scale == "none":
        return advantages_BG
    is_scored_BG = scored(rewards_BG)
    if scale == "batch_std":
        all_rewards = rewards_BG[is_scored_BG]
        return advantages_BG / (all_rewards.std() + STD_EPSILON) if len(all_rewards) > 1 else advantages_BG
    degrees_B1 = (is_scored_BG.sum(1, keepdim=True) - 1).clamp(min=1)
    std_B1 = (centre(rewards_BG).square().sum(1, keepdim=True) / degrees_B1).sqrt()
    return advantages_BG / (std_B1 + STD_EPSILON)


def token_shares(
    rewards_BG: Tensor,
    lengths_BG: Tensor,
    counted_B: Tensor,
    *,
    aggregation: Aggregation,
    min_groups: int = 1,
    max_tokens: int = 1,
) -> Tensor:
    """[B, G] what one token of each completion counts in the loss: the aggregation and the step's one denominator.

    Args:
        counted_B: which groups stand in the denominator (GPG: the informative ones; GRPO: all).
        min_groups: the fewest groups divided by; bounds alpha by groups / min_groups.
        max_tokens: the constant length of `constant` (Dr. GRPO divides by the length limit instead of the length).

    `group_token`  token mean inside a group, mean over groups (Eq. 5)
    `completion`   token mean inside a completion, mean over completions, mean over groups (the authors' multimodal code)
    `token`        mean over all tokens of the counted groups
    `constant`     token sum over `max_tokens`, mean over completions, mean over groups
    """
    assert lengths_BG.shape == rewards_BG.shape, f"lengths {list(lengths_BG.shape)} against rewards {list(rewards_BG.shape)}"
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


def alpha(rewards_BG: Tensor, *, groups_per_step: int, min_groups: int) -> float:
    """The factor that the weights contain (Eq. 7), for the log: groups_per_step / max(informative, min_groups), at least 1."""
    informative = int((~zero_variance(rewards_BG)).sum())
    return max(1.0, groups_per_step / max(informative, min_groups, 1))


def _check(rewards_BG: Tensor) -> None:
    is_matrix = rewards_BG.ndim == 2 and rewards_BG.is_floating_point()
    assert is_matrix, f"rewards_BG must be a float [B, G], got {rewards_BG.dtype} {list(rewards_BG.shape)}"


@dataclass(frozen=True, kw_only=True)
class Gpg:
    """Group Policy Gradient, arXiv 2504.02546.

    Advantage r - mean(r), no critic, no reference, no divergence, no surrogate. Silent groups leave the loss and its denominator, which is
    alpha = B/(B-M) of Eq. 7, and more groups are drawn until at least `min_informative` (beta_th) of a step speak, so alpha <= 1/beta_th.
    Assumes that the policy that is updated is the one that sampled; carried-over groups are corrected by a truncated ratio.
    """

    scale: Scale = "none"
    """What advantages are divided by: none (the paper's final recipe) | std of the group | batch_std of the step."""
    aggregation: Aggregation = "group_token"
    """group_token (Eq. 5) | completion (the authors' multimodal code) | token | constant."""
    min_informative: float = 0.6
    """beta_th: the step is taken when this share of groups_per_step is informative (0.4 in the authors' multimodal code)."""
    max_ratio: float = 2.0
    """Where a carried-over group's per-token ratio is cut off."""
    groups_per_step: int = 16
    """Filled from rollout.groups_per_step."""
    max_tokens: int = 1
    """Filled from rollout.max_tokens; the length of `constant`."""

    kl = 0.0
    has_ratio = False

    def __post_init__(self) -> None:
        if not 0 <= self.min_informative <= 1:
            raise UserError(f"estimator.min_informative: got {self.min_informative}, expected a share from 0 to 1")

    @property
    def min_groups(self) -> int:
        """The fewest groups that are divided by."""
        return min_informative_groups(self.min_informative, self.groups_per_step)

    def weights(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        advantages_BG = scale_advantages(centre(rewards_BG), rewards_BG, self.scale)
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


def shares_over_all_groups(rewards_BG: Tensor, lengths_BG: Tensor, aggregation: Aggregation, max_tokens: int) -> Tensor:
    """Every group stands in the denominator, also one without a scored completion."""
    everyone_B = rewards_BG.new_ones(len(rewards_BG)) > 0
    return token_shares(rewards_BG, lengths_BG, everyone_B, aggregation=aggregation, min_groups=len(rewards_BG), max_tokens=max_tokens)
