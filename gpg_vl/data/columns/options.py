"""Read the options of multiple choice.

Public data have options as a list, a mapping of letters, {label, text}, records, columns of their
own, or a text of any of these; with letters of their own or without, with empty slots between.
`read_options` returns their words and letters. What cannot be read surely is a `ValueError` whose
message says how to write it: a letter that means another option inverts the reward.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from numbers import Real
from string import ascii_uppercase
from typing import Any, NamedTuple, cast

import numpy as np

from gpg_vl.data.columns import cells
from gpg_vl.errors import shown
from gpg_vl.parsing.letters import MAX_LETTERS, letter_of, letters_of


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
    """Number of the first place, where the row itself numbers its options; None = it does not."""


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
    r"({}):(?<=[A-Z]:)(?=\S\S)(?![A-Za-z]\W)",  # A:cat, but not the ratios A:B and a:bc
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


PREFIXES = _prefixes()
_HEADING = re.compile(r"(?:options|choices) ?:", re.IGNORECASE)
_FEW_LETTERS = 4
"""Options that may lack some letters: C and A of four. Letters farther on are words: E. coli."""
_WITHOUT_I = ascii_uppercase.replace("I", "")  # which is often skipped: it looks like 1


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
    items = items_of(cell)
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
        return cells.visible(value).strip()
    if isinstance(value, bool | np.bool_):
        raise ValueError(
            f"an option is the truth value {value}, expected a text; write it in quotes: 'yes'"
        )
    text = number_text(value)
    if text is None:
        raise ValueError(
            f"an option is a {type(value).__name__}, {shown(value)}, expected a text; {_ADVICE}"
        )
    return text


def _is_empty(value: Any) -> bool:
    """Return True for null, NaN, and texts that stand for them."""
    if isinstance(value, str):
        return cells.visible(value).strip() in _EMPTY
    return cells.is_missing(value)


def number_text(value: Any) -> str | None:
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


def items_of(cell: Any) -> list[Any] | None:
    """Return the items of a list, tuple or array; None for any other value."""
    if isinstance(cell, list | tuple):
        return list(cast(Iterable[Any], cell))
    if isinstance(cell, np.ndarray) and cell.ndim == 1:
        return list(cast(Iterable[Any], cell))
    return None


def _without_prefixes(texts: Sequence[str]) -> list[_Slot]:
    """Separate the letters that all options bring: "B. dog" is dog, with the letter B.

    They are letters of options only where every option has one, in one style, all different, and
    some have words behind it. E, S and B of "E. coli", "S. aureus", "B. subtilis" are words.
    """
    filled = [text for text in texts if text]
    for prefix in PREFIXES:
        if not filled or not all(map(prefix.match, filled)):
            continue
        slots = [_without_prefix(text, prefix) for text in texts]
        letters = [slot.label for slot in slots if slot.label]
        if _are_labels(letters, len(texts)) and any(slot.words for slot in slots):
            return slots
    return [_Slot("", text) for text in texts]


def _are_labels(letters: Sequence[str], count: int) -> bool:
    """Return True for letters that label options: the first of the alphabet, or F, G, H, J."""
    if len(set(letters)) < len(letters):
        return False
    first = set(map(letter_of, range(min(MAX_LETTERS, max(count, _FEW_LETTERS)))))
    run = "".join(letters)
    return set(letters) <= first or run in ascii_uppercase or run in _WITHOUT_I


def _without_prefix(text: str, prefix: "re.Pattern[str]") -> _Slot:
    match = prefix.match(text)
    if match is None:  # an empty slot
        return _Slot("", "")
    return _Slot(match[1].upper(), _words(text[match.end() :]))


# --- mappings and records -------------------------------------------------------------------------


def _of_mapping(mapping: Mapping[Any, Any]) -> list[_Slot]:
    """Read {A: cat, B: dog}, {label: [A, B], text: [cat, dog]}, or one record."""
    if all(map(_is_label, mapping)):
        slots = [_Slot(_label(key), _words(value)) for key, value in mapping.items()]
        return _without_double_labels(slots)
    label_key, text_key = _keys(mapping)
    texts = items_of(mapping[text_key])
    if texts is None:
        return [_of_record(mapping)]
    labels: list[Any] | None = [""] * len(texts)
    if label_key is not None:
        labels = items_of(mapping[label_key])
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
    if all(map(_is_label, record)):
        filled = [key for key, value in record.items() if not _is_empty(value)]
        if len(filled) != 1:
            raise ValueError(f"an option is {shown(dict(record))}, expected one letter; {_ADVICE}")
        return _Slot(_label(filled[0]), _words(record[filled[0]]))
    label_key, text_key = _keys(record)
    label = "" if label_key is None else _label(record[label_key])
    return _Slot(label, _words(record[text_key]))


def _is_label(key: Any) -> bool:
    """Return True for a key that is a letter or a number; "choices" is not the choice S."""
    text = cells.visible(str(key)).strip()
    return text.lower() not in _EITHER_NAMES and _LABEL.fullmatch(text) is not None


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
    text = number_text(value) or cells.visible(str(value)).strip()
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
    text = cells.visible(text)
    value = cells.literal(text)
    if isinstance(value, list | tuple | dict):
        return read_options(cast(Any, value), lettered=lettered)
    body = text.strip()
    heading = _HEADING.match(body)
    if heading is not None:
        body = body[heading.end() :].strip()
    slots = _labelled_parts(body, "\n") or _labelled_words(body)
    for sign in ";|,":
        slots = slots or _labelled_parts(body, sign)
    if not any(slot.words for slot in slots):
        raise ValueError(
            f"choices is the text {shown(text)}, expected a JSON list of texts or options that "
            'are labelled A, B, C in order; a list in a cell of a CSV file is ["yes", "no"]; '
            f"else {_ADVICE}"
        )
    return _options(slots)


def _labelled_parts(text: str, sign: str) -> list[_Slot]:
    """Read parts that each begin with the letter of their option; empty where one does not."""
    parts = [part.strip() for part in text.split(sign) if part.strip()]
    slots = _without_prefixes(parts)
    return slots if _are_in_order(slots) else []


def _labelled_words(body: str) -> list[_Slot]:
    """Read options in one line, "(A) cat (B) dog"; empty where they are not in order."""
    for prefix in PREFIXES:
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
