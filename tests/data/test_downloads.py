"""Pictures by URL, from a real server on 127.0.0.1: what is kept, and whom nobody may be led to."""

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from gpg_vl.data import downloads
from gpg_vl.data.downloads import Downloads, is_public
from gpg_vl.errors import UserError
from tests.hand_made import png

PNG = png((9, 5))
Answer = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """A server whose pages are functions, with the paths that it was asked for."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.over = threading.Event()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def url(self, path: str) -> str:
        return f"http://{self.host}{path}"

    def handle_error(self, *_: Any) -> None:
        """Say nothing: clients hang up here."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.headers.append(dict(self.headers.items()))
        self.server.pages[self.path](self)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def sends(content: bytes, status: int = 200, **headers: str) -> Answer:
    """A page of this content; headers may contradict it."""
    named = {"Content_Length": str(len(content)), **headers}

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in named.items():
            if value:
                request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(content)

    return answer


def leads_to(url: str, status: int = 302) -> Answer:
    return sends(b"", status, Location=url)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.over.set()
        made.shutdown()
        thread.join()


@pytest.fixture
def loads(server, tmp_path) -> Downloads:
    return Downloads((server.host,), tmp_path / "cache", seconds=5, max_bytes=10_000)


def files(loads: Downloads) -> list[Path]:
    return sorted(loads.cache_dir.glob("*"))


# --- what is kept ---------------------------------------------------------------------------------


def test_a_picture_is_downloaded_once(server, loads):
    server.pages["/a.png"] = sends(PNG)
    path = loads.fetch(server.url("/a.png"))
    assert path.read_bytes() == PNG
    assert loads.fetch(server.url("/a.png")) == path
    assert Downloads((server.host,), loads.cache_dir).fetch(server.url("/a.png")) == path
    assert server.asked == ["/a.png"]
    assert files(loads) == [path]


def test_addresses_that_differ_are_kept_apart(server, loads):
    other = png((7, 7))
    server.pages |= {"/a?n=1": sends(PNG), "/a?n=2": sends(other)}
    assert loads.fetch(server.url("/a?n=1")).read_bytes() == PNG
    assert loads.fetch(server.url("/a?n=2")).read_bytes() == other


def test_an_address_is_quoted_as_a_browser_does(server, loads):
    server.pages["/%C3%BC%20b.png?q=%C3%BC"] = sends(PNG)
    for written in ("/ü b.png?q=ü", "/%C3%BC%20b.png?q=%C3%BC#part"):
        assert loads.fetch(server.url(written)).read_bytes() == PNG


def test_the_environment_names_no_proxy(server, loads, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.pages["/a.png"] = sends(PNG)
    assert loads.fetch(server.url("/a.png")).read_bytes() == PNG
    assert server.headers[0]["Host"] == server.host
    assert "Authorization" not in server.headers[0]


def test_a_content_of_unknown_length_is_read_to_its_end(server, loads):
    server.pages["/a.png"] = sends(PNG, Content_Length="")
    assert loads.fetch(server.url("/a.png")).read_bytes() == PNG
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (PNG[:20], PNG[20:], b""))
    server.pages["/b.png"] = sends(pieces, Content_Length="", Transfer_Encoding="chunked")
    assert loads.fetch(server.url("/b.png")).read_bytes() == PNG


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(server, loads, status):
    server.pages |= {
        "/a": leads_to("/pictures/b", status),
        "/pictures/b": leads_to("c.png", status),
        "/pictures/c.png": sends(PNG),
    }
    assert loads.fetch(server.url("/a")).read_bytes() == PNG
    assert server.asked == ["/a", "/pictures/b", "/pictures/c.png"]


def test_five_redirects_are_followed_and_six_are_not(server, loads):
    for number in range(6):
        server.pages[f"/{number}"] = leads_to(f"/{number + 1}")
    server.pages["/6"] = sends(PNG)
    assert loads.fetch(server.url("/1")).read_bytes() == PNG
    with pytest.raises(ValueError, match="redirected more than 5 times"):
        loads.fetch(server.url("/0"))


def test_many_are_fetched_at_a_time_and_failures_are_values(server, loads):
    server.pages |= {f"/{number}": sends(png((number, 1))) for number in range(1, 30)}
    server.pages["/gone"] = sends(b"", 404)
    urls = [server.url(f"/{number}") for number in range(1, 30)]
    found = loads.fetch_all([*urls, server.url("/gone"), *urls, "http://elsewhere.test/a"])
    assert list(found) == [*urls, server.url("/gone"), "http://elsewhere.test/a"]
    for number, url in enumerate(urls, start=1):
        path = found[url]
        assert isinstance(path, Path)
        assert path.read_bytes() == png((number, 1))
    assert "404" in str(found[server.url("/gone")])
    assert "image_hosts" in str(found["http://elsewhere.test/a"])
    assert sorted(server.asked) == sorted(f"/{name}" for name in [*range(1, 30), "gone"])


