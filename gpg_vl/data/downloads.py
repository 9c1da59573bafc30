"""Download pictures by URL, only from hosts that the config lists, into a cache.

A table is written by others, and a URL of it could lead into a private network. So the host must be
listed and its address public, also after every redirect; the size and the time have a limit.
"""

import hashlib
import http.client
import io
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, cast
from urllib.parse import quote, urljoin, urlsplit

from gpg_vl.errors import UserError, one_line, shown
from gpg_vl.pictures import picture_size

PORTS = {"http": 80, "https": 443}
"""Scheme -> its usual port."""
REDIRECTS = {301, 302, 303, 307, 308}
"""Statuses that name another address."""
MAX_REDIRECTS = 5
"""Largest number of redirects that are followed."""
MAX_SILENT = 32
"""Number of pictures after which a host that never answered is not asked any more."""
WORKERS = 8
"""Number of pictures that are downloaded at a time."""
LOCAL = "127.0.0.1"
"""The only address that is not public and can be listed, with its port: a server of one's own."""

_HEADERS = {"User-Agent": "gpg_vl", "Accept": "image/*", "Accept-Encoding": "identity"}
_PIECE_BYTES = 1 << 16
_UNRESERVED = "/%:@!$&'()*+,;=~"
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Target(NamedTuple):
    """A checked address on the web.

    Example:
        Target("https", "example.com", 443, "/a.png?size=2", is_local=False)
    """

    scheme: str
    """http | https."""
    host: str
    """Name or address of the host, in lower case."""
    port: int
    """Port, also where it is the usual one."""
    path: str
    """Path and query, quoted."""
    is_local: bool
    """True for 127.0.0.1 at a port that is listed with it."""


