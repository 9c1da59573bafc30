"""Look for files and folders by the names that people write; write them whole or not at all."""

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from gpg_vl.errors import UserError, one_line

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers of a full disk, a full quota, a file that is too large."""
_MASK = os.umask(0o077)
os.umask(_MASK)  # it can only be read by being set
_LOOKED_AT = 1000
"""Largest number of names of a folder that the nearest is chosen from."""


def expanded(name: str) -> Path:
    """Return a path in which ~ is the home folder; ~ of an unknown user stays as it is."""
    return Path(os.path.expanduser(name))  # noqa: PTH111  # Path.expanduser raises for that user


def is_file(path: Path) -> bool:
    """Return True if there is such a file; a name that is too long for any file names none."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # ValueError: a null character
        return False


def is_folder(path: Path) -> bool:
    """Return True if there is such a folder; a name that is too long for any folder names none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def nearest_path(path: Path, pattern: str = "*") -> Path | None:
    """Return what stands where a path that leads nowhere points and has the nearest name.

    Args:
        pattern: of the names that are looked at; hidden ones are not.

    Returns:
        None = no folder, or no name that is near.
    """
    if not is_folder(path.parent):
        return None
    names: list[str] = []
    for other in islice(path.parent.glob(pattern), _LOOKED_AT):
        if not other.name.startswith("."):
            names.append(other.name)
    near = get_close_matches(path.name, sorted(names), n=1)
    return path.with_name(near[0]) if near else None


def check_writable(folder: Path, key: str) -> None:
    """Check that a folder can be made, with those above it, and written into; nothing is left.

    Something is made and removed there: permissions alone do not tell what a read-only disk, /proc
    or the root user can do.

    Args:
        folder: a folder, or a path where one will be made.
        key: option or config key that the message begins with.

    Raises:
        UserError: it cannot.
    """
    existing = folder.absolute()
    try:
        folder.lstat()
    except (FileNotFoundError, NotADirectoryError):
        while not os.path.lexists(existing):
            existing = existing.parent
    except (OSError, ValueError) as error:  # the name is too long, or holds a null character
        raise _not_writable(folder, key, error) from None
    if not is_folder(existing):
        kind = "a link to nothing" if existing.is_symlink() else "a file"
        raise UserError(f"{key}: {folder} cannot be made: {existing} is {kind}; choose another")
    try:
        TemporaryDirectory(prefix=".gpg_vl-", dir=existing).cleanup()
    except OSError as error:
        raise _not_writable(folder, key, error) from None


def _not_writable(folder: Path, key: str, error: OSError | ValueError) -> UserError:
    why = getattr(error, "strerror", None) or error
    return UserError(f"{key}: {one_line(folder)} cannot be made: {why}; choose another")


def check_new_file(file: Path, key: str) -> None:
    """Check that a file can be written; nothing is left.

    Raises:
        UserError: there is a folder of its name, its folder does not exist, or is read-only.
    """
    if is_folder(file):
        raise UserError(f"{key}: {file} is a folder, expected the name of a file")
    if not is_folder(file.parent):
        raise UserError(f"{key} {file}: there is no folder {file.parent}")
    if os.path.lexists(file) and not is_file(file):
        return  # /dev/stdout, a pipe
    check_writable(file.parent, key)


def let_others_read(path: Path) -> None:
    """Give a safetensors file, or those in a folder, the permissions of other new files.

    safetensors 0.8.0 lets nobody but the owner read what it wrote, whatever the umask
    (github.com/safetensors/safetensors/issues/782).
    """
    files = path.rglob("*.safetensors") if path.is_dir() else [path]
    for file in files:
        file.chmod(0o666 & ~_MASK)


def write_whole(file: Path, text: str, *, errors: str = "strict") -> None:
    """Write a text file aside, then give it its name: at any moment it is the old one or the new.

    Args:
        errors: as in `open`.
    """
    file = file.resolve()  # a link stays a link
    if os.path.lexists(file) and not file.is_file():  # a device or a pipe cannot be replaced
        file.write_text(text, encoding="utf-8", errors=errors)
        return
    with folder_aside(file.parent) as aside:
        (aside / "file").write_text(text, encoding="utf-8", errors=errors)
        (aside / "file").replace(file)


@contextmanager
def folder_aside(folder: Path) -> Generator[Path, None, None]:
    """Make a hidden folder inside one, and delete it at the end, also of a failure or Ctrl-C.

    What is complete is renamed out of it: that is on the same disk, so it takes no time.
    """
    with TemporaryDirectory(prefix=".gpg_vl-", dir=folder) as aside:
        yield Path(aside)
