"""Convert rows to samples and write samples as rows.

A row is a mapping with the fields of `Sample`: id, question, images, answer_kind, answer, choices,
frame, solution, tags. Other columns are kept for a user's own verifiers. An image is a path
relative to the file, encoded bytes, or a value of an image column of `datasets`.
"""

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from PIL import Image

from gpg_vl.config.schema import Source
from gpg_vl.errors import UserError
from gpg_vl.types import Sample, Size

MAX_IMAGE_PIXELS = 100_000_000
"""Number of pixels above which an image is an error, before it is decoded."""
NEEDED = ("question", "answer_kind", "answer")
"""Columns that every row must have."""
_FIELDS = tuple(field.name for field in fields(Sample) if field.name not in {"columns", "sizes"})


def sample_of(row: Mapping[str, Any], source: Source, *, base: Path | None, origin: str) -> Sample:
    """Convert a row of a source to a sample: columns are renamed and defaults filled in.

    Args:
        row: the row in the source's column names.
        source: the names (`columns`) and values (`defaults`).
        base: as in `checked`.
        origin: as in `checked`.

    Raises:
        UserError: a column is missing, or a value is not valid.
    """
    renamed: dict[str, Any] = {}
    for our_column, source_column in source.columns.items():
        if source_column in row:
            renamed[our_column] = row[source_column]
        elif our_column in NEEDED and our_column not in source.defaults:
            raise UserError(
                f"{origin}: columns: {our_column}: {source_column}: the row has no column "
                f"{source_column!r}; it has {', '.join(row)}"
            )
    others = {name: value for name, value in row.items() if name not in source.columns.values()}
    return checked({**source.defaults, **others, **renamed}, base=base, origin=origin)


def checked(values: Mapping[str, Any], *, base: Path | None, origin: str) -> Sample:
    """Convert a row in our own column names to a sample.

    Images are opened to read their sizes, but not decoded.

    Args:
        values: the row.
        base: the folder that image paths are relative to and must not leave; None = the paths are
            used as they are.
        origin: name of the row in messages; also its id if it has none.

    Raises:
        UserError: a needed column is missing, or a value is not valid.
    """
    for needed in NEEDED:
        if values.get(needed) in (None, ""):
            raise UserError(
                f"{origin}: column {needed!r} is missing or empty; name it under `columns:` or set "
                "it under `defaults:`"
            )
    images: list[Path | bytes] = []
    for image in _listed(values.get("images", values.get("image"))):
        images.append(_image(image, base, origin))
    sizes = tuple(image_size(image, origin) for image in images)
    if not sizes:
        sizes = _declared_sizes(values.get("sizes"), origin)
    columns: dict[str, Any] = {}
    for name, value in values.items():
        if name not in _FIELDS and name != "image":
            columns[name] = value
    return Sample(
        id=str(values.get("id", origin)),
        question=str(values["question"]),
        images=tuple(images),
        sizes=sizes,
        answer_kind=str(values["answer_kind"]),
        answer=values["answer"],
        choices=tuple(map(str, values.get("choices") or ())),
        frame=str(values.get("frame") or "pixels"),
        solution=str(values.get("solution") or ""),
        tags=_tags(values.get("tags"), origin),
        columns=columns,
    )


def _declared_sizes(sizes: Any, origin: str) -> tuple[Size, ...]:
    """Read the column `sizes` of a row without images.

    Sizes are enough to score recorded boxes, but not to ask the question.
    """
    try:
        declared = tuple((int(width), int(height)) for width, height in sizes or ())
    except (TypeError, ValueError):
        raise UserError(
            f"{origin}: sizes is {sizes!r}, expected a list of [width, height] in pixels"
        ) from None
    for size in declared:
        if min(size) < 1:
            raise UserError(f"{origin}: sizes is {sizes!r}, expected positive pixels")
    return declared


def image_size(image: Path | bytes, origin: str) -> Size:
    """Read width and height of an image, in pixels, from its header.

    Raises:
        UserError: missing, unreadable, or larger than MAX_IMAGE_PIXELS.
    """
    name = "its bytes" if isinstance(image, bytes) else str(image)
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            width, height = opened.size
    except FileNotFoundError:
        raise UserError(f"{origin}: image {name} does not exist") from None
    except (OSError, Image.DecompressionBombError) as error:
        raise UserError(f"{origin}: image {name} cannot be read: {error}") from None
    if width * height > MAX_IMAGE_PIXELS:
        raise UserError(
            f"{origin}: image {name} has {width} x {height} pixels, more than {MAX_IMAGE_PIXELS:,};"
            " shrink it"
        )
    return width, height


def write(samples: Iterable[Sample], folder: Path) -> int:
    """Write `samples.jsonl` and `images/` into a folder, and return the number of rows.

    Samples are written one by one; the file gets its name when it is complete.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    unfinished = folder / "samples.jsonl.part"
    count = 0
    with unfinished.open("w", encoding="utf-8") as file:
        for sample in samples:
            count += 1
            file.write(json.dumps(_row(sample, folder, count), ensure_ascii=False) + "\n")
    unfinished.replace(folder / "samples.jsonl")
    return count


def _tags(tags: Any, origin: str) -> dict[str, str]:
    """Check tags and convert their values to text; tags without a value are dropped."""
    if tags is None:
        return {}
    if not isinstance(tags, Mapping):
        raise UserError(f"{origin}: tags is {tags!r}, expected a mapping such as {{task: count}}")
    texts: dict[str, str] = {}
    for name, value in cast(Mapping[Any, Any], tags).items():
        if value is not None:
            texts[str(name)] = str(value)
    return texts


def _listed(images: Any) -> list[Any]:
    """Return the images of a row as a list: it has none, one, or several."""
    if images is None:
        return []
    if isinstance(images, list | tuple):
        return list(cast(Iterable[Any], images))
    return [images]


def _image(image: Any, base: Path | None, origin: str) -> Path | bytes:
    """Return the bytes of an image, or its path, which must not leave `base`."""
    if isinstance(image, Mapping):  # an undecoded `datasets` image: {"bytes": ..., "path": ...}
        undecoded = cast(Mapping[str, Any], image)
        image = undecoded.get("bytes") or undecoded.get("path")
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str | Path):
        raise UserError(
            f"{origin}: image is a {type(image).__name__}, expected a path or encoded bytes"
        )
    if base is None:
        return Path(image)
    # resolved, so that neither ".." nor a link leads out of the folder
    path = (base / image).resolve()
    if not path.is_relative_to(base.resolve()):
        raise UserError(f"{origin}: image {image} leaves the data folder {base}; put it there")
    return path


def _row(sample: Sample, folder: Path, number: int) -> dict[str, Any]:
    """Return the row of a sample, and write its images beside the file."""
    names: list[str] = []
    for index, image in enumerate(sample.images):
        if isinstance(image, bytes):
            content, suffix = image, ".png"
        else:
            content, suffix = image.read_bytes(), image.suffix
        name = f"images/{number:06d}_{index}{suffix}"
        (folder / name).write_bytes(content)
        names.append(name)
    row = {name: getattr(sample, name) for name in _FIELDS if name != "images"}
    return {**sample.columns, **row, "images": names}
