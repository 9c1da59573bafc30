"""The row format on disk: read it, validate it, mix several sources, draw by index.

A row is a mapping with the fields of `Sample`: id, question, images, answer_kind, answer, choices, frame, solution, tags. Any other column
travels along for verifiers of one's own. An image is a path beside the file, encoded bytes, or what `datasets` makes of an image column.
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
"""Larger images are refused before they are decoded."""
NEEDED = ("question", "answer_kind", "answer")
"""Columns without which a row is none."""
_FIELDS = {field.name for field in fields(Sample)} - {"columns", "sizes"}


def sample_of(row: Mapping[str, Any], source: Source, *, base: Path | None, origin: str) -> Sample:
    """One row as a sample: names mapped and defaults filled in."""
    for ours, theirs in source.columns.items():
        if ours in NEEDED and theirs not in row and ours not in source.defaults:
            raise UserError(f"{origin}: columns: {ours}: {theirs}: the row has no column {theirs!r}; it has {', '.join(row)}")
    named = {ours: row[theirs] for ours, theirs in source.columns.items() if theirs in row}
    others = {name: value for name, value in row.items() if name not in source.columns.values()}
    return checked({**source.defaults, **others, **named}, base=base, origin=origin)


def checked(values: Mapping[str, Any], *, base: Path | None, origin: str) -> Sample:
    """A row in our own column names as a sample: what is needed is there, images are opened far enough to know their sizes.

    Args:
        base: the folder that image paths start from and must stay in; None = they are taken as they are.
        origin: names the row in messages; its id where it has none.
    """
    for needed in NEEDED:
        if values.get(needed) in (None, ""):
            raise UserError(f"{origin}: column {needed!r} is missing or empty; name it under `columns:` or set it under `defaults:`")
    images = tuple(_image(image, base, origin) for image in _listed(values.get("images", values.get("image"))))
    sizes = tuple(image_size(image, origin) for image in images) or _declared_sizes(values.get("sizes"), origin)
    return Sample(
        id=str(values.get("id", origin)),
        question=str(values["question"]),
        images=images,
        sizes=sizes,
        answer_kind=str(values["answer_kind"]),
        answer=values["answer"],
        choices=tuple(map(str, values.get("choices") or ())),
        frame=str(values.get("frame") or "pixels"),
        solution=str(values.get("solution") or ""),
        tags=_tags(values.get("tags"), origin),
        columns={name: value for name, value in values.items() if name not in _FIELDS and name not in {"image", "images"}},
    )


def _declared_sizes(sizes: Any, origin: str) -> tuple[Size, ...]:
    """Sizes of images that are not at hand, from a column `sizes`: enough to score recorded boxes, not to ask."""
    try:
        declared = tuple((int(width), int(height)) for width, height in sizes or ())
    except (TypeError, ValueError):
        raise UserError(f"{origin}: sizes is {sizes!r}, expected a list of [width, height] in pixels") from None
    if any(side < 1 for size in declared for side in size):
        raise UserError(f"{origin}: sizes is {sizes!r}, expected positive pixels")
    return declared


def image_size(image: Path | bytes, origin: str) -> Size:
    """Width and height, from the header alone.

    Raises:
        UserError: missing, unreadable, or larger than MAX_IMAGE_PIXELS.
    """
    what = "its bytes" if isinstance(image, bytes) else str(image)
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            width, height = opened.size
    except FileNotFoundError:
        raise UserError(f"{origin}: image {what} does not exist") from None
    except (OSError, Image.DecompressionBombError) as error:
        raise UserError(f"{origin}: image {what} cannot be read: {error}") from None
    if width * height > MAX_IMAGE_PIXELS:
        raise UserError(f"{origin}: image {what} has {width} x {height} pixels, more than {MAX_IMAGE_PIXELS:,}; shrink it")
    return width, height


def write(samples: Iterable[Sample], folder: Path) -> int:
    """Write `samples.jsonl` and `images/` into a folder, row by row; the number of rows written. The file has its name when it is whole."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    unfinished = folder / "samples.jsonl.part"
    with unfinished.open("w", encoding="utf-8") as file:
        count = sum(
            file.write(json.dumps(_row(sample, folder, number), ensure_ascii=False) + "\n") > 0 for number, sample in enumerate(samples, 1)
        )
    unfinished.replace(folder / "samples.jsonl")
    return count


def _tags(tags: Any, origin: str) -> dict[str, str]:
    if tags is None:
        return {}
    if not isinstance(tags, Mapping):
        raise UserError(f"{origin}: tags is {tags!r}, expected a mapping such as {{task: count}}")
    return {str(name): str(value) for name, value in cast(Mapping[Any, Any], tags).items() if value is not None}


def _listed(images: Any) -> list[Any]:
    if images is None:
        return []
    several: Any = images
    return list(several) if isinstance(images, list | tuple) else [images]


def _image(image: Any, base: Path | None, origin: str) -> Path | bytes:
    if isinstance(image, Mapping):  # an undecoded `datasets` image: {"bytes": ..., "path": ...}
        undecoded = cast(Mapping[str, Any], image)
        image = undecoded.get("bytes") or undecoded.get("path")
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str | Path):
        raise UserError(f"{origin}: image is a {type(image).__name__}, expected a path or encoded bytes")
    if base is None:
        return Path(image)
    path = (base / image).resolve()
    if not path.is_relative_to(base.resolve()):
        raise UserError(f"{origin}: image {image} leaves the data folder {base}; put it there")
    return path


def _row(sample: Sample, folder: Path, number: int) -> dict[str, Any]:
    names: list[str] = []
    for place, image in enumerate(sample.images):
        content = image if isinstance(image, bytes) else image.read_bytes()
        suffix = ".png" if isinstance(image, bytes) else image.suffix
        names.append(f"images/{number:06d}_{place}{suffix}")
        (folder / names[-1]).write_bytes(content)
    row = {name: getattr(sample, name) for name in ("id", "question", "answer_kind", "answer", "choices", "frame", "solution", "tags")}
    return {**sample.columns, **row, "images": names}
