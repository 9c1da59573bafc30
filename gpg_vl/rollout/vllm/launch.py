"""Build the command that serves a policy with a stock vLLM for `rollout.engine: server`."""

import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gpg_vl.config.models import TINY
from gpg_vl.config.paths import check_writable
from gpg_vl.config.schema import Part, PolicyConfig
from gpg_vl.errors import UserError
from gpg_vl.policy.adapter_files import is_adapter
from gpg_vl.policy.load import load_policy
from gpg_vl.policy.model_folder import find_model, is_here, locate
from gpg_vl.rollout.vllm.plugin import BACKEND, FOLDER_VARIABLE
from gpg_vl.rollout.vllm.protocol import MAX_IMAGES, shared_options, whole_prompts
from gpg_vl.rollout.vllm.weight_files import HANDOVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command line and its environment; `str` gives a line for a shell."""

    arguments: tuple[str, ...]
    environment: dict[str, str]

    def __str__(self) -> str:
        settings = (f"{name}={shlex.quote(value)}" for name, value in self.environment.items())
        return " ".join([*settings, shlex.join(self.arguments)])

    def replace_this_process(self) -> None:
        """Run the command in place of this process (exec).

        Raises:
            UserError: vllm is not installed.
        """
        if importlib.util.find_spec("vllm") is None:
            raise UserError("serve: vllm is not installed; pip install 'gpg-vl[vllm]'")
        os.execve(self.arguments[0], self.arguments, {**os.environ, **self.environment})


def vllm_command(
    policy: PolicyConfig,
    *,
    seed: int,
    folder: Path,
    host: str,
    port: int,
    window: int,
    transfer: str,
    handover: str,
    images: int = MAX_IMAGES,
    more: Sequence[str] = (),
) -> Command:
    """Return the command that serves a config's policy.

    Args:
        folder: where the model is written if no folder holds it (`needs_writing`).
        window: maximum tokens of prompt and completion together.
        transfer: file | nccl, as in the trainer's engine.
        handover: the folder of weight files.
        images: maximum number of images of one prompt.
        more: further arguments for vLLM.
    """
    backend = BACKEND if transfer == "file" else transfer
    options: dict[str, Any] = {
        "model": _model(policy, seed, folder),
        "host": host,
        "port": port,
        "dtype": policy.dtype,
        "max_model_len": window,
        **shared_options(images),
        "enable_scale_out": True,
        "weight_transfer_config": {"backend": backend},
    }
    pixels = _pixel_limits(policy)
    if pixels:
        options["mm_processor_kwargs"] = pixels
    if not torch.cuda.is_available():
        options |= whole_prompts(window)
    arguments = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    for name, value in options.items():
        arguments += _as_arguments(name, value)
    environment = {
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        FOLDER_VARIABLE: handover,
    }
    return Command(arguments=(*arguments, *more), environment=environment)


def _as_arguments(name: str, value: Any) -> list[str]:
    """Return an option of `vllm.LLM` as its command line takes it."""
    name = name.replace("_", "-")
    if isinstance(value, bool):  # a flag has no value
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, dict):
        value = json.dumps(value)
    return [f"--{name}", str(value)]


def _pixel_limits(policy: PolicyConfig) -> dict[str, int]:
    """Return the pixel limits that vLLM must apply; a tiny model's are in its written processor."""
    limits: dict[str, int] = {}
    if policy.model == TINY:
        return limits
    if policy.min_pixels:
        limits["min_pixels"] = policy.min_pixels
    if policy.max_pixels:
        limits["max_pixels"] = policy.max_pixels
    return limits


class ServerOptions(NamedTuple):
    """Options that the servers of a config need to be started with."""

    transfer: str = "file"
    """file | nccl."""
    handover: str = HANDOVER
    """Folder of weight files."""
    images: int = MAX_IMAGES
    """Maximum number of images of one prompt."""
    sleeping: tuple[str, ...] = ()
    """Arguments of vLLM for sleeping."""


def server_options(engine: Part) -> ServerOptions:
    """Return what the servers of a config need to be started with.

    Args:
        engine: `rollout.engine` of the config.
    """
    options: dict[str, Any] = {}
    if isinstance(engine, dict) and engine.get("kind") == "server":
        options = engine
    sleeping: tuple[str, ...] = ()
    if options.get("sleep"):
        sleeping = ("--enable-sleep-mode",)
    names = {"transfer", "handover", "images"} & options.keys()
    return ServerOptions(**{name: options[name] for name in names}, sleeping=sleeping)


def _model(policy: PolicyConfig, seed: int, folder: Path) -> str:
    """Return a checked checkpoint folder or a hub id; what no folder holds alone is written first.

    Adapters that are trained come with the first weight sync; their base model is served.
    """
    if needs_writing(policy):
        check_writable(folder, "folder")
        load_policy(policy, seed=seed).save_whole(folder, merged=False)
        return str(folder)
    if is_here(policy.model) or _is_adapter_of_hub(policy.model):
        return str(find_model(policy.model).folder)
    return policy.model  # a hub id is left to vLLM


def needs_writing(policy: PolicyConfig) -> bool:
    """Return True if no folder holds the model that is served.

    It is tiny, an adapter is merged into it for good, or the files of an adapter lie beside it,
    which vLLM would read too.
    """
    if policy.model == TINY:
        return True
    if not is_here(policy.model) and not _is_adapter_of_hub(policy.model):
        return False
    files = find_model(policy.model)
    if files.adapter is None:
        return False
    return not policy.trains_adapters or files.adapter.folder == files.folder


def _is_adapter_of_hub(name: str) -> bool:
    """Return True if a hub id is that of an adapter; its small files are fetched for that."""
    try:
        return is_adapter(locate(name, weights=False))
    except UserError:  # the command may be for a machine that reaches the hub
        return False
