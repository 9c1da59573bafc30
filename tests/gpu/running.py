"""Does it run: the card itself, and the default run in both precisions."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import torch
from case import Case, Told, gigabytes
from profiler import matrix_rate

ROOT = Path(__file__).parents[2]


def card(case: Case) -> Told:
    """What there is, and how fast it multiplies."""
    if command := shutil.which("nvidia-smi"):
        query = "--query-gpu=name,driver_version,memory.total,memory.used,clocks.sm,power.limit"
        yield {"nvidia-smi": subprocess.check_output([command, query, "--format=csv,noheader"], text=True).strip()}
    if case.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        yield {"free GB": gigabytes(free), "of GB": gigabytes(total), "CUDA": torch.version.cuda, "capability": capability}
    yield {"bfloat16 matrix product TFLOP/s": matrix_rate()}


def train(case: Case, *, dtype: str) -> Told:
    """The default run, shortened: a tiny model warms up and takes real steps, with the vision gate on.

    Raises:
        RuntimeError: it did not come to its end.
    """
    run = case.folder / f"train-{dtype}"
    own = ["tests/small.yaml", "steps=2", "warmup.steps=3"] if case.toy else ["digits", "steps=20", "warmup.steps=60"]
    given = [f"folder={case.folder}", f"name={run.name}", f"policy.dtype={dtype}", "evaluation.benchmark=null"]
    start = perf_counter()
    asked = [sys.executable, "-m", "gpg_vl", "train", *own, *given]
    done = subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, cwd=ROOT)
    print(done.stdout)
    yield {"s in all": round(perf_counter() - start, 1)}
    if done.returncode:
        raise RuntimeError(f"gpg-vl train ended with {done.returncode}: {' '.join(done.stdout.splitlines()[-3:])}")
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    yield {"steps": len(steps), "last step s": round(steps[-1]["seconds"], 2), "reward": round(steps[-1]["reward"], 3)}
    yield {name: float(f"{steps[0][name]:.1e}") for name in ("gate/mean", "gate/worst") if name in steps[0]}
    yield {"told": [line for line in done.stdout.splitlines() if "group forward" in line or "image and prompt" in line]}
