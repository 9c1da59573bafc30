"""What an evaluation writes: one record per question, and the file that keeps them."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from gpg_vl.config.plugins import first_complaint
from gpg_vl.errors import UserError

Settings = Mapping[str, str | int | bool]
"""How questions were asked and scored, as far as two evaluations ought to agree in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One question, answered and scored."""

    id: str
    tag: str
    """The row of the table it counts in."""
    greedy: FiniteFloat
    """Accuracy of the likeliest answer."""
    sampled: float
    """Mean accuracy of the sampled answers; NaN where none was drawn."""
    text: str
    """The greedy completion."""
    answer: str
    """What was read."""
    reason: str
    """Why it scored so."""
    well_formed: float = math.nan
    """1 where the greedy completion kept the format, 0 where not; NaN = not recorded."""
    beside: float = math.nan
    """Accuracy of the greedy completion as the spec's `beside` reads it; NaN = it has none."""
    each: Sequence[float] = ()
    """Accuracy of every sampled answer."""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    """The question's own."""
    digest: str = ""
    """Of the question and its truth: equal ids alone do not make equal questions. Empty = not recorded."""
    pictures: str = ""
    """A digest of its pictures; empty = it has none, or they were not at hand."""
    fault: str = ""
    """The first failure of a verifier on one of its answers, which earn 0 then; empty = none."""
    settings: Settings = field(default_factory=dict[str, str | int | bool])
    """How it was taken."""
    evaluation: str = ""
    """The fingerprint of the evaluation that it belongs to; empty = of recorded answers, or of a run's own evaluations."""


def failures(records: Sequence[Record]) -> str:
    """A sentence on the answers that a verifier failed on; empty = none."""
    failed = [record for record in records if record.fault]
    if not failed:
        return ""
    several = "s" if len(failed) > 1 else ""
    counted = f"the verifier failed on answers to {len(failed)} question{several} of {len(records)}, which count as wrong"
    return f"{counted}; {failed[0].id}: {failed[0].fault}"


def by_tag(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by the row of the table they count in, in order of appearance."""
    rows: dict[str, list[Record]] = {}
    for record in records:
        rows.setdefault(record.tag, []).append(record)
    return rows


def save(records: Sequence[Record], path: Path) -> None:
    """One JSON line per question, written aside and renamed: a file of records is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".new")
    aside.write_text("".join(map(_line, records)), encoding="utf-8")
    aside.replace(path)


def load(path: Path) -> list[Record]:
    """What `save` wrote.

    Raises:
        UserError: the file is not one of records.
    """
    try:
        return _read(path.read_bytes(), path)
    except OSError as error:
        raise UserError(f"{path}: not a file of evaluation records: {error}") from None


@dataclass(frozen=True, slots=True)
class EvalLog:
    """Answers of an evaluation in a file, and beside it while it goes on: an interrupted one continues where it stopped.

    Example:
        Kept(Path("runs/a/geoqa.jsonl"), "6b1e...")
    """

    path: Path
    """Of the end result; `.part` is put behind it until then."""
    fingerprint: str
    """Of model, questions, prompt and verifiers: answers of another evaluation are neither mixed in nor overwritten."""

    @property
    def part(self) -> Path:
        """Where answers are while it goes on."""
        return self.path.with_name(self.path.name + ".part")

    def records(self) -> list[Record]:
        """What is there already; a line that was cut short is dropped.

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
        if any(record.evaluation != self.fingerprint for record in records):
            raise UserError(
                f"{path}: answers of another evaluation (model, questions or scoring differ); delete it, or choose another --to"
            )
        return records

    def add(self, records: Sequence[Record]) -> None:
        """Keep some more."""
        self.part.parent.mkdir(parents=True, exist_ok=True)
        with self.part.open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, records)))

    def finish(self, records: Sequence[Record]) -> None:
        """Write the end result and remove what led there."""
        save(records, self.path)
        self.part.unlink(missing_ok=True)


_RECORD = TypeAdapter(Record)


def _read(lines: bytes, path: Path) -> list[Record]:
    r"""Records, one a line. Only \n ends a line: other line separators of Unicode stand in texts as they are."""
    records: list[Record] = []
    for number, line in enumerate(lines.split(b"\n"), 1):
        try:
            records += [_RECORD.validate_json(line, strict=True)] if line.strip() else []
        except ValidationError as error:
            raise UserError(f"{path} line {number}: not a file of evaluation records: {first_complaint(error)}") from None
    return records


def _line(record: Record) -> str:
    return json.dumps({name: getattr(record, name) for name in Record.__slots__}, ensure_ascii=False) + "\n"
