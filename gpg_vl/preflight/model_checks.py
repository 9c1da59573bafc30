"""Check that prompts and answers fit into a model, and what a model answers.

Lengths need its processor alone. A model that is asked shows why its answers cannot be read, and
how many groups are informative.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from statistics import fmean
from types import SimpleNamespace
from typing import Any

from gpg_vl.data.dataset import Dataset
from gpg_vl.errors import UnusableSampleError, one_line, shown
from gpg_vl.experiment import Experiment
from gpg_vl.policy.encode import encode
from gpg_vl.policy.model_folder import find_model, is_here, locate
from gpg_vl.policy.processor import LOCAL, choose_backend, limit_pixels, load_processor
from gpg_vl.preflight import row_checks
from gpg_vl.preflight.finding import Finding, Level
from gpg_vl.preflight.learnability import MIN_INFORMATIVE
from gpg_vl.preflight.try_rollout import sample_questions
from gpg_vl.report.left_out import described
from gpg_vl.types import Group, Sample
from gpg_vl.verifiers.base import RuleVerifier

MEASURED_PROMPTS = 64
"""Prompts that are counted in tokens."""
SAMPLED_GROUPS = 16
"""Groups that a model is asked for."""
HISTOGRAM_BINS = 10
"""Bins of the reward histogram."""


def reader_of(experiment: Experiment) -> Any:
    """Return a model's processor and window, without its weights."""
    config = experiment.config
    if config.policy.model == "tiny":
        return experiment.policy()
    from transformers import AutoConfig

    name = config.policy.model
    if is_here(name):
        files = find_model(name)
        folder, processor_folder = files.folder, files.processor_folder
    else:
        folder = processor_folder = locate(name, weights=False)
    processor = load_processor(processor_folder, choose_backend(config.policy.image_backend))
    limit_pixels(processor, config.policy.min_pixels, config.policy.max_pixels)
    model_config = AutoConfig.from_pretrained(folder, **LOCAL)
    window = model_config.get_text_config().max_position_embeddings
    return SimpleNamespace(processor=processor, window=window)


def lengths(experiment: Experiment, dataset: Dataset, reader: Any) -> Iterator[Finding]:
    """Compare prompts with the window, and reference answers with max_tokens.

    Args:
        reader: the model's processor and window.
    """
    config = experiment.config
    samples = _spread(dataset.samples, MEASURED_PROMPTS)
    counted: list[int] = []
    unusable: list[str] = []
    for sample in samples:
        try:
            counted.append(len(encode(sample, experiment.style, reader).input_ids))
        except UnusableSampleError as error:
            unusable.append(str(error))
    room = reader.window - config.rollout.max_tokens
    longest = max(counted, default=0)
    if unusable:
        rows = len(dataset.samples)
        is_stop = not counted or row_checks.would_stop_a_run(
            config, len(unusable), len(samples), rows
        )
        yield Finding(
            "stop" if is_stop else "mind",
            f"lengths: {len(unusable)} of {len(samples)} samples cannot become prompts; "
            f"{unusable[0]}",
        )
    if not counted:
        return
    if longest > room:
        yield Finding(
            "stop",
            f"lengths: the longest prompt has {longest} tokens; with max_tokens "
            f"{config.rollout.max_tokens} it outgrows the window of {reader.window}",
        )
    else:
        yield Finding(
            "fine",
            f"lengths: prompts of {min(counted)} to {longest} tokens, {room} are free of a window "
            f"of {reader.window}",
        )
    yield from _answer_lengths(experiment, samples, reader.processor.tokenizer)


def _spread(samples: Sequence[Sample], count: int) -> Sequence[Sample]:
    """Return about `count` samples, evenly spaced, and the one with the longest question."""
    return [
        *row_checks.evenly_spaced(samples, count),
        max(samples, key=lambda sample: len(sample.question)),
    ]


