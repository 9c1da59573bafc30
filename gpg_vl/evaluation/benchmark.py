"""Run a benchmark spec with a policy, score it with the verifiers of training, and say how sure the figures are.

Every question leaves a record: what was asked (as a digest), how, what was answered, what was read and what that earned. Figures, their
intervals and comparisons are made of records alone.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from gpg_vl.config.schema import BenchmarkSpec
from gpg_vl.evaluation.records import Record, Settings
from gpg_vl.prompts import Style
from gpg_vl.types import Completion, LeftOut, Sample, Verdict
from gpg_vl.verifiers.dispatch import VerifierSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """Everything needed to examine a policy."""

    spec: BenchmarkSpec
    questions: Sequence[Sample]
    style: Style
    checks: VerifierSet
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

    def shortened(self, head: int) -> "Benchmark":
        """Only the first `head` questions of each row of the table."""
        seen = Counter[str]()
        kept: list[Sample] = []
        for sample in self.questions:
            seen[self.tag(sample)] += 1
            if seen[self.tag(sample)] <= head:
                kept.append(sample)
        return replace(self, questions=kept)


def settings_of(spec: BenchmarkSpec) -> Settings:
    """What of a spec two evaluations ought to agree in, whoever answered."""
    return {"benchmark": spec.name, "mode": spec.mode}


def score_question(sample: Sample, best: Completion, others: Sequence[Completion], spec: BenchmarkSpec, checks: VerifierSet) -> Record:
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
