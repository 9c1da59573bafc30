"""The loop, and what stands around it: a model to start from, checkpoints, evaluations, reasons to stop."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator

from gpg_vl import benchmark, journal
from gpg_vl.benchmark import Examination
from gpg_vl.clock import Clock
from gpg_vl.config import Config, Source, dump, load_benchmark
from gpg_vl.estimators import Estimator, groups_wanted
from gpg_vl.journal import Journal, Sink
from gpg_vl.policy.load import Policy, load_policy
from gpg_vl.policy.logprobs import PlainForward
from gpg_vl.policy.shared_prefix import GroupForward
from gpg_vl.rollout.collect import Collected, Drawing, collect, sample_groups
from gpg_vl.training import checkpoint, sft, warmups
from gpg_vl.training.checkpoint import State
from gpg_vl.training.distributed import Ranks
from gpg_vl.training.experiment import (
    Asker,
    Questions,
    build_engine,
    build_estimator,
    build_style,
    build_verifiers,
    read_questions,
)
from gpg_vl.training.learner import Forward, Learner
from gpg_vl.types import Group, Update, UserError

Say = Callable[[str], None]
"""Tells the user a line."""


@dataclass(slots=True, kw_only=True)
class Trainer:
    """Everything that a run consists of. `state` alone changes."""

    config: Config
    ranks: Ranks
    policy: Policy
    drawing: Drawing
    estimator: Estimator
    learner: Learner
    journal: Journal
    examination: Examination | None
    say: Say
    state: State = field(default_factory=State)


def train(config: Config, folder: Path, *, resume: Path | None = None, sinks: Sequence[Sink] = (), say: Say = print) -> Path:
    """Run an experiment; its run folder.

    Args:
        folder: the config's own, for files and plug-ins named relative to it.
        resume: a run folder to continue from its newest checkpoint.

    Raises:
        UserError: a mistake in the config or the data, or a reason to stop that only the user can mend.
    """
    trainer = assemble(config, folder, resume=resume, sinks=sinks, say=say)
    start = trainer.state.step
    if start == 0:
        _evaluate(trainer, "before")
        _save(trainer, None)
    while trainer.state.step < config.steps:
        take_step(trainer)
        _after_step(trainer)
    if config.steps and not (trainer.state.step == start and _evaluation_path(trainer, "after").exists()):
        _evaluate(trainer, "after")
    trainer.drawing.engine.close()
    return trainer.journal.folder


def take_step(trainer: Trainer) -> Update:
    """Draw, weigh, update, write down."""
    state, clock = trainer.state, trainer.drawing.clock
    collected = collect(trainer.drawing, state.cursor, state.carried)
    rewards_BG, lengths_BG, mine = trainer.ranks.matrices(collected.groups)
    with clock("update"):
        update = trainer.learner.update(collected.groups, trainer.estimator, rewards_BG, lengths_BG, mine, state.version)
    trainer.state = _advance(state, collected, update, carry=bool(trainer.config.rollout.carry_over))
    trainer.drawing.engine.refresh(trainer.policy, trainer.state.version)
    _write_down(trainer, collected, update)
    _stop_if_hopeless(trainer, collected)
    return update


def _advance(state: State, collected: Collected, update: Update, *, carry: bool) -> State:
    return State(
        step=state.step + 1,
        cursor=collected.cursor,
        version=state.version + (not update.skipped),
        idle=state.idle + 1 if update.skipped == "no informative group" else 0,
        bad=state.bad + 1 if update.skipped.startswith("non-finite") else 0,
        carried=collected.surplus if carry else (),
    )


def _write_down(trainer: Trainer, collected: Collected, update: Update) -> None:
    reward, rollout = trainer.config.reward, trainer.config.rollout
    sums = journal.tally(collected.fresh, collected.groups, reward.accuracy + reward.format)
    for other in trainer.ranks.everybodys(sums)[1:] if trainer.ranks.is_main else []:
        sums += other
    if not trainer.ranks.is_main:
        return
    alpha = rollout.groups_per_step / max(sums["n:used_informative"], trainer.drawing.wanted, 1)
    seconds = trainer.drawing.clock.read()
    row = journal.step_metrics(sums, update, rounds=collected.rounds, alpha=max(1.0, alpha), seconds=seconds)
    trainer.journal.rollouts(trainer.state.step, collected.groups, collected.fresh)
    trainer.journal.metrics(trainer.state.step, row)
    if update.skipped.startswith("non-finite"):
        trainer.journal.dump(trainer.state.step, update.skipped, collected.groups)


def _stop_if_hopeless(trainer: Trainer, collected: Collected) -> None:
    state, config = trainer.state, trainer.config
    if state.idle >= config.rollout.idle_steps:
        rewards = [reward for group in collected.fresh for reward in group.rewards if not math.isnan(reward)]
        mean = fmean(rewards) if rewards else math.nan
        full = config.reward.accuracy + config.reward.format
        why = "everything is right: make the questions harder" if mean > full / 2 else "everything is wrong: warm up longer or ask easier"
        raise UserError(
            f"stopped at step {state.step}: {state.idle} steps in a row without an informative group (mean reward {mean:.3g}); {why}"
        )
    if state.bad >= config.learner.max_bad_steps:
        raise UserError(
            f"stopped at step {state.step}: {state.bad} non-finite steps in a row; lower optimizer.lr (now {config.optimizer.lr:g}). "
            f"The batches are in {trainer.journal.folder / 'bad_steps'}"
        )


def _after_step(trainer: Trainer) -> None:
    config, step = trainer.config, trainer.state.step
    score = None
    if config.evaluation.every and step % config.evaluation.every == 0 and step < config.steps:
        score = _evaluate(trainer, f"{step:06d}", head=config.evaluation.head)
    if step % config.checkpoint.every == 0 or step == config.steps:
        _save(trainer, score)


def _save(trainer: Trainer, score: float | None) -> None:
    if trainer.ranks.is_main:
        checkpoint.save(trainer.journal.folder, trainer.state, trainer.policy, trainer.learner, score)
        checkpoint.prune(trainer.journal.folder, trainer.config.checkpoint.keep_last, trainer.config.checkpoint.keep_best)
    trainer.ranks.accelerator.wait_for_everyone()


def _evaluation_path(trainer: Trainer, when: str) -> Path:
    name = trainer.examination.spec.name if trainer.examination else "none"
    return trainer.journal.folder / "evaluation" / f"{name}-{when}.jsonl"


def _evaluate(trainer: Trainer, when: str, head: int | None = None) -> float | None:
    """Mean greedy accuracy on held-out questions; None without a benchmark."""
    if trainer.examination is None or not trainer.ranks.is_main:
        return None
    questions = trainer.examination.questions
    asked = [sample for rows in _by_tag(questions).values() for sample in rows[:head]] if head else questions
    records = benchmark.examine(replace(trainer.examination, questions=asked), trainer.policy, trainer.drawing.engine)
    benchmark.save(records, _evaluation_path(trainer, when))
    parts = ", ".join(f"{tag} {100 * fmean(record.greedy for record in rows):.1f} %" for tag, rows in benchmark.by_tag(records).items())
    trainer.say(f"held out, {when}: {parts}")
    return fmean(record.greedy for record in records)


def _by_tag(questions: Sequence[Any]) -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = {}
    for sample in questions:
        rows.setdefault(sample.tags.get("task", sample.answer_kind), []).append(sample)
    return rows


def assemble(config: Config, folder: Path, *, resume: Path | None, sinks: Sequence[Sink], say: Say) -> Trainer:
    """Build every part of a run, warmed up or resumed."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    ranks = Ranks(accelerator)
    if config.rollout.groups_per_step % ranks.count:
        raise UserError(
            f"rollout.groups_per_step: {config.rollout.groups_per_step} cannot be shared by {ranks.count} processes; make it a multiple"
        )
    estimator = build_estimator(config, folder)
    saved = checkpoint.newest(resume) if resume else None
    policy = load_policy(config.policy, seed=config.seed, path=saved / "policy" if saved else None)
    policy.model.to(accelerator.device)
    style = build_style(config.prompt, folder)
    checks = build_verifiers(config.verifiers, style, policy.frame, config.reward, folder)
    questions = read_questions(config.data, checks, folder=folder)
    for name, why in questions.left_out:
        say(f"left out {name}: {why}")
    written = (
        Journal(resume, sinks) if resume else Journal.create(config.run_folder, dump(config), _environment(policy, ranks, folder), sinks)
    )
    if not resume and config.warmup.steps:
        policy = _warmed_up(config, folder, policy, questions, accelerator, say)
    drawing = Drawing(
        engine=build_engine(config.rollout.engine, policy, folder),
        ask=Asker(questions.stream(config.seed, "data"), style, policy),
        verifiers=checks,
        config=config.rollout,
        wanted=groups_wanted(estimator.min_informative, config.rollout.groups_per_step),
        seed=config.seed,
        rank=ranks.rank,
        ranks=ranks.count,
        total=ranks.total,
        clock=Clock(),
    )
    trainer = Trainer(
        config=config,
        ranks=ranks,
        policy=policy,
        drawing=drawing,
        estimator=estimator,
        learner=_learner(config, policy, estimator, accelerator),
        journal=written,
        examination=examination(config, folder, policy) if config.evaluation.benchmark else None,
        say=say,
    )
    if saved:
        _restore(trainer, saved)
    elif config.steps:
        _warn_if_weak(trainer, questions)
    return trainer


