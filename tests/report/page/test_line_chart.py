"""A chart as SVG: places by hand, breaks, means, intervals, values outside, round ticks."""

import json
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from gpg_vl.report.page import line_chart
from gpg_vl.report.page.line_chart import (
    BOTTOM,
    DASHES,
    LEFT,
    RIGHT,
    TOP,
    Drawing,
    Line,
    draw,
    rolling_mean,
    sparkline,
    tick_labels,
    ticks,
    usual_range,
    window_of,
)
from gpg_vl.report.page.texts import escaped, number, single_line

SVG = "{http://www.w3.org/2000/svg}"
NAN = math.nan


def line(y, x=None, **more) -> Line:
    return Line(**{"label": "", "slot": 1, "x": x or [*range(1, len(y) + 1)], "y": y} | more)


def drawn(*lines: Line, **more) -> Drawing:
    found = draw(lines, name="chart", title="A chart", **more)
    assert found is not None
    return found


def parts(drawing: Drawing, kind: str) -> list[ElementTree.Element]:
    """The parts of a chart that have this class."""
    root = ElementTree.fromstring(drawing.svg)
    return [part for part in root.iter() if kind in part.get("class", "").split()]


def paths(drawing: Drawing, kind: str) -> list[str]:
    return [part.get("d", "") for part in parts(drawing, kind)]


def across(share: float) -> float:
    return LEFT + share * (RIGHT - LEFT)


def down(share: float) -> float:
    return BOTTOM - share * (BOTTOM - TOP)


def places(path: str) -> list[tuple[float, float]]:
    numbers = [float(found) for found in re.findall(r"-?[\d.]+", path)]
    return [*zip(numbers[::2], numbers[1::2], strict=True)]


# --- lines ----------------------------------------------------------------------------------------


def test_three_values_lie_where_they_belong():
    drawing = drawn(line([0.0, 0.5, 1.0], x=[0, 10, 20]), y_range=(0, 1))
    (path,) = paths(drawing, "line")
    assert places(path) == [
        (LEFT, BOTTOM),
        (pytest.approx(across(0.5), abs=0.05), pytest.approx(down(0.5), abs=0.05)),
        (RIGHT, TOP),
    ]
    dots = [(float(dot.get("cx", 0)), float(dot.get("cy", 0))) for dot in parts(drawing, "dot")]
    assert dots == places(path), "few values that are no figures of steps are dots too"
    assert drawing.points["frame"] == {
        "x": [0, 20],
        "y": [0, 1],
        "left": LEFT,
        "right": RIGHT,
        "top": TOP,
        "bottom": BOTTOM,
    }
    assert drawing.points["lines"] == [
        {"label": "", "series": 1, "x": [0, 10, 20], "y": [0, 0.5, 1]}
    ]
    assert drawing.summary == "0 at step 0, 1 at step 20."
    assert drawing.legend == []


def test_a_missing_value_breaks_the_line_and_a_lonely_one_is_a_dot():
    drawing = drawn(line([1.0, 2.0, NAN, 2.0, math.inf, 1.0, 1.0], is_noisy=True))
    (path,) = paths(drawing, "line")
    assert path.count("M") == 2
    assert len(places(path)) == 4
    (dot,) = parts(drawing, "dot")
    assert float(dot.get("cx", 0)) == pytest.approx(across(0.5), abs=0.05)
    assert drawing.points["lines"][0]["y"] == [1, 2, None, 2, None, 1, 1]


def test_a_single_value_is_a_dot_in_the_middle():
    drawing = drawn(line([0.25], x=[7]), y_range=(0, 1))
    assert paths(drawing, "line") == []
    (dot,) = parts(drawing, "dot")
    assert float(dot.get("cx", 0)) == across(0.5)
    assert float(dot.get("cy", 0)) == pytest.approx(down(0.25), abs=0.05)
    assert drawing.summary == "0.25 at step 7."


@pytest.mark.parametrize("lines", [[], [line([])], [line([NAN, NAN, math.inf])]])
def test_without_a_value_there_is_no_chart(lines):
    assert draw(lines, name="chart", title="A chart") is None


