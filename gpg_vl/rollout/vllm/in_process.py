"""Run vLLM in this process: on one machine, sampling and training take turns on one GPU.

The engine starts at the first `generate`, from a checkpoint of the policy that vLLM's own loader
reads. After an update it receives the trainable weights before the next `generate`. In between it
can sleep, so that the update has the memory.
"""

import importlib
import importlib.util
import os
import random
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError

from gpg_vl.errors import EngineLostError, MismatchError, UserError
from gpg_vl.policy.load import Policy
from gpg_vl.rollout.engine import RolloutEngine, Sampling, ensure_fits
from gpg_vl.rollout.vllm import plugin
from gpg_vl.rollout.vllm.protocol import (
    MAX_IMAGES,
    Answer,
    check_policy,
    check_prompt_ids,
    check_version,
    completions,
    sampling_fields,
    shared_options,
    unexpanded_ids,
    whole_prompts,
)
from gpg_vl.rollout.vllm.weights import Weights, checksums, trainable_weights
from gpg_vl.types import Completion, Prompt

REQUIRED_ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""Keeps vLLM in this process: tensors are passed by reference, which no pipe can do."""
DEFAULT_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # no usage statistics are sent
    # Errors come as exceptions; below this level vLLM prints whole batches.
    "VLLM_LOGGING_LEVEL": "CRITICAL",
}
"""Set unless the user has set them."""


@dataclass(kw_only=True)
class VllmEngine(RolloutEngine):
    """Samples with vLLM in this process."""

    narrow = True
    needs_verification = True

    policy: Any
    """Set by the run."""
    ranks: int = 1
    """Set by the run."""
    window: int = 8192
    """Maximum tokens of prompt and completion together; the model's own window if shorter."""
    images: int = MAX_IMAGES
    """Maximum number of images of one prompt."""
    memory: float = 0.4
    """Share of the GPU's memory that vLLM may fill; unused on a CPU."""
    cache_gib: float | None = None
    """Memory for keys and values in GiB; empty = what `memory` leaves on a GPU, 1 on a CPU."""
    rows: int = 256
    """Maximum number of completions sampled at the same time."""
    sleep: Literal[0, 1, 2] = 0
    """Memory during the update: 0 keep everything | 1 weights moved to the CPU, cache freed | 2
    weights dropped and sent again."""
    options: dict[str, Any] = field(default_factory=dict)
    """More arguments of `vllm.LLM`, for instance {enforce_eager: true}."""

    def __post_init__(self) -> None:
        if self.ranks > 1:
            raise UserError(
                f"rollout.engine: vllm samples for one process, got {self.ranks}; use kind: server,"
                " with a server for each"
            )
        self._dtype = check_policy(self.policy)
        self._vllm = import_vllm()
        self._llm: Any = None
        self.version = 0
        self._held: tuple[Policy, int] | None = None
        """Policy and version whose weights vLLM holds; None = none, or an unknown mixture."""
        self._asleep = False
        self._folder = TemporaryDirectory(prefix="gpg_vl_engine_")

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[Completion]]:
        """Sample one completion per seed for each prompt; return one list per prompt."""
        for prompt in prompts:
            self._check(prompt, sampling)
        self._prepare()
        requests = [self._request(prompt) for prompt in prompts]
        parameters: list[Any] = []
        for group in seeds:
            fields = sampling_fields(self.policy, sampling, group)
            parameters.append(self._vllm.SamplingParams(**fields))
        outputs = self._llm.generate(requests, parameters, use_tqdm=False)
        return [
            self._completions(prompt, output, len(group), sampling)
            for prompt, output, group in zip(prompts, outputs, seeds, strict=True)
        ]

    def update_weights(self, policy: Policy, version: int) -> None:
        """Sample from these weights from now on; they are sent before the next `generate`."""
        self.policy, self.version = policy, version

    def max_model_len(self) -> int:
        """Return the maximum number of tokens of prompt and completion together."""
        return min(self.window, self.policy.window)

    def max_images(self) -> int:
        """Return the maximum number of images of a prompt."""
        return self.images

    def release_memory(self) -> None:
        """Sleep until the next `generate`, if `sleep` is set."""
        if self.sleep and self._llm and not self._asleep:
            self._llm.sleep(level=self.sleep)
            self._asleep = True

    def close(self) -> None:
        """Stop vLLM and remove its folder."""
        if self._llm:
            self._llm.llm_engine.engine_core.shutdown()
        self._folder.cleanup()

    def _start(self) -> None:
        """Start vLLM from a checkpoint of the present policy.

        Raises:
            EngineLostError: the checkpoint cannot be written.
        """
        folder = Path(self._folder.name)
        try:
            self.policy.save_whole(folder)
        except (OSError, SafetensorError) as error:
            raise EngineLostError(
                f"rollout.engine: no checkpoint for vLLM in {folder}: {error}; name a larger folder"
                " in TMPDIR"
            ) from None
        plugin.register()
        with keep_global_state():
            self._llm = self._load(folder)
        # Only the weights are deleted: vLLM may read configuration and processor again.
        for weights in folder.glob("*.safetensors"):
            weights.unlink()
        self._verify_weight_sync()
        self._held = (self.policy, self.version)

    def _load(self, folder: Path) -> Any:
        """Return a vLLM that has loaded a checkpoint.

        Raises:
            UserError: it does not start.
        """
        device, window = self.policy.device.type, self.max_model_len()
        cache_gib = self.cache_gib
        if not cache_gib and device == "cpu":
            cache_gib = 1.0
        options: dict[str, Any] = {
            "dtype": self._dtype,
            "max_model_len": window,
            "max_num_seqs": self.rows,
            **shared_options(self.images),
            "weight_transfer_config": {"backend": plugin.BACKEND},
            "enable_sleep_mode": bool(self.sleep) and device == "cuda",
            "disable_log_stats": True,
        }
        if device == "cpu":
            options |= {"enforce_eager": True, **whole_prompts(window)}
        else:
            options["gpu_memory_utilization"] = self.memory
        if cache_gib:
            options["kv_cache_memory_bytes"] = int(cache_gib * 2**30)
        try:
            return self._vllm.LLM(model=str(folder), **{**options, **self.options})
        except (ValueError, AssertionError, RuntimeError, TypeError) as error:
            raise UserError(f"rollout.engine: vLLM does not start: {error!r}") from error

    def _request(self, prompt: Prompt) -> dict[str, Any]:
        request: dict[str, Any] = {"prompt_token_ids": unexpanded_ids(self.policy, prompt)}
        if prompt.images:
            request["multi_modal_data"] = {"image": list(prompt.images)}
        return request

    def _completions(
        self, prompt: Prompt, output: Any, count: int, sampling: Sampling
    ) -> list[Completion]:
        check_prompt_ids(self.policy, prompt, output.prompt_token_ids)
        choices = sorted(output.outputs, key=lambda choice: choice.index)
        answers = list(map(_answer, choices))
        return completions(self.policy, prompt, answers, count, sampling, self.version)

    def _check(self, prompt: Prompt, sampling: Sampling) -> None:
        """Check that a prompt and its completions fit; the run leaves others out before.

        Raises:
            UserError: they do not.
        """
        ensure_fits(prompt, self, sampling.max_tokens)

    def _prepare(self) -> None:
        """Start or wake vLLM, and send the weights unless it holds them."""
        if not self._llm:
            self._start()
        if self._asleep:
            _empty_torch_cache()
            self._llm.wake_up(tags=["weights"])
            if self.sleep == 2:
                self._held = None  # this level drops the weights
        present = (self.policy, self.version)
        if self._held != present:
            # Another policy may have other frozen weights too.
            include_frozen = self._held is None or self._held[0] is not self.policy
            self._held = None  # a sync that fails leaves old and new weights
            self._sync_weights(include_frozen=include_frozen)
            self._held = present
        if self._asleep:
            _empty_torch_cache()  # the weight sync has made copies
            self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False

    def _sync_weights(self, *, include_frozen: bool) -> None:
        """Replace vLLM's weights by the trainer's."""
        send_weights(self._llm, trainable_weights(self.policy, include_frozen=include_frozen))
        self._reset_caches()

    def _verify_weight_sync(self) -> None:
        """Send all weights once, and compare the result with what vLLM's own loader made of them.

        Weights that vLLM has packed into another library's memory (its CPU backend) are not in the
        checksums; the gate checks those.

        Raises:
            MismatchError: they are not equal, bit for bit.
        """
        loaded = self._llm.collective_rpc(_worker_checksums)
        send_weights(self._llm, trainable_weights(self.policy, include_frozen=True))
        received = self._llm.collective_rpc(_worker_checksums)
        differing: list[str] = []
        for before, after in zip(loaded, received, strict=True):
            differing += [name for name in before if before[name] != after[name]]
        if differing:
            raise MismatchError(
                f"weight sync: {len(differing)} tensors are not what loading makes of them, "
                f"{differing[0]} among them"
            )

    def _reset_caches(self) -> None:
        """Empty the caches of keys and values and of image embeddings.

        Both are looked up by content, so entries of the old weights would be used again.
        """
        if not self._llm.reset_prefix_cache():
            raise EngineLostError("vLLM did not empty its prefix cache")
        self._llm.llm_engine.reset_encoder_cache()


