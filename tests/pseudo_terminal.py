"""Run `gpg-vl` on a pseudo-terminal of a given size, as a person has it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from tests.conftest import ROOT


def on_terminal(*arguments: object, columns: int, cwd: Path = ROOT) -> tuple[int, str]:
    """Run a command; return its exit code, and what the terminal shows without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    sized = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"}
    environment = {key: value for key, value in os.environ.items() if key not in sized}
    process = subprocess.Popen(
        [sys.executable, "-m", "gpg_vl", *map(str, arguments)],
        cwd=cwd,
        env={**environment, "TERM": "xterm", "PYTHONPATH": str(ROOT)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", shown.decode())
    return process.wait(), text.replace("\r", "")
