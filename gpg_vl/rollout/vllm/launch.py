"""The command that serves a policy with a stock vLLM, started as `rollout.engine: server` needs it."""

import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gpg_vl.config.schema import Part, PolicyConfig
from gpg_vl.errors import UserError
from gpg_vl.policy.load import load_policy
from gpg_vl.policy.model_folder import find_model, is_here
from gpg_vl.rollout.vllm.plugin import BACKEND, FOLDER_VARIABLE
from gpg_vl.rollout.vllm.weight_files import HANDOVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A process to become."""

    arguments: tuple[str, ...]
    environment: dict[str, str]

    def __str__(self) -> str:
        settings = (f"{name}={shlex.quote(value)}" for name, value in self.environment.items())
        return " ".join([*settings, shlex.join(self.arguments)])

    def replace_this_process(self) -> None:
        """Become it.

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
    """How to serve a config's policy.

    Args:
        folder: where a tiny model, which is nowhere yet, is written.
        window: longest prompt and completion together.
        transfer: file | nccl, as in the trainer's engine.
        handover: the folder that weights are taken from.
        more: further arguments for vLLM.
    """
    model = _model(policy, seed, folder)
    limits = {"min_pixels": policy.min_pixels, "max_pixels": policy.max_pixels}
    given = {name: pixels for name, pixels in limits.items() if pixels and policy.model != "tiny"}
    return Command(
        arguments=(
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--host", host, "--port", str(port)),
            *("--dtype", policy.dtype, "--max-model-len", str(window), "--limit-mm-per-prompt", '{"image": 8, "video": 0}'),
            *("--logprobs-mode", "processed_logprobs", "--generation-config", "vllm", "--enable-scale-out"),
            *("--weight-transfer-config", json.dumps({"backend": BACKEND if transfer == "file" else transfer})),
            *(("--mm-processor-kwargs", json.dumps(given)) if given else ()),
            *(() if torch.cuda.is_available() else ("--no-enable-chunked-prefill", "--max-num-batched-tokens", str(window))),  # request.py
            *more,
        ),
        environment={"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1", FOLDER_VARIABLE: handover},
    )


def server_options(engine: Part) -> tuple[str, str, tuple[str, ...]]:
    """How weights travel to a config's servers, through which folder, and what vLLM must be told so that it can sleep."""
    options = engine if isinstance(engine, dict) and engine.get("kind") == "server" else {}
    sleeping = ("--enable-sleep-mode",) if options.get("sleep") else ()
    return options.get("transfer", "file"), options.get("handover", HANDOVER), sleeping


def _model(policy: PolicyConfig, seed: int, folder: Path) -> str:
    """A folder that has been looked through, or a hub id; the tiny model is written first."""
    if policy.model == "tiny":
        load_policy(policy, seed=seed).save(folder)
        return str(folder)
    return str(find_model(policy.model)) if is_here(policy.model) else policy.model
