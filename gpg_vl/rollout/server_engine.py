"""vLLM servers, here or elsewhere: stock ones, asked over HTTP, that take the trainer's weights between the steps.

Every process of a run has servers of its own, shares its prompts among them, one request for each group, and hands its weights to them.
What a server says of its own weights is believed, not remembered: before it is asked anything it is asked for its version, so one that has
been restarted gets all changed tensors again. A request that fails is repeated with its seed, which gives the same answers; nothing is used
of a generation until all of it is there.

Weights travel through a folder that trainer and servers both see (`transfer: file`), or from GPU to GPU (`transfer: nccl`).
"""

import base64
import io
import os
import secrets
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
import torch
from PIL.Image import Image
from safetensors.torch import save_file

from gpg_vl.policy.load import Policy
from gpg_vl.rollout import vllm_plugin
from gpg_vl.rollout.engine import EngineLostError, Sampling
from gpg_vl.rollout.handover import digests, travelling
from gpg_vl.rollout.request import (
    Answer,
    MismatchError,
    check_dtype,
    check_prompt_ids,
    check_version,
    completion,
    sampling_fields,
    unexpanded_ids,
)
from gpg_vl.types import Completion, Prompt, UserError

HANDOVER = f"/dev/shm/gpg_vl-{os.getuid()}"
"""Where weights are put for servers on this machine: in memory, readable by this user alone."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 15.0
"""Seconds between two tries: doubled each time."""
TOLD_EVERY = 15.0
"""Seconds between two lines that tell what is waited for."""
MOST_FAILURES = 6
"""Tries of what a server that is up keeps failing."""
Question = tuple[Prompt, Sequence[int]]
"""A prompt and the seeds of its completions."""
MENDABLE = {408, 425, 429, 500, 502, 503, 504}
"""Answers that may be another the next time."""


class UnansweredError(Exception):
    """A server did not answer, or not usefully; asking again may help."""


@dataclass(slots=True)
class Server:
    """One server as this process knows it."""

    url: str
    client: httpx.Client
    proven: bool = False
    """Whether a hand-over to this start of the server has been checked by checksum."""
    sender: Any = None
    """Its NCCL group, where weights travel so."""

    def get(self, path: str) -> Any:
        """A GET's JSON."""
        return self._answer("GET", path, {})

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """A POST's JSON."""
        return self._answer("POST", path, {"json": body} if body is not None else {})

    def take(self, update: dict[str, Any]) -> None:
        """Let it take weights.

        Raises:
            EngineLostError: it tried and failed; it may have taken some, so it must not be asked anything any more.
        """
        try:
            self.post("/update_weights", {"update_info": update})
        except UnansweredError as error:
            if "HTTP 500" not in str(error):
                raise
            raise EngineLostError(f"a server could not take the weights ({error}); start it again") from None

    def _answer(self, method: str, path: str, options: dict[str, Any]) -> Any:
        """What comes back.

        Raises:
            UnansweredError: no connection, no answer in time, or an answer that may be another the next time.
            EngineLostError: it refuses; says why.
        """
        try:
            response = self.client.request(method, path, **options)
        except httpx.TransportError as error:
            raise UnansweredError(f"{self.url}{path}: {type(error).__name__} {error}") from None
        if response.status_code in MENDABLE:
            raise UnansweredError(f"{self.url}{path}: {_told(response)}")
        if not response.is_success:
            raise EngineLostError(f"rollout.engine: {self.url}{path} refuses ({_told(response)}){_remedy(path, response.status_code)}")
        return response.json() if response.content else {}


