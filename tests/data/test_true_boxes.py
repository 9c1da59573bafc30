"""True boxes in the spellings that data sets use. Every one of the first list is the box from the
upper left corner to 56, 42."""

import re
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from gpg_vl.boxes import Box
from gpg_vl.data.columns.true_boxes import Boxes, read_boxes
from gpg_vl.verifiers.boxes import stored_boxes
from tests.verifiers.test_verifiers import sample_of

ONE = [0, 0, 56, 42]
SIDES = {"x": 0, "y": 0, "width": 56, "height": 42}


@pytest.mark.parametrize(
    "value",
    [
        # lists
        ONE,
        [ONE],
        [[ONE]],
        tuple(ONE),
        [[0, 0], [56, 42]],
        [[[0, 0], [56, 42]]],
        [["0", "0", "56", "42"]],
        [0.0, 0.0, 56.0, 42.0],
        ["[0, 0, 56, 42]"],
        # arrays and numbers of other libraries
        np.array(ONE),
        np.array([ONE], dtype=np.float32),
        [np.array(ONE)],
        [np.int64(0), np.float32(0), np.int16(56), 42],
        [Decimal("0"), Decimal("0.0"), Decimal("56"), Decimal("42.00")],
        # texts
        "[0, 0, 56, 42]",
        "[[0,0,56,42]]",
        "(0, 0, 56, 42)",
        "0,0,56,42",
        " 0, 0, 56, 42 ",
        "0 0 56 42",
        "0;0;56;42",
        "0,0;56,42",
        "[0 0 56 42]",
        "[[ 0.  0. 56. 42.]]",
        "0\n0\n56\n42",
        "(0,0),(56,42)",
        "(0,0)(56,42)",
        "array([ 0,  0, 56, 42])",
        "[array([0., 0., 56., 42.], dtype=float32)]",
        "<box>(0,0),(56,42)</box>",
        "<box>(0,0),(56,42)</box><points>(10,12),(20,21)</points>",
        "<|box_start|>(0,0),(56,42)<|box_end|>",
        "<think>there</think><answer>[0, 0, 56, 42]</answer>",
        "```json\n[0, 0, 56, 42]\n```",
        "\\boxed{[0, 0, 56, 42]}",
        "{'bbox_2d': [0, 0, 56, 42]}",
        '{"bbox_2d": [0, 0, 56, 42]}',
        # records
        {"bbox_2d": ONE},
        {"bbox": ONE},
        {"Box": ONE},
        {"box": [ONE]},
        {"boxes": [ONE]},
        {"boxes": [{"bbox": ONE}]},
        {"objects": [{"position": ONE}]},
        {"position": "0,0,56,42"},
        [{"box": ONE}],
        {"box": {"x1": 0, "y1": 0, "x2": 56, "y2": 42}},
        {"x1": 0, "y1": 0, "x2": 56, "y2": 42},
        {"x1": "0", "y1": "0", "x2": "56", "y2": "42"},
        {"xmin": 0, "ymin": 0, "xmax": 56, "ymax": 42},
        {"x_min": 0, "y_min": 0, "x_max": 56, "y_max": 42},
        {"left": 0, "top": 0, "right": 56, "bottom": 42},
        {"x0": 0, "y0": 0, "x1": 56, "y1": 42},
        {"x": 0, "y": 0, "width": 56, "height": 42},
        {"x": 0, "y": 0, "w": 56, "h": 42},
        {"left": 0, "top": 0, "width": 56, "height": 42},
        {"cx": 28, "cy": 21, "w": 56, "h": 42},
        {"x_center": 28, "y_center": 21, "width": 56, "height": 42},
        {"top_left": [0, 0], "bottom_right": {"x": 56, "y": 42}},
        {"points": [[0, 0], [56, 42]]},
        {"bbox": ONE, "x1": 0, "y1": 0, "x2": 56, "y2": 42},
        {"xmin": [0], "ymin": [0], "xmax": [56], "ymax": [42]},
    ],
)
def test_one_box_in_any_spelling_is_one_box(value: Any):
    assert read_boxes(value, "xyxy") == Boxes([ONE], image=0)


