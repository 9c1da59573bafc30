"""Predict the memory of one GPU, item by item, from a config and the size of a model.

This is arithmetic; no model is loaded. Every process holds the whole model, so more GPUs do not
make a model smaller. The formulas for weights and optimizer were compared with running processes;
`tests/preflight/test_memory.py` repeats it.
"""

import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any

from gpg_vl.config.schema import Config, LearnerConfig, PolicyConfig
from gpg_vl.policy.adapter_files import AdapterFiles
from gpg_vl.policy.sizes import Size
from gpg_vl.preflight.activations import Kept, saved_bytes
from gpg_vl.preflight.storage import Storage

GB = 1e9
"""Bytes of a gigabyte, as vendors print memory."""
MAX_TOKENS_AT_ONCE = 1 << 16
"""Largest token budget that `auto` takes: a larger one does not make a kernel faster."""
TOKEN_STEP = 256
"""Step of the token budgets that `auto` tries."""
TEXT_TOKENS = 256
"""Text tokens of a usual prompt."""
USUAL_PIXELS = 1280 * 28 * 28
"""Pixels of a usual image if policy.max_pixels is not set: the limit that Qwen recommends."""
TINY_IMAGE_TOKENS, TINY_TEXT_TOKENS = 64, 64
"""Image tokens and text tokens of a prompt of the digits recipe, which the tiny model reads."""
PROMPTS_AT_ONCE = 32
"""Groups that the transformers engine samples at once if its knob `prompts_at_once` is not set."""
VLLM_MEMORY = 0.4
"""Share of the GPU that vLLM takes in this process if its knob `memory` is not set."""
GPU_SIZES_GB = (24.0, 32.0, 40.0, 48.0, 80.0, 96.0, 141.0, 192.0, 288.0)
"""Memory of the GPUs on the market, in GB."""
DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Device files of GPU drivers: NVIDIA, AMD, and Windows (WSL). Without any of them there is no
GPU."""
MAX_LOGITS_AT_ONCE = 1 << 24
"""Number of logits that the chunked head computes at a time in the update."""
CUDA_CONTEXT_BYTES = 2e9
"""Bytes kept free on a GPU for CUDA's context and for the buffers of NCCL and cuBLAS."""
FRAGMENTS_SHARE = 0.05
"""Share of a GPU's memory kept free for the fragments between allocations."""
ACTIVATIONS = "activations"
"""Name of the item for tensors that the layers save for the backward pass."""
SLEEPING_VLLM_BYTES = 1e9
"""Bytes that vLLM still holds while it sleeps."""
STOCHASTIC_TENSORS = 3
"""Tensors in float32 beside one of bfloat16 while it is updated and rounded: its values, its
gradient, and the numbers that say where it is rounded to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The hardware of a run."""

    gb: float | None
    """Memory of one GPU in GB; None = no GPU, so nothing is judged."""
    processes: int = 1
    """Number of processes that share the groups of a step."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The two knobs of the learner that determine its memory, with `auto` resolved."""

    tokens: int
    """Largest number of tokens in one forward pass."""
    checkpointing: bool
    """Gradient checkpointing."""


ON_CPU = Limits(16384, False)
"""Limits that `auto` takes if nothing is known about the hardware."""


@dataclass(frozen=True, slots=True)
class Item:
    """Bytes of one thing in the three phases of a training step."""

    name: str
    rollout: float = 0.0
    update: float = 0.0
    """Bytes during forward and backward passes."""
    step: float = 0.0
    """Bytes while the optimizer changes the weights."""


