"""Trying a policy without training it: sample and score some groups, or take a benchmark."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from gpg_vl import __version__, average_precision, benchmark, journal, loading, plugins
from gpg_vl.benchmark import Examination, Kept, Record
from gpg_vl.config import Config, PolicyConfig, Source
from gpg_vl.policy.load import Policy, load_policy
from gpg_vl.rollout.collect import Drawing, sample_groups
from gpg_vl.rollout.engine import RolloutEngine
from gpg_vl.samples import Stream
from gpg_vl.training import checkpoint, identity
from gpg_vl.training.experiment import (
    Asker,
    build_engine,
    build_gate,
    build_style,
    build_verifiers,
    check_template,
    examination,
    read_questions,
)
from gpg_vl.types import Group, Prompt

OF_BENCHMARK = "benchmark."
"""What a knob of the benchmark begins with, among those of the run."""


def evaluate_model(name: str, model: str, overrides: Sequence[str], *, blank: bool = False, told: Callable[[int], None]) -> list[Record]:
    """Take a benchmark with a run's newest policy, a checkpoint or a hub model."""
    return next(evaluate_on([name], model, overrides, blank=blank, told=lambda name, done, of: told(done)))[1]


def evaluate_on(
    names: Sequence[str],
    model: str,
    overrides: Sequence[str],
    *,
    blank: bool = False,
    told: Callable[[str, int, int], None] = lambda name, done, of: None,
    to: Callable[[str], Path | None] = lambda name: None,
    say: Callable[[str], None] = print,
) -> Iterator[tuple[Examination, list[Record]]]:
    """Take several benchmarks with one policy, loaded once.

    Args:
        overrides: key=value knobs of the run's config; those of the benchmark begin with `benchmark.`.
        told: called with benchmark, questions done and questions in all.
        to: where a benchmark's records are written, `benchmark.QUESTIONS_AT_ONCE` at a time, so that an interrupted evaluation goes on;
            None = nowhere.
        say: told what of a benchmark is left out.

    Raises:
        UserError: a benchmark cannot be taken, or answers of another evaluation stand where its own belong; before anything is asked.
    """
    given, folder = _config_of(model, [item for item in overrides if not item.startswith(OF_BENCHMARK)])
    knobs = [item.removeprefix(OF_BENCHMARK) for item in overrides if item.startswith(OF_BENCHMARK)]
    policy = chosen_policy(given, model, say=say)
    exams = {name: examination(given, folder, policy, name, knobs) for name in names}
    places = {name: Kept(path, _fingerprint(exam, given, model, policy, blank)) for name, exam in exams.items() if (path := to(name))}
    for name, exam in exams.items():
        if exam.spec.average_precision:
            average_precision.check_installed()
        if name in places:
            places[name].records()
        if exam.missing:
            say(exam.missing)
    with closing(build_engine(given.rollout.engine, policy, folder)) as engine:
        first = next(iter(exams.values()))
        ask = Asker(Stream((first.questions,), (1,), given.seed, "gate"), first.style, policy)
        prove(engine, given, ask, policy)
        for name, exam in exams.items():
            told_of, kept = partial(_tell, told, name, len(exam.questions)), places.get(name)
            records = benchmark.examine(exam, policy, engine, blank=blank, told=told_of, kept=kept)
            prove(engine, given, ask, policy)  # it may have come back in the meantime
            if kept:
                kept.finish(records)
            yield exam, records


def _tell(told: Callable[[str, int, int], None], name: str, of: int, done: int) -> None:
    told(name, done, of)


def _fingerprint(exam: Examination, given: Config, model: str, policy: Policy, blank: bool) -> str:
    """Of everything that an answer and its score depend on; the same at every start.

    Options of prompt and verifiers stand in the spec and the config; what they do with them, in their source files.
    """
    run = Path(model)
    folder = checkpoint.newest(run) / "policy" if (run / "config.yaml").is_file() else run
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.glob("*")) if path.is_file()]
    weights = [str(folder.resolve()), files] if files else [model, getattr(policy.model.config, "_commit_hash", None)]
    settings = [exam.spec.model_dump(mode="json"), given.policy.model_dump(mode="json"), given.prompt, blank, exam.seed]
    sources = {kind: plugins.source_hash(verifier) for kind, verifier in exam.checks.by_kind.items()}
    asked = [identity.digest([exam.questions]), [(sample.tags, sample.columns) for sample in exam.questions]]
    parts = [__version__, weights, settings, plugins.source_hash(exam.style), sources, asked]
    return hashlib.sha256(json.dumps(parts, default=_plain).encode()).hexdigest()[:16]


def _plain(value: Any) -> str:
    """Bytes by their digest, anything else that is not JSON by its type: its words could hold an address."""
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else type(value).__name__


def prove(engine: RolloutEngine, given: Config, ask: Callable[[int], Prompt], policy: Policy) -> None:
    """Look through the vision gate at an engine with weights of its own, before its answers are believed."""
    if engine.renewed and (gate := build_gate(given, ask, engine)):
        gate.look(engine, policy, 0)


def try_out(given: Config, folder: Path, *, model: str | None, count: int, to: Path | None) -> Iterator[str]:
    """Sample and score groups; lines that tell them."""
    policy = chosen_policy(given, model) if model else load_policy(given.policy, seed=given.seed)
    style = build_style(given.prompt, folder)
    check_template(style, policy.processor)
    checks = build_verifiers(given.verifiers, style, policy.frame, given.reward, folder)
    questions = read_questions(given.data, checks, folder=folder)
    ask = Asker(questions.stream(given.seed, "data"), style, policy)
    engine = build_engine(given.rollout.engine, policy, folder)
    drawing = Drawing(engine=engine, ask=ask, verifiers=checks, config=given.rollout, wanted=0, seed=given.seed)
    with closing(engine):
        prove(engine, given, ask, policy)
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


def chosen_policy(given: Config, model: str, *, say: Callable[[str], None] = print) -> Policy:
    """A run's newest policy, or the one of a checkpoint folder or a hub id."""
    run = Path(model)
    path = checkpoint.newest(run) / "policy" if (run / "config.yaml").is_file() else None
    chosen = given.policy if path else given.policy.model_copy(update={"model": model})
    return load_policy(chosen, seed=given.seed, path=path, say=say)
