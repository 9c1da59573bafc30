"""What columns, options and pictures of a data set tell before a run."""

import pytest
from PIL import Image

from gpg_vl.config.schema import Source
from gpg_vl.preflight.data_checks import (
    hidden_options,
    holds_pictures,
    odd_pictures,
    places_of_options,
    unused_columns,
)
from gpg_vl.preflight.finding import Finding
from gpg_vl.prompts import Style
from gpg_vl.types import Sample
from tests.hand_made import encoded, png

ROWS = Source(files="rows.jsonl")


def asked(name="a", **fields):
    return Sample(**{"id": name, "question": "?", "answer_kind": "number", "answer": 3, **fields})


def test_columns_that_nobody_uses_are_told():
    samples = [asked(columns={"photo_id": 7, "category_id": 1}), asked(columns={"note": "y"})]
    assert list(unused_columns(ROWS, samples, "rows.jsonl")) == [
        Finding(
            "mind", "rows.jsonl: columns that only a verifier of your own sees: 'photo_id', 'note'"
        )
    ]
    assert list(unused_columns(ROWS, [asked(columns={"category_id": 1})], "rows.jsonl")) == []
    assert list(unused_columns(Source(recipe="digits"), samples, "digits")) == []
    assert list(unused_columns(ROWS, [], "rows.jsonl")) == []


@pytest.mark.parametrize(
    ("cell", "holds"),
    [
        ("a.png", True),
        ("photos/A.JPG", True),
        (png(), True),
        ({"bytes": png(), "path": None}, True),
        (["a.png", "b.webp"], True),
        (["a.png", "a note"], False),
        ("a note", False),
        ("https://example.com/a.png", True),
        (7, False),
        (None, False),
        ([], False),
        ({"width": 3}, False),
    ],
    ids=str,
)
def test_a_column_of_pictures_is_told_where_no_row_has_one(cell, holds):
    assert holds_pictures(cell) is holds
    samples = [asked(columns={"note": "x"}), asked(columns={"photo": cell})]
    found = list(unused_columns(ROWS, samples, "rows.jsonl"))
    assert [finding.level for finding in found] == ["stop" if holds else "mind"]
    if holds:
        assert found[0].text == (
            "rows.jsonl: no row has a picture, but its column 'photo' holds pictures; set columns: "
            "{images: photo}"
        )
    with_picture = [*samples, asked(images=(png(),))]
    assert [each.level for each in unused_columns(ROWS, with_picture, "rows.jsonl")] == ["mind"]


@pytest.mark.parametrize("column", ["image_id", "imageId", "img_id"])
def test_pictures_that_are_only_numbered_are_told(column):
    (found, *_) = unused_columns(ROWS, [asked(columns={column: 17})], "rows.jsonl")
    assert found.level == "mind"
    assert f"its column '{column}' may number them" in found.text
    seen = asked(columns={column: 17}, images=(png(),))
    assert "may number" not in str(list(unused_columns(ROWS, [seen], "rows.jsonl")))


def test_numbers_that_may_be_places_of_options_are_told():
    fields = {"answer_kind": "choice", "choices": ("1", "2", "3")}
    unclear = asked("b", answer="2", **fields)
    (finding,) = places_of_options(ROWS, [unclear], "rows.jsonl")
    assert finding.level == "mind"
    assert "answer '2' of b is read as the words of an option" in finding.text
    third = asked(answer="3", **fields)  # there is no place 3 counted from 0
    letter = asked(answer="B", **fields)  # so the truths are no places
    declared = ROWS.model_copy(update={"answer_index": 1})
    for source, samples in ((ROWS, [third]), (ROWS, [unclear, letter]), (declared, [unclear])):
        assert list(places_of_options(source, samples, "rows.jsonl")) == []


@pytest.mark.parametrize(("shown", "level"), [(0, "stop"), (1, "mind"), (2, "mind")])
def test_options_that_a_prompt_hides_are_told(shown, level):
    fields = {"answer_kind": "choice", "answer": "cat", "choices": ("cat", "dog")}
    hidden = asked("hidden", question="Which?", **fields)
    listed = asked("listed", question="A cat or a dog?", **fields)
    samples = [listed] * shown + [hidden]
    (finding,) = hidden_options(samples, Style(options="never"))
    assert finding.level == level
    assert finding.text.startswith(f"options: 1 of {shown + 1} questions do not show")
    assert "hidden is one" in finding.text
    assert list(hidden_options(samples, Style())) == []
    assert list(hidden_options([listed], Style(options="never"))) == []


def test_pictures_of_which_a_model_sees_less_are_told_once_for_each_kind():
    half = Image.new("RGB", (4, 4))
    half.paste("red", (0, 0, 2, 4))
    samples = [
        asked("one colour", images=(png(),)),
        asked("another", images=(png(), png())),
        asked("sound", images=(encoded(half),)),
        asked("broken", images=(png((600, 600))[:300],)),
    ]
    assert list(odd_pictures(samples)) == [
        Finding(
            "mind",
            "pictures: 3 like that of one colour: all pixels have one colour",
        )
    ]
    assert list(odd_pictures(samples[2:])) == []
