"""The curves of runs: which charts there are, what their lines are made of, and their size."""

import json
import math
import random
import re
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from gpg_vl.evaluation.statistics import interval
from gpg_vl.report.page import line_chart
from gpg_vl.report.page.curves import Chart, charts
from gpg_vl.report.page.glossary import term_of
from tests.report.page.runs import contents, evaluation

STEPS = [
    {"step": 1, "reward": 0.5, "reward/count": 0.25, "reward/box": 0.75, "part/format": 1.0},
    {"step": 2, "reward": 0.75, "reward/count": 0.5, "reward/box": 1.0, "part/format": 1.0},
]


def of(*runs) -> dict[str, Chart]:
    """The charts of runs by their ids."""
    return {chart.id: chart for section in charts(runs) for chart in section.charts}


def labels(chart: Chart) -> list[str]:
    return [line["label"] for line in chart.points["lines"]]


def values(chart: Chart, number: int = 0) -> list[tuple[float, float]]:
    line = chart.points["lines"][number]
    return [*zip(line["x"], line["y"], strict=True)]


def test_rewards_have_a_line_for_each_task_and_part():
    found = of(contents(STEPS))
    assert [*found] == ["curve-reward", "curve-reward-task", "curve-part"]
    assert values(found["curve-reward"]) == [(1, 0.5), (2, 0.75)]
    tasks = found["curve-reward-task"]
    assert labels(tasks) == ["count", "box"]
    assert [line["series"] for line in tasks.points["lines"]] == [1, 2]
    assert values(tasks, 1) == [(1, 0.75), (2, 1)]
    assert tasks.terms == ["reward/count", "reward/box"]
    assert (
        tasks.summary == "count: 0.25 at step 1, 0.5 at step 2; box: 0.75 at step 1, 1 at step 2."
    )
    assert found["curve-part"].points["frame"]["y"] == [0, 1]


def test_rewards_beyond_one_have_an_axis_of_their_own():
    found = of(contents([{"step": 1, "reward": 0.5, "part/stars": 4.0}]))
    assert found["curve-part"].points["frame"]["y"] == [0, 4]


def test_every_metric_that_is_asked_for_has_its_chart():
    metrics = (
        "informative all_max all_min alpha length truncated entropy grad_norm clipped gate/excess "
        "gate/mean gate/allowed visual_reliance seconds/sample tokens_per_second memory_gb"
    )
    row = {"step": 1, **dict.fromkeys(metrics.split(), 0.5)}
    warmup = [{"step": 0, "warmup/step": 1, "warmup/loss": 2.0}]
    run = contents([row], warmup=warmup, held_out=[{"step": 0, "held_out/well_formed": 1.0}])
    sections = charts([run])
    assert [section.title for section in sections] == [
        "Held-out questions",
        "Groups",
        "Answers",
        "Update",
        "Vision",
        "Time and memory",
        "Warm-up",
    ]
    found = [chart for section in sections for chart in section.charts]
    shown = {metric for chart in found for metric in chart.terms}
    assert shown == {*metrics.split(), "warmup/loss", "held_out/well_formed"}
    assert all(term_of(metric) for metric in shown)
    ids = [chart.id for chart in found] + [section.id for section in sections]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[a-z0-9-]+", name) for name in ids)


def test_a_run_without_anything_has_no_curves():
    assert charts([contents()]) == []
    assert charts([contents([{"step": 1, "reward": None, "entropy": "none"}])]) == []


def test_what_only_some_steps_have_goes_on_over_the_others():
    rows = [{"step": step, "entropy": 1.0} for step in range(1, 7)]
    del rows[2]["entropy"]  # of a skipped step
    for step in (1, 4):
        rows[step - 1] |= {"visual_reliance": float(step), "gate/excess": 0.5}
    found = of(contents(rows))
    assert values(found["curve-visual-reliance"]) == [(1, 1), (4, 4)]
    assert found["curve-visual-reliance"].svg.count('class="dot series-1"') == 2
    (entropy,) = re.findall('class="line series-1" d="(.*?)"', found["curve-entropy"].svg)
    assert entropy.count("M") == 2
    assert found["curve-gate-excess"].points["frame"]["y"] == [0, 1]
    assert ">limit</text>" in found["curve-gate-excess"].svg


@pytest.mark.parametrize("value", [None, math.nan, "0.5", [1], 10**400, math.inf])
def test_what_is_no_number_is_missing(value):
    rows = [{"step": 1, "alpha": 1.0}, {"step": 2, "alpha": value}, {"step": 3, "alpha": 1.0}]
    (chart,) = of(contents(rows)).values()
    assert values(chart) == [(1, 1), (2, None), (3, 1)]


