"""Verify a choice among a closed set of options, by letter or by words."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, cast

from gpg_vl.errors import UserError, shown
from gpg_vl.parsing import choices, markup, numbered_options
from gpg_vl.parsing.image_marks import has_marks
from gpg_vl.parsing.letters import letter_of, letters_of
from gpg_vl.prompts import Style
from gpg_vl.types import Sample
from gpg_vl.verifiers import published_rules
from gpg_vl.verifiers.base import Grade, RuleVerifier
from gpg_vl.verifiers.chance import largest_share

_SEVERAL_LETTERS = re.compile(r"[A-Z](?:[\s,;]*[A-Z])+")  # AC / A, C


@dataclass(frozen=True, kw_only=True)
class Choice(RuleVerifier):
    """1 for the right option, 0 for another, for none and for several.

    The closed set is the words of the options and their letters: those of the sample, else A, B,
    C in the order of `choices`. A letter means something only where the question showed the options
    with it. Where it did not, and the order reveals the truth (always first, say), a policy could
    learn the letter: `letters: shown` then counts letters only where the question, or the truth
    itself, uses them.

    A truth may be several options: a list, or letters such as "A, C" and "AC". `several` tells
    what an answer must name then.
    """

    letters: Literal["always", "shown"] = "always"
    """always | shown: only where the question letters its options, or the truth is a letter."""
    several: Literal["refused", "any", "all"] = "refused"
    """Truths of several options. refused: their rows are left out | any: an answer names one of
    them | all: an answer names all of them and no other."""
    authors: published_rules.ChoiceRule = "mmmu"
    """Authors whose rule reference mode follows: mmmu | mmmu_pro | visual_thinker."""

    def __post_init__(self) -> None:
        if self.several == "all" and self.letters == "shown":
            raise UserError(
                "verifiers: several: got all with letters: shown, expected letters: always; an "
                "answer that names several options is read with their letters"
            )

    def grade(self, answer: str, sample: Sample) -> Grade:
        given = self._given(answer, sample)
        if given is None:
            return Grade(0.0, answer, "unreadable: names no option, or several")
        return self._grade_options(given, sample)

    def reference(self, text: str, sample: Sample) -> Grade:
        if self.authors == "visual_thinker":
            rights: list[bool] = []
            for truth in _listed(sample.answer):
                rights.append(published_rules.visual_thinker_choice(text, str(truth)))
            right = any(rights) if self.several == "any" else all(rights)
            return Grade.of(right, published_rules.reading(text))
        given = published_rules.mmmu_choice(text, sample.choices, self.authors, sample.letters)
        if given is None:
            return Grade(0.0, "", "unreadable: the authors' rule draws an option at random here")
        return self._grade_options(frozenset((given,)), sample)

    def reference_answer(self, sample: Sample) -> str:
        return ", ".join(self._names(self._right_sets(sample)[0], sample))

    def _grade_options(self, given: frozenset[int], sample: Sample) -> Grade:
        words = ", ".join(sample.choices[index] for index in sorted(given))
        return Grade.of(self._is_right(given, sample), words)

    def _given(self, answer: str, sample: Sample) -> frozenset[int] | None:
        """Return the indices of the options that an answer names, None where it names none.

        Only with `several: all` they may be more than one.
        """
        if self.several == "all":
            read = choices.exact_set if self.mode == "strict" else choices.stated_set
            return read(answer, sample.choices, sample.letters)
        index = self._one_given(answer, sample)
        return None if index is None else frozenset((index,))

    def _one_given(self, answer: str, sample: Sample) -> int | None:
        """Return the index of the option that an answer names; None for none or several."""
        exactly = self.mode == "strict"
        if self.letters == "shown" and not lettered(sample, self.style):
            if not exactly:
                answer = markup.unwrapped(answer)
            given = markup.agreed(choices.same_words(answer, sample.choices))
        else:
            read = choices.exact if exactly else choices.stated
            given = read(answer, sample.choices, sample.letters)
        if given is None and numbered_options.are_numbered(sample.question, sample.choices):
            return numbered_options.named_option(answer, sample.choices, exactly=exactly)
        return given

    def _is_right(self, given: frozenset[int], sample: Sample) -> bool:
        truths = self._truths(sample)
        # published data repeat options: either index of the same words is right
        given_words = {sample.choices[index] for index in given}
        true_words = {sample.choices[index] for index in truths}
        if self.several == "any":
            return given_words <= true_words
        return len(given) == len(truths) and given_words == true_words

    def _truths(self, sample: Sample) -> frozenset[int]:
        """Return the indices of the right options, one but for a truth of several options.

        Raises:
            ValueError: the truth names no option, or several where these are refused.
        """
        if sample.letters and len(sample.letters) != len(sample.choices):
            raise ValueError(
                f"{len(sample.choices)} choices have {len(sample.letters)} letters "
                f"{shown(sample.letters)}, expected one each"
            )
        truths: set[int] = set()
        for answer in _listed(sample.answer):
            truths |= self._named_by_truth(answer, sample)
        if not truths:
            raise ValueError(_no_option(sample))
        if len(truths) > 1 and self.several == "refused":
            raise ValueError(
                f"answer {shown(sample.answer)} is several options; write verifiers.choice: "
                "{kind: choice, several: any} if one of them is to be named, all if all are"
            )
        return frozenset(truths)

    def _named_by_truth(self, answer: Any, sample: Sample) -> frozenset[int]:
        named = choices.exact_set(str(answer), sample.choices, sample.letters)
        if named is not None:
            return named
        if self.mode != "strict" and answer in sample.choices:
            return frozenset((sample.choices.index(answer),))
        raise ValueError(_no_option(sample))

    def _right_sets(self, sample: Sample) -> list[list[int]]:
        """Return the sets of options that earn the full reward, each in the order of options."""
        truths = sorted(self._truths(sample))
        if self.several == "any":
            return [[truth] for truth in truths]
        return [truths]

    def _names(self, right: Sequence[int], sample: Sample) -> list[str]:
        """Return the words of options, or their letters where the words do not name them."""
        words = [sample.choices[index] for index in right]
        are_pictures = any(map(has_marks, words))  # a mark such as <image 2> is no answer
        if not are_pictures and self._given(", ".join(words), sample) == frozenset(right):
            return words
        # the words of "AA" and "aa" are the same without case; their letters differ
        return _letters(right, sample)

    # --- the exploit suite ------------------------------------------------------------------------

    def constant_answers(self, samples: Sequence[Sample]) -> list[str]:
        """Return the letters of all options, and every set of letters that is right somewhere."""
        letters: set[str] = set()
        sets: set[str] = set()
        for sample in samples:
            letters.update(letters_of(sample.choices, sample.letters))
            if self.several == "all":
                sets.add(", ".join(_letters(self._right_sets(sample)[0], sample)))
        return sorted(letters) + sorted(sets - letters)

    def chance_level(self, samples: Sequence[Sample]) -> float:
        """Compute the best mean accuracy of one option's words, or of one letter."""
        words: list[tuple[str, ...]] = []
        for sample in samples:
            for right in self._right_sets(sample):
                names = [name.casefold() for name in self._names(right, sample)]
                words.append(tuple(sorted(names)))
        return max(largest_share(words, len(samples)), self._chance_of_letters(samples))

    def every_option_accuracy(self, sample: Sample) -> float:
        """Return 1 where all options are to be named."""
        is_every = len(self._truths(sample)) == len(sample.choices)
        return float(self.several == "all" and is_every)

    def _chance_of_letters(self, samples: Sequence[Sample]) -> float:
        """Compute the best mean accuracy that one letter may have.

        Where questions show letters, that is the share of the most frequent one. A letter that no
        question shows must not earn more than chance: where options stand in a random order it is
        right once in as many times as there are options, plus three standard deviations of that
        mean. Anything above is an exploit.
        """
        given: list[tuple[str, ...]] = []
        given_where_shown: list[tuple[str, ...]] = []
        evens: list[float] = []
        for sample in samples:
            right_sets = self._right_sets(sample)
            evens.append(len(right_sets) / max(1, len(sample.choices)))
            for right in right_sets:
                if self._names(right, sample)[0] not in sample.choices:
                    continue
                letters = tuple(sorted(_letters(right, sample)))
                given.append(letters)
                if lettered(sample, self.style):
                    given_where_shown.append(letters)
        count = len(samples)
        even = fmean(evens)
        shuffled = even + 3 * math.sqrt(even * (1 - even) / count)
        return max(
            largest_share(given_where_shown, count), min(shuffled, largest_share(given, count))
        )


