"""Run math-verify behind a hard timeout, in a process of its own that is killed on a timeout.

Run as a program, this file is that process: it reads one JSON request a line and answers each with
one line. A short text can make sympy compute for hours or use all memory (`9^{9^{9^9}}`), and
math-verify's own timeouts are signals, which only reach a main thread.

A request is {"id": ..., "answer": ..., "truth": ...}, with "swapped": true to compare in the other
direction. A reply is {"id": ..., "right": bool, "read": the answer as it was read, "truth": bool,
the truth could be read}, with "failed": true where math-verify raised an error.
"""

import atexit
import json
import os
import re
import select
import subprocess
import sys
import threading
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, cast

from gpg_vl.errors import UserError

START_SECONDS = 120.0
"""Longest start of the process, in seconds: importing sympy on a busy machine."""
MEMORY = 4 * 2**30
"""Memory that the process may use, in bytes."""
MAX_READ = 200
"""Characters of an answer, as it was read, that are returned."""


class Worker:
    """One process that answers requests one after the other.

    It is started by the first request, and again after each kill or fork.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.owner = 0
        """Id of the process that started `process`; a forked child must not use its pipes."""
        self.last_id = 0
        """Id of the last request; its reply must carry it."""

    def ask(self, seconds: float, **request: Any) -> dict[str, Any] | None:
        """Return the reply to one request.

        None where it took longer than `seconds`, or more memory than `MEMORY`.

        Raises:
            UserError: math-verify is not installed.
        """
        with self.lock:
            process = self._running()
            assert process.stdin is not None
            self.last_id += 1
            try:
                line = json.dumps({"id": self.last_id, **request})
                process.stdin.write(line.encode() + b"\n")
                process.stdin.flush()
                reply = self._line(process, seconds)
            except BrokenPipeError:
                reply = None
            if reply is None:
                self.close()
                return None
            return self._checked(json.loads(reply))

    def _checked(self, reply: dict[str, Any]) -> dict[str, Any]:
        """Check that a reply belongs to the last request."""
        if reply["id"] != self.last_id:
            self.close()
            raise RuntimeError(
                f"the math-verify process answered request {reply['id']} instead of "
                f"{self.last_id}; it is started anew"
            )
        return reply

    def close(self) -> None:
        """Kill the process, if this process started it."""
        if self.process is not None and self.owner == os.getpid():
            self.process.kill()
            self.process.communicate()
        self.process = None

    def _running(self) -> "subprocess.Popen[bytes]":
        """Return the process, started if needed.

        Raises:
            UserError: math-verify is not installed.
        """
        if self.process is not None and self.owner == os.getpid() and self.process.poll() is None:
            return self.process
        if find_spec("math_verify") is None:
            raise UserError("the expression verifier needs math-verify: pip install 'gpg-vl[math]'")
        self.close()
        command = [sys.executable, "-m", "gpg_vl.verifiers.math_worker"]
        # the same import path as here, also where gpg_vl is not installed
        paths = os.pathsep.join(path for path in sys.path if path)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,
        )
        self.owner = os.getpid()
        # the first line states that everything is imported
        if self._line(self.process, START_SECONDS) is None:
            code = self.process.poll()
            self.close()
            raise RuntimeError(
                f"the math-verify process did not start (exit code {code}); try: "
                f"{' '.join(command)}"
            )
        return self.process

    def _line(self, process: "subprocess.Popen[bytes]", seconds: float) -> bytes | None:
        """Read one line; None on a timeout, or where the process has ended."""
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        if not ready:
            return None
        return process.stdout.readline() or None


WORKER = Worker()
"""The process that all verifiers of this process share."""
atexit.register(WORKER.close)


# --- the process ----------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Any:
    from math_verify import parse  # pyright: ignore[reportMissingTypeStubs]

    return cast(Any, parse)(text, parsing_timeout=None)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """Compare the answer of a request with its truth."""
    from math_verify import verify  # pyright: ignore[reportMissingTypeStubs]

    truth = _parsed(request["truth"])
    given = _parsed(request["answer"])
    # `verify` is not symmetric, and R1-V passes the answer first
    pair = (given, truth) if request.get("swapped") else (truth, given)
    right = bool(truth) and bool(given) and bool(verify(*pair, timeout_seconds=None))
    read = str(given[0])[:MAX_READ] if given else ""
    return {"right": right, "read": read, "truth": bool(truth)}


def _failure(error: Exception) -> dict[str, Any]:
    message = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")
    return {"right": False, "read": message[:MAX_READ], "truth": True, "failed": True}


def main() -> None:
    """Answer requests until standard input is closed."""
    import logging
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.CRITICAL)
    # replies go to a copy of standard output, so that what a library prints is no reply
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # the first comparison imports everything; its line states that the process is ready
    print(json.dumps(_answer({"truth": "$1$", "answer": "1"})), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = _answer(request)
        except Exception as error:  # sympy raises errors of any type on what a model writes
            reply = _failure(error)
        print(json.dumps({"id": request["id"], **reply}), file=replies, flush=True)


if __name__ == "__main__":
    main()
