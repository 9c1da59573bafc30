"""Sample with stock vLLM servers over HTTP, and send them the trainer's weights between the steps.

Every process of a run has its own servers. It distributes its prompts over them, one request per
group, and sends them its weights. Before a server is used it reports which weights it holds
(`HeldWeights`), so a restarted server, or one that has served another run, gets what it lacks. A
failed request is repeated with its seed, which gives the same completions. No completion of a
`generate` is used before all of them are there.

Weights are sent through a folder that trainer and servers share (`transfer: file`), or from GPU to
GPU (`transfer: nccl`).
"""

import asyncio
import base64
import io
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, TypeVar

from PIL.Image import Image

from gpg_vl.errors import EngineLostError, UserError, one_line
from gpg_vl.policy.load import Policy
from gpg_vl.rollout.engine import RolloutEngine, Sampling
from gpg_vl.rollout.vllm import plugin
from gpg_vl.rollout.vllm.http_client import RetryableError, Server, server_at
from gpg_vl.rollout.vllm.protocol import (
    MAX_IMAGES,
    Answer,
    check_policy,
    check_prompt_ids,
    check_version,
    completions,
    sampling_fields,
    unexpanded_ids,
)
from gpg_vl.rollout.vllm.weight_files import HANDOVER, WeightFiles
from gpg_vl.rollout.vllm.weights import trainable_weights
from gpg_vl.types import Completion, Prompt

T = TypeVar("T")
FIRST_PAUSE, MAX_PAUSE = 0.25, 15.0
"""Seconds between two attempts: doubled each time, up to the maximum."""
LOG_INTERVAL = 15.0
"""Seconds between two log lines about a server that is waited for."""
HEALTH_INTERVAL = 5.0
"""Seconds between two health checks of a server that has not answered all requests yet."""
MAX_FAILURES = 6
"""Failed attempts on a healthy server before the run stops."""
SYNC_RUNNING = "gpg_vl/under way"
"""Weight version of a server during a weight sync."""
Request = tuple[Prompt, Sequence[int]]
"""A prompt and the seeds of its completions."""


class HeldWeights(Enum):
    """The weights that a server holds, relative to this run."""

    CURRENT = "this run's, of the present version"
    OUTDATED = "this run's, of another version"
    DROPPED = "none: this run's were dropped by sleep level 2"
    BASE = "those of the checkpoint it was started with"
    FOREIGN = "another run's, those of an unfinished weight sync, or unknown after a sleep"

    @property
    def is_known(self) -> bool:
        """True if this run has sent weights to the server since the server was started."""
        return self in {HeldWeights.CURRENT, HeldWeights.OUTDATED, HeldWeights.DROPPED}

    @property
    def has_frozen(self) -> bool:
        """True if the frozen tensors are this run's, so they need not be sent."""
        return self in {HeldWeights.CURRENT, HeldWeights.OUTDATED, HeldWeights.BASE}


