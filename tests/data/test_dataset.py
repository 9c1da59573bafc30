"""A data set: which rows are left out, how they are named, and what changes its fingerprint."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.config.schema import Source
from gpg_vl.data import dataset
from gpg_vl.data.dataset import read_dataset, source_names
from gpg_vl.errors import UserError
from gpg_vl.types import LeftOut, Sample, Turn
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.number import Number


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
    monkeypatch: pytest.MonkeyPatch, *sources: Sequence[Sample | LeftOut]
) -> tuple[Source, ...]:
    """Return sources that hold these rows."""
    given = dict(zip(("0", "1", "2"), sources, strict=False))

    def read_source(source: Source, *, base_dir: Path, key: str, size_of: Any) -> Any:
        return iter(given[str(source.recipe)])

    monkeypatch.setattr(dataset, "read_source", read_source)
    return tuple(Source(recipe=name, weight=1 + int(name)) for name in list(given)[: len(sources)])


def test_rows_whose_own_answer_fails_are_left_out_and_reported(monkeypatch, tmp_path):
    unread = LeftOut("x", "not used")
    first = [unread, sample("a"), sample("b", answer=13), sample("c")]
    sources = rows(monkeypatch, first, [sample("a"), sample("d")])
    found = read_dataset(sources, CHECKS, base_dir=tmp_path, seed=7)
    assert [[it.id for it in source] for source in found.sources] == [
        ["a", "c"],
        ["a", "d"],
    ], "ids may meet in two sources"
    assert [[it.source for it in source] for source in found.sources] == [["0", "0"], ["1", "1"]]
    assert found.weights == (1, 2)
    assert found.left_out == (LeftOut("x", "not used", "0"), LeftOut("b", "unlucky", "0"))
    assert found.rejected == (replace(sample("b", answer=13), source="0"),)
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
            [sample("a", answer=13), sample("b", answer=13)],
            "data.0: all 2 rows are unusable; a: unlucky",
        ),
        (
            [LeftOut("a", "no picture"), sample("b", answer=13), LeftOut("c", "no truth")],
            "data.0: all 3 rows are unusable; a: no picture",
        ),
        ([], "data.0: the data set is empty"),
    ],
)
def test_a_source_of_which_nothing_is_sound_is_refused(given, message, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        read_dataset(rows(monkeypatch, given), CHECKS, base_dir=tmp_path, seed=0)


def test_one_sound_row_is_enough(monkeypatch, tmp_path):
    sources = rows(monkeypatch, [LeftOut("a", "no picture"), sample("b"), LeftOut("c", "no")])
    found = read_dataset(sources, CHECKS, base_dir=tmp_path, seed=0)
    assert [it.id for it in found.samples] == ["b"]
    assert [left.id for left in found.left_out] == ["a", "c"]


def test_a_sample_that_the_model_cannot_be_asked_is_left_out(monkeypatch, tmp_path):
    sources = rows(monkeypatch, [sample("a"), sample("b", answer=4)])
    found = read_dataset(
        sources,
        CHECKS,
        base_dir=tmp_path,
        seed=0,
        why_unaskable=lambda it: "too long" if it.answer == 4 else "",
    )
    assert found.left_out == (LeftOut("b", "too long", "0"),)
    assert [it.id for it in found.rejected] == ["b"]


@pytest.mark.parametrize(
    ("ids", "numbered"),
    [
        ("aba", ["a", "b", "a#2"]),
        ("aaa", ["a", "a#2", "a#3"]),
        (["a", "a", "a#2"], ["a", "a#2", "a#2#2"]),
        (["a#2", "a", "a"], ["a#2", "a", "a#3"]),
        (["a#2", "a", "a", "a"], ["a#2", "a", "a#3", "a#4"]),
    ],
    ids=str,
)
def test_rows_with_one_id_are_all_kept_and_numbered(ids, numbered, monkeypatch, tmp_path):
    sources = rows(monkeypatch, [sample(name) for name in ids])
    found = read_dataset(sources, CHECKS, base_dir=tmp_path, seed=0)
    assert [it.id for it in found.samples] == numbered


def test_a_row_that_is_left_out_takes_a_number_too(monkeypatch, tmp_path):
    """So that a row keeps its id, whatever the verifier thinks of those before it."""
    sources = rows(monkeypatch, [sample("a"), sample("a", answer=13), sample("a")])
    found = read_dataset(sources, CHECKS, base_dir=tmp_path, seed=0)
    assert [it.id for it in found.samples] == ["a", "a#3"]
    assert found.left_out == (LeftOut("a#2", "unlucky", "0"),)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"id": "a\ud800"}, "id"),
        ({"answer": [{"box": [0, 0, 1, 1], "label": "\ud800"}]}, "answer"),
        ({"choices": ("\ud800",)}, "choices"),
        ({"tags": {"task": "\ud800"}}, "tags"),
    ],
)
def test_a_row_that_no_file_can_hold_is_left_out_also_one_of_a_recipe(
    change, name, monkeypatch, tmp_path
):
    """Else the first step that draws it ends the run, when its rollouts are written."""
    sources = rows(monkeypatch, [replace(sample("a"), **change), sample("b")])
    found = read_dataset(sources, CHECKS, base_dir=tmp_path, seed=0)
    assert [it.id for it in found.samples] == ["b"]
    assert found.left_out[0].why.startswith(f"half of a character is in its {name} ")


def test_a_source_is_named_by_its_place(monkeypatch, tmp_path):
    sources = rows(monkeypatch, [sample("a")], [])
    with pytest.raises(UserError, match=r"warmup\.data\.1: the data set is empty"):
        read_dataset(sources, CHECKS, base_dir=tmp_path, seed=0, key="warmup.data")


def test_a_source_is_called_by_what_it_reads_and_equal_ones_are_numbered():
    sources = [
        Source(files="rows.jsonl"),
        Source(files=("a.csv", "b.csv")),
        Source(hub="who/what"),
        Source(hub="who/what", subset="main"),
        Source(recipe="digits"),
        Source(files="rows.jsonl", head=3),
        Source(recipe="digits", options={"task": "count"}),
        Source(files="rows.jsonl"),
    ]
    assert source_names(sources) == [
        "rows.jsonl",
        "a.csv, b.csv",
        "who/what",
        "who/what/main",
        "digits",
        "rows.jsonl (2)",
        "digits (2)",
        "rows.jsonl (3)",
    ]


def test_two_sources_of_one_name_are_told_apart(tmp_path):
    row = {"id": "a", "question": "How many?", "answer_kind": "number", "answer": 3}
    lines = [json.dumps(row), "not JSON", json.dumps({**row, "answer": "none"})]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    verifiers = VerifierSet(by_kind={"number": Number()})
    same = (Source(files="rows.jsonl"), Source(files="rows.jsonl"))
    found = read_dataset(same, verifiers, base_dir=tmp_path, seed=0)
    assert [(it.id, it.source) for it in found.samples] == [
        ("a", "rows.jsonl"),
        ("a", "rows.jsonl (2)"),
    ]
    assert [(left.id, left.source) for left in found.left_out] == [
        ("rows.jsonl line 2", "rows.jsonl"),
        ("a#2", "rows.jsonl"),
        ("rows.jsonl line 2", "rows.jsonl (2)"),
        ("a#2", "rows.jsonl (2)"),
    ]


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
        {"context": (Turn("system", "Count."),)},
        {"letters": ("B", "A")},
        {"answer_image": 1},
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