class Deadline:
    """The time at which a download must be complete."""

    def __init__(self, seconds: float) -> None:
        self.end = monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left.

        Raises:
            TimeoutError: there are none.
        """
        left = self.end - monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class Downloads:
    """Pictures by URL: a cache, and the hosts that it may be filled from.

    Example:
        Downloads(("example.com", ".example.org", "127.0.0.1:8000"), folder).fetch(url)
    """

    def __init__(
        self,
        hosts: tuple[str, ...],
        cache_dir: Path,
        seconds: float = 20,
        max_bytes: int = 50_000_000,
    ) -> None:
        """Check the listed hosts.

        Args:
            hosts: example.com = that host at the usual ports; example.com:8080 = at this port;
                .example.com = its subdomains; 127.0.0.1:PORT = a server of one's own.
            cache_dir: folder of the pictures.
            seconds: limit of one download with all its redirects.
            max_bytes: limit of one picture.

        Raises:
            ValueError: an entry is no host.
        """
        self.hosts = {_host_and_port(entry) for entry in hosts}
        self.cache_dir = cache_dir
        self.seconds = seconds
        self.max_bytes = max_bytes
        self._silent: dict[tuple[str, int], int] = {}
        self._answering: set[tuple[str, int]] = set()

    def fetch(self, url: str) -> Path:
        """Return the file of a picture; it is downloaded if it is not in the cache.

        Raises:
            ValueError: its host is not listed, or does not send a picture in time.
            UserError: the cache folder cannot be written.
        """
        target = self._target(url)
        path = self.cache_dir / hashlib.sha256(url.encode()).hexdigest()
        if path.is_file() and path.stat().st_size:  # after a power cut a file may be empty
            return path
        try:
            content = self._download(url, target)
            picture_size(content)
        except TimeoutError:
            why = f"it took more than {self.seconds:g} seconds"
            raise ValueError(f"the picture {shown(url)} cannot be downloaded: {why}") from None
        except http.client.HTTPException as error:
            why = f"the server's answer is broken: {type(error).__name__} {one_line(error, 100)}"
            raise ValueError(f"the picture {shown(url)} cannot be downloaded: {why}") from None
        except (OSError, ValueError) as error:
            why = one_line(error) or type(error).__name__
            raise ValueError(f"the picture {shown(url)} cannot be downloaded: {why}") from None
        self._keep(content, path)
        return path

    def fetch_all(self, urls: Iterable[str]) -> dict[str, Path | ValueError]:
        """Return the file of every picture, or the reason why there is none."""
        unique = list(dict.fromkeys(urls))
        with ThreadPoolExecutor(WORKERS) as pool:
            return dict(zip(unique, pool.map(self._outcome, unique), strict=True))

    def _outcome(self, url: str) -> Path | ValueError:
        """Return the file of a picture, or the reason why there is none."""
        try:
            return self.fetch(url)
        except ValueError as error:
            return error

    def _keep(self, content: bytes, path: Path) -> None:
        """Write a file aside and rename it, so that nothing half is ever found.

        Raises:
            UserError: the folder cannot be written: no row is at fault.
        """
        unfinished = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
        try:
            self.cache_dir.mkdir(parents=True, exist_ok=True)
            try:
                unfinished.write_bytes(content)
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"downloaded pictures cannot be kept in {self.cache_dir} ({error.strerror}); make "
                "room there, or set XDG_CACHE_HOME to a folder that can be written"
            ) from None

    def _target(self, url: str) -> Target:
        """Check an address: its form, and that its host is listed."""
        try:
            parts = urlsplit(url)
            host, port = _ascii(parts.hostname or ""), parts.port
            path = quote(parts.path, _UNRESERVED) or "/"
            query = quote(parts.query, _UNRESERVED + "?[]")
        except ValueError as error:
            raise ValueError(f"{shown(url)} is no web address: {one_line(error)}") from None
        if parts.scheme not in PORTS or not host:
            raise ValueError(f"{shown(url)} is no web address; expected http or https and a host")
        if parts.username is not None or parts.password is not None:
            # a message goes into logs, so it does not show the address
            raise ValueError(
                f"an address of {shown(host)} holds a name or a password; download the pictures "
                "first"
            )
        usual = PORTS[parts.scheme]
        port = usual if port is None else port
        if not self._is_listed(host, port, usual):
            entry = host if port == usual else f"{host}:{port}"
            if _is_inside(host):
                raise ValueError(
                    f"the host of {shown(url)} is inside a private network, which cannot be "
                    f"listed, except {LOCAL}:PORT; download the pictures first"
                )
            raise ValueError(
                f"the host of {shown(url)} is not listed; list the host under image_hosts: "
                f"[{entry}], or download the pictures first"
            )
        is_local = host == LOCAL and (LOCAL, port) in self.hosts
        if query:
            path += f"?{query}"
        return Target(parts.scheme, host, port, path, is_local)

    def _is_listed(self, host: str, port: int, usual: int) -> bool:
        """Return True if a host or one of its parent domains is listed at this port."""
        labels = host.split(".")
        names = [host]
        for start in range(1, len(labels)):
            names.append("." + ".".join(labels[start:]))
        for name in names:
            if (name, port) in self.hosts or (port == usual and (name, None) in self.hosts):
                return True
        return False

    def _download(self, url: str, target: Target) -> bytes:
        """Return what an address sends, after its redirects."""
        deadline = Deadline(self.seconds)
        for _ in range(MAX_REDIRECTS + 1):
            connection = _Connection(target, deadline)
            try:
                response = self._answer(connection, target)
                location = response.getheader("Location")
                if response.status not in REDIRECTS or not location:
                    return self._content(response)
            finally:
                connection.hang_up()
            url = urljoin(url, location)
            target = self._target(url)
        raise ValueError(f"it is redirected more than {MAX_REDIRECTS} times")

    def _answer(self, connection: "_Connection", target: Target) -> http.client.HTTPResponse:
        """Return the start of an answer; a host that never answers costs no hours."""
        place = (target.host, target.port)
        silent = self._silent.get(place, 0)
        if silent >= MAX_SILENT and place not in self._answering:
            raise ValueError(
                f"its host {shown(target.host)} gave no answer for {silent} pictures; it is not "
                "asked any more until the next start"
            )
        try:
            connection.request("GET", target.path, headers=_HEADERS)
            response = connection.getresponse()
        except OSError:
            self._silent[place] = self._silent.get(place, 0) + 1
            raise
        self._answering.add(place)
        return response

    def _content(self, response: http.client.HTTPResponse) -> bytes:
        """Read the content of an answer, within the limit of bytes."""
        if response.status != 200:
            reason = one_line(response.reason, 100)
            raise ValueError(f"the server answers {response.status} {reason}")
        too_large = ValueError(
            f"it has more than {self.max_bytes:,} bytes; download it first and shrink it"
        )
        if response.length is not None and response.length > self.max_bytes:
            raise too_large
        content = bytearray()
        while piece := response.read(_PIECE_BYTES):
            content += piece
            if len(content) > self.max_bytes:
                raise too_large
        if response.length:  # what is missing of the announced length
            raise ValueError(f"the connection broke after {len(content):,} bytes")
        return bytes(content)


def is_public(address: str) -> bool:
    """Return True for an IP address that anybody on the internet can reach."""
    ip = ipaddress.ip_address(address.partition("%")[0])  # without the interface
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.is_site_local:
            return False
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            ip = inner
    is_special = ip.is_multicast or ip.is_reserved or ip.is_unspecified
    is_near = ip.is_private or ip.is_loopback or ip.is_link_local
    return ip.is_global and not is_special and not is_near


def _is_inside(host: str) -> bool:
    """Return True for a host that is known as private without asking a name server."""
    try:
        return host != LOCAL and not is_public(host)
    except ValueError:  # a name
        return host == "localhost"


def _host_and_port(entry: str) -> tuple[str, int | None]:
    """Read an entry of the listed hosts."""
    try:
        parts = urlsplit("//" + entry)
        host, port = _ascii(parts.hostname or ""), parts.port
    except ValueError:
        host, port = "", None
    has_more = any(sign in entry for sign in "/@*?# ")
    if has_more or not host.strip("."):
        raise ValueError(
            f"image_hosts: {shown(entry)} is no host; expected example.com, example.com:8080, or "
            ".example.com for its subdomains"
        )
    return host, port


def _ascii(host: str) -> str:
    """Return a host's name as it is sent: names with other letters have a form in ASCII."""
    if host.isascii():
        return host
    return host.encode("idna").decode("ascii")


