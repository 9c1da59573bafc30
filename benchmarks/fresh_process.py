"""Measuring in fresh processes, so that no case inherits another's memory, and keeping every result as a JSON line at once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

Record = dict[str, Any]

ONE_THREAD = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
"""What processes are started with, unless OMP_NUM_THREADS is set."""


def run(script: str, arguments: list[str]) -> str:
    """What a script prints when run with these arguments in a fresh process."""
    done = subprocess.run(
        [sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True, check=False, env={**ONE_THREAD, **os.environ}
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}: failed with {done.returncode}, see above; what was measured before is kept")
    return done.stdout


def record(script: str, arguments: list[str]) -> Record:
    """The JSON object on the last line of what it prints."""
    return json.loads(run(script, arguments).splitlines()[-1])


def read(path: Path) -> list[Record]:
    """What has been measured."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, result: Record) -> None:
    """Keep a result."""
    with path.open("a") as file:
        file.write(json.dumps(result) + "\n")


def markdown(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """A table."""
    rule = tuple("---" for _ in head)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))
