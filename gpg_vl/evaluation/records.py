"""Define the record of one question, and read and write files of records."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from gpg_vl.config.plugins import first_error
from gpg_vl.errors import UserError, one_line
from gpg_vl.run_folder import json_value
from gpg_vl.types import LeftOut

SHOWN = 5
"""Number of ids that a message lists."""
ID_CHARACTERS = 100
"""Largest number of characters of one id in such a list."""
LEFT_OUT_SUFFIX = ".left_out.jsonl"
"""Ending of the file beside a file of records that lists the questions without a record."""
Settings = Mapping[str, str | int | float | bool]
"""Settings of prompt and scoring that two evaluations should have in common."""
SHARED = ("settings", "evaluation", "about")
"""Columns that all questions of an evaluation have in common. A line has one of them only where it
differs from the line above, so that files stay small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A question with its answer and score.

    A record says all that is needed to read it without the benchmark. In a file, a column that is
    missing has its default.
    """

    id: str
    """Id of the question; it is unique in its source."""
    source: str = ""
    """Name of the source that the question was read from; empty = not recorded."""
    tag: str
    """Row of the table that it counts in."""
    question: str = ""
    """Words of the question, without the instruction of the prompt style."""
    context: Sequence[Sequence[str]] = ()
    """Turns before the question, each as [role, text]."""
    choices: Sequence[str] = ()
    """Options of the question, without letters."""
    letters: Sequence[str] = ()
    """Letter of each option, where they are not A, B, C..."""
    kind: str = ""
    """Kind of its answer: choice, number, boxes...; empty = not recorded."""
    truth: Any = None
    """True answer, as in the data."""
    frame: str = "pixels"
    """Coordinate frame of true boxes: pixels | norm1 | norm1000."""
    images: Sequence[str] = ()
    """Its pictures, in order: the path of a file; of a picture that lies inside the data, the name
    `<first 16 digits of its SHA-256>.<kind>`: it is picture 1, 2... of the row `id` of `source`."""
    picture_names: Sequence[str] = ()
    """Of each picture the first 16 digits of the SHA-256 of its content; empty = it was not
    available. A run keeps a small copy as `evaluation/pictures/<name>.webp`."""
    sizes: Sequence[Sequence[int]] = ()
    """Width and height of each picture as a person sees it, in pixels."""
    boxed_image: int = 0
    """Number of the picture that the boxes are in, from 1; 0 = its answers are no boxes."""
    truth_pixels: Sequence[Sequence[float]] = ()
    """True boxes in pixels of that picture: left, upper, right, lower edge."""
    boxes_pixels: Sequence[Sequence[float]] = ()
    """Boxes of the greedy answer that were scored, in the same pixels."""
    greedy: FiniteFloat
    """Accuracy of the greedy answer."""
    sampled: float = math.nan
    """Mean accuracy of the sampled answers; NaN = there are none."""
    text: str
    """Greedy completion."""
    finish: Literal["stop", "length"] = "stop"
    """stop: the greedy completion ended by itself | length: at the length limit."""
    answer: str
    """Answer that was parsed from it."""
    reason: str
    """Reason of the score."""
    well_formed: float = math.nan
    """1 if the greedy completion has the required format, else 0; NaN = not recorded."""
    beside: float = math.nan
    """Accuracy of the greedy completion by the spec's second parsing; NaN = there is none."""
    each: Sequence[float] = ()
    """Accuracies of the sampled answers."""
    texts: Sequence[str] = ()
    """Sampled completions, in the order of `each`."""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    """Tags of the question."""
    digest: str = ""
    """Digest of the question and its reference answer: questions with equal ids may differ. Empty =
    not recorded."""
    pictures: str = ""
    """Digest of its images; empty = it has none, or they were not available."""
    fault: str = ""
    """First error of a verifier on one of its answers, which then score 0; empty = none."""
    settings: Settings = field(default_factory=dict[str, str | int | float | bool])
    """Settings of the evaluation, the prompt style among them: two evaluations that are compared
    should agree in them."""
    evaluation: str = ""
    """Fingerprint of the evaluation that it belongs to; empty = recorded answers, or an evaluation
    within a run."""
    about: Settings = field(default_factory=dict[str, str | int | float | bool])
    """Facts of the evaluation that may differ: model or file of answers, version, start, seed."""

    @property
    def key(self) -> tuple[str, str]:
        """Source and id: what names a question in a benchmark of several sources."""
        return self.source, self.id


def some_ids(ids: Sequence[str]) -> str:
    """Return a phrase with the number of ids and the first of them: `2 ids (a, b)`."""
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    plural = "s" if len(ids) > 1 else ""
    first = [one_line(name, ID_CHARACTERS) for name in ids[:SHOWN]]
    return f"{len(ids)} id{plural} ({', '.join(first)}{more})"


def failures(records: Sequence[Record]) -> str:
    """Return a sentence on the answers on which a verifier failed; empty = none."""
    failed = [record for record in records if record.fault]
    if not failed:
        return ""
    plural = "s" if len(failed) > 1 else ""
    return (
        f"the verifier failed on answers to {len(failed)} question{plural} of {len(records)}, "
        f"which count as wrong; {one_line(failed[0].id)}: {failed[0].fault}"
    )


def by_tag(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Group records by the row of the table they count in, in order of appearance."""
    rows: dict[str, list[Record]] = {}
    for record in records:
        rows.setdefault(record.tag, []).append(record)
    return rows


def save(records: Sequence[Record], path: Path) -> None:
    """Write one JSON line per question; the file appears when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".new")
    aside.write_text("".join(_lines(records)), encoding="utf-8", errors="replace")
    aside.replace(path)


