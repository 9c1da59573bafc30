"""The commands as a user sees them: their output, their exit codes; signals, terminals and full
disks in real processes."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpg_vl.config import resources
from gpg_vl.config.schema import Config, knobs
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
    assert "warm-up 40/40: loss" in printed
    assert "step 4/4  reward" in printed
    assert "held-out greedy accuracy, % (95 % interval)" in printed
    assert f"run folder: {run}" in printed
    assert "gpg-vl rollout" in printed
    assert "Traceback" not in printed


def test_train_again_refuses_and_resume_goes_on(trained):
    run, _ = trained
    again = gpg_vl("train", "small.yaml", f"folder={run.parent}")
    assert again.returncode == 2
    assert (
        again.stderr
        == f"gpg-vl: {run} holds a run already; continue it with `gpg-vl train --resume {run}`, or "
        "choose another `name=`\n"
    )
    further = gpg_vl("train", "--resume", run, cwd=run.parent)
    assert further.returncode == 0, further.stderr
    assert "resumed from step 4" in further.stdout


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
    steps = [
        json.loads(line)["step"]
        for line in (run.parent / name / "metrics.jsonl").read_text().splitlines()
    ]
    assert (
        f"stopped; go on from step {steps[-1]} with: gpg-vl train --resume {run.parent / name}"
        in printed
    )
    assert steps == list(range(1, steps[-1] + 1))
    assert "Traceback" not in printed


def test_a_second_request_leaves_at_once_and_the_terminal_is_left_clean(trained):
    """On a real terminal: the bar hides the cursor, so it must be shown again."""
    run, _ = trained
    command = [
        sys.executable,
        "-m",
        "gpg_vl",
        "train",
        "small.yaml",
        f"folder={run.parent}",
        "name=twice",
    ]
    command += ["steps=3000", "evaluation.benchmark=null", "rollout.idle_steps=3000"]
    wide = {**os.environ, "TERM": "xterm-256color"}
    terminal, end = pty.openpty()
    printed = b""
    with subprocess.Popen(
        command, cwd=HERE, env=wide, stdin=end, stdout=end, stderr=end
    ) as process:
        os.close(end)
        while not re.search(rb"[1-9]\d*/3000", printed):
            printed += os.read(terminal, 65536)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # the other end is closed when the process has ended
            while piece := os.read(terminal, 65536):
                printed += piece
        assert process.wait(timeout=60) == 130
    os.close(terminal)
    assert printed.rfind(b"\x1b[?25h") > printed.rfind(b"\x1b[?25l") >= 0
    assert b"Traceback" not in printed
    again = gpg_vl("train", "--resume", run.parent / "twice", "steps=3")
    assert again.returncode == 0, again.stderr


def test_ctrl_c_in_the_warmup_leaves_nothing_in_the_way(tmp_path):
    code, printed = interrupted(tmp_path, "warm-up ", "warmup.steps=400")
    assert code == 130
    assert "start again with the same command" in printed
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
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "b.jsonl").read_text()


def test_sft_runs_only_the_warmup(trained):
    run, _ = trained
    done = gpg_vl("sft", "small.yaml", f"folder={run.parent}", "name=sft")
    assert done.returncode == 0, done.stderr
    assert "warm-up: read from" in done.stdout
    assert (
        run.parent / "sft" / "checkpoints" / "000000" / "policy" / "model.safetensors"
    ).is_file()


@pytest.mark.parametrize("command", ["train", "sft", "rollout"])
def test_help_shows_every_knob_with_its_sentence(command):
    done = gpg_vl(command, "--help")
    assert done.returncode == 0
    words = " ".join(done.stdout.split())
    for key, _, sentence in knobs(Config):
        assert key in words
        assert sentence.split()[0] in words
    assert "min_informative" in words  # the knobs of parts too
    assert "beta_th" in words


def test_help_of_evaluate_lists_the_shipped_benchmarks():
    done = gpg_vl("evaluate", "--help")
    words = " ".join(done.stdout.split())
    for name in resources.names("evaluation"):
        assert f"│ {name} " in done.stdout
    assert "Held-out scenes made of held-out handwriting; boxes count as right at IoU 0.5." in words
    assert "beside" in words


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("train", "digist"),
            "configs: got 'digist', which is neither shipped nor a file. Did you mean digits?",
        ),
        (("train", "stpes=3"), "stpes: no such key; did you mean steps?"),
        (("train", "steps=many"), "steps: got 'many', expected: input should be a valid integer"),
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
            "--resume nowhere: no config.yaml there, so it is not a run folder",
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
    assert done.stderr.endswith("stpes: no such key; did you mean steps?\n")


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