def _answer_lengths(
    experiment: Experiment, samples: Sequence[Sample], tokenizer: Any
) -> Iterator[Finding]:
    max_tokens = experiment.config.rollout.max_tokens
    needed: list[int] = []
    for sample in samples:
        verifier = experiment.verifiers.by_kind[sample.answer_kind]
        if isinstance(verifier, RuleVerifier):
            text = experiment.style.write(verifier.perfect_answer(sample), thought="so")
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            needed.append(len(ids) + 1)  # the end id
    if not needed:
        return
    too_long = sum(length > max_tokens for length in needed)
    level: Level = "fine"
    if too_long:
        level = "stop" if 2 * too_long > len(needed) else "mind"
    yield Finding(
        level,
        f"answers: the shortest right answer takes {min(needed)} to {max(needed)} tokens, "
        f"rollout.max_tokens is {max_tokens}",
    )


def answers_of(experiment: Experiment, model: str, dataset: Dataset) -> Iterator[Finding]:
    """Ask a model: yield reasons, a reward histogram, informative groups, and some samples."""
    policy = experiment.policy_of(model)
    experiment = experiment.for_policy(policy)
    groups, unusable = sample_questions(experiment, policy, dataset, SAMPLED_GROUPS)
    if unusable:
        yield Finding(
            "mind" if groups else "stop",
            f"asked: {len(unusable)} of {SAMPLED_GROUPS} questions cannot be asked; "
            f"{described(unusable[0])}",
        )
    if groups:
        yield from findings_on(groups, experiment.config.rollout.groups_per_step)


def findings_on(groups: Sequence[Group], groups_per_step: int) -> Iterator[Finding]:
    """Yield the findings on sampled groups."""
    reasons: Counter[str] = Counter()
    values: list[float] = []
    for group in groups:
        for verdict in group.verdicts:
            reasons[_kind_of(verdict.reason)] += 1
            values.append(verdict.reward)
    counts = [f"{reason} {count}" for reason, count in reasons.most_common()]
    yield Finding("fine", f"reasons: {', '.join(counts)}")
    yield Finding("fine", f"rewards: {histogram(values)}")
    for group in islice(groups, 3):
        sample, text, verdict = group.prompt.sample, group.completions[0].text, group.verdicts[0]
        yield Finding(
            "fine",
            f"sample {one_line(sample.id)} (truth {shown(sample.answer)}): {text[:160]!r} earns "
            f"{verdict.reward:.2f}, {_kind_of(verdict.reason)}",
        )
    yield _informative(groups, groups_per_step, values)


def _informative(
    groups: Sequence[Group], groups_per_step: int, rewards: Sequence[float]
) -> Finding:
    share = fmean(group.informative for group in groups)
    text = (
        f"informative: {100 * share:.0f} % of {len(groups)} groups, so about "
        f"{share * groups_per_step:.1f} of {groups_per_step} in a round"
    )
    if share > 0:
        return Finding("mind" if share < MIN_INFORMATIVE else "fine", text)
    scored = [reward for reward in rewards if not math.isnan(reward)]
    if scored and fmean(scored) > 0.5:
        remedy = "it is solved already"
    else:
        remedy = "no answer earns anything: warm up, ask easier questions or mend the format"
    return Finding("stop", f"{text}; no group is informative, so there is no gradient: {remedy}")


def _kind_of(reason: str) -> str:
    """Return the kind of a reason, without the details of one answer."""
    kind, _, rest = reason.partition(":")
    if kind not in ("malformed", "unreadable"):
        return kind
    return f"{kind}: {rest.strip().split(',')[0][:40]}"


def histogram(values: Sequence[float]) -> str:
    """Return counts over ten equal parts of the range, from the lowest reward to the highest."""
    finite = [value for value in values if not math.isnan(value)]
    if not finite:
        return f"none, {len(values)} faults"
    low, high = min(finite), max(finite)
    counts = str(len(finite))
    if high > low:
        width = (high - low) / HISTOGRAM_BINS
        bins: Counter[int] = Counter()
        for value in finite:
            bins[min(HISTOGRAM_BINS - 1, int((value - low) / width))] += 1
        counts = " ".join(str(bins[place]) for place in range(HISTOGRAM_BINS))
    return f"{low:.2f} [{counts}] {high:.2f}, mean {fmean(finite):.3f}"
