"""Starts stock vLLM servers quickly: a process that has imported vLLM once and forks a server for
every line on its standard input.

A line is JSON: {"arguments": [...], "log": "path"}; the answer is the process id of the server,
which leads a process group of its own. A fork saves the half minute of imports that each of a
server's three processes would spend; what runs is vLLM's own entry point. When the input ends,
because the tests are over or have been killed, all servers end too.
"""

import json
import multiprocessing
import os
import runpy
import signal
import sys
from contextlib import suppress

ENTRY = "vllm.entrypoints.openai.api_server"


def main() -> None:
    __import__(ENTRY)
    # The whole process group gets these signals; this process ends with its input instead.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    print("ready", flush=True)
    children: list[int] = []
    for line in sys.stdin:
        order = json.loads(line)
        if child := os.fork():
            children.append(child)
            print(child, flush=True)
        else:
            serve(order)
            return
    for child in children:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)


def serve(order: dict) -> None:
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = [ENTRY, *order["arguments"]]
    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: fork  # vLLM asks for "spawn" on a CPU
    runpy.run_module(ENTRY, run_name="__main__")


if __name__ == "__main__":
    main()
