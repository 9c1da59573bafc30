"""Make texts of models and data fit to be shown: every character visible, none too many."""

import html
import json
from typing import Any

MAX_NAME = 60
"""Longest name of a run, a task or a part that a page shows."""
MOST_CHARACTERS = 4000
"""Characters of a text that a page shows; of a longer one its beginning and its end."""
END_CHARACTERS = 1500
"""Characters of the end that are shown of a text that is too long: there an answer stands."""


def _visible() -> dict[int, str]:
    """Return the signs for control characters: U+2400 is the sign for NUL, and so on.

    Halves of surrogate pairs, which no file can hold, and code points that are no characters
    become the replacement character.
    """
    table = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"}
    table[0x7F] = "\u2421"
    for code in (*range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF):
        table[code] = "\ufffd"
    return table


_VISIBLE = _visible()
_TURNS = dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd")


def plain(value: Any) -> str:
    """Return a value as text in which every character is visible and can be written to a file."""
    text = value if isinstance(value, str) else _json(value)
    return text.replace("\r\n", "\n").translate(_VISIBLE)


def shortened(value: Any, most: int = MOST_CHARACTERS) -> str:
    """Return a text that is visible and not too long; a note stands where it was cut.

    Example:
        shortened("a" * 5000) == "aaa... [1,000 characters are left out here] ...aaa"
    """
    text = value if isinstance(value, str) else _json(value)
    left_out = len(text) - most
    if left_out <= 0:
        return plain(text)
    end = min(END_CHARACTERS, most // 2)
    note = f"... [{left_out:,} characters are left out here] ..."
    return f"{plain(text[: most - end])}{note}{plain(text[len(text) - end :])}"


def single_line(value: Any, most: int = 120) -> str:
    """Return a text on one line, with three dots where it was cut.

    Signs that turn the direction of what follows are shown as such: a line stands beside others.
    """
    text = value if isinstance(value, str) else _json(value)
    text = " ".join(plain(text[: 20 * most]).translate(_TURNS).split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def escaped(text: object, most: int = MAX_NAME) -> str:
    """Return a name in which nothing is read as a tag or ends an attribute."""
    return html.escape(single_line(str(text), most))


def number(value: float) -> str:
    """Return a number for people: `0.42`, `12.3`, `12345`, `1.2e+30`."""
    value += 0.0  # turns -0.0 into 0.0
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-3:
        return f"{value:.2g}"
    if size >= 100 or value == int(value):
        return f"{value:.0f}"
    decimals = 3 if size < 0.1 else 2 if size < 10 else 1
    return f"{value:.{decimals}f}".rstrip("0").rstrip(".")


def _json(value: Any) -> str:
    """Return a value as JSON; what is no JSON as Python writes it."""
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False, default=str)
