"""Read the rows of a published file: JSON lines, JSON, parquet, arrow, CSV and TSV.

Images stay encoded.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpg_vl.data.reading import delimited, json_rows, tables, text_files
from gpg_vl.data.reading.raw_rows import BadRow, Row
from gpg_vl.errors import UserError

__all__ = [
    "BadRow",
    "Row",
    "array_of_rows",
    "json_file",
    "kind_of",
    "lines",
    "num_rows",
    "numbered_jsonl",
    "read",
]

_TEXT: dict[str, Callable[[Path], Iterator[Row | BadRow]]] = {
    ".jsonl": json_rows.jsonl,
    ".ndjson": json_rows.jsonl,
    ".jsonlines": json_rows.jsonl,
    ".json": json_rows.document,
    ".csv": delimited.table,
    ".tsv": delimited.table,
}
_BINARY: dict[str, Callable[[Path], Iterator[Row | BadRow]]] = {
    ".parquet": tables.parquet,
    ".arrow": tables.arrow_file,
    ".feather": tables.arrow_file,
}
_OTHER_CONTENT = (
    (
        b"version https://git-lfs",
        "",
        "a pointer of Git LFS instead of the file; get the file with `git lfs pull`, or download "
        "it again",
    ),
    (b"<!doctype html", "", "a web page instead of the file; download it again"),
    (b"<html", "", "a web page instead of the file; download it again"),
    (b"\x1f\x8b", ".gz", "packed by gzip; let its name end in .gz"),
    (b"\x28\xb5\x2f\xfd", ".zst", "packed by zstd; let its name end in .zst"),
    (b"par1", ".parquet", "a parquet file; let its name end in .parquet"),
    (b"\xd0\xcf\x11\xe0", ".xls", "an Excel workbook; save it as CSV"),
    (b"pk\x03\x04", ".zip", "a zip archive or an Excel workbook; unpack it, or save it as CSV"),
)
"""First bytes of a file, in small letters; the ending of a name where they are right; and what to
say elsewhere."""

_OTHER_ENDINGS = {
    ".xlsx": "save it as CSV UTF-8 in Excel",
    ".xls": "save it as CSV UTF-8 in Excel",
    ".ods": "save it as CSV",
    ".txt": "if it holds JSON lines or a table, let its name end in .jsonl, .csv or .tsv",
    ".tar": "unpack it, or name its folder under `hub:` (WebDataset)",
    ".tar.gz": "unpack it",
    ".tgz": "unpack it",
    ".zip": "unpack it",
    ".pkl": "write it as parquet, for instance pandas.read_pickle(...).to_parquet(...)",
    ".pickle": "write it as parquet, for instance pandas.read_pickle(...).to_parquet(...)",
    ".xml": "write a row of JSON for each question, or a recipe of your own",
    ".yaml": "a table is written as JSON or CSV",
}
"""What to do with files of other formats."""

array_of_rows = json_rows.array_of_rows
numbered_jsonl = json_rows.numbered_jsonl


def read(path: Path, *, windows: bool = False) -> Iterator[Row | BadRow]:
    """Read the rows of a file; the ending of its name, in small letters or capitals, is its format.

    A broken row is yielded as such, and those after it are read.

    Args:
        windows: some published .json files are in the encoding of Windows: try it second.

    Raises:
        UserError: an unknown format, or a file that is broken as a whole, such as an incomplete
            download.
    """
    ending, packing = text_files.endings(path)
    if kind_of(path) is None:
        known = ", ".join([*_TEXT, *_BINARY])
        name = ending + packing if ending + packing in _OTHER_ENDINGS else ending
        advice = f"; {_OTHER_ENDINGS[name]}" if name in _OTHER_ENDINGS else ""
        raise UserError(
            f"{path}: got a {ending + packing or 'nameless'} file, expected one of {known}; texts "
            f"may be packed ({', '.join(text_files.PACKED)}) (a hub data set goes under "
            f"`hub:`){advice}"
        )
    _check_start(path)
    if ending == ".json" and windows:
        return json_rows.document(path, windows=True)
    if _TEXT.get(ending) is json_rows.jsonl:
        return json_rows.array_of_rows(path) or json_rows.jsonl(path)
    return {**_TEXT, **_BINARY}[ending](path)


def num_rows(path: Path) -> int | None:
    """Return about how many rows a file has, for a progress bar; None = that takes reading it."""
    kind = kind_of(path)
    if kind == ".parquet":
        return tables.num_rows(path)
    if kind not in _TEXT or kind == ".json":
        return None
    count, last = 0, b"\n"
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            count, last = count + block.count(b"\n"), block
    count += not last.endswith(b"\n")
    return max(0, count - (_TEXT[kind] is delimited.table))  # its header is no row


def kind_of(path: Path) -> str | None:
    """Return the format of a file by its name, such as .jsonl or .csv.gz; None = not readable."""
    ending, packing = text_files.endings(path)
    if ending in _TEXT or (ending in _BINARY and not packing):
        return ending + packing
    return None


def lines(path: Path) -> list[str]:
    """Read the lines of a text file that are not empty.

    Raises:
        UserError: not UTF-8.
    """
    with text_files.opened(path, newline=None) as file:
        found = [line.rstrip("\n") for line in file if line.strip()]
    for line in found:
        if text_files.unreadable(line):
            raise UserError(f"{path}: {text_files.not_utf8(line)}")
    return found


def json_file(path: Path) -> Any:
    """Read the content of a .json file.

    Some published files are not UTF-8 but in the encoding of Windows, which is tried second.

    Raises:
        UserError: not JSON.
    """
    return json_rows.parsed(path)


def _check_start(path: Path) -> None:
    """Check that a file is not another one under its name, as a failed download leaves it."""
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    for other, ending, what in _OTHER_CONTENT:
        if start.startswith(other) and path.suffix.lower() != ending:
            raise UserError(f"{path}: {what}")
