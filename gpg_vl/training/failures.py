"""Turn failures that a user can mend into a sentence: a full disk, an engine that is gone."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from gpg_vl.config.paths import NO_SPACE
from gpg_vl.errors import EngineLostError, MismatchError, UserError, one_line, train_command
from gpg_vl.run_folder import complete_checkpoints
from gpg_vl.training.milestones import save
from gpg_vl.training.setup import TrainingRun

NO_SPACE_MESSAGES = (
    "os error 28",
    "os error 27",
    "os error 122",
    "PytorchStreamWriter failed writing",
)
"""Parts of messages of writers that hide the number: safetensors (Rust) and torch.save."""


@contextmanager
def disk_full_explained(run: Path) -> Generator[None, None, None]:
    """Stop with a sentence if the disk is full; what has been saved is complete."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not _is_disk_full(error):
            raise
        next_command = _resume_command(run) or "start the run again"
        raise UserError(
            f"stopped: no space left to write below {run} ({one_line(error, limit=200)}); "
            f"make room, then {next_command}"
        ) from None


def _is_disk_full(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return True
    return any(part in str(error) for part in NO_SPACE_MESSAGES)


@contextmanager
def lost_engine_explained(run: TrainingRun) -> Generator[None, None, None]:
    """Save the last complete step and stop with a sentence if the engine is gone.

    If the engine samples from something else than the policy, nothing is saved: what was learnt
    since the last check may be wrong.
    """
    path = run.folder.path
    try:
        yield
    except MismatchError as error:
        next_command = _resume_command(path)
        if not next_command:
            raise
        raise MismatchError(f"{error}. Mend it, then {next_command}") from None
    except EngineLostError as error:
        step = run.state.step
        saved_steps = {int(saved.name) for saved in complete_checkpoints(path)}
        if run.processes.any(run.processes.is_main and step not in saved_steps):
            save(run)
        raise UserError(
            f"stopped after step {step}: {error}. Then go on with {train_command('--resume', path)}"
        ) from None


def _resume_command(run: Path) -> str:
    """Return how to go on from the newest checkpoint; empty = there is none."""
    saved = complete_checkpoints(run)
    if not saved:
        return ""
    return f"go on from step {int(saved[-1].name)} with {train_command('--resume', run)}"
