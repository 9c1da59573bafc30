"""Remember sizes of pictures and rows that passed validation, so that a second start is quick.

An entry is found by content: a picture by path, size and times of its file; a row by all that it
holds and by everything that judged it. A row that did not pass is judged anew at every start: the
reason may have been a machine without memory or time. Without a writable cache folder everything is
computed again.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import gpg_vl
from gpg_vl.data.caches import cache_dir
from gpg_vl.errors import UserError
from gpg_vl.pictures import picture_size
from gpg_vl.types import Sample, Size
from gpg_vl.verifiers.base import RuleVerifier
from gpg_vl.verifiers.dispatch import VerifierSet

MAX_BYTES = 500_000_000
"""Size of the cache file in bytes above which it is begun anew."""
_JUDGES = ("parsing", "verifiers", "boxes.py", "prompts.py", "pictures.py", "types.py")
"""Parts of the package that an entry depends on."""
_LIBRARIES = ("pillow", "math-verify", "latex2sympy2-extended", "sympy")
"""Packages that it depends on."""


class ValidationCache:
    """Sizes of pictures and rows that passed validation, kept in a file between runs.

    Verifiers and prompt styles from outside the package are asked anew each time: they may depend
    on files that are not known here.

    Example:
        with ValidationCache(verifiers) as cache:
            cache.validation_error(sample)
    """

    def __init__(self, verifiers: VerifierSet, *, is_used: bool = True) -> None:
        self.verifiers = verifiers
        self._known: dict[bytes, str] = {}
        self._new: dict[bytes, str] = {}
        self._rules: dict[str, bytes] = {}
        self._file: sqlite3.Connection | None = _opened() if is_used else None
        for kind, verifier in verifiers.by_kind.items():
            if _is_ours(verifier):
                self._rules[kind] = _digest(_code(), repr(verifier))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is None:
            return
        with closing(self._file) as file:
            _store(file, self._new)
        self._file = None

    def size_of(self, image: Path | bytes) -> Size:
        """Return width and height of a picture in pixels, as `picture_size` does."""
        if isinstance(image, bytes) or self._file is None:
            return picture_size(image)
        try:
            status = image.stat()
        except OSError:
            return picture_size(image)  # gives the reason
        # a copy may keep size and time of the file in its place (rsync -t), not the time of change
        stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        key = _digest(_code(), str(image), *stamp)
        known = self._get(key)
        if known is None:
            width, height = picture_size(image)
            self._new[key] = f"{width} {height}"
            return width, height
        width, height = map(int, known.split())
        return width, height

    def validation_error(self, sample: Sample) -> str:
        """Return the reason why a sample cannot be trained on; empty = it can."""
        rules = self._rules.get(sample.answer_kind)
        if self._file is None or rules is None:
            return self.verifiers.validation_error(sample)
        key = _digest(rules, _judged(sample))
        if self._get(key) is not None:
            return ""
        found = self.verifiers.validation_error(sample)
        if not found:
            self._new[key] = found
        return found

    def _get(self, key: bytes) -> str | None:
        if key in self._new:
            return self._new[key]
        assert self._file is not None
        try:
            found = self._file.execute("SELECT value FROM entries WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error:  # it is damaged, or another process keeps it: do without, for each
            self._file.close()  # further row might wait as long
            self._file = None
            return None
        return None if found is None else str(found[0])


def _opened() -> sqlite3.Connection | None:
    """Open the cache file; None where that is not possible, for instance on a read-only disk.

    A file that is too large or damaged is begun anew.
    """
    try:
        path = cache_dir("validated") / "entries.sqlite"
        if path.exists() and path.stat().st_size > MAX_BYTES:
            path.unlink()
        try:
            return _connected(path)
        except sqlite3.OperationalError:  # locked, or a disk that cannot be written
            return None
        except sqlite3.DatabaseError:
            path.unlink()
            return _connected(path)
    except (OSError, UserError, sqlite3.Error):
        return None


def _connected(path: Path) -> sqlite3.Connection:
    """Open a cache file, and make its table in a new one."""
    file = sqlite3.connect(path, timeout=10)
    try:
        file.execute(
            "CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, value TEXT) WITHOUT ROWID"
        )
        file.execute("SELECT key, value FROM entries LIMIT 1")
    except sqlite3.Error:
        file.close()
        raise
    return file


def _store(file: sqlite3.Connection, entries: Mapping[bytes, str]) -> None:
    """Write new entries; of several processes one is enough."""
    if not entries or os.environ.get("RANK", "0") != "0":
        return
    try:
        with file:
            file.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?)", entries.items())
    except sqlite3.Error:  # the disk is full, say: the next start computes them again
        return


def _is_ours(verifier: Any) -> bool:
    """Return True if verifier and prompt style are the package's own."""
    if not isinstance(verifier, RuleVerifier):
        return False
    modules = (type(verifier).__module__, type(verifier.style).__module__)
    return all(module.startswith("gpg_vl.") for module in modules)


@lru_cache(maxsize=1)
def _code() -> bytes:
    """Return a digest of the code that reads and judges rows, ours and that of libraries."""
    package = Path(gpg_vl.__file__).parent
    digest = hashlib.blake2b(digest_size=16)
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):  # math-verify is an extra
            digest.update(f"{name} {version(name)}\n".encode())
    for name in _JUDGES:
        part = package / name
        for file in sorted(part.rglob("*.py")) if part.is_dir() else [part]:
            digest.update(file.read_bytes())
    return digest.digest()


def _judged(sample: Sample) -> str:
    """Return everything of a sample that a verifier may look at."""
    content = (
        sample.question,
        sample.answer_kind,
        sample.answer,
        sample.choices,
        sample.letters,
        sample.frame,
        sample.answer_image,
        sample.sizes,
        len(sample.images),
        sample.columns,
    )
    return json.dumps(content, default=repr)


def _digest(*parts: object) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "big"))
        digest.update(content)
    return digest.digest()
