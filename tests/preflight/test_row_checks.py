"""Rows that are used, left out or not read: every level on both sides of its border."""

import pytest

from gpg_vl.preflight import row_checks
from gpg_vl.preflight.finding import Finding
from gpg_vl.types import LeftOut
from tests.preflight.by_hand import config, question, questions


@pytest.mark.parametrize(
    ("used", "lost", "level"), [(3, 2, "mind"), (2, 2, "stop"), (1, 2, "stop"), (3, 0, "")]
)
def test_rows_that_are_left_out_stop_a_run_when_they_are_half(used, lost, level):
    left_out = tuple(LeftOut(f"lost {place}", "why not") for place in range(lost))
    found = list(
        row_checks.reference_answers(
            questions(
                [question("a")],
                [question(str(place)) for place in range(used - 1)],
                left_out=left_out,
            ),
            " (cut)",
        )
    )
    assert found[0] == Finding("fine", f"reference answers: {used} rows earn the full reward (cut)")
    expected = (
        [Finding(level, f"left out: {lost} rows of {used + lost}; {lost} like lost 0: why not")]
        if level
        else []
    )
    assert found[1:] == expected


def test_rows_that_another_source_of_the_same_file_uses_are_not_lost():
    left_out = tuple(LeftOut(str(place), "no number") for place in range(4))
    sources = [question("7")], [question(str(place)) for place in range(4)]
    levels = [finding.level for finding in row_checks.unused_rows(questions(*sources))]
    assert levels == []
    (finding,) = row_checks.unused_rows(questions(*sources, left_out=left_out * 2))
    assert finding.level == "mind"
    (finding,) = row_checks.unused_rows(questions([question("7")], left_out=left_out))
    assert finding.level == "stop"


def test_the_most_frequent_reason_is_told_first():
    left_out = (LeftOut("a", "no picture"), LeftOut("b", "too long"), LeftOut("c", "too long"))
    found = row_checks.reference_answers(questions([question("d")] * 4, left_out=left_out))
    assert [finding.text for finding in found][1:] == [
        "left out: 3 rows of 7; 2 like b: too long",
        "left out: 1 like a: no picture",
    ]


@pytest.mark.parametrize(
    ("head", "wanted", "rows", "cut"),
    [
        (5, None, 5, True),
        (5, None, 4, False),
        (5, 5, 5, False),
        (5, 6, 5, True),
        (5, 3, 3, False),
        (1000, None, 1000, True),
    ],
)
def test_more_rows_than_were_read_are_reported(head, wanted, rows, cut):
    sources = config(data=[{"files": "a.jsonl"} | ({"head": wanted} if wanted else {})]).data
    note = row_checks.note_of_cut(sources, questions([question("a")] * rows), head)
    assert note == (f" (only the first {head:,} rows of a source were read)" if cut else "")
    assert [source.head for source in row_checks.first_rows(sources, head)] == [
        min(head, wanted or head)
    ]


def test_rows_left_out_were_read_too():
    sources = config().data
    for used, is_cut in ((4, True), (3, False)):
        read = questions([question("a")] * used, left_out=(LeftOut("b", "why"),))
        assert bool(row_checks.note_of_cut(sources, read, 5)) == is_cut


@pytest.mark.parametrize(
    ("lost", "tried", "rows", "stops"),
    [
        (3, 65, 2000, False),  # below 5 %
        (4, 65, 2000, True),  # 123 of 2000 are to be expected
        (4, 65, 65, False),  # there are no others
        (10, 65, 65, True),
        (1, 1, 1, True),
    ],
)
def test_a_sample_of_the_rows_stands_for_all_of_them(lost, tried, rows, stops):
    given = config(rollout={"max_lost": 0.05})
    assert row_checks.would_stop_a_run(given, lost, tried, rows) is stops
