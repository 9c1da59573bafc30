"""Compute what a constant answer can earn on a data set, from the reference answers alone."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence


def largest_share(truths: Sequence[Hashable], count: int) -> float:
    """Return the share of the most frequent truth among `count` samples."""
    return max(Counter(truths).values(), default=0) / count


def largest_window_share(
    truths: Iterable[tuple[float, int]], count: int, width: Callable[[float, float], float]
) -> float:
    """Return the largest share of samples that one constant number can match.

    One number matches all truths of a window that is at most twice the tolerance wide. A sample of
    which several accepted truths are in the window counts once.

    Args:
        truths: (true number, place of its sample).
        count: number of samples.
        width: largest width of a window, from its smallest and its largest number.
    """
    ordered = sorted(truths)
    in_window: Counter[int] = Counter()
    largest = 0
    first = 0
    for truth, place in ordered:
        in_window[place] += 1
        max_width = width(ordered[first][0], truth)
        # 1e-9: 1.1 - 0.9 is a rounding error above 0.2
        while truth - ordered[first][0] > max_width * (1 + 1e-9):
            left = ordered[first][1]
            in_window[left] -= 1
            if not in_window[left]:
                del in_window[left]
            first += 1
        largest = max(largest, len(in_window))
    return largest / count
