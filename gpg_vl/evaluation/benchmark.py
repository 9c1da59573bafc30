"""Define a benchmark that is ready to be asked, and score the answers to one question.

Every question leaves a record: its digest, how it was asked, what was answered, what was read out
of the answer and what that earned. Figures, intervals and comparisons are made of records alone.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from statistics import fmean

from gpg_vl import __version__
from gpg_vl.config.schema import BenchmarkSpec
from gpg_vl.errors import one_line
from gpg_vl.evaluation.records import Record, Settings
from gpg_vl.prompts import ALIASES, Style
from gpg_vl.run_folder import content_name, image_name, rounded_boxes
from gpg_vl.types import Completion, LeftOut, Sample, Verdict
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.format_advice import Answer, Knobs, format_advice


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Held-out questions with the prompt style that asks them and the verifiers that score them."""

    spec: BenchmarkSpec
    questions: Sequence[Sample]
    style: Style
    verifiers: VerifierSet
    seed: int
    """Seed of the run; addresses the sampled answers."""
    left_out: Sequence[LeftOut] = ()
    """Questions that cannot be scored or asked, and rows that a recipe leaves out."""
    unasked: Sequence[Sample] = ()
    """Questions that could not be asked: no figure counts them."""

    @property
    def missing(self) -> str:
        """Sentence on what is left out; empty = nothing is."""
        if not self.left_out:
            return ""
        first, verb = self.left_out[0], " is" if len(self.left_out) == 1 else "s are"
        return (
            f"{self.spec.name}: {len(self.left_out)} question{verb} left out, "
            f"{len(self.questions)} are asked; {one_line(first.id)}: {first.why}"
        )

    @property
    def not_asked(self) -> str:
        """Sentence on the questions that could not be asked; empty = all could."""
        if not self.unasked:
            return ""
        count, first = len(self.unasked), self.left_out[-len(self.unasked)]
        return (
            f"{self.spec.name}: {count} of {len(self.questions) + count} questions could not be "
            f"asked, the figures are over the other {len(self.questions)}; {one_line(first.id)}: "
            f"{first.why}"
        )

    @cached_property
    def repeated_ids(self) -> set[str]:
        """Ids that questions of several sources have in common."""
        times = Counter(sample.id for sample in self.questions)
        return {name for name, count in times.items() if count > 1}

    def tag(self, sample: Sample) -> str:
        """Return the row of the table that a question counts in."""
        return sample.tags.get(self.spec.group_by, sample.answer_kind)

    def shortened(self, head: int) -> "Benchmark":
        """Return the benchmark with only the first `head` questions of each row of the table."""
        seen = Counter[str]()
        questions: list[Sample] = []
        for sample in self.questions:
            seen[self.tag(sample)] += 1
            if seen[self.tag(sample)] <= head:
                questions.append(sample)
        return replace(self, questions=questions)

    def without(self, unusable: Sequence[LeftOut]) -> "Benchmark":
        """Return the benchmark without the questions that could not be asked."""
        names = {(row.source, row.id) for row in unusable}
        asked: list[Sample] = []
        unasked: list[Sample] = []
        for sample in self.questions:
            is_unusable = (sample.source, sample.id) in names
            (unasked if is_unusable else asked).append(sample)
        left_out = *self.left_out, *unusable
        return replace(self, questions=asked, left_out=left_out, unasked=unasked)

    def score(self, sample: Sample, greedy: Completion, sampled: Sequence[Completion]) -> Record:
        """Score the greedy answer and the sampled answers to one question."""
        verdict = self.verifiers.judge(greedy, sample)
        sampled_verdicts = [self.verifiers.judge(completion, sample) for completion in sampled]
        sampled_accuracies = [_accuracy(judged) for judged in sampled_verdicts]
        judged = [verdict, *sampled_verdicts]
        beside = math.nan
        if self.spec.beside:
            second_reading = self.verifiers.in_mode(self.spec.beside).judge(greedy, sample)
            judged.append(second_reading)
            beside = _accuracy(second_reading)
        contents = _contents(sample)
        truths = self.verifiers.true_boxes(sample)
        return Record(
            id=sample.id,
            source=sample.source,
            tag=self.tag(sample),
            question=sample.question,
            context=sample.context,
            choices=sample.choices,
            letters=sample.letters,
            kind=sample.answer_kind,
            truth=sample.answer,
            frame=sample.frame,
            images=_image_names(sample),
            picture_names=_content_names(contents),
            sizes=sample.sizes,
            boxed_image=0 if truths is None else max(sample.answer_image, 1),
            truth_pixels=rounded_boxes(truths or ()),
            boxes_pixels=() if truths is None else rounded_boxes(verdict.boxes),
            greedy=_accuracy(verdict),
            sampled=fmean(sampled_accuracies) if sampled_accuracies else math.nan,
            text=greedy.text,
            finish=greedy.finish,
            answer=verdict.answer,
            reason=verdict.reason,
            well_formed=verdict.parts.get("format", math.nan),
            beside=beside,
            each=sampled_accuracies,
            texts=[completion.text for completion in sampled],
            tags=sample.tags,
            digest=self._digest_of(sample),
            pictures=_pictures_digest(contents),
            fault=_first_verifier_error(judged),
        )

    def format_advice(
        self, records: Sequence[Record], prefix: str = "", *, is_trained: bool = False
    ) -> str:
        """Return why nearly all greedy answers are malformed and what to do; empty = they are not.

        Args:
            prefix: what a user writes before the knobs of the benchmark, for instance `benchmark.`.
            is_trained: the answers are those of a run in progress, which has the knobs in a file.
        """
        by_key = {(sample.source, sample.id): sample for sample in self.questions}
        answers: list[Answer] = []
        for record in records:
            completion = Completion(
                token_ids=(), logprobs=(), text=record.text, finish=record.finish, version=0
            )
            answers.append(Answer(completion, by_key[record.key], record.well_formed))
        knobs = Knobs(
            max_tokens=f"{prefix}max_tokens (now {self.spec.max_tokens})",
            prompt=f"{prefix}prompt",
            mode=f"{prefix}mode=lenient",
            where=f" in the file of the benchmark {self.spec.name}" if is_trained else "",
            trains=is_trained,
        )
        advice = format_advice(answers, self.verifiers, knobs)
        return f"{self.spec.name}: {advice}" if advice else ""

    def _digest_of(self, sample: Sample) -> str:
        """Return a digest of a question; where its id names several, of its source and id too."""
        parts = [_question_bytes(sample)]
        if sample.id in self.repeated_ids:
            parts.append(f"{sample.source}\n{sample.id}".encode("utf-8", "surrogatepass"))
        return _digest(*parts)


