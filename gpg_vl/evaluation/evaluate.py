"""Ask a policy the questions of a benchmark and score its answers."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from gpg_vl import __version__, run_folder
from gpg_vl.config import plugins
from gpg_vl.config.schema import Config
from gpg_vl.data import dataset
from gpg_vl.data.dataset import Stream
from gpg_vl.evaluation import average_precision
from gpg_vl.evaluation.benchmark import Benchmark, score_question, settings_of
from gpg_vl.evaluation.records import EvalLog, Record
from gpg_vl.experiment import Asker, build_engine, chosen_policy, config_of, examination, verify_engine
from gpg_vl.policy.encode import encode
from gpg_vl.policy.load import Policy
from gpg_vl.randomness import seed as addressed_seed
from gpg_vl.rollout.engine import RolloutEngine, Sampling
from gpg_vl.types import Sample

OF_BENCHMARK = "benchmark."
"""What a knob of the benchmark begins with, among those of the run."""


def evaluate_model(name: str, model: str, overrides: Sequence[str], *, blank: bool = False, told: Callable[[int], None]) -> list[Record]:
    """Take a benchmark with a run's newest policy, a checkpoint or a hub model."""
    return next(evaluate_benchmarks([name], model, overrides, blank=blank, told=lambda name, done, of: told(done)))[1]


def evaluate_benchmarks(
    names: Sequence[str],
    model: str,
    overrides: Sequence[str],
    *,
    blank: bool = False,
    told: Callable[[str, int, int], None] = lambda name, done, of: None,
    to: Callable[[str], Path | None] = lambda name: None,
    say: Callable[[str], None] = print,
) -> Iterator[tuple[Benchmark, list[Record]]]:
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
    given, folder = config_of(model, [item for item in overrides if not item.startswith(OF_BENCHMARK)])
    knobs = [item.removeprefix(OF_BENCHMARK) for item in overrides if item.startswith(OF_BENCHMARK)]
    policy = chosen_policy(given, model, say=say)
    exams = {name: examination(given, folder, policy, name, knobs) for name in names}
    places = {name: EvalLog(path, _fingerprint(exam, given, model, policy, blank)) for name, exam in exams.items() if (path := to(name))}
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
        verify_engine(engine, given, ask, policy)
        for name, exam in exams.items():
            told_of, kept = partial(_tell, told, name, len(exam.questions)), places.get(name)
            records = run_benchmark(exam, policy, engine, blank=blank, told=told_of, kept=kept)
            verify_engine(engine, given, ask, policy)  # it may have come back in the meantime
            if kept:
                kept.finish(records)
            yield exam, records


def _tell(told: Callable[[str, int, int], None], name: str, of: int, done: int) -> None:
    told(name, done, of)


def _fingerprint(exam: Benchmark, given: Config, model: str, policy: Policy, blank: bool) -> str:
    """Of everything that an answer and its score depend on; the same at every start.

    Options of prompt and verifiers stand in the spec and the config; what they do with them, in their source files.
    """
    run = Path(model)
    folder = run_folder.newest_checkpoint(run) / "policy" if (run / "config.yaml").is_file() else run
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.glob("*")) if path.is_file()]
    weights = [str(folder.resolve()), files] if files else [model, getattr(policy.model.config, "_commit_hash", None)]
    settings = [exam.spec.model_dump(mode="json"), given.policy.model_dump(mode="json"), given.prompt, blank, exam.seed]
    sources = {kind: plugins.source_hash(verifier) for kind, verifier in exam.checks.by_kind.items()}
    asked = [dataset.fingerprint([exam.questions]), [(sample.tags, sample.columns) for sample in exam.questions]]
    parts = [__version__, weights, settings, plugins.source_hash(exam.style), sources, asked]
    return hashlib.sha256(json.dumps(parts, default=_plain).encode()).hexdigest()[:16]


def _plain(value: Any) -> str:
    """Bytes by their digest, anything else that is not JSON by its type: its words could hold an address."""
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else type(value).__name__


QUESTIONS_AT_ONCE = 64
"""Asked together, and kept together."""


def run_benchmark(
    examination: Benchmark,
    policy: Policy,
    engine: RolloutEngine,
    *,
    blank: bool = False,
    told: Callable[[int], None] = lambda done: None,
    kept: "Kept | None" = None,
) -> list[Record]:
    """Ask every question, greedily and `spec.samples` times.

    Args:
        blank: show grey pictures of the same size instead: what is left is guessing.
        told: called with the number of questions done so far.
        kept: where answers are kept while it goes on; questions that are answered there are not asked again.
    """
    records = {score_question.id: score_question for score_question in kept.records()} if kept else {}
    asked = [sample for sample in examination.questions if sample.id not in records]
    settings = {**settings_of(examination.spec), "max_tokens": examination.spec.max_tokens, "blank": blank}
    told(len(records))
    for start in range(0, len(asked), QUESTIONS_AT_ONCE):
        answered = _ask(asked[start : start + QUESTIONS_AT_ONCE], examination, policy, engine, blank)
        fresh = [replace(score_question, settings=settings, evaluation=kept.fingerprint if kept else "") for score_question in answered]
        records |= {score_question.id: score_question for score_question in fresh}
        if kept:
            kept.add(fresh)
        told(len(records))
    return [records[sample.id] for sample in examination.questions]


def _ask(batch: Sequence[Sample], examination: Benchmark, policy: Policy, engine: RolloutEngine, blank: bool) -> list[Record]:
    spec = examination.spec
    prompts = [encode(blanked(sample) if blank else sample, examination.style, policy) for sample in batch]
    sampling = Sampling(max_tokens=spec.max_tokens, temperature=spec.temperature)
    greedy = engine.generate(prompts, replace(sampling, greedy=True), [[0]] * len(batch))
    seeds = [[addressed_seed(examination.seed, "evaluate", sample.id, index) for index in range(spec.samples)] for sample in batch]
    sampled = engine.generate(prompts, sampling, seeds) if spec.samples else [[] for _ in batch]
    return [
        score_question(sample, best[0], others, spec, examination.checks)
        for sample, best, others in zip(batch, greedy, sampled, strict=True)
    ]


def blanked(sample: Sample) -> Sample:
    """The same question with every picture replaced by a grey one of its size."""
    return replace(sample, images=tuple(_grey(size) for size in sample.sizes))


def _grey(size: tuple[int, int]) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", size, (128, 128, 128)).save(encoded, "PNG")
    return encoded.getvalue()
