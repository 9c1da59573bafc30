"""Read rows of JSON lines, and of JSON documents in the forms in which data sets are published."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from gpg_vl.data.reading.raw_rows import BadRow, Row, sound
from gpg_vl.data.reading.text_files import content, not_utf8, opened, unreadable
from gpg_vl.errors import UserError, shown

LISTS_OF_ROWS = frozenset(
    {"data", "dataset", "rows", "questions", "annotations", "examples", "samples", "items"}
    | {"records", "instances", "entries", "results"}
    | {"train", "training", "test", "val", "validation", "dev"}
)
"""Names under which an object holds the list of all rows."""


class _Doubled(dict[str, Any]):
    """An object of JSON in which two values have one name."""

    name: str = ""
    """That name."""


def jsonl(path: Path) -> Iterator[Row | BadRow]:
    """Read one JSON object from each line; empty lines are skipped."""
    for _, row in _numbered(path):
        yield row


def numbered_jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    """Read JSON lines of which none may be broken, each with its number, counted from 1.

    Raises:
        UserError: a line is no JSON object.
    """
    for number, row in _numbered(path):
        yield number, sound(row, path)


def document(path: Path, *, windows: bool = False) -> Iterator[Row | BadRow]:
    """Read the rows of a JSON file.

    The forms are a list of rows; an object that holds such a list; rows by id, where the key
    becomes the column `id`; columns as pandas writes them; one row; JSON lines.

    Args:
        windows: as in `text_files.content`.

    Raises:
        UserError: not JSON, or an object of several lists of rows.
    """
    text = content(path, windows=windows)
    try:
        value: Any = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        if _holds_lines(text):
            return jsonl(path)
        raise _not_json(path, error) from None
    return _rows_in(value, path)


def array_of_rows(path: Path) -> Iterator[Row | BadRow] | None:
    """Return the rows of a .jsonl file that is one JSON list of objects instead of lines."""
    with opened(path, newline="\n") as file:
        first = next((line for line in file if line.strip()), "")
    if not first.lstrip().startswith("["):
        return None
    try:
        value: Any = json.loads(content(path), object_pairs_hook=_object)
    except (ValueError, RecursionError):
        return None  # lines that begin with a bracket: each is told of
    return _rows_in(value, path) if _has_objects(value) else None


def parsed(path: Path) -> Any:
    """Read a JSON document of any form, as UTF-8 or else in the encoding of Windows.

    Raises:
        UserError: not JSON.
    """
    try:
        return json.loads(content(path, windows=True))
    except (ValueError, RecursionError) as error:
        raise _not_json(path, error) from None


def _not_json(path: Path, error: Exception) -> UserError:
    """Return the error for a file that is not JSON."""
    advice = "if it was cut short, download it again"
    if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
        advice = "write several objects as a list, or each on a line of its own"
    return UserError(f"{path}: not JSON: {error}; {advice}")


def _numbered(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    unreadable_line, any_readable = "", False
    # Only \n ends a line: others are part of a text.
    with opened(path, newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            if unreadable(line):
                unreadable_line = unreadable_line or not_utf8(line)
                yield number, BadRow(f"line {number}", not_utf8(line))
                continue
            any_readable = True
            yield number, _row_of_line(line, f"line {number}")
    if unreadable_line and not any_readable:
        raise UserError(f"{path}: {unreadable_line}")


def _row_of_line(line: str, where: str) -> Row | BadRow:
    try:
        # files that were joined have a byte order mark in the middle
        # lines that were cut out of a list end with a comma
        row = line.lstrip("\ufeff").rstrip().removesuffix(",")
        value: Any = json.loads(row, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        advice = "; write each object on one line" if line.strip() == "{" else ""
        return BadRow(where, f"not JSON: {error}{advice}")
    return _row(value, where)


def _row(value: Any, where: str) -> Row | BadRow:
    """Return a row, or the reason why a value is none."""
    if not isinstance(value, dict):
        return BadRow(where, f"got {type(value).__name__}, expected an object of columns")
    name = _doubled_name(value)
    if name is not None:
        return BadRow(where, f"two values have the name {shown(name)}; keep one")
    return cast(dict[str, Any], value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON from its names and values."""
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    doubled = _Doubled(values)
    names = [name for name, _ in pairs]
    doubled.name = next(name for name in names if names.count(name) > 1)
    return doubled


def _doubled_name(value: Any) -> str | None:
    """Return the name that two values of an object have, at any depth."""
    if isinstance(value, _Doubled):
        return value.name
    inner: list[Any] = []
    if isinstance(value, dict):
        inner = list(cast(dict[str, Any], value).values())
    elif isinstance(value, list):
        inner = cast(list[Any], value)
    for part in inner:
        if isinstance(part, dict | list):
            name = _doubled_name(part)
            if name is not None:
                return name
    return None


