"""Compute 95 % intervals of means that are also valid near 0 and 1.

Values 0 and 1: Wilson's score interval (Wilson, JASA 22, 1927; recommended by Brown, Cai &
DasGupta, Statistical Science 16, 2001, where the usual mean and two standard errors fails). Their
paired difference: the adjusted Wald interval of Bonett & Price (Journal of Educational and
Behavioral Statistics 37, 2012). Graded values: Student's t. Weighted sums of means: MOVER (Zou,
Huang & Zhang, Computational Statistics & Data Analysis 53, 2009).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    """Lower end; -inf if it is unknown."""
    high: float
    """Upper end; inf if it is unknown."""
    count: int
    """Number of values that the mean is taken over."""

    def __str__(self) -> str:
        """Return mean and interval in percent: `84.8 [81.4, 87.6]`."""
        if math.isinf(self.high - self.low):
            return f"{100 * self.mean:.1f} [no interval]"
        return f"{_percent(self.mean)} [{_percent(self.low)}, {_percent(self.high)}]"


def _percent(value: float) -> str:
    """Return a share in percent with one decimal."""
    return f"{round(100 * value, 1) + 0.0:.1f}"  # adding 0.0 turns -0.0 into 0.0


def interval(values: Sequence[float]) -> Interval:
    """Compute the mean of independent values: Wilson's interval if all are 0 or 1, else Student's.

    A single value has no interval. That of shares, values from 0 to 1, ends at 0 and 1.
    """
    if len(values) > 1 and {*values} <= {0, 1}:
        return _wilson(fmean(values), len(values))
    own = _student(values)
    is_share = min(values) >= 0 and max(values) <= 1
    if not is_share or math.isinf(own.high):
        return own
    return replace(own, low=max(0.0, own.low), high=min(1.0, own.high))


def _wilson(share: float, count: int) -> Interval:
    """Return all shares from which the observed one is less than Z95 standard errors away.

    Averaged over all shares it covers 95 %; a single share near 0 or 1 may be covered less often
    (0.95 of 20 questions: 92.5 %).
    """
    denominator = 1 + Z95**2 / count
    centre = (share + Z95**2 / (2 * count)) / denominator
    spread = math.sqrt(share * (1 - share) / count + Z95**2 / (4 * count**2))
    margin = Z95 / denominator * spread
    return Interval(
        mean=share, low=max(0.0, centre - margin), high=min(1.0, centre + margin), count=count
    )


def _student(values: Sequence[float]) -> Interval:
    """Return Student's interval; equal values have none: their spread is unknown, not zero."""
    count = len(values)
    margin = math.inf
    if len({*values}) > 1:
        special: Any = import_module("scipy.special")
        margin = float(special.stdtrit(count - 1, 0.975)) * stdev(values) / math.sqrt(count)
    return Interval(
        mean=fmean(values), low=fmean(values) - margin, high=fmean(values) + margin, count=count
    )


def difference(before: Sequence[float], after: Sequence[float]) -> Interval:
    """Compute the mean of `after` minus `before` over the same questions.

    The interval is Bonett and Price's if all values are 0 or 1, else Student's. The former adds one
    question to those that improved and one to those that worsened, so that it has a width even if
    none has changed.
    """
    changes = [new - old for old, new in zip(before, after, strict=True)]
    count = len(changes)
    if count == 1 or not {*before, *after} <= {0, 1}:
        return _student(changes)
    improved = (changes.count(1) + 1) / (count + 2)
    worsened = (changes.count(-1) + 1) / (count + 2)
    variance = improved + worsened - (improved - worsened) ** 2
    margin = Z95 * math.sqrt(variance / (count + 2))
    return Interval(
        mean=fmean(changes),
        low=max(-1.0, improved - worsened - margin),
        high=min(1.0, improved - worsened + margin),
        count=count,
    )


def weighted(parts: Sequence[tuple[float, Interval]]) -> Interval:
    """Compute a sum of independent means with positive weights.

    The distances from the mean to each end of the intervals add up as standard errors do: the root
    of the sum of squares (MOVER).
    """
    mean = math.fsum(weight * part.mean for weight, part in parts)
    below = math.hypot(*(weight * (part.mean - part.low) for weight, part in parts))
    above = math.hypot(*(weight * (part.high - part.mean) for weight, part in parts))
    count = sum(part.count for _, part in parts)
    return Interval(mean=mean, low=mean - below, high=mean + above, count=count)
