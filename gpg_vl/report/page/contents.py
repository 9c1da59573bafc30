"""Hold what a page shows of a run.

`gpg_vl.report.page.read` reads it from the folder of a run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from gpg_vl.evaluation.compare import Comparison, common, compare
from gpg_vl.evaluation.records import Record

LEAST_QUESTIONS = 20
"""Fewest held-out questions that are compared: the interval of fewer is wider than any gain."""

State = Literal["finished", "running", "stopped"]
"""finished: the last step is done | running: it wrote something lately | stopped: it did not; it
was left or it crashed."""
Row = Mapping[str, Any]
"""A row of JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """An evaluation on held-out questions.

    Example:
        Evaluation(benchmark="digits", when="before", step=0, blank=False, records=(...))
    """

    benchmark: str
    """Name of the benchmark."""
    when: str
    """before | after | a step, as 000050 | blank: a control with grey pictures."""
    step: int
    """Step of the run that it belongs to."""
    blank: bool = False
    """True if grey pictures were shown: what is left is guessing."""
    records: Sequence[Record]
    """A record per question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """A question of training with its answers, as `rollouts/` has it."""

    step: int
    row: Row
    """The line of the file (docs/reading_a_run.md, "rollouts")."""

    @property
    def answers(self) -> Sequence[Row]:
        """[G] answers with their verdicts."""
        return self.row.get("answers") or ()

    @property
    def rewards(self) -> list[float]:
        """Rewards of the answers that have one."""
        return [answer["reward"] for answer in self.answers if answer.get("reward") is not None]

    @property
    def spread(self) -> float:
        """Highest minus lowest reward; 0 = a zero-variance group, which teaches nothing."""
        return max(self.rewards, default=0.0) - min(self.rewards, default=0.0)

    @property
    def task(self) -> str:
        """Name of its task; empty = the row does not say."""
        return str((self.row.get("tags") or {}).get("task", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationChange:
    """Two evaluations of one benchmark, on the questions that both asked."""

    first: Evaluation
    second: Evaluation
    pairs: Sequence[tuple[Record, Record]]
    rows: Sequence[Comparison]
    """Of all questions, then of each task if there are several."""

    @property
    def all(self) -> Comparison:
        """Return the comparison of all questions."""
        return self.rows[0]


def change_between(first: Evaluation, second: Evaluation) -> EvaluationChange | None:
    """Compare two evaluations on the questions that both asked; None = too few."""
    befores, afters = common(first.records, second.records)
    if len(befores) < LEAST_QUESTIONS:
        return None
    return EvaluationChange(
        first=first,
        second=second,
        pairs=tuple(zip(befores, afters, strict=True)),
        rows=compare(befores, afters),
    )


@dataclass(frozen=True, kw_only=True)  # without slots, so that a change is computed once
class RunContents:
    """Everything that a page shows of a run."""

    path: Path
    name: str
    state: State
    total_steps: int
    """Steps that the config asks for; 0 = not known."""
    config: Mapping[str, Any]
    """Resolved config; empty = there is none."""
    environment: Mapping[str, Any]
    """Versions, machine and starts; empty = not recorded."""
    steps: Sequence[Row]
    """Rows of the training steps (docs/reading_a_run.md, "metrics.jsonl")."""
    held_out: Sequence[Row]
    """Rows of the evaluations."""
    warmup: Sequence[Row]
    """Rows of the steps of the warm-up."""
    groups: Sequence[GroupRow]
    """Questions of training with their answers, by step; a sample of a larger run."""
    group_count: int
    """Number of groups in the files that were read; `groups` are a sample of them if it is more."""
    sampled_steps: int
    """Number of steps with a file of answers."""
    read_steps: int
    """Number of them that were read."""
    evaluations: Sequence[Evaluation]
    """Evaluations in the order of their steps, controls last."""
    left_out: Sequence[Row]
    """Rows of the data that are not used: step, source, id, why."""
    checkpoints: Sequence[int]
    """Steps of the checkpoints, the oldest first."""
    problems: Sequence[str] = field(default_factory=tuple[str, ...])
    """Files that could not be read, and why."""

    @property
    def last_step(self) -> int:
        """The last step that was taken; 0 = none."""
        return int(self.steps[-1]["step"]) if self.steps else 0

    def evaluation(self, when: str) -> Evaluation | None:
        """Return the evaluation at a moment: before, after, blank...; None = there is none."""
        for evaluation in self.evaluations:
            if evaluation.when == when:
                return evaluation
        return None

    def newest_evaluation(self, benchmark: str) -> Evaluation | None:
        """Return the evaluation after training, else the last one in between."""
        found: Evaluation | None = None
        for evaluation in self.evaluations:
            timed = evaluation.when == "after" or evaluation.when.isdigit()
            if timed and evaluation.benchmark == benchmark and not evaluation.blank:
                found = evaluation
        return found

    @cached_property
    def held_out_change(self) -> EvaluationChange | None:
        """Return what training changed on held-out questions: before against the newest one."""
        for before in self.evaluations:
            if before.when == "before":
                newest = self.newest_evaluation(before.benchmark)
                if newest is not None:
                    return change_between(before, newest)
        return None


def time_of(row: Row) -> datetime | None:
    """Return the time at which a row was written; None = it does not say."""
    try:
        return datetime.fromisoformat(str(row.get("time")))
    except ValueError:
        return None


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """Return at most `count` items at equal distances, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[-1]]
    places = dict.fromkeys(round(n * (len(items) - 1) / (count - 1)) for n in range(count))
    return [items[place] for place in places]
