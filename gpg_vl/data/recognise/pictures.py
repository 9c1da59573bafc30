"""Find the pictures that some rows name: the folder that their paths start at, and their hosts."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gpg_vl.data.columns import picture_cells
from gpg_vl.data.reading.raw_rows import Row
from gpg_vl.data.recognise.first_rows import Proposal, Table, cell
from gpg_vl.data.rows import pictures_in_words
from gpg_vl.errors import shown
from gpg_vl.pictures import picture_size
from gpg_vl.types import Size

LOOKED_AT = 40
"""Paths of pictures that are looked for."""
MAX_FOLDERS = 2000
"""Folders in which pictures are looked for."""
MAX_PATH = 1000
"""Characters of the longest text that is taken for a path."""
DEPTH = 3
"""Levels of sub-folders in which pictures are looked for."""


def pictures_of(row: Row, table: Table, proposal: Proposal) -> Sequence[Path | bytes | str]:
    """Return the pictures that a row holds or names, in its chat or in a column."""
    chat = table.chat(row)
    value: Any = chat.images if chat is not None and chat.images else None
    if value is None:
        name = proposal.columns.get("images", proposal.columns.get("image", "images"))
        value = cell(row, name)
    try:
        found = picture_cells.pictures_of(value)
        question = cell(row, proposal.columns.get("question", "question"))
        return found or pictures_in_words(question, chat)
    except ValueError:  # the row is left out with this reason when it is tried
        return ()


def sizes_of(row: Row, table: Table, proposal: Proposal) -> tuple[Size, ...]:
    """Return the sizes of the pictures of a row; empty where one cannot be read."""
    sizes: list[Size] = []
    for picture in pictures_of(row, table, proposal):
        try:
            if not isinstance(picture, bytes):
                if picture_cells.is_url(picture):
                    return ()
                root = proposal.keys.get("image_root")
                picture = picture_cells.resolve(
                    picture, Path(root) if root else table.folder, follow_links=bool(root)
                )
            sizes.append(picture_size(picture))
        except ValueError:  # the row is left out with this reason when it is tried
            return ()
    return tuple(sizes)


def declare(table: Table, proposal: Proposal) -> None:
    """Propose the folder that the pictures start at, or ask for it and for their hosts."""
    names: list[str] = []
    hosts: dict[str, None] = {}
    for row in table.rows:
        for picture in pictures_of(row, table, proposal):
            if isinstance(picture, bytes):
                continue
            if picture_cells.is_url(picture):
                hosts[urlsplit(str(picture)).netloc] = None
            elif len(str(picture)) <= MAX_PATH:
                names.append(str(picture))
    if hosts and "image_hosts" not in proposal.keys:
        listed = ", ".join(list(hosts)[:5])
        proposal.questions.append(
            f"pictures are addresses of {listed}; they are downloaded from hosts that you list: "
            f"image_hosts=[{listed}]"
        )
    if names and table.folder is not None and "image_root" not in proposal.keys:
        _declare_root(names[:LOOKED_AT], table.folder, proposal)


def _declare_root(names: Sequence[str], folder: Path, proposal: Proposal) -> None:
    """Propose the folder in which most of the pictures are, if there is only one."""
    best, most, other = folder, _found(names, folder), None
    for candidates in (_below(folder), _around(folder)):
        if 2 * most >= len(names):
            break  # other data sets beside this one often have names such as images/1.jpg, too
        for candidate in candidates:
            found = _found(names, candidate)
            if found > most:
                best, most, other = candidate, found, None
            elif found == most and other is None:
                other = candidate
            if other is not None and found == len(names):
                break
    if best != folder and other is not None:
        # such as train/1/image.png and train/2/image.png: the name alone does not tell them apart
        proposal.questions.append(
            f"pictures such as {shown(names[0], 60)} are in several folders, "
            f"{os.path.relpath(best)} and {os.path.relpath(other)}; name the one that their paths "
            "start at: image_root=FOLDER, or write whole paths into the rows"
        )
    elif 2 * most < len(names):
        proposal.questions.append(
            f"the pictures, such as {shown(names[0], 60)}, are neither under {folder} nor in a "
            "folder below, beside or above it; name the folder that their paths start at: "
            "image_root=FOLDER"
        )
    elif best != folder:
        proposal.keys["image_root"] = os.path.relpath(best)


def _found(names: Sequence[str], folder: Path) -> int:
    """Return how many of the pictures are under a folder."""
    count = 0
    for name in names:
        try:
            count += picture_cells.resolve(name, folder).is_file()
        except (ValueError, OSError):
            continue
    return count


def _below(folder: Path) -> Iterator[Path]:
    """Yield the folders below a folder, the nearest first."""
    yield from _first_folders([(folder, 0)])


def _around(folder: Path) -> Iterator[Path]:
    """Yield the two folders above a folder, and those beside it, the nearest first."""
    above = folder.resolve().parent
    if above != folder.resolve():
        yield above  # annotations/train.json names pictures from there: train2017/1.jpg
        yield above.parent
        yield from _first_folders([(above, DEPTH - 1)])


def _first_folders(waiting: list[tuple[Path, int]]) -> Iterator[Path]:
    """Yield the folders in some folders of a known depth, and those in them."""
    count = 0
    while waiting and count < MAX_FOLDERS:
        current, depth = waiting.pop(0)
        for inner in _inner_folders(current):
            count += 1
            yield inner
            if depth + 1 < DEPTH:
                waiting.append((inner, depth + 1))


def _inner_folders(folder: Path) -> list[Path]:
    try:
        inner = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:  # it may not be looked into
        return []
    return [path for path in inner if not path.name.startswith(".")]
