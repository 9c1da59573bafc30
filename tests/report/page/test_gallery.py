"""Groups of answers as the page's script reads them."""

import math
from dataclasses import replace

import pytest
from PIL import Image

from gpg_vl.report.page.contents import GroupRow
from gpg_vl.report.page.gallery import MOST_BOXES, first_word, gallery_groups, spread_order
from gpg_vl.report.page.pictures import PagePictures
from tests.report.page.runs import contents


def shown(tmp_path, *rows, room=1_000_000):
    groups = [GroupRow(step=step, row=row) for step, row in enumerate(rows, 1)]
    pictures = PagePictures(tmp_path)
    pictures.allow(room)
    return gallery_groups(replace(contents(), path=tmp_path, groups=groups), pictures)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 100, 2000])
def test_the_order_has_every_place_once(count):
    assert sorted(spread_order(count)) == list(range(count))


def test_each_beginning_of_the_order_is_spread():
    assert spread_order(8) == [0, 4, 2, 6, 1, 5, 3, 7]
    for taken in (4, 8, 16, 32):
        places = sorted(spread_order(100)[:taken])
        gaps = [b - a for a, b in zip([*places], [*places[1:], 100], strict=True)]
        assert max(gaps) <= 2 * 128 / taken, (taken, places)


def test_pictures_that_find_no_room_are_spread_over_the_run(tmp_path):
    rows = []
    for place in range(8):
        Image.new("RGB", (40, 40), (place * 30, 0, 0)).save(tmp_path / f"{place}.png")
        rows.append({"images": [{"file": f"{place}.png"}], "answers": []})
    sizes = PagePictures(tmp_path)
    sizes.allow(1_000_000)
    for place in (0, 4, 2, 6):
        sizes.add(tmp_path, {"file": f"{place}.png"})
    room = sum(len(data.split(",")[1]) for data in sizes.data.values())
    groups = shown(tmp_path, *rows, room=room)
    has_picture = [bool(group["images"][0]["key"]) for group in groups]
    assert has_picture == [True, False] * 4
    assert [group["step"] for group in groups] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_group_and_its_answers(tmp_path):
    answer = {
        "text": "<answer>7</answer>",
        "tokens": 3,
        "finish": "length",
        "reward": 0.123456,
        "weight": -0.5,
        "parts": {"accuracy": 1, "format": 0.0},
        "answer": "7",
        "reason": "malformed: no tag",
        "boxes_pixels": [[1, 2.004, 3, 4]],
    }
    row = {"id": "a/1", "draw": 3, "used": True, "question": "How many?", "truth": 7}
    row |= {"boxed_image": 2, "truth_pixels": [[0, 0, 5, 5]], "images": [], "answers": [answer]}
    (group,) = shown(tmp_path, row)
    (seen,) = group.pop("answers")
    assert group["boxed"] == 1
    assert (group["draw"], group["used"], group["truth"]) == (3, True, "7")
    assert group["true_boxes"] == [[0.0, 0.0, 5.0, 5.0]]
    assert (seen["tokens"], seen["cut"], seen["reward"], seen["weight"]) == (3, True, 0.1235, -0.5)
    assert seen["parts"] == {"accuracy": 1.0, "format": 0.0}
    assert (seen["read"], seen["reason"], seen["kind"]) == ("7", "malformed: no tag", "malformed")
    assert seen["boxes"] == [[1.0, 2.0, 3.0, 4.0]]


def test_what_an_answer_does_not_have_is_nothing(tmp_path):
    empty = {"text": "", "weight": None, "parts": None, "boxes_pixels": None}
    row = {"images": None, "truth_pixels": None, "boxed_image": None, "answers": [empty, {}]}
    (group,) = shown(tmp_path, row)
    assert (group["images"], group["true_boxes"], group["boxed"]) == ([], [], 0)
    for seen in group["answers"]:
        assert (seen["reward"], seen["weight"]) == (None, None)
        assert (seen["parts"], seen["boxes"]) == ({}, [])
        assert (seen["tokens"], seen["cut"], seen["kind"]) == (0, False, "")


def test_numbers_that_json_does_not_have_are_left_out(tmp_path):
    answer = {"reward": math.nan, "weight": math.inf, "parts": {"a": -math.inf}}
    answer["boxes_pixels"] = [[0, 0, math.inf, 1], [0, 0, 1], ["a", 0, 1, 1], [0, 0, 1, 1]]
    (group,) = shown(tmp_path, {"answers": [answer]})
    (seen,) = group["answers"]
    assert (seen["reward"], seen["weight"], seen["parts"]) == (None, None, {"a": None})
    assert seen["boxes"] == [[0.0, 0.0, 1.0, 1.0]]


def test_boxes_beyond_the_limit_are_left_out(tmp_path):
    boxes = [[0, 0, 1, number] for number in range(MOST_BOXES + 5)]
    (group,) = shown(tmp_path, {"answers": [{"boxes_pixels": boxes}]})
    assert len(group["answers"][0]["boxes"]) == MOST_BOXES


def test_the_kind_of_a_reason_is_its_first_word():
    assert first_word("malformed: no answer tag") == "malformed"
    assert first_word("right") == "right"
    assert first_word("") == ""
