"""The commands before a run as a terminal shows them: their width, Ctrl-C, a closed pipe."""

import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpg_vl.cli import prepare
from gpg_vl.preflight.plan import plan
from tests.commands import gpg_vl
from tests.published import picture, written

COMMAND = [sys.executable, "-m", "gpg_vl"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """A working directory with thirty counting rows and a config that reads them."""
    home = tmp_path / "a folder"
    home.mkdir()
    monkeypatch.chdir(home)
    rows: list[dict[str, object]] = []
    for number in range(30):
        picture(Path("pictures") / f"{number}.png", colour=(8 * number, 0, 0))
        image = f"pictures/{number}.png"
        rows.append({"question": "How red is it?", "answer": number, "image": image})
    written(Path("rows.jsonl"), rows)
    Path("mine.yaml").write_text(
        "name: mine\nprompt: answer\ndata: [{files: rows.jsonl, defaults: {answer_kind: number}}]\n"
    )
    return home


def on_terminal(width: int, *words: str) -> list[str]:
    """Run a command in a terminal of this width and return its lines."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(width), "TERM": "xterm"}
    with subprocess.Popen(
        [*COMMAND, *words], stdout=follower, stderr=follower, env=environment
    ) as process:
        os.close(follower)
        printed = b"".join(_chunks(leader))
    assert process.returncode == 0, printed.decode()
    return printed.decode().replace("\r", "").splitlines()


def _chunks(leader: int) -> Iterator[bytes]:
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # the terminal is closed when the command has ended
            return
        if not chunk:
            return
        yield chunk


@pytest.mark.parametrize("width", [60, 80])
def test_findings_hang_under_their_level_and_the_last_line_can_be_pasted(width, folder):
    *lines, last = on_terminal(width, "audit", "mine.yaml")
    assert max(map(len, lines)) <= width
    assert all(line[:6] in ("fine  ", "mind  ", "      ") for line in lines)
    levels = [line[:4] for line in lines if line[:4].strip()]
    assert levels == sorted(levels), "what matters is at the end"
    path = shlex.quote(str(folder / "mine.yaml"))
    assert last == f"no problem found; next: gpg-vl train {path}"


def test_a_pipe_gets_each_finding_in_one_line():
    done = gpg_vl("audit", "mine.yaml", cwd=Path())
    assert all(line[:6] in ("fine  ", "mind  ") for line in done.stdout.splitlines()[:-1])


def test_what_stops_a_run_stands_next_to_the_last_line():
    Path("mine.yaml").write_text(Path("mine.yaml").read_text() + "rollout: {max_tokens: 2}\n")
    done = gpg_vl("audit", "mine.yaml", cwd=Path())
    *_, mind, stop, last = done.stdout.splitlines()
    assert done.returncode == 1
    assert mind.startswith("mind  no evaluation.benchmark")
    assert stop.startswith("stop  answers: the shortest right answer takes")
    assert last == f"cannot learn: {stop.removeprefix('stop  ')}"


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_the_plan_fits_the_terminal(width):
    from gpg_vl.config.loading import load
    from gpg_vl.experiment import Experiment

    lines = plan(Experiment.resolve(load("digits")), width).lines
    assert max(map(len, lines)) <= min(80, max(60, width))
    table = [line for line in lines if line.startswith(" " * 10) and line[-3:-2] == "."]
    assert len(table) >= 8, "each item keeps its numbers in one line"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("digits", ["steps=5"]), "gpg-vl train digits steps=5"),
        (("steps=5", []), "gpg-vl train digits steps=5"),
        (("digits", ["name=my run"]), "gpg-vl train digits 'name=my run'"),
    ],
)
def test_the_next_command_is_quoted(words, expected):
    assert prepare.command_on("train", *words) == expected


# --- Ctrl-C and closed pipes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["audit", "mine.yaml"], "gpg_vl.preflight.audit.audit"),
        (["plan", "mine.yaml"], "gpg_vl.preflight.plan.plan"),
        (["data", "rows.jsonl"], "gpg_vl.preflight.propose_config.recognise"),
        (["init", "rows.jsonl", "--to", "x.yaml"], "gpg_vl.preflight.propose_config.recognise"),
        (["rollout", "mine.yaml"], "gpg_vl.preflight.try_rollout.sample_and_score"),
    ],
)
def test_ctrl_c_is_a_sentence_and_130(words, place, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupted)
    done = gpg_vl(*words, cwd=Path())
    assert (done.returncode, done.stderr) == (130, "gpg-vl: stopped by Ctrl-C\n")
    assert not Path("x.yaml").exists()


def test_ctrl_c_in_a_process_leaves_no_traceback():
    process = subprocess.Popen(
        [*COMMAND, "audit", "digits"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("fine  ")  # the command is under way
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (130, "gpg-vl: stopped by Ctrl-C\n")


PRESSED_IN_A_DESTRUCTOR = """
import signal, sys, time
import gpg_vl.preflight.audit
from gpg_vl.cli import main

class Pressed:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def audit(*_, **__):
    Pressed()
    time.sleep(0.1)
    print("went on")

gpg_vl.preflight.audit.audit = audit
sys.argv = ["gpg-vl", "audit", "digits"]
main()
"""


def test_ctrl_c_in_a_destructor_is_not_lost():
    """Python itself drops what is raised there: the command would go on."""
    done = subprocess.run(
        [sys.executable, "-c", PRESSED_IN_A_DESTRUCTOR], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "gpg-vl: stopped by Ctrl-C\n")
    assert "went on" not in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["data", "rows.jsonl"],
        ["data", "rows.jsonl", "--to", "x.yaml"],
        ["data", "rows.jsonl", "--to", "rows"],
        ["init", "rows.jsonl", "--to", "x.yaml"],
        ["audit", "mine.yaml"],
        ["plan", "mine.yaml"],
    ],
)
def test_a_closed_pipe_ends_a_command_quietly_and_nothing_is_half_written(words, folder):
    read, write = os.pipe()
    os.close(read)  # as head does, only sooner
    done = subprocess.run([*COMMAND, *words], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.stderr == ""
    if "x.yaml" in words:
        assert Path("x.yaml").read_text().startswith("# A tiny model answers rows.jsonl")
        assert Path("x_held_out.yaml").is_file()
    if "rows" in words:
        assert Path("rows/samples.jsonl").is_file()
        assert Path("rows/left_out.jsonl").is_file()