@pytest.mark.parametrize(
    ("box_format", "value", "corners"),
    [
        ("xywh", [56, 42, 56, 42], [56, 42, 112, 84]),
        ("xywh", "56, 42, 56, 42", [56, 42, 112, 84]),
        ("xywh", {"bbox": [56, 42, 56, 42]}, [56, 42, 112, 84]),
        # 0.1 + 0.2 is 0.30000000000000004 in floats
        ("xywh", [0.1, 0.2, 0.2, 0.1], [0.1, 0.2, 0.3, 0.3]),
        ("cxcywh", [28, 21, 56, 42], [0, 0, 56, 42]),
        ("cxcywh", [28, 21, 55, 41], [0.5, 0.5, 55.5, 41.5]),
        ("cxcywh", [0.7, 0.5, 0.2, 0.2], [0.6, 0.4, 0.8, 0.6]),
        # names say what the numbers are, whatever is declared
        ("xyxy", {"x": 56, "y": 42, "width": 56, "height": 42}, [56, 42, 112, 84]),
        ("xywh", {"x1": 56, "y1": 42, "x2": 60, "y2": 50}, [56, 42, 60, 50]),
        ("polygon", {"x": 56, "y": 42, "w": 56, "h": 42}, [56, 42, 112, 84]),
        # ... but x and y may be the middle, where that is declared
        ("cxcywh", {"x": 28, "y": 21, "width": 56, "height": 42}, [0, 0, 56, 42]),
        ("cxcywh", {"left": 28, "top": 21, "width": 56, "height": 42}, [28, 21, 84, 63]),
        # outlines
        ("polygon", [0, 9, 5, 0, 7, 6], [0, 0, 7, 9]),
        ("polygon", [[0, 9], [5, 0], [7, 6]], [0, 0, 7, 9]),
        ("polygon", "[[0, 9], [5, 0], [7, 6]]", [0, 0, 7, 9]),
        ("polygon", [{"x": 0, "y": 9}, {"x": 5, "y": 0}, {"x": 7, "y": 6}], [0, 0, 7, 9]),
        ("polygon", [[0, 9, 5, 0, 7, 6]], [0, 0, 7, 9]),
        # the parts of one object, as COCO writes them
        ("polygon", [[0, 9, 5, 0, 7, 6], [20, 20, 30, 20, 30, 25]], [0, 0, 30, 25]),
        ("polygon", {"segmentation": [[0, 9, 5, 0, 7, 6]]}, [0, 0, 7, 9]),
    ],
)
def test_the_declared_format_is_read_without_errors_of_rounding(
    box_format: str, value: Any, corners: list[float]
):
    (read,) = read_boxes(value, box_format).answer
    assert read == corners
    assert [type(number) for number in read] == [type(number) for number in corners]


def test_outlines_of_points_are_an_object_each_and_so_are_lists_of_parts():
    first, second = [0, 0, 5, 6], [9, 9, 11, 12]
    points = [[[0, 0], [5, 0], [5, 6]], [[10, 10], [11, 12], [9, 9]]]
    assert read_boxes(points, "polygon").answer == [first, second]
    parts = [[[0, 0, 5, 0, 5, 3], [0, 3, 5, 3, 5, 6]], [[10, 10, 11, 12, 9, 9]]]
    assert read_boxes(parts, "polygon").answer == [first, second]


