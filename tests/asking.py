"""Prompts and completions for tests that need some."""

import random
from collections.abc import Sequence
from typing import Any

from gpg_vl.data.recipes.digits import Task, digits
from gpg_vl.policy.encode import encode
from gpg_vl.prompts import AnswerOnly
from gpg_vl.types import Completion, Prompt
from tests.hand_made import completion

TASKS: tuple[Task, ...] = ("count", "box", "compare", "add", "choice")
"""Two image sizes, one image, two, none; five prompt lengths."""


def prompts(policy: Any, tasks: Sequence[Task] = TASKS, each: int = 1) -> list[Prompt]:
    return [encode(sample, AnswerOnly(), policy) for task in tasks for sample in digits(task, count=each)]


def random_completions(count: int, longest: int, seed: int) -> list[Completion]:
    draw = random.Random(seed)
    return [completion([draw.randrange(300) for _ in range(draw.randint(1, longest))]) for _ in range(count)]
