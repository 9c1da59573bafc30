"""Yield GEOQA: geometry questions with a diagram, answered by a value.

The card is `data/geoqa.yaml`.

Example row:
    {"id": "geoqa/test/0", "question": "As shown in the figure, in triangle ABC, ...",
    "answer_kind": "value", "answer": "140°"}
"""

from collections.abc import Iterator
from typing import Literal

from gpg_vl.data.recipes.card import Published, answer_text
from gpg_vl.types import LeftOut, Sample


def geoqa(
    split: Literal["train", "test"] = "train",
    folder: str | None = None,
    pictures: bool = True,
    complete: bool = False,
) -> Iterator[Sample | LeftOut]:
    """Yield R1-V's 8k training questions, or its 754 test questions, in their published order."""
    found = Published.find("geoqa", split, folder=folder, pictures=pictures, complete=complete)
    for number, row in found.rows():
        yield found.sample(
            number, question=row["question"], images=row["image"], answer=answer_text(row["answer"])
        )
