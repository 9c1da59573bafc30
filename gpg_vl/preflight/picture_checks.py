"""Check that pictures can be read, and that no picture is in both training and test."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from PIL import Image

from gpg_vl.config.loading import load_benchmark
from gpg_vl.config.schema import Config
from gpg_vl.data.dataset import Dataset, read_dataset
from gpg_vl.errors import UnusableSampleError, UserError, one_line
from gpg_vl.experiment import Experiment
from gpg_vl.policy.encode import open_images
from gpg_vl.preflight import row_checks
from gpg_vl.preflight.finding import Finding
from gpg_vl.report.left_out import described
from gpg_vl.types import LeftOut, Sample

DECODED_ROWS = 1000
"""Rows whose pictures are decoded, at most about twice as many."""


def pictures(
    config: Config, dataset: Dataset, unreadable: Sequence[str], decoded: int
) -> Iterator[Finding]:
    """Yield questions that are asked without their picture, and pictures that cannot be read.

    Args:
        decoded: rows whose pictures were opened.
    """
    for source, rows in zip(config.data, dataset.sources, strict=True):
        bare = [sample.id for sample in rows if not sample.images]
        names_images = bool({"image", "images"} & set(source.columns))
        if bare and (len(bare) < len(rows) or names_images):
            yield Finding(
                "mind",
                f"pictures: {len(bare)} of {len(rows)} rows have no picture; "
                f"{one_line(bare[0])} is one",
            )
    if unreadable:
        too_many = row_checks.would_stop_a_run(
            config, len(unreadable), decoded, len(dataset.samples)
        )
        yield Finding(
            "stop" if too_many else "mind",
            f"pictures: {len(unreadable)} of {decoded} rows have one that cannot be read; "
            f"{unreadable[0]}",
        )


def overlap(
    experiment: Experiment, trained: Mapping[str, str], cut: str, head: int | None
) -> Iterator[Finding]:
    """Yield pictures that are in both training and test.

    Args:
        trained: digests of the training pictures.
        cut: says how many rows they come from, if not from all.
    """
    name = experiment.config.evaluation.benchmark
    if name is None:
        text = "no evaluation.benchmark: the run will not know whether it learns"
        yield Finding("mind", text)
        return
    try:
        spec = load_benchmark(name, experiment.config.base_dir)
        style, verifiers = experiment.benchmark_parts(spec)
        held_out = read_dataset(
            row_checks.first_rows(spec.data, head),
            verifiers,
            base_dir=spec.base_dir,
            seed=0,
            why_unaskable=lambda sample: experiment.why_unaskable(sample, style),
        )
    except UserError as error:
        yield Finding("stop", f"evaluation.benchmark: {error}")
        return
    yield from row_checks.unused_rows(held_out, "evaluation.benchmark: ")
    decoded = row_checks.evenly_spaced(held_out.samples, DECODED_ROWS)
    if not cut and len(decoded) < len(held_out.samples):
        cut = f" (pictures of {len(decoded):,} of {len(held_out.samples):,} tests were looked at)"
    tested, unreadable = decoded_pictures(decoded)
    if unreadable:
        yield Finding(
            "mind",
            f"evaluation.benchmark: {len(unreadable)} rows have a picture that cannot be read; "
            f"{unreadable[0]}",
        )
    yield _shared_pictures(
        trained, tested, cut or row_checks.note_of_cut(spec.data, held_out, head)
    )


def _shared_pictures(trained: Mapping[str, str], tested: Mapping[str, str], cut: str) -> Finding:
    shared = [question for digest, question in tested.items() if digest in trained]
    if not shared:
        return Finding(
            "fine",
            f"overlap: none of {len(tested)} test pictures is among {len(trained)} training "
            f"pictures{cut}",
        )
    counts = (
        f"overlap: {len(shared)} of {len(tested)} test pictures are also trained on, pixel for "
        f"pixel{cut}"
    )
    if len(shared) == len(tested):
        return Finding(
            "stop",
            f"{counts}: the benchmark would measure memory, not learning; hold other pictures out",
        )
    if 2 * len(shared) > len(tested):
        return Finding(
            "mind",
            f"{counts}, more than half: the benchmark measures mostly memory; "
            f"{one_line(shared[0])} is one",
        )
    return Finding("mind", f"{counts}; {one_line(shared[0])} is one")


def decoded_pictures(samples: Sequence[Sample]) -> tuple[dict[str, str], list[str]]:
    """Return digest of a picture's pixels -> a question that shows it, and unreadable pictures."""
    by_digest: dict[str, str] = {}
    unreadable: list[str] = []
    for sample in samples:
        try:
            images = open_images(sample)
        except UnusableSampleError as error:
            unreadable.append(described(LeftOut.of(sample, str(error))))
            continue
        for image in images:
            by_digest.setdefault(_digest(image), sample.id)
    return by_digest, unreadable


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(str(image.size).encode() + image.tobytes()).hexdigest()
