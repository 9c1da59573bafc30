"""The report on rows that are not used: a count, grouped reasons, few and short lines."""

from gpg_vl.report import left_out
from gpg_vl.types import LeftOut


def test_equal_reasons_with_other_values_are_one_group():
    rows = [LeftOut(f"n{place}", f"answer '{place} eggs' is not a number") for place in range(40)]
    rows.insert(3, LeftOut("p", "image pictures/a.png does not exist"))
    rows.append(LeftOut("q", "image b.jpg does not exist"))
    assert list(left_out.lines(rows, "runs/a/left_out.jsonl")) == [
        "left out: 42 rows, listed in runs/a/left_out.jsonl",
        "  40 like n0: answer '0 eggs' is not a number",
        "  2 like p: image pictures/a.png does not exist",
    ]


def test_nothing_is_said_where_nothing_is_left_out():
    assert list(left_out.lines([], "x")) == []
    assert next(left_out.lines([LeftOut("a", "why")], "x")) == "left out: 1 row, listed in x"


def test_five_reasons_are_printed_and_the_others_counted():
    rows = [LeftOut(word, f"it is {word}") for word in "abcdefg"]
    lines = list(left_out.lines(rows, "x"))
    assert lines[1:6] == [f"  1 like {word}: it is {word}" for word in "abcde"]
    assert lines[6:] == ["  and 2 other reasons"]
    assert list(left_out.lines(rows[:6], "x"))[-1] == "  and 1 other reason"


def test_a_row_is_one_short_line():
    line = left_out.described(LeftOut("i" * 100_000, "w\n" * 100_000))
    assert len(line) == 100 + 2 + 800
    assert "\n" not in line
