"""What the numbers of boxes say against their declaration, by hand. The picture is 112 x 84 where
nothing else is said."""

from dataclasses import replace
from typing import Any

import pytest

from gpg_vl.data.columns.true_boxes import read_boxes
from gpg_vl.preflight.box_checks import findings, would_fit
from gpg_vl.preflight.finding import Finding
from gpg_vl.types import Sample, Size
from tests.verifiers.test_verifiers import sample_of

SMALL, LARGE = (112, 84), (2000, 1500)
XYWH = [[0, 0, 56, 42], [10, 10, 46, 32], [56, 42, 56, 42], [20, 8, 30, 20], [40, 10, 16, 20]]
"""COCO's boxes: as corners, the third is empty and the fifth reversed."""
XYXY = [[0, 0, 56, 42], [56, 42, 112, 84], [10, 10, 100, 80], [60, 5, 70, 15], [90, 60, 110, 80]]


def rows(
    boxes: list[Any], frame: str = "pixels", size: Size = SMALL, box_format: str = "xyxy"
) -> list[Sample]:
    """Return a row for each box, as the reader makes it."""
    samples: list[Sample] = []
    for place, box in enumerate(boxes):
        answer = read_boxes(box, box_format).answer
        samples.append(
            sample_of("boxes", id=f"row {place}", sizes=(size,), frame=frame, answer=answer)
        )
    return samples


def test_boxes_as_declared_find_nothing():
    assert findings(rows(XYXY)) == []
    assert findings(rows(XYWH, box_format="xywh"), "xywh") == []
    shares = [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]
    assert findings(rows(shares, "norm1")) == []
    thousandths = [[0, 0, 500, 500], [500, 500, 1000, 1000], [250, 100, 750, 900]]
    assert findings(rows(thousandths, "norm1000")) == []
    assert findings(rows([[100, 100, 1900, 1400]] * 5, size=LARGE)) == []
    assert findings([]) == findings(rows([[]])) == []


def test_boxes_of_width_and_height_are_seen_by_the_rows_that_do_not_fit():
    assert findings(rows(XYWH), source="a.jsonl") == [
        Finding(
            "stop",
            "boxes: a.jsonl: 2 of 5 rows do not fit their picture with frame: pixels and "
            "box_format: xyxy (the first: row 2); 5 would fit with box_format: xywh. Rows that fit "
            "by luck are trained on the wrong places: declare it, or make boxes and pictures of "
            "one size",
        )
    ]


def test_corners_under_a_wrong_format_are_seen():
    for box_format in ("xywh", "cxcywh"):
        (finding,) = findings(rows(XYXY, box_format=box_format), box_format)
        assert finding.level == "stop"
        assert "5 would fit with box_format: xyxy" in finding.text


def test_middles_are_seen():
    # YOLO: as corners 3 of 4 are reversed or empty
    boxes = [[0.5, 0.5, 1, 1], [0.8, 0.5, 0.2, 0.2], [0.5, 0.5, 0.5, 0.5], [0.9, 0.9, 0.1, 0.1]]
    (finding,) = findings(rows(boxes, "norm1"))
    assert (finding.level, "4 would fit with box_format: cxcywh." in finding.text) == ("stop", True)
    # and with the frame undeclared too
    (finding,) = findings(rows(boxes))
    assert finding == Finding(
        "stop",
        "boxes: 4 of 4 rows have no number above 2 under frame: pixels: they look like shares of "
        "the picture; declare frame: norm1 and box_format: cxcywh",
    )


@pytest.mark.parametrize("frame", ["pixels", "norm1000"])
def test_shares_are_seen(frame: str):
    shares = [[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0], [0.25, 0.1, 0.75, 0.9]]
    (finding,) = findings(rows(shares, frame))
    assert finding.level == "stop"
    assert finding.text.startswith(
        f"boxes: 3 of 3 rows have no number above 2 under frame: {frame}"
    )
    assert finding.text.endswith("declare frame: norm1")


