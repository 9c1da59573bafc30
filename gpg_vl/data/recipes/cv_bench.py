"""Yield CV-Bench: counting, relation, depth and distance in photographs, with lettered options.

The card is `data/cv_bench.yaml`.

Example row:
    {"id": "cv_bench/test/0", "question": "How many organs are in the image? Select from the
    following choices.\\n(A) 3\\n(B) 2...", "answer_kind": "choice", "answer": "(C)",
    "choices": ["3", "2", "1", "0"],
    "tags": {"task": "Count", "type": "2D", "source": "ADE20K"}}
"""

from collections.abc import Iterator
from typing import Literal

from gpg_vl.data.recipes.card import Published, tags_of
from gpg_vl.types import LeftOut, Sample


def cv_bench(
    split: Literal["test"] = "test", folder: str | None = None, complete: bool = False
) -> Iterator[Sample | LeftOut]:
    """Yield all questions, 2D before 3D."""
    found = Published.find("cv_bench", split, folder=folder, complete=complete)
    for number, row in found.rows():
        yield found.sample(
            number,
            question=row["question"],
            images=row["image"],
            choices=list(row["choices"]),
            answer=row["answer"],
            tags=tags_of(row, "task", "type", "source"),
        )
