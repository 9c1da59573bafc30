"""Yield RefCOCO, RefCOCO+, RefCOCOg and RefGTA: the box that an expression refers to.

The cards are `data/refcoco.yaml`, `refcoco_plus`, `refcocog` and `refgta`. Two published forms are
read: VLM-R1's JSON lists (image, problem, solution in pixels) beside the COCO images, and
lmms-lab's parquet files (image inside, one row per object with several expressions, box as x, y,
width, height).

Example row:
    {"id": "refcoco/testA/0#1", "question": "Please provide the bounding box coordinate of the
    region this sentence describes: left man.", "answer_kind": "boxes",
    "answer": [[14.67, 133.56, 121.84, 469.68]]}
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

from gpg_vl.data.recipes.card import Published, need, numbers
from gpg_vl.errors import UserError
from gpg_vl.types import LeftOut, Sample

ASKED = "Please provide the bounding box coordinate of the region this sentence describes: {}."
"""VLM-R1's wording, for the parquet files, which contain only the expression."""


def _referring(
    name: str,
    split: str = "val",
    folder: str | None = None,
    pictures: bool = True,
    complete: bool = False,
) -> Iterator[Sample | LeftOut]:
    """Yield the expressions of a data set.

    Args:
        name: name of its card.
        split: a split of the card.
        folder: folder of the files.
        pictures: false = rows without images.
        complete: require the published number of rows.
    """
    found = Published.find(name, split, folder=folder, pictures=pictures, complete=complete)
    for number, (path, row) in enumerate(found.raw()):
        where = f"{path or 'the hub'} row {number + 1}"
        need(row, "image", where=where, what=f"{name}, split {split}")
        if "problem" in row and "solution" in row:
            yield found.sample(
                number,
                question=row["problem"],
                images=row["image"],
                answer=[row["solution"]],
                tags={"split": split},
            )
        elif "bbox" in row and "answer" in row:
            yield from _expressions(found, number, row, where)
        else:
            raise UserError(
                f"{where}: neither problem and solution nor answer and bbox; it has "
                f"{', '.join(row)}"
            )


def _expressions(found: Published, number: int, row: Any, where: str) -> Iterator[Sample | LeftOut]:
    """Yield a sample for each expression of an object of the parquet files."""
    x, y, width, height = numbers(row["bbox"], 4, where=f"{where}, bbox")
    box = [x, y, x + width, y + height]
    expressions = row["answer"]
    if not isinstance(expressions, list | tuple):
        expressions = [expressions]
    for index, expression in enumerate(cast(Sequence[Any], expressions)):
        yield found.sample(
            f"{number}#{index}",
            question=ASKED.format(str(expression).rstrip(".")),
            images=row["image"],
            answer=[box],
            tags={"split": found.split},
        )


refcoco = partial(_referring, "refcoco")
"""Recipe of RefCOCO: expressions from a game that allowed every word."""
refcoco_plus = partial(_referring, "refcoco_plus")
"""Recipe of RefCOCO+: expressions from a game that forbade words of place."""
refcocog = partial(_referring, "refcocog")
"""Recipe of RefCOCOg: longer expressions, written without a game."""
refgta = partial(_referring, "refgta", split="test")
"""Recipe of RefGTA: people in a video game, VLM-R1's test outside the training domain."""
