"""The server of a live page: what it answers, to whom, and how often it makes the page."""

import http.client
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

import pytest

from gpg_vl.errors import UserError
from gpg_vl.report.page import watch
from gpg_vl.report.page.watch import HOST, REST, SILENCE, LivePage, make_server
from tests import made_runs
from tests.commands import gpg_vl_process


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Making:
    """Takes the place of making a page: counts, and takes seconds of a clock set by hand."""

    def __init__(self, clock: Clock, seconds: float = 0.0) -> None:
        self.count = 0
        self._clock = clock
        self._seconds = seconds

    def __call__(self, run: Path, version: str) -> str:
        assert run.is_dir()
        self.count += 1
        self._clock.now += self._seconds
        return f'<html data-live="{version}"> page {self.count}'


@pytest.fixture
def run(tmp_path) -> Path:
    return made_runs.make(tmp_path, "watched", steps=2, moments=(), pictures="all")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def write(run: Path) -> None:
    """Write into a run what its training would write."""
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "reward": 0.5}\n')


@contextmanager
def served(run: Path) -> Iterator[ThreadingHTTPServer]:
    """Serve the page of a run in a thread."""
    server = make_server(run, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(
    server: ThreadingHTTPServer, path: str, *, method: str = "GET", host: str | None = None
) -> tuple[int, str, bytes]:
    """Return status, type and content of an answer; the path is sent as it is."""
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"{HOST}:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers["Content-Type"], content


# --- when the page is made ------------------------------------------------------------------------


def test_a_page_is_made_again_only_when_the_run_wrote(run, clock, monkeypatch):
    making = Making(clock)
    monkeypatch.setattr(watch, "live_page_of", making)
    page = LivePage(run, clock)
    assert making.count == 0
    first = page.html()
    assert page.html() == first
    version = page.version()
    clock.now += 1
    assert page.html() == first
    assert page.version() == version
    write(run)
    assert page.version() != version
    assert page.html().endswith("page 2")
    assert making.count == 2


def test_a_page_that_is_slow_to_make_rests_before_it_is_made_again(run, clock, monkeypatch):
    making = Making(clock, seconds=2)
    monkeypatch.setattr(watch, "live_page_of", making)
    page = LivePage(run, clock)
    page.html()
    version = page.version()
    write(run)
    clock.now += REST * 2 - 0.1
    assert page.version() == version, "the browser is not told before the page can be made"
    page.html()
    assert making.count == 1
    clock.now += 0.2
    assert page.version() != version
    page.html()
    assert making.count == 2


def test_what_the_run_writes_while_the_page_is_made_is_new(run, clock, monkeypatch):
    def make_and_write(_: Path, version: str) -> str:
        write(run)
        return f'data-live="{version}"'

    monkeypatch.setattr(watch, "live_page_of", make_and_write)
    page = LivePage(run, clock)
    before = page.version()
    assert f'data-live="{before}"' in page.html()
    assert page.version() != before


def test_a_page_says_which_version_it_shows(run):
    page = LivePage(run)
    html = page.html()
    assert f'<html lang="en" data-live="{page.version()}">' in html


def test_a_silent_run_is_looked_at_again(run, clock, monkeypatch):
    making = Making(clock)
    monkeypatch.setattr(watch, "live_page_of", making)
    page = LivePage(run, clock)
    page.html()
    clock.now += SILENCE
    page.html()
    assert making.count == 2


def test_two_requests_at_once_make_one_page(run, clock, monkeypatch):
    making = Making(clock)

    def slow(path: Path, version: str) -> str:
        time.sleep(0.2)
        return making(path, version)

    monkeypatch.setattr(watch, "live_page_of", slow)
    with served(run) as server:
        answers: list[bytes] = []
        threads = [
            threading.Thread(target=lambda: answers.append(ask(server, "/")[2])) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(answers) == 4
    assert len(set(answers)) == 1
    assert making.count == 1


# --- what is answered -----------------------------------------------------------------------------


def test_the_page_and_its_version_are_answered(run):
    with served(run) as server:
        status, kind, page = ask(server, "/")
        assert (status, kind) == (200, "text/html; charset=utf-8")
        assert b"<title>watched</title>" in page
        assert ask(server, "/page") == (status, kind, page)
        status, kind, version = ask(server, "/version?x=1")
        assert (status, kind) == (200, "text/plain")
        assert b'data-live="' + version + b'"' in page
        assert ask(server, "/nothing")[0] == 404


def test_pictures_are_answered_in_full_size(run):
    file = next((run / "images").glob("*.png"))
    with served(run) as server:
        assert ask(server, f"/images/{file.name}") == (200, "image/png", file.read_bytes())
        assert ask(server, "/images/" + file.name.replace(".", "%2e"))[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/images/",
        "/images",
        "/images/none.png",
        "/images/notes.txt",
        "/images/drawing.svg",
        "/images/folder.png",
        "/images/folder.png/inner.png",
        "/images/link.png",
        "/images/../secret.png",
        "/images/%2e%2e/secret.png",
        "/images/%2e%2e%2fsecret.png",
        "/images/../../secret.png",
        "/images/a%00.png",
        "/images/" + "long" * 500 + ".png",
        "/../secret.png",
        "//secret.png",
        "/secret.png",
        "/other/inner.png",
        "/config.yaml",
        "/metrics.jsonl",
        "{outside}",
        "/images/{outside}",
        "/images/%2F{outside}",
    ],
)
def test_nothing_else_of_the_machine_is_answered(path, run, capfd):
    secret = next((run / "images").glob("*.png")).read_bytes()
    outside = run.parent / "secret.png"
    for file in (outside, run / "secret.png", run / "other" / "inner.png"):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(secret)
    (run / "images" / "notes.txt").write_text("a note")
    (run / "images" / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (run / "images" / "link.png").symlink_to(outside)
    (run / "images" / "folder.png").mkdir()
    (run / "images" / "folder.png" / "inner.png").write_bytes(secret)
    with served(run) as server:
        answer = ask(server, path.format(outside=outside))
    assert answer == (404, "text/plain", b"there is no such picture")
    assert capfd.readouterr().err == ""


def test_a_head_is_answered_without_content(run):
    with served(run) as server:
        for path, kind in (("/", "text/html; charset=utf-8"), ("/version", "text/plain")):
            assert ask(server, path, method="HEAD") == (200, kind, b"")
        assert ask(server, "/none.png", method="HEAD")[0] == 404
        assert ask(server, "/", method="POST")[0] == 501


# --- who is answered ------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost:{port}", "[::1]:{port}"])
def test_names_of_this_machine_are_answered(host, run):
    with served(run) as server:
        assert ask(server, "/version", host=host.format(port=server.server_port))[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil:80", ":"])
def test_a_page_of_somebody_else_that_leads_here_gets_nothing(host, run):
    file = next((run / "images").glob("*.png"))
    with served(run) as server:
        for path in ("/", "/page", "/version", f"/images/{file.name}"):
            answer = ask(server, path, host=host.format(port=server.server_port))
            assert answer[0] == 403
            assert answer[2] == b"this page is for browsers of its own machine"


def test_other_machines_do_not_reach_it(run):
    with served(run) as server:
        assert server.socket.getsockname()[0] == "127.0.0.1"
        with socket.socket() as other, pytest.raises(OSError, match="refused"):
            other.connect(("127.0.0.2", server.server_port))  # all addresses would include it


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_said_with_advice(run):
    with served(run) as server:
        message = (
            f"--port {server.server_port}: Address already in use; choose another, or let it be "
            f"chosen: `gpg-vl watch {run} --port 0`"
        )
        with pytest.raises(UserError, match=re.escape(message)):
            make_server(run, server.server_port)
        done = gpg_vl_process("watch", run, "--port", server.server_port)
    assert done.returncode == 2
    assert "Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_browser_that_leaves_is_no_news(run, monkeypatch, capfd):
    monkeypatch.setattr(watch, "live_page_of", lambda path, version: "page" * 10_000_000)
    with served(run) as server:
        for _ in range(3):
            with socket.create_connection((HOST, server.server_port)) as leaving:
                leaving.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
                assert leaving.recv(10)
                reset = struct.pack("ii", 1, 0)
                leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        time.sleep(0.3)
        assert ask(server, "/version")[0] == 200
    assert capfd.readouterr().err == ""


def test_a_mistake_of_the_program_is_not_hidden(run, monkeypatch, capfd):
    def broken(path: Path, version: str) -> str:
        raise ZeroDivisionError(f"{path} {version}")

    monkeypatch.setattr(watch, "live_page_of", broken)
    with served(run) as server, pytest.raises(http.client.RemoteDisconnected):
        ask(server, "/")
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_run_that_vanishes_is_a_sentence(run, monkeypatch, capfd):
    monkeypatch.setattr(watch, "REST", 0.0)
    with served(run) as server:
        file = next((run / "images").glob("*.png")).name
        assert ask(server, "/")[0] == 200
        before = ask(server, "/version")[2]
        shutil.rmtree(run)
        assert ask(server, "/version")[2] != before
        status, kind, said = ask(server, "/")
        assert (status, kind) == (404, "text/plain; charset=utf-8")
        assert f"{run}: not the folder of a run" in said.decode()
        assert ask(server, f"/images/{file}")[0] == 404
    assert capfd.readouterr().err == ""


def test_ctrl_c_ends_the_command_with_a_line(run):
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    command = [sys.executable, "-m", "gpg_vl", "watch", str(run), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert lines[0] == f"watching {run}\n"
        address = re.search(r"http://127\.0\.0\.1:\d+/", lines[1])
        assert address, lines
        with urlopen(address[0], timeout=30) as answer:
            assert b"<title>watched</title>" in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert process.stdout.read() == "stopped; the run itself goes on\n"
        assert process.stderr.read() == ""
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before
