"""What a config asks for, in numbers, before anything is loaded: answers, tokens, memory, disk, time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from gpg_vl.boxes import Frame
from gpg_vl.config.loading import load_benchmark
from gpg_vl.config.schema import Config
from gpg_vl.data import sources as data_sources
from gpg_vl.errors import UserError
from gpg_vl.experiment import build_estimator, build_ruler, build_style, build_verifiers
from gpg_vl.methods.estimator import Estimator
from gpg_vl.policy.sizes import size_of
from gpg_vl.preflight.memory import GB, Limits, Workload, items, machine_of, peak, problems, settle

WIDTH, INDENT = 80, 10
ASSUMED = {"bfloat16": 125.0, "float32": 7.8, "float64": 3.9}
"""TFLOP/s that a GPU is assumed to make of the forward and backward: 40 % of what an A100 is sold for."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is told of a config."""

    lines: tuple[str, ...]
    """None wider than 80 columns."""
    problems: tuple[str, ...]
    """Why it does not fit, and what would mend it; empty = it fits, or nothing is known of the hardware."""


def plan(config: Config, folder: Path) -> Plan:
    """The run in numbers. Sources, prompt, verifiers, method and benchmark are resolved on the way, so a mistake in them shows here.

    Raises:
        UserError: a part that cannot be resolved.
    """
    style = build_style(config.prompt, folder)
    checks = build_verifiers(config.verifiers, style, Frame(), config.reward, folder)
    estimator = build_estimator(config, folder)
    _resolve_data(config, folder)
    rollout, reward = config.rollout, config.reward
    answers = rollout.groups_per_step * rollout.group_size
    read = ", ".join(sorted({getattr(verifier, "mode", "own") for verifier in checks.by_kind.values()}))
    told = [
        ("run", f"{config.run_folder}, {config.steps} steps of {rollout.groups_per_step} prompts x {rollout.group_size} answers"),
        ("sampled", f"{answers} answers a round, {config.steps * answers:,} in all; at most {rollout.max_rounds} rounds a step"),
        ("tokens", f"at most {answers * rollout.max_tokens:,} sampled in a round ({rollout.max_tokens} an answer)"),
        ("prompts", "their tokens and those of their pictures are not counted here; gpg-vl audit counts them"),
        *(("data", f"{source.recipe or source.files or source.hub} {source.options or ''}".rstrip()) for source in config.data),
        ("reward", f"{reward.combine} of accuracy {reward.accuracy:g} and format {reward.format:g}, read {read}"),
        ("method", f"{type(estimator).__name__}, {style.think} thought, evaluated on {config.evaluation.benchmark or 'nothing'}"),
    ]
    lines = [line for label, text in told for line in _lines(label, text)]
    try:
        run = run_of(config, estimator)
    except UserError as error:
        return Plan((*lines, *_lines("memory", f"unknown until {config.policy.model} can be read ({error})")), ())
    if not run.trained:
        raise UserError("policy.language, policy.projector and policy.vision are all frozen: nothing would be trained; set one to full")
    lines += [*_memory(run), *_lines("disk", _disk(run)), *_lines("time", _time(run, settle(run)))]
    found = problems(run)
    for number, fault in enumerate(found):
        lines += _lines("too much" if number == 0 else "change" if number == 1 else "or", fault)
    return Plan(tuple(lines), tuple(found))


def run_of(config: Config, estimator: Estimator) -> Workload:
    """A config as the memory arithmetic sees it.

    Raises:
        UserError: the config.json of its model cannot be read.
    """
    return Workload(config=config, size=size_of(config.policy), machine=machine_of(config), kl=estimator.kl)


def _lines(label: str, text: str) -> list[str]:
    return wrap(text, WIDTH, initial_indent=f"{label + ':':{INDENT}}", subsequent_indent=" " * INDENT, break_on_hyphens=False)


def _resolve_data(config: Config, folder: Path) -> None:
    for key, sources in (("data", config.data), ("warmup.data", config.warmup.data or ())):
        for number, source in enumerate(sources):
            data_sources.resolve(source, folder=folder, key=f"{key}.{number}")
    if config.evaluation.benchmark is not None:
        spec, home = load_benchmark(config.evaluation.benchmark, folder)
        build_ruler(spec, home, config, folder, Frame())
        for number, source in enumerate(spec.data):
            data_sources.resolve(source, folder=home, key=f"evaluation.benchmark: data.{number}")


def _memory(run: Workload) -> Iterator[str]:
    """The table: a line for each item, a column for each phase of a step."""
    limits, learner, rollout = settle(run), run.config.learner, run.config.rollout
    every = items(run, limits)
    unit, name = (GB, "GB") if peak(every) >= 10 * GB else (1e6, "MB")
    where = f"{name} on a GPU of {run.machine.gb:g} GB" if run.machine.gb is not None else f"{name} in a process"
    yield f"{'memory:':{INDENT}}{where:<37}" + "".join(f"{phase:>11}" for phase in ("rollout", "update", "step"))
    sums = [sum(getattr(item, phase) for item in every) for phase in ("rollout", "update", "step")]
    for title, *cells in [*((item.name, item.rollout, item.update, item.step) for item in every), ("sum", *sums)]:
        yield f"{'':{INDENT}}{title:<37}" + "".join(f"{cell / unit:11,.2f}" if cell else f"{'':11}" for cell in cells).rstrip()
    parts = f"{run.trained:,} parameters trained, {run.size.total - run.trained:,} frozen"
    yield from _lines("model", f"{parts}, whole on every GPU" if run.machine.gb is not None else parts)
    auto = [" (auto)" if value == "auto" else "" for value in (learner.tokens_per_microbatch, learner.checkpointing)]
    group = f"{run.prompt} of the prompt + {rollout.group_size} x {rollout.max_tokens}"
    yield from _lines(
        "budget",
        f"{limits.tokens:,} tokens at once{auto[0]}, checkpointing {str(limits.checkpointing).lower()}{auto[1]}; a group is reckoned "
        f"with {run.group:,} ({group}), a picture with {run.picture}",
    )


def _disk(run: Workload) -> str:
    """Of checkpoints: weights and both moments."""
    kept = run.config.checkpoint.keep_last + run.config.checkpoint.keep_best
    count = run.wide * run.size.total + 2 * run.wide * run.trained
    unit, name = (GB, "GB") if count >= GB else (1e6, "MB")
    return (
        f"{count / unit:,.1f} {name} a checkpoint, {(kept + 1) * count / unit:,.1f} {name} for {kept} that are kept and one being written"
    )


def _time(run: Workload, limits: Limits) -> str:
    """Of an update, where hardware is named; a rate that nobody knows is not made up."""
    size, frozen = run.size, run.config.policy.vision == "frozen"
    language = size.parameters["language"] - (0 if size.tied else size.head)  # an embedding is looked up
    passes = (6 if run.config.policy.language == "full" else 4) + 2 * limits.checkpointing
    work = run.groups * (run.group * passes * language + run.picture * size.patches * (2 if frozen else 6) * size.parameters["vision"])
    told = f"{work / 1e12:,.1f} TFLOP of the update in a step and process, were all answers as long as they may be"
    if run.machine.gb is None:
        return f"{told}; no GPU is named (hardware.gb), so no time is told"
    rate = ASSUMED[run.config.policy.dtype]
    return (
        f"{told}: about {work / 1e12 / rate:,.1f} s at an assumed {rate:g} TFLOP/s (40 % of an A100); an estimate, and sampling adds to it"
    )