def examination(config: Config, folder: Path, policy: Policy, name: str | None = None) -> Examination:
    """The held-out questions of a config's benchmark, or of a benchmark by name."""
    wanted = name or config.evaluation.benchmark
    assert wanted is not None
    spec, home = load_benchmark(wanted, folder)
    style = build_style(spec.prompt or config.prompt, home if spec.prompt else folder)
    checks = build_verifiers({**config.verifiers, **spec.verifiers}, style, policy.frame, config.reward, folder)
    questions = read_questions(spec.data, checks, folder=home)
    flat = [sample for source in questions.sources for sample in source]
    return Examination(spec=spec, questions=flat, style=style, checks=checks, seed=config.seed)


def _learner(config: Config, policy: Policy, estimator: Estimator, accelerator: Accelerator) -> Learner:
    kind: type[Forward] = GroupForward if config.learner.shared_prefix else PlainForward
    temperature = config.rollout.temperature
    reference: Forward | None = None
    if estimator.kl > 0:
        frozen = load_policy(config.policy, seed=config.seed)
        frozen.model.load_state_dict(policy.model.state_dict())
        reference = kind(frozen, temperature).to(accelerator.device).requires_grad_(False)
    return Learner(
        kind(policy, temperature),
        config.optimizer,
        accelerator,
        total_steps=config.steps,
        tokens_per_microbatch=config.learner.tokens_per_microbatch,
        updates_per_rollout=config.learner.updates_per_rollout,
        reference=reference,
    )


