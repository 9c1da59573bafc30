"""Commands that need no model load no package that takes long to load, so they answer in a moment.

How long they take: benchmarks/command_times.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpg_vl.cli import train
from gpg_vl.config.loading import load
from gpg_vl.training import resume_check

HEAVY = ("accelerate", "datasets", "pandas", "pyarrow", "scipy.stats", "torch", "transformers")
OF_DATA = (
    *("PIL", "httpx", "numpy", "gpg_vl.data", "gpg_vl.experiment", "gpg_vl.verifiers.base"),
    *("gpg_vl.parsing.choices", "gpg_vl.run_folder"),
)
"""What commands need that read data, and pages about configs do not."""
OF_CONFIGS = ("pydantic", "yaml", "gpg_vl.config", "gpg_vl.types")
"""What commands need that read a config, and pages of --help do not."""

PROGRAM = f"""
import json, sys
from gpg_vl.cli import app
code = 0
try:
    app(sys.argv[1:], prog_name="gpg-vl")
except SystemExit as left:
    code = left.code or 0
loaded = [name for name in {(*HEAVY, *OF_DATA, *OF_CONFIGS)!r} if name in sys.modules]
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
    (path / "table.csv").write_text("question,answer\nHow many?,3\n")
    (path / "table.yaml").write_text(
        "name: table\ndata: [{files: table.csv}]\nwarmup: {steps: 1}\n"
    )
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


def report(cwd: Path, *arguments: object) -> tuple[dict[str, Any], str]:
    """Run a command in a process of its own; return its code and what it loaded, and its output."""
    facts, printed, _ = outcome(cwd, *arguments)
    return facts, printed


