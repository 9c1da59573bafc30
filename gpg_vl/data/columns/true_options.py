"""Read which option of a choice is the true one, and refuse what may mean several.

A truth is the letter of an option, its words or, where that is declared, its place. A letter or a
number that may mean another option is a `ValueError` whose message says how to write it.
"""

import re
from collections.abc import Sequence
from typing import Any

from gpg_vl.data.columns import cells
from gpg_vl.data.columns.options import PREFIXES, Options, items_of, number_text
from gpg_vl.errors import shown
from gpg_vl.parsing import markup
from gpg_vl.parsing.choices import exact
from gpg_vl.parsing.letters import letter_of, letters_of

# Option B, choice_b
_CALLED = re.compile(r"(?:option|choice)[ _-]?\(?([A-Z])\)?\.?", re.IGNORECASE)
_LETTER_ALONE = re.compile(r"[A-Z]\s")
"""A letter without a sign behind it, which is a word ("A dog") unless every option has its own."""

# --- the question --------------------------------------------------------------------------------


def check_question(question: str, options: Options) -> None:
    """Check that a question which lists the options itself gives them the same letters.

    Raises:
        ValueError: its letter B stands before the words of another option.
    """
    letters = letters_of(options.choices, options.letters)
    if len(letters) < 2:
        return
    listed: dict[str, set[str]] = {letter: set() for letter in letters}
    text = " ".join(question.split())
    for label in re.finditer(rf"(?<![^\s,;(\[*])([{letters}])[)\].:：、]\s?", text):
        words = _words_at(text[label.end() :], options)
        if words:
            listed[label[1]].add(words)
    if not all(listed.values()):
        return  # it does not list them, or not with letters
    for letter, own in zip(letters, map(_folded, options.choices), strict=True):
        if own not in listed[letter]:
            raise ValueError(
                f"the question gives the letter {letter} to {shown(sorted(listed[letter])[0])}, "
                f"and choices to {shown(own)}; write the options in one order"
            )


def _words_at(text: str, options: Options) -> str:
    """Return the words of the option that a text begins with, the longest one; may be empty."""
    longest = max(map(len, options.choices))
    start = _folded(text[: longest + 2])
    begun = ""
    for words in map(_folded, options.choices):
        is_begun = start.startswith(words) and not start[len(words) : len(words) + 1].isalnum()
        if is_begun and len(words) > len(begun):
            begun = words
    return begun


def _folded(text: str) -> str:
    """Return a text in one case, with single blanks."""
    return " ".join(text.casefold().split())


# --- truths ---------------------------------------------------------------------------------------


def read_truth(answer: Any, options: Options, first: int | None = None) -> Any:
    """Return a truth as the letter or the words of an option; a list for several options.

    Args:
        answer: the truth of the row.
        options: its options.
        first: number of the first option where truths are declared to be numbers of options; None
            = they are letters or words.

    Raises:
        ValueError: the truth is a number, and it is not sure which option it means.
    """
    if not options.choices:
        return answer
    if first is not None:
        return truth_of_index(answer, options, first)
    items = _several(answer)
    if items is not None:
        return [_one_truth(item, options) for item in items]
    return _one_truth(answer, options)


def _one_truth(answer: Any, options: Options) -> str:
    """Return a truth of one option; it may be a number where the row numbers its options."""
    number = _whole(answer)
    if options.first is None or number is None:
        return _checked(answer, options)
    truth = _truth_at(answer, options, options.first)
    by_words = exact(str(number), options.choices, options.letters)
    if by_words not in {None, exact(truth, options.choices, options.letters)}:
        raise ValueError(_unclear(answer, options))
    return truth


def truth_of_index(answer: Any, options: Options, first: int) -> str | list[str]:
    """Return the letter of the option at a place, or its words where the letter is not clear.

    Args:
        answer: the place, a whole number; or a list of places.
        options: the options of the row.
        first: number of the first place, 0 or 1.

    Raises:
        ValueError: no whole number, or there is no such place.
    """
    items = _several(answer)
    if items is None:
        return _truth_at(answer, options, first)
    truths = [_truth_at(item, options, first) for item in items]
    # [0, 1] of two options: both, or only the second
    may_be_flags = first == 0 and len(truths) == len(options.choices) == 2
    if len(set(truths)) < len(truths) or may_be_flags:
        raise ValueError(
            f"answer is {shown(answer)}, expected the place of each right option once; a list with "
            "1 for the right options and 0 for the others is not read: write their places"
        )
    return truths


def may_be_another_place(answer: Any, options: Options) -> bool:
    """Return True for a number that is the words of an option and the place of another one."""
    number = _whole(answer)
    index = exact(str(number), options.choices, options.letters)
    if index is None or number is None:
        return False
    for first in (0, 1):
        place = _index_at(number - first, options)
        if place not in {None, index}:
            return True
    return False


def _checked(answer: Any, options: Options) -> str:
    """Return a truth as text, if it is sure which option it means."""
    if isinstance(answer, str):
        answer = _named_option(answer, options)
        _check_text(answer, options)
        return answer
    text = number_text(answer)
    if text is None:
        raise ValueError(
            f"answer is {shown(answer)}, expected the letter or the words of an option as text"
        )
    by_words = exact(text, options.choices, options.letters)
    by_place: set[int] = set()
    number = _whole(answer)
    if number is not None:
        for first in (0, 1) if options.first is None else (options.first,):
            index = _index_at(number - first, options)
            if index is not None:
                by_place.add(index)
    if by_words is None or by_place - {by_words}:
        raise ValueError(_unclear(answer, options))
    return text


