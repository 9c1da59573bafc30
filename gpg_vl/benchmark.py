"""Run a benchmark spec with a policy, score it with the verifiers of training, and say how sure the figures are.

Every question leaves a record: what was asked (as a digest), how, what was answered, what was read and what that earned. Figures, their
intervals and comparisons are made of records alone.
"""

import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from PIL import Image
from pydantic import FiniteFloat, TypeAdapter, ValidationError

from gpg_vl.config import BenchmarkSpec
from gpg_vl.plugins import first_complaint
from gpg_vl.policy.encode import encode
from gpg_vl.policy.load import Policy
from gpg_vl.prompts import Style
from gpg_vl.rollout.engine import RolloutEngine, Sampling
from gpg_vl.seeds import seed as addressed_seed
from gpg_vl.types import Completion, LeftOut, Sample, UserError, Verdict
from gpg_vl.verifiers.verifier import Verifiers

QUESTIONS_AT_ONCE = 64
"""Asked together, and kept together."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """Everything needed to examine a policy."""

    spec: BenchmarkSpec
    questions: Sequence[Sample]
    style: Style
    checks: Verifiers
    seed: int
    left_out: Sequence[LeftOut] = ()
    """Questions that cannot be scored, and what a recipe leaves out."""

    @property
    def missing(self) -> str:
        """A sentence on what is left out; empty = nothing is."""
        if not self.left_out:
            return ""
        (first, why), several = self.left_out[0], "s are" if len(self.left_out) > 1 else " is"
        return f"{self.spec.name}: {len(self.left_out)} question{several} left out, {len(self.questions)} are asked; {first}: {why}"

    def tag(self, sample: Sample) -> str:
        """The row of the table that a question counts in."""
        return tag_of(sample, self.spec)

    def shortened(self, head: int) -> "Examination":
        """Only the first `head` questions of each row of the table."""
        seen = Counter[str]()
        kept: list[Sample] = []
        for sample in self.questions:
            seen[self.tag(sample)] += 1
            if seen[self.tag(sample)] <= head:
                kept.append(sample)
        return replace(self, questions=kept)


def examine(
    examination: Examination,
    policy: Policy,
    engine: RolloutEngine,
    *,
    blank: bool = False,
    told: Callable[[int], None] = lambda done: None,
    kept: "Kept | None" = None,
) -> list[Record]:
    """Ask every question, greedily and `spec.samples` times.

    Args:
        blank: show grey pictures of the same size instead: what is left is guessing.
        told: called with the number of questions done so far.
        kept: where answers are kept while it goes on; questions that are answered there are not asked again.
    """
    records = {record.id: record for record in kept.records()} if kept else {}
    asked = [sample for sample in examination.questions if sample.id not in records]
    settings = {**settings_of(examination.spec), "max_tokens": examination.spec.max_tokens, "blank": blank}
    told(len(records))
    for start in range(0, len(asked), QUESTIONS_AT_ONCE):
        answered = _ask(asked[start : start + QUESTIONS_AT_ONCE], examination, policy, engine, blank)
        fresh = [replace(record, settings=settings, evaluation=kept.fingerprint if kept else "") for record in answered]
        records |= {record.id: record for record in fresh}
        if kept:
            kept.add(fresh)
        told(len(records))
    return [records[sample.id] for sample in examination.questions]


def settings_of(spec: BenchmarkSpec) -> Settings:
    """What of a spec two evaluations ought to agree in, whoever answered."""
    return {"benchmark": spec.name, "mode": spec.mode}


def _ask(batch: Sequence[Sample], examination: Examination, policy: Policy, engine: RolloutEngine, blank: bool) -> list[Record]:
    spec = examination.spec
    prompts = [encode(blanked(sample) if blank else sample, examination.style, policy) for sample in batch]
    sampling = Sampling(max_tokens=spec.max_tokens, temperature=spec.temperature)
    greedy = engine.generate(prompts, replace(sampling, greedy=True), [[0]] * len(batch))
    seeds = [[addressed_seed(examination.seed, "evaluate", sample.id, index) for index in range(spec.samples)] for sample in batch]
    sampled = engine.generate(prompts, sampling, seeds) if spec.samples else [[] for _ in batch]
    return [record(sample, best[0], others, spec, examination.checks) for sample, best, others in zip(batch, greedy, sampled, strict=True)]


def record(sample: Sample, best: Completion, others: Sequence[Completion], spec: BenchmarkSpec, checks: Verifiers) -> Record:
    """One question with its greedy answer and its sampled ones, scored."""
    verdict, drawn = checks.judge(best, sample), [checks.judge(other, sample) for other in others]
    also = [checks.in_mode(spec.beside).judge(best, sample)] if spec.beside else []
    each = list(map(_accuracy, drawn))
    faults = (judged.reason.partition("\n")[0] for judged in (verdict, *drawn, *also) if judged.reason.startswith("fault"))
    return Record(
        id=sample.id,
        tag=tag_of(sample, spec),
        greedy=_accuracy(verdict),
        sampled=fmean(each) if each else math.nan,
        text=best.text,
        answer=verdict.answer,
        reason=verdict.reason,
        well_formed=verdict.parts.get("format", math.nan),
        beside=_accuracy(also[0]) if also else math.nan,
        each=each,
        tags=sample.tags,
        digest=_digest(_question(sample)),
        pictures=_digest(*map(_bytes, sample.images)) if sample.images else "",
        fault=next(faults, ""),
    )


def failures(records: Sequence[Record]) -> str:
    """A sentence on the answers that a verifier failed on; empty = none."""
    failed = [record for record in records if record.fault]
    if not failed:
        return ""
    several = "s" if len(failed) > 1 else ""
    counted = f"the verifier failed on answers to {len(failed)} question{several} of {len(records)}, which count as wrong"
    return f"{counted}; {failed[0].id}: {failed[0].fault}"


def _question(sample: Sample) -> bytes:
    told = (sample.question, sample.answer_kind, sample.answer, sample.choices, sample.frame)
    return json.dumps(told, default=str, sort_keys=True).encode()


def _bytes(image: Path | bytes) -> bytes:
    return image if isinstance(image, bytes) else image.read_bytes()


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]


def tag_of(sample: Sample, spec: BenchmarkSpec) -> str:
    """The row of the table that a question counts in."""
    return sample.tags.get(spec.group_by, sample.answer_kind)


def _accuracy(verdict: Verdict) -> float:
    """A question whose verifier failed is not answered; its reason says so."""
    return 0.0 if math.isnan(verdict.reward) else verdict.reward


def blanked(sample: Sample) -> Sample:
    """The same question with every picture replaced by a grey one of its size."""
    return replace(sample, images=tuple(_grey(size) for size in sample.sizes))


def _grey(size: tuple[int, int]) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", size, (128, 128, 128)).save(encoded, "PNG")
    return encoded.getvalue()


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
class Kept:
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
