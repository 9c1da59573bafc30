"""vLLM servers, here or elsewhere: stock ones, asked over HTTP, that take the trainer's weights between the steps.

Every process of a run has servers of its own, shares its prompts among them, one request for each group, and hands its weights to them.
What a server says of its own weights is believed, not remembered: before it is asked anything it is asked for its version, so one that has
been restarted gets all changed tensors again, and one that has served another run all tensors. A request that fails is repeated with its
seed, which gives the same answers; nothing is used of a generation until all of it is there.

Weights travel through a folder that trainer and servers both see (`transfer: file`), or from GPU to GPU (`transfer: nccl`).
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
from typing import Any, Literal, TypeVar

from PIL.Image import Image

from gpg_vl.errors import EngineLostError, MismatchError, UserError
from gpg_vl.policy.load import Policy
from gpg_vl.rollout.engine import RolloutEngine, Sampling
from gpg_vl.rollout.vllm import plugin
from gpg_vl.rollout.vllm.http_client import Server, UnansweredError, server_at
from gpg_vl.rollout.vllm.protocol import Answer, check_policy, check_prompt_ids, check_version, completion, sampling_fields, unexpanded_ids
from gpg_vl.rollout.vllm.weight_files import HANDOVER, WeightFiles
from gpg_vl.rollout.vllm.weights import trainable_weights
from gpg_vl.types import Completion, Prompt

T = TypeVar("T")
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 15.0
"""Seconds between two tries: doubled each time."""
TOLD_EVERY = 15.0
"""Seconds between two lines that tell what is waited for."""
PULSE = 5.0
"""Seconds after which a server that still owes answers is asked whether it lives."""
MOST_FAILURES = 6
"""Tries of what a server that is up keeps failing."""
Question = tuple[Prompt, Sequence[int]]
"""A prompt and the seeds of its completions."""


@dataclass(kw_only=True)
class ServerEngine(RolloutEngine):
    """vLLM servers."""

    narrow = True

    policy: Any
    """Given by the run."""
    rank: int = 0
    """Given by the run."""
    ranks: int = 1
    """Given by the run."""
    say: Any = print
    """Given by the run."""
    servers: tuple[str, ...] = ("http://127.0.0.1:8000",)
    """Their addresses; process r of N uses every N-th from the r-th on."""
    handover: str = HANDOVER
    """The folder that trainer and servers both see; the server's GPG_VL_HANDOVER."""
    transfer: Literal["file", "nccl"] = "file"
    """How weights travel: a file in `handover` | NCCL, where trainer and servers have GPUs of their own."""
    deadline: float = 900.0
    """Seconds to wait for a server that is not there, starting or restarting, before the run stops."""
    timeout: float = 600.0
    """Seconds to wait for one answer."""
    at_once: int = 64
    """Requests on the way to one server at the same time."""
    sleep: Literal[0, 1, 2] = 0
    """During the update, for a server on the trainer's GPU: 0 nothing | 1 weights to the CPU's memory | 2 weights dropped."""
    remote: bool = False
    """Allow servers beyond this machine: what they answer, and to whom they listen, is then yours to guard."""

    def __post_init__(self) -> None:
        check_policy(self.policy)
        urls = [url.rstrip("/") for url in self.servers]
        if len(urls) < self.ranks:
            raise UserError(f"rollout.engine.servers: got {len(urls)} for {self.ranks} processes, expected one for each at least")
        if len(set(urls)) < len(urls):
            raise UserError(f"rollout.engine.servers: {max(urls, key=urls.count)} is named twice; name each server once")
        self.version = 0
        self._run = secrets.token_hex(4)
        self._parcels = WeightFiles(self.handover) if self.transfer == "file" else None
        every = [server_at(url, remote=self.remote, at_once=self.at_once, timeout=self.timeout) for url in urls]
        self.own = every[self.rank :: self.ranks]
        self.copies = len(self.own)
        self.renewed = True
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="servers", daemon=True)
        self._thread.start()

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[Sequence[int]]) -> list[list[Completion]]:
        """One list of completions per prompt, one completion per seed. All of them, or an error: never some."""
        return self._wait_for(self._generate(list(zip(prompts, seeds, strict=True)), sampling))

    def refresh(self, policy: Policy, version: int) -> None:
        """Sample from these weights from now on; a server takes them before it is next asked."""
        if policy is not self.policy:
            self._run = secrets.token_hex(4)
        self.policy, self.version = policy, version

    def longest(self) -> int:
        """Most tokens of prompt and completion together, on the server with the shortest window."""
        self._wait_for(together(*map(self._meet, self.own)))
        return min(server.window for server in self.own)

    def rest(self) -> None:
        """Let the servers sleep, if that is wanted, until something is asked."""
        if self.sleep:
            self._wait_for(together(*map(self._lull, self.own)))

    def close(self) -> None:
        """Hang up; the servers go on, awake unless their weights have been dropped."""
        if self._thread.is_alive():
            self._wait_for(together(*map(self._leave, self.own)))
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it in the thread of the connections; whoever interrupts the waiting ends the work."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

    async def _meet(self, server: Server) -> None:
        """Make sure, once, that it is a vLLM of the right release, started as it must be."""

        async def attempt() -> None:
            check_version((await server.get("/version")).get("version", "?"), server.url)
            await server.get("/get_world_size")
            await server.post("/resume")  # whoever was here before may have left in the middle of an update
            server.window = (await server.get("/v1/models"))["data"][0]["max_model_len"]

        if not server.window:
            await self._patiently(server, attempt)

    async def _lull(self, server: Server) -> None:
        with suppress(UnansweredError):  # gone, it holds no memory
            await server.post(f"/sleep?level={self.sleep}")

    async def _leave(self, server: Server) -> None:
        with suppress(UnansweredError, EngineLostError):  # gone, it needs no waking
            if self.sleep == 1:
                await server.post("/wake_up")
        await server.client.aclose()

    async def _patiently(self, server: Server, attempt: Callable[[], Awaitable[Any]]) -> None:
        """Try until it succeeds or the deadline is reached; a server that is up and keeps failing gets fewer tries.

        Raises:
            EngineLostError: it did not succeed.
        """
        start, told, pause, failures = time.monotonic(), -TOLD_EVERY, FIRST_PAUSE, 0
        while True:
            try:
                await attempt()
                return
            except UnansweredError as error:
                waited = time.monotonic() - start
                failures += await self._is_up(server)
                if waited > self.deadline or failures == MOST_FAILURES:
                    raise EngineLostError(
                        f"no answer in {waited:.0f} s ({error}); start the server again, `gpg-vl serve` says how"
                    ) from None
                if waited - told > TOLD_EVERY:
                    told = waited
                    self.say(f"waiting for a server, {waited:.0f} of at most {self.deadline:.0f} s: {error}")
                await asyncio.sleep(min(pause, max(0.0, self.deadline - waited)) + 0.01)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _is_up(self, server: Server) -> bool:
        try:
            await server.feel_pulse()
        except UnansweredError:
            return False
        return True

    async def _generate(self, asked: Sequence[Question], sampling: Sampling) -> list[list[Completion]]:
        """The groups of all questions, dealt to the servers in turn."""
        if self._parcels:
            self._parcels.remove()
        await together(*map(self._meet, self.own))
        hands = [asked[index :: self.copies] for index in range(self.copies)]
        try:
            shares = await together(*(self._share(server, hand, sampling) for server, hand in zip(self.own, hands, strict=True)))
        finally:
            if self._parcels:
                self._parcels.remove()
        return [shares[place % self.copies][place // self.copies] for place in range(len(asked))]

    async def _share(self, server: Server, asked: Sequence[Question], sampling: Sampling) -> list[list[Completion]]:
        """One server's share of the groups. What has been answered is kept when another request has to be repeated."""
        done: dict[int, list[Completion]] = {}

        async def attempt() -> None:
            await self._catch_up(server)
            missing = [place for place in range(len(asked)) if place not in done]
            groups = (self._group(server, *asked[place], sampling) for place in missing)
            answers = await self._while_it_lives(server, asyncio.gather(*groups, return_exceptions=True))
            await self._still_the_same(server)
            done.update({place: group for place, group in zip(missing, answers, strict=True) if not isinstance(group, BaseException)})
            for group in answers:
                if isinstance(group, BaseException):
                    raise group

        if asked:
            await self._patiently(server, attempt)
        return [done[place] for place in range(len(asked))]

    async def _while_it_lives(self, server: Server, answers: "asyncio.Future[T]") -> T:
        """Wait for answers; one that is told to end stops listening, and never closes the connections on which it still owes some.

        Raises:
            UnansweredError: it is gone.
        """
        try:
            while not (await asyncio.wait([answers], timeout=PULSE))[0]:
                await server.feel_pulse()
            return answers.result()
        finally:
            answers.cancel()

    async def _still_the_same(self, server: Server) -> None:
        """Before 0.32 answers do not say which weights gave them: a server that has the right ones now has had them all the time.

        Raises:
            UnansweredError: it has not.
        """
        if (theirs := (await server.get("/weight_info"))["weight_version"]) != self._version:
            raise UnansweredError(f"{server.url}: it has weights {theirs}, expected {self._version}: it was restarted")

    async def _group(self, server: Server, prompt: Prompt, seeds: Sequence[int], sampling: Sampling) -> list[Completion]:
        """The completions of one prompt.

        Raises:
            UnansweredError: no answer, one that was broken off, or one of other weights (the server has been restarted since it was asked
                for its version).
            MismatchError: what came back is not what was asked.
        """
        async with server.at_once:
            question = await asyncio.to_thread(self._question, prompt, seeds, sampling)
            answer = await server.post("/inference/v1/generate", question)
        check_prompt_ids(self.policy, prompt, answer["prompt_token_ids"])
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        if versions := {span["version"] for choice in choices for span in choice.get("weight_versions", ())} - {self._version}:
            raise UnansweredError(f"{server.url}: sampled with weights {sorted(versions)}, expected {self._version}")
        if any(choice["finish_reason"] == "abort" for choice in choices):
            raise UnansweredError(f"{server.url}: {prompt.sample.id} was broken off there")
        if len(choices) != len(seeds):
            raise MismatchError(f"{prompt.sample.id}: asked for {len(seeds)} completions, got {len(choices)}")
        return [completion(self.policy, prompt, _answer(choice), sampling, self.version) for choice in choices]

    def _question(self, prompt: Prompt, seeds: Sequence[int], sampling: Sampling) -> dict[str, Any]:
        question: dict[str, Any] = {
            "token_ids": unexpanded_ids(self.policy, prompt),
            "sampling_params": sampling_fields(self.policy, sampling, seeds),
            "return_token_ids": True,
        }
        if prompt.images:
            question["content_parts"] = [{"type": "image_url", "url": data_url(image)} for image in prompt.images]
        return question

    @property
    def _version(self) -> str:
        """What a server with the present weights calls them."""
        return f"gpg_vl/{self._run}/{self.version}"

    async def _catch_up(self, server: Server) -> None:
        """Wake it up, and hand the weights over unless it has them."""
        if asleep := (await server.get("/is_sleeping"))["is_sleeping"]:
            await server.post("/wake_up?tags=weights")
        theirs = (await server.get("/weight_info"))["weight_version"]
        ours = theirs.startswith(f"gpg_vl/{self._run}/")
        lost = asleep and (self.sleep == 2 or not ours)
        if theirs != self._version or lost:
            server.proven = server.proven and ours
            self.renewed = self.renewed or not ours
            await self._hand_over(server, frozen_too=lost or (theirs.startswith("gpg_vl/") and not ours))
        if asleep:
            await server.post("/wake_up?tags=kv_cache")

    async def _hand_over(self, server: Server, *, frozen_too: bool) -> None:
        """Put the trainer's tensors in place of the server's, forget what was computed with the old ones, and name the version.

        The name comes last, and until then it is nobody's: a server that dies on the way, or a trainer, leaves one that has to be handed
        everything again.
        """
        await server.post("/pause?mode=abort&clear_cache=false")
        await server.post("/update_weight_version", {"new_version": "gpg_vl/under way"})
        if self._parcels:
            await self._send_by_file(self._parcels, server, frozen_too)
        else:
            await self._send_by_nccl(server, frozen_too)
        await self._forget(server)
        await server.post("/resume")
        await server.post("/update_weight_version", {"new_version": self._version})
        server.proven = True

    async def _send_by_file(self, parcels: WeightFiles, server: Server, frozen_too: bool) -> None:
        parcel = await asyncio.to_thread(parcels.of, self.policy, frozen_too=frozen_too, sealed=not server.proven)
        await server.post("/init_weight_transfer_engine", {"init_info": {}})
        try:
            await server.post("/start_weight_update")
        except UnansweredError as error:
            if error.status != 500:
                raise
            await server.post("/finish_weight_update", {})  # a trainer, perhaps this one, was cut off in the middle of an update
            await server.post("/start_weight_update")
        await server.take({"names": list(parcel.names), "path": str(parcel.path), "digests": parcel.digests})
        await server.post("/finish_weight_update", {})

    async def _send_by_nccl(self, server: Server, frozen_too: bool) -> None:
        tensors, device = trainable_weights(self.policy, frozen_too=frozen_too), self.policy.device
        if not server.proven or server.sender is None:
            if server.sender is not None:
                server.sender.shutdown()
            workers = (await server.get("/get_world_size"))["world_size"]
            server.sender = await self._by_nccl(server, plugin.nccl_sender, server.url, workers, device)
        await self._by_nccl(server, plugin.send, server.sender, tensors, device)

    async def _by_nccl(self, server: Server, work: Callable[..., T], *given: Any) -> T:
        """What vLLM's own NCCL transfer gives; its failures, of whatever kind, are the server's not answering."""
        try:
            return await asyncio.wait_for(asyncio.to_thread(work, *given), self.timeout)
        except TimeoutError:  # its thread waits for ever, so another try would be a second group beside the first
            raise EngineLostError(f"{server.url}: NCCL: no end in {self.timeout:.0f} s; start server and run again") from None
        except (RuntimeError, OSError) as error:
            server.sender = None
            raise UnansweredError(f"{server.url}: NCCL: {type(error).__name__} {error}") from None

    async def _forget(self, server: Server) -> None:
        """Keys and values of prompts, and image embeddings: both caches are found by content and know nothing of weights."""
        if not (await server.post("/reset_prefix_cache")).get("success", True):
            raise UnansweredError(f"{server.url}: it did not empty its prefix cache")
        await server.post("/reset_encoder_cache")


async def together(*work: Awaitable[T]) -> list[T]:
    """All results; the first error ends the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def data_url(image: Image) -> str:
    """A picture without loss, as a server takes it."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(encoded.getvalue()).decode()}"


def _answer(choice: dict[str, Any]) -> Answer:
    logprobs = tuple(token["logprob"] for token in choice["logprobs"]["content"])
    return Answer(token_ids=tuple(choice["token_ids"]), logprobs=logprobs, finish=choice["finish_reason"])