def _named_option(answer: str, options: Options) -> str:
    """Return the letter of "Option B", and the words "$x$" of an option for x.

    Any other answer is returned as it is.
    """
    is_clear = exact(answer, options.choices, options.letters) is not None
    if is_clear or _whole(answer) is not None:
        return answer
    called = _CALLED.fullmatch(answer.strip())
    if called is not None:
        return called[1].upper()
    bare = markup.unwrapped(answer)
    alike = [words for words in options.choices if markup.unwrapped(words) == bare]
    return alike[0] if len(alike) == 1 else answer


def _check_text(answer: str, options: Options) -> None:
    index = exact(answer, options.choices, options.letters)
    if index is None:
        if _whole(answer) is not None:
            raise ValueError(_unclear(answer, options))
        return
    letter = answer.strip(" ().:")
    letters = letters_of(options.choices, options.letters)
    if letter.upper() != letters[index : index + 1]:
        _check_letter_of_another(letter, index, options)
        return
    labels = _labels_in_words(options.choices)
    # small letters may be names in the picture: among "(b)" and "(a)" the letter A is the first
    meant = {letter, letter.upper()}
    if any(labels.count(label) > 1 for label in meant):
        raise ValueError(
            f"answer {shown(answer)} stands before several options; write the answer in words, or "
            "another letter before each option"
        )
    if labels[index] not in meant and meant.intersection(labels):
        labelled = next(place for place, label in enumerate(labels) if label in meant)
        raise ValueError(
            f"answer {shown(answer)} is the letter of {shown(options.choices[index])} by its "
            f"place, and {shown(options.choices[labelled])} begins with it; write the "
            "answer in words, or the options with letters, all in one style"
        )


def _check_letter_of_another(letter: str, index: int, options: Options) -> None:
    """Check that a truth which is the words of one option is not the letter of another.

    Options such as "B" and "A" name parts of a picture. Among "b" and "a", b is no letter.
    """
    letters = letters_of(options.choices, options.letters)
    other = letters.find(letter.upper()) if len(letter) == 1 else -1
    words = options.choices[index]
    if other < 0 or (letter.islower() and letter == words):
        return
    raise ValueError(
        f"answer {shown(letter)} is the words of one option and the letter of another: write "
        f"'{letters[index]}. {words}' or '{letters[other]}. {options.choices[other]}', or the "
        "place of the option with answer_index"
    )


def _labels_in_words(texts: Sequence[str]) -> list[str]:
    """Return the letter that each option begins with as a label; empty where it has none."""
    letters_alone = [text[:1] for text in texts if _LETTER_ALONE.match(text)]
    if len(set(letters_alone)) == len(texts):
        return letters_alone
    labels: list[str] = []
    for text in texts:
        matches = filter(None, (prefix.match(text) for prefix in PREFIXES))
        labels.append(next((match[1] for match in matches), ""))
    return labels


def _unclear(answer: Any, options: Options) -> str:
    return (
        f"answer is the number {shown(answer)} and the choices are {shown(list(options.choices))}: "
        "declare answer_index: 0 or 1 if it is the place of the right option, counted from that "
        "number; else write the option's letter or words as text"
    )


def _several(answer: Any) -> list[Any] | None:
    """Return the items of a truth of several options, a list or a text of one; else None.

    Raises:
        ValueError: there are none.
    """
    if isinstance(answer, str):
        answer = cells.literal(answer) if answer.lstrip().startswith("[") else None
    items = items_of(answer)
    if items is not None and not items:
        raise ValueError("answer is an empty list, expected the right option")
    return items


def _whole(answer: Any) -> int | None:
    """Return a whole number, also one that is written as text; None for any other value."""
    if isinstance(answer, str):
        text = answer.strip()
        return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else None
    text = number_text(answer)
    return None if text is None else _whole(text)


def _index_at(place: int, options: Options) -> int | None:
    """Return the index of the option at a place of its row; None where there is none."""
    places = options.places or range(len(options.choices))
    return places.index(place) if place in places else None


def _truth_at(answer: Any, options: Options, first: int) -> str:
    number = _whole(answer)
    if number is None:
        raise ValueError(
            f"answer is {shown(answer)}, expected a whole number: answer_index: {first} declares "
            "that answers are places of options"
        )
    if options.first not in {None, first}:
        raise ValueError(
            f"the options are numbered from {options.first} and answer_index is {first}; write "
            f"answer_index: {options.first}"
        )
    index = _index_at(number - first, options)
    if index is None:
        raise ValueError(
            f"answer is place {number} of {len(options.choices)} options, counted from {first}; "
            "there is no option"
        )
    letter = letter_of(index, options.letters)
    if letter_of(number - first) != letter:
        raise ValueError(
            f"answer is place {number}, counted from {first}, and the option there has the letter "
            f"{letter} of its own; write the letter as the answer"
        )
    words = options.choices[index]
    for truth in (letter, words):
        if exact(truth, options.choices, options.letters) == index:
            # the words "B" of option A are also the letter of another one
            return letter if truth == letter else f"{letter}. {words}"
    raise ValueError(
        f"answer is place {number}, and neither the letter {letter} nor the words of that option "
        "name it alone; write options that differ"
    )
