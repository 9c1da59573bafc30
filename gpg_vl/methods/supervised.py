"""Supervised fine-tuning as a method: uniform weights instead of advantages."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Likelihood:
    """Every token of every solution weighs the same: the token mean over the step."""

    min_informative = 0.0
    kl = 0.0
    has_ratio = False

    def weights(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        return self.shares(rewards_BG, lengths_BG)

    def shares(self, rewards_BG: Tensor, lengths_BG: Tensor) -> Tensor:
        return torch.ones_like(rewards_BG) / lengths_BG.sum()

    def alpha(self, rewards_BG: Tensor) -> float:
        return 1.0

    def objective(self, logprobs_N: Tensor, sampled_logprobs_N: Tensor, weight_N: Tensor) -> Tensor:
        return -(weight_N * logprobs_N).sum()
