"""Checkpoints: written aside, then renamed, so a half-written one is never picked.

checkpoints/000050/  policy/ (plain `from_pretrained`)   learner/optimizer.pt   state.json
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gpg_vl.errors import UserError
from gpg_vl.policy.load import Policy
from gpg_vl.run_folder import complete_checkpoints
from gpg_vl.training.learner import Learner
from gpg_vl.training.processes import Processes
from gpg_vl.types import Completion, Group, Prompt, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Where a run is."""

    step: int = 0
    """Steps taken, skipped ones included."""
    cursor: int = 0
    """Prompts drawn, over all ranks."""
    version: int = 0
    """Updates that moved the parameters."""
    idle: int = 0
    """Steps in a row without an informative group."""
    lost: int = 0
    """Drawn samples that could not be asked."""
    bad: int = 0
    """Steps in a row with a non-finite loss or gradient."""
    carried: tuple[Group, ...] = ()
    """Groups waiting for the next step."""


def state_row(state: State, ranks: Processes) -> dict[str, Any]:
    """The state as JSON, with the carried groups of every rank."""
    carried = ranks.everybodys([_carried_row(group) for group in state.carried])
    return {**asdict(replace(state, carried=())), "carried": carried}


def save(folder: Path, step: int, state: dict[str, Any], policy: Policy, learner: Learner, card: str) -> Path:
    """Write `checkpoints/<step>`, its model card beside the weights; the path."""
    path = folder / "checkpoints" / f"{step:06d}"
    aside = path.with_name(path.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    (aside / "learner").mkdir(parents=True)
    policy.save(aside / "policy")
    (aside / "policy" / "README.md").write_text(card)
    torch.save(learner.state_dict(), aside / "learner" / "optimizer.pt")
    (aside / "state.json").write_text(json.dumps(state))
    _sync(aside)
    shutil.rmtree(path, ignore_errors=True)
    aside.rename(path)
    _sync(path.parent)
    return path


def load_state(path: Path, ask: Callable[[int], Prompt], ranks: Processes) -> State:
    """The state of a checkpoint; prompts of carried groups are encoded anew from their draw numbers.

    Raises:
        UserError: groups wait for another number of processes.
    """
    plain = json.loads((path / "state.json").read_text())
    plain.pop("score")
    carried = plain.pop("carried")
    if any(carried) and len(carried) != ranks.count:
        raise UserError(f"{path}: its carried groups belong to {len(carried)} processes, got {ranks.count}; start as many")
    own = carried[ranks.rank] if any(carried) else []
    return State(**plain, carried=tuple(_carried_group(row, ask) for row in own))


def load_learner(path: Path, learner: Learner, *, unchanged: bool = True) -> None:
    """Optimizer moments, schedule and what was decided about sharing, of a checkpoint."""
    saved = torch.load(path / "learner" / "optimizer.pt", map_location="cpu", weights_only=True)
    learner.load_state_dict(saved, unchanged=unchanged)


def prune(run: Path, keep_last: int, keep_best: int) -> None:
    """Delete all but the newest and the best-scored checkpoints."""
    there = complete_checkpoints(run)
    scores = {path: json.loads((path / "state.json").read_text())["score"] for path in there}
    best = sorted((path for path in there if scores[path] is not None), key=lambda path: (scores[path], path.name))
    kept = {*there[-keep_last:], *(best[-keep_best:] if keep_best else [])}
    for path in there:
        if path not in kept:
            shutil.rmtree(path)


def _carried_row(group: Group) -> dict[str, Any]:
    completions = [asdict(completion) for completion in group.completions]
    verdicts = [{**asdict(replace(verdict, parts={})), "parts": dict(verdict.parts)} for verdict in group.verdicts]
    return {"draw": group.draw, "completions": completions, "verdicts": verdicts}


def _carried_group(row: dict[str, Any], ask: Callable[[int], Prompt]) -> Group:
    completions = tuple(
        Completion(**{**plain, "token_ids": tuple(plain["token_ids"]), "logprobs": tuple(plain["logprobs"])})
        for plain in row["completions"]
    )
    return Group(
        prompt=ask(row["draw"]), completions=completions, verdicts=tuple(Verdict(**plain) for plain in row["verdicts"]), draw=row["draw"]
    )


def _sync(folder: Path) -> None:
    """Make sure that everything below has reached the disk before a name says that it has."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
