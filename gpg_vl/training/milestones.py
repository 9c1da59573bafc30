"""Evaluate and save a run at the steps where it is due."""

from itertools import chain

from gpg_vl import progress
from gpg_vl.policy import quantised
from gpg_vl.policy.encode import template_thought
from gpg_vl.policy.load import Policy
from gpg_vl.report.model_card import Adapter, model_card, question_of
from gpg_vl.run_folder import is_evaluated
from gpg_vl.training import checkpoint
from gpg_vl.training.held_out import evaluate_held_out
from gpg_vl.training.setup import TrainingRun


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