def settings_of(spec: BenchmarkSpec) -> Settings:
    """Return the settings in which two evaluations should agree, whoever answered."""
    return {"benchmark": spec.name, "mode": spec.mode}


def style_settings(style: Style) -> Settings:
    """Return the prompt style by name, and each of its knobs.

    Example:
        {"prompt": "answer", "prompt.think": "absent", "prompt.instruction": "", ...}
    """
    kind = type(style)
    path = f"{kind.__module__}:{kind.__qualname__}"
    names = {path: name for name, path in ALIASES.items()}
    settings: dict[str, str | int | float | bool] = {"prompt": names.get(path, path)}
    for knob in fields(style):
        value = getattr(style, knob.name)
        if isinstance(value, str | int | float | bool):
            settings[f"prompt.{knob.name}"] = value
    return settings


def facts_of(**facts: str | float) -> Settings:
    """Return facts of an evaluation that begins now, with this version and the time in UTC."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return {**facts, "gpg_vl": __version__, "time": started}


def _image_names(sample: Sample) -> list[str]:
    """Return the path of each picture, or a name made of its content if it lies inside the data."""
    names: list[str] = []
    for image in sample.images:
        names.append(image_name(image) if isinstance(image, bytes) else str(image))
    return names


def _accuracy(verdict: Verdict) -> float:
    """Return 0 for a question whose verifier failed; the reason of the record says so."""
    return verdict.reward if math.isfinite(verdict.reward) else 0.0


def _first_verifier_error(verdicts: Sequence[Verdict]) -> str:
    for verdict in verdicts:
        if verdict.verifier_error:
            return verdict.verifier_error
    return ""


def _question_bytes(sample: Sample) -> bytes:
    """Return what makes two questions the same: words, true answer, options, frame."""
    content = (
        *(sample.question, sample.answer_kind, sample.answer, sample.choices, sample.frame),
        # fields that older records do not know count only where they are set
        *(value for value in (sample.context, sample.letters, sample.answer_image) if value),
    )
    return json.dumps(content, default=str, sort_keys=True).encode()


def _contents(sample: Sample) -> list[bytes | None]:
    """Return the content of each image; None = it has vanished.

    A grey picture of its size can be shown all the same, a recorded answer be scored.
    """
    contents: list[bytes | None] = []
    for image in sample.images:
        try:
            contents.append(image.read_bytes() if isinstance(image, Path) else image)
        except OSError:
            contents.append(None)
    return contents


def _content_names(contents: Sequence[bytes | None]) -> list[str]:
    """Return the name that is made of the content of each image; empty = it has vanished."""
    return ["" if content is None else content_name(content) for content in contents]


def _pictures_digest(contents: Sequence[bytes | None]) -> str:
    """Return a digest of the images; empty = there are none, or one of them has vanished."""
    known = [content for content in contents if content is not None]
    if not known or len(known) < len(contents):
        return ""
    return _digest(*known)


def _digest(*parts: bytes) -> str:
    hashes = b"".join(hashlib.sha256(part).digest() for part in parts)
    return hashlib.sha256(hashes).hexdigest()[:16]
