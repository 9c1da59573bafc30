"""Compute the metrics of one step from its groups and its update."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from gpg_vl.types import Group, Update

StepStatistics = Counter[str]
"""Sums over the groups of one rank; adding up the ranks' gives the step's."""


def sum_statistics(tallies: Iterable[StepStatistics]) -> StepStatistics:
    """The sums over all ranks."""
    total = StepStatistics()
    for own in tallies:
        total.update(own)
    return total


def step_statistics(fresh: Sequence[Group], used: Sequence[Group], full_marks: float) -> StepStatistics:
    """Sums over one rank's groups; keys starting with `n:` count what the others are divided by."""
    sums = StepStatistics()
    for group in fresh:
        task = group.task
        scored = [verdict for verdict in group.verdicts if not math.isnan(verdict.reward)]
        mean = sum(verdict.reward for verdict in scored) / max(len(scored), 1)
        sums.update({"n:groups": 1, "informative": group.informative, "n:completions": len(group.verdicts), "n:scored": len(scored)})
        silent = bool(scored) and not group.informative
        sums.update({"all_max": silent and mean >= full_marks - 1e-6, "all_min": silent and mean <= 1e-6})
        for verdict in scored:
            sums.update({"reward": verdict.reward, f"reward/{task}": verdict.reward, f"n:reward/{task}": 1})
            sums.update({f"part/{part}": value for part, value in verdict.parts.items()})
        sums.update({"length": sum(group.lengths), "truncated": sum(completion.finish == "length" for completion in group.completions)})
        sums.update({"faults": len(group.verdicts) - len(scored)})
    sums.update({"n:used_informative": sum(group.informative for group in used)})
    return sums


def step_metrics(sums: StepStatistics, update: Update, *, rounds: int, alpha: float, seconds: Mapping[str, float]) -> dict[str, float]:
    """The row of one step, from the sums over all ranks."""
    groups, completions, scored = (max(sums[key], 1) for key in ("n:groups", "n:completions", "n:scored"))
    row: dict[str, float] = {"reward": sums["reward"] / scored}
    row |= {name: total / scored for name, total in sums.items() if name.startswith("part/")}
    row |= {name: total / max(sums[f"n:{name}"], 1) for name, total in sums.items() if name.startswith("reward/")}
    row |= {name: sums[name] / groups for name in ("informative", "all_max", "all_min")}
    row |= {"alpha": alpha, "rounds": float(rounds), "faults": float(sums["faults"]), "used_informative": float(sums["n:used_informative"])}
    row |= {"length": sums["length"] / completions, "truncated": sums["truncated"] / completions}
    row |= {"skipped": float(bool(update.skipped)), **update.metrics}
    total = sum(seconds.values())
    row |= {f"seconds/{phase}": spent for phase, spent in seconds.items()}
    return row | {"seconds": total, "tokens_per_second": sums["length"] / max(total, 1e-9)}
