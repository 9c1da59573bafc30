"""How sure a mean is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

Z95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and half the width of its 95 % interval."""

    mean: float
    margin: float
    count: int

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.mean - self.margin > 0

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * self.margin:.1f}"


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % margin of independent values (normal approximation, unbiased standard deviation)."""
    margin = Z95 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return Interval(mean=fmean(values), margin=margin, count=len(values))
