"""Seconds by phase."""

from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from time import perf_counter


class Timer:
    """Adds up wall seconds by the name of what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, phase: str) -> Generator[None, None, None]:
        """`with clock("sample"): ...`"""
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += perf_counter() - start

    def read(self) -> dict[str, float]:
        """The seconds since the last reading, by phase."""
        seconds, self.seconds = dict(self.seconds), defaultdict(float)
        return seconds
