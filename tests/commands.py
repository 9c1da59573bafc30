"""`gpg-vl` as a user calls it: in this process, and, where a process is the point, in one of its own."""

import os
import subprocess
import sys
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from gpg_vl.cli import app

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Told:
    """What a command printed, and its exit code."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def printed(self) -> str:
        """Both, the errors last."""
        return self.stdout + self.stderr


def gpg_vl(*arguments: object, cwd: Path = HERE) -> Told:
    """The command in this process, which saves the seconds of the imports; a bug raises here, and nothing prints a traceback.

    It runs in tests/; `cwd=Path()` is the current folder, for a test that has changed it.
    """
    with chdir(cwd):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    told = Told(done.exit_code, done.stdout, done.stderr)
    assert "Traceback" not in told.printed
    return told


def gpg_vl_process(*arguments: object, cwd: Path = HERE) -> Told:
    """The same, as a shell would start it."""
    command = [sys.executable, "-m", "gpg_vl", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ)
    return Told(done.returncode, done.stdout, done.stderr)
