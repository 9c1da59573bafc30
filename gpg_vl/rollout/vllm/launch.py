"""Build the command that serves a policy with a stock vLLM for `rollout.engine: server`."""

import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpg_vl.config.schema import Part, PolicyConfig
from gpg_vl.errors import UserError
from gpg_vl.policy.load import load_policy
from gpg_vl.policy.model_folder import find_model, is_here
from gpg_vl.rollout.vllm.plugin import BACKEND, FOLDER_VARIABLE
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
    more: Sequence[str] = (),
) -> Command:
    """Return the command that serves a config's policy.

    Args:
        folder: where a tiny model, which has no checkpoint yet, is written.
        window: maximum tokens of prompt and completion together.
        transfer: file | nccl, as in the trainer's engine.
        handover: the folder of weight files.
        more: further arguments for vLLM.
    """
    # None marks a flag without a value.
    options: dict[str, str | None] = {
        "--model": _model(policy, seed, folder),
        "--host": host,
        "--port": str(port),
        "--dtype": policy.dtype,
        "--max-model-len": str(window),
        "--limit-mm-per-prompt": json.dumps({"image": 8, "video": 0}),
        "--logprobs-mode": "processed_logprobs",
        "--generation-config": "vllm",
        "--enable-scale-out": None,
        "--weight-transfer-config": json.dumps({"backend": _backend(transfer)}),
    }
    pixels = _pixel_limits(policy)
    if pixels:
        options["--mm-processor-kwargs"] = json.dumps(pixels)
    if not torch.cuda.is_available():  # see `protocol.whole_prompts`
        options["--no-enable-chunked-prefill"] = None
        options["--max-num-batched-tokens"] = str(window)
    arguments = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    for name, value in options.items():
        arguments.append(name)
        if value is not None:
            arguments.append(value)
    environment = {
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        FOLDER_VARIABLE: handover,
    }
    return Command(arguments=(*arguments, *more), environment=environment)


def _backend(transfer: str) -> str:
    return BACKEND if transfer == "file" else transfer


def _pixel_limits(policy: PolicyConfig) -> dict[str, int]:
    """Return the pixel limits that vLLM must apply; a tiny model's are in its written processor."""
    limits: dict[str, int] = {}
    if policy.model == "tiny":
        return limits
    if policy.min_pixels:
        limits["min_pixels"] = policy.min_pixels
    if policy.max_pixels:
        limits["max_pixels"] = policy.max_pixels
    return limits


def server_options(engine: Part) -> tuple[str, str, tuple[str, ...]]:
    """Return what the servers of a config need to be started with.

    Args:
        engine: `rollout.engine` of the config.

    Returns:
        The transfer (file | nccl), the folder of weight files, and vLLM's arguments for sleeping.
    """
    options: dict[str, Any] = {}
    if isinstance(engine, dict) and engine.get("kind") == "server":
        options = engine
    sleeping: tuple[str, ...] = ()
    if options.get("sleep"):
        sleeping = ("--enable-sleep-mode",)
    return options.get("transfer", "file"), options.get("handover", HANDOVER), sleeping


def _model(policy: PolicyConfig, seed: int, folder: Path) -> str:
    """Return a checked checkpoint folder or a hub id; a tiny model is written first."""
    if policy.model == "tiny":
        load_policy(policy, seed=seed).save(folder)
        return str(folder)
    if is_here(policy.model):
        return str(find_model(policy.model))
    return policy.model
