"""Commands that need no model load neither torch nor transformers, and answer in a moment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers")
MAX_CPU_SECONDS = 1.0
"""CPU time of the process, which a busy machine changes less than the time on the clock."""
TRIES = 3
"""The best of these is compared with the limit."""

PROGRAM = f"""
import json, sys, time
from gpg_vl.cli import app
code = 0
try:
    app(sys.argv[1:], prog_name="gpg-vl")
except SystemExit as left:
    code = left.code or 0
loaded = [name for name in {HEAVY!r} if name in sys.modules]
report = {{"code": code, "loaded": loaded, "seconds": time.process_time()}}
print(json.dumps(report), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A benchmark of 20 questions in a file, and two files of answers to them."""
    path = tmp_path_factory.mktemp("light")
    rows: list[str] = []
    for number in range(20):
        row = {"id": f"q{number}", "question": "How many?", "answer_kind": "number", "answer": 3}
        rows.append(json.dumps(row) + "\n")
    (path / "rows.jsonl").write_text("".join(rows))
    (path / "counts.yaml").write_text("name: counts\ndata: [{files: rows.jsonl}]\n")
    for name, answer in (("right", 3), ("wrong", 4)):
        answers: list[str] = []
        for number in range(20):
            text = f"<think>so</think><answer>{answer}</answer>"
            answers.append(json.dumps({"id": f"q{number}", "text": text}) + "\n")
        (path / f"{name}.jsonl").write_text("".join(answers))
        command = ["evaluate", path / "counts.yaml", "--answers", path / f"{name}.jsonl"]
        report(path, *command, "--to", path / f"{name}_records.jsonl")
    (path / "scenes.py").write_text(SCENES)
    return path


SCENES = """
import json
from pathlib import Path
from gpg_vl.types import Sample

def scenes(folder: str):
    for line in (Path(folder) / "rows.jsonl").read_text().splitlines():
        yield Sample(**json.loads(line))
"""
"""A recipe of a user's own."""


def report(cwd: Path, *arguments: object) -> tuple[dict[str, object], str]:
    """Run a command in a process of its own; return its code, its CPU time and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1]), done.stdout


COMMANDS = {
    "help": (["--help"], "Usage: gpg-vl"),
    "help of train": (["train", "--help"], "rollout.group_size"),
    "help of evaluate": (["evaluate", "--help"], "shipped benchmarks"),
    "compare": (
        ["compare", "wrong_records.jsonl", "right_records.jsonl"],
        "q0: 0.00 '4' -> 1.00 '3'",
    ),
    "evaluate --answers": (["evaluate", "counts.yaml", "--answers", "right.jsonl"], "100.0"),
    "data": (
        ["data", "./scenes.py:scenes", "folder=.", "--to", "out"],
        "20 rows earn the full reward with their own answer",
    ),
    "data of rows": (["data", "rows.jsonl"], "tried:      20 of the first 20 rows earn"),
    "data of a shipped recipe": (["data", "digits", "task=add", "--head", "3"], "3 rows earn"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_it_loads_no_torch_and_takes_less_than_a_second(name, folder):
    arguments, expected = COMMANDS[name]
    seconds: list[float] = []
    for attempt in range(TRIES):
        own = [f"{word}{attempt}" if word == "out" else word for word in arguments]
        facts, printed = report(folder, *own)
        assert (facts["code"], facts["loaded"]) == (0, [])
        assert expected in printed
        seconds.append(float(str(facts["seconds"])))
        if seconds[-1] < MAX_CPU_SECONDS:
            return
    pytest.fail(f"{name}: CPU seconds {seconds}, expected one below {MAX_CPU_SECONDS}")