def left_out_path(path: Path) -> Path:
    """Return the file beside a file of records that lists the questions without a record."""
    return path.with_name(path.stem + LEFT_OUT_SUFFIX)


def save_left_out(left_out: Sequence[LeftOut], path: Path) -> Path | None:
    """Write the questions without a record into a file beside that of the records.

    Args:
        path: file of the records.

    Returns:
        The file that was written; None = nothing is left out, and an older file is gone.
    """
    beside = left_out_path(path)
    if not left_out:
        beside.unlink(missing_ok=True)
        return None
    lines: list[str] = []
    for row in left_out:
        lines.append(json.dumps(row._asdict(), ensure_ascii=False) + "\n")
    beside.parent.mkdir(parents=True, exist_ok=True)
    beside.write_text("".join(lines), encoding="utf-8", errors="replace")
    return beside


def files_in(folder: Path) -> list[Path]:
    """Return the files of records in a folder."""
    files = sorted(folder.glob("*.jsonl"))
    return [path for path in files if not path.name.endswith(LEFT_OUT_SUFFIX)]


def load(path: Path) -> list[Record]:
    """Read a file that `save` wrote.

    Raises:
        UserError: it is not a file of records.
    """
    try:
        return _read(path.read_bytes(), path)
    except OSError as error:
        raise UserError(f"{path}: not a file of evaluation records: {error}") from None


@dataclass(frozen=True, slots=True)
class EvalLog:
    """File of the records of an evaluation, which can be interrupted and continued.

    During the evaluation the records are in a second file beside it.

    Example:
        EvalLog(Path("runs/a/geoqa.jsonl"), "6b1e...")
    """

    path: Path
    """File of the final result."""
    fingerprint: str
    """Hash of model, questions, prompt and verifiers: records of another evaluation are neither
    mixed in nor overwritten."""

    @property
    def part(self) -> Path:
        """File of the records during the evaluation."""
        return self.path.with_name(self.path.name + ".part")

    def records(self) -> list[Record]:
        """Read the records that exist already; an incomplete last line is removed.

        Raises:
            UserError: the file belongs to another evaluation.
        """
        if self.path.exists():
            return self._own(load(self.path), self.path)
        if not self.part.exists():
            return []
        written = self.part.read_bytes()
        whole = written[: written.rfind(b"\n") + 1]
        found = self._own(_read(whole, self.part), self.part)
        self.part.write_bytes(whole)
        return found

    def _own(self, records: list[Record], path: Path) -> list[Record]:
        """Check that records belong to this evaluation, and return them."""
        if any(record.evaluation != self.fingerprint for record in records):
            raise UserError(
                f"{path}: answers of another evaluation (model, questions or scoring differ); "
                "delete it, or choose another --to"
            )
        return records

    def add(self, records: Sequence[Record]) -> None:
        """Append records."""
        self.part.parent.mkdir(parents=True, exist_ok=True)
        with self.part.open("a", encoding="utf-8", errors="replace") as file:
            file.write("".join(_lines(records)))

    def finish(self, records: Sequence[Record]) -> None:
        """Write the final result and remove the file of the evaluation in progress."""
        save(records, self.path)
        self.part.unlink(missing_ok=True)


_RECORD = TypeAdapter(Record)
_ROW = TypeAdapter(dict[str, Any])


def _read(lines: bytes, path: Path) -> list[Record]:
    """Parse records, one on each line.

    Older files hold the token NaN, which JSON does not have, and repeat the shared columns.
    """
    records: list[Record] = []
    shared: dict[str, Any] = {}
    # not splitlines(): answers contain other line separators of Unicode, such as U+2028
    for number, line in enumerate(lines.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = _RECORD.validate_json(line, strict=True)
            row = _ROW.validate_json(line)
        except ValidationError as error:
            raise UserError(
                f"{path} line {number}: not a file of evaluation records: {first_error(error)}"
            ) from None
        for name in SHARED:
            if name in row:
                shared[name] = getattr(record, name)
        records.append(replace(record, **shared))
    return records


def _defaults() -> dict[str, Any]:
    """Return the default of each column that has one."""
    defaults: dict[str, Any] = {}
    for column in fields(Record):
        if column.default is not MISSING:
            defaults[column.name] = column.default
        elif column.default_factory is not MISSING:
            defaults[column.name] = column.default_factory()
    return defaults


_DEFAULTS = _defaults()


def _lines(records: Iterable[Record]) -> Iterator[str]:
    """Yield the JSON line of each record; the first one has all columns that are shared."""
    above = _DEFAULTS
    for record in records:
        columns = {name: getattr(record, name) for name in Record.__slots__}
        left_out = {**_DEFAULTS, **{name: above[name] for name in SHARED}}
        row: dict[str, Any] = {}
        for name, value in columns.items():
            if name not in left_out or not _is_same(value, left_out[name]):
                row[name] = json_value(value)
        # a truth may be what no JSON has, such as a date of a table
        yield json.dumps(row, ensure_ascii=False, allow_nan=False, default=str) + "\n"
        above = columns


def _is_same(value: Any, other: Any) -> bool:
    """Return True for equal values; NaN is equal to NaN, and an empty list to an empty tuple."""
    if value != value:
        return other != other
    if value == other:
        return type(value) is type(other)
    return isinstance(value, list | tuple) and not value and other == ()
