"""Define a row as it stands in a file, before it becomes a sample, and a row that is broken."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from gpg_vl.errors import UserError

Row = Mapping[str, Any]
"""Values of a row by column name."""


class BadRow(NamedTuple):
    """A place of a file that holds no row; the rows after it are read all the same.

    Example:
        BadRow("line 7", "not JSON: Expecting value: line 1 column 9 (char 8)")
    """

    where: str
    """Line or row of the file, counted from 1; the file is not named."""
    why: str
    """Reason, in words: got, expected, do this."""


def sound(row: Row | BadRow, origin: object) -> Row:
    """Return a row of a file in which every row is needed.

    Raises:
        UserError: the row is broken.
    """
    if isinstance(row, BadRow):
        raise UserError(f"{origin} {row.where}: {row.why}")
    return row