class _Connection(http.client.HTTPConnection):
    """A connection that checks who answers before anything is sent, with one deadline for all.

    Proxies of the environment are not used: http.client does not know them.
    """

    def __init__(self, target: Target, deadline: Deadline) -> None:
        super().__init__(target.host, target.port)
        self.default_port = PORTS[target.scheme]
        self.target = target
        self.deadline = deadline
        self.real: socket.socket | None = None

    def connect(self) -> None:
        """Connect to a public address of the host."""
        self.real = _connected(self.target, self.deadline)
        if self.target.scheme == "https":
            self.real.settimeout(self.deadline.left())  # of the whole handshake
            self.real = _tls().wrap_socket(self.real, server_hostname=self.target.host)
        self.sock = cast(Any, _TimedSocket(self.real, self.deadline))

    def hang_up(self) -> None:
        """Close the connection, after its answer was read."""
        self.close()
        if self.real is not None:
            self.real.close()


class _TimedSocket:
    """The part of a socket that http.client uses; every wait is cut at the deadline.

    The limit of a socket itself begins anew with each byte.
    """

    def __init__(self, real: socket.socket, deadline: Deadline) -> None:
        self.real = real
        self.deadline = deadline

    def sendall(self, content: bytes) -> None:
        self.real.settimeout(self.deadline.left())
        self.real.sendall(content)

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(_TimedReader(self.real, self.deadline))

    def close(self) -> None:
        """Leave it open: http.client closes it before the answer is read."""


class _TimedReader(io.RawIOBase):
    """Reads what a socket receives, until the deadline."""

    def __init__(self, real: socket.socket, deadline: Deadline) -> None:
        self.real = real
        self.deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.real.settimeout(self.deadline.left())
        return self.real.recv_into(buffer)


def _connected(target: Target, deadline: Deadline) -> socket.socket:
    """Connect to the first address of a host that answers; none of them may be private."""
    found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    problem = OSError("the host has no address")
    for place, (family, kind, protocol, _, address) in enumerate(found):
        _check_address(str(address[0]), target)
        real = socket.socket(family, kind, protocol)
        try:
            real.settimeout(deadline.left() / (len(found) - place))
            real.connect(address)
            # that of the other side, whatever the name server said
            _check_address(str(real.getpeername()[0]), target)
        except OSError as error:
            real.close()
            problem = error
        except ValueError:
            real.close()
            raise
        else:
            return real
    raise problem


def _check_address(address: str, target: Target) -> None:
    """Check that an IP address is public, or the listed one of this machine."""
    if target.is_local and address == LOCAL:
        return
    if not is_public(address):
        raise ValueError(
            f"its host {target.host} is {address}, an address inside a private network; download "
            "the pictures first"
        )


@cache
def _tls() -> ssl.SSLContext:
    """Return the settings with which the certificates of servers are checked."""
    return ssl.create_default_context()
