"""Numbers that are the whole of a text: digits, or counting words up to one hundred in English and Chinese."""

import re

from gpg_vl.parsing.markup import MAX_COMPARED, boxed, folded, unwrapped

_UNITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = ["zero", *_UNITS, *_TEENS]
_HAN = {character: value for value, character in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}


def _counting_words() -> dict[str, float]:
    words = {word: float(value) for value, word in enumerate(_WORDS)}
    for tens, ten in enumerate(_TENS, 2):
        words[ten] = 10.0 * tens
        for value, unit in enumerate(_UNITS, 1):
            words |= {f"{ten}-{unit}": 10.0 * tens + value, f"{ten} {unit}": 10.0 * tens + value}
    for character, value in _HAN.items():
        words[character] = float(value)
    for tens in range(1, 10):
        for units in range(10):
            ten, unit = ("" if tens == 1 else _written(tens)), ("" if units == 0 else _written(units))
            words[f"{ten}十{unit}"] = 10.0 * tens + units
    return words | {"hundred": 100.0, "one hundred": 100.0, "a hundred": 100.0, "一百": 100.0}


def _written(digit: int) -> str:
    return "零一二三四五六七八九"[digit]


NUMBER_WORDS = _counting_words()
"""Counting words understood by `number`: English and Chinese, zero to one hundred."""
_NUMBER = re.compile(r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d{1,15})(?:\.\d{1,15})?|\.\d{1,15})")
_RAISED = re.compile(r"[⁰¹²³⁴-⁹₀-₉]")


def number(text: str) -> float | None:
    """The one number that the text consists of: digits with sign, point and thousands separators, or a word up to one hundred."""
    if _RAISED.search(text[:MAX_COMPARED]):  # folding would make 5² fifty-two
        return None
    bare = folded(text).replace("\u2212", "-").rstrip(" .,;:\"'").lstrip("\"'")  # 14! is another number, and 14? a doubt
    if bare in NUMBER_WORDS:
        return NUMBER_WORDS[bare]
    return float(bare.replace(",", "")) if _NUMBER.fullmatch(bare) else None


def foreign_number(text: str) -> float | None:
    r"""As `number`, from a foreign answer: markup around it is left out, and in a longer text the one `\boxed{}` is the answer."""
    given = number(unwrapped(text))
    if given is None and (stated := boxed(text)):
        read = {number(unwrapped(inside)) for inside in stated}
        return read.pop() if len(read) == 1 else None
    return given
