"""Measure how long the commands take that need no model.

    OMP_NUM_THREADS=1 python benchmarks/command_times.py

Each command runs several times in a fresh process; the median of the seconds on the clock and of
the CPU seconds are printed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

COMMANDS = (
    ("--help",),
    ("-h",),
    ("--version",),
    ("configs",),
    ("show", "digits"),
    ("knobs",),
    ("knobs", "rollout"),
    ("train", "--help"),
    ("evaluate", "counts.yaml", "--answers", "right.jsonl", "--to", "records.jsonl"),
    ("compare", "wrong_records.jsonl", "right_records.jsonl"),
    ("data", "rows.jsonl"),
    ("data", "digits", "task=add", "--head", "3"),
)
QUESTIONS = 20


def main() -> None:
    """Print a line for each command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write(folder)
        for command in COMMANDS:
            clock: list[float] = []
            cpu: list[float] = []
            for _ in range(arguments.times):
                start, used = time.perf_counter(), _child_cpu()
                _run(folder, command)
                clock.append(time.perf_counter() - start)
                cpu.append(_child_cpu() - used)
            line = f"{median(clock):.2f} s, {median(cpu):.2f} CPU s: gpg-vl {' '.join(command)}"
            print(line, flush=True)


def _write(folder: Path) -> None:
    """Write a benchmark, two files of answers to it, and the records of both."""
    rows: list[str] = []
    for number in range(QUESTIONS):
        row = {"id": f"q{number}", "question": "How many?", "answer_kind": "number", "answer": 3}
        rows.append(json.dumps(row) + "\n")
    (folder / "rows.jsonl").write_text("".join(rows))
    (folder / "counts.yaml").write_text("name: counts\ndata: [{files: rows.jsonl}]\n")
    for name, answer in (("right", 3), ("wrong", 4)):
        answers: list[str] = []
        for number in range(QUESTIONS):
            text = f"<think>so</think><answer>{answer}</answer>"
            answers.append(json.dumps({"id": f"q{number}", "text": text}) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(answers))
        records = f"{name}_records.jsonl"
        _run(folder, ("evaluate", "counts.yaml", "--answers", f"{name}.jsonl", "--to", records))


def _run(folder: Path, command: tuple[str, ...]) -> None:
    """Run a command in a fresh process."""
    subprocess.run(
        [sys.executable, "-m", "gpg_vl", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def _child_cpu() -> float:
    """Return the CPU seconds of all child processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
