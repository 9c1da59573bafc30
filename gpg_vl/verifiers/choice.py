"""Verify a choice among a closed set of options, by letter or by words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from gpg_vl.parsing import choices, markup
from gpg_vl.types import Sample
from gpg_vl.verifiers import published_rules
from gpg_vl.verifiers.base import Grade, RuleVerifier
from gpg_vl.verifiers.chance import largest_share


@dataclass(frozen=True, kw_only=True)
class Choice(RuleVerifier):
    """1 for the right option, 0 for another, for none and for several.

    The closed set is the words of the options and their letters in the order of `choices`: A is the
    first. A letter means something only where the question showed the options in that order. Where
    it did not, and the order reveals the truth (always first, say), a policy could learn the
    letter: `letters: shown` then counts letters only where the question, or the truth itself, uses
    them.
    """

    letters: Literal["always", "shown"] = "always"
    """always | shown: only where the question letters its options, or the truth is a letter."""
    authors: published_rules.ChoiceRule = "mmmu"
    """Authors whose rule reference mode follows: mmmu | mmmu_pro | visual_thinker."""

    def grade(self, answer: str, sample: Sample) -> Grade:
        given = self._given(answer, sample)
        if given is None:
            return Grade(0.0, answer, "unreadable: names no option, or several")
        return self._grade_option(given, sample)

    def reference(self, text: str, sample: Sample) -> Grade:
        if self.authors == "visual_thinker":
            right = published_rules.visual_thinker_choice(text, str(sample.answer))
            return Grade.of(right, published_rules.reading(text))
        given = published_rules.mmmu_choice(text, sample.choices, self.authors)
        if given is None:
            return Grade(0.0, "", "unreadable: the authors' rule draws an option at random here")
        return self._grade_option(given, sample)

    def reference_answer(self, sample: Sample) -> str:
        truth = self._truth(sample)
        words = sample.choices[truth]
        if self._given(words, sample) == truth:
            return words
        # the words of "AA" and "aa" are the same without case; their letters differ
        return choices.letter_of(truth)

    def _grade_option(self, given: int, sample: Sample) -> Grade:
        return Grade.of(self._is_right(given, sample), sample.choices[given])

    def _given(self, answer: str, sample: Sample) -> int | None:
        """Return the index of the option that an answer names; None for none or several."""
        if self.letters == "shown" and not lettered(sample):
            if self.mode != "strict":
                answer = markup.unwrapped(answer)
            return markup.agreed(choices.same_words(answer, sample.choices))
        if self.mode == "strict":
            return choices.exact(answer, sample.choices)
        return choices.stated(answer, sample.choices)

    def _is_right(self, given: int, sample: Sample) -> bool:
        truth = self._truth(sample)
        # published data repeat options: either index of the same words is right
        return given == truth or sample.choices[given] == sample.choices[truth]

    def _truth(self, sample: Sample) -> int:
        truth = choices.exact(str(sample.answer), sample.choices)
        if truth is not None:
            return truth
        if self.mode != "strict" and sample.answer in sample.choices:
            return sample.choices.index(sample.answer)
        raise ValueError(
            f"answer {sample.answer!r} is not one of the choices {list(sample.choices)}"
        )

    # --- the exploit suite ------------------------------------------------------------------------

    def constant_answers(self, samples: Sequence[Sample]) -> list[str]:
        """Return the letters of all options."""
        largest_set = max(len(sample.choices) for sample in samples)
        count = min(choices.MAX_LETTERS, largest_set)
        return [choices.letter_of(index) for index in range(count)]

    def chance_level(self, samples: Sequence[Sample]) -> float:
        """Compute the best mean accuracy of one option's words, or of one letter."""
        words = [self.reference_answer(sample).casefold() for sample in samples]
        return max(largest_share(words, len(samples)), self._chance_of_letters(samples))

    def _chance_of_letters(self, samples: Sequence[Sample]) -> float:
        """Compute the best mean accuracy that one letter may have.

        Where questions show letters, that is the share of the most frequent one. A letter that no
        question shows must not earn more than chance: where options stand in a random order it is
        right once in as many times as there are options, plus three standard deviations of that
        mean. Anything above is an exploit.
        """
        indices: list[int] = []
        shown_indices: list[int] = []
        for sample in samples:
            answer = self.reference_answer(sample)
            if answer not in sample.choices:
                continue
            index = sample.choices.index(answer)
            indices.append(index)
            if lettered(sample):
                shown_indices.append(index)
        count = len(samples)
        even = fmean(1 / max(1, len(sample.choices)) for sample in samples)
        shuffled = even + 3 * math.sqrt(even * (1 - even) / count)
        return max(
            largest_share(shown_indices, count), min(shuffled, largest_share(indices, count))
        )


def lettered(sample: Sample) -> bool:
    """Return True where the question shows the letters of its options, or the truth is a letter."""
    letters = [choices.letter_of(index) for index in range(len(sample.choices))]
    if str(sample.answer).strip(" ().").upper() in letters:
        return True
    return all(_shows(sample.question, shown) for shown in letters)


def _shows(question: str, shown: str) -> bool:
    """Return True where a question writes a letter as a label: "A.", "(A)" or "A:"."""
    return any(f"{shown}{sign}" in question for sign in ").:")
