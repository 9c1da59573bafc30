"""From two matrices to one weight per completion: Gpg, and its neighbours Grpo, DrGrpo, Rloo, Reinforce.

An estimator sees `rewards_BG` (NaN = unscored) and `lengths_BG`, nothing else, of every group of the step over all ranks; it decides
weights and denominator. `objective` turns the weights into a number to minimise, token by token, so it may be summed in pieces.
Each class is frozen and is its own config: the fields are the keys of `estimator:` in a YAML file.

Shape letters: B groups, G completions, N tokens of any number of completions in one row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gpg_vl import gpg
from gpg_vl.gpg import Aggregation, Scale
from gpg_vl.types import UserError

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
        return groups_wanted(self.min_informative, self.groups_per_step)

    def weights(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        advantages_BG = gpg.scale_advantages(gpg.centre(rewards_BG), rewards_BG, self.scale)
        return advantages_BG * self.shares(rewards_BG, lengths_BG)

    def shares(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        return gpg.token_shares(
            rewards_BG,
            lengths_BG,
            ~gpg.silent(rewards_BG),
            aggregation=self.aggregation,
            min_groups=self.min_groups,
            max_tokens=self.max_tokens,
        )

    def alpha(self, rewards_BG: Tensor) -> float:
        return gpg.alpha(rewards_BG, groups_per_step=self.groups_per_step, min_groups=self.min_groups)

    def objective(self, logprobs_N: Tensor, sampled_logprobs_N: Tensor, weight_N: Tensor) -> Tensor:
        ratio_N = (logprobs_N.detach() - sampled_logprobs_N).exp().clamp(max=self.max_ratio)
        return -(weight_N * ratio_N * logprobs_N).sum()


@dataclass(frozen=True, kw_only=True)
class Grpo:
    """Group Relative Policy Optimization, DeepSeekMath, arXiv 2402.03300, Eq. 3 and 4.

    Advantage (r - mean) / std, token ratio clipped to [1 - clip_low, 1 + clip_high] (DAPO, arXiv 2503.14476, clips higher above),
    optional k3 divergence from a frozen reference. Silent groups stay in the denominator with weight 0.
    """

    scale: Scale = "std"
    """What advantages are divided by: none | std | batch_std."""
    aggregation: Aggregation = "completion"
    """The paper's 1/G sum 1/|o|; see gpg.token_shares for the others."""
    clip_low: float = 0.2
    """How far below 1 the ratio may push."""
    clip_high: float = 0.2
    """How far above 1 the ratio may push."""
    kl: float = 0.0
    """Weight of the divergence from the reference; 0 = no reference model exists."""
    max_tokens: int = 1
    """Filled from rollout.max_tokens; the length of `constant`."""

    min_informative = 0.0
    has_ratio = True

    def weights(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        advantages_BG = gpg.scale_advantages(gpg.centre(rewards_BG), rewards_BG, self.scale)
        spoken_BG = advantages_BG.masked_fill(gpg.silent(rewards_BG)[:, None], 0.0)
        return spoken_BG * self.shares(rewards_BG, lengths_BG)

    def shares(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        return _shares_over_all(rewards_BG, lengths_BG, self.aggregation, self.max_tokens)

    def alpha(self, rewards_BG: Tensor) -> float:
        return 1.0

    def objective(self, logprobs_N: Tensor, sampled_logprobs_N: Tensor, weight_N: Tensor) -> Tensor:
        ratio_N = (logprobs_N - sampled_logprobs_N).exp()
        clipped_N = ratio_N.clamp(1 - self.clip_low, 1 + self.clip_high)
        return -(ratio_N * weight_N).minimum(clipped_N * weight_N).sum()


@dataclass(frozen=True, kw_only=True)
class DrGrpo(Grpo):
    """Dr. GRPO, "Understanding R1-Zero-like training", arXiv 2503.20783: GRPO without its two biases.

    No division by the std (question-difficulty bias), token sums over a constant instead of over the length (length bias), no divergence.
    """

    scale: Scale = "none"
    """The paper's: none."""
    aggregation: Aggregation = "constant"
    """The paper's: the length limit, whatever the length."""


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
        spoken_BG = leave_one_out_BG.masked_fill(gpg.silent(rewards_BG)[:, None], 0.0)
        return spoken_BG * self.shares(rewards_BG, lengths_BG)

    def shares(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        return _shares_over_all(rewards_BG, lengths_BG, "constant", 1)

    def alpha(self, rewards_BG: Tensor) -> float:
        return 1.0

    def objective(self, logprobs_N: Tensor, sampled_logprobs_N: Tensor, weight_N: Tensor) -> Tensor:
        return -(weight_N * logprobs_N).sum()


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
        return _shares_over_all(rewards_BG, lengths_BG, "constant", 1)

    def alpha(self, rewards_BG: Tensor) -> float:
        return 1.0

    def objective(self, logprobs_N: Tensor, sampled_logprobs_N: Tensor, weight_N: Tensor) -> Tensor:
        return -(weight_N * logprobs_N).sum()


def _shares_over_all(rewards_BG: Tensor, lengths_BG: Tensor, aggregation: Aggregation, max_tokens: int) -> Tensor:
    """Every group stands in the denominator, also one without a scored completion."""
    everyone_B = rewards_BG.new_ones(len(rewards_BG)) > 0
    return gpg.token_shares(rewards_BG, lengths_BG, everyone_B, aggregation=aggregation, min_groups=len(rewards_BG), max_tokens=max_tokens)


def groups_wanted(share: float, groups_per_step: int) -> int:
    """The fewest groups that are at least this share of a step; 0.28 of 25 is 7, whatever floats say."""
    return math.ceil(share * groups_per_step - 1e-9)


def k3(logprobs_N: Tensor, reference_logprobs_N: Tensor) -> Tensor:
    """[N] Schulman's k3 estimate of KL(policy || reference): exp(d) - d - 1 with d = log ref - log p; never negative."""
    difference_N = reference_logprobs_N - logprobs_N
    return difference_N.exp() - difference_N - 1
