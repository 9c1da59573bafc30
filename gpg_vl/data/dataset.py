"""Hold the validated samples of several sources, in an endless order that an index addresses."""

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from gpg_vl import progress as display
from gpg_vl.config.schema import Source
from gpg_vl.data.sources import name_of, num_rows, read_source
from gpg_vl.data.validation_cache import ValidationCache
from gpg_vl.errors import UserError, one_line, shown
from gpg_vl.randomness import seed as addressed_seed
from gpg_vl.types import LeftOut, Sample
from gpg_vl.verifiers.dispatch import VerifierSet

Row = TypeVar("Row")

_WRITTEN = ("id", "question", "answer", "choices", "solution", "tags")
"""Fields of a sample that run folders hold."""


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
    """Rows that are not used: they cannot be read or asked, a recipe leaves them out, or their own
    answer does not score 1."""
    rejected: tuple[Sample, ...] = ()
    """Samples among them that could be read."""

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
    phase: str = "",
    why_unaskable: Callable[[Sample], str] = lambda sample: "",
) -> Dataset:
    """Read every source, without the rows that cannot be used.

    Args:
        base_dir: folder of the config; relative files and plug-ins are looked for there.
        key: place of the sources in the config, for messages.
        phase: name of what is read, for a progress display; several sources are numbered.
        why_unaskable: returns the reason why a model cannot be asked a sample; empty = it can.

    Raises:
        UserError: a source is empty, or no row of it can be used.
    """
    left_out: list[LeftOut] = []
    rejected: list[Sample] = []
    validated_sources: list[Sequence[Sample]] = []
    for number, (source, name) in enumerate(zip(sources, source_names(sources), strict=True)):
        rows = validated(
            source,
            verifiers,
            base_dir=base_dir,
            key=f"{key}.{number}",
            on_left_out=left_out.append,
            on_rejected=rejected.append,
            why_unaskable=why_unaskable,
            name=name,
            phase=f"{phase} {number + 1}/{len(sources)}" if phase and len(sources) > 1 else phase,
        )
        validated_sources.append(list(rows))
    return Dataset(
        sources=tuple(validated_sources),
        weights=tuple(source.weight for source in sources),
        seed=seed,
        purpose=purpose,
        left_out=tuple(left_out),
        rejected=tuple(rejected),
    )


def source_names(sources: Sequence[Source]) -> list[str]:
    """Return a name for each source; equal ones are numbered, so that they never merge."""
    times: Counter[str] = Counter()
    names: list[str] = []
    for source in sources:
        name = name_of(source)
        times[name] += 1
        names.append(name if times[name] == 1 else f"{name} ({times[name]})")
    return names


def validated(
    source: Source,
    verifiers: VerifierSet,
    *,
    base_dir: Path,
    key: str,
    on_left_out: Callable[[LeftOut], None],
    on_rejected: Callable[[Sample], None] = lambda sample: None,
    why_unaskable: Callable[[Sample], str] = lambda sample: "",
    name: str = "",
    phase: str = "",
) -> Iterator[Sample]:
    """Yield the rows of one source that can be used.

    A row is left out if it cannot be read, if its own answer does not earn the full reward, or if
    the model cannot be asked. Rows come one by one, so a large data set need not fit into memory.
    Of several rows with one id the later ones are numbered.

    Args:
        on_left_out: called with each row that is not used.
        on_rejected: called with its sample, where it could be read.
        why_unaskable: as in `read_dataset`.
        name: name of the source in its samples.
        phase: as in `read_dataset`; empty = the name says it.

    Raises:
        UserError: at the end, if no row can be used.
    """
    ids: Counter[str] = Counter()
    first: LeftOut | None = None
    used = left_out = 0
    with ValidationCache(verifiers, is_used=source.recipe is None) as cache:
        rows = read_source(source, base_dir=base_dir, key=key, size_of=cache.size_of)
        for row in progress(rows, name or key, lambda: num_rows(source, base_dir), phase):
            if isinstance(row, LeftOut):
                reason = row._replace(source=name)
            else:
                sample = _with_own_id(replace(row, source=name), ids)
                why = (
                    _why_not_written(sample)
                    or cache.validation_error(sample)
                    or why_unaskable(sample)
                )
                if not why:
                    used += 1
                    yield sample
                    continue
                reason = LeftOut(sample.id, why, name)
                on_rejected(sample)
            first = first or reason
            left_out += 1
            on_left_out(reason)
    if used:
        return
    if first is None:
        raise UserError(f"{key}: the data set is empty")
    raise UserError(f"{key}: all {left_out} rows are unusable; {one_line(first.id)}: {first.why}")


def _why_not_written(sample: Sample) -> str:
    """Return why no file can hold a sample, which may be a recipe's; empty = it can."""
    contents = {name: getattr(sample, name) for name in _WRITTEN}
    if _can_be_written(contents):
        return ""
    name = next(name for name, content in contents.items() if not _can_be_written(content))
    return (
        f"half of a character is in its {name} {shown(contents[name])}, which cannot be written as "
        "UTF-8; write the whole character"
    )


def _can_be_written(content: Any) -> bool:
    try:
        json.dumps(content, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True


def _with_own_id(sample: Sample, ids: Counter[str]) -> Sample:
    """Number a sample whose id other rows have, too: the second a becomes a#2."""
    ids[sample.id] += 1
    if ids[sample.id] == 1:
        return sample
    name = f"{sample.id}#{ids[sample.id]}"
    while ids[name]:
        ids[sample.id] += 1
        name = f"{sample.id}#{ids[sample.id]}"
    ids[name] += 1
    return replace(sample, id=name)


def progress(
    rows: Iterable[Row],
    name: str,
    count: Callable[[], int | None] = lambda: None,
    phase: str = "",
) -> Iterable[Row]:
    """Return rows that show how many of them are read.

    They show it on the display that is open, else by a bar on a terminal where reading takes more
    than a second. Of several processes only the main one shows it.

    Args:
        count: returns the number of rows, or None where it is not known; called only if it is
            shown, because it may read files.
        phase: name on the display; empty = made of the name.
    """
    what = f"reading {one_line(name, 40)}"
    if os.environ.get("RANK", "0") != "0":
        return rows
    if display.is_shown():
        return display.counted(rows, phase or what, count)
    if not sys.stderr.isatty():
        return rows
    return tqdm(rows, what, count(), unit=" rows", delay=1, leave=False)


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
        # fields that older runs do not know count only where they are set
        *(value for value in (sample.context, sample.letters, sample.answer_image) if value),
    )


def _file_stamp(path: Path) -> tuple[str, int, int]:
    """Return name, size and time of a file: hashing every image of a large set takes minutes."""
    try:
        status = path.stat()
    except OSError:  # it has vanished since it was read; the draw of its sample tells
        return path.name, -1, -1
    return path.name, status.st_size, status.st_mtime_ns
