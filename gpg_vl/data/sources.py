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
"""A data set: a function with options that yields samples, and rows it leaves out with the reason."""


def read(source: Source, *, folder: Path, key: str, told: Callable[[LeftOut], None] = lambda left: None) -> Iterator[Sample]:
    """The samples of one source, in their order.

    Args:
        folder: the config's own; relative files and plug-ins are looked for there, then in the working directory.
        key: where the source stands in the config, for messages.
        told: called with what a recipe leaves out, and why.

    Raises:
        UserError: names file, row and column.
    """
    if source.recipe is not None:
        return islice(_made(source, folder, key, told), source.head)
    path, rows = _rows(source, folder)
    origin = source.files or str(source.hub)
    named = _named(islice(rows, source.head), source, origin)
    return (sample_of(row, source, base=path, origin=f"{origin} row {number}") for number, row in enumerate(named, 1))


def _named(rows: Iterable[Mapping[str, Any]], source: Source, origin: str) -> Iterator[Mapping[str, Any]]:
    """The rows; after the last of them it is a mistake if none had a column that is named under `columns:`."""
    seen: dict[str, None] = {}
    for row in rows:
        seen |= dict.fromkeys(row)
        yield row
    if seen and (lost := [(ours, theirs) for ours, theirs in source.columns.items() if theirs not in seen]):
        ours, theirs = lost[0]
        raise UserError(f"{origin}: columns: {ours}: {theirs}: no row has a column {theirs!r}; there are {', '.join(seen)}")


def resolve(source: Source, *, folder: Path, key: str) -> None:
    """Make sure that a source can be begun: its recipe takes its options, its file is there. Nothing is read, nothing fetched.

    Raises:
        UserError: it cannot.
    """
    if source.recipe is not None:
        _called(source, folder, key)
    elif source.files is not None:
        _existing(source.files, folder)


def _called(source: Source, folder: Path, key: str) -> Iterable[Sample | LeftOut]:
    if source.columns or source.defaults:
        raise UserError(f"{key}: columns and defaults are for files and hub; a recipe names its columns itself: leave them out")
    try:
        return plugins.build({"kind": source.recipe, **source.options}, ALIASES, folder=folder, key=key, given={})
    except Exception as error:
        raise plugins.told_with_place(error) from error


def _made(source: Source, folder: Path, key: str, told: Callable[[LeftOut], None]) -> Iterator[Sample]:
    """What a recipe yields; a mistake in a recipe of the user's is told with its file and line."""
    try:
        for made in _called(source, folder, key):
            if isinstance(made, LeftOut):
                told(made)
            else:
                yield made
    except Exception as error:
        raise plugins.told_with_place(error) from error


def _rows(source: Source, folder: Path) -> tuple[Path | None, Iterable[Mapping[str, Any]]]:
    if source.files is None:
        return None, formats.hub(str(source.hub), source.split)
    path = _existing(source.files, folder)
    return path.parent, formats.read(path)


def _existing(name: str, folder: Path) -> Path:
    for path in (folder / name, Path(name)):
        if path.is_file():
            return path
    raise UserError(f"files: {name} does not exist, neither beside the config ({folder}) nor in the working directory")
