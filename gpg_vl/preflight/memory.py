"""Bytes on one GPU, item by item, from a config and a model's size: what is held, in which phase, and what fits.

Arithmetic alone; nothing is loaded. Every process holds the whole model (DDP), so more GPUs do not make a model smaller. What a layer keeps
for the backward was counted from autograd's saved tensors, and `tests/preflight/test_memory.py` counts again; what stays was held against processes.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from gpg_vl.config.schema import Config, LearnerConfig
from gpg_vl.policy.sizes import Size, Stack

GB = 1e9
"""Bytes, as vendors print memory."""
MAX_TOKENS_AT_ONCE = 1 << 16
"""Largest token budget that `auto` takes: beyond it a kernel gains nothing."""
STEP = 256
"""`auto` takes multiples of so many tokens."""
WORDS = 256
"""Tokens of a usual prompt beside its picture."""
USUAL_PIXELS = 1280 * 28 * 28
"""Of a picture where policy.max_pixels says nothing: what Qwen advises."""
TINY_PICTURE, TINY_WORDS = 64, 64
"""Of a scene of digits and its question."""
PROMPTS_AT_ONCE = 32
"""Groups that the transformers engine writes at once where its own knob of that name says nothing."""
USUAL_GPUS = (24.0, 32.0, 40.0, 48.0, 80.0, 96.0, 141.0, 192.0, 288.0)
"""GB of GPUs that are sold."""
DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""One of these is there where a GPU is: of NVIDIA, of AMD, under Windows."""
LOGITS = 1 << 24
"""Logits that the head holds at a time in the update."""
CONTEXT, FRAGMENTS = 2e9, 0.05
"""Kept free on a GPU: for CUDA's context and the buffers of NCCL and cuBLAS, and a share of the memory for its fragments."""
ACTIVATIONS = "activations"
ASLEEP = 1e9
"""What a vLLM that sleeps still holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a run is reckoned for."""

    gb: float | None
    """Memory of one GPU in GB; None = no GPU: nothing is judged."""
    processes: int = 1
    """That share the groups of a step."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The two knobs of the learner that decide about memory, with `auto` resolved."""

    tokens: int
    """Through the model at once."""
    checkpointing: bool


ON_CPU = Limits(16384, False)
"""Where nothing is known of the hardware."""


