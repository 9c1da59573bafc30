"""Open text files as people save them: packed or not, UTF-8 or UTF-16, with or without a mark."""

import bz2
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO, cast

from gpg_vl.errors import UserError, one_line

_UNREADABLE = re.compile("[\udc80-\udcff]")
"""Bytes that are not UTF-8, as `surrogateescape` decodes them."""


def _zstandard(path: Path) -> Any:
    return import_module("pyarrow").input_stream(str(path), compression="zstd")


def _plain(path: Path) -> Any:
    return path.open("rb")


_PACKED: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _zstandard,
}
PACKED = tuple(_PACKED)
"""Endings of packed files."""


def endings(path: Path) -> tuple[str, str]:
    """Return the ending of a file in small letters, and that of its packing, which may be empty.

    Example:
        endings(Path("ROWS.JSONL.gz")) == (".jsonl", ".gz")
    """
    last = path.suffix.lower()
    if last in _PACKED:
        return Path(path.stem).suffix.lower(), last
    return last, ""


@contextmanager
def opened(path: Path, newline: str | None) -> Generator[TextIO]:
    """Open a text file, packed or not, in UTF-8, UTF-16 or UTF-32.

    A byte order mark is no part of the text.

    Bytes that are not UTF-8 become half surrogates, for `unreadable` to find in their row.

    Args:
        newline: as in the built-in `open`.

    Raises:
        UserError: the packing, or text of another encoding than UTF-8, is broken.
    """
    encoding = "utf-8"
    try:
        with _bytes(path) as binary:
            # without a mark, the places of its zero bytes tell UTF-16
            encoding = json.detect_encoding(binary.read(4))
        with (
            _bytes(path) as binary,
            io.TextIOWrapper(
                binary, encoding=encoding, errors="surrogateescape", newline=newline
            ) as text,
        ):
            yield cast(TextIO, text)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 but broken {encoding.upper()} ({error.reason}); save it as UTF-8"
        ) from None
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        raise broken(path, error) from None


def unreadable(text: str) -> bool:
    """Return True if a text read by `opened` has bytes that are not UTF-8."""
    return not text.isascii() and _UNREADABLE.search(text) is not None


def not_utf8(text: str) -> str:
    """Return the sentence about an `unreadable` text."""
    try:
        text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeDecodeError as error:
        return f"not UTF-8 ({error.reason} near byte {error.start:,}); save it as UTF-8"
    raise AssertionError("the text is readable")


def content(path: Path, *, windows: bool = False) -> str:
    """Read the whole text of a file, packed or not.

    Args:
        windows: some published files are in the encoding of Windows: try it second.

    Raises:
        UserError: the packing is broken, or another encoding.
    """
    with opened(path, newline="") as file:
        text = file.read()
    if not unreadable(text):
        return text
    if not windows:
        raise UserError(f"{path}: {not_utf8(text)}")
    return text.encode("utf-8", "surrogateescape").decode("cp1252", errors="replace")


def broken(path: Path, error: Exception) -> UserError:
    """Return the error for a file that a library cannot read."""
    reason = one_line(error, limit=200)
    return UserError(f"{path}: cannot be read: {reason}; if it was cut short, download it again")


def _bytes(path: Path) -> Any:
    """Open the bytes of a file, unpacked."""
    return _PACKED.get(path.suffix.lower(), _plain)(path)
