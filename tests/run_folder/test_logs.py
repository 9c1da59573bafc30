"""The rows of metrics.jsonl of each kind, and how a run was started each time."""

import json
import math
import os
import re
import shlex
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpg_vl import run_folder
from gpg_vl.evaluation.records import Record
from gpg_vl.run_folder import RunFolder, json_text, machine, metric_rows
from gpg_vl.run_folder.metric_rows import row_kind
from gpg_vl.training import checkpoint
from gpg_vl.training.checkpoint import State
from gpg_vl.training.metrics import held_out_figures
from gpg_vl.types import Verdict
from tests.hand_made import group

WARMUP = [
    {"time": "T1", "warmup/step": 1, "warmup/loss": 2.5},
    {"time": "T2", "warmup/step": 2, "warmup/loss": math.nan},
]


def kinds(run: Path) -> list[tuple[int, str]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row_kind(row)) for row in rows]


def test_each_kind_of_row_is_found_again(tmp_path):
    run = RunFolder(tmp_path)
    run.begin(WARMUP)
    run.held_out(0, {"held_out": 0.25})
    run.metrics(1, {"reward": 0.5})
    assert metric_rows(tmp_path, "warmup") == [
        {"step": 0, "time": "T1", "warmup/step": 1, "warmup/loss": 2.5},
        {"step": 0, "time": "T2", "warmup/step": 2, "warmup/loss": None},
    ]
    (held_out,) = metric_rows(tmp_path, "held_out")
    (step,) = metric_rows(tmp_path)
    assert (held_out["step"], held_out["held_out"]) == (0, 0.25)
    assert (step["step"], step["reward"]) == (1, 0.5)
    assert metric_rows(tmp_path / "nowhere") == []


def test_a_time_is_that_of_now_with_its_zone(tmp_path):
    run = RunFolder(tmp_path)
    run.metrics(1, {"reward": 0.5})
    run.held_out(1, {"held_out": 0.5})
    for kind in ("step", "held_out"):
        (row,) = metric_rows(tmp_path, kind)
        then = datetime.fromisoformat(row["time"])
        assert then.utcoffset() == timedelta(0)
        assert abs(datetime.now(then.tzinfo) - then) < timedelta(minutes=5)


def test_an_evaluation_that_is_made_again_takes_the_place_of_the_first(tmp_path):
    run = RunFolder(tmp_path)
    run.begin(WARMUP)
    run.held_out(0, {"held_out": 0.0})
    run.metrics(1, {"reward": 0.5})
    run.metrics(2, {"reward": 0.5})
    run.held_out(2, {"held_out": 0.25})
    again = RunFolder(tmp_path)
    again.rewind(2)
    again.held_out(2, {"held_out": 0.5})
    assert [row["held_out"] for row in metric_rows(tmp_path, "held_out")] == [0.0, 0.5]
    assert kinds(tmp_path) == [
        (0, "warmup"),
        (0, "warmup"),
        (0, "held_out"),
        (1, "step"),
        (2, "step"),
        (2, "held_out"),
    ]
    again.rewind(0)
    again.held_out(0, {"held_out": 0.75})
    assert kinds(tmp_path) == [(0, "warmup"), (0, "warmup"), (0, "held_out")]
    assert metric_rows(tmp_path, "held_out")[0]["held_out"] == 0.75


def test_a_new_run_begins_its_logs_anew(tmp_path):
    RunFolder(tmp_path).begin(WARMUP)
    RunFolder(tmp_path, rank=1).begin([])
    assert len(metric_rows(tmp_path, "warmup")) == 2, "only the main process does"
    RunFolder(tmp_path).begin(WARMUP[:1])
    assert len(metric_rows(tmp_path, "warmup")) == 1


