"""Two evaluations of the same questions side by side: the paired difference, how sure it is, and which questions changed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from gpg_vl.errors import UserError
from gpg_vl.evaluation import records
from gpg_vl.evaluation.records import Record
from gpg_vl.evaluation.statistics import Interval, difference, interval

SHOWN = 5
"""Ids that a sentence names."""
EXACT = 12
"""Graded differences up to so many are given every combination of signs; more are given `DRAWS` random ones."""
DRAWS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One row of the comparison.

    Example:
        Comparison(name="all", first=..., second=..., difference=..., gained=40, lost=12, p=0.0001)
    """

    name: str
    """A tag, or all."""
    first: Interval
    """Accuracy of the first."""
    second: Interval
    """Accuracy of the second."""
    difference: Interval
    """Second less first, over the questions."""
    gained: int
    """Questions that the second answers better."""
    lost: int
    """Questions that it answers worse."""
    p: float
    """Two-sided: how likely a difference so large is where there is none. McNemar's exact test for right and wrong, else sign flips."""


def compare(first: Sequence[Record], second: Sequence[Record]) -> list[Comparison]:
    """Overall, and per row of the table where there are several.

    Raises:
        UserError: they were not asked the same questions; names the ids.
    """
    pairs = matched(first, second)
    rows = [_compared("all", pairs)]
    groups: dict[str, list[tuple[Record, Record]]] = {}
    for before, after in pairs:
        groups.setdefault(before.tag, []).append((before, after))
    return rows + [_compared(tag, group) for tag, group in groups.items()] if len(groups) > 1 else rows


def matched(first: Sequence[Record], second: Sequence[Record]) -> list[tuple[Record, Record]]:
    """The two answers to each question.

    Raises:
        UserError: a question stands on one side only, or twice, or another one has its id.
    """
    sides = ({record.id: record for record in first}, {record.id: record for record in second})
    common = [(record, sides[1][name]) for name, record in sides[0].items() if name in sides[1]]
    faults = [
        *_fault([name for name in sides[0] if name not in sides[1]], "only in the first"),
        *_fault([name for name in sides[1] if name not in sides[0]], "only in the second"),
        *_fault([old.id for old, new in common if _differ(old.digest, new.digest)], "with another question or truth"),
        *_fault([old.id for old, new in common if _differ(old.pictures, new.pictures)], "with other pictures"),
        *(["the same id names several records"] if len(sides[0]) < len(first) or len(sides[1]) < len(second) else []),
    ]
    if faults or not first:
        raise UserError(f"not the same questions: {'; '.join(faults) or 'there is none'}; compare two evaluations of one benchmark")
    return common


def _differ(before: str, after: str) -> bool:
    """Where one side has no digest nothing is known."""
    return bool(before and after) and before != after


def remarks(first: Sequence[Record], second: Sequence[Record]) -> list[str]:
    """What to know before the figures are believed: questions known by their ids alone, settings that differ."""
    pairs = matched(first, second)
    by_id = sum(not (before.digest and after.digest) for before, after in pairs)
    told = [f"{by_id} of {len(pairs)} questions are known by their ids alone: a record of them has no digest"] if by_id else []
    for name in dict.fromkeys(name for pair in pairs for record in pair for name in record.settings):
        ways = dict.fromkeys((before.settings.get(name), after.settings.get(name)) for before, after in pairs)
        told += [
            f"{name} differs: {one} in the first, {other} in the second" for one, other in ways if None not in {one, other} and one != other
        ]
    return told


def _fault(ids: Sequence[str], where: str) -> Iterator[str]:
    if ids:
        more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
        yield f"{len(ids)} id{'s' if len(ids) > 1 else ''} ({', '.join(ids[:SHOWN])}{more}) {where}"


def _compared(name: str, pairs: Sequence[tuple[Record, Record]]) -> Comparison:
    before, after = [pair[0].greedy for pair in pairs], [pair[1].greedy for pair in pairs]
    return Comparison(
        name=name,
        first=interval(before),
        second=interval(after),
        difference=difference(before, after),
        gained=sum(new > old for old, new in zip(before, after, strict=True)),
        lost=sum(new < old for old, new in zip(before, after, strict=True)),
        p=p_value(before, after),
    )


def p_value(before: Sequence[float], after: Sequence[float]) -> float:
    """Two-sided p of the paired difference.

    Right and wrong: McNemar's exact test, a coin thrown once for each question that changed. Graded: the differences that there are, their
    signs thrown anew (Fisher's randomisation test): how often is their sum as far from zero?
    """
    steps = np.array([new - old for old, new in zip(before, after, strict=True) if new != old])
    if not len(steps):
        return 1.0
    if {*before, *after} <= {0, 1}:
        stats: Any = import_module("scipy.stats")
        return float(stats.binomtest(int((steps > 0).sum()), len(steps)).pvalue)
    enough = abs(steps.sum()) * (1 - 1e-9)  # sums of the same numbers in another order differ by rounding
    as_far = [abs(signs @ steps) >= enough for signs in _signs(len(steps))]
    if len(steps) <= EXACT:
        return sum(as_far) / len(as_far)
    return (1 + sum(as_far)) / (1 + len(as_far))  # the observed signs are one draw more: p is never 0


def _signs(count: int) -> Iterator[Any]:
    """Every combination of signs, or random ones of a fixed seed."""
    if count <= EXACT:
        yield from map(np.array, product((-1.0, 1.0), repeat=count))
    else:
        rng = np.random.default_rng(0)
        yield from (rng.choice((-1.0, 1.0), count) for _ in range(DRAWS))


def changed(first: Sequence[Record], second: Sequence[Record]) -> list[tuple[Record, Record]]:
    """The questions whose score changed, the largest change first."""
    pairs = [(before, after) for before, after in matched(first, second) if before.greedy != after.greedy]
    return sorted(pairs, key=lambda pair: -abs(pair[1].greedy - pair[0].greedy))


def read(first: Path, second: Path) -> dict[str, tuple[list[Record], list[Record]]]:
    """What two paths have in common: two files of records, or two runs (or folders of evaluations) by benchmark.

    Raises:
        UserError: no records, or nothing in common.
    """
    if first.is_file() and second.is_file():
        return {first.stem: (records.load(first), records.load(second))}
    sides = _evaluations(first), _evaluations(second)
    common = [name for name in sides[0] if name in sides[1]]
    if not common:
        told = [f"{path} has {', '.join(side) or 'none'}" for path, side in zip((first, second), sides, strict=True)]
        raise UserError(f"no benchmark that both have taken: {'; '.join(told)}")
    return {name: (records.load(sides[0][name]), records.load(sides[1][name])) for name in common}


def _evaluations(path: Path) -> dict[str, Path]:
    """Benchmark -> file of records; of a run what came after training."""
    if path.is_file():
        return {path.stem.removesuffix("-after"): path}
    folder = path / "evaluation" if (path / "evaluation").is_dir() else path
    if not folder.is_dir():
        raise UserError(f"{path}: no such file or folder; expected records written by `gpg-vl evaluate --to`, or a run folder")
    found = {file.stem: file for file in sorted(folder.glob("*.jsonl"))}
    after = {name.removesuffix("-after"): file for name, file in found.items() if name.endswith("-after")}
    return after or found
