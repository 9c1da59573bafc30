"""Check whether the rows of a data set reach the model as their owner means them to.

Unused columns, pictures that are not named, options that are not shown, and pictures of which a
person sees more than the model does. Nothing here loads a model.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpg_vl.config.schema import Source
from gpg_vl.data.columns import picture_cells, true_options
from gpg_vl.data.columns.options import Options
from gpg_vl.data.dataset import Dataset, source_names
from gpg_vl.errors import UnusableSampleError, one_line, shown
from gpg_vl.pictures import peculiarities
from gpg_vl.preflight import box_checks, size_checks
from gpg_vl.preflight.finding import Finding
from gpg_vl.prompts import Style
from gpg_vl.types import Sample
from gpg_vl.verifiers.boxes import Boxes
from gpg_vl.verifiers.detection import Detection
from gpg_vl.verifiers.dispatch import VerifierSet

ROWS_LOOKED_AT = 200
"""Rows of a source whose columns are looked at for pictures."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_KNOWN_COLUMNS = {"sizes", "image_id", "category_id", "truth_file", "polygons"}
"""Columns that the package's own verifiers and recipes use, beside the fields of a sample."""

_IMAGE_ID = re.compile(r"(?:image|img)_?id", re.IGNORECASE)
"""Name of a column that numbers pictures, as in A-OKVQA and TextVQA."""


def of_rows(
    sources: Sequence[Source], dataset: Dataset, verifiers: VerifierSet
) -> Iterator[Finding]:
    """Yield what columns and numbers of a data set tell, source by source.

    That is columns that nothing uses, numbers that may be places of options, and boxes that
    contradict their declaration.
    """
    kinds: list[str] = []
    for kind, verifier in verifiers.by_kind.items():
        if isinstance(verifier, Boxes | Detection):
            kinds.append(kind)
    for number, (source, name) in enumerate(zip(sources, source_names(sources), strict=True)):
        samples = dataset.sources[number]
        shown_name = one_line(name)  # of a list of files it is all their names
        yield from unused_columns(source, samples, shown_name)
        yield from places_of_options(source, samples, shown_name)
        read = [*samples, *(sample for sample in dataset.rejected if sample.source == name)]
        yield from box_checks.findings(read, source.box_format, source=shown_name, kinds=kinds)
        yield from size_checks.findings(read, source=shown_name, kinds=kinds)
        if source.box_format == "xyxy":
            yield from size_checks.areas(read, source=shown_name, kinds=kinds)


def unused_columns(source: Source, samples: Sequence[Sample], name: str) -> Iterator[Finding]:
    """Yield columns that only a user's own verifier would see, and pictures among them.

    Args:
        name: name of the source in messages.
    """
    if source.recipe is not None or not samples:
        return
    looked_at = samples[:ROWS_LOOKED_AT]
    columns: dict[str, None] = {}
    for sample in looked_at:
        columns |= dict.fromkeys(sample.columns)
    unused = [column for column in columns if column not in _KNOWN_COLUMNS]
    if not any(sample.images for sample in samples):
        for column in unused:
            if any(holds_pictures(sample.columns.get(column)) for sample in looked_at):
                yield Finding(
                    "stop",
                    f"{name}: no row has a picture, but its column {shown(column)} holds pictures; "
                    f"set columns: {{images: {column}}}",
                )
                return
        numbered = [column for column in columns if _IMAGE_ID.fullmatch(column)]
        if numbered:
            yield Finding(
                "mind",
                f"{name}: no row has a picture, but its column {shown(numbered[0])} may number "
                "them; write the paths of their files into a column, or the model is asked without",
            )
    if unused:
        yield Finding(
            "mind",
            f"{name}: columns that only a verifier of your own sees: {shown(unused).strip('[]')}",
        )


def holds_pictures(cell: Any) -> bool:
    """Return True where a cell holds a picture, or the name of a file with one."""
    try:
        found = picture_cells.pictures_of(cell)
    except ValueError:
        return False
    for picture in found:
        # an address without such an ending may be that of a page
        if not isinstance(picture, bytes) and not picture_cells.is_file_name(str(picture)):
            return False
    return bool(found)


def hidden_options(samples: Sequence[Sample], style: Style) -> Iterator[Finding]:
    """Yield choices whose options the model is never shown."""
    if style.options != "never":
        return
    shown_style = replace(style, options="auto")
    hidden = [sample for sample in samples if shown_style.option_text(sample)]
    if hidden:
        yield Finding(
            "stop" if 2 * len(hidden) > len(samples) else "mind",
            f"options: {len(hidden)} of {len(samples)} questions do not show what there is to "
            f"choose from; {one_line(hidden[0].id)} is one; set prompt.options to auto",
        )


def places_of_options(source: Source, samples: Sequence[Sample], name: str) -> Iterator[Finding]:
    """Yield truths that are all numbers, read as the words of options, and may be their places."""
    choosing = [sample for sample in samples if sample.answer_kind == "choice"]
    if source.recipe is not None or source.answer_index is not None:
        return
    if not all(str(sample.answer).strip().isdecimal() for sample in choosing):
        return
    for sample in choosing:
        if true_options.may_be_another_place(
            sample.answer, Options(sample.choices, sample.letters)
        ):
            yield Finding(
                "mind",
                f"{name}: all true answers of choices are numbers, and so are options: answer "
                f"{shown(sample.answer)} of {one_line(sample.id)} is read as the words of an "
                "option; if it is the place of one, set answer_index to 0 or 1",
            )
            return


def odd_pictures(samples: Sequence[Sample]) -> Iterator[Finding]:
    """Yield pictures of which the model sees less than a person: animations, depth, one colour."""
    examples: dict[str, str] = {}
    times: Counter[str] = Counter()
    for sample in samples:
        for image in sample.images:
            for oddity in _peculiarities(image):
                kind = _NUMBER.sub("", oddity)
                times[kind] += 1
                examples.setdefault(kind, f"{one_line(sample.id)}: {oddity}")
    for kind, count in times.items():
        yield Finding("mind", f"pictures: {count} like that of {examples[kind]}")


def _peculiarities(image: Path | bytes) -> list[str]:
    try:
        return peculiarities(image)
    except UnusableSampleError:
        return []  # a picture that cannot be read is a finding of its own
