"""Share device, weights, questions, answers and timing between the parts of the check."""

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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
"""Shapes: for timing, and for exactness."""

Figures = Iterator[Numbers]
"""Numbers that a part yields while it runs."""


@dataclass(frozen=True, slots=True)
class Case:
    """Device, folder and size of the parts."""

    folder: Path
    """Folder of weights that several parts read; it exists while the check runs."""
    toy: bool
    """A few small layers, on any machine."""
    write_numbers: Callable[[Numbers], None]
    """Function for numbers that come before a part yields."""

    @property
    def device(self) -> str:
        """The GPU if there is one, else the CPU."""
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def pixels(self) -> int:
        """Side of the images in the large parts: prompts of about 1,250 tokens."""
        return 112 if self.toy else 980

    def weights(self, shape: str) -> Path:
        """Return a checkpoint of random weights, written once."""
        folder = self.folder / shape
        if not folder.exists():
            # Renamed when complete: a part that is stopped leaves no half-written checkpoint.
            incomplete = Path(tempfile.mkdtemp(dir=self.folder))
            written = "tiny" if self.toy and shape == SMALL else shape
            model_shapes.write(written, incomplete, toy=self.toy)
            incomplete.rename(folder)
        return folder

    def policy(self, shape: str, dtype: str) -> Policy:
        """Load the weights onto the device; no token ends an answer before its full length."""
        values = {"model": str(self.weights(shape)), "dtype": dtype}
        policy = load_policy(PolicyConfig.model_validate(values), seed=0)
        policy.model.to(self.device)
        return replace(policy, end_ids=frozenset())


def questions(policy: Policy, each: int, *tasks: Any, side: int | None = None) -> list[Prompt]:
    """Return `each` encoded questions of every task of the digits recipe."""
    prompts: list[Prompt] = []
    for task in tasks:
        for sample in digits(task, count=each, side=side):
            prompts.append(encode(sample, AnswerOnly(), policy))
    return prompts


def random_completions(
    policy: Policy, count: int, max_length: int, generator: random.Random | None = None
) -> list[Completion]:
    """Return random completions; the first has the full length."""
    generator = generator or random.Random(0)
    last_id = policy.processor.tokenizer.vocab_size - 1
    lengths = [max_length, *(generator.randint(1, max_length) for _ in range(count - 1))]
    completions: list[Completion] = []
    for length in lengths:
        ids = tuple(generator.randint(0, last_id) for _ in range(length))
        completions.append(
            Completion(token_ids=ids, logprobs=(), text="", finish="length", version=0)
        )
    return completions


def best_of(once: Callable[[], object], times: int) -> float:
    """Return the seconds of the fastest of several calls."""
    best = float("inf")
    for _ in range(times):
        wait()
        start = perf_counter()
        once()
        wait()
        best = min(best, perf_counter() - start)
    return best


def wait() -> None:
    """Wait until the GPU has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def gigabytes(count: float) -> float:
    """Return bytes as gigabytes."""
    return round(count / 1e9, 2)


def relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the relative error of all tensors as one vector."""
    error, size = 0.0, 0.0
    for own, reference in zip(found, expected, strict=True):
        error += float((own.double() - reference.double()).square().sum())
        size += float(reference.double().square().sum())
    return float(f"{(error / size) ** 0.5:.2e}")
