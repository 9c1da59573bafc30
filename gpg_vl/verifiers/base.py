"""Define the verifier protocol, and the base class of most verifiers.

The format of an answer belongs to the prompt style, its accuracy to the verifier.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple, Protocol

from gpg_vl.parsing.markup import last_answer, only_answer
from gpg_vl.prompts import Style
from gpg_vl.types import Mode, Sample, Verdict
from gpg_vl.verifiers.chance import largest_share


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


class Grade(NamedTuple):
    """The accuracy of an answer."""

    accuracy: float
    """Accuracy in [0, 1]."""
    answer: str
    """The answer as it was read."""
    reason: str
    """right | wrong | unreadable, and more words after a colon."""

    @classmethod
    def of(cls, right: bool, answer: str) -> "Grade":
        """Return the grade of an answer that is right or wrong, with nothing between."""
        return cls(float(right), answer, right_or_wrong(right))


def right_or_wrong(right: bool) -> str:
    """Return the first word of a grade's reason."""
    return "right" if right else "wrong"


@dataclass(frozen=True, kw_only=True)
class RuleVerifier(ABC):
    """Computes one reward from the format, checked by the style, and the accuracy.

    Subclasses write `grade` (the accuracy of an answer) and `reference_answer` (the answer that
    earns the full reward), and `reference` where authors published a rule whose figures are to be
    reproduced. For the exploit suite, a subclass may also write `constant_answers`, `chance_level`
    and `whole_image_accuracy`.
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
        answer, problem = self.style.read(text)
        well_formed = 0.0 if problem else 1.0
        if self.mode == "reference":
            return self._verdict(self.reference(text, sample), well_formed)
        if self.mode == "lenient":
            return self._verdict(self.grade(last_answer(text), sample), well_formed)
        if problem and self.combine == "gate":
            return Verdict(
                reward=0.0, parts={"accuracy": 0.0, "format": 0.0}, reason=f"malformed: {problem}"
            )
        if problem:
            # the rewards are summed, so that the accuracy counts without the format
            answer = only_answer(text)
        return self._verdict(self.grade(answer, sample), well_formed)

    def unfinished(self, text: str, sample: Sample) -> Verdict:
        """Score a text that ran into the length limit.

        Its accuracy may count, its format never does.
        """
        answer = only_answer(text) if self.mode == "strict" else last_answer(text)
        return self._verdict(self.grade(answer, sample), 0.0)

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
        )

    # --- the exploit suite ------------------------------------------------------------------------

    def constant_answers(self, samples: Sequence[Sample]) -> list[str]:
        """Return constant answers to try on a data set, beside its reference answers."""
        del samples
        return []

    def chance_level(self, samples: Sequence[Sample]) -> float:
        """Compute the best mean accuracy of one constant answer, from the truths alone."""
        answers = [self.reference_answer(sample).casefold() for sample in samples]
        return largest_share(answers, len(samples))

    def whole_image_accuracy(self, sample: Sample) -> float:
        """Return the accuracy that the box around the whole image may have as an answer."""
        del sample
        return 0.0
