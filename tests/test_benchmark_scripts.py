"""Benchmark scripts: a small row runs, rewards are as given, ratios are of the right numbers."""

import json
import sys
from itertools import product
from pathlib import Path

import pytest

from gpg_vl.types import Completion, Sample, Verdict
from tests.hand_made import answers

HERE = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def beside_the_scripts(monkeypatch):
    """They import one another as scripts do."""
    monkeypatch.syspath_prepend(str(HERE))
    yield
    for name in {path.stem for path in HERE.glob("*.py")} & set(sys.modules):
        del sys.modules[name]


class Strict:
    """Judges everything wrong."""

    def judge(self, completion: Completion, sample: Sample) -> Verdict:
        return Verdict(reward=0.0, reason="wrong")


def rewards(row, count: int) -> list[float]:
    from frameworks import GivenRewards

    judge = GivenRewards(Strict(), row)
    sample = Sample(id="a", question="?", answer_kind="number", answer=1)
    return [judge.judge(answers(row.length)[0], sample).reward for _ in range(count)]


def test_every_group_is_informative_or_every_second_one():
    from frameworks import Row

    assert rewards(Row(name="a", group_size=4, length=2), 8) == [0, 1, 0, 1, 0, 1, 0, 1]
    half = Row(name="a", group_size=4, length=2, half_zero_variance=True)
    assert rewards(half, 8) == [0, 1, 0, 1, 0, 0, 0, 0]


def test_completion_of_another_length_is_refused():
    from frameworks import GivenRewards, Row

    with pytest.raises(AssertionError, match="2 tokens, the row has 3"):
        GivenRewards(Strict(), Row(name="a", length=3)).judge(answers(2)[0], None)


@pytest.mark.parametrize("shared", [True, False])
def test_small_row_is_measured(tmp_path, shared):
    import model_shapes
    from frameworks import Row, gpg_vl
    from profiler import Profiler

    row, profiler = Row(name="small", pixels=112, group_size=2, length=3, laps=2), Profiler(2)
    figures = gpg_vl(row, model_shapes.write("tiny", tmp_path), profiler, shared=shared)
    result = profiler.result()
    assert figures["prompt_tokens"] == 16 + 21
    assert result["laps"] == 2
    assert result["peak_mb"] > 0
    assert 0 < result["cpu"]["sample"] + result["cpu"]["update"] < result["cpu"]["step"]


def test_peak_is_reset():
    from profiler import MEGABYTE, peak, reset_peak

    held = bytearray(200 * MEGABYTE)
    high = peak()
    del held
    reset_peak()
    assert peak() < high - 150 * MEGABYTE


def test_table_divides_cpu_seconds_and_the_newest_record_counts(capsys, monkeypatch, tmp_path):
    import step_time

    def result(name: str, seconds: float, update: float, **rest) -> dict:
        phases = {"encode": 0.0, "sample": 0.0, "score": 0.0, "update": update, "step": seconds}
        return {
            "row": "64",
            "side": name,
            "cpu": phases | rest,
            "wall": {"step": 10 * seconds},
            "peak_mb": 100.0,
            "microbatch": 8,
        }

    records = [
        result("gpg_vl", 9, 9),
        result("gpg_vl", 2, 1),
        result("not shared", 5, 4),
        result("trl", 7, 0, rollout=3.0),
    ]
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # main hides the GPU; this puts it back
    monkeypatch.setattr(sys, "argv", ["step_time.py", "--table", "--to", str(path)])
    step_time.main()
    printed = capsys.readouterr().out
    assert "| 64 | 2.00 | 5.00 | 7.00 | 3.5x | 4.0x | 3.5x | 100 | 100 | 100 |" in printed
    assert "| 64 | trl | 3.00 | 0.00 | 0.00 | 4.00 | 7.00 | 70.00 | 8 |" in printed


def test_picture_has_a_point_for_every_record():
    from cost_curves import FORMS, nice, picture

    points = []
    for over, x, form in product("PG", (1, 2), FORMS):
        axes = {"over": over, "x": x, "form": form, "P": 85 * x, "G": 8}
        points.append({**axes, "cpu": 0.1 * x, "peak_mb": 12.0 * x})
    assert picture(points).count("<circle") == 2 * len(points)  # seconds and megabytes
    assert [nice(rough) for rough in (0.03, 1.1, 60, 2)] == [0.05, 2, 100, 2]
