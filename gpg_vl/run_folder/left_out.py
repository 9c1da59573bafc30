"""List the rows of the data that a run does not use."""

import json
from collections.abc import Iterable
from pathlib import Path

from gpg_vl.run_folder.json_lines import read_rows
from gpg_vl.types import LeftOut

LEFT_OUT = "left_out.jsonl"
"""Name of the file that lists them."""


def left_out_rows(run: Path) -> list[tuple[int, LeftOut]]:
    """Return the rows that a run does not use, each with the step that lost it; 0 = reading."""
    found: list[tuple[int, LeftOut]] = []
    for row in read_rows(run / LEFT_OUT):
        found.append((row.pop("step"), LeftOut(**row)))
    return found


def left_out_lines(step: int, rows: Iterable[LeftOut]) -> list[str]:
    """Return the lines of the list for rows that a step left out; 0 = reading."""
    lines: list[str] = []
    for row in rows:
        line = {"step": step, **row._asdict()}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return lines


def append_left_out(path: Path, step: int, rows: Iterable[LeftOut]) -> None:
    """Append rows that are not used to the list."""
    lines = left_out_lines(step, rows)
    if not lines:
        return
    # half a surrogate pair, which no file can hold, becomes a question mark
    with path.open("a", encoding="utf-8", errors="replace") as file:
        file.write("".join(lines))
