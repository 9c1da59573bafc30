"""Evaluate and save a run at the steps where it is due."""

from itertools import chain
from pathlib import Path
from statistics import fmean

from gpg_vl import progress
from gpg_vl.errors import one_line, raise_on_all_ranks
from gpg_vl.evaluation import evaluate, records
from gpg_vl.policy import quantised
from gpg_vl.policy.encode import template_thought
from gpg_vl.policy.load import Policy
from gpg_vl.report.model_card import Adapter, model_card, question_of
from gpg_vl.run_folder import evaluation_path, is_evaluated
from gpg_vl.training import checkpoint, metrics
from gpg_vl.training.setup import TrainingRun
from gpg_vl.training.signals import EvaluationDroppedError
from gpg_vl.types import LeftOut


def after_step(run: TrainingRun, *, leaving: bool) -> bool:
    """Evaluate and save where it is due; return whether the step is saved.

    A run that is left is saved. An evaluated step is saved too, so that the best of them can be
    kept. A request to stop ends the evaluation, which a resumed run then makes.
    """
    step, config = run.state.step, run.config
    due = "" if leaving else evaluation_due(run)
    score = None
    if due:
        is_last = step == config.steps
        score = evaluate_held_out(run, due, head=None if is_last else config.evaluation.head)
    is_due = bool(due or leaving or step % config.checkpoint.every == 0)
    if is_due:
        save(run, score)
    return is_due


def evaluation_due(run: TrainingRun) -> str:
    """Return the name of the evaluation that belongs to this step; empty = none does."""
    step, every = run.state.step, run.config.evaluation.every
    if step == run.config.steps:
        return "after"
    if step and every and step % every == 0:
        return f"{step:06d}"
    return ""


def evaluation_is_missing(run: TrainingRun) -> bool:
    """Return True if a run was left between a step and the evaluation that belongs to it.

    It was if there are no records, or if the checkpoint of the step does not have their score.
    """
    is_missing = False
    due = evaluation_due(run)
    if due and run.state.step and run.benchmark and run.processes.is_main:
        name = run.benchmark.spec.name
        is_missing = not is_evaluated(run.folder.path, name, due, run.state.step)
    return run.processes.any(is_missing)


def _evaluation_path(run: TrainingRun, when: str) -> Path:
    assert run.benchmark is not None
    return evaluation_path(run.folder.path, run.benchmark.spec.name, when)


def evaluate_held_out(run: TrainingRun, when: str, head: int | None = None) -> float | None:
    """Return the mean greedy accuracy on held-out questions; None without a benchmark.

    None also if a request to stop ended the evaluation. Nothing of it is kept then.

    Args:
        head: only so many questions of each row of the table.
    """
    with raise_on_all_ranks(run.processes.all_gather):
        if run.benchmark is None or not run.processes.is_main:
            return None
        benchmark = run.benchmark.shortened(head) if head else run.benchmark
        name = f"step {run.state.step}" if when.isdigit() else when
        progress.phase(f"evaluating, {name}", len(benchmark.questions), "questions")
        unusable: list[LeftOut] = []
        try:
            with run.stop.droppable(f"leaving the evaluation, saving step {run.state.step}"):
                evaluated = evaluate.run_benchmark(
                    benchmark,
                    run.policy,
                    run.engine,
                    model=f"{run.config.name}, step {run.state.step}",
                    on_left_out=unusable.append,
                )
                if run.engine.needs_verification and run.gate:
                    run.gate.check(run.engine, run.policy, run.state.version)
        except EvaluationDroppedError:
            run.log(f"the evaluation ({name}) is left; it is made when the run goes on")
            return None
    asked = benchmark.without(unusable)
    records.save(evaluated, _evaluation_path(run, when))
    records.save_left_out(asked.left_out, _evaluation_path(run, when))
    if asked.not_asked:
        run.log(f"warning: {asked.not_asked}")
    parts: list[str] = []
    for tag, rows in records.by_tag(evaluated).items():
        parts.append(f"{one_line(tag, 100)} {100 * fmean(record.greedy for record in rows):.1f} %")
    run.log(f"held out, {when}: {', '.join(parts)}")
    advice = asked.format_advice(evaluated, is_trained=True)
    if advice:
        run.log(f"warning: held out: {advice}")
    failures = records.failures(evaluated)
    if failures:
        run.log(f"warning: {failures}")
    figures = metrics.held_out_figures(evaluated, run.config.evaluation.head)
    run.folder.held_out(run.state.step, figures)
    return figures["held_out/score"]


def adapter_of(policy: Policy) -> Adapter | None:
    """Return what the model card says of the adapter that is saved; None = a whole model is."""
    adapters = policy.adapters
    if adapters is None:
        return None
    rank, alpha = adapters.settings.r, adapters.settings.lora_alpha
    names = {name.rpartition(".")[2] for name, _ in adapters.layers()}
    plain = tuple(quantised.plain_names(policy.model)) if adapters.is_quantised else ()
    targets = tuple(sorted(names))
    return Adapter(base=adapters.base, rank=rank, alpha=alpha, targets=targets, plain=plain)


def save(run: TrainingRun, score: float | None = None) -> None:
    """Write a checkpoint.

    Args:
        score: of the evaluation that belongs to this step, if there is one.
    """
    progress.part_of_step("save")
    run.stop.doing = f"saving step {run.state.step}, then leaving"
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
            question=question_of(chain.from_iterable(run.experiment.train_data.sources)),
            adapter=adapter_of(run.policy),
        )
        row = {**state, "score": score}
        checkpoint.save(path, run.state.step, row, run.policy, run.learner, card)
        checkpoint.prune(path, config.checkpoint.keep_last, config.checkpoint.keep_best)
    run.processes.accelerator.wait_for_everyone()
