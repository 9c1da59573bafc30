"""Find a shipped config, benchmark or data card by name, in a checkout or in an installed wheel.

`configs/`, `evaluation/` and `data/` are shelves of YAML files, not packages; the wheel carries them under `gpg_vl/_resources/`.
"""

from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from gpg_vl.errors import UserError

ResourceKind = Literal["configs", "evaluation", "data"]
_PACKAGE = Path(__file__).parents[1]


def folder(shelf: ResourceKind) -> Path:
    """Where a shelf stands: beside the package in a checkout, inside it in a wheel."""
    shipped = _PACKAGE / "_resources" / shelf
    return shipped if shipped.is_dir() else _PACKAGE.parent / shelf


def names(shelf: ResourceKind) -> list[str]:
    """The names that `find` knows."""
    return sorted(path.stem for path in folder(shelf).glob("*.yaml"))


def summary_line(shelf: ResourceKind, name: str) -> str:
    """The first line of a shipped file: what it is."""
    return find(shelf, name).read_text().partition("\n")[0].removeprefix("# ")


def find(shelf: ResourceKind, name: str, beside: Path = Path()) -> Path:
    """The file of a shipped spec by name, or a file of the user's by path.

    Args:
        beside: a folder where a file is looked for before the working directory (a config's own).

    Raises:
        UserError: neither; names the nearest match.
    """
    if name.endswith((".yaml", ".yml")):
        for path in (beside / name, Path(name)):
            if path.is_file():
                return path
        raise UserError(f"{name}: no such file. Shipped {shelf}: {', '.join(names(shelf))}")
    path = folder(shelf) / f"{name}.yaml"
    if path.is_file():
        return path
    nearest = get_close_matches(name, names(shelf), n=1)
    hint = f"Did you mean {nearest[0]}?" if nearest else f"Shipped: {', '.join(names(shelf))}; a file of your own ends in .yaml."
    raise UserError(f"{shelf}: got {name!r}, which is neither shipped nor a file. {hint}")
