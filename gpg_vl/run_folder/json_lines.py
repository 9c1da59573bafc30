"""Write and read files of one JSON value per line, as every parser of JSON reads them."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from gpg_vl.config.paths import write_whole


def now() -> str:
    """Return the present time in UTC, ISO 8601: `2026-11-30T08:22:05.117+00:00`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def json_value(value: Any) -> Any:
    """Return the same with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        mapping = cast(Mapping[str, Any], value)
        return {key: json_value(inner) for key, inner in mapping.items()}
    if isinstance(value, list | tuple):
        return [json_value(inner) for inner in cast(Sequence[Any], value)]
    return value


def json_text(value: Any, **options: Any) -> str:
    """Return a value as JSON that holds no token NaN or Infinity.

    Args:
        options: of `json.dumps`.
    """
    return json.dumps(json_value(value), allow_nan=False, **options)


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one line to a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json_text(row) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a file; none if there is no file. A last line that is cut off is no row."""
    if not path.exists():
        return []
    # not splitlines(): a text may contain other line separators of Unicode
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def keep_rows(path: Path, is_kept: Callable[[Mapping[str, Any]], bool]) -> list[dict[str, Any]]:
    """Delete the other lines of a file, and return the rows that are kept."""
    if not path.exists():
        return []
    lines: list[str] = []
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:  # the last may be cut off
        row = json.loads(line)
        if is_kept(row):
            lines.append(line + "\n")
            rows.append(row)
    write_whole(path, "".join(lines))
    return rows


def rewind_rows(path: Path, step: int) -> list[dict[str, Any]]:
    """Delete the lines of a file that were written after a step; return the other rows."""
    return keep_rows(path, lambda row: row["step"] <= step)
