"""Runs in real terminals: what is on the screen at any width, Ctrl-C, a window that is closed."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import HERE
from tests.terminal import CTRL_C, Screen, in_terminal, steps_of

SLOW = """
import fcntl, os, struct, sys, termios, time
from gpg_vl.cli import app
from gpg_vl.rollout.transformers_engine import TransformersEngine
from gpg_vl.training import checkpoint
from gpg_vl.training.learner import Learner

def slowed(owner, name, seconds):
    call = getattr(owner, name)
    def slow(*given, **more):
        time.sleep(seconds)
        return call(*given, **more)
    setattr(owner, name, slow)

SECONDS = 0.3  # the line is drawn every 0.25 seconds
slowed(TransformersEngine, "generate", SECONDS)
slowed(Learner, "update", SECONDS)
"""
"""A program whose model samples, learns and answers slowly enough for every phase to be seen."""

AT_WIDTHS = (
    SLOW
    + """
for width in sys.argv[2:]:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 50, int(width), 0, 0))
    print(f"=== {width}", flush=True)
    knobs = ["steps=4", f"warmup.steps={width[0]}", f"folder={sys.argv[1]}/{width}"]
    app(["train", "small.yaml", *knobs], standalone_mode=False)
"""
)
WITH_SLOW_ANSWERS = SLOW + "app(sys.argv[1:], standalone_mode=True)\n"
LONG = (
    "steps=3000",
    "evaluation.benchmark=null",
    "rollout.idle_steps=3000",
    "checkpoint.every=3000",
)


# --- what is seen ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict[int, Screen]:
    """The screen of a run at each width, in one process."""
    folder = tmp_path_factory.mktemp("widths")
    widths = (60, 80, 100, 160)
    with in_terminal(folder, *widths, program=AT_WIDTHS) as terminal:
        assert terminal.end() == 0, terminal.screen.text
    screens: dict[int, Screen] = {}
    for part in terminal.output.split("=== ")[1:]:
        width = int(part[:3])
        screens[width] = Screen(width)
        screens[width].feed(part)
    assert tuple(screens) == widths
    return screens


@pytest.mark.parametrize("width", [60, 80, 100, 160])
@pytest.mark.parametrize(
    ("phase", "amount"),
    [
        ("warm-up", r"\d/\d"),
        ("evaluating, before", r"\d+/20 questions"),
        ("evaluating, step 2", r"\d/8 questions"),
        ("evaluating, after", r"\d+/20 questions"),
        ("sampling answers", r"step [1-4]/4"),
        ("updating the model", r"step [1-4]/4"),
    ],
)
def test_phase_bar_step_and_time_are_on_the_screen(width, phase, amount, seen):
    line = re.compile(rf"{phase} +[━─]{{5,}} +{amount} +\d+:\d\d (left|so far)(  |$)")
    shown = [frame for frame in seen[width].frames if frame.startswith(phase)]
    assert any(line.match(frame) for frame in shown), shown
    assert max(map(len, shown)) < width


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_the_time_that_is_left_is_on_the_screen_in_a_step(width, seen):
    assert any(
        re.match(r"sampling answers .* step 4/4 +0:0\d left", frame) for frame in seen[width].frames
    )


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_loading_and_saving_are_shown_as_what_they_are(width, seen):
    names = {re.split("  +", frame)[0] for frame in seen[width].frames}
    assert {"trying the tasks", "checking the engine"} <= names


def test_figures_come_last_and_whole_as_far_as_there_is_room(seen):
    at: dict[int, str] = {}
    for width, screen in seen.items():
        frames = [frame for frame in screen.frames if re.match(r"sampling.*step 4/4", frame)]
        at[width] = frames[-1]
    assert "reward" not in at[60]
    assert re.search(r"left +reward \d\.\d{3}$", at[80])
    assert re.search(r"left +reward \d\.\d{3}  (skipped|informative \d+ %)$", at[100])
    assert re.search(r"informative \d+ %  alpha \d\.\d\d  .*s$", at[160])


def test_the_last_screen_is_without_the_line_and_nothing_is_cut(seen):
    for width, screen in seen.items():
        assert "sampling answers" not in screen.text
        lines = screen.text.splitlines()
        told = next(line for line in lines if "held-out accuracy" in line)
        assert len(told) < width


# --- requests to stop -----------------------------------------------------------------------------


def test_ctrl_c_answers_saves_and_what_it_prints_can_be_pasted_elsewhere(tmp_path):
    """The folder of the run has a blank in its name, and the reward is a file beside the config."""
    home = tmp_path / "my lab"
    home.mkdir()
    (home / "rewards.py").write_text(
        "from gpg_vl.verifiers.number import Number\n\n\nclass Stars(Number):\n    pass\n"
    )
    config = (HERE / "small.yaml").read_text() + "verifiers: {number: './rewards.py:Stars'}\n"
    (home / "mine.yaml").write_text(config)
    with in_terminal("train", home / "mine.yaml", f"folder={home}/runs", *LONG) as terminal:
        terminal.until(r"step [1-9]\d*/3000")
        terminal.press(CTRL_C)
        terminal.until(
            r"(finishing step \d+, then saving|saving step \d+, then leaving); again leaves now"
        )
        assert terminal.end() == 130
    assert "Traceback" not in terminal.screen.text
    run = home / "runs" / "small"
    step = steps_of(run)[-1]
    assert f"stopped; step {step} is saved. Go on with:" in terminal.screen.text
    assert terminal.output.rfind("\x1b[?25h") > terminal.output.rfind("\x1b[?25l") >= 0
    (resume,) = re.findall(r"  (gpg-vl train --resume .*)\r\n", terminal.output)
    assert resume == f"gpg-vl train --resume {shlex.quote(str(run))}"

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    printed = pasted(f"{resume} steps={step + 1}", elsewhere)
    assert f"resumed from step {step}" in printed
    assert "mean reward of sampled answers: " in printed
    commands = re.findall(r"^  (gpg-vl .*)$", printed, re.MULTILINE)
    assert [shlex.split(command)[1] for command in commands] == ["rollout"]
    assert "mean reward" in pasted(commands[0], elsewhere)


def pasted(command: str, folder: Path) -> str:
    """Return what a command prints that is pasted into a shell in a folder."""
    program = folder / "gpg-vl"
    if not program.exists():
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m gpg_vl "$@"\n')
        program.chmod(0o755)
    path = os.pathsep.join([str(HERE.parent), *sys.path])
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": path}
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_second_ctrl_c_leaves_at_once_and_the_terminal_is_left_clean(tmp_path):
    knobs = (f"folder={tmp_path}", *LONG)
    with in_terminal("train", "small.yaml", *knobs, program=WITH_SLOW_ANSWERS) as terminal:
        terminal.until(r"step [1-9]\d*/3000")
        terminal.press(CTRL_C)
        terminal.until("finishing step")
        time.sleep(0.6)  # sooner, it would be the same request
        terminal.press(CTRL_C)
        assert terminal.end() == 130
    assert "leaving now" in terminal.screen.text
    assert "stopped; step 0 is saved" in terminal.screen.text
    assert terminal.output.rfind("\x1b[?25h") > terminal.output.rfind("\x1b[?25l") >= 0
    assert "Traceback" not in terminal.screen.text


def test_a_window_that_is_closed_saves_the_run(tmp_path):
    with in_terminal("train", "small.yaml", f"folder={tmp_path}", *LONG) as terminal:
        terminal.until(r"step ([2-9]|[1-9]\d+)/3000")
        terminal.close()
        assert terminal.end() == 130
    run = tmp_path / "small"
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps_of(run)[-1] == steps[-1] >= 1


def test_a_run_under_nohup_goes_on_when_its_window_is_closed(tmp_path):
    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    knobs = (f"folder={tmp_path}", "evaluation.benchmark=null")
    with in_terminal("train", "small.yaml", *knobs, before=nohup) as terminal:
        terminal.until("checking the engine")
        terminal.close()
        assert terminal.end() == 0
    assert steps_of(tmp_path / "small")[-1] == 4


def test_ctrl_c_in_the_evaluation_before_the_first_step_leaves_and_says_what_is_kept(tmp_path):
    knobs = (f"folder={tmp_path}", "warmup.steps=3")
    with in_terminal("train", "small.yaml", *knobs, program=WITH_SLOW_ANSWERS) as terminal:
        terminal.until("evaluating, before")
        terminal.press(CTRL_C)
        assert terminal.end() == 130
    said = " ".join(terminal.screen.text.split())
    assert "leaving now" in said
    assert (
        "stopped before the first step (evaluating, before); the warm-up is kept and will not be "
        "repeated: start again with the same command"
    ) in said
    assert steps_of(tmp_path / "small") == []


def test_ctrl_c_in_a_later_evaluation_drops_it_and_a_resumed_run_makes_it(tmp_path):
    knobs = (f"folder={tmp_path}", "warmup.steps=3")
    run = tmp_path / "small"
    with in_terminal("train", "small.yaml", *knobs, program=WITH_SLOW_ANSWERS) as terminal:
        terminal.until("evaluating, step 2")
        terminal.press(CTRL_C)
        assert terminal.end() == 130
    said = " ".join(terminal.screen.text.split())
    assert "leaving the evaluation, saving step 2; again leaves now" in said
    assert "the evaluation (step 2) is left; it is made when the run goes on" in said
    assert "stopped; step 2 is saved" in said
    assert steps_of(run)[-1] == 2
    assert not (run / "evaluation" / "small-000002.jsonl").exists()
    with in_terminal("train", "--resume", run) as terminal:
        assert terminal.end() == 0
    assert (run / "evaluation" / "small-000002.jsonl").exists()
    assert steps_of(run)[-1] == 4


def test_a_reader_that_leaves_ends_the_run_saved(tmp_path):
    """`gpg-vl train | head -3`."""
    run = tmp_path / "small"
    command = [sys.executable, "-m", "gpg_vl", "train", "small.yaml", f"folder={tmp_path}", *LONG]
    with subprocess.Popen(
        command, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while "step 1/3000" not in process.stdout.readline():
            pass
        process.stdout.close()
        process.send_signal(signal.SIGTERM)  # or the next line, up to a minute later
        errors = process.stderr.read()
        assert process.wait() == 130
    assert "Traceback" not in errors
    assert re.search(r"\d\d:\d\d:\d\d  finishing step \d+, then saving", errors)
    assert f"gpg-vl train --resume {run}" in errors
    assert steps_of(run)[-1] >= 1
