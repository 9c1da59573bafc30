"""What the parts of the check share: where they run, the weights they read, questions, answers, seconds."""

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import model_shapes
import torch
from runner import Numbers
from torch import Tensor

from gpg_vl.config.schema import PolicyConfig
from gpg_vl.data.recipes.digits import digits
from gpg_vl.policy.encode import encode
from gpg_vl.policy.load import Policy, load_policy
from gpg_vl.prompts import AnswerOnly
from gpg_vl.types import Completion, Prompt

LARGE, SMALL = "qwen2_5_vl_3b", "mid"
"""Shapes: what is timed, and what exactness is looked at with."""

Told = Iterator[Numbers]
"""What a part tells, as it goes."""


@dataclass(frozen=True, slots=True)
class Case:
    """Where and how large."""

    folder: Path
    """Kept while the check runs: weights that several parts read."""
    toy: bool
    tell: Callable[[Numbers], None]
    """For numbers that come before a part yields."""

    @property
    def device(self) -> str:
        """The card, where there is one."""
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def pixels(self) -> int:
        """Side of the pictures in the large parts: prompts of about 1,250 tokens."""
        return 112 if self.toy else 980

    def weights(self, shape: str) -> Path:
        """A checkpoint of random weights, written once; whole or not there."""
        folder = self.folder / shape
        if not folder.exists():
            half = Path(tempfile.mkdtemp(dir=self.folder))
            model_shapes.write("tiny" if self.toy and shape == SMALL else shape, half, toy=self.toy)
            half.rename(folder)
        return folder

    def policy(self, shape: str, dtype: str) -> Policy:
        """Loaded, on the card, and its answers never end before their full length."""
        policy = load_policy(PolicyConfig.model_validate({"model": str(self.weights(shape)), "dtype": dtype}), seed=0)
        policy.model.to(self.device)
        return replace(policy, end_ids=frozenset())


def questions(policy: Policy, each: int, *tasks: Any, side: int | None = None) -> list[Prompt]:
    """Encoded questions of the digits recipe."""
    return [encode(sample, AnswerOnly(), policy) for task in tasks for sample in islice(digits(task, count=each, side=side), each)]


def drawn(policy: Policy, count: int, longest: int, draw: random.Random | None = None) -> list[Completion]:
    """Random completions, one of the full length."""
    draw = draw or random.Random(0)
    last = policy.processor.tokenizer.vocab_size - 1
    lengths = [longest, *(draw.randint(1, longest) for _ in range(count - 1))]
    return [
        Completion(token_ids=tuple(draw.randint(0, last) for _ in range(length)), logprobs=(), text="", finish="length", version=0)
        for length in lengths
    ]


def best_of(once: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of several times."""
    best = float("inf")
    for _ in range(times):
        wait()
        start = perf_counter()
        once()
        wait()
        best = min(best, perf_counter() - start)
    return best


def wait() -> None:
    """Until the card has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def gigabytes(count: float) -> float:
    """Of bytes."""
    return round(count / 1e9, 2)


def relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Of all tensors as one vector."""
    off, size = (
        sum(float(tensor.double().square().sum()) for tensor in tensors)
        for tensors in ([mine.double() - theirs.double() for mine, theirs in zip(found, expected, strict=True)], expected)
    )
    return float(f"{(off / size) ** 0.5:.2e}")
