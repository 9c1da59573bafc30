"""Read a published data set, check its rows with their verifiers, and write them to disk."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpg_vl.boxes import Frame
from gpg_vl.config.loading import load, override
from gpg_vl.config.paths import NO_SPACE, check_writable, folder_aside, is_file, is_folder
from gpg_vl.config.schema import RewardConfig, Source
from gpg_vl.data import rows
from gpg_vl.data.dataset import validated
from gpg_vl.errors import UserError, shown
from gpg_vl.experiment import Experiment, build_verifiers
from gpg_vl.prompts import Style
from gpg_vl.report.left_out import by_reason
from gpg_vl.types import LeftOut, Sample
from gpg_vl.verifiers.dispatch import VerifierSet


@dataclass(slots=True)
class _Seen:
    """Counts of the rows that pass, by kind, and the first of them."""

    kinds: Counter[str] = field(default_factory=Counter[str])
    example: str = ""

    def counted(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        for sample in samples:
            kind = sample.answer_kind
            if sample.images:
                kind += " with picture"
            self.kinds[kind] += 1
            self.example = self.example or f"{shown(sample.question)} -> {shown(sample.answer)}"
            yield sample


def prepare(
    recipe: str,
    options: Sequence[str],
    *,
    source: Path | None,
    to: Path | None,
    head: int | None,
    config: str | None = None,
) -> Iterator[str]:
    """Read, check and write the rows of a recipe, and yield lines that report it.

    Args:
        options: OPTION=VALUE of the recipe.
        source: folder of the published files; None = where the recipe looks, or the hub.
        to: folder that does not hold rows yet; None = only report.
        head: only so many rows.
        config: a config by name or file whose prompt and verifiers check the rows; None = the
            shipped ones.

    Raises:
        UserError: files are missing or broken, no row is usable, or there are rows in `to` already.
    """
    recipe_options: dict[str, Any] = override(Source, {}, options)
    if source is not None:
        recipe_options["folder"] = str(source)
    recipe_source = Source(recipe=recipe, options=recipe_options, head=head)
    yield from prepare_source(recipe_source, recipe, to=to, verifiers=verifiers_of(config))


def prepare_source(
    source: Source, name: str, *, to: Path | None, verifiers: VerifierSet
) -> Iterator[str]:
    """Read, check and write a source row by row, and yield lines that report it.

    Args:
        name: name of the source in the report.
        to: folder that does not hold rows yet; None = only report.

    Raises:
        UserError: as `prepare`.
    """
    if to is not None:
        check_target(to)
    left_out: list[LeftOut] = []
    samples = validated(source, verifiers, base_dir=Path(), key=name, on_left_out=left_out.append)
    seen = _Seen()
    if to is not None:
        count = _write(seen.counted(samples), left_out, to)
    else:
        count = sum(1 for _ in seen.counted(samples))
    kinds = ", ".join(f"{kind} {number}" for kind, number in seen.kinds.items())
    yield f"{name}: {count} rows earn the full reward with their own answer ({kinds})"
    yield f"example: {seen.example}"
    yield f"left out: {len(left_out)} rows"
    for line in by_reason(left_out):
        yield f"  {line}"
    if to is not None:
        written = to / "samples.jsonl"
        yield f"written: {written} (a config reads it with data: [{{files: {written}}}])"


def check_target(to: Path) -> None:
    """Check that rows can be written into a folder that is new or empty.

    Raises:
        UserError: it holds something, the folder that it is made in does not exist, or is
            read-only.
    """
    for path in (to, *to.parents):
        if is_file(path):
            raise UserError(f"--to {to}: {path} is a file, expected a folder")
    if not is_folder(to.parent):
        raise UserError(f"--to {to}: there is no folder {to.parent}")
    check_writable(to, "--to")
    if (to / "samples.jsonl").exists():
        raise UserError(f"--to {to}: holds rows already; choose another folder")
    if to.is_dir() and any(to.iterdir()):
        raise UserError(f"--to {to}: holds other files; choose a new folder, or an empty one")


def _write(samples: Iterable[Sample], left_out: Sequence[LeftOut], to: Path) -> int:
    """Write rows, pictures and what is left out, and return the number of rows.

    They are written aside and renamed at the end: what fails in the middle leaves nothing behind.

    Args:
        left_out: filled while the samples are read.

    Raises:
        UserError: the disk is full.
    """
    try:
        with folder_aside(to if to.is_dir() else to.parent) as aside:
            complete = aside / "rows"
            count = rows.write(samples, complete)
            _write_left_out(left_out, complete / "left_out.jsonl")
            if not to.is_dir():
                complete.rename(to)
                return count
            for path in sorted(complete.iterdir()):  # the rows last: images, left_out, samples
                path.rename(to / path.name)
            return count
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise UserError(
            f"--to {to}: no space left on that disk; nothing is kept. Make room, or choose another"
        ) from None


def _write_left_out(left_out: Sequence[LeftOut], path: Path) -> None:
    lines: list[str] = []
    for row in left_out:
        lines.append(json.dumps({"id": row.id, "why": row.why}, ensure_ascii=False) + "\n")
    path.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")


def verifiers_of(config: str | None) -> VerifierSet:
    """Return the verifiers of a config by name or file, else the shipped ones."""
    frame = Frame(kind="norm1000")  # any box can be written in it; no model is known here
    if config is None:
        return build_verifiers({}, Style(), frame, RewardConfig(), Path())
    return Experiment.of(load(config), frame).verifiers
