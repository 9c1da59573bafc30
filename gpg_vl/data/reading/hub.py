"""Read data sets of the Hugging Face hub, and local folders in the forms of `datasets`."""

import hashlib
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile, ZipFile

from gpg_vl.config.paths import expanded, is_file, is_folder
from gpg_vl.data.reading.files import is_saved
from gpg_vl.data.reading.formats import kind_of
from gpg_vl.data.reading.raw_rows import BadRow, Row
from gpg_vl.data.reading.tables import ROWS_AT_ONCE, converters_of, rows_of
from gpg_vl.errors import UserError, one_line, shown


def hub_rows(
    name: str, subset: str | None, split: str, base_dir: Path
) -> tuple[Iterator[Row | BadRow], Path | None]:
    """Read a data set of the hub or a local folder; pictures stay encoded.

    A folder is looked for beside the config, then in the working directory. Only a name such as
    OWNER/NAME that is no folder is a data set of the hub.

    Args:
        name: folder, or name on the hub.
        subset: config of the data set; None = it has only one, or its authors chose one.
        split: a split, or a part of one such as train[:100].
        base_dir: folder of the config.

    Returns:
        the rows, and the folder that their relative picture paths start at; None = the hub, where
        they start nowhere.

    Raises:
        UserError: no such folder, data set, config or split; the message lists those that exist.
    """
    folder = _folder(name, base_dir)
    try:
        if folder is None:
            return _rows(_load(name, subset, split, cache_dir=None)), None
        if is_saved(folder):
            return _rows(_load_saved(folder, subset, split)), folder
        rows = _load(str(folder), subset, split, cache_dir=_cache_dir(folder))
        _expect_no_other_rows(folder, rows)
        return _rows(rows), folder
    except UserError as error:
        raise UserError(f"hub: {shown(name)} (split {shown(split)}) {error}") from None


def _folder(name: str, base_dir: Path) -> Path | None:
    """Return the local folder that a name means; None = it is the name of a set on the hub."""
    path = expanded(name)
    for place in (base_dir / path, path):
        if is_folder(place):
            return place.resolve()
        if is_file(place):
            raise UserError(f"hub: {name} is a file; name it under `files:` instead")
    owner, _, rest = name.partition("/")
    # `datasets` answers a bare name out of its cache of any folder that was called so
    if not owner or owner[0] in ".~" or not rest or "/" in rest or "\\" in name:
        raise UserError(
            f"hub: {one_line(name)} is no folder, neither beside the config ({base_dir}) "
            f"nor in the working directory; a data set of the hub is named {_on_the_hub(name)}"
        )
    return None


def _on_the_hub(name: str) -> str:
    """Return the name of a data set whose page was named."""
    page = re.search(r"(?:^|/)datasets/([\w.-]+/[\w.-]+)", name)
    return page[1] if page else "OWNER/NAME"


def _load(path: str, subset: str | None, split: str, cache_dir: Path | None) -> Any:
    """Load a split by `datasets`.

    Raises:
        UserError: the sentence goes on after the name of the data set.
    """
    datasets: Any = import_module("datasets")  # slow to import, and only hub data needs it
    options: dict[str, Any] = {}
    if subset is not None:
        options["name"] = subset
    if cache_dir is not None:
        options["cache_dir"] = str(cache_dir)
    failures = (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError)
    try:
        return datasets.load_dataset(path, split=split, **options)
    except failures as error:
        try:
            advice = _what_exists(path, subset, split)
        except failures:
            advice = ""  # the first error tells more
        if not advice and cache_dir is None and datasets.config.HF_HUB_OFFLINE:
            advice = (
                f"cannot be loaded: {one_line(error)}; HF_HUB_OFFLINE is set, so only what was "
                "loaded before is read: load it once with the network, or copy its files here and "
                "name them under `files:`"
            )
        if not advice and isinstance(error, datasets.exceptions.DatasetGenerationError):
            advice = (
                f"cannot be loaded: {one_line(error.__cause__ or error)}; name its files under "
                "`files:`, where a broken row does not matter"
            )
        raise UserError(advice or f"cannot be loaded: {one_line(error)}") from None


