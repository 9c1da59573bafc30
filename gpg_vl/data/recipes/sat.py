"""Yield SAT: spatial questions about simulated rooms, answered by one of a few options.

The card is `data/sat.yaml`.

Example row:
    {"id": "sat/train/0", "question": "Answer in natural language. Is the chair left of the table?
    Choose between the following options: yes or no", "answer_kind": "choice", "answer": "yes",
    "choices": ["yes", "no"], "tags": {"task": "obj_movement"}}
"""

import random
from collections.abc import Iterator, Sequence
from typing import Literal

from gpg_vl.data.recipes.card import Published, tags_of
from gpg_vl.randomness import seed as addressed_seed
from gpg_vl.types import LeftOut, Sample

FIRST_ROWS = 15_000
"""Number of rows of the training file that the published experiment uses."""


def sat(
    split: Literal["train", "val", "test"] = "train",
    folder: str | None = None,
    rows: int | None = FIRST_ROWS,
    seed: int = 0,
    complete: bool = False,
) -> Iterator[Sample | LeftOut]:
    """Yield the questions about a single image among the first `rows` rows.

    Args:
        split: a split of the card.
        folder: folder of the files.
        rows: number of rows; null = all.
        seed: seed of the order of the options; in the published files the right one is the first.
        complete: require the published number of rows.
    """
    found = Published.find("sat", split, folder=folder, complete=complete)
    for number, row in found.rows():
        if rows is not None and number >= rows:
            if complete:
                continue  # read to the end: `complete` checks the number of rows
            return
        if len(row["images"]) != 1:
            reason = f"{len(row['images'])} images; the published experiment uses rows of one image"
            yield LeftOut(f"sat/{split}/{number}", reason)
            continue
        options = [str(option) for option in row["choices"]]
        random.Random(addressed_seed(seed, "sat", split, number)).shuffle(options)
        yield found.sample(
            number,
            question=(
                f"Answer in natural language. {row['question']} Choose between the following "
                f"options: {_listed(options)}"
            ),
            images=row["images"],
            choices=options,
            answer=str(row["answer"]),
            tags=tags_of(row, "task"),
        )


def _listed(options: Sequence[str]) -> str:
    """Return the options as a list in English: `a, b or c`."""
    if not options:
        return ""
    parts = (", ".join(options[:-1]), options[-1])
    return " or ".join(filter(None, parts))  # a single option has nothing before it
