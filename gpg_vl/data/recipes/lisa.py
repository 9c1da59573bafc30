"""Yield LISA's ReasonSeg: instructions that need reasoning, answered by the box of a region.

The card is `data/lisa.yaml`.

Example row:
    {"id": "lisa/val/12#0", "question": "Output the bounding box in the image corresponding to the
    instruction: the most nutritious food", "answer_kind": "boxes",
    "answer": [[120, 44, 310, 270]], "polygons": [[[120, 44], ...]], "tags": {"task": "sentence"}}
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from gpg_vl.data.recipes.card import Published, need, numbers
from gpg_vl.types import LeftOut, Sample, Size

Points = Sequence[Sequence[float]]
"""Corners of a polygon, (x, y) in pixels."""


def lisa(
    split: Literal["train", "val", "test"] = "train",
    folder: str | None = None,
    regions: Literal["first", "targets"] = "targets",
    instructions: Literal["all", "first"] = "all",
    complete: bool = False,
) -> Iterator[Sample | LeftOut]:
    """Yield a sample for each instruction.

    Args:
        split: a split of the card.
        folder: folder of the files.
        regions: first: the box of the first polygon, whatever its label (the published experiment)
            | targets: the box of all polygons labelled target.
        instructions: all of an image, or the first (the published evaluation).
        complete: require the published number of rows.
    """
    found = Published.find("lisa", split, folder=folder, complete=complete)
    for path, row in found.raw():
        assert path is not None
        name = f"lisa/{split}/{path.stem}"
        picture = path.with_suffix(".jpg")
        polygons = _polygons(row, regions, path)
        size = found.size(picture, name)
        if isinstance(size, LeftOut):
            yield size
            continue
        box = _box(polygons, size)
        if box is None:
            yield LeftOut(name, "no polygon with an area inside the image")
            continue
        texts = row["text"] if instructions == "all" else row["text"][:1]
        for index, text in enumerate(texts):
            yield found.sample(
                f"{path.stem}#{index}",
                question=(
                    f"Output the bounding box in the image corresponding to the instruction: {text}"
                ),
                images=[str(picture)],
                base=path.parent,
                answer=[box],
                polygons=polygons,
                tags=_tags(row),
            )


def _polygons(row: Mapping[str, Any], regions: str, path: Path) -> list[Points]:
    """Return the polygons whose box is the answer."""
    need(row, "shapes", "text", where=path)
    for shape in row["shapes"]:
        need(shape, "points", "label", where=f"{path} shapes")
    if regions == "first":
        shapes = row["shapes"][:1]
    else:
        shapes = [shape for shape in row["shapes"] if shape["label"] == "target"]
    polygons: list[Points] = []
    for shape in shapes:
        polygons.append([numbers(point, 2, where=f"{path} points") for point in shape["points"]])
    return polygons


def _box(polygons: Sequence[Points], size: Size) -> list[float] | None:
    """Return the box around all points, cut to the image; None if its area is zero."""
    points: list[Sequence[float]] = []
    for polygon in polygons:
        points.extend(polygon)
    if not points:
        return None
    width, height = size
    left = max(0.0, min(x for x, _ in points))
    top = max(0.0, min(y for _, y in points))
    right = min(float(width), max(x for x, _ in points))
    bottom = min(float(height), max(y for _, y in points))
    if left < right and top < bottom:
        return [left, top, right, bottom]
    return None


def _tags(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a row: its instructions are sentences or phrases."""
    return {"task": "sentence" if row.get("is_sentence") else "phrase"}
