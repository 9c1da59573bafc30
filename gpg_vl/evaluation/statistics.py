"""How sure a mean is: 95 % intervals that hold near 0 and 1 as well.

Right and wrong: Wilson's score interval (Wilson, JASA 22, 1927; recommended by Brown, Cai & DasGupta, Statistical Science 16, 2001, where
the usual mean and two standard errors fails). Their paired difference: the adjusted Wald interval of Bonett & Price (Journal of Educational
and Behavioral Statistics 37, 2012). Graded values: Student's t. Weighted sums of means: MOVER (Zou, Huang & Zhang, Computational
Statistics & Data Analysis 53, 2009).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from statistics import NormalDist, fmean, stdev
from typing import Any

Z95 = NormalDist().inv_cdf(0.975)
"""Two-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and its 95 % interval.

    Example:
        Interval(mean=0.848, low=0.814, high=0.876, count=512)
    """

    mean: float
    low: float
    """-inf where nothing can be said."""
    high: float
    """inf where nothing can be said."""
    count: int
    """Values that it is the mean of."""

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.low > 0

    def __str__(self) -> str:
        """In percent: `84.8 [81.4, 87.6]`."""
        if math.isinf(self.high - self.low):
            return f"{100 * self.mean:.1f} [no interval]"
        return f"{_percent(self.mean)} [{_percent(self.low)}, {_percent(self.high)}]"


def _percent(value: float) -> str:
    return f"{round(100 * value, 1) + 0.0:.1f}"  # + 0.0 makes -0.0 plain


def interval(values: Sequence[float]) -> Interval:
    """Mean of independent values: Wilson's interval where all are 0 or 1, else Student's; one value has none."""
    return _wilson(fmean(values), len(values)) if len(values) > 1 and {*values} <= {0, 1} else _student(values)


def _wilson(share: float, count: int) -> Interval:
    """All shares from which the observed one is less than Z95 standard errors away.

    Over all shares it covers 95 % on average; of single ones near 0 and 1 some are covered less often (0.95 of 20 questions: 92.5 %).
    """
    centre = (share + Z95**2 / (2 * count)) / (1 + Z95**2 / count)
    margin = Z95 / (1 + Z95**2 / count) * math.sqrt(share * (1 - share) / count + Z95**2 / (4 * count**2))
    return Interval(mean=share, low=max(0.0, centre - margin), high=min(1.0, centre + margin), count=count)


def _student(values: Sequence[float]) -> Interval:
    """No interval for values that do not differ: their spread is unknown, not zero."""
    count, margin = len(values), math.inf
    if len({*values}) > 1:
        special: Any = import_module("scipy.special")
        margin = float(special.stdtrit(count - 1, 0.975)) * stdev(values) / math.sqrt(count)
    return Interval(mean=fmean(values), low=fmean(values) - margin, high=fmean(values) + margin, count=count)


def difference(before: Sequence[float], after: Sequence[float]) -> Interval:
    """Mean of `after` less `before` over the same questions: Bonett and Price's interval where all are 0 or 1, else Student's.

    The former adds one question to those won and one to those lost, so that it has a width where none has changed.
    """
    steps = [new - old for old, new in zip(before, after, strict=True)]
    count = len(steps)
    if count == 1 or not {*before, *after} <= {0, 1}:
        return _student(steps)
    won, lost = ((steps.count(step) + 1) / (count + 2) for step in (1, -1))
    margin = Z95 * math.sqrt((won + lost - (won - lost) ** 2) / (count + 2))
    return Interval(mean=fmean(steps), low=max(-1.0, won - lost - margin), high=min(1.0, won - lost + margin), count=count)


def weighted(parts: Sequence[tuple[float, Interval]]) -> Interval:
    """A sum of independent means with positive weights: each side's distances add up as standard errors do (MOVER)."""
    mean = math.fsum(weight * part.mean for weight, part in parts)
    below = math.hypot(*(weight * (part.mean - part.low) for weight, part in parts))
    above = math.hypot(*(weight * (part.high - part.mean) for weight, part in parts))
    return Interval(mean=mean, low=mean - below, high=mean + above, count=sum(part.count for _, part in parts))
