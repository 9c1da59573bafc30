"""Read the samples of one source of a config: a recipe, a file, or a data set of the hub."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from gpg_vl.config import plugins
from gpg_vl.config.schema import Source
from gpg_vl.data import formats
from gpg_vl.data.recipes import ALIASES
from gpg_vl.data.rows import sample_of
from gpg_vl.errors import UserError
from gpg_vl.types import LeftOut, Sample

Recipe = Callable[..., Iterator[Sample | LeftOut]]
"""A data set as a function: options in; samples out, and the rows that it leaves out."""

OnLeftOut = Callable[[LeftOut], None]
"""Called with a row that is not used."""


def read_source(
    source: Source, *, base_dir: Path, key: str, on_left_out: OnLeftOut = lambda left_out: None
) -> Iterator[Sample]:
    """Return the samples of one source, in their order.

    Args:
        base_dir: folder of the config; relative files and plug-ins are looked for there, then in
            the working directory.
        key: place of the source in the config, for messages.
        on_left_out: called with each row that a recipe leaves out.

    Raises:
        UserError: the sentence names file, row and column.
    """
    if source.recipe is not None:
        return islice(_recipe_samples(source, base_dir, key, on_left_out), source.head)
    return _row_samples(source, base_dir)


def check_source(source: Source, *, base_dir: Path, key: str) -> None:
    """Check that a source can be begun: its recipe takes its options, or its file exists.

    Nothing is read and nothing is downloaded.

    Raises:
        UserError: it cannot be begun.
    """
    if source.recipe is not None:
        _call_recipe(source, base_dir, key)
    elif source.files is not None:
        _find_file(source.files, base_dir)


def _row_samples(source: Source, base_dir: Path) -> Iterator[Sample]:
    if source.files is not None:
        path = _find_file(source.files, base_dir)
        origin, image_dir, rows = source.files, path.parent, formats.read(path)
    else:
        origin, image_dir = str(source.hub), None
        rows = formats.hub(origin, source.split)
    rows = _with_named_columns(islice(rows, source.head), source, origin)
    for number, row in enumerate(rows, 1):
        yield sample_of(row, source, base=image_dir, origin=f"{origin} row {number}")


def _with_named_columns(
    rows: Iterable[Mapping[str, Any]], source: Source, origin: str
) -> Iterator[Mapping[str, Any]]:
    """Yield the rows; after the last one check that each name under `columns:` was a column."""
    found: dict[str, None] = {}
    for row in rows:
        found |= dict.fromkeys(row)
        yield row
    if not found:
        return
    for our_column, source_column in source.columns.items():
        if source_column not in found:
            raise UserError(
                f"{origin}: columns: {our_column}: {source_column}: no row has a column "
                f"{source_column!r}; there are {', '.join(found)}"
            )


def _recipe_samples(
    source: Source, base_dir: Path, key: str, on_left_out: OnLeftOut
) -> Iterator[Sample]:
    """Yield what a recipe makes; an error in a user's recipe names its file and line."""
    try:
        for made in _call_recipe(source, base_dir, key):
            if isinstance(made, LeftOut):
                on_left_out(made)
            else:
                yield made
    except Exception as error:
        raise plugins.with_file_and_line(error) from error


def _call_recipe(source: Source, base_dir: Path, key: str) -> Iterable[Sample | LeftOut]:
    if source.columns or source.defaults:
        raise UserError(
            f"{key}: columns and defaults are for files and hub; a recipe names its columns "
            "itself: leave them out"
        )
    spec = {"kind": source.recipe, **source.options}
    try:
        return plugins.build(spec, ALIASES, base_dir=base_dir, key=key, given={})
    except Exception as error:
        raise plugins.with_file_and_line(error) from error


def _find_file(name: str, base_dir: Path) -> Path:
    for path in (base_dir / name, Path(name)):
        if path.is_file():
            return path
    raise UserError(
        f"files: {name} does not exist, neither beside the config ({base_dir}) nor in the working "
        "directory"
    )
