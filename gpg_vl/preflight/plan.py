"""Report in numbers what a config requires, before loading: answers, memory, disk, time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from gpg_vl.config.loading import load_benchmark
from gpg_vl.config.models import TINY
from gpg_vl.config.schema import Config, RewardConfig, Source
from gpg_vl.data.sources import check_columns, check_source
from gpg_vl.errors import UserError
from gpg_vl.experiment import Experiment
from gpg_vl.policy.model_folder import adapter_here
from gpg_vl.policy.sizes import Matrix, size_of
from gpg_vl.preflight.adapter_checks import check_adapters
from gpg_vl.preflight.memory import (
    GB,
    Limits,
    Workload,
    items,
    machine_of,
    peak,
    settle,
    total,
)
from gpg_vl.preflight.remedies import problems

WIDTH, INDENT = 80, 10
"""Columns of a line, and of its label."""
MIN_WIDTH = 60
"""Columns of a line on the narrowest terminal."""

READ_BY = {
    "strict": "by the format of the prompt alone",
    "lenient": "in other formats too",
    "reference": "by the published rule",
    "own": "by a verifier of your own",
}
"""Words for the modes of verifiers."""
THOUGHTS = {
    "required": "with a thought",
    "optional": "with or without a thought",
    "absent": "without a thought",
    "opened": "with a thought that the prompt begins",
}
"""Words for `think` of prompt styles."""
ASSUMED_TFLOPS = {"bfloat16": 125.0, "float32": 7.8, "float64": 3.9}
"""TFLOP/s that a GPU is assumed to reach in forward and backward: 40 % of an A100's data sheet."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Needs of a config, and whether they fit."""

    lines: tuple[str, ...]
    """Lines to print, none wider than 80 columns."""
    problems: tuple[str, ...]
    """Why it does not fit, then what would mend it; empty = it fits, or no hardware is known."""


def plan(experiment: Experiment, width: int = WIDTH) -> Plan:
    """Return the run in numbers.

    Sources, prompt, verifiers, method and benchmark are resolved, so a mistake in them shows here.

    Args:
        width: columns of the terminal; no more than 80 are used, and no fewer than 60.

    Raises:
        UserError: a part cannot be resolved, its adapters cannot be trained, or nothing would be
            trained.
    """
    config = experiment.config
    width = max(MIN_WIDTH, min(width, WIDTH))
    check_sources(experiment)
    lines: list[str] = []
    for label, text in _facts(experiment):
        lines += _lines(label, text, width)
    try:
        workload = workload_of(experiment)
    except UserError as error:
        unknown = f"unknown until {config.policy.model} can be read ({error})"
        return Plan((*lines, *_lines("memory", unknown, width)), ())
    check_adapters(workload)
    if not workload.trained:
        raise UserError(
            "policy.language, policy.projector and policy.vision are all frozen: nothing would be "
            "trained; set one to full or lora"
        )
    lines += _memory(workload, width)
    lines += _lines("disk", _disk(workload), width)
    lines += _lines("time", _time(workload, settle(workload)), width)
    found = problems(workload)
    labels = ["too much", "change"] + ["or"] * len(found)
    for label, problem in zip(labels, found, strict=False):
        lines += _lines(label, problem, width)
    return Plan(tuple(lines), tuple(found))


def workload_of(experiment: Experiment) -> Workload:
    """Return the run as the memory arithmetic sees it.

    Raises:
        UserError: the config.json of its model, or its adapter, cannot be read.
    """
    config = experiment.config
    return Workload(
        config=config,
        size=size_of(config.policy),
        machine=machine_of(config),
        kl=experiment.estimator.kl,
        adapter=adapter_here(config.policy.model),
    )


