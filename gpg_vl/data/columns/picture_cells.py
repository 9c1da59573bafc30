"""Read the pictures of one cell of a row, in any of the forms that published data sets use.

A picture becomes a path or a URL (text), a `Path`, or encoded bytes. Only its beginning is looked
at; `pictures.picture_size` says whether it can be read.
"""

import ast
import base64
import binascii
import io
import json
import math
import os
import re
import tokenize
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from gpg_vl.errors import one_line, shown

Picture = str | Path | bytes

_ENCODED_KEYS = ("bytes", "base64", "b64", "b64_json", "data")
"""Keys under which a mapping holds a picture itself."""
_NAME_KEYS = (
    "path",
    "image_path",
    "file_name",
    "filename",
    "file",
    "image",
    "src",
    "image_url",
    "url",
    "uri",
)
"""Keys under which a mapping names a picture, or holds another form of it; the first that is
filled counts, so a local file is preferred to an address."""

_PICTURE_STARTS = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF87a",
    b"GIF89a",
    b"II*\x00",
    b"MM\x00*",
    b"\x00\x00\x00\x0cjP  ",
    b"\xff\x4f\xff\x51",
)
"""First bytes of PNG, JPEG, GIF, TIFF, JPEG 2000 files."""
_FORMATS = "PNG, JPEG, GIF, WebP, TIFF, BMP"
_MAX_PATH = 4096
"""Largest number of characters of a path, as in Linux."""
_BITMAP_HEADERS = {12, 40, 52, 56, 64, 108, 124}
"""Lengths of the second header of a BMP file; its first two letters alone are a weak sign."""
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{32,}={0,3}")
"""Text that may be base64; a shorter one holds no picture."""
_DATA_URI = re.compile(r"data:(?P<type>[^,]{0,200}),(?P<content>.*)", re.DOTALL | re.IGNORECASE)
_BARE_BASE64 = re.compile(r"(?:image/[\w.+-]{1,40};)?base64(?:,|://)", re.IGNORECASE)
"""Beginning of a data: address without its first word."""
_LITERAL_STARTS = ("[", "(", "{", "b'", 'b"', '"')
_FILE_NAME = re.compile(
    r"[^\n]+\.(?:png|jpe?g|jfif|webp|bmp|gif|tiff?|avif|heic|ppm)", re.IGNORECASE
)
_INVISIBLE = " \t\r\n\f\v\xa0\u200b\ufeff"
"""Signs around a text that nobody sees."""
_SHOWN_PATH = re.compile(r"\b(?:Pure)?(?:Posix|Windows)Path\(('[^'\n]*'|\"[^\"\n]*\")\)")
"""A path as Python shows it, also in a list: PosixPath('a.png')."""
_IN_QUOTES = re.compile(r"'[^'\n]+'")
_SEPARATORS = re.compile(r"\s*[;,|\n]\s*")
"""Signs between the names of several pictures in one text."""
_URL = re.compile(r"https?://", re.IGNORECASE)
_FILE_URL = re.compile(r"^file:(?://(?:localhost(?=/))?|(?=/))", re.IGNORECASE)
_WINDOWS_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_OTHER_URL = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+://", re.IGNORECASE)
"""An address that is neither a file nor on the web, such as s3://bucket/a.png."""

_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
_TIFF_MODES = {"I", "F", "CMYK", "YCbCr", "LAB", "PA"}
_NEAREST_MODES = {"La": "LA", "RGBa": "RGBA", "I;16B": "I", "I;16L": "I", "I;16N": "I"}
"""Modes that no file has -> the mode that shows the same."""


def pictures_of(cell: Any) -> list[Picture]:
    """Return the pictures of one cell, flat and in order.

    None, NaN, empty text and an empty list are no picture. Empty places at the end of a list are
    none either: tables for several pictures are filled up so.

    Example:
        pictures_of("['a.png', 'b.png']") == ["a.png", "b.png"]

    Raises:
        ValueError: the cell holds something else.
    """
    try:
        return _pictures(cell)
    except RecursionError:
        raise ValueError(
            f"the picture is {shown(type(cell).__name__)} of too many lists in one another; "
            "expected a list of pictures"
        ) from None


def is_url(picture: Picture) -> bool:
    """Return True for an address on the web, which must be downloaded."""
    return isinstance(picture, str) and _URL.match(picture) is not None


def is_file_name(text: str) -> bool:
    """Return True for a text that ends as names of pictures do."""
    return _FILE_NAME.fullmatch(text) is not None


