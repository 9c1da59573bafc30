"""Say what does not fit a GPU, and each change of the config after which it does."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil

from gpg_vl.config import loading
from gpg_vl.config.schema import Config
from gpg_vl.policy.part_names import PARTS
from gpg_vl.preflight.adapter_checks import can_train, parts_to_train_on
from gpg_vl.preflight.memory import (
    GB,
    GPU_SIZES_GB,
    Limits,
    Workload,
    fits,
    groups_sampled_at_once,
    items,
    needed,
    settle,
    total,
    vllm_lacks,
    vllm_needs,
)

Change = dict[str, str]
"""Values by config key."""
LORA_LR = 1e-5
"""Learning rate of adapters: ten times the paper's for whole models (optimizer.lr 1e-6)."""


def problems(workload: Workload) -> list[str]:
    """List that a workload does not fit, then every change after which it does; empty = it fits."""
    if fits(workload):
        return []
    assert workload.machine.gb is not None
    solutions: list[str] = []
    tried = list(changes(workload))
    for words, changed in tried:
        if fits(changed):
            solutions.append(f"{words} ({needed(changed) / GB:.1f} GB)")
    has_fitting_change = bool(solutions)
    larger_gpu = _next_fitting_gpu(workload)
    if larger_gpu:
        solutions.append(f"hardware.gb={larger_gpu:g} (larger GPUs, nothing else changed)")
    if tried and not has_fitting_change:
        words, with_most_changes = tried[-1]
        gb = _next_fitting_gpu(with_most_changes)
        if gb and (larger_gpu is None or gb < larger_gpu):
            solutions.append(f"{words} hardware.gb={gb:g}")
    if not solutions:
        solutions.append(
            "policy.model: a smaller one; no GPU holds this one whole, and it is not divided over "
            "several"
        )
    return [_what_lacks(workload), *solutions]


def _what_lacks(workload: Workload) -> str:
    """Return why a workload does not fit its GPU, as a sentence."""
    peak, gb = needed(workload) / GB, workload.machine.gb
    assert gb is not None
    if peak > gb:
        return f"{peak:.1f} GB are needed on a GPU at the peak, it has {gb:g}"
    return (
        f"vLLM holds the whole model a second time and needs {vllm_needs(workload) / GB:.1f} GB, "
        f"more than its share (rollout.engine.memory) of the {gb:g} GB of a GPU"
    )


def changes(workload: Workload) -> Iterator[tuple[str, Workload]]:
    """Yield changes that reduce memory: the text for the config, and the changed workload.

    First those of how a run computes. If none of them is enough, those of what is trained and how
    it is stored; if none of these is either, the same with all the former.
    """
    is_enough = fits(workload)
    computing = list(_of_computing(workload))
    for words, changed in _each(workload, [*computing, {}]):
        is_enough = is_enough or fits(changed)
        yield words, changed
    if is_enough:
        return
    training = list(_of_training(workload))
    for words, changed in _each(workload, training):
        is_enough = is_enough or fits(changed)
        yield words, changed
    if is_enough or not computing:
        return
    together: Change = {}
    for change in computing:
        together |= change
    together.pop("rollout.engine.memory", None)  # what the changes together need is another share
    yield from _each(workload, [together | change for change in ({}, *training)])


def _each(workload: Workload, candidates: Sequence[Change]) -> Iterator[tuple[str, Workload]]:
    """Yield each change, and each with fewer prompts at once where its rollout is still too large.

    An empty change stands for fewer prompts at once alone. What training would refuse is left out.
    """
    for change in candidates:
        words, changed = _with_change(workload, change)
        if not can_train(changed):
            continue
        if change:
            yield words, changed
        at_once = _fewer_prompts_at_once(changed)
        if at_once:
            fewer = {"rollout.engine.prompts_at_once": str(at_once)}
            yield _with_change(workload, change | fewer)


def _of_computing(workload: Workload) -> Iterator[Change]:
    """Yield each change that leaves the trained parameters as they are."""
    config = workload.config
    kind, options = workload.engine
    if config.learner.checkpointing is False:
        yield {"learner.checkpointing": "true"}
    if config.learner.tokens_per_microbatch != "auto":
        yield {"learner.tokens_per_microbatch": "auto"}
    share = _enough_for_vllm(workload)
    if share:
        yield share
    if kind == "vllm" and not options.get("sleep", 0):
        yield {"rollout.engine.sleep": "1"}
    if config.policy.dtype != "bfloat16":
        yield {"policy.dtype": "bfloat16"}


