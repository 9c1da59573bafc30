"""What a person sees of a run: a bar that lives on a terminal, plain lines elsewhere."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from gpg_vl.config.schema import BenchmarkSpec
from gpg_vl.evaluation import metrics as eval_metrics
from gpg_vl.evaluation.compare import Comparison, compare
from gpg_vl.evaluation.records import Record, by_tag
from gpg_vl.evaluation.statistics import Interval, interval

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


class Counting:
    """Shows how many questions are done."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.status = console.status("evaluating")
        self.shown = 0

    def __enter__(self) -> "Counting":
        if self.console.is_terminal:
            self.status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.status.stop()

    def told(self, name: str, done: int, of: int) -> None:
        """So many questions of a benchmark are done."""
        line, parts = f"{name}: {done} of {of} questions", done * PLAIN_LINES // max(1, of)
        self.status.update(escape(line))
        if not self.console.is_terminal and parts != self.shown:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self.shown = parts


def summary(metrics: Mapping[str, float]) -> str:
    """One step in one line: reward, who spoke, where the seconds went."""
    phases = " ".join(f"{name.removeprefix('seconds/')} {spent:.2f}" for name, spent in metrics.items() if name.startswith("seconds/"))
    told = f"reward {metrics['reward']:.3f}  informative {100 * metrics['informative']:.0f} %  alpha {metrics['alpha']:.2f}  {phases} s"
    return f"skipped  {told}" if metrics.get("skipped") else told


def results_table(title: str, records: Sequence[Record], spec: BenchmarkSpec | None = None) -> Table:
    """Accuracy per task with 95 % intervals, then the totals of the spec; pass@k where answers were drawn."""
    totals = spec.totals if spec else {}
    rows = [(tag, len(own), list(_figures(own, spec))) for tag, own in by_tag(records).items()]
    rows += [(name, len(records), [("greedy", str(eval_metrics.total(records, tags)))]) for name, tags in totals.items()]
    return _table(title, rows)


def _figures(records: Sequence[Record], spec: BenchmarkSpec | None) -> Iterator[tuple[str, str]]:
    """What is told of the questions of one task."""
    yield "greedy", str(interval([record.greedy for record in records]))
    if spec and spec.beside and (also := eval_metrics.beside(records)):
        yield str(spec.beside), str(also)
    for k in tries(min(len(record.each) for record in records)):
        yield f"pass@{k}", str(eval_metrics.pass_at(records, k))
    kept = [record.well_formed for record in records if record.well_formed == record.well_formed]
    if kept:
        yield "well-formed", f"{100 * fmean(kept):.1f}"


def tries(drawn: int) -> list[int]:
    """1, 2, 4... up to the answers drawn, and those."""
    return sorted({2**power for power in range(drawn.bit_length())} | {drawn}) if drawn else []


def _table(title: str, rows: Sequence[tuple[str, int, Sequence[tuple[str, str]]]]) -> Table:
    """A figure a line, so that a terminal of 80 columns holds it; what was named by users is no markup."""
    table = Table(title=escape(title))
    for heading in ("task", "questions", "figure", "% [95 % interval]"):
        table.add_column(escape(heading), justify="right" if heading == "questions" else "left", overflow="fold")
    for name, questions, told in rows:
        for place, (figure, value) in enumerate(told):
            table.add_row(*(("", "") if place else (escape(name), str(questions))), figure, escape(value))
        table.add_section()
    return table


def precision_table(title: str, precisions: Mapping[str, Interval]) -> Table:
    """Average precision with 95 % intervals."""
    table = Table("figure", "images", "%", title=escape(title))
    for name, figure in precisions.items():
        table.add_row(name, str(figure.count), escape(str(figure)))
    return table


def paired_table(title: str, rows: Sequence[Comparison], sides: tuple[str, str] = ("first", "second")) -> Table:
    """Two evaluations side by side."""
    told = [
        (
            row.name,
            row.difference.count,
            [
                *zip(sides, map(str, (row.first, row.second)), strict=True),
                ("difference", str(row.difference)),
                ("better, worse", f"{row.gained}, {row.lost} questions, p = {row.p:.2g}"),
            ],
        )
        for row in rows
    ]
    return _table(title, told)


def comparison_table(before: Sequence[Record], after: Sequence[Record]) -> Table:
    """Greedy accuracy before and after training, and the paired difference."""
    return paired_table("held-out greedy accuracy, % (95 % interval)", compare(before, after), ("before", "after"))
