"""Write down where a run runs: versions, machine, and how it was started each time."""

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpg_vl.config.paths import write_whole
from gpg_vl.run_folder.json_lines import json_text, now

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
GIT_SECONDS = 5.0
"""Longest wait for git to say which commit the working directory is at."""
_CPU_INFO = Path("/proc/cpuinfo")
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def write_header(
    folder: Path, config_yaml: str, environment: Mapping[str, Any], *, is_resumed: bool = False
) -> dict[str, Any]:
    """Write what is run and where, before the first step or when a run is resumed.

    A run that is killed just then can be resumed: each file is the old one or the new.

    Args:
        is_resumed: this start is added to those that the run had; else it is the first.

    Returns:
        The environment, with all starts.
    """
    folder.mkdir(exist_ok=True)
    earlier = read_environment(folder).get("starts", []) if is_resumed else []
    content = {**environment, "starts": [*earlier, *environment.get("starts", [])]}
    write_whole(folder / "config.yaml", config_yaml)
    write_whole(folder / "environment.json", json_text(content, indent=1) + "\n")
    return content


def read_environment(run: Path) -> dict[str, Any]:
    """Read where a run ran: versions, machine, threads, starts."""
    return json.loads((run / "environment.json").read_text())


def environment(**more: Any) -> dict[str, Any]:
    """Return where this process runs.

    Exact resume depends on a part of it, which `training.resume_check` names.
    """
    packages = {name: _version(name) for name in PACKAGES}
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: found for name, found in packages.items() if found},
        "cpu": _cpu_model(),
        "cores": _cores(),
        "memory_gb": _memory_gb(),
        "driver": _nvidia_driver(),
        **more,
        "starts": [_this_start()],
    }


def _this_start() -> dict[str, str]:
    """Return when and how this process was started, and the commit of its working directory.

    The command is what a shell takes; no environment variable is written down, since some hold
    keys.
    """
    start = {"time": now(), "command": shlex.join(sys.orig_argv), "directory": str(Path.cwd())}
    commit = _git_commit()
    return {**start, "git": commit} if commit else start


def _git_commit() -> str:
    """Return the commit of the working directory, with `-dirty` if files differ from it.

    Empty = it is no git repository, or git is not installed or too slow.
    """
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else done.stdout.strip()


def _cpu_model() -> str:
    """Return the name of the CPU, as far as the system says it."""
    if _CPU_INFO.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", _CPU_INFO.read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def _cores() -> int | None:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory_gb() -> float | None:
    """Return the memory of the machine in GB (10^9 bytes); None = the system does not say."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    return round(size / 1e9, 1)


def _nvidia_driver() -> str | None:
    """Return the version of the NVIDIA driver; None = there is none."""
    if not _NVIDIA_DRIVER.exists():
        return None
    found = re.search(r"\b\d+\.\d+(?:\.\d+)?\b", _NVIDIA_DRIVER.read_text())
    return found[0] if found else None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