def lettered(sample: Sample, style: Style) -> bool:
    """Return True where a prompt shows the letters of its options, or the truth is a letter."""
    if style.option_text(sample):
        return True
    letters = list(letters_of(sample.choices, sample.letters))
    answers = _listed(sample.answer)
    text = str(sample.answer)
    if _SEVERAL_LETTERS.fullmatch(text) and not choices.same_words(text, sample.choices):
        answers = re.findall("[A-Z]", text)
    if all(str(answer).strip(" ().").upper() in letters for answer in answers):
        return True
    return all(_shows(sample.question, letter) for letter in letters)


def _shows(question: str, shown: str) -> bool:
    """Return True where a question writes a letter as a label: "A.", "(A)" or "A:"."""
    return any(f"{shown}{sign}" in question for sign in ").:")


def _letters(indices: Sequence[int], sample: Sample) -> list[str]:
    return [letter_of(index, sample.letters) for index in indices]


def _listed(answer: Any) -> Sequence[Any]:
    """Return a truth as a list: a truth of several options is one already."""
    if isinstance(answer, list | tuple):
        return cast(Sequence[Any], answer)
    return [answer]


def _no_option(sample: Sample) -> str:
    """Return the sentence about a truth that is none of the options."""
    if not sample.choices:
        return (
            f"answer {shown(sample.answer)} is not one of the choices []; name the column of the "
            "options under `columns: {choices: ...}`, or write answer_kind: label where the "
            "question lists them and the answer is a letter"
        )
    lettered_as = ""
    if sample.letters:
        lettered_as = f" with the letters {', '.join(sample.letters)}"
    return (
        f"answer {shown(sample.answer)} is not one of the choices {shown(list(sample.choices))}"
        f"{lettered_as}"
    )
