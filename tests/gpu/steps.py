"""Measure whole training steps at 3B, and compare an update's memory with `gpg-vl plan`."""

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import step_time
from case import LARGE, Case, Figures, gigabytes, wait
from frameworks import Row, config_of, random_groups, run_of, update
from profiler import Profiler, peak, release_unused_memory, reset_peak
from runner import SKIPPED, Numbers

from gpg_vl.experiment import Experiment
from gpg_vl.preflight.memory import Workload, items, settle, total
from gpg_vl.preflight.plan import plan, workload_of

KEPT_FREE = "CUDA context, fragments"
"""Name of the plan's item for memory that nothing of torch may fill."""


def row_of(case: Case) -> Row:
    """Return a step of the large shape: 4 prompts of 1,250 tokens, 8 answers of 200 to each."""
    (row,) = (row for row in step_time.CUDA_ROWS if row.shape == LARGE)
    if case.toy:
        return step_time.toy_of(replace(row, groups=2))
    return replace(row, laps=1, groups=4)


def weights(case: Case) -> Figures:
    """Write random weights at the large shape, as a checkpoint that the parts below read."""
    folder = case.weights(LARGE)
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    yield {"GB": gigabytes(size), "shape": LARGE}


class _WritingProfiler(Profiler):
    """A profiler that writes its result before the last lap.

    In that lap operations are counted, so it takes longest.
    """

    def __init__(self, laps: int, write_numbers: Callable[[Numbers], None]) -> None:
        super().__init__(laps, count_operations=True)
        self.write_numbers = write_numbers

    def lap(self) -> None:
        super().lap()
        if len(self.done) == 1 + self.timed:
            self.write_numbers(_step_numbers(self.result()))


def step(case: Case, *, framework: str) -> Figures:
    """Take whole training steps of gpg_vl, of gpg_vl with plain rows, or of TRL."""
    missing = [name for name in ("trl", "datasets") if importlib.util.find_spec(name) is None]
    if framework == "trl" and missing:
        yield {SKIPPED: f"{' and '.join(missing)} not installed; pip install 'gpg-vl[bench]'"}
        return
    row = row_of(case)
    profiler = _WritingProfiler(row.laps, case.write_numbers)
    record = step_time.measure(row, framework, case.weights(LARGE), cuda=True, profiler=profiler)
    seconds = record["wall"]["step"]
    rate = record["operations"] / seconds / 1e12
    yield {
        "completion tokens/s": round(row.groups * row.group_size * row.length / seconds, 1),
        "TFLOP/s": round(rate, 3),
        "of the matrix rate, %": round(100 * rate / record["matrix_tflops"], 1),
        "prompt tokens": record["prompt_tokens"],
    }
    if framework == "gpg_vl" and record["why_not_shared"]:
        yield {"plain rows, because": record["why_not_shared"]}


def _step_numbers(result: Any) -> Numbers:
    """Return wall seconds by phase; TRL's update is the step without its rollout."""
    wall = dict(result["wall"])
    if "rollout" in wall:
        wall["update"] = wall["step"] - wall.pop("rollout")
    numbers: Numbers = {f"{phase} s": round(seconds, 3) for phase, seconds in wall.items()}
    numbers["peak GB"] = gigabytes((result["loaded_mb"] + result["peak_mb"]) * 2**20)
    return numbers


def memory_of_update(case: Case) -> Figures:
    """Measure the peak of an update with answers of 200 and 1,000 tokens, beside its prediction."""
    lengths = (6, 12) if case.toy else (200, 1000)
    row = row_of(case)
    with tempfile.TemporaryDirectory() as folder:
        run = run_of(row, case.weights(LARGE), Path(folder))
        # The first update makes the optimizer's moments.
        update(run, random_groups(run, replace(row, length=2), 1))
        for length in lengths:
            longer = replace(row, length=length)
            groups = random_groups(run, longer, 2)
            release_unused_memory()
            reset_peak()
            update(run, groups)
            wait()
            yield {f"C {length}: measured GB": gigabytes(peak())}
            experiment = Experiment.resolve(config_of(longer, case.weights(LARGE), Path(folder)))
            yield {f"C {length}: plan": list(plan(experiment).lines)}
            predicted = predicted_bytes(workload_of(experiment))
            yield {f"C {length}: predicted GB": gigabytes(predicted)}


def predicted_bytes(workload: Workload) -> float:
    """Return how many bytes torch is expected to hold at most in update and optimizer step.

    Without what is kept free: torch holds nothing of that.
    """
    all_items = items(workload, settle(workload))
    held = [item for item in all_items if item.name != KEPT_FREE]
    if workload.machine.gb is not None:
        assert len(held) < len(all_items), f"no item of the plan is named {KEPT_FREE}"
    sums = total(held)
    return max(sums.update, sums.step)
