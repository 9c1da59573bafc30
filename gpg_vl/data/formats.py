"""Read rows of published files: JSON lines, JSON, parquet, arrow and CSV files, and hub data sets.

Images stay encoded.
"""

import csv
import json
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO, cast

from gpg_vl.errors import UserError, one_line

Row = Mapping[str, Any]
"""Values of a row by column name."""
ROWS_AT_ONCE = 64
"""Number of rows of a parquet file in memory at once: a file may be larger than memory."""


def read(path: Path) -> Iterator[Row]:
    """Read the rows of a file; the ending of its name gives the format.

    A .json file contains a list of rows, or one row.

    Raises:
        UserError: an unknown format, or broken content, such as an incomplete download.
    """
    readers = {
        ".jsonl": jsonl,
        ".json": _json,
        ".parquet": _parquet,
        ".arrow": _arrow,
        ".csv": _csv,
        ".tsv": _csv,
    }
    if path.suffix not in readers:
        known = ", ".join(readers)
        raise UserError(
            f"{path}: got a {path.suffix or 'nameless'} file, expected one of {known} (a hub data "
            "set goes under `hub:`)"
        )
    return readers[path.suffix](path)


def hub(name: str, split: str) -> Iterator[Row]:
    """Read the rows of a data set on the Hugging Face hub, or of a local folder in its format.

    Raises:
        UserError: it cannot be loaded; the message contains the reason.
    """
    datasets: Any = import_module("datasets")  # slow to import, and only hub data needs it
    try:
        rows = datasets.load_dataset(name, split=split)
    except (OSError, ValueError) as error:
        why = one_line(error)
        raise UserError(f"hub: {name!r} (split {split!r}) cannot be loaded: {why}") from None
    for column, feature in rows.features.items():
        rows = rows.cast_column(column, _undecoded(feature, datasets.Image))
    return iter(rows)


def jsonl(path: Path) -> Iterator[Row]:
    """Read one JSON object from each line; empty lines are skipped."""
    for _, row in numbered_jsonl(path):
        yield row


def numbered_jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    """Read the rows as `jsonl` does, each with the number of its line, counted from 1."""
    # Only \n ends a line: others are part of a text.
    with _text(path, newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row: object = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path} line {number}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise UserError(
                    f"{path} line {number}: got {type(row).__name__}, expected an object of columns"
                )
            yield number, cast(dict[str, Any], row)


def lines(path: Path) -> list[str]:
    """Read the lines of a text file that are not empty.

    Raises:
        UserError: not UTF-8.
    """
    with _text(path, newline=None) as file:
        return [line.rstrip("\n") for line in file if line.strip()]


def json_file(path: Path) -> Any:
    """Read the content of a .json file.

    Some published files are not UTF-8 but in the encoding of Windows, which is tried second.

    Raises:
        UserError: not JSON.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: not JSON: {error}; if it was cut short, download it again"
        ) from None


def _json(path: Path) -> Iterator[Row]:
    """Read the rows of a .json file."""
    content: Any = json_file(path)
    rows = cast(list[Any], content) if isinstance(content, list) else [content]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(
                f"{path} row {number}: got {type(row).__name__}, expected an object of columns"
            )
        yield cast(dict[str, Any], row)


def _parquet(path: Path) -> Iterator[Row]:
    """Read the rows of a parquet file, a batch at a time."""
    arrow: Any = import_module("pyarrow")
    parquet: Any = import_module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as opened:
            for batch in opened.iter_batches(batch_size=ROWS_AT_ONCE):
                yield from batch.to_pylist()
    except (arrow.ArrowInvalid, OSError) as error:
        raise _broken(path, error) from None


def _arrow(path: Path) -> Iterator[Row]:
    """Read the rows of a file that `datasets` wrote: a stream of record batches."""
    arrow: Any = import_module("pyarrow")
    try:
        with arrow.memory_map(str(path)) as source:
            for batch in arrow.ipc.open_stream(source):
                yield from batch.to_pylist()
    except (arrow.ArrowInvalid, OSError) as error:
        raise _broken(path, error) from None


def _broken(path: Path, error: Exception) -> UserError:
    """Return the error for a file that pyarrow cannot read."""
    reason = one_line(error, limit=200)
    return UserError(f"{path}: cannot be read: {reason}; if it was cut short, download it again")


def _csv(path: Path) -> Iterator[Row]:
    """Read the rows of a .csv or .tsv file, whose first line names the columns."""
    # the default limit is 128 KiB; C's long has 32 bits on Windows
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with _text(path, newline="") as file:
        for number, row in enumerate(csv.DictReader(file, delimiter=delimiter), 1):
            if None in row:  # the key of cells beyond the header
                raise UserError(
                    f"{path} row {number}: more cells than the header has names; write a cell with "
                    "a comma in it in quotes"
                )
            yield row


@contextmanager
def _text(path: Path, newline: str | None) -> Generator[TextIO]:
    """Open a UTF-8 text file, with or without the byte order mark that Excel writes."""
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            yield file
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 ({error.reason} near byte {error.start:,}); save it as UTF-8"
        ) from None


def _undecoded(feature: Any, image: Any) -> Any:
    """Return a feature of `datasets` whose images stay encoded bytes, also inside lists."""
    if isinstance(feature, image):
        return image(decode=False)
    inner = getattr(feature, "feature", None)
    if isinstance(inner, image):
        return type(feature)(image(decode=False))
    return feature
