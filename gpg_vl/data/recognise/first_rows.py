"""Hold the first rows of a source as columns, and the keys of a source while they are found out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Self, cast

from gpg_vl.config.schema import Source
from gpg_vl.data import sources
from gpg_vl.data.columns import cells, chats
from gpg_vl.data.columns.chats import Chat
from gpg_vl.data.reading.raw_rows import BadRow, Row
from gpg_vl.data.recognise import layouts
from gpg_vl.data.rows import CHAT_COLUMNS
from gpg_vl.errors import UserError

FIRST_ROWS = 200
"""Rows that are looked at."""
_PREFERENCES = ("chosen", "rejected")
"""Columns of answers that were compared."""


@dataclass(frozen=True, slots=True)
class Table:
    """The first rows of a source, and their columns."""

    rows: list[Row]
    columns: Mapping[str, Sequence[Any]]
    """Filled cells of each column; fields of a mapping are columns by dotted name."""
    chat_column: str | None
    """Column that holds the question as a chat; None = there is none."""
    folder: Path | None
    """Folder that relative paths of pictures start at; None = they start nowhere."""

    @classmethod
    def of(cls, source: Source, base_dir: Path) -> Self:
        """Read the first rows of a source.

        Raises:
            UserError: there are none, or none can be read.
        """
        rows: list[Row] = []
        folder: Path | None = None
        first_bad = ""
        for part in sources.parts(source, base_dir):
            folder = folder or part.image_root
            for row in islice(part.rows, FIRST_ROWS - len(rows)):
                if isinstance(row, BadRow):
                    first_bad = first_bad or f"{row.where}: {row.why}"
                else:
                    rows.append(row)
            if len(rows) >= FIRST_ROWS:
                break
        if not rows:
            why = first_bad or "it is empty"
            raise UserError(f"{sources.name_of(source)}: no row can be read: {why}")
        columns = _columns(rows)
        return cls(rows, columns, _chat_column(columns, source), folder)

    def chat(self, row: Row) -> Chat | None:
        """Return the chat of a row; None where there is none that can be read."""
        value = cell(row, self.chat_column or "")
        if not chats.is_chat(value):
            return None
        try:
            return chats.read_chat(value)
        except ValueError:  # the row is left out with this reason when it is tried
            return None


def _columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in _fields(row):
            filled = columns.setdefault(name, [])
            if not cells.is_missing(value):
                filled.append(value)
    return columns


def _fields(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the columns of a row, and the fields of those that are mappings, by dotted name."""
    for name, value in row.items():
        yield prefix + name, value
        if isinstance(value, Mapping) and not layouts.is_picture(value):
            yield from _fields(cast(Mapping[str, Any], value), f"{prefix}{name}.")


def _chat_column(columns: layouts.Columns, source: Source) -> str | None:
    """Return the column that asks with a chat: one of a known name, or else any that does."""
    settled = source.columns.get("question")
    known = CHAT_COLUMNS if settled is None else (settled,)
    for name in known:
        if isinstance(name, str) and layouts.mostly(columns.get(name, ()), chats.is_chat):
            return name
    if settled is not None or layouts.mostly(columns.get("question", ()), layouts.is_text):
        return None
    for name, values in columns.items():
        if name not in _PREFERENCES and layouts.mostly(values, _asks):
            return name
    return None


def _asks(value: Any) -> bool:
    """Return True for a chat with a question."""
    try:
        return chats.is_chat(value) and bool(chats.read_chat(value).question)
    except ValueError:
        return False


@dataclass(slots=True)
class Proposal:
    """Keys of a source, while they are found out."""

    columns: dict[str, Any] = field(default_factory=dict[str, Any])
    defaults: dict[str, Any] = field(default_factory=dict[str, Any])
    keys: dict[str, Any] = field(default_factory=dict[str, Any])
    """Other keys of the source."""
    questions: list[str] = field(default_factory=list[str])
    """What a person has to decide or to know, in sentences."""

    def has(self, our_column: str) -> bool:
        """Return True if it is settled already which cells this column of ours has."""
        return our_column in self.columns or our_column in self.defaults

    def named(self) -> set[str]:
        """Return the columns of the source that have a meaning already."""
        names: set[str] = set()
        for theirs in self.columns.values():
            names |= {theirs} if isinstance(theirs, str) else set(theirs)
        return names


def cell(row: Row, name: str | Sequence[str]) -> Any:
    """Return the cell of a column by dotted name; None where there is none.

    Of several columns those that are filled are returned as a list.
    """
    if isinstance(name, str):
        return cells.dotted(row, name) if cells.has(row, name) else None
    return [row[each] for each in name if not cells.is_missing(row.get(each))]
