"""Measure the parts of one gpg_vl step in per cent: forward, backward, sampling, Python.

    python benchmarks/step_profile.py                 # 8 prompts, 256 image tokens, G 8, C 32
    python benchmarks/step_profile.py --pixels 896

The model is the tiny one. Phases are CPU seconds of undisturbed steps (median). The share outside
torch's operators comes from one more step under torch.profiler, whose own work counts as Python
there: it is an upper bound.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

import fresh_process

os.environ |= {**fresh_process.ONE_THREAD, **os.environ}  # before anything imports torch

import model_shapes
import torch
from frameworks import Row, profiled, run_of, with_given_rewards
from profiler import Profiler
from torch.profiler import ProfilerActivity, profile

from gpg_vl.training.loop import train_step
from gpg_vl.training.setup import TrainingRun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pixels", type=int, default=448)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--laps", type=int, default=5)
    options = parser.parse_args()
    row = Row(
        name="profile",
        pixels=options.pixels,
        group_size=options.group_size,
        length=options.length,
        laps=options.laps,
    )
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = model_shapes.write(row.shape, Path(folder) / "model")
        run = run_of(row, checkpoint, Path(folder))
        phases = seconds_by_phase(run, row)
        print(table(phases, python_share(lambda: train_step(run))))


def seconds_by_phase(run: TrainingRun, row: Row) -> dict[str, float]:
    """Measure the median CPU seconds; `backward` and `optimizer` lie inside `update`."""
    profiler = Profiler(row.laps)
    with_given_rewards(run, row, profiler)
    optimizer: Any = run.learner.optimizer
    backward = profiled(torch.autograd.backward, profiler, "backward")
    step = profiled(optimizer.step, profiler, "optimizer")
    with (
        mock.patch("torch.autograd.backward", backward),
        mock.patch.object(optimizer, "step", step),
    ):
        profiler.start()
        for _ in range(profiler.laps):
            train_step(run)
            profiler.lap()
    cpu: Any = profiler.result()["cpu"]
    return cpu


def python_share(step: Callable[[], object]) -> float:
    """Measure the share of a step's wall seconds that no torch operator accounts for.

    torch's profiler does not measure CPU seconds.
    """
    with profile(activities=[ProfilerActivity.CPU]) as torch_profiler:
        start = perf_counter()
        step()
        seconds = perf_counter() - start
    microseconds = 0.0
    for event in torch_profiler.events() or ():
        if event.cpu_parent is None:  # operators inside others are counted with them
            microseconds += event.time_range.elapsed_us()
    return max(0.0, 1 - microseconds / 1e6 / seconds)


def table(cpu: dict[str, float], python: float) -> str:
    """Return a Markdown table."""
    parts = {
        "encode (images and text)": cpu["encode"],
        "sampling": cpu["sample"],
        "scoring": cpu["score"],
        "update: model forward, head and its gradient": (
            cpu["update"] - cpu["backward"] - cpu["optimizer"]
        ),
        "update: backward": cpu["backward"],
        "update: optimizer": cpu["optimizer"],
    }
    parts["the rest (run folder, bookkeeping)"] = cpu["step"] - sum(parts.values())
    lines: list[tuple[str, ...]] = []
    for name, seconds in parts.items():
        lines.append((name, f"{seconds:.3f}", f"{100 * seconds / cpu['step']:.1f} %"))
    lines.append(("the step", f"{cpu['step']:.3f}", "100 %"))
    outside = "of all this outside torch's operators (Python), at most"
    lines.append((outside, "", f"{100 * python:.0f} %"))
    return fresh_process.markdown(("part", "CPU s", "of the step"), lines)


if __name__ == "__main__":
    main()
