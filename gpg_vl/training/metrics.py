"""Compute the metrics of one step from its groups and its update, and those of an evaluation."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from gpg_vl.evaluation.records import Record, by_tag
from gpg_vl.evaluation.statistics import interval
from gpg_vl.types import Group, Update

BLANK = "held_out/blank"
"""Name of the accuracy on grey pictures."""
StepStatistics = Counter[str]
"""Sums over the groups of one process; the sums of all processes add up to those of the step."""


def step_statistics(
    fresh: Sequence[Group], used: Sequence[Group], full_reward: float
) -> StepStatistics:
    """Sum over the groups of one process.

    Keys that start with `n:` count what the other sums are divided by.

    Args:
        fresh: groups sampled in this step.
        used: groups that the update is made of.
        full_reward: reward of a perfect answer.
    """
    sums = StepStatistics()
    for group in fresh:
        _add_group(sums, group, full_reward)
    sums["n:used_informative"] += sum(group.informative for group in used)
    return sums


def _add_group(sums: StepStatistics, group: Group, full_reward: float) -> None:
    scored = [verdict for verdict in group.verdicts if not math.isnan(verdict.reward)]
    mean = sum(verdict.reward for verdict in scored) / max(len(scored), 1)
    is_zero_variance = bool(scored) and not group.informative
    sums["n:groups"] += 1
    sums["n:completions"] += len(group.verdicts)
    sums["n:scored"] += len(scored)
    sums["informative"] += group.informative
    sums["all_max"] += is_zero_variance and mean >= full_reward - 1e-6
    sums["all_min"] += is_zero_variance and mean <= 1e-6
    for verdict in scored:
        _add(sums, "reward", verdict.reward)
        _add(sums, f"reward/{group.task}", verdict.reward)
        sums[f"n:reward/{group.task}"] += 1
        for part, value in verdict.parts.items():
            _add(sums, f"part/{part}", value)
    sums["length"] += sum(group.lengths)
    sums["truncated"] += sum(completion.finish == "length" for completion in group.completions)
    sums["faults"] += len(group.verdicts) - len(scored)  # also answers dropped as truncated
    sums["verifier_errors"] += sum(bool(verdict.verifier_error) for verdict in group.verdicts)


def _add(sums: StepStatistics, name: str, value: float) -> None:
    sums[name] += value  # pyright: ignore[reportArgumentType]  # a Counter also adds floats


def sum_statistics(statistics: Iterable[StepStatistics]) -> StepStatistics:
    """Add up the sums of all processes."""
    total = StepStatistics()
    for own in statistics:
        total.update(own)
    return total


def step_metrics(
    sums: StepStatistics, update: Update, *, rounds: int, alpha: float, seconds: Mapping[str, float]
) -> dict[str, float]:
    """Make the row of one step from the sums over all processes."""
    groups = max(sums["n:groups"], 1)
    completions = max(sums["n:completions"], 1)
    scored = max(sums["n:scored"], 1)
    row: dict[str, float] = {"reward": sums["reward"] / scored}
    for name, total in sums.items():
        if name.startswith("part/"):
            row[name] = total / scored
    for name, total in sums.items():
        if name.startswith("reward/"):
            row[name] = total / max(sums[f"n:{name}"], 1)
    for name in ("informative", "all_max", "all_min"):
        row[name] = sums[name] / groups
    row["alpha"] = alpha
    row["rounds"] = float(rounds)
    row["faults"] = float(sums["faults"])
    row["used_informative"] = float(sums["n:used_informative"])
    row["length"] = sums["length"] / completions
    row["truncated"] = sums["truncated"] / completions
    row["skipped"] = float(bool(update.skipped))
    row |= update.metrics
    for phase, spent in seconds.items():
        row[f"seconds/{phase}"] = spent
    row["seconds"] = sum(seconds.values())
    row["tokens_per_second"] = sums["length"] / max(row["seconds"], 1e-9)
    return row


# --- held-out questions ---------------------------------------------------------------------------


def held_out_figures(
    evaluated: Sequence[Record], head: int | None, guessed: Sequence[Record] = ()
) -> dict[str, float]:
    """Make the row of an evaluation from the records of its questions.

    Args:
        evaluated: a record of each question; there is at least one.
        head: number of questions of each task that every evaluation of the run asks; None = all.
        guessed: records of questions that were asked with grey pictures.
    """
    accuracy = interval([record.greedy for record in evaluated])
    figures = {"held_out": accuracy.mean, "held_out/questions": float(accuracy.count)}
    if math.isfinite(accuracy.high - accuracy.low):
        figures |= {"held_out/low": accuracy.low, "held_out/high": accuracy.high}
    formats = [record.well_formed for record in evaluated if not math.isnan(record.well_formed)]
    if formats:
        figures["held_out/well_formed"] = fmean(formats)
    if guessed:
        figures[BLANK] = fmean(record.greedy for record in guessed)
    # The score is made of the same questions at every step, so that steps can be compared.
    scores: list[float] = []
    tasks: dict[str, float] = {}
    for task, records in by_tag(evaluated).items():
        tasks[f"held_out/{task}"] = fmean(record.greedy for record in records)
        scores += [record.greedy for record in records[:head]]
    figures["held_out/score"] = fmean(scores)
    for name, share in tasks.items():
        # a task may have the name of another figure
        is_taken = name in figures or name == BLANK  # in every evaluation, also without it
        figures[f"{name} (task)" if is_taken else name] = share
    return figures
