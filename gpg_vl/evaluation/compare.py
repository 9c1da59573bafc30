"""Compare two evaluations of the same questions, paired by question."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np

from gpg_vl.config.loading import read_yaml
from gpg_vl.config.models import is_run
from gpg_vl.config.paths import nearest_path
from gpg_vl.errors import UserError, one_line
from gpg_vl.evaluation import records
from gpg_vl.evaluation.records import Record, some_ids
from gpg_vl.evaluation.statistics import Interval, difference, interval

EXACT = 12
"""Largest number of changed questions for which the sign test of graded values tries every
combination of signs (4096); for more it draws `DRAWS` random ones."""
LISTED = 5
"""Largest number of settings that are named."""
SHOWN = 60
"""Largest number of characters of a setting."""
SIDE = 24
"""Largest number of characters of what heads the figures of one side."""
DRAWS = 10_000
"""Number of random combinations of signs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A row of the comparison.

    Example:
        Comparison(name="all", first=..., second=..., difference=..., gained=40, lost=12, p=0.0001)
    """

    name: str
    """A tag, or all."""
    first: Interval
    """Accuracy of the first evaluation."""
    second: Interval
    """Accuracy of the second evaluation."""
    difference: Interval
    """Second minus first, paired by question."""
    gained: int
    """Number of questions that the second answers better."""
    lost: int
    """Number of questions that the second answers worse."""
    p: float
    """Two-sided p-value: probability of a difference at least as large if there is none. McNemar's
    exact test for scores 0 and 1, else a sign-flip test."""


def compare(first: Sequence[Record], second: Sequence[Record]) -> list[Comparison]:
    """Compare all questions, and those of each row of the table if there are several rows.

    Raises:
        UserError: the evaluations are not of the same questions; the message contains the ids.
    """
    pairs = matched(first, second)
    groups: dict[str, list[tuple[Record, Record]]] = {}
    for before, after in pairs:
        groups.setdefault(before.tag, []).append((before, after))
    rows = [_compared("all", pairs)]
    if len(groups) > 1:
        rows += [_compared(tag, group) for tag, group in groups.items()]
    return rows


def common(first: Sequence[Record], second: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Return the records of the questions that two evaluations of a run both asked.

    One between the steps may ask fewer than the first and the last. A question that was changed in
    between is another one: it is in neither list. An id that names several questions is left out.
    """
    use_source = _have_sources(first, second)
    keys = [record.key if use_source else ("", record.id) for record in (*first, *second)]
    seen = Counter(keys)
    keyed = dict(zip(keys, first, strict=False))
    before: list[Record] = []
    after: list[Record] = []
    for key, record in zip(keys[len(first) :], second, strict=True):
        other = keyed.get(key)
        if other is None or seen[key] != 2:
            continue
        if _is_other(other.digest, record.digest) or _is_other(other.pictures, record.pictures):
            continue
        before.append(other)
        after.append(record)
    return before, after


def _is_other(digest: str, other: str) -> bool:
    """Return True for two digests that differ; one that was not recorded differs from none."""
    return bool(digest and other and digest != other)


