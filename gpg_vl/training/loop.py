"""Train: data -> policy -> rollout -> verify -> method -> update, step by step."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from torch import Tensor

from gpg_vl import progress
from gpg_vl.errors import Stopped, raise_on_all_ranks
from gpg_vl.experiment import Experiment, Log
from gpg_vl.report.left_out import described
from gpg_vl.rollout.collect import SampledBatch, collect
from gpg_vl.run_folder import Callback
from gpg_vl.training import metrics
from gpg_vl.training.checkpoint import State
from gpg_vl.training.engine_checks import (
    check_gate,
    compare_forwards,
    gate_figures_if_due,
    log_gate_figures,
)
from gpg_vl.training.failures import disk_full_explained, lost_engine_explained
from gpg_vl.training.held_out import evaluate_held_out
from gpg_vl.training.memory_use import memory_gb
from gpg_vl.training.milestones import after_step, evaluation_is_missing, save
from gpg_vl.training.rehearsal import rehearse
from gpg_vl.training.setup import TrainingRun, set_up
from gpg_vl.training.signals import stop_request
from gpg_vl.training.stop_rules import first_verifier_error, stop_if_hopeless
from gpg_vl.types import LeftOut, Update

SHOWN_LOST = 5
"""Rows lost in one step that are printed; the file has them all."""


def train(
    experiment: Experiment,
    *,
    resume: Path | None = None,
    from_step: int | None = None,
    callbacks: Sequence[Callback] = (),
    log: Log = print,
    allow_changed: bool = False,
) -> Path:
    """Run an experiment and return its run folder.

    Args:
        resume: run folder to continue from its newest checkpoint.
        from_step: step of an earlier checkpoint to continue from; what came after it is dropped.
        callbacks: called with the number and the metrics of each step.
        log: called with a line for the user.
        allow_changed: resume although config, data or verifiers have changed.

    Raises:
        UserError: a mistake in config or data, or a reason to stop that only the user can mend.
        Stopped: Ctrl-C, SIGTERM or SIGHUP; the step has been finished and saved.
        KeyboardInterrupt: a second one, or one before the first step.
    """
    with stop_request(log) as request:
        run = set_up(
            experiment,
            resume=resume,
            from_step=from_step,
            callbacks=callbacks,
            log=log,
            allow_changed=allow_changed,
            stop=request,
        )
        with (
            closing(run.engine),
            closing(run.folder),
            disk_full_explained(run.folder.path),
            lost_engine_explained(run),
        ):
            progress.phase("checking the engine")
            compare_forwards(run)
            log_gate_figures(run, check_gate(run))
            rehearse(run)
            if run.state.step == 0:
                evaluate_held_out(run, "before")
                request.can_wait = True
                save(run)
            request.can_wait = True
            _take_steps(run)
            request.can_wait = False  # nothing is left to save: Ctrl-C leaves at once
    return run.folder.path


def _take_steps(run: TrainingRun) -> None:
    """Take the steps that are left, evaluate and save where it is due.

    Raises:
        Stopped: the run was asked to stop; its last step is saved.
    """
    total = run.config.steps
    progress.steps(run.state.step, total)
    is_saved = True
    if evaluation_is_missing(run):
        after_step(run, leaving=False)
    while True:
        is_done = run.state.step >= total and not evaluation_is_missing(run)
        if is_saved and not is_done and run.processes.any(run.stop.asked):
            raise Stopped
        if run.state.step >= total:  # more, where a run goes on with fewer steps
            return
        run.stop.doing = f"finishing step {run.state.step + 1}, then saving"
        train_step(run)
        leaving = run.processes.any(run.stop.asked) and run.state.step < total
        is_saved = after_step(run, leaving=leaving)


def train_step(run: TrainingRun) -> Update:
    """Sample groups, weigh their answers, update the policy, and write down what happened."""
    gate_figures = gate_figures_if_due(run)
    batch = collect(run.rollouts, run.state.cursor, run.state.carried)
    if run.processes.any(run.engine.needs_verification):
        check_gate(run)  # a replica was restarted while it sampled
    weights_BG = run.estimator.weights(batch.rewards_BG, batch.lengths_BG)
    with raise_on_all_ranks(run.processes.all_gather):
        run.engine.release_memory()
    with run.timer("update"):
        update = run.learner.update(batch, weights_BG, run.state.version)
    lost = _lost_rows(run, batch)
    run.state = _next_state(run, batch, update, len(lost))
    run.engine.update_weights(run.policy, run.state.version)
    run.gate_figures = {}
    _record(run, batch, weights_BG, update, gate_figures)
    _report_lost(run, lost)
    stop_if_hopeless(run, batch)
    return update


def _lost_rows(run: TrainingRun, batch: SampledBatch) -> list[LeftOut]:
    """Return the row of each draw of all processes that could not become a prompt."""
    lost: list[LeftOut] = []
    for of_one_rank in run.processes.all_gather(batch.unusable):
        for prompt_index, why in of_one_rank:
            lost.append(LeftOut.of(run.experiment.train_data[prompt_index], why))
    return lost


def _report_lost(run: TrainingRun, lost: Sequence[LeftOut]) -> None:
    """List the rows that a step lost, and report those that no earlier step had lost."""
    step = run.state.step
    new = run.folder.lost_rows(step, lost)
    for row in new[:SHOWN_LOST]:
        run.log(f"warning: step {step}: left out: {described(row)}")
    if len(new) > SHOWN_LOST:
        run.log(
            f"warning: step {step}: {len(new) - SHOWN_LOST} more are left out, see "
            f"{run.folder.left_out_path}"
        )


def _next_state(run: TrainingRun, batch: SampledBatch, update: Update, unusable: int) -> State:
    """Return the state after a step.

    Args:
        unusable: draws of all processes that could not become prompts.
    """
    state = run.state
    return State(
        step=state.step + 1,
        cursor=batch.cursor,
        version=state.version + (not update.skipped),
        idle=state.idle + 1 if update.was_idle else 0,
        bad=state.bad + 1 if update.is_non_finite else 0,
        unusable=state.unusable + unusable,
        carried=batch.surplus if run.config.rollout.carry_over else (),
    )


def _record(
    run: TrainingRun,
    batch: SampledBatch,
    weights_BG: Tensor,
    update: Update,
    gate_figures: Mapping[str, float],
) -> None:
    """Write rollouts and metrics of a step, and report what went wrong in it."""
    step, reward = run.state.step, run.config.reward
    weights = weights_BG[batch.own_rows].tolist()
    run.folder.rollouts(step, batch.groups, batch.fresh, weights)
    if update.is_non_finite:
        run.folder.dump(step, update.skipped, batch.groups, weights)
    own = metrics.step_statistics(batch.fresh, batch.groups, reward.accuracy + reward.format)
    sums = metrics.sum_statistics(run.processes.all_gather(own))
    row = metrics.step_metrics(
        sums,
        update,
        rounds=batch.rounds,
        alpha=run.estimator.alpha(batch.rewards_BG),
        seconds=run.timer.read(),
    )
    row["memory_gb"] = max(run.processes.all_gather(memory_gb(run.policy.device)))
    run.folder.metrics(step, {**row, **gate_figures, "lost": float(run.state.unusable)})
    verifier_error = first_verifier_error(batch)
    if verifier_error:
        run.log(
            f"warning: step {step}: the verifier failed on {sums['verifier_errors']} answers, "
            f"left out: {verifier_error}"
        )