def resolve(picture: str | Path, root: Path | None, *, follow_links: bool = False) -> Path:
    """Return the path of a picture, which must not leave its root.

    Backslashes of Windows are read as slashes, %20 as a blank, and letters with accents in the
    other of their two forms (macOS takes them apart), where the file does not exist otherwise.

    Args:
        picture: a path, or a file:// address.
        root: the folder that paths are relative to; None = the path is used as it is.
        follow_links: allow links inside the root that lead out of it.

    Raises:
        ValueError: the path leads out of the root, or is an address.
    """
    text = str(picture)
    if is_url(text) or _OTHER_URL.match(text):
        raise ValueError(
            f"the picture {shown(text)} is an address, expected a path; download the pictures "
            "first, or list the host of a web address under image_hosts"
        )
    written = _spellings(_FILE_URL.sub("", text))
    has_drive = _WINDOWS_DRIVE.match(text) is not None
    if len(written) == 1 and not has_drive:
        return _inside(written[0], root, follow_links)
    for name in written:
        path = _inside(name, root, follow_links)
        if _exists(path):
            return path
    if has_drive:
        raise ValueError(
            f"the picture {shown(text)} is a path on a drive of Windows, which is not here; write "
            "paths that begin in the folder of the pictures, and set image_root to that folder"
        )
    return _inside(written[0], root, follow_links)


def _spellings(name: str) -> list[str]:
    """Return the ways in which the name of one file may be written, the given one first."""
    written = [name]
    if "%" in name:
        written.append(unquote(name))
    if "\\" in name:
        written += [each.replace("\\", "/") for each in written]
    if not name.isascii() or len(written) > 1:
        for form in ("NFC", "NFD"):
            written += [unicodedata.normalize(form, each) for each in written]
    return list(dict.fromkeys(written))


def _exists(path: Path) -> bool:
    """Return True for a file that is there; a name that is too long is none."""
    try:
        return path.exists()
    except OSError:
        return False


def _inside(name: str, root: Path | None, follow_links: bool) -> Path:
    """Return a path below a root, with every link followed."""
    if root is None:
        return Path(name)
    try:
        base = root.absolute()  # what is remembered of it holds in any working directory
        # resolved, so that neither ".." nor a link leads out of the folder
        path, folder = _followed(base / name), _followed_folder(base)
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links, a zero in the name
        raise ValueError(f"the picture {shown(name)} is no path: {one_line(error)}") from None
    if not path.is_relative_to(folder):
        is_link = Path(os.path.normpath(base / name)).is_relative_to(os.path.normpath(base))
        if path.is_relative_to(_blobs(folder)) or (is_link and follow_links):
            return path
        advice = "put it there, or name the folder of the pictures: image_root: FOLDER"
        if is_link:
            advice = "if the link is yours, declare the folder in which it is: image_root: FOLDER"
        raise ValueError(
            f"the picture {shown(name)} leaves the data folder {shown(str(root))}; {advice}"
        )
    return path


def _followed(path: Path) -> Path:
    """Return a path with every link followed; its folder is followed once for all its pictures."""
    if path.name in {"", ".."} or "\0" in path.name:
        return path.resolve()
    in_folder = _followed_folder(path.parent) / path.name
    try:
        is_link = in_folder.is_symlink()
    except OSError:  # too long a name, which is no file either
        is_link = False
    return in_folder.resolve() if is_link else in_folder


@lru_cache(maxsize=4096)
def _followed_folder(folder: Path) -> Path:
    return folder.resolve()


@lru_cache(maxsize=4096)
def _blobs(folder: Path) -> Path:
    """Return where the files of a folder in the hub's cache really are, else the folder itself.

    There a data set is `snapshots/REVISION`, whose files are links into `blobs` beside `snapshots`.
    """
    for parent in folder.parents:
        blobs = parent.parent / "blobs"
        if parent.name == "snapshots" and blobs.is_dir():
            return blobs
    return folder


