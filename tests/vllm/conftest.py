"""Real vLLM engines for the tests below, started once and shared: in this process, and servers
forked from a fork server.

Collected only where vllm can be imported. The CI stage that is about vLLM sets GPG_VL_NEEDS_VLLM,
so that there its absence is a failure.
"""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from gpg_vl import rollout
from gpg_vl.config import plugins
from gpg_vl.rollout.vllm.plugin import FOLDER_VARIABLE

HERE = Path(__file__).parent
HAS_VLLM = importlib.util.find_spec("vllm") is not None
assert HAS_VLLM or not os.environ.get("GPG_VL_NEEDS_VLLM"), (
    "this environment was made for vLLM, and vllm cannot be imported"
)
collect_ignore_glob = [] if HAS_VLLM else ["test_*.py"]
if not os.environ.get("GPG_VL_REAL"):  # a folder to fetch real weights into; CI names one
    collect_ignore_glob.append("test_real_weights.py")

SMALL = {"block_size": 32, "skip_mm_profiling": True}
"""Blocks short enough that the prefix cache knows every prompt, as it does in real runs."""
IN_PROCESS = {"kind": "vllm", "window": 512, "cache_gib": 0.0625, "rows": 32, "options": SMALL}
ARGUMENTS = (
    *(
        "--host",
        "127.0.0.1",
        "--dtype",
        "float32",
        "--max-model-len",
        "512",
        "--max-num-seqs",
        "32",
        "--enforce-eager",
    ),
    *(
        "--limit-mm-per-prompt",
        '{"image": 8, "video": 0}',
        "--skip-mm-profiling",
        "--block-size",
        "32",
    ),
    *("--no-enable-chunked-prefill", "--max-num-batched-tokens", "512"),
    *("--kv-cache-memory-bytes", str(2**26), "--logprobs-mode", "processed_logprobs"),
    *("--weight-transfer-config", '{"backend": "gpg_vl"}'),
)
USUAL = ("--generation-config", "vllm", "--enable-scale-out")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """vLLM warns about much, none of it is ours; and what ends an engine in this process comes
    last, for it ends the shared ones too."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore"))
    items.sort(key=lambda item: item.path == HERE / "test_real_weights.py")


class Served:
    """One server that can be killed and started again."""

    def __init__(self, fork_server: "ForkServer", model: Path, extra: tuple[str, ...]) -> None:
        self.fork_server = fork_server
        self.model = model
        self.extra = extra
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.pid = 0

    def start(self) -> None:
        self.pid = self.fork_server.fork(
            ["--model", str(self.model), "--port", str(self.port), *ARGUMENTS, *self.extra],
            f"{self.port}.log",
        )

    def kill(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)

    def wait(self) -> "Served":
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/health", timeout=5, trust_env=False).status_code == 200:
                    return self
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError(
            f"no server: {(self.fork_server.folder / f'{self.port}.log').read_text()[-2000:]}"
        )


class ForkServer:
    """Forks servers from a process that has imported vLLM."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.handover = folder / "handover"
        own = {
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
            FOLDER_VARIABLE: str(self.handover),
        }
        command = [sys.executable, "-W", "ignore", str(HERE / "fork_server.py")]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **own},
        )

    def fork(self, arguments: list[str], log: str) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(
            json.dumps({"arguments": arguments, "log": str(self.folder / log)}) + "\n"
        )
        self.process.stdin.flush()
        while not (line := self.process.stdout.readline()).strip().isdigit():
            assert line, "the fork server has died"
        return int(line)

    def close(self) -> None:
        self.process.communicate(timeout=30)  # its input ends, and it takes its servers with it


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    made = ForkServer(tmp_path_factory.mktemp("servers"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def serve(fork_server: ForkServer, checkpoints: Callable[[str], Path]) -> Callable[..., Served]:
    """Start a server of a tiny family, or of a checkpoint; not waited for."""

    def start(model: str | Path = "qwen2_5_vl", *extra: str) -> Served:
        served = Served(
            fork_server, checkpoints(model) if isinstance(model, str) else model, extra or USUAL
        )
        served.start()
        return served

    return start


def build(policy: Any, spec: dict[str, Any]) -> Any:
    return plugins.build(
        spec,
        rollout.ALIASES,
        base_dir=Path(),
        key="rollout.engine",
        given={"policy": policy, "log": lambda line: None},
    )


def server_spec(fork_server: ForkServer, *servers: Served, **more: Any) -> dict[str, Any]:
    return {
        "kind": "server",
        "servers": [served.url for served in servers],
        "handover": str(fork_server.handover),
        **more,
    }


class Shared:
    """An engine that several tests use, each with weights of its own: every test is also one of
    a weight update."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.version = 0

    def sampling_from(self, policy: Any) -> Any:
        self.version += 1
        self.engine.update_weights(policy, self.version)
        return self.engine


def move(policy: Any, seed: int, size: float = 0.02) -> None:
    """What an update does, only more of it: every trained weight changes."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn(parameter.shape, generator=draw))


@pytest.fixture(scope="session")
def shared(
    request: pytest.FixtureRequest,
    checkpoints: Callable[[str], Path],
    fork_server: ForkServer,
    serve: Callable[..., Served],
) -> Iterator[Any]:
    """`shared("server", "qwen3_vl")`: the engine of that kind for that family."""
    from gpg_vl.config.schema import PolicyConfig
    from gpg_vl.policy.load import load_policy

    kept: dict[tuple[str, str], Shared] = {}

    def engine(kind: str, family: str) -> Shared:
        if (kind, family) not in kept:
            policy = load_policy(PolicyConfig(vision="full"), seed=0, path=checkpoints(family))
            spec: dict[str, Any] = {
                "transformers": {"kind": "transformers"},
                "vllm": IN_PROCESS,
            }.get(kind, {})
            kept[kind, family] = Shared(
                build(
                    policy,
                    spec or server_spec(fork_server, hostile(serve, checkpoints(family)).wait()),
                )
            )
        return kept[kind, family]

    yield engine
    for one in kept.values():
        one.engine.close()


def hostile(serve: Callable[..., Served], checkpoint: Path) -> Served:
    """A server whose checkpoint asks for sampling of its own, as Qwen's do; started without
    --generation-config vllm, so it would obey."""
    wishes = json.loads((checkpoint / "generation_config.json").read_text())
    wishes |= {
        "do_sample": True,
        "temperature": 0.3,
        "top_p": 0.4,
        "top_k": 5,
        "repetition_penalty": 1.3,
        "max_new_tokens": 3,
    }
    (checkpoint / "generation_config.json").write_text(json.dumps(wishes))
    return serve(checkpoint, "--enable-scale-out")
