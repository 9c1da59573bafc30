"""Find the folder of the user in which gpg_vl keeps what it can make again."""

import os
from pathlib import Path

from gpg_vl.errors import UserError


def cache_dir(what: str) -> Path:
    """Return a folder for what can be made again, and make it.

    It is in `$XDG_CACHE_HOME/gpg_vl`, else in `~/.cache/gpg_vl`, and may be deleted at any time.

    Args:
        what: kind of its content, such as images.

    Raises:
        UserError: it cannot be made.
    """
    # an empty or relative value does not count, by the XDG specification
    stated = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        base_dir = stated if stated.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        raise UserError(
            "there is no home folder for a cache; set XDG_CACHE_HOME to a folder that can be "
            "written"
        ) from None
    folder = base_dir / "gpg_vl" / what
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the cache folder {folder} cannot be made ({error.strerror}); set XDG_CACHE_HOME to a "
            "folder that can be written"
        ) from None
    return folder
