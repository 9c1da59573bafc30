"""Make the table of sample answers that experiment trackers show, and its small pictures.

Questions and answers are texts of anyone: what a tracker cannot store or would read as markup is
written out.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from gpg_vl.errors import UnusableSampleError
from gpg_vl.pictures import open_picture

CHARACTERS = 2000
"""Longest text of a cell."""
PICTURE_PIXELS = 320
"""Longest side of a picture in the table."""
PICTURE = "picture"
"""Name of the column of pictures."""

Cell = str | float | None
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_MARKUP = re.compile(r"[\\`*_{}\[\]()<>&|!#~]")


class AnswerTable(NamedTuple):
    """Answers of a step, one a row.

    Example:
        AnswerTable(50, ["step", "task", "question", ...], [[50, "add", "What is 0+0?", ...]])
    """

    step: int
    columns: list[str]
    rows: list[list[Cell]]
    pictures: list[Image.Image | None] | None = None
    """Picture of each row, one object for all answers to a question; None = none are sent."""

    def with_pictures(self, shown: Callable[[Image.Image], Any]) -> "tuple[list[str], list[Any]]":
        """Return columns and rows; with pictures, they are in a column of their own.

        Args:
            shown: makes a cell of a picture; called once for each.
        """
        if self.pictures is None:
            return self.columns, self.rows
        cells: dict[int, Any] = {}
        rows: list[list[Any]] = []
        for row, picture in zip(self.rows, self.pictures, strict=True):
            if picture is not None and id(picture) not in cells:
                cells[id(picture)] = shown(picture)
            rows.append([*row, cells.get(id(picture))])
        return [*self.columns, PICTURE], rows

    def as_csv(self) -> str:
        """Return the table as text for a tracker that shows texts as they are."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *self.rows])
        return text.getvalue()


def answer_table(
    step: int, groups: Sequence[Mapping[str, Any]], *, pictures_of: Path | None = None
) -> AnswerTable:
    """Make the table of groups as `rollouts/` has them.

    Args:
        pictures_of: run folder whose pictures are shown; None = no picture is opened.
    """
    columns = ["step", "task", "question", "truth", "answer", "read", "reward", "reason"]
    if any(_has_weights(group) for group in groups):
        columns.append("weight")
    rows: list[list[Cell]] = []
    pictures: list[Image.Image | None] = []
    for group in groups:
        asked = _text(group["tags"].get("task", group["source"])), _text(group["question"])
        truth = _text(group["truth"])
        picture = _small_picture(group, pictures_of) if pictures_of is not None else None
        for answer in group["answers"]:
            said = _text(answer["text"]), _text(answer["answer"])
            row = [step, *asked, truth, *said, answer["reward"], _text(answer["reason"])]
            rows.append([*row, answer.get("weight")] if "weight" in columns else row)
            pictures.append(picture)
    return AnswerTable(step, columns, rows, pictures if pictures_of is not None else None)


def _has_weights(group: Mapping[str, Any]) -> bool:
    return any("weight" in answer for answer in group["answers"])


def as_markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table in Markdown whose cells are shown as they are."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = ["" if cell is None else _literal(str(cell)) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _literal(text: str) -> str:
    """Return a text that Markdown shows as it is, as a cell of a table."""
    return _MARKUP.sub(lambda sign: f"&#{ord(sign[0])};", text).replace("\n", "<br>")


def _text(value: Any) -> str:
    """Return what a cell shows, cut where it is long; NUL and half characters are written out."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = _CONTROL.sub(lambda sign: f"\\x{ord(sign[0]):02x}", text[: CHARACTERS + 1])
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= CHARACTERS else f"{text[: CHARACTERS - 1]}…"


def _small_picture(group: Mapping[str, Any], run: Path) -> Image.Image | None:
    """Return the first picture of a question, small; None if there is none that can be read."""
    for found in group["images"][:1]:
        file = run / found["file"] if found["file"] else found.get("original")
        if file is None:
            return None
        try:
            picture = open_picture(Path(file))
        except UnusableSampleError:  # it vanished since the prompt was made
            return None
        picture.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
        return picture
    return None
