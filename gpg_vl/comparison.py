"""Two evaluations of the same questions side by side: the paired difference, how sure it is, and which questions changed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from gpg_vl import benchmark
from gpg_vl.benchmark import Record
from gpg_vl.intervals import Interval, interval
from gpg_vl.types import UserError

SHOWN = 5
"""Ids that a sentence names."""


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
    """Two-sided: how likely a difference so large is where there is none. McNemar's exact test for right and wrong, else paired t."""


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
        UserError: a question stands on one side only, or twice.
    """
    sides = ({record.id: record for record in first}, {record.id: record for record in second})
    faults = [
        *_fault([name for name in sides[0] if name not in sides[1]], "only in the first"),
        *_fault([name for name in sides[1] if name not in sides[0]], "only in the second"),
        *(["the same id names several records"] if len(sides[0]) < len(first) or len(sides[1]) < len(second) else []),
    ]
    if faults or not first:
        raise UserError(f"not the same questions: {'; '.join(faults) or 'there is none'}; compare two evaluations of one benchmark")
    return [(record, sides[1][record.id]) for record in first]


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
        difference=interval([new - old for old, new in zip(before, after, strict=True)]),
        gained=sum(new > old for old, new in zip(before, after, strict=True)),
        lost=sum(new < old for old, new in zip(before, after, strict=True)),
        p=p_value(before, after),
    )


def p_value(before: Sequence[float], after: Sequence[float]) -> float:
    """Two-sided p of the paired difference.

    Right and wrong: McNemar's exact test, a coin thrown once for each question that changed. Graded: Student's paired t.
    """
    stats: Any = import_module("scipy.stats")
    changed = [new - old for old, new in zip(before, after, strict=True) if new != old]
    if not changed:
        return 1.0
    if {*before, *after} <= {0.0, 1.0}:
        return float(stats.binomtest(sum(step > 0 for step in changed), len(changed)).pvalue)
    if len(before) < 2 or len({new - old for old, new in zip(before, after, strict=True)}) == 1:
        return 0.0 if len(before) > 1 else 1.0  # a constant shift has no spread to divide by
    return float(stats.ttest_rel(after, before).pvalue)


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
        return {first.stem: (benchmark.load(first), benchmark.load(second))}
    sides = _evaluations(first), _evaluations(second)
    common = [name for name in sides[0] if name in sides[1]]
    if not common:
        told = [f"{path} has {', '.join(side) or 'none'}" for path, side in zip((first, second), sides, strict=True)]
        raise UserError(f"no benchmark that both have taken: {'; '.join(told)}")
    return {name: (benchmark.load(sides[0][name]), benchmark.load(sides[1][name])) for name in common}


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