@pytest.mark.parametrize(
    "value",
    [
        [ONE, [1, 2, 3, 4]],
        "0,0,56,42;1,2,3,4",
        "0 0 56 42\n1 2 3 4",
        "[[ 0  0 56 42]\n [ 1  2  3  4]]",
        [[[0, 0], [56, 42]], [[1, 2], [3, 4]]],
        np.array([ONE, [1, 2, 3, 4]]),
        {"bbox": [ONE, [1, 2, 3, 4]]},
        [{"bbox": ONE}, [1, 2, 3, 4]],
        {"xmin": [0, 1], "ymin": [0, 2], "xmax": [56, 3], "ymax": [42, 4]},
    ],
)
def test_several_boxes_are_read_in_their_order(value: Any):
    assert read_boxes(value, "xyxy").answer == [ONE, [1, 2, 3, 4]]


def test_four_boxes_are_no_box_of_four_corners():
    assert read_boxes([[1, 2, 3, 4]] * 4, "xyxy").answer == [[1, 2, 3, 4]] * 4


@pytest.mark.parametrize("value", [[], "[]", (), {"boxes": []}, "No Objects", np.zeros((0, 4))])
def test_no_objects_are_no_boxes(value: Any):
    assert read_boxes(value, "xyxy") == Boxes([], image=0)


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ({"bbox_2d": ONE, "label": "red"}, [{"box": ONE, "label": "red"}]),
        ({"box": ONE, "label": 3}, [{"box": ONE, "label": 3}]),
        ({"box": ONE, "category": "red"}, [{"box": ONE, "label": "red"}]),
        # the number of a class is no name that an answer could give
        ({"box": ONE, "category": 3}, [{"box": ONE, "category": 3}]),
        ({"box": ONE, "label": None}, [ONE]),
        ({"Position": ONE, "Confidence": 1}, [{"box": ONE, "confidence": 1}]),
        ({"bbox": ONE, "position": "left"}, [{"box": ONE, "position": "left"}]),
        (
            {"boxes": [ONE, [1, 2, 3, 4]], "labels": ["cat", "dog"]},
            [{"box": ONE, "label": "cat"}, {"box": [1, 2, 3, 4], "label": "dog"}],
        ),
        (
            {"boxes": [ONE, [1, 2, 3, 4]], "label": "cat"},
            [{"box": ONE, "label": "cat"}, {"box": [1, 2, 3, 4], "label": "cat"}],
        ),
        (
            "<answer>[{'Position': [0, 0, 56, 42], 'Confidence': 1.0}]</answer>",
            [{"box": ONE, "confidence": 1}],
        ),
    ],
)
def test_a_record_keeps_what_it_says_of_its_box(value: Any, answer: list[Any]):
    assert read_boxes(value, "xyxy").answer == answer


@pytest.mark.parametrize(
    ("value", "image"),
    [
        ([{"box": ONE, "image": 2}], 2),
        ([{"box": ONE, "image": 2}, {"box": ONE, "image": "2"}], 2),
        ({"boxes": [ONE, ONE], "image": 1}, 1),
        ({"boxes": [{"box": ONE}], "answer_image": 3}, 3),
        ({"boxes": [ONE, ONE], "image": [2, 2]}, 2),
        ([{"box": ONE, "image": None}], 0),
        ([{"box": ONE, "image": "b.png"}], 0),
        ([], 0),
    ],
)
def test_boxes_name_their_picture(value: Any, image: int):
    assert read_boxes(value, "xyxy").image == image


