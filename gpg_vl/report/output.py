"""Write to a terminal or a pipe that may be closed before the program ends.

A closed terminal gives EIO, a pipe whose reader has left (`| head`) EPIPE. Neither may end a run
before it has saved, wherever in it the line was printed.
"""

import errno
import os
import select
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console

CLOSED = {errno.EIO, errno.EPIPE}
"""Error numbers of writing where nobody reads any more."""


class LastingOutput:
    """A stream of a run, whose writing never fails because its reader has left.

    Then standard output is led to standard error or, if that is gone too, to nowhere. So what other
    code prints does not fail either, and the last lines of a run whose output went through a pipe
    reach the terminal.
    """

    def __init__(self, stream: Any, on_closed: Callable[[], None]) -> None:
        self.stream = stream
        self.on_closed = on_closed
        self._unsent = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write a text."""
        self._unsent += text
        try:
            return self.stream.write(text)
        except OSError as error:
            self._send_elsewhere(error)
            return len(text)

    def flush(self) -> None:
        """Send what is written."""
        try:
            self.stream.flush()
        except OSError as error:
            self._send_elsewhere(error)
        self._unsent = ""

    def _send_elsewhere(self, error: OSError) -> None:
        """Send what the old reader did not take to the new one.

        Raises:
            OSError: of another kind, or SIGHUP would end this program: it has nothing to save.
        """
        if error.errno not in CLOSED:
            raise error
        if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
            if threading.current_thread() is not threading.main_thread():
                self.on_closed()  # an error would end this thread alone
            raise error
        lead_elsewhere()
        with suppress(OSError):
            self.stream.write(self._unsent)
            self.stream.flush()
        self._unsent = ""
        self.on_closed()


def lead_elsewhere() -> None:
    """Lead standard output and standard error away from where nobody reads them any more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if is_closed(2):
        os.dup2(nowhere, 2)
    if is_closed(1):
        os.dup2(2, 1)
    os.close(nowhere)


def is_closed(descriptor: int) -> bool:
    """Return True if nobody reads any more what is written to a file descriptor."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


@contextmanager
def lasting(console: Console) -> Generator[None, None, None]:
    """Keep a console usable while the block lasts, also if its reader leaves.

    The program is then told by a SIGHUP, as if its terminal had been closed: a run saves and ends,
    one that was started by `nohup` goes on. Another program ends by the error of writing.
    """
    own_file = console._file  # None: whatever sys.stdout is, and so it shall be again

    def hang_up() -> None:
        os.kill(os.getpid(), signal.SIGHUP)

    console._file = LastingOutput(console.file, hang_up)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        console._file = own_file
