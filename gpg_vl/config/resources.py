"""Find a shipped config, benchmark or data card by name, in a checkout or in an installed wheel.

`configs/`, `evaluation/` and `data/` are folders of YAML files, not packages; the wheel contains
them under `gpg_vl/_resources/`.
"""

import shlex
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from gpg_vl.config.paths import is_file, is_folder
from gpg_vl.errors import UserError, one_line, shown

ResourceKind = Literal["configs", "evaluation", "data"]
ENDINGS = (".yaml", ".yml")
"""Endings of the files that users write."""
_PACKAGE = Path(__file__).parents[1]


def folder(kind: ResourceKind) -> Path:
    """Return the folder of a kind: beside the package in a checkout, inside it in a wheel."""
    in_wheel = _PACKAGE / "_resources" / kind
    if in_wheel.is_dir():
        return in_wheel
    return _PACKAGE.parent / kind


def names(kind: ResourceKind) -> list[str]:
    """Return the shipped names of a kind, in alphabetical order."""
    return sorted(path.stem for path in folder(kind).glob("*.yaml"))


def summary_line(kind: ResourceKind, name: str) -> str:
    """Return the first line of a shipped file, which is a comment that describes it."""
    with find(kind, name).open() as file:
        return file.readline().strip().removeprefix("# ")


def find(kind: ResourceKind, name: str, beside: Path = Path()) -> Path:
    """Return the file of a shipped spec by name, or a file of the user by path.

    Args:
        kind: the kind of the spec.
        name: a shipped name, or a path that ends in .yaml or .yml.
        beside: a folder where a path is looked for before the working directory: the folder of the
            config that names it.

    Raises:
        UserError: there is neither; the message contains the nearest name.
    """
    if name.endswith(ENDINGS):
        for path in (beside / name, Path(name)):
            if is_file(path):
                return path
        raise UserError(f"{one_line(name)}: no such file. {_instead_of_file(kind, name)}")
    path = folder(kind) / f"{name}.yaml"
    if is_file(path):
        return path
    raise UserError(
        f"{kind}: got {shown(name)}, which is neither shipped nor a YAML file. "
        f"{_instead_of_name(kind, name)}"
    )


def _instead_of_file(kind: ResourceKind, name: str) -> str:
    """Return a hint for a YAML file that does not exist."""
    path, shipped = Path(name), names(kind)
    if path.stem in shipped:
        return f"{path.stem} is shipped; its name is written without {path.suffix}"
    here = [other.name for other in path.parent.glob("*.y*ml")] if is_folder(path.parent) else []
    nearest = get_close_matches(path.name, here, n=1)
    if nearest:
        return f"Did you mean {path.with_name(nearest[0])}?"
    return f"Shipped {kind}: {', '.join(shipped)}"


def _instead_of_name(kind: ResourceKind, name: str) -> str:
    """Return a hint for a name that is not shipped."""
    for ending in ENDINGS:
        if is_file(Path(name + ending)):
            return f"Did you mean {one_line(name + ending)}?"
    if is_file(Path(name) / "config.yaml"):
        return f"The config of a run folder is {one_line(Path(name) / 'config.yaml')}"
    if kind == "configs" and is_file(Path(name)):
        return f"Of rows, gpg-vl init {shlex.quote(one_line(name))} writes a config"
    nearest = get_close_matches(name, names(kind), n=1)
    if nearest:
        return f"Did you mean {nearest[0]}?"
    return f"Shipped: {', '.join(names(kind))}; a file of your own ends in .yaml."
