"""Measure the seconds of one rollout phase through each engine: the table in docs/vllm.md.

    OMP_NUM_THREADS=1 python benchmarks/engines.py [--sizes tiny mid] [--repeats 3]

Needs vLLM. All engines have the same policy, questions and number of tokens, and one thread for
each process. A phase is one `generate` of 16 groups of 8 with images: the median of the repeats,
after one that does not count. The seconds of a weight sync are what a request for one token takes
longer after an update.
"""

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from gpg_vl.config.schema import Config, PolicyConfig, Tiny
from gpg_vl.data.recipes.digits import digits
from gpg_vl.experiment import Experiment
from gpg_vl.policy.encode import encode
from gpg_vl.policy.load import Policy
from gpg_vl.rollout.engine import RolloutEngine, Sampling
from gpg_vl.rollout.vllm.launch import vllm_command
from gpg_vl.types import Prompt

SIZES = {"tiny": Tiny(), "mid": Tiny(hidden=512, layers=12, vision_hidden=256, vision_layers=6)}
GROUPS, GROUP_SIZE, TOKENS = 16, 8, 64
PORT = 8017


@dataclass
class Measurement:
    """Seconds of the requests to one engine."""

    engine: RolloutEngine
    tokens: list[int] = field(default_factory=list[int])
    """Tokens of each request's completions."""

    def seconds(self, prompts: list[Prompt], max_tokens: int, first_seed: int) -> float:
        """Sample one group for each prompt and return the seconds."""
        start = time.perf_counter()
        seeds: list[list[int]] = []
        for group in range(len(prompts)):
            first = first_seed + 100 * group
            seeds.append(list(range(first, first + GROUP_SIZE)))
        sampling = Sampling(max_tokens=max_tokens, temperature=1.0)
        answers = self.engine.generate(prompts, sampling, seeds)
        seconds = time.perf_counter() - start
        tokens = 0
        for group in answers:
            tokens += sum(len(completion.token_ids) for completion in group)
        self.tokens.append(tokens)
        return seconds


def experiment_of(kind: str, size: str, folder: Path) -> Experiment:
    """Return an experiment with one engine."""
    engines: dict[str, dict[str, Any]] = {
        "transformers": {"kind": "transformers"},
        "vllm": {"kind": "vllm", "window": 1024, "cache_gib": 0.5},
        "server": {
            "kind": "server",
            "servers": [f"http://127.0.0.1:{PORT}"],
            "handover": str(folder / "handover"),
        },
    }
    config = Config.model_validate(
        {
            "data": [{"recipe": "digits"}],
            "prompt": "answer",
            "policy": {"tiny": SIZES[size].model_dump(), "vision": "full"},
            "rollout": {"engine": engines[kind]},
        }
    )
    return Experiment.resolve(config)


@contextmanager
def served(config: PolicyConfig, folder: Path) -> Generator[None, None, None]:
    """Run a server of the same policy during the `with` block."""
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
    environment = {**os.environ, **command.environment}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command.arguments, env=environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def no_log(line: str) -> None:
    """Drop a line for the user."""


def measure(kind: str, size: str, repeats: int) -> str:
    """Measure one engine and return its line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        experiment = experiment_of(kind, size, Path(folder))
        config = experiment.config.policy
        policy = experiment.policy()
        samples = digits("count", count=GROUPS)
        prompts = [encode(sample, experiment.style, policy) for sample in samples]
        with (
            served(config, Path(folder)) if kind == "server" else nullcontext(),
            closing(experiment.engine(policy, log=no_log)) as engine,
        ):
            phase, sync, tokens = measure_engine(engine, policy, prompts, repeats)
    parameters = sum(parameter.numel() for parameter in policy.model.parameters()) / 1e6
    cells = (
        size,
        f"{parameters:.1f} M",
        kind,
        f"{phase:.2f}",
        f"{tokens / phase:,.0f}",
        f"{max(0.0, sync):.2f}",
    )
    return "| " + " | ".join(cells) + " |"


def measure_engine(
    engine: RolloutEngine, policy: Policy, prompts: list[Prompt], repeats: int
) -> tuple[float, float, int]:
    """Return the seconds of a phase, the seconds of a weight sync, and the tokens of a phase."""
    measurement = Measurement(engine)
    phases, idle, after_update = list[float](), list[float](), list[float]()
    for repeat in range(repeats + 1):
        idle.append(measurement.seconds(prompts[:1], 1, 1))
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.mul_(1.0001)
        engine.update_weights(policy, repeat + 1)
        after_update.append(measurement.seconds(prompts[:1], 1, 1))
        phases.append(measurement.seconds(prompts, TOKENS, 10_000 * repeat))
    sync = median(after_update[1:]) - median(idle[1:])
    return median(phases[1:]), sync, max(measurement.tokens)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | parameters | engine | seconds | tokens / s | weight sync, s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size in options.sizes:
        for kind in ("transformers", "vllm", "server"):
            print(measure(kind, size, options.repeats), flush=True)


if __name__ == "__main__":
    main()
