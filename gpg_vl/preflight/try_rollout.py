"""Sample and score some groups without training, and print them."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import fmean

from gpg_vl import run_folder
from gpg_vl.config.schema import Config
from gpg_vl.data.dataset import read_dataset
from gpg_vl.experiment import Asker, build_engine, build_style, build_verifiers, check_template, chosen_policy, verify_engine
from gpg_vl.policy.load import load_policy
from gpg_vl.rollout.collect import RolloutContext, sample_groups
from gpg_vl.types import Group


def sample_and_score(given: Config, folder: Path, *, model: str | None, count: int, to: Path | None) -> Iterator[str]:
    """Sample and score groups; lines that tell them."""
    policy = chosen_policy(given, model) if model else load_policy(given.policy, seed=given.seed)
    style = build_style(given.prompt, folder)
    check_template(style, policy.processor)
    checks = build_verifiers(given.verifiers, style, policy.frame, given.reward, folder)
    questions = read_dataset(given.data, checks, folder=folder)
    ask = Asker(questions.stream(given.seed, "data"), style, policy)
    engine = build_engine(given.rollout.engine, policy, folder)
    drawing = RolloutContext(engine=engine, ask=ask, verifiers=checks, config=given.rollout, wanted=0, seed=given.seed)
    with closing(engine):
        verify_engine(engine, given, ask, policy)
        groups = sample_groups(drawing, [(draw, ask(draw)) for draw in range(count)])
    for group in groups:
        yield from _told(group)
    rewards = [reward for group in groups for reward in group.rewards]
    yield f"mean reward {fmean(rewards):.3f}, informative {100 * fmean(group.informative for group in groups):.0f} % of {count} groups"
    if to:
        to.write_text("".join(json.dumps(run_folder.group_row(group, used=False), ensure_ascii=False) + "\n" for group in groups))
        yield f"written: {to}"


def _told(group: Group) -> Iterator[str]:
    sample = group.prompt.sample
    yield f"{sample.id}: {sample.question}  (truth: {sample.answer})"
    for completion, verdict in zip(group.completions, group.verdicts, strict=True):
        yield f"  {verdict.reward:5.2f}  {completion.text!r}  {verdict.reason}"
