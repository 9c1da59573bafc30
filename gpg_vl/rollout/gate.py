"""The vision gate: does the engine see what the trainer sees?

At the start of a run and every so many steps a few fixed questions are asked. The engine's log-probabilities of what it sampled must be the
trainer's own, on the pictures and on grey ones of the same size (a lost picture would go unnoticed otherwise: the text alone fits well).
Always the same questions, so that a cache that outlived a weight update is met again. A mismatch stops the run with its likely cause, which
is found by asking differently: at another temperature, without the picture, with a new picture, with new words in front.

The gate also tells how much an answer owes to its picture: `visual_reliance`.

Shape letters: N completion tokens of all prompts in one line.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gpg_vl.policy.encode import encode_text
from gpg_vl.policy.load import Policy
from gpg_vl.policy.logprobs import Asked, PlainForward
from gpg_vl.rollout.engine import RolloutEngine, Sampling
from gpg_vl.rollout.request import MismatchError
from gpg_vl.seeds import seed
from gpg_vl.types import Prompt

Said = tuple[tuple[int, ...], tuple[float, ...]]
"""A completion's tokens and their log-probabilities."""
GREY = (128, 128, 128)
COMPLETIONS = 2
"""Of each question."""
MOST_TOKENS = 256
"""Of a completion: scored one by one in full, they would fill the memory where answers are long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far two log-probabilities of a token may lie apart, in nats."""

    mean: float
    worst: float

    def holds(self, gap_N: Tensor) -> bool:
        """Whether gaps are within it; none are."""
        return not len(gap_N) or bool(gap_N.abs().mean() <= self.mean and gap_N.abs().max() <= self.worst)


TOLERANCES = {
    torch.float64: Tolerance(mean=2e-5, worst=2e-5),
    torch.float32: Tolerance(mean=2e-5, worst=2e-5),
    torch.bfloat16: Tolerance(mean=0.02, worst=0.3),
}
"""By what the forward computes in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What is asked, and how it must agree."""

    prompts: tuple[Prompt, ...]
    sampling: Sampling
    seed: int
    """Of the run."""
    tolerance: Tolerance

    def look(self, engine: RolloutEngine, policy: Policy, version: int) -> dict[str, float]:
        """Ask, compare, and return the numbers for the journal.

        Raises:
            MismatchError: engine and trainer disagree; says what is likely the cause.
        """
        if not self.prompts:  # nothing could be asked; the loop tells why and stops
            return {}
        look = _Look(self, engine, policy, version)
        engine.renewed = False
        seen, blind = look.ask(self.prompts), look.ask([blanked(prompt, policy) for prompt in self.prompts if prompt.images])
        gap_N, blind_gap_N = look.gap(seen), look.gap(blind)
        stale = {completion.version for _, group in [*seen, *blind] for completion in group} - {version}
        if stale:
            raise MismatchError(
                f"vision gate: the engine samples with weights {min(stale)}, the trainer has weights {version}: stale weights"
            )
        if not (look.agrees(gap_N) and look.agrees(blind_gap_N)):
            raise MismatchError(look.told(gap_N, blind_gap_N, seen))
        told = {"gate/mean": float(gap_N.abs().mean()), "gate/worst": float(gap_N.abs().max())}
        if blind:
            told |= {"gate/blind_worst": float(blind_gap_N.abs().max()), "visual_reliance": look.reliance(seen)}
        return told


