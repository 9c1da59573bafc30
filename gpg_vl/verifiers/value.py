"""Verify a value with roots, π, fractions and a unit: geometry, measuring, physics."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from gpg_vl.errors import shown
from gpg_vl.parsing import quantities, stated_numbers
from gpg_vl.parsing.quantities import Quantity
from gpg_vl.types import Sample
from gpg_vl.verifiers import published_rules
from gpg_vl.verifiers.base import Grade, RuleVerifier
from gpg_vl.verifiers.chance import largest_window_share

_read_truth = lru_cache(maxsize=8192)(quantities.read)


def check_no_range(sample: Sample) -> None:
    """Check that a truth is no range and no date, which would be read as a difference or quotient.

    Raises:
        ValueError: it may be one.
    """
    if quantities.may_be_range(str(sample.answer)):
        raise ValueError(
            f"answer {shown(sample.answer)} may be a range, a date or a difference; write "
            "answer_kind: label, which compares it as words, or the difference as one number"
        )


@dataclass(frozen=True, kw_only=True)
class Value(RuleVerifier):
    """1 when the answer is one value equal to the truth.

    `2√3`, `2\\sqrt{3}` and `3.464` are the same, and so are 50 cm and 0.5 m. A unit may be missing
    on either side; two units of different kinds (cm and cm²) are different answers. Reference mode
    is R1-V's GEOQA evaluator: math-verify on the whole completion.
    """

    tolerance: float = 1e-3
    """Largest allowed difference, relative to the larger of the two."""
    prose: bool = False
    """Leniently, read a value out of a longer text, too: "..., so the angle is 40°. The answer
    is 40." Off, because published figures count a value only inside the answer tags; a text that
    is one statement ("x = 10√3") is read either way."""
    whole: bool = True
    """Two whole numbers must be equal: 2017 is not 2016, whatever the tolerance."""
    any_of: ClassVar[bool] = True

    def grade(self, answer: str, sample: Sample) -> Grade:
        if self.mode == "strict":
            given = quantities.read(answer)
        else:
            given = stated_numbers.value(answer, prose=self.prose)
        if given is None:
            return Grade(0.0, answer, "unreadable: not one value")
        right = quantities.agree(given, self._truth(sample), self.tolerance, whole=self.whole)
        return Grade.of(right, f"{given.value:g}")

    def reference(self, text: str, sample: Sample) -> Grade:
        return published_rules.r1v_geoqa(text, str(sample.answer))

    def reference_answer(self, sample: Sample) -> str:
        check_no_range(sample)
        self._truth(sample)
        return str(sample.answer)

    def truth_value(self, sample: Sample) -> float:
        """Return the truth as a number, before its unit."""
        return self._truth(sample).value

    def chance_level(self, samples: Sequence[Sample]) -> float:
        """Compute the largest share of truths within the relative tolerance of one number."""
        truths = [(self.truth_value(one), place) for place, one in self.each_accepted(samples)]
        return largest_window_share(truths, len(samples), self._window)

    def _window(self, lowest: float, highest: float) -> float:
        return 2 * self.tolerance * max(abs(highest), abs(lowest))

    def _truth(self, sample: Sample) -> Quantity:
        truth = _read_truth(str(sample.answer))
        if truth is None:
            raise ValueError(
                f"answer {shown(sample.answer)} is not a value such as 12, 2√3, \\frac{{1}}{{2}} "
                "or 5 cm"
            )
        return truth
