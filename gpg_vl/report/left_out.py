"""Report the rows that are not used: a count, their reasons grouped, and some examples."""

import re
from collections.abc import Iterator, Sequence

from gpg_vl.errors import one_line
from gpg_vl.types import LeftOut

SHOWN_REASONS = 5
"""Largest number of reasons that are printed, each with its first row."""
WHY_CHARACTERS = 800
"""Largest number of characters of a reason: a long value, and what to do about it."""
_VALUE = re.compile(r"""'[^']*'|"[^"]*"|\[[^\]]*\]|\S*[\d/\\]\S*|\S+\.\w{2,5}\b""")
"""Parts of a reason that differ from row to row: quoted values, lists, numbers, names of files."""


def lines(left_out: Sequence[LeftOut], listed_in: object = "") -> Iterator[str]:
    """Yield lines that report rows which are not used; none if all rows are.

    Args:
        listed_in: file that lists all of them; empty = there is none.
    """
    if not left_out:
        return
    rows = "1 row" if len(left_out) == 1 else f"{len(left_out):,} rows"
    yield f"left out: {rows}, listed in {listed_in}" if listed_in else f"left out: {rows}"
    for line in by_reason(left_out):
        yield f"  {line}"


def by_reason(left_out: Sequence[LeftOut]) -> list[str]:
    """Return a line for each of the most frequent reasons, with its first row."""
    groups: dict[str, list[LeftOut]] = {}
    for row in left_out:
        # its beginning tells the reason; patterns take long in a very long word
        reason = _VALUE.sub("...", one_line(row.why))
        groups.setdefault(reason, []).append(row)
    largest_first = sorted(groups.values(), key=len, reverse=True)
    found: list[str] = []
    for group in largest_first[:SHOWN_REASONS]:
        found.append(f"{len(group):,} like {described(group[0])}")
    more = len(groups) - SHOWN_REASONS
    if more > 0:
        found.append(f"and {more:,} other reason{'s' if more > 1 else ''}")
    return found


def described(row: LeftOut) -> str:
    """Return id and reason of a row as one line."""
    return f"{one_line(row.id, 100)}: {one_line(row.why, WHY_CHARACTERS)}"
