"""Name the options of a choice by letters: their own, else A, B, C in their order."""

from collections.abc import Sequence
from string import ascii_uppercase

MAX_LETTERS = 26
"""Options that have a letter of their own."""


def letters_of(choices: Sequence[str], letters: Sequence[str] = ()) -> str:
    """Return the letters of all options: their own, else A, B, C... for the first 26."""
    if letters:
        return "".join(letters).upper()
    return ascii_uppercase[: len(choices)]


def letter_of(index: int, letters: Sequence[str] = ()) -> str:
    """Return the letter of an option: its own, else A for the first."""
    if letters:
        return letters[index].upper()
    return chr(ord("A") + index)