def _warmed_up(config: Config, folder: Path, policy: Policy, questions: Questions, accelerator: Accelerator, say: Say) -> Policy:
    """The policy after the warm-up: read from an earlier run's, or made now and kept."""
    kept = warmups.place(config)
    if warmups.exists(kept):
        say(f"warm-up: read from {kept}")
    else:
        warm_up(config, folder, policy, questions, accelerator, say)
        if accelerator.is_main_process:
            warmups.keep(policy, kept)
        accelerator.wait_for_everyone()
    warmed = load_policy(config.policy, seed=config.seed, path=kept)
    warmed.model.to(accelerator.device)
    return warmed


def warm_up(config: Config, folder: Path, policy: Policy, questions: Questions, accelerator: Accelerator, say: Say) -> None:
    """Imitate solutions until the model speaks the format."""
    style = build_style(config.prompt, folder)
    checks = build_verifiers(config.verifiers, style, policy.frame, config.reward, folder)
    sources: tuple[Source, ...] = config.warmup.data
    demonstrations = read_questions(sources, checks, folder=folder, key="warmup.data") if sources else questions
    imitation = sft.Imitation(
        stream=demonstrations.stream(config.seed, "warmup"),
        style=style,
        policy=policy,
        checks=checks,
        truth=config.warmup.truth,
        seed=config.seed,
    )
    start = perf_counter()

    def told(step: int, update: Update) -> None:
        if step % max(1, config.warmup.steps // 10) == 0 or step == config.warmup.steps:
            say(f"warm-up {step}/{config.warmup.steps}: loss {update.metrics['loss']:.3f}, {perf_counter() - start:.1f} s")

    sft.warm_up(policy, imitation, config.warmup, accelerator, told)


PROBED_PROMPTS = 12
WEAK_INFORMATIVE, WEAK_IOU = 0.2, 0.4


def _warn_if_weak(trainer: Trainer, questions: Questions) -> None:
    """Sample each kind of task before the first step, and warn where reinforcement has little to work with."""
    ask = trainer.drawing.ask
    assert isinstance(ask, Asker)
    for source in questions.sources:
        probe = [
            replace(ask, stream=type(ask.stream)((source,), (1,), trainer.config.seed, "probe"))(index) for index in range(PROBED_PROMPTS)
        ]
        groups = sample_groups(trainer.drawing, [(-1 - index, prompt) for index, prompt in enumerate(probe)])
        if warning := weakness(groups):
            trainer.say(f"warning: {warning}")
    trainer.drawing.clock.read()


def weakness(groups: Sequence[Group]) -> str:
    """Why reinforcement has little to work with on these groups of one task; empty = nothing."""
    sample = groups[0].prompt.sample
    task = sample.tags.get("task", sample.answer_kind)
    share = fmean(group.informative for group in groups)
    mean = fmean(fmean(group.rewards) for group in groups)
    if share < WEAK_INFORMATIVE:
        remedy = "it is solved: raise its difficulty" if mean > 0.5 else "raise warmup.steps or lower its difficulty"
        return f"{task}: only {100 * share:.0f} % of its groups are informative (mean reward {mean:.2f}); {remedy}"
    if sample.answer_kind == "boxes" and mean < WEAK_IOU:
        return (
            f"{task}: sampled IoU is {mean:.2f}; below {WEAK_IOU} IoU reward tends to one constant box: raise warmup.steps, keep lr <= 1e-4"
        )
    return ""


def _restore(trainer: Trainer, saved: Path) -> None:
    trainer.state = checkpoint.load_state(saved, trainer.drawing.ask)
    checkpoint.load_learner(saved, trainer.learner)
    trainer.drawing.engine.refresh(trainer.policy, trainer.state.version)
    if trainer.ranks.is_main:
        trainer.journal.rewind(trainer.state.step)
    trainer.say(f"resumed from step {trainer.state.step}: {saved}")


def _environment(policy: Policy, ranks: Ranks, folder: Path) -> dict[str, Any]:
    return journal.environment(
        threads=torch.get_num_threads(),
        device=str(policy.device),
        processes=ranks.count,
        image_backend=policy.image_backend,
        config_folder=str(folder.resolve()),
    )
