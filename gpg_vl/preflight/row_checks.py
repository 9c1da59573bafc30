"""Check which rows of a data set are used, and choose those that an audit looks at."""

import math
from collections.abc import Iterator, Sequence

from gpg_vl.config.schema import Config, Source
from gpg_vl.data.dataset import Dataset, read_dataset
from gpg_vl.errors import UserError
from gpg_vl.experiment import Experiment
from gpg_vl.preflight.finding import Finding, Level
from gpg_vl.report.left_out import by_reason
from gpg_vl.rollout.collect import MIN_LOST, too_many_lost
from gpg_vl.types import LeftOut, Sample
from gpg_vl.verifiers.dispatch import FAILS

TASK_SHARE = 0.05
"""Share of the rows above which a kind of answers is a task of its own."""


def reference_answers(dataset: Dataset, cut: str = "") -> Iterator[Finding]:
    """Yield how many rows are used, and why the others are not."""
    used = len(dataset.samples)
    yield Finding("fine", f"reference answers: {used} rows earn the full reward{cut}")
    yield from unused_rows(dataset)


def unused_rows(dataset: Dataset, where: str = "") -> Iterator[Finding]:
    """Yield why rows of a data set are not used, the most frequent reason first.

    Args:
        where: names the data set, if it is not that of the training.
    """
    used, left_out = len(dataset.samples), dataset.left_out
    if not left_out:
        return
    rows = used + len(left_out)
    used_ids = {sample.id for sample in dataset.samples}
    # two sources may read one file, each the rows of its own kind
    lost = [row for row in left_out if row.id not in used_ids]
    level: Level = "mind" if len(lost) < used else "stop"
    first, *others = by_reason(left_out)
    yield Finding(level, f"{where}left out: {len(left_out)} rows of {rows}; {first}")
    for line in others:
        yield Finding(level, f"{where}left out: {line}")
    yield from _lost_kinds(dataset, lost, where)


def _lost_kinds(dataset: Dataset, lost: Sequence[LeftOut], where: str) -> Iterator[Finding]:
    """Yield kinds of answers of which no row is used.

    Args:
        lost: rows that no source uses.
    """
    why = {(row.source, row.id): row.why for row in lost}
    reasons: dict[str, list[str]] = {}
    for sample in dataset.rejected:
        if (sample.source, sample.id) in why:
            reasons.setdefault(sample.answer_kind, []).append(why[sample.source, sample.id])
    for sample in dataset.samples:
        reasons.pop(sample.answer_kind, None)
    rows = len(dataset.samples) + len(lost)
    for kind in sorted(reasons):
        count = len(reasons[kind])
        level: Level = "mind"  # a stray row is no task
        advice = "mend them or their verifier, or the run trains without them"
        if any(FAILS in reason for reason in reasons[kind]):
            level, advice = "stop", "their verifier fails; mend it"
        elif count > TASK_SHARE * rows:
            level = "stop"
        of_kind = (
            f"all {count} rows of kind {kind}" if count > 1 else f"the only row of kind {kind}"
        )
        yield Finding(level, f"{where}left out: {of_kind}: {advice}")


def warmup_rows(experiment: Experiment, head: int | None) -> Iterator[Finding]:
    """Yield why rows of the warm-up's own data are not used."""
    config = experiment.config
    if not config.warmup.steps or not config.warmup.data:
        return
    try:
        dataset = read_dataset(
            first_rows(config.warmup.data, head),
            experiment.verifiers,
            base_dir=config.base_dir,
            seed=config.seed,
            key="warmup.data",
            why_unaskable=experiment.why_unaskable,
        )
    except UserError as error:
        yield Finding("stop", f"warmup: {error}")
        return
    yield from unused_rows(dataset, "warmup: ")


def first_rows(sources: Sequence[Source], head: int | None) -> Sequence[Source]:
    """Return sources of which only the first `head` rows are read; None = all."""
    if head is None:
        return sources
    shortened: list[Source] = []
    for source in sources:
        rows = min(head, source.head or head)
        shortened.append(source.model_copy(update={"head": rows}))
    return shortened


def note_of_cut(sources: Sequence[Source], dataset: Dataset, head: int | None) -> str:
    """Return words that say that only the first rows were read; empty if all were."""
    if head is None:
        return ""
    for source, rows in zip(sources, dataset.sources, strict=True):
        source_head = source.head or math.inf
        if source_head > head and len(rows) + len(dataset.left_out) >= head:
            return f" (only the first {head:,} rows of a source were read)"
    return ""


def evenly_spaced(samples: Sequence[Sample], count: int) -> Sequence[Sample]:
    """Return `count` to twice as many samples, evenly spaced; all, where there are fewer."""
    return samples[:: max(1, len(samples) // count)]


def would_stop_a_run(config: Config, lost: int, tried: int, rows: int) -> bool:
    """Return True if a run would lose too many samples, after several passes over all rows.

    Args:
        lost: rows that cannot become prompts, of those that were tried.
    """
    return too_many_lost(
        config.rollout.max_lost,
        lost=MIN_LOST * lost,
        drawn=MIN_LOST * tried,
        lost_rows=lost * rows // tried,
        rows=rows,
    )
