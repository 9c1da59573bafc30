"""Measure each case in a fresh process, so that no case inherits the memory of another.

Every result is appended to a file at once, as a JSON line.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Record = dict[str, Any]

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
"""Environment of the processes; variables that are already set keep their values."""


def run(script: str, arguments: list[str], environment: Mapping[str, str] | None = None) -> str:
    """Run a script in a fresh process and return what it prints.

    Args:
        environment: further variables of the process.
    """
    done = subprocess.run(
        [sys.executable, script, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**ONE_THREAD, **os.environ, **(environment or {})},
    )
    if done.returncode:
        sys.exit(
            f"{' '.join(arguments)}: failed with {done.returncode}, see above; earlier results are "
            "kept"
        )
    return done.stdout


def record(
    script: str, arguments: list[str], environment: Mapping[str, str] | None = None
) -> Record:
    """Run a script and return the JSON object on the last line that it prints."""
    return json.loads(run(script, arguments, environment).splitlines()[-1])


def read(path: Path) -> list[Record]:
    """Read the results so far; an empty list if there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def append(path: Path, result: Record) -> None:
    """Append a result to the file."""
    with path.open("a") as file:
        file.write(json.dumps(result) + "\n")


def markdown(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    rule = tuple("---" for _ in head)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))
