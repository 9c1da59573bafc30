"""Figures of records: totals, pass@k, paired differences; by hand, by bootstrap, and as scipy has them."""

import itertools
import json
import math
import random

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from gpg_vl import benchmark, comparison, figures
from gpg_vl.benchmark import Record
from gpg_vl.cli import app
from gpg_vl.types import UserError


def records(values, tag="a", prefix="q", **fields) -> list[Record]:
    return [
        Record(id=f"{prefix}{place}", tag=tag, greedy=float(value), sampled=math.nan, text="", answer=str(value), reason="", **fields)
        for place, value in enumerate(values)
    ]


def coins(count: int, share: float, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [int(draw.random() < share) for _ in range(count)]


# --- paired differences ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graded", [False, True])
def test_the_paired_interval_agrees_with_a_bootstrap_of_ten_thousand_draws(graded):
    rng = np.random.default_rng(0)
    before = rng.random(300) if graded else np.array(coins(300, 0.5, 1), dtype=float)
    after = np.clip(before + rng.normal(0.05, 0.2, 300), 0, 1) if graded else np.array(coins(300, 0.6, 2), dtype=float)
    (row,) = comparison.compare(records(before), records(after))
    steps = after - before
    means = steps[rng.integers(0, 300, (10_000, 300))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    error = 4 * means.std() * math.sqrt(0.025 * 0.975) / (0.058 * math.sqrt(10_000))  # of a 2.5 % quantile, four standard errors
    assert row.difference.mean - row.difference.margin == pytest.approx(low, abs=error)
    assert row.difference.mean + row.difference.margin == pytest.approx(high, abs=error)


def test_mcnemar_by_hand_and_as_scipy_has_it():
    """Five questions changed, all for the better: 2 * (1/2)^5."""
    before, after = [0] * 5 + [1] * 10, [1] * 15
    (row,) = comparison.compare(records(before), records(after))
    assert (row.gained, row.lost) == (5, 0)
    assert row.p == pytest.approx(2 * 0.5**5)
    for seed in range(5):
        before, after = coins(200, 0.5, seed), coins(200, 0.58, seed + 100)
        gained = sum(new > old for old, new in zip(before, after, strict=True))
        lost = sum(new < old for old, new in zip(before, after, strict=True))
        both = stats.binomtest(gained, gained + lost, 0.5).pvalue
        assert comparison.p_value(before, after) == pytest.approx(both)
        # a hand-written sum over the binomial distribution, two-sided
        fewer = min(gained, lost)
        tail = sum(math.comb(gained + lost, k) for k in range(fewer + 1)) / 2 ** (gained + lost)
        assert both == pytest.approx(min(1.0, 2 * tail))


def test_graded_scores_are_compared_by_the_paired_t_test():
    before, after = [0.1, 0.5, 0.9, 0.3], [0.2, 0.4, 0.95, 0.6]
    assert comparison.p_value(before, after) == pytest.approx(stats.ttest_rel(after, before).pvalue)
    assert comparison.p_value(before, before) == 1.0


def test_overall_and_per_tag_and_what_changed():
    first = records([0, 1, 1], "count") + records([0, 0], "box", prefix="b")
    second = records([1, 1, 0], "count") + records([0, 1], "box", prefix="b")
    rows = {row.name: (row.difference.mean, row.gained, row.lost) for row in comparison.compare(first, second)}
    assert rows == {"all": (pytest.approx(0.2), 2, 1), "count": (0.0, 1, 1), "box": (0.5, 1, 0)}
    assert [before.id for before, _ in comparison.changed(first, second)] == ["q0", "q2", "b1"]


def test_other_questions_are_told_with_their_ids():
    with pytest.raises(UserError, match=r"not the same questions: 1 id \(q2\) only in the first; compare two evaluations of one benchmark"):
        comparison.compare(records([1, 0, 1]), records([1, 0]))
    with pytest.raises(UserError, match="the same id names several records"):
        comparison.compare(records([1]) * 2, records([1]))
    with pytest.raises(UserError, match="there is none"):
        comparison.compare([], [])


def test_the_command_compares_files_and_runs(tmp_path):
    for run, values in (("a", [0, 0, 1, 1]), ("b", [1, 1, 1, 0])):
        benchmark.save(records(values), tmp_path / run / "evaluation" / "small-after.jsonl")
        benchmark.save(records([0, 0, 0, 0]), tmp_path / run / "evaluation" / "small-before.jsonl")
    tell = CliRunner().invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--to", str(tmp_path / "changed.jsonl")])
    assert tell.exit_code == 0, tell.output
    assert "25.0" in tell.output
    assert "q3: 1.00 '1' -> 0.00 '0'" in tell.output
    rows = [json.loads(line) for line in (tmp_path / "changed.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["q0", "q1", "q3"]
    files = [str(tmp_path / run / "evaluation" / "small-after.jsonl") for run in "ab"]
    assert CliRunner().invoke(app, ["compare", *files]).exit_code == 0


def test_what_cannot_be_compared_is_told(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"id": 1}\n')
    (tmp_path / "runs" / "evaluation").mkdir(parents=True)
    for pair, sentence in (
        ((tmp_path / "x.jsonl", tmp_path / "x.jsonl"), "not a file of evaluation records"),
        ((tmp_path / "nowhere", tmp_path / "x.jsonl"), "no such file or folder"),
        ((tmp_path / "runs", tmp_path / "x.jsonl"), "no benchmark that both have taken"),
    ):
        done = CliRunner().invoke(app, ["compare", *map(str, pair)])
        assert done.exit_code == 2
        assert sentence in done.stderr


# --- totals and pass@k --------------------------------------------------------------------------------------------------


def test_a_nested_total_is_the_mean_of_means():
    """CV-Bench: 2D is the mean of ADE20K (1/2) and COCO (1), the total the mean of 2D and 3D (0): 3/8; over all questions 2/6."""
    rows = [
        *records([1, 0], prefix="a", tags={"type": "2D", "source": "ADE20K"}),
        *records([1, 1], prefix="c", tags={"type": "2D", "source": "COCO"}),
        *records([0, 0, 0], prefix="o", tags={"type": "3D", "source": "Omni3D"}),
    ]
    assert figures.total(rows, ["type", "source"]).mean == pytest.approx(0.5 * (0.75 + 0.0))
    assert figures.total(rows, []).mean == pytest.approx(3 / 7)
    assert figures.total(rows, []).margin == pytest.approx(benchmark.interval([row.greedy for row in rows]).margin)
    # only ADE20K varies: variance 1/2 over 2 questions, weight 1/4
    assert figures.total(rows, ["type", "source"]).margin == pytest.approx(1.959964 * math.sqrt(0.25**2 * 0.5 / 2))
    with pytest.raises(UserError, match="totals: a0 has no tag 'room'; it has type, source"):
        figures.total(rows, ["room"])


def test_the_published_total_of_the_paper_comes_out_of_its_counts():
    """GPG on CV-Bench: 66.62, 83.23, 81.66, 75.50 on 788, 650, 600, 600 questions is 76.15 over all."""
    shares = [("Count", 788, 525), ("Relation", 650, 541), ("Depth", 600, 490), ("Distance", 600, 453)]
    rows = [row for tag, of, right in shares for row in records([1] * right + [0] * (of - right), tag, prefix=tag)]
    assert [f"{100 * right / of:.2f}" for _, of, right in shares] == ["66.62", "83.23", "81.67", "75.50"]
    assert f"{100 * figures.total(rows, []).mean:.2f}" == "76.16"  # the paper truncates 81.666 and 76.156


def test_pass_at_k_is_the_mean_over_all_subsets():
    each = [1.0, 0.0, 0.3, 0.0, 0.7]
    for k in range(1, 6):
        subsets = list(itertools.combinations(each, k))
        assert figures.best_of(each, k) == pytest.approx(sum(map(max, subsets)) / len(subsets))
    assert figures.best_of([1, 0, 0, 0], 2) == pytest.approx(1 - 3 / 6)  # 1 - C(3,2)/C(4,2)
    rows = records([0, 0], each=[1.0, 0.0])
    assert figures.pass_at(rows, 2).mean == 1.0
    assert figures.pass_at(rows, 3) is None
