"""The vision gate: does the engine see what the trainer sees?

At the start of a run and every so many steps a few fixed questions are asked. The engine's log-probabilities of what it sampled must be the
trainer's own but for rounding, on the pictures and on grey ones of the same size (a lost picture would go unnoticed otherwise: the text
alone fits well). Rounding is measured anew at each look (`rounding`). Always the same questions, so that a cache that outlived a weight
update is met again. A mismatch stops the run; `causes` finds out why.

The gate also tells how much an answer owes to its picture: `visual_reliance`.

Shape letters: N completion tokens of all prompts in one line.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from gpg_vl.errors import MismatchError
from gpg_vl.policy.load import Policy
from gpg_vl.policy.plain_forward import PromptAndAnswers
from gpg_vl.randomness import seed
from gpg_vl.rollout.engine import RolloutEngine, Sampling
from gpg_vl.rollout.gate.altered_prompts import with_grey_pictures
from gpg_vl.rollout.gate.causes import cause
from gpg_vl.rollout.gate.rounding import CARRIERS, COARSER, COARSEST, Gap, places, score, score_again
from gpg_vl.types import Completion, Prompt

COMPLETIONS = 2
"""Of each question. The first is drawn with the same numbers at every look, so that the same weights say the same again."""
MAX_COMPLETIONS, MAX_COMPARED = 16, 8192
"""Of each question (fewer where spare ones are asked too), and tokens in all, at one look."""
MAX_TOKENS = 256
"""Of a completion: scored one by one in full, they would fill the memory where answers are long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionGate:
    """What is asked, and how it must agree."""

    prompts: tuple[Prompt, ...]
    spare: tuple[Prompt, ...] = ()
    """Asked too where fewer than `rounding.CARRIERS` places carry the rounding: a policy that is sure of its answers has few in each."""
    sampling: Sampling
    seed: int
    """Of the run."""
    mean: float | None = None
    """Largest mean gap allowed, in nats; None = a multiple of what rounding gives."""
    worst: float | None = None
    """Largest gap of any token allowed; None likewise."""
    heard: "dict[int, Completion]" = field(default_factory=dict)
    """What the engine said first to each question at the last look; changes at each."""

    def look(self, engine: RolloutEngine, policy: Policy, version: int) -> dict[str, float]:
        """Ask, compare, and return the numbers for the journal.

        Raises:
            MismatchError: engine and trainer disagree by more than rounding explains; says why, where that could be found out.
        """
        if not self.prompts:  # nothing could be asked; the loop tells why and stops
            return {}
        look = GateCheck(self, engine, policy, version)
        engine.renewed = False
        seen = look.compare(self.prompts, self.spare)
        sides, hidden = [seen], [with_grey_pictures(prompt, policy) for prompt in self.prompts if prompt.images]
        if hidden:
            sides.append(look.compare(hidden, (with_grey_pictures(prompt, policy) for prompt in self.spare if prompt.images)))
        gaps = [gap for side in sides for gap in look.of_every_copy(side)]
        for gap in gaps:
            self._check_yardstick(gap, policy)
        worst = max(gaps, key=lambda gap: gap.excess)
        if not worst.holds:
            raise MismatchError(
                f"vision gate, weights {version}: engine and trainer disagree on sampled tokens ({worst}). {cause(look, worst, seen.asked)}"
            )
        self.heard.update(look.first_said(seen.asked))
        numbers = _journal([side.gap for side in sides]) | {"gate/excess": worst.excess}
        return numbers | ({"visual_reliance": look.reliance(seen.asked)} if len(sides) == 2 else {})

    def _check_yardstick(self, gap: Gap, policy: Policy) -> None:
        """Refuse to judge by a trainer that does not agree with itself.

        Raises:
            MismatchError: rounding does not explain how its two ways differ.
        """
        if gap.rounding.mean <= COARSEST[policy.dtype]:  # not so of a NaN
            return
        kind = str(policy.dtype).removeprefix("torch.")
        remedy = "set policy.dtype: float32" if policy.dtype == torch.bfloat16 else "please report it"
        raise MismatchError(
            f"vision gate: the trainer scores the same tokens in two ways that lie {gap.rounding} apart; rounding to {kind} explains a "
            f"mean of {COARSEST[policy.dtype]:g} at most, so it cannot be trained as it is; {remedy}"
        )


def _journal(gaps: Sequence[Gap]) -> dict[str, float]:
    """What was measured and what was allowed, of the questions as they are and of those with grey pictures."""
    names = ("gate/mean", "gate/worst", "gate/noise", "gate/noise_worst", "gate/allowed", "gate/allowed_worst")
    seen, *blind = gaps
    sizes = [size for figures in (seen.found, seen.rounding, seen.allowed) for size in (figures.mean, figures.worst)]
    numbers = dict(zip(names, sizes, strict=True)) | {"gate/carriers": min(gap.carriers for gap in gaps)}
    return numbers | ({"gate/blind_worst": blind[0].found.worst} if blind else {})


class Answered(NamedTuple):
    """Answers of the engine and how far they are off."""

    asked: list[PromptAndAnswers]
    gap: Gap
    """Of all their tokens, in order."""


