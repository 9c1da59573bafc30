"""What everything that samples answers has in common."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpg_vl.errors import UnusableSampleError
from gpg_vl.types import Completion, Prompt

if TYPE_CHECKING:
    from gpg_vl.policy.load import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How answers are drawn. There is no top-k and no top-p: what is sampled is what is scored."""

    max_tokens: int
    """Longest completion, the end id included."""
    temperature: float
    """Divides the logits in sampling and in the log-probabilities that come back."""
    greedy: bool = False
    """Take the likeliest token instead of drawing one."""


class RolloutEngine(ABC):
    """Samples from the policy, wherever it runs."""

    copies: int = 1
    """How many copies of the weights answer. Questions that follow one another go to different ones."""
    narrow: bool = False
    """Whether it computes with kernels of its own, weights and activations held in `policy.dtype` throughout, where the trainer's autocast
    keeps some in float32."""
    renewed: bool = False
    """Whether there is a copy whose weights nobody has compared yet; then the gate looks before anything of it is believed."""

    @abstractmethod
    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[Sequence[int]]) -> list[list[Completion]]:
        """One list of completions per prompt, one completion per seed; a group's randomness depends on its seeds alone."""

    @abstractmethod
    def refresh(self, policy: "Policy", version: int) -> None:
        """Sample from these weights from now on; `version` is written into the completions."""

    def longest(self) -> int:
        """Most tokens of prompt and completion together; what could become longer is left out before it is asked."""
        return sys.maxsize

    def rest(self) -> None:  # noqa: B027  # most have nothing to do here
        """Nothing is asked for a while: memory that the update could use may be given back until then."""

    def close(self) -> None:  # noqa: B027
        """Give back what was taken."""


def ensure_fits(prompt: Prompt, engine: RolloutEngine, max_tokens: int) -> Prompt:
    """The prompt, if the engine has room for it and its answers.

    Raises:
        UnusableSampleError: it has not.
    """
    if (tokens := len(prompt.input_ids) + max_tokens) > engine.longest():
        raise UnusableSampleError(
            f"{prompt.sample.id}: prompt and answer may have {tokens} tokens, the engine's window is {engine.longest()}"
        )
    return prompt