def test_a_full_disk_is_no_fault_of_the_picture(server, loads):
    server.pages["/a.png"] = sends(PNG)
    loads.cache_dir.write_bytes(b"a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot be kept in .* \(File exists\); make room there"):
        loads.fetch(server.url("/a.png"))
    with pytest.raises(UserError, match="make room there"):
        loads.fetch_all([server.url("/a.png")])


def test_an_empty_file_in_the_cache_is_downloaded_again(server, loads):
    """A machine that lost its power may leave one."""
    server.pages["/a.png"] = sends(PNG)
    path = loads.fetch(server.url("/a.png"))
    path.write_bytes(b"")
    assert loads.fetch(server.url("/a.png")).read_bytes() == PNG


def test_a_host_that_never_answers_is_not_asked_for_hours(server, loads, monkeypatch):
    monkeypatch.setattr(downloads, "MAX_SILENT", 2)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        host = f"127.0.0.1:{closed.getsockname()[1]}"
    dead = Downloads((host, server.host), loads.cache_dir)
    for number in range(2):
        assert "refused" in refused(dead, f"http://{host}/{number}")
    assert "gave no answer for 2 pictures" in refused(dead, f"http://{host}/2")
    server.pages["/a.png"] = sends(PNG)
    assert dead.fetch(server.url("/a.png")).read_bytes() == PNG, "another one is asked"


def test_a_host_that_answered_once_is_asked_again(server, loads, monkeypatch):
    monkeypatch.setattr(downloads, "MAX_SILENT", 2)
    server.pages |= {"/a.png": sends(PNG), "/b": lambda request: None, "/c.png": sends(PNG)}
    loads.fetch(server.url("/a.png"))
    for _ in range(3):
        with pytest.raises(ValueError, match="Remote end closed"):
            loads.fetch(server.url("/b"))
    assert loads.fetch(server.url("/c.png")).read_bytes() == PNG


# --- whom nobody may be led to --------------------------------------------------------------------


def refused(loads: Downloads, url: str) -> str:
    with pytest.raises(ValueError, match=r"picture|address|host") as caught:
        loads.fetch(url)
    assert not loads.cache_dir.exists() or not files(loads)
    assert len(str(caught.value)) < 2000
    return str(caught.value)


def test_a_host_must_be_listed(server, loads):
    assert refused(loads, "https://example.com/pictures/1.png") == (
        "the host of 'https://example.com/pictures/1.png' is not listed; list the host under "
        "image_hosts: [example.com], or download the pictures first"
    )
    assert "[example.com:8080]" in refused(loads, "https://EXAMPLE.com:8080/1.png")
    port = server.server_port
    for url in (
        f"http://127.0.0.1:{port + 1}/a",
        "http://127.0.0.1/a",
        f"http://127.1:{port}/a",
        f"http://2130706433:{port}/a",
    ):
        assert "is not listed" in refused(loads, url), url
    for url in (
        f"http://[::1]:{port}/a",
        f"http://[::ffff:127.0.0.1]:{port}/a",
        f"http://localhost:{port}/a",
        "http://10.1.2.3/a",
    ):  # no advice that would be refused in its turn
        assert "cannot be listed, except 127.0.0.1:PORT" in refused(loads, url), url
    assert server.asked == []


@pytest.mark.parametrize(
    ("entries", "url", "listed"),
    [
        (("example.com",), "https://example.com/a", True),
        (("example.com",), "http://example.com/a", True),
        (("example.com",), "https://example.com:443/a", True),
        (("Example.COM",), "https://EXAMPLE.com/a", True),
        (("example.com",), "https://example.com:8443/a", False),
        (("example.com",), "https://www.example.com/a", False),
        (("example.com",), "https://example.com.evil.test/a", False),
        (("example.com",), "https://notexample.com/a", False),
        (("example.com:8443",), "https://example.com:8443/a", True),
        (("example.com:8443",), "https://example.com/a", False),
        ((".example.com",), "https://www.example.com/a", True),
        ((".example.com",), "https://a.b.example.com/a", True),
        ((".example.com",), "https://example.com/a", False),
        ((".example.com",), "https://notexample.com/a", False),
        ((".example.com",), "https://www.example.com:8443/a", False),
        ((".example.com:8443",), "https://www.example.com:8443/a", True),
        (("bücher.example",), "https://xn--bcher-kva.example/a", True),
        (("a.test", "b.test"), "https://b.test/a", True),
        ((), "https://example.com/a", False),
    ],
)
def test_an_entry_is_a_host_with_or_without_a_port(entries, url, listed, tmp_path, monkeypatch):
    asked: list[downloads.Target] = []

    def no_network(target: downloads.Target, deadline: object) -> socket.socket:
        asked.append(target)
        raise OSError("no network here")

    monkeypatch.setattr(downloads, "_connected", no_network)
    message = refused(Downloads(entries, tmp_path / "cache"), url)
    assert bool(asked) == listed
    assert ("no network here" in message) == listed


