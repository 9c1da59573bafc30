"""Read the options of multiple choice, and truths that are the place of an option.

Public data have options as a list, a mapping of letters, {label, text}, records, columns of their
own, or a text of any of these; with letters of their own or without, with empty slots between.
`read_options` returns their words and letters. What cannot be read surely is a `ValueError` whose
message says how to write it: a letter that means another option inverts the reward.
"""

import ast
import io
import json
import math
import re
import tokenize
import warnings
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from numbers import Real
from typing import Any, NamedTuple, cast

import numpy as np

from gpg_vl.errors import shown
from gpg_vl.parsing.choices import MAX_LETTERS, exact, letter_of, letters_of


class Options(NamedTuple):
    """The options of one question.

    Example:
        read_options(["B. dog", "A. cat"]) == Options(("dog", "cat"), ("B", "A"))
    """

    choices: tuple[str, ...]
    """Words of each option, without its letter."""
    letters: tuple[str, ...] = ()
    """Letter of each option; empty = A, B, C in their order."""
    places: tuple[int, ...] = ()
    """Place of each option, from 0, where empty slots stand between them; empty = 0, 1, 2..."""
    first: int | None = None
    """Number of the first place, where the row itself numbers its options; empty = it does not."""


class _Slot(NamedTuple):
    """One place of a list of options."""

    label: str
    """A letter in capitals, a number, or empty."""
    words: str
    """Empty = no option."""


_ADVICE = (
    "write a list of texts or a mapping {A: cat, B: dog}, or name columns of their own under "
    "`columns: {choices: [A, B, C, D]}`"
)
_LABEL_NAMES = frozenset({"label", "labels", "letter", "letters", "key", "keys", "id", "ids"})
_TEXT_NAMES = frozenset(
    {"text", "texts", "value", "values", "content", "contents", "description", "descriptions"}
)
_EITHER_NAMES = frozenset({"option", "options", "choice", "choices"})
"""Keys that hold the label beside a text, and the text beside a label."""
_EMPTY = frozenset({"", "nan", "NaN"})
"""Texts of a slot without an option."""
_LABEL = re.compile(
    # A / (a) / A. / option_a / Choice 1
    r"(?:(?:option|choice)[ _-]?)?[(\[]?([A-Za-z]|\d{1,2})[)\]]?[.:]?",
    re.IGNORECASE,
)
_STYLES = (
    r"\(({})\)",  # (A) cat
    r"\[({})\]",  # [A] cat
    r"({})\)",  # A) cat
    r"({})\.(?![A-Za-z0-9]\.)",  # A. cat, but not the initials A.B.
    r"({})(?::(?=\s|$)|[：、．])",  # A: cat, but not the ratio a:b
    r"({})\s+[-–—](?=\s)",  # A - cat
)
"""Ways to write a letter before an option; {} is the letter. Numbers in front of options are
words: "1. May"."""


def _prefixes() -> list["re.Pattern[str]"]:
    """Return a pattern for each style, in capitals and in small letters."""
    patterns: list[re.Pattern[str]] = []
    for style in _STYLES:
        for kind in ("[A-Z]", "[a-z]"):
            label = style.format(kind)
            patterns.append(re.compile(rf"(?<!\S)(?i:(?:option|choice)\s+)?{label}\s*"))
    return patterns


_PREFIXES = _prefixes()
_LETTER_ALONE = re.compile(r"[A-Z]\s")
"""A letter without a sign behind it, which is a word ("A dog") unless every option has its own."""
_HEADING = re.compile(r"(?:options|choices) ?:", re.IGNORECASE)


# --- options --------------------------------------------------------------------------------------


def read_options(cell: Any, *, lettered: bool = True) -> Options:
    """Read the options of a row.

    Read are a list of texts or numbers; a mapping of letters, or of numbers from 0 or 1, to texts;
    lists of labels and texts under their names; records of a label and a text; a text that is one
    of these as JSON or Python; and a text of labelled options: "A. cat\\nB. dog".

    Options that all bring a letter of their own lose it and keep it as their letter. Null, NaN and
    empty texts are slots without an option: the letters of the others are those of their places.

    Args:
        lettered: false = a list of names is taken as it is: "E. coli" is no option with a letter.

    Raises:
        ValueError: options of another form, or with letters that are not clear.
    """
    if _is_empty(cell):
        return Options(())
    if isinstance(cell, Mapping):
        return _options(_of_mapping(cast(Mapping[Any, Any], cell)))
    if isinstance(cell, str):
        return _of_text(cell, lettered=lettered)
    items = _items(cell)
    if items is None:
        raise ValueError(f"choices is {shown(cell)}, expected a list; {_ADVICE}")
    if any(isinstance(item, Mapping) for item in items):
        return _options(_of_records(items))
    if lettered:
        return from_columns(items)
    return _options([_Slot("", _words(item)) for item in items])