def test_rows_are_drawn_in_the_order_of_their_steps():
    rows = [{"step": 3, "alpha": 3.0}, {"step": 1, "alpha": 1.0}]
    assert values(of(contents(rows))["curve-alpha"]) == [(1, 1), (3, 3)]


# --- held-out questions ---------------------------------------------------------------------------

HELD_OUT = [
    {
        "step": 0,
        "held_out": 0.25,
        "held_out/low": 0.1,
        "held_out/high": 0.5,
        "held_out/questions": 20.0,
    },
    {"step": 10, "held_out": 0.5, "held_out/questions": 8.0},
]


def test_accuracy_has_its_intervals_and_the_control_is_a_point():
    blank = evaluation(10, {"count": [0.0, 1.0, 0.0, 0.0]}, blank=True)
    chart = of(contents(STEPS, held_out=HELD_OUT, evaluations=[blank]))["curve-held-out"]
    assert labels(chart) == ["accuracy", "accuracy, grey pictures"]
    accuracy, control = chart.points["lines"]
    assert (accuracy["x"], accuracy["y"]) == ([0, 10], [0.25, 0.5])
    assert (accuracy["low"], accuracy["high"]) == ([0.1, None], [0.5, None])
    expected = interval([0, 1, 0, 0])
    assert (control["x"], control["y"]) == ([10], [0.25])
    assert control["low"] == [pytest.approx(expected.low, abs=1e-4)]
    assert control["high"] == [pytest.approx(expected.high, abs=1e-4)]
    assert '<rect class="control series-1"' in chart.svg
    assert "mean of" not in "".join(entry.label for entry in chart.legend)
    assert chart.summary.endswith(" The evaluations asked 8 to 20 questions.")


def test_tags_have_the_intervals_of_their_questions():
    scores = {"count": [1.0, 0.0, 1.0], "box": [0.0, 0.0]}
    more = {"count": [1.0, 1.0, 1.0], "box": [1.0]}
    run = contents(evaluations=[evaluation(0, scores), evaluation(10, more)])
    chart = of(run)["curve-held-out-tag"]
    assert labels(chart) == ["count", "box"]
    assert chart.terms == ["held_out/count", "held_out/box"]
    for line, tag in zip(chart.points["lines"], scores, strict=True):
        for place, given in enumerate((scores, more)):
            expected = interval(given[tag])
            assert line["y"][place] == pytest.approx(expected.mean, abs=1e-4)
            if math.isinf(expected.low):  # a single question
                assert line["low"][place] is None
            else:
                assert line["low"][place] == pytest.approx(expected.low, abs=1e-4)
                assert line["high"][place] == pytest.approx(expected.high, abs=1e-4)
    frame = chart.points["frame"]
    low = interval(scores["count"]).low
    height = frame["bottom"] - low * (frame["bottom"] - frame["top"])
    bars = re.findall('class="whisker series-1" d="(.*?)"', chart.svg)[0]
    assert float(bars.split("M")[1].split("V")[1]) == pytest.approx(height, abs=0.06)


def test_one_tag_is_no_chart_and_controls_are_no_tags():
    both = {"a": [1.0], "b": [0.0]}
    assert of(contents(evaluations=[evaluation(0, {"a": [1.0, 0.0]})])) == {}
    control = of(contents(evaluations=[evaluation(0, both, blank=True)]))
    assert "curve-held-out-tag" not in control


def test_tags_of_several_benchmarks_say_which():
    found = [evaluation(0, {"a": [1.0]}), evaluation(0, {"a": [0.0]}, benchmark="geoqa")]
    assert labels(of(contents(evaluations=found))["curve-held-out-tag"]) == [
        "digits: a",
        "geoqa: a",
    ]


# --- several runs ---------------------------------------------------------------------------------


def test_of_several_runs_each_figure_has_a_chart_and_each_run_a_line():
    second = [{**row, "reward/count": 1.0} for row in STEPS]
    found = of(contents(STEPS, name="base"), contents(second, name="more"))
    assert [*found] == ["curve-reward", "curve-reward-task-1", "curve-reward-task-2", "curve-part"]
    count = found["curve-reward-task-1"]
    assert count.title == "Mean reward by task: count"
    assert labels(count) == ["base", "more"]
    assert values(count, 1) == [(1, 1), (2, 1)]
    lines = re.findall('class="line series-(.)"( stroke-dasharray)?', count.svg)
    assert lines == [("1", ""), ("2", " stroke-dasharray")]


def test_a_run_keeps_its_colour_where_another_has_no_value():
    found = of(contents(STEPS, name="base"), contents([{"step": 1, "alpha": 1.0}], name="more"))
    assert labels(found["curve-alpha"]) == ["more"]
    assert found["curve-alpha"].points["lines"][0]["series"] == 2


def test_runs_of_one_name_have_numbers():
    found = of(contents(STEPS), contents(STEPS), contents(STEPS, name="other"))
    assert labels(found["curve-reward"]) == ["mine (1)", "mine (2)", "other"]


