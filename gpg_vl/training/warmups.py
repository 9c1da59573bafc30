"""Warm-ups are kept beside the runs, under a digest of everything they depend on, so each runs once."""

import hashlib
import json
import shutil
from pathlib import Path

from gpg_vl import __version__
from gpg_vl.config import Config
from gpg_vl.policy.load import Policy


def place(config: Config) -> Path:
    """Where this config's warmed-up policy is kept."""
    depends = config.model_dump(mode="json", include={"seed", "data", "prompt", "policy", "verifiers", "reward", "warmup"})
    digest = hashlib.sha256(json.dumps([__version__, depends], sort_keys=True).encode()).hexdigest()[:12]
    return Path(config.folder) / "warmups" / digest


def exists(folder: Path) -> bool:
    """Whether a whole one is there."""
    return (folder / "config.json").exists()


def keep(policy: Policy, folder: Path) -> None:
    """Write it aside, then rename."""
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    policy.save(aside)
    aside.rename(folder)
