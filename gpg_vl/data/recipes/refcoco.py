"""RefCOCO, RefCOCO+, RefCOCOg and RefGTA: the box that an expression refers to. The cards are `data/refcoco.yaml` and its siblings.

Two published forms are read: VLM-R1's JSON lists (image, problem, solution in pixels) beside the COCO pictures, and lmms-lab's parquet
files (image inside, one row per object with several expressions, box as x, y, width, height).

Example row:
    {"id": "refcoco/testA/0#1", "question": "Please provide the bounding box coordinate of the region this sentence describes: left man.",
     "answer_kind": "boxes", "answer": [[14.67, 133.56, 121.84, 469.68]]}
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

from gpg_vl.data.recipes.card import Published, need, numbers
from gpg_vl.errors import UserError
from gpg_vl.types import Sample

ASKED = "Please provide the bounding box coordinate of the region this sentence describes: {}."
"""VLM-R1's wording; its files have it written out."""


def _refs(name: str, split: str = "val", folder: str | None = None, pictures: bool = True, complete: bool = False) -> Iterator[Sample]:
    found = Published.find(name, split, folder=folder, pictures=pictures, complete=complete)
    for number, (path, row) in enumerate(found.raw()):
        where = f"{path or 'the hub'} row {number + 1}"
        need(row, "image", where=where, what=f"{name}, split {split}")
        if "problem" in row and "solution" in row:
            yield found.sample(number, question=row["problem"], images=row["image"], answer=[row["solution"]], tags={"split": split})
        elif "bbox" in row and "answer" in row:
            yield from _expressions(found, number, row, where)
        else:
            raise UserError(f"{where}: neither problem and solution nor answer and bbox; it has {', '.join(row)}")


def _expressions(found: Published, number: int, row: Any, where: str) -> Iterator[Sample]:
    x, y, width, height = numbers(row["bbox"], 4, where=f"{where}, bbox")
    listed = row["answer"] if isinstance(row["answer"], list | tuple) else [row["answer"]]
    for place, words in enumerate(cast(Sequence[Any], listed)):
        box = [x, y, x + width, y + height]
        yield found.sample(
            f"{number}#{place}",
            question=ASKED.format(str(words).rstrip(".")),
            images=row["image"],
            answer=[box],
            tags={"split": found.split},
        )


def refcoco(split: str = "val", folder: str | None = None, pictures: bool = True, complete: bool = False) -> Iterator[Sample]:
    """Expressions written in a game that allowed every word."""
    return _refs("refcoco", split, folder, pictures, complete)


def refcoco_plus(split: str = "val", folder: str | None = None, pictures: bool = True, complete: bool = False) -> Iterator[Sample]:
    """Expressions written in a game that forbade words of place."""
    return _refs("refcoco_plus", split, folder, pictures, complete)


def refcocog(split: str = "val", folder: str | None = None, pictures: bool = True, complete: bool = False) -> Iterator[Sample]:
    """Longer expressions, written at leisure."""
    return _refs("refcocog", split, folder, pictures, complete)


def refgta(split: str = "test", folder: str | None = None, pictures: bool = True, complete: bool = False) -> Iterator[Sample]:
    """Expressions about people in a video game: VLM-R1's test outside the training domain."""
    return _refs("refgta", split, folder, pictures, complete)