@dataclass(kw_only=True)
class ServerEngine(RolloutEngine):
    """Samples with vLLM servers."""

    narrow = True
    needs_verification = True

    policy: Any
    """Set by the run."""
    rank: int = 0
    """Set by the run."""
    ranks: int = 1
    """Set by the run."""
    log: Any = print
    """Set by the run."""
    servers: tuple[str, ...] = ("http://127.0.0.1:8000",)
    """Addresses of the servers; process r of N uses every N-th from the r-th on."""
    handover: str = HANDOVER
    """Folder of weight files that trainer and servers share; the servers' GPG_VL_HANDOVER."""
    transfer: Literal["file", "nccl"] = "file"
    """Transport of the weights: a file in `handover` | NCCL, if trainer and servers have GPUs of
    their own."""
    deadline: float = 900.0
    """Seconds to wait for a server that is starting or restarting before the run stops."""
    timeout: float = 600.0
    """Seconds to wait for one answer."""
    at_once: int = 64
    """Maximum number of concurrent requests to one server."""
    images: int = MAX_IMAGES
    """Maximum number of images of one prompt, for which `gpg-vl serve` starts the servers."""
    sleep: Literal[0, 1, 2] = 0
    """Memory during the update, for a server on the trainer's GPU: 0 keep everything | 1 weights
    moved to the CPU | 2 weights dropped."""
    remote: bool = False
    """Allow servers on other machines; you must then protect the network between them."""

    def __post_init__(self) -> None:
        check_policy(self.policy)
        urls = [url.rstrip("/") for url in self.servers]
        if len(urls) < self.ranks:
            raise UserError(
                f"rollout.engine.servers: got {len(urls)} for {self.ranks} processes, expected one "
                "for each at least"
            )
        if len(set(urls)) < len(urls):
            raise UserError(
                f"rollout.engine.servers: {max(urls, key=urls.count)} is named twice; name each "
                "server once"
            )
        self.version = 0
        self._run_id = secrets.token_hex(4)
        self._weight_files = WeightFiles(self.handover) if self.transfer == "file" else None
        # All addresses are checked, so that a wrong one is reported by every process.
        all_servers = [
            server_at(url, remote=self.remote, at_once=self.at_once, timeout=self.timeout)
            for url in urls
        ]
        self.own_servers = all_servers[self.rank :: self.ranks]
        self.num_replicas = len(self.own_servers)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="servers", daemon=True)
        self._thread.start()

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[Completion]]:
        """Sample one completion per seed for each prompt; return one list per prompt.

        Returns all of them or raises an error, never some.
        """
        return self._wait_for(self._generate(list(zip(prompts, seeds, strict=True)), sampling))

    def update_weights(self, policy: Policy, version: int) -> None:
        """Sample from these weights from now on; a server gets them before its next request."""
        if policy is not self.policy:
            # Frozen tensors may differ too: a new run id makes all servers FOREIGN.
            self._run_id = secrets.token_hex(4)
        self.policy, self.version = policy, version

    def max_model_len(self) -> int:
        """Return the maximum tokens of prompt and completion together, of the smallest server."""
        self._wait_for(gather_all(*map(self._connect, self.own_servers)))
        return min(server.window for server in self.own_servers)

    def max_images(self) -> int:
        """Return the maximum number of images of a prompt: a server refuses those of more."""
        return self.images

    def release_memory(self) -> None:
        """Put the servers to sleep until the next `generate`, if `sleep` is set."""
        if self.sleep:
            self._wait_for(gather_all(*map(self._put_to_sleep, self.own_servers)))

    def close(self) -> None:
        """Close the connections; servers keep running, awake unless their weights were dropped."""
        if self._thread.is_alive():
            self._wait_for(gather_all(*map(self._disconnect, self.own_servers)))
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the event loop's thread; an interrupt of this thread cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

    # --- servers: connecting, retrying, sleeping ------------------------------------------------

    async def _connect(self, server: Server) -> None:
        """Check once that a server is a supported vLLM, and read its window."""

        async def attempt() -> None:
            """Check the version, let a paused server go on, and read its window."""
            check_version((await server.get("/version")).get("version", "?"), server.url)
            await server.get("/get_world_size")
            # An earlier trainer may have stopped in the middle of a weight sync.
            await server.post("/resume")
            server.window = (await server.get("/v1/models"))["data"][0]["max_model_len"]

        if not server.window:
            await self._retry(server, attempt)

    async def _put_to_sleep(self, server: Server) -> None:
        with suppress(RetryableError):  # a server that is gone holds no memory
            await server.post(f"/sleep?level={self.sleep}")

    async def _disconnect(self, server: Server) -> None:
        with suppress(RetryableError, EngineLostError):  # a server that is gone cannot be woken
            if self.sleep == 1:
                await server.post("/wake_up")
        await server.client.aclose()

    async def _retry(self, server: Server, attempt: Callable[[], Awaitable[Any]]) -> None:
        """Repeat an attempt until it succeeds.

        A server that is down is waited for until the deadline; one that is healthy and keeps
        failing gets `MAX_FAILURES` attempts.

        Raises:
            EngineLostError: it did not succeed.
        """
        start = time.monotonic()
        last_log, pause, failures = -LOG_INTERVAL, FIRST_PAUSE, 0
        while True:
            try:
                await attempt()
                return
            except RetryableError as error:
                waited = time.monotonic() - start
                failures += await self._is_healthy(server)
                if waited > self.deadline or failures == MAX_FAILURES:
                    raise EngineLostError(
                        f"no answer in {waited:.0f} s ({error}); start the server again, `gpg-vl "
                        "serve` says how"
                    ) from None
                if waited - last_log > LOG_INTERVAL:
                    last_log = waited
                    self.log(
                        f"waiting for a server, {waited:.0f} of at most {self.deadline:.0f} s: "
                        f"{error}"
                    )
                await asyncio.sleep(min(pause, max(0.0, self.deadline - waited)) + 0.01)
                pause = min(2 * pause, MAX_PAUSE)

    async def _is_healthy(self, server: Server) -> bool:
        try:
            await server.check_health()
        except RetryableError:
            return False
        return True

    # --- sampling -------------------------------------------------------------------------------

    async def _generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> list[list[Completion]]:
        """Distribute the requests over the servers in turn, and return the groups in order."""
        self._remove_weight_files()  # an interrupted call may have left some, of old weights
        await gather_all(*map(self._connect, self.own_servers))
        shares: list[Awaitable[list[list[Completion]]]] = []
        for index, server in enumerate(self.own_servers):
            own_requests = requests[index :: self.num_replicas]
            shares.append(self._generate_share(server, own_requests, sampling))
        try:
            answers = await gather_all(*shares)
        finally:
            self._remove_weight_files()
        groups: list[list[Completion]] = []
        for index in range(len(requests)):
            groups.append(answers[index % self.num_replicas][index // self.num_replicas])
        return groups

    def _remove_weight_files(self) -> None:
        if self._weight_files:
            self._weight_files.remove()

    async def _generate_share(
        self, server: Server, requests: Sequence[Request], sampling: Sampling
    ) -> list[list[Completion]]:
        """Sample one server's groups; groups that are done are kept when others are repeated."""
        done: dict[int, list[Completion]] = {}

        async def attempt() -> None:
            """Sample the groups that no earlier attempt has finished."""
            await self._make_ready(server)
            missing: list[int] = []
            work: list[Awaitable[list[Completion]]] = []
            for index, (prompt, seeds) in enumerate(requests):
                if index not in done:
                    missing.append(index)
                    work.append(self._generate_group(server, prompt, seeds, sampling))
            results = await self._wait_while_healthy(
                server, asyncio.gather(*work, return_exceptions=True)
            )
            await self._check_not_restarted(server)
            errors: list[BaseException] = []
            for index, result in zip(missing, results, strict=True):
                if isinstance(result, BaseException):
                    errors.append(result)
                else:
                    done[index] = result
            if errors:
                raise errors[0]

        if requests:
            await self._retry(server, attempt)
        return [done[index] for index in range(len(requests))]

    async def _wait_while_healthy(self, server: Server, answers: "asyncio.Future[T]") -> T:
        """Wait for answers as long as the server is healthy.

        A vLLM that is asked to terminate stops listening, but never closes the connections of
        requests that it has not answered; without health checks they would be waited for.

        Raises:
            RetryableError: the server is gone.
        """
        try:
            while not (await asyncio.wait([answers], timeout=HEALTH_INTERVAL))[0]:
                await server.check_health()
            return answers.result()
        finally:
            answers.cancel()

    async def _check_not_restarted(self, server: Server) -> None:
        """Check that the server still holds the present weights.

        Before vLLM 0.32 answers do not contain the version of their weights. A server that holds
        the right weights now has held them since `_make_ready`.

        Raises:
            RetryableError: it does not.
        """
        held_version = (await server.get("/weight_info"))["weight_version"]
        if held_version != self._weight_version:
            raise RetryableError(
                f"{server.url}: it has weights {held_version}, expected {self._weight_version}: it "
                "was restarted"
            )

    async def _generate_group(
        self, server: Server, prompt: Prompt, seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        """Sample the completions of one prompt.

        Raises:
            RetryableError: no answer, an aborted one, or one of other weights (the server was
                restarted after `_make_ready`).
            MismatchError: the answer does not fit the request.
        """
        async with server.at_once:
            body = await asyncio.to_thread(self._request_body, prompt, seeds, sampling)
            response = await server.post("/inference/v1/generate", body)
        check_prompt_ids(self.policy, prompt, response["prompt_token_ids"])
        choices = sorted(response["choices"], key=lambda choice: choice["index"])
        other_versions: set[str] = set()
        for choice in choices:
            for span in choice.get("weight_versions", ()):  # from vLLM 0.32 on
                if span["version"] != self._weight_version:
                    other_versions.add(span["version"])
        if other_versions:
            raise RetryableError(
                f"{server.url}: sampled with weights {sorted(other_versions)}, expected "
                f"{self._weight_version}"
            )
        if any(choice["finish_reason"] == "abort" for choice in choices):
            raise RetryableError(f"{server.url}: {one_line(prompt.sample.id)} was aborted there")
        answers = list(map(_answer, choices))
        return completions(self.policy, prompt, answers, len(seeds), sampling, self.version)

    def _request_body(
        self, prompt: Prompt, seeds: Sequence[int], sampling: Sampling
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "token_ids": unexpanded_ids(self.policy, prompt),
            "sampling_params": sampling_fields(self.policy, sampling, seeds),
            "return_token_ids": True,
        }
        if prompt.images:
            body["content_parts"] = [
                {"type": "image_url", "url": data_url(image)} for image in prompt.images
            ]
        return body

    # --- weights --------------------------------------------------------------------------------

    @property
    def _weight_version(self) -> str:
        """Weight version that a server with the present weights reports."""
        return f"gpg_vl/{self._run_id}/{self.version}"

    def _held_weights(self, held_version: str, *, asleep: bool) -> HeldWeights:
        """Return which weights a server holds.

        Args:
            held_version: the weight version that it reports.
            asleep: it was asleep, so weights that are not this run's may be lost.
        """
        if held_version.startswith(f"gpg_vl/{self._run_id}/"):
            if asleep and self.sleep == 2:
                return HeldWeights.DROPPED
            if held_version == self._weight_version:
                return HeldWeights.CURRENT
            return HeldWeights.OUTDATED
        if asleep or held_version.startswith("gpg_vl/"):
            return HeldWeights.FOREIGN
        return HeldWeights.BASE

    async def _make_ready(self, server: Server) -> None:
        """Wake a server, and send the weights unless it holds them."""
        asleep = (await server.get("/is_sleeping"))["is_sleeping"]
        if asleep:
            await server.post("/wake_up?tags=weights")
        held_version = (await server.get("/weight_info"))["weight_version"]
        held = self._held_weights(held_version, asleep=asleep)
        if not held.is_known:
            self.needs_verification = True
            server.is_proven = False
        if held is not HeldWeights.CURRENT:
            await self._sync_weights(server, held)
        if asleep:
            await server.post("/wake_up?tags=kv_cache")

    async def _sync_weights(self, server: Server, held: HeldWeights) -> None:
        """Replace the server's weights by the trainer's, reset its caches, and set its version.

        The version is set last. Until then it is `SYNC_RUNNING`, which is FOREIGN: if server or
        trainer stop in between, all weights are sent again.
        """
        await server.post("/pause?mode=abort&clear_cache=false")
        await server.post("/update_weight_version", {"new_version": SYNC_RUNNING})
        if self._weight_files:
            await self._send_file(self._weight_files, server, held)
        else:
            await self._send_by_nccl(server, held)
        await self._reset_caches(server)
        await server.post("/resume")
        await server.post("/update_weight_version", {"new_version": self._weight_version})
        server.is_proven = True

    async def _send_file(self, files: WeightFiles, server: Server, held: HeldWeights) -> None:
        file = await asyncio.to_thread(
            files.get,
            self.policy,
            include_frozen=not held.has_frozen,
            # Once per start of the server the way of the weights is checked.
            with_checksums=not server.is_proven,
        )
        await server.post("/init_weight_transfer_engine", {"init_info": {}})
        try:
            await server.post("/start_weight_update")
        except RetryableError as error:
            if error.status != 500:
                raise
            # A trainer, perhaps this one, was cut off in the middle of an update: end that first.
            await server.post("/finish_weight_update", {})
            await server.post("/start_weight_update")
        await server.load_weights(
            {"names": list(file.names), "path": str(file.path), "checksums": file.checksums}
        )
        await server.post("/finish_weight_update", {})

    async def _send_by_nccl(self, server: Server, held: HeldWeights) -> None:
        tensors = trainable_weights(self.policy, include_frozen=not held.has_frozen)
        device = self.policy.device
        if not server.is_proven and server.sender is not None:
            server.sender.shutdown()  # the server may have left the group: it was restarted
            server.sender = None
        if server.sender is None:
            workers = (await server.get("/get_world_size"))["world_size"]
            server.sender = await self._run_nccl(
                server, plugin.nccl_sender, server.url, workers, device
            )
        await self._run_nccl(server, plugin.send, server.sender, tensors, device)

    async def _run_nccl(self, server: Server, call: Callable[..., T], *arguments: Any) -> T:
        """Run a call of vLLM's NCCL transfer in a thread.

        Raises:
            RetryableError: it failed; the group with the server is lost.
            EngineLostError: it did not end in time.
        """
        try:
            return await asyncio.wait_for(asyncio.to_thread(call, *arguments), self.timeout)
        except TimeoutError:
            # The thread never ends, so another attempt would be a second group beside the first.
            raise EngineLostError(
                f"{server.url}: NCCL: no end in {self.timeout:.0f} s; start server and run again"
            ) from None
        except (RuntimeError, OSError) as error:
            server.sender = None
            raise RetryableError(f"{server.url}: NCCL: {type(error).__name__} {error}") from None

    async def _reset_caches(self, server: Server) -> None:
        """Empty the caches of keys and values and of image embeddings.

        Both are looked up by content, so entries of the old weights would be used again.
        """
        if not (await server.post("/reset_prefix_cache")).get("success", True):
            raise RetryableError(f"{server.url}: it did not empty its prefix cache")
        await server.post("/reset_encoder_cache")


async def gather_all(*work: Awaitable[T]) -> list[T]:
    """Return all results; the first error cancels the rest and is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def data_url(image: Image) -> str:
    """Encode an image without loss (PNG) as a data URL."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(encoded.getvalue()).decode()}"


def _answer(choice: dict[str, Any]) -> Answer:
    # Missing log-probabilities (null) are reported by `protocol.completion`.
    tokens = (choice["logprobs"] or {}).get("content") or ()
    logprobs = tuple(token["logprob"] for token in tokens)
    return Answer(
        token_ids=tuple(choice["token_ids"]), logprobs=logprobs, finish=choice["finish_reason"]
    )
