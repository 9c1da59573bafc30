"""Put a run together: model, data, engine, learner, journal; warmed up, or where a checkpoint left it."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator

from gpg_vl import run_folder
from gpg_vl.config.loading import dump, read_yaml
from gpg_vl.config.schema import Config
from gpg_vl.data.dataset import Dataset, read_dataset
from gpg_vl.errors import UserError
from gpg_vl.evaluation.benchmark import Benchmark
from gpg_vl.experiment import Asker, build_engine, build_estimator, build_gate, build_style, build_verifiers, check_template, examination
from gpg_vl.methods.estimator import Estimator, min_informative_groups
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.load import Policy, load_policy
from gpg_vl.policy.plain_forward import UnsharedForward
from gpg_vl.policy.sizes import size_of
from gpg_vl.preflight.learnability import learnability_warnings
from gpg_vl.preflight.memory import Machine, Workload, gpu_here, problems, settle, unjudged
from gpg_vl.prompts import Style
from gpg_vl.report.trackers import check_installed, open_tracker
from gpg_vl.rollout.collect import RolloutContext
from gpg_vl.rollout.engine import RolloutEngine
from gpg_vl.rollout.gate.vision_gate import VisionGate
from gpg_vl.rollout.timer import Timer
from gpg_vl.run_folder import Callback, RunFolder
from gpg_vl.training import checkpoint, resume_check, sft, warmup_cache
from gpg_vl.training.checkpoint import State
from gpg_vl.training.learner import Forward, Learner
from gpg_vl.training.processes import Processes, raise_on_all_ranks, start_accelerator
from gpg_vl.types import Update
from gpg_vl.verifiers.dispatch import VerifierSet

Log = Callable[[str], None]
"""Tells the user a line."""
SMALLER = 0.9
"""A GPU with less than this share of hardware.gb is another one: what is printed on the box is met within a tenth."""


@dataclass(slots=True, kw_only=True)
class TrainingRun:
    """Everything that a run consists of. `state` changes, and `seen`."""

    config: Config
    ranks: Processes
    policy: Policy
    style: Style
    drawing: RolloutContext
    estimator: Estimator
    learner: Learner
    journal: RunFolder
    examination: Benchmark | None
    gate: VisionGate | None
    say: Log
    state: State = field(default_factory=State)
    seen: dict[str, float] = field(default_factory=dict[str, float])
    """What the last look through the gate measured, while the weights are those that it looked at."""


def set_up(
    config: Config,
    folder: Path,
    *,
    resume: Path | None = None,
    sinks: Sequence[Callback] = (),
    say: Log = print,
    allow_changed: bool = False,
) -> TrainingRun:
    """Build every part of a run, warmed up or resumed."""
    accelerator = start_accelerator()
    ranks = Processes(accelerator)
    say = say if ranks.is_main else _hush
    if config.rollout.groups_per_step % ranks.count:
        raise UserError(
            f"rollout.groups_per_step: {config.rollout.groups_per_step} cannot be shared by {ranks.count} processes; make it a multiple"
        )
    estimator = build_estimator(config, folder)
    config = _settled(config, resume, estimator, ranks, say)
    saved = run_folder.newest_checkpoint(resume) if resume else None
    policy = load_policy(config.policy, seed=config.seed, path=saved / "policy" if saved else None, say=say)
    policy.model.to(accelerator.device)
    style = build_style(config.prompt, folder)
    check_template(style, policy.processor)
    checks = build_verifiers(config.verifiers, style, policy.frame, config.reward, folder)
    questions = read_dataset(config.data, checks, folder=folder)
    for name, why in questions.left_out:
        say(f"left out {name}: {why}")
    exam = examination(config, folder, policy) if config.evaluation.benchmark else None
    if exam and exam.missing:
        say(exam.missing)
    check_installed(config.trackers)
    own = resume_check.run_fingerprint(config, questions, checks)
    unchanged = True
    if resume is None:
        run_folder.refuse_to_overwrite(config.run_folder)
    else:
        unchanged = _tell_differences(resume, own, _environment(policy, ranks, folder), allow_changed=allow_changed, say=say)
    with raise_on_all_ranks(ranks.everybodys):
        engine = build_engine(config.rollout.engine, policy, folder, rank=ranks.rank, ranks=ranks.count, say=say)
    with ExitStack() as undo:  # an engine that nobody will close is closed here
        undo.callback(engine.close)
        if config.warmup.steps and not resume:
            policy = _warmed_up(config, folder, policy, questions, accelerator, say)
        written = _open_journal(config, resume or config.run_folder, own, _environment(policy, ranks, folder), sinks, ranks)
        ask = Asker(questions.stream(config.seed, "data"), style, policy)
        engine.refresh(policy, 0)
        with raise_on_all_ranks(ranks.everybodys):
            gate = build_gate(config, ask, engine)
        trainer = TrainingRun(
            config=config,
            ranks=ranks,
            policy=policy,
            style=style,
            drawing=_drawing(config, engine, ask, checks, estimator, ranks),
            estimator=estimator,
            learner=_learner(config, folder, policy, estimator, accelerator, say),
            journal=written,
            examination=exam,
            gate=gate,
            say=say,
        )
        if saved:
            _restore(trainer, saved, unchanged)
        elif config.steps:
            _warn(trainer, questions, style)
        undo.pop_all()
    return trainer


def _settled(config: Config, resume: Path | None, estimator: Estimator, ranks: Processes, say: Log) -> Config:
    """The config with the learner's `auto` resolved: by the run that goes on, else by what fits the smallest GPU.

    Everything after it, the run's config.yaml included, sees plain values, so a resumed run cannot resolve otherwise.
    """
    learner = config.learner
    if resume is not None:
        begun = read_yaml(resume / "config.yaml").get("learner", {})
        learner = learner.model_copy(update={key: begun[key] for key, value in learner if value == "auto" and key in begun})
    here = min((gb for gb in ranks.everybodys(gpu_here()) if gb), default=None)
    machine, limits = Machine(gb=config.hardware.gb or here, processes=ranks.count), unjudged(learner)
    if machine.gb is not None and not (resume and learner.is_settled):
        run = Workload(config=config.model_copy(update={"learner": learner}), size=size_of(config.policy), machine=machine, kl=estimator.kl)
        limits = settle(run)
        for fault in problems(run)[:1]:
            say(f"warning: {fault}; gpg-vl plan says what to change")
        if here and here < SMALLER * machine.gb:
            say(
                f"warning: hardware.gb is {machine.gb:g}, the smallest GPU here has {here:.0f}; leave hardware.gb out to go by what is here"
            )
    settled = learner.model_copy(update={"tokens_per_microbatch": limits.tokens, "checkpointing": limits.checkpointing})
    return config.model_copy(update={"learner": settled})


def _open_journal(
    config: Config, run: Path, own: dict[str, Any], environment: dict[str, Any], sinks: Sequence[Callback], ranks: Processes
) -> RunFolder:
    """The run's folder, begun by the main process, and its trackers."""
    trackers = [open_tracker(name, run, config.model_dump(mode="json")) for name in config.trackers if ranks.is_main]
    if ranks.is_main:
        run_folder.write_header(run, dump(config), environment)
        resume_check.write(run, own)
    ranks.accelerator.wait_for_everyone()
    return RunFolder(run, [*sinks, *trackers], rank=ranks.rank)


