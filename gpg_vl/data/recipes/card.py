"""Read published data sets by their cards, which list files, columns and counts.

The files are in a folder, in the published form, or on the hub. Without a `folder` option they are
looked for in `$GPG_VL_DATA/NAME` (`downloads/NAME` if the variable is not set), then on the hub if
the card names a hub data set.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import Field, ValidationError

from gpg_vl.config import resources
from gpg_vl.config.schema import Section
from gpg_vl.data.reading import formats
from gpg_vl.data.reading.hub import hub_rows
from gpg_vl.data.reading.raw_rows import sound
from gpg_vl.data.rows import RowFormat, checked
from gpg_vl.errors import UserError, one_line, shown
from gpg_vl.pictures import picture_size
from gpg_vl.types import LeftOut, Sample, Size

SHOWN = 20
"""Largest number of names that a message lists."""
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class Split(Section):
    """A split of a data set, as published."""

    hub: str | None = None
    """Name on the hub; empty = it is not there in this form."""
    hub_split: str | None = None
    """Name of the split on the hub, if it differs."""
    files: tuple[str, ...]
    """Glob patterns within the folder; the files are those of the first pattern that matches."""
    rows: int | dict[str, int] | None = None
    """Published number of rows, by file ending if there are several forms (that of the hub is
    .parquet); empty = unknown."""
    columns: dict[str, str] | None = None
    """Columns of this split, if they differ from the card's."""


class Card(Section):
    """Description of a published data set."""

    recipe: str
    """Name of the function that reads it."""
    source: str
    """Authors."""
    link: str
    """Address of its description."""
    licence: str
    """Licence as published, or "not stated"."""
    get: str
    """Instructions: source of the files and layout of the folder."""
    splits: dict[str, Split]
    """Splits by the value of the recipe's option `split`."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column -> published column."""
    answer_kind: str
    """Answer kind of every row."""
    frame: str = "pixels"
    """Coordinate frame of the boxes in the reference answers."""
    prompt: str = ""
    """Prompt of the published experiment."""
    left_out: str = "nothing"
    """Rows that are not used, and the reason."""
    oddities: tuple[str, ...] = ()
    """Irregularities of the published files."""
    example: dict[str, Any]
    """Example of a row from the recipe."""


