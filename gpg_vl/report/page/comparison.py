"""Compare two runs or two evaluations on a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpg_vl.config.loading import read_yaml
from gpg_vl.config.models import is_run
from gpg_vl.evaluation import compare
from gpg_vl.evaluation.records import Record
from gpg_vl.report.page.contents import Evaluation
from gpg_vl.report.page.evaluations import BenchmarkPart, items_of, paired_table
from gpg_vl.report.page.pictures import PagePictures
from gpg_vl.report.page.settings import NOT_SETTINGS, as_yaml, leaves
from gpg_vl.report.page.texts import plain, single_line

ABSENT = "not in this config"
"""Words for a setting that one of two runs does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedBenchmark:
    """A benchmark that both sides were asked."""

    part: BenchmarkPart
    sentence: str
    """The result in one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonView:
    """Two sides and what they have in common, as the templates show it."""

    first: str
    second: str
    """Paths of the two sides."""
    sides: tuple[str, str]
    """Names of the two sides in tables."""
    parts: Sequence[ComparedBenchmark]
    settings: Sequence[tuple[str, str, str]]
    """Settings that differ: key, first, second; empty = none, or one side is no run."""


def comparison_view(first: Path, second: Path, pictures: PagePictures) -> ComparisonView:
    """Compare two runs or evaluations.

    Args:
        first: a run folder, a file of records, or a folder of them, as `gpg-vl compare` takes.
        second: the same of another model.
        pictures: gets the pictures of the questions that are shown.

    Raises:
        UserError: there is nothing that both were asked.
    """
    sides = compare.sides(first, second)
    folder = first if first.is_dir() else second
    parts: list[ComparedBenchmark] = []
    for name, (before, after) in compare.read(first, second).items():
        compare.matched(before, after)  # refuses other questions, and says which
        parts.append(_compared(name, (before, after), sides, folder, pictures))
    return ComparisonView(
        first=plain(str(first)),
        second=plain(str(second)),
        sides=sides,
        parts=parts,
        settings=_settings_that_differ(first, second),
    )


def runs_of(first: Path, second: Path) -> list[Path]:
    """Return the sides that are run folders: their curves are shown over each other."""
    return [path for path in (first, second) if is_run(path)]


def _compared(
    name: str,
    both: tuple[Sequence[Record], Sequence[Record]],
    sides: tuple[str, str],
    folder: Path,
    pictures: PagePictures,
) -> ComparedBenchmark:
    before, after = both
    columns: list[Evaluation] = []
    for side, records in zip(sides, both, strict=True):
        columns.append(Evaluation(benchmark=name, when=side, step=0, records=records))
    changes, items = items_of(before, after, columns, folder, pictures)
    paired = paired_table(before, after, sides)
    part = BenchmarkPart(
        name=single_line(name),
        columns=list(sides),
        blank=[False, False],
        rows=(),
        paired=[paired],
        changes=changes,
        items=items,
    )
    whole = paired.rows[0]
    sentence = (
        f"{sides[1]} against {sides[0]}: {whole.verdict}, {whole.difference} points over "
        f"{whole.count:,} questions"
    )
    return ComparedBenchmark(part=part, sentence=sentence)


def _settings_that_differ(first: Path, second: Path) -> list[tuple[str, str, str]]:
    """Return the settings in which two runs differ."""
    if not (is_run(first) and is_run(second)):
        return []
    one: dict[str, Any] = dict(leaves(read_yaml(first / "config.yaml")))
    other: dict[str, Any] = dict(leaves(read_yaml(second / "config.yaml")))
    rows: list[tuple[str, str, str]] = []
    for key in dict.fromkeys((*one, *other)):
        if key not in NOT_SETTINGS and one.get(key, ABSENT) != other.get(key, ABSENT):
            rows.append((key, _value(one, key), _value(other, key)))
    return rows


def _value(settings: Mapping[str, Any], key: str) -> str:
    """Return a setting as YAML; a run of another release may not have it."""
    return single_line(as_yaml(settings[key]), 200) if key in settings else ABSENT
