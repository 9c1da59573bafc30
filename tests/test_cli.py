"""The commands as a user sees them: their output, their exit codes; signals, terminals and full
disks in real processes."""

import gc
import json
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gpg_vl import cli, run_folder
from gpg_vl.cli import application
from gpg_vl.evaluation.records import load
from tests.commands import HERE, gpg_vl, gpg_vl_process


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, str]:
    """A small run made by the command in a process of its own, and what it printed."""
    folder = tmp_path_factory.mktemp("cli")
    done = gpg_vl_process("train", "small.yaml", f"folder={folder}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder / "small", done.stdout


def test_train_tells_progress_results_and_what_to_do_next(trained):
    run, printed = trained
    assert printed.splitlines()[0].endswith("  loading libraries")
    assert "warm-up 40/40: loss" in printed
    assert re.search(r"step 4/4  0:00 left  reward \d", printed)
    assert "held-out greedy accuracy, % (95 % interval)" in printed
    commands = re.findall(r"^  (gpg-vl \w+)", printed, re.MULTILINE)
    assert commands == ["gpg-vl rollout", "gpg-vl evaluate", "gpg-vl compare"]
    assert f"run folder: {run}" in printed.splitlines()
    assert "Traceback" not in printed
    progress, _, _ = printed.partition("held-out greedy accuracy")
    for line in progress.rstrip().splitlines():
        assert re.match(r"\d\d:\d\d:\d\d  \S", line), "each line has the time of day"
    assert not re.search(r"[\r\x1b]", printed)


def test_train_again_refuses_and_resume_goes_on(trained):
    run, _ = trained
    again = gpg_vl("train", "small.yaml", f"folder={run.parent}")
    assert again.returncode == 2
    assert (
        again.stderr
        == f"gpg-vl: {run} holds a run already; continue it with `gpg-vl train --resume {run}`, or "
        "choose another `name=`\n"
    )
    done = gpg_vl("train", "--resume", run, cwd=run.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("nothing is left to do: all 4 steps of ")
    evaluated = run / "evaluation" / "small-after.jsonl"
    records = evaluated.read_bytes()
    evaluated.unlink()  # as if the evaluation had been dropped
    further = gpg_vl("train", "--resume", run, cwd=run.parent)
    assert further.returncode == 0, further.stderr
    assert "resumed from step 4" in further.stdout
    assert len(evaluated.read_bytes().splitlines()) == len(records.splitlines())


def interrupted(
    folder: Path, until: str, *knobs: str, number: signal.Signals = signal.SIGINT
) -> tuple[int, str]:
    """Exit code and output of a run that gets a signal after it has printed `until`."""
    command = [sys.executable, "-m", "gpg_vl", "train", "small.yaml", f"folder={folder}", *knobs]
    with subprocess.Popen(
        command, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        printed = ""
        while until not in printed:
            line = process.stdout.readline()
            assert line, printed
            printed += line
        process.send_signal(number)
        printed += process.stdout.read()
        return process.wait(timeout=60), printed


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)]
)
def test_a_request_to_stop_finishes_the_step_saves_and_says_how_to_go_on(number, trained):
    run, _ = trained
    name = f"long{number}"
    long = (
        "steps=800",
        "evaluation.benchmark=null",
        "rollout.idle_steps=800",
        "checkpoint.every=800",
    )
    code, printed = interrupted(run.parent, "step 1/800", f"name={name}", *long, number=number)
    assert code == 130
    steps = [row["step"] for row in run_folder.metric_rows(run.parent / name)]
    assert re.search(r"finishing step \d+, then saving; again leaves now", printed)
    assert f"stopped; step {steps[-1]} is saved. Go on with:" in printed
    assert f"  gpg-vl train --resume {run.parent / name}\n" in printed
    assert steps == list(range(1, steps[-1] + 1))
    assert "Traceback" not in printed


def test_ctrl_c_in_the_warmup_leaves_nothing_in_the_way(tmp_path):
    code, printed = interrupted(tmp_path, "warm-up: 400 steps", "warmup.steps=400")
    assert code == 130
    assert (
        "stopped before the first step (warm-up); nothing is kept: start again with the same "
        "command\n"
    ) in printed
    assert not (tmp_path / "small").exists()


def test_rollout_shows_answers_and_rewards(trained, tmp_path):
    run, _ = trained
    done = gpg_vl(
        "rollout", "small.yaml", "--model", run, "--groups", 3, "--to", tmp_path / "answers.jsonl"
    )
    assert done.returncode == 0, done.stderr
    assert "of 3 groups" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [len(row["answers"]) for row in rows] == [4, 4, 4]