def _facts(experiment: Experiment) -> Iterator[tuple[str, str]]:
    """Yield (label, text) of what is known without the model."""
    config, rollout = experiment.config, experiment.config.rollout
    answers = rollout.groups_per_step * rollout.group_size
    modes: set[str] = set()
    for verifier in experiment.verifiers.by_kind.values():
        modes.add(getattr(verifier, "mode", "own"))
    yield (
        "run",
        f"{config.run_path}, {config.steps} steps of {rollout.groups_per_step} prompts x "
        f"{rollout.group_size} answers",
    )
    yield (
        "sampled",
        f"{answers} answers a round, {config.steps * answers:,} in all; at most "
        f"{rollout.max_rounds} rounds a step",
    )
    yield (
        "tokens",
        f"at most {answers * rollout.max_tokens:,} sampled in a round ({rollout.max_tokens} an "
        "answer)",
    )
    yield (
        "prompts",
        "their tokens and those of their pictures are not counted here; gpg-vl audit counts them",
    )
    for source in config.data:
        name = source.recipe or source.files or source.hub
        yield "data", f"{name} {source.options or ''}".rstrip()
    read_by = " and ".join(READ_BY.get(mode, READ_BY["own"]) for mode in sorted(modes))
    yield "reward", f"{_reward(config.reward)}; answers are read {read_by}"
    method = config.estimator if isinstance(config.estimator, str) else config.estimator["kind"]
    thought = THOUGHTS.get(experiment.style.think, experiment.style.think)
    yield (
        "method",
        f"{method}; answers {thought}; evaluated on {config.evaluation.benchmark or 'nothing'}",
    )


def _reward(reward: RewardConfig) -> str:
    """Return how accuracy and format make a reward, in words."""
    text = f"{reward.accuracy:g} x accuracy"
    if reward.combine == "gate" and reward.mode == "strict":
        text += " of an answer in the format of the prompt, else 0"
    if reward.format:
        text += f", plus {reward.format:g} for the format"
    return text


def _lines(label: str, text: str, width: int) -> list[str]:
    return wrap(
        text,
        width,
        initial_indent=f"{label + ':':{INDENT}}",
        subsequent_indent=" " * INDENT,
        break_on_hyphens=False,
    )


def check_sources(experiment: Experiment, *, own_recipes: bool = True) -> None:
    """Check that every source can be begun and tables have their columns, also of the benchmark.

    Args:
        own_recipes: also call recipes of the user's own, which may read all rows at once.

    Raises:
        UserError: one cannot; the sentence names file, column or option.
    """
    config = experiment.config
    for key, sources in (("data", config.data), ("warmup.data", config.warmup.data)):
        check_each(key, sources, config.base_dir, own_recipes)
    if config.evaluation.benchmark is not None:
        spec = load_benchmark(config.evaluation.benchmark, config.base_dir)
        experiment.benchmark_parts(spec)
        check_each("evaluation.benchmark: data", spec.data, spec.base_dir, own_recipes)


def check_each(key: str, sources: Sequence[Source], base_dir: Path, own_recipes: bool) -> None:
    """Check the sources under one key, as `check_sources` does."""
    for number, source in enumerate(sources):
        if own_recipes or ":" not in (source.recipe or ""):
            check_source(source, base_dir=base_dir, key=f"{key}.{number}")
            check_columns(source, base_dir=base_dir)


def _memory(workload: Workload, width: int = WIDTH) -> Iterator[str]:
    """Yield the table: a line for each item, a column for each phase of a step.

    On a narrow terminal its names are broken and the numbers stand closer.
    """
    limits, gpu = settle(workload), workload.machine.gb
    all_items = items(workload, limits)
    unit, name = (GB, "GB") if peak(all_items) >= 10 * GB else (1e6, "MB")
    where = f"{name} in a process" if gpu is None else f"{name} on a GPU of {gpu:g} GB"
    cell = 11 if width == WIDTH else 9
    names = width - INDENT - 3 * cell
    heading = "".join(f"{phase:>{cell}}" for phase in ("rollout", "update", "step"))
    yield f"{'memory:':{INDENT}}{where:<{names}}{heading}"
    for item in [*all_items, total(all_items)]:
        cells = ""
        for count in (item.rollout, item.update, item.step):
            cells += f"{count / unit:{cell},.2f}" if count else " " * cell
        first, *others = wrap(item.name, names - 1, subsequent_indent="  ")
        yield f"{'':{INDENT}}{first:<{names}}{cells}".rstrip()
        for line in others:
            yield f"{'':{INDENT}}{line}"
    yield from _lines("model", _model(workload), width)
    yield from _lines("budget", _budget(workload, limits), width)


