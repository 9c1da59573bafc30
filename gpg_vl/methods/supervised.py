"""Supervised fine-tuning as a method: uniform weights instead of advantages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpg_vl.methods.estimator import Estimator

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Likelihood(Estimator):
    """Log-likelihood with equal weights for every token: the token mean over the step."""

    def weights(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        return rewards_BG.new_ones(rewards_BG.shape) / lengths_BG.sum()
