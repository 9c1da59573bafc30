"""Reading an answer out of text: tags, letters, numbers. Pure Python, never raises, linear in the text.

A reader returns what it read or None; it does not judge. Which readings count is the verifier's business.
"""

import re
import unicodedata
from collections.abc import Sequence

SPECIAL_TOKEN = re.compile(r"<\|[^<>|]{1,64}\|>")
"""A chat or vision token such as <|image_pad|> in the decoded text."""

_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve "
    "thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
)
NUMBER_WORDS = {word: float(value) for value, word in enumerate(_WORDS.split())}
"""Counting words understood by `number`."""

_NUMBER = re.compile(r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d{1,15})(?:\.\d{1,15})?|\.\d{1,15})")
_LONGEST = 2000
"""Longer texts are compared as they are: no option is that long, and folding heaped accents takes quadratic time."""
_LABELLED = re.compile(r"\(?([A-Za-z])(?:\)|[.:](?!\d))\s*(.*)", re.DOTALL)


def only_answer(text: str) -> str:
    """The inside of the one answer block of an otherwise malformed text; empty where there are none or several, or special tokens."""
    if SPECIAL_TOKEN.search(text) or text.count("<answer>") != 1 or text.count("</answer>") != 1:
        return ""
    return text.partition("<answer>")[2].partition("</answer>")[0].strip()


def normalise(text: str) -> str:
    """Casefolded NFKC with single spaces, without outer punctuation: how option texts are compared."""
    return _folded(text).strip(" .,;:!?\"'")


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()) if len(text) <= _LONGEST else text


def number(text: str) -> float | None:
    """The one number that the text consists of: digits with sign, point and thousands separators, or a word up to twenty."""
    bare = _folded(text).rstrip(" .,;:!?\"'").lstrip("\"'")
    if bare in NUMBER_WORDS:
        return NUMBER_WORDS[bare]
    return float(bare.replace(",", "")) if _NUMBER.fullmatch(bare) else None


def choice(text: str, choices: Sequence[str]) -> int | None:
    """The index of the one option that the text names: its words, its letter, "(B)", "B." or "B. its words".

    None when it names none or several, or a letter and the words of another option. Option words win over letters: among the options
    "B" and "A" the answer "A" is the second.
    """
    bare = normalise(text)
    by_words = [index for index, option in enumerate(choices) if normalise(option) == bare]
    if by_words:
        return by_words[0] if len(by_words) == 1 else None
    if len(bare) == 1 and bare.isascii() and bare.isalpha():
        return _letter(bare, choices)
    labelled = _LABELLED.fullmatch(text.strip())
    if labelled is None:
        return None
    index, words = _letter(labelled[1], choices), normalise(labelled[2])
    agrees = index is not None and words in {"", normalise(choices[index])}
    return index if agrees else None


def _letter(letter: str, choices: Sequence[str]) -> int | None:
    index = ord(letter.upper()) - ord("A")
    return index if index < len(choices) else None
