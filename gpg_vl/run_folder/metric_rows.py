"""Read the rows of `metrics.jsonl`, which are of three kinds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from gpg_vl.run_folder.json_lines import read_rows

METRICS = "metrics.jsonl"
"""Name of the file."""
RowKind = Literal["step", "held_out", "warmup"]
"""step: a training step | held_out: an evaluation on held-out questions, at its step | warmup: a
step of the supervised warm-up, all of them at step 0."""


def row_kind(row: Mapping[str, Any]) -> RowKind:
    """Return the kind of a row."""
    if "held_out" in row:
        return "held_out"
    return "warmup" if "warmup/step" in row else "step"


def metric_rows(run: Path, kind: RowKind = "step") -> list[dict[str, Any]]:
    """Read the rows of one kind of a run, in the order of their steps."""
    return [row for row in read_rows(run / METRICS) if row_kind(row) == kind]


def idle_steps_at_end(run: Path) -> int:
    """Return the number of steps at the end of a run that had no informative group."""
    idle = 0
    for row in reversed(metric_rows(run)):
        # rows of older releases may lack one
        if not row.get("skipped") or row.get("used_informative", 1):
            break
        idle += 1
    return idle