@dataclass(frozen=True, slots=True)
class Item:
    """Bytes of one thing in the three phases of a step."""

    name: str
    rollout: float = 0.0
    update: float = 0.0
    step: float = 0.0
    """While the optimizer moves the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the memory of a run depends on."""

    config: Config
    size: Size
    machine: Machine
    kl: float = 0.0
    """Weight of the divergence from a reference model, which exists only where it is above 0."""

    @property
    def trained(self) -> int:
        """Parameters that are trained."""
        return sum(count for part, count in self.size.parameters.items() if getattr(self.config.policy, part) == "full")

    @property
    def groups(self) -> int:
        """Groups of a step that one process has."""
        return max(1, self.config.rollout.groups_per_step // self.machine.processes)

    @property
    def picture(self) -> int:
        """Visual tokens of a usual picture, the largest that policy.max_pixels allows."""
        policy, size = self.config.policy, self.size
        if policy.model == "tiny":
            return TINY_PICTURE
        return ceil(min(policy.max_pixels or USUAL_PIXELS, 1 << 24) / (size.patch**2 * size.patches))

    @property
    def prompt(self) -> int:
        """Tokens of a usual prompt: a picture and some words."""
        return self.picture + (TINY_WORDS if self.config.policy.model == "tiny" else WORDS)

    @property
    def group(self) -> int:
        """Tokens of a usual group whose answers are all as long as they may be."""
        return self.prompt + self.config.rollout.group_size * self.config.rollout.max_tokens

    @property
    def wide(self) -> int:
        """Bytes of a weight, a gradient, a moment."""
        return 8 if self.config.policy.dtype == "float64" else 4

    @property
    def engine(self) -> tuple[str, dict[str, Any]]:
        """Who samples, and its knobs."""
        part = self.config.rollout.engine
        options = {"kind": part} if isinstance(part, str) else part
        return str(options.get("kind")), options


def machine_of(config: Config) -> Machine:
    """What a config is reckoned for: the hardware that it names, else the GPU of this machine, else nothing that could be judged."""
    return Machine(gb=config.hardware.gb or gpu_here(), processes=config.hardware.gpus)


def gpu_here() -> float | None:
    """GB of this process's GPU; None = there is none."""
    if not any(map(os.path.exists, DRIVERS)):  # torch, which would know, takes seconds to import
        return None
    import torch

    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / GB if torch.cuda.is_available() else None


def settle(run: Workload) -> Limits:
    """Token budget and checkpointing, `auto` resolved: the most tokens that fit, and no checkpointing where a whole group fits without.

    Where nothing fits they are the smallest that run at all; `faults` judges.
    """
    learner = run.config.learner
    if run.machine.gb is None:
        return unjudged(learner)
    tokens = learner.tokens_per_microbatch
    ways = [False, True] if learner.checkpointing == "auto" else [learner.checkpointing]
    for checkpointing in ways:
        if tokens != "auto" and _update_fits(run, Limits(tokens, checkpointing)):
            return Limits(tokens, checkpointing)
        if tokens == "auto" and (most := _most(run, checkpointing)) >= run.group:
            return Limits(most, checkpointing)
    smallest = run.prompt + run.config.rollout.max_tokens
    return Limits(max(_most(run, ways[-1]), smallest) if tokens == "auto" else tokens, ways[-1])


def unjudged(learner: LearnerConfig) -> Limits:
    """`auto` resolved where nothing is known of the hardware."""
    tokens, checkpointing = learner.tokens_per_microbatch, learner.checkpointing
    return Limits(ON_CPU.tokens if tokens == "auto" else tokens, ON_CPU.checkpointing if checkpointing == "auto" else checkpointing)


def _most(run: Workload, checkpointing: bool) -> int:
    """The largest budget with which the update fits; 0 = none."""
    highest = max(MAX_TOKENS_AT_ONCE, ceil(run.group / STEP) * STEP)  # a group that fits is not split
    return next((tokens for tokens in range(highest, 0, -STEP) if _update_fits(run, Limits(tokens, checkpointing))), 0)


def _update_fits(run: Workload, limits: Limits) -> bool:
    assert run.machine.gb is not None
    return sum(item.update for item in items(run, limits)) <= run.machine.gb * GB


def items(run: Workload, limits: Limits) -> list[Item]:
    """Everything that one GPU (or the process on a CPU) holds, in bytes; items of no bytes are left out."""
    every = [*_static(run, limits), *_update(run, limits), *_sampling(run)]
    if run.machine.gb is not None:
        free = CONTEXT + FRAGMENTS * run.machine.gb * GB
        every.append(Item("CUDA context, fragments", free, free, free))
    return [item for item in every if max(item.rollout, item.update, item.step) > 0]


def _static(run: Workload, limits: Limits) -> Iterator[Item]:
    """What stays from step to step: the frozen parts cost their weights and nothing else."""
    wide, trained, total = run.wide, run.trained, run.size.total
    told = f"float{8 * wide}"
    yield _always(f"weights, trained ({told})", wide * trained)
    yield _always(f"weights, frozen ({told})", wide * (total - trained))
    yield _always("gradients", wide * trained)
    yield _always("AdamW's two moments", 2 * wide * trained)
    if run.kl > 0:
        yield _always("reference model (estimator.kl)", wide * total)
    if run.config.policy.dtype == "bfloat16":
        yield Item("bfloat16 copies (autocast)", 2 * trained, 2 * trained)
    if run.machine.gb is None:  # on a GPU AdamW is fused
        yield Item("AdamW's temporaries", step=wide * trained)
    if limits.tokens < run.group and run.config.learner.shared_prefix:
        yield Item("gradients of a split group", update=wide * trained)


def _always(name: str, count: float) -> Item:
    return Item(name, count, count, count)


def _update(run: Workload, limits: Limits) -> Iterator[Item]:
    """What the forward and the backward of the update hold."""
    narrow = 2 if run.config.policy.dtype == "bfloat16" else run.wide
    if run.config.policy.language == "full":
        yield Item("gradient of the head", update=(run.wide + narrow) * run.size.head)
    elif narrow == 2:
        yield Item("bfloat16 head", 2 * run.size.head, 2 * run.size.head)
    at_once = min(LOGITS, _at_once(run, limits) * run.size.vocabulary)
    yield Item("logits", rollout=_rollout_logits(run), update=(2 * run.wide + 2 * narrow) * at_once)
    yield Item(ACTIVATIONS, update=activations(run, _at_once(run, limits), limits.checkpointing))


def _rollout_logits(run: Workload) -> float:
    """Of the next token of all rows: logits and log-probabilities, and the cumulative distribution in float64."""
    rows = min(run.engine[1].get("prompts_at_once", PROMPTS_AT_ONCE), run.groups) * run.config.rollout.group_size
    return (3 * run.wide + 24) * rows * run.size.vocabulary if run.engine[0] == "transformers" else 0.0


def _at_once(run: Workload, limits: Limits) -> int:
    """Tokens that go through the model at once: the budget, or all that a process has."""
    return min(limits.tokens, run.groups * run.group)


def activations(run: Workload, tokens: int, checkpointing: bool) -> float:
    """Bytes that the layers keep for the backward of so many tokens, and one layer's own while its gradient is made.

    Of the tower only where it is trained: one picture for each group.
    """
    dtype = run.config.policy.dtype
    kept = _kept(run.size.language, tokens, dtype, checkpointing)
    if run.config.policy.vision == "frozen":
        return kept
    pictures = max(1, tokens // run.group)
    return kept + _kept(run.size.tower, pictures * run.picture * run.size.patches, dtype, checkpointing)


def _kept(stack: Stack, tokens: float, dtype: str, checkpointing: bool) -> float:
    """Bytes that a stack of layers keeps for the backward."""
    own = layer_bytes(stack, dtype)
    each = stack.width * (8 if dtype == "float64" else 4) if checkpointing else own
    return tokens * (stack.layers * each + own)


def layer_bytes(stack: Stack, dtype: str) -> float:
    """Bytes that one layer keeps for the backward of one token.

    In float32: tensors of the feed-forward part's width, 6 of the residual stream's (two norms; 4 of a layer norm), rotated queries, mixed
    values and their normaliser, keys and values. Under bfloat16 autocast the products are half as wide, but the residual stream, the norms
    and the rotated queries and keys stay float32, and casts are kept beside them.
    """
    if dtype == "bfloat16":
        norms = (16 if stack.layer_norm else 26) * stack.width
        attention = 6.3 * stack.width if stack.sight else 5.4 * stack.queries + 5 * stack.keys
        return 2 * stack.inner_kept * stack.inner + norms + attention + 6 * (stack.queries + stack.keys) * stack.normed
    norms = (16 if stack.layer_norm else 24) * stack.width
    attention = 28.3 * stack.width if stack.sight else 10.4 * stack.queries + 8 * stack.keys
    single = 4 * stack.inner_kept * stack.inner + norms + attention + 8 * (stack.queries + stack.keys) * stack.normed
    return 2 * single if dtype == "float64" else single


def _sampling(run: Workload) -> Iterator[Item]:
    """What whoever samples holds on this GPU."""
    kind, options = run.engine
    if kind == "transformers":
        rows = min(options.get("prompts_at_once", PROMPTS_AT_ONCE), run.groups)
        yield Item("keys and values (rollout)", rollout=rows * run.group * token_bytes(run))
    if kind == "vllm" and run.machine.gb is not None:
        cache = options.get("cache_gib")
        awake = 2 * run.size.total + cache * 2**30 if cache else options.get("memory", 0.4) * run.machine.gb * GB
        rest = ASLEEP if options.get("sleep", 0) else awake
        yield Item("vLLM, asleep in the update" if options.get("sleep", 0) else "vLLM", awake, rest, rest)


def token_bytes(run: Workload) -> float:
    """Bytes of a token's keys and values in all layers; under autocast the rotated keys are float32."""
    of_key_and_value = {"bfloat16": 4 + 2, "float32": 8, "float64": 16}[run.config.policy.dtype]
    return run.size.language.layers * run.size.language.keys * of_key_and_value


def peak(every: Iterable[Item]) -> float:
    """Bytes in the phase that holds most."""
    listed = list(every)
    return max(sum(getattr(item, phase) for item in listed) for phase in ("rollout", "update", "step"))


def needed(run: Workload) -> float:
    """Bytes at the peak, with the limits that the config gives or `auto` takes."""
    return peak(items(run, settle(run)))


def fits(run: Workload) -> bool:
    """Whether the peak has room; true where no GPU is named."""
    return run.machine.gb is None or needed(run) <= run.machine.gb * GB


def problems(run: Workload) -> list[str]:
    """That it does not fit, then each change that would mend it; empty = it fits."""
    if fits(run):
        return []
    assert run.machine.gb is not None
    told = [f"{needed(run) / GB:.1f} GB are needed on a GPU at the peak, it has {run.machine.gb:g}"]
    tried = list(changes(run))
    enough = [f"{words} ({needed(changed) / GB:.1f} GB)" for words, changed in tried if fits(changed)]
    if gb := _smallest(run):
        enough.append(f"hardware.gb={gb:g} (larger GPUs, nothing else changed)")
    if tried and not any(fits(changed) for _, changed in tried) and (gb := _smallest(tried[-1][1])):
        enough.append(f"{tried[-1][0]} hardware.gb={gb:g}")
    return [*told, *(enough or ["policy.model: a smaller one; no GPU holds this one whole, and it is not divided over several"])]


def changes(run: Workload) -> Iterator[tuple[str, Workload]]:
    """Single changes that make a run smaller, as what to write into the config; all of them together where none is enough."""
    config = run.config
    kind, options = run.engine
    single: list[dict[str, Any]] = []
    if config.learner.checkpointing is False:
        single.append({"learner.checkpointing": "true"})
    if config.learner.tokens_per_microbatch != "auto":
        single.append({"learner.tokens_per_microbatch": "auto"})
    if config.policy.vision == "full" and config.policy.language == "full":
        single.append({"policy.vision": "frozen"})
    if kind == "vllm" and not options.get("sleep", 0):
        single.append({"rollout.engine.sleep": "1"})
    if config.policy.dtype != "bfloat16":
        single.append({"policy.dtype": "bfloat16"})
    if kind == "transformers" and (at_once := _fewer_at_once(run, options)):
        single.append({"rollout.engine": f"{{kind: transformers, prompts_at_once: {at_once}}}"})
    together = {key: value for change in single for key, value in change.items()}
    enough = False
    for change in [*single, together]:
        if change is together and (enough or len(single) < 2):
            return
        changed = replace(run, config=_changed(config, change))
        enough = enough or fits(changed)
        if change.get("learner.tokens_per_microbatch"):
            tokens = settle(changed).tokens
            change = {**change, "learner.tokens_per_microbatch": str(tokens)}
        yield " ".join(f"{key}={value}" for key, value in change.items()), changed


def _fewer_at_once(run: Workload, options: dict[str, Any]) -> int:
    """Groups to sample at once so that the rollout fits; 0 = it does, or no number makes it fit."""
    assert run.machine.gb is not None
    limits, count = settle(run), min(options.get("prompts_at_once", PROMPTS_AT_ONCE), run.groups)
    room = run.machine.gb * GB
    if sum(item.rollout for item in items(run, limits)) <= room:
        return 0
    while (count := count // 2) > 0:
        config = run.config.model_copy(
            update={"rollout": run.config.rollout.model_copy(update={"engine": {"kind": "transformers", "prompts_at_once": count}})}
        )
        if sum(item.rollout for item in items(replace(run, config=config), limits)) <= room:
            return count
    return 0


def _changed(config: Config, change: dict[str, str]) -> Config:
    from gpg_vl.config import loading

    values = loading.override(Config, config.model_dump(mode="json"), [f"{key}={value}" for key, value in change.items()])
    return loading.parse(Config, values, "changed")


def _smallest(run: Workload) -> float | None:
    """GB of the smallest usual GPU, larger than the present one, on which it fits; None = on none."""
    larger = (replace(run, machine=replace(run.machine, gb=gb)) for gb in USUAL_GPUS if gb > (run.machine.gb or 0))
    return next((other.machine.gb for other in larger if fits(other)), None)
