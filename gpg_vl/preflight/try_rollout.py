"""Sample and score some groups without training, and report them."""

import json
import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import fmean

from gpg_vl import progress, run_folder
from gpg_vl.data.dataset import Dataset
from gpg_vl.errors import SHOWN_CHARACTERS, UserError, one_line
from gpg_vl.experiment import Experiment
from gpg_vl.policy.load import Policy
from gpg_vl.report.left_out import described
from gpg_vl.rollout.collect import LostDraw, RolloutContext, sample_round
from gpg_vl.types import Group, LeftOut
from gpg_vl.verifiers.format_advice import answers_of, format_advice, training_knobs


def sample_and_score(
    experiment: Experiment, *, model: str | None, count: int, to: Path | None
) -> Iterator[str]:
    """Sample and score groups, and yield lines that show them.

    Args:
        model: a run folder, a checkpoint folder or a hub id; None = the config's policy.
        count: number of groups.
        to: file that gets every answer with its verdict; None = not written.
    """
    progress.phase("loading the model")
    policy = experiment.policy_of(model) if model else experiment.policy()
    experiment = experiment.for_policy(policy)
    groups, unusable = sample_questions(experiment, policy, experiment.train_data, count)
    for row in unusable:
        yield f"left out: {described(row)}"
    if not groups:
        raise UserError(f"none of {count} questions can be asked; {described(unusable[0])}")
    rewards: list[float] = []
    for group in groups:
        yield from _lines(group)
        rewards += [reward for reward in group.rewards if not math.isnan(reward)]
    share = fmean(group.informative for group in groups)
    mean = fmean(rewards) if rewards else math.nan
    yield f"mean reward {mean:.3f}, informative {100 * share:.0f} % of {len(groups)} groups"
    knobs = training_knobs(experiment.config.rollout.max_tokens)
    advice = format_advice(answers_of(groups), experiment.verifiers, knobs)
    if advice:
        yield advice
    if to:
        rows: list[str] = []
        for group in groups:
            row = run_folder.group_row(group, used=False)
            rows.append(json.dumps(row, ensure_ascii=False) + "\n")
        to.write_text("".join(rows), encoding="utf-8", errors="backslashreplace")
        yield f"written: {to}"


def sample_questions(
    experiment: Experiment, policy: Policy, dataset: Dataset, count: int
) -> tuple[list[Group], list[LeftOut]]:
    """Sample and score the first questions of a data set, without training.

    Returns:
        A group of each question, and each question that cannot be asked.
    """
    prompt_at = experiment.prompt_at(policy, dataset)
    lost: list[LostDraw] = []
    with closing(experiment.engine(policy)) as engine:
        context = RolloutContext(
            engine=engine,
            prompt_at=prompt_at,
            verifiers=experiment.verifiers,
            config=experiment.config.rollout.model_copy(update={"groups_per_step": count}),
            min_informative_groups=0,
            seed=experiment.config.seed,
        )
        progress.phase("checking the engine")
        experiment.verify_engine(engine, policy, prompt_at)
        progress.phase("sampling answers")
        groups = sample_round(context, 0, lost)
    unusable = [LeftOut.of(dataset[prompt_index], why) for prompt_index, why in lost]
    return groups, unusable


def _lines(group: Group) -> Iterator[str]:
    sample = group.prompt.sample
    question = one_line(sample.question, SHOWN_CHARACTERS)
    truth = one_line(sample.answer, SHOWN_CHARACTERS)
    yield f"{one_line(sample.id)}: {question}  (truth: {truth})"
    for completion, verdict in zip(group.completions, group.verdicts, strict=True):
        yield f"  {verdict.reward:5.2f}  {completion.text!r}  {verdict.reason}"