def read_card(name: str) -> Card:
    """Read the card of a shipped data set.

    Raises:
        UserError: no such card, or an invalid one.
    """
    path = resources.find("data", name)
    try:
        return Card.model_validate(yaml.safe_load(path.read_text()))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path}: {first['loc']}: {first['msg']}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Files of one split of a published data set.

    Example:
        Published.find("geoqa", "train", folder="downloads/geoqa").rows()
    """

    name: str
    card: Card
    split: str
    base_dir: Path | None
    """Folder of the files; None = the hub."""
    files: tuple[Path, ...]
    """Files in reading order; empty = the hub."""
    pictures: bool
    """True if rows contain their images."""
    complete: bool
    """True if another number of rows than published is an error."""

    @classmethod
    def find(
        cls,
        name: str,
        split: str,
        *,
        folder: str | None = None,
        pictures: bool = True,
        complete: bool = False,
    ) -> "Published":
        """Find the files of a split.

        Args:
            name: name of the card.
            split: a split of the card.
            folder: folder of the files.
            pictures: false = rows without images, enough to score recorded answers that need none.
            complete: require the published number of rows.

        Raises:
            UserError: no such split; no files (the message explains how to get them); `complete`
                although the published number is unknown.
        """
        card = read_card(name)
        if split not in card.splits:
            raise UserError(
                f"{name}: got split {shown(split)}, published are {', '.join(card.splits)}"
            )
        if folder:
            base_dir = Path(folder)
        else:
            base_dir = Path(os.environ.get("GPG_VL_DATA", "downloads")) / name
        patterns = card.splits[split].files
        files: list[Path] = []
        for pattern in patterns:
            files = [path for path in sorted(base_dir.glob(pattern)) if path.is_file()]
            if files:
                break
        if not files and (folder or card.splits[split].hub is None):
            raise UserError(
                f"{name} ({split}): {base_dir} holds no {' or '.join(patterns)}. "
                f"{_how(card, base_dir)}"
            )
        found = cls(
            name=name,
            card=card,
            split=split,
            base_dir=base_dir if files else None,
            files=tuple(files),
            pictures=pictures,
            complete=complete,
        )
        if complete and found.published is None:
            raise UserError(
                f"{name} ({split}): complete=true, but no published number of rows is known; leave "
                "complete out"
            )
        return found

    @property
    def published(self) -> int | None:
        """Published number of rows in the form that is read; None = unknown."""
        rows = self.card.splits[self.split].rows
        if not isinstance(rows, dict):
            return rows
        if not self.files:
            return rows.get(".parquet")  # the form of the hub
        return rows.get(self.files[0].suffix)

    def raw(self) -> Iterator[tuple[Path | None, formats.Row]]:
        """Yield every row with its file (None = the hub), in the published columns.

        Raises:
            UserError: a broken file; with `complete`, another number of rows than published.
        """
        count = 0
        if self.base_dir is None:
            part = self.card.splits[self.split]
            assert part.hub is not None
            rows, _ = hub_rows(part.hub, None, part.hub_split or self.split, Path())
            for row in rows:
                count += 1
                yield None, sound(row, f"hub {part.hub}")
        for path in self.files:
            for row in formats.read(path, windows=True):
                count += 1
                yield path, sound(row, path)
        self.expect(count)

    def expect(self, count: int) -> None:
        """Check the number of rows, if the set has to be complete.

        Raises:
            UserError: it is not the published number.
        """
        if self.complete and count != self.published:
            raise UserError(
                f"{self.name} ({self.split}): {self.base_dir or 'the hub'} holds {count:,} rows, "
                f"published are {self.published:,}: a download cut short or another split? "
                "Nothing was scored; to use what is there all the same set the option "
                "complete=false"
            )

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield every row with its number from 0, with the card's columns under our names.

        Raises:
            UserError: a column of the card is missing: the file is not the published one.
        """
        part = self.card.splits[self.split]
        columns = self.card.columns if part.columns is None else part.columns
        for number, (path, row) in enumerate(self.raw()):
            need(
                row,
                *columns.values(),
                where=f"{path or f'hub {part.hub}'} row {number + 1}",
                what=f"{self.name}, split {self.split}",
            )
            renamed = {our_column: row[published] for our_column, published in columns.items()}
            yield number, {**row, **renamed}

    def sample(
        self, number: int | str, *, images: Any, base: Path | None = None, **values: Any
    ) -> Sample | LeftOut:
        """Convert a row to a checked sample of this data set, or leave it out with the reason.

        Args:
            number: identifies the row within its split.
            images: one image or a list, as in the row.
            base: the folder that image paths are relative to; default: that of the data set.
            values: other columns of the sample.

        Raises:
            UserError: the data set is to be complete, and the row cannot be read.
        """
        name = f"{self.name}/{self.split}/{number}"
        given = {
            "id": name,
            "answer_kind": self.card.answer_kind,
            "frame": self.card.frame,
            **values,
        }
        if self.pictures:
            given["images"] = images
        row_format = RowFormat(image_root=base or self.base_dir)
        try:
            return checked(given, origin=name, row_format=row_format)
        except ValueError as error:
            return self._left_out(name, error)

    def size(self, picture: Path, name: str) -> Size | LeftOut:
        """Read width and height of an image, in pixels.

        Raises:
            UserError: the data set is to be complete, and the image is missing or broken.
        """
        try:
            return picture_size(picture)
        except ValueError as error:
            return self._left_out(name, error)

    @property
    def how(self) -> str:
        """Instructions: source of the files and the folder to put them into."""
        return _how(self.card, self.base_dir or Path())

    def _left_out(self, name: str, error: ValueError) -> LeftOut:
        """Return why a row is left out; of a missing image also how to get the images."""
        why = str(error)
        if "does not exist" in why:
            why = f"{why}. {self.how}"
        if self.complete:
            raise UserError(f"{name}: {why}")
        return LeftOut(name, why)


def _how(card: Card, base_dir: Path) -> str:
    """Return the instructions for missing files."""
    return (
        f"{' '.join(card.get.split())} Put them into {base_dir}, or say where they are with the "
        "option folder (data.0.options.folder=DIR)"
    )


def need(row: Any, *names: str, where: object, what: str = "the published file") -> None:
    """Check that a part of a published file has the columns that are read.

    Args:
        row: the part.
        names: the columns.
        where: file and row, for the message.
        what: the expected file, for the message.

    Raises:
        UserError: a column is missing; the message lists those that exist.
    """
    if not isinstance(row, Mapping):
        raise UserError(
            f"{where}: got {type(row).__name__}, expected an object with {', '.join(names)}. Is "
            f"this {what}?"
        )
    found = cast(Mapping[str, Any], row)
    for name in names:
        if name not in found:
            columns = ", ".join(list(found)[:SHOWN]) or "nothing"
            raise UserError(
                f"{where}: no column {shown(name)}; it has {one_line(columns)}. Is this {what}?"
            )


def numbers(values: Any, count: int, *, where: object) -> list[float]:
    """Convert numbers of a published file, such as the four of a box.

    Raises:
        UserError: these are not `count` numbers.
    """
    try:
        found = [float(value) for value in values]
    except (TypeError, ValueError):
        found = []
    if len(found) != count:
        raise UserError(f"{where}: got {shown(values)}, expected {count} numbers")
    return found


def answer_text(solution: Any) -> str:
    """Return the text between the answer tags of a published solution, else all of it."""
    text = str(solution)
    match = _ANSWER.search(text)
    if match:
        text = match[1]
    return text.strip()


def tags_of(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return the columns of a row that tables group by, if they have a value."""
    return {name: row[name] for name in names if row.get(name) is not None}