@pytest.mark.parametrize(
    "entry",
    [
        "",
        ".",
        "*",
        "*.example.com",
        "https://example.com",
        "example.com/",
        "a b",
        "u@a.test",
        "a:b",
    ],
)
def test_an_entry_that_is_no_host_is_refused(entry, tmp_path):
    with pytest.raises(ValueError, match=r"image_hosts: .* is no host; expected example\.com"):
        Downloads((entry,), tmp_path)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.com/a", "no web address"),
        ("file:///etc/passwd", "no web address"),
        ("http:///a", "no web address"),
        ("a.png", "no web address"),
        ("", "no web address"),
        ("http://[::1/a", "no web address"),
        ("http://example.com:port/a", "no web address"),
        ("http://example.com:99999/a", "no web address"),
        ("http://" + "ü" * 300 + "/a", "no web address"),
        ("http://example.com/\ud800", "no web address"),
        ("http://user@example.com/a", "holds a name or a password"),
        ("http://user:word@example.com/a", "holds a name or a password"),
        ("http://example.com@evil.test/a", "holds a name or a password"),
        ("http://example.com\\@evil.test/a", "holds a name or a password"),
    ],
)
def test_an_address_of_another_form_is_refused(url, words, tmp_path):
    assert words in refused(Downloads(("example.com",), tmp_path / "cache"), url)


def test_a_redirect_to_another_host_is_not_followed(server, loads):
    server.pages["/a"] = leads_to("http://example.com/a.png")
    assert refused(loads, server.url("/a")) == (
        f"the picture '{server.url('/a')}' cannot be downloaded: the host of "
        "'http://example.com/a.png' is not listed; list the host under image_hosts: "
        "[example.com], or download the pictures first"
    )


def test_a_redirect_to_an_unlisted_port_or_scheme_is_not_followed(server, loads):
    with Server() as other:
        server.pages["/a"] = leads_to(other.url("/a"))
        assert f"is not listed; list the host under image_hosts: [{other.host}]" in refused(
            loads, server.url("/a")
        )
        assert other.asked == []
    server.pages["/b"] = leads_to("file:///etc/passwd")
    assert "no web address" in refused(loads, server.url("/b"))
    server.pages["/c"] = leads_to(f"http://user:word@{server.host}/a")
    assert "a name or a password" in refused(loads, server.url("/c"))


def test_a_listed_name_of_a_private_address_is_refused_before_anything_is_sent(server, tmp_path):
    port = server.server_port
    loads = Downloads((f"localhost:{port}", f"[::1]:{port}"), tmp_path / "cache")
    for scheme in ("http", "https"):
        message = refused(loads, f"{scheme}://localhost:{port}/a")
        assert "an address inside a private network" in message
    assert "is ::1, an address" in refused(loads, f"http://[::1]:{port}/a")
    assert server.asked == []


def test_a_redirect_to_a_listed_name_of_a_private_address_is_refused(server, tmp_path):
    port = server.server_port
    loads = Downloads((server.host, f"localhost:{port}"), tmp_path / "cache")
    server.pages["/a"] = leads_to(f"http://localhost:{port}/b")
    assert "an address inside a private network" in refused(loads, server.url("/a"))
    assert server.asked == ["/a"]