def test_controls_of_several_runs_have_the_colour_of_their_run():
    blank = evaluation(10, {"count": [0.0, 1.0]}, blank=True)
    first = contents(held_out=HELD_OUT, name="one")
    second = contents(held_out=HELD_OUT, evaluations=[blank], name="two")
    chart = of(first, second)["curve-held-out"]
    assert labels(chart) == ["one", "two", "two, grey pictures"]
    assert [line["series"] for line in chart.points["lines"]] == [1, 2, 2]


# --- many names and hostile names -----------------------------------------------------------------


def test_many_tasks_are_several_charts_and_no_more_than_are_read():
    row = {"step": 1, **{f"reward/t{number}": 0.5 for number in range(30)}}
    found = of(contents([row]))
    assert [*found] == ["curve-reward-task", "curve-reward-task-2", "curve-reward-task-3"]
    assert [len(chart.points["lines"]) for chart in found.values()] == [8, 8, 8]
    assert found["curve-reward-task-2"].title == "Mean reward by task, continued"
    assert all(chart.summary.endswith("24 of 30 are drawn.") for chart in found.values())


HOSTILE = "</title><script>alert(1)</script>\x00\ud800\u202e<b>&\"'"


def test_hostile_names_are_text():
    row = {"step": 1, f"reward/{HOSTILE}": 0.5, "reward/b": 0.5, f"part/{HOSTILE}": 0.5}
    tags = evaluation(0, {HOSTILE: [1.0, 0.0], "b": [1.0, 0.0]})
    runs = [contents([row], name=HOSTILE + str(number), evaluations=[tags]) for number in (1, 2)]
    for chosen in (runs[:1], runs):
        found = of(*chosen)
        assert len(found) > 2
        for chart in found.values():
            root = ElementTree.fromstring(chart.svg)
            assert not [part for part in root.iter() if part.tag.endswith(("script", "}b"))]
            said = [chart.title, chart.summary, *(entry.label for entry in chart.legend)]
            for text in (chart.svg, json.dumps(chart.points, ensure_ascii=False), *said):
                text.encode("utf-8")
                assert not {"\x00", "\u202e"} & {*text}


# --- size -----------------------------------------------------------------------------------------


def long_run(seed: int) -> list[dict[str, float]]:
    chance = random.Random(seed)
    tasks = [f"reward/t{number}" for number in range(10)] + [f"part/p{n}" for n in range(8)]
    shares = ["reward", "informative", "all_max", "all_min", "truncated", "clipped", *tasks]
    plain = ["alpha", "length", "entropy", "grad_norm", "memory_gb", "tokens_per_second"]
    plain += ["visual_reliance", "gate/mean", "gate/allowed", "gate/excess"]
    plain += [f"seconds/p{number}" for number in range(6)]
    assert len(shares) + len(plain) == 40
    rows: list[dict[str, float]] = []
    for step in range(1, 3001):
        row: dict[str, float] = {"step": step}
        row |= {name: chance.random() for name in shares}
        row |= {name: chance.gauss(1000, 300) for name in plain}
        rows.append(row)
    return rows


def test_long_runs_over_each_other_are_small_and_quick():
    runs = [contents(long_run(seed), name=str(seed)) for seed in range(3)]
    start = time.process_time()
    sections = charts(runs)
    assert time.process_time() - start < 3
    found = [chart for section in sections for chart in section.charts]
    assert len(found) == 40
    size = 0
    for chart in found:
        ElementTree.fromstring(chart.svg)
        size += len(chart.svg) + len(json.dumps(chart.points))
        for line in chart.points["lines"]:
            assert len(line["x"]) <= 400
    assert size < 1_500_000


def test_every_class_of_the_drawings_has_its_rule():
    rows = long_run(0)[:500]
    rows[5]["grad_norm"] = 1e30
    blank = evaluation(10, {"a": [0.0, 1.0], "b": [1.0, 0.0]}, blank=True)
    twice = [HELD_OUT[0], {**HELD_OUT[0], "step": 10}]
    few = contents(rows[:50], held_out=twice, evaluations=[blank])
    written: set[str] = set()
    for run in (contents(rows), few):
        for chart in of(run).values():
            for text in (chart.svg, *(entry.sample for entry in chart.legend)):
                for names in re.findall('class="(.*?)"', text):
                    written |= {*names.split()}
    css = (Path(line_chart.__file__).parent / "assets" / "curves.css").read_text()
    ruled = {*re.findall(r"\.([a-z]+(?:-[a-z0-9]+)*)", css)}
    without = {"tick", "axis-name", "limit-name"}  # as `.curve text`
    assert written - without <= ruled
    assert {"raw", "raw-band", "control", "outside", "band", "whisker", "several"} <= written
