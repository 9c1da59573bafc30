"""The folder through which weights reach servers: one file for all servers of a process, gone when they have answered."""

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
from gpg_vl.rollout.vllm.weights import HEAD, checksums, trainable_weights

HANDOVER = f"/dev/shm/gpg_vl-{os.getuid()}"
"""Where weights are put for servers on this machine: in memory, readable by this user alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFile:
    """Weights on their way."""

    path: Path
    names: tuple[str, ...]
    checksums: dict[str, str]
    """SHA-256 of each tensor; empty = not sealed."""


class WeightFiles:
    """What a process has put into the folder.

    Raises:
        UserError: the folder cannot be made, or others can write into it or read from it.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.mark = f"{socket.gethostname()}-{os.getpid()}-"
        self._made: dict[tuple[bool, bool], WeightFile] = {}
        self._making = threading.Lock()
        _make_private(self.folder)
        _remove_orphans(self.folder)

    def of(self, policy: Policy, *, frozen_too: bool, sealed: bool) -> WeightFile:
        """The present weights; written when they are first asked for.

        Args:
            frozen_too: all tensors, not only those that train.
            sealed: with checksums.

        Raises:
            EngineLostError: there is no room for them.
        """
        with self._making:
            if (frozen_too, sealed) not in self._made:
                self._made[frozen_too, sealed] = self._make(policy, frozen_too, sealed)
            return self._made[frozen_too, sealed]

    def remove(self) -> None:
        """All servers have what they need."""
        with self._making:
            for parcel in self._made.values():
                parcel.path.unlink(missing_ok=True)
            self._made.clear()

    def _make(self, policy: Policy, frozen_too: bool, sealed: bool) -> WeightFile:
        weights = trainable_weights(policy, frozen_too=frozen_too)
        size, free = sum(it.numel() * weights.dtype.itemsize for it in weights.parameters.values()), shutil.disk_usage(self.folder).free
        told = f"rollout.engine.handover: {self.folder} has {free / 2**30:.2f} GiB left, the weights need {size / 2**30:.2f}"
        remedy = "make room there, or name another folder here and to the servers (GPG_VL_HANDOVER)"
        if size > free:
            raise EngineLostError(f"{told}; {remedy}")
        path = self.folder / f"{self.mark}{secrets.token_hex(4)}.safetensors"
        here = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
        try:
            save_file({name: tensor.clone() if name == HEAD else tensor for name, tensor in here.items()}, path)  # HEAD shares its memory
        except (SafetensorError, OSError) as error:
            path.unlink(missing_ok=True)
            raise EngineLostError(f"{told}: {error}; {remedy}") from None
        return WeightFile(path=path, names=tuple(weights), digests=checksums(here) if sealed else {})


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise UserError(f"rollout.engine.handover: {folder} cannot be made: {error.strerror}; name a folder of your own") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UserError(f"rollout.engine.handover: {folder} is a link or belongs to another user; name a folder of your own")
    if found.st_mode & 0o077:
        raise UserError(f"rollout.engine.handover: other users may enter {folder}, and change weights there; chmod 700 {folder}")


def _remove_orphans(folder: Path) -> None:
    """Files of processes of this machine that were killed."""
    for path in folder.glob(f"{socket.gethostname()}-*-*.safetensors"):
        process = path.name.removeprefix(f"{socket.gethostname()}-").partition("-")[0]
        if not Path(f"/proc/{process}").exists() and process.isdigit():
            with suppress(FileNotFoundError):  # another process of this run may be quicker
                path.unlink()
