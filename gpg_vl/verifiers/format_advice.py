"""Find out why nearly all answers of a model lack the required format, and what to do.

The answers themselves say it: they were cut off, they have the format of another prompt style, or
they hold right answers in another form.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import NamedTuple

from gpg_vl.errors import one_line, shown
from gpg_vl.parsing.markup import boxed
from gpg_vl.prompts import AnswerOnly, Style
from gpg_vl.types import Completion, Group, Sample
from gpg_vl.verifiers.base import RuleVerifier
from gpg_vl.verifiers.dispatch import VerifierSet

MALFORMED_SHARE = 0.9
"""Share of malformed answers from which on a cause is looked for."""
CAUSE_SHARE = 0.5
"""Share of the malformed answers that a cause must explain."""
LENIENT_SHARE = 0.05
"""Share of right answers, read leniently, from which on lenient mode is advised."""
MAX_READ = 200
"""Largest number of answers that are read a second time."""
THINK = "required", "optional", "absent", "opened"
"""The values of a style's `think`, those of shipped styles first where several fit."""
EXAMPLE_CHARACTERS = 80
"""Largest number of characters of an answer in the sentence."""


class Answer(NamedTuple):
    """A scored answer.

    Example:
        Answer(Completion(text="3", ...), sample, well_formed=0.0)
    """

    completion: Completion
    sample: Sample
    well_formed: float
    """1 if it has the required format, else 0; NaN = its verifier does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """The knobs that change how the answers are asked for and read, as a user writes them."""

    max_tokens: str
    """For instance `benchmark.max_tokens (now 256)`."""
    prompt: str
    """For instance `benchmark.prompt`."""
    mode: str
    """For instance `benchmark.mode=lenient`."""
    where: str = ""
    """Place of these knobs, where it is not the command line."""
    trains: bool = False
    """True: the answers are those of a policy that is trained, so that it can learn the format."""


def training_knobs(max_tokens: int) -> Knobs:
    """Return the knobs of a run, whose answers have at most so many tokens."""
    return Knobs(
        max_tokens=f"rollout.max_tokens (now {max_tokens})",
        prompt="prompt",
        mode="reward.mode=lenient",
        trains=True,
    )


def answers_of(groups: Iterable[Group]) -> Iterator[Answer]:
    """Yield the answers of scored groups."""
    for group in groups:
        for completion, verdict in zip(group.completions, group.verdicts, strict=True):
            well_formed = verdict.parts.get("format", math.nan)
            yield Answer(completion, group.prompt.sample, well_formed)


def format_advice(answers: Iterable[Answer], verifiers: VerifierSet, knobs: Knobs) -> str:
    """Return why nearly all answers are malformed and what to do; empty = they are not."""
    strict: list[Answer] = []
    for answer in answers:
        verifier = verifiers.by_kind.get(answer.sample.answer_kind)
        reads_strictly = not isinstance(verifier, RuleVerifier) or verifier.mode == "strict"
        if reads_strictly and not math.isnan(answer.well_formed):
            strict.append(answer)
    malformed = [answer for answer in strict if not answer.well_formed]
    if not malformed or len(malformed) < MALFORMED_SHARE * len(strict):
        return ""
    # evenly, because questions of one task stand together
    read = malformed[:: math.ceil(len(malformed) / MAX_READ)]
    causes = filter(None, (_cut_off(read, knobs), _other_style(read, verifiers, knobs)))
    found = [*causes, *_lenient(read, verifiers, knobs)] or [_no_cause(read, verifiers, knobs)]
    return (
        f"{len(malformed)} of {len(strict)} answers do not have the format of the prompt style; "
        + "; ".join(found)
    )


def _cut_off(answers: Sequence[Answer], knobs: Knobs) -> str:
    """Return the cause that answers reached the length limit; empty = few did."""
    share = fmean(answer.completion.finish == "length" for answer in answers)
    if share < CAUSE_SHARE:
        return ""
    teach = ", or warmup.steps, so that it learns to end" if knobs.trains else ""
    return f"{_percent(share)} were cut off: raise {knobs.max_tokens}{knobs.where}{teach}"


def _other_style(answers: Sequence[Answer], verifiers: VerifierSet, knobs: Knobs) -> str:
    """Return the cause that answers have the format of another `think`; empty = of none."""
    shares: dict[str, float] = {}
    for think in THINK:
        fits = [_fits(answer, verifiers, think) for answer in answers]
        shares[think] = fmean(fits)
    best = max(shares, key=lambda think: shares[think])
    if shares[best] < CAUSE_SHARE:
        return ""
    style = _style_of(answers[0], verifiers)
    knob = f"{knobs.prompt}.think={best}"
    if type(style) in (Style, AnswerOnly):
        shipped = {"absent": f"{knobs.prompt}=answer", "required": f"{knobs.prompt}=think"}
        knob = shipped.get(best, f"{knobs.prompt}.kind=think {knob}")
    return f"{_percent(shares[best])} have that of another style: set {knob}{knobs.where}"


def _fits(answer: Answer, verifiers: VerifierSet, think: str) -> bool:
    """Return True if an answer is well-formed with another value of `think`."""
    style = _style_of(answer, verifiers)
    if style is None or style.think == think:
        return False
    changed: Style = replace(style, think=think)
    return not changed.read(answer.completion.text).problem


def _style_of(answer: Answer, verifiers: VerifierSet) -> Style | None:
    verifier = verifiers.by_kind.get(answer.sample.answer_kind)
    return verifier.style if isinstance(verifier, RuleVerifier) else None


def _lenient(answers: Sequence[Answer], verifiers: VerifierSet, knobs: Knobs) -> Iterator[str]:
    """Yield the cause that answers hold right ones in another form, if enough of them do."""
    lenient = verifiers.in_mode("lenient")
    accuracies: list[float] = []
    for answer in answers:
        verdict = lenient.judge(answer.completion, answer.sample)
        accuracy = verdict.parts.get("accuracy", 0.0)
        accuracies.append(accuracy if math.isfinite(accuracy) else 0.0)
    share = fmean(accuracies)
    if share < LENIENT_SHARE:
        return
    in_boxes = fmean(bool(boxed(answer.completion.text)) for answer in answers)
    form = r" (answers stand in \boxed{})" if in_boxes >= CAUSE_SHARE else ""
    teach = ", or raise warmup.steps, so that it learns the format" if knobs.trains else ""
    remedy = f"set {knobs.mode}{knobs.where}{teach}"
    yield f"lenient mode would read {_percent(share)} as right{form}: {remedy}"


def _no_cause(answers: Sequence[Answer], verifiers: VerifierSet, knobs: Knobs) -> str:
    """Return the most frequent problem with an example, where no mode and no style explains it."""
    problems = Counter[str]()
    example: dict[str, str] = {}
    for answer in answers:
        style = _style_of(answer, verifiers)
        text = answer.completion.text
        problem = style.read(text).problem if style is not None and text.strip() else "no text"
        problems[problem] += 1
        example.setdefault(problem, text)
    problem, count = problems.most_common(1)[0]
    remedy = "lenient mode finds no right answer in them either"
    if knobs.trains:
        remedy += ": raise warmup.steps, so that it learns the format"
    return (
        f"mostly ({_percent(count / len(answers))}): {one_line(problem)}, for instance "
        f"{shown(example[problem], EXAMPLE_CHARACTERS)}; {remedy}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