class Listening:
    """A tracker that wants the warm-up too."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def __call__(self, step, metrics):
        self.heard.append((step, dict(metrics)))

    def warmup(self, step, numbers):
        self.heard.append(("warmup", step, dict(numbers)))

    def close(self):
        pass


def test_trackers_get_every_row_and_callbacks_those_of_training_steps(tmp_path):
    tracker, called, plain = Listening(), [], []

    def callable_only(step, row):
        plain.append((step, dict(row)))

    others: list[Any] = [tracker, callable_only]
    run = RunFolder(
        tmp_path,
        [lambda step, row: called.append(step)],
        trackers=others,
    )
    run.begin(WARMUP[:1])
    run.held_out(0, {"held_out": 0.25})
    run.metrics(1, {"reward": 0.5})
    assert tracker.heard == [
        ("warmup", 1, {"warmup/step": 1, "warmup/loss": 2.5}),
        (0, {"held_out": 0.25}),
        (1, {"reward": 0.5}),
    ]
    assert plain == [(0, {"held_out": 0.25}), (1, {"reward": 0.5})]
    assert called == [1]


# --- the figures of an evaluation -----------------------------------------------------------------


def record(tag: str, greedy: float, well_formed: float = 1.0) -> Record:
    return Record(
        id=tag,
        tag=tag,
        greedy=greedy,
        sampled=math.nan,
        text="",
        answer="",
        reason="",
        well_formed=well_formed,
    )


def test_the_figures_of_held_out_questions_by_hand():
    """Five of eight right; of the first two of each task 2 and 1 of four."""
    evaluated = [
        *(record("add", right, 0.0) for right in (1, 1, 0)),
        *(record("box", right) for right in (0, 1, 1, 1, 0)),
    ]
    figures = held_out_figures(evaluated, 2)
    # Wilson: (0.625 + 3.8415 / 16 -+ 1.96 * sqrt(0.2344 / 8 + 3.8415 / 256)) / 1.4802
    assert figures == pytest.approx(
        {
            "held_out": 5 / 8,
            "held_out/questions": 8,
            "held_out/low": 0.3057,
            "held_out/high": 0.8632,
            "held_out/well_formed": 5 / 8,
            "held_out/add": 2 / 3,
            "held_out/box": 3 / 5,
            "held_out/score": 3 / 4,
        },
        abs=1e-4,
    )
    assert held_out_figures(evaluated, None)["held_out/score"] == 5 / 8


def test_a_task_with_the_name_of_a_figure_hides_none():
    figures = held_out_figures([record("questions", 1.0), record("a", 0.0)], None)
    assert figures["held_out/questions"] == 2
    assert figures["held_out/questions (task)"] == 1.0


def test_one_question_has_no_interval_and_what_is_not_recorded_is_not_written():
    figures = held_out_figures([record("a", 1.0, math.nan)], None)
    assert figures.keys() == {"held_out", "held_out/questions", "held_out/score", "held_out/a"}


# --- valid JSON -----------------------------------------------------------------------------------


def test_no_token_that_json_does_not_have():
    value = {"a": [math.nan, {"b": (math.inf, 1.5)}], "c": -math.inf, "d": "NaN"}
    assert json_text(value) == '{"a": [null, {"b": [null, 1.5]}], "c": null, "d": "NaN"}'


def test_a_group_that_waits_with_an_unscored_answer_comes_back_as_it_was():
    waiting = group([math.nan, 1.0, 0.0], parts=[{}, {"accuracy": math.nan}, {"accuracy": 0.0}])
    boxed = tuple(
        Verdict(
            reward=verdict.reward,
            parts=verdict.parts,
            reason=verdict.reason,
            boxes=((1.0, 2.0, 3.0, 4.0),),
        )
        for verdict in waiting.verdicts
    )
    object.__setattr__(waiting, "verdicts", boxed)
    one: Any = SimpleNamespace(all_gather=lambda own: [own], count=1, rank=0)
    row = checkpoint.state_row(State(carried=(waiting,)), one)
    read = json.loads(json_text(row), parse_constant=lambda token: pytest.fail(token))
    back = checkpoint._group(read["carried"][0][0], lambda index: waiting.prompt)
    assert repr(back.verdicts) == repr(waiting.verdicts)
    assert back.completions == waiting.completions


# --- how it was started ---------------------------------------------------------------------------


def test_each_start_is_written_down(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "gpg_vl", "train", "name=two words"])
    monkeypatch.setattr(machine, "now", lambda: "T1")
    monkeypatch.setattr(machine, "_git_commit", lambda: "")
    first = run_folder.environment(threads=1)
    start = {
        "time": "T1",
        "command": "python -m gpg_vl train 'name=two words'",
        "directory": str(tmp_path),
    }
    assert first["starts"] == [start]
    assert shlex.split(first["starts"][0]["command"]) == sys.orig_argv, "what a shell takes"
    run_folder.write_header(tmp_path / "run", "", first)
    monkeypatch.setattr(machine, "now", lambda: "T2")
    run_folder.write_header(tmp_path / "run", "", run_folder.environment(), is_resumed=True)
    starts = run_folder.read_environment(tmp_path / "run")["starts"]
    assert [start["time"] for start in starts] == ["T1", "T2"]
    run_folder.write_header(tmp_path / "run", "", run_folder.environment())
    assert len(run_folder.read_environment(tmp_path / "run")["starts"]) == 1, "a new run"


def test_a_run_of_an_older_release_has_no_start_before(tmp_path):
    run_folder.write_header(tmp_path, "", {"threads": 1})
    environment = json.loads((tmp_path / "environment.json").read_text())
    del environment["starts"]
    (tmp_path / "environment.json").write_text(json.dumps(environment))
    run_folder.write_header(tmp_path, "", run_folder.environment(), is_resumed=True)
    assert len(run_folder.read_environment(tmp_path)["starts"]) == 1


def test_no_variable_of_the_environment_is_written_down(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a-secret-of-mine")
    run_folder.write_header(tmp_path, "", run_folder.environment())
    assert "a-secret-of-mine" not in (tmp_path / "environment.json").read_text()


def test_the_commit_of_the_working_directory_and_whether_it_is_changed(tmp_path, monkeypatch):
    def git(*arguments: str) -> str:
        own = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", *identity, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True, env=os.environ | own
        )
        return done.stdout.strip()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert machine._git_commit() == "", "no repository"
    git("init", "-q")
    assert machine._git_commit() == "", "no commit"
    (tmp_path / "a").write_text("one")
    git("add", "a")
    git("commit", "-qm", "one")
    git("tag", "v1")
    commit = git("rev-parse", "HEAD")
    assert machine._git_commit() == commit
    (tmp_path / "a").write_text("another")
    assert machine._git_commit() == f"{commit}-dirty"
    monkeypatch.setenv("PATH", "")
    assert machine._git_commit() == "", "no git"


@pytest.mark.parametrize(
    ("text", "driver"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  Thu Mar  7\nGCC version:",
            "535.161.08",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release Build",
            "570.86.10",
        ),
        ("something else", None),
        (None, None),
    ],
)
def test_the_driver_of_a_gpu(text, driver, tmp_path, monkeypatch):
    path = tmp_path / "version"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(machine, "_NVIDIA_DRIVER", path)
    assert machine._nvidia_driver() == driver


def test_cpu_cores_and_memory_of_this_machine(tmp_path, monkeypatch):
    environment = run_folder.environment()
    assert environment["cores"] >= 1
    assert environment["memory_gb"] > 0
    (tmp_path / "cpuinfo").write_text("flags\t: a\nmodel name\t: Some CPU @ 2 GHz\nbugs\t: a\n")
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "cpuinfo")
    assert machine._cpu_model() == "Some CPU @ 2 GHz"
    (tmp_path / "cpuinfo").write_text("Features: fp asimd\n")  # as on ARM
    assert re.search(r"\w", machine._cpu_model())
