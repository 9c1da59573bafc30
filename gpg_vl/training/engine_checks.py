"""Check during a run that engine and trainer agree, and that both forwards of the trainer do."""

from collections.abc import Mapping
from dataclasses import replace

from gpg_vl.errors import raise_on_all_ranks
from gpg_vl.training.learner import COMPARED_TOKENS, is_text_then_length
from gpg_vl.training.setup import TrainingRun


def check_gate(run: TrainingRun) -> dict[str, float]:
    """Check with the vision gate, if there is one, that the engine sees what the trainer sees."""
    if run.gate is None:
        return {}
    with run.timer("gate"), raise_on_all_ranks(run.processes.all_gather):
        run.gate_figures = run.gate.check(run.engine, run.policy, run.state.version)
    return run.gate_figures


def gate_figures_if_due(run: TrainingRun) -> dict[str, float]:
    """Return the figures of a check that belongs to this step; empty = none is due."""
    every = run.config.rollout.gate.every
    if not every or run.state.step % every:
        return {}
    return run.gate_figures or check_gate(run)  # the engine may have just been checked


def log_gate_figures(run: TrainingRun, figures: Mapping[str, float]) -> None:
    """Report that the first check was passed; its other figures are in the metrics."""
    if figures:
        run.log(
            f"engine check: fine (difference {figures['gate/mean']:.1e} nat a token, allowed "
            f"{figures['gate/allowed']:.1e})"
        )


def compare_forwards(run: TrainingRun) -> None:
    """Compare the group forward with plain rows, before the gate measures rounding with it.

    Without a gate the first update does.
    """
    if run.gate is None:
        return
    prompt = min(run.gate.prompts, key=is_text_then_length)
    max_tokens = min(run.gate.sampling.max_tokens, COMPARED_TOKENS)
    sampling = replace(run.gate.sampling, max_tokens=max_tokens)
    with raise_on_all_ranks(run.processes.all_gather):
        (answers,) = run.engine.generate([prompt], sampling, [[0, 1]])
    run.learner.compare_once((prompt, answers), run.config.rollout.group_size)