def matched(first: Sequence[Record], second: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Return the two records of each question, in the order of the first evaluation.

    A question is named by its id, and by its source too where several sources share ids.

    Raises:
        UserError: a question is in one evaluation only or twice, or its id names another question
            in the other evaluation.
    """
    first_by_key, second_by_key = _by_key(first, second)
    common: list[tuple[Record, Record]] = []
    only_in_first: list[str] = []
    for key, record in first_by_key.items():
        if key in second_by_key:
            common.append((record, second_by_key[key]))
        else:
            only_in_first.append(record.id)
    only_in_second = [record.id for key, record in second_by_key.items() if key not in first_by_key]
    other_question = _ids_that_differ(common, lambda record: record.digest)
    other_pictures = _ids_that_differ(common, lambda record: record.pictures)
    problems = [
        _listed(only_in_first, "only in the first"),
        _listed(only_in_second, "only in the second"),
        _listed(other_question, "with another question or truth"),
        _listed(other_pictures, "with other pictures"),
    ]
    if len(first_by_key) < len(first) or len(second_by_key) < len(second):
        problems.append("the same id names several records")
        if not _have_sources(first, second):
            problems.append("they do not say their sources, so they cannot be told apart")
    found = "; ".join(filter(None, problems))
    if found or not first:
        raise UserError(
            f"not the same questions: {found or 'there is none'}; compare two evaluations of one "
            "benchmark"
        )
    return common


def _by_key(
    first: Sequence[Record], second: Sequence[Record]
) -> tuple[dict[tuple[str, str], Record], dict[tuple[str, str], Record]]:
    """Return the records of both evaluations by what names their questions."""
    use_source = _have_sources(first, second) and (_has_repeated(first) or _has_repeated(second))
    keyed: list[dict[tuple[str, str], Record]] = []
    for records_of_one in (first, second):
        by_key: dict[tuple[str, str], Record] = {}
        for record in records_of_one:
            by_key[record.key if use_source else ("", record.id)] = record
        keyed.append(by_key)
    return keyed[0], keyed[1]


def _have_sources(first: Sequence[Record], second: Sequence[Record]) -> bool:
    """Return True if every record says the source of its question."""
    return all(record.source for record in (*first, *second))


def _has_repeated(evaluated: Sequence[Record]) -> bool:
    """Return True if an id names several records."""
    return len({record.id for record in evaluated}) < len(evaluated)


def _ids_that_differ(
    pairs: Sequence[tuple[Record, Record]], digest: Callable[[Record], str]
) -> list[str]:
    """Return the ids whose digests differ; a record without a digest differs from none."""
    ids: list[str] = []
    for before, after in pairs:
        if _is_other(digest(before), digest(after)):
            ids.append(before.id)
    return ids


def _listed(ids: Sequence[str], problem: str) -> str:
    """Return a phrase with the first ids of a problem; empty = there is none."""
    return f"{some_ids(ids)} {problem}" if ids else ""


def remarks(first: Sequence[Record], second: Sequence[Record]) -> list[str]:
    """Return caveats of a comparison: records without a digest, settings that differ."""
    pairs = matched(first, second)
    lines: list[str] = []
    without_digest = sum(not (before.digest and after.digest) for before, after in pairs)
    if without_digest:
        lines.append(
            f"{without_digest} of {len(pairs)} questions are known by their ids alone: a record of "
            "them has no digest"
        )
    names: dict[str, None] = {}  # a dict as an ordered set
    for before, after in pairs:
        names |= dict.fromkeys(before.settings) | dict.fromkeys(after.settings)
    for name in names:
        values = dict.fromkeys(
            (before.settings.get(name), after.settings.get(name)) for before, after in pairs
        )
        for one, other in values:
            if None not in {one, other} and one != other:
                lines.append(
                    f"{name} differs: {one_line(one)} in the first, {one_line(other)} in the second"
                )
    return lines


def _compared(name: str, pairs: Sequence[tuple[Record, Record]]) -> Comparison:
    """Return a row of the comparison."""
    before = [old.greedy for old, _ in pairs]
    after = [new.greedy for _, new in pairs]
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
    """Compute the two-sided p-value of the paired difference.

    Scores 0 and 1: McNemar's exact test, a binomial test on the questions that changed. Graded
    scores: Fisher's randomisation test, which flips the signs of the differences at random and
    counts how often their sum is at least as far from zero.
    """
    changes = np.array([new - old for old, new in zip(before, after, strict=True) if new != old])
    if not len(changes):
        return 1.0
    if {*before, *after} <= {0, 1}:
        # scipy.special loads in a fifth of the time of scipy.stats, which has this test by name
        special: Any = import_module("scipy.special")
        gained = int((changes > 0).sum())
        tail = special.bdtr(min(gained, len(changes) - gained), len(changes), 0.5)
        return min(1.0, 2 * float(tail))
    # the factor: sums of the same numbers in another order differ by rounding
    observed = abs(changes.sum()) * (1 - 1e-9)
    count, as_far = 0, 0
    for signs in _signs(len(changes)):
        count += 1
        as_far += bool(abs(signs @ changes) >= observed)
    if len(changes) <= EXACT:
        return as_far / count
    # the observed signs count as one more draw: p is never 0
    return (1 + as_far) / (1 + count)


def _signs(count: int) -> Iterator[Any]:
    """Yield every combination of signs, or random ones of a fixed seed."""
    if count <= EXACT:
        for signs in product((-1.0, 1.0), repeat=count):
            yield np.array(signs)
        return
    rng = np.random.default_rng(0)
    for _ in range(DRAWS):
        yield rng.choice((-1.0, 1.0), count)


def changed(first: Sequence[Record], second: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Return the questions whose score changed, the largest change first."""
    pairs: list[tuple[Record, Record]] = []
    for before, after in matched(first, second):
        if before.greedy != after.greedy:
            pairs.append((before, after))
    return sorted(pairs, key=lambda pair: -abs(pair[1].greedy - pair[0].greedy))


def read(first: Path, second: Path) -> dict[str, tuple[list[Record], list[Record]]]:
    """Read what two paths have in common, by benchmark.

    Args:
        first: a file of records, a run folder, or a folder of evaluations.
        second: the same.

    Raises:
        UserError: there are no records, a run without evaluations, or nothing in common.
    """
    if first.is_file() and second.is_file():
        return {_benchmark_of(first): (records.load(first), records.load(second))}
    of_first, of_second = _evaluations(first), _evaluations(second)
    in_first = {_benchmark_of(file): file for file in of_first}
    in_second = {_benchmark_of(file): file for file in of_second}
    if len(in_first) < len(of_first) or len(in_second) < len(of_second):
        # several of one benchmark are told apart by the names of their files alone
        in_first = {_name_of(file): file for file in of_first}
        in_second = {_name_of(file): file for file in of_second}
    common = [name for name in in_first if name in in_second]
    if not common:
        has_first = f"{first} has {', '.join(in_first) or 'none'}"
        has_second = f"{second} has {', '.join(in_second) or 'none'}"
        raise UserError(f"no benchmark that both have run: {has_first}; {has_second}")
    return {name: (records.load(in_first[name]), records.load(in_second[name])) for name in common}


def sides(first: Path, second: Path) -> tuple[str, str]:
    """Return what heads the figures of each: the name of its run or file, shortened to fit.

    Names that are the same tell nothing: then it is first and second.
    """
    names: list[str] = []
    for path in (first, second):
        name = one_line(path.resolve().name)
        names.append(name if len(name) <= SIDE else f"{name[: SIDE - 3]}...")
    return ("first", "second") if names[0] == names[1] else (names[0], names[1])


def config_differences(first: Path, second: Path) -> str:
    """Return the settings in which two runs differ: `seed: 0 -> 1; steps: 4 -> 8 and 3 more`.

    Empty = the same settings, or not two run folders.
    """
    if not (is_run(first) and is_run(second)):
        return ""
    before, after = (dict(_leaves(read_yaml(run / "config.yaml"))) for run in (first, second))
    named: list[str] = []
    for key in dict.fromkeys((*before, *after)):
        old, new = before.get(key), after.get(key)
        if key not in {"name", "folder"} and old != new:
            named.append(f"{key}: {one_line(old, SHOWN)} -> {one_line(new, SHOWN)}")
    more = f" and {len(named) - LISTED} more" if len(named) > LISTED else ""
    return "; ".join(named[:LISTED]) + more


def _leaves(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting of a config by its key, as ("rollout.engine.kind", "server")."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(cast(Mapping[str, Any], value), f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _evaluations(path: Path) -> list[Path]:
    """Return the files of records; of a run those after training."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        near = nearest_path(path)
        expected = "expected records written by `gpg-vl evaluate --to`, or a run folder"
        hint = f"did you mean {near}?" if near else expected
        raise UserError(f"{path}: no such file or folder; {hint}")
    found = records.files_in(path)
    if is_run(path) or (path / "evaluation").is_dir():  # other .jsonl of a run are no evaluations
        found = _own_evaluations(path)
        if not found:
            raise UserError(
                f"{path}: it is a run without evaluation: its config names no benchmark, or "
                "its first evaluation is still to come"
            )
    return [file for file in found if file.stem.endswith("-after")] or found


def _own_evaluations(run: Path) -> list[Path]:
    """Return the files of records of a run, without its control on grey pictures."""
    found = records.files_in(run / "evaluation")
    return [file for file in found if not file.stem.endswith("-blank")]


def _benchmark_of(path: Path) -> str:
    """Return the benchmark that records are of, as they say it, or as their file is called."""
    try:
        loaded = records.load(path)
    except UserError:  # a file of something else in the folder, unless it is compared
        loaded = []
    own = str(loaded[0].settings.get("benchmark", "")) if loaded else ""
    return own or _name_of(path)


def _name_of(path: Path) -> str:
    return path.stem.removesuffix("-after")