class GateCheck:
    """One look through the gate: the engine, the trainer's forward, and the ways of asking that tell one fault from another."""

    def __init__(self, gate: VisionGate, engine: RolloutEngine, policy: Policy, version: int) -> None:
        self.gate = gate
        self.engine = engine
        self.policy = policy
        self.version = version
        self.draws: Iterator[int] = count()

    def compare(self, prompts: Sequence[Prompt], spare: Iterable[Prompt] = ()) -> Answered:
        """Ask prompts; spare ones too, and all of them for more answers, until enough places carry the rounding.

        Args:
            spare: read only where they are needed.

        Raises:
            MismatchError: the engine says itself that it has other weights.
        """
        asked, given, most = self.ask(prompts), COMPLETIONS, MAX_COMPLETIONS * len(prompts)
        gap = self.gap(asked)
        if gap.carriers < CARRIERS and (others := [*spare]):
            more = self.ask(others)
            prompts, asked, gap = [*prompts, *others], asked + more, gap + self.gap(more)
        while gap.carriers < CARRIERS and 2 * given * len(prompts) <= most and len(gap.gap_N) < MAX_COMPARED:
            more = self.ask(prompts, given)
            given, asked, gap = 2 * given, asked + more, gap + self.gap(more)
        return Answered(asked, gap)

    def of_every_copy(self, side: Answered) -> list[Gap]:
        """The gap of each copy of the weights alone: one that is wrong must not hide among those that are right."""
        copies = self.engine.copies
        lengths = [sum(len(completion.token_ids) for completion in group) for _, group in side.asked]
        copy_N = torch.arange(len(lengths)).remainder(copies).repeat_interleave(torch.tensor(lengths))
        return [side.gap[copy_N == copy] for copy in range(copies)]

    def ask(self, prompts: Sequence[Prompt], completions: int = COMPLETIONS) -> list[PromptAndAnswers]:
        """So many answers of the engine to each prompt, every prompt put to every copy of the weights.

        Raises:
            MismatchError: the engine says itself that it has other weights.
        """
        prompts = self.for_every_copy(prompts)
        own = [next(self.draws) for _ in prompts]
        addresses = [[(draw, 0) if index == 0 else (draw, index, self.version) for index in range(completions)] for draw in own]
        seeds = [[seed(self.gate.seed, "gate", *address) for address in group] for group in addresses]
        answers = self.engine.generate(prompts, self.sampling, seeds)
        if stale := {completion.version for group in answers for completion in group} - {self.version}:
            raise MismatchError(
                f"vision gate: the engine samples with weights {min(stale)}, the trainer has weights {self.version}: stale weights"
            )
        return list(zip(prompts, answers, strict=True))

    def for_every_copy(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Prompts as often as the engine has copies of the weights; the same one goes to all of them in turn."""
        return [prompt for prompt in prompts for _ in range(self.engine.copies)]

    @property
    def sampling(self) -> Sampling:
        """As in training, but not so long."""
        return replace(self.gate.sampling, max_tokens=min(self.gate.sampling.max_tokens, MAX_TOKENS))

    def gap(self, asked: Sequence[PromptAndAnswers], policy: Policy | None = None, temperature: float | None = None) -> Gap:
        """What the engine says of its own tokens less what the trainer says, or would say at another temperature or without its ban."""
        theirs_N = self.in_line([completion for _, group in asked for completion in group])
        policy, temperature = policy or self.policy, temperature or self.gate.sampling.temperature
        own_N = score(policy, asked, temperature)
        again_N = score_again(policy, asked, temperature, narrow=self.engine.narrow)
        return self.beside_rounding(asked, theirs_N - own_N, again_N - own_N)

    def beside_rounding(self, asked: Sequence[PromptAndAnswers], gap_N: Tensor, noise_N: Tensor) -> Gap:
        """A gap that this gate judges."""
        spacing = torch.finfo(torch.promote_types(self.policy.dtype, torch.float32)).eps
        return Gap(
            gap_N=gap_N,
            noise_N=noise_N,
            places_N=places(asked),
            grain=COARSER * spacing if self.engine.narrow else spacing,
            mean=self.gate.mean,
            worst=self.gate.worst,
        )

    def noise(self, asked: Sequence[PromptAndAnswers]) -> Tensor:
        """[N] the trainer's second way less its first."""
        temperature = self.gate.sampling.temperature
        again_N = score_again(self.policy, asked, temperature, narrow=self.engine.narrow)
        return again_N - score(self.policy, asked, temperature)

    @staticmethod
    def in_line(completions: Sequence[Completion]) -> Tensor:
        """[N] what an engine says of its tokens."""
        return torch.tensor([logprob for completion in completions for logprob in completion.logprobs], dtype=torch.float64)

    def first_said(self, asked: Sequence[PromptAndAnswers]) -> dict[int, Completion]:
        """The first answer to each question: drawn with the same numbers at every look."""
        return {place: group[0] for place, (_, group) in enumerate(asked[: len(self.gate.prompts) * self.engine.copies])}

    def reliance(self, seen: Sequence[PromptAndAnswers]) -> float:
        """How much less likely the answers become without their picture, in nats per token; of each question's first answers."""
        shown = [(prompt, group) for prompt, group in seen[: len(self.gate.prompts) * self.engine.copies] if prompt.images]
        hidden = [(with_grey_pictures(prompt, self.policy), group) for prompt, group in shown]
        temperature = self.gate.sampling.temperature
        return float((score(self.policy, shown, temperature) - score(self.policy, hidden, temperature)).mean())
