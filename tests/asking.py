"""Prompts, completions, and an update on groups, for tests that need some."""

import random
from collections.abc import Sequence
from typing import Any

from gpg_vl.data.recipes.digits import Task, digits
from gpg_vl.policy.encode import encode
from gpg_vl.prompts import AnswerOnly
from gpg_vl.rollout.collect import gather_batch
from gpg_vl.training.learner import Learner
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


def take_update(learner: Learner, groups: Sequence[Group], version: int = 0) -> Update:
    """Update a policy on groups as a training step does, by the learner's own estimator."""
    processes = learner.processes
    batch = gather_batch(groups, processes.all_gather, processes.rank)
    weights_BG = learner.estimator.weights(batch.rewards_BG, batch.lengths_BG)
    return learner.update(batch, weights_BG, version)
