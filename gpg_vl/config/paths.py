"""Look for files and folders by the names that people write: too long, or of an unknown user."""

import os
from pathlib import Path


def expanded(name: str) -> Path:
    """Return a path in which ~ is the home folder; ~ of an unknown user stays as it is."""
    return Path(os.path.expanduser(name))  # noqa: PTH111  # Path.expanduser raises for that user


def is_file(path: Path) -> bool:
    """Return True if there is such a file; a name that is too long for any file names none."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Return True if there is such a folder; a name that is too long for any folder names none."""
    try:
        return path.is_dir()
    except OSError:
        return False
