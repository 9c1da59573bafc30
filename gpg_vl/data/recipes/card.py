"""What all published data sets have in common: a card that says where the files are, and a reader that follows it.

The files come from a folder, in the form in which they are published, or from the hub. Without a `folder` option they are looked for in
`$GPG_VL_DATA/NAME` (`downloads/NAME` where the variable is not set), then on the hub where the card names one.
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
from gpg_vl.data import formats
from gpg_vl.data.rows import checked, image_size
from gpg_vl.errors import UserError
from gpg_vl.types import Sample, Size

SHOWN = 20
"""Names that a message lists at most."""
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class Split(Section):
    """A published part of a data set."""

    hub: str | None = None
    """Its name on the hub; empty = it is not there in this form."""
    hub_split: str | None = None
    """What the hub calls the split, where the name differs."""
    files: tuple[str, ...]
    """Glob patterns within the folder; the first that matches anything names the files."""
    rows: int | dict[str, int] | None = None
    """How many rows were published; by file ending where there are several forms (the hub's is .parquet); empty = not known."""
    columns: dict[str, str] | None = None
    """As the card's, where this split differs."""


class Card(Section):
    """A data set, as far as it can be said in data."""

    recipe: str
    """The function that reads it."""
    source: str
    """Who made it."""
    link: str
    """Where it is described."""
    licence: str
    """As published; "not stated" where it is not."""
    get: str
    """Where the files come from and what the folder looks like."""
    splits: dict[str, Split]
    """By the name that the recipe's option `split` takes."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column -> theirs."""
    answer_kind: str
    """Of every row."""
    frame: str = "pixels"
    """Of the truth's boxes."""
    prompt: str = ""
    """How the published experiment asks."""
    left_out: str = "nothing"
    """Which rows are not used, and why."""
    oddities: tuple[str, ...] = ()
    """What a reader of the published files should know."""
    example: dict[str, Any]
    """A row as the recipe yields it."""


def read_card(name: str) -> Card:
    """The card of a shipped data set.

    Raises:
        UserError: no such card, or one that breaks the form.
    """
    path = resources.find("data", name)
    try:
        return Card.model_validate(yaml.safe_load(path.read_text()))
    except ValidationError as error:
        raise UserError(f"{path}: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One split of a published data set, found.

    Example:
        Published.find("geoqa", "train", folder="downloads/geoqa").rows()
    """

    name: str
    card: Card
    split: str
    home: Path | None
    """The folder of the files; None = the hub."""
    files: tuple[Path, ...]
    """What is read, in order; empty = the hub."""
    pictures: bool
    """Whether rows carry their pictures."""
    complete: bool
    """Whether fewer or more rows than published are a mistake."""

    @classmethod
    def find(cls, name: str, split: str, *, folder: str | None = None, pictures: bool = True, complete: bool = False) -> "Published":
        """Look for the files.

        Args:
            folder: where they lie.
            pictures: false = rows without pictures, enough to score recorded answers that need none.
            complete: refuse a set that does not have the published number of rows.

        Raises:
            UserError: no such split; no files: which, from where to get them, where to put them; `complete` where no number is known.
        """
        card = read_card(name)
        if split not in card.splits:
            raise UserError(f"{name}: got split {split!r}, published are {', '.join(card.splits)}")
        home = Path(folder) if folder else Path(os.environ.get("GPG_VL_DATA", "downloads")) / name
        patterns = card.splits[split].files
        matches = ([path for path in sorted(home.glob(pattern)) if path.is_file()] for pattern in patterns)
        files = next((found for found in matches if found), list[Path]())
        if not files and (folder or card.splits[split].hub is None):
            raise UserError(f"{name} ({split}): {home} holds no {' or '.join(patterns)}. {_how(card, home)}")
        home_of = home if files else None
        found = cls(name=name, card=card, split=split, home=home_of, files=tuple(files), pictures=pictures, complete=complete)
        if complete and found.published is None:
            raise UserError(f"{name} ({split}): complete=true, but no published number of rows is known; leave complete out")
        return found

    @property
    def published(self) -> int | None:
        """How many rows were published in the form that is read; None = not known."""
        rows = self.card.splits[self.split].rows
        return rows.get(self.files[0].suffix if self.files else ".parquet") if isinstance(rows, dict) else rows

    def raw(self) -> Iterator[tuple[Path | None, formats.Row]]:
        """Every row with the file it stands in, in the published columns.

        Raises:
            UserError: a broken file; with `complete`, another number of rows than published.
        """
        part, count = self.card.splits[self.split], 0
        if self.home is None:
            assert part.hub is not None
            stream: Iterator[tuple[Path | None, formats.Row]] = ((None, row) for row in formats.hub(part.hub, part.hub_split or self.split))
        else:
            stream = ((path, row) for path in self.files for row in formats.read(path))
        for item in stream:
            count += 1
            yield item
        self.expect(count)

    def expect(self, count: int) -> None:
        """Compare with the published number of rows, where the set has to be complete.

        Raises:
            UserError: another number.
        """
        if self.complete and count != self.published:
            told = f"{self.home or 'the hub'} holds {count:,} rows, published are {self.published:,}"
            raise UserError(
                f"{self.name} ({self.split}): {told}: a download cut short or another split? Nothing was scored; to use what is there "
                "all the same set the option complete=false"
            )

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every row with its number from 0, the card's columns under our names.

        Raises:
            UserError: a column that the card names is missing: another file than the published one.
        """
        theirs = self.card.splits[self.split].columns
        theirs = self.card.columns if theirs is None else theirs
        for number, (path, row) in enumerate(self.raw()):
            where = path or f"hub {self.card.splits[self.split].hub}"
            need(row, *theirs.values(), where=f"{where} row {number + 1}", what=f"{self.name}, split {self.split}")
            yield number, {**row, **{ours: row[name] for ours, name in theirs.items()}}

    def sample(self, number: int | str, *, images: Any, base: Path | None = None, **values: Any) -> Sample:
        """A row as a sample of this data set, checked.

        Args:
            number: what tells it from the other rows of its split.
            images: one image or a list, as the row has them.
            base: the folder that image paths start from; default: the data set's own.

        Raises:
            UserError: a picture is missing or broken; says where the pictures come from.
        """
        name = f"{self.name}/{self.split}/{number}"
        given = {"id": name, "answer_kind": self.card.answer_kind, "frame": self.card.frame, **values}
        if self.pictures:
            given["images"] = images
        try:
            return checked(given, base=base or self.home, origin=name)
        except UserError as error:
            raise self._told(error) from None

    def size(self, picture: Path, name: str) -> Size:
        """Width and height of a picture.

        Raises:
            UserError: it is missing or broken; says where the pictures come from.
        """
        try:
            return image_size(picture, name)
        except UserError as error:
            raise self._told(error) from None

    @property
    def how(self) -> str:
        """Where the files come from and where they go."""
        return _how(self.card, self.home or Path())

    def _told(self, error: UserError) -> UserError:
        lost = "does not exist" in str(error)
        return UserError(f"{error}. {self.how}") if lost else error


def _how(card: Card, home: Path) -> str:
    """What to do when files are missing."""
    return f"{' '.join(card.get.split())} Put them into {home}, or say where they are with the option folder (data.0.options.folder=DIR)"


def need(row: Any, *names: str, where: object, what: str = "the published file") -> None:
    """Make sure that a part of a published file has what is read of it.

    Args:
        where: file and row, for the message.
        what: which file it should be.

    Raises:
        UserError: what is missing, and what was found.
    """
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: got {type(row).__name__}, expected an object with {', '.join(names)}. Is this {what}?")
    found = cast(Mapping[str, Any], row)
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{where}: no column {missing[0]!r}; it has {', '.join(list(found)[:SHOWN]) or 'nothing'}. Is this {what}?")


def numbers(values: Any, count: int, *, where: object) -> list[float]:
    """So many numbers of a published file, such as the four of a box.

    Raises:
        UserError: it is something else.
    """
    try:
        found = [float(value) for value in values]
    except (TypeError, ValueError):
        found = []
    if len(found) != count:
        raise UserError(f"{where}: got {values!r}, expected {count} numbers")
    return found


def answer_text(solution: Any) -> str:
    """What stands between the answer tags of a published solution, else all of it."""
    match = _ANSWER.search(str(solution))
    return (match[1] if match else str(solution)).strip()


def kept(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Some columns of a row, for the tables that group by them."""
    return {name: row[name] for name in names if row.get(name) is not None}
