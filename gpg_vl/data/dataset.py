"""Hold the validated samples of several sources, in an endless order that an index addresses."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from gpg_vl.config.schema import Source
from gpg_vl.data.sources import read_source
from gpg_vl.errors import UserError
from gpg_vl.randomness import seed as addressed_seed
from gpg_vl.types import LeftOut, Sample
from gpg_vl.verifiers.dispatch import VerifierSet


@dataclass(frozen=True, slots=True)
class Dataset:
    """Samples that passed their own verifier, mixed by weight in an endless order.

    The order is a function of an index, so a run that resumes needs to know one number. Of every
    sum(weights) samples each source gives exactly its weight, in a shuffled pattern; each source is
    shuffled anew on every pass.

    Example:
        Dataset((counting, boxes), weights=(2, 1), seed=0)[123]
    """

    sources: tuple[Sequence[Sample], ...]
    """Samples of each source, in the order of its rows."""
    weights: tuple[int, ...]
    """Share of each source in a block of sum(weights) samples."""
    seed: int
    """Seed of the run."""
    purpose: str = "data"
    """Name of the random stream: other purposes see the same samples in another order."""
    left_out: tuple[LeftOut, ...] = ()
    """Rows that are not used: a recipe leaves them out, or their own answer does not score 1."""

    @property
    def samples(self) -> list[Sample]:
        """All samples, source by source."""
        return list(chain.from_iterable(self.sources))

    def for_purpose(self, purpose: str) -> "Dataset":
        """Return the same samples in the order of another purpose."""
        return replace(self, purpose=purpose)

    def __getitem__(self, index: int) -> Sample:
        block_size = sum(self.weights)
        block, place = divmod(index, block_size)
        slot = int(self._permutation("pattern", block, block_size)[place])
        # Slots 0 .. weights[0]-1 belong to the first source, the next weights[1] to the second...
        number = 0
        while slot >= self.weights[number]:
            slot -= self.weights[number]
            number += 1
        source = self.sources[number]
        epoch, position = divmod(block * self.weights[number] + slot, len(source))
        return source[int(self._permutation(f"source {number}", epoch, len(source))[position])]

    def _permutation(
        self, what: str, epoch: int, length: int
    ) -> "np.ndarray[Any, np.dtype[np.int64]]":
        stream = addressed_seed(self.seed, self.purpose, what, epoch)
        return np.random.default_rng(stream).permutation(length)


def read_dataset(
    sources: Sequence[Source],
    verifiers: VerifierSet,
    *,
    base_dir: Path,
    seed: int,
    key: str = "data",
    purpose: str = "data",
) -> Dataset:
    """Read every source, without the rows whose own answer does not earn the full reward.

    Args:
        base_dir: folder of the config; relative files and plug-ins are looked for there.
        key: place of the sources in the config, for messages.

    Raises:
        UserError: a source is empty, or no row of it can be used.
    """
    left_out: list[LeftOut] = []
    validated_sources: list[Sequence[Sample]] = []
    for number, source in enumerate(sources):
        rows = validated(
            source,
            verifiers,
            base_dir=base_dir,
            key=f"{key}.{number}",
            on_left_out=left_out.append,
        )
        validated_sources.append(list(rows))
    weights = tuple(source.weight for source in sources)
    return Dataset(tuple(validated_sources), weights, seed, purpose, tuple(left_out))


def validated(
    source: Source,
    verifiers: VerifierSet,
    *,
    base_dir: Path,
    key: str,
    on_left_out: Callable[[LeftOut], None],
) -> Iterator[Sample]:
    """Yield the rows of one source whose own answer earns the full reward.

    They come one by one, so a large data set need not fit into memory.

    Args:
        on_left_out: called with each row that is not used.

    Raises:
        UserError: at the end, if an id names several rows or no row can be used.
    """
    ids: Counter[str] = Counter()
    invalid: list[LeftOut] = []
    for sample in read_source(source, base_dir=base_dir, key=key, on_left_out=on_left_out):
        ids[sample.id] += 1
        error = verifiers.validation_error(sample)
        if error:
            invalid.append(LeftOut(sample.id, error))
            on_left_out(invalid[-1])
        else:
            yield sample
    repeated = [name for name, times in ids.items() if times > 1]
    if repeated:
        raise UserError(
            f"{key}: the id {repeated[0]!r} names several rows (and {len(repeated) - 1} other ids "
            "do); ids must be unique"
        )
    if not ids:
        raise UserError(f"{key}: the data set is empty")
    if len(invalid) == ids.total():
        first = invalid[0]
        raise UserError(f"{key}: all {len(invalid)} rows are unusable; {first.id}: {first.why}")


def fingerprint(sources: Iterable[Iterable[Sample]], settings: str = "") -> str:
    """Return a digest of the samples of several sources and of some settings beside them."""
    digest = hashlib.sha256(settings.encode())
    for source in sources:
        for sample in source:
            digest.update(repr(_content(sample)).encode())
    return digest.hexdigest()[:16]


def _content(sample: Sample) -> Sequence[Any]:
    images: list[Any] = []
    for image in sample.images:
        if isinstance(image, bytes):
            images.append(hashlib.sha256(image).hexdigest())
        else:
            images.append(_file_stamp(image))
    return (
        sample.id,
        sample.question,
        sample.answer_kind,
        sample.answer,
        sample.choices,
        sample.frame,
        sample.solution,
        images,
    )


def _file_stamp(path: Path) -> tuple[str, int, int]:
    """Return name, size and time of a file: hashing every image of a large set takes minutes."""
    status = path.stat()
    return path.name, status.st_size, status.st_mtime_ns