def _pictures(cell: Any) -> list[Picture]:
    """Return the pictures of one cell; see `pictures_of`."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return []
    if isinstance(cell, str):
        return _of_text(cell)
    if isinstance(cell, Path):
        return [cell]
    if isinstance(cell, bytes | bytearray | memoryview):
        return [_of_bytes(bytes(cast(bytes, cell)))]
    if isinstance(cell, Mapping):
        return _of_mapping(cast(Mapping[Any, Any], cell))
    if isinstance(cell, np.ndarray):
        return _of_array(cast(NDArray[Any], cell))
    if isinstance(cell, np.generic):
        return _pictures(cell.item())
    if isinstance(cell, list | tuple):
        return _of_list(cast(Sequence[Any], cell))
    if isinstance(cell, Image.Image):
        return [_encoded(cell)]
    raise ValueError(
        f"the picture is {shown(cell)} of type {type(cell).__name__}; expected a path, encoded "
        "bytes, base64, a URL, or a list of these"
    )


def _of_list(cells: Sequence[Any]) -> list[Picture]:
    """Return the pictures of a list, or the one picture whose bytes are its numbers."""
    numbers = [cell for cell in cells if isinstance(cell, int) and not isinstance(cell, bool)]
    if numbers and len(numbers) == len(cells):
        return [_of_numbers(numbers)]
    own = [_pictures(cell) for cell in cells]
    while own and not own[-1]:
        own.pop()
    found: list[Picture] = []
    for place, pictures in enumerate(own, start=1):
        if not pictures:
            raise ValueError(
                f"picture {place} of {len(own)} is missing: {shown(list(cells))}; fill its place, "
                "or take it out of the list"
            )
        found.extend(pictures)
    return found


def _of_numbers(numbers: Sequence[int]) -> bytes:
    """Return the encoded bytes that a list of numbers holds."""
    if min(numbers) >= 0 and max(numbers) < 256 and _is_picture(bytes(numbers)):
        return bytes(numbers)
    raise ValueError(
        f"the picture is a list of numbers, {shown(list(numbers[:32]), 100)}, that are not the "
        "bytes of a picture's file; store the file (PNG, JPEG) or its path"
    )


def _of_array(array: NDArray[Any]) -> list[Picture]:
    """Return the pictures of a NumPy array of paths, bytes, mappings or a file's bytes."""
    if array.dtype.kind in "iufcb" and (array.ndim > 1 or array.dtype.kind not in "iu"):
        raise ValueError(
            f"the picture is an array of numbers of shape {array.shape}; in which order its "
            "colours are is not said: store a file (PNG, JPEG) or its path"
        )
    return _pictures(array.tolist())


def _of_mapping(cell: Mapping[Any, Any]) -> list[Picture]:
    """Return the picture of a mapping: {"bytes", "path"} of `datasets`, a part of a message..."""
    keys = [key for key in _ENCODED_KEYS + _NAME_KEYS if key in cell]
    if isinstance(cell.get("source"), Mapping):  # of a message; elsewhere it is the name of a set
        keys.append("source")
    is_empty_file = False
    for key in keys:
        value = cell[key]
        if key in _ENCODED_KEYS and isinstance(value, str) and value.strip():
            return [_of_base64(value, key)]
        found = _pictures(value)
        if found == [b""]:
            is_empty_file = True
        elif found:
            return found
    if keys:
        return [b""] if is_empty_file else []
    raise ValueError(
        f"the picture is {shown(dict(cell))}; expected one of the keys "
        f"{', '.join(_ENCODED_KEYS + _NAME_KEYS)}"
    )


def _of_text(text: str) -> list[Picture]:
    """Return the pictures that a text names, lists or holds."""
    text = _SHOWN_PATH.sub(r"\1", text.strip(_INVISIBLE))
    if _IN_QUOTES.fullmatch(text):
        text = text[1:-1].strip()
    if not text:
        return []
    if text.startswith("<PIL."):
        raise ValueError(
            f"the picture is the text {shown(text)}, which Python shows for a picture; the picture "
            "itself was not saved: store a file (PNG, JPEG) or its path"
        )
    if text[:5].lower() == "data:":
        return [_of_data_uri(text)]
    bare = _BARE_BASE64.match(text)
    if bare is not None:
        return [_of_base64(text[bare.end() :], bare[0])]
    if text.startswith(_LITERAL_STARTS):
        value = _literal(text)
        if value is not None:
            return _pictures(value)
    if _may_be_base64(text):
        return [_of_base64(text, "base64")]
    if len(text) > _MAX_PATH and not is_url(text):
        raise ValueError(
            f"the picture is the text {shown(text, 100)}, too long for a path and not the base64 of"
            f" a picture ({_FORMATS})"
        )
    return _separated(text)


def _separated(text: str) -> list[Picture]:
    """Return the pictures of a text such as "a.png;b.png"; each must look like one by itself.

    An address may hold such a sign, so the others must be addresses, too.
    """
    names = _SEPARATORS.split(text)
    for name in names:
        if not is_file_name(name) or is_url(name) != is_url(text):
            return [text]
    return list(names)


