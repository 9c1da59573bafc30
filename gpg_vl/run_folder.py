"""The run folder: what was configured, where it ran, what every step drew and did.

    runs/<name>/  config.yaml  environment.json  metrics.jsonl  rollouts/000051.jsonl.gz  images/  checkpoints/  evaluation/

Append-only logs; one rollouts file per step. Numbers are made here from the groups and the update, so the loop holds no metrics code.
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
from typing import Any, cast

from gpg_vl.errors import UserError
from gpg_vl.types import Group

Callback = Callable[[int, Mapping[str, float]], None]
"""Told the metrics of each step: a display, a tracker."""
PACKAGES = ("gpg_vl", "torch", "transformers", "accelerate", "numpy", "pillow", "tokenizers", "torchvision", "vllm")
IMAGES_PER_STEP = 2
"""Pictures that came as bytes are kept for so many groups of a step; a row names the picture whether kept or not."""
IMAGE_KINDS = {b"\x89PNG": "png", b"\xff\xd8": "jpg", b"RIFF": "webp", b"GIF8": "gif"}


class RunFolder:
    """Writes a run folder."""

    def __init__(self, folder: Path, sinks: Sequence[Callback] = (), rank: int = 0) -> None:
        self.folder = folder
        self.sinks = sinks
        self.rank = rank

    def metrics(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append one row and tell the sinks; the main process does."""
        if self.rank:
            return
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(_plain({"step": step, **numbers})) + "\n")
        for sink in self.sinks:
            sink(step, numbers)

    def rollouts(self, step: int, used: Iterable[Group], fresh: Iterable[Group]) -> None:
        """Write what a step drew and which groups it used."""
        in_update = {group.draw for group in used}
        drawn = {group.draw: group for group in [*used, *fresh]}
        path = self.folder / "rollouts" / (f"{step:06d}.rank{self.rank}.jsonl.gz" if self.rank else f"{step:06d}.jsonl.gz")
        path.parent.mkdir(exist_ok=True)
        rows = [json.dumps(_plain(group_row(group, used=group.draw in in_update)), ensure_ascii=False) for group in drawn.values()]
        with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as file:
            file.write("".join(row + "\n" for row in rows).encode())
        for group in list(drawn.values())[:IMAGES_PER_STEP]:
            self._keep_images(group)

    def dump(self, step: int, reason: str, groups: Iterable[Group]) -> Path:
        """Keep the batch of a step that went wrong, for whoever looks into it."""
        path = self.folder / "bad_steps" / (f"{step:06d}.rank{self.rank}.json" if self.rank else f"{step:06d}.json")
        path.parent.mkdir(exist_ok=True)
        rows = [group_row(group, used=True) for group in groups]
        path.write_text(json.dumps(_plain({"step": step, "reason": reason, "groups": rows})))
        return path

    def rewind(self, step: int) -> None:
        """Drop whatever was written after a checkpoint's step; the main process does."""
        if self.rank:
            return
        for path in (self.folder / "rollouts").glob("*.jsonl.gz"):
            if int(path.name.split(".")[0]) > step:
                path.unlink()
        log = self.folder / "metrics.jsonl"
        if log.exists():
            kept = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n") and json.loads(line)["step"] <= step]
            log.write_text("".join(kept))

    def _keep_images(self, group: Group) -> None:
        for image in group.prompt.sample.images:
            if isinstance(image, bytes):
                path = self.folder / "images" / image_name(image)
                path.parent.mkdir(exist_ok=True)
                if not path.exists():
                    path.write_bytes(image)


def refuse_to_overwrite(folder: Path) -> None:
    """Make sure that a new run may be written here. One that was killed before it saved anything is in nobody's way.

    Raises:
        UserError: there is a run already, or the folder cannot be made.
    """
    if any((folder / "checkpoints").glob("*/state.json")) or (folder / "metrics.jsonl").exists():
        raise UserError(f"{folder} holds a run already; continue it with `gpg-vl train --resume {folder}`, or choose another `name=`")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"folder: {folder} cannot be made: {error.strerror}; choose another `folder=`") from None


def write_header(folder: Path, config: str, environment: Mapping[str, Any]) -> None:
    """Write down what is run and where, before the first step or when a run goes on."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(config)
    (folder / "environment.json").write_text(json.dumps(environment, indent=1) + "\n")


def group_row(group: Group, *, used: bool) -> dict[str, Any]:
    """A group as JSON: the question once, then every answer with its verdict."""
    sample = group.prompt.sample
    images = [image_name(image) if isinstance(image, bytes) else str(image) for image in sample.images]
    answers = [
        {
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
        for completion, verdict in zip(group.completions, group.verdicts, strict=True)
    ]
    asked = {"id": sample.id, "question": sample.question, "truth": sample.answer, "tags": dict(sample.tags), "images": images}
    return {"draw": group.draw, "used": used, **asked, "answers": answers}


def image_name(image: bytes) -> str:
    """A file name that says what is inside, so equal images are kept once."""
    kind = next((name for write_header, name in IMAGE_KINDS.items() if image.startswith(write_header)), "image")
    return f"{hashlib.sha256(image).hexdigest()[:16]}.{kind}"


def config_folder(run: Path) -> Path:
    """The folder of the config that a run was started from: its relative files and plug-ins are named from there."""
    return Path(read_environment(run)["config_folder"])


def read_environment(run: Path) -> dict[str, Any]:
    """Where a run ran."""
    return json.loads((run / "environment.json").read_text())


def _plain(value: Any) -> Any:
    """The same for JSON, which knows no NaN and no infinity: null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in cast(Mapping[str, Any], value).items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in cast(Sequence[Any], value)]
    return value


def environment(**more: Any) -> dict[str, Any]:
    """Where a run runs: versions, machine, threads; what exact resume depends on."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        **more,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def newest_checkpoint(run: Path) -> Path:
    """The newest whole checkpoint of a run.

    Raises:
        UserError: there is none.
    """
    kept = complete_checkpoints(run)
    if not kept:
        raise UserError(f"{run} holds no checkpoint to resume from; delete the folder and start again, or choose another")
    return kept[-1]


def complete_checkpoints(run: Path) -> list[Path]:
    """Checkpoints that were written to their end, oldest first."""
    return sorted(path.parent for path in (run / "checkpoints").glob("*/state.json") if path.parent.name.isdigit())