def test_shares_among_pixels_are_worth_a_word():
    (finding,) = findings(rows([*XYXY, [0.25, 0.1, 0.75, 0.9]]))
    assert (finding.level, finding.text[:20]) == ("mind", "boxes: 1 of 6 rows h")
    # one of thirty is a small object
    assert findings(rows([*XYXY * 6, [0, 0, 1, 1]])) == []
    # a picture of 8 x 8 has such objects
    assert findings(rows([[0, 0, 2, 2]] * 3, size=(8, 8))) == []


def test_pixels_under_shares_are_seen():
    (finding,) = findings(rows(XYXY, "norm1"))
    assert finding.level == "stop"
    # small pictures: pixels and thousandths both fit, so both are named
    assert "5 would fit with frame: pixels or frame: norm1000." in finding.text
    (finding,) = findings(rows([[0, 0, 1900, 1400], [1200, 0, 1300, 90]], "norm1", LARGE))
    assert "2 would fit with frame: pixels." in finding.text


def test_pixels_under_thousandths_are_seen():
    boxes = [[0, 0, 1900, 1400], [1200, 0, 1300, 90], [0, 0, 900, 1000]]
    (finding,) = findings(rows(boxes, "norm1000", LARGE))
    assert (finding.level, "3 would fit with frame: pixels." in finding.text) == ("stop", True)


THOUSANDTHS = [[0, 0, 500, 500], [500, 500, 1000, 1000], [250, 100, 750, 900]]


def test_thousandths_in_smaller_pictures_do_not_fit():
    (finding,) = findings(rows(THOUSANDTHS))
    assert (finding.level, "3 would fit with frame: norm1000." in finding.text) == ("stop", True)
    # where most rows fit it may be a larger copy of the picture: 400 x 300 and 500 x 375
    boxes = [[0, 0, 300, 200], [50, 50, 390, 290], [9, 9, 90, 90], [400, 300, 500, 370]]
    (finding,) = findings(rows(boxes, size=(400, 300)))
    assert (finding.level, "4 would fit with frame: norm1000." in finding.text) == ("mind", True)


def test_thousandths_in_larger_pictures_fit_and_stop_at_a_thousand():
    # edges anywhere: (1000/2000 x 1000/1500)^3 = 1/27
    (finding,) = findings(rows(THOUSANDTHS, size=LARGE))
    assert finding == Finding(
        "mind",
        "boxes: no edge lies beyond 1000 under frame: pixels, although the pictures of 3 boxes "
        "are larger; they look like thousandths of the picture: declare frame: norm1000, if a "
        "picture with its box shows it",
    )
    # one edge beyond it, two boxes, or sides that hardly reach it
    assert findings(rows([*THOUSANDTHS, [0, 0, 1002, 9]], size=LARGE)) == []
    assert findings(rows(THOUSANDTHS[:2], size=LARGE)) == []
    assert findings(rows(THOUSANDTHS * 50, size=(1100, 1024))) == []
    # (1000/1250)^13 = 0.055 and (1000/1250)^14 = 0.044
    assert findings(rows([[0, 0, 900, 700]] * 13, size=(1250, 1000))) == []
    assert len(findings(rows([[0, 0, 900, 700]] * 14, size=(1250, 1000)))) == 1


@pytest.mark.parametrize("frame", ["pixels", "norm1000"])
def test_percentages_stop_at_a_hundred(frame: str):
    (finding,) = findings(
        rows([[0, 0, 50, 50], [50, 50, 100, 100], [25, 10, 75, 90]], frame, LARGE)
    )
    assert finding.level == "mind"
    assert "no edge lies beyond 100 under" in finding.text
    assert "divide them by 100 and declare frame: norm1" in finding.text


