"""Read rows of tables as text: CSV, TSV and their kin, whose first line names the columns."""

import csv
import io
import re
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gpg_vl.data.reading.raw_rows import BadRow, Row
from gpg_vl.data.reading.text_files import endings, not_utf8, opened, unreadable
from gpg_vl.errors import UserError, one_line, shown

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
LOOKED_AT = 1 << 20
"""Number of characters at the start of a file from which its separator is told."""
ROWS_LOOKED_AT = 50
"""Number of rows for the same."""
_STATED = re.compile(r"sep=(.)\r?\n")
"""First line with which Excel states the separator."""
_SURELY_ROWS = 4
"""Number of lines from which on lines that may each be a row are no cell of several lines."""
_UNCLOSED = "unexpected end of data"
"""Sentence of `csv` on a quote that opens and never closes."""

# the default limit is 128 KiB; C's long has 32 bits on Windows
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))


@dataclass(frozen=True, slots=True)
class _Layout:
    """Form of a table."""

    separator: str
    """Sign between two cells."""
    stated: bool
    """True if the first line states the separator and is no header."""


def table(path: Path) -> Iterator[Row | BadRow]:
    """Read the rows of a table; every cell is a text.

    The header tells the separator: comma, semicolon, tab or bar. A row with more or fewer cells
    than the header has names is broken.

    Raises:
        UserError: a separator that cannot be told, or two columns of one name.
    """
    layout = _layout(path)
    unreadable_row, any_readable = "", False
    with opened(path, newline="") as file:
        if layout.stated:
            file.readline()
        records = _records(file, layout.separator, first_line=1 + layout.stated)
        names: list[str] | None = None
        for where, cells in records:
            if names is None:
                names = _names(path, cells)
                continue
            if isinstance(cells, list) and unreadable("".join(cells)):
                unreadable_row = unreadable_row or not_utf8("".join(cells))
                yield BadRow(where, not_utf8("".join(cells)))
                continue
            any_readable = True
            yield _row(names, cells, where, layout.separator)
    if unreadable_row and not any_readable:
        raise UserError(f"{path}: {unreadable_row}")


def _row(names: list[str], cells: list[str] | str, where: str, separator: str) -> Row | BadRow:
    if isinstance(cells, str):
        return BadRow(where, cells)
    if len(cells) > len(names) and not any(cell.strip() for cell in cells[len(names) :]):
        cells = cells[: len(names)]  # separators at the end of the line
    if len(cells) > len(names):
        return BadRow(
            where,
            f"more cells ({len(cells)}) than the header has names ({len(names)}); write a cell "
            f"with a {SEPARATORS.get(separator, repr(separator))} in it in quotes",
        )
    if len(cells) < len(names):
        return BadRow(where, f"fewer cells ({len(cells)}) than the header has names ({len(names)})")
    return dict(zip(names, cells, strict=True))


def _records(
    file: Iterator[str], separator: str, first_line: int
) -> Iterator[tuple[str, list[str] | str]]:
    """Yield each record with its lines: its cells, or the reason why it cannot be read."""
    lines = _Lines(file)
    # strict: a stray quote is an error of its row, instead of swallowing those after it unseen;
    # a blank behind a separator would make a quote behind it a part of the words
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)
    joint: re.Pattern[str] | None = None
    names = 0
    is_quoted = False  # each name is
    is_torn = False  # the record before is broken, and may go on in this one
    while True:
        first_line += len(lines.of_record)
        lines.of_record.clear()
        cells: list[str] | str
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells = f"not a row of a table: {one_line(error)}; double the quotes inside a cell"
            if str(error) == _UNCLOSED:  # it takes only its own line with it
                lines.put_back()
            is_torn = True
        else:
            if is_torn and "".join(lines.of_record).count('"') % 2:
                cells = "it may be the end of the row above it, whose quotes are wrong"
            is_torn = False
        if joint is None:  # this is the header
            header = lines.of_record
            joint, names = _joint(separator, header), len(cells)
            is_quoted = header[0].startswith('"') and header[-1].rstrip("\r\n").endswith('"')
        elif _may_be_rows(lines.of_record, joint, names, is_quoted=is_quoted):
            cells = (
                "a quote opens in the first of these lines and closes in the last, but each of "
                "them may be a row; double the quotes inside a cell"
            )
            if len(lines.of_record) >= _SURELY_ROWS:  # only the first is broken
                cells = "a quote opens and does not close in this row; double the quotes in a cell"
                lines.put_back()
        last_line = first_line + len(lines.of_record) - 1
        if isinstance(cells, str) or any(cell.strip() for cell in cells):  # else an empty line
            is_one = last_line == first_line
            yield f"line {first_line}" if is_one else f"lines {first_line} to {last_line}", cells