def test_each_line_has_its_colour_and_its_dashes():
    drawing = drawn(*(line([1.0, 2.0], slot=slot, label=str(slot)) for slot in range(1, 10)))
    found = [
        (part.get("class"), part.get("stroke-dasharray", "")) for part in parts(drawing, "line")
    ]
    assert found[:8] == [(f"line series-{n}", dash) for n, dash in enumerate(DASHES, 1)]
    assert found[8] == found[0], "after eight they begin again"
    assert len(set(DASHES)) == 8
    assert "style=" not in drawing.svg
    assert "fill=" not in drawing.svg
    assert "stroke=" not in drawing.svg
    for entry, (_, dash) in zip(drawing.legend, found, strict=True):
        assert re.findall('stroke-dasharray="(.*?)"', entry.sample) == ([dash] if dash else [])
        ElementTree.fromstring(entry.sample)


# --- means ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "window"),
    [(0, 1), (39, 1), (40, 3), (59, 3), (60, 3), (80, 5), (240, 13), (3000, 151)],
)
def test_the_window_is_odd_and_near_a_twentieth(count, window):
    assert window_of(count) == window
    assert window % 2 == 1


def slow_mean(values: list[float], window: int) -> list[float]:
    """The same, value by value."""
    means: list[float] = []
    for place, value in enumerate(values):
        near = values[max(0, place - window // 2) : place + window // 2 + 1]
        there = [one for one in near if not math.isnan(one)]
        means.append(NAN if math.isnan(value) else sum(there) / len(there))
    return means


@given(
    some.lists(some.one_of(some.floats(-1e3, 1e3), some.just(NAN)), min_size=1, max_size=60),
    some.sampled_from([1, 3, 7, 151]),
)
def test_the_mean_is_that_of_its_slow_twin(values, window):
    array = np.asarray(values)
    found = rolling_mean(array, np.isfinite(array), window)
    np.testing.assert_allclose(found, slow_mean(values, window), atol=1e-9)


def test_a_mean_is_shown_as_a_mean_over_the_thin_values():
    values = [float(place % 2) + 0.001 for place in range(60)]
    drawing = drawn(line(values, is_noisy=True), y_range=(0, 2))
    (raw,), (bold,) = paths(drawing, "raw"), paths(drawing, "line")
    assert len(places(raw)) == len(places(bold)) == 60
    height = {round(y, 1) for _, y in places(raw)}
    assert height == {round(down(0.0005), 1), round(down(0.5005), 1)}
    expected = [down(mean / 2) for mean in slow_mean(values, 3)]
    assert [y for _, y in places(bold)] == pytest.approx(expected, abs=0.06)
    assert [entry.label for entry in drawing.legend] == ["mean of 3 steps", "each step"]
    assert drawing.summary == "0.5 at step 1, 0.5 at step 60 (means of 3 steps)."
    (found,) = drawing.points["lines"]
    assert found["raw"] == [float(f"{value:.4g}") for value in values]
    assert found["y"] == [float(f"{mean:.4g}") for mean in slow_mean(values, 3)]


def test_evaluations_are_never_smoothed():
    drawing = drawn(line([0.0, 1.0] * 60), y_range=(0, 1))
    (path,) = paths(drawing, "line")
    assert {y for _, y in places(path)} == {TOP, BOTTOM}
    assert drawing.legend == []
    assert "mean" not in drawing.summary


def test_zeros_and_ones_are_shown_as_their_mean_only():
    drawing = drawn(line([0.0, 1.0] * 60, is_noisy=True), y_range=(0, 1))
    assert paths(drawing, "raw") == []
    assert [entry.label for entry in drawing.legend] == ["mean of 7 steps"]


def test_many_values_are_strokes_from_least_to_most():
    values = [0.5] * 3000
    values[1500], values[1501] = 1.0, 0.0
    drawing = drawn(line(values, is_noisy=True), y_range=(0, 1))
    (strokes,) = paths(drawing, "raw-band")
    found = re.findall(r"M(\d+) (\d+)v(\d+)", strokes)
    columns = [int(x) for x, _, _ in found]
    assert columns == sorted(set(columns))
    assert len(found) == pytest.approx((RIGHT - LEFT) / line_chart.COLUMN, abs=2)
    tall = [stroke for stroke in found if int(stroke[2]) > 1]
    assert [(int(top), int(length)) for _, top, length in tall] == [(TOP, BOTTOM - TOP)]
    assert "least to most" in [entry.label for entry in drawing.legend]
    (bold,) = paths(drawing, "line")
    assert len(places(bold)) <= (RIGHT - LEFT) / line_chart.COLUMN
    assert len(drawing.points["lines"][0]["x"]) <= line_chart.HOVER_POINTS


# --- intervals ------------------------------------------------------------------------------------


def test_bands_and_bars_end_where_the_intervals_do():
    drawing = drawn(
        line([0.5, 0.75, 1.0], x=[0, 50, 100], low=[0.25, 0.5, NAN], high=[0.75, 1.0, NAN]),
        y_range=(0, 1),
    )
    (bars,) = paths(drawing, "whisker")
    found = [[float(each) for each in bar] for bar in re.findall(r"M(\S+) (\S+?)V([\d.]+)", bars)]
    assert found == [
        [LEFT, pytest.approx(down(0.75), abs=0.06), pytest.approx(down(0.25), abs=0.06)],
        [across(0.5), pytest.approx(TOP), pytest.approx(down(0.5), abs=0.06)],
    ]
    (band,) = paths(drawing, "band")
    assert band.endswith("Z")
    edge = [LEFT, across(0.5), across(0.5), LEFT]
    heights = [down(0.75), TOP, down(0.5), down(0.25)]
    assert [x for x, _ in places(band)] == pytest.approx(edge)
    assert [y for _, y in places(band)] == pytest.approx(heights, abs=0.06)
    assert drawing.points["lines"][0]["low"] == [0.25, 0.5, None]
    assert [entry.label for entry in drawing.legend] == ["95 % interval"]


def test_many_lines_have_bars_without_bands():
    one = {"low": [0.0, 0.0], "high": [1.0, 1.0]}
    few = drawn(*(line([0.5, 0.5], slot=slot, **one) for slot in (1, 2, 3)))
    many = drawn(*(line([0.5, 0.5], slot=slot, **one) for slot in (1, 2, 3, 4)))
    assert len(paths(few, "band")) == 3
    assert (len(paths(many, "band")), len(paths(many, "whisker"))) == (0, 4)


# --- values far away ------------------------------------------------------------------------------


@pytest.mark.parametrize("far", [1e30, -1e30, 1e300, 1.7e308, 500.0])
def test_a_value_far_away_does_not_hide_the_others(far):
    values = [1.0 + 0.1 * (place % 5) for place in range(30)]
    values[9] = far
    drawing = drawn(line(values, is_noisy=True))
    assert drawing.points["frame"]["y"][0] >= 0
    assert drawing.points["frame"]["y"][1] <= 2
    (arrow,) = paths(drawing, "outside")
    edge = TOP if far > 0 else BOTTOM
    x, y = places(arrow.split("l")[0])[0]
    assert x == pytest.approx(across(9 / 29), abs=0.06)
    assert abs(y - edge) <= 3
    assert "1 value lies outside the axis, as far as " in drawing.summary
    assert drawing.legend[-1].label == "outside the axis"


def test_a_value_outside_is_left_out_of_the_mean():
    values = [1.0] * 60
    values[30] = 1e30
    drawing = drawn(line(values, is_noisy=True))
    assert set(drawing.points["lines"][0]["y"]) == {1}
    assert drawing.points["lines"][0]["raw"][30] == 1e30


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0], (1.0, 2.0)),
        ([1.0, 2.0, 10.0], (1.0, 10.0)),
        ([0.0] * 99 + [1.0], (0.0, 1.0)),
        ([1.0] * 10 + [12.0], (1.0, 1.0)),
        ([-5.0, 5.0, 0.0, 400.0], (-5.0, 5.0)),
    ],
)
def test_the_usual_range(values, expected):
    assert usual_range(np.asarray(values)) == expected


