"""Compute what a constant answer can earn on a data set, from the reference answers alone."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence


def largest_share(truths: Sequence[Hashable], count: int) -> float:
    """Return the share of the most frequent truth among `count` samples."""
    return max(Counter(truths).values(), default=0) / count


def largest_window_share(truths: Sequence[float], width: Callable[[float, float], float]) -> float:
    """Return the largest share of numbers that one constant number can match.

    One number matches all truths of a window that is at most twice the tolerance wide.

    Args:
        truths: the true numbers.
        width: largest width of a window, from its smallest and its largest number.
    """
    ordered = sorted(truths)
    largest = 0
    first = 0
    for last, truth in enumerate(ordered):
        max_width = width(ordered[first], truth)
        # 1e-9: 1.1 - 0.9 is a rounding error above 0.2
        while truth - ordered[first] > max_width * (1 + 1e-9):
            first += 1
        largest = max(largest, last - first + 1)
    return largest / len(truths)