def _warn(trainer: TrainingRun, questions: Dataset, style: Style) -> None:
    """Tell where reinforcement will have little to work with."""
    with raise_on_all_ranks(trainer.ranks.everybodys):
        warnings = list(learnability_warnings(trainer.drawing, questions, style, trainer.policy))
    for warning in warnings:
        trainer.say(f"warning: {warning}")


def _drawing(
    config: Config, engine: RolloutEngine, ask: Asker, checks: VerifierSet, estimator: Estimator, ranks: Processes
) -> RolloutContext:
    """How the groups of every step are drawn on this rank."""
    return RolloutContext(
        engine=engine,
        ask=ask,
        verifiers=checks,
        config=config.rollout,
        wanted=min_informative_groups(estimator.min_informative, config.rollout.groups_per_step),
        seed=config.seed,
        rank=ranks.rank,
        ranks=ranks.count,
        everybodys=ranks.everybodys,
        clock=Timer(),
    )


def _tell_differences(run: Path, own: dict[str, Any], environment: dict[str, Any], *, allow_changed: bool, say: Log) -> bool:
    """Refuse a run that is not the one that was begun; tell what else is not as it was. True where all is as it was."""
    changed = list(resume_check.check(run, own, allow_changed=allow_changed))
    for difference in changed:
        say(f"changed, as allowed: {difference}")
    differences = list(resume_check.environment_differences(run_folder.read_environment(run), environment))
    for difference in differences:
        say(f"not as it was, so the last bits may differ: {difference}")
    return not (changed or differences)


