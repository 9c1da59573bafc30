"""Define a finding of the verdict, and what the rules read a run with."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from gpg_vl.errors import shown
from gpg_vl.evaluation.statistics import Interval
from gpg_vl.report.page.contents import GroupRow, Row, RunContents

Level = Literal["good", "note", "warning", "bad"]
Section = Literal["curves", "answers", "evaluation", "run"]

SHARE = 10
"""The first and the last of so many parts of a run are compared, as the end of `train` does."""
MIN_STEPS = 5
"""Fewest steps in such a part: one step is a few dozen questions, whose mean is mostly chance."""
MIN_GROUPS = 8
"""Fewest groups of answers that a sentence is made from."""
QUOTED = 60
"""Largest number of characters of an answer in a sentence."""
EXAMPLES = 12
"""Largest number of groups or questions that a finding points to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A plain sentence on a run, its evidence, and what to do. All of it is text, not HTML.

    Example:
        Finding(level="good", title="It is learning: ...", evidence="...", section="evaluation")
    """

    level: Level
    """good | note: worth knowing | warning: look at it | bad: the run is not what it seems."""
    title: str
    """One plain sentence."""
    evidence: str
    """The numbers behind it."""
    advice: str = ""
    """What to do, with commands and knobs in backticks; empty = nothing."""
    section: Section
    """Section of the page that shows it."""
    chart: str = ""
    """Metric whose curve shows it; empty = none."""
    groups: Sequence[tuple[int, int]] = ()
    """Examples of training questions, each as (step, draw)."""
    items: Sequence[tuple[str, str]] = ()
    """Examples of held-out questions, each as (source, id)."""
    clause: str = ""
    """The same as a part of the headline, beginning in lower case; empty = not worth one."""
    is_shortcut: bool = False
    """True if it says that the reward is earned without the task: then a gain is no praise."""


# --- the steps of a run ---------------------------------------------------------------------------


def first_steps(run: RunContents) -> Sequence[Row]:
    """Return the first tenth of the steps; none of a run that is too short to be compared."""
    return run.steps[: _part(run)]


def last_steps(run: RunContents) -> Sequence[Row]:
    """Return the last tenth of the steps; none of a run that is too short to be compared."""
    return run.steps[len(run.steps) - _part(run) :]


def _part(run: RunContents) -> int:
    count = max(MIN_STEPS, len(run.steps) // SHARE)
    return count if len(run.steps) >= 2 * count else 0


def column(rows: Sequence[Row], key: str) -> list[float]:
    """Return the finite values of a metric."""
    found: list[float] = []
    for row in rows:
        value = row.get(key)
        if isinstance(value, int | float) and math.isfinite(value):
            found.append(float(value))
    return found


def mean_of(rows: Sequence[Row], key: str) -> float | None:
    """Return the mean of a metric; None = no row has it."""
    values = column(rows, key)
    return fmean(values) if values else None


def change_of(first: Interval, last: Interval) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two independent means, last minus first.

    MOVER, as in `gpg_vl.evaluation.statistics`.
    """
    middle = last.mean - first.mean
    below = math.hypot(last.mean - last.low, first.high - first.mean)
    above = math.hypot(last.high - last.mean, first.mean - first.low)
    return middle - below, middle + above


# --- the answers of a run -------------------------------------------------------------------------


def recent_groups(run: RunContents) -> list[GroupRow]:
    """Return the groups of the last tenth of the steps whose answers are shown."""
    steps = sorted({group.step for group in run.groups})
    chosen = set(steps[-max(MIN_STEPS, len(steps) // SHARE) :])
    return [group for group in run.groups if group.step in chosen]


def by_task(groups: Sequence[GroupRow]) -> dict[str, list[GroupRow]]:
    """Return the groups of each task; an empty name where the rows do not say it."""
    tasks: dict[str, list[GroupRow]] = {}
    for group in groups:
        tasks.setdefault(group.task, []).append(group)
    return tasks


def answers_of(groups: Sequence[GroupRow]) -> Iterator[tuple[GroupRow, Row]]:
    """Yield each answer with its group."""
    for group in groups:
        for answer in group.answers:
            yield group, answer


def places(groups: Sequence[GroupRow]) -> tuple[tuple[int, int], ...]:
    """Return (step, draw) of groups, each once, the newest first; as many as a finding points to.

    A group without `draw`, of an old run, has no place.
    """
    found: dict[tuple[int, int], None] = {}
    for group in reversed(groups):
        draw = group.row.get("draw")
        if isinstance(draw, int):
            found[group.step, draw] = None
    return tuple(found)[:EXAMPLES]


def commonest(values: Sequence[str]) -> tuple[str, float]:
    """Return the most frequent value and its share; ("", 0.0) of none."""
    if not values:
        return "", 0.0
    value, count = Counter(values).most_common(1)[0]
    return value, count / len(values)


def truth_of(group: GroupRow) -> str:
    """Return the truth as one text, by which equal truths are known."""
    return json.dumps(group.row.get("truth"), sort_keys=True, ensure_ascii=False, default=str)


def has_pictures(run: RunContents) -> bool:
    """Return True if a question of the run has a picture."""
    if any(group.row.get("images") for group in run.groups):
        return True
    return any(_asks_with_picture(evaluation.records) for evaluation in run.evaluations)


def _asks_with_picture(records: Sequence[Any]) -> bool:
    return any(record.images or record.pictures for record in records)


# --- words ----------------------------------------------------------------------------------------


def percent(share: float) -> str:
    """Return a share in percent: `64.3 %`."""
    return f"{100 * share:.1f} %"


def points(low: float, high: float) -> str:
    """Return an interval of a difference: `95 % interval +20.5 to +25.1 points`."""
    return f"95 % interval {100 * low:+.1f} to {100 * high:+.1f} points"


def quoted(value: object) -> str:
    """Return an answer or a truth for a sentence: short, and without control characters."""
    return shown(value, QUOTED)


def several(count: int, noun: str) -> str:
    """Return a number with its noun: `1 row`, `1,200 rows`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(words: Sequence[str]) -> str:
    """Return words as a list: `a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def duration(seconds: float) -> str:
    """Return seconds as a person reads them.

    Example:
        duration(4000) == "1 h 07 min"
    """
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def setting(run: RunContents, *names: str) -> Any:
    """Return a setting of the config by its path; None = there is none."""
    value: Any = run.config
    for name in names:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value
