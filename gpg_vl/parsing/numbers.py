"""Read a text that is one number: digits, or counting words up to one hundred.

Counting words are understood in English and Chinese.
"""

import re

from gpg_vl.parsing.markup import MAX_COMPARED, agreed, boxed, folded, unwrapped

_DIGITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = (
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_HAN_DIGITS = "零一二三四五六七八九"


def _english_words() -> dict[str, float]:
    words: dict[str, float] = {}
    for value, word in enumerate(["zero", *_DIGITS, *_TEENS]):
        words[word] = float(value)
    for tens, ten in enumerate(_TENS, 2):
        words[ten] = 10.0 * tens
        for value, digit in enumerate(_DIGITS, 1):
            words[f"{ten}-{digit}"] = 10.0 * tens + value
            words[f"{ten} {digit}"] = 10.0 * tens + value
    return words | {"hundred": 100.0, "one hundred": 100.0, "a hundred": 100.0}


def _chinese_words() -> dict[str, float]:
    words: dict[str, float] = {"〇": 0.0, "两": 2.0, "一百": 100.0}
    for value, character in enumerate(_HAN_DIGITS):
        words[character] = float(value)
    for tens in range(1, 10):
        # ten is written 十, without a digit before it; twenty is 二十
        before = "" if tens == 1 else _HAN_DIGITS[tens]
        words[f"{before}十"] = 10.0 * tens
        for units in range(1, 10):
            words[f"{before}十{_HAN_DIGITS[units]}"] = 10.0 * tens + units
    return words


NUMBER_WORDS = _english_words() | _chinese_words()
"""Counting words that `number` reads -> value, zero to one hundred."""
_NUMBER = re.compile(
    r"[-+]?(?:"
    r"(?:\d{1,3}(?:,\d{3})+|\d{1,15})(?:\.\d{1,15})?"  # 1,234.5 or 1234.5
    r"|\.\d{1,15})"  # .5
)
_RAISED = re.compile(r"[⁰¹²³⁴-⁹₀-₉]")


def number(text: str) -> float | None:
    """Read the one number that the text consists of; None where it is anything else.

    A number is digits with sign, point and thousands separators, or a word up to one hundred.
    """
    if _RAISED.search(text[:MAX_COMPARED]):  # folding would make 5² fifty-two
        return None
    bare = folded(text)
    # "!" and "?" stay, so that they are not read: 14! is another number, and 14? is a doubt
    bare = bare.rstrip(" .,;:\"'").lstrip("\"'")
    if bare in NUMBER_WORDS:
        return NUMBER_WORDS[bare]
    if _NUMBER.fullmatch(bare):
        return float(bare.replace(",", ""))
    return None


def lenient_number(text: str) -> float | None:
    r"""Read a number as `number` does, also inside markup, and in the `\boxed{}` of a longer text.

    Several boxes must hold the same number.
    """
    given = number(unwrapped(text))
    if given is not None:
        return given
    return agreed(number(unwrapped(inside)) for inside in boxed(text))