def _empty_torch_cache() -> None:
    """Return the memory that torch has cached; vLLM has its own allocator and needs it free."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def send_weights(llm: Any, weights: Weights) -> None:
    """Send weights to a vLLM in this process."""
    llm.collective_rpc("start_weight_update")
    llm.collective_rpc("update_weights", args=({"names": list(weights), "tensors": weights},))
    llm.collective_rpc("finish_weight_update")


def _worker_checksums(worker: Any) -> dict[str, str]:
    """Return checksums of the weights of a vLLM worker."""
    return checksums(dict(worker.model_runner.get_model().named_parameters()))


def _answer(choice: Any) -> Answer:
    ids = tuple(choice.token_ids)
    logprobs: list[float] = []
    # Missing log-probabilities are reported by `protocol.completion`.
    for position, token in zip(choice.logprobs or (), ids, strict=False):
        logprobs.append(position[token].logprob)
    return Answer(token_ids=ids, logprobs=tuple(logprobs), finish=choice.finish_reason)


def import_vllm() -> Any:
    """Import the vllm package and check its release.

    Raises:
        UserError: it is not installed, or not supported; says what to install.
    """
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "rollout.engine: vllm is not installed; pip install 'gpg-vl[vllm]', or use engine: "
            "transformers"
        )
    os.environ.update(REQUIRED_ENVIRONMENT)
    for name, value in DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    vllm: Any = importlib.import_module("vllm")
    check_version(vllm.__version__, "the installed one")
    return vllm


@contextmanager
def keep_global_state() -> Generator[None, None, None]:
    """Restore the global random generators and torch's threads after the `with` block.

    vLLM seeds every global generator when it starts, and replaces `torch.set_num_threads`.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    torch_state = torch.get_rng_state()
    gpu_states: list[torch.Tensor] = []
    if torch.cuda.is_available():
        gpu_states = torch.cuda.get_rng_state_all()
    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads
        torch.set_num_threads(threads)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        torch.cuda.set_rng_state_all(gpu_states)
