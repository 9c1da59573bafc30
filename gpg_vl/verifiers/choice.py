"""Choice among a closed set of options, by letter or by words."""

from dataclasses import dataclass
from typing import Literal

from gpg_vl.parsing import choices, markup
from gpg_vl.types import Sample
from gpg_vl.verifiers import published_rules
from gpg_vl.verifiers.base import Grade, RuleVerifier


@dataclass(frozen=True, kw_only=True)
class Choice(RuleVerifier):
    """1 for the right option, 0 for another, for none and for several.

    The closed set is the words of the options and their letters in the order of `choices`: A is the first. A letter means something only
    where the question showed the options in that order. Where it did not, and the order tells where the truth stands (always first, say), a
    policy could learn the letter: `letters: shown` then counts letters only where the question, or the truth itself, uses them.
    """

    letters: Literal["always", "shown"] = "always"
    """always | shown: only where the question letters its options, or the truth is a letter."""
    authors: published_rules.ChoiceRule = "mmmu"
    """Whose rule reference mode follows: mmmu | mmmu_pro | visual_thinker."""

    def mark(self, answer: str, sample: Sample) -> Grade:
        given = self._given(answer, sample)
        if given is None:
            return Grade(0.0, answer, "unreadable: names no option, or several")
        right = self._right(given, sample)
        return Grade(float(right), sample.choices[given], "right" if right else "wrong")

    def reference(self, text: str, sample: Sample) -> Grade:
        if self.authors == "visual_thinker":
            right = published_rules.visual_thinker_choice(text, str(sample.answer))
            return Grade(float(right), published_rules.reading(text), "right" if right else "wrong")
        given = published_rules.mmmu_choice(text, sample.choices, self.authors)
        if given is None:
            return Grade(0.0, "", "unreadable: the authors' rule draws an option at random here")
        right = self._right(given, sample)
        return Grade(float(right), sample.choices[given], "right" if right else "wrong")

    def gold(self, sample: Sample) -> str:
        truth = self._truth(sample)
        words = sample.choices[truth]
        return words if self._given(words, sample) == truth else chr(ord("A") + truth)  # "AA" and "aa" differ only by their letters

    def _given(self, answer: str, sample: Sample) -> int | None:
        if self.letters == "shown" and not lettered(sample):
            words = markup.normalise(markup.unwrapped(answer) if self.mode != "strict" else answer)
            named = [index for index, option in enumerate(sample.choices) if markup.normalise(option) == words]
            return named[0] if len(named) == 1 else None
        return choices.exact(answer, sample.choices) if self.mode == "strict" else choices.stated(answer, sample.choices)

    def _right(self, given: int, sample: Sample) -> bool:
        truth = self._truth(sample)
        return given == truth or sample.choices[given] == sample.choices[truth]  # published data repeat options

    def _truth(self, sample: Sample) -> int:
        truth = choices.exact(str(sample.answer), sample.choices)
        if truth is None and self.mode != "strict" and sample.answer in sample.choices:
            return sample.choices.index(sample.answer)
        if truth is None:
            raise ValueError(f"answer {sample.answer!r} is not one of the choices {list(sample.choices)}")
        return truth


def lettered(sample: Sample) -> bool:
    """Whether a letter means something to whoever reads the question."""
    letters = [chr(ord("A") + index) for index in range(len(sample.choices))]
    bare = str(sample.answer).strip(" ().").upper()
    return bare in letters or all(any(f"{letter}{mark}" in sample.question for mark in ").:") for letter in letters)
