"""Verify one number: counts, sums, measured values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from gpg_vl.errors import shown
from gpg_vl.parsing import numbers, stated_numbers
from gpg_vl.types import Sample
from gpg_vl.verifiers import published_rules
from gpg_vl.verifiers.base import Grade, RuleVerifier
from gpg_vl.verifiers.chance import largest_window_share


@dataclass(frozen=True, kw_only=True)
class Number(RuleVerifier):
    """1 when the answer is exactly one number within `tolerance` of the truth.

    Leniently, the number may stand in a sentence: "So, there are a total of 5 squares." Reference
    mode is R1-V's counting evaluator: a bare whole number between the answer tags. (Its reward in
    training has a symbolic stage before that, math-verify on the whole completion, which its
    evaluator has not.)
    """

    tolerance: float = 0.0
    """Largest allowed difference, absolute."""
    any_of: ClassVar[bool] = True

    def grade(self, answer: str, sample: Sample) -> Grade:
        read = numbers.number if self.mode == "strict" else stated_numbers.number
        given = read(answer)
        if given is None:
            return Grade(0.0, answer, "unreadable: not one number")
        right = abs(given - self.truth_value(sample)) <= self.tolerance
        return Grade.of(right, f"{given:g}")

    def reference(self, text: str, sample: Sample) -> Grade:
        given = published_rules.r1v_count(text)
        if given is None:
            return Grade(0.0, "", "unreadable: no whole number between answer tags")
        return Grade.of(given == self.truth_value(sample), str(given))

    def reference_answer(self, sample: Sample) -> str:
        self.truth_value(sample)
        return str(sample.answer)

    def truth_value(self, sample: Sample) -> float:
        """Return the truth as a number."""
        truth = numbers.number(str(sample.answer))
        if truth is None:
            raise ValueError(f"answer {shown(sample.answer)} is not a number")
        return truth

    def chance_level(self, samples: Sequence[Sample]) -> float:
        """Compute the largest share of truths within the tolerance of one number."""
        truths = [(self.truth_value(one), place) for place, one in self.each_accepted(samples)]
        return largest_window_share(
            truths, len(samples), lambda lowest, highest: 2 * self.tolerance
        )
