"""Define the verifier protocol, and the base class of most verifiers.

The format of an answer belongs to the prompt style, its accuracy to the verifier.
"""

import math
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from numbers import Number
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, cast

from gpg_vl.errors import UserError, shown
from gpg_vl.parsing.markup import last_answer, only_answer
from gpg_vl.prompts import Style
from gpg_vl.types import Corners, Mode, Sample, Verdict
from gpg_vl.verifiers.chance import largest_share

ROUNDING = 1e-9
"""Accuracy above 1 that a sum of rounded parts may have."""


class Verifier(Protocol):
    """Scores one answer. Never raises on any text, is bounded in time and value.

    A hostile *answer* earns 0; an *error* of the verifier earns NaN.
    """

    def __call__(self, text: str, sample: Sample) -> Verdict:
        """Score the text of a completion (special tokens kept, without the one final end token)."""
        ...


class MalformedTruthError(ValueError):
    """A reference answer that turns out to be unreadable only when an answer is compared with it.

    Its row is left out.
    """


def fault(error: Exception) -> Verdict:
    """Return the verdict of an answer on which a verifier failed: NaN, with the error's trace.

    An error of a verifier or of the row is counted and reported; it is never the answer's.
    """
    trace = "".join(traceback.format_exception(error))
    return Verdict(reward=math.nan, reason=f"fault: {type(error).__name__}: {error}\n{trace}")


class Grade(NamedTuple):
    """The accuracy of an answer."""

    accuracy: float
    """Accuracy in [0, 1]."""
    answer: str
    """The answer as it was read."""
    reason: str
    """right | wrong | unreadable, and more words after a colon."""
    boxes: tuple[Corners, ...] = ()
    """Boxes of the answer that were scored, in pixels of the picture."""

    @classmethod
    def of(cls, right: bool, answer: str) -> "Grade":
        """Return the grade of an answer that is right or wrong, with nothing between."""
        return cls(float(right), answer, right_or_wrong(right))


def _checked(grade: Any) -> Grade:
    """Return what `grade` of a subclass returned.

    Raises:
        TypeError: it is no grade, or its accuracy is not in [0, 1] but for rounding; the message
            says what it is.
    """
    if not isinstance(grade, Grade):
        raise TypeError(f"grade returned {shown(grade)}, expected Grade(accuracy, answer, reason)")
    if not 0 <= grade.accuracy <= 1 + ROUNDING:  # also NaN
        raise TypeError(f"grade returned accuracy {shown(grade.accuracy)}, expected 0 to 1")
    return grade


def right_or_wrong(right: bool) -> str:
    """Return the first word of a grade's reason."""
    return "right" if right else "wrong"


