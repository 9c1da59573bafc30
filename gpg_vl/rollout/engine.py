"""Define the interface of rollout engines: everything that samples answers from the policy."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpg_vl.errors import UnusableSampleError, one_line
from gpg_vl.types import Completion, Prompt

if TYPE_CHECKING:
    from gpg_vl.policy.load import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling parameters of completions.

    There is no top-k and no top-p: the sampled distribution is the one that the trainer scores.
    """

    max_tokens: int
    """Maximum length of a completion in tokens, including the end id."""
    temperature: float
    """Divisor of the logits, in sampling and in the log-probabilities that come back."""
    greedy: bool = False
    """True = take the most likely token instead of sampling one."""


class RolloutEngine(ABC):
    """Samples completions from the policy, in this process or elsewhere."""

    num_replicas: int = 1
    """Number of replicas of the weights. Consecutive prompts go to different replicas."""
    narrow: bool = False
    """True if the engine has its own kernels and holds weights and activations in `policy.dtype`
    throughout, where the trainer's autocast keeps some of them in float32."""
    needs_verification: bool = False
    """True after a replica started or restarted; the vision gate must check it before its samples
    are used."""

    @abstractmethod
    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[Completion]]:
        """Sample one completion per seed for each prompt; return one list per prompt.

        The randomness of a group depends only on its seeds.
        """

    @abstractmethod
    def update_weights(self, policy: "Policy", version: int) -> None:
        """Sample from these weights from now on; completions carry `version`."""

    def max_model_len(self) -> int:
        """Return the maximum number of tokens of prompt and completion together.

        Prompts that could exceed it are left out before sampling.
        """
        return sys.maxsize

    def max_images(self) -> int:
        """Return the maximum number of images of a prompt; prompts of more are left out, too."""
        return sys.maxsize

    def release_memory(self) -> None:  # noqa: B027  # most engines have nothing to release
        """Release memory for the update, if possible; the next `generate` takes it back."""

    def close(self) -> None:  # noqa: B027
        """Release all resources of the engine."""


def ensure_fits(prompt: Prompt, engine: RolloutEngine, max_tokens: int) -> Prompt:
    """Return the prompt if it and its completions fit into the engine's window.

    Raises:
        UnusableSampleError: they do not fit, or the prompt has too many images.
    """
    if len(prompt.images) > engine.max_images():
        raise UnusableSampleError(
            f"{one_line(prompt.sample.id)}: it has {len(prompt.images)} images, "
            f"rollout.engine.images is {engine.max_images()}; raise it, also where servers are "
            "started"
        )
    tokens = len(prompt.input_ids) + max_tokens
    if tokens > engine.max_model_len():
        raise UnusableSampleError(
            f"{one_line(prompt.sample.id)}: prompt and answer may have {tokens} tokens, the "
            f"engine's window is {engine.max_model_len()}"
        )
    return prompt
