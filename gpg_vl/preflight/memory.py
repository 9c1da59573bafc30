"""Predict the memory of one GPU, item by item, from a config and the size of a model.

This is arithmetic; no model is loaded. Every process holds the whole model (DDP), so more GPUs do
not make a model smaller. The formulas for activations were derived from autograd's saved tensors,
those for weights and optimizer were compared with running processes;
`tests/preflight/test_memory.py` repeats both.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from gpg_vl.config import loading
from gpg_vl.config.schema import Config, LearnerConfig
from gpg_vl.policy.sizes import Size, Stack

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Everything that the memory of a run depends on."""

    config: Config
    size: Size
    machine: Machine
    kl: float = 0.0
    """Weight of the divergence from a reference model; 0 = no reference model is loaded."""

    @property
    def trained(self) -> int:
        """Number of parameters that are trained."""
        total = 0
        for part, count in self.size.parameters.items():
            if getattr(self.config.policy, part) == "full":
                total += count
        return total

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
    def wide(self) -> int:
        """Bytes of one number of a weight, a gradient or an optimizer moment."""
        return 8 if self.config.policy.dtype == "float64" else 4

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
    for tokens in range(max(MAX_TOKENS_AT_ONCE, whole_group), 0, -TOKEN_STEP):
        if _update_fits(workload, Limits(tokens, checkpointing)):
            return tokens
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
    """Yield what stays from step to step; frozen parts have no gradients and no moments."""
    wide, trained, total = workload.wide, workload.trained, workload.size.total
    dtype = f"float{8 * wide}"
    yield _in_every_phase(f"weights, trained ({dtype})", wide * trained)
    yield _in_every_phase(f"weights, frozen ({dtype})", wide * (total - trained))
    yield _in_every_phase("gradients", wide * trained)
    yield _in_every_phase("AdamW's two moments", 2 * wide * trained)
    if workload.kl > 0:
        yield _in_every_phase("reference model (estimator.kl)", wide * total)
    if workload.config.policy.dtype == "bfloat16":
        yield Item("bfloat16 copies (autocast)", 2 * trained, 2 * trained)
    if workload.machine.gb is None:  # on a GPU, AdamW is one fused kernel without temporaries
        yield Item("AdamW's temporaries", step=wide * trained)
    if limits.tokens < workload.group and workload.config.learner.shared_prefix:
        yield Item("gradients of a split group", update=wide * trained)


def _in_every_phase(name: str, count: float) -> Item:
    return Item(name, count, count, count)


def _update_items(workload: Workload, limits: Limits) -> Iterator[Item]:
    """Yield what the forward and backward passes of the update hold."""
    wide, size = workload.wide, workload.size
    narrow = 2 if workload.config.policy.dtype == "bfloat16" else wide
    if workload.config.policy.language == "full":
        yield Item("gradient of the head", update=(wide + narrow) * size.head)
    elif narrow == 2:
        yield Item("bfloat16 head", 2 * size.head, 2 * size.head)
    tokens = min(limits.tokens, workload.groups * workload.group)
    logits = min(MAX_LOGITS_AT_ONCE, tokens * size.vocabulary)
    yield Item(
        "logits", rollout=_rollout_logits_bytes(workload), update=(2 * wide + 2 * narrow) * logits
    )
    yield Item(ACTIVATIONS, update=activations(workload, tokens, limits.checkpointing))


def _groups_sampled_at_once(workload: Workload) -> int:
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
    rows = _groups_sampled_at_once(workload) * workload.config.rollout.group_size
    return (3 * workload.wide + 24) * rows * workload.size.vocabulary


