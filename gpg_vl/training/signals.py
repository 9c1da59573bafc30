"""Stop on request: a run that is asked once finishes its step and saves, asked again it leaves.

| request | in a step | in an evaluation | while saving | before the first step |
| --- | --- | --- | --- | --- |
| first | finish it, save, leave | drop it, save, leave | finish saving, leave | leave at once |
| Ctrl-C or SIGTERM again | leave at once | leave at once | leave at once | |

SIGHUP (the terminal was closed) counts as a first request only: a shell often sends it twice. One
that is ignored from the start (`nohup`) stays ignored.

A thread of its own answers a request, within milliseconds and also while the main thread is inside
one long call of a library. Python runs the handlers in the main thread between two instructions, so
the thread decides, and the handler only raises. The old handlers are put back after the run.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_REQUEST = 0.5
"""Seconds within which signals are one request: a launcher and a scheduler may both pass it on."""
ASK_AGAIN = 5.0
"""Seconds after which a main thread that should have left is interrupted again: code that it was
in may have swallowed the interrupt."""


class EvaluationDroppedError(KeyboardInterrupt):
    """An evaluation was ended by a request to stop; the run saves and leaves."""


class StopRequest:
    """Remembers that the run was asked to stop, and says what it does about it."""

    def __init__(self, log: Callable[[str], None] = lambda line: None) -> None:
        self.log = log
        self.asked = False
        self.leaving = False
        """True after a request to leave at once."""
        self.can_wait = False
        """True while a step can be finished and saved; before that a request leaves at once."""
        self.doing = "saving"
        """What is finished before the run leaves, in words: "finishing step 3, then saving"."""
        self.can_drop = False
        """True inside an evaluation, which a request ends."""
        self.is_due = False
        """True if the main thread has to be interrupted, which is done once: a second time would
        interrupt what it does in order to leave."""
        self._last = -SAME_REQUEST

    def receive(self, number: int, now: float) -> bool:
        """Take a request and answer it in words.

        Args:
            number: of the signal.
            now: in seconds.

        Returns:
            True if the main thread has to be interrupted.
        """
        is_same = now - self._last < SAME_REQUEST
        self._last = now
        if self.leaving or (self.asked and (is_same or number == signal.SIGHUP)):
            return False
        why = ""
        if number == signal.SIGHUP:
            why = "the terminal or the reader of this output is gone: "
        if self.can_wait and not self.asked:
            answer = f"{why}{self.doing}; again leaves now"
            self.asked = True  # from here on the main thread may do something else
            self.is_due = self.can_drop
            self.log(answer)
        else:
            self.leaving = self.is_due = True
            self.log(f"{why}leaving now")
        return self.is_due

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Raise in the main thread what a request asks for; a signal handler."""
        del number, frame
        is_due, self.is_due = self.is_due, False
        if is_due and self.leaving:
            raise KeyboardInterrupt
        if is_due and self.can_drop:
            raise EvaluationDroppedError

    @contextmanager
    def droppable(self, doing: str) -> Generator[None, None, None]:
        """Let a request end the block, if the run can be saved.

        Args:
            doing: what is done then, in words.

        Raises:
            EvaluationDroppedError: there was a request.
        """
        before, self.doing = self.doing, doing
        self.can_drop = self.can_wait
        try:
            if self.asked and self.can_drop:
                self.is_due = False
                raise EvaluationDroppedError
            yield
        finally:
            self.can_drop, self.doing = False, before


@contextmanager
def stop_request(log: Callable[[str], None] = print) -> Generator[StopRequest, None, None]:
    """Answer Ctrl-C, SIGTERM and SIGHUP while a run lasts.

    Args:
        log: called with a sentence, from another thread; only on the main process.
    """
    is_main = os.environ.get("RANK", "0") == "0"
    request = StopRequest(log if is_main else lambda line: None)
    if threading.current_thread() is not threading.main_thread():  # Python's rule for handlers
        yield request
        return
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    listener = threading.Thread(target=_listen, args=(read_end, request), daemon=True)
    listener.start()
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            _replaced[number] = signal.signal(number, request.interrupt)
    wakeup = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    try:
        yield request
    finally:
        signal.set_wakeup_fd(wakeup)
        _put_back()
        os.close(write_end)  # which ends the thread


_replaced: dict[signal.Signals, Any] = {}
"""The handlers that were there before."""


def _put_back() -> None:
    for number, handler in _replaced.items():
        signal.signal(number, handler)
    _replaced.clear()


_before_fork = threading.local()
"""`mask`: the signals that this thread held back before its fork."""


def _hold_back() -> None:
    """Hold signals back over a fork: one that comes to the child too soon would ask this process
    to stop, by the pipe that both have, and be lost to the child."""
    _before_fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _let_through() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _before_fork.mask)


def _forget_in_child() -> None:
    """Let a process that was forked end as usual, and not ask this one to stop."""
    if _replaced:
        signal.set_wakeup_fd(-1)
        _put_back()
    _let_through()


os.register_at_fork(
    before=_hold_back, after_in_parent=_let_through, after_in_child=_forget_in_child
)


def _listen(read_end: int, request: StopRequest) -> None:
    """Take the numbers of signals from a pipe, into which Python writes them at once.

    The interrupt that this thread sends comes back through the pipe and is no request.
    """
    has_interrupted = False
    while True:
        ready, _, _ = select.select([read_end], [], [], ASK_AGAIN if request.leaving else None)
        if not ready:
            request.is_due = has_interrupted = True
            _interrupt_main_thread()
            continue
        numbers = os.read(read_end, 1)
        if not numbers:
            os.close(read_end)
            return
        if has_interrupted and numbers[0] == signal.SIGINT:
            has_interrupted = False
        elif numbers[0] in SIGNALS and request.receive(numbers[0], time.monotonic()):
            has_interrupted = True
            _interrupt_main_thread()


def _interrupt_main_thread() -> None:
    """Wake the main thread, also from waiting, and let it run the handler."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
