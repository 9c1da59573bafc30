"""Write weights for servers into a folder: one file for all servers of a process, removed when
they have answered.
"""

import os
import secrets
import shutil
import socket
import stat
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from gpg_vl.errors import EngineLostError, UserError
from gpg_vl.policy.load import Policy
from gpg_vl.rollout.vllm.weights import HEAD, Weights, checksums, trainable_weights

HANDOVER = f"/dev/shm/gpg_vl-{os.getuid()}"
"""Default folder of weight files for servers on this machine: in memory, private to this user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFile:
    """A safetensors file of weights for a server."""

    path: Path
    names: tuple[str, ...]
    """Names of its tensors."""
    checksums: dict[str, str]
    """SHA-256 of each tensor; empty = without checksums."""


class WeightFiles:
    """The weight files of one process in a folder.

    Raises:
        UserError: the folder cannot be made, or other users can read it or write to it.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        # The names begin with host and process, so that files of killed processes can be found.
        self._prefix = f"{socket.gethostname()}-{os.getpid()}-"
        self._files: dict[tuple[bool, bool], WeightFile] = {}
        self._lock = threading.Lock()
        _make_private(self.folder)
        _remove_orphans(self.folder)

    def get(self, policy: Policy, *, include_frozen: bool, with_checksums: bool) -> WeightFile:
        """Return a file of the present weights; write it at the first call after `remove`.

        Args:
            include_frozen: all tensors, not only those that are trained.
            with_checksums: the server compares the tensors with their checksums.

        Raises:
            EngineLostError: the folder has not enough space.
        """
        key = (include_frozen, with_checksums)
        with self._lock:
            if key not in self._files:
                weights = trainable_weights(policy, include_frozen=include_frozen)
                self._files[key] = self._write(weights, with_checksums)
            return self._files[key]

    def remove(self) -> None:
        """Delete all files; the next `get` writes the weights anew."""
        with self._lock:
            for file in self._files.values():
                file.path.unlink(missing_ok=True)
            self._files.clear()

    def _write(self, weights: Weights, with_checksums: bool) -> WeightFile:
        size = weights.size
        free = shutil.disk_usage(self.folder).free
        problem = (
            f"rollout.engine.handover: {self.folder} has {free / 2**30:.2f} GiB left, the weights "
            f"need {size / 2**30:.2f}"
        )
        remedy = "make room there, or name another folder here and to the servers (GPG_VL_HANDOVER)"
        if size > free:
            raise EngineLostError(f"{problem}; {remedy}")
        path = self.folder / f"{self._prefix}{secrets.token_hex(4)}.safetensors"
        tensors = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
        if HEAD in tensors:
            # A tied head shares the memory of the embedding, which safetensors refuses to write.
            tensors[HEAD] = tensors[HEAD].clone()
        try:
            save_file(tensors, path)
        except (SafetensorError, OSError) as error:
            path.unlink(missing_ok=True)
            raise EngineLostError(f"{problem}: {error}; {remedy}") from None
        sums = checksums(tensors) if with_checksums else {}
        return WeightFile(path=path, names=tuple(weights), checksums=sums)


def _make_private(folder: Path) -> None:
    """Make the folder if needed, and check that only this user can enter it.

    Raises:
        UserError: it cannot be made, or others can enter it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise UserError(
            f"rollout.engine.handover: {folder} cannot be made: {error.strerror}; name a folder of "
            "your own"
        ) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UserError(
            f"rollout.engine.handover: {folder} is a link or belongs to another user; name a folder"
            " of your own"
        )
    if found.st_mode & 0o077:
        raise UserError(
            f"rollout.engine.handover: other users may enter {folder}, and change weights there; "
            f"chmod 700 {folder}"
        )


def _remove_orphans(folder: Path) -> None:
    """Delete weight files of processes of this machine that were killed."""
    host = socket.gethostname()
    for path in folder.glob(f"{host}-*-*.safetensors"):
        process = path.name.removeprefix(f"{host}-").partition("-")[0]
        if process.isdigit() and not Path(f"/proc/{process}").exists():
            with suppress(FileNotFoundError):  # another process of this run may be quicker
                path.unlink()
