"""Tables of evaluations by hand, and the questions that a page shows."""

from dataclasses import replace
from typing import Any

import pytest

from gpg_vl.evaluation.compare import compare
from gpg_vl.evaluation.records import Record
from gpg_vl.report.page import evaluations
from gpg_vl.report.page.contents import Evaluation
from gpg_vl.report.page.evaluations import MOST_COLUMNS, MOST_ITEMS, items_of, paired_table
from gpg_vl.report.page.pictures import PagePictures


def record(number: int, greedy: float, **fields: Any) -> Record:
    own = {"id": f"q{number}", "source": "s", "tag": "t", "digest": "d", "text": ""}
    own |= {"answer": "", "reason": ""}
    return Record(greedy=greedy, **{**own, **fields})


def evaluation(when: str, step: int, rows: list[Record], **fields: Any) -> Evaluation:
    return Evaluation(benchmark="b", when=when, step=step, records=rows, **fields)


def part_of(tmp_path, *given: Evaluation):
    return evaluations._part("b", given, tmp_path, PagePictures(tmp_path))


def test_a_paired_table_has_the_figures_of_compare():
    before = [record(n, float(n < 4), tag="ab"[n % 2]) for n in range(20)]
    after = [record(n, float(n < 12), tag="ab"[n % 2]) for n in range(20)]
    table = paired_table(before, after, ("before", "after"))
    for shown, row in zip(table.rows, compare(before, after), strict=True):
        assert (shown.tag, shown.gained, shown.lost) == (row.name, row.gained, row.lost)
        assert shown.difference == f"+{row.difference}"
    whole = table.rows[0]
    assert (whole.first.percent, whole.second.percent, whole.verdict) == ("20.0", "60.0", "better")
    assert (whole.gained, whole.lost, whole.count) == (8, 0, 20)
    assert whole.p == "0.0078", "McNemar: 2 * (1/2)^8"
    assert not table.remarks


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (0.0, 1.0, "turned right"),
        (1.0, 0.0, "turned wrong"),
        (0.2, 0.7, "better"),
        (0.7, 0.2, "worse"),
        (1.0, 1.0, "still right"),
        (0.0, 0.0, "still wrong"),
        (0.4, 0.4, "still wrong"),
    ],
)
def test_how_a_score_changed(before, after, kind):
    assert evaluations.change(record(1, before), record(1, after)) == kind


def test_every_change_is_counted_and_some_are_shown(tmp_path):
    count = MOST_ITEMS["turned right"] + 30
    before = [record(n, 0.0) for n in range(count)]
    after = [record(n, 1.0) for n in range(count)]
    given = [evaluation("before", 0, before), evaluation("after", 9, after)]
    counts, items = items_of(before, after, given, tmp_path, PagePictures(tmp_path))
    assert counts == {"turned right": count}
    assert len(items) == MOST_ITEMS["turned right"]
    assert [answer["score"] for answer in items[0]["answers"]] == [0.0, 1.0]


def test_a_question_that_was_changed_in_between_is_left_out_with_a_remark():
    before = [record(n, 0.0, digest="d") for n in range(5)]
    after = [record(n, 1.0, digest="e" if n == 3 else "d") for n in range(5)]
    table = paired_table(before, after, ("before", "after"))
    assert table.rows[0].count == 4
    assert table.remarks == ["1 questions were changed in between: left out"]


def test_records_of_an_old_release_do_not_say_their_source(tmp_path):
    before = [record(n, 0.0, source="") for n in range(3)]
    after = [record(n, 1.0) for n in range(3)]
    part = part_of(tmp_path, evaluation("before", 0, before), evaluation("after", 9, after))
    assert part.changes == {"turned right": 3}
    assert [answer["score"] for answer in part.items[0]["answers"]] == [0.0, 1.0]


def test_reasons_that_differ_in_a_number_are_one_kind(tmp_path):
    reasons = ["right", "wrong: IoU 0.23", "wrong: IoU 0.4", "malformed: no tag"]
    rows = [record(n, 0.0, reason=reason, text=f"t{n}") for n, reason in enumerate(reasons)]
    part = part_of(tmp_path, evaluation("after", 9, rows))
    assert [(row.reason, row.count, row.share) for row in part.failures] == [
        ("wrong: IoU N", 2, "50.0 %"),
        ("malformed: no tag", 1, "25.0 %"),
    ]
    assert part.failures[0].examples == ["t1", "t2"]


def test_of_many_evaluations_the_first_and_the_last_are_shown_and_the_control(tmp_path):
    rows = [record(1, 1.0)]
    given = [evaluation(f"{step:06d}", step, rows) for step in range(1, 31)]
    blank = evaluation("blank", 30, [replace(rows[0], greedy=0.0)], blank=True)
    part = part_of(tmp_path, *given, blank)
    assert len(part.columns) == MOST_COLUMNS + 1
    assert (part.columns[0], part.columns[-2], part.columns[-1]) == (
        "step 1",
        "step 30",
        "grey pictures",
    )
    assert list(part.blank) == [False] * MOST_COLUMNS + [True]
    assert [table.title for table in part.paired] == [
        "step 1 and step 30",
        "grey pictures and step 30",
    ]


def test_the_cells_of_each_tag(tmp_path):
    rows = [record(n, float(n != 0), tag="ab"[n % 2]) for n in range(8)]
    part = part_of(tmp_path, evaluation("after", 9, rows))
    cells = {tag: cells[0] for tag, cells in part.rows}
    assert list(cells) == ["all", "a", "b"]
    assert (cells["all"].percent, cells["a"].percent, cells["b"].percent) == (
        "87.5",
        "75.0",
        "100.0",
    )
    assert (cells["all"].count, cells["a"].count) == (8, 4)
    assert 0 <= cells["b"].low < cells["b"].high <= 1
