"""Before the first step: does each kind of task give reinforcement something to work with?"""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean

from gpg_vl.data.dataset import Dataset, Stream
from gpg_vl.errors import UnusableSampleError
from gpg_vl.experiment import Asker
from gpg_vl.policy.load import Policy
from gpg_vl.prompts import Style
from gpg_vl.rollout.collect import RolloutContext, sample_groups
from gpg_vl.rollout.engine import ensure_fits
from gpg_vl.types import Group, Prompt

PROBED_PROMPTS = 12
WEAK_INFORMATIVE, WEAK_IOU = 0.2, 0.4


def learnability_warnings(drawing: RolloutContext, questions: Dataset, style: Style, policy: Policy) -> Iterator[str]:
    """Sample some groups of each source; warnings per kind of task where reinforcement has little to work with."""
    groups: list[Group] = []
    for source in questions.sources:
        ask = Asker(Stream((source,), (1,), drawing.seed, "learnability_warnings"), style, policy)
        asked = [(-1 - index, prompt) for index in range(PROBED_PROMPTS) if (prompt := _prompt(ask, index, drawing)) is not None]
        groups += sample_groups(drawing, asked) if asked else []
    by_task: dict[str, list[Group]] = {}
    for group in groups:
        by_task.setdefault(group.task, []).append(group)
    yield from filter(None, map(warning_for, by_task.values()))
    drawing.clock.read()  # these seconds belong to no step


def _prompt(ask: Asker, index: int, drawing: RolloutContext) -> Prompt | None:
    try:
        return ensure_fits(ask(index), drawing.engine, drawing.config.max_tokens)
    except UnusableSampleError:  # the run itself counts and tells it
        return None


def warning_for(groups: Sequence[Group]) -> str:
    """Why reinforcement has little to work with on these groups of one task; empty = nothing."""
    task = groups[0].task
    share = fmean(group.informative for group in groups)
    accuracies = [verdict.parts.get("accuracy", verdict.reward) for group in groups for verdict in group.verdicts]
    mean = fmean(accuracy for accuracy in accuracies if not math.isnan(accuracy)) if not all(map(math.isnan, accuracies)) else math.nan
    if share < WEAK_INFORMATIVE:
        remedy = "it is solved: raise its difficulty" if mean > 0.5 else "raise warmup.steps or lower its difficulty"
        return f"{task}: only {100 * share:.0f} % of its groups are informative (mean accuracy {mean:.2f}); {remedy}"
    if groups[0].prompt.sample.answer_kind == "boxes" and mean < WEAK_IOU:
        trap = f"below {WEAK_IOU} an IoU reward tends to one constant box"
        return f"{task}: sampled accuracy (IoU) is {mean:.2f}; {trap}: raise warmup.steps, keep lr <= 1e-4"
    return ""
