"""Send requests to one vLLM server over HTTP, and sort its failures.

There are two kinds: failures after which the same request may succeed (`RetryableError`), and
refusals, whose message says how the server should have been started.
"""

import asyncio
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import httpx

from gpg_vl.errors import EngineLostError, UserError, one_line, shown

RETRYABLE_STATUS = {408, 425, 429, 500, 502, 503, 504}
"""HTTP statuses of requests that may succeed the next time."""
HEALTH_TIMEOUT = 30
"""Seconds to wait for the answer to a health check."""


class RetryableError(Exception):
    """A server did not answer, or not usefully; the same request may succeed later."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Server:
    """The connection to one server."""

    url: str
    client: httpx.AsyncClient
    at_once: asyncio.Semaphore
    """Limit of concurrent generate requests."""
    window: int = 0
    """Maximum tokens of prompt and completion together; 0 = not connected yet."""
    is_proven: bool = False
    """True once a whole weight sync to this start of the server has been acknowledged."""
    sender: Any = None
    """The NCCL group with the server, if weights are sent by NCCL."""

    async def get(self, path: str) -> Any:
        """Send a GET request and return the JSON of the answer."""
        return await self._request("GET", path, {})

    async def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send a POST request and return the JSON of the answer."""
        options = {} if body is None else {"json": body}
        return await self._request("POST", path, options)

    async def check_health(self) -> None:
        """Check that the server is up.

        Raises:
            RetryableError: it is not.
        """
        await self._request("GET", "/health", {"timeout": HEALTH_TIMEOUT})

    async def load_weights(self, update: dict[str, Any]) -> None:
        """Make the server load weights.

        Raises:
            EngineLostError: loading failed; some weights may be new, so the server must not be used
                any more.
        """
        try:
            await self.post("/update_weights", {"update_info": update})
        except RetryableError as error:
            if error.status != 500:
                raise
            raise EngineLostError(
                f"a server could not take the weights ({error}); start it again"
            ) from None

    async def _request(self, method: str, path: str, options: dict[str, Any]) -> Any:
        """Send a request and return the JSON of the answer.

        Raises:
            RetryableError: no connection, no answer in time, or a retryable status.
            EngineLostError: the server refuses the request, or is no vLLM; says why.
        """
        try:
            response = await self.client.request(method, path, **options)
        except httpx.TransportError as error:
            raise RetryableError(f"{self.url}{path}: {type(error).__name__} {error}") from None
        if response.status_code in RETRYABLE_STATUS:
            raise RetryableError(f"{self.url}{path}: {_summary(response)}", response.status_code)
        if not response.is_success:
            raise EngineLostError(
                f"rollout.engine: {self.url}{path} refuses "
                f"({_summary(response)}){_remedy(path, response.status_code)}"
            )
        if not response.content:
            return {}
        try:
            return response.json()
        except ValueError:
            raise EngineLostError(
                f"rollout.engine: {self.url}{path} is no vLLM: it answers {_summary(response)}"
            ) from None


def server_at(url: str, *, remote: bool, at_once: int, timeout: float) -> Server:
    """Return a server by its address, without connecting to it.

    Args:
        remote: allow servers on other machines.
        at_once: maximum number of concurrent generate requests.
        timeout: seconds to wait for one answer.

    Raises:
        UserError: the address is invalid, or on another machine without `remote`.
    """
    host = _host(url)
    if not host or not url.startswith(("http://", "https://")):
        raise UserError(
            f"rollout.engine.servers: got {shown(url)}, expected an address such as "
            "http://127.0.0.1:8000"
        )
    if not remote and not _is_this_machine(host):
        raise UserError(
            f"rollout.engine.servers: {host} is not this machine, and a vLLM that takes weights "
            "obeys whoever reaches it; keep it inside a network of your own and set "
            "rollout.engine.remote: true"
        )
    # Each request has a connection of its own. Uvicorn closes one shortly after it answered 500,
    # without saying so, and a request that is sent on it meanwhile is lost.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    # trust_env=False: no proxy of the environment between trainer and server.
    client = httpx.AsyncClient(
        base_url=url, timeout=httpx.Timeout(timeout, connect=10), limits=limits, trust_env=False
    )
    return Server(url=url, client=client, at_once=asyncio.Semaphore(at_once))


def _host(url: str) -> str | None:
    """Return the host of an address; None if host or port are invalid."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError for a port that is no number
        return parts.hostname
    except ValueError:
        return None


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _summary(response: httpx.Response) -> str:
    """Return the status and the start of the text of an answer, in one line."""
    return f"HTTP {response.status_code}: {one_line(response.text)}"


def _remedy(path: str, status: int) -> str:
    """Return how to start a server so that it knows a path; empty if that is not the problem."""
    if status not in {403, 404, 405}:
        return ""
    if path.startswith("/inference/"):
        return "; start it with --enable-scale-out, as `gpg-vl serve` does"
    return (
        "; start it with VLLM_SERVER_DEV_MODE=1 and --weight-transfer-config, as `gpg-vl serve` "
        "does"
    )
