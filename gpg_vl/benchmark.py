"""Run a benchmark spec with a policy, score it with the verifiers of training, and say how sure the figures are.

The greedy accuracy of n questions comes with its 95 % interval (normal, on per-question scores), sampled accuracy with the interval over
questions, and two runs over the same questions with the interval of their paired difference.
"""

import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from PIL import Image

from gpg_vl.config import BenchmarkSpec
from gpg_vl.intervals import Interval, interval
from gpg_vl.policy.encode import encode
from gpg_vl.policy.load import Policy
from gpg_vl.prompts import Style
from gpg_vl.rollout.engine import RolloutEngine, Sampling
from gpg_vl.seeds import seed as addressed_seed
from gpg_vl.types import Completion, Sample, UserError, Verdict
from gpg_vl.verifiers.verifier import Verifiers

QUESTIONS_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One question, answered and scored."""

    id: str
    tag: str
    """The row of the table it counts in."""
    greedy: float
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """Everything needed to examine a policy."""

    spec: BenchmarkSpec
    questions: Sequence[Sample]
    style: Style
    checks: Verifiers
    seed: int

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
    kept: "Unfinished | None" = None,
) -> list[Record]:
    """Ask every question, greedily and `spec.samples` times.

    Args:
        blank: show grey pictures of the same size instead: what is left is guessing.
        told: called with the number of questions done so far.
        kept: where answers are kept while it goes on; questions that are answered there are not asked again.
    """
    records = {record.id: record for record in kept.records()} if kept else {}
    asked = [sample for sample in examination.questions if sample.id not in records]
    told(len(records))
    for start in range(0, len(asked), QUESTIONS_AT_ONCE):
        batch = asked[start : start + QUESTIONS_AT_ONCE]
        fresh = _ask([blanked(sample) for sample in batch] if blank else batch, examination, policy, engine)
        records |= {record.id: record for record in fresh}
        if kept:
            kept.add(fresh)
        told(len(records))
    return [records[sample.id] for sample in examination.questions]


def _ask(batch: Sequence[Sample], examination: Examination, policy: Policy, engine: RolloutEngine) -> list[Record]:
    spec = examination.spec
    prompts = [encode(sample, examination.style, policy) for sample in batch]
    sampling = Sampling(max_tokens=spec.max_tokens, temperature=spec.temperature)
    greedy = engine.generate(prompts, replace(sampling, greedy=True), [[0]] * len(batch))
    seeds = [[addressed_seed(examination.seed, "evaluate", sample.id, index) for index in range(spec.samples)] for sample in batch]
    sampled = engine.generate(prompts, sampling, seeds) if spec.samples else [[] for _ in batch]
    return [record(sample, best[0], others, spec, examination.checks) for sample, best, others in zip(batch, greedy, sampled, strict=True)]


def record(sample: Sample, best: Completion, others: Sequence[Completion], spec: BenchmarkSpec, checks: Verifiers) -> Record:
    """One question with its greedy answer and its sampled ones, scored."""
    verdict = checks.judge(best, sample)
    each = [_accuracy(checks.judge(other, sample)) for other in others]
    return Record(
        id=sample.id,
        tag=tag_of(sample, spec),
        greedy=_accuracy(verdict),
        sampled=fmean(each) if each else math.nan,
        text=best.text,
        answer=verdict.answer,
        reason=verdict.reason,
        well_formed=verdict.parts.get("format", math.nan),
        beside=_accuracy(checks.in_mode(spec.beside).judge(best, sample)) if spec.beside else math.nan,
        each=each,
        tags=sample.tags,
    )


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


def paired(before: Sequence[Record], after: Sequence[Record]) -> Interval:
    """The difference in greedy accuracy over the same questions.

    Raises:
        UserError: the two were not asked the same questions.
    """
    earlier = {record.id: record.greedy for record in before}
    if set(earlier) != {record.id for record in after}:
        raise UserError("the two evaluations were not asked the same questions; run both with the same benchmark and seed")
    return interval([record.greedy - earlier[record.id] for record in after])


def save(records: Sequence[Record], path: Path) -> None:
    """One JSON line per question."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(map(_line, records)))


def load(path: Path) -> list[Record]:
    """What `save` wrote.

    Raises:
        UserError: the file is not one of records.
    """
    try:
        return [_read(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a file of evaluation records: {error}") from None


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Answers of an evaluation that goes on, in a file beside its end result: an interrupted one continues where it stopped.

    Example:
        Unfinished(Path("runs/a/geoqa.jsonl.part"), "6b1e...")
    """

    path: Path
    fingerprint: str
    """Of model, questions, prompt and verifiers: answers of another evaluation are not mixed in."""

    def records(self) -> list[Record]:
        """What is there already; a line that was cut short is dropped.

        Raises:
            UserError: the file belongs to another evaluation.
        """
        if not self.path.is_file():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps({"evaluation": self.fingerprint}) + "\n")
            return []
        whole = self.path.read_text().rpartition("\n")[0]
        first, _, lines = whole.partition("\n")
        if first != json.dumps({"evaluation": self.fingerprint}):
            raise UserError(
                f"{self.path}: answers of another evaluation (model, questions or scoring differ); delete it, or choose another --to"
            )
        self.path.write_text(whole + "\n")
        return [_read(line) for line in lines.splitlines()]

    def add(self, records: Sequence[Record]) -> None:
        """Keep some more."""
        with self.path.open("a") as file:
            file.write("".join(map(_line, records)))

    def finish(self, records: Sequence[Record], path: Path) -> None:
        """Write the end result and remove what led there."""
        save(records, path)
        self.path.unlink()


def _read(line: str) -> Record:
    return Record(**json.loads(line))


def _line(record: Record) -> str:
    return json.dumps({name: getattr(record, name) for name in Record.__slots__}, ensure_ascii=False) + "\n"
