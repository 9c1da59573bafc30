"""GRPO (arXiv 2402.03300) and Dr. GRPO (arXiv 2503.20783)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpg_vl.methods.estimator import Estimator
from gpg_vl.methods.gpg import (
    Aggregation,
    Scale,
    advantages,
    shares_over_all_groups,
    zero_variance,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Grpo(Estimator):
    """Group Relative Policy Optimization, DeepSeekMath, arXiv 2402.03300, Eq. 3 and 4.

    Advantage (r - mean) / std, token ratio clipped to [1 - clip_low, 1 + clip_high] (DAPO, arXiv
    2503.14476, clips higher above), optional k3 divergence from a frozen reference. Zero-variance
    groups stay in the denominator with weight 0.
    """

    scale: Scale = "std"
    """Divisor of the advantages: none | std | batch_std."""
    aggregation: Aggregation = "completion"
    """The paper's 1/G sum 1/|o|; see gpg.token_shares for the others."""
    clip_low: float = 0.2
    """Distance below 1 at which the ratio is clipped."""
    clip_high: float = 0.2
    """Distance above 1 at which the ratio is clipped."""
    kl: float = 0.0
    """Weight of the divergence from the reference; 0 = no reference model exists."""
    max_tokens: int = 1
    """Filled from rollout.max_tokens; the length of `constant`."""

    has_ratio = True

    def weights(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        advantages_BG = advantages(rewards_BG, self.scale)
        informative_BG = advantages_BG.masked_fill(zero_variance(rewards_BG)[:, None], 0.0)
        return informative_BG * self.shares(rewards_BG, lengths_BG)

    def shares(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        return shares_over_all_groups(rewards_BG, lengths_BG, self.aggregation, self.max_tokens)

    def objective(self, logprobs_N: Tensor, sampled_logprobs_N: Tensor, weight_N: Tensor) -> Tensor:
        ratio_N = (logprobs_N - sampled_logprobs_N).exp()
        clipped_N = ratio_N.clamp(1 - self.clip_low, 1 + self.clip_high)
        return -(ratio_N * weight_N).minimum(clipped_N * weight_N).sum()


@dataclass(frozen=True, kw_only=True)
class DrGrpo(Grpo):
    """Dr. GRPO, "Understanding R1-Zero-like training", arXiv 2503.20783: GRPO without two biases.

    No division by the std (question-difficulty bias), token sums over a constant instead of over
    the length (length bias), no divergence.
    """

    scale: Scale = "none"
    """The paper's: none."""
    aggregation: Aggregation = "constant"
    """The paper's: the length limit, whatever the length."""
