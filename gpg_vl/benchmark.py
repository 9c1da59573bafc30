"""Run a benchmark spec with a policy, score it with the verifiers of training, and say how sure the figures are.

The greedy accuracy of n questions comes with its 95 % interval (normal, on per-question scores), sampled accuracy with the interval over
questions, and two runs over the same questions with the interval of their paired difference.
"""

import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from PIL import Image

from gpg_vl.config import BenchmarkSpec
from gpg_vl.policy.encode import encode
from gpg_vl.policy.load import Policy
from gpg_vl.prompts import Style
from gpg_vl.rollout.engine import RolloutEngine, Sampling
from gpg_vl.seeds import seed as addressed_seed
from gpg_vl.types import Completion, Sample, UserError, Verdict
from gpg_vl.verifiers.verifier import Verifiers

Z95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and half the width of its 95 % interval."""

    mean: float
    margin: float
    count: int

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.mean - self.margin > 0

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * self.margin:.1f}"


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
        return sample.tags.get(self.spec.group_by, sample.answer_kind)

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
    examination: Examination, policy: Policy, engine: RolloutEngine, *, blank: bool = False, told: Callable[[int], None] = lambda done: None
) -> list[Record]:
    """Ask every question, greedily and `spec.samples` times.

    Args:
        blank: show grey pictures of the same size instead: what is left is guessing.
        told: called with the number of questions done so far.
    """
    records: list[Record] = []
    for start in range(0, len(examination.questions), QUESTIONS_AT_ONCE):
        batch = examination.questions[start : start + QUESTIONS_AT_ONCE]
        records += _ask([blanked(sample) for sample in batch] if blank else batch, examination, policy, engine)
        told(len(records))
    return records


def _ask(batch: Sequence[Sample], examination: Examination, policy: Policy, engine: RolloutEngine) -> list[Record]:
    spec = examination.spec
    prompts = [encode(sample, examination.style, policy) for sample in batch]
    sampling = Sampling(max_tokens=spec.max_tokens, temperature=spec.temperature)
    greedy = engine.generate(prompts, replace(sampling, greedy=True), [[0]] * len(batch))
    seeds = [[addressed_seed(examination.seed, "evaluate", sample.id, index) for index in range(spec.samples)] for sample in batch]
    sampled = engine.generate(prompts, sampling, seeds) if spec.samples else [[] for _ in batch]
    return [_record(sample, best[0], others, examination) for sample, best, others in zip(batch, greedy, sampled, strict=True)]


def _record(sample: Sample, best: Completion, others: list[Completion], examination: Examination) -> Record:
    verdict = examination.checks.judge(best, sample)
    return Record(
        id=sample.id,
        tag=examination.tag(sample),
        greedy=_accuracy(verdict),
        sampled=fmean(_accuracy(examination.checks.judge(other, sample)) for other in others) if others else math.nan,
        text=best.text,
        answer=verdict.answer,
        reason=verdict.reason,
        well_formed=verdict.parts.get("format", math.nan),
    )


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


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % margin of independent values (normal approximation, unbiased standard deviation)."""
    margin = Z95 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return Interval(mean=fmean(values), margin=margin, count=len(values))


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
    path.write_text("".join(json.dumps(_row(record), ensure_ascii=False) + "\n" for record in records))


def load(path: Path) -> list[Record]:
    """What `save` wrote."""
    return [Record(**json.loads(line)) for line in path.read_text().splitlines()]


def _row(record: Record) -> dict[str, Any]:
    return {field: getattr(record, field) for field in Record.__slots__}
