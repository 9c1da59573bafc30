"""Make the curves of runs, several runs over each other.

They are SVG made here rather than a plotting library: it prints, follows a dark or light page by
CSS, is read by screen readers, and needs neither 1.3 MB of script nor a dependency.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpg_vl.evaluation.records import Record, by_tag
from gpg_vl.evaluation.statistics import Interval, interval
from gpg_vl.report.page.contents import Row, RunContents
from gpg_vl.report.page.glossary import term_of
from gpg_vl.report.page.line_chart import DASHES, LegendEntry, Line, draw
from gpg_vl.report.page.texts import single_line

MOST_LINES = len(DASHES)
"""Most lines of one chart; more are drawn in further charts."""
MOST_NAMES = 24
"""Most tasks, tags or parts that get a line."""
SHARES = (0.0, 1.0)
_ONLY_SOMETIMES = ("gate/", "visual_reliance", "seconds/gate")
"""Beginnings of metrics that only some steps have: their lines go on over the other steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart of a page."""

    id: str
    """Unique in the page: letters, digits and hyphens."""
    title: str
    """Clean text, not escaped."""
    unit: str
    """Unit of the values as words, such as `nats`; empty = none."""
    svg: str
    """The chart, safe to be put into HTML."""
    legend: Sequence[LegendEntry]
    points: Mapping[str, Any]
    """What a readout needs, as JSON: `frame` (ranges `x`, `y`; edges `left`, `right`, `top`,
    `bottom` in units of the viewBox) and `lines` (label, series, x, y; some have raw, low, high).
    A missing value is None."""
    terms: Sequence[str]
    """Metrics that it shows, for the glossary (`term_of`)."""
    summary: str
    """Sentence on where each line begins and ends. Clean text, not escaped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Charts on one subject."""

    id: str
    title: str
    charts: Sequence[Chart]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figure:
    """A figure of runs over their steps: a line for each run."""

    name: str
    """Name among the other figures of its chart; as a user wrote it."""
    metric: str
    lines: Sequence[Line]
    """Their slots are the numbers of the runs, from 1. Labels are of controls only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A chart to be made. Several runs and several figures are a chart for each figure."""

    id: str
    title: str
    unit: str = ""
    figures: Sequence[_Figure]
    y_range: tuple[float, float] | None = None
    limit: float | None = None
    x_name: str = "step"
    note: str = ""
    """Sentence that is added to the summary."""


def charts(runs: Sequence[RunContents]) -> list[Section]:
    """Make the curves of runs. A chart without a value, and an empty section, are left out.

    Args:
        runs: one run, or several that are drawn over each other: each has its colour and its
            pattern of dashes.
    """
    plans = {
        "Reward": _reward(runs),
        "Held-out questions": _held_out(runs),
        "Groups": _groups(runs),
        "Answers": _answers(runs),
        "Update": _update(runs),
        "Vision": _vision(runs),
        "Time and memory": _time(runs),
        "Warm-up": _warm_up(runs),
    }
    names = _run_names(runs)
    sections: list[Section] = []
    for title, of_section in plans.items():
        drawn: list[Chart] = []
        for plan in of_section:
            drawn += _drawn(plan, names)
        if drawn:
            anchor = "curves-" + title.lower().replace(" ", "-")
            sections.append(Section(id=anchor, title=title, charts=drawn))
    return sections


# --- what is drawn --------------------------------------------------------------------------------


def _reward(runs: Sequence[RunContents]) -> list[_Plan]:
    rewards = _step_figures(runs, ["reward"])
    tasks = _named_figures(runs, "reward/")
    if len(tasks) == 1:  # the only task has the curve of all
        tasks = []
    parts = _named_figures(runs, "part/")
    y_range = _shares_or_none((*rewards, *tasks, *parts))
    return [
        _Plan(id="reward", title="Mean reward", figures=rewards, y_range=y_range),
        _Plan(id="reward-task", title="Mean reward by task", figures=tasks, y_range=y_range),
        _Plan(id="part", title="Parts of the reward", figures=parts, y_range=y_range),
    ]


def _groups(runs: Sequence[RunContents]) -> list[_Plan]:
    names = {"informative": "informative", "all_max": "all right", "all_min": "all wrong"}
    return [
        _Plan(
            id="groups",
            title="Groups by their rewards",
            unit="share of groups",
            figures=_step_figures(runs, names, names),
            y_range=SHARES,
        ),
        _Plan(id="alpha", title="Alpha", figures=_step_figures(runs, ["alpha"])),
    ]


def _answers(runs: Sequence[RunContents]) -> list[_Plan]:
    return [
        _Plan(
            id="length",
            title="Length of an answer",
            unit="tokens",
            figures=_step_figures(runs, ["length"]),
        ),
        _Plan(
            id="truncated",
            title="Truncated answers",
            unit="share of answers",
            figures=_step_figures(runs, ["truncated"]),
            y_range=SHARES,
        ),
        _Plan(id="entropy", title="Entropy", unit="nats", figures=_step_figures(runs, ["entropy"])),
    ]


def _update(runs: Sequence[RunContents]) -> list[_Plan]:
    return [
        _Plan(id="grad-norm", title="Gradient norm", figures=_step_figures(runs, ["grad_norm"])),
        _Plan(
            id="clipped",
            title="Clipped gradients",
            unit="share of steps",
            figures=_step_figures(runs, ["clipped"]),
            y_range=SHARES,
        ),
    ]


def _vision(runs: Sequence[RunContents]) -> list[_Plan]:
    names = {"gate/mean": "difference", "gate/allowed": "allowed"}
    return [
        _Plan(
            id="visual-reliance",
            title="Visual reliance",
            unit="nats per token",
            figures=_step_figures(runs, ["visual_reliance"]),
        ),
        _Plan(
            id="gate-excess",
            title="Vision gate: largest figure as a share of its limit",
            figures=_step_figures(runs, ["gate/excess"]),
            limit=1.0,
        ),
        _Plan(
            id="gate-mean",
            title="Vision gate: mean difference of engine and trainer",
            unit="nats per token",
            figures=_step_figures(runs, names, names),
        ),
    ]


def _time(runs: Sequence[RunContents]) -> list[_Plan]:
    return [
        _Plan(
            id="seconds",
            title="Seconds by phase",
            unit="seconds",
            figures=_named_figures(runs, "seconds/"),
        ),
        _Plan(
            id="tokens-per-second",
            title="Sampled tokens per second",
            unit="tokens/s",
            figures=_step_figures(runs, ["tokens_per_second"]),
        ),
        _Plan(id="memory", title="Memory", unit="GB", figures=_step_figures(runs, ["memory_gb"])),
    ]


def _warm_up(runs: Sequence[RunContents]) -> list[_Plan]:
    figure = _figure(runs, "warmup/loss", "", lambda run: run.warmup, step="warmup/step")
    return [
        _Plan(
            id="warmup-loss",
            title="Loss of the warm-up",
            unit="nats",
            figures=[figure],
            x_name="step of the warm-up",
        )
    ]


def _held_out(runs: Sequence[RunContents]) -> list[_Plan]:
    note = _questions(runs)
    return [
        _Plan(
            id="held-out",
            title="Held-out accuracy",
            unit="share of questions",
            figures=[_accuracy(runs)],
            y_range=SHARES,
            note=note,
        ),
        _Plan(
            id="held-out-tag",
            title="Held-out accuracy by tag",
            unit="share of questions",
            figures=_tag_figures(runs),
            y_range=SHARES,
            note=note,
        ),
        _Plan(
            id="well-formed",
            title="Held-out answers in the required format",
            unit="share of questions",
            figures=[_figure(runs, "held_out/well_formed", "", lambda run: run.held_out)],
            y_range=SHARES,
        ),
    ]


# --- figures of steps -----------------------------------------------------------------------------


def _step_figures(
    runs: Sequence[RunContents], metrics: Iterable[str], names: Mapping[str, str] | None = None
) -> list[_Figure]:
    """Return figures of the training steps.

    Args:
        names: metric -> its name in the legend, where a chart has several.
    """
    figures: list[_Figure] = []
    for metric in metrics:
        name = names[metric] if names else ""
        figures.append(_figure(runs, metric, name, lambda run: run.steps, is_noisy=True))
    return figures


def _named_figures(runs: Sequence[RunContents], beginning: str) -> list[_Figure]:
    """Return a figure for each metric that begins so: one per task, part or phase."""
    found: dict[str, str] = {}
    for run in runs:
        for row in run.steps:
            for metric in row:
                if metric.startswith(beginning):
                    found[metric] = metric.removeprefix(beginning)
    return _step_figures(runs, found, found)


def _figure(
    runs: Sequence[RunContents],
    metric: str,
    name: str,
    rows_of: Callable[[RunContents], Sequence[Row]],
    *,
    step: str = "step",
    is_noisy: bool = False,
) -> _Figure:
    """Return a metric of all runs.

    Args:
        rows_of: returns the rows of a run that have it.
        step: metric that says at which step a row is.
    """
    sometimes = metric.startswith(_ONLY_SOMETIMES)
    lines: list[Line] = []
    for slot, run in enumerate(runs, 1):
        places: list[tuple[float, float]] = []
        for row in rows_of(run):
            place = _number(row.get(step))
            if math.isfinite(place) and (metric in row or not sometimes):
                places.append((place, _number(row.get(metric))))
        places.sort(key=lambda pair: pair[0])
        lines.append(
            Line(
                label="",
                slot=slot,
                x=[x for x, _ in places],
                y=[y for _, y in places],
                is_noisy=is_noisy and not sometimes,
            )
        )
    return _Figure(name=name, metric=metric, lines=lines)


def _number(value: Any) -> float:
    """Return a number of a row; NaN if it is missing, is not finite or is no number."""
    if not isinstance(value, int | float):
        return math.nan
    try:
        number = float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return math.nan
    return number if math.isfinite(number) else math.nan


def _shares_or_none(figures: Iterable[_Figure]) -> tuple[float, float] | None:
    """Return 0 to 1 if all values are in it, as most rewards are."""
    for figure in figures:
        for line in figure.lines:
            if any(value < 0 or value > 1 for value in line.y):
                return None
    return SHARES


# --- figures of evaluations -----------------------------------------------------------------------


def _accuracy(runs: Sequence[RunContents]) -> _Figure:
    """Return the held-out accuracy with its intervals, and the controls with grey pictures."""
    lines: list[Line] = []
    for slot, run in enumerate(runs, 1):
        rows = [row for row in run.held_out if math.isfinite(_number(row["step"]))]
        rows.sort(key=lambda row: row["step"])
        lines.append(
            Line(
                label="",
                slot=slot,
                x=[_number(row["step"]) for row in rows],
                y=[_number(row.get("held_out")) for row in rows],
                low=[_number(row.get("held_out/low")) for row in rows],
                high=[_number(row.get("held_out/high")) for row in rows],
            )
        )
        blank = [(one.step, one.records) for one in run.evaluations if one.blank]
        if blank:
            control = _evaluated(slot, blank)
            lines.append(replace(control, label="grey pictures", is_control=True))
    return _Figure(name="accuracy", metric="held_out", lines=lines)


def _questions(runs: Sequence[RunContents]) -> str:
    """Return a sentence on evaluations of different sizes; empty if all ask equally many."""
    counts: set[int] = set()
    for run in runs:
        for row in run.held_out:
            count = _number(row.get("held_out/questions"))
            if math.isfinite(count):
                counts.add(int(count))
    if len(counts) < 2:
        return ""
    return f"The evaluations asked {min(counts)} to {max(counts)} questions."


def _tag_figures(runs: Sequence[RunContents]) -> list[_Figure]:
    """Return the accuracy of each tag, with intervals, from the records of the evaluations."""
    names: dict[str, None] = {}
    found: dict[tuple[str, int], list[tuple[int, Sequence[Record]]]] = {}
    for slot, run in enumerate(runs, 1):
        evaluations = [one for one in run.evaluations if not one.blank]
        several = len({one.benchmark for one in evaluations}) > 1
        for one in evaluations:
            for tag, records in by_tag(one.records).items():
                name = f"{one.benchmark}: {tag}" if several else tag
                names[name] = None
                found.setdefault((name, slot), []).append((one.step, records))
    figures: list[_Figure] = []
    for name in names if len(names) > 1 else ():
        lines: list[Line] = []
        for slot in range(1, len(runs) + 1):
            lines.append(_evaluated(slot, found.get((name, slot), [])))
        figures.append(_Figure(name=name, metric=f"held_out/{name}", lines=lines))
    return figures


def _evaluated(slot: int, found: Iterable[tuple[int, Sequence[Record]]]) -> Line:
    """Return the accuracies of evaluations, each with its step; the last one of a step counts."""
    of_step: dict[int, Interval] = {}
    for step, records in found:
        of_step[step] = interval([record.greedy for record in records])
    steps = sorted(of_step)
    return Line(
        label="",
        slot=slot,
        x=steps,
        y=[of_step[step].mean for step in steps],
        low=[of_step[step].low for step in steps],
        high=[of_step[step].high for step in steps],
    )


# --- charts ---------------------------------------------------------------------------------------


def _drawn(plan: _Plan, runs: Sequence[str]) -> list[Chart]:
    """Draw a plan: of one run a chart with all figures, of several runs a chart for each figure.

    So a colour and a pattern of dashes mean one thing in a chart: a figure, or a run.

    Args:
        runs: names of the runs.
    """
    figures = [figure for figure in plan.figures if _has_value(figure)]
    if len(figures) > MOST_NAMES:
        some = f"{MOST_NAMES} of {len(figures)} are drawn."
        plan = replace(plan, note=_joined(plan.note, some, " "))
        figures = figures[:MOST_NAMES]
    drawn: list[Chart | None] = []
    if len(runs) > 1:
        for count, figure in enumerate(figures, 1):
            lines: list[Line] = []
            for line in figure.lines:
                lines.append(replace(line, label=_joined(runs[line.slot - 1], line.label)))
            title = _joined(plan.title, figure.name, ": ") if len(figures) > 1 else plan.title
            name = f"{plan.id}-{count}" if len(figures) > 1 else plan.id
            drawn.append(_chart(plan, name, title, lines, [figure]))
    else:
        for begin in range(0, len(figures), MOST_LINES):
            part = figures[begin : begin + MOST_LINES]
            lines = []
            for slot, figure in enumerate(part, 1):
                for line in figure.lines:
                    label = _joined(figure.name, line.label)
                    lines.append(replace(line, slot=slot, label=label))
            title = f"{plan.title}, continued" if begin else plan.title
            name = f"{plan.id}-{begin // MOST_LINES + 1}" if begin else plan.id
            drawn.append(_chart(plan, name, title, lines, part))
    return [chart for chart in drawn if chart]


def _chart(
    plan: _Plan, name: str, title: str, lines: Sequence[Line], figures: Sequence[_Figure]
) -> Chart | None:
    chart_id = f"curve-{name}"
    drawing = draw(
        lines,
        name=chart_id,
        title=title,
        x_name=plan.x_name,
        y_range=plan.y_range,
        limit=plan.limit,
    )
    if drawing is None:
        return None
    return Chart(
        id=chart_id,
        title=single_line(title),
        unit=plan.unit,
        svg=drawing.svg,
        legend=drawing.legend,
        points=drawing.points,
        terms=[figure.metric for figure in figures if term_of(figure.metric)],
        summary=_joined(drawing.summary, plan.note, " "),
    )


def _has_value(figure: _Figure) -> bool:
    return any(any(map(math.isfinite, line.y)) for line in figure.lines)


def _joined(first: str, second: str, between: str = ", ") -> str:
    return between.join(part for part in (first, second) if part)


def _run_names(runs: Sequence[RunContents]) -> list[str]:
    """Return the names of runs; equal ones get a number."""
    names = [run.name for run in runs]
    numbered: list[str] = []
    for count, name in enumerate(names, 1):
        numbered.append(f"{name} ({count})" if names.count(name) > 1 else name)
    return numbered
