"""Measure whole training steps at 3B, and compare an update's memory with `gpg-vl plan`."""

import importlib.util
import subprocess
import sys
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

from gpg_vl.config import loading

ROOT = Path(__file__).parents[2]


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
            plan = plan_of(longer, case.weights(LARGE), Path(folder))
            yield {f"C {length}: plan": [line for line in plan.splitlines() if line.strip()]}
            predicted = predicted_bytes(plan)
            found = "plan names no memory" if predicted is None else gigabytes(predicted)
            yield {f"C {length}: predicted GB": found}


def plan_of(row: Row, checkpoint: Path, folder: Path) -> str:
    """Return what `gpg-vl plan` prints for a row.

    It ends with 1 if a run does not fit, which is a result too.

    Raises:
        RuntimeError: the plan failed.
    """
    config = folder / f"plan-{row.length}.yaml"
    config.write_text(loading.dump(config_of(row, checkpoint, folder)))
    done = subprocess.run(
        [sys.executable, "-m", "gpg_vl", "plan", str(config)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in {0, 1}:
        raise RuntimeError(
            f"gpg-vl plan ended with {done.returncode}: {done.stderr.strip()[-300:]}"
        )
    return done.stdout + done.stderr


def predicted_bytes(plan: str) -> float | None:
    """Read from a plan how many bytes torch holds at most in update and optimizer step.

    It is the larger of the table's two sums, without the memory that is kept free; None = no table.
    """
    unit: float | None = None
    sums: list[str] = []
    kept_free = "0"
    for line in plan.splitlines():
        words = line.split()
        if words[:1] == ["memory:"] and words[1] in {"GB", "MB"}:
            unit = {"GB": 1e9, "MB": 1e6}[words[1]]
        elif words[:1] == ["sum"]:
            sums = words[-2:]
        elif words[:2] == ["CUDA", "context,"]:
            kept_free = words[-1]
    if unit is None:
        return None
    return unit * (max(map(_number, sums)) - _number(kept_free))


def _number(cell: str) -> float:
    return float(cell.replace(",", ""))
