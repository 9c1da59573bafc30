"""Pictures that cannot be read, and those in both training and test: counts to the one, pictures
that are not square."""

import pytest

from gpg_vl.preflight import picture_checks
from gpg_vl.preflight.finding import Finding
from gpg_vl.types import Sample
from tests.hand_made import png
from tests.preflight.by_hand import config, experiment, question, questions


def test_pictures_are_equal_when_size_and_every_pixel_are():
    # the first three have the same bytes
    pictures = [
        png((4, 3)),
        png((3, 4)),
        png((12, 1)),
        png((4, 3), (0, 0, 1)),
    ]
    seen, lost = picture_checks.decoded_pictures(
        questions(
            [question(str(place), images=(picture,)) for place, picture in enumerate(pictures)]
        ).samples
    )
    assert (sorted(seen.values()), lost) == (["0", "1", "2", "3"], [])
    again, _ = picture_checks.decoded_pictures(
        questions([question("again", images=(png((4, 3)),))]).samples
    )
    assert [seen[digest] for digest in again] == ["0"]


def test_a_picture_is_known_by_the_first_question_that_shows_it_and_all_of_a_question_count():
    a, b, c = png((4, 3), (1, 0, 0)), png((4, 3), (2, 0, 0)), png((4, 3), (3, 0, 0))
    seen, _ = picture_checks.decoded_pictures(
        questions(
            [question("first", images=(a, b))],
            [question("second", images=(b, c)), question("bare")],
        ).samples
    )
    assert sorted(seen.values()) == ["first", "first", "second"]


def test_a_picture_that_cannot_be_read_is_reported_and_the_others_are_looked_at():
    broken = png((600, 600), (9, 9, 9))[:300]
    seen, lost = picture_checks.decoded_pictures(
        questions([question("a", images=(broken,)), question("b", images=(png((4, 3)),))]).samples
    )
    assert list(seen.values()) == ["b"]
    assert len(lost) == 1
    assert lost[0].startswith("a: ")


@pytest.mark.parametrize(
    ("trained", "tested", "level", "text"),
    [
        (
            "abc",
            "xyz",
            "fine",
            "overlap: none of 3 test pictures is among 3 training pictures (cut)",
        ),
        (
            "abc",
            "axyz",
            "mind",
            (
                "overlap: 1 of 4 test pictures are also trained on, pixel for pixel (cut); test a "
                "is one"
            ),
        ),
        (
            "abc",
            "abxy",
            "mind",
            (
                "overlap: 2 of 4 test pictures are also trained on, pixel for pixel (cut); test a "
                "is one"
            ),
        ),
        (
            "abc",
            "xabcy",
            "mind",
            (
                "overlap: 3 of 5 test pictures are also trained on, pixel for pixel (cut), more "
                "than half: the benchmark measures mostly memory; test a is one"
            ),
        ),
        (
            "abcdef",
            "abxy",
            "mind",
            (
                "overlap: 2 of 4 test pictures are also trained on, pixel for pixel (cut); test a "
                "is one"
            ),
        ),
        (
            "abc",
            "ab",
            "stop",
            (
                "overlap: 2 of 2 test pictures are also trained on, pixel for pixel (cut): the "
                "benchmark would measure memory, not learning; hold other pictures out"
            ),
        ),
        ("", "ab", "fine", "overlap: none of 2 test pictures is among 0 training pictures (cut)"),
    ],
)
def test_how_much_of_the_test_is_trained_on(trained, tested, level, text):
    def by_digest(letters: str, where: str) -> dict[str, str]:
        return {letter: f"{where} {letter}" for letter in letters}

    assert picture_checks._shared_pictures(
        by_digest(trained, "train"), by_digest(tested, "test"), " (cut)"
    ) == Finding(level, text)


def test_a_run_without_a_benchmark_is_reported():
    text = "no evaluation.benchmark: the run will not know whether it learns"
    assert list(picture_checks.overlap(experiment(evaluation={"benchmark": None}), {}, "", 9)) == [
        Finding("mind", text)
    ]


@pytest.mark.parametrize(("lost", "level"), [(1, "mind"), (2, "mind"), (5, "mind"), (6, "stop")])
def test_lost_pictures_stop_a_run_when_they_are_more_than_it_bears(lost, level):
    rows = questions([question(str(place), images=(b"x",)) for place in range(10)])
    found = list(
        picture_checks.pictures(config(rollout={"max_lost": 0.2}), rows, ["so"] * lost, 10)
    )
    assert found == [
        Finding(level, f"pictures: {lost} of 10 rows have one that cannot be read; so")
    ]


def test_rows_without_a_picture_are_reported_source_by_source():
    seen, bare = question("seen", images=(b"x",)), question("bare")
    two = config(data=[{"files": "a.jsonl"}, {"files": "b.jsonl", "columns": {"image": "picture"}}])

    def told(*rows: list[Sample]) -> list[str]:
        found = picture_checks.pictures(two, questions(*rows), unreadable=[], decoded=3)
        return [finding.text for finding in found]

    assert told([seen, bare], [seen]) == ["pictures: 1 of 2 rows have no picture; bare is one"]
    assert told([bare, bare], [seen]) == []  # words alone
    assert told([seen], [bare, bare]) == ["pictures: 2 of 2 rows have no picture; bare is one"]
