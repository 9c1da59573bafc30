"""Say in plain words what a value should have been: the errors of pydantic, by kind."""

import re
from collections.abc import Sequence
from datetime import date
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from gpg_vl.errors import shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_WHOLE, _NUMBER, _TRUTH = "a whole number", "a number", "true or false"
_EXPECTED = {
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": f"{_WHOLE} of fewer digits",
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "a finite number",
    "bool_type": _TRUTH,
    "bool_parsing": _TRUTH,
    "string_type": "a text",
    "literal_error": "{expected}",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "multiple_of": "a multiple of {multiple_of:g}",
    "tuple_type": "a list",
    "list_type": "a list",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "missing": "a longer list",
    "dict_type": "keys with their values",
    "model_type": "keys with their values",
}
"""Kind of an error -> what the value should have been. `missing` here is an item of a list."""
_TYPES = {"str", "int", "float", "bool", "[key]"}
_VALIDATORS = ("function-", "dict[", "list[", "tuple[", "literal[", "constrained-")


def got_and_expected(found: Sequence["ErrorDetails"]) -> str:
    """Return the sentence on a value: what was got, what is expected, what to do.

    Args:
        found: the errors of the value: one for each kind of value that its key takes.
    """
    value, kinds = found[0]["input"], {error["type"] for error in found}
    words = " or ".join(dict.fromkeys(map(_expected, found)))
    got = shown(value)
    if value is None:
        got = "nothing"
    elif isinstance(value, date):  # YAML reads 2026-11-30 as one
        got = str(value)
    return f"got {got}, expected {words}{_advice(value, kinds, words)}"


def _expected(error: "ErrorDetails") -> str:
    """Return what a value should have been; for a rare kind in the words of pydantic."""
    words = _EXPECTED.get(error["type"])
    if words is None:
        return error["msg"].removeprefix("Input should be ")
    return words.format(**error.get("ctx", {}))


def _advice(value: Any, kinds: set[str], words: str) -> str:
    """Return what to do, where it can be said; empty otherwise."""
    if value is None:
        return "; give it a value, or leave the key out where it has a default"
    if isinstance(value, list | tuple):
        return ""
    if kinds in ({"tuple_type"}, {"list_type"}):
        is_text = isinstance(value, str)
        return f": [{shown(value)}]" if is_text else "; in brackets it is one"
    if "string_type" in kinds and "dict_type" not in kinds and not isinstance(value, str | dict):
        return f"; in quotes it is one: {shown(str(value))}"
    if "literal_error" in kinds and isinstance(value, str):
        nearest = get_close_matches(value, re.findall(r"'([^']+)'", words), n=1)
        return f"; did you mean {nearest[0]}?" if nearest else ""
    return ""


def own_steps(steps: Sequence[int | str]) -> list[int | str]:
    """Return the way to a value without pydantic's names of types and validators.

    `int` or `function-after[...]` stands in the way where a value may be one of several kinds.
    """
    own: list[int | str] = []
    for step in steps:
        if isinstance(step, int) or not (step in _TYPES or step.startswith(_VALIDATORS)):
            own.append(step)
    return own
