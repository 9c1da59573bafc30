"""The loop: draw, weigh, update, write down; evaluations, checkpoints, and reasons to stop."""

import errno
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from gpg_vl import run_folder
from gpg_vl.config.schema import Config
from gpg_vl.errors import EngineLostError, MismatchError, Stopped, UserError
from gpg_vl.evaluation import evaluate
from gpg_vl.evaluation import records as eval_records
from gpg_vl.policy.encode import template_thought
from gpg_vl.report.model_card import model_card
from gpg_vl.rollout.collect import SampledStep, collect
from gpg_vl.run_folder import Callback
from gpg_vl.training import checkpoint, metrics
from gpg_vl.training.checkpoint import State
from gpg_vl.training.learner import COMPARED_TOKENS
from gpg_vl.training.processes import raise_on_all_ranks
from gpg_vl.training.setup import Log, TrainingRun, set_up
from gpg_vl.training.signals import stop_request
from gpg_vl.training.stop_rules import first_verifier_error, stop_if_hopeless
from gpg_vl.types import Update


def train(
    config: Config,
    folder: Path,
    *,
    resume: Path | None = None,
    sinks: Sequence[Callback] = (),
    say: Log = print,
    allow_changed: bool = False,
) -> Path:
    """Run an experiment; its run folder.

    Args:
        folder: the config's own, for files and plug-ins named relative to it.
        resume: a run folder to continue from its newest checkpoint.
        allow_changed: go on even if config, data or verifiers are not those that the run was begun with.

    Raises:
        UserError: a mistake in the config or the data, or a reason to stop that only the user can mend.
        Stopped: Ctrl-C or SIGTERM; the step has been finished and saved.
        KeyboardInterrupt: a second one, or one before the first step.
    """
    with stop_request() as request:
        trainer = set_up(config, folder, resume=resume, sinks=sinks, say=say, allow_changed=allow_changed)
        with closing(trainer.drawing.engine), disk_full_is_told(trainer.journal.folder), lost_engine_is_survived(trainer):
            _compare_ways(trainer)
            _tell_look(trainer, look(trainer))
            if trainer.state.step == 0:
                _evaluate(trainer, "before")
                _save(trainer, None)
            request.can_wait = True
            if _owes_an_examination(trainer):
                _after_step(trainer, leaving=False)
            while trainer.state.step < config.steps:
                take_step(trainer)
                leaving = bool(trainer.ranks.largest(int(request.asked))) and trainer.state.step < config.steps
                _after_step(trainer, leaving=leaving)
                if leaving:
                    raise Stopped
    return trainer.journal.folder


