"""Check before training whether a run can learn what it is meant to learn.

Without a model: the run fits its hardware; model and packages are there; every reference answer
scores 1; hostile answers earn no more than they may; no constant answer beats chance; no picture is
in both training and test; prompts fit into the window. With a model: what it answers, why answers
cannot be read, and how many groups are informative.
"""

import importlib.util
from collections.abc import Iterator, Sequence

from gpg_vl.config.loading import load_benchmark
from gpg_vl.config.schema import Config, Source
from gpg_vl.data.dataset import read_dataset
from gpg_vl.errors import SHOWN_CHARACTERS, UserError, one_line
from gpg_vl.experiment import Experiment
from gpg_vl.policy.adapter_files import AdapterFiles
from gpg_vl.policy.packages import check_optimizers, check_packages, check_packages_of
from gpg_vl.preflight import (
    data_checks,
    memory,
    model_checks,
    picture_checks,
    remedies,
    reward_checks,
    row_checks,
)
from gpg_vl.preflight.adapter_checks import check_adapters
from gpg_vl.preflight.finding import Finding
from gpg_vl.preflight.memory import Workload
from gpg_vl.preflight.plan import workload_of
from gpg_vl.report.tracker_checks import not_installed
from gpg_vl.types import Sample

INSPECTED_ROWS = 64
"""Rows whose pictures are inspected for what a model does not see, at most about twice as many."""


def audit(
    experiment: Experiment, *, model: str | None = None, head: int | None = None
) -> Iterator[Finding]:
    """Yield everything that can be known before training, sentence by sentence.

    Every row is read and checked by its own verifier; pictures are decoded, and prompts counted in
    tokens, of some of them.

    Args:
        model: policy to ask: a run folder, a checkpoint folder or a hub id; None = only a
            processor is loaded.
        head: rows of each source that are read; None = all.
    """
    config = experiment.config
    workload = None
    try:
        workload = workload_of(experiment)
    except UserError as error:
        yield Finding("stop", f"model: cannot be read: {error}")
    else:
        yield hardware(workload)
        yield from adapters(workload)
    adapter = None if workload is None else workload.adapter
    yield from packages(config, _benchmark_sources(config), adapter)
    reader = None
    if workload is not None:  # a missing model has been reported above
        try:
            reader = model_checks.reader_of(experiment)
            experiment = experiment.for_processor(reader.processor, reader.window)
        except (OSError, ValueError, UserError) as error:
            yield Finding("stop", f"prompts: not checked: {one_line(error, SHOWN_CHARACTERS)}")
            reader = None
    try:
        dataset = read_dataset(
            row_checks.first_rows(config.data, head),
            experiment.verifiers,
            base_dir=config.base_dir,
            seed=config.seed,
            why_unaskable=experiment.why_unaskable,
        )
    except UserError as error:
        yield Finding("stop", f"data: {error}")
        return
    cut = row_checks.note_of_cut(config.data, dataset, head)
    yield from row_checks.reference_answers(dataset, cut)
    yield from data_checks.of_rows(config.data, dataset, experiment.verifiers)
    decoded = row_checks.evenly_spaced(dataset.samples, picture_checks.DECODED_ROWS)
    trained_pictures, unreadable = picture_checks.decoded_pictures(decoded)
    yield from picture_checks.pictures(config, dataset, unreadable, len(decoded))
    inspected = row_checks.evenly_spaced(dataset.samples, INSPECTED_ROWS)
    yield from data_checks.odd_pictures(inspected)
    for kind, samples in _by_kind(dataset.samples).items():
        yield from reward_checks.rewards(kind, samples, experiment.verifiers)
    yield from data_checks.hidden_options(dataset.samples, experiment.style)
    if len(decoded) < len(dataset.samples):
        cut = f" (pictures of {len(decoded):,} of {len(dataset.samples):,} rows were looked at)"
    yield from picture_checks.overlap(experiment, trained_pictures, cut, head)
    yield from row_checks.warmup_rows(experiment, head)
    if reader is not None:
        yield from model_checks.lengths(experiment, dataset, reader)
    if model is not None:
        yield from model_checks.answers_of(experiment, model, dataset)


def hardware(workload: Workload) -> Finding:
    """Judge whether the run fits its hardware."""
    found = remedies.problems(workload)
    if found:
        return Finding("stop", f"memory: {found[0]}; change: {'; or '.join(found[1:])}")
    gpu = workload.machine.gb
    if gpu is None:
        is_tiny = workload.config.policy.model == "tiny"
        text = "memory: not judged: there is no GPU here, and hardware.gb names none"
        return Finding("fine" if is_tiny else "mind", text)
    needed = memory.needed(workload) / memory.GB
    text = f"memory: {needed:.1f} GB of {gpu:g} at the peak; gpg-vl plan has the items"
    return Finding("fine", text)


def adapters(workload: Workload) -> Iterator[Finding]:
    """Yield why the adapters of the run cannot be trained."""
    try:
        check_adapters(workload)
    except UserError as error:
        yield Finding("stop", str(error))


def packages(
    config: Config,
    benchmark_sources: Sequence[Source] = (),
    adapter: AdapterFiles | None = None,
) -> Iterator[Finding]:
    """Yield optional packages that the config needs and that are not installed.

    Args:
        adapter: that the run begins with.
    """
    yield from _packages_of_policy(config, adapter)
    engine = config.rollout.engine
    kind = engine if isinstance(engine, str) else engine.get("kind")
    if kind == "vllm" and not _is_installed("vllm"):
        yield Finding(
            "stop",
            "rollout.engine: vllm is not installed; pip install 'gpg-vl[vllm]', or use engine: "
            "transformers",
        )
    for name in config.trackers:
        if not _is_installed(name):
            yield Finding("stop", not_installed(name))
    for source in (*config.data, *config.warmup.data, *benchmark_sources):
        if source.hub and not _is_installed("datasets"):
            yield Finding(
                "stop",
                f"data: {source.hub} is read with the package datasets, which is not installed; "
                "pip install datasets",
            )
            return


def _packages_of_policy(config: Config, adapter: AdapterFiles | None) -> Iterator[Finding]:
    """Yield why adapters, 4 bits or the optimizer cannot be had here; the first reason alone."""
    try:
        check_packages(config.policy)
        if adapter is not None:
            check_packages_of(adapter, "policy.model")
        check_optimizers(config)
    except UserError as error:
        yield Finding("stop", str(error))


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _benchmark_sources(config: Config) -> Sequence[Source]:
    if not config.evaluation.benchmark:
        return ()
    return load_benchmark(config.evaluation.benchmark, config.base_dir).data


def _by_kind(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    by_kind: dict[str, list[Sample]] = {}
    for sample in samples:
        by_kind.setdefault(sample.answer_kind, []).append(sample)
    return by_kind
