"""Stop a run that cannot learn, and say why."""

import math
from statistics import fmean

from gpg_vl.errors import UserError
from gpg_vl.rollout.collect import SampledStep
from gpg_vl.training.setup import TrainingRun


def first_verifier_error(collected: SampledStep) -> str:
    """What the verifier's first failure of the step was; empty = none."""
    faults = (verdict.reason for group in collected.fresh for verdict in group.verdicts if verdict.reason.startswith("fault"))
    return next(faults, "").partition("\n")[0]


def stop_if_hopeless(trainer: TrainingRun, collected: SampledStep) -> None:
    state, config = trainer.state, trainer.config
    answers = [verdict for group in collected.fresh for verdict in group.verdicts]
    faults = sum(verdict.reason.startswith("fault") for verdict in answers)
    if trainer.ranks.largest(int(faults > config.rollout.max_faults * len(answers))):
        told = f"the verifier failed on {faults} of {len(answers)} answers: {first_verifier_error(collected)}"
        raise UserError(f"stopped at step {state.step}: {told}. Their texts and traces are in {trainer.journal.folder / 'rollouts'}")
    if state.lost > config.rollout.max_lost * state.cursor:
        told = f"{state.lost} of {state.cursor} drawn samples could not be asked, more than rollout.max_lost = {config.rollout.max_lost:g}"
        raise UserError(f"stopped at step {state.step}: {told}; the last: {(collected.lost or ('in an earlier step',))[-1]}")
    if state.idle >= config.rollout.idle_steps:
        why = why_not_informative(collected, config.reward.accuracy + config.reward.format)
        raise UserError(f"stopped at step {state.step}: {state.idle} steps in a row without an informative group; {why}")
    if state.bad >= config.learner.max_bad_steps:
        raise UserError(
            f"stopped at step {state.step}: {state.bad} non-finite steps in a row; lower optimizer.lr (now {config.optimizer.lr:g}). "
            f"The batches are in {trainer.journal.folder / 'bad_steps'}"
        )


def why_not_informative(collected: SampledStep, full_marks: float) -> str:
    """Why no group had anything to say, and what to do."""
    rewards = [reward for group in collected.fresh for reward in group.rewards if not math.isnan(reward)]
    if not rewards:
        return f"nothing could be scored: {first_verifier_error(collected) or 'every completion was truncated and dropped; raise rollout.max_tokens'}"
    mean = fmean(rewards)
    if mean > full_marks / 2:
        return f"mean reward {mean:.3g}, everything is right: make the questions harder"
    return f"mean reward {mean:.3g}, everything is wrong: warm up longer or ask easier"
