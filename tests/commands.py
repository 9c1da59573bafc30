"""Call `gpg-vl` as a user does: in this process or, where a test is about one, in a new one."""

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
class Result:
    """Output and exit code of a command."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def printed(self) -> str:
        """Standard output, then errors."""
        return self.stdout + self.stderr


def gpg_vl(*arguments: object, cwd: Path = HERE) -> Result:
    """Run the command in this process, which saves the seconds of the imports.

    A bug raises here, and no command prints a traceback. It runs in tests/; `cwd=Path()` is the
    current folder, for a test that has changed it.
    """
    with chdir(cwd):
        done = CliRunner().invoke(
            app,
            [str(argument) for argument in arguments],
            prog_name="gpg-vl",
            catch_exceptions=False,
        )
    result = Result(done.exit_code, done.stdout, done.stderr)
    assert "Traceback" not in result.printed
    return result


def gpg_vl_process(*arguments: object, cwd: Path = HERE) -> Result:
    """Run the command as a shell would start it."""
    command = [sys.executable, "-m", "gpg_vl", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ)
    return Result(done.returncode, done.stdout, done.stderr)
