"""What does it buy, and what does it hold: whole training steps at 3B, and the memory of an update beside what `gpg-vl plan` says."""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import step_time
from case import LARGE, Case, Told, gigabytes, wait
from frameworks import Row, config_of, random_groups, trainer_of, update
from profiler import Meter, forget_peak, give_back_unused, peak
from runner import SKIPPED, Numbers

from gpg_vl.config import loading

ROOT = Path(__file__).parents[2]


def row_of(case: Case) -> Row:
    """A step of the large shape: 4 prompts of 1,250 tokens, 8 answers of 200 to each."""
    (row,) = (row for row in step_time.CUDA_ROWS if row.shape == LARGE)
    return step_time.toy_of(replace(row, groups=2)) if case.toy else replace(row, laps=1, groups=4)


def weights(case: Case) -> Told:
    """Random weights at the large shape, written as a checkpoint that the parts below read."""
    folder = case.weights(LARGE)
    yield {"GB": gigabytes(sum(file.stat().st_size for file in folder.rglob("*.safetensors"))), "shape": LARGE}


class _Telling(Meter):
    """A meter that tells the step that counts before the one whose operations are counted, which takes longest."""

    def __init__(self, laps: int, tell: Callable[[Numbers], None]) -> None:
        super().__init__(laps, count_operations=True)
        self.tell = tell

    def lap(self) -> None:
        super().lap()
        if len(self.done) == 1 + self.timed:
            self.tell(_step_numbers(self.result()))


def step(case: Case, *, side: str) -> Told:
    """Whole training steps: ours, ours with plain rows, TRL's."""
    if side == "trl" and (missing := [name for name in ("trl", "datasets") if importlib.util.find_spec(name) is None]):
        yield {SKIPPED: f"{' and '.join(missing)} not installed; pip install 'gpg-vl[bench]'"}
        return
    row = row_of(case)
    meter = _Telling(row.laps, case.tell)
    record = step_time.measure(row, side, case.weights(LARGE), cuda=True, meter=meter)
    seconds = record["wall"]["step"]
    rate = record["operations"] / seconds / 1e12
    yield {
        "completion tokens/s": round(row.groups * row.group_size * row.length / seconds, 1),
        "TFLOP/s": round(rate, 3),
        "of the matrix rate, %": round(100 * rate / record["matrix_tflops"], 1),
        "prompt tokens": record["prompt_tokens"],
        **({"plain rows, because": why} if (why := record.get("why_not_shared")) and side == "gpg_vl" else {}),
    }


def _step_numbers(result: Any) -> Numbers:
    """Wall seconds by phase; TRL's update is what its rollout leaves of a step."""
    wall = dict(result["wall"])
    if "rollout" in wall:
        wall["update"] = wall["step"] - wall.pop("rollout")
    return {
        **{f"{phase} s": round(seconds, 3) for phase, seconds in wall.items()},
        "peak GB": gigabytes((result["loaded_mb"] + result["peak_mb"]) * 2**20),
    }


def held(case: Case) -> Told:
    """The peak of an update with answers of 200 and of 1,000 tokens, beside what `gpg-vl plan` says for such a run."""
    lengths = (6, 12) if case.toy else (200, 1000)
    row = row_of(case)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(row, case.weights(LARGE), Path(folder))
        update(trainer, random_groups(trainer, replace(row, length=2), 1))  # makes the moments
        for length in lengths:
            longer = replace(row, length=length)
            groups = random_groups(trainer, longer, 2)
            give_back_unused()
            forget_peak()
            update(trainer, groups)
            wait()
            measured = peak()
            yield {f"C {length}: measured GB": gigabytes(measured)}
            said = plan_of(longer, case.weights(LARGE), Path(folder))
            yield {f"C {length}: plan": [line for line in said.splitlines() if line.strip()]}
            predicted = predicted_bytes(said)
            yield {f"C {length}: predicted GB": "plan names no memory" if predicted is None else gigabytes(predicted)}


def plan_of(row: Row, checkpoint: Path, folder: Path) -> str:
    """What `gpg-vl plan` prints for a row. It ends with 1 where a run does not fit, which is an answer too.

    Raises:
        RuntimeError: it could not answer.
    """
    config = folder / f"plan-{row.length}.yaml"
    config.write_text(loading.dump(config_of(row, checkpoint, folder)))
    done = subprocess.run([sys.executable, "-m", "gpg_vl", "plan", str(config)], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in {0, 1}:
        raise RuntimeError(f"gpg-vl plan ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout + done.stderr


def predicted_bytes(said: str) -> float | None:
    """The bytes that torch holds at most in update and step by `gpg-vl plan`'s table: its sum, less what is kept free; None = no table."""
    lines = [line.split() for line in said.splitlines()]
    unit = next(({"GB": 1e9, "MB": 1e6}[words[1]] for words in lines if words[:1] == ["memory:"] and words[1] in {"GB", "MB"}), None)
    if unit is None:
        return None
    sums = next(words for words in lines if words[:1] == ["sum"])
    free = next((words for words in lines if words[:2] == ["CUDA", "context,"]), ["0"])
    return unit * (max(_number(cell) for cell in sums[-2:]) - _number(free[-1]))


def _number(cell: str) -> float:
    return float(cell.replace(",", ""))
