"""What a person sees of a run: a bar that lives on a terminal, plain lines elsewhere."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from gpg_vl.benchmark import Record, by_tag, interval, paired

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


def results_table(title: str, records: Sequence[Record]) -> Table:
    """Accuracy per task with 95 % intervals."""
    table = Table(title=title)
    for heading in ("task", "questions", "greedy %", "sampled %", "well-formed %"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for tag, rows in by_tag(records).items():
        sampled = [record.sampled for record in rows if record.sampled == record.sampled]
        kept = [record.well_formed for record in rows if record.well_formed == record.well_formed]
        figures = [str(interval(values)) if values else "" for values in ([record.greedy for record in rows], sampled)]
        table.add_row(tag, str(len(rows)), *figures, f"{100 * fmean(kept):.1f}" if kept else "")
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
