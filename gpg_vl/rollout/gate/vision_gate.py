"""Check that the engine sees and scores what the trainer does: the vision gate.

At the start of a run and every few steps the engine answers a few fixed prompts. Its
log-probabilities of the tokens that it sampled must equal the trainer's up to rounding, on the
pictures and on grey ones of the same size: otherwise a lost picture could go unnoticed, because the
text alone fits well. Rounding is measured in each check (`rounding`). The prompts are always the
same, so a cache that was not reset after a weight update is found. A mismatch stops the run;
`causes` finds out why.

The gate also measures how much the answers depend on their pictures: `visual_reliance`.

Shape letters: N completion tokens of all prompts, concatenated.
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
from gpg_vl.rollout.gate.rounding import (
    ENOUGH_CARRIERS,
    KERNEL_GRAIN,
    MAX_DECODING_ERROR,
    MAX_ROUNDING,
    PROMPTS_AT_ONCE,
    Gap,
    decoding_error,
    places,
    score,
    score_again,
)
from gpg_vl.types import Completion, Prompt

COMPLETIONS = 2
"""Completions per prompt, at first. The first is sampled with the same seed in every check, so
equal weights give equal answers."""
MAX_COMPLETIONS = 16
"""Maximum number of completions per prompt; fewer if spare prompts are used too."""
MAX_COMPARED_TOKENS = 8192
"""Number of tokens in all above which no more completions are sampled."""
MAX_TOKENS = 256
"""Maximum length of a completion: in full, long answers would fill the memory in scoring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionGate:
    """The prompts of the vision gate and the limits of its gaps."""

    prompts: tuple[Prompt, ...]
    """Prompts of every check."""
    spare: tuple[Prompt, ...] = ()
    """Prompts that are used too if fewer than `rounding.ENOUGH_CARRIERS` places carry the rounding:
    a policy that is sure of its answers has few in each."""
    sampling: Sampling
    """Sampling parameters of training."""
    seed: int
    """Seed of the run."""
    mean: float | None = None
    """Largest mean gap allowed, in nats; None = a multiple of the rounding."""
    worst: float | None = None
    """Largest gap of any token allowed, in nats; None = a multiple of the rounding."""
    last_answers: "dict[int, Completion]" = field(default_factory=dict)
    """The engine's first answer to each prompt in the last passed check; replaced in place."""

    def check(self, engine: RolloutEngine, policy: Policy, version: int) -> dict[str, float]:
        """Sample from the engine, compare with the trainer, and return the metrics.

        Args:
            version: the weights that the trainer has.

        Raises:
            MismatchError: engine and trainer disagree by more than rounding explains; names the
                cause if it could be found.
        """
        check = GateCheck(self, engine, policy, version)
        engine.needs_verification = False
        shown = check.compare(self.prompts, self.spare)
        comparisons = [shown]
        grey = [with_grey_pictures(prompt, policy) for prompt in self.prompts if prompt.images]
        if grey:
            spare_shown = (prompt for prompt in self.spare if prompt.images)
            spare_grey = (with_grey_pictures(prompt, policy) for prompt in spare_shown)
            comparisons.append(check.compare(grey, spare_grey))
        gaps: list[Gap] = []
        for comparison in comparisons:
            gaps += check.gaps_per_replica(comparison)
        for gap in gaps:
            self._check_rounding(gap, policy)
        if policy.dtype == torch.bfloat16 and not self.last_answers:  # the first check
            self._check_decoding(shown.answered[:PROMPTS_AT_ONCE], policy)
        worst = max(gaps, key=lambda gap: gap.excess)
        if not worst.within_limits:
            raise MismatchError(
                f"vision gate, weights {version}: engine and trainer disagree on sampled tokens "
                f"({worst}). {cause(check, worst, shown.answered)}"
            )
        self.last_answers.update(check.first_answers(shown.answered))
        metrics = _metrics([comparison.gap for comparison in comparisons])
        metrics["gate/excess"] = worst.excess
        if grey:
            metrics["visual_reliance"] = check.visual_reliance(shown.answered)
        return metrics

    def _check_decoding(self, answered: Sequence[PromptAndAnswers], policy: Policy) -> None:
        """Check the code that measures the rounding of bfloat16, where rounding is small.

        Raises:
            MismatchError: it is wrong.
        """
        error = decoding_error(policy, answered, self.sampling.temperature)
        if error <= MAX_DECODING_ERROR:  # False for a NaN
            return
        raise MismatchError(
            f"vision gate: scored token by token and in float32, answers lie {error:.2g} nat a "
            f"token from plain rows, and rounding explains {MAX_DECODING_ERROR:g} at most: this "
            "code, which rollout.engine: transformers samples with, is wrong; please report it"
        )

    def _check_rounding(self, gap: Gap, policy: Policy) -> None:
        """Check that the trainer's two ways of scoring agree up to rounding.

        Raises:
            MismatchError: they do not, so no engine can be judged by them.
        """
        if gap.rounding.mean <= MAX_ROUNDING[policy.dtype]:  # False for a NaN
            return
        dtype = str(policy.dtype).removeprefix("torch.")
        remedy = "please report it"
        if policy.dtype == torch.bfloat16:
            remedy = "set policy.dtype: float32"
        raise MismatchError(
            f"vision gate: the trainer scores the same tokens in two ways that lie {gap.rounding} "
            f"apart; rounding to {dtype} explains a mean of {MAX_ROUNDING[policy.dtype]:g} at "
            f"most, so it cannot be trained as it is; {remedy}"
        )


