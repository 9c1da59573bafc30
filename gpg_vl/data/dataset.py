"""Validated samples of several sources, in an endless order that is a function of an index."""

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from gpg_vl.config.schema import Source
from gpg_vl.data import sources as data_sources
from gpg_vl.errors import UserError
from gpg_vl.randomness import seed
from gpg_vl.types import LeftOut, Sample
from gpg_vl.verifiers.dispatch import VerifierSet


@dataclass(frozen=True, slots=True)
class Stream:
    """An endless order over several finite sources that is a function of an index.

    Of every sum(weights) draws each source gets exactly its weight, in a shuffled pattern; each source is shuffled anew every pass.

    Example:
        Stream((counting, boxes), weights=(2, 1), seed=0)[123]
    """

    sources: tuple[Sequence[Sample], ...]
    weights: tuple[int, ...]
    seed: int
    purpose: str = "data"

    def __getitem__(self, index: int) -> Sample:
        block, place = divmod(index, sum(self.weights))
        pattern = self._order("pattern", block, sum(self.weights))
        slot = int(pattern[place])
        bounds = list(accumulate(self.weights))
        which = bisect_right(bounds, slot)
        ordinal = block * self.weights[which] + slot - (bounds[which] - self.weights[which])
        source = self.sources[which]
        epoch, position = divmod(ordinal, len(source))
        return source[int(self._order(f"source {which}", epoch, len(source))[position])]

    def _order(self, what: str, epoch: int, length: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
        return np.random.default_rng(seed(self.seed, self.purpose, what, epoch)).permutation(length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Samples that passed their own verifier, and why the others did not."""

    sources: tuple[Sequence[Sample], ...]
    weights: tuple[int, ...]
    left_out: tuple[LeftOut, ...]
    """What its recipe leaves out, and rows whose gold answer fails."""

    def stream(self, seed: int, purpose: str) -> Stream:
        """The endless order of these questions for one purpose."""
        return Stream(self.sources, self.weights, seed, purpose)


def read_dataset(sources: Sequence[Source], checks: VerifierSet, *, folder: Path, key: str = "data") -> Dataset:
    """Read every source and leave out the rows whose gold answer does not earn full marks.

    Raises:
        UserError: a source is empty, or nothing of it is left.
    """
    left_out: list[LeftOut] = []
    kept = tuple(
        list(validated(source, checks, folder=folder, key=f"{key}.{number}", told=left_out.append)) for number, source in enumerate(sources)
    )
    return Dataset(sources=kept, weights=tuple(source.weight for source in sources), left_out=tuple(left_out))


def validated(source: Source, checks: VerifierSet, *, folder: Path, key: str, told: Callable[[LeftOut], None]) -> Iterator[Sample]:
    """The rows of one source whose gold answer earns full marks, one by one: a large set need not be held.

    Args:
        told: called with what its recipe leaves out, and with every other row.

    Raises:
        UserError: at the end, where ids are doubled, or not one row was sound.
    """
    names: Counter[str] = Counter()
    bad: list[LeftOut] = []
    for sample in data_sources.read(source, folder=folder, key=key, told=told):
        names[sample.id] += 1
        if complaint := checks.complaint(sample):
            bad.append(LeftOut(sample.id, complaint))
            told(bad[-1])
        else:
            yield sample
    if doubled := [name for name, times in names.items() if times > 1]:
        raise UserError(f"{key}: the id {doubled[0]!r} names several rows (and {len(doubled) - 1} other ids do); ids must be unique")
    if len(bad) == names.total():
        raise UserError(f"{key}: " + (f"all {len(bad)} rows are unusable; {bad[0].id}: {bad[0].why}" if bad else "the data set is empty"))


def fingerprint(sources: Iterable[Iterable[Sample]], said: str = "") -> str:
    """Of the samples of several sources, and of some words about them."""
    told = hashlib.sha256(said.encode())
    for source in sources:
        for sample in source:
            told.update(repr(_content(sample)).encode())
    return told.hexdigest()[:16]


def _content(sample: Sample) -> Sequence[Any]:
    images = [hashlib.sha256(image).hexdigest() if isinstance(image, bytes) else _stamp(image) for image in sample.images]
    return (sample.id, sample.question, sample.answer_kind, sample.answer, sample.choices, sample.frame, sample.solution, images)


def _stamp(path: Path) -> tuple[str, int, int]:
    """Name, size and time of a file: reading every image of a large data set would take minutes."""
    status = path.stat()
    return path.name, status.st_size, status.st_mtime_ns
