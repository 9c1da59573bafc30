"""Stop a run that cannot learn, and say why and what to do."""

import math
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from statistics import fmean

from gpg_vl.config.schema import Config
from gpg_vl.errors import UserError, command, train_command
from gpg_vl.preflight.learnability import NEARLY_ALL
from gpg_vl.rollout.collect import LostDraw, SampledBatch, too_many_lost
from gpg_vl.training.setup import TrainingRun
from gpg_vl.types import Verdict
from gpg_vl.verifiers.format_advice import answers_of, format_advice, training_knobs

FIRST_WARMUP = 300
"""Steps of warm-up that a run without one is advised to take."""


def stop_if_hopeless(run: TrainingRun, batch: SampledBatch) -> None:
    """Raise a `UserError` that says why training cannot go on, if it cannot."""
    for rule in (_verifier_fails, _samples_unusable, _nothing_informative, _not_finite):
        reason = rule(run, batch)
        if reason:
            raise UserError(f"stopped at step {run.state.step}: {reason}")


def _verifier_fails(run: TrainingRun, batch: SampledBatch) -> str:
    limit = run.config.rollout.max_faults
    verdicts = list(_fresh_verdicts(batch))
    errors = sum(bool(verdict.verifier_error) for verdict in verdicts)
    own = (errors - limit * len(verdicts), errors, len(verdicts), first_verifier_error(batch))
    excess, errors, answers, first_error = max(run.processes.all_gather(own))  # the worst process
    if excess <= 0:
        return ""
    return (
        f"the verifier failed on {errors} of {answers} answers: {first_error}. Their texts and "
        f"traces are in {run.folder.path / 'rollouts'}"
    )


def _samples_unusable(run: TrainingRun, batch: SampledBatch) -> str:
    limit = run.config.rollout.max_lost
    if run.state.unusable <= limit * run.state.cursor:
        return ""
    # The state is the same on all processes, so all of them come here; the main one has the list.
    lost_rows, in_this_step = 0, list[LostDraw]()
    own = run.folder.num_lost_rows, batch.unusable
    for listed, of_one_rank in run.processes.all_gather(own):
        lost_rows = max(lost_rows, listed)
        in_this_step += of_one_rank
    if not too_many_lost(
        limit,
        lost=run.state.unusable,
        drawn=run.state.cursor,
        lost_rows=lost_rows,
        rows=len(run.experiment.train_data.samples),
    ):
        return ""
    last = in_this_step[-1].why if in_this_step else "in an earlier step"
    return (
        f"{run.state.unusable} of {run.state.cursor} samples could not become prompts, more than "
        f"rollout.max_lost = {limit:g}; the last: {last}; all are in {run.folder.left_out_path}"
    )


def _nothing_informative(run: TrainingRun, batch: SampledBatch) -> str:
    if run.state.idle < run.config.rollout.idle_steps:
        return ""
    full_reward = run.config.reward.accuracy + run.config.reward.format
    why = why_not_informative(batch, full_reward)
    knobs = training_knobs(run.config.rollout.max_tokens)
    malformed = format_advice(answers_of(batch.fresh), run.experiment.verifiers, knobs)
    causes = "; ".join(filter(None, (why, malformed)))
    advice = what_next(run.folder.path, run.config, batch, full_reward)
    return f"{run.state.idle} steps in a row without an informative group; {causes}.\n{advice}"


def _not_finite(run: TrainingRun, batch: SampledBatch) -> str:
    del batch
    if run.state.bad < run.config.learner.max_bad_steps:
        return ""
    return (
        f"{run.state.bad} non-finite steps in a row; lower optimizer.lr (now "
        f"{run.config.optimizer.lr:g}). The batches are in {run.folder.path / 'bad_steps'}"
    )


def why_not_informative(batch: SampledBatch, full_reward: float) -> str:
    """Return why no group was informative, and what to do."""
    if batch.unusable and not batch.fresh:
        return f"none of their samples could become a prompt; the last: {batch.unusable[-1].why}"
    mean = mean_reward(batch)
    if math.isnan(mean):
        dropped = "every completion was truncated and dropped; raise rollout.max_tokens"
        return f"nothing could be scored: {first_verifier_error(batch) or dropped}"
    if mean > NEARLY_ALL * full_reward:
        return f"mean reward {mean:.3g}, everything is right: make the questions harder"
    if mean >= (1 - NEARLY_ALL) * full_reward:
        return f"mean reward {mean:.3g}, the answers to one question are all alike: sample others"
    return f"mean reward {mean:.3g}, everything is wrong: warm up longer or ask easier"


def what_next(path: Path, config: Config, batch: SampledBatch, full_reward: float) -> str:
    """Return what to type after steps without an informative group.

    Args:
        path: run folder.
        batch: that of the last step.
        full_reward: reward of a perfect answer.
    """
    mean = mean_reward(batch)
    if not batch.fresh or (math.isnan(mean) and first_verifier_error(batch)):
        # what is mended may be a verifier or the data, whose change has to be allowed
        again = train_command("--resume", path, "--allow-changed")
        return f"Mend it, then go on: `{again}`"
    look = command("gpg-vl", "rollout", path / "config.yaml", "--model", path)
    advice = f"--resume would take the same steps again.\nSee what is answered: `{look}`"
    if mean > NEARLY_ALL * full_reward:
        return f"{advice}\nThen start a run with harder data"
    knob = f"warmup.steps={2 * config.warmup.steps or FIRST_WARMUP}"
    if math.isnan(mean):
        knob = f"rollout.max_tokens={2 * config.rollout.max_tokens}"
    elif mean >= (1 - NEARLY_ALL) * full_reward:
        knob = f"rollout.group_size={2 * config.rollout.group_size}"
    names = (f"{config.name}-{number}" for number in count(2))
    name = next(name for name in names if not (config.runs_path / name).exists())
    folder = f"folder={config.runs_path.absolute()}"
    anew = train_command(path / "config.yaml", folder, f"name={name}", knob)
    return f"{advice}\nStart anew, for instance: `{anew}`"


def mean_reward(batch: SampledBatch) -> float:
    """Return the mean reward of the scored answers; NaN = none could be scored."""
    rewards = [verdict.reward for verdict in _fresh_verdicts(batch)]
    scored = [reward for reward in rewards if not math.isnan(reward)]
    return fmean(scored) if scored else math.nan


def first_verifier_error(batch: SampledBatch) -> str:
    """Return the first error of a verifier in this step, without its trace; empty = none."""
    for verdict in _fresh_verdicts(batch):
        if verdict.verifier_error:
            return verdict.verifier_error
    return ""


def _fresh_verdicts(batch: SampledBatch) -> Iterator[Verdict]:
    for group in batch.fresh:
        yield from group.verdicts
