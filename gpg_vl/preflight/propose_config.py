"""Tell what some rows are, try to read the first of them, and propose the source of a config."""

import glob
import os
import shlex
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from gpg_vl.config.loading import override, parse
from gpg_vl.config.paths import expanded, is_file, is_folder
from gpg_vl.config.schema import Source
from gpg_vl.data.reading import formats
from gpg_vl.data.recipes import ALIASES
from gpg_vl.data.recognise.propose import Recognised, recognise
from gpg_vl.data.sources import read_source
from gpg_vl.errors import one_line, shown
from gpg_vl.parsing.letters import letters_of
from gpg_vl.preflight.prepare_data import check_target, prepare_source, verifiers_of
from gpg_vl.prompts import Style
from gpg_vl.report.left_out import by_reason
from gpg_vl.types import LeftOut, Sample
from gpg_vl.verifiers.dispatch import VerifierSet

WIDTH = 80
"""Characters of a line of the report."""
TRIED_ROWS = 200
"""Rows that are read with the proposed source."""
SHOWN_SAMPLES = 3
SHOWN_TEXT = 200
"""Characters of a question or an answer that are shown."""


@dataclass(frozen=True, slots=True)
class Trial:
    """The first rows, read with a source and checked by their own verifiers."""

    samples: list[Sample]
    """Rows that earn the full reward with their own answer."""
    left_out: list[LeftOut]
    """The other rows, with their reasons."""

    @classmethod
    def of(cls, source: Source, head: int, verifiers: VerifierSet) -> "Trial":
        """Read the first rows of a source.

        Raises:
            UserError: the source cannot be read at all.
        """
        samples: list[Sample] = []
        left_out: list[LeftOut] = []
        first_rows = source.model_copy(update={"head": head})
        for row in read_source(first_rows, base_dir=Path(), key="data.0"):
            if isinstance(row, LeftOut):
                left_out.append(row)
                continue
            why = _misplaced_pictures(row) or verifiers.validation_error(row)
            if why:
                left_out.append(LeftOut(row.id, why))
            else:
                samples.append(row)
        return cls(samples, left_out)

    @property
    def count(self) -> int:
        """Number of rows that were tried."""
        return len(self.samples) + len(self.left_out)

    @property
    def kinds(self) -> str:
        """Kinds of the samples and how many there are of each."""
        times: Counter[str] = Counter()
        for sample in self.samples:
            times[sample.answer_kind + (" with picture" if sample.images else "")] += 1
        return ", ".join(f"{kind} {count}" for kind, count in times.items())


def names_rows(name: str) -> bool:
    """Return True if a name means rows (a file, a folder, a pattern, a set of the hub), no recipe.

    A name of a file that is not there means rows, too: the message then says what there is.
    """
    if name in ALIASES or ":" in Path(name).name:
        return False
    path = expanded(name)
    is_file_name = formats.kind_of(Path(name)) is not None or glob.has_magic(name)
    return is_file_name or is_file(path) or is_folder(path) or "/" in name


@dataclass(frozen=True, slots=True)
class Proposal:
    """Rows that were recognised, and the first of them as they were read."""

    names: str
    """The name that the user gave them."""
    recognised: Recognised
    trial: Trial
    verifiers: VerifierSet
    """Verifiers that checked the rows."""

    @classmethod
    def of(
        cls, names: str, options: Sequence[str], *, head: int | None, config: str | None
    ) -> "Proposal":
        """Recognise rows, and try to read the first of them.

        Args:
            names: a file, a folder, a pattern, or a data set of the hub.
            options: KEY=VALUE of the source that the user settles, such as columns.answer=gold.
            head: rows that are tried; None = the first 200.
            config: a config by name or file whose verifiers check the rows; None = the shipped
                ones.

        Raises:
            UserError: there are no such rows, or none of the first can be read.
        """
        recognised = recognise(names, Path(), _given(names, options))
        verifiers = verifiers_of(config)
        trial = Trial.of(recognised.source, head or TRIED_ROWS, verifiers)
        return cls(names, recognised, trial, verifiers)

    def report(self) -> Iterator[str]:
        """Yield lines that tell what the rows are and which of them can be used."""
        yield from wrapped("recognised: ", f"{self.recognised.layout} ({self.names})")
        yield from _report(self.recognised, self.trial)

    def samples(self) -> Iterator[str]:
        """Yield lines that show the first samples."""
        for sample in self.trial.samples[:SHOWN_SAMPLES]:
            yield ""
            yield from _of_sample(sample)


