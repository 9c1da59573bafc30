"""Stopping on request: the first Ctrl-C or SIGTERM lets the step finish and be saved, the second leaves at once.

Before the first step there is nothing to save, so there the first one already leaves. Handlers are put back when the run is over.
"""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether somebody has asked the run to stop."""

    def __init__(self) -> None:
        self.asked = False
        self.can_wait = False
        """True while a step may be finished and saved; before that a request leaves at once."""

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        del number, frame
        if self.asked or not self.can_wait:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def stop_request() -> Generator[StopRequest, None, None]:
    """Listen for Ctrl-C and SIGTERM while a run lasts."""
    request = StopRequest()
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
        before = {number: signal.signal(number, request.receive) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
