"""Warn before the first step about tasks from which reinforcement has little to learn."""

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from statistics import fmean

from gpg_vl.data.dataset import Dataset
from gpg_vl.errors import UnusableSampleError
from gpg_vl.experiment import Experiment
from gpg_vl.policy.load import Policy
from gpg_vl.rollout.collect import RolloutContext, sample_groups
from gpg_vl.rollout.engine import ensure_fits
from gpg_vl.types import Group, Prompt, Sample
from gpg_vl.verifiers.format_advice import answers_of, format_advice, training_knobs

PROMPTS_PER_SOURCE = 12
"""Prompts of each source that are sampled."""
MIN_INFORMATIVE = 0.2
"""Share of informative groups below which learning is slow, and a task is warned about."""
NEARLY_ALL = 0.9
"""Mean accuracy above which a task is called solved; below the rest of it, too hard."""
MIN_IOU = 0.4
"""Mean IoU of sampled boxes below which a task is warned about."""


def learnability_warnings(
    context: RolloutContext, experiment: Experiment, policy: Policy
) -> Iterator[str]:
    """Sample some groups of each source and yield a warning per weak task."""
    by_task: dict[str, list[Group]] = {}
    for source in experiment.train_data.sources:
        prompts = _prompts(source, context, experiment, policy)
        groups = sample_groups(context, prompts) if prompts else []
        for group in groups:
            by_task.setdefault(group.task, []).append(group)
    for groups in by_task.values():
        warning = warning_for(groups)
        if warning:
            yield warning
    answers = answers_of(chain.from_iterable(by_task.values()))
    advice = format_advice(answers, context.verifiers, training_knobs(context.config.max_tokens))
    if advice:
        yield advice
    context.timer.read()  # these seconds belong to no step


def _prompts(
    source: Sequence[Sample], context: RolloutContext, experiment: Experiment, policy: Policy
) -> list[tuple[int, Prompt]]:
    """Return (prompt index, prompt); negative indices, which no step of the run uses."""
    dataset = Dataset((source,), (1,), context.seed, "probe")
    prompt_at = experiment.prompt_at(policy, dataset)
    prompts: list[tuple[int, Prompt]] = []
    for index in range(PROMPTS_PER_SOURCE):
        try:
            prompt = ensure_fits(prompt_at(index), context.engine, context.config.max_tokens)
        except UnusableSampleError:  # the run itself counts and reports it
            continue
        prompts.append((-1 - index, prompt))
    return prompts


def warning_for(groups: Sequence[Group]) -> str:
    """Return why reinforcement has little to learn from these groups of one task; empty = fine."""
    task = groups[0].task
    share = fmean(group.informative for group in groups)
    mean = _mean_accuracy(groups)
    if share < MIN_INFORMATIVE:
        if mean > NEARLY_ALL:
            remedy = "it is solved: take harder questions"
        elif mean >= 1 - NEARLY_ALL:
            remedy = (
                "the answers to one question are nearly all alike: raise rollout.temperature or "
                "rollout.group_size"
            )
        else:
            remedy = "it is too hard as yet: raise warmup.steps or take easier questions"
        return (
            f"{task}: only {100 * share:.0f} % of its groups are informative "
            f"(mean accuracy {mean:.2f}); {remedy}"
        )
    if groups[0].prompt.sample.answer_kind == "boxes" and mean < MIN_IOU:
        return (
            f"{task}: sampled accuracy (IoU) is {mean:.2f}; below {MIN_IOU} an IoU reward tends to "
            "one constant box: raise warmup.steps, keep lr <= 1e-4"
        )
    return ""


def _mean_accuracy(groups: Sequence[Group]) -> float:
    accuracies: list[float] = []
    for group in groups:
        for verdict in group.verdicts:
            accuracy = verdict.parts.get("accuracy", verdict.reward)
            if not math.isnan(accuracy):
                accuracies.append(accuracy)
    return fmean(accuracies) if accuracies else math.nan