def from_columns(values: Sequence[Any]) -> Options:
    """Read options that stand in columns of their own, in the order of their letters.

    Raises:
        ValueError: a value is no text and no number.
    """
    return _options(_without_prefixes([_words(value) for value in values]))


def _options(slots: Sequence[_Slot]) -> Options:
    """Remove the empty slots, and settle the letters of the others."""
    filled = [slot for slot in slots if slot.words]
    words = tuple(slot.words for slot in filled)
    labels = [slot.label for slot in slots]
    places = tuple(place for place, slot in enumerate(slots) if slot.words)
    if places == tuple(range(len(places))):
        places = ()  # only the last ones are empty
    if any(labels) and all(label.isdigit() for label in labels):
        return Options(words, _letters_of(places), places, _first_number(labels))
    if not any(labels):
        return Options(words, _letters_of(places), places)
    letters = tuple(slot.label for slot in filled)
    if len(set(letters)) < len(letters) or not all(letter.isalpha() for letter in letters):
        raise ValueError(
            f"options have the labels {shown(labels)}, expected a letter each, all different"
        )
    if "".join(letters) == letters_of(words):
        return Options(words)
    return Options(words, letters, places)


def _letters_of(places: Sequence[int]) -> tuple[str, ...]:
    """Return the letters of places with empty slots between them."""
    if places and places[-1] >= MAX_LETTERS:
        raise ValueError(
            f"choices have empty slots before place {places[-1] + 1}, and only {MAX_LETTERS} "
            "places have a letter; leave the empty slots out"
        )
    return tuple(letter_of(place) for place in places)


def _first_number(labels: Sequence[str]) -> int:
    """Return the number of the first option, of options that are numbered."""
    numbers = [int(label) for label in labels]
    if numbers[0] not in {0, 1} or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise ValueError(
            f"options are numbered {shown(numbers)}, expected 0, 1, 2... or 1, 2, 3... in order; "
            "give them letters"
        )
    return numbers[0]


# --- one option -----------------------------------------------------------------------------------


def _words(value: Any) -> str:
    """Return the text of one option; empty where the slot is.

    Raises:
        ValueError: the value is no text and no number.
    """
    if _is_empty(value):
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool | np.bool_):
        raise ValueError(
            f"an option is the truth value {value}, expected a text; write it in quotes: 'yes'"
        )
    text = _number_text(value)
    if text is None:
        raise ValueError(
            f"an option is a {type(value).__name__}, {shown(value)}, expected a text; {_ADVICE}"
        )
    return text


def _is_empty(value: Any) -> bool:
    """Return True for null, NaN, and texts that stand for them."""
    if value is None:
        return True
    if isinstance(value, str):
        return value.strip() in _EMPTY
    if isinstance(value, Decimal):
        return value.is_nan()
    return isinstance(value, Real) and bool(value != value)


