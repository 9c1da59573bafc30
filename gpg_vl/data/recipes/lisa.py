"""LISA's ReasonSeg: an instruction that needs reasoning, and the region it means; here its box. The card is `data/lisa.yaml`.

Example row:
    {"id": "lisa/val/12#0", "question": "Output the bounding box in the image corresponding to the instruction: the most nutritious food",
     "answer_kind": "boxes", "answer": [[120, 44, 310, 270]], "polygons": [[[120, 44], ...]], "tags": {"task": "sentence"}}
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from gpg_vl.data.recipes.card import Published, need, numbers
from gpg_vl.types import LeftOut, Sample, Size

Points = Sequence[Sequence[float]]


def lisa(
    split: Literal["train", "val", "test"] = "train",
    folder: str | None = None,
    regions: Literal["first", "targets"] = "targets",
    instructions: Literal["all", "first"] = "all",
    complete: bool = False,
) -> Iterator[Sample | LeftOut]:
    """A sample per instruction.

    Args:
        regions: first: the box of the first polygon whatever it is (the published experiment) | targets: of all polygons labelled target.
        instructions: all that an image has, or the first (the published evaluation).
    """
    found = Published.find("lisa", split, folder=folder, complete=complete)
    for path, row in found.raw():
        assert path is not None
        name, picture = f"lisa/{split}/{path.stem}", path.with_suffix(".jpg")
        polygons = _polygons(row, regions, path)
        box = _box(polygons, found.size(picture, name))
        if box is None:
            yield LeftOut(name, "no polygon with an area inside the image")
            continue
        texts = row["text"] if instructions == "all" else row["text"][:1]
        for place, text in enumerate(texts):
            yield found.sample(
                f"{path.stem}#{place}",
                question=f"Output the bounding box in the image corresponding to the instruction: {text}",
                images=[str(picture)],
                base=path.parent,
                answer=[box],
                polygons=polygons,
                tags=_tags(row),
            )


def _polygons(row: Mapping[str, Any], regions: str, path: Path) -> list[Points]:
    need(row, "shapes", "text", where=path)
    for shape in row["shapes"]:
        need(shape, "points", "label", where=f"{path} shapes")
    shown = row["shapes"][:1] if regions == "first" else [shape for shape in row["shapes"] if shape["label"] == "target"]
    return [[numbers(point, 2, where=f"{path} points") for point in shape["points"]] for shape in shown]


def _box(polygons: Sequence[Points], size: Size) -> list[float] | None:
    """The box around all points, cut to the image; None where nothing is left of it."""
    points = [point for polygon in polygons for point in polygon]
    if not points:
        return None
    left, top = (max(0.0, min(point[axis] for point in points)) for axis in (0, 1))
    right, bottom = (min(float(size[axis]), max(point[axis] for point in points)) for axis in (0, 1))
    return [left, top, right, bottom] if left < right and top < bottom else None


def _tags(row: Mapping[str, Any]) -> dict[str, str]:
    return {"task": "sentence" if row.get("is_sentence") else "phrase"}
