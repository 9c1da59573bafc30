"""Prompts, completions, and an update on groups, for tests that need some."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from gpg_vl.config.schema import OptimizerConfig
from gpg_vl.data.recipes.digits import Task, digits
from gpg_vl.methods.estimator import Estimator
from gpg_vl.policy.encode import encode
from gpg_vl.prompts import AnswerOnly
from gpg_vl.rollout.collect import gather_batch
from gpg_vl.training.learner import Forward, Learner
from gpg_vl.types import Completion, Group, Prompt, Update
from tests.hand_made import completion

TASKS: tuple[Task, ...] = ("count", "box", "compare", "add", "choice")
"""Two image sizes, one image, two, none; five prompt lengths."""


def prompts(policy: Any, tasks: Sequence[Task] = TASKS, each: int = 1) -> list[Prompt]:
    return [
        encode(sample, AnswerOnly(), policy)
        for task in tasks
        for sample in digits(task, count=each)
    ]


def random_completions(count: int, longest: int, seed: int) -> list[Completion]:
    draw = random.Random(seed)
    return [
        completion([draw.randrange(300) for _ in range(draw.randint(1, longest))])
        for _ in range(count)
    ]


def make_learner(
    forward: Forward,
    estimator: Estimator,
    config: OptimizerConfig | None = None,
    *,
    accelerator: Accelerator | None = None,
    seed: int = 0,
    total_steps: int = 1,
    tokens: int = 1 << 20,
    **options: Any,
) -> Learner:
    """Make a learner, on the CPU and with the optimizer's defaults unless others are given."""
    return Learner(
        forward,
        estimator,
        config or OptimizerConfig(),
        accelerator or Accelerator(cpu=True),
        seed=seed,
        total_steps=total_steps,
        tokens_per_microbatch=tokens,
        **options,
    )


def parameters(policy: Any) -> Tensor:
    """Return a copy of all parameters, in one row."""
    return torch.cat([parameter.detach().flatten() for parameter in policy.model.parameters()])


def gradient_norm(policy: Any) -> float:
    """Return the norm of all gradients of a policy, as one vector."""
    gradients: list[Tensor] = []
    for parameter in policy.model.parameters():
        if parameter.grad is not None:
            gradients.append(parameter.grad)
    return float(torch.nn.utils.get_total_norm(gradients))


def take_update(learner: Learner, groups: Sequence[Group], version: int = 0) -> Update:
    """Update a policy on groups as a training step does, by the learner's own estimator."""
    processes = learner.processes
    batch = gather_batch(groups, processes.all_gather, processes.rank)
    weights_BG = learner.estimator.weights(batch.rewards_BG, batch.lengths_BG)
    return learner.update(batch, weights_BG, version)
