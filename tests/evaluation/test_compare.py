"""Figures of records: totals, pass@k, paired differences; by hand, by bootstrap, and as scipy
has them."""

import io
import itertools
import json
import math
import random
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from gpg_vl.config.schema import BenchmarkSpec, Source
from gpg_vl.errors import UserError
from gpg_vl.evaluation import compare, metrics
from gpg_vl.evaluation import records as eval_records
from gpg_vl.evaluation.records import Record
from gpg_vl.evaluation.statistics import Interval, difference, interval, weighted
from gpg_vl.report.console import paired_table, results_table, tries
from tests.commands import gpg_vl
from tests.strict_json import strict_rows
from tests.terminal import on_terminal


def records(values, tag="a", prefix="q", **fields) -> list[Record]:
    return [
        Record(
            id=f"{prefix}{place}",
            tag=tag,
            greedy=float(value),
            sampled=math.nan,
            text="",
            answer=str(value),
            reason="",
            **fields,
        )
        for place, value in enumerate(values)
    ]


def coins(count: int, share: float, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [int(draw.random() < share) for _ in range(count)]


# --- paired differences ---------------------------------------------------------------------------


@pytest.mark.parametrize("graded", [False, True])
def test_the_paired_interval_agrees_with_a_bootstrap_of_ten_thousand_draws(graded):
    rng = np.random.default_rng(0)
    before = rng.random(300) if graded else np.array(coins(300, 0.5, 1), dtype=float)
    after = (
        np.clip(before + rng.normal(0.05, 0.2, 300), 0, 1)
        if graded
        else np.array(coins(300, 0.6, 2), dtype=float)
    )
    (row,) = compare.compare(records(before), records(after))
    steps = after - before
    means = steps[rng.integers(0, 300, (10_000, 300))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    # of a 2.5 % quantile, four standard errors
    error = 4 * means.std() * math.sqrt(0.025 * 0.975) / (0.058 * math.sqrt(10_000))
    assert row.difference.low == pytest.approx(low, abs=error)
    assert row.difference.high == pytest.approx(high, abs=error)


def test_mcnemar_by_hand_and_as_scipy_has_it():
    """Five questions changed, all for the better: 2 * (1/2)^5."""
    before, after = [0] * 5 + [1] * 10, [1] * 15
    (row,) = compare.compare(records(before), records(after))
    assert (row.gained, row.lost) == (5, 0)
    assert row.p == pytest.approx(2 * 0.5**5)
    for seed in range(5):
        before, after = coins(200, 0.5, seed), coins(200, 0.58, seed + 100)
        gained = sum(new > old for old, new in zip(before, after, strict=True))
        lost = sum(new < old for old, new in zip(before, after, strict=True))
        both = stats.binomtest(gained, gained + lost, 0.5).pvalue
        assert compare.p_value(before, after) == pytest.approx(both)
        # a hand-written sum over the binomial distribution, two-sided
        fewer = min(gained, lost)
        tail = sum(math.comb(gained + lost, k) for k in range(fewer + 1)) / 2 ** (gained + lost)
        assert both == pytest.approx(min(1.0, 2 * tail))


def flips(before, after):
    steps = (np.array(after) - np.array(before),)
    return stats.permutation_test(
        steps, np.sum, permutation_type="samples", n_resamples=10_000
    ).pvalue


def test_graded_scores_are_compared_by_flipping_signs():
    """Of 16 combinations of the steps .1, -.1, .05, .3 six are as far from zero as .35: those of
    .3 with at least one .1 beside it."""
    before, after = [0.1, 0.5, 0.9, 0.3], [0.2, 0.4, 0.95, 0.6]
    assert compare.p_value(before, after) == pytest.approx(6 / 16 + 2 / 16)
    assert compare.p_value(before, after) == pytest.approx(flips(before, after))
    assert compare.p_value(before, before) == 1.0
    assert compare.p_value([0.3], [0.5]) == 1.0


def test_the_same_shift_of_a_few_graded_questions_proves_little():
    assert compare.p_value([0.1, 0.2], [0.2, 0.3]) == pytest.approx(0.5)
    assert compare.p_value([0.1] * 10, [0.2] * 10) == pytest.approx(2 / 2**10)
    assert compare.p_value([0.1] * 300, [0.2] * 300) == pytest.approx(1 / 10_001)


def test_many_graded_questions_are_compared_by_random_signs_the_same_ones_each_time():
    rng = np.random.default_rng(3)
    before = rng.random(60)
    after = before + rng.normal(0.03, 0.1, 60)
    p = compare.p_value(before, after)
    assert p == compare.p_value(before, after)
    assert p == pytest.approx(stats.ttest_rel(after, before).pvalue, abs=0.01)


# --- intervals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "of"), [(434, 512), (512, 512), (0, 512), (19, 20), (1, 2)])
def test_right_and_wrong_have_wilsons_interval_as_scipy_has_it(right, of):
    known = stats.binomtest(right, of).proportion_ci(method="wilson")
    own = interval([1.0] * right + [0.0] * (of - right))
    assert (own.low, own.high) == (
        pytest.approx(known.low, abs=1e-12),
        pytest.approx(known.high, abs=1e-12),
    )


def test_intervals_are_shown_in_percent():
    assert str(interval([1.0] * 434 + [0.0] * 78)) == "84.8 [81.4, 87.6]"
    assert str(interval([1.0] * 512)) == "100.0 [99.3, 100.0]"
    assert str(interval([1.0])) == "100.0 [no interval]"
    assert str(interval([0.5, 0.5])) == "50.0 [no interval]"
    assert str(difference([1.0] * 512, [1.0] * 512)) == "0.0 [-0.5, 0.5]"
    assert str(difference([0.0], [1.0])) == "100.0 [no interval]"
    assert difference([0.0], [1.0]).low <= 0


@pytest.mark.parametrize(("of", "share", "least"), [(20, 0.95, 0.924), (200, 0.99, 0.94)])
def test_wilsons_interval_covers_what_it_says_near_one(of, share, least):
    """Exactly: the chance of the counts whose interval holds the share. Mean and two standard
    errors reach 0.64 and 0.87."""
    inside = [interval([1.0] * right + [0.0] * (of - right)) for right in range(of + 1)]
    covered = sum(
        stats.binom.pmf(right, of, share)
        for right, own in enumerate(inside)
        if own.low <= share <= own.high
    )
    assert covered >= least


@pytest.mark.parametrize(
    ("of", "share", "later"),
    [(20, 0.95, 0.95), (200, 0.99, 0.99), (20, 0.5, 0.95), (512, 0.85, 0.999)],
)
def test_the_paired_interval_covers_what_it_says_near_one(of, share, later):
    rng = np.random.default_rng(0)
    before, after = (rng.random((4000, of)) < each for each in (share, later))
    own = [
        difference(*pair)
        for pair in zip(before.astype(float).tolist(), after.astype(float).tolist(), strict=True)
    ]
    assert np.mean([one.low <= later - share <= one.high for one in own]) >= 0.93


def test_bonett_and_prices_interval_by_hand():
    """8 won and 2 lost of 38: 9/40 and 3/40, so 0.15 with a variance of (0.3 - 0.0225) / 40."""
    own = difference([0.0] * 8 + [1.0] * 30, [1.0] * 8 + [0.0] * 2 + [1.0] * 28)
    assert own.mean == pytest.approx(6 / 38)
    assert (own.low, own.high) == pytest.approx(
        (0.15 - 1.959964 * math.sqrt(0.2775 / 40), 0.15 + 1.959964 * math.sqrt(0.2775 / 40))
    )


def test_graded_values_have_students_interval_as_scipy_has_it():
    values = [0.3, 0.4, 0.35, 0.6]
    known = stats.ttest_1samp(values, 0).confidence_interval()
    assert (interval(values).low, interval(values).high) == pytest.approx((known.low, known.high))
    steps = [0.0, 0.5, 0.5, 1.0]  # graded scores whose differences are all 0 or 1
    assert difference(steps, [0.0, 0.5, 0.5, 2.0]).low == pytest.approx(
        stats.ttest_1samp([0, 0, 0, 1], 0).confidence_interval().low
    )


def test_overall_and_per_tag_and_what_changed():
    first = records([0, 1, 1], "count") + records([0, 0], "box", prefix="b")
    second = records([1, 1, 0], "count") + records([0, 1], "box", prefix="b")
    rows = {
        row.name: (row.difference.mean, row.gained, row.lost)
        for row in compare.compare(first, second)
    }
    assert rows == {"all": (pytest.approx(0.2), 2, 1), "count": (0.0, 1, 1), "box": (0.5, 1, 0)}
    assert [before.id for before, _ in compare.changed(first, second)] == ["q0", "q2", "b1"]


def test_other_questions_are_reported_with_their_ids():
    with pytest.raises(
        UserError,
        match=(
            r"not the same questions: 1 id \(q2\) only in the first; compare two evaluations of one"
            r" benchmark"
        ),
    ):
        compare.compare(records([1, 0, 1]), records([1, 0]))
    with pytest.raises(UserError, match="the same id names several records"):
        compare.compare(records([1]) * 2, records([1]))
    with pytest.raises(UserError, match="there is none"):
        compare.compare([], [])


def test_equal_ids_of_two_sources_are_compared_each_with_its_own():
    first = [*records([1, 0], source="one"), *records([0, 0], source="two")]
    second = [*records([1, 1], source="two"), *records([1, 1], source="one")]
    pairs = [(old.key, new.key) for old, new in compare.matched(first, second)]
    assert pairs == [(record.key, record.key) for record in first]
    (row,) = compare.compare(first, second)
    assert (row.gained, row.lost, row.first.count) == (3, 0, 4)


def test_equal_ids_without_sources_are_refused():
    first = [*records([1, 0], source="one"), *records([0, 0], source="two")]
    old = [*records([1, 1]), *records([1, 1])]
    with pytest.raises(
        UserError,
        match="the same id names several records; they do not say their sources, so they cannot",
    ):
        compare.compare(first, old)


def test_ids_of_one_question_each_are_enough_where_sources_have_other_names():
    first, second = records([1, 0], source="rows.jsonl"), records([1, 1], source="data/rows.jsonl")
    assert len(compare.matched(first, second)) == 2
    assert len(compare.matched(first, records([1, 1]))) == 2


def test_equal_ids_of_other_questions_truths_or_pictures_are_reported():
    first = records([1, 0], digest="a1", pictures="p1")
    with pytest.raises(UserError, match=r"2 ids \(q0, q1\) with another question or truth"):
        compare.compare(first, records([1, 0], digest="b2", pictures="p1"))
    with pytest.raises(UserError, match=r"2 ids \(q0, q1\) with other pictures"):
        compare.compare(first, records([1, 0], digest="a1", pictures="p2"))
    # recorded answers need no pictures
    assert compare.remarks(first, records([1, 0], digest="a1")) == []
    (remark,) = compare.remarks(first, records([1, 0]))
    assert "2 of 2 questions are known by their ids alone" in remark


def test_other_settings_are_reported():
    first = records(
        [1, 0],
        digest="a",
        settings={"benchmark": "geoqa", "mode": "strict", "max_tokens": 8, "blank": False},
    )
    second = records([1, 0], digest="a", settings={"benchmark": "geoqa", "mode": "lenient"})
    assert compare.remarks(first, second) == [
        "mode differs: strict in the first, lenient in the second"
    ]
    assert compare.remarks(first, first) == []


def test_the_command_compares_files_and_runs(tmp_path):
    for run, values in (("a", [0, 0, 1, 1]), ("b", [1, 1, 1, 0])):
        eval_records.save(records(values), tmp_path / run / "evaluation" / "small-after.jsonl")
        eval_records.save(
            records([0, 0, 0, 0]), tmp_path / run / "evaluation" / "small-before.jsonl"
        )
    done = gpg_vl("compare", tmp_path / "a", tmp_path / "b", "--to", tmp_path / "changed.jsonl")
    assert done.returncode == 0, done.stderr
    assert "25.0" in done.stdout
    assert "q3: 1.00 '1' -> 0.00 '0'" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "changed.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["q0", "q1", "q3"]
    assert re.search(r"│ a  +│ 50\.0 .*\n.*│ b  +│ 75\.0 ", done.stdout)
    files = [tmp_path / run / "evaluation" / "small-after.jsonl" for run in "ab"]
    done = gpg_vl("compare", *files)
    assert done.returncode == 0
    assert re.search(r"│ first  +│ 50\.0 .*\n.*│ second  +│ 75\.0 ", done.stdout)


def test_figures_are_headed_by_what_is_compared(tmp_path):
    long = tmp_path / ("x" * 40)
    assert compare.sides(tmp_path / "a", tmp_path / "b.jsonl") == ("a", "b.jsonl")
    assert compare.sides(long, tmp_path / "b") == (f"{'x' * 21}...", "b")
    assert compare.sides(tmp_path / "a", tmp_path / "runs" / "a") == ("first", "second")
    assert compare.sides(long, tmp_path / ("x" * 30)) == ("first", "second")


def test_a_setting_that_differs_is_not_broken_within_its_key_on_a_terminal(tmp_path):
    for run, learner in (("a", 1), ("b", 2)):
        eval_records.save(records([1]), tmp_path / run / "evaluation" / "small-after.jsonl")
        (tmp_path / run / "environment.json").write_text("{}")
        (tmp_path / run / "config.yaml").write_text(
            f"learner: {{tokens: {learner}}}\ncheckpoint: {{keep_best: 0, keep_last: {learner}}}\n"
        )
    code, printed = on_terminal("compare", tmp_path / "a", tmp_path / "b", columns=60)
    assert code == 0
    assert "checkpoint.keep_last:" in printed
    assert "learner.tokens:" in printed


@pytest.mark.parametrize(("count", "shown"), [(0, []), (1, ["q0"]), (9, ["q0", "q2"])])
def test_as_many_changes_are_shown_as_asked_and_all_are_written(count, shown, tmp_path):
    for name, values in (("a", [0, 1, 1]), ("b", [1, 1, 0])):
        made = [
            replace(
                record,
                text=f"{name} says {record.id}",
                question=f"What is {record.id}?",
                truth=[1.5],
                images=["7.png"],
            )
            for record in records(values)
        ]
        eval_records.save(made, tmp_path / f"{name}.jsonl")
    done = gpg_vl(
        "compare",
        tmp_path / "a.jsonl",
        tmp_path / "b.jsonl",
        "--changed",
        count,
        "--to",
        tmp_path / "changed.jsonl",
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^  (q\d): \d", done.stdout, re.MULTILINE) == shown
    asked = re.findall(
        r"^    What is (q\d)\?  \(truth: \[1.5\]; 7.png\)$", done.stdout, re.MULTILINE
    )
    assert asked == shown
    more = re.findall(r"^  (.* shows all)$", done.stdout, re.MULTILINE)
    sentences = {0: ["2 changed; --changed 2 shows all"], 9: []}
    assert more == sentences.get(count, ["1 more changed; --changed 2 shows all"])
    assert strict_rows(tmp_path / "changed.jsonl") == [
        {
            "benchmark": "a",
            "id": "q0",
            "source": "",
            "question": "What is q0?",
            "truth": [1.5],
            "images": ["7.png"],
            "first": 0,
            "second": 1,
            "texts": ["a says q0", "b says q0"],
        },
        {
            "benchmark": "a",
            "id": "q2",
            "source": "",
            "question": "What is q2?",
            "truth": [1.5],
            "images": ["7.png"],
            "first": 1,
            "second": 0,
            "texts": ["a says q2", "b says q2"],
        },
    ]


def test_what_cannot_be_compared_is_reported(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"id": 1}\n')
    eval_records.save(records([1, 0]), tmp_path / "words.jsonl")
    written = (tmp_path / "words.jsonl").read_text()
    (tmp_path / "words.jsonl").write_text(written.replace('"greedy": 1.0', '"greedy": "1"'))
    (tmp_path / "nan.jsonl").write_text(written.replace('"greedy": 1.0', '"greedy": NaN'))
    eval_records.save(records([1]), tmp_path / "good.jsonl")
    (tmp_path / "empty").mkdir()
    (tmp_path / "runs" / "evaluation").mkdir(parents=True)
    for pair, sentence in (
        ((tmp_path / "x.jsonl", tmp_path / "x.jsonl"), "not a file of evaluation records"),
        (
            (tmp_path / "words.jsonl", tmp_path / "words.jsonl"),
            "words.jsonl line 1: not a file of evaluation records: greedy: got '1', expected",
        ),
        (
            (tmp_path / "nan.jsonl", tmp_path / "nan.jsonl"),
            "nan.jsonl line 1: not a file of evaluation records: greedy: got nan, expected",
        ),
        ((tmp_path / "nowhere", tmp_path / "x.jsonl"), "no such file or folder; expected records"),
        ((tmp_path / "word.json", tmp_path / "x.jsonl"), "or folder; did you mean"),
        ((tmp_path / "empty", tmp_path / "good.jsonl"), "no benchmark that both have run"),
        (
            (tmp_path / "runs", tmp_path / "x.jsonl"),
            "it is a run without evaluation: its",
        ),
    ):
        done = gpg_vl("compare", *pair)
        assert done.returncode == 2
        assert sentence in done.stderr


# --- totals and pass@k ----------------------------------------------------------------------------


def test_a_nested_total_is_the_mean_of_means():
    """CV-Bench: 2D is the mean of ADE20K (1/2) and COCO (1), the total the mean of 2D and 3D
    (0): 3/8; over all questions 2/6."""
    rows = [
        *records([1, 0], prefix="a", tags={"type": "2D", "source": "ADE20K"}),
        *records([1, 1], prefix="c", tags={"type": "2D", "source": "COCO"}),
        *records([0, 0, 0], prefix="o", tags={"type": "3D", "source": "Omni3D"}),
    ]
    assert metrics.total(rows, ["type", "source"]).mean == pytest.approx(0.5 * (0.75 + 0.0))
    assert metrics.total(rows, []).mean == pytest.approx(3 / 7)
    assert str(metrics.total(rows, [])) == str(interval([row.greedy for row in rows]))
    # MOVER: 1 of 2, 2 of 2 and 0 of 3 with weights 1/4, 1/4 and 1/2
    parts = [
        stats.binomtest(right, of).proportion_ci(method="wilson")
        for right, of in ((1, 2), (2, 2), (0, 3))
    ]
    below = math.hypot(
        0.25 * (0.5 - parts[0].low), 0.25 * (1 - parts[1].low), 0.5 * (0 - parts[2].low)
    )
    assert metrics.total(rows, ["type", "source"]).low == pytest.approx(0.375 - below)
    with pytest.raises(UserError, match="totals: a0 has no tag 'room'; it has type, source"):
        metrics.total(rows, ["room"])


def test_the_published_total_of_the_paper_comes_out_of_its_counts():
    """GPG on CV-Bench: 66.62, 83.23, 81.66, 75.50 on 788, 650, 600, 600 questions is 76.15 over
    all."""
    shares = [
        ("Count", 788, 525),
        ("Relation", 650, 541),
        ("Depth", 600, 490),
        ("Distance", 600, 453),
    ]
    rows = [
        row
        for tag, of, right in shares
        for row in records([1] * right + [0] * (of - right), tag, prefix=tag)
    ]
    assert [f"{100 * right / of:.2f}" for _, of, right in shares] == [
        "66.62",
        "83.23",
        "81.67",
        "75.50",
    ]
    # the paper truncates 81.666 and 76.156
    assert f"{100 * metrics.total(rows, []).mean:.2f}" == "76.16"


def test_pass_at_k_is_the_mean_over_all_subsets():
    each = [1.0, 0.0, 0.3, 0.0, 0.7]
    for k in range(1, 6):
        subsets = list(itertools.combinations(each, k))
        assert metrics.best_of(each, k) == pytest.approx(sum(map(max, subsets)) / len(subsets))
    assert metrics.best_of([1, 0, 0, 0], 2) == pytest.approx(1 - 3 / 6)  # 1 - C(3,2)/C(4,2)
    rows = records([0, 0], each=[1.0, 0.0])
    assert metrics.pass_at(rows, 2).mean == 1.0
    assert metrics.pass_at(rows, 3) is None


def test_pass_at_every_power_of_two_up_to_the_answers_drawn():
    assert [tries(drawn) for drawn in (0, 1, 2, 4, 6, 8)] == [
        [],
        [1],
        [1, 2],
        [1, 2, 4],
        [1, 2, 4, 6],
        [1, 2, 4, 8],
    ]
    rows = records([0, 1], each=[1.0, 0.0, 0.0, 0.0])
    spec = BenchmarkSpec(name="b", data=(Source(recipe="digits"),))
    printed = shown(results_table("t", rows, spec))
    assert re.findall(r"pass@(\d) +│ ([\d.]+)", printed) == [
        ("1", "25.0"),
        ("2", "50.0"),
        ("4", "100.0"),
    ]


# --- what is shown --------------------------------------------------------------------------------


def shown(table, width=80) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(table)
    return console.file.getvalue()


def test_tables_stay_readable_at_eighty_columns_and_tags_are_no_markup():
    rows = records(
        [1] * 400 + [0] * 112,
        tag="[red]counting[/]",
        each=[1.0, 0.0, 1.0, 0.0],
        well_formed=1.0,
        beside=1.0,
    )
    spec = BenchmarkSpec(
        name="b", data=(Source(recipe="digits"),), beside="reference", totals={"[bold]all": ()}
    )
    printed = shown(results_table("[red] benchmark", rows, spec))
    assert "[red] benchmark" in printed
    assert re.search(
        r"│ \[red\]counting\[/\] +│ +512 │ greedy +│ 78\.1 \[74\.3, 81\.5\] +│", printed
    )
    assert re.search(r"│ \[bold\]all +│ +512 │ greedy +│ 78\.1 \[74\.3, 81\.5\] +│", printed)
    printed = shown(paired_table("[red] both", compare.compare(rows, rows)))
    assert re.search(r"│ difference +│ 0\.0 \[-0\.5, 0\.5\] +│", printed)
    assert re.search(r"│ better, worse +│ 0, 0 questions, p = 1 +│", printed)
    assert "[red] both" in printed


# --- by hand --------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_by_hand():
    """3 of 4: centre (0.75 + z2/8) / (1 + z2/4), margin z / (1 + z2/4) * sqrt(0.75 * 0.25 / 4 +
    z2/64), with z2 = 3.8415."""
    own = interval([1.0, 0.0, 1.0, 1.0])
    assert (own.mean, own.count) == (0.75, 4)
    assert (own.low, own.high) == pytest.approx((0.3006, 0.9544), abs=1e-4)
    # graded: 0.5 and 0.54, standard deviation 0.02828, over the root of 2 0.02; Student's 12.706 at
    # one degree of freedom
    own = interval([0.5, 0.54])
    assert (own.low, own.mean, own.high, own.count) == (
        pytest.approx(0.52 - 0.2541, abs=1e-4),
        0.52,
        pytest.approx(0.52 + 0.2541, abs=1e-4),
        2,
    )


def test_what_has_no_interval():
    for values in ([1.0], [0.0], [0.5], [0.5, 0.5, 0.5]):
        own = interval(values)
        assert (own.mean, own.low, own.high, own.count) == (
            values[0],
            -math.inf,
            math.inf,
            len(values),
        )
    one = difference([0.25], [0.75])
    assert (one.mean, one.low, one.high, one.count) == (0.5, -math.inf, math.inf, 1)
    same = difference([0.25, 0.5], [0.5, 0.75])
    assert (same.mean, same.low, same.high, same.count) == (0.25, -math.inf, math.inf, 2)


def test_an_interval_never_leaves_what_is_possible():
    assert (interval([1.0, 1.0]).high, interval([0.0, 0.0]).low) == (1.0, 0.0)
    assert interval([1.0, 1.0]).low == pytest.approx(0.3424, abs=1e-4)  # 2 of 2: 1 / (1 + z2/2)
    # graded: Student's would be 0.1 +- 0.3182 (3.182 * 0.2 / 2) and its mirror image
    few, many = interval([0.0, 0.0, 0.0, 0.4]), interval([1.0, 1.0, 1.0, 0.6])
    assert (few.low, few.high) == pytest.approx((0.0, 0.1 + 0.3182), abs=1e-4)
    assert (many.low, many.high) == pytest.approx((0.9 - 0.3182, 1.0), abs=1e-4)
    assert interval([0.0, 0.0, 2.0]).low < 0  # no share
    assert difference([0.0, 0.5], [0.5, 0.75]).high > 1  # nor is a difference
    assert (difference([0.0] * 3, [1.0] * 3).high, difference([1.0] * 3, [0.0] * 3).low) == (
        1.0,
        -1.0,
    )


def test_a_difference_is_the_second_less_the_first():
    before, after = [0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0]
    forth, back = difference(before, after), difference(after, before)
    assert (forth.mean, back.mean, forth.count) == (0.25, -0.25, 4)
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low))
    # 2 won and 1 lost of 4: 3/6 and 2/6, 1/6 with a variance of (5/6 - 1/36) / 6
    margin = 1.959964 * math.sqrt((5 / 6 - 1 / 36) / 6)
    assert (forth.low, forth.high) == pytest.approx((1 / 6 - margin, 1 / 6 + margin))
    graded = difference([0.0, 0.5], [0.5, 0.75])
    assert graded.mean == pytest.approx(0.375)


def test_a_weighted_sum_adds_distances_as_standard_errors_do():
    first = Interval(mean=0.5, low=0.2, high=0.9, count=3)
    second = Interval(mean=0.1, low=0.06, high=0.2, count=5)
    own = weighted([(1.0, first), (2.0, second)])
    # below hypot(0.3, 0.08), above hypot(0.4, 0.2)
    assert own.mean == pytest.approx(0.7)
    assert (own.low, own.high) == pytest.approx(
        (0.7 - math.hypot(0.3, 0.08), 0.7 + math.hypot(0.4, 0.2))
    )
    assert own.count == 8


@pytest.mark.parametrize(
    ("before", "after", "p"),
    [
        ([0, 1], [0, 1], 1.0),
        ([0, 0, 1], [1, 0, 1], 1.0),  # one question changed
        ([0, 0, 0], [1, 1, 1], 2 / 2**3),
        ([1, 1, 1, 1], [0, 0, 0, 0], 2 / 2**4),
        # 4 better, 1 worse: 2 (1 + 5) / 32
        ([0, 0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 0, 1, 1], 12 / 32),
        # graded steps 0.5 and 0.25: only +- both are as far as 0.75
        ([0.0, 0.25, 0.5], [0.5, 0.5, 0.5], 2 / 4),
        # steps 0.5, -0.25: all four sums are as far as 0.25
        ([0.0, 0.5], [0.5, 0.25], 1.0),
        # steps 0.4, 0.1, 0.1: as far as 0.6 are two of eight
        ([0.1, 0.1, 0.1], [0.5, 0.2, 0.2], 2 / 8),
    ],
)
def test_how_likely_so_large_a_difference_is_by_hand(before, after, p):
    assert compare.p_value(before, after) == pytest.approx(p)
    assert compare.p_value(after, before) == pytest.approx(p)


def test_twelve_graded_differences_are_given_every_sign_and_thirteen_are_not():
    # all signs alike are 2 of 2 ** 12; of 13 none of 10,000 random draws is, but for the observed
    # one
    assert compare.p_value([0.25] * 12, [0.5] * 12) == pytest.approx(2 / 4096)
    p = compare.p_value([0.25] * 13, [0.5] * 13)
    draws = round(p * 10_001)
    assert p == pytest.approx(draws / 10_001)
    assert 1 <= draws <= 12  # 10,000 x 2 / 8192 is 2.4


def test_a_comparison_counts_better_and_worse_and_keeps_its_sides():
    first, second = records([0, 0.5, 1, 1, 0.25]), records([1, 0.75, 0.5, 1, 0.25])
    (row,) = compare.compare(first, list(reversed(second)))  # by id, whatever the order
    assert (row.name, row.gained, row.lost) == ("all", 2, 1)
    assert (row.first.mean, row.second.mean) == (pytest.approx(0.55), pytest.approx(0.7))
    assert row.difference.mean == pytest.approx(0.15)
    assert (row.first.count, row.second.count, row.difference.count) == (5, 5, 5)


def test_changes_come_largest_first():
    first, second = records([0, 0.5, 1, 1, 0.25]), records([0.25, 0.75, 0, 1, 0.75])
    changes = [
        (before.id, before.greedy, after.greedy) for before, after in compare.changed(first, second)
    ]
    assert changes == [("q2", 1.0, 0.0), ("q4", 0.25, 0.75), ("q0", 0.0, 0.25), ("q1", 0.5, 0.75)]


@pytest.mark.parametrize(
    ("count", "named"),
    [
        (1, "1 id (q0)"),
        (2, "2 ids (q0, q1)"),
        (5, "5 ids (q0, q1, q2, q3, q4)"),
        (6, "6 ids (q0, q1, q2, q3, q4 and 1 more)"),
    ],
)
def test_at_most_five_ids_are_named_and_the_others_counted(count, named):
    rows = records([1] * count)
    other = records([1], prefix="x")
    with pytest.raises(
        UserError,
        match=re.escape(f"{named} only in the first; 1 id (x0) only in the second; compare"),
    ):
        compare.compare(rows, other)


def test_questions_known_by_their_ids_alone_and_settings_are_remarked():
    known, unknown = records([1, 0], digest="a"), [*records([1], digest="a"), *records([1, 0])[1:]]
    (remark,) = compare.remarks(known, unknown)
    assert remark == "1 of 2 questions are known by their ids alone: a record of them has no digest"
    first, second = (
        records([1], digest="a", settings={"mode": "strict", "k": 1}),
        records([1], digest="a", settings={"mode": "strict", "k": 2}),
    )
    assert compare.remarks(first, second) == ["k differs: 1 in the first, 2 in the second"]
    assert compare.remarks(second, first) == ["k differs: 2 in the first, 1 in the second"]
    assert compare.remarks(first, records([1], digest="a", settings={})) == []


def test_only_files_of_its_folder_evaluation_are_the_evaluations_of_a_run(tmp_path):
    """Metrics and pictures of a run are files of lines too."""
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "pictures.jsonl"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text("{}\n")
    eval_records.save(records([1]), tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match="run: it is a run without evaluation: its config names no"):
        compare.read(tmp_path / "metrics.jsonl", tmp_path / "run")
    eval_records.save(records([1]), tmp_path / "run" / "evaluation" / "a-after.jsonl")
    with pytest.raises(UserError, match=r"metrics.jsonl has metrics; .*run has a$"):
        compare.read(tmp_path / "metrics.jsonl", tmp_path / "run")


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_control_on_grey_pictures_is_no_evaluation_of_a_run(when, tmp_path):
    """A run that was killed between its last two evaluations has no `after`."""
    folder = tmp_path / "run" / "evaluation"
    told, grey = ({"settings": {"benchmark": "a", "blank": blank}} for blank in (False, True))
    eval_records.save(records([1, 1], **grey), folder / "a-blank.jsonl")
    with pytest.raises(UserError, match="it is a run without evaluation"):
        compare.read(tmp_path / "run", tmp_path / "run")
    eval_records.save(records([1, 0], **told), folder / f"a-{when}.jsonl")
    ((first, second),) = compare.read(tmp_path / "run", tmp_path / "run").values()
    assert [it.greedy for it in first] == [it.greedy for it in second] == [1, 0]
    ((_, control),) = compare.read(folder / f"a-{when}.jsonl", folder / "a-blank.jsonl").values()
    assert [it.greedy for it in control] == [1, 1], "as a file of its own it is compared"


def test_the_records_say_their_benchmark_and_the_name_of_their_file_does_not(tmp_path):
    """Records of one benchmark are compared, whatever --to called their file."""
    told = records([1, 0], settings={"benchmark": "shapes"})
    run = tmp_path / "run"
    for path in (run / "evaluation" / "shapes-after.jsonl", tmp_path / "near.jsonl"):
        eval_records.save(told, path)
    for name in ("config.yaml", "environment.json"):
        (run / name).write_text("{}\n")
    eval_records.save(told, tmp_path / "folder" / "far.jsonl")
    for first in (tmp_path / "near.jsonl", tmp_path / "folder"):
        assert list(compare.read(run, first)) == ["shapes"]
        assert list(compare.read(first, run)) == ["shapes"]
    both = compare.read(tmp_path / "near.jsonl", tmp_path / "folder" / "far.jsonl")
    assert list(both) == ["shapes"]
    eval_records.save(told, tmp_path / "folder" / "other.jsonl")
    assert list(compare.read(tmp_path / "folder", tmp_path / "folder")) == ["far", "other"]
    eval_records.save(told, tmp_path / "single" / "far.jsonl")
    assert list(compare.read(tmp_path / "folder", tmp_path / "single")) == ["far"]
    (tmp_path / "single" / "answers.jsonl").write_text('{"answer": 3}\n')  # of something else
    assert list(compare.read(tmp_path / "single", tmp_path / "single" / "far.jsonl")) == ["shapes"]


def test_settings_in_which_two_runs_differ_are_named(tmp_path):
    configs = {
        "a": "name: a\nfolder: x\nsteps: 4\nrollout: {engine: {kind: hf}, at: 1}\nold: true\n",
        "b": "name: b\nfolder: y\nsteps: 8\nrollout: {engine: {kind: hf}, at: 2}\nnew: [1, 2]\n",
        "c": "".join(f"k{number}: {number}\n" for number in range(7)),
    }
    for name, written in configs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(written)
        (tmp_path / name / "environment.json").write_text("{}")
        eval_records.save(records([1]), tmp_path / name / "evaluation" / "small-after.jsonl")
    a, b, c = (tmp_path / name for name in configs)
    differ = "steps: 4 -> 8; rollout.at: 1 -> 2; old: True -> None; new: None -> [1, 2]"
    assert compare.config_differences(a, b) == differ
    assert compare.config_differences(a, a) == ""
    assert compare.config_differences(a, b / "evaluation" / "small-after.jsonl") == ""
    assert compare.config_differences(c, a).count(" -> ") == 5
    assert compare.config_differences(c, a).endswith("; k4: 4 -> None and 6 more")
    done = gpg_vl("compare", a, b)
    assert f"settings that differ: {differ}\n" in done.stdout, done.stderr


def test_what_two_paths_have_in_common(tmp_path):
    """Of a run what came after training; of a folder, or a run that was never trained, every
    file."""
    for name, stems in (
        ("run", ("a-before", "a-after", "b-after")),
        ("folder", ("a", "b", "c")),
        ("early", ("a-before",)),
    ):
        home = tmp_path / name if name == "folder" else tmp_path / name / "evaluation"
        for stem in stems:
            eval_records.save(records([1], prefix=stem), home / f"{stem}.jsonl")
    run, folder, early = (tmp_path / name for name in ("run", "folder", "early"))

    def named(first, second):
        return {
            name: (one[0].id, other[0].id)
            for name, (one, other) in compare.read(first, second).items()
        }

    assert named(run, folder) == {"a": ("a-after0", "a0"), "b": ("b-after0", "b0")}
    assert named(folder, run) == {"a": ("a0", "a-after0"), "b": ("b0", "b-after0")}
    assert named(folder / "c.jsonl", folder / "a.jsonl") == {"c": ("c0", "a0")}
    assert named(folder, run / "evaluation" / "a-after.jsonl") == {"a": ("a0", "a-after0")}
    assert named(early, early) == {"a-before": ("a-before0", "a-before0")}
    with pytest.raises(
        UserError, match=r"no benchmark that both have run: .*early has a-before; .*run has a, b"
    ):
        compare.read(early, run)


def test_common_questions_are_asked_twice_and_are_the_same():
    first = records([0, 1, 1, 0], digest="d")
    second = records([1, 1], digest="d")
    before, after = compare.common(first, [*second, *records([1], prefix="new")])
    assert [(old.id, new.greedy) for old, new in zip(before, after, strict=True)] == [
        ("q0", 1.0),
        ("q1", 1.0),
    ]
    changed = [replace(second[0], digest="other"), second[1]]
    assert [record.id for record in compare.common(first, changed)[0]] == ["q1"]
    unknown = [replace(record, digest="") for record in second]
    assert len(compare.common(first, unknown)[0]) == 2
    assert compare.common([*first, first[0]], second)[0] == [first[1]]
