"""Run parts one after another, each in its own process, within a time budget.

A part that fails, hangs or is killed does not stop the others. A part writes its numbers while it
runs, each dictionary as a JSON line of a file that it is given; so the numbers of a part that is
stopped are kept.
"""

import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Literal

Numbers = dict[str, Any]
"""Measured numbers, by a name that contains the unit."""

State = Literal["ok", "skipped", "failed", "late"]

SKIPPED = "skipped"
"""Key of the reason why a part cannot run here."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a part."""

    part: str
    state: State
    reason: str
    """Reason why it is not ok; else empty."""
    seconds: float
    """Seconds that it took."""
    limit: float
    """Seconds that it was allowed."""
    numbers: Numbers = field(default_factory=Numbers)
    """All numbers that were written, also by a part that failed later."""
    log: str = ""
    """End of the output of a part that failed or was late."""


def run_all(
    shares: Mapping[str, float], command: Callable[[str, Path], list[str]], budget: float
) -> Iterator[Outcome]:
    """Run the parts in order, each as soon as the one before it has ended.

    The remaining budget is divided among the remaining parts by their shares. So the others get the
    time that one does not need, and all together never take longer than the budget.

    Args:
        shares: part -> its share of the budget, beside those of the others.
        command: makes the command line from a part and the file for its numbers.
        budget: seconds for all parts.
    """
    end = monotonic() + budget
    left = dict(shares)
    for part, share in shares.items():
        limit = max(0.0, end - monotonic()) * share / sum(left.values())
        del left[part]
        yield run_part(part, command, limit)


def run_part(part: str, command: Callable[[str, Path], list[str]], limit: float) -> Outcome:
    """Run one part; end it and all processes that it started after `limit` seconds."""
    with tempfile.TemporaryDirectory() as folder:
        numbers_file, log = Path(folder) / "numbers.jsonl", Path(folder) / "log"
        start = monotonic()
        with log.open("w") as log_file:
            process = subprocess.Popen(
                command(part, numbers_file),
                stdout=log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                with suppress(ProcessLookupError):  # the part and all that it started have ended
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        seconds = monotonic() - start
        numbers, output = read_numbers(numbers_file), log.read_text(errors="replace")
    state, reason = _state_and_reason(code, numbers, output, limit)
    return Outcome(
        part=part,
        state=state,
        reason=reason,
        seconds=round(seconds, 1),
        limit=round(limit, 1),
        numbers=numbers,
        log=output[-4000:] if state in {"failed", "late"} else "",
    )


def _state_and_reason(
    code: int | None, numbers: Numbers, output: str, limit: float
) -> tuple[State, str]:
    """Judge a part by its exit code (None = it was stopped) and its output."""
    if code is None:
        return "late", f"not done after {limit:.0f} s"
    if code < 0:
        return "failed", f"killed by {signal.Signals(-code).name}"
    if code:
        return "failed", _last_error(output) or f"ended with {code}"
    if SKIPPED in numbers:
        return "skipped", numbers[SKIPPED]
    return "ok", ""


def _last_error(output: str) -> str:
    """Return the last line that begins with an exception's name, else the last line."""
    lines = [line.strip()[:300] for line in output.splitlines() if line.strip()]
    # "ValueError: ...", or torch's "FailOnRecompileLimitHit: ..."
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt|Hit)\b", line)]
    return (named or lines or [""])[-1]


def write_numbers(path: Path, numbers: Numbers) -> None:
    """Write numbers from inside a part; they are kept whatever happens to it next."""
    with path.open("a") as file:
        file.write(json.dumps(numbers) + "\n")


def read_numbers(path: Path) -> Numbers:
    """Read all numbers of a part; the last line of one that was killed may be incomplete."""
    numbers: Numbers = {}
    if not path.exists():
        return numbers
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            numbers |= json.loads(line)
    return numbers
