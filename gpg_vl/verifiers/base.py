"""The verifier protocol, and the frame that most verifiers fill: the format belongs to the prompt style, the accuracy to the verifier."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple, Protocol

from gpg_vl.parsing.markup import last_answer, only_answer
from gpg_vl.prompts import Style
from gpg_vl.types import Mode, Sample, Verdict


class Verifier(Protocol):
    """Scores one answer. Never raises on any text, is bounded in time and value.

    A hostile *answer* earns 0; a *fault* of the verifier earns NaN.
    """

    def __call__(self, text: str, sample: Sample) -> Verdict:
        """The verdict on a completion's text (special tokens kept, less the one final end id)."""
        ...


class MalformedTruthError(ValueError):
    """A truth that only shows when an answer is compared with it that nobody can score; its row is left out."""


class Grade(NamedTuple):
    """The accuracy of an answer."""

    accuracy: float
    """In [0, 1]."""
    answer: str
    """What was read."""
    reason: str
    """right | wrong | unreadable, and more words after a colon."""


@dataclass(frozen=True, kw_only=True)
class RuleVerifier(ABC):
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
    def mark(self, answer: str, sample: Sample) -> Grade:
        """The accuracy of what stands inside the answer tags."""

    @abstractmethod
    def gold(self, sample: Sample) -> str:
        """An answer that earns full marks.

        Raises:
            ValueError: the sample's truth is not one this verifier can score; the sentence says why.
        """

    def reference(self, text: str, sample: Sample) -> Grade:
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

    def _verdict(self, mark: Grade, well_formed: float) -> Verdict:
        gated = self.combine == "gate" and self.mode == "strict"
        counted = mark.accuracy * well_formed if gated else mark.accuracy
        reward = self.accuracy_weight * counted + self.format_weight * well_formed
        return Verdict(reward=reward, parts={"accuracy": mark.accuracy, "format": well_formed}, answer=mark.answer, reason=mark.reason)
