"""A verifier: how good is an answer, and which answer is perfect?"""

from dataclasses import dataclass

from gpg_vl import Grade, RuleVerifier, Sample
from gpg_vl.parsing.numbers import number


@dataclass(frozen=True, kw_only=True)
class Near(RuleVerifier):
    """The full reward for the right number, half for a number that is close."""

    slack: float = 1.0
    """Largest difference that earns half."""

    def grade(self, answer: str, sample: Sample) -> Grade:
        given = number(answer)
        if given is None:
            return Grade(0.0, answer, "unreadable: not one number")
        off = abs(given - float(sample.answer))
        if off == 0:
            return Grade(1.0, answer, "right")
        return Grade(0.5 if off <= self.slack else 0.0, answer, "wrong")

    def reference_answer(self, sample: Sample) -> str:
        return str(sample.answer)