class _Lines:
    """Lines of a file, of which those behind the first of a record may be read once more."""

    def __init__(self, file: Iterator[str]) -> None:
        self.of_record: list[str] = []
        """Lines of the record that is read."""
        self._file = file
        self._again: deque[str] = deque()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Return the next line, and note it."""
        line = self._again.popleft() if self._again else next(self._file)
        self.of_record.append(line)
        return line

    def put_back(self) -> None:
        """Leave the record its first line; the others are the next ones again."""
        self._again.extendleft(reversed(self.of_record[1:]))
        del self.of_record[1:]


def _joint(separator: str, header: list[str]) -> re.Pattern[str]:
    """Return a pattern of the sign between two cells; in prose a blank follows a comma."""
    sign = re.escape(separator)
    is_spaced = any(separator + " " in line for line in header)
    return re.compile(sign if is_spaced else f"{sign}(?! )")


def _may_be_rows(lines: list[str], joint: re.Pattern[str], names: int, *, is_quoted: bool) -> bool:
    """Return True if the lines of one record would each be a row if their quotes were words.

    Args:
        is_quoted: every name of the header is in quotes: so would be every row.
    """
    if is_quoted and not all(line.startswith('"') for line in lines):
        return False
    if len(lines) < 2 or names < 2:
        return False
    if lines[-1].endswith("\r\n") and not lines[0].endswith("\r\n"):
        return False  # Excel and csv.writer end rows so, and lines inside a cell with \n
    return all(len(joint.findall(line)) == names - 1 for line in lines)


def _names(path: Path, cells: list[str] | str) -> list[str]:
    """Return the names of the columns."""
    if isinstance(cells, str):
        raise UserError(f"{path}: header: {cells}")
    names: list[str] = []
    for place, cell in enumerate(cells):
        # as pandas calls a column without a name, which is often its index
        names.append(cell.strip() or f"Unnamed: {place}")
    if unreadable("".join(names)):
        raise UserError(f"{path}: header: {not_utf8(''.join(names))}")
    for name in names:
        places = [str(place) for place, other in enumerate(names, 1) if other == name]
        if len(places) > 1:
            raise UserError(
                f"{path}: columns {' and '.join(places)} are both called {shown(name)}; rename or "
                "remove one"
            )
    return names


def _layout(path: Path) -> _Layout:
    """Tell the separator from the header and, where it could be several, from the first rows.

    Raises:
        UserError: it could be several.
    """
    with opened(path, newline="") as file:
        start = file.read(LOOKED_AT)
    stated = _STATED.match(start)
    if stated:
        return _Layout(stated[1], stated=True)
    tables = {sign: _first_rows(start, sign) for sign in SEPARATORS}
    possible = [sign for sign, rows in tables.items() if rows and len(rows[0]) > 1]
    own = "\t" if endings(path)[0] == ".tsv" else ","
    if len(possible) < 2:
        return _Layout(next(iter(possible), own), stated=False)
    shares = {sign: _share_of_full_rows(tables[sign]) for sign in possible}
    best = [sign for sign in possible if shares[sign] == max(shares.values())]
    if len(best) > 1:
        names = " or ".join(SEPARATORS[sign] for sign in best)
        raise UserError(
            f"{path}: cannot tell whether {names} separates the cells: the first rows fit both; "
            "rename the columns so that only the separator is in the header"
        )
    return _Layout(best[0], stated=False)


def _first_rows(start: str, separator: str) -> list[list[str]]:
    """Return the first rows of a table, cut at this separator."""
    rows: list[list[str]] = []
    for _, cells in _records(io.StringIO(start, newline=""), separator, first_line=1):
        rows.append(cells if isinstance(cells, list) else [])
        if len(rows) > ROWS_LOOKED_AT:
            break
    if len(start) == LOOKED_AT and len(rows) > 1:
        rows.pop()  # it may be cut
    return rows


def _share_of_full_rows(rows: list[list[str]]) -> float:
    """Return the share of rows with as many cells as the header."""
    if len(rows) < 2:
        return 0.0
    full = sum(len(row) == len(rows[0]) for row in rows[1:])
    return full / (len(rows) - 1)
