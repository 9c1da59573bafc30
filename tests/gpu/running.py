"""Check the GPU itself, and the default run in both precisions."""

import shutil
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import torch
from case import Case, Figures, gigabytes
from profiler import matrix_rate

from gpg_vl.run_folder import metric_rows

ROOT = Path(__file__).parents[2]


def card(case: Case) -> Figures:
    """Measure the GPU: its memory, and the rate of matrix products."""
    command = shutil.which("nvidia-smi")
    if command:
        query = "--query-gpu=name,driver_version,memory.total,memory.used,clocks.sm,power.limit"
        output = subprocess.check_output([command, query, "--format=csv,noheader"], text=True)
        yield {"nvidia-smi": output.strip()}
    if case.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        yield {
            "free GB": gigabytes(free),
            "of GB": gigabytes(total),
            "CUDA": torch.version.cuda,
            "capability": capability,
        }
    yield {"bfloat16 matrix product TFLOP/s": matrix_rate()}


def train(case: Case, *, dtype: str) -> Figures:
    """Run the shortened default config: a tiny model warms up and trains, with the vision gate on.

    Raises:
        RuntimeError: the run failed.
    """
    run = case.folder / f"train-{dtype}"
    config = ["digits", "steps=20", "warmup.steps=60"]
    if case.toy:
        config = ["tests/small.yaml", "steps=2", "warmup.steps=3"]
    knobs = [
        f"folder={case.folder}",
        f"name={run.name}",
        f"policy.dtype={dtype}",
        "evaluation.benchmark=null",
    ]
    start = perf_counter()
    command = [sys.executable, "-m", "gpg_vl", "train", *config, *knobs]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, cwd=ROOT
    )
    print(done.stdout)
    yield {"s in all": round(perf_counter() - start, 1)}
    if done.returncode:
        last_lines = " ".join(done.stdout.splitlines()[-3:])
        raise RuntimeError(f"gpg-vl train ended with {done.returncode}: {last_lines}")
    steps = metric_rows(run)
    yield {
        "steps": len(steps),
        "last step s": round(steps[-1]["seconds"], 2),
        "reward": round(steps[-1]["reward"], 3),
    }
    for name in ("gate/mean", "gate/worst"):
        if name in steps[0]:
            yield {name: float(f"{steps[0][name]:.1e}")}
    messages: list[str] = []
    for line in done.stdout.splitlines():
        if "group forward" in line or "image and prompt" in line:
            messages.append(line)
    yield {"messages": messages}
