"""Save and load checkpoints: written aside, then renamed, so a half-written one is never used.

checkpoints/000050/  policy/  learner/optimizer.pt  state.json

policy/ is a model for plain `from_pretrained`, or an adapter for peft.
"""

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gpg_vl.errors import UnusableSampleError, UserError
from gpg_vl.policy.load import Policy
from gpg_vl.run_folder import checkpoint_path, complete_checkpoints, json_text, score_of
from gpg_vl.training.learner import Learner
from gpg_vl.training.processes import Processes
from gpg_vl.types import Completion, Group, Prompt, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Position of a run."""

    step: int = 0
    """Steps taken, skipped ones included."""
    cursor: int = 0
    """Prompts used, over all processes."""
    version: int = 0
    """Updates that moved the parameters."""
    idle: int = 0
    """Steps in a row without an informative group."""
    unusable: int = 0
    """Samples that could not become prompts."""
    bad: int = 0
    """Steps in a row with a non-finite loss or gradient."""
    carried: tuple[Group, ...] = ()
    """Groups that wait for the next step."""


def state_row(state: State, processes: Processes) -> dict[str, Any]:
    """Return the state as JSON, with the carried groups of every process."""
    own_groups = [_group_row(group) for group in state.carried]
    return {
        "step": state.step,
        "cursor": state.cursor,
        "version": state.version,
        "idle": state.idle,
        "lost": state.unusable,
        "bad": state.bad,
        "carried": processes.all_gather(own_groups),
    }


def save(
    folder: Path, step: int, state: dict[str, Any], policy: Policy, learner: Learner, card: str
) -> Path:
    """Write `checkpoints/<step>`, with the model card beside the weights, and return its path."""
    path = checkpoint_path(folder, step)
    aside = path.with_name(path.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    (aside / "learner").mkdir(parents=True)
    policy.save(aside / "policy")
    (aside / "policy" / "README.md").write_text(card)
    torch.save(learner.state_dict(), aside / "learner" / "optimizer.pt")
    (aside / "state.json").write_text(json_text(state))
    _sync(aside)
    replaced = _put_away(path)
    aside.rename(path)
    _sync(path.parent)
    if replaced is not None:  # last, because it takes seconds
        shutil.rmtree(replaced)
    return path


def delete(path: Path) -> None:
    """Delete a checkpoint, if it exists. Its name goes first, so that no half of one is used."""
    dropped = _put_away(path)
    if dropped is not None:
        shutil.rmtree(dropped)


def _put_away(path: Path) -> Path | None:
    """Give a checkpoint the name of one that is deleted, and return it; None = there is none."""
    dropped = path.with_name(path.name + ".dropped")
    shutil.rmtree(dropped, ignore_errors=True)
    if not path.exists():
        return None
    path.rename(dropped)
    return dropped


def load_state(
    path: Path,
    prompt_at: Callable[[int], Prompt],
    processes: Processes,
    log: Callable[[str], None] = print,
) -> State:
    """Load the state of a checkpoint; prompts of carried groups are encoded anew.

    Args:
        log: called with each carried group whose sample cannot become a prompt any more.

    Raises:
        UserError: groups are carried over by another number of processes.
    """
    row = json.loads((path / "state.json").read_text())
    carried = row["carried"]
    own_rows: list[dict[str, Any]] = []
    if any(carried):
        if len(carried) != processes.count:
            raise UserError(
                f"{path}: its carried groups belong to {len(carried)} processes, got "
                f"{processes.count}; start as many"
            )
        own_rows = carried[processes.rank]
    groups: list[Group] = []
    for own in own_rows:
        try:
            groups.append(_group(own, prompt_at))
        except UnusableSampleError as error:  # its picture has vanished since
            log(f"warning: a group that waited for the next step is left out: {error}")
    return State(
        step=row["step"],
        cursor=row["cursor"],
        version=row["version"],
        idle=row["idle"],
        unusable=row["lost"],
        bad=row["bad"],
        carried=tuple(groups),
    )


def load_learner(path: Path, learner: Learner, *, unchanged: bool) -> None:
    """Load optimizer moments, schedule and the decision about prompt sharing of a checkpoint."""
    saved = torch.load(path / "learner" / "optimizer.pt", map_location="cpu", weights_only=True)
    learner.load_state_dict(saved, unchanged=unchanged)


def prune(run: Path, keep_last: int, keep_best: int) -> None:
    """Delete all but the newest and the best-scored checkpoints."""
    checkpoints = complete_checkpoints(run)
    scored: list[tuple[float, str, Path]] = []
    for path in checkpoints:
        score = score_of(path)
        if score is not None:
            scored.append((score, path.name, path))
    kept = set(checkpoints[-keep_last:])
    if keep_best:
        kept |= {path for _, _, path in sorted(scored)[-keep_best:]}
    for path in checkpoints:
        if path not in kept:
            delete(path)
    for left in (run / "checkpoints").glob("*.dropped"):  # by a run that was killed just then
        shutil.rmtree(left)


def _group_row(group: Group) -> dict[str, Any]:
    completions = [asdict(completion) for completion in group.completions]
    verdicts: list[dict[str, Any]] = []
    for verdict in group.verdicts:
        plain = asdict(replace(verdict, parts={}))  # parts may be a mapping that asdict cannot copy
        verdicts.append({**plain, "parts": dict(verdict.parts)})
    return {"draw": group.prompt_index, "completions": completions, "verdicts": verdicts}


def _group(row: dict[str, Any], prompt_at: Callable[[int], Prompt]) -> Group:
    completions: list[Completion] = []
    for plain in row["completions"]:
        logprobs = tuple(_number(value) for value in plain["logprobs"])
        lists = {"token_ids": tuple(plain["token_ids"]), "logprobs": logprobs}
        completions.append(Completion(**{**plain, **lists}))
    verdicts = tuple(_verdict(plain) for plain in row["verdicts"])
    return Group(
        prompt=prompt_at(row["draw"]),
        completions=tuple(completions),
        verdicts=verdicts,
        prompt_index=row["draw"],
    )


def _verdict(plain: dict[str, Any]) -> Verdict:
    boxes = tuple(tuple(box) for box in plain.get("boxes", ()))
    parts = {name: _number(value) for name, value in plain["parts"].items()}
    return Verdict(**{**plain, "reward": _number(plain["reward"]), "parts": parts, "boxes": boxes})


def _number(value: float | None) -> float:
    """Return a number as it was: NaN is null in JSON."""
    return math.nan if value is None else value


def _sync(folder: Path) -> None:
    """Wait until everything below is on the disk, before a name says that it is complete."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
