"""SAT: spatial questions about simulated rooms, answered by one of a few options. The card `data/sat.yaml` has source and oddities.

Example row:
    {"id": "sat/train/0", "question": "Answer in natural language. Is the chair left of the table? Choose between the following options:
     yes or no", "answer_kind": "choice", "answer": "yes", "choices": ["yes", "no"], "tags": {"task": "obj_movement"}}
"""

import random
from collections.abc import Iterator, Sequence
from typing import Literal

from gpg_vl.data.recipes.card import Published, kept
from gpg_vl.randomness import seed as addressed_seed
from gpg_vl.types import LeftOut, Sample

FIRST_ROWS = 15_000
"""Rows of the training file that the published experiment walks over."""


def sat(
    split: Literal["train", "val", "test"] = "train",
    folder: str | None = None,
    rows: int | None = FIRST_ROWS,
    seed: int = 0,
    complete: bool = False,
) -> Iterator[Sample | LeftOut]:
    """Questions about one picture among the first `rows` rows.

    Args:
        seed: of the order in which the options stand; published files have the right one first.
        rows: null = all.
    """
    found = Published.find("sat", split, folder=folder, complete=complete)
    for number, row in found.rows():
        if rows is not None and number >= rows:
            if complete:
                continue  # read to the end, so that all are counted
            return
        if len(row["images"]) != 1:
            yield LeftOut(f"sat/{split}/{number}", f"{len(row['images'])} images; the published experiment uses rows of one image")
            continue
        options = [str(option) for option in row["choices"]]
        random.Random(addressed_seed(seed, "sat", split, number)).shuffle(options)
        yield found.sample(
            number,
            question=f"Answer in natural language. {row['question']} Choose between the following options: {_listed(options)}",
            images=row["images"],
            choices=options,
            answer=str(row["answer"]),
            tags=kept(row, "task"),
        )


def _listed(options: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(options[:-1]), options[-1]))) if options else ""
