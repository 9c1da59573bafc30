"""Ask a policy the questions of benchmarks and score its answers."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from gpg_vl import __version__, progress
from gpg_vl.config import loading, models, plugins
from gpg_vl.data.dataset import Dataset, fingerprint
from gpg_vl.errors import UnusableSampleError, UserError, shown
from gpg_vl.evaluation import average_precision
from gpg_vl.evaluation.benchmark import Benchmark, facts_of, settings_of, style_settings
from gpg_vl.evaluation.records import EvalLog, Record, Settings, save_left_out
from gpg_vl.experiment import Experiment, Log
from gpg_vl.policy.adapter_files import is_adapter
from gpg_vl.policy.encode import encode
from gpg_vl.policy.load import Policy
from gpg_vl.policy.model_folder import find_model
from gpg_vl.randomness import seed as addressed_seed
from gpg_vl.rollout.engine import RolloutEngine, Sampling, ensure_fits
from gpg_vl.types import LeftOut, Prompt, Sample

QUESTIONS_AT_ONCE = 64
"""Questions that are asked together and written together."""

OnProgress = Callable[[str, int, int], None]
"""Called with benchmark, questions done, questions in all."""


def evaluate_benchmarks(
    names: Sequence[str],
    model: str,
    overrides: Sequence[str],
    *,
    blank: bool = False,
    on_progress: OnProgress = lambda name, done, total: None,
    path_of: Callable[[str], Path | None] = lambda name: None,
    log: Log = print,
) -> Iterator[tuple[Benchmark, list[Record]]]:
    """Evaluate one policy, loaded once, on several benchmarks.

    Args:
        overrides: key=value knobs of the run's config; those of the benchmark begin with
            `benchmark.`.
        path_of: file for a benchmark's records, which are written QUESTIONS_AT_ONCE at a time, so
            that an interrupted evaluation goes on; None = not written.
        log: called with what of a benchmark is left out.

    Yields:
        A benchmark without the questions that could not be asked, and a record of each other one.

    Raises:
        UserError: a benchmark cannot be asked, or records of another evaluation are in its file;
            before anything is asked.
    """
    run_overrides, knobs = loading.split_knobs(overrides)
    config = loading.load_for_model(model, run_overrides)
    model = models.find(model, "model").name  # a run may save another checkpoint meanwhile
    progress.phase("loading the model")
    policy = Experiment.of(config).policy_of(model, log=log)
    experiment = Experiment.of(config, policy.frame)
    prepared: list[tuple[str, Benchmark, EvalLog | None]] = []
    for name in names:
        benchmark = experiment.benchmark(policy, name, knobs)
        if benchmark.spec.average_precision:
            average_precision.check_installed()
        eval_log = None
        path = path_of(name)
        if path is not None:
            eval_log = EvalLog(path, _fingerprint(benchmark, experiment, model, policy, blank))
            eval_log.records()  # refuses those of another evaluation
        prepared.append((name, benchmark, eval_log))
    for _, benchmark, _ in prepared:
        if benchmark.missing:
            log(benchmark.missing)
    with closing(experiment.engine(policy)) as engine:
        _, first, _ = prepared[0]
        questions = Dataset((first.questions,), (1,), experiment.config.seed, "gate")
        prompt_at = experiment.prompt_at(policy, questions, first.style)
        verify = partial(experiment.verify_engine, engine, policy, prompt_at)
        progress.phase("checking the engine")
        verify()
        for name, benchmark, eval_log in prepared:
            unusable: list[LeftOut] = []
            records = run_benchmark(
                benchmark,
                policy,
                engine,
                model=model,
                blank=blank,
                on_progress=partial(on_progress, name),
                on_left_out=unusable.append,
                eval_log=eval_log,
            )
            verify()  # the engine may have been restarted in the meantime
            asked = benchmark.without(unusable)
            if eval_log is not None:
                eval_log.finish(records)
                save_left_out(asked.left_out, eval_log.path)
            yield asked, records


def run_benchmark(
    benchmark: Benchmark,
    policy: Policy,
    engine: RolloutEngine,
    *,
    model: str = "",
    blank: bool = False,
    on_progress: Callable[[int, int], None] = progress.count,
    on_left_out: Callable[[LeftOut], None] = lambda left_out: None,
    eval_log: EvalLog | None = None,
) -> list[Record]:
    """Ask every question, greedily and `spec.samples` times.

    A question that cannot be asked has no record. An evaluation that goes on tries it again.

    Args:
        model: name of the model, for the records.
        blank: show grey pictures of the same size instead: what is left is guessing.
        on_progress: called with the number of questions done so far, and of all; the display that
            is open shows them by default.
        on_left_out: called with each question that cannot be asked.
        eval_log: file where records are kept on the way; its questions are not asked again.

    Raises:
        UserError: no question can be asked, or a source has two questions of one id.
    """
    _check_keys(benchmark)
    records: dict[tuple[str, str], Record] = {}
    unusable: list[LeftOut] = []
    if eval_log is not None:
        records = {record.key: record for record in eval_log.records()}
    open_questions = [sample for sample in benchmark.questions if _key(sample) not in records]
    settings = _settings(benchmark, blank)
    about = facts_of(model=model, seed=benchmark.seed, temperature=benchmark.spec.temperature)
    for record in records.values():  # one that goes on is known by the time when it began
        about = record.about or about
    evaluation = eval_log.fingerprint if eval_log is not None else ""
    on_progress(len(records), len(benchmark.questions))
    for start in range(0, len(open_questions), QUESTIONS_AT_ONCE):
        questions = open_questions[start : start + QUESTIONS_AT_ONCE]
        fresh: list[Record] = []
        asked = _encoded(questions, benchmark, policy, engine, blank, unusable)
        for record in _ask(asked, benchmark, engine):
            fresh.append(replace(record, settings=settings, evaluation=evaluation, about=about))
            records[record.key] = fresh[-1]
        if eval_log is not None:
            eval_log.add(fresh)
        on_progress(len(records) + len(unusable), len(benchmark.questions))
    if unusable and not records:
        raise UserError(
            f"{benchmark.spec.name}: none of {len(unusable)} questions can be asked; "
            f"{unusable[0].why}"
        )
    for left_out in unusable:
        on_left_out(left_out)
    return [records[_key(sample)] for sample in benchmark.questions if _key(sample) in records]


def _settings(benchmark: Benchmark, blank: bool) -> Settings:
    """Return the settings in which evaluations of a model should agree to be compared."""
    return {
        **settings_of(benchmark.spec),
        "max_tokens": benchmark.spec.max_tokens,
        "blank": blank,
        **style_settings(benchmark.style),
    }


def _key(sample: Sample) -> tuple[str, str]:
    """Return source and id, which name a question in a benchmark of several sources."""
    return sample.source, sample.id


def _check_keys(benchmark: Benchmark) -> None:
    """Refuse questions that could not be told apart: their records would be merged."""
    seen: set[tuple[str, str]] = set()
    for sample in benchmark.questions:
        if _key(sample) in seen:
            raise UserError(
                f"{benchmark.spec.name}: the id {shown(sample.id)} names several questions of "
                f"the source {shown(sample.source)}; give each row an id of its own"
            )
        seen.add(_key(sample))


def _encoded(
    questions: Sequence[Sample],
    benchmark: Benchmark,
    policy: Policy,
    engine: RolloutEngine,
    blank: bool,
    unusable: list[LeftOut],
) -> list[tuple[Sample, Prompt]]:
    """Return the questions that can be asked, with their prompts.

    Args:
        unusable: gets the others.
    """
    usable: list[tuple[Sample, Prompt]] = []
    for sample in questions:
        try:
            asked = blanked(sample) if blank else sample
            prompt = encode(asked, benchmark.style, policy)
            usable.append((sample, ensure_fits(prompt, engine, max_tokens=1)))
        except UnusableSampleError as error:
            unusable.append(LeftOut.of(sample, str(error)))
    return usable


def _ask(
    questions: Sequence[tuple[Sample, Prompt]], benchmark: Benchmark, engine: RolloutEngine
) -> list[Record]:
    spec = benchmark.spec
    if not questions:
        return []
    prompts = [prompt for _, prompt in questions]
    sampling = Sampling(max_tokens=spec.max_tokens, temperature=spec.temperature)
    greedy = engine.generate(prompts, replace(sampling, greedy=True), [[0]] * len(prompts))
    sampled: list[list[Any]] = [[] for _ in prompts]
    if spec.samples:
        repeated = benchmark.repeated_ids
        seeds = [_seeds(benchmark, sample, repeated) for sample, _ in questions]
        sampled = engine.generate(prompts, sampling, seeds)
    records: list[Record] = []
    for (sample, _), (best,), others in zip(questions, greedy, sampled, strict=True):
        records.append(benchmark.score(sample, best, others))
    return records


def _seeds(benchmark: Benchmark, sample: Sample, repeated: Set[str]) -> list[int]:
    """Return a seed per sampled answer, addressed by the question's id and not by its place.

    Args:
        repeated: ids that several sources share; there the source belongs to the address.
    """
    address: tuple[str, ...] = (sample.id,)
    if sample.id in repeated:
        address = (sample.source, sample.id)
    count = benchmark.spec.samples
    return [addressed_seed(benchmark.seed, "evaluate", *address, n) for n in range(count)]


def blanked(sample: Sample) -> Sample:
    """Return the same question with every picture replaced by a grey one of its size."""
    return replace(sample, images=tuple(_grey(size) for size in sample.sizes))


def _grey(size: tuple[int, int]) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", size, (128, 128, 128)).save(encoded, "PNG")
    return encoded.getvalue()


def _fingerprint(
    benchmark: Benchmark, experiment: Experiment, model: str, policy: Policy, blank: bool
) -> str:
    """Return a digest of everything that an answer and its score depend on.

    It is the same at every start. The options of prompt and verifiers are in spec and config; what
    they do with them is in their source files.
    """
    folder = models.find(model).folder
    if folder is not None:
        weights = _files_in(folder)
        if is_adapter(folder):  # its base model lies elsewhere
            weights += _files_in(find_model(model, "model").folder)
    else:  # a hub id
        weights = [model, getattr(policy.model.config, "_commit_hash", None)]
    config = experiment.config
    settings = [
        benchmark.spec.model_dump(mode="json"),
        config.policy.model_dump(mode="json"),
        config.prompt,
        blank,
        benchmark.seed,
    ]
    sources: dict[str, str] = {}
    for kind, verifier in benchmark.verifiers.by_kind.items():
        sources[kind] = plugins.source_hash(verifier)
    questions = [
        fingerprint([benchmark.questions]),
        [(sample.source, sample.tags, sample.columns) for sample in benchmark.questions],
    ]
    style = plugins.source_hash(benchmark.style)
    parts = [__version__, weights, settings, style, sources, questions]
    content = json.dumps(parts, default=_stable_text)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _files_in(folder: Path) -> list[Any]:
    """Return a folder and the name, size and time of each file in it."""
    files: list[Any] = []
    for file in sorted(folder.iterdir()):
        if file.is_file():
            files.append((file.name, file.stat().st_size, file.stat().st_mtime_ns))
    return [str(folder.resolve()), files]


def _stable_text(value: Any) -> str:
    """Return a text for what is not JSON: a digest of bytes, else the name of the type.

    The `repr` of an object could hold its address in memory, which differs at every start.
    """
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return type(value).__name__
