"""Report what a program is doing and how far it is, to the display that is open, if any.

Long work calls these functions and needs no display: without one they do nothing. A program that
shows progress opens one display (`gpg_vl.report.display`), so that two never share a terminal.

Example:
    progress.phase("warm-up", total=300)
    progress.count(12, note="loss 0.512")
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol, TypeVar

Row = TypeVar("Row")

SECONDS_BETWEEN_COUNTS = 0.1
"""Least time between two reports while rows are counted: a report for each would take longer than
reading it."""


class Watcher(Protocol):
    """A display."""

    def phase(self, name: str, total: int | None, unit: str) -> None:
        """Begin a phase of the program."""
        ...

    def count(self, done: int, total: int | None, note: str) -> None:
        """Take how much of the phase is done."""
        ...

    def steps(self, done: int, total: int) -> None:
        """Begin the steps of a run."""
        ...

    def part_of_step(self, name: str) -> None:
        """Begin a part of a step, such as sampling."""
        ...


_open: list[Watcher] = []
"""Displays that are open; the last one shows."""


@contextmanager
def shown_by(watcher: Watcher) -> Generator[None, None, None]:
    """Report to a display while the block lasts."""
    _open.append(watcher)
    try:
        yield
    finally:
        _open.remove(watcher)


def is_shown() -> bool:
    """Return True if a display is open."""
    return bool(_open)


def phase(name: str, total: int | None = None, unit: str = "") -> None:
    """Begin a phase of the program, which ends when the next one begins.

    Args:
        name: in words, for instance "reading the data".
        total: how much there is to do; None = not known.
        unit: of what is counted, for instance "questions".
    """
    for watcher in _open[-1:]:
        watcher.phase(name, total, unit)


def count(done: int, total: int | None = None, note: str = "") -> None:
    """Report how much of the phase is done.

    Args:
        total: how much there is to do; None = as the phase said.
        note: a figure to show beside it, for instance "loss 0.512".
    """
    for watcher in _open[-1:]:
        watcher.count(done, total, note)


def steps(done: int, total: int) -> None:
    """Begin the steps of a run.

    Args:
        done: steps of earlier starts of the run.
    """
    for watcher in _open[-1:]:
        watcher.steps(done, total)


def part_of_step(name: str) -> None:
    """Begin a part of a step, such as sampling."""
    for watcher in _open[-1:]:
        watcher.part_of_step(name)


def counted(rows: Iterable[Row], name: str, total: Callable[[], int | None]) -> Iterator[Row]:
    """Yield rows, as a phase that counts them.

    Args:
        total: returns the number of rows, or None where it is not known.
    """
    phase(name, total(), "rows")
    last = monotonic()
    for done, row in enumerate(rows, 1):
        yield row
        if monotonic() - last >= SECONDS_BETWEEN_COUNTS:
            last = monotonic()
            count(done)