@pytest.mark.parametrize(
    ("box_format", "value", "why"),
    [
        ("xyxy", [0, None, 56, 42], "None is no number"),
        ("xyxy", None, "None is no number"),
        ("xyxy", "null", "'null' is no number and no box"),
        ("xyxy", "", "'' is no number and no box"),
        ("xyxy", [0, float("nan"), 56, 42], "nan is no coordinate"),
        ("xyxy", "[0, NaN, 56, 42]", "nan is no coordinate"),
        ("xyxy", [0, 0, float("-inf"), 42], "-inf is no coordinate"),
        ("xyxy", [0, 0, 10**400, 42], "is no coordinate"),
        ("xyxy", "[0, 0, 1e999999999, 42]", "inf is no coordinate"),
        ("xyxy", [0, 0, Decimal("1e99999999"), 42], "is no coordinate"),
        ("xyxy", [0, 0, Decimal("sNaN"), 42], "is no coordinate"),
        ("xyxy", [0, 0, True, True], "True is no number"),
        ("xyxy", "red", "'red' is no number and no box"),
        ("xyxy", ["a", "b", "c", "d"], "'a' is no number and no box"),
        ("xyxy", ["red", ONE], "'red' is no number and no box"),
        ("xyxy", 5, "one number is no box"),
        ("xyxy", b"0,0,5,5", "is no number"),
        ("xyxy", {0, 1, 2, 3}, "is no number"),
        ("xyxy", [0, 0, 56], "has 3 numbers, expected four"),
        ("xyxy", [0, 0, 56, 42, 1], "has 5 numbers, expected four"),
        ("xyxy", "0 0.5 0.5 0.2 0.2", "has 5 numbers, expected four"),
        ("xyxy", [ONE, [1, 2]], "[1, 2] has 2 numbers, expected four"),
        ("xyxy", [ONE, 1], "mixes numbers and boxes"),
        ("xyxy", [[]], "[] is not one box"),
        ("xyxy", [[ONE, ONE], ONE], "is not one box"),
        ("xyxy", [[1, 2]], "has 2 numbers, expected four"),
        # outlines that are not declared
        ("xyxy", [0, 0, 5, 0, 5, 6], "6 numbers are no box; the points of an outline need box_f"),
        ("xyxy", [0, 0, 5, 0, 5, 6], "box_format: polygon"),
        ("xyxy", [[0, 0], [5, 0], [5, 6]], "3 points are no box; the points of an outline need"),
        ("xyxy", [[0, 0], [5, 0], [5, 6]], "box_format: polygon"),
        ("xyxy", {"points": [[0, 0], [5, 0], [5, 6]]}, "box_format: polygon"),
        ("polygon", ONE, "expected x and y of at least three points"),
        ("polygon", [0, 0, 5, 0, 5, 6, 7], "has 7 numbers, expected x and y"),
        ("polygon", [[0, 0], [5, 0]], "expected x and y of at least three points"),
        ("polygon", {"segmentation": {"counts": "ab", "size": [1, 2]}}, "'counts', 'size'"),
        # sizes
        ("xywh", [5, 5, -1, 5], "width -1 and height 5, expected no negative ones"),
        ("cxcywh", [5, 5, 1, -5], "width 1 and height -5, expected no negative ones"),
        ("xyxy", {"x": 5, "y": 5, "w": 1, "h": -5}, "expected no negative ones"),
        ("xywh", [[0, 0], [56, 42]], "may be two corners, or a point and a size"),
        # records
        ("xyxy", {"label": "red"}, "keys ['label'] has no box"),
        ("xyxy", {"bbox": None}, "keys ['bbox'] has no box"),
        ("xyxy", {"x1": 0, "y1": 0, "x2": 56}, "has no box"),
        ("xyxy", {"bbox": ONE, "box": [0, 0, 56, 43]}, "different boxes under ['bbox', 'box']"),
        ("xyxy", {"bbox": ONE, "BBox": ONE}, "a key is there twice"),
        ("xyxy", '{"box": [0,0,1,1], "box": [0,0,2,2]}', "is no number and no box"),
        ("xyxy", {"boxes": [ONE, ONE], "labels": ["a"]}, "2 boxes, but 1 values under labels"),
        ("xyxy", "A <ref>cat</ref><box>[[0, 0, 5, 5]]</box>", "has words beside its classes"),
        ("xyxy", "<ref>cat</ref><box>here</box>", "'here' is no box"),
        # programs whose numbers are not what they seem
        ("xyxy", {"box_2d": ONE}, "as Gemini writes it"),
        ("xyxy", {"box_2d": [ONE]}, "as Gemini writes it"),
        ("xyxy", {"box_2d": str(ONE)}, "as Gemini writes it"),
        ("xyxy", {**SIDES, "class": "a", "confidence": 1}, "the middle of the box in what Robof"),
        ("xyxy", {**SIDES, "detection_id": "a"}, "the middle of the box in what Roboflow detects"),
        ("xyxy", {"bbox": ONE, "bbox_mode": 1}, "bbox_mode is 1, which is not box_format: xyxy"),
        ("xyxy", {"bbox": ONE, "bbox_mode": 1.0}, "bbox_mode is 1.0, which is not box_format: x"),
        ("xywh", {"bbox": ONE, "bbox_mode": "BoxMode.XYXY_ABS"}, "not box_format: xywh"),
        ("xyxy", {"bbox": [1, 2, 30, 40], "area": 1200.0}, "declare box_format: xywh"),
        ("xyxy", {"bbox": [[1, 2, 3, 4]], "area": [12]}, "declare box_format: xywh"),
        ("xyxy", {**SIDES, "original_width": 100}, "Label Studio counts in hundredths"),
        ("xywh", {**SIDES, "rectanglelabels": ["a"]}, "Label Studio counts in hundredths"),
        ("xyxy", {"coordinates": SIDES}, "the middle of the box in CreateML"),
        ("xyxy", {"box": ONE, "rotation": 45}, "the box is turned by 45"),
        ("xyxy", {"points": [[0, 0], [9, 9]], "shape_type": "circle"}, "a 'circle' is no box"),
        ("xyxy", {"points": [[0, 0]], "shape_type": "rectangle"}, "expected two corners"),
        ("xyxy", {"box": ONE, "label": "a", "class": "b"}, "a box has two classes, ['a', 'b']"),
        ("xyxy", {"xmin": [0, 1], "ymin": [0], "xmax": 5, "ymax": 5}, "expected four numbers"),
        # pictures
        ("xyxy", [{"box": ONE, "image": 2}, {"box": ONE, "image": 1}], "in the pictures [1, 2]"),
        ("xyxy", [{"box": ONE, "image": 2}, ONE], "in the pictures [0, 2]"),
        ("xyxy", [{"box": ONE, "image": 0}], "image is 0, expected a number counted from 1"),
        ("xyxy", {"box": ONE, "image": 1, "answer_image": 2}, "in picture 1 and in picture 2"),
        # texts that only look like boxes
        ("xyxy", "<answer>[0,0,1,1]</answer><answer>[0,0,2,2]</answer>", "no number and no box"),
        ("xyxy", "[0, 0, 56, 42", "no number and no box"),
        ("xyxy", "0,0,56,42 and 1,2,3,4", "no number and no box"),
        ("xyxy", "__import__('os').getcwd()", "no number and no box"),
    ],
)  # fmt: skip
def test_what_is_no_box_is_refused_with_the_value_and_the_reason(
    box_format: str, value: Any, why: str
):
    with pytest.raises(ValueError, match="^boxes .*" + re.escape(why)):
        read_boxes(value, box_format)


