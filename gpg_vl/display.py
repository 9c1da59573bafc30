"""What a person sees of a run: a bar that lives on a terminal, plain lines elsewhere."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from gpg_vl import figures
from gpg_vl.benchmark import Record, by_tag, paired
from gpg_vl.comparison import Comparison
from gpg_vl.config import BenchmarkSpec
from gpg_vl.intervals import Interval, interval

PLAIN_LINES = 20
"""Elsewhere than on a terminal a run prints about so many lines of progress."""


class Display:
    """Shows the steps of a run; `say` prints a line above the bar."""

    def __init__(self, console: Console, total: int) -> None:
        self.console = console
        self.total = total
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("training", total=total, numbers="")

    def __enter__(self) -> "Display":
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    def say(self, line: str) -> None:
        """Print a line."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of one step."""
        line = summary(metrics)
        self.bar.update(self.task, completed=step, numbers=line)
        if not self.console.is_terminal and (step % max(1, self.total // PLAIN_LINES) == 0 or step in {1, self.total}):
            self.console.print(f"step {step}/{self.total}  {line}", markup=False, highlight=False, soft_wrap=True)


def summary(metrics: Mapping[str, float]) -> str:
    """One step in one line: reward, who spoke, where the seconds went."""
    phases = " ".join(f"{name.removeprefix('seconds/')} {spent:.2f}" for name, spent in metrics.items() if name.startswith("seconds/"))
    told = f"reward {metrics['reward']:.3f}  informative {100 * metrics['informative']:.0f} %  alpha {metrics['alpha']:.2f}  {phases} s"
    return f"skipped  {told}" if metrics.get("skipped") else told


def results_table(title: str, records: Sequence[Record], spec: BenchmarkSpec | None = None) -> Table:
    """Accuracy per task with 95 % intervals, then the totals of the spec; pass@k where k answers were drawn."""
    drawn = min((len(record.each) for record in records), default=0)
    also = [f"{spec.beside} %"] if spec and spec.beside else []
    best = [f"pass@{drawn} %"] if drawn > 1 else []
    table = Table(title=title)
    for heading in ("task", "questions", "greedy %", *also, "sampled %", *best, "well-formed %"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for tag, rows in by_tag(records).items():
        sampled = [record.sampled for record in rows if record.sampled == record.sampled]
        kept = [record.well_formed for record in rows if record.well_formed == record.well_formed]
        others = [str(figures.beside(rows) or "")] if also else []
        passed = [str(figures.pass_at(rows, drawn) or "")] if best else []
        greedy = str(interval([record.greedy for record in rows]))
        told = f"{100 * fmean(kept):.1f}" if kept else ""
        table.add_row(tag, str(len(rows)), greedy, *others, str(interval(sampled)) if sampled else "", *passed, told)
    for name, tags in (spec.totals if spec else {}).items():
        table.add_row(name, str(len(records)), str(figures.total(records, tags)), end_section=True)
    return table


def precision_table(title: str, precisions: Mapping[str, Interval]) -> Table:
    """Average precision with 95 % intervals."""
    table = Table("figure", "images", "%", title=title)
    for name, figure in precisions.items():
        table.add_row(name, str(figure.count), str(figure))
    return table


def paired_table(title: str, rows: Sequence[Comparison]) -> Table:
    """Two evaluations side by side."""
    table = Table(title=title)
    for heading in ("task", "questions", "first %", "second %", "difference", "better", "worse", "p"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for row in rows:
        figures_of = [str(row.first), str(row.second), str(row.difference)]
        table.add_row(row.name, str(row.difference.count), *figures_of, str(row.gained), str(row.lost), f"{row.p:.2g}")
    return table


def comparison_table(before: Sequence[Record], after: Sequence[Record]) -> Table:
    """Greedy accuracy before and after with the 95 % interval of the paired difference."""
    table = Table(title="held-out greedy accuracy, % (95 % interval)")
    for heading in ("task", "questions", "before", "after", "difference"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    later = by_tag(after)
    for tag, rows in by_tag(before).items():
        values = [interval([record.greedy for record in side]) for side in (rows, later[tag])]
        table.add_row(tag, str(len(rows)), *map(str, values), str(paired(rows, later[tag])))
    return table
