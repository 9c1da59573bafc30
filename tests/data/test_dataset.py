"""A data set: which rows are left out or refused, and what changes its fingerprint."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.config.schema import Source
from gpg_vl.data import dataset
from gpg_vl.data.dataset import read_dataset
from gpg_vl.errors import UserError
from gpg_vl.types import LeftOut, Sample


def sample(name: str = "q1", answer: int = 3) -> Sample:
    return Sample(id=name, question="?", answer_kind="number", answer=answer)


class Checks:
    """Refuses the answer 13."""

    def __init__(self) -> None:
        self.by_kind: dict[str, Any] = {}

    def validation_error(self, it: Sample) -> str:
        return "unlucky" if it.answer == 13 else ""


CHECKS: Any = Checks()


def rows(
    monkeypatch: pytest.MonkeyPatch, *sources: list[Sample], left: str = ""
) -> tuple[Source, ...]:
    """Sources that hold these rows; the first may leave one out by itself."""
    given = dict(zip(("0", "1", "2"), sources, strict=False))

    def read_source(source: Source, *, base_dir: Path, key: str, on_left_out: Any) -> Any:
        if left and source.recipe == "0":
            on_left_out(LeftOut(left, "not used"))
        return iter(given[str(source.recipe)])

    monkeypatch.setattr(dataset, "read_source", read_source)
    return tuple(Source(recipe=name, weight=1 + int(name)) for name in list(given)[: len(sources)])


def test_rows_whose_own_answer_fails_are_left_out_and_reported(monkeypatch, tmp_path):
    first, second = [sample("a"), sample("b", answer=13), sample("c")], [sample("a"), sample("d")]
    sources = rows(monkeypatch, first, second, left="x")
    found = read_dataset(sources, CHECKS, base_dir=tmp_path, seed=7)
    assert [[it.id for it in source] for source in found.sources] == [
        ["a", "c"],
        ["a", "d"],
    ], "ids may meet in two sources"
    assert found.weights == (1, 2)
    assert found.left_out == (LeftOut("x", "not used"), LeftOut("b", "unlucky"))
    assert (found.seed, found.purpose) == (7, "data")
    assert [it.id for it in found.samples] == ["a", "c", "a", "d"]
    again = found.for_purpose("warmup")
    assert (again.sources, again.weights, again.seed, again.purpose) == (
        found.sources,
        (1, 2),
        7,
        "warmup",
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            [sample("a"), sample("b"), sample("a")],
            r"data\.0: the id 'a' names several rows \(and 0 other ids do\); ids must be unique",
        ),
        (
            [sample("a"), sample("b"), sample("a"), sample("b"), sample("b")],
            r"the id 'a' names several rows \(and 1 other ids do\)",
        ),
        ([sample("a"), sample("a", answer=13)], "the id 'a' names several rows"),
        (
            [sample("a", answer=13), sample("b", answer=13)],
            r"data\.0: all 2 rows are unusable; a: unlucky",
        ),
        ([], r"data\.0: the data set is empty"),
    ],
)
def test_a_source_of_which_nothing_is_sound_is_refused(given, message, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=message):
        read_dataset(rows(monkeypatch, given), CHECKS, base_dir=tmp_path, seed=0)


def test_a_source_is_named_by_its_place(monkeypatch, tmp_path):
    sources = rows(monkeypatch, [sample("a")], [])
    with pytest.raises(UserError, match=r"warmup\.data\.1: the data set is empty"):
        read_dataset(sources, CHECKS, base_dir=tmp_path, seed=0, key="warmup.data")


# --- its fingerprint ------------------------------------------------------------------------------

SAMPLE = Sample(
    id="q1",
    question="How many?",
    answer_kind="number",
    answer=3,
    choices=("a", "b"),
    frame="pixels",
    solution="three",
    images=(b"picture",),
    sizes=((3, 2),),
)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "q2"},
        {"question": "How many are there?"},
        {"answer_kind": "value"},
        {"answer": 4},
        {"answer": "3"},
        {"choices": ("b", "a")},
        {"choices": ()},
        {"frame": "norm1000"},
        {"solution": ""},
        {"images": (b"other",)},
        {"images": ()},
        {"images": (b"picture", b"picture")},
    ],
    ids=str,
)
def test_whatever_of_a_row_can_change_what_is_learnt_changes_the_digest(change):
    assert dataset.fingerprint([[replace(SAMPLE, **change)]]) != dataset.fingerprint([[SAMPLE]])


def test_equal_rows_have_one_digest_and_their_number_and_order_matter():
    other = replace(SAMPLE, id="q2")
    assert dataset.fingerprint([[SAMPLE]]) == dataset.fingerprint([[replace(SAMPLE)]])
    every = [[[SAMPLE, other]], [[other, SAMPLE]], [[SAMPLE]], [[SAMPLE, other, other]], []]
    assert len({dataset.fingerprint(sources) for sources in every}) == len(every)
    assert len(dataset.fingerprint([])) == 16
    assert dataset.fingerprint([[SAMPLE]], "(1, 2)") != dataset.fingerprint([[SAMPLE]], "(2, 1)")


@pytest.mark.parametrize("change", ["another name", "another size", "another time"])
def test_a_picture_in_a_file_is_known_by_name_size_and_time(change, tmp_path):
    """An edit that leaves the size is seen by the time of the file."""
    path, other = tmp_path / "picture.png", tmp_path / "other.png"
    path.write_bytes(b"1234")
    os.utime(path, ns=(10**18, 10**18))
    before = dataset.fingerprint([[replace(SAMPLE, images=(path,))]])
    assert before == dataset.fingerprint([[replace(SAMPLE, images=(path,))]])
    if change == "another name":
        path = path.rename(other)
    if change == "another size":
        path.write_bytes(b"12345")
        os.utime(path, ns=(10**18, 10**18))
    if change == "another time":
        path.write_bytes(b"4321")
        os.utime(path, ns=(10**18, 10**18 + 1))
    assert dataset.fingerprint([[replace(SAMPLE, images=(path,))]]) != before


def test_a_folder_that_was_moved_holds_the_same_data(tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "picture.png").write_bytes(b"1234")
        os.utime(tmp_path / name / "picture.png", ns=(10**18, 10**18))
    here, there = (
        replace(SAMPLE, images=(tmp_path / name / "picture.png",)) for name in ("here", "there")
    )
    assert dataset.fingerprint([[here]]) == dataset.fingerprint([[there]])
