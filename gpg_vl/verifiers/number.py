"""One number: counts, sums, measured values."""

from dataclasses import dataclass

from gpg_vl import answers, prose
from gpg_vl.types import Sample
from gpg_vl.verifiers import reference
from gpg_vl.verifiers.verifier import Graded, Mark


@dataclass(frozen=True, kw_only=True)
class Number(Graded):
    """1 when the answer is exactly one number within `tolerance` of the truth.

    Leniently, the number may be stated in words: "So, there are a total of 5 squares." Reference mode is R1-V's counting evaluator: a bare
    whole number between the answer tags. (Its reward in training has a symbolic stage before that, math-verify on the whole completion,
    which its evaluator has not.)
    """

    tolerance: float = 0.0
    """Largest allowed difference, absolute."""

    def mark(self, answer: str, sample: Sample) -> Mark:
        given = answers.number(answer) if self.mode == "strict" else prose.number(answer)
        if given is None:
            return Mark(0.0, answer, "unreadable: not one number")
        right = abs(given - self.truth_value(sample)) <= self.tolerance
        return Mark(float(right), f"{given:g}", "right" if right else "wrong")

    def reference(self, text: str, sample: Sample) -> Mark:
        given = reference.r1v_count(text)
        if given is None:
            return Mark(0.0, "", "unreadable: no whole number between answer tags")
        right = given == self.truth_value(sample)
        return Mark(float(right), str(given), "right" if right else "wrong")

    def gold(self, sample: Sample) -> str:
        self.truth_value(sample)
        return str(sample.answer)

    def truth_value(self, sample: Sample) -> float:
        """The truth as a number."""
        truth = answers.number(str(sample.answer))
        if truth is None:
            raise ValueError(f"answer {sample.answer!r} is not a number")
        return truth
