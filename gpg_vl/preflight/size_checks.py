"""Find rows whose boxes contradict what stands beside them: the picture's size, or their areas.

Boxes of a larger copy, or of a photo that lay on its side, may all lie inside the picture; the
width and height that a label tool wrote beside them tell. So do the areas of boxes in x, y, width,
height.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, cast

from gpg_vl.boxes import Box
from gpg_vl.data.columns import cells
from gpg_vl.data.columns.true_boxes import is_area_of_sides
from gpg_vl.errors import one_line
from gpg_vl.preflight.finding import Finding, Level
from gpg_vl.types import Sample, Size
from gpg_vl.verifiers.boxes import DECLARED, cut_to_image, stored_boxes

BEGINNINGS = ("", "image", "img", "original", "orig")
"""Beginnings of the names of columns for the size of a picture, in small letters alone."""
ROUNDING = 1.0
"""Pixels by which a size that is stated may differ."""
BEYOND = 0.05
"""Share of the rows of another size whose boxes lie outside it, from which on the boxes are taken
for those of the pictures as they are: sets such as VisionReasoner's state the size before they
scaled both."""


def findings(
    samples: Iterable[Sample],
    *,
    source: str = "",
    kinds: Collection[str] = ("boxes", "detection"),
) -> Iterator[Finding]:
    """Yield a finding where rows state another size of their picture than it has.

    Args:
        samples: rows of one source; those of other kinds are passed over.
        source: name of the source, for the sentence; empty = there is only one.
        kinds: answer kinds whose answers are boxes.
    """
    stating = other = beyond = 0
    first = ""
    for sample in samples:
        if sample.answer_kind not in kinds or len(sample.sizes) != 1:
            continue
        stated = stated_size(sample.columns)
        if stated is None:
            continue
        if not _may_be_of_picture(stated, sample):
            beyond += sample.frame in DECLARED and _differ(stated, sample)
            continue
        stating += 1
        if _differ(stated, sample):
            other += 1
            width, height = sample.sizes[0]
            says = f"{stated[0]} x {stated[1]}, but it has {width} x {height} pixels"
            first = first or f"{one_line(sample.id)}: {says}"
    if not other:
        return
    are_of_picture = beyond >= BEYOND * (other + beyond)
    level: Level = "stop" if 2 * other > stating and not are_of_picture else "mind"
    prefix = f"boxes: {source}: " if source else "boxes: "
    text = (
        f"{prefix}{other} of {stating} rows state another size of their picture than it has "
        f"({first}). Boxes are those of the picture as it is shown, upright by its EXIF "
        "orientation: scale or turn them, or use the pictures that they were drawn in"
    )
    if are_of_picture:
        text += (
            f"; they may be right, because those of {beyond} other rows lie outside the stated "
            "size and inside their picture"
        )
    yield Finding(level, text)


def areas(
    samples: Iterable[Sample],
    *,
    source: str = "",
    kinds: Collection[str] = ("boxes", "detection"),
) -> Iterator[Finding]:
    """Yield a finding where areas beside corners are those of x, y, width, height.

    Args:
        samples: rows of one source of `box_format: xyxy`; those of other kinds are passed over.
        source: as in `findings`.
        kinds: as in `findings`.
    """
    stating = other = 0
    first = ""
    for sample in samples:
        stated = _stated_areas(sample) if sample.answer_kind in kinds else []
        if not stated:
            continue
        stating += 1
        if any(is_area_of_sides(area, box) for area, box in stated):
            other += 1
            first = first or one_line(sample.id)
    if not other:
        return
    level: Level = "stop" if 2 * other > stating else "mind"
    prefix = f"boxes: {source}: " if source else "boxes: "
    yield Finding(
        level,
        f"{prefix}the areas of {other} of {stating} rows (the first: {first}) are those of x, y, "
        "width, height, as in COCO; declare box_format: xywh",
    )


def _stated_areas(sample: Sample) -> list[tuple[Any, Box]]:
    """Return the boxes of a row with the areas that its columns, or a field of them, state."""
    try:
        boxes = stored_boxes(sample)
    except ValueError:
        return []
    for column in (sample.columns, *sample.columns.values()):
        stated: Any = None
        if isinstance(column, Mapping):
            stated = cells.plain(cast(Mapping[str, Any], column).get("area"))
        if not isinstance(stated, list):
            stated = [stated]
        members = cast(list[Any], stated)
        if len(members) == len(boxes) and None not in members:
            return list(zip(members, boxes, strict=True))
    return []


def stated_size(columns: Mapping[str, Any]) -> Size | None:
    """Return width and height of its picture, as a row states them in columns; None = it does not.

    Example:
        stated_size({"image_width": 640, "image_height": 480}) == (640, 480)
    """
    by_name = {re.sub(r"[^a-z]", "", name.lower()): value for name, value in columns.items()}
    for begin in BEGINNINGS:
        width = _pixels(by_name.get(begin + "width"))
        height = _pixels(by_name.get(begin + "height"))
        if width and height:
            return width, height
    return None


def _pixels(value: Any) -> int:
    """Return a positive whole number, also of a text; 0 = the value is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,6}", str(value), re.ASCII):
        return 0
    return int(value)


def _may_be_of_picture(stated: Size, sample: Sample) -> bool:
    """Return True if the boxes lie inside the stated size; else it is that of another thing."""
    if sample.frame not in DECLARED:
        return False
    try:
        boxes = stored_boxes(sample)
    except ValueError:
        return False
    inside = [cut_to_image(box, sample.frame, stated) is not None for box in boxes]
    return bool(inside) and all(inside)


def _differ(stated: Size, sample: Sample) -> bool:
    """Return True if boxes of a picture of the stated size are wrong in the row's picture.

    Shares are the same in a picture that was only scaled.
    """
    (size,) = sample.sizes
    if sample.frame == "pixels":
        return max(abs(stated[0] - size[0]), abs(stated[1] - size[1])) > ROUNDING
    return (stated[0] - stated[1]) * (size[0] - size[1]) < 0