def propose_config(
    names: str,
    options: Sequence[str],
    *,
    to: Path | None = None,
    head: int | None = None,
    config: str | None = None,
) -> Iterator[str]:
    """Yield lines that tell what rows are, what they hold, and which lines of a config read them.

    Args:
        names, options, config: as in `Proposal.of`.
        to: a new folder for the rows.
        head: only so many rows.

    Raises:
        UserError: there are no such rows, or none of the first can be used.
    """
    if to is not None:
        check_target(to)
    proposal = Proposal.of(names, options, head=head, config=config)
    yield from proposal.report()
    yield from proposal.samples()
    if to is not None:
        source = proposal.recognised.source.model_copy(update={"head": head})
        yield from prepare_source(source, names, to=to, verifiers=proposal.verifiers)
        return
    yield ""
    yield "lines of a config that read them:"
    for line in as_yaml({"data": [source_in(proposal.recognised.source, Path())]}).splitlines():
        yield f"  {line}"
    yield ""
    yield f"next, a whole config: gpg-vl init {shlex.join([names, *options])}"


def _given(names: str, options: Sequence[str]) -> dict[str, Any]:
    """Return the keys of the source that the user has settled.

    Raises:
        UserError: a source has no such key.
    """
    given = override(Source, {}, options)
    parse(Source, {"files": names, **given}, "data", options)  # names the nearest known key
    return given


def _misplaced_pictures(sample: Sample) -> str:
    """Return why the pictures of a question have no place in it; empty = they have."""
    try:
        Style().turns(sample)
    except ValueError as error:
        return str(error)
    return ""


# --- the report -----------------------------------------------------------------------------------


def _report(recognised: Recognised, trial: Trial) -> Iterator[str]:
    used, count = len(trial.samples), trial.count
    kinds = f" ({trial.kinds})" if used else ""
    yield from wrapped(
        "tried:      ",
        f"{used} of the first {count} rows earn the full reward with their own answer{kinds}",
    )
    if trial.left_out:
        yield f"left out:   {len(trial.left_out)}"
    for line in by_reason(trial.left_out):
        yield from wrapped("  ", line)
    for question in recognised.questions:
        yield from wrapped("to decide:  ", question)
    if recognised.unused:
        yield from wrapped("not used:   ", ", ".join(recognised.unused))


def _of_sample(sample: Sample) -> Iterator[str]:
    yield from wrapped("sample ", one_line(sample.id, 60))
    for turn in sample.context:
        yield from wrapped(f"  {turn.role:9} ", _text(turn.text))
    yield from wrapped("  question  ", _text(sample.question))
    if sample.choices:
        letters = letters_of(sample.choices, sample.letters)
        # options after the 26th have no letter
        options = map(" ".join, zip_longest(letters, map(_text, sample.choices), fillvalue=""))
        yield from wrapped("  options   ", ", ".join(options))
    yield from wrapped("  answer    ", f"{_text(sample.answer)} ({sample.answer_kind})")
    sizes = [f"{width} x {height}" for width, height in sample.sizes]
    yield from wrapped("  pictures  ", ", ".join(sizes) if sample.images else "none")


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else shown(value, SHOWN_TEXT)
    cut = one_line(text, SHOWN_TEXT)
    return cut if len(cut) < SHOWN_TEXT else f"{cut}..."


def wrapped(label: str, text: str) -> list[str]:
    """Return a text in lines of the report's width, under its label."""
    return textwrap.wrap(text, WIDTH, initial_indent=label, subsequent_indent=" " * len(label)) or [
        label
    ]


# --- the config -----------------------------------------------------------------------------------


def source_in(source: Source, folder: Path) -> dict[str, Any]:
    """Return the keys of a source that differ from the defaults, with paths from a folder."""
    values = source.model_dump(mode="json", exclude_defaults=True)
    for key in ("files", "hub", "image_root"):
        if isinstance(values.get(key), str):
            values[key] = _path_from(folder, values[key])
    return values


def _path_from(folder: Path, name: str) -> str:
    """Return a name of files that leads from a folder to where it leads from here."""
    path = expanded(name)
    is_here = path.exists() or glob.has_magic(name)
    if path.is_absolute() or not is_here or folder.resolve() == Path().resolve():
        return name
    return os.path.relpath(path, folder)


def as_yaml(content: dict[str, Any]) -> str:
    """Return YAML whose innermost mappings and lists are on one line."""
    return yaml.safe_dump(
        content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=WIDTH
    )
