"""Output whose reader leaves: in processes of their own, whose standard output is led elsewhere."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAM = """
import signal, sys, time
from rich.console import Console
from gpg_vl.report.output import lasting

hung_up = []
signal.signal(signal.SIGHUP, lambda *given: hung_up.append(given))
console = Console()
with lasting(console):
    console.print("first")
    sys.stdin.readline()
    console.print("second")
    print("third, of a plug-in", flush=True)
    console.print("fourth")
with open(sys.argv[1], "w") as report:
    report.write(f"{len(hung_up)} {console.file is sys.stdout}")
"""

HANDLER = "signal.signal(signal.SIGHUP, lambda *given: hung_up.append(given))"


def started(
    report: Path,
    program: str = PROGRAM,
    *,
    stdout: int,
    stderr: int,
    preexec_fn: Callable[[], object] | None = None,
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", program, str(report)],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        preexec_fn=preexec_fn,
    )


def line_of(terminal: int) -> bytes:
    """Read a line, which may come in pieces."""
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(terminal, 100)
    return line


def test_what_the_reader_of_a_pipe_has_not_read_goes_to_the_errors(tmp_path):
    report = tmp_path / "report"
    with started(report, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        process.stdout.close()  # as `head -1` does
        _, errors = process.communicate(b"\n", timeout=60)
    assert process.returncode == 0
    assert errors.decode().splitlines() == ["second", "third, of a plug-in", "fourth"]
    assert report.read_text() == "1 True"


IN_THREAD = """    threading.Thread(target=console.print, args=["second"]).start()
    time.sleep(60)"""


@pytest.mark.parametrize(
    ("printed", "code"),
    [
        ('    console.print("second")', 1),
        (IN_THREAD, -signal.SIGHUP),  # an error would end that thread alone
    ],
    ids=["main thread", "another thread"],
)
def test_a_program_that_has_nothing_to_save_ends_when_its_reader_leaves(printed, code, tmp_path):
    report = tmp_path / "report"
    program = PROGRAM.replace(HANDLER, "import threading")
    program = program.replace('    console.print("second")', printed)
    pipe = subprocess.PIPE
    with started(report, program, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        process.stdout.close()
        _, errors = process.communicate(b"\n", timeout=50)
    assert (process.returncode, errors) == (code, b"")
    assert not report.exists()


def test_a_terminal_that_is_closed_ends_nothing(tmp_path):
    report = tmp_path / "report"
    terminal, end = pty.openpty()
    with started(report, stdout=end, stderr=end) as process:
        os.close(end)
        assert line_of(terminal) == b"first\r\n"
        os.close(terminal)
        process.communicate(b"\n", timeout=60)
    assert process.returncode == 0
    assert report.read_text() == "1 True"


def test_a_run_that_ignores_that_its_terminal_is_closed_goes_on(tmp_path):
    """`nohup`: the program that it starts inherits that SIGHUP is ignored."""
    report = tmp_path / "report"
    program = PROGRAM.replace(HANDLER, "")

    def ignoring() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    terminal, end = pty.openpty()
    with started(report, program, stdout=end, stderr=end, preexec_fn=ignoring) as process:
        os.close(end)
        assert line_of(terminal) == b"first\r\n"
        os.close(terminal)
        process.communicate(b"\n", timeout=60)
    assert process.returncode == 0
    assert report.read_text() == "0 True"
