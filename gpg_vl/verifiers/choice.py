"""Choice among a closed set of options, by letter or by words."""

from dataclasses import dataclass

from gpg_vl import answers
from gpg_vl.types import Sample
from gpg_vl.verifiers.verifier import Graded, Mark


@dataclass(frozen=True, kw_only=True)
class Choice(Graded):
    """1 for the right option, 0 for another, for none and for several."""

    def mark(self, answer: str, sample: Sample) -> Mark:
        given = answers.choice(answer, sample.choices)
        if given is None:
            return Mark(0.0, answer, "unreadable: names no option, or several")
        right = given == self._truth(sample)
        return Mark(float(right), sample.choices[given], "right" if right else "wrong")

    def gold(self, sample: Sample) -> str:
        return sample.choices[self._truth(sample)]

    def _truth(self, sample: Sample) -> int:
        truth = answers.choice(str(sample.answer), sample.choices)
        if truth is None:
            raise ValueError(f"answer {sample.answer!r} is not one of the choices {list(sample.choices)}")
        return truth
