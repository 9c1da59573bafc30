"""One vLLM server over HTTP: what it answers, and what it means that it does not.

Errors are of two kinds: those after which asking again may help, and refusals, which say how the server should have been started.
"""

import asyncio
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import httpx

from gpg_vl.errors import EngineLostError, UserError

MENDABLE = {408, 425, 429, 500, 502, 503, 504}
"""Answers that may be another the next time."""


class UnansweredError(Exception):
    """A server did not answer, or not usefully; asking again may help."""

    def __init__(self, told: str, status: int | None = None) -> None:
        super().__init__(told)
        self.status = status


@dataclass(slots=True)
class Server:
    """One server as this process knows it."""

    url: str
    client: httpx.AsyncClient
    at_once: asyncio.Semaphore
    window: int = 0
    """Longest prompt and completion together; 0 = it has not been met."""
    proven: bool = False
    """Whether a hand-over to this start of the server has been checked by checksum."""
    sender: Any = None
    """Its NCCL group, where weights travel so."""

    async def get(self, path: str) -> Any:
        """A GET's JSON."""
        return await self._answer("GET", path, {})

    async def feel_pulse(self) -> None:
        """Make sure that it lives.

        Raises:
            UnansweredError: it does not.
        """
        await self._answer("GET", "/health", {"timeout": 30})

    async def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """A POST's JSON."""
        return await self._answer("POST", path, {"json": body} if body is not None else {})

    async def take(self, update: dict[str, Any]) -> None:
        """Let it take weights.

        Raises:
            EngineLostError: it tried and failed; it may have taken some, so it must not be asked anything any more.
        """
        try:
            await self.post("/update_weights", {"update_info": update})
        except UnansweredError as error:
            if error.status != 500:
                raise
            raise EngineLostError(f"a server could not take the weights ({error}); start it again") from None

    async def _answer(self, method: str, path: str, options: dict[str, Any]) -> Any:
        """What comes back.

        Raises:
            UnansweredError: no connection, no answer in time, or an answer that may be another the next time.
            EngineLostError: it refuses, or is no vLLM; says why.
        """
        try:
            response = await self.client.request(method, path, **options)
        except httpx.TransportError as error:
            raise UnansweredError(f"{self.url}{path}: {type(error).__name__} {error}") from None
        if response.status_code in MENDABLE:
            raise UnansweredError(f"{self.url}{path}: {_told(response)}", response.status_code)
        if not response.is_success:
            raise EngineLostError(f"rollout.engine: {self.url}{path} refuses ({_told(response)}){_remedy(path, response.status_code)}")
        try:
            return response.json() if response.content else {}
        except ValueError:
            raise EngineLostError(f"rollout.engine: {self.url}{path} is no vLLM: it answers {_told(response)}") from None


def server_at(url: str, *, remote: bool, at_once: int, timeout: float) -> Server:
    """A server by its address.

    Args:
        remote: whether it may be beyond this machine.
        at_once: most requests on the way.
        timeout: seconds to wait for one answer.

    Raises:
        UserError: that is no address, or one beyond this machine.
    """
    try:
        host, _ = (parts := urlsplit(url)).hostname, parts.port
    except ValueError:
        host = None
    if not host or not url.startswith(("http://", "https://")):
        raise UserError(f"rollout.engine.servers: got {url!r}, expected an address such as http://127.0.0.1:8000")
    if not remote and not _is_here(host):
        raise UserError(
            f"rollout.engine.servers: {host} is not this machine, and a vLLM that takes weights obeys whoever reaches it; "
            "keep it inside a network of your own and set rollout.engine.remote: true"
        )
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=at_once)
    client = httpx.AsyncClient(base_url=url, timeout=httpx.Timeout(timeout, connect=10), limits=limits, trust_env=False)
    return Server(url=url, client=client, at_once=asyncio.Semaphore(at_once))


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _told(response: httpx.Response) -> str:
    """What a refusal says, in a line."""
    return f"HTTP {response.status_code}: {' '.join(response.text.split())[:300]}"


def _remedy(path: str, status: int) -> str:
    """How to start a server so that it knows a path that it does not know."""
    if status not in {403, 404, 405}:
        return ""
    if path.startswith("/inference/"):
        return "; start it with --enable-scale-out, as `gpg-vl serve` does"
    return "; start it with VLLM_SERVER_DEV_MODE=1 and --weight-transfer-config, as `gpg-vl serve` does"