@pytest.mark.parametrize(
    "values",
    [
        [0.0, 0.0, 0.0],
        [5.0, 5.0],
        [-2.0, -2.0],
        [1e15, 1e15 + 0.25],
        [5e-324, 0.0],
        [1e-320, 2e-320],
        [1e100, -1e100],
        [3e-9, 4e-9],
        [-1e-12, 1e12],
    ],
)
def test_any_values_can_be_drawn(values):
    drawing = drawn(line(values))
    assert "nan" not in drawing.svg
    assert "inf" not in drawing.svg
    for x, y in places(paths(drawing, "line")[0]):
        assert LEFT <= x <= RIGHT
        assert TOP <= y <= BOTTOM


@given(some.lists(some.floats(), min_size=1, max_size=50))
def test_no_values_make_a_chart_that_cannot_be_read(values):
    for is_noisy in (False, True):
        drawing = draw([line(values, is_noisy=is_noisy)], name="chart", title="A chart")
        if drawing:
            ElementTree.fromstring(drawing.svg)
            json.dumps(drawing.points, allow_nan=False)
            assert "nan" not in drawing.svg


# --- axes and words -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 1, ["0.00", "0.25", "0.50", "0.75", "1.00"]),
        (0, 37, ["0", "10", "20", "30", "40"]),
        (0.91, 0.98, ["0.90", "0.92", "0.94", "0.96", "0.98"]),
        (-3, 3, ["-4", "-2", "0", "2", "4"]),
        (0, 1.2e-6, ["0", "5e-07", "1e-06", "1.5e-06"]),
        (0, 2e7, ["0", "5e+06", "1e+07", "1.5e+07", "2e+07"]),
    ],
)
def test_ticks_are_round(low, high, labels):
    assert tick_labels(ticks(low, high, most=4)) == labels