def _rows_in(read: Any, path: Path) -> Iterator[Row | BadRow]:
    """Return the rows of a document, in whichever form it holds them."""
    if isinstance(read, list):
        return _numbered_rows(cast(list[Any], read))
    if not isinstance(read, dict):
        return _numbered_rows([read])
    values = cast(dict[str, Any], read)
    if isinstance(values, _Doubled):
        raise UserError(f"{path}: two values have the name {shown(values.name)}; keep one")
    if _is_split(values):
        return _numbered_rows(_joined(values["columns"], values["data"], path))
    inner = values.get("data", values.get("dataset")) if len(values) == 1 else None
    if isinstance(inner, dict):
        return _rows_in(inner, path)  # around the rows, or around their splits
    if _are_columns(values):
        return _numbered_rows(_turned(values, path))
    if _are_keyed(values):
        return _keyed(values)
    names = [name for name, value in values.items() if _has_objects(value)]
    if len(values) > 1 and not any(name.lower() in LISTS_OF_ROWS for name in names):
        return _numbered_rows([values])  # lists of objects are parts of this one row
    if len(names) > 1:
        advice = "write the one that is meant into a file of its own"
        if {"images", "annotations"} <= set(names):
            advice += "; a file of COCO is read by recipe: coco"
        raise UserError(
            f"{path}: an object with several lists of rows: {', '.join(names)}; {advice}"
        )
    if names:
        return _numbered_rows(values[names[0]])
    return _numbered_rows([values])


def _numbered_rows(rows: list[Any]) -> Iterator[Row | BadRow]:
    for number, row in enumerate(rows, 1):
        yield _row(row, f"row {number}")


def _keyed(rows: Mapping[str, Any]) -> Iterator[Row | BadRow]:
    """Yield rows that are kept by their ids."""
    for name, values in rows.items():
        row = _row(values, f"row {shown(name)}")
        if not isinstance(row, BadRow) and row.get("id") is None:
            row = {**row, "id": name}
        yield row


def _are_keyed(values: Mapping[str, Any]) -> bool:
    """Return true for rows by id, of which some may be null."""
    rows = [value for value in values.values() if value is not None]
    return bool(rows) and all(isinstance(row, dict) for row in rows)


def _has_objects(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    return any(isinstance(item, dict) for item in cast(list[Any], value))


def _is_split(values: Mapping[str, Any]) -> bool:
    """Return True for {"columns": [names], "index": [...], "data": [[cells]...]} of pandas."""
    if not {"columns", "data"} <= values.keys() <= {"columns", "index", "data"}:
        return False
    names, rows = values["columns"], values["data"]
    if not (isinstance(names, list) and isinstance(rows, list)):
        return False
    count = len(cast(list[Any], names))
    if not all(isinstance(name, str) for name in cast(list[Any], names)):
        return False
    return all(
        isinstance(row, list) and len(cast(list[Any], row)) == count
        for row in cast(list[Any], rows)
    )


def _joined(names: list[str], rows: list[list[Any]], path: Path) -> list[dict[str, Any]]:
    """Give the cells of rows the names of their columns."""
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise UserError(f"{path}: two columns have the name {shown(doubled)}; rename one")
    return [dict(zip(names, row, strict=True)) for row in rows]


def _are_columns(values: Mapping[str, Any]) -> bool:
    """Return True for {"question": {"0": ..., "1": ...}}, or for lists of one length.

    Rows by id differ: their columns are no numbers.
    """
    columns = list(values.values())
    if not columns:
        return False
    if all(isinstance(column, list) and not _has_objects(column) for column in columns):
        return len(columns) > 1 and len({len(column) for column in columns}) == 1
    keys: set[str] = set()
    for column in columns:
        if not isinstance(column, dict) or not column:
            return False
        keys |= cast(dict[str, Any], column).keys()
    return all(key.isdecimal() for key in keys)


def _turned(values: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """Turn columns into rows."""
    columns: dict[str, dict[Any, Any]] = {}
    for name, column in values.items():
        values_of = enumerate(cast(list[Any], column)) if isinstance(column, list) else column
        columns[name] = dict(values_of)
    places = list(next(iter(columns.values())))
    for name, column in columns.items():
        if column.keys() != set(places):
            raise UserError(
                f"{path}: columns of different lengths: {shown(name)} has {len(column):,} values, "
                f"{shown(next(iter(columns)))} has {len(places):,}"
            )
    rows: list[dict[str, Any]] = []
    for place in places:
        rows.append({name: column[place] for name, column in columns.items()})
    return rows


def _holds_lines(text: str) -> bool:
    """Return True if one of the first lines of a text is an object on its own."""
    start = text[: 1 << 24].split("\n", 4)[:3]
    for line in start:
        if line.lstrip().startswith("{"):
            try:
                json.loads(line)
            except (ValueError, RecursionError):
                continue
            return True
    return False
