"""The verifier protocol, and the frame that most verifiers fill: the format belongs to the prompt style, the accuracy to the verifier."""

import math
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple, Protocol

from gpg_vl.answers import Mode, last_answer, only_answer
from gpg_vl.prompts import Style
from gpg_vl.types import Completion, Sample, Verdict


class Verifier(Protocol):
    """Scores one answer. Never raises on any text, is bounded in time and value.

    A hostile *answer* earns 0; a *fault* of the verifier earns NaN.
    """

    def __call__(self, text: str, sample: Sample) -> Verdict:
        """The verdict on a completion's text (special tokens kept, less the one final end id)."""
        ...


class MalformedTruthError(ValueError):
    """A truth that only shows when an answer is compared with it that nobody can score; its row is left out."""


class Mark(NamedTuple):
    """The accuracy of an answer."""

    accuracy: float
    """In [0, 1]."""
    answer: str
    """What was read."""
    reason: str
    """right | wrong | unreadable, and more words after a colon."""


@dataclass(frozen=True, kw_only=True)
class Graded(ABC):
    """Format by the style, accuracy by the subclass, one reward out of both.

    Subclasses write `mark` (how good is this answer?) and `gold` (the answer that earns full marks), and `reference` where authors
    published a rule whose figures are to be reproduced.
    """

    mode: Mode = "strict"
    """strict: the prompt style's grammar, for training | lenient: foreign answers, told apart from noise, their format not required |
    reference: the authors' rule, holes included."""

    style: Style = field(default_factory=Style)
    """Filled from `prompt:`."""
    combine: Literal["gate", "sum"] = "gate"
    """Filled from `reward:`."""
    accuracy_weight: float = 1.0
    """Filled from `reward:`."""
    format_weight: float = 0.0
    """Filled from `reward:`."""

    spelling_loss: ClassVar[float] = 1e-6
    """How much accuracy the spelling of a perfect answer may cost, for instance by rounding."""

    @abstractmethod
    def mark(self, answer: str, sample: Sample) -> Mark:
        """The accuracy of what stands inside the answer tags."""

    @abstractmethod
    def gold(self, sample: Sample) -> str:
        """An answer that earns full marks.

        Raises:
            ValueError: the sample's truth is not one this verifier can score; the sentence says why.
        """

    def reference(self, text: str, sample: Sample) -> Mark:
        """What the authors' code gives for a whole completion; here as lenient reading, where no such code is known."""
        return self.mark(last_answer(text), sample)

    def __call__(self, text: str, sample: Sample) -> Verdict:
        answer, problem = self.style.read(text)
        if self.mode != "strict":
            mark = self.reference(text, sample) if self.mode == "reference" else self.mark(last_answer(text), sample)
            return self._verdict(mark, 0.0 if problem else 1.0)
        if problem and self.combine == "gate":
            return Verdict(reward=0.0, parts={"accuracy": 0.0, "format": 0.0}, reason=f"malformed: {problem}")
        mark = self.mark(only_answer(text) if problem else answer, sample)
        return self._verdict(mark, 0.0 if problem else 1.0)

    def unfinished(self, text: str, sample: Sample) -> Verdict:
        """The verdict on a text that ran into the length limit: its accuracy may count, its format never does."""
        answer = only_answer(text) if self.mode == "strict" else last_answer(text)
        return self._verdict(self.mark(answer, sample), 0.0)

    def _verdict(self, mark: Mark, well_formed: float) -> Verdict:
        gated = self.combine == "gate" and self.mode == "strict"
        counted = mark.accuracy * well_formed if gated else mark.accuracy
        reward = self.accuracy_weight * counted + self.format_weight * well_formed
        return Verdict(reward=reward, parts={"accuracy": mark.accuracy, "format": well_formed}, answer=mark.answer, reason=mark.reason)


@dataclass(frozen=True, kw_only=True)
class Verifiers:
    """One verifier per answer kind, behind one call."""

    by_kind: Mapping[str, Verifier]
    """answer_kind -> verifier."""
    truncated: Literal["zero", "score", "drop"] = "zero"
    """What a completion that ran into the length limit earns."""
    whole: bool = False
    """Whether a text is scored as it stands, wherever it ended: readings that require no format do not ask how it came to its end."""

    def __call__(self, text: str, sample: Sample) -> Verdict:
        return self.by_kind[sample.answer_kind](text, sample)

    def in_mode(self, mode: Mode) -> "Verifiers":
        """The same verifiers reading in another way; those of another make stay as they are.

        Only the strict reading looks at how a text ended: published evaluations score what was decoded.
        """
        by_kind = {kind: _in_mode(verifier, mode) for kind, verifier in self.by_kind.items()}
        return replace(self, by_kind=by_kind, whole=mode != "strict")

    def judge(self, completion: Completion, sample: Sample) -> Verdict:
        """The verdict on a completion, its unfinished end and the verifier's own faults included."""
        try:
            return self._judge(completion, sample)
        except Exception as fault:  # a plug-in's bug must not end the run: NaN, counted, and told in the reason
            trace = "".join(traceback.format_exception(fault))
            return Verdict(reward=math.nan, reason=f"fault: {type(fault).__name__}: {fault}\n{trace}")

    def _judge(self, completion: Completion, sample: Sample) -> Verdict:
        if completion.finish == "stop" or self.whole:
            return self(completion.text, sample)
        if self.truncated == "score":
            verifier = self.by_kind[sample.answer_kind]
            unfinished = getattr(verifier, "unfinished", verifier)
            return unfinished(completion.text, sample)
        return Verdict(reward=math.nan if self.truncated == "drop" else 0.0, parts={"accuracy": 0.0, "format": 0.0}, reason="truncated")

    def complaint(self, sample: Sample) -> str:
        """Why a sample cannot be trained on: its own gold answer does not earn full marks. Empty = fine."""
        verifier = self.by_kind.get(sample.answer_kind)
        if verifier is None:
            return f"answer_kind {sample.answer_kind!r} has no verifier; known: {', '.join(sorted(self.by_kind))}"
        if not isinstance(verifier, Graded):
            return ""
        try:
            gold = (replace(verifier, mode="lenient") if verifier.mode == "reference" else verifier).gold(sample)
        except ValueError as error:
            return str(error)
        try:
            return self.complaint_about(verifier.style.write(gold, thought="gold"), sample)
        except MalformedTruthError as error:
            return str(error)

    def complaint_about(self, text: str, sample: Sample) -> str:
        """Why a text that ought to be perfect is not; empty = it earns full marks."""
        verifier = self.by_kind[sample.answer_kind]
        if not isinstance(verifier, Graded):
            return ""
        if verifier.mode == "reference":  # the truth must be sound, whatever the authors' rule makes of our spelling of it
            verifier = replace(verifier, mode="lenient")
        verdict, full = verifier(text, sample), verifier.accuracy_weight + verifier.format_weight
        enough = full - verifier.spelling_loss * verifier.accuracy_weight
        return "" if verdict.reward >= enough else f"its own answer {text!r} earns {verdict.reward:.3g} of {full:.3g} ({verdict.reason})"


def _in_mode(verifier: Verifier, mode: Mode) -> Verifier:
    return replace(verifier, mode=mode) if isinstance(verifier, Graded) else verifier