def _what_exists(path: str, subset: str | None, split: str) -> str:
    """Return the sentence about a config or a split that does not exist; empty = both exist."""
    datasets: Any = import_module("datasets")
    configs: list[str] = datasets.get_dataset_config_names(path)
    if subset is None and len(configs) > 1 and not datasets.get_dataset_default_config_name(path):
        return f"has several subsets: {_listed(configs)}; name one: `subset: {configs[0]}`"
    if subset is not None and subset not in configs:
        return f"has no subset {shown(subset)}; there are {_listed(configs)}"
    splits: list[str] = datasets.get_dataset_split_names(path, subset)
    if split.partition("[")[0] not in splits:
        return f"has no such split; there are {_listed(splits)}; name one: `split: {splits[0]}`"
    return ""


def _load_saved(folder: Path, subset: str | None, split: str) -> Any:
    """Load a folder of `save_to_disk`.

    Raises:
        UserError: the sentence goes on after the name of the folder.
    """
    datasets: Any = import_module("datasets")
    if subset is not None:
        raise UserError("was written by save_to_disk and has no subsets; leave `subset` out")
    try:
        saved = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"cannot be loaded: {one_line(error)}; if it was cut short, copy it again"
        ) from None
    if isinstance(saved, Mapping):
        splits = cast(Mapping[str, Any], saved)
        if split not in splits:
            raise UserError(
                f"has no such split; there are {_listed(list(splits))}; name one: "
                f"`split: {next(iter(splits))}`"
            )
        return splits[split]
    if split not in ("train", str(saved.split)):  # train stands in every config that says nothing
        raise UserError(
            f"is one split that was saved as {saved.split or 'a data set without splits'}; leave "
            "`split` out"
        )
    return saved


def _rows(table: Any) -> Iterator[Row | BadRow]:
    """Yield the rows as they are stored: nothing is decoded."""
    converters = converters_of(table.features.to_dict())
    number = 0
    for batch in table.with_format("arrow").iter(batch_size=ROWS_AT_ONCE):
        for row in rows_of(batch, converters, first=number + 1):
            number += 1
            yield row if isinstance(row, BadRow) else _unpacked(row, number)


def _unpacked(row: Row, number: int) -> Row | BadRow:
    """Return a row whose pictures in zip files, which `datasets` leaves there, are read."""
    try:
        return {name: _from_archive(value) for name, value in row.items()}
    except (BadZipFile, KeyError, OSError, zlib.error) as error:
        return BadRow(f"row {number}", f"a picture in a zip file cannot be read: {one_line(error)}")


def _expect_no_other_rows(folder: Path, rows: Any) -> None:
    """Check that `datasets` did not take a folder for one of pictures alone and leave out rows.

    It decides by the number of files of each kind.
    """
    if rows.info.builder_name != "imagefolder" or list(rows.features) != ["image"]:
        return
    for path in sorted(folder.rglob("*")):
        if kind_of(path) and path.stem != "metadata":
            raise UserError(
                f"has pictures beside {path.relative_to(folder)}, whose rows would be left out; "
                "name that file under `files:`, or call it metadata and its column of pictures "
                "file_name"
            )


def _from_archive(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_archive(item) for item in cast(list[Any], value)]
    if not isinstance(value, dict):
        return value
    values = cast(dict[str, Any], value)
    inside, joint, archive = str(values.get("path")).partition("::")
    in_archive = joint and inside.startswith("zip://") and Path(archive).is_file()
    if in_archive and not values.get("bytes"):
        name = inside.removeprefix("zip://")
        opened = _opened_archive(archive, Path(archive).stat().st_mtime_ns)
        return {**values, "bytes": opened.read(name), "path": name}
    return {name: _from_archive(inner) for name, inner in values.items()}


@lru_cache(maxsize=2)
def _opened_archive(path: str, changed: int) -> ZipFile:
    """Open an archive, whose table of contents is read once until it is changed."""
    del changed
    return ZipFile(path)


def _cache_dir(folder: Path) -> Path:
    """Return a cache of `datasets` for the files of this folder as they are now.

    `datasets` knows a folder by its last name, and an archive by its path, whatever is in it.
    """
    datasets: Any = import_module("datasets")
    digest = hashlib.sha256(os.fsencode(folder))
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(parent, name)
            if path.is_file():
                stat = path.stat()
                stamp = f"\0{path}\0{stat.st_size}\0{stat.st_mtime_ns}"
                digest.update(os.fsencode(stamp))  # names of files need not be UTF-8
    return Path(datasets.config.HF_DATASETS_CACHE) / "gpg_vl" / digest.hexdigest()[:32]


def _listed(names: list[str], limit: int = 20) -> str:
    """Return the first names as a list for a sentence."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
