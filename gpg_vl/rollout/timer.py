"""Measure the wall time of each phase of a step."""

from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from time import perf_counter

from gpg_vl import progress


class Timer:
    """Sums wall seconds per phase.

    Example:
        timer = Timer()
        with timer("sample"):
            ...
        timer.read()  # {"sample": 1.5}
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, phase: str) -> Generator[None, None, None]:
        """Add the seconds of the `with` block to `phase`, and show it as a part of the step."""
        progress.part_of_step(phase)
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += perf_counter() - start

    def read(self) -> dict[str, float]:
        """Return the seconds per phase since the last call, and start again at zero."""
        seconds = dict(self.seconds)
        self.seconds = defaultdict(float)
        return seconds
