"""Yield counting questions about rendered scenes: CLEVR for training, SuperCLEVR for testing.

The cards are `data/clevr.yaml` and `data/superclevr.yaml`.

Example row:
    {"id": "superclevr/test/0", "question": "How many different items are there in the image?",
    "answer_kind": "number", "answer": 4}
"""

from collections.abc import Iterator
from typing import Literal

from gpg_vl.data.recipes.card import Published, answer_text
from gpg_vl.errors import shown
from gpg_vl.types import LeftOut, Sample


def clevr(
    split: Literal["train"] = "train", folder: str | None = None, complete: bool = False
) -> Iterator[Sample | LeftOut]:
    """Yield R1-V's counting questions about CLEVR scenes.

    Rows whose answer is not a whole number (other questions of the set) are left out.
    """
    found = Published.find("clevr", split, folder=folder, complete=complete)
    for number, row in found.rows():
        answer = answer_text(row["answer"])
        if not answer.isdecimal():
            yield LeftOut(f"clevr/{split}/{number}", f"its answer {shown(answer)} is no count")
            continue
        yield found.sample(
            number, question=row["question"], images=row["image"], answer=int(answer)
        )


def superclevr(
    split: Literal["test"] = "test",
    folder: str | None = None,
    pictures: bool = True,
    complete: bool = False,
) -> Iterator[Sample | LeftOut]:
    """Yield the 200 counting questions of R1-V's evaluation, in their published order."""
    found = Published.find("superclevr", split, folder=folder, pictures=pictures, complete=complete)
    for number, row in found.rows():
        yield found.sample(
            number, question=row["question"], images=row["image"], answer=row["answer"]
        )
