"""Read rows of parquet and arrow files, with the columns as `datasets` describes them."""

import json
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from gpg_vl.data.reading.raw_rows import BadRow, Row
from gpg_vl.data.reading.text_files import broken
from gpg_vl.errors import UserError, one_line, shown

ROWS_AT_ONCE = 64
"""Number of rows of a table in memory at once: a file may be larger than memory."""

Convert = Callable[[Any], Any]
"""From a value as arrow stores it to the one that is meant."""


def parquet(path: Path) -> Iterator[Row | BadRow]:
    """Read the rows of a parquet file, a batch at a time."""
    arrow: Any = import_module("pyarrow")
    library: Any = import_module("pyarrow.parquet")
    try:
        with library.ParquetFile(path) as opened:
            converters = _described(opened.schema_arrow, path)
            first = 1
            for batch in opened.iter_batches(batch_size=ROWS_AT_ONCE):
                yield from rows_of(batch, converters, first)
                first += batch.num_rows
    except (arrow.ArrowException, OSError) as error:
        raise broken(path, error) from None


def num_rows(path: Path) -> int | None:
    """Return the number of rows that a parquet file says it has; None = it cannot be read."""
    arrow: Any = import_module("pyarrow")
    library: Any = import_module("pyarrow.parquet")
    try:
        return int(library.read_metadata(path).num_rows)
    except (arrow.ArrowException, OSError):  # reading it gives the reason
        return None


def arrow_file(path: Path) -> Iterator[Row | BadRow]:
    """Read the rows of a file of record batches: a stream as `datasets` writes it, or a file."""
    arrow: Any = import_module("pyarrow")
    try:
        with arrow.memory_map(str(path)) as source:
            in_file_format = source.read(6) == b"ARROW1"
            source.seek(0)
            if in_file_format:
                reader = arrow.ipc.open_file(source)
                batches = map(reader.get_batch, range(reader.num_record_batches))
            else:
                reader = arrow.ipc.open_stream(source)
                batches = iter(reader)
            converters = _described(reader.schema, path)
            first = 1
            for batch in batches:
                yield from rows_of(batch, converters, first)
                first += batch.num_rows
    except (arrow.ArrowException, OSError) as error:
        raise broken(path, error) from None


def rows_of(batch: Any, converters: Mapping[str, Convert], first: int) -> Iterator[Row | BadRow]:
    """Yield the rows of an arrow table or record batch.

    Args:
        converters: from `converters_of`.
        first: number of the first row, for the place of a broken one.
    """
    for start in range(0, batch.num_rows, ROWS_AT_ONCE):
        part = batch.slice(start, ROWS_AT_ONCE)
        try:
            rows: list[Any] = part.to_pylist()
        except (ValueError, OverflowError):  # such as a date of the year 0, or no UTF-8
            rows = [_only_row(part.slice(place, 1)) for place in range(part.num_rows)]
        for number, row in enumerate(rows, first + start):
            if isinstance(row, str):
                yield BadRow(f"row {number}", row)
                continue
            for name, convert in converters.items():
                if row.get(name) is not None:
                    row[name] = convert(row[name])
            yield row


def converters_of(features: Mapping[str, Any]) -> dict[str, Convert]:
    """Return what has to be done with columns, by the features of `datasets` as a dictionary.

    Numbers of a ClassLabel become names, everywhere inside lists and structs; -1 is no label.
    Texts of a Json become values. Pictures stay encoded.
    """
    converters: dict[str, Convert] = {}
    for name, feature in features.items():
        convert = _converter(feature)
        if convert is not None:
            converters[name] = convert
    return converters


def _only_row(part: Any) -> dict[str, Any] | str:
    """Return the row of a part, or the reason why it cannot be read."""
    try:
        return part.to_pylist()[0]
    except (ValueError, OverflowError) as error:
        return f"a value cannot be read: {one_line(error)}"


def _described(schema: Any, path: Path) -> dict[str, Convert]:
    """Return the converters that `datasets` wrote into the schema of a file, if it did."""
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise UserError(f"{path}: two columns are called {shown(name)}; rename or remove one")
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    try:
        features: Any = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}  # not written by `datasets`
    if not isinstance(features, dict):
        return {}
    return converters_of(cast(dict[str, Any], features))


def _converter(feature: Any) -> Convert | None:
    """Return the converter of one feature; None = values stay as they are."""
    if isinstance(feature, list):  # how older versions write a list
        return _of_list(cast(list[Any], feature)[0])
    if not isinstance(feature, dict):
        return None
    described = cast(dict[str, Any], feature)
    kind = described.get("_type")
    if kind == "ClassLabel" and described.get("names"):
        return _name_among(described["names"])
    if kind == "Json":
        return json.loads
    if kind in ("List", "LargeList", "Sequence"):
        return _of_list(described.get("feature"))
    if not isinstance(kind, str):
        return _of_struct(described)
    return None


def _name_among(names: list[str]) -> Convert:
    def convert(number: Any) -> Any:
        if isinstance(number, int):
            return names[number] if 0 <= number < len(names) else None
        return number

    return convert


def _of_list(feature: Any) -> Convert | None:
    inner = _converter(feature)
    if inner is None:
        return None

    def convert(values: Any) -> Any:
        if isinstance(values, dict):  # older versions store a list of structs as lists
            lists = {name: [part] for name, part in feature.items()}
            return cast(Convert, _of_struct(lists))(values)
        return [None if value is None else inner(value) for value in values]

    return convert


def _of_struct(features: Mapping[str, Any]) -> Convert | None:
    converters = converters_of(features)
    if not converters:
        return None

    def convert(values: Any) -> Any:
        converted = dict(values)
        for name, inner in converters.items():
            if converted.get(name) is not None:
                converted[name] = inner(converted[name])
        return converted

    return convert
