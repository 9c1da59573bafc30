"""Serve the page of a run on this machine, made again while the run writes."""

import hashlib
import mimetypes
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from gpg_vl.errors import UserError, command, one_line
from gpg_vl.report.page.write import live_page_of
from gpg_vl.run_folder.kept_pictures import FOLDER as PICTURES
from gpg_vl.run_folder.metric_rows import METRICS

HOST = "127.0.0.1"
"""Address that only programs of this machine reach."""
NAMES = {HOST, "localhost", "[::1]"}
"""Hosts by which a browser of this machine names it. Another one is a page of somebody else that
was made to lead here (DNS rebinding): it gets nothing."""
REST = 4.0
"""A page is made again no sooner than after so many times the seconds that the last one took."""
WATCHED = (METRICS, "rollouts", "evaluation", "checkpoints", "left_out.jsonl", "config.yaml")
"""Files and folders of a run that change when it writes."""
SILENCE = 300.0
"""A page is made again after so many seconds at the latest: a run that no longer writes stopped."""
NO_PICTURES = {"image/svg+xml"}
"""Kinds of picture that are programs too: a browser would run their scripts for the page."""


class LivePage:
    """Page of a run that is made again when the run has written, and not too often."""

    def __init__(self, run: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Make no page yet."""
        self.run = run
        self._clock = clock
        self._lock = threading.Lock()
        self._html = ""
        self._version = ""
        self._rests_until = 0.0

    def version(self) -> str:
        """Return a text that changes when there is something new to show."""
        if self._clock() < self._rests_until:
            return self._version
        return self._newest()

    def html(self) -> str:
        """Return the page; it is made first if the run has written since it was made.

        Raises:
            UserError: the folder holds no run any more.
        """
        with self._lock:  # two windows of a browser ask for one page
            if not self._html or self.version() != self._version:
                newest = self._newest()  # before it is read: what comes meanwhile is new
                began = self._clock()
                self._html = live_page_of(self.run, newest)
                ended = self._clock()
                self._rests_until = ended + REST * (ended - began)
                self._version = newest
            return self._html

    def _newest(self) -> str:
        """Return a digest of the times and sizes of what the run writes."""
        stamps = [str(self._clock() // SILENCE)]
        for name in WATCHED:
            try:
                stat = (self.run / name).stat()
            except OSError:  # it is not there yet
                continue
            stamps.append(f"{name} {stat.st_mtime_ns} {stat.st_size}")
        return hashlib.sha256("; ".join(stamps).encode()).hexdigest()[:16]


def serve(run: Path, port: int, log: Callable[[str], None]) -> None:
    """Serve the page of a run until Ctrl-C.

    Args:
        port: 0 = any that is free.
        log: called with a line for the user.

    Raises:
        UserError: the port is taken.
    """
    server = make_server(run, port)
    with server:
        log(f"watching {run.absolute()}")
        log(f"open it in a browser: http://{HOST}:{server.server_port}/   (Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            log("stopped; the run itself goes on")


def make_server(run: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of the page of a run, which is not running yet.

    Raises:
        UserError: the port is taken.
    """
    handler = partial(_Handler, LivePage(run))
    try:
        return _Server((HOST, port), handler)
    except OSError as error:
        again = command("gpg-vl", "watch", run, "--port", 0)
        raise UserError(
            f"--port {port}: {one_line(error.strerror)}; choose another, or let it be chosen: "
            f"`{again}`"
        ) from None


class _Server(ThreadingHTTPServer):
    """A server whose threads end with the program, and which shares its port with nobody."""

    daemon_threads = True
    allow_reuse_address = True

    def server_bind(self) -> None:
        """Take the port without asking a name server for the name of this machine."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = HOST, self.socket.getsockname()[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that left before it had its answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers of the server: the page, its version, pictures of the run in full size."""

    def __init__(self, page: LivePage, *arguments: object) -> None:
        self.page = page
        super().__init__(*arguments)  # pyright: ignore[reportArgumentType]

    def do_HEAD(self) -> None:
        """Answer a request for the head of an answer only."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer a request."""
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        path = unquote(urlsplit(self.path).path)
        if host not in NAMES:
            self._send(403, "text/plain", b"this page is for browsers of its own machine")
        elif path in ("/", "/page"):
            self._send_page()
        elif path == "/version":
            self._send(200, "text/plain", self.page.version().encode())
        else:
            self._send_picture(path)

    def _send_page(self) -> None:
        try:
            html = self.page.html()
        except UserError as error:
            self._send(404, "text/plain; charset=utf-8", str(error).encode("utf-8", "replace"))
            return
        self._send(200, "text/html; charset=utf-8", html.encode())

    def _send_picture(self, path: str) -> None:
        """Send a kept picture of the run; nothing else of the machine."""
        kind = mimetypes.guess_type(path)[0] or ""
        is_picture = kind.startswith("image/") and kind not in NO_PICTURES
        try:
            content = self._kept(path) if is_picture else None
        except (OSError, ValueError):  # no file can have this name: a NUL, thousands of letters
            content = None
        if content is None:
            self._send(404, "text/plain", b"there is no such picture")
        else:
            self._send(200, kind, content)

    def _kept(self, path: str) -> bytes | None:
        """Return the bytes of a file right in the folder of pictures; None if there is none."""
        folder = (self.page.run / PICTURES).resolve()
        name = path.removeprefix(f"/{PICTURES}/")
        file = (folder / name).resolve()
        if name == path or file.parent != folder or not file.is_file():
            return None
        return file.read_bytes()

    def _send(self, code: int, kind: str, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing: requests of a browser are no news."""
