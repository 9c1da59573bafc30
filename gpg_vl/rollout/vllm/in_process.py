"""vLLM in this process: one machine, one GPU that sampling and training share in turns.

The engine starts when it is first asked, from the policy as it then is, loaded by vLLM's own loader, and takes the tensors that training
changes before it is next asked something. Between the phases it can sleep, so that the update has the memory.
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
from gpg_vl.rollout.engine import RolloutEngine, Sampling
from gpg_vl.rollout.vllm import plugin
from gpg_vl.rollout.vllm.protocol import (
    Answer,
    check_policy,
    check_prompt_ids,
    check_version,
    completion,
    sampling_fields,
    unexpanded_ids,
    whole_prompts,
)
from gpg_vl.rollout.vllm.weights import Weights, checksums, trainable_weights
from gpg_vl.types import Completion, Prompt

NEEDED = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""In this very process: tensors are handed over, and do not survive a pipe."""
USUAL = {
    "VLLM_NO_USAGE_STATS": "1",  # nothing is told to anybody
    "VLLM_LOGGING_LEVEL": "CRITICAL",  # what matters comes as an exception; below that it prints whole batches
}


@dataclass(kw_only=True)
class VllmEngine(RolloutEngine):
    """vLLM in this process."""

    narrow = True

    policy: Any
    """Given by the run."""
    ranks: int = 1
    """Given by the run."""
    window: int = 8192
    """Longest prompt and completion together; the model's own window where that is shorter."""
    images: int = 8
    """Most images of one prompt."""
    memory: float = 0.4
    """Share of the GPU's memory that vLLM may fill; unused on a CPU."""
    cache_gib: float | None = None
    """Memory for keys and values in GiB; empty = what `memory` leaves on a GPU, 1 on a CPU."""
    rows: int = 256
    """Most completions written at the same time."""
    sleep: Literal[0, 1, 2] = 0
    """During the update: 0 keep everything | 1 weights to the CPU's memory, cache freed | 2 weights dropped and handed over again."""
    options: dict[str, Any] = field(default_factory=dict)
    """More arguments of `vllm.LLM`, for instance {enforce_eager: true}."""

    def __post_init__(self) -> None:
        if self.ranks > 1:
            raise UserError(f"rollout.engine: vllm samples for one process, got {self.ranks}; use kind: server, with a server for each")
        self._number_format = check_policy(self.policy)
        self._vllm = import_vllm()
        self._llm: Any = None
        self.renewed = True
        self.version = 0
        self._stale = self._asleep = self._another = False
        self._folder = TemporaryDirectory(prefix="gpg_vl_engine_")

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[Sequence[int]]) -> list[list[Completion]]:
        """One list of completions per prompt, one completion per seed."""
        for prompt in prompts:
            self._check(prompt, sampling)
        self._catch_up()
        questions = [self._question(prompt) for prompt in prompts]
        parameters = [self._vllm.SamplingParams(**sampling_fields(self.policy, sampling, group)) for group in seeds]
        outputs = self._llm.generate(questions, parameters, use_tqdm=False)
        return [self._completions(prompt, output, sampling) for prompt, output in zip(prompts, outputs, strict=True)]

    def refresh(self, policy: Policy, version: int) -> None:
        """Sample from these weights from now on; they are handed over when something is next asked."""
        self._another = self._another or policy is not self.policy
        self._stale = self._stale or version != self.version or self._another
        self.policy, self.version = policy, version

    def longest(self) -> int:
        """Most tokens of prompt and completion together."""
        return min(self.window, self.policy.window)

    def rest(self) -> None:
        """Sleep, if that is wanted, until something is asked."""
        if self.sleep and self._llm and not self._asleep:
            self._llm.sleep(level=self.sleep)
            self._asleep = True

    def close(self) -> None:
        """Stop vLLM and remove its folder."""
        if self._llm:
            self._llm.llm_engine.engine_core.shutdown()
        self._folder.cleanup()

    def _start_up(self) -> None:
        """Start from the policy as it is."""
        folder = Path(self._folder.name)
        try:
            self.policy.save(folder)
        except (OSError, SafetensorError) as error:
            raise EngineLostError(f"rollout.engine: no checkpoint for vLLM in {folder}: {error}; name a larger folder in TMPDIR") from None
        plugin.register()
        with global_state_kept():
            self._llm = self._start(folder)
        for weights in folder.glob("*.safetensors"):
            weights.unlink()  # read; configuration and processor may still be looked at
        self._prove_landing()
        self._stale = self._another = False

    def _start(self, folder: Path) -> Any:
        """A vLLM of a checkpoint.

        Raises:
            UserError: it does not start.
        """
        device, window = self.policy.device.type, self.longest()
        cache_gib = self.cache_gib or (1.0 if device == "cpu" else None)
        options: dict[str, Any] = {
            "dtype": self._number_format,
            "max_model_len": window,
            "max_num_seqs": self.rows,
            "limit_mm_per_prompt": {"image": self.images, "video": 0},
            "logprobs_mode": "processed_logprobs",
            "generation_config": "vllm",
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

    def _question(self, prompt: Prompt) -> dict[str, Any]:
        question: dict[str, Any] = {"prompt_token_ids": unexpanded_ids(self.policy, prompt)}
        return {**question, "multi_modal_data": {"image": list(prompt.images)}} if prompt.images else question

    def _completions(self, prompt: Prompt, output: Any, sampling: Sampling) -> list[Completion]:
        check_prompt_ids(self.policy, prompt, output.prompt_token_ids)
        said = sorted(output.outputs, key=lambda one: one.index)
        return [completion(self.policy, prompt, _answer(one), sampling, self.version) for one in said]

    def _check(self, prompt: Prompt, sampling: Sampling) -> None:
        """Make sure that a prompt and its answers have room.

        Raises:
            UserError: they have not.
        """
        if (tokens := len(prompt.input_ids) + sampling.max_tokens) > self.longest():
            told = f"prompt and answer may have {tokens} tokens, rollout.engine.window is {self.longest()}"
            raise UserError(f"{prompt.sample.id}: {told}; raise it, or lower policy.max_pixels")
        if len(prompt.images) > self.images:
            raise UserError(f"{prompt.sample.id}: it has {len(prompt.images)} images, rollout.engine.images is {self.images}; raise it")

    def _catch_up(self) -> None:
        """Start or wake up, and take the weights if they have changed."""
        if not self._llm:
            self._start_up()
        if self._asleep:
            _give_back()
            self._llm.wake_up(tags=["weights"])
        lost = self._asleep and self.sleep == 2
        if self._stale or lost:
            self._hand_over(frozen_too=lost or self._another)
        if self._asleep:
            _give_back()  # the hand-over has made copies
            self._llm.wake_up(tags=["kv_cache"])
        self._stale = self._asleep = self._another = False

    def _hand_over(self, *, frozen_too: bool) -> None:
        """Put the trainer's tensors in place of vLLM's."""
        land(self._llm, trainable_weights(self.policy, frozen_too=frozen_too))
        self._forget()

    def _prove_landing(self) -> None:
        """Hand everything over once: what lands must be, bit for bit, what vLLM's own loader made of the same weights.

        Weights that vLLM has packed into another library's memory (its CPU backend) are not in the checksums; the gate looks at those.
        """
        before = self._llm.collective_rpc(_held)
        land(self._llm, trainable_weights(self.policy, frozen_too=True))
        after = self._llm.collective_rpc(_held)
        if differing := [name for then, now in zip(before, after, strict=True) for name in then if then[name] != now[name]]:
            raise MismatchError(f"weight hand-over: {len(differing)} tensors are not what loading makes of them, {differing[0]} among them")

    def _forget(self) -> None:
        """Keys and values of prompts, and image embeddings: both caches are found by content and know nothing of weights."""
        if not self._llm.reset_prefix_cache():
            raise EngineLostError("vLLM did not empty its prefix cache")
        self._llm.llm_engine.reset_encoder_cache()


def _give_back() -> None:
    """What the update has used and freed, torch still holds; vLLM, with an allocator of its own, would find the GPU full."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def land(llm: Any, weights: Weights) -> None:
    """Let a vLLM take weights."""
    llm.collective_rpc("start_weight_update")
    llm.collective_rpc("update_weights", args=({"names": list(weights), "tensors": weights},))
    llm.collective_rpc("finish_weight_update")


def _held(worker: Any) -> dict[str, str]:
    """Checksums of the weights as vLLM holds them."""
    return checksums(dict(worker.model_runner.get_model().named_parameters()))


def _answer(said: Any) -> Answer:
    ids = tuple(said.token_ids)
    logprobs = tuple(place[token].logprob for place, token in zip(said.logprobs or (), ids, strict=False))
    return Answer(token_ids=ids, logprobs=logprobs, finish=said.finish_reason)


def import_vllm() -> Any:
    """The vllm package, of a release whose calls are known.

    Raises:
        UserError: it is not installed, or is another release; says what to install.
    """
    if importlib.util.find_spec("vllm") is None:
        raise UserError("rollout.engine: vllm is not installed; pip install 'gpg-vl[vllm]', or use engine: transformers")
    os.environ.update(NEEDED)
    for name, value in USUAL.items():
        os.environ.setdefault(name, value)
    vllm: Any = importlib.import_module("vllm")
    check_version(vllm.__version__, "the installed one")
    return vllm


@contextmanager
def global_state_kept() -> Generator[None, None, None]:
    """vLLM seeds every global generator and takes the thread knob away when it starts; give both back."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads
        torch.set_num_threads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        torch.cuda.set_rng_state_all(on_gpus)