def activations(workload: Workload, tokens: int, checkpointing: bool) -> float:
    """Return the bytes that the layers save for the backward pass of so many tokens.

    With one layer's tensors more, for the layer whose gradient is being computed. The vision tower
    is counted only if it is trained, with one image per group.
    """
    dtype = workload.config.policy.dtype
    language_bytes = _saved_bytes(workload.size.language, tokens, dtype, checkpointing)
    if workload.config.policy.vision == "frozen":
        return language_bytes
    images = max(1, tokens // workload.group)
    patches = images * workload.picture * workload.size.patches
    return language_bytes + _saved_bytes(workload.size.tower, patches, dtype, checkpointing)


def _saved_bytes(stack: Stack, tokens: float, dtype: str, checkpointing: bool) -> float:
    """Return the bytes that a stack of layers saves for the backward pass."""
    whole_layer = layer_bytes(stack, dtype)
    per_layer = whole_layer
    if checkpointing:  # only the input of each layer is saved
        per_layer = stack.width * (8 if dtype == "float64" else 4)
    return tokens * (stack.layers * per_layer + whole_layer)


def layer_bytes(stack: Stack, dtype: str) -> float:
    """Return the bytes that one layer saves for the backward pass of one token.

    In float32: tensors of the feed-forward part's width; 6 of the residual stream's width (two
    norms; a layer norm has 4); rotated queries, attention output and its normaliser, keys and
    values. Under bfloat16 autocast the matrix products are half as wide, but residual stream, norms
    and rotated queries and keys stay float32, and their casts are saved too.
    """
    normed = (stack.queries + stack.keys) * stack.normed
    attention = _attention_bytes(stack, dtype)
    if dtype == "bfloat16":
        norms = (16 if stack.layer_norm else 26) * stack.width
        return 2 * stack.inner_kept * stack.inner + norms + attention + 6 * normed
    norms = (16 if stack.layer_norm else 24) * stack.width
    single = 4 * stack.inner_kept * stack.inner + norms + attention + 8 * normed
    return 2 * single if dtype == "float64" else single


def _attention_bytes(stack: Stack, dtype: str) -> float:
    """Return the bytes that attention saves for one token, counted in float32 or bfloat16."""
    if dtype == "bfloat16":
        if stack.is_tower:
            return 6.3 * stack.width
        return 5.4 * stack.queries + 5 * stack.keys
    if stack.is_tower:
        return 28.3 * stack.width
    return 10.4 * stack.queries + 8 * stack.keys


def _engine_items(workload: Workload) -> Iterator[Item]:
    """Yield what the rollout engine holds on this GPU."""
    kind, options = workload.engine
    if kind == "transformers":
        groups = _groups_sampled_at_once(workload)
        cache = groups * workload.group * token_bytes(workload)
        yield Item("keys and values (rollout)", rollout=cache)
    if kind == "vllm" and workload.machine.gb is not None:
        if options.get("cache_gib"):
            awake = 2 * workload.size.total + options["cache_gib"] * 2**30
        else:
            awake = options.get("memory", VLLM_MEMORY) * workload.machine.gb * GB
        if options.get("sleep", 0):
            asleep = SLEEPING_VLLM_BYTES
            yield Item("vLLM, asleep in the update", awake, asleep, asleep)
        else:
            yield _in_every_phase("vLLM", awake)


def token_bytes(workload: Workload) -> float:
    """Return the bytes of one token's keys and values in all layers."""
    # Under autocast the rotated keys are float32 and the values bfloat16.
    key_and_value = {"bfloat16": 4 + 2, "float32": 8, "float64": 16}
    language = workload.size.language
    return language.layers * language.keys * key_and_value[workload.config.policy.dtype]


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
    """Return True if the peak fits the GPU, or if no GPU is known."""
    return workload.machine.gb is None or needed(workload) <= workload.machine.gb * GB


def problems(workload: Workload) -> list[str]:
    """List that a workload does not fit, then every change after which it does; empty = it fits."""
    if fits(workload):
        return []
    assert workload.machine.gb is not None
    solutions: list[str] = []
    tried = list(changes(workload))
    has_fitting_change = False
    for words, changed in tried:
        if fits(changed):
            has_fitting_change = True
            solutions.append(f"{words} ({needed(changed) / GB:.1f} GB)")
    larger_gpu = _next_fitting_gpu(workload)
    if larger_gpu:
        solutions.append(f"hardware.gb={larger_gpu:g} (larger GPUs, nothing else changed)")
    if tried and not has_fitting_change:
        words, with_all_changes = tried[-1]
        gb = _next_fitting_gpu(with_all_changes)
        if gb:
            solutions.append(f"{words} hardware.gb={gb:g}")
    if not solutions:
        solutions.append(
            "policy.model: a smaller one; no GPU holds this one whole, and it is not divided over "
            "several"
        )
    peak_gb = needed(workload) / GB
    return [
        f"{peak_gb:.1f} GB are needed on a GPU at the peak, it has {workload.machine.gb:g}",
        *solutions,
    ]


def changes(workload: Workload) -> Iterator[tuple[str, Workload]]:
    """Yield single changes that reduce memory: the text for the config, and the changed workload.

    If no single change is enough, all of them together come last.
    """
    single = list(_single_changes(workload))
    is_enough = False
    for change in single:
        words, changed = _with_change(workload, change)
        is_enough = is_enough or fits(changed)
        yield words, changed
    if len(single) > 1 and not is_enough:
        together: dict[str, str] = {}
        for change in single:
            together |= change
        yield _with_change(workload, together)


def _single_changes(workload: Workload) -> Iterator[dict[str, str]]:
    """Yield each change that this config has not made yet, as config keys and values."""
    config = workload.config
    kind, options = workload.engine
    if config.learner.checkpointing is False:
        yield {"learner.checkpointing": "true"}
    if config.learner.tokens_per_microbatch != "auto":
        yield {"learner.tokens_per_microbatch": "auto"}
    # If the language model is frozen too, freezing the tower may leave nothing to train.
    if config.policy.vision == "full" and config.policy.language == "full":
        yield {"policy.vision": "frozen"}
    if kind == "vllm" and not options.get("sleep", 0):
        yield {"rollout.engine.sleep": "1"}
    if config.policy.dtype != "bfloat16":
        yield {"policy.dtype": "bfloat16"}
    if kind == "transformers":
        at_once = _fewer_prompts_at_once(workload)
        if at_once:
            yield {"rollout.engine": f"{{kind: transformers, prompts_at_once: {at_once}}}"}


def _with_change(workload: Workload, change: dict[str, str]) -> tuple[str, Workload]:
    """Return a change as text for the config, and the workload after it."""
    changed = replace(workload, config=_changed_config(workload.config, change))
    if "learner.tokens_per_microbatch" in change:  # show the number that `auto` resolves to
        tokens = settle(changed).tokens
        change = {**change, "learner.tokens_per_microbatch": str(tokens)}
    return " ".join(_assignments(change)), changed


def _fewer_prompts_at_once(workload: Workload) -> int:
    """Return how many groups to sample at once so that the rollout fits.

    0 = it fits already, or does not fit with any number.
    """
    assert workload.machine.gb is not None
    available = workload.machine.gb * GB
    limits = settle(workload)
    if _rollout_bytes(workload, limits) <= available:
        return 0
    rollout = workload.config.rollout
    count = _groups_sampled_at_once(workload) // 2
    while count > 0:
        engine = {"kind": "transformers", "prompts_at_once": count}
        fewer = rollout.model_copy(update={"engine": engine})
        config = workload.config.model_copy(update={"rollout": fewer})
        if _rollout_bytes(replace(workload, config=config), limits) <= available:
            return count
        count //= 2
    return 0


def _rollout_bytes(workload: Workload, limits: Limits) -> float:
    return total(items(workload, limits)).rollout


def _changed_config(config: Config, change: dict[str, str]) -> Config:
    """Return the config with other values."""
    values = loading.override(Config, config.model_dump(mode="json"), _assignments(change))
    return loading.parse(Config, values, "changed")


def _assignments(change: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in change.items()]


def _next_fitting_gpu(workload: Workload) -> float | None:
    """Return the GB of the smallest larger GPU on which the workload fits; None = none does."""
    present = workload.machine.gb or 0
    for gb in GPU_SIZES_GB:
        larger = replace(workload, machine=replace(workload.machine, gb=gb))
        if gb > present and fits(larger):
            return gb
    return None