def _metrics(gaps: Sequence[Gap]) -> dict[str, float]:
    """Return the metrics of a check.

    Args:
        gaps: of the prompts as they are and, if they have pictures, of those with grey pictures.
    """
    shown, *grey = gaps
    found, rounding, allowed = shown.found, shown.rounding, shown.allowed
    metrics = {
        "gate/mean": found.mean,
        "gate/worst": found.worst,
        "gate/noise": rounding.mean,
        "gate/noise_worst": rounding.worst,
        "gate/allowed": allowed.mean,
        "gate/allowed_worst": allowed.worst,
        "gate/carriers": min(gap.carriers for gap in gaps),
    }
    if grey:
        metrics["gate/blind_worst"] = grey[0].found.worst
    return metrics


class GateComparison(NamedTuple):
    """Answers of an engine, and their gap from the trainer's log-probabilities."""

    answered: list[PromptAndAnswers]
    gap: Gap
    """Gap of all their tokens, in order."""


class GateCheck:
    """One check of the vision gate: samples from the engine and scores with the trainer."""

    def __init__(
        self, gate: VisionGate, engine: RolloutEngine, policy: Policy, version: int
    ) -> None:
        self.gate = gate
        self.engine = engine
        self.policy = policy
        self.version = version
        self.prompt_numbers: Iterator[int] = count()

    def compare(self, prompts: Sequence[Prompt], spare: Iterable[Prompt] = ()) -> GateComparison:
        """Sample and compare until enough places carry the rounding.

        Spare prompts are used first; then the number of completions per prompt is doubled.

        Args:
            spare: read only if needed.

        Raises:
            MismatchError: the engine reports that it has other weights.
        """
        max_completions = MAX_COMPLETIONS * len(prompts)
        answered = self.sample(prompts)
        gap = self.gap(answered)
        if gap.carriers < ENOUGH_CARRIERS:
            others = list(spare)
            if others:
                more = self.sample(others)
                prompts = [*prompts, *others]
                answered, gap = answered + more, gap + self.gap(more)
        per_prompt = COMPLETIONS
        while (
            gap.carriers < ENOUGH_CARRIERS
            and 2 * per_prompt * len(prompts) <= max_completions
            and len(gap.gap_N) < MAX_COMPARED_TOKENS
        ):
            more = self.sample(prompts, per_prompt)
            answered, gap = answered + more, gap + self.gap(more)
            per_prompt *= 2
        return GateComparison(answered, gap)

    def gaps_per_replica(self, comparison: GateComparison) -> list[Gap]:
        """Split the gap by replica: a wrong one must not hide among those that are right."""
        num_replicas = self.engine.num_replicas
        lengths: list[int] = []
        for _, completions in comparison.answered:
            lengths.append(sum(len(completion.token_ids) for completion in completions))
        # Consecutive prompts go to different replicas, in turn.
        replica_of_prompt = torch.arange(len(lengths)).remainder(num_replicas)
        replica_N = replica_of_prompt.repeat_interleave(torch.tensor(lengths))
        return [comparison.gap[replica_N == replica] for replica in range(num_replicas)]

    def sample(
        self, prompts: Sequence[Prompt], completions: int = COMPLETIONS
    ) -> list[PromptAndAnswers]:
        """Sample completions of each prompt from every replica.

        Raises:
            MismatchError: the engine reports that it has other weights.
        """
        prompts = self.repeat_for_replicas(prompts)
        seeds = [self._seeds(completions) for _ in prompts]
        answers = self.engine.generate(prompts, self.sampling, seeds)
        stale: set[int] = set()
        for group in answers:
            for completion in group:
                if completion.version != self.version:
                    stale.add(completion.version)
        if stale:
            raise MismatchError(
                f"vision gate: the engine samples with weights {min(stale)}, the trainer has "
                f"weights {self.version}: stale weights"
            )
        return list(zip(prompts, answers, strict=True))

    def _seeds(self, completions: int) -> list[int]:
        """Return the seeds of the next prompt's completions.

        The first is the same in every check; all others depend on the version of the weights.
        """
        run_seed = self.gate.seed
        number = next(self.prompt_numbers)
        seeds = [seed(run_seed, "gate", number, 0)]
        for index in range(1, completions):
            seeds.append(seed(run_seed, "gate", number, index, self.version))
        return seeds

    def repeat_for_replicas(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Repeat each prompt once per replica, so that every replica answers every prompt."""
        repeated: list[Prompt] = []
        for prompt in prompts:
            repeated += [prompt] * self.engine.num_replicas
        return repeated

    @property
    def sampling(self) -> Sampling:
        """Sampling parameters of training, with shorter completions."""
        max_tokens = min(self.gate.sampling.max_tokens, MAX_TOKENS)
        return replace(self.gate.sampling, max_tokens=max_tokens)

    def gap(
        self,
        answered: Sequence[PromptAndAnswers],
        policy: Policy | None = None,
        temperature: float | None = None,
    ) -> Gap:
        """Return the engine's log-probabilities of its own tokens minus the trainer's.

        Args:
            policy: scores instead of the trainer's, for instance without its ban.
            temperature: scores at this temperature instead of the sampling temperature.
        """
        policy = policy or self.policy
        temperature = temperature or self.gate.sampling.temperature
        completions: list[Completion] = []
        for _, group in answered:
            completions += group
        engine_N = self.logprobs(completions)
        trainer_N = score(policy, answered, temperature)
        again_N = score_again(policy, answered, temperature, narrow=self.engine.narrow)
        return self.make_gap(answered, engine_N - trainer_N, again_N - trainer_N)

    def make_gap(self, answered: Sequence[PromptAndAnswers], gap_N: Tensor, noise_N: Tensor) -> Gap:
        """Make a gap with the limits of this gate."""
        # Log-probabilities are float32 or wider, whatever the policy computes in.
        grain = torch.finfo(torch.promote_types(self.policy.dtype, torch.float32)).eps
        if self.engine.narrow:
            grain *= KERNEL_GRAIN
        return Gap(
            gap_N=gap_N,
            noise_N=noise_N,
            places_N=places(answered),
            grain=grain,
            mean=self.gate.mean,
            worst=self.gate.worst,
        )

    @staticmethod
    def logprobs(completions: Sequence[Completion]) -> Tensor:
        """Return the engine's log-probabilities of all tokens, [N]."""
        values: list[float] = []
        for completion in completions:
            values += completion.logprobs
        return torch.tensor(values, dtype=torch.float64)

    def first_answers(self, answered: Sequence[PromptAndAnswers]) -> dict[int, Completion]:
        """Return the first answer to each prompt: the same seed in every check."""
        first = answered[: len(self.gate.prompts) * self.engine.num_replicas]
        return {index: completions[0] for index, (_, completions) in enumerate(first)}

    def visual_reliance(self, answered: Sequence[PromptAndAnswers]) -> float:
        """Return how much less likely the answers are with grey pictures, in nats per token.

        Args:
            answered: answers of `compare`; only those to the gate's own prompts with pictures, as
                first sampled, are used.
        """
        first = answered[: len(self.gate.prompts) * self.engine.num_replicas]
        shown = [(prompt, completions) for prompt, completions in first if prompt.images]
        grey = [(with_grey_pictures(prompt, self.policy), group) for prompt, group in shown]
        temperature = self.gate.sampling.temperature
        shown_N = score(self.policy, shown, temperature)
        grey_N = score(self.policy, grey, temperature)
        return float((shown_N - grey_N).mean())
