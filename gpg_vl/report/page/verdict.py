"""Say in plain sentences what a run did: what was trained on what, what is well, what is not.

Every sentence comes from a rule of `RULES`, with its evidence and what to do. A rule that lacks its
data says nothing: a run of two steps, an old one, one without evaluation.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from gpg_vl.report.page import answers_seen, health, learning, looking
from gpg_vl.report.page.contents import RunContents, time_of
from gpg_vl.report.page.finding import Finding, Level, duration, listed, setting, several

Rule = Callable[[RunContents], Finding | None]

RULES: tuple[Rule, ...] = (
    learning.fooled,
    learning.learning,
    looking.blind,
    learning.reward_course,
    learning.a_task_falls,
    answers_seen.one_answer,
    answers_seen.one_place,
    answers_seen.malformed,
    answers_seen.faults,
    answers_seen.a_task_earns_nothing,
    health.signal,
    health.bad_numbers,
    health.gate,
    health.truncated,
    health.lengths,
    health.entropy,
    health.gradients,
    health.skipped,
    health.stopped,
    health.left_out,
    answers_seen.weak_rule,
    looking.no_control,
    health.alpha,
    health.slow_phase,
    health.memory,
    health.unreadable_files,
)
"""All rules; of findings of one level those of the first rules are shown first."""
ORDER: Mapping[Level, int] = {"bad": 0, "warning": 1, "note": 2, "good": 3}
GAINS = ("held_out", "reward")
"""Curves of findings that say whether it learns."""
NAMED = 2
"""Findings that the headline names."""
SOURCES = 4
"""Data sources that the subject names."""
PARTS = {"language": "language model", "projector": "projector", "vision": "vision tower"}
"""Settings of `policy` -> the parts of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The top of the page: a run in a sentence, and what is well and what is not."""

    subject: str
    """What was trained on what, how far, and when."""
    headline: str
    """The most important findings in one sentence."""
    findings: Sequence[Finding]
    """The worst first."""


def verdict(run: RunContents) -> Verdict:
    """Apply all rules to a run."""
    found: list[Finding] = []
    for rule in RULES:
        finding = rule(run)
        if finding is not None:
            found.append(finding)
    found.sort(key=lambda finding: ORDER[finding.level])
    first = headline(run, found)
    return Verdict(subject=subject(run), headline=first, findings=list(_without_praise(found)))


def _without_praise(findings: Sequence[Finding]) -> Iterator[Finding]:
    """Yield the findings; where a model takes a shortcut, a gain is a note, and no praise is left.

    What it gained is the shortcut: a green line beside it would mislead.
    """
    shortcut = any(finding.is_shortcut for finding in findings)
    for finding in findings:
        if not shortcut or finding.level != "good":
            yield finding
        elif finding.chart in GAINS:
            gain = finding.title.partition(": ")[2] or finding.title
            title = f"What it gained is the shortcut: {gain}"
            yield replace(finding, level="note", title=title)


# --- the headline ---------------------------------------------------------------------------------


def headline(run: RunContents, findings: Sequence[Finding]) -> str:
    """Return the most important findings as one sentence: `It learns, but it does not look ...`."""
    clauses: dict[Level, list[str]] = {"bad": [], "warning": [], "note": [], "good": []}
    learns = ""
    for finding in findings:
        if finding.clause:
            clauses[finding.level].append(finding.clause)
        if finding.level == "good" and finding.chart in GAINS:
            learns = finding.clause
    worst = (clauses["bad"] or clauses["warning"])[:NAMED]
    if worst:
        before = f"{learns}, but " if learns else ""
        return _sentence(before + " and ".join(worst))
    if clauses["good"]:
        return _sentence(f"{' and '.join(clauses['good'][:NAMED])}; nothing looks wrong")
    if clauses["note"]:
        return _sentence(" and ".join(clauses["note"][:NAMED]))
    if not run.steps:
        return "No training step has been taken yet."
    words = "Too early to say" if run.state == "running" else "Too few steps to say anything"
    return f"{words}: {several(len(run.steps), 'step')}."


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


# --- the subject ----------------------------------------------------------------------------------


def subject(run: RunContents) -> str:
    """Return what was trained on what, how far, and when: one sentence."""
    model = setting(run, "policy", "model")
    if not model:
        return f"{run.name}: {_progress(run)}."
    name = f"{model} ({_parts(run)})"
    if model == "tiny":
        family = setting(run, "policy", "tiny", "family")
        name = f"A tiny model of the family {family} ({_parts(run)})"
    sources = _sources(setting(run, "data"))
    return f"{name} trained with {_method(run)} on {sources}: {_progress(run)}."


def _parts(run: RunContents) -> str:
    """Return how each part of the model is trained: `language model full, vision tower frozen`."""
    modes: dict[str, list[str]] = {}
    for key, part in PARTS.items():
        mode = setting(run, "policy", key)
        if mode:
            modes.setdefault(str(mode), []).append(part)
    words = {"full": "in full", "lora": "with LoRA"}
    return ", ".join(f"{listed(parts)} {words.get(mode, mode)}" for mode, parts in modes.items())


def _method(run: RunContents) -> str:
    estimator: Any = run.config.get("estimator")
    kind = str(estimator.get("kind") if isinstance(estimator, Mapping) else estimator)
    return kind.upper() if kind.isalpha() else kind


def _sources(data: Any) -> str:
    """Return the data sources with the number of their rows, where the config says it."""
    names: list[str] = []
    for source in data if isinstance(data, list) else ():
        if isinstance(source, Mapping):
            names.append(_source(source))
    more = len(names) - SOURCES
    if more > 0:
        names[SOURCES:] = [f"{several(more, 'other source')}"]
    return listed(names) or "data that its config does not name"


def _source(source: Mapping[str, Any]) -> str:
    files = source.get("files")
    named = source.get("recipe") or source.get("hub") or files
    if isinstance(named, list):
        named = named[0] if named else "files"
    options = source.get("options") or {}
    task = options.get("task")
    name = f"{named} {task}" if task else str(named)
    count = options.get("count") or source.get("head")
    return f"{name} ({several(count, 'row')})" if isinstance(count, int) else name


def _progress(run: RunContents) -> str:
    """Return steps taken, when and for how long: `240 of 240 steps in 8 min, finished ...`."""
    of = f"{run.last_step:,} of " if run.total_steps else ""
    done = f"{of}{several(run.total_steps or run.last_step, 'step')}"
    times = [time for time in map(time_of, (*run.warmup, *run.held_out, *run.steps)) if time]
    if not times:
        return f"{done}, {run.state}"
    first, last = min(times), max(times)
    return f"{done} in {duration((last - first).total_seconds())}, {_when(run, last)}"


def _when(run: RunContents, last: datetime) -> str:
    word = {"finished": "finished on", "running": "still running on", "stopped": "stopped on"}
    return f"{word[run.state]} {last:%Y-%m-%d at %H:%M} UTC"
