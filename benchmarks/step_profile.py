"""Where the time of one gpg_vl step goes, in per cent: model forward, backward, sampling, Python.

python benchmarks/step_profile.py                 # 8 prompts, 256 image tokens, G 8, C 32, tiny model
python benchmarks/step_profile.py --pixels 896

Phases are CPU seconds of undisturbed steps (median). The share outside torch's operators comes from a further step under
torch.profiler, whose own work counts as Python there: it is an upper bound.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

import fresh_process

os.environ |= {**fresh_process.ONE_THREAD, **os.environ}  # before anything imports torch

import model_shapes
import torch
from frameworks import GivenRewards, Row, metered, trainer_of
from profiler import Meter
from torch.profiler import ProfilerActivity, profile

from gpg_vl.training.loop import take_step
from gpg_vl.training.setup import TrainingRun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pixels", type=int, default=448)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--laps", type=int, default=5)
    given = parser.parse_args()
    row = Row(name="profile", pixels=given.pixels, group_size=given.group_size, length=given.length, laps=given.laps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(row, model_shapes.write(row.shape, Path(folder) / "model"), Path(folder))
        phases = seconds_by_phase(trainer, row)
        print(table(phases, python_share(lambda: take_step(trainer))))


def seconds_by_phase(trainer: TrainingRun, row: Row) -> dict[str, float]:
    """Median CPU seconds; `backward` and `optimizer` lie inside `update`."""
    meter = Meter(row.laps)
    judge: Any = GivenRewards(trainer.drawing.verifiers, row)
    trainer.drawing = replace(trainer.drawing, clock=meter, verifiers=judge)
    optimizer: Any = trainer.learner.optimizer
    backward = metered(torch.autograd.backward, meter, "backward")
    with mock.patch("torch.autograd.backward", backward), mock.patch.object(optimizer, "step", metered(optimizer.step, meter, "optimizer")):
        meter.start()
        for _ in range(meter.laps):
            take_step(trainer)
            meter.lap()
    cpu: Any = meter.result()["cpu"]
    return cpu


def python_share(step: Callable[[], object]) -> float:
    """The share of a step's wall seconds that no torch operator accounts for; the profiler knows no CPU seconds."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        start = perf_counter()
        step()
        whole = perf_counter() - start
    operators = sum(event.time_range.elapsed_us() for event in profiler.events() or () if event.cpu_parent is None) / 1e6
    return max(0.0, 1 - operators / whole)


def table(cpu: dict[str, float], python: float) -> str:
    """Markdown."""
    forward = cpu["update"] - cpu["backward"] - cpu["optimizer"]
    named = {
        "encode (pictures and text)": cpu["encode"],
        "sampling": cpu["sample"],
        "scoring": cpu["score"],
        "update: model forward, head and its gradient": forward,
        "update: backward": cpu["backward"],
        "update: optimizer": cpu["optimizer"],
    }
    named["the rest (journal, bookkeeping)"] = cpu["step"] - sum(named.values())
    lines = [(name, f"{seconds:.3f}", f"{100 * seconds / cpu['step']:.1f} %") for name, seconds in named.items()]
    outside = ("of all this outside torch's operators (Python), at most", "", f"{100 * python:.0f} %")
    return fresh_process.markdown(("part", "CPU s", "of the step"), [*lines, ("the step", f"{cpu['step']:.3f}", "100 %"), outside])


if __name__ == "__main__":
    main()
