"""Check the vLLM engines on a GPU: the engine contract in bfloat16, sleeping, and throughput.

    python tests/gpu/vllm_smoke.py [--model tiny] [--transfer file nccl]

With a real model: --model Qwen/Qwen2.5-VL-3B-Instruct. Prints one line a check and a table; ends
with an error at the first that fails. With two GPUs, `--transfer nccl` also serves the model on the
second and sends weights there by NCCL.
"""

import argparse
import os
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from gpg_vl import rollout
from gpg_vl.config import plugins
from gpg_vl.config.schema import PolicyConfig
from gpg_vl.data.recipes.digits import digits
from gpg_vl.policy.encode import encode
from gpg_vl.policy.load import Policy, load_policy
from gpg_vl.prompts import AnswerOnly
from gpg_vl.rollout.engine import RolloutEngine, Sampling
from gpg_vl.rollout.gate.vision_gate import VisionGate
from gpg_vl.rollout.vllm.launch import vllm_command
from gpg_vl.types import Completion, Prompt

SAMPLING = Sampling(max_tokens=128, temperature=0.9)
GROUPS, GROUP_SIZE, PORT, WINDOW = 32, 8, 8017, 2048


def questions(policy: Policy, count: int) -> list[Prompt]:
    """Return questions about one image, about two, and about none."""
    prompts: list[Prompt] = []
    for task in ("count", "compare", "add"):
        for sample in digits(task, count=count):
            prompts.append(encode(sample, AnswerOnly(), policy))
    return prompts


def check(engine: RolloutEngine, policy: Policy, version: int) -> None:
    """Check the engine through the vision gate, and print its figures."""
    gate = VisionGate(prompts=tuple(questions(policy, 2)), sampling=SAMPLING, seed=version)
    figures = gate.check(engine, policy, version)
    parts = [f"{name} {value:.2g}" for name, value in figures.items()]
    print(f"  weights {version}:", ", ".join(parts))


def move(policy: Policy) -> None:
    """Change every trained weight by about a hundredth of itself, which is visible in bfloat16."""
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1 + 0.01 * torch.randn_like(parameter))


def build(spec: dict[str, Any], policy: Policy) -> RolloutEngine:
    """Make an engine as a config names it."""
    return plugins.build(
        spec, rollout.ALIASES, base_dir=Path(), key="rollout.engine", given={"policy": policy}
    )


def throughput(name: str, engine: RolloutEngine, policy: Policy) -> None:
    """Print seconds and tokens per second of a rollout phase, the second of two."""
    prompts = questions(policy, GROUPS // 3 + 1)[:GROUPS]
    answers: list[list[Completion]] = []
    seconds = 0.0
    for repeat in (0, 1):
        start = time.perf_counter()
        seeds: list[list[int]] = []
        for group in range(len(prompts)):
            first = 10**6 * repeat + 100 * group
            seeds.append(list(range(first, first + GROUP_SIZE)))
        answers = engine.generate(prompts, SAMPLING, seeds)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    tokens = 0
    for group in answers:
        tokens += sum(len(completion.token_ids) for completion in group)
    print(f"| {name} | {seconds:.2f} | {tokens / seconds:,.0f} |")


def free_gib() -> float:
    """Return the free memory of the GPU."""
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0] / 2**30


def in_process(policy: Policy, sleep: int) -> None:
    """Check vLLM in this process: before and after an update, and after sleeping."""
    print(f"in process, sleep {sleep}")
    with closing(
        build({"kind": "vllm", "sleep": sleep, "window": WINDOW, "memory": 0.3}, policy)
    ) as engine:
        check(engine, policy, 0)
        move(policy)
        engine.update_weights(policy, 1)
        check(engine, policy, 1)
        awake = free_gib()
        engine.release_memory()
        asleep = free_gib()
        print(f"  free memory: {awake:.1f} GiB awake, {asleep:.1f} GiB asleep")
        assert not sleep or asleep > awake + 1, "sleeping freed no memory"
        check(engine, policy, 1)
        move(policy)
        engine.release_memory()
        engine.update_weights(policy, 2)
        check(engine, policy, 2)
        if not sleep:
            throughput("vllm", engine, policy)


def by_server(config: PolicyConfig, policy: Policy, transfer: str) -> None:
    """Check a vLLM server on the last GPU: before and after an update."""
    print(f"by server, {transfer}")
    with tempfile.TemporaryDirectory() as folder:
        handover = str(Path(folder) / "handover")
        command = vllm_command(
            config,
            seed=0,
            folder=Path(folder) / "model",
            host="127.0.0.1",
            port=PORT,
            window=WINDOW,
            transfer=transfer,
            handover=handover,
            more=("--gpu-memory-utilization", "0.3"),
        )
        environment = {
            **os.environ,
            **command.environment,
            "CUDA_VISIBLE_DEVICES": str(torch.cuda.device_count() - 1),
        }
        process = subprocess.Popen(command.arguments, env=environment)
        try:
            spec = {
                "kind": "server",
                "servers": [f"http://127.0.0.1:{PORT}"],
                "handover": handover,
                "transfer": transfer,
            }
            with closing(build(spec, policy)) as engine:
                check(engine, policy, 0)
                move(policy)
                engine.update_weights(policy, 1)
                check(engine, policy, 1)
                throughput(f"server ({transfer})", engine, policy)
        finally:
            process.terminate()
            process.wait()


def main() -> None:
    """Run all checks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--transfer", nargs="+", choices=("file", "nccl"), default=["file"])
    options = parser.parse_args()
    assert torch.cuda.is_available(), "this needs a GPU"
    assert "nccl" not in options.transfer or torch.cuda.device_count() > 1, "NCCL needs two GPUs"
    config = PolicyConfig(model=options.model, dtype="bfloat16")
    policy = load_policy(config, seed=0)
    policy.model.to("cuda:0")
    print("| engine | seconds | tokens / s |\n| --- | --- | --- |")
    with closing(build({"kind": "transformers"}, policy)) as engine:
        check(engine, policy, 0)
        throughput("transformers", engine, policy)
    for sleep in (0, 1, 2):
        in_process(policy, sleep)
    for transfer in options.transfer:
        # A server starts with the weights of the checkpoint.
        unchanged = load_policy(config, seed=0)
        unchanged.model.to("cuda:0")
        by_server(config, unchanged, transfer)


if __name__ == "__main__":
    main()
