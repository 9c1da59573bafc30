"""Trying a policy without training it: sample and score some groups, or take a benchmark."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean

from gpg_vl import benchmark, journal, loading
from gpg_vl.benchmark import Record
from gpg_vl.config import Config, PolicyConfig, Source
from gpg_vl.policy.load import Policy, load_policy
from gpg_vl.rollout.collect import Drawing, sample_groups
from gpg_vl.training import checkpoint
from gpg_vl.training.experiment import Asker, build_engine, build_style, build_verifiers, examination, read_questions
from gpg_vl.types import Group


def evaluate_model(name: str, model: str, overrides: Sequence[str], *, blank: bool = False, told: Callable[[int], None]) -> list[Record]:
    """Take a benchmark with a run's newest policy, a checkpoint or a hub model."""
    given, folder = _config_of(model, overrides)
    policy = _policy(given, model)
    exam = examination(given, folder, policy, name)
    engine = build_engine(given.rollout.engine, policy, folder)
    with closing(engine):
        return benchmark.examine(exam, policy, engine, blank=blank, told=told)


def try_out(given: Config, folder: Path, *, model: str | None, count: int, to: Path | None) -> Iterator[str]:
    """Sample and score groups; lines that tell them."""
    policy = _policy(given, model) if model else load_policy(given.policy, seed=given.seed)
    style = build_style(given.prompt, folder)
    checks = build_verifiers(given.verifiers, style, policy.frame, given.reward, folder)
    questions = read_questions(given.data, checks, folder=folder)
    ask = Asker(questions.stream(given.seed, "data"), style, policy)
    engine = build_engine(given.rollout.engine, policy, folder)
    drawing = Drawing(engine=engine, ask=ask, verifiers=checks, config=given.rollout, wanted=0, seed=given.seed)
    with closing(engine):
        groups = sample_groups(drawing, [(draw, ask(draw)) for draw in range(count)])
    for group in groups:
        yield from _told(group)
    rewards = [reward for group in groups for reward in group.rewards]
    yield f"mean reward {fmean(rewards):.3f}, informative {100 * fmean(group.informative for group in groups):.0f} % of {count} groups"
    if to:
        to.write_text("".join(json.dumps(journal.group_row(group, used=False), ensure_ascii=False) + "\n" for group in groups))
        yield f"written: {to}"


def _told(group: Group) -> Iterator[str]:
    sample = group.prompt.sample
    yield f"{sample.id}: {sample.question}  (truth: {sample.answer})"
    for completion, verdict in zip(group.completions, group.verdicts, strict=True):
        yield f"  {verdict.reward:5.2f}  {completion.text!r}  {verdict.reason}"


def _config_of(model: str, overrides: Sequence[str]) -> tuple[Config, Path]:
    """A run's own config and its folder, or defaults around a checkpoint."""
    for run in (Path(model), *Path(model).parents[1:3]):  # a run, or a policy of one of its checkpoints
        if (run / "config.yaml").is_file() and (run / "environment.json").is_file():
            return loading.load(str(run / "config.yaml"), overrides), journal.config_folder(run)
    bare = Config(data=(Source(recipe="digits"),), policy=PolicyConfig(model=model))
    return loading.parse(Config, loading.override(Config, bare.model_dump(mode="json"), overrides), model), Path()


def _policy(given: Config, model: str) -> Policy:
    run = Path(model)
    path = checkpoint.newest(run) / "policy" if (run / "config.yaml").is_file() else None
    chosen = given.policy if path else given.policy.model_copy(update={"model": model})
    return load_policy(chosen, seed=given.seed, path=path)
