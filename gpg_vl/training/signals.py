"""Stop on request: the first Ctrl-C or SIGTERM lets the step finish, the second leaves at once.

Before the first step there is nothing to save, so there the first one already leaves. The old
handlers are put back when the run is over.
"""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Remembers that the run was asked to stop."""

    def __init__(self) -> None:
        self.asked = False
        self.can_wait = False
        """True while a step can be finished and saved; before that a request leaves at once."""

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        del number, frame
        if self.asked or not self.can_wait:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def stop_request() -> Generator[StopRequest, None, None]:
    """Handle Ctrl-C and SIGTERM while a run lasts."""
    request = StopRequest()
    handlers: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
        for number in SIGNALS:
            handlers[number] = signal.signal(number, request.receive)
    try:
        yield request
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
