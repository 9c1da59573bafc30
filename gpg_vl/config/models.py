"""Find the model, the run and the checkpoint that a name means, on this machine. No torch.

A model is named by a run (its newest checkpoint), one of its checkpoints, any folder with a
config.json, or a hub id. Every command and every key takes all of them: `find` decides. A path that
leads nowhere is told from a hub id without asking the hub.
"""

import re
import shlex
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from gpg_vl.config.paths import expanded, is_file, is_folder
from gpg_vl.errors import UserError, shown

TINY = "tiny"
"""Name of the model that is made on the spot."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
"""Pattern of a hub id: gpt2, Qwen/Qwen2.5-VL-3B-Instruct."""
_KEEP_LAST = re.compile(r"^ +keep_last: (\d+)$", re.MULTILINE)
RUN_FILES = ("config.yaml", "environment.json")
"""Files of a run folder: its config, and the folder that the config was read from."""
INCOMPLETE = (".part", ".dropped")
"""Ends of the names of checkpoints that are being written or deleted, or were when a run died."""
_RUNS = "runs"
"""Default of the config key `folder`."""
_LOOKED_AT = 1000
"""Largest number of entries of a folder that a hint is made from."""
_LISTED = 6
"""Largest number of names in a hint."""


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model, found by its name."""

    name: str
    """Name that means the same model tomorrow: the absolute path of its folder, a hub id, tiny."""
    folder: Path | None = None
    """Folder of its config.json; None = it is not on this machine under that name."""
    run: Path | None = None
    """Run that it is a checkpoint of; None = no run is known."""
    is_newest: bool = False
    """True if the name is that of the run, whose newest checkpoint will be another one later."""


def find(name: str, key: str = "policy.model") -> NamedModel:
    """Find the model that a name means. No file of it is read, and no hub is asked.

    Args:
        name: a run folder, a checkpoint folder, its policy/, any folder of a model, a hub id, or
            tiny; folders from the working directory, with ~.
        key: config key or option that messages begin with.

    Raises:
        UserError: the name is a path, and leads to no folder, or to a run without a checkpoint.
    """
    if name == TINY:
        return NamedModel(name)
    path = expanded(name)
    if not name or not is_folder(path):  # Path("") is the working directory
        _refuse_path(name, path, key)
        return NamedModel(name)
    if is_run(path):
        saved = _checkpoints(path)
        if not saved:
            raise UserError(
                f"{key}: {shown(name)} is a run that has saved no checkpoint yet; its first one is "
                "saved before step 1"
            )
        return _named(saved[-1] / "policy", path, is_newest=True)
    if path.absolute().name.endswith(INCOMPLETE) or path.parent.name.endswith(INCOMPLETE):
        raise UserError(
            f"{key}: {shown(name)} is a checkpoint that was not written to its end, or is half "
            f"deleted{hint(path.parent / '0')}"
        )
    if is_file(path / "state.json") or is_file(path / "policy" / "config.json"):
        return _named(path / "policy", run_of(path / "policy"))
    return _named(path, run_of(path))


def _named(folder: Path, run: Path | None, *, is_newest: bool = False) -> NamedModel:
    return NamedModel(str(folder.resolve()), folder, run, is_newest)


def _refuse_path(name: str, path: Path, key: str) -> None:
    """Raise a `UserError` if a name that is no folder cannot be a hub id either."""
    if name and is_file(path):
        raise UserError(
            f"{key}: {shown(name)} is a file; expected the folder that holds it with its "
            "config.json, or a hub id"
        )
    in_runs = len(path.parts) > 1 and _holds_runs(path.parent)
    if not _HUB_ID.fullmatch(name) or in_runs:
        raise UserError(
            f"{key}: {shown(name)} cannot be loaded: there is no such folder{hint(path)}"
        )


def beside(name: str, base_dir: Path) -> str:
    """Return the name of a config's model, as it is found from the working directory.

    Args:
        name: looked for from the working directory first, then from the folder of the config.
        base_dir: folder of the config.
    """
    path = expanded(name)
    if not name or name == TINY or path.is_absolute() or is_folder(path):
        return name
    there = base_dir / path
    return str(there) if is_folder(there) else name


def is_same(begun: str, found: NamedModel, base_dir: Path) -> bool:
    """Return True if a name, given again, means the model that a run began with.

    That is the same folder, or the run that the model was the newest checkpoint of.

    Args:
        begun: `policy.model` of the run.
    """
    if found.folder is None:
        return begun == found.name
    if begun == TINY:
        return False
    old = expanded(beside(begun, base_dir)).resolve()
    if found.is_newest and found.run is not None:
        return found.run.resolve() in old.parents
    return str(old) == found.name


# --- runs and their checkpoints -------------------------------------------------------------------