def _literal(text: str) -> Any:
    """Return the list, mapping or bytes that a text writes in JSON or Python; None = a path.

    Raises:
        ValueError: the text has the brackets of a list, but is none.
    """
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        array = _array_items(text)
        if array is not None:
            return array
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, TypeError, tokenize.TokenError):
        value = None
    if isinstance(value, list | tuple | dict | bytes):
        return cast(Any, value)
    if text.startswith(("[", "{")) and text.endswith(("]", "}")):
        raise ValueError(
            f"the picture is the text {shown(text)}, which is no list of JSON or Python; expected "
            '["a.png", "b.png"] or a path'
        )
    return None


def _array_items(text: str) -> list[Any] | None:
    """Return the texts of a list that NumPy has written, ['a.png' 'b.png']; None = another text.

    Python would read texts without a comma between them as one.
    """
    if not text.startswith("["):
        return None
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    words = [token.string for token in tokens if token.type == tokenize.STRING]
    signs = [token.string for token in tokens if token.type == tokenize.OP]
    others = [token for token in tokens if token.type in {tokenize.NAME, tokenize.NUMBER}]
    if len(words) < 2 or signs != ["[", "]"] or others:
        return None
    return [ast.literal_eval(word) for word in words]


def _of_data_uri(text: str) -> bytes:
    """Return the picture that a data: address holds."""
    match = _DATA_URI.fullmatch(text)
    if match is None:
        raise ValueError(f"the picture is {shown(text, 100)}; expected data:image/png;base64,...")
    if match["type"].lower().replace(" ", "").endswith(";base64"):
        return _of_base64(unquote(match["content"]), f"data:{match['type']}")
    content = unquote_to_bytes(match["content"])
    if not _is_picture(content):
        raise ValueError(f"the picture is {shown(text, 100)}, which holds no picture ({_FORMATS})")
    return content


def _of_base64(text: str, name: str) -> bytes:
    """Return the picture of a text that must be base64, or a data: address.

    Raises:
        ValueError: it does not decode, or not to a picture.
    """
    if text.lstrip()[:5].lower() == "data:":
        return _of_data_uri(text.strip())
    content = _decoded(text)
    if content is None or not _is_picture(content):
        raise ValueError(
            f"the picture is {shown(text, 100)} under {name}, which is not the base64 of a picture"
            f" ({_FORMATS}); was it cut short?"
        )
    return content


def _may_be_base64(text: str) -> bool:
    """Return True for a text that begins as the base64 of a picture does, and is no path."""
    start = "".join(text[:64].split())
    if not _BASE64.fullmatch(start):
        return False
    content = _decoded(start[: len(start) // 4 * 4])
    return content is not None and _is_picture(content)


def _decoded(text: str) -> bytes | None:
    """Decode base64: of lines, with the signs for addresses, without padding; None = it is none."""
    bare = text.strip()
    if bare[:2] in {"b'", 'b"'} and bare[-1] == bare[1]:  # of b64encode, not decoded
        bare = bare[2:-1]
    bare = bare.replace("\\n", "")  # the lines of encodebytes, as Python shows them
    packed = "".join(bare.split()).translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _of_bytes(content: bytes) -> bytes:
    """Return encoded bytes as they are, or decoded where they are base64 themselves."""
    if not _is_picture(content) and content.isascii():
        text = content.decode("ascii").strip()
        if text[:5].lower() == "data:" or _may_be_base64(text):
            return _of_base64(text, "bytes")
    return content


def _is_picture(content: bytes) -> bool:
    """Return True for bytes that begin as a picture's file does."""
    if content.startswith(_PICTURE_STARTS):
        return True
    if content[:2] == b"BM":
        return (
            content[6:10] == b"\0\0\0\0"
            and content[14:15] != b""
            and (int.from_bytes(content[14:18], "little") in _BITMAP_HEADERS)
        )
    if content[:4] == b"RIFF":
        return content[8:12] == b"WEBP"
    return content[4:8] == b"ftyp" and content[8:11] in {b"avi", b"hei", b"hev", b"mif", b"msf"}


def _encoded(picture: Image.Image) -> bytes:
    """Return a decoded picture as the bytes of a file, without loss and upright."""
    try:
        upright = ImageOps.exif_transpose(picture)
        if upright.mode not in _PNG_MODES | _TIFF_MODES:
            upright = upright.convert(_NEAREST_MODES.get(upright.mode, "RGB"))
        file = io.BytesIO()
        if upright.mode in _PNG_MODES:
            upright.save(file, "PNG", compress_level=1)
        else:
            upright.save(file, "TIFF")
    except Exception as error:  # Pillow decodes late, and its decoders raise many kinds
        why = one_line(error) or type(error).__name__
        raise ValueError(f"the picture cannot be decoded: {why}") from None
    return file.getvalue()
