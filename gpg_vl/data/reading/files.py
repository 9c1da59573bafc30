"""Find the files that a config names: a file, a folder, a pattern, or a list of these."""

import glob
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from gpg_vl.config.paths import expanded, is_file, is_folder
from gpg_vl.data.reading.formats import kind_of
from gpg_vl.errors import UserError, one_line

_SAVED = ("dataset_dict.json", "state.json")
"""Files by which a folder of `save_to_disk` is told."""
_SPLITS = {"valid": "validation", "val": "validation", "dev": "validation", "eval": "validation"}
_SPLIT = re.compile(r"(?<![a-z])(train|test|validation|valid|val|dev|eval)(?![a-z])")
_NUMBER = re.compile(r"(\d+)")


def find_files(names: str | Sequence[str], base_dir: Path) -> list[Path]:
    """Find files of rows, in the order of the names; those of one name in natural order.

    A folder stands for the files in it that can be read. Files of several formats or several
    splits under one name are refused: it is not sure that all of them are meant.

    Args:
        names: files, folders, or patterns such as data/train-*.parquet and data/**/*.jsonl.
        base_dir: folder of the config; each name is looked for there, then in the working
            directory.

    Raises:
        UserError: a name that finds nothing, or too much.
    """
    found: dict[Path, Path] = {}
    for name in [names] if isinstance(names, str) else names:
        for path in _files_of(name, base_dir):
            found.setdefault(path.resolve(), path)
    if not found:
        raise UserError("files: got an empty list, expected the names of files")
    return list(found.values())


def is_saved(folder: Path) -> bool:
    """Return True for a folder that `save_to_disk` wrote."""
    return any((folder / name).is_file() for name in _SAVED)


def naturally(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts part-2 before part-10.

    Example:
        sorted([Path("p10"), Path("p2")], key=naturally) == [Path("p2"), Path("p10")]
    """
    key: list[tuple[int, str]] = []
    for part in _NUMBER.split(str(path)):
        key.append((int(part), "") if part.isdecimal() else (-1, part))
    return key


def _files_of(name: str, base_dir: Path) -> list[Path]:
    folders = (base_dir, Path())
    for folder in folders:
        path = folder / expanded(name)
        if is_file(path):
            return [path]
        if is_folder(path):
            return _checked(name, _in_folder(path, name))
        files = _matching(name, folder)
        if files:
            return _checked(name, files)
    missing = "matches no file" if glob.has_magic(name) else "does not exist"
    hint = _hint(name, folders)
    if "{" in name and "}" in name:
        hint = "; braces are not read as a pattern: write *, ?, [02], or a list of names"
    raise UserError(
        f"files: {one_line(name)} {missing}, neither beside the config ({base_dir}) nor in the "
        f"working directory{hint}"
    )


def _matching(pattern: str, folder: Path) -> list[Path]:
    """Return the files that match a pattern, which may begin at the root; no hidden ones."""
    # unlike Path.glob it takes absolute patterns, follows links and leaves out hidden files
    found = glob.iglob(str(expanded(pattern)), root_dir=folder, recursive=True)  # noqa: PTH207
    return [folder / name for name in found if (folder / name).is_file()]


def _in_folder(folder: Path, name: str) -> list[Path]:
    if is_saved(folder):
        raise UserError(f"files: {name} was written by save_to_disk; name it under `hub:` instead")
    files = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "."]
    if not any(kind_of(path) for path in files):
        raise UserError(
            f"files: {name} is a folder without files of rows; name a pattern such as "
            f"{name}/**/*.parquet, or the folder under `hub:`"
        )
    return files


def _checked(name: str, paths: Sequence[Path]) -> list[Path]:
    """Return those files that can be read, if they have one format and are of one split."""
    readable = [path for path in paths if kind_of(path)]
    if not readable:
        return sorted(paths, key=naturally)  # reading them tells which formats there are
    _expect_one(name, "formats", {path: kind_of(path) or "" for path in readable})
    _expect_one(name, "splits", {path: _split_of(path) for path in readable})
    return sorted(readable, key=naturally)


def _expect_one(name: str, what: str, property_of: Mapping[Path, str]) -> None:
    kinds = sorted(set(property_of.values()) - {""})
    if len(kinds) > 1:
        raise UserError(
            f"files: {name} holds files of several {what} ({', '.join(kinds)}); name those that "
            "are meant, one by one or by patterns"
        )


def _split_of(path: Path) -> str:
    """Return the split that a file's name tells, or an empty text."""
    words: list[str] = _SPLIT.findall(path.name.lower())
    if len(set(words)) != 1:
        return ""
    return _SPLITS.get(words[0], words[0])


def _hint(name: str, folders: Sequence[Path]) -> str:
    """Return a name that exists and is almost the same, as the end of a sentence."""
    parent, last = Path(name).parent, Path(name).name
    for folder in folders:
        beside = folder / parent
        if not is_folder(beside):
            continue
        others = sorted(path.name for path in beside.iterdir())
        nearest = get_close_matches(last, others, n=1)
        if nearest:
            return f"; did you mean {parent / nearest[0]}?"
    return ""
