"""Find things in a run folder, and find out whether a folder holds a run."""

import json
from pathlib import Path

from gpg_vl.errors import UserError, train_command
from gpg_vl.run_folder.machine import read_environment
from gpg_vl.run_folder.metric_rows import METRICS

STEP_0 = b'{"step": 0,'
"""Beginning of a row of `metrics.jsonl` that was written before the first step."""


def refuse_to_overwrite(folder: Path) -> None:
    """Check that a new run may be written here.

    A run that was killed before it saved anything may be written over.

    Raises:
        UserError: there is a run already.
    """
    if complete_checkpoints(folder) or _has_steps(folder / METRICS):
        raise UserError(
            f"{folder} holds a run already; continue it with "
            f"`{train_command('--resume', folder)}`, or choose another `name=`"
        )


def _has_steps(metrics: Path) -> bool:
    """Return True unless there is nothing but rows of step 0: the warm-up, the first evaluation.

    Anything that is no such row counts: it may be precious.
    """
    if not metrics.exists():
        return False
    lines = metrics.read_bytes().split(b"\n")
    return any(line and not line.startswith(STEP_0) for line in lines)


def make_parent(folder: Path) -> None:
    """Make the folder that a run folder is created in.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"folder: {folder} cannot be made: {error.strerror}; choose another `folder=`"
        ) from None


def config_folder(run: Path) -> Path:
    """Return the folder of the config that a run was started from.

    Its relative files and plug-ins are named from there.
    """
    return Path(read_environment(run)["config_folder"])


def newest_checkpoint(run: Path) -> Path:
    """Return the newest complete checkpoint of a run.

    Raises:
        UserError: there is none.
    """
    checkpoints = complete_checkpoints(run)
    if not checkpoints:
        raise UserError(
            f"{run} holds no checkpoint to resume from; delete the folder and start again, or "
            "choose another"
        )
    return checkpoints[-1]


def complete_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints that were written to their end, oldest first."""
    folders = [path.parent for path in (run / "checkpoints").glob("*/state.json")]
    return sorted(folder for folder in folders if folder.name.isdigit())


def evaluation_path(run: Path, benchmark: str, when: str) -> Path:
    """Return the records of an evaluation of a run.

    Args:
        when: before, after, or the number of a step.
    """
    return run / "evaluation" / f"{benchmark}-{when}.jsonl"


def page_path(run: Path) -> Path:
    """Return where the page of a run is, once it is written."""
    return run / "report.html"


def is_evaluated(run: Path, benchmark: str, when: str, step: int) -> bool:
    """Return True if there are the records of an evaluation, and its checkpoint has their score.

    Args:
        when: before, after, or the number of a step.
        step: that the evaluation belongs to; it may have no checkpoint.
    """
    saved = checkpoint_path(run, step)
    is_unscored = (saved / "state.json").exists() and score_of(saved) is None
    return evaluation_path(run, benchmark, when).exists() and not is_unscored


def checkpoint_path(run: Path, step: int) -> Path:
    """Return where the checkpoint of a step is."""
    return run / "checkpoints" / f"{step:06d}"


def score_of(checkpoint: Path) -> float | None:
    """Return the score of the evaluation that belongs to a checkpoint; None = there was none."""
    return json.loads((checkpoint / "state.json").read_text())["score"]
