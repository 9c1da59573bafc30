"""The GPU check: a part that raises, hangs or is killed is a row, and the rest goes on in time."""

import json
import subprocess
import sys
from pathlib import Path
from time import monotonic

import pytest

from gpg_vl.config import loading
from gpg_vl.experiment import Experiment
from gpg_vl.preflight.memory import Limits, items, total
from gpg_vl.preflight.plan import workload_of
from tests.conftest import ROOT

GPU = ROOT / "tests" / "gpu"


@pytest.fixture
def runner(monkeypatch):
    monkeypatch.syspath_prepend(str(GPU))
    import runner

    yield runner
    del sys.modules["runner"]


BEHAVIOUR = {
    "raises": "write({'before': 1}); raise ValueError('got 2, expected 3')",
    "hangs": "write({'before': 2}); import time; time.sleep(600)",
    "is killed": "write({'before': 3}); import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "leaves a child": (
        "import subprocess; print(subprocess.Popen(['sleep', '600']).pid); subprocess.run(['sleep',"
        " '600'])"
    ),
    "cannot": "write({'skipped': 'no card'})",
    "works": "write({'a': 1.5}); write({'b': 'two'})",
}


def command(part: str, numbers_file: Path) -> list[str]:
    """Return the command of a process that behaves so."""
    preamble = (
        "import json\n"
        "def write(numbers):\n"
        f"    print(json.dumps(numbers), file=open({str(numbers_file)!r}, 'a'), flush=True)\n"
    )
    return [sys.executable, "-S", "-c", preamble + BEHAVIOUR[part]]


def test_no_part_stops_the_others(runner):
    start = monotonic()
    outcomes = {
        outcome.part: outcome
        for outcome in runner.run_all(dict.fromkeys(BEHAVIOUR, 1.0), command, budget=18)
    }
    assert monotonic() - start < 25
    assert list(outcomes) == list(BEHAVIOUR)
    assert {part: outcome.state for part, outcome in outcomes.items()} == {
        "raises": "failed",
        "hangs": "late",
        "is killed": "failed",
        "leaves a child": "late",
        "cannot": "skipped",
        "works": "ok",
    }
    assert outcomes["raises"].reason == "ValueError: got 2, expected 3"
    assert "Traceback" in outcomes["raises"].log
    assert outcomes["hangs"].reason.startswith("not done after")
    assert outcomes["is killed"].reason == "killed by SIGKILL"
    assert outcomes["cannot"].reason == "no card"
    stopped = ("raises", "hangs", "is killed")
    assert [outcomes[part].numbers["before"] for part in stopped] == [1, 2, 3]
    assert outcomes["works"].numbers == {"a": 1.5, "b": "two"}
    child = Path("/proc") / outcomes["leaves a child"].log.strip() / "stat"
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_time_that_a_part_leaves_is_there_for_the_others(runner):
    outcomes = list(
        runner.run_all({"works": 10.0, "cannot": 10.0, "raises": 20.0}, command, budget=40)
    )
    assert outcomes[0].limit == pytest.approx(10, abs=0.1)
    assert outcomes[1].limit > 12
    assert outcomes[2].limit > 35
    assert next(runner.run_all({"hangs": 1.0}, command, budget=0)).state == "late"


def test_half_a_line_is_not_read(runner, tmp_path):
    runner.write_numbers(tmp_path / "numbers", {"a": 1})
    with (tmp_path / "numbers").open("a") as file:
        file.write('{"b": ')
    assert runner.read_numbers(tmp_path / "numbers") == {"a": 1}


@pytest.mark.nightly
def test_toy_prints_a_row_and_appends_a_line_for_each_part(tmp_path):
    """Three parts; on each push `.ci/run card` goes through all of them."""
    wanted = ["card", "exactness float32", "3B decoding, CUDA graph"]
    asked = [
        sys.executable,
        str(GPU / "check.py"),
        "--toy",
        "--to",
        str(tmp_path / "check.jsonl"),
        "--parts",
        *wanted,
    ]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [(row[0].removeprefix("| "), row[1]) for row in rows[2:]] == list(
        zip(wanted, ("ok", "ok", "skipped"), strict=True)
    )
    card, exact, graph = (
        json.loads(line) for line in (tmp_path / "check.jsonl").read_text().splitlines()
    )
    assert {
        "date",
        "card",
        "versions",
        "toy",
        "part",
        "state",
        "reason",
        "seconds",
        "limit",
        "numbers",
    } <= card.keys()
    assert card["numbers"]["bfloat16 matrix product TFLOP/s"] > 0
    assert exact["numbers"]["gradient: relative error"] < 1e-5
    assert graph["reason"] == "CUDA graphs need a GPU"


@pytest.mark.parametrize("gb", [24, 80])
def test_what_is_kept_free_on_a_gpu_is_not_predicted(gb, monkeypatch):
    monkeypatch.syspath_prepend(str(GPU))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from steps import KEPT_FREE, predicted_bytes

    knobs = ["learner.tokens_per_microbatch=500", "learner.checkpointing=true"]
    config = loading.load(str(ROOT / "tests" / "small.yaml"), [f"hardware.gb={gb}", *knobs])
    workload = workload_of(Experiment.resolve(config))
    all_items = items(workload, Limits(500, True))
    (kept_free,) = (item.update for item in all_items if item.name == KEPT_FREE)
    sums = total(all_items)
    assert predicted_bytes(workload) == pytest.approx(max(sums.update, sums.step) - kept_free)