def is_run(folder: Path) -> bool:
    """Return True if a folder is that of a run."""
    return all(is_file(folder / name) for name in RUN_FILES)


def run_of(folder: Path) -> Path | None:
    """Return the run that a policy is of: RUN/checkpoints/STEP/policy; None = of none."""
    parents = folder.resolve().parents
    if len(parents) > 2 and parents[1].name == "checkpoints" and is_run(parents[2]):
        return parents[2]
    return None


def find_run(name: Path, option: str = "--resume") -> Path:
    """Return a run folder, with ~ for the home folder.

    Args:
        option: option that messages begin with.

    Raises:
        UserError: it is none; the sentence says what it is, and what is meant perhaps.
    """
    folder = expanded(str(name))
    if is_run(folder):
        return folder
    raise UserError(f"{option} {name}: {_why_no_run(folder)}")


def _why_no_run(folder: Path) -> str:
    """Return why a path is no run folder, and which one may be meant."""
    if not is_folder(folder) and not is_file(folder):
        default = Path(_RUNS) / folder
        if is_run(default):
            return f"there is no such folder; did you mean {default}?"
        return f"there is no such folder{hint(folder)}"
    whole = folder.resolve()
    for above in whole.parents:
        if is_run(above):
            return _inside_run(whole, above)
    if is_file(folder):
        return "is a file, expected a run folder"
    if is_file(folder / "config.json"):
        return (
            f"is a model, not a run folder; train it with policy.model={shlex.quote(str(folder))}"
        )
    runs = _runs_in(folder)
    if runs:
        return f"holds runs and is none itself; name one of them: {_listed(runs)}"
    missing = [file for file in RUN_FILES if not is_file(folder / file)]
    return f"no {missing[0]} there, so it is not a run folder"


def _inside_run(path: Path, run: Path) -> str:
    """Return what a path inside a run is, and the commands that go on from there."""
    quoted = shlex.quote(str(run))
    for saved in _checkpoints(run):
        if path == saved or saved in path.parents:
            return (
                f"is a checkpoint of the run {run}. gpg-vl train --resume {quoted} goes on from "
                f"its newest one; with --from {int(saved.name)} from this one, and what came after "
                "it is dropped"
            )
    return f"is inside the run {run}; gpg-vl train --resume {quoted} continues it"


def _checkpoints(run: Path) -> list[Path]:
    """Return the complete checkpoints of a run, the oldest first."""
    from gpg_vl.run_folder import complete_checkpoints  # most configs name no run

    return complete_checkpoints(run)


def checkpoint_of(run: Path, step: int) -> Path:
    """Return the complete checkpoint of a step.

    Raises:
        UserError: there is none; the sentence names those that exist.
    """
    saved = {int(path.name): path for path in _checkpoints(run)}
    if step not in saved:
        steps = ", ".join(map(str, saved)) or "none"
        raise UserError(
            f"{run} holds no checkpoint of step {step}; it holds {steps}. How many are kept is "
            f"decided by checkpoint.keep_last{_keep_last(run)}"
        )
    return saved[step]


def _keep_last(run: Path) -> str:
    """Return " (now 2)" for a run that keeps two newest checkpoints; empty = not known."""
    found = _KEEP_LAST.search((run / "config.yaml").read_text(encoding="utf-8"))
    return f" (now {found[1]})" if found else ""


# --- hints ----------------------------------------------------------------------------------------


def hint(path: Path) -> str:
    """Return the end of a sentence on a path that leads nowhere: what is there instead."""
    if not path.parts or "\0" in str(path):
        return ""
    existing, wanted = path.parent, path.name
    while not is_folder(existing) and existing.parent != existing:
        existing, wanted = existing.parent, existing.name
    if existing.name == "checkpoints" and is_run(existing.parent):
        saved = [path.name for path in _checkpoints(existing.parent)]
        return f"; {existing} holds {_listed(saved)}" if saved else ""
    nearest = get_close_matches(wanted, _folders_in(existing), n=1)
    if nearest:
        return f"; did you mean {existing / nearest[0]}?"
    runs = _runs_in(existing) if existing != Path() else []
    return f"; {existing} holds the runs {_listed(runs)}" if runs else ""


def _holds_runs(folder: Path) -> bool:
    """Return True if a folder is one of runs, so that nobody means a hub id by a name in it."""
    return is_folder(folder) and (folder.name == _RUNS or bool(_runs_in(folder)))


def _runs_in(folder: Path) -> list[str]:
    return [name for name in _folders_in(folder) if is_run(folder / name)]


def _folders_in(folder: Path) -> list[str]:
    """Return the names of the folders in one, in alphabetical order; none if it cannot be read."""
    try:
        inside = islice(folder.iterdir(), _LOOKED_AT)
        return sorted(path.name for path in inside if is_folder(path))
    except OSError:  # a hint is not worth an error
        return []


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
