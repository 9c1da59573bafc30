"""Read single cells of a table: what is missing, what is text, what stands in a column's fields.

A cell comes from JSON, CSV, parquet, pandas or `datasets`. A function that cannot read one raises
ValueError with a sentence that names neither file nor row: its caller adds them.
"""

import ast
import io
import json
import math
import re
import tokenize
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from typing import Any, cast

import numpy as np

from gpg_vl.errors import SHOWN_CHARACTERS, shown

MAX_WHOLE = 2**53
"""Largest whole number that a float holds exactly; a larger float is not written as a whole one."""
MAX_LIST_TEXT = 1_000_000
"""Characters of the longest text that is read as a list or a mapping."""
WRITTEN_NULLS = frozenset({"nan", "NaN", "NaT", "<NA>"})
"""Texts that pandas writes for an empty cell."""
_NAMES_SHOWN = 20
_UNSEEN = re.compile(
    # soft hyphens, blanks without width, marks of the direction of writing
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
    # joiners and variation selectors; behind an emoji or a letter of other scripts they count
    r"|(?<![^\x00-\x7f])[\u200c\u200d\ufe00-\ufe0f](?!\u20e3)"
)
"""Characters that nobody sees."""


# --- values ---------------------------------------------------------------------------------------


def is_missing(value: Any) -> bool:
    """Return True for an empty cell: null, NaN, NaT, and text without a visible character.

    An empty list is a value: a picture without objects has no boxes.
    """
    if value is None:
        return True
    if isinstance(value, str):
        return not visible(value).strip()
    if isinstance(value, float | np.floating):
        return math.isnan(cast(float, value))
    if isinstance(value, Decimal):
        return value.is_nan()
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(cast(Any, value)))
    return _is_null_of_pandas(value)


def _is_null_of_pandas(value: Any) -> bool:
    """Return True for NA and NaT of pandas, which is not imported for it."""
    kind = type(cast(object, value))
    return kind.__module__.startswith("pandas.") and kind.__name__ in {"NAType", "NaTType"}