@contextmanager
def disk_full_is_told(run: Path) -> Generator[None, None, None]:
    """A full disk stops the run with a sentence; what has been saved is whole."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not _is_disk_full(error):
            raise
        kept = run_folder.complete_checkpoints(run)
        ahead = f"go on from step {int(kept[-1].name)} with gpg-vl train --resume {run}" if kept else "start the run again"
        raise UserError(
            f"stopped: no space left to write below {run} ({' '.join(str(error).split())[:200]}); make room, then {ahead}"
        ) from None


def _is_disk_full(error: Exception) -> bool:
    """By number, or by the words of writers that hide the number (safetensors, torch.save)."""
    told = str(error)
    by_number = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    return by_number or any(words in told for words in ("os error 28", "os error 27", "os error 122", "PytorchStreamWriter failed writing"))


@contextmanager
def lost_engine_is_survived(trainer: TrainingRun) -> Generator[None, None, None]:
    """A run whose engine is gone stops with a sentence, after the last whole step has been saved.

    One whose engine samples from something else saves nothing: what has been learnt since the gate last opened may be wrong.
    """
    try:
        yield
    except MismatchError as error:
        if not (kept := run_folder.complete_checkpoints(trainer.journal.folder)):
            raise
        ahead = f"go on from step {int(kept[-1].name)} with gpg-vl train --resume {trainer.journal.folder}"
        raise MismatchError(f"{error}. Mend it, then {ahead}") from None
    except EngineLostError as error:
        run, step = trainer.journal.folder, trainer.state.step
        missing = trainer.ranks.is_main and step not in {int(path.name) for path in run_folder.complete_checkpoints(run)}
        if trainer.ranks.largest(int(missing)):
            _save(trainer, None)
        raise UserError(f"stopped after step {step}: {error}. Then go on with gpg-vl train --resume {run}") from None


def look(trainer: TrainingRun) -> dict[str, float]:
    """One look through the vision gate, if there is one."""
    if trainer.gate is None:
        return {}
    with trainer.drawing.clock("gate"), raise_on_all_ranks(trainer.ranks.everybodys):
        trainer.seen = trainer.gate.look(trainer.drawing.engine, trainer.policy, trainer.state.version)
    return trainer.seen


def _compare_ways(trainer: TrainingRun) -> None:
    """Hold the group forward against plain rows before the gate measures rounding by it; without a gate the first update does."""
    if trainer.gate is None or not trainer.gate.prompts:
        return
    prompt = min(trainer.gate.prompts, key=lambda prompt: (not prompt.images, len(prompt.input_ids)))
    sampling = replace(trainer.gate.sampling, max_tokens=min(trainer.gate.sampling.max_tokens, COMPARED_TOKENS))
    with raise_on_all_ranks(trainer.ranks.everybodys):
        (answers,) = trainer.drawing.engine.generate([prompt], sampling, [[0, 1]])
    trainer.learner.compare_once((prompt, answers), trainer.config.rollout.group_size)


def _tell_look(trainer: TrainingRun, seen: Mapping[str, float]) -> None:
    """What the first look measured and allowed."""
    if seen:
        found, rounding, allowed = (
            f"mean {seen[f'gate/{name[0]}']:.1e}, worst {seen[f'gate/{name[1]}']:.1e}"
            for name in (("mean", "worst"), ("noise", "noise_worst"), ("allowed", "allowed_worst"))
        )
        trainer.say(f"vision gate: engine and trainer differ by {found} nat a token; rounding alone: {rounding}; allowed: {allowed}")


def take_step(trainer: TrainingRun) -> Update:
    """Draw, weigh, update, write down."""
    state, clock = trainer.state, trainer.drawing.clock
    every = trainer.config.rollout.gate.every
    seen = (trainer.seen or look(trainer)) if every and state.step % every == 0 else {}
    collected = collect(trainer.drawing, state.cursor, state.carried)
    if trainer.ranks.largest(int(trainer.drawing.engine.renewed)):
        look(trainer)
    rewards_BG, lengths_BG, mine = trainer.ranks.matrices(collected.groups)
    with raise_on_all_ranks(trainer.ranks.everybodys):
        trainer.drawing.engine.rest()
    with clock("update"):
        update = trainer.learner.update(collected.groups, trainer.estimator, rewards_BG, lengths_BG, mine, state.version)
    lost = sum(map(len, trainer.ranks.everybodys(collected.lost)))
    trainer.state = _advance(state, collected, update, lost=lost, carry=bool(trainer.config.rollout.carry_over))
    trainer.drawing.engine.refresh(trainer.policy, trainer.state.version)
    trainer.seen = {}
    _write_down(trainer, collected, update, trainer.estimator.alpha(rewards_BG), seen)
    stop_if_hopeless(trainer, collected)
    return update


def _advance(state: State, collected: SampledStep, update: Update, *, lost: int, carry: bool) -> State:
    return State(
        step=state.step + 1,
        cursor=collected.cursor,
        version=state.version + (not update.skipped),
        idle=state.idle + 1 if update.skipped == "no informative group" else 0,
        bad=state.bad + 1 if update.skipped.startswith("non-finite") else 0,
        lost=state.lost + lost,
        carried=collected.surplus if carry else (),
    )


def _write_down(trainer: TrainingRun, collected: SampledStep, update: Update, alpha: float, seen: Mapping[str, float]) -> None:
    reward = trainer.config.reward
    trainer.journal.rollouts(trainer.state.step, collected.groups, collected.fresh)
    if update.skipped.startswith("non-finite"):
        trainer.journal.dump(trainer.state.step, update.skipped, collected.groups)
    own = metrics.step_statistics(collected.fresh, collected.groups, reward.accuracy + reward.format)
    sums = metrics.sum_statistics(trainer.ranks.everybodys(own))
    row = metrics.step_metrics(sums, update, rounds=collected.rounds, alpha=alpha, seconds=trainer.drawing.clock.read())
    trainer.journal.metrics(trainer.state.step, {**row, **seen, "lost": float(trainer.state.lost)})
    for reason in collected.lost:
        trainer.say(f"warning: step {trainer.state.step}: left out: {reason}")
    if fault := first_verifier_error(collected):
        trainer.say(f"warning: step {trainer.state.step}: the verifier failed on {sums['faults']} answers, left out: {fault}")


def _after_step(trainer: TrainingRun, *, leaving: bool) -> None:
    """A checkpoint where one is due or the run is left, or was examined, so that the best examined one can be kept."""
    config, step = trainer.config, trainer.state.step
    last, due = step == config.steps, _examination_due(trainer)
    examined = last or bool(not leaving and due)
    score = _evaluate(trainer, due, head=None if last else config.evaluation.head) if examined else None
    if examined or leaving or step % config.checkpoint.every == 0:
        _save(trainer, score)


def _examination_due(trainer: TrainingRun) -> str:
    """What the examination that belongs to this step is called; empty = none does."""
    step, every = trainer.state.step, trainer.config.evaluation.every
    if step == trainer.config.steps:
        return "after"
    return f"{step:06d}" if step and every and step % every == 0 else ""


def _owes_an_examination(trainer: TrainingRun) -> bool:
    """Whether the run was left, by request or by its engine, after a step and before the examination that belongs to it."""
    due = _examination_due(trainer) if trainer.state.step and trainer.examination else ""
    return bool(trainer.ranks.largest(int(bool(due) and trainer.ranks.is_main and not _evaluation_path(trainer, due).exists())))


def _save(trainer: TrainingRun, score: float | None) -> None:
    state = checkpoint.state_row(trainer.state, trainer.ranks)
    if trainer.ranks.is_main:
        opened = template_thought(trainer.policy.processor) == "<think>"
        card = model_card(trainer.config, trainer.state.step, trainer.journal.folder, trainer.style, trainer.policy.frame, opened=opened)
        checkpoint.save(trainer.journal.folder, trainer.state.step, {**state, "score": score}, trainer.policy, trainer.learner, card)
        checkpoint.prune(trainer.journal.folder, trainer.config.checkpoint.keep_last, trainer.config.checkpoint.keep_best)
    trainer.ranks.accelerator.wait_for_everyone()


def _evaluation_path(trainer: TrainingRun, when: str) -> Path:
    name = trainer.examination.spec.name if trainer.examination else "none"
    return trainer.journal.folder / "evaluation" / f"{name}-{when}.jsonl"


def _evaluate(trainer: TrainingRun, when: str, head: int | None = None) -> float | None:
    """Mean greedy accuracy on held-out questions; None without a benchmark."""
    with raise_on_all_ranks(trainer.ranks.everybodys):
        return _examined(trainer, when, head) if trainer.ranks.is_main else None


def _examined(trainer: TrainingRun, when: str, head: int | None) -> float | None:
    if trainer.examination is None:
        return None
    exam = trainer.examination.shortened(head) if head else trainer.examination
    engine = trainer.drawing.engine
    records = evaluate.run_benchmark(exam, trainer.policy, engine)
    if engine.renewed and trainer.gate:
        trainer.gate.look(engine, trainer.policy, trainer.state.version)
    eval_records.save(records, _evaluation_path(trainer, when))
    parts = ", ".join(f"{tag} {100 * fmean(record.greedy for record in rows):.1f} %" for tag, rows in eval_records.by_tag(records).items())
    trainer.say(f"held out, {when}: {parts}")
    if failed := eval_records.failures(records):
        trainer.say(f"warning: {failed}")
    rows = eval_records.by_tag(records).values()
    return fmean(record.greedy for tagged in rows for record in tagged[: trainer.config.evaluation.head])
