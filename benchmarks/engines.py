"""The README's table of engines: seconds of one rollout phase through each of them, the same policy, questions and number of tokens.

    OMP_NUM_THREADS=1 python benchmarks/engines.py [--sizes tiny mid] [--repeats 3]

Needs vLLM. A phase is one `generate` of 16 groups of 8 with pictures, the median of the repeats after one that is not counted. A weight
hand-over is what one question with a word for an answer takes longer after an update. One thread for each process.
"""

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch

from gpg_vl import rollout
from gpg_vl.config import plugins
from gpg_vl.config.schema import PolicyConfig, Tiny
from gpg_vl.data.recipes.digits import digits
from gpg_vl.policy.encode import encode
from gpg_vl.policy.load import Policy, load_policy
from gpg_vl.prompts import AnswerOnly
from gpg_vl.rollout.engine import RolloutEngine, Sampling
from gpg_vl.rollout.vllm.launch import vllm_command
from gpg_vl.types import Prompt

SIZES = {
    "tiny": Tiny(),
    "mid": Tiny(hidden=512, layers=12, vision_hidden=256, vision_layers=6),
}
GROUPS, GROUP_SIZE, TOKENS = 16, 8, 64
PORT = 8017


@contextmanager
def engine_of(kind: str, policy: Policy, config: PolicyConfig, folder: Path) -> Generator[RolloutEngine, None, None]:
    """An engine by name; with `server`, the server too."""
    specs: dict[str, dict[str, Any]] = {
        "transformers": {"kind": "transformers"},
        "vllm": {"kind": "vllm", "window": 1024, "cache_gib": 0.5},
        "server": {"kind": "server", "servers": [f"http://127.0.0.1:{PORT}"], "handover": str(folder / "handover")},
    }
    with served(config, folder) if kind == "server" else nothing():
        given = {"policy": policy, "say": lambda line: None}
        with closing(plugins.build(specs[kind], rollout.ALIASES, folder=Path(), key="rollout.engine", given=given)) as engine:
            yield engine


@contextmanager
def nothing() -> Generator[None, None, None]:
    """No server."""
    yield


@contextmanager
def served(config: PolicyConfig, folder: Path) -> Generator[None, None, None]:
    """A server of the same policy."""
    command = vllm_command(
        config,
        seed=0,
        folder=folder / "model",
        host="127.0.0.1",
        port=PORT,
        window=1024,
        transfer="file",
        handover=str(folder / "handover"),
        more=("--enforce-eager", "--kv-cache-memory-bytes", str(2**29)),
    )
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command.arguments, env={**os.environ, **command.environment}, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def measure(kind: str, size: str, repeats: int) -> str:
    """One row of the table."""
    config = PolicyConfig(tiny=SIZES[size], vision="full")
    policy = load_policy(config, seed=0)
    prompts = [encode(sample, AnswerOnly(), policy) for sample in digits("count", count=GROUPS)]
    phase, word = Sampling(max_tokens=TOKENS, temperature=1.0), Sampling(max_tokens=1, temperature=1.0)
    seconds, tokens, idle, after_update = list[float](), list[int](), list[float](), list[float]()

    def timed(times: list[float], asked: list[Prompt], sampling: Sampling, first: int) -> None:
        start = time.perf_counter()
        seeds = [[first + 100 * group + index for index in range(GROUP_SIZE)] for group in range(len(asked))]
        answers = engine.generate(asked, sampling, seeds)
        times.append(time.perf_counter() - start)
        tokens.append(sum(len(completion.token_ids) for group in answers for completion in group))

    with tempfile.TemporaryDirectory() as folder, engine_of(kind, policy, config, Path(folder)) as engine:
        for repeat in range(repeats + 1):
            timed(idle, prompts[:1], word, 1)
            with torch.no_grad():
                for parameter in policy.model.parameters():
                    parameter.mul_(1.0001)
            engine.refresh(policy, repeat + 1)
            timed(after_update, prompts[:1], word, 1)
            timed(seconds, prompts, phase, 10_000 * repeat)
    phase_seconds, handed_over = median(seconds[1:]), median(after_update[1:]) - median(idle[1:])
    count = sum(parameter.numel() for parameter in policy.model.parameters()) / 1e6
    cells = (size, f"{count:.1f} M", kind, f"{phase_seconds:.2f}", f"{max(tokens) / phase_seconds:,.0f}", f"{max(0.0, handed_over):.2f}")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | parameters | engine | seconds | tokens / s | weights handed over, s |\n| --- | --- | --- | --- | --- | --- |")
    for size in asked.sizes:
        for kind in ("transformers", "vllm", "server"):
            print(measure(kind, size, asked.repeats), flush=True)


if __name__ == "__main__":
    main()
