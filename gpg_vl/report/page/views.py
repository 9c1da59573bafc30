"""Put together what the templates show of a run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from gpg_vl.evaluation.statistics import interval
from gpg_vl.report.page.contents import Evaluation, Row, RunContents, evenly
from gpg_vl.report.page.evaluations import BenchmarkPart, benchmark_parts
from gpg_vl.report.page.finding import column, several
from gpg_vl.report.page.gallery import gallery_groups
from gpg_vl.report.page.line_chart import sparkline
from gpg_vl.report.page.pictures import PagePictures
from gpg_vl.report.page.settings import RunPart, run_part
from gpg_vl.report.page.verdict import Verdict, verdict

STATE_WORDS = {"finished": "finished", "running": "running", "stopped": "not finished"}
SHARE = 10
"""Key figures are of the last of so many parts of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFigure:
    """A figure below the headline."""

    metric: str
    name: str
    value: str
    note: str = ""
    """Interval or unit; empty = none."""
    spark: str = ""
    """Its course as a small SVG; empty = none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run as the templates show it."""

    index: int
    contents: RunContents
    verdict: Verdict
    figures: Sequence[KeyFigure]
    part: RunPart
    benchmarks: Sequence[BenchmarkPart]
    groups: Sequence[dict[str, Any]]
    """Groups of answers for the page's script."""

    @property
    def state_words(self) -> str:
        """State and step of the run."""
        run = self.contents
        of = f" of {run.total_steps:,}" if run.total_steps else ""
        return f"{STATE_WORDS[run.state]}, step {run.last_step:,}{of}"

    def note(self, shown: int) -> str:
        """Return a sentence on which groups are shown; empty = all are.

        Args:
            shown: number of the groups that are.
        """
        run, parts = self.contents, list[str]()
        if run.read_steps < run.sampled_steps:
            parts.append(f"{run.read_steps:,} of {run.sampled_steps:,} steps")
        if shown < run.group_count:
            parts.append(f"{shown:,} of the {run.group_count:,} groups of these steps")
        if not parts:
            return ""
        return (
            f"This page holds a sample: {', and '.join(parts)}, chosen without looking at the "
            "rewards. All are in rollouts/ of the run folder."
        )


def view_of(contents: RunContents, index: int, pictures: PagePictures, most: int) -> RunView:
    """Return the view of a run. The verdict is made of all groups that were read.

    Args:
        index: number of the run in the page, from 0.
        pictures: gets the pictures of the run.
        most: largest number of groups that are shown.
    """
    shown = replace(contents, groups=evenly(contents.groups, most))
    return RunView(
        index=index,
        contents=contents,
        verdict=verdict(contents),
        figures=list(key_figures(contents)),
        part=run_part(contents),
        benchmarks=benchmark_parts(contents, pictures),
        groups=gallery_groups(shown, pictures),
    )


def key_figures(run: RunContents) -> Iterator[KeyFigure]:
    """Yield the figures that say at a glance how a run is."""
    for evaluation in _first_and_last(run):
        records = evaluation.records
        figure = interval([record.greedy for record in records])
        percent, _, note = str(figure).partition(" ")
        name = "held-out accuracy"
        if evaluation.blank:
            name += ", grey pictures"
        else:
            name += f", step {evaluation.step:,}"
        yield KeyFigure(metric="held_out", name=name, value=f"{percent} %", note=note)
    yield from _of_steps(run.steps)


def _first_and_last(run: RunContents) -> list[Evaluation]:
    """Return the first and the last evaluation of the first benchmark, and its control."""
    own = [one for one in run.evaluations if one.benchmark == run.evaluations[0].benchmark]
    sighted = [one for one in own if not one.blank]
    controls = [one for one in own if one.blank]
    return [*sighted[:1], *sighted[1:][-1:], *controls[:1]]


def _of_steps(steps: Sequence[Row]) -> Iterator[KeyFigure]:
    """Yield means over the last steps, with the course over all of them."""
    names = {
        "reward": ("mean reward", "{:.3f}"),
        "informative": ("informative groups", "{:.0%}"),
        "visual_reliance": ("visual reliance", "{:.2f} nats"),
        "length": ("tokens in an answer", "{:.0f}"),
        "entropy": ("entropy", "{:.3f} nats"),
        "seconds": ("seconds per step", "{:.2f}"),
    }
    for metric, (name, pattern) in names.items():
        values = column(steps, metric)
        if not values:
            continue
        last = values[-max(1, len(values) // SHARE) :]
        yield KeyFigure(
            metric=metric,
            name=name,
            value=pattern.format(fmean(last)).replace("%", " %"),
            note=f"mean of the last {several(len(last), 'step')}" if len(last) > 1 else "",
            spark=sparkline(values),
        )
