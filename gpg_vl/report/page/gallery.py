"""Choose what the gallery of answers shows, and write it as the page's script reads it."""

import math
from collections.abc import Mapping
from typing import Any

from gpg_vl.report.page.contents import GroupRow, RunContents
from gpg_vl.report.page.pictures import PagePictures
from gpg_vl.report.page.texts import plain, shortened, single_line

MOST_BOXES = 300
"""Boxes of one answer that are drawn."""


def gallery_groups(run: RunContents, pictures: PagePictures) -> list[dict[str, Any]]:
    """Return the groups of a run for the page's script, in the order of their steps.

    Where there is not room for all pictures, those that are left out are spread over the run.
    """
    images: dict[int, list[dict[str, Any]]] = {}
    for place in spread_order(len(run.groups)):
        images_of = run.groups[place].row.get("images") or ()
        images[place] = [pictures.add(run.path, found) for found in images_of]
    return [_group(group, images[place]) for place, group in enumerate(run.groups)]


def spread_order(count: int) -> list[int]:
    """Return the places 0 to count - 1 so that each beginning of the list is spread over them.

    It is the order of van der Corput's sequence: the bits of a number turned round.

    Example:
        spread_order(8) == [0, 4, 2, 6, 1, 5, 3, 7]
    """
    bits = max(1, (count - 1).bit_length())
    turned = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(1 << bits))
    return [place for place in turned if place < count]


def _group(group: GroupRow, images: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a group as the page's script reads it."""
    row = group.row
    return {
        "step": group.step,
        "draw": row.get("draw", 0),
        "used": bool(row.get("used")),
        "id": single_line(row.get("id", "")),
        "source": single_line(row.get("source", "")),
        "task": single_line(group.task),
        "question": shortened(row.get("question", "")),
        "truth": shortened(row.get("truth"), 600),
        "images": images,
        "boxed": max(int(row.get("boxed_image") or 1), 1) - 1,
        "true_boxes": _boxes(row.get("truth_pixels")),
        "answers": [_answer(answer) for answer in group.answers],
    }


def _answer(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer as the page's script reads it."""
    reason = plain(answer.get("reason", ""))
    return {
        "text": shortened(answer.get("text", "")),
        "tokens": answer.get("tokens", 0),
        "cut": answer.get("finish") == "length",
        "reward": _number(answer.get("reward")),
        "weight": _number(answer.get("weight")),
        "parts": {single_line(name): _number(part) for name, part in _items(answer.get("parts"))},
        "read": single_line(answer.get("answer", ""), 300),
        "reason": single_line(reason, 300),
        "kind": first_word(reason),
        "boxes": _boxes(answer.get("boxes_pixels")),
    }


def first_word(reason: str) -> str:
    """Return the kind of a reason: its first word, as in "malformed: no answer tag"."""
    words = single_line(reason, 300).split()
    return words[0].rstrip(":,;.") if words else ""


def _number(value: Any) -> float | None:
    """Return a number to four digits after the point; None where there is none, as for NaN."""
    return round(float(value), 4) if _is_number(value) else None


def _is_number(value: Any) -> bool:
    """Return True for a number that JSON has."""
    return isinstance(value, int | float) and math.isfinite(value)


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, Mapping) else []


def _boxes(value: Any) -> list[list[float]]:
    """Return boxes in pixels: left, upper, right, lower edge."""
    boxes: list[list[float]] = []
    for box in value or ():
        if len(box) == 4 and all(_is_number(edge) for edge in box):
            boxes.append([round(float(edge), 2) for edge in box])
    return boxes[:MOST_BOXES]