@dataclass(frozen=True, kw_only=True)  # without slots, which cached properties cannot have
class Workload:
    """Everything that the memory of a run depends on."""

    config: Config
    size: Size
    machine: Machine
    kl: float = 0.0
    """Weight of the divergence from a reference; 0 = there is none."""
    adapter: AdapterFiles | None = None
    """Adapter that the run begins with; None = there is none, or it is not on this machine."""

    @cached_property
    def storage(self) -> Storage:
        """Storage and training of the parameters; an adapter that is trained on keeps its size."""
        policy = self.config.policy
        if self.adapter is None or not policy.trains_adapters:
            return Storage(policy=policy, size=self.size)
        names = {name.rpartition(".")[2] for name in self.adapter.adapted}
        lora = {"rank": self.adapter.rank, "targets": tuple(sorted(names))}
        policy = policy.model_copy(update={"lora": policy.lora.model_copy(update=lora)})
        return Storage(policy=policy, size=self.size, files=self.adapter)

    @property
    def trained(self) -> int:
        """Number of parameters that are trained."""
        return self.storage.trained

    @property
    def groups(self) -> int:
        """Number of groups of a step on one process."""
        return max(1, self.config.rollout.groups_per_step // self.machine.processes)

    @property
    def picture(self) -> int:
        """Visual tokens of a usual image: as large as policy.max_pixels allows."""
        policy, size = self.config.policy, self.size
        if policy.model == "tiny":
            return TINY_IMAGE_TOKENS
        pixels = min(policy.max_pixels or USUAL_PIXELS, 1 << 24)
        return ceil(pixels / (size.patch**2 * size.patches))

    @property
    def prompt(self) -> int:
        """Tokens of a usual prompt: one image and some text."""
        is_tiny = self.config.policy.model == "tiny"
        return self.picture + (TINY_TEXT_TOKENS if is_tiny else TEXT_TOKENS)

    @property
    def group(self) -> int:
        """Tokens of a usual group whose completions all have the maximum length."""
        return self.prompt + self.config.rollout.group_size * self.config.rollout.max_tokens

    @property
    def engine(self) -> tuple[str, dict[str, Any]]:
        """Kind of the rollout engine, and its knobs."""
        part = self.config.rollout.engine
        options = {"kind": part} if isinstance(part, str) else part
        return str(options.get("kind")), options


def machine_of(config: Config) -> Machine:
    """Return the hardware that a config names; without a name, the GPU of this process."""
    return Machine(gb=config.hardware.gb or gpu_here(), processes=config.hardware.gpus)


def gpu_here() -> float | None:
    """Return the GB of this process's GPU; None = there is none."""
    # The device files are checked first because importing torch takes seconds.
    if not any(map(os.path.exists, DRIVERS)):
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / GB


def settle(workload: Workload) -> Limits:
    """Resolve `auto`: the most tokens that fit; checkpointing only if a whole group needs it.

    If nothing fits, the limits are the smallest that can run at all; `problems` reports it.
    """
    learner = workload.config.learner
    if workload.machine.gb is None:
        return default_limits(learner)
    choices = [False, True]
    if learner.checkpointing != "auto":
        choices = [learner.checkpointing]
    budget = 0
    for checkpointing in choices:
        if learner.tokens_per_microbatch == "auto":
            budget = _largest_budget(workload, checkpointing)
            is_enough = budget >= workload.group
        else:
            budget = learner.tokens_per_microbatch
            is_enough = _update_fits(workload, Limits(budget, checkpointing))
        if is_enough:
            return Limits(budget, checkpointing)
    if learner.tokens_per_microbatch == "auto":
        one_completion = workload.prompt + workload.config.rollout.max_tokens
        budget = max(budget, one_completion)
    return Limits(budget, choices[-1])


def default_limits(learner: LearnerConfig) -> Limits:
    """Resolve `auto` if nothing is known about the hardware."""
    tokens, checkpointing = learner.tokens_per_microbatch, learner.checkpointing
    if tokens == "auto":
        tokens = ON_CPU.tokens
    if checkpointing == "auto":
        checkpointing = ON_CPU.checkpointing
    return Limits(tokens, checkpointing)


def _largest_budget(workload: Workload, checkpointing: bool) -> int:
    """Return the largest token budget with which the update fits; 0 = none does."""
    # A group that fits is never split, even if it is longer than the usual maximum.
    whole_group = ceil(workload.group / TOKEN_STEP) * TOKEN_STEP
    most = max(MAX_TOKENS_AT_ONCE, whole_group)
    whole = range(whole_group, most + 1, TOKEN_STEP)
    split = range(TOKEN_STEP, whole_group, TOKEN_STEP)
    # A split group needs more than the same tokens of whole ones, so each range is searched alone.
    for budgets in (whole, split):
        fitting = bisect_left(
            budgets,
            True,
            key=lambda tokens: not _update_fits(workload, Limits(tokens, checkpointing)),
        )
        if fitting:
            return budgets[fitting - 1]
    return 0


def _update_fits(workload: Workload, limits: Limits) -> bool:
    assert workload.machine.gb is not None
    needed_bytes = total(items(workload, limits)).update
    return needed_bytes <= workload.machine.gb * GB


def items(workload: Workload, limits: Limits) -> list[Item]:
    """List everything that one GPU holds, in bytes; without a GPU, what the process holds.

    Items of no bytes are left out.
    """
    candidates = [
        *_persistent_items(workload, limits),
        *_update_items(workload, limits),
        *_engine_items(workload),
    ]
    if workload.machine.gb is not None:
        kept_free = CUDA_CONTEXT_BYTES + FRAGMENTS_SHARE * workload.machine.gb * GB
        candidates.append(_in_every_phase("CUDA context, fragments", kept_free))
    return [item for item in candidates if max(item.rollout, item.update, item.step) > 0]


def _persistent_items(workload: Workload, limits: Limits) -> Iterator[Item]:
    """Yield what stays from step to step, and its copies; frozen weights have no gradients."""
    storage, policy = workload.storage, workload.config.policy
    gradients = storage.gradient_bytes
    yield _in_every_phase(
        f"weights, trained ({storage.trained_type})", storage.trained_width * storage.full
    )
    yield _in_every_phase(f"adapters ({storage.wide_type})", storage.wide * storage.adapters)
    yield _in_every_phase(f"weights, frozen ({policy.dtype})", storage.narrow * storage.frozen)
    yield _in_every_phase("weights, frozen (NF4)", storage.quantised_bytes)
    yield _in_every_phase("gradients", gradients)
    yield from _optimizer_items(workload)
    # Without adapters that began at zero, the model is its start.
    begins_at_zero = not workload.config.warmup.steps and workload.adapter is None
    if workload.kl > 0 and not (policy.trains_adapters and begins_at_zero):
        # They are as many, and as wide, as their gradients.
        yield _in_every_phase("starting weights (estimator.kl)", gradients)
    if policy.dtype == "bfloat16":
        cast = storage.adapters
        if policy.weights == "float32":
            cast += storage.full
        yield Item("bfloat16 copies (autocast)", 2 * cast, 2 * cast)
    largest = max((matrix.numbers for matrix in storage.in_4_bits), default=0)
    yield Item("one matrix, dequantised", *[storage.narrow * largest] * 2)
    if limits.tokens < workload.group and workload.config.learner.shared_prefix:
        yield Item("gradients of a split group", update=gradients)


def _optimizer_items(workload: Workload) -> Iterator[Item]:
    """Yield the moments, and what a step needs beside them."""
    storage, kind = workload.storage, workload.config.optimizer.kind
    bits = " (8 bit)" if kind == "adamw8bit" else ""
    yield _in_every_phase(f"AdamW's two moments{bits}", storage.moment_bytes(kind))
    exact = storage.adapters
    if storage.trained_width == storage.wide:
        exact = storage.trained
    else:
        largest = STOCHASTIC_TENSORS * 4 * storage.largest_trained
        yield Item("float32 copies of one tensor", step=largest)
    if workload.machine.gb is None and kind == "adamw":
        # On a GPU, AdamW is one fused kernel without temporaries.
        yield Item("AdamW's temporaries", step=storage.wide * exact)


def _in_every_phase(name: str, count: float) -> Item:
    return Item(name, count, count, count)


def _update_items(workload: Workload, limits: Limits) -> Iterator[Item]:
    """Yield what the forward and backward passes of the update hold."""
    storage, size = workload.storage, workload.size
    if workload.config.policy.language == "full":
        # Chunks are summed in the wide type; each is computed, and the sum then held, in another.
        head_bytes = (storage.wide + storage.narrow) * size.head
        yield Item("gradient of the head", update=head_bytes)
    tokens = min(limits.tokens, workload.groups * workload.group)
    logits = min(MAX_LOGITS_AT_ONCE, tokens * size.vocabulary)
    yield Item(
        "logits",
        rollout=_rollout_logits_bytes(workload),
        update=(2 * storage.wide + 2 * storage.narrow) * logits,
    )
    yield Item(ACTIVATIONS, update=activations(workload, tokens, limits.checkpointing))


def groups_sampled_at_once(workload: Workload) -> int:
    """Return how many groups the transformers engine samples at once."""
    _, options = workload.engine
    return min(options.get("prompts_at_once", PROMPTS_AT_ONCE), workload.groups)


def _rollout_logits_bytes(workload: Workload) -> float:
    """Return the bytes for the next token of all rows that are sampled at once.

    Each entry of the vocabulary needs 3 numbers in the weights' precision, for logits and
    log-probabilities, and 3 in float64, for the cumulative distribution.
    """
    kind, _ = workload.engine
    if kind != "transformers":
        return 0.0
    rows = groups_sampled_at_once(workload) * workload.config.rollout.group_size
    return (3 * workload.storage.wide + 24) * rows * workload.size.vocabulary


def activations(workload: Workload, tokens: int, checkpointing: bool) -> float:
    """Return the bytes that the layers save for the backward pass of so many tokens.

    The vision tower is counted only if it is trained, with one image per group.
    """
    size, storage = workload.size, workload.storage
    language = Kept.of(size.language, storage)
    language_bytes = saved_bytes(size.language, language, tokens, checkpointing)
    if workload.config.policy.vision == "frozen":
        return language_bytes
    images = max(1, tokens // workload.group)
    patches = images * workload.picture * size.patches
    tower = Kept.of(size.tower, storage)
    return language_bytes + saved_bytes(size.tower, tower, patches, checkpointing)


def _engine_items(workload: Workload) -> Iterator[Item]:
    """Yield what the rollout engine holds on this GPU."""
    kind, options = workload.engine
    if kind == "transformers":
        groups = groups_sampled_at_once(workload)
        cache = groups * workload.group * token_bytes(workload)
        yield Item("keys and values (rollout)", rollout=cache)
        if _merges(options.get("merge", "auto"), workload.config.policy):
            adapted = sum(matrix.numbers for matrix in workload.storage.all_adapted)
            merged = workload.storage.narrow * adapted
            yield Item("merged matrices (rollout)", rollout=merged)
    if kind == "vllm" and workload.machine.gb is not None:
        awake = max(_vllm_share(workload), vllm_needs(workload))
        if options.get("cache_gib"):
            awake = vllm_weights(workload) + options["cache_gib"] * 2**30
        if options.get("sleep", 0):
            asleep = SLEEPING_VLLM_BYTES
            yield Item("vLLM, asleep in the update", awake, asleep, asleep)
        else:
            yield _in_every_phase("vLLM", awake)


def vllm_weights(workload: Workload) -> float:
    """Return the bytes of vLLM's own copy of the model: whole, in the type of the forward."""
    return workload.storage.narrow * workload.size.total


def vllm_needs(workload: Workload) -> float:
    """Return the bytes that vLLM needs at least: its weights, and the tokens of one group."""
    return vllm_weights(workload) + workload.group * token_bytes(workload)


def vllm_lacks(workload: Workload) -> bool:
    """Return True if a vLLM in this process is not given what it needs."""
    kind, options = workload.engine
    if kind != "vllm" or options.get("cache_gib") or workload.machine.gb is None:
        return False
    return _vllm_share(workload) < vllm_needs(workload)


def _vllm_share(workload: Workload) -> float:
    """Return the bytes that a vLLM in this process may fill."""
    _, options = workload.engine
    assert workload.machine.gb is not None
    return options.get("memory", VLLM_MEMORY) * workload.machine.gb * GB


def _merges(merge: str | bool, policy: PolicyConfig) -> bool:
    """Return True if the transformers engine merges adapters for sampling."""
    if merge == "auto":
        return policy.dtype != "bfloat16" and policy.quantise == "none"
    return bool(merge)


def token_bytes(workload: Workload) -> float:
    """Return the bytes of one token's keys and values in all layers."""
    language, storage = workload.size.language, workload.storage
    # Rotated keys have the type of the residual stream, values that of the matrix products.
    key_and_value = Kept.of(language, storage).residual + storage.narrow
    return language.layers * language.keys * key_and_value


def total(all_items: Sequence[Item]) -> Item:
    """Return the sum of the items in each phase."""
    return Item(
        "sum",
        sum(item.rollout for item in all_items),
        sum(item.update for item in all_items),
        sum(item.step for item in all_items),
    )


def peak(all_items: Sequence[Item]) -> float:
    """Return the bytes of the phase that needs most."""
    summed = total(all_items)
    return max(summed.rollout, summed.update, summed.step)


def needed(workload: Workload) -> float:
    """Return the bytes at the peak, with the limits of the config, or those that `auto` takes."""
    return peak(items(workload, settle(workload)))


def fits(workload: Workload) -> bool:
    """Return True if the peak fits the GPU and vLLM has what it needs, or if no GPU is known."""
    if workload.machine.gb is None:
        return True
    return needed(workload) <= workload.machine.gb * GB and not vllm_lacks(workload)
