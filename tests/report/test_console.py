"""Tables of results."""

import math
from typing import Any

from gpg_vl.config.schema import BenchmarkSpec, Source
from gpg_vl.evaluation.compare import Comparison
from gpg_vl.evaluation.records import Record
from gpg_vl.evaluation.statistics import Interval
from gpg_vl.report.console import SAMPLED, paired_table, precision_table, results_table

# --- tables ---------------------------------------------------------------------------------------


def record(
    number: int, tag: str, greedy: float, each: tuple[float, ...] = (), **more: Any
) -> Record:
    return Record(
        id=f"q{number}",
        tag=tag,
        greedy=greedy,
        sampled=math.nan,
        text="",
        answer="",
        reason="",
        each=each,
        **more,
    )


def cells(table: Any) -> list[list[str]]:
    """Rows of a table as they stand in it."""
    return [
        list(row) for row in zip(*(list(column.cells) for column in table.columns), strict=True)
    ]


def test_a_long_tag_is_cut_in_a_table():
    spec = BenchmarkSpec(name="b", data=(Source(recipe="digits"),))
    (first, *_), *_ = cells(results_table("title", [record(1, 3000 * "x", 1.0)], spec))
    assert first == 100 * "x"


def test_results_by_task_by_hand():
    """Two tasks; pass@1, 2 and 3 of three answers; how many kept the format."""
    rows = [
        record(1, "[a]", 1.0, (1.0, 0.0, 0.0), well_formed=1.0),
        record(2, "[a]", 0.0, (0.0, 0.0, 1.0)),
        record(3, "b", 1.0, (1.0,) * 3),
    ]
    spec = BenchmarkSpec(name="small", data=(Source(recipe="digits"),), totals={"all": ()})
    table = results_table("title", rows, spec)
    assert table.caption == SAMPLED
    made = cells(table)
    assert [row[:3] for row in made] == [
        ["\\[a]", "2", "greedy"],
        ["", "", "pass@1"],
        ["", "", "pass@2"],
        ["", "", "pass@3"],
        ["", "", "well-formed"],
        ["b", "1", "greedy"],
        ["", "", "pass@1"],
        ["", "", "pass@2"],
        ["", "", "pass@3"],
        ["all", "3", "greedy"],
    ]
    means = [row[3].replace("\\", "").partition(" ")[0] for row in made]
    assert means == [
        "50.0",
        "33.3",
        "66.7",
        "100.0",
        "100.0",
        "100.0",
        "100.0",
        "100.0",
        "100.0",
        "66.7",
    ]


def test_several_tasks_end_in_a_row_over_all_questions():
    """1, 0 and 1 of two tasks: 66.7 %. One task needs no such row, nor does a spec with totals."""
    spec = BenchmarkSpec(name="small", data=(Source(recipe="digits"),))
    rows = [record(1, "a", 1.0), record(2, "a", 0.0), record(3, "b", 1.0)]
    made = cells(results_table("title", rows, spec))
    assert [row[:3] for row in made] == [
        ["a", "2", "greedy"],
        ["b", "1", "greedy"],
        ["all", "3", "greedy"],
    ]
    assert made[-1][3].startswith("66.7 ")
    assert results_table("title", rows, spec).caption is None
    assert [row[0] for row in cells(results_table("title", rows[:2], spec))] == ["a"]
    own = spec.model_copy(update={"totals": {"every question": []}})
    names = [row[0] for row in cells(results_table("title", rows, own))]
    assert names == ["a", "b", "every question"]


def test_a_second_reading_stands_beside_where_there_is_one():
    spec = BenchmarkSpec(name="small", data=(Source(recipe="digits"),), beside="reference")
    both = cells(
        results_table(
            "title", [record(1, "a", 1.0, beside=0.0), record(2, "a", 1.0, beside=1.0)], spec
        )
    )
    assert [row[2] for row in both] == ["greedy", "reference"]
    assert both[1][3].startswith("50.0")
    assert [row[2] for row in cells(results_table("title", [record(1, "a", 1.0)], spec))] == [
        "greedy"
    ]


def test_two_evaluations_stand_side_by_side():
    first, second, difference = (
        Interval(mean=mean, low=0.1, high=0.9, count=4) for mean in (0.25, 0.75, 0.5)
    )
    row = Comparison(
        name="all", first=first, second=second, difference=difference, gained=3, lost=1, p=0.0312
    )
    made = cells(paired_table("title", [row], ("before", "after")))
    assert [cell[:3] for cell in made] == [
        ["all", "4", "before"],
        ["", "", "after"],
        ["", "", "difference"],
        ["", "", "better, worse"],
    ]
    assert [cell[3].replace("\\", "") for cell in made] == [
        str(first),
        str(second),
        str(difference),
        "3, 1 questions, p = 0.031",
    ]
    assert cells(precision_table("title", {"AP": first}))[0][:2] == ["AP", "4"]
