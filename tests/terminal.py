"""Run a command in a terminal of its own: what is on its screen, its keys, and closing it."""

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.commands import HERE

ROWS = 50
SECONDS = 240
"""Longest time to wait for something, after which a test fails."""
CONTROL = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|[\r\n]|[^\x1b\r\n]")
COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
CTRL_C = b"\x03"
SIZED = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"}
"""Variables of the environment that would count more than the terminal."""


class Screen:
    """A screen that understands what the display uses: up, column, erased lines."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.lines = [""]
        self.row = self.column = 0
        self.frames: list[str] = []
        """The line of the cursor, each time it had changed."""
        self.wrapped: list[str] = []
        """Lines of the display that did not fit."""

    def feed(self, text: str) -> None:
        """Take output of the program."""
        for found in CONTROL.finditer(text):
            if found[2]:
                self._control(found[1], found[2])
            elif found[0] == "\r":
                self._keep_frame()
                self.column = 0
            elif found[0] == "\n":
                self._keep_frame()
                self._next_row()
            else:
                self._put(found[0])
        self._keep_frame()

    def _control(self, number: str, letter: str) -> None:
        if letter == "A":
            self.row = max(0, self.row - int(number or 1))
        elif letter == "K":
            kept = "" if number == "2" else self.lines[self.row][: self.column]
            self.lines[self.row] = kept
        elif letter not in "mhl":
            raise AssertionError(f"unknown control sequence {number}{letter}")

    def _put(self, character: str) -> None:
        if self.column == self.columns:
            self.wrapped.append(self.lines[self.row])
            self._next_row()
            self.column = 0
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
        self.column += 1

    def _next_row(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")

    def _keep_frame(self) -> None:
        line = self.lines[self.row].rstrip()
        if line and (not self.frames or self.frames[-1] != line):
            self.frames.append(line)

    @property
    def text(self) -> str:
        """All lines, also those that a real terminal would have scrolled away."""
        return "\n".join(line.rstrip() for line in self.lines)


class Terminal:
    """A program that runs in a terminal."""

    def __init__(
        self, command: list[str], columns: int, before: Callable[[], object], cwd: Path
    ) -> None:
        self.master, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        self.screen = Screen(columns)
        self.output = ""
        self.seen = 0
        # a letter may be cut where one piece of output ends
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

        def at_start() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that keys and closing send signals
            before()

        environment = {key: value for key, value in os.environ.items() if key not in SIZED}
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**environment, "TERM": "xterm-256color", "PYTHONPATH": str(HERE.parent)},
            stdin=end,
            stdout=end,
            stderr=end,
            start_new_session=True,
            preexec_fn=at_start,
        )
        os.close(end)

    def read(self) -> bool:
        """Take the next output; False when there is none any more."""
        ready, _, _ = select.select([self.master], [], [], SECONDS)
        assert ready, f"nothing in {SECONDS} s, the screen is:\n{self.screen.text}"
        try:
            piece = os.read(self.master, 65536)
        except OSError:  # the other end is closed
            return False
        text = self.decoder.decode(piece)
        self.output += text
        self.screen.feed(text)
        return bool(piece)

    def until(self, pattern: str) -> None:
        """Read until something is on the screen, or was since the last call."""
        last = time.monotonic() + SECONDS
        while True:
            shown = "\n".join([*self.screen.frames[self.seen :], self.screen.text])
            if re.search(pattern, shown):
                break
            missing = f"{pattern!r} did not come, the screen is:\n{self.screen.text}"
            assert time.monotonic() < last, missing
            assert self.read(), missing
        self.seen = len(self.screen.frames)

    def press(self, key: bytes) -> None:
        """Press a key."""
        os.write(self.master, key)

    def close(self) -> None:
        """Close the window."""
        os.close(self.master)
        self.master = -1

    def end(self) -> int:
        """Read to the end of the program and return its exit code."""
        while self.master >= 0 and self.read():
            pass
        return self.process.wait(timeout=SECONDS)


@contextmanager
def in_terminal(
    *arguments: object,
    columns: int = 100,
    program: str = "",
    before: Callable[[], object] = lambda: None,
    cwd: Path = HERE,
) -> Iterator[Terminal]:
    """Start `gpg-vl` in a terminal.

    Args:
        program: Python source that is run instead, with the arguments in sys.argv.
        before: called in the new process before it begins.
    """
    how = ["-c", program] if program else ["-m", "gpg_vl"]
    terminal = Terminal([sys.executable, *how, *map(str, arguments)], columns, before, cwd)
    try:
        yield terminal
    finally:
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.process.wait()
        if terminal.master >= 0:
            terminal.close()


def on_terminal(*arguments: object, columns: int, cwd: Path = HERE.parent) -> tuple[int, str]:
    """Run `gpg-vl` to its end; return its exit code, and what it prints, without colours."""
    with in_terminal(*arguments, columns=columns, cwd=cwd) as terminal:
        code = terminal.end()
    return code, COLOURS.sub("", terminal.output).replace("\r", "")


def steps_of(run: Path) -> list[int]:
    """Return the steps of a run that have a checkpoint."""
    return sorted(int(path.parent.name) for path in (run / "checkpoints").glob("*/state.json"))