def test_evaluate_a_run_a_checkpoint_and_blank_images(trained, tmp_path):
    run, _ = trained
    whole = gpg_vl("evaluate", "small_benchmark.yaml", "--model", run, "--to", tmp_path / "a.jsonl")
    bare = gpg_vl(
        "evaluate",
        "small_benchmark.yaml",
        "--model",
        run / "checkpoints" / "000004" / "policy",
        "prompt=answer",
        "--to",
        tmp_path / "b.jsonl",
    )
    blank = gpg_vl("evaluate", "small_benchmark.yaml", "--model", run, "--blank")
    for done in (whole, bare, blank):
        assert done.returncode == 0, done.stderr
        assert " greedy " in done.stdout
    assert "on blank images" in blank.stdout
    of_run, of_policy = (load(tmp_path / f"{name}.jsonl") for name in "ab")
    checkpoint = str(run / "checkpoints" / "000004" / "policy")  # a run may save another one later
    assert [record.about["model"] for record in (of_run[0], of_policy[0])] == [checkpoint] * 2
    for record in (*of_run, *of_policy):  # NaN is not equal to NaN
        assert math.isnan(record.beside)
    assert [replace(record, about={}, beside=0.0) for record in of_run] == [
        replace(record, about={}, beside=0.0) for record in of_policy
    ]


def test_sft_runs_only_the_warmup(trained):
    run, _ = trained
    done = gpg_vl("sft", "small.yaml", f"folder={run.parent}", "name=sft")
    assert done.returncode == 0, done.stderr
    assert "warm-up: read from" in done.stdout
    assert (
        run.parent / "sft" / "checkpoints" / "000000" / "policy" / "model.safetensors"
    ).is_file()


def test_rollout_says_why_no_answer_has_the_format():
    done = gpg_vl("rollout", "small.yaml", "--groups", 2)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("8 of 8 answers do not have the format of the prompt style; ")
    assert "raise rollout.max_tokens (now 8)" in last or "raise warmup.steps" in last


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("train", "digist"),
            "configs: got 'digist', which is neither shipped nor a YAML file. Did you mean digits?",
        ),
        (("train", "stpes=3"), "stpes=3: no such key; did you mean steps?"),
        (("train", "steps=many"), "steps: got 'many', expected a whole number"),
        (
            ("train", "small.yaml", "steps"),
            "got 'steps', expected key=value, for instance steps=100 or optimizer.lr=1e-5",
        ),
        (
            ("train", "small.yaml", "estimator=gpt"),
            "estimator: got 'gpt', expected a known name or an import path",
        ),
        (
            ("train", "small.yaml", "estimator.scal=std", "estimator.kind=gpg"),
            "estimator.scal: no such key; did you mean scale?",
        ),
        (
            ("train", "--resume", "nowhere"),
            "--resume nowhere: there is no such folder",
        ),
        (("evaluate", "digit", "--model", "x"), "cannot be loaded"),
        (("sft", "small.yaml", "warmup.steps=0"), "warmup.steps: got 0, expected at least 1"),
    ],
)
def test_a_mistake_gets_a_sentence_and_exit_code_2(arguments, sentence):
    done = gpg_vl(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_mistake_in_a_process_of_its_own_gets_the_same():
    done = gpg_vl_process("train", "stpes=3")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("stpes=3: no such key; did you mean steps?\n")


FILLING = """
import resource, signal
from gpg_vl import cli
from gpg_vl.training import loop

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
train_step = loop.train_step

def filling(run):
    if run.state.step == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_960, 40_960))
    return train_step(run)

loop.train_step = filling
cli.main()
"""


@pytest.mark.parametrize(
    ("given", "spins"),
    [
        ({}, "10000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None),
    ],
)
def test_threads_give_up_their_cores_soon_unless_the_user_says_how(given, spins, monkeypatch):
    monkeypatch.setattr(application, "app", lambda **words: None)
    monkeypatch.setattr(gc, "set_threshold", lambda count: None)
    # not os.environ itself: what is added to it would stay
    environment = {"PATH": "/bin", **given}
    monkeypatch.setattr(os, "environ", environment)
    cli.main()
    assert environment.get("GOMP_SPINCOUNT") == spins


def test_a_full_disk_stops_with_a_sentence_and_the_last_checkpoint_is_whole(trained):
    """Files may grow to 40 KiB from the third step on, as on a disk with no more room."""
    run, _ = trained
    command = [
        sys.executable,
        "-c",
        FILLING,
        "train",
        "small.yaml",
        f"folder={run.parent}",
        "name=full",
    ]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "stopped: no space left to write below" in done.stderr
    assert f"go on from step 2 with gpg-vl train --resume {run.parent / 'full'}" in done.stderr
    assert "Traceback" not in done.stderr
    further = gpg_vl("train", "--resume", run.parent / "full")
    assert further.returncode == 0, further.stderr
    assert "resumed from step 2" in further.stdout