def plain(value: Any) -> Any:
    """Convert a cell to the values of JSON: text, numbers, lists, mappings, None.

    A float without a fraction becomes a whole number, because pandas makes 3.0 of 3 wherever a
    column has an empty cell. A Decimal with a fraction becomes text, which keeps its digits: 2.50
    stays 2.50. Dates become ISO text. Bytes, and what JSON has no value for, stay as they are.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = cast(Any, value).tolist()
    if value is None or isinstance(value, str | bytes | bool | int):
        return value
    if isinstance(value, float):
        return _whole(value)
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, Mapping):
        fields = cast(Mapping[Any, Any], value)
        return {str(name): plain(field) for name, field in fields.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in cast(Sequence[Any], value)]
    if _is_null_of_pandas(value):
        return None
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    return value


def _whole(number: float) -> float | int:
    if number.is_integer() and abs(number) <= MAX_WHOLE:
        return int(number)
    return number


def _decimal(number: Decimal) -> int | str | float:
    if number.is_nan():
        return math.nan  # float() of a signalling NaN raises
    if number.is_infinite():
        return float(number)
    # int() of 1E+1000000 would write out a million digits
    if -MAX_WHOLE <= number <= MAX_WHOLE and number == number.to_integral_value():
        return int(number)
    return str(number)


def visible(text: str) -> str:
    """Remove the characters that nobody sees and no model writes.

    Copies of web pages have them, and "dog" with one of them behind it would be another answer.
    """
    return text if text.isascii() else _UNSEEN.sub("", text)


def text_of(value: Any, what: str) -> str:
    """Return the text of a cell that must be text.

    Args:
        value: the cell.
        what: name of the column, for the message.

    Raises:
        ValueError: it is missing or no text, or it cannot be written as UTF-8.
    """
    if is_missing(value):
        raise ValueError(f"{what} is missing: got {shown(value)}")
    if not isinstance(value, str):
        advice = "write it as text"
        if isinstance(value, Mapping):
            advice = f"name one of its fields under `columns:`, as in {{{what}: COLUMN.FIELD}}"
        raise ValueError(
            f"{what} is a {type(cast(object, value)).__name__}, {shown(cast(object, value))}, "
            f"expected text; {advice}"
        )
    if "\0" in value:
        raise ValueError(
            f"{what} {shown(value)} holds the character NUL; it was damaged, often by reading "
            "UTF-16 as UTF-8"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} {shown(value)} holds half of a character ({value[error.start]!a}), which "
            "cannot be written as UTF-8; write the whole character"
        ) from None
    return str(value)


# --- text that holds a list or a mapping ----------------------------------------------------------


def literal(text: str) -> Any:
    """Read a text that is a list, a tuple or a mapping as JSON, or as Python writes it.

    Returns:
        None where the text is none of these.

    Raises:
        ValueError: numpy wrote the list, without commas between its members.
    """
    return _literal(text, "[]", "{}", "()")


def listed(text: str) -> list[Any] | None:
    """Read a text that is a list as JSON, or as Python writes it: a cell of a CSV file.

    Returns:
        None where the text is no such list.

    Raises:
        ValueError: numpy wrote the list, without commas between its members.
    """
    value = _literal(text, "[]")
    return cast(list[Any], value) if isinstance(value, list) else None


def mapped(text: str) -> dict[str, Any] | None:
    """Read a text that is a mapping as JSON, or as Python writes it.

    Returns:
        None where the text is no such mapping, or an empty one.
    """
    value = _literal(text, "{}")
    return cast(dict[str, Any], value) if value and isinstance(value, dict) else None


def _literal(text: str, *brackets: str) -> Any:
    """Read a text between one of these pairs of brackets."""
    bare = text.strip()
    if bare[:1] + bare[-1:] not in brackets or len(bare) > MAX_LIST_TEXT:
        return None
    try:
        return json.loads(bare)
    except (ValueError, RecursionError):
        pass  # perhaps Python wrote it, with ' for "
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # '\\s' is read as it stands
            value = ast.literal_eval(bare)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
    if _has_joined_texts(bare):
        raise ValueError(
            f"the list {shown(text)} has no commas between its members, as numpy writes it; write "
            "the table again with lists, for instance column.map(list)"
        )
    return value


def _has_joined_texts(source: str) -> bool:
    """Return True where two texts stand side by side, which Python would join to one."""
    previous = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.STRING and previous == tokenize.STRING:
            return True
        if token.type not in {tokenize.NL, tokenize.COMMENT}:
            previous = token.type
    return False


# --- columns by dotted name -----------------------------------------------------------------------


def has(row: Mapping[str, Any], name: str) -> bool:
    """Return True where a row has a column, or a field of a column, of this name."""
    try:
        dotted(row, name)
    except ValueError:
        return False
    return True


def dotted(row: Mapping[str, Any], name: str) -> Any:
    """Return a column by its name, or by a name with dots that lead into its fields.

    A column that is really called `a.b` comes first. A number is a place in a list
    (`choices.0`, `conversations.-1.value`); a field of a list of records is the list of that field.
    Text that is JSON of a mapping or a list is entered too. A field of a null is null.

    Raises:
        ValueError: there is no such column or field; the sentence lists those that there are.
    """
    return _field(row, name.split("."), name)


def _field(value: Any, parts: Sequence[str], name: str) -> Any:
    """Return the value under the parts of a dotted name that are left."""
    if not parts:
        return value
    if is_missing(value):
        return None
    value = _entered(value)
    if isinstance(value, Mapping):
        return _of_mapping(cast(Mapping[str, Any], value), parts, name)
    if isinstance(value, list | tuple):
        return _of_list(cast(Sequence[Any], value), parts, name)
    raise ValueError(
        f"{name}: expected a mapping or a list with {parts[0]!r} in it, got {shown(value)}"
    )


def _entered(value: Any) -> Any:
    """Return the mapping or list that a text or an array holds; other values as they are."""
    if isinstance(value, np.ndarray):
        return cast(Any, value).tolist()
    if not isinstance(value, str):
        return value
    mapping = mapped(value)
    if mapping is not None:
        return mapping
    members = listed(value)
    return value if members is None else members


def _of_mapping(fields: Mapping[str, Any], parts: Sequence[str], name: str) -> Any:
    # the longest key first: a column that is called a.b comes before the field b of a
    for count in range(len(parts), 0, -1):
        key = ".".join(parts[:count])
        if key in fields:
            return _field(fields[key], parts[count:], name)
    raise ValueError(f"{name}: there is no {parts[0]!r}; there is {_enumerated(fields)}")


def _of_list(members: Sequence[Any], parts: Sequence[str], name: str) -> Any:
    place = parts[0]
    if place.removeprefix("-").isdecimal():
        index = int(place[:10])
        if not -len(members) <= index < len(members):
            raise ValueError(f"{name}: there is no place {place} in a list of {len(members)}")
        return _field(members[index], parts[1:], name)
    if all(isinstance(member, Mapping) for member in members):
        return [_field(member, parts, name) for member in members]
    raise ValueError(
        f"{name}: got a list of {len(members)} for {place!r}, expected a place in it, counted from "
        "0, or a list of mappings"
    )


def _enumerated(names: Iterable[Any]) -> str:
    """Return the names of columns for a message."""
    listing = [str(name) for name in names]
    text = ", ".join(listing[:_NAMES_SHOWN]) or "nothing"
    if len(listing) > _NAMES_SHOWN:
        text += f" and {len(listing) - _NAMES_SHOWN} more"
    return text[:SHOWN_CHARACTERS]
