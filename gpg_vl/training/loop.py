"""Train: data -> policy -> rollout -> verify -> method -> update, step by step."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from gpg_vl.errors import Stopped, raise_on_all_ranks
from gpg_vl.evaluation import evaluate, records
from gpg_vl.experiment import Experiment, Log
from gpg_vl.policy.encode import template_thought
from gpg_vl.report.model_card import model_card
from gpg_vl.rollout.collect import SampledBatch, collect
from gpg_vl.run_folder import Callback
from gpg_vl.training import checkpoint, metrics
from gpg_vl.training.checkpoint import State
from gpg_vl.training.failures import disk_full_explained, lost_engine_explained
from gpg_vl.training.learner import COMPARED_TOKENS
from gpg_vl.training.setup import TrainingRun, set_up
from gpg_vl.training.signals import stop_request
from gpg_vl.training.stop_rules import first_verifier_error, stop_if_hopeless
from gpg_vl.types import Prompt, Update


def train(
    experiment: Experiment,
    *,
    resume: Path | None = None,
    callbacks: Sequence[Callback] = (),
    log: Log = print,
    allow_changed: bool = False,
) -> Path:
    """Run an experiment and return its run folder.

    Args:
        resume: run folder to continue from its newest checkpoint.
        callbacks: called with the number and the metrics of each step.
        log: called with a line for the user.
        allow_changed: resume although config, data or verifiers have changed.

    Raises:
        UserError: a mistake in config or data, or a reason to stop that only the user can mend.
        Stopped: Ctrl-C or SIGTERM; the step has been finished and saved.
        KeyboardInterrupt: a second one, or one before the first step.
    """
    with stop_request() as request:
        run = set_up(
            experiment, resume=resume, callbacks=callbacks, log=log, allow_changed=allow_changed
        )
        with (
            closing(run.engine),
            closing(run.folder),
            disk_full_explained(run.folder.path),
            lost_engine_explained(run, save),
        ):
            _compare_forwards(run)
            _log_gate(run, check_gate(run))
            if run.state.step == 0:
                _evaluate(run, "before")
                save(run)
            request.can_wait = True
            if _evaluation_is_missing(run):
                _after_step(run, leaving=False)
            while run.state.step < run.config.steps:
                train_step(run)
                leaving = run.processes.any(request.asked) and run.state.step < run.config.steps
                _after_step(run, leaving=leaving)
                if leaving:
                    raise Stopped
    return run.folder.path


def train_step(run: TrainingRun) -> Update:
    """Sample groups, weigh their answers, update the policy, and write down what happened."""
    gate_figures = _gate_figures_if_due(run)
    batch = collect(run.rollouts, run.state.cursor, run.state.carried)
    if run.processes.any(run.engine.needs_verification):
        check_gate(run)  # a replica was restarted while it sampled
    weights_BG = run.estimator.weights(batch.rewards_BG, batch.lengths_BG)
    with raise_on_all_ranks(run.processes.all_gather):
        run.engine.release_memory()
    with run.timer("update"):
        update = run.learner.update(batch, weights_BG, run.state.version)
    run.state = _next_state(run, batch, update)
    run.engine.update_weights(run.policy, run.state.version)
    run.gate_figures = {}
    _record(run, batch, update, gate_figures)
    stop_if_hopeless(run, batch)
    return update


def _next_state(run: TrainingRun, batch: SampledBatch, update: Update) -> State:
    state = run.state
    unusable = sum(len(sentences) for sentences in run.processes.all_gather(batch.unusable))
    was_idle = update.skipped == "no informative group"
    was_bad = update.skipped.startswith("non-finite")
    return State(
        step=state.step + 1,
        cursor=batch.cursor,
        version=state.version + (not update.skipped),
        idle=state.idle + 1 if was_idle else 0,
        bad=state.bad + 1 if was_bad else 0,
        unusable=state.unusable + unusable,
        carried=batch.surplus if run.config.rollout.carry_over else (),
    )


def _record(
    run: TrainingRun, batch: SampledBatch, update: Update, gate_figures: Mapping[str, float]
) -> None:
    """Write rollouts and metrics of a step, and report what went wrong in it."""
    step, reward = run.state.step, run.config.reward
    run.folder.rollouts(step, batch.groups, batch.fresh)
    if update.skipped.startswith("non-finite"):
        run.folder.dump(step, update.skipped, batch.groups)
    own = metrics.step_statistics(batch.fresh, batch.groups, reward.accuracy + reward.format)
    sums = metrics.sum_statistics(run.processes.all_gather(own))
    row = metrics.step_metrics(
        sums,
        update,
        rounds=batch.rounds,
        alpha=run.estimator.alpha(batch.rewards_BG),
        seconds=run.timer.read(),
    )
    run.folder.metrics(step, {**row, **gate_figures, "lost": float(run.state.unusable)})
    for sentence in batch.unusable:
        run.log(f"warning: step {step}: left out: {sentence}")
    verifier_error = first_verifier_error(batch)
    if verifier_error:
        run.log(
            f"warning: step {step}: the verifier failed on {sums['faults']} answers, left out: "
            f"{verifier_error}"
        )


def check_gate(run: TrainingRun) -> dict[str, float]:
    """Check with the vision gate, if there is one, that the engine sees what the trainer sees."""
    if run.gate is None:
        return {}
    with run.timer("gate"), raise_on_all_ranks(run.processes.all_gather):
        run.gate_figures = run.gate.check(run.engine, run.policy, run.state.version)
    return run.gate_figures


def _gate_figures_if_due(run: TrainingRun) -> dict[str, float]:
    every = run.config.rollout.gate.every
    if not every or run.state.step % every:
        return {}
    return run.gate_figures or check_gate(run)  # the engine may have just been checked


def _log_gate(run: TrainingRun, figures: Mapping[str, float]) -> None:
    """Report what the first check measured and what it allows."""
    if not figures:
        return
    parts: list[str] = []
    for mean, worst in (("mean", "worst"), ("noise", "noise_worst"), ("allowed", "allowed_worst")):
        values = figures[f"gate/{mean}"], figures[f"gate/{worst}"]
        parts.append(f"mean {values[0]:.1e}, worst {values[1]:.1e}")
    measured, rounding, allowed = parts
    run.log(
        f"vision gate: engine and trainer differ by {measured} nat a token; rounding alone: "
        f"{rounding}; allowed: {allowed}"
    )


def _compare_forwards(run: TrainingRun) -> None:
    """Compare the group forward with plain rows, before the gate measures rounding with it.

    Without a gate the first update does.
    """
    if run.gate is None or not run.gate.prompts:
        return
    prompt = min(run.gate.prompts, key=_is_text_then_length)
    max_tokens = min(run.gate.sampling.max_tokens, COMPARED_TOKENS)
    sampling = replace(run.gate.sampling, max_tokens=max_tokens)
    with raise_on_all_ranks(run.processes.all_gather):
        (answers,) = run.engine.generate([prompt], sampling, [[0, 1]])
    run.learner.compare_once((prompt, answers), run.config.rollout.group_size)


def _is_text_then_length(prompt: Prompt) -> tuple[bool, int]:
    return not prompt.images, len(prompt.input_ids)


def _after_step(run: TrainingRun, *, leaving: bool) -> None:
    """Evaluate and save where it is due.

    A run that is left is saved. An evaluated step is saved too, so that the best of them can be
    kept.
    """
    step, config = run.state.step, run.config
    is_last = step == config.steps
    due = _evaluation_due(run)
    evaluates = is_last or (bool(due) and not leaving)
    score = None
    if evaluates:
        score = _evaluate(run, due, head=None if is_last else config.evaluation.head)
    if evaluates or leaving or step % config.checkpoint.every == 0:
        save(run, score)


def _evaluation_due(run: TrainingRun) -> str:
    """Return the name of the evaluation that belongs to this step; empty = none does."""
    step, every = run.state.step, run.config.evaluation.every
    if step == run.config.steps:
        return "after"
    if step and every and step % every == 0:
        return f"{step:06d}"
    return ""


def _evaluation_is_missing(run: TrainingRun) -> bool:
    """Return True if a run was left between a step and the evaluation that belongs to it."""
    is_missing = False
    if run.state.step and run.benchmark and run.processes.is_main:
        due = _evaluation_due(run)
        is_missing = bool(due) and not _evaluation_path(run, due).exists()
    return run.processes.any(is_missing)


def _evaluation_path(run: TrainingRun, when: str) -> Path:
    assert run.benchmark is not None
    return run.folder.path / "evaluation" / f"{run.benchmark.spec.name}-{when}.jsonl"


def _evaluate(run: TrainingRun, when: str, head: int | None = None) -> float | None:
    """Return the mean greedy accuracy on held-out questions; None without a benchmark.

    Args:
        head: only so many questions of each row of the table.
    """
    with raise_on_all_ranks(run.processes.all_gather):
        if run.benchmark is None or not run.processes.is_main:
            return None
        benchmark = run.benchmark.shortened(head) if head else run.benchmark
        evaluated = evaluate.run_benchmark(benchmark, run.policy, run.engine)
        if run.engine.needs_verification and run.gate:
            run.gate.check(run.engine, run.policy, run.state.version)
    records.save(evaluated, _evaluation_path(run, when))
    parts: list[str] = []
    scores: list[float] = []
    for tag, rows in records.by_tag(evaluated).items():
        parts.append(f"{tag} {100 * fmean(record.greedy for record in rows):.1f} %")
        # The score is made of the same questions at every step, so that steps can be compared.
        scores += [record.greedy for record in rows[: run.config.evaluation.head]]
    run.log(f"held out, {when}: {', '.join(parts)}")
    failures = records.failures(evaluated)
    if failures:
        run.log(f"warning: {failures}")
    return fmean(scores)


def save(run: TrainingRun, score: float | None = None) -> None:
    """Write a checkpoint.

    Args:
        score: of the evaluation that belongs to this step, if there is one.
    """
    state = checkpoint.state_row(run.state, run.processes)
    if run.processes.is_main:
        path, config = run.folder.path, run.config
        card = model_card(
            config,
            run.state.step,
            path,
            run.experiment.style,
            run.policy.frame,
            opened=template_thought(run.policy.processor) == "<think>",
        )
        row = {**state, "score": score}
        checkpoint.save(path, run.state.step, row, run.policy, run.learner, card)
        checkpoint.prune(path, config.checkpoint.keep_last, config.checkpoint.keep_best)
    run.processes.accelerator.wait_for_everyone()