def _hush(line: str) -> None:
    """Only the main process speaks."""


def _learner(config: Config, folder: Path, policy: Policy, estimator: Estimator, accelerator: Accelerator, say: Log) -> Learner:
    if why := policy.sharing.why_not:
        say(f"{why}: every answer is a row of its own")
    return Learner(
        _forward(config, policy),
        config.optimizer,
        accelerator,
        total_steps=config.steps,
        tokens_per_microbatch=unjudged(config.learner).tokens,
        updates_per_rollout=config.learner.updates_per_rollout,
        reference=_reference(config, folder, accelerator) if estimator.kl > 0 else None,
        say=say,
    )


def _forward(config: Config, policy: Policy) -> Forward:
    if not config.learner.shared_prefix:
        return UnsharedForward(policy, config.rollout.temperature)
    limits = unjudged(config.learner)
    return GroupForward(policy, config.rollout.temperature, tokens_at_once=limits.tokens, checkpointing=limits.checkpointing)


def _reference(config: Config, folder: Path, accelerator: Accelerator) -> Forward:
    """The policy as it was before the first step, also when the run has been resumed."""
    start = warmup_cache.cache_path(config, folder) if config.warmup.steps else None
    if start is not None and not warmup_cache.is_cached(start):
        raise UserError(f"{start}: the warmed-up policy, which estimator.kl compares with, is gone; start the run anew")
    policy = load_policy(config.policy, seed=config.seed, path=start)
    return _forward(config, policy).to(accelerator.device).requires_grad_(False)


def _warmed_up(config: Config, folder: Path, policy: Policy, questions: Dataset, accelerator: Accelerator, say: Log) -> Policy:
    """The policy after the warm-up: read from an earlier run's, or made now and kept."""
    kept = warmup_cache.cache_path(config, folder)
    if warmup_cache.is_cached(kept):
        say(f"warm-up: read from {kept}")
    else:
        warm_up(config, folder, policy, questions, accelerator, say)
        if accelerator.is_main_process:
            warmup_cache.store(policy, kept)
        accelerator.wait_for_everyone()
    warmed = load_policy(config.policy, seed=config.seed, path=kept)
    warmed.model.to(accelerator.device)
    return warmed


def warm_up(config: Config, folder: Path, policy: Policy, questions: Dataset, accelerator: Accelerator, say: Log) -> None:
    """Imitate solutions until the model speaks the format."""
    style = build_style(config.prompt, folder)
    checks = build_verifiers(config.verifiers, style, policy.frame, config.reward, folder)
    sources = config.warmup.data
    demonstrations = read_dataset(sources, checks, folder=folder, key="warmup.data") if sources else questions
    stream = demonstrations.stream(config.seed, "warmup")
    imitation = sft.Imitation(stream=stream, style=style, policy=policy, checks=checks, max_tokens=config.rollout.max_tokens)
    start = perf_counter()

    def told(step: int, update: Update) -> None:
        if step % max(1, config.warmup.steps // 10) == 0 or step == config.warmup.steps:
            say(f"warm-up {step}/{config.warmup.steps}: loss {update.metrics['loss']:.3f}, {perf_counter() - start:.1f} s")

    sft.warm_up(policy, imitation, config.warmup, accelerator, told, unjudged(config.learner), say)


def _restore(trainer: TrainingRun, saved: Path, unchanged: bool) -> None:
    trainer.state = checkpoint.load_state(saved, trainer.drawing.ask, trainer.ranks)
    checkpoint.load_learner(saved, trainer.learner, unchanged=unchanged)
    trainer.drawing.engine.refresh(trainer.policy, trainer.state.version)
    trainer.journal.rewind(trainer.state.step)
    told = f"weights, optimizer, schedule, {trainer.state.cursor} prompts drawn, {len(trainer.state.carried)} groups waiting"
    trainer.say(f"resumed from step {trainer.state.step} of {trainer.config.steps} ({told}): {saved}")


def _environment(policy: Policy, ranks: Processes, folder: Path) -> dict[str, Any]:
    return run_folder.environment(
        threads=torch.get_num_threads(),
        device=str(policy.device),
        processes=ranks.count,
        image_backend=policy.image_backend,
        config_folder=str(folder.resolve()),
    )