def _number_text(value: Any) -> str | None:
    """Return a finite number as text, whole ones without a point; None for any other value."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real | Decimal):
        return None
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        return None
    if value == math.floor(value):
        return str(math.floor(value))
    if isinstance(value, Decimal):
        return f"{value:f}"
    return str(value)


def _items(cell: Any) -> list[Any] | None:
    """Return the items of a list, tuple or array; None for any other value."""
    if isinstance(cell, list | tuple):
        return list(cast(Iterable[Any], cell))
    if isinstance(cell, np.ndarray) and cell.ndim == 1:
        return list(cast(Iterable[Any], cell))
    return None


def _without_prefixes(texts: Sequence[str]) -> list[_Slot]:
    """Separate the letters that all options bring: "B. dog" is dog, with the letter B.

    They are letters of options only where every option has one, in one style, all different, and
    some have words behind it.
    """
    filled = [text for text in texts if text]
    for prefix in _PREFIXES:
        if not filled or not all(map(prefix.match, filled)):
            continue
        slots = [_without_prefix(text, prefix) for text in texts]
        letters = {slot.label for slot in slots if slot.label}
        if len(letters) == len(filled) and any(slot.words for slot in slots):
            return slots
    return [_Slot("", text) for text in texts]


def _without_prefix(text: str, prefix: "re.Pattern[str]") -> _Slot:
    match = prefix.match(text)
    if match is None:  # an empty slot
        return _Slot("", "")
    return _Slot(match[1].upper(), _words(text[match.end() :]))


# --- mappings and records -------------------------------------------------------------------------


def _of_mapping(mapping: Mapping[Any, Any]) -> list[_Slot]:
    """Read {A: cat, B: dog}, {label: [A, B], text: [cat, dog]}, or one record."""
    if all(_LABEL.fullmatch(str(key).strip()) for key in mapping):
        slots = [_Slot(_label(key), _words(value)) for key, value in mapping.items()]
        return _without_double_labels(slots)
    label_key, text_key = _keys(mapping)
    texts = _items(mapping[text_key])
    if texts is None:
        return [_of_record(mapping)]
    labels: list[Any] | None = [""] * len(texts)
    if label_key is not None:
        labels = _items(mapping[label_key])
    if labels is None or len(labels) != len(texts):
        raise ValueError(
            f"choices is {shown(dict(mapping))}, expected as many labels as texts; {_ADVICE}"
        )
    slots = [_Slot(_label(label), _words(text)) for label, text in zip(labels, texts, strict=True)]
    return _without_double_labels(slots)


def _of_records(items: Sequence[Any]) -> list[_Slot]:
    """Read [{label: A, text: cat}, ...]; null is an empty slot."""
    slots: list[_Slot] = []
    for item in items:
        if isinstance(item, Mapping):
            slots.append(_of_record(cast(Mapping[Any, Any], item)))
        else:
            slots.append(_Slot("", _words(item)))
    return _without_double_labels(slots)


def _of_record(record: Mapping[Any, Any]) -> _Slot:
    """Read one option: {label: A, text: cat} or {A: cat}."""
    if all(_LABEL.fullmatch(str(key).strip()) for key in record):
        filled = [key for key, value in record.items() if not _is_empty(value)]
        if len(filled) != 1:
            raise ValueError(f"an option is {shown(dict(record))}, expected one letter; {_ADVICE}")
        return _Slot(_label(filled[0]), _words(record[filled[0]]))
    label_key, text_key = _keys(record)
    label = "" if label_key is None else _label(record[label_key])
    return _Slot(label, _words(record[text_key]))


def _keys(mapping: Mapping[Any, Any]) -> tuple[Any | None, Any]:
    """Return the key of the label, if there is one, and the key of the text."""
    labels: list[Any] = []
    texts: list[Any] = []
    either: list[Any] = []
    others: list[Any] = []
    for key, value in mapping.items():
        name = str(key).strip().lower()
        if name in _LABEL_NAMES:
            labels.append(key)
        elif name in _TEXT_NAMES:
            texts.append(key)
        elif name in _EITHER_NAMES:
            either.append(key)
        elif not _is_empty(value):
            others.append(key)
    if texts and not labels:
        labels = either
    else:
        texts += either
    if others or len(labels) > 1 or len(texts) != 1:
        raise ValueError(
            f"choices has the keys {shown(list(mapping))}, expected letters, or one key with the "
            f"label and one with the text; {_ADVICE}"
        )
    return (labels[0] if labels else None), texts[0]


def _label(value: Any) -> str:
    """Return a label as a letter in capitals or as a number: "(a)" is A, "option_1" is 1."""
    if _is_empty(value):
        return ""
    text = _number_text(value) or str(value).strip()
    match = _LABEL.fullmatch(text)
    if match is None:
        raise ValueError(f"an option has the label {shown(value)}, expected a letter")
    return match[1].upper()


def _without_double_labels(slots: list[_Slot]) -> list[_Slot]:
    """Remove letters from the words where they stand a second time: {A: "A. cat"}.

    Options without labels may bring them in their words.
    """
    labels = [slot.label for slot in slots]
    bare = _without_prefixes([slot.words for slot in slots])
    if not any(labels):
        return bare
    for slot, stripped in zip(slots, bare, strict=True):
        if slot.words and slot.label != stripped.label:
            return slots
    return [_Slot(label, slot.words) for label, slot in zip(labels, bare, strict=True)]


# --- texts ----------------------------------------------------------------------------------------


def _of_text(text: str, *, lettered: bool) -> Options:
    """Read a JSON or Python list or mapping, or labelled options: "A. cat\nB. dog"."""
    value = _literal(text)
    if isinstance(value, list | tuple | dict):
        return read_options(cast(Any, value), lettered=lettered)
    body = text.strip()
    heading = _HEADING.match(body)
    if heading is not None:
        body = body[heading.end() :].strip()
    slots = _labelled_lines(body) or _labelled_words(body)
    if not any(slot.words for slot in slots):
        raise ValueError(
            f"choices is the text {shown(text)}, expected a JSON list of texts or options that "
            f"are labelled A, B, C in order; {_ADVICE}"
        )
    return _options(slots)


def _literal(text: str) -> Any:
    """Return the value of a text that is JSON or a Python literal; None for any other text.

    Raises:
        ValueError: the items of a list have no comma between them, as numpy prints them.
    """
    bare = text.strip()
    if not bare.startswith(("[", "{", "(")):
        return None
    try:
        return json.loads(bare)
    except (ValueError, RecursionError):
        pass  # it may be Python
    try:
        with warnings.catch_warnings():
            # a formula such as '\(x\)' holds escapes that Python does not know
            warnings.simplefilter("ignore", SyntaxWarning)
            value = ast.literal_eval(bare)
            kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(bare).readline)]
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError):
        return None
    kinds = [kind for kind in kinds if kind != tokenize.NL]
    # Python joins 'cat' 'dog' to one text
    if (tokenize.STRING, tokenize.STRING) in pairwise(kinds):
        raise ValueError(
            f"the list {shown(text)} has no comma between its texts, as numpy prints it; save it "
            "as a list"
        )
    return value


def _labelled_lines(text: str) -> list[_Slot]:
    """Read lines that each begin with the letter of their option; empty where one does not."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    slots = _without_prefixes(lines)
    return slots if _are_in_order(slots) else []