def test_some_broken_rows_do_not_change_the_declaration():
    broken = [[50, 50, 20, 20], [60, 60, 10, 10]]  # reversed: they would fit as width and height
    (finding,) = findings(rows([*XYXY * 2, *broken]))
    assert finding == Finding(
        "mind",
        "boxes: 2 of 12 rows do not fit their picture with frame: pixels and box_format: xyxy "
        "(the first: row 10); 2 of these would fit with box_format: xywh",
    )
    # one row of sixty is not worth a word
    assert findings(rows([*XYXY * 12, broken[0]])) == []


def test_outlines_know_no_other_format():
    outline = [[0, 0, 50, 0, 50, 200]]
    found = findings(rows(outline * 3, box_format="polygon"), "polygon")
    assert [finding.level for finding in found] == ["stop"]
    assert "would fit with frame: norm1000." in found[0].text


def test_rows_that_say_nothing_of_their_numbers_are_passed_over():
    outside: dict[str, Any] = {"sizes": (SMALL,), "answer": [[500, 500, 400, 400]]}
    assert len(findings([sample_of("boxes", **outside)])) == 1
    for fields in (
        {"sizes": (), "images": ()},
        {"sizes": (SMALL, LARGE)},  # it is not said in which
        {"frame": "resized"},
        {"answer": "red"},
        {"answer": ["1234"]},
        {"answer": []},
    ):
        assert findings([sample_of("boxes", **{**outside, **fields})]) == []
    assert findings([sample_of("number", sizes=(SMALL,), answer=["1234", "5678"])]) == []
    assert findings([sample_of("detection", **outside)], kinds={"boxes"}) == []
    mine = replace(sample_of("boxes", **outside), answer_kind="mine")
    assert findings([mine]) == []
    assert len(findings([mine], kinds={"mine"})) == 1


def test_a_box_is_held_against_its_own_picture():
    sample = sample_of("boxes", sizes=(SMALL, LARGE), answer_image=2, answer=[[1900, 9, 1950, 99]])
    assert findings([sample]) == []


def test_a_row_fits_where_all_its_boxes_do():
    both = [(0.0, 0.0, 56.0, 42.0), (56.0, 42.0, 56.0, 42.0)]
    assert would_fit(both, SMALL, "pixels", "xywh")
    assert not would_fit(both, SMALL, "pixels", "xyxy")
    assert not would_fit(both, SMALL, "pixels", "cxcywh")
    assert not would_fit(both, SMALL, "norm1", "xywh")
    assert would_fit(both, SMALL, "norm1000", "xywh")


def test_pixels_of_smaller_pictures_fit_as_thousandths_and_stop_at_their_sides():
    (finding,) = findings(rows(XYXY, "norm1000"))
    assert finding.level == "mind"
    assert "no edge lies beyond the width and height of its own picture" in finding.text
    assert "declare frame: pixels" in finding.text
    assert findings(rows([*XYXY, [0, 0, 114, 84]], "norm1000")) == []  # one edge lies beyond
    assert findings(rows(XYXY[:2], "norm1000")) == []  # too few to tell


def test_numbers_that_are_y_first_are_named():
    y_first = [[y1, x1, y2, x2] for x1, y1, x2, y2 in XYXY]
    (finding,) = findings(rows(y_first))
    assert "or if they are [y1, x1, y2, x2], to be written x first" in finding.text


def test_boxes_of_photos_on_their_side_are_named():
    lying = [[100, 100, 3900, 200], [3000, 50, 3900, 2900], [2000, 1000, 3500, 2000]]
    (finding,) = findings(rows(lying, size=(3000, 4000)))
    assert finding.level == "stop"
    assert "photos that lie on their side without their EXIF orientation?" in finding.text


def test_boxes_of_a_larger_copy_fit_no_declaration():
    (finding,) = findings(rows([[600, 600, 1200, 1100]] * 3))
    assert finding.level == "stop"
    assert "no other declaration fits them" in finding.text
    assert "boxes of a larger copy of the pictures?" in finding.text