@dataclass(frozen=True, kw_only=True)
class RuleVerifier(ABC):
    """Computes one reward from the format, checked by the style, and the accuracy.

    Subclasses write `grade` (the accuracy of an answer) and `reference_answer` (the answer that
    earns the full reward), and `reference` where authors published a rule whose figures are to be
    reproduced. Callers ask `perfect_answer`, which knows truths that are lists of accepted
    answers. For the exploit suite, a subclass may also write `constant_answers`, `chance_level`,
    `whole_image_accuracy` and `every_option_accuracy`.
    """

    mode: Mode = "strict"
    """strict: the format of the prompt style, for training | lenient: answers of models that were
    not trained on the format | reference: the authors' published rule, with its errors."""

    style: Style = field(default_factory=Style)
    """Filled from `prompt:`."""
    combine: Literal["gate", "sum"] = "gate"
    """Filled from `reward:`."""
    accuracy_weight: float = 1.0
    """Filled from `reward:`."""
    format_weight: float = 0.0
    """Filled from `reward:`."""

    spelling_loss: ClassVar[float] = 1e-6
    """Accuracy that a perfect answer may lose through its spelling, for instance by rounding."""
    any_of: ClassVar[bool] = False
    """True where the truth is one text or number, and a list of them holds several accepted
    answers: `grade`, `reference` and `reference_answer` are then called for each one alone."""

    @abstractmethod
    def grade(self, answer: str, sample: Sample) -> Grade:
        """Compute the accuracy of the text inside the answer tags."""

    @abstractmethod
    def reference_answer(self, sample: Sample) -> str:
        """Return an answer that earns the full reward.

        Raises:
            ValueError: this verifier cannot score the sample's truth; the message gives the reason.
        """

    def reference(self, text: str, sample: Sample) -> Grade:
        """Compute what the authors' code gives for a whole completion.

        Read leniently where no such code is known.
        """
        return self.grade(last_answer(text), sample)

    def __call__(self, text: str, sample: Sample) -> Verdict:
        try:
            return self.verdict_of(text, sample)
        except UserError:  # something that only the user can mend: math-verify is not installed
            raise
        except Exception as error:  # the row's truth cannot be read, or `grade` has a bug
            return fault(error)

    def verdict_of(self, text: str, sample: Sample) -> Verdict:
        """Score a text as calling the verifier does, but raise what goes wrong.

        Raises:
            ValueError: the sample's truth cannot be scored; the message gives the reason.
        """
        answer, problem = self.style.read(text)
        well_formed = 0.0 if problem else 1.0
        if self.mode == "reference":
            return self._verdict(self._best(self.reference, text, sample), well_formed)
        if self.mode == "lenient":
            return self._verdict(self._best(self.grade, last_answer(text), sample), well_formed)
        if problem and self.combine == "gate":
            return Verdict(
                reward=0.0, parts={"accuracy": 0.0, "format": 0.0}, reason=f"malformed: {problem}"
            )
        if problem:
            # the rewards are summed, so that the accuracy counts without the format
            answer = only_answer(text)
        return self._verdict(self._best(self.grade, answer, sample), well_formed)

    def unfinished(self, text: str, sample: Sample) -> Verdict:
        """Score a text that ran into the length limit.

        Its accuracy may count, its format never does.
        """
        answer = only_answer(text) if self.mode == "strict" else last_answer(text)
        return self._verdict(self._best(self.grade, answer, sample), 0.0)

    def _verdict(self, grade: Grade, well_formed: float) -> Verdict:
        """Combine accuracy and format to a reward.

        Args:
            grade: the accuracy of the answer.
            well_formed: 1 where the text follows the format, else 0.
        """
        gated = self.combine == "gate" and self.mode == "strict"
        accuracy = grade.accuracy * well_formed if gated else grade.accuracy
        reward = self.accuracy_weight * accuracy + self.format_weight * well_formed
        return Verdict(
            reward=reward,
            parts={"accuracy": grade.accuracy, "format": well_formed},
            answer=grade.answer,
            reason=grade.reason,
            boxes=grade.boxes,
        )

    def true_boxes(self, sample: Sample) -> Sequence[Corners] | None:
        """Return the true boxes in pixels of the picture, to draw them; None = there are none.

        Raises:
            ValueError: this verifier cannot score the sample's truth.
        """
        del sample
        return None

    # --- several accepted answers -----------------------------------------------------------------

    def accepted(self, sample: Sample) -> list[Sample]:
        """Return the sample once for each accepted truth that this verifier can read.

        Raises:
            ValueError: it can read none of them; the message gives the reason for the first.
        """
        if not self.any_of:
            return [sample]
        truths: Any = sample.answer
        if not isinstance(truths, list | tuple):
            _check_truth(truths)
            return [sample]
        readable: list[Sample] = []
        errors: list[ValueError] = []
        for truth in cast(Sequence[Any], truths):
            try:
                _check_truth(truth)
                one = self.with_truth(sample, truth)
                self.reference_answer(one)
            except ValueError as error:
                errors.append(error)
            else:
                readable.append(one)
        if not readable:
            raise errors[0] if errors else ValueError("answer [] is a list without an answer")
        return readable

    def with_truth(self, sample: Sample, truth: Any) -> Sample:
        """Return the sample with one of its accepted truths."""
        return replace(sample, answer=truth)

    def each_accepted(self, samples: Sequence[Sample]) -> Iterator[tuple[int, Sample]]:
        """Yield (place of a sample, the sample with one of its accepted truths)."""
        for place, sample in enumerate(samples):
            for one in self.accepted(sample):
                yield place, one

    def perfect_answers(self, sample: Sample) -> list[str]:
        """Return the answers that earn the full reward, one for each accepted truth.

        Raises:
            ValueError: as in `reference_answer`.
        """
        return [self.reference_answer(one) for one in self.accepted(sample)]

    def perfect_answer(self, sample: Sample) -> str:
        """Return the answer of `reference_answer` for the first accepted truth.

        Raises:
            ValueError: as in `reference_answer`.
        """
        return self.perfect_answers(sample)[0]

    def _best(self, grade_of: Callable[[str, Sample], Grade], text: str, sample: Sample) -> Grade:
        """Return the best grade of a text over the accepted truths."""
        best: Grade | None = None
        malformed: MalformedTruthError | None = None
        for one in self.accepted(sample):
            try:
                grade = _checked(grade_of(text, one))
            except MalformedTruthError as error:
                malformed = malformed or error
                continue
            if best is None or grade.accuracy > best.accuracy:
                best = grade
        if best is not None:
            return best
        assert malformed is not None
        raise malformed

    # --- the exploit suite ------------------------------------------------------------------------

    def constant_answers(self, samples: Sequence[Sample]) -> list[str]:
        """Return constant answers to try on a data set, beside its reference answers."""
        del samples
        return []

    def chance_level(self, samples: Sequence[Sample]) -> float:
        """Compute the best mean accuracy of one constant answer, from the truths alone."""
        answers = {
            (place, self.reference_answer(one).casefold())
            for place, one in self.each_accepted(samples)
        }
        return largest_share([answer for _, answer in answers], len(samples))

    def whole_image_accuracy(self, sample: Sample) -> float:
        """Return the accuracy that the box around the whole image may have as an answer."""
        del sample
        return 0.0

    def every_option_accuracy(self, sample: Sample) -> float:
        """Return the accuracy that an answer with every option may have."""
        del sample
        return 0.0


def _check_truth(truth: Any) -> None:
    """Check that a truth is one text or number."""
    is_finite = not isinstance(truth, float) or math.isfinite(truth)
    if isinstance(truth, bool) or not isinstance(truth, str | Number) or not is_finite:
        raise ValueError(f"answer {shown(truth)} is not a text or a number")