def nested(depth: int) -> Any:
    value: Any = [ONE, ONE]
    for _ in range(depth):
        value = [value, ONE]
    return value


@pytest.mark.parametrize(
    "value",
    ["[" * 100_000, "9" * 100_000, "[0,0,1," + "1" * 100_000 + "]", "a, " * 100_000, nested(5_000)],
)
def test_a_hostile_value_is_refused_in_a_short_sentence(value: Any):
    with pytest.raises(ValueError, match="boxes") as refused:
        read_boxes(value, "xyxy")
    assert len(str(refused.value)) < 800


@pytest.mark.parametrize(
    "value",
    [
        {"shape_type": "rectangle", "points": [[56, 42], [0, 0]]},
        {"shape_type": "rectangle", "points": [[0, 42], [56, 0]]},
        {"bndbox": {"xmin": "0", "ymin": "0", "xmax": "56", "ymax": "42"}},
        {"xtl": "0", "ytl": "0", "xbr": "56", "ybr": "42"},
        {"x0": 0, "top": 0, "x1": 56, "bottom": 42},
        {"minX": 0, "minY": 0, "maxX": 56, "maxY": 42},
        {"name": "rect", **SIDES},
    ],
)
@pytest.mark.parametrize("box_format", ["xyxy", "polygon"])
def test_records_of_label_tools(value: Any, box_format: str):
    (box,) = read_boxes(value, box_format).answer
    assert box == ONE or (box["box"] == ONE and "label" not in box)