def test_steps_are_whole():
    drawing = drawn(line([1.0, 2.0], x=[1, 2]))
    texts = [part.text for part in parts(drawing, "tick") if part.get("text-anchor") == "middle"]
    assert texts == ["1", "2"]


def test_a_limit_is_in_the_picture():
    drawing = drawn(line([0.1, 0.2]), limit=1.0)
    (path,) = paths(drawing, "limit")
    assert path == f"M{LEFT} {TOP}H{RIGHT}"
    assert [part.text for part in parts(drawing, "limit-name")] == ["limit"]


def test_a_control_is_a_hollow_square():
    drawing = drawn(line([0.25], x=[5], is_control=True, label="grey"), line([0.0, 1.0], x=[0, 10]))
    (square,) = parts(drawing, "control")
    assert square.tag == f"{SVG}rect"
    assert float(square.get("x", 0)) + 4 == pytest.approx(across(0.5), abs=0.06)
    assert "<rect" in drawing.legend[0].sample


HOSTILE = "</text><script>alert('1')</script>\x00\x1b\ud800\u202e&\"" + "x" * 500


def test_names_are_text_and_nothing_else():
    drawing = draw([line([1.0, 2.0], label=HOSTILE)], name="chart", title=HOSTILE)
    assert drawing is not None
    drawing.svg.encode("utf-8")
    root = ElementTree.fromstring(drawing.svg)
    assert not [part for part in root.iter() if "script" in part.tag]
    assert len(drawing.legend[0].label) == 60
    assert drawing.legend[0].label.startswith("</text><script>")
    for text in (drawing.summary, drawing.legend[0].label, json.dumps(drawing.points)):
        text.encode("utf-8")
        assert not {"\x00", "\x1b", "\u202e"} & {*text}


def test_a_reader_of_screens_hears_title_and_summary():
    root = ElementTree.fromstring(drawn(line([1.0, 2.0])).svg)
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == "chart-title chart-desc"
    texts = {part.get("id"): part.text for part in root.iter() if part.get("id")}
    assert texts["chart-title"] == "A chart"
    assert texts["chart-desc"] == "1 at step 1, 2 at step 2."


def test_clean_texts():
    assert single_line("a\nb\ud800\u202ec\uffff") == "a b\ufffd\ufffdc\ufffd"
    assert single_line("naïve 数 👍") == "naïve 数 👍"
    assert single_line("x" * 61, 60) == "x" * 57 + "..."
    assert single_line("x" * 60, 60) == "x" * 60
    assert escaped("<a href='b'>&") == "&lt;a href=&#x27;b&#x27;&gt;&amp;"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (0.416, "0.42"),
        (0.8, "0.8"),
        (0.0123, "0.012"),
        (12.34, "12.3"),
        (12345.6, "12346"),
        (1e30, "1e+30"),
        (-0.00004, "-4e-05"),
    ],
)
def test_numbers_for_people(value, text):
    assert number(value) == text


def test_a_sparkline_is_a_line_with_a_dot_at_its_end():
    root = ElementTree.fromstring(sparkline([0.0, None, 0.5, 1.0]))
    assert root.get("aria-label") == "from 0 to 1"
    (path,) = root.iter(f"{SVG}path")
    assert places(path.get("d", "")) == [(79, 14), (117, 3)]
    (dot,) = root.iter(f"{SVG}circle")
    assert (dot.get("cx"), dot.get("cy")) == ("117", "3")
    flat = ElementTree.fromstring(sparkline([2.0, 2.0]))
    assert [y for _, y in places(next(flat.iter(f"{SVG}path")).get("d", ""))] == [14, 14]
    assert sparkline([]) == sparkline([None, NAN]) == ""
