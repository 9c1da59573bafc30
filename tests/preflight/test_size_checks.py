"""Sizes that rows state of their pictures, against those that these have, by hand."""

from typing import Any

import pytest

from gpg_vl.preflight.finding import Finding
from gpg_vl.preflight.size_checks import areas, findings, stated_size
from gpg_vl.types import Sample, Size
from tests.verifiers.test_verifiers import sample_of

BOX = [[10, 20, 30, 40]]


def row(columns: dict[str, Any], size: Size = (120, 80), **fields: Any) -> Sample:
    return sample_of("boxes", **{"sizes": (size,), "answer": BOX, "columns": columns, **fields})


@pytest.mark.parametrize(
    ("columns", "size"),
    [
        ({"width": 640, "height": 480}, (640, 480)),
        ({"imageWidth": 640, "imageHeight": 480}, (640, 480)),  # LabelMe
        ({"img_width": "640", "img_height": "480"}, (640, 480)),
        ({"Image Width": 640.0, "Image Height": 480.0}, (640, 480)),
        ({"width": 640}, None),
        ({"width": 0.5, "height": 0.25}, None),
        ({"width": True, "height": True}, None),
        ({"width": "640 px", "height": None}, None),
        ({"width": float("nan"), "height": [480]}, None),
        ({}, None),
    ],
)
def test_a_size_is_stated_in_two_columns(columns: dict[str, Any], size: Size | None):
    assert stated_size(columns) == size


def test_a_larger_copy_and_a_photo_on_its_side_are_found():
    larger = row({"width": 240, "height": 160}, id="larger")
    lying = row({"width": 80, "height": 120}, id="lying")
    as_it_is = row({"width": 121, "height": 80})  # a pixel of rounding
    assert list(findings([larger, lying, as_it_is], source="a.jsonl")) == [
        Finding(
            "stop",
            "boxes: a.jsonl: 2 of 3 rows state another size of their picture than it has (larger: "
            "240 x 160, but it has 120 x 80 pixels). Boxes are those of the picture as it is "
            "shown, upright by its EXIF orientation: scale or turn them, or use the pictures that "
            "they were drawn in",
        )
    ]
    assert [finding.level for finding in findings([lying, as_it_is])] == ["mind"]
    assert list(findings([as_it_is])) == list(findings([])) == []


def test_boxes_outside_the_stated_size_are_those_of_the_picture():
    stated = row({"width": 60, "height": 40})
    beyond = row({"width": 60, "height": 40}, answer=[[80, 10, 110, 30]])
    (finding,) = findings([stated, stated, beyond])
    assert finding.level == "mind"
    assert "those of 1 other rows lie outside the stated size" in finding.text
    assert [finding.level for finding in findings([stated] * 20 + [beyond])] == ["stop"]


def test_shares_are_wrong_in_a_turned_picture_only():
    shares = {"frame": "norm1", "answer": [[0.1, 0.2, 0.3, 0.4]]}
    assert list(findings([row({"width": 240, "height": 160}, **shares)])) == []
    assert len(list(findings([row({"width": 160, "height": 240}, **shares)]))) == 1


@pytest.mark.parametrize(
    "sample",
    [
        row({"width": 20, "height": 20}),  # of the box
        row({"width": 240, "height": 160}, answer=[]),
        row({"width": 240, "height": 160}, answer="left"),
        row({"width": 240, "height": 160}, frame="thirds"),
        row({"width": 240, "height": 160}, sizes=((120, 80), (240, 160))),  # of which of them?
        row({"width": 240, "height": 160}, answer_kind="number", answer=3),
    ],
)
def test_a_size_of_another_thing_says_nothing(sample: Sample):
    assert list(findings([sample])) == []


@pytest.mark.parametrize(
    "columns",
    [
        {"area": 1200.0},  # 30 x 40; between the corners it is 20 x 20
        {"objects": {"bbox": BOX, "area": [1200], "category": [4]}},
    ],
)
def test_areas_of_width_and_height_are_found(columns: dict[str, Any]):
    assert list(areas([row(columns, id="first")], source="a.jsonl")) == [
        Finding(
            "stop",
            "boxes: a.jsonl: the areas of 1 of 1 rows (the first: first) are those of x, y, width, "
            "height, as in COCO; declare box_format: xywh",
        )
    ]


@pytest.mark.parametrize(
    "sample",
    [
        row({"area": 400}),
        row({"area": 950.5}),  # of an outline
        row({"area": [1200, 1200]}),
        row({"area": "1200", "objects": [{"area": 1200}]}),
        row({}),
        row({"area": 1200}, answer="left"),
        row({"area": 1200}, answer_kind="number", answer=3),
    ],
)
def test_areas_of_corners_or_of_another_thing_say_nothing(sample: Sample):
    assert list(areas([sample])) == []