def _of_training(workload: Workload) -> Iterator[Change]:
    """Yield each change of what is trained and how it is stored, from the least to the most."""
    config, policy = workload.config, workload.config.policy
    smaller: list[Change] = []
    # If the language model is frozen too, freezing the tower may leave nothing to train.
    if policy.vision == "full" and policy.language != "frozen":
        smaller.append({"policy.vision": "frozen"})
    if config.optimizer.kind != "adamw8bit" and policy.dtype != "float64":
        smaller.append({"optimizer.kind": "adamw8bit"})
    if policy.language == "full" and policy.weights != "bfloat16":
        half = {"policy.weights": "bfloat16"}
        smaller.append(half if policy.dtype == "bfloat16" else {"policy.dtype": "bfloat16"} | half)
    yield from smaller
    several: Change = {}
    for change in reversed(smaller):
        several = change | several
        if several != change:
            yield several
    if policy.language == "full":
        yield from _of_adapters(workload)
    elif policy.trains_adapters and policy.quantise == "none":
        in_4_bits: Change = {"policy.quantise": "nf4"}
        if policy.dtype != "bfloat16":
            in_4_bits["policy.dtype"] = "bfloat16"
        yield in_4_bits


def _of_adapters(workload: Workload) -> Iterator[Change]:
    """Yield the changes from a whole language model to adapters, then to adapters on 4 bits.

    An adapter that the run begins with is trained on, in the parts that it is for.
    """
    config, policy = workload.config, workload.config.policy
    parts = {"language": "lora"}
    if policy.vision == "full":
        parts["vision"] = "frozen"
    if workload.adapter is not None:
        parts = parts_to_train_on(workload.adapter)
        if not parts:
            return
    lora: Change = {}
    for part, how in parts.items():
        if getattr(policy, part) != how:
            lora[f"policy.{part}"] = how
    if config.optimizer.lr < LORA_LR:
        lora["optimizer.lr"] = f"{LORA_LR:g}"
    if policy.dtype != "bfloat16":
        lora["policy.dtype"] = "bfloat16"
    yield lora
    yield lora | {"policy.quantise": "nf4"}


def _with_change(workload: Workload, change: Change) -> tuple[str, Workload]:
    """Return a change as text for the config, and the workload after it."""
    change = change | _resets(workload.config, change)
    changed = replace(workload, config=_changed_config(workload.config, change))
    share = _enough_for_vllm(changed)
    if share:
        change = change | share
        changed = replace(workload, config=_changed_config(workload.config, change))
    if "learner.tokens_per_microbatch" in change:  # show the number that `auto` resolves to
        tokens = settle(changed).tokens
        change = {**change, "learner.tokens_per_microbatch": str(tokens)}
    return " ".join(_assignments(change)), changed


def _enough_for_vllm(workload: Workload) -> Change:
    """Return a larger share of the GPU for a vLLM in this process.

    Empty = it has what it needs, or needs more than all.
    """
    assert workload.machine.gb is not None
    hundredths = ceil(100 * vllm_needs(workload) / (workload.machine.gb * GB))
    if hundredths > 100 or not vllm_lacks(workload):
        return {}
    return {"rollout.engine.memory": f"{hundredths / 100:g}"}


def _resets(config: Config, change: Change) -> Change:
    """Return what a change leaves without use, and so has to be emptied: a config refuses it."""
    trained = {part: change.get(f"policy.{part}", getattr(config.policy, part)) for part in PARTS}
    found: Change = {}
    if config.policy.weights == "bfloat16" and "full" not in trained.values():
        found["policy.weights"] = "float32"
    sections = {"optimizer": config.optimizer, "warmup.optimizer": config.warmup.optimizer}
    for key, optimizer in sections.items():
        for part in PARTS:
            for name, value in getattr(optimizer, part):
                if trained[part] == "frozen" and value is not None:
                    found[f"{key}.{part}.{name}"] = "null"
    return found


def _fewer_prompts_at_once(workload: Workload) -> int:
    """Return how many groups to sample at once so that the rollout fits.

    0 = it fits already, or does not fit with any number.
    """
    kind, options = workload.engine
    if kind != "transformers":
        return 0
    assert workload.machine.gb is not None
    available = workload.machine.gb * GB
    limits = settle(workload)
    if _rollout_bytes(workload, limits) <= available:
        return 0
    rollout = workload.config.rollout
    count = groups_sampled_at_once(workload) // 2
    while count > 0:
        engine = {**options, "prompts_at_once": count}
        fewer = rollout.model_copy(update={"engine": engine})
        config = workload.config.model_copy(update={"rollout": fewer})
        if _rollout_bytes(replace(workload, config=config), limits) <= available:
            return count
        count //= 2
    return 0


def _rollout_bytes(workload: Workload, limits: Limits) -> float:
    return total(items(workload, limits)).rollout


def _changed_config(config: Config, change: Change) -> Config:
    """Return the config with other values."""
    values = loading.override(Config, config.model_dump(mode="json"), _assignments(change))
    return loading.parse(Config, values, "changed")


def _assignments(change: Change) -> list[str]:
    return [f"{key}={value}" for key, value in change.items()]


def _next_fitting_gpu(workload: Workload) -> float | None:
    """Return the GB of the smallest larger GPU on which the workload fits; None = none does."""
    present = workload.machine.gb or 0
    for gb in GPU_SIZES_GB:
        larger = replace(workload, machine=replace(workload.machine, gb=gb))
        if gb > present and fits(larger):
            return gb
    return None
