"""Make texts of a run fit for HTML and SVG: names of tasks and runs are what users wrote."""

import html
import unicodedata

MAX_NAME = 60
"""Longest name on a chart, in characters."""
_TURNS = {*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}
"""Signs that turn the direction of the text that follows, also outside the name."""


def clean(text: object, limit: int = MAX_NAME) -> str:
    """Return a text in one line of valid UTF-8, without control characters; cut where it is long.

    It is not escaped yet.
    """
    signs: list[str] = []
    for sign in str(text)[: limit + 1]:
        is_bad = unicodedata.category(sign) in ("Cc", "Cs", "Cn") or sign in _TURNS
        signs.append("\N{REPLACEMENT CHARACTER}" if is_bad else sign)
    if len(signs) > limit:
        signs[limit - 1 :] = "…"
    return "".join(signs)


def escaped(text: object, limit: int = MAX_NAME) -> str:
    """Return a clean text in which nothing is read as a tag or ends an attribute."""
    return html.escape(clean(text, limit))


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
