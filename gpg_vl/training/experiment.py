"""From a config to its parts: data, prompt style, verifiers, estimator, engine; what all programs have in common."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpg_vl import plugins, rollout, samples
from gpg_vl.benchmark import Examination
from gpg_vl.config import Config, Part, Source
from gpg_vl.loading import load_benchmark
from gpg_vl.policy.encode import encode, template_thought
from gpg_vl.policy.load import Policy
from gpg_vl.prompts import Style
from gpg_vl.rollout.engine import RolloutEngine, Sampling, with_room
from gpg_vl.rollout.gate import Gate
from gpg_vl.samples import Stream
from gpg_vl.training.rules import build_estimator as build_estimator
from gpg_vl.training.rules import build_ruler as build_ruler
from gpg_vl.training.rules import build_style as build_style
from gpg_vl.training.rules import build_verifiers as build_verifiers
from gpg_vl.types import LeftOut, Prompt, Sample, UnusableSampleError, UserError
from gpg_vl.verifiers.verifier import Verifiers

SPARE = 3
"""Spare questions of the gate for each one that is asked at every look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Samples that passed their own verifier, and why the others did not."""

    sources: tuple[Sequence[Sample], ...]
    weights: tuple[int, ...]
    left_out: tuple[LeftOut, ...]
    """What its recipe leaves out, and rows whose gold answer fails."""

    def stream(self, seed: int, purpose: str) -> Stream:
        """The endless order of these questions for one purpose."""
        return Stream(self.sources, self.weights, seed, purpose)


def read_questions(sources: Sequence[Source], checks: Verifiers, *, folder: Path, key: str = "data") -> Questions:
    """Read every source and leave out the rows whose gold answer does not earn full marks.

    Raises:
        UserError: a source is empty, or nothing of it is left.
    """
    left_out: list[LeftOut] = []
    kept = tuple(
        list(sound(source, checks, folder=folder, key=f"{key}.{number}", told=left_out.append)) for number, source in enumerate(sources)
    )
    return Questions(sources=kept, weights=tuple(source.weight for source in sources), left_out=tuple(left_out))


def sound(source: Source, checks: Verifiers, *, folder: Path, key: str, told: Callable[[LeftOut], None]) -> Iterator[Sample]:
    """The rows of one source whose gold answer earns full marks, one by one: a large set need not be held.

    Args:
        told: called with what its recipe leaves out, and with every other row.

    Raises:
        UserError: at the end, where ids are doubled, or not one row was sound.
    """
    names: Counter[str] = Counter()
    bad: list[LeftOut] = []
    for sample in samples.read(source, folder=folder, key=key, told=told):
        names[sample.id] += 1
        if complaint := checks.complaint(sample):
            bad.append(LeftOut(sample.id, complaint))
            told(bad[-1])
        else:
            yield sample
    if doubled := [name for name, times in names.items() if times > 1]:
        raise UserError(f"{key}: the id {doubled[0]!r} names several rows (and {len(doubled) - 1} other ids do); ids must be unique")
    if len(bad) == names.total():
        raise UserError(f"{key}: " + (f"all {len(bad)} rows are unusable; {bad[0].id}: {bad[0].why}" if bad else "the data set is empty"))


def check_template(style: Style, processor: Any, key: str = "prompt") -> None:
    """Refuse a prompt style whose grammar the model's chat template breaks.

    Raises:
        UserError: the template opens or closes a thought that the style does not expect; the sentence says which style does.
    """
    if misfit := style.misfit(template_thought(processor)):
        raise UserError(f"{key}: {misfit}")


def build_engine(
    part: Part, policy: Policy, folder: Path, *, rank: int = 0, ranks: int = 1, say: Callable[[str], None] = print
) -> RolloutEngine:
    """Who samples on this rank.

    Raises:
        UserError: the config names something that is no engine.
    """
    given = {"policy": policy, "rank": rank, "ranks": ranks, "say": say}
    engine = plugins.build(part, rollout.ALIASES, folder=folder, key="rollout.engine", given=given)
    if not isinstance(engine, RolloutEngine):
        name = type(engine).__name__
        raise UserError(f"rollout.engine: {name} is no engine; derive it from gpg_vl.rollout.engine.RolloutEngine")
    return engine


def build_gate(config: Config, ask: Callable[[int], Prompt], engine: RolloutEngine) -> Gate | None:
    """The vision gate of a config, over early questions of the data, those with pictures first; None = it is never looked through."""
    wanted, prompts = config.rollout.gate, list[Prompt]()
    if not wanted.every:
        return None
    for index in range((1 + SPARE) * wanted.prompts):
        with suppress(UnusableSampleError):  # the run itself counts and tells it
            prompts.append(with_room(ask(index), engine, config.rollout.max_tokens))
    prompts.sort(key=lambda prompt: not prompt.images)
    if not prompts:  # then there is nothing to train on either, and the run says so
        return None
    return Gate(
        prompts=tuple(prompts[: wanted.prompts]),
        spare=tuple(prompts[wanted.prompts :]),
        sampling=Sampling(max_tokens=config.rollout.max_tokens, temperature=config.rollout.temperature),
        seed=config.seed,
        mean=wanted.mean,
        worst=wanted.worst,
    )


@dataclass(frozen=True, slots=True)
class Asker:
    """Prompts by index of an endless order."""

    stream: Stream
    style: Style
    policy: Policy

    def __call__(self, index: int) -> Prompt:
        """The prompt at an index."""
        return encode(self.stream[index], self.style, self.policy)


def solution(sample: Sample, style: Style, checks: Verifiers) -> str:
    """The text that the warm-up imitates: the sample's worked solution, or its gold answer in the prompt's style.

    Raises:
        UserError: the style demands a thought, which only a worked solution can give.
    """
    if sample.solution:
        return sample.solution.removeprefix(style.opening)
    if style.think == "required":
        raise UserError(
            f"warm-up: prompt style wants a thought, but {sample.id} has no `solution` column to imitate; add one, or set prompt.think"
        )
    verifier: Any = checks.by_kind[sample.answer_kind]
    return style.write(verifier.gold(sample) if hasattr(verifier, "gold") else str(sample.answer))


def examination(config: Config, folder: Path, policy: Policy, name: str | None = None, overrides: Sequence[str] = ()) -> Examination:
    """The held-out questions of a config's benchmark, or of a benchmark by name.

    Accuracy is measured by the benchmark's own verifiers, gated by format, whatever the run is rewarded for.

    Args:
        overrides: key=value knobs of the benchmark.
    """
    wanted = name or config.evaluation.benchmark
    assert wanted is not None
    spec, home = load_benchmark(wanted, folder, overrides)
    style, checks = build_ruler(spec, home, config, folder, policy.frame)
    check_template(style, policy.processor, f"{wanted}: prompt")
    questions = read_questions(spec.data, checks, folder=home)
    flat = [sample for source in questions.sources for sample in source]
    return Examination(spec=spec, questions=flat, style=style, checks=checks, seed=config.seed, left_out=questions.left_out)