def _labelled_words(body: str) -> list[_Slot]:
    """Read options in one line, "(A) cat (B) dog"; empty where they are not in order."""
    for prefix in _PREFIXES:
        labels = list(prefix.finditer(body))
        if not labels or labels[0].start() > 0:
            continue
        ends = [*(label.start() for label in labels[1:]), len(body)]
        words = [body[label.end() : end].strip() for label, end in zip(labels, ends, strict=True)]
        for sign in ",;|":
            if all(part.endswith(sign) for part in words[:-1]):
                words = [part.removesuffix(sign).rstrip() for part in words]
        slots = [
            _Slot(label[1].upper(), _words(part)) for label, part in zip(labels, words, strict=True)
        ]
        if _are_in_order(slots):
            return slots
    return []


def _are_in_order(slots: Sequence[_Slot]) -> bool:
    """Return True where options have the letters A, B, C..., at least two."""
    letters = [slot.label for slot in slots]
    return 1 < len(letters) <= MAX_LETTERS and letters == list(map(letter_of, range(len(letters))))


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
    if items is not None:
        return [_truth_at(item, options, first) for item in items]
    return _truth_at(answer, options, first)


def check_truth(answer: Any, options: Options) -> None:
    """Check that a truth is not a number or a letter that may mean several options.

    A text that is the words of one option is that option. What names no option at all is left to
    the verifier.

    Raises:
        ValueError: it is not sure which option the truth means.
    """
    for item in _several(answer) or [answer]:
        _checked(item, options)


def _checked(answer: Any, options: Options) -> str:
    """Return a truth as text, if it is sure which option it means."""
    if isinstance(answer, str):
        _check_text(answer, options)
        return answer
    text = _number_text(answer)
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


def _check_text(answer: str, options: Options) -> None:
    index = exact(answer, options.choices, options.letters)
    if index is None:
        if _whole(answer) is not None:
            raise ValueError(_unclear(answer, options))
        return
    letter = answer.strip(" ().:")
    if letter.upper() != letters_of(options.choices, options.letters)[index : index + 1]:
        return
    labels = _labels_in_words(options.choices)
    # small letters may be names in the picture: among "(b)" and "(a)" the letter A is the first
    meant = {letter, letter.upper()}
    if labels[index] not in meant and meant.intersection(labels):
        labelled = next(place for place, label in enumerate(labels) if label in meant)
        raise ValueError(
            f"answer {shown(answer)} is the letter of {shown(options.choices[index])} by its "
            f"place, and {shown(options.choices[labelled])} begins with it; write the "
            "answer in words, or the options with letters, all in one style"
        )


def _labels_in_words(texts: Sequence[str]) -> list[str]:
    """Return the letter that each option begins with as a label; empty where it has none."""
    letters_alone = [text[:1] for text in texts if _LETTER_ALONE.match(text)]
    if len(set(letters_alone)) == len(texts):
        return letters_alone
    labels: list[str] = []
    for text in texts:
        matches = filter(None, (prefix.match(text) for prefix in _PREFIXES))
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
        answer = _literal(answer) if answer.lstrip().startswith("[") else None
    items = _items(answer)
    if items is not None and not items:
        raise ValueError("answer is an empty list, expected the right option")
    return items


def _whole(answer: Any) -> int | None:
    """Return a whole number, also one that is written as text; None for any other value."""
    if isinstance(answer, str):
        text = answer.strip()
        return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else None
    text = _number_text(answer)
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
    for truth in (letter, options.choices[index]):
        if exact(truth, options.choices, options.letters) == index:
            return truth
    raise ValueError(
        f"answer is place {number}, and neither the letter {letter} nor the words of that option "
        "name it alone; write options that differ"
    )