def test_the_other_side_is_checked_whatever_the_name_server_said(server, tmp_path, monkeypatch):
    # 93.184.215.14 is public; the network then leads the connection to this machine
    port = server.server_port
    public = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.215.14", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: public)
    connect = socket.socket.connect

    class Led(socket.socket):
        def connect(self, address: Any) -> None:
            connect(self, ("127.0.0.1", port))

    monkeypatch.setattr(socket, "socket", Led)
    loads = Downloads((f"example.com:{port}",), tmp_path / "cache")
    message = refused(loads, f"http://example.com:{port}/a")
    assert "example.com is 127.0.0.1, an address inside a private network" in message
    assert server.asked == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("8.8.8.8", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("::ffff:8.8.8.8", True),
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("239.255.255.250", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("192.0.2.1", False),
        ("::", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::7f00:1", False),  # 127.0.0.1 behind a translator
        ("64:ff9b::808:808", True),
        ("2002:7f00:1::", False),  # 127.0.0.1 in a tunnel
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("fc00::1", False),
        ("fd12:3456::1", False),
        ("ff02::1", False),
        ("2001:db8::1", False),
    ],
)
def test_only_addresses_that_everybody_can_reach_are_public(address, public):
    assert is_public(address) == public


# --- limits ---------------------------------------------------------------------------------------


def drips(before: bytes) -> Answer:
    """A page that sends some bytes at once and then one after another, for four seconds."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(before)
        server = request.server
        assert isinstance(server, Server)
        for _ in range(80):
            if server.over.wait(0.05):
                return
            request.wfile.write(b"a")

    return answer


@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nX-Long: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + PNG,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n" + PNG,
        b"HTTP/1.1 200 OK\r\n\r\n" + PNG,
    ],
    ids=["status", "header", "content", "pieces", "no length"],
)
def test_a_server_that_drips_is_left_in_time(server, loads, before):
    server.pages["/a"] = drips(before)
    loads.seconds = 0.4
    start = monotonic()
    assert refused(loads, server.url("/a")).endswith("it took more than 0.4 seconds")
    assert monotonic() - start < 3


def test_all_redirects_share_one_limit_of_time(server, loads):
    def slow(number: int) -> Answer:
        def answer(request: BaseHTTPRequestHandler) -> None:
            server.over.wait(0.2)
            leads_to(f"/{number + 1}")(request)

        return answer

    server.pages |= {f"/{number}": slow(number) for number in range(6)}
    loads.seconds = 0.5
    assert "it took more than 0.5 seconds" in refused(loads, server.url("/0"))
    assert len(server.asked) < 5


@pytest.mark.parametrize("length", ["", "20000", "0020000", "abc"])
def test_too_large_a_content_is_left(server, loads, length):
    server.pages["/a"] = sends(PNG + b"\0" * 20_000, Content_Length=length)
    assert "more than 10,000 bytes" in refused(loads, server.url("/a"))


def test_a_content_in_pieces_has_the_same_limit(server, loads):
    piece = b"1000\r\n" + b"\0" * 4096 + b"\r\n"
    server.pages["/a"] = sends(
        piece * 5 + b"0\r\n\r\n", Content_Length="", Transfer_Encoding="chunked"
    )
    assert "more than 10,000 bytes" in refused(loads, server.url("/a"))


def test_a_length_that_lies_is_seen(server, loads):
    server.pages["/long"] = sends(PNG, Content_Length="5000")
    assert f"the connection broke after {len(PNG):,} bytes" in refused(loads, server.url("/long"))
    server.pages["/short"] = sends(PNG, Content_Length="10")
    assert "cannot be read" in refused(loads, server.url("/short"))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (sends(PNG, 404), "the server answers 404 Not Found"),
        (sends(PNG, 403), "the server answers 403"),
        (sends(PNG, 500), "the server answers 500"),
        (sends(PNG, 206), "the server answers 206"),
        (sends(b"", 204), "the server answers 204"),
        (sends(b"", 302), "the server answers 302"),
        (sends(b""), "0 bytes, it is empty"),
        (sends(b"<!DOCTYPE html><html>log in</html>"), "it is a web page"),
        (sends(b"hello", Content_Type="image/png"), "it is no picture"),
        (lambda request: None, "Remote end closed connection"),
        (lambda request: request.wfile.write(b"hello\r\n\r\n"), "hello"),
    ],
)
def test_what_is_no_picture_is_not_kept(server, loads, answer, words):
    server.pages["/a"] = answer
    message = refused(loads, server.url("/a"))
    assert message.startswith(f"the picture '{server.url('/a')}' cannot be downloaded: ")
    assert words in message


def test_a_server_that_is_away_or_speaks_no_tls_is_named(server, loads, tmp_path):
    assert "SSL" in refused(loads, f"https://{server.host}/a")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        host = f"127.0.0.1:{closed.getsockname()[1]}"
    assert "refused" in refused(Downloads((host,), tmp_path / "cache"), f"http://{host}/a")