def test_a_box_that_is_not_turned_is_upright():
    box = {"box": ONE, "rotation": "0.00"}
    assert read_boxes(box, "xyxy").answer == [box]


def test_the_point_of_coordinates_is_the_middle_where_that_is_declared():
    middle = {"x": 28, "y": 21, "width": 56, "height": 42}
    assert read_boxes({"coordinates": middle}, "cxcywh").answer == [ONE]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<ref>cat</ref><box>[[0, 0, 56, 42]]</box>", [{"box": ONE, "label": "cat"}]),
        ("<ref>cat</ref><box>[0, 0, 56, 42]</box>", [{"box": ONE, "label": "cat"}]),
        (
            "<|object_ref_start|>a cat<|object_ref_end|><|box_start|>(0,0),(56,42)<|box_end|>",
            [{"box": ONE, "label": "a cat"}],
        ),
        (
            "<ref>cats</ref><box>[[0, 0, 56, 42], [1, 2, 3, 4]]</box>, "
            "<ref>dog</ref><box>[[5, 6, 7, 8]]</box>.",
            [
                {"box": ONE, "label": "cats"},
                {"box": [1, 2, 3, 4], "label": "cats"},
                {"box": [5, 6, 7, 8], "label": "dog"},
            ],
        ),
    ],
)
def test_a_class_between_grounding_tokens_is_that_of_its_boxes(text: str, answer: list[Any]):
    assert read_boxes(text, "xyxy").answer == answer


def test_an_area_that_may_be_that_of_corners_says_nothing():
    for box, area in (
        ([1, 2, 4, 6], 12),  # of corners
        ([0, 0, 4, 6], 24),  # of both
        ([1, 2, 4, 6], 7.5),  # of an outline
        ([1, 2, 4, 6], None),
        ([1, 2, 4, 6], [24, 24]),
    ):
        assert read_boxes({"bbox": box, "area": area}, "xyxy").answer[0]["box"] == box
    named = {"bbox": {"x": 1, "y": 2, "w": 2, "h": 3}, "area": 15}  # 3 x 5 are its corner
    assert read_boxes(named, "xyxy").answer[0]["box"] == [1, 2, 3, 5]
    assert read_boxes({"bbox": ONE, "bbox_mode": 0}, "xyxy").answer[0]["box"] == ONE
    assert read_boxes({"bbox": [1, 2, 3, 4], "area": 12}, "xywh").answer[0]["box"] == [1, 2, 4, 6]


def test_reversed_corners_are_left_to_the_verifier():
    assert read_boxes([56, 42, 0, 0], "xyxy").answer == [[56, 42, 0, 0]]


def test_the_verifiers_read_what_is_returned():
    value = [{"bbox": ONE, "label": "red"}, {"x": 1, "y": 2, "w": 3, "h": 4}]
    sample = sample_of("boxes", answer=read_boxes(value, "xyxy").answer)
    assert stored_boxes(sample) == [Box(0, 0, 56, 42), Box(1, 2, 4, 6)]


def test_what_was_canonical_stays_as_it_was():
    answer = [[0.0, 0, 56.5, 42], {"box": [1, 2, 3, 4], "label": "red", "crowd": 0}]
    assert repr(read_boxes(answer, "xyxy").answer) == repr(answer)
