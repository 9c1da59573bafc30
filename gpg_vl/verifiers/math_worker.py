"""math-verify behind a hard timeout: it runs in a process of its own, which is killed when an answer takes too long.

Run as a program, this file is that process: it reads one JSON request a line and answers each with one line. sympy can be made to compute
for hours or to eat all memory by a short text (`9^{9^{9^9}}`), and math-verify's own timeouts are signals, which only reach a main thread.
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
from gpg_vl.verifiers.base import Grade

START_SECONDS = 120.0
"""Longest start of the process: importing sympy on a busy machine."""
MEMORY = 4 * 2**30
"""Bytes that the process may use."""


class Worker:
    """One process that answers requests one after the other; started when first needed, again after each kill or fork."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.owner = 0
        self.asked = 0
        """Number of the last request; its answer must carry it."""

    def ask(self, seconds: float, **request: Any) -> dict[str, Any] | None:
        """The answer to one request; None where it took longer, or more memory than it may.

        Raises:
            UserError: math-verify is not installed.
        """
        if find_spec("math_verify") is None:
            raise UserError("the expression verifier needs math-verify: pip install 'gpg-vl[math]'")
        with self.lock:
            process = self._running()
            assert process.stdin is not None
            self.asked += 1
            try:
                process.stdin.write(json.dumps({"id": self.asked, **request}).encode() + b"\n")
                process.stdin.flush()
                line = self._line(process, seconds)
            except BrokenPipeError:
                line = None
            if line is None:
                self.close()
            return None if line is None else self._answer(json.loads(line))

    def _answer(self, told: dict[str, Any]) -> dict[str, Any]:
        if told["id"] != self.asked:
            self.close()
            raise RuntimeError(f"the math-verify process answered request {told['id']} instead of {self.asked}; it is started anew")
        return told

    def close(self) -> None:
        """Kill the process, if it is ours."""
        if self.process is not None and self.owner == os.getpid():
            self.process.kill()
            self.process.communicate()
        self.process = None

    def _running(self) -> "subprocess.Popen[bytes]":
        if self.process is not None and self.owner == os.getpid() and self.process.poll() is None:
            return self.process
        self.close()
        command = [sys.executable, "-m", "gpg_vl.verifiers.math_worker"]
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "PYTHONPATH": paths}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
        )
        self.owner = os.getpid()
        if self._line(self.process, START_SECONDS) is None:
            code = self.process.poll()
            self.close()
            raise RuntimeError(f"the math-verify process did not start (exit code {code}); try: {' '.join(command)}")
        return self.process

    def _line(self, process: "subprocess.Popen[bytes]", seconds: float) -> bytes | None:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        return (process.stdout.readline() or None) if ready else None


WORKER = Worker()
"""The process that all verifiers of this process share."""
atexit.register(WORKER.close)


def whole_completion(text: str, truth: str, seconds: float = 10.0) -> Grade:
    """R1-V's evaluator (src/eval/test_qwen2vl_geoqa.py): math-verify reads the whole completion, and the truth as it stands."""
    answer = WORKER.ask(seconds, answer=text[-20_000:], gold=truth, swapped=True)
    if answer is None:
        return Grade(0.0, "", "unreadable: took too long")
    return Grade(float(answer["right"]), answer["read"], "right" if answer["right"] else "wrong")


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Any:
    from math_verify import parse  # pyright: ignore[reportMissingTypeStubs]

    return cast(Any, parse)(text, parsing_timeout=None)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    from math_verify import verify  # pyright: ignore[reportMissingTypeStubs]

    gold, given = _parsed(request["gold"]), _parsed(request["answer"])
    pair = (given, gold) if request.get("swapped") else (gold, given)
    right = bool(gold) and bool(given) and bool(verify(*pair, timeout_seconds=None))
    return {"right": right, "read": str(given[0])[:200] if given else "", "gold": bool(gold)}


def main() -> None:
    """Answer requests until the other side hangs up."""
    import logging
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.CRITICAL)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    print(json.dumps(_answer({"gold": "$1$", "answer": "1"})), file=answers, flush=True)  # imports everything: the worker is ready
    for line in sys.stdin:
        request = json.loads(line)
        try:
            told = _answer(request)
        except Exception as error:  # sympy raises whatever it likes on what a model writes
            told = {"right": False, "read": re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:200], "gold": True, "failed": True}
        print(json.dumps({"id": request["id"], **told}), file=answers, flush=True)


if __name__ == "__main__":
    main()
