"""Parts in processes of their own, one after another, within a budget of time: a part that fails, hangs or is killed stops no other.

A part tells its numbers as it goes, each dictionary a JSON line in a file that it is given; so a part that is stopped has told what it had
by then.
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
"""What was measured, by a name that contains the unit."""

State = Literal["ok", "skipped", "failed", "late"]

SKIPPED = "skipped"
"""The key under which a part tells why it cannot be done here."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a part."""

    part: str
    state: State
    reason: str
    """Why it is not ok; else empty."""
    seconds: float
    limit: float
    numbers: Numbers = field(default_factory=Numbers)
    """All that was told, also by a part that failed later."""
    log: str = ""
    """The end of what a part that failed printed."""


def run_all(shares: Mapping[str, float], command: Callable[[str, Path], list[str]], budget: float) -> Iterator[Outcome]:
    """Run the parts in order, each as soon as the one before it has ended.

    What is left of the budget is divided among the parts that are left by their shares, so what one does not need is there for the others,
    and all together never take longer than the budget.

    Args:
        shares: the parts and how long each should take, in seconds.
        command: from a part and the file for its numbers to what runs it.
        budget: seconds for all parts.
    """
    end = monotonic() + budget
    left = dict(shares)
    for part, share in shares.items():
        limit = max(0.0, end - monotonic()) * share / sum(left.values())
        del left[part]
        yield run_part(part, command, limit)


def run_part(part: str, command: Callable[[str, Path], list[str]], limit: float) -> Outcome:
    """One part, with all processes that it starts, ended after `limit` seconds."""
    with tempfile.TemporaryDirectory() as folder:
        told, log = Path(folder) / "numbers.jsonl", Path(folder) / "log"
        start = monotonic()
        with log.open("w") as printed:
            process = subprocess.Popen(command(part, told), stdout=printed, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                with suppress(ProcessLookupError):  # the part and all that it started have ended
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        seconds = monotonic() - start
        numbers, said = read_numbers(told), log.read_text(errors="replace")
    state, reason = _judged(code, numbers, said, limit)
    return Outcome(part, state, reason, round(seconds, 1), round(limit, 1), numbers, said[-4000:] if state in {"failed", "late"} else "")


def _judged(code: int | None, numbers: Numbers, said: str, limit: float) -> tuple[State, str]:
    if code is None:
        return "late", f"not done after {limit:.0f} s"
    if code < 0:
        return "failed", f"killed by {signal.Signals(-code).name}"
    if code:
        return "failed", _last_error(said) or f"ended with {code}"
    return ("skipped", numbers[SKIPPED]) if SKIPPED in numbers else ("ok", "")


def _last_error(said: str) -> str:
    """The last line that begins with an exception's name, else the last line."""
    lines = [line.strip()[:300] for line in said.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt|Hit)\b", line)]
    return (named or lines or [""])[-1]


def tell(path: Path, numbers: Numbers) -> None:
    """Called in the part: numbers that are kept whatever happens to it next."""
    with path.open("a") as file:
        file.write(json.dumps(numbers) + "\n")


def read_numbers(path: Path) -> Numbers:
    """All that a part told; the last line of one that was killed may be half written."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return {name: value for line in lines if line.endswith("\n") for name, value in json.loads(line).items()}
