"""Keep warmed-up policies beside the runs, so that each warm-up is trained once.

A policy is found by a digest of everything that its warm-up depends on.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from gpg_vl import __version__
from gpg_vl.config.models import TINY
from gpg_vl.config.schema import Config
from gpg_vl.data.dataset import Dataset, fingerprint
from gpg_vl.policy.load import Policy
from gpg_vl.policy.model_folder import find_model, weights_digest
from gpg_vl.run_folder.json_lines import json_text, read_rows

DEPENDS_ON = {"seed", "data", "prompt", "policy", "verifiers", "reward", "warmup"}
"""Sections of a config that change a warm-up."""
LOSSES = "warmup.jsonl"
"""Name of the file beside a policy that holds the losses of its warm-up."""


def cache_path(config: Config, data: Dataset) -> Path:
    """Return where this config's warmed-up policy is kept.

    The digest covers the knobs, the content of every file that they name, the rows with their
    pictures, the files of the model, and the weights of its base model if it is an adapter.

    Args:
        data: samples of the warm-up.

    Raises:
        UserError: the model cannot be found.
    """
    knobs = config.model_dump(mode="json", include=DEPENDS_ON)
    # a longer solution is left out
    parts: list[Any] = [__version__, knobs, config.rollout.max_tokens, fingerprint(data.sources)]
    base_dir = config.base_dir
    if config.policy.model != TINY:
        model = find_model(config.policy.model)
        for file in sorted((model.adapter or model).folder.iterdir()):
            if file.is_file():  # no folder, and no link that leads nowhere
                parts.append([file.name, file.stat().st_size, file.stat().st_mtime_ns])
        parts.append(weights_digest(model.folder))
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for name in sorted(_strings(knobs)):
        # "./rewards.py:Stars" names a file before the colon
        for path in (base_dir / name.rpartition(":")[0], base_dir / name, Path(name)):
            if path.is_file():
                digest.update(path.read_bytes())
    return config.runs_path / "warmups" / digest.hexdigest()[:12]


def is_cached(path: Path) -> bool:
    """Return True if a complete policy is there."""
    return (path / "config.json").exists()


def losses(path: Path) -> list[dict[str, Any]]:
    """Return the losses of the warm-up that a policy was made by; none if they were not kept."""
    return read_rows(path / LOSSES)


def store(policy: Policy, path: Path, losses: Sequence[Mapping[str, Any]] = ()) -> None:
    """Write a policy aside, then rename it; another run may have been faster.

    Args:
        losses: a row of each step of the warm-up, kept beside the policy.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(mkdtemp(prefix=f"{path.name}.", dir=path.parent))
    policy.save(aside)
    (aside / LOSSES).write_text("".join(json_text(row) + "\n" for row in losses))
    try:
        aside.rename(path)
    except OSError:
        if not is_cached(path):
            raise
        shutil.rmtree(aside)


def _strings(value: Any) -> Iterator[str]:
    """Yield every string of a nested config: each may name a file."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
