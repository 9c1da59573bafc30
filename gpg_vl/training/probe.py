"""Before the first step: does each kind of task give reinforcement something to work with?"""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean

from gpg_vl.policy.load import Policy
from gpg_vl.prompts import Style
from gpg_vl.rollout.collect import Drawing, sample_groups
from gpg_vl.samples import Stream
from gpg_vl.training.experiment import Asker, Questions
from gpg_vl.types import Group

PROBED_PROMPTS = 12
WEAK_INFORMATIVE, WEAK_IOU = 0.2, 0.4


def probe(drawing: Drawing, questions: Questions, style: Style, policy: Policy) -> Iterator[str]:
    """Sample some groups of each source; warnings where reinforcement has little to work with."""
    for source in questions.sources:
        ask = Asker(Stream((source,), (1,), drawing.seed, "probe"), style, policy)
        groups = sample_groups(drawing, [(-1 - index, ask(index)) for index in range(PROBED_PROMPTS)])
        if warning := weakness(groups):
            yield warning
    drawing.clock.read()  # these seconds belong to no step


def weakness(groups: Sequence[Group]) -> str:
    """Why reinforcement has little to work with on these groups of one task; empty = nothing."""
    sample = groups[0].prompt.sample
    task = sample.tags.get("task", sample.answer_kind)
    share = fmean(group.informative for group in groups)
    scored = [reward for group in groups for reward in group.rewards if not math.isnan(reward)]
    mean = fmean(scored) if scored else math.nan
    if share < WEAK_INFORMATIVE:
        remedy = "it is solved: raise its difficulty" if mean > 0.5 else "raise warmup.steps or lower its difficulty"
        return f"{task}: only {100 * share:.0f} % of its groups are informative (mean reward {mean:.2f}); {remedy}"
    if sample.answer_kind == "boxes" and mean < WEAK_IOU:
        trap = f"below {WEAK_IOU} an IoU reward tends to one constant box"
        return f"{task}: sampled IoU is {mean:.2f}; {trap}: raise warmup.steps, keep lr <= 1e-4"
    return ""
