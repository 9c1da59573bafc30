"""What a person sees: lines of progress and tables."""

import math
from typing import Any

import pytest
from rich.console import Console

from gpg_vl.config.schema import BenchmarkSpec, Source
from gpg_vl.evaluation.compare import Comparison
from gpg_vl.evaluation.records import Record
from gpg_vl.evaluation.statistics import Interval
from gpg_vl.report.console import (
    Counting,
    Display,
    paired_table,
    precision_table,
    results_table,
    summary,
)

METRICS = {
    "reward": 0.5,
    "informative": 0.25,
    "alpha": 1.5,
    "seconds/sample": 1.25,
    "seconds/update": 0.5,
    "loss": 3.0,
}
SHOWN = "reward 0.500  informative 25 %  alpha 1.50  sample 1.25 update 0.50 s"

# --- progress -------------------------------------------------------------------------------------


def test_a_step_is_shown_as_one_line_and_a_skipped_one_says_so():
    assert summary(METRICS) == SHOWN
    assert summary({**METRICS, "skipped": 1.0}) == f"skipped  {SHOWN}"
    assert summary({**METRICS, "skipped": 0.0}) == SHOWN


@pytest.mark.parametrize(
    ("total", "steps"),
    [
        (4, [1, 2, 3, 4]),
        (40, [1, *range(2, 41, 2)]),
        (45, [1, *range(2, 46, 2), 45]),
        (3000, [1, *range(150, 3001, 150)]),
    ],
)
def test_elsewhere_than_on_a_terminal_about_twenty_steps_are_reported(total, steps, capsys):
    shown = Console(width=100, force_terminal=False)
    with Display(shown, total) as display:
        for step in range(1, total + 1):
            display.step(step, METRICS)
        display.log("[a] line")
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.startswith("step")] == [
        f"step {step}/{total}  {SHOWN}" for step in steps
    ]
    assert printed[-1] == "[a] line"


def test_questions_are_counted_in_about_twenty_lines(capsys):
    with Counting(Console(width=100, force_terminal=False)) as counting:
        for done in range(101):
            counting.progress("small", done, 100)
        counting.progress("empty", 0, 0)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:20] == [f"small: {done} of 100 questions" for done in range(5, 101, 5)]


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
    made = cells(results_table("title", rows, spec))
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


def test_on_a_terminal_a_bar_shows_the_step_and_no_line_is_reported(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = Console(width=160, force_terminal=True, record=True)
    with Display(shown, 40) as display:
        display.log("left out: 1 row")
        assert not display.bar.live.is_started  # the bars of reading would break in two
        display.step(7, METRICS)
        assert display.bar.live.is_started
    (task,) = display.bar.tasks
    assert (task.completed, task.total, task.fields["numbers"]) == (7, 40, SHOWN)
    assert "step 7" not in shown.export_text()
    assert not display.bar.disable
    assert Display(Console(force_terminal=False), 40).bar.disable
    with Counting(shown) as counting:
        assert shown.export_text() == ""
        counting.progress("[a]", 50, 100)
        assert counting.status.status == "\\[a]: 50 of 100 questions"
    assert "100 questions\n[a]" not in shown.export_text()