class _Look:
    """One look through the gate: the engine, the trainer's forward, and the ways of asking that tell one fault from another."""

    def __init__(self, gate: Gate, engine: RolloutEngine, policy: Policy, version: int) -> None:
        self.gate = gate
        self.engine = engine
        self.policy = policy
        self.version = version
        self.tolerance = gate.tolerance
        self.draws: Iterator[int] = count()

    def ask(self, prompts: Sequence[Prompt]) -> list[Asked]:
        """The engine's answers to prompts, every prompt put to every copy of the weights."""
        if not prompts:
            return []
        asked = self.for_every_copy(prompts)
        own = [next(self.draws) for _ in asked]
        seeds = [[seed(self.gate.seed, "gate", self.version, draw, index) for index in range(COMPLETIONS)] for draw in own]
        return list(zip(asked, self.engine.generate(asked, self.sampling, seeds), strict=True))

    def for_every_copy(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Prompts as often as the engine has copies of the weights; the same one goes to all of them in turn."""
        return [prompt for prompt in prompts for _ in range(self.engine.copies)]

    @property
    def sampling(self) -> Sampling:
        """As in training, but not so long."""
        return replace(self.gate.sampling, max_tokens=min(self.gate.sampling.max_tokens, MOST_TOKENS))

    def gap(self, asked: Sequence[Asked], policy: Policy | None = None, temperature: float | None = None) -> Tensor:
        """[N] what the engine says of its own tokens less what the trainer says, or would say at another temperature or without its ban."""
        theirs = [logprob for _, group in asked for completion in group for logprob in completion.logprobs]
        return torch.tensor(theirs, dtype=torch.float64) - self.score(asked, policy, temperature)

    def score(self, asked: Sequence[Asked], policy: Policy | None = None, temperature: float | None = None) -> Tensor:
        """[N] the trainer's log-probabilities, question by question, so that little memory is needed."""
        forward = PlainForward(policy or self.policy, temperature or self.gate.sampling.temperature)
        with torch.no_grad():
            scores = [forward([question]).logprobs_N.cpu().double() for question in asked]
        return torch.cat(scores) if scores else torch.empty(0, dtype=torch.float64)

    def agrees(self, gap_N: Tensor) -> bool:
        """Whether the gaps are within the tolerance."""
        return self.tolerance.holds(gap_N)

    def reliance(self, seen: Sequence[Asked]) -> float:
        """How much less likely the answers become without their picture, in nats per token."""
        shown = [(prompt, group) for prompt, group in seen if prompt.images]
        hidden = [(blanked(prompt, self.policy), group) for prompt, group in shown]
        return float((self.score(shown) - self.score(hidden)).mean())

    def told(self, gap_N: Tensor, blind_gap_N: Tensor, seen: Sequence[Asked]) -> str:
        """The sentence: how far apart, and why."""
        both_N = torch.cat([gap_N, blind_gap_N]).abs()
        size = f"mean {both_N.mean():.2g}, worst {both_N.max():.2g} nat; allowed {self.tolerance.mean:g} and {self.tolerance.worst:g}"
        return (
            f"vision gate, weights {self.version}: engine and trainer disagree on sampled tokens ({size}). Likely cause: {self.cause(seen)}"
        )

    def cause(self, seen: Sequence[Asked]) -> str:
        """What explains a mismatch, the most telling experiment first."""
        temperature, unbanned = self.gate.sampling.temperature, replace(self.policy, banned_ids=())
        if self.agrees(self.gap(seen, policy=unbanned, temperature=1.0)):
            return f"temperature: it samples at {temperature:g} and reports raw log-probabilities; start it with processed_logprobs"
        if self.agrees(self.gap(seen, policy=unbanned)):
            return "the ban: the engine counts image and video placeholders among the possible tokens; it must obey logit_bias"
        if self.picture_is_ignored():
            return "image lost: the engine answers alike with and without the picture"
        if self.agrees(self.gap(self.ask([with_new_words(prompt, self.policy) for prompt in self.gate.prompts]))):
            return "stale prefix cache: new words in front of the same picture agree; the prefix cache must be reset with the weights"
        if any(prompt.images for prompt in self.gate.prompts):
            if self.agrees(self.gap(self.ask([with_new_pictures(prompt, self.policy, self.version) for prompt in self.gate.prompts]))):
                return "stale encoder cache: new pictures agree; the encoder cache must be reset with the weights"
            if self.agrees(self.gap(self.ask([without_pictures(prompt, self.policy) for prompt in self.gate.prompts]))):
                return "only pictures disagree: processor mismatch (image backend, pixel limits), or the tower has old weights"
        if bool((self.gap(seen) >= -self.tolerance.worst).all()):
            return "truncated sampling: every token is likelier there; no top-k, top-p or penalty may be on (--generation-config vllm)"
        return (
            "stale weights: an update, a tied head (lm_head) among it, has not landed; or a penalty is on"
            if self.version
            else "other weights: it serves another checkpoint, or a tied head (lm_head) has not landed; or a penalty is on"
        )

    def picture_is_ignored(self) -> bool:
        """Whether the engine says the very same of a picture and of a grey one, where the trainer does not."""
        shown = self.for_every_copy([prompt for prompt in self.gate.prompts if prompt.images])
        if not shown:
            return False
        hidden = [blanked(prompt, self.policy) for prompt in shown]
        greedy = replace(self.sampling, greedy=True)
        answers = [self.engine.generate(prompts, greedy, [[0]] * len(prompts)) for prompts in (shown, hidden)]
        said = [[(completion.token_ids, completion.logprobs) for (completion,) in groups] for groups in answers]
        own = [self.score([(prompt, group) for prompt, group in zip(prompts, answers[0], strict=True)]) for prompts in (shown, hidden)]
        return self.same(*said) and not self.agrees(own[0] - own[1])

    def same(self, said: Sequence[Said], others: Sequence[Said]) -> bool:
        """Whether answers are alike: the same tokens, with log-probabilities within the tolerance."""
        if [token_ids for token_ids, _ in said] != [token_ids for token_ids, _ in others]:
            return False
        flat = [torch.tensor([logprob for _, logprobs in side for logprob in logprobs], dtype=torch.float64) for side in (said, others)]
        return self.agrees(flat[0] - flat[1])


def blanked(prompt: Prompt, policy: Policy) -> Prompt:
    """The same prompt with grey pictures of the same sizes."""
    return encode_text(prompt.text, [Image.new("RGB", image.size, GREY) for image in prompt.images], prompt.sample, policy)


def with_new_pictures(prompt: Prompt, policy: Policy, number: int) -> Prompt:
    """The same prompt with noise of the same sizes that no cache has met."""
    draw = np.random.default_rng(seed("noise", prompt.sample.id, number))
    noise = [Image.fromarray(draw.integers(0, 256, (image.height, image.width, 3), dtype=np.uint8)) for image in prompt.images]
    return encode_text(prompt.text, noise, prompt.sample, policy)


def with_new_words(prompt: Prompt, policy: Policy) -> Prompt:
    """The same prompt behind other first words: from there on no prefix is known."""
    return encode_text(f"{seed(prompt.text)} {prompt.text}", list(prompt.images), prompt.sample, policy)


def without_pictures(prompt: Prompt, policy: Policy) -> Prompt:
    """The words alone."""
    return encode_text(prompt.text.replace(policy.processor.image_token, ""), [], prompt.sample, policy)