def outcome(cwd: Path, *arguments: object) -> tuple[dict[str, Any], str, str]:
    """Run a command as `report` does; return its messages on stderr, too."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *told, facts = done.stderr.splitlines()
    return json.loads(facts), done.stdout, "\n".join(told)


COMMANDS = {
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
    assert facts["code"] == 0
    assert not set(facts["loaded"]) & set(HEAVY)
    assert expected in printed


PAGES = {
    "help": (["--help"], "Usage: gpg-vl"),
    "short option": (["-h"], "Usage: gpg-vl"),
    "version": (["--version"], "gpg-vl 0.1.0"),
}
PAGES_OF_COMMANDS = {
    "help of train": (["train", "--help"], "gpg-vl knobs"),
    "help of evaluate": (["evaluate", "--help"], "gpg-vl configs --benchmarks"),
    "help of data": (["data", "-h"], "./scenes.py:scenes"),
}


@pytest.mark.parametrize("name", PAGES)
def test_the_first_page_loads_nothing_but_typer(name, tmp_path):
    arguments, expected = PAGES[name]
    facts, printed = report(tmp_path, *arguments)
    assert facts == {"code": 0, "loaded": []}
    assert expected in printed


@pytest.mark.parametrize("name", PAGES_OF_COMMANDS)
def test_the_page_of_a_command_loads_nothing_of_the_package(name, tmp_path):
    """Typer itself loads pydantic to read the words behind a command."""
    arguments, expected = PAGES_OF_COMMANDS[name]
    facts, printed = report(tmp_path, *arguments)
    assert facts == {"code": 0, "loaded": ["pydantic"]}
    assert expected in printed


ABOUT_CONFIGS = {
    "configs": (["configs"], "digits"),
    "benchmarks": (["configs", "--benchmarks"], "cv_bench"),
    "show": (["show", "digits"], "name: digits"),
    "everything shown": (["show", "digits", "--all"], "group_size: 8"),
    "knobs": (["knobs"], "rollout.gate"),
    "knobs of a section": (["knobs", "rollout"], "rollout.group_size=8"),
    "knobs of an engine": (["knobs", "vllm"], "rollout.engine.window=8192"),
    "every knob": (["knobs", "--all"], "verifiers.boxes.measure=iou"),
    "schema": (["schema"], "additionalProperties"),
}


@pytest.mark.parametrize("name", ABOUT_CONFIGS)
def test_a_page_about_configs_loads_neither_data_nor_models(name, tmp_path):
    arguments, expected = ABOUT_CONFIGS[name]
    facts, printed = report(tmp_path, *arguments)
    assert facts["code"] == 0
    assert not set(facts["loaded"]) & {*HEAVY, *OF_DATA}
    assert expected in printed


def test_the_list_of_configs_reads_no_config(tmp_path):
    facts, _ = report(tmp_path, "configs")
    assert facts["loaded"] == ["pydantic", "gpg_vl.config"]


MISTAKES = {
    "verifier": (["train", "digits", "verifiers.number=numbr"], "verifiers.number"),
    "benchmark": (["train", "digits", "evaluation.benchmark=none.yaml"], "none.yaml: no such"),
    "verifier before the taken folder": (
        ["train", "digits", "folder=.", "name=taken", "verifiers.number=numbr"],
        "verifiers.number",
    ),
    "file": (["train", "table.yaml", "data.0.files=tabel.csv"], "did you mean table.csv?"),
    "file of a warm-up": (["sft", "table.yaml", "data.0.files=tabel.csv"], "tabel.csv does not"),
    "file of a rollout": (["rollout", "table.yaml", "data.0.files=tabel.csv"], "tabel.csv does"),
    "column": (
        ["train", "table.yaml", "data.0.columns.images=pictre"],
        "table.csv: columns: images: no row has a column 'pictre'; there are question, answer",
    ),
    "taken folder": (["train", "digits", "folder=.", "name=taken"], "holds a run already"),
    "warm-up in a taken folder": (["sft", "digits", "folder=.", "name=taken"], "holds a run"),
    "evaluated": (["evaluate", "geoq", "--model", "tiny"], "geoq"),
    "knob of one evaluated": (
        ["evaluate", "counts.yaml", "--model", "tiny", "benchmark.mode=strct"],
        "mode: got 'strct'",
    ),
}
"""Mistakes in parts and folders of commands that load a model."""


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_before_anything_heavy_is_loaded(name, folder):
    arguments, expected = MISTAKES[name]
    (folder / "taken").mkdir(exist_ok=True)
    (folder / "taken" / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
    facts, _, told = outcome(folder, *arguments)
    assert facts["code"] == 2
    assert not set(facts["loaded"]) & set(HEAVY)
    assert expected in told


@pytest.fixture
def begun(tmp_path) -> Path:
    """The run folder of a run of two steps, as far as a command looks before it loads a model."""
    run = tmp_path / "begun"
    (run / "checkpoints" / "000002").mkdir(parents=True)
    (run / "checkpoints" / "000002" / "state.json").write_text('{"step": 2, "score": 0.5}')
    config = load("digits", ["steps=2"])
    (run / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    (run / "environment.json").write_text(json.dumps({"config_folder": str(tmp_path)}))
    resume_check.write(run, {"config": config.model_dump(mode="json"), "data": "", "sources": {}})
    return run


def test_a_changed_config_is_refused_before_anything_heavy_is_loaded(begun):
    facts, _, told = outcome(begun, "train", "--resume", begun, "optimizer.lr=0.5")
    assert facts["code"] == 2
    assert not set(facts["loaded"]) & set(HEAVY)
    assert "optimizer.lr: 0.0001 -> 0.5. Change it back" in told


def test_a_finished_run_says_at_once_that_nothing_is_left(begun):
    evaluated = begun / "evaluation" / "digits-after.jsonl"
    evaluated.parent.mkdir()
    evaluated.write_text("")
    facts, printed, _ = outcome(begun, "train", "--resume", begun)
    assert facts["code"] == 0
    assert not set(facts["loaded"]) & set(HEAVY)
    assert printed == (
        f"nothing is left to do: all 2 steps of {begun} are done; `gpg-vl train --resume {begun} "
        "steps=M` goes on to step M\n"
    )


def test_a_finished_run_that_is_taken_back_is_not_finished(begun, monkeypatch):
    """Also where it goes on to the step that it is taken back to: what came after is dropped."""
    (begun / "checkpoints" / "000001").mkdir()
    (begun / "checkpoints" / "000001" / "state.json").write_text('{"step": 1, "score": null}')
    config = load("digits", ["steps=1"])
    assert not train._is_finished(begun, config, from_step=1)
    assert train._is_finished(begun, config, from_step=2)
    assert train._is_finished(begun, config, from_step=None)


INTERRUPTED = """
import runpy, sys

class CtrlC:
    def find_spec(self, name, path, target=None):
        if name == "gpg_vl.cli.train":
            raise KeyboardInterrupt

sys.meta_path.insert(0, CtrlC())
runpy.run_module("gpg_vl", run_name="__main__")
"""


def test_ctrl_c_before_any_command_is_quiet(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
