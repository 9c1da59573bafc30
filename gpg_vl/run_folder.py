"""Write a run folder, and find things in it again. No torch.

    runs/<name>/  config.yaml  environment.json  identity.json  metrics.jsonl
                  left_out.jsonl  rollouts/000051.jsonl.gz  images/  checkpoints/  evaluation/

Logs are append-only; there is one rollouts file per step.
"""

import gzip
import hashlib
import json
import math
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, cast

from gpg_vl.errors import UserError
from gpg_vl.types import Group, LeftOut

Callback = Callable[[int, Mapping[str, float]], None]
"""Called with the number and the metrics of each step, for instance a display."""


class Tracker(Protocol):
    """A callback that has to be closed at the end of a run."""

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of a step."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


PACKAGES = (
    "gpg_vl",
    "torch",
    "transformers",
    "accelerate",
    "numpy",
    "pillow",
    "tokenizers",
    "torchvision",
    "vllm",
)
"""Packages whose versions are written down."""

LEFT_OUT = "left_out.jsonl"
"""Name of the file that lists the rows which a run does not use."""
IMAGES_PER_STEP = 2
"""Groups per step whose pictures are kept, if they came as bytes. Rows name every picture."""

IMAGE_KINDS = {b"\x89PNG": "png", b"\xff\xd8": "jpg", b"RIFF": "webp", b"GIF8": "gif"}
"""First bytes of a file -> its suffix."""


