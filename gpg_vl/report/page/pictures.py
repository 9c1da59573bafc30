"""Put small pictures into a page, each once, within a bound on all of them."""

import base64
import os
import stat
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from gpg_vl.errors import UnusableSampleError
from gpg_vl.run_folder.small_pictures import LONGEST, small_picture
from gpg_vl.types import Size


class Small(NamedTuple):
    """Small copy of a picture."""

    webp: str
    """Its bytes as base64."""
    size: Size
    """Width and height of the picture itself, upright, in pixels."""
    is_whole: bool
    """True if the copy has all pixels of the picture."""


class PagePictures:
    """Pictures of a page by their keys. A picture that is shown twice is there once.

    Example:
        pictures = PagePictures(Path("runs/digits"))
        pictures.allow(6_000_000)
        pictures.add(Path("runs/digits"), {"file": "images/3f0c94b1d2a8e671.png"})
        == {"key": "p0", "size": [56, 56], "full": ""}
    """

    def __init__(self, page_folder: Path, *, wanted: bool = True) -> None:
        """Begin without pictures, and without room for any.

        Args:
            page_folder: folder of the page; full sizes are named from there.
            wanted: False = the page has no picture at all.
        """
        self._page_folder = page_folder.resolve()
        self._room = 0
        self._wanted = wanted
        self._keys: dict[str, str] = {}
        self.data: dict[str, str] = {}
        """Key -> picture as an address of the scheme `data:`."""

    def allow(self, more_bytes: int) -> None:
        """Give room for further pictures, as base64; what is left of earlier room stays."""
        self._room += more_bytes

    def add(self, run: Path, found: Mapping[str, Any]) -> dict[str, Any]:
        """Put a picture into the page, and return how the page finds it.

        Args:
            run: the run folder.
            found: how to find the picture: `file` in the run folder, its small `copy` there, or
                `original` on this machine; else `why` it was not kept. And its `size`.

        Returns:
            `key` (empty = there is no picture, and `why`), `size` in pixels as far as it is known,
            and `full`: the file in its full size as the page can name it; empty = there is none,
            or the small one is whole.
        """
        known = found.get("size")
        why = str(found.get("why") or "")
        if why.startswith("run_folder.pictures ="):
            why = "this run keeps some pictures; run_folder.pictures=all keeps every one"
        missing = {"key": "", "size": known, "full": "", "why": why}
        if not self._wanted:
            return {**missing, "why": "pictures are left out of this page"}
        places = _places(run, found)
        for kind, place in places:
            small = _small_of(place)
            if small is None:
                continue
            full = ""
            if kind == "file" and not small.is_whole:
                name = os.path.relpath(place.resolve(), self._page_folder)
                full = quote(os.fsencode(name))  # a name may be bytes that are no text
            key = self._key(place, small)
            why = "" if key else "there is no room in the page for more pictures"
            # a copy does not say how large the picture is that it was made of
            size = known if kind == "copy" and known else list(small.size)
            return {"key": key, "size": size, "full": full, "why": why}
        if any(_is_there(place) for _, place in places):
            missing["why"] = "it cannot be read as a picture"
        elif any(found.get(kind) for kind in ("file", "copy", "original")):
            missing["why"] = "it is not on this machine"
        return missing

    def _key(self, place: Path, small: Small) -> str:
        """Return the key of a small picture; empty = there is no room for it."""
        name = str(place)
        if name in self._keys:
            return self._keys[name]
        if len(small.webp) > self._room:
            return ""
        self._room -= len(small.webp)
        key = f"p{len(self._keys)}"
        self._keys[name] = key
        self.data[key] = f"data:image/webp;base64,{small.webp}"
        return key


def _places(run: Path, found: Mapping[str, Any]) -> list[tuple[str, Path]]:
    """Return the files that may hold a picture, with what each is: file, copy or original.

    A file or a copy lies in the run folder: a row of a folder that somebody else made does not lead
    out of it.
    """
    places: list[tuple[str, Path]] = []
    for kind in ("file", "copy"):
        name = found.get(kind)
        if name and _is_inside(run / name, run):
            places.append((kind, run / name))
    if found.get("original"):
        places.append(("original", Path(found["original"])))
    return places


def _is_inside(file: Path, run: Path) -> bool:
    try:
        return run.resolve() in file.resolve().parents
    except (OSError, ValueError):  # a circle of links, a NUL in its name
        return False


def _is_there(place: Path) -> bool:
    try:
        return place.is_file()
    except (OSError, ValueError):  # a name that is too long, or has a NUL
        return False


def _small_of(place: Path) -> Small | None:
    """Return the small copy of a file; None if it is no picture that can be read."""
    try:
        status = place.stat()
    except (OSError, ValueError):  # the latter for a NUL in its name
        return None
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device would never end
        return None
    return _small(place, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)  # a page that is made again and again shows the same pictures
def _small(place: Path, time_ns: int, size: int) -> Small | None:
    """Make the small copy of a file that was changed at a time and has a size."""
    del time_ns, size
    try:
        copy = small_picture(place, LONGEST)
    except UnusableSampleError:
        return None
    webp = base64.b64encode(copy.webp).decode("ascii")
    return Small(webp, copy.size, max(copy.size) <= LONGEST)
