"""Commands that need no model load no package that takes long to load, so they answer in a moment.

How long they take: benchmarks/command_times.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("accelerate", "datasets", "pandas", "pyarrow", "scipy.stats", "torch", "transformers")

PROGRAM = f"""
import json, sys
from gpg_vl.cli import app
code = 0
try:
    app(sys.argv[1:], prog_name="gpg-vl")
except SystemExit as left:
    code = left.code or 0
loaded = [name for name in {HEAVY!r} if name in sys.modules]
report = {{"code": code, "loaded": loaded}}
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
    """Run a command in a process of its own; return its code and what it loaded, and its output."""
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
def test_it_loads_nothing_heavy(name, folder):
    arguments, expected = COMMANDS[name]
    facts, printed = report(folder, *arguments)
    assert facts == {"code": 0, "loaded": []}
    assert expected in printed
