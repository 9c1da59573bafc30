"""Warm-ups are kept beside the runs, under a digest of everything they depend on, so each runs once."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from gpg_vl import __version__
from gpg_vl.config.schema import Config
from gpg_vl.policy.load import Policy


def cache_path(config: Config, folder: Path) -> Path:
    """Where this config's warmed-up policy is kept: its words, and the content of every file that they name.

    Args:
        folder: the config's own.
    """
    depends = config.model_dump(mode="json", include={"seed", "data", "prompt", "policy", "verifiers", "reward", "warmup"})
    digest = hashlib.sha256(json.dumps([__version__, depends], sort_keys=True).encode())
    for name in sorted(_names(depends)):
        for path in (folder / name.rpartition(":")[0], folder / name, Path(name)):
            if path.is_file():
                digest.update(path.read_bytes())
    return Path(config.folder) / "warmups" / digest.hexdigest()[:12]


def is_cached(kept: Path) -> bool:
    """Whether a whole one is there."""
    return (kept / "config.json").exists()


def store(policy: Policy, kept: Path) -> None:
    """Write it aside, then rename; another run may have been faster."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(mkdtemp(prefix=f"{kept.name}.", dir=kept.parent))
    policy.save(aside)
    try:
        aside.rename(kept)
    except OSError:
        if not is_cached(kept):
            raise
        shutil.rmtree(aside)


def _names(value: Any) -> Iterator[str]:
    """Every string of a nested config that may name a file."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (name for inner in value.values() for name in _names(inner))
    elif isinstance(value, list):
        yield from (name for inner in value for name in _names(inner))