class RunFolder:
    """Writes the logs of a run."""

    def __init__(
        self,
        path: Path,
        callbacks: Sequence[Callback] = (),
        rank: int = 0,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self.path = path
        self.callbacks = callbacks
        self.rank = rank
        self.trackers = trackers
        self._lost = set[tuple[str, str]]()  # source and id; only the main process knows them

    @property
    def left_out_path(self) -> Path:
        """File that lists the rows which the run does not use."""
        return self.path / LEFT_OUT

    @property
    def num_lost_rows(self) -> int:
        """Number of different rows that could not become prompts when they were drawn."""
        return len(self._lost)

    def unused_rows(self, rows: Sequence[LeftOut], *, is_resumed: bool = False) -> None:
        """Begin the list of what is left out, with the rows that reading left out (step 0).

        Args:
            is_resumed: the rows that were lost in earlier steps stay in the list, each row once.
        """
        if self.rank:
            return
        earlier = left_out_rows(self.path) if is_resumed else []
        self.left_out_path.unlink(missing_ok=True)
        _append_left_out(self.left_out_path, 0, rows)
        listed = {(row.source, row.id) for row in rows}
        for step, row in earlier:
            if step and (row.source, row.id) not in listed:
                _append_left_out(self.left_out_path, step, [row])

    def lost_rows(self, step: int, rows: Iterable[LeftOut]) -> list[LeftOut]:
        """List rows that could not become prompts in a step, each row of the data once.

        Returns:
            The rows that were not listed before; only the main process knows them.
        """
        new: list[LeftOut] = []
        if self.rank:
            return new
        for row in rows:
            if (row.source, row.id) not in self._lost:
                self._lost.add((row.source, row.id))
                new.append(row)
        _append_left_out(self.left_out_path, step, new)
        return new

    def metrics(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append one row and call the callbacks; only the main process does."""
        if self.rank:
            return
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(_json_value({"step": step, **numbers})) + "\n")
        for callback in (*self.callbacks, *self.trackers):
            callback(step, numbers)

    def close(self) -> None:
        """Let the trackers send what they still have."""
        for tracker in self.trackers:
            tracker.close()

    def rollouts(self, step: int, used: Iterable[Group], fresh: Iterable[Group]) -> None:
        """Write what a step sampled and which groups it used."""
        used = list(used)
        in_update = {group.prompt_index for group in used}
        groups = {group.prompt_index: group for group in [*used, *fresh]}
        lines: list[str] = []
        for group in groups.values():
            row = group_row(group, used=group.prompt_index in in_update)
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        path = self._file("rollouts", step, ".jsonl.gz")
        # No time and no file name inside, so that equal steps give equal bytes.
        with (
            path.open("wb") as raw,
            gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as file,
        ):
            # the name of a picture need not be UTF-8
            file.write("".join(lines).encode("utf-8", "backslashreplace"))
        for group in list(groups.values())[:IMAGES_PER_STEP]:
            self._keep_images(group)

    def dump(self, step: int, reason: str, groups: Iterable[Group]) -> Path:
        """Keep the batch of a step that went wrong, for inspection."""
        path = self._file("bad_steps", step, ".json")
        rows = [group_row(group, used=True) for group in groups]
        content = {"step": step, "reason": reason, "groups": rows}
        path.write_text(json.dumps(content))
        return path

    def rewind(self, step: int) -> None:
        """Delete what was written after a checkpoint's step; only the main process does."""
        if self.rank:
            return
        for path in (self.path / "rollouts").glob("*.jsonl.gz"):
            if int(path.name.split(".")[0]) > step:
                path.unlink()
        _rewind_lines(self.path / "metrics.jsonl", step)
        self._lost.clear()
        for row in _rewind_lines(self.left_out_path, step):
            if row["step"]:
                self._lost.add((row["source"], row["id"]))

    def _file(self, folder: str, step: int, suffix: str) -> Path:
        """Return this process's own file of a step, in a folder that exists."""
        own = f".rank{self.rank}" if self.rank else ""
        path = self.path / folder / f"{step:06d}{own}{suffix}"
        path.parent.mkdir(exist_ok=True)
        return path

    def _keep_images(self, group: Group) -> None:
        for image in group.prompt.sample.images:
            if isinstance(image, bytes):
                path = self.path / "images" / image_name(image)
                path.parent.mkdir(exist_ok=True)
                if not path.exists():
                    path.write_bytes(image)


def left_out_rows(run: Path) -> list[tuple[int, LeftOut]]:
    """Return the rows that a run does not use, each with the step that lost it; 0 = reading."""
    path = run / LEFT_OUT
    if not path.exists():
        return []
    found: list[tuple[int, LeftOut]] = []
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:  # the last may be cut off
        row = json.loads(line)
        found.append((row.pop("step"), LeftOut(**row)))
    return found


def _append_left_out(path: Path, step: int, rows: Iterable[LeftOut]) -> None:
    lines: list[str] = []
    for row in rows:
        line = {"step": step, **row._asdict()}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    if not lines:
        return
    # half a surrogate pair, which no file can hold, becomes a question mark
    with path.open("a", encoding="utf-8", errors="replace") as file:
        file.write("".join(lines))


def _rewind_lines(path: Path, step: int) -> list[dict[str, Any]]:
    """Delete the lines of a file that were written after a step; return the other ones."""
    if not path.exists():
        return []
    kept: list[str] = []
    rows: list[dict[str, Any]] = []
    # not splitlines(): a reason may contain other line separators of Unicode
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:  # the last may be cut off
        row = json.loads(line)
        if row["step"] <= step:
            kept.append(line + "\n")
            rows.append(row)
    path.write_text("".join(kept), encoding="utf-8")
    return rows


def refuse_to_overwrite(folder: Path) -> None:
    """Check that a new run may be written here.

    A run that was killed before it saved anything may be written over.

    Raises:
        UserError: there is a run already.
    """
    if any((folder / "checkpoints").glob("*/state.json")) or (folder / "metrics.jsonl").exists():
        raise UserError(
            f"{folder} holds a run already; continue it with `gpg-vl train --resume {folder}`, or "
            "choose another `name=`"
        )


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


def write_header(folder: Path, config_yaml: str, environment: Mapping[str, Any]) -> None:
    """Write what is run and where, before the first step or when a run is resumed."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(config_yaml)
    (folder / "environment.json").write_text(json.dumps(environment, indent=1) + "\n")


def group_row(group: Group, *, used: bool) -> dict[str, Any]:
    """Return a group as JSON: the question once, then every answer with its verdict.

    The reward of an answer whose verifier failed is NaN, which JSON does not have: it is null.
    """
    sample = group.prompt.sample
    images: list[str] = []
    for image in sample.images:
        images.append(image_name(image) if isinstance(image, bytes) else str(image))
    answers: list[dict[str, Any]] = []
    for completion, verdict in zip(group.completions, group.verdicts, strict=True):
        answer = {
            "text": completion.text,
            "token_ids": completion.token_ids,
            "logprobs": completion.logprobs,
            "finish": completion.finish,
            "version": completion.version,
            "reward": verdict.reward,
            "parts": dict(verdict.parts),
            "answer": verdict.answer,
            "reason": verdict.reason,
        }
        answers.append(answer)
    row = {
        "draw": group.prompt_index,
        "used": used,
        "id": sample.id,
        "question": sample.question,
        "truth": sample.answer,
        "tags": dict(sample.tags),
        "images": images,
        "answers": answers,
    }
    return _json_value(row)


def image_name(image: bytes) -> str:
    """Return a file name made of the content, so that equal images are kept once."""
    suffix = "image"
    for first_bytes, kind in IMAGE_KINDS.items():
        if image.startswith(first_bytes):
            suffix = kind
    return f"{hashlib.sha256(image).hexdigest()[:16]}.{suffix}"


def config_folder(run: Path) -> Path:
    """Return the folder of the config that a run was started from.

    Its relative files and plug-ins are named from there.
    """
    return Path(read_environment(run)["config_folder"])


def read_environment(run: Path) -> dict[str, Any]:
    """Read where a run ran: versions, machine, threads."""
    return json.loads((run / "environment.json").read_text())


def environment(**more: Any) -> dict[str, Any]:
    """Return where this process runs, as far as exact resume depends on it."""
    packages = {name: _version(name) for name in PACKAGES}
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: found for name, found in packages.items() if found},
        **more,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


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


def newest_policy(model: Path) -> Path | None:
    """Return the newest policy of a run folder; None if the path is no run folder.

    Raises:
        UserError: the run holds no checkpoint.
    """
    if not (model / "config.yaml").is_file():
        return None
    return newest_checkpoint(model) / "policy"


def complete_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints that were written to their end, oldest first."""
    folders = [path.parent for path in (run / "checkpoints").glob("*/state.json")]
    return sorted(folder for folder in folders if folder.name.isdigit())


def _json_value(value: Any) -> Any:
    """Return the same with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        mapping = cast(Mapping[str, Any], value)
        return {key: _json_value(inner) for key, inner in mapping.items()}
    if isinstance(value, list | tuple):
        return [_json_value(inner) for inner in cast(Sequence[Any], value)]
    return value