@dataclass(kw_only=True)
class ServerEngine:
    """vLLM servers."""

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
        check_dtype(self.policy)
        if len(self.servers) < self.ranks:
            raise UserError(f"rollout.engine.servers: got {len(self.servers)} for {self.ranks} processes, expected one for each at least")
        self.version = 0
        self.own = [self._server(url.rstrip("/")) for url in self.servers[self.rank :: self.ranks]]
        self._run = secrets.token_hex(4)
        for server in self.own:
            self._patiently(server, lambda server=server: self._check(server))

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[Sequence[int]]) -> list[list[Completion]]:
        """One list of completions per prompt, one completion per seed. All of them, or an error: never some."""
        asked = list(zip(prompts, seeds, strict=True))
        places = [list(range(index, len(asked), len(self.own))) for index in range(len(self.own))]
        with ThreadPoolExecutor(len(self.own)) as pool:
            shares = list(pool.map(lambda server, mine: self._share(server, [asked[place] for place in mine], sampling), self.own, places))
        answered = {place: group for mine, groups in zip(places, shares, strict=True) for place, group in zip(mine, groups, strict=True)}
        return [answered[place] for place in range(len(asked))]

    def refresh(self, policy: Policy, version: int) -> None:
        """Sample from these weights from now on; a server takes them before it is next asked."""
        self.policy, self.version = policy, version

    def rest(self) -> None:
        """Let the servers sleep, if that is wanted, until something is asked."""
        if self.sleep:
            for server in self.own:
                self._patiently(server, lambda server=server: server.post(f"/sleep?level={self.sleep}"))

    def close(self) -> None:
        """Hang up; the servers go on."""
        for server in self.own:
            server.client.close()

    def _server(self, url: str) -> Server:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UserError(f"rollout.engine.servers: got {url!r}, expected an address such as http://127.0.0.1:8000")
        if not self.remote and not _is_here(parts.hostname):
            raise UserError(
                f"rollout.engine.servers: {parts.hostname} is not this machine, and a vLLM that takes weights obeys whoever reaches it; "
                "keep it inside a network of your own and set rollout.engine.remote: true"
            )
        limits = httpx.Limits(max_connections=self.at_once + 4)
        timeout = httpx.Timeout(self.timeout, connect=10)
        return Server(url=url, client=httpx.Client(base_url=url, timeout=timeout, limits=limits, trust_env=False))

    def _check(self, server: Server) -> None:
        """Is it a vLLM of the right release, started as it must be?"""
        check_version(server.get("/version")["version"], server.url)
        server.get("/get_world_size")
        server.post("/resume")  # whoever was here before may have left in the middle of an update

    def _patiently(self, server: Server, attempt: Callable[[], Any]) -> Any:
        """What `attempt` gives, tried until the deadline; a server that is up and keeps failing gets fewer tries.

        Raises:
            EngineLostError: it did not succeed.
        """
        start, told, pause, failures = time.monotonic(), -TOLD_EVERY, FIRST_PAUSE, 0
        while True:
            try:
                return attempt()
            except UnansweredError as error:
                waited = time.monotonic() - start
                failures += self._is_up(server)
                if waited > self.deadline or failures == MOST_FAILURES:
                    raise EngineLostError(
                        f"no answer in {waited:.0f} s ({error}); start the server again, `gpg-vl serve` says how"
                    ) from None
                if waited - told > TOLD_EVERY:
                    told = waited
                    self.say(f"waiting for a server, {waited:.0f} of at most {self.deadline:.0f} s: {error}")
                time.sleep(min(pause, max(0.0, self.deadline - waited)) + 0.01)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _is_up(self, server: Server) -> bool:
        try:
            server.get("/health")
        except UnansweredError:
            return False
        return True

    def _share(self, server: Server, asked: list[Question], sampling: Sampling) -> list[list[Completion]]:
        """One server's share of the groups. What has been answered is kept when another request has to be repeated."""
        done: dict[int, list[Completion]] = {}

        def attempt() -> None:
            self._catch_up(server)
            missing = [place for place in range(len(asked)) if place not in done]
            with ThreadPoolExecutor(self.at_once) as pool:
                waiting = {place: pool.submit(self._group, server, *asked[place], sampling) for place in missing}
            self._still_the_same(server)
            done.update({place: future.result() for place, future in waiting.items() if not future.exception()})
            for future in waiting.values():
                future.result()

        if asked:
            self._patiently(server, attempt)
        return [done[place] for place in range(len(asked))]

    def _still_the_same(self, server: Server) -> None:
        """Before 0.32 answers do not say which weights gave them: a server that has the right ones now has had them all the time.

        Raises:
            UnansweredError: it has.
        """
        if (theirs := server.get("/weight_info")["weight_version"]) != self._version:
            raise UnansweredError(f"{server.url}: it has weights {theirs}, expected {self._version}: it was restarted")

    def _group(self, server: Server, prompt: Prompt, seeds: Sequence[int], sampling: Sampling) -> list[Completion]:
        """The completions of one prompt.

        Raises:
            UnansweredError: no answer, or one of other weights (the server has been restarted since it was asked for its version).
            MismatchError: what came back is not what was asked.
        """
        question: dict[str, Any] = {
            "token_ids": unexpanded_ids(self.policy, prompt),
            "sampling_params": sampling_fields(self.policy, sampling, seeds),
            "return_token_ids": True,
        }
        if prompt.images:
            question["content_parts"] = [{"type": "image_url", "url": data_url(image)} for image in prompt.images]
        answer = server.post("/inference/v1/generate", question)
        check_prompt_ids(self.policy, prompt, answer["prompt_token_ids"])
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        if versions := {span["version"] for choice in choices for span in choice.get("weight_versions", ())} - {self._version}:
            raise UnansweredError(f"{server.url}: sampled with weights {sorted(versions)}, expected {self._version}")
        if len(choices) != len(seeds):
            raise MismatchError(f"{prompt.sample.id}: asked for {len(seeds)} completions, got {len(choices)}")
        return [completion(self.policy, prompt, _answer(choice), sampling, self.version) for choice in choices]

    @property
    def _version(self) -> str:
        """What a server with the present weights calls them."""
        return f"gpg_vl/{self._run}/{self.version}"

    def _catch_up(self, server: Server) -> None:
        """Wake it up, and hand the weights over unless it has them."""
        asleep = bool(self.sleep) and server.get("/is_sleeping")["is_sleeping"]
        if asleep:
            server.post("/wake_up?tags=weights")
        theirs = server.get("/weight_info")["weight_version"]
        lost = asleep and self.sleep == 2
        if theirs != self._version or lost:
            server.proven = server.proven and theirs.startswith(f"gpg_vl/{self._run}/")
            self._hand_over(server, travelling(self.policy, frozen_too=lost))
        if asleep:
            server.post("/wake_up?tags=kv_cache")

    def _hand_over(self, server: Server, tensors: dict[str, torch.Tensor]) -> None:
        """Put the trainer's tensors in place of the server's, forget what was computed with the old ones, and name the version.

        The name comes last: a server that dies on the way, or a trainer, leaves one that has to be handed everything again.
        """
        server.post("/pause?mode=abort&clear_cache=false")
        if self.transfer == "nccl":
            self._send_by_nccl(server, tensors)
        else:
            self._send_by_file(server, tensors)
        self._forget(server)
        server.post("/update_weight_version", {"new_version": self._version})
        server.post("/resume")
        server.proven = True

    def _send_by_file(self, server: Server, tensors: dict[str, torch.Tensor]) -> None:
        wanted = {} if server.proven else digests(tensors)
        with weights_file(Path(self.handover), tensors) as path:
            server.post("/init_weight_transfer_engine", {"init_info": {}})
            server.post("/start_weight_update")
            server.take({"names": list(tensors), "path": str(path), "digests": wanted})
            server.post("/finish_weight_update", {})

    def _send_by_nccl(self, server: Server, tensors: dict[str, torch.Tensor]) -> None:
        if not server.proven or server.sender is None:
            server.sender = vllm_plugin.nccl_sender(server.url, server.get("/get_world_size")["world_size"], self.policy.device)
        vllm_plugin.send(server.sender, tensors)

    def _forget(self, server: Server) -> None:
        """Keys and values of prompts, and image embeddings: both caches are found by content and know nothing of weights."""
        server.post("/reset_prefix_cache")
        server.post("/reset_encoder_cache")


@contextmanager
def weights_file(folder: Path, tensors: dict[str, torch.Tensor]) -> Generator[Path, None, None]:
    """A safetensors file in a folder that no other user can read, gone afterwards.

    Raises:
        UserError: the folder is somebody else's.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"rollout.engine.handover: {folder} belongs to another user; name a folder of your own")
    path = folder / f"{secrets.token_hex(8)}.safetensors"
    try:
        save_file({name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}, path)
        yield path
    finally:
        path.unlink(missing_ok=True)


def data_url(image: Image) -> str:
    """A picture without loss, as a server takes it."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(encoded.getvalue()).decode()}"


def _answer(choice: dict[str, Any]) -> Answer:
    logprobs = tuple(token["logprob"] for token in choice["logprobs"]["content"])
    return Answer(token_ids=tuple(choice["token_ids"]), logprobs=logprobs, finish=choice["finish_reason"])


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
