"""Take a run back to an earlier checkpoint: drop what was saved after it.

Checkpoints go first, the newest of them first, and each at once. So a run that is killed in the
middle is one that had been stopped at the newest checkpoint that is left. What the logs hold of
later steps is dropped by every resume (`RunFolder.rewind`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpg_vl.config.loading import read_yaml
from gpg_vl.config.models import checkpoint_of
from gpg_vl.evaluation.records import LEFT_OUT_SUFFIX
from gpg_vl.run_folder import complete_checkpoints
from gpg_vl.training.checkpoint import delete

_STEP = re.compile(r"\d{6,}")
SHOWN_STEPS = 8
"""Largest number of steps that a message names."""


@dataclass(frozen=True, slots=True)
class Rewind:
    """A run and the step that it is taken back to."""

    run: Path
    step: int
    last_step: int
    """`steps` of the run as it was started last: the step of its evaluation `after`."""

    @classmethod
    def to(cls, run: Path, step: int) -> "Rewind":
        """Return what takes a run back to a step.

        Raises:
            UserError: there is no checkpoint of that step.
        """
        checkpoint_of(run, step)
        return cls(run, step, int(read_yaml(run / "config.yaml")["steps"]))

    def described(self) -> str:
        """Return what is dropped, for a message."""
        parts: list[str] = []
        checkpoints = self.checkpoints()
        if checkpoints:
            parts.append(f"checkpoints {_steps([int(path.name) for path in checkpoints])}")
        rollouts = self._later(self.run / "rollouts", "*.jsonl.gz")
        steps = sorted({_step_of(path) for path in rollouts})
        if steps:
            parts.append(f"rollouts and metrics of steps {_steps(steps)}")
        records = [path for path in self.evaluations() if not _is_left_out(path)]
        if records:
            parts.append(f"evaluations {', '.join(path.stem for path in records)}")
        return "; ".join(parts) or "nothing"

    def drop(self) -> None:
        """Delete checkpoints, evaluations and bad batches of later steps."""
        for path in reversed(self.checkpoints()):
            delete(path)
        for path in [*self.evaluations(), *self._later(self.run / "bad_steps", "*.json")]:
            path.unlink()

    def checkpoints(self) -> list[Path]:
        """Return the complete checkpoints of later steps, oldest first."""
        return [path for path in complete_checkpoints(self.run) if int(path.name) > self.step]

    def evaluations(self) -> list[Path]:
        """Return the records of later evaluations: BENCHMARK-000100.jsonl, BENCHMARK-after.jsonl.

        With each, the list of what was not asked; with the last, BENCHMARK-blank.jsonl, its control
        on grey pictures. Other files there are the user's own.
        """
        found: list[Path] = []
        for path in sorted((self.run / "evaluation").glob("*.jsonl")):
            name = path.name.removesuffix(LEFT_OUT_SUFFIX).removesuffix(".jsonl")
            when = name.rpartition("-")[2]
            if when in ("after", "blank"):
                when = f"{self.last_step:06d}"
            if _STEP.fullmatch(when) and int(when) > self.step:
                found.append(path)
        return found

    def _later(self, folder: Path, pattern: str) -> list[Path]:
        return [path for path in folder.glob(pattern) if _step_of(path) > self.step]


def _is_left_out(path: Path) -> bool:
    return path.name.endswith(LEFT_OUT_SUFFIX)


def _step_of(path: Path) -> int:
    """Return the step of a file of one step: 000051.jsonl.gz, 000051.rank1.json."""
    return int(path.name.split(".")[0])


def _steps(steps: Sequence[int]) -> str:
    if len(steps) <= SHOWN_STEPS:
        return ", ".join(map(str, steps))
    return f"{steps[0]} to {steps[-1]} ({len(steps)} of them)"