def _budget(workload: Workload, limits: Limits) -> str:
    config: Config = workload.config
    rollout, learner = config.rollout, config.learner
    auto_tokens = " (auto)" if learner.tokens_per_microbatch == "auto" else ""
    auto_checkpointing = " (auto)" if learner.checkpointing == "auto" else ""
    checkpointing = str(limits.checkpointing).lower()
    group = f"{workload.prompt} of the prompt + {rollout.group_size} x {rollout.max_tokens}"
    return (
        f"{limits.tokens:,} tokens at once{auto_tokens}, checkpointing {checkpointing}"
        f"{auto_checkpointing}; a group is assumed to have {workload.group:,} ({group}), a picture "
        f"with {workload.picture}"
    )


def _model(workload: Workload) -> str:
    """Return what is trained and what is frozen, and how each is stored."""
    storage = workload.storage
    how = storage.trained_type
    if storage.adapters:
        rank, matrices = storage.policy.lora.rank, len(storage.all_adapted)
        how = f"adapters of rank {rank} on {matrices} matrices, {storage.wide_type}"
        if storage.full:
            how += f"; {storage.full:,} of whole parts, {storage.trained_type}"
    frozen = workload.size.total - storage.full
    text = f"{storage.trained:,} parameters trained ({how}), {frozen:,} frozen"
    if frozen:
        text += f" ({_frozen_types(workload)})"
    return text if workload.machine.gb is None else f"{text}, whole on every GPU"


def _frozen_types(workload: Workload) -> str:
    storage, dtype = workload.storage, workload.config.policy.dtype
    if not storage.quantised:
        return dtype
    return f"{storage.quantised:,} in 4 bits, the others in {dtype}"


def _disk(workload: Workload) -> str:
    """Return the size of checkpoints: weights, or adapters alone, and both moments."""
    checkpoint, storage = workload.config.checkpoint, workload.storage
    kept = checkpoint.keep_last + checkpoint.keep_best
    count = storage.saved_bytes + storage.moment_bytes(workload.config.optimizer.kind)
    unit, name = (GB, "GB") if count >= GB else (1e6, "MB")
    what = ""
    if storage.policy.trains_adapters:
        what = " (adapters and parts set to full)" if storage.full else " (adapters alone)"
        if storage.policy.model == TINY:
            what = " (adapters and the tiny model that they are on)"
    return (
        f"{count / unit:,.1f} {name} a checkpoint{what}, at most "
        f"{(kept + 1) * count / unit:,.1f} {name}: {kept} that are kept (the best may be among the "
        "newest) and one being written"
    )


def _time(workload: Workload, limits: Limits) -> str:
    """Return the time of an update if hardware is named; a rate that is not known is not made up.

    A parameter costs 2 operations a token in the forward, 2 for the gradient of its input and 2 for
    its own; a frozen one 4, an adapter's 6. Checkpointing adds a forward.
    """
    size, policy = workload.size, workload.storage.policy
    language = size.parameters["language"]
    if not size.tied:
        language -= size.head  # an embedding of its own is only looked up
    passes = (6 if policy.language == "full" else 4) + 2 * limits.checkpointing
    tower_passes = {"frozen": 2, "lora": 4, "full": 6}[policy.vision]
    rank = policy.lora.rank
    language_adapters = rank * _ends(workload.storage.adapted("language"))
    tower_adapters = rank * _ends(workload.storage.adapted("vision"))
    language_work = workload.group * (passes * language + 6 * language_adapters)
    patches = workload.picture * size.patches
    tower_work = patches * (tower_passes * size.parameters["vision"] + 6 * tower_adapters)
    work = workload.groups * (language_work + tower_work) / 1e12
    amount = f"{work:,.1f} TFLOP" if work >= 1 else f"{1000 * work:,.1f} GFLOP"
    text = f"{amount} of the update in a step and process, were all answers as long as they may be"
    if workload.machine.gb is None:
        return (
            f"{text}; seconds are estimated for a GPU alone (hardware.gb=80), the first steps of "
            "the run show them"
        )
    rate = ASSUMED_TFLOPS[policy.dtype]
    return (
        f"{text}: about {max(work / rate, 0.1):,.1f} s at an assumed {rate:g} TFLOP/s (40 % of an "
        "A100); an estimate, and sampling adds to it"
    )


def _ends(matrices: Sequence[Matrix]) -> int:
    """Return the widths of the inputs and outputs of matrices, added up."""
    return sum(matrix.inputs + matrix.outputs for matrix in matrices)
