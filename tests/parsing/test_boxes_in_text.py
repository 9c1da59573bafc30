"""Boxes in the spellings that models use: bare boxes and well-formed records strictly, anything
that holds boxes leniently."""

from time import process_time

import pytest

from gpg_vl import boxes
from gpg_vl.boxes import Box
from gpg_vl.parsing import boxes as answer_boxes
from gpg_vl.parsing.boxes import Found

BOX = Box(1, 2, 3, 4)
WELL_FORMED = [
    "[1,2,3,4]",
    "[[1, 2, 3, 4]]",
    "(1,2),(3,4)",
    '{"bbox_2d": [1, 2, 3, 4]}',
    '[{"bbox_2d": [1, 2, 3, 4], "label": ""}]',
    '```json\n[{"bbox_2d": [1, 2, 3, 4]}]\n```',
    "```\n[1, 2, 3, 4]\n```",
    '{"bbox": [1.0, 2.0, 3.0, 4.0]}',
    '{"box": [[1, 2], [3, 4]]}',
    "{'Position': [1, 2, 3, 4]}",
    '{"x1": 1, "y1": 2, "x2": 3, "y2": 4}',
    '{"xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4}',
    '{"left": 1, "top": 2, "right": 3, "bottom": 4}',
    '[{"bbox_2d": (1, 2, 3, 4)},]',
]
LOOSE = [
    "The box is [1, 2, 3, 4].",
    "It is at (1, 2, 3, 4), I think.",
    "<box>[[1, 2, 3, 4]]</box>",
    "<ref>dog</ref><box>(1,2),(3,4)</box>",
    "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>",
    '```json\n[\n\t{"bbox_2d": [1, 2, 3, 4], "label": "d',
    '["{"bbox_2d": [1, 2, 3, 4], "label": "dog"}]',
    '{"bbox_2d": [1, 2, 3, 4], "label": "dog"}\n}\n',
    "x1: 1, y1: 2, x2: 3, y2: 4",
    "(x1=1, y1=2, x2=3, y2=4)",
    "xmin=1 ymin=2 xmax=3 ymax=4",
    "from (1, 2) to (3, 4)",
    "top-left (1, 2), bottom-right (3, 4)",
    "左上角(1, 2)，右下角(3, 4)",
    "the top left is (1, 2) and the bottom right corner is (3, 4)",
    "[[1, 2], [3, 4]]",
    "目标在 [1, 2, 3, 4] 处。",
]


@pytest.mark.parametrize("text", WELL_FORMED)
def test_well_formed_boxes_are_read_both_ways(text):
    assert [item.box for item in answer_boxes.records(text)] == [BOX]
    assert [item.box for item in answer_boxes.find(text)] == [BOX]


@pytest.mark.parametrize("text", LOOSE)
def test_boxes_are_picked_out_of_any_text(text):
    assert [item.box for item in answer_boxes.find(text)] == [BOX]
    assert answer_boxes.records(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dog",
        "[1, 2, 3]",
        "[1, 2, 3, 4, 5]",
        "[nan, 2, 3, 4]",
        "[1, 2, 3, x]",
        "(1, 2)",
        '{"bbox_2d": [1, 2, 3]}',
        '{"bbox_2d": [1, 2, 3, "4"]}',
        '{"bbox_2d": [1, 2, 3, true]}',
        '{"bbox_2d": null}',
        "12345",
    ],
)
def test_texts_without_a_box(text):
    assert answer_boxes.find(text) == []
    assert answer_boxes.records(text) is None


@pytest.mark.parametrize("text", ["[]", "No Objects", "no objects.", "None", "```json\n[]\n```"])
def test_silence_is_read(text):
    assert answer_boxes.records(text) == []
    assert answer_boxes.states_no_objects(text)


def test_records_keep_their_label_and_confidence():
    text = (
        '[{"bbox_2d": [1, 2, 3, 4], "label": "cat", "confidence": 0.9}, {"bbox_2d": [5, 6, 7, 8], '
        '"label": "dog", "score": 1}]'
    )
    both = [
        Found(box=BOX, label="cat", confidence=0.9),
        Found(box=Box(5, 6, 7, 8), label="dog", confidence=1.0),
    ]
    assert answer_boxes.records(text) == answer_boxes.find(text) == both
    broken = text[:-20]
    assert answer_boxes.records(broken) is None
    assert [item.box for item in answer_boxes.find(broken)] == [BOX, Box(5, 6, 7, 8)]


def test_several_boxes_keep_their_order():
    assert [
        item.box.x1 for item in answer_boxes.find("(1,2),(3,4) then [5,6,7,8] and (9,9,10,10)")
    ] == [1, 5, 9]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, 2.5, -3e2], "b": null}', {"a": [1, 2.5, -300], "b": None}),
        ("{'a': (1, True), 'b': 'x'}", {"a": [1, True], "b": "x"}),
        ("[]", []),
        ("[1,]", [1]),
        ("7", 7),
        ('"x"', "x"),
    ],
)
def test_literals_that_are_read(text, value):
    assert answer_boxes.literal(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "]",
        "[1 2]",
        "{1: 2}",
        "{'a' 1}",
        "[1]]",
        "1+1",
        "f()",
        "[x]",
        "'a",
        "[" * 40 + "]" * 40,
        "9" * 99,
        ",",
        ":",
        "{,}",
    ],
)
def test_texts_that_are_no_literal(text):
    assert answer_boxes.literal(text) is None


@pytest.mark.parametrize(
    "piece",
    [
        "[",
        "[1,",
        "(1,2),",
        "[1,2,3,4],",
        "{",
        '{"',
        "'",
        "x1:1,",
        "9",
        " ",
        "\\",
        '{"bbox_2d": [1,2,3,4]},',
        "<box>",
        "x=1 ",
    ],
)
def test_a_megabyte_is_read_quickly(piece):
    text = piece * (10**6 // len(piece))
    start = process_time()
    answer_boxes.find(text)
    answer_boxes.records(text)
    assert process_time() - start < 4


@pytest.mark.parametrize(
    "text",
    [
        "1,2,3,4",
        "1, 2, 3, 4.",
        "[1 2 3 4]",
        "［1，2，3，4］",
        "（1，2），（3，4）",
        '[{"bbox_2d": [1, 2, 3, 4',
        '["1", "2", "3", "4"]',
        '{"bbox_2d": ["1", "2", "3", "4"]}',
        "(x1,y1)=(1,2), (x2,y2)=(3,4)",
        "<bbox>1,2,3,4</bbox>",
        "The bounding box is: 1, 2, 3, 4",
        "bbox_2d: 1,2,3,4",
        '{"top_left": [1, 2], "bottom_right": [3, 4]}',
        "I see it.\n1, 2, 3, 4\n",
    ],
)
def test_boxes_without_brackets_in_full_width_or_cut_off_are_found(text):
    assert [item.box for item in answer_boxes.find(text)] == [BOX]


@pytest.mark.parametrize(
    "text", ["1, 2, 3, 4, 5", "1 2 3 4", "the counts 1, 2, 3, 4 are wrong", "[1, 2, 3", "1,2,3"]
)
def test_four_numbers_that_are_no_box(text):
    assert answer_boxes.find(text) == []


SECOND = Box(5, 6, 7, 8)


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ('{"bbox_2d": [1,2,3,4], "label": "cat", "score": 0.5}', [(BOX, "cat", 0.5)]),
        ('{"left": 1, "top": 2, "right": 3, "bottom": 4, "class": "c"}', [(BOX, "c", None)]),
        ('{"x0": 1, "y0": 2, "x1": 3, "y1": 4, "conf": 1}', [(BOX, "", 1.0)]),
        ('{"bbox": [1,2,3,4], "CONFIDENCE": 1}', [(BOX, "", 1.0)]),
        ('{"bbox": [1,2,3,4], "Label": "a", "name": "b"}', [(BOX, "a", None)]),
        ("[[1,2,3,4],[5,6,7,8]]", [(BOX, "", None), (SECOND, "", None)]),
        ("[[[1,2,3,4]]]", [(BOX, "", None)]),
        (
            '[{"bbox": [1,2,3,4]}, {"bbox": [5,6,7,8], "score": 0}]',
            [(BOX, "", None), (SECOND, "", 0.0)],
        ),
        ('{"bbox": [1,2,3,4], "confidence": true}', None),
        ('{"bbox": [1,2,3,4], "confidence": "high"}', None),
        ('[{"bbox": [1,2,3,4]}, {"bbox": [5,6,7]}]', None),  # one that is none spoils all
        ('[{"bbox": [1,2,3,4]}, 7]', None),
        ('{"x0": 1, "y0": 2, "x1": 3, "y1": 4, "x2": 5, "y2": 6}', None),
        ("[[1,2],[3,4]]", None),
        ("{}", None),
        ("[{}]", None),
    ],
)
def test_records_by_hand(text, items):
    read = answer_boxes.records(text)
    assert (
        read if read is None else [(item.box, item.label, item.confidence) for item in read]
    ) == items


@pytest.mark.parametrize(
    ("text", "items"),
    [
        (
            "{'bbox': [1,2,3,4], 'label': 'a', 'score': 0.5} and {'bbox': [5,6,7,8], 'label': 'b'}",
            [(BOX, "a", 0.5), (SECOND, "b", None)],
        ),
        # beside the record, not in it
        ("[1,2,3,4] {'label': 'b', 'score': 0.1}", [(BOX, "", None)]),
        ("{'label': 'b', 'score': 0.1} [1,2,3,4]", [(BOX, "", None)]),
        ("{'label': 'a', 'score': '90%', 'bbox': [1,2,3,4]}", [(BOX, "a", None)]),
        ("{'label': 'a', 'score': '.9', 'bbox': [1,2,3,4]}", [(BOX, "a", 0.9)]),
        (
            "x1: 1, y1: 2, x2: 3, y2: 4; then xmin=5 ymin=6 xmax=7 ymax=8",
            [(BOX, "", None), (SECOND, "", None)],
        ),
        ("[1,2,3,4]\n5, 6, 7, 8\n", [(BOX, "", None)]),  # bare lines only where there is no bracket
        ("1, 2, 3, 4\n5, 6, 7, 8\n", [(BOX, "", None), (SECOND, "", None)]),
    ],
)
def test_what_is_found_by_hand(text, items):
    assert [(item.box, item.label, item.confidence) for item in answer_boxes.find(text)] == items


@pytest.mark.parametrize(("count", "read"), [(999, 999), (1000, 1000), (1001, 1000)])
def test_no_answer_holds_more_than_a_thousand_boxes(count, read):
    assert len(answer_boxes.find("[1,2,3,4] " * count)) == read
    assert len(answer_boxes.records("[" + ",".join(["[1,2,3,4]"] * count) + "]")) == read


@pytest.mark.parametrize(("depth", "read"), [(12, True), (13, False)])
def test_lists_and_records_nest_twelve_deep(depth, read):
    assert (answer_boxes.literal("[" * depth + "1" + "]" * depth) is not None) is read
    assert (answer_boxes.literal("{'a': " * depth + "1" + "}" * depth) is not None) is read


def test_a_literal_is_as_long_as_may_be():
    longest = "[" + " " * (answer_boxes.MAX_LENGTH - 3) + "1]"
    assert (len(longest), answer_boxes.literal(longest)) == (20_000, [1])
    assert answer_boxes.literal(longest + " ") is None


# --- bare boxes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[1,2,3,4]",
        " [ 1 , 2 , 3 , 4 ] ",
        "[1, 2, 3, 4]\n",
        "[[1,2,3,4]]",
        "[1.0, 2.0, 3.00, 4.000]",
        "[+1,2,3,4]",
        "(1,2),(3,4)",
        "( 1 , 2 ) , ( 3 , 4 )",
        "(1,2)(3,4)",
        "[(1,2),(3,4)]",
    ],
)
def test_accepted_spellings_of_one_box(text):
    assert answer_boxes.bare_boxes(text) == [Box(1, 2, 3, 4)]


@pytest.mark.parametrize(
    "text",
    [
        "[[1,2,3,4],[5,6,7,8]]",
        "[1,2,3,4], [5,6,7,8]",
        "(1,2),(3,4),(5,6),(7,8)",
        "[[1,2,3,4], [5,6,7,8]]\n",
    ],
)
def test_accepted_spellings_of_two_boxes(text):
    assert answer_boxes.bare_boxes(text) == [Box(1, 2, 3, 4), Box(5, 6, 7, 8)]


@pytest.mark.parametrize("text", ["[]", " [ ] "])
def test_an_empty_list_holds_no_box(text):
    assert answer_boxes.bare_boxes(text) == []


@pytest.mark.parametrize("text", ["[3,4,1,2]", "(3,4),(1,2)", "[1,1,1,1]"])
def test_a_reversed_or_empty_box_is_read_but_not_proper(text):
    (box,) = answer_boxes.bare_boxes(text)
    assert not box.proper


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "box [1,2,3,4]",
        "[1,2,3,4] or so",
        "[1,2,3,4].",
        "[1,2,3]",
        "[1,2,3,4,5]",
        "1,2,3,4",
        "(1,2)",
        "(1,2),(3)",
        "(1,2,3,4)",
        "[1,2,3,four]",
        "[nan,2,3,4]",
        "[1,2,3,inf]",
        "[1e3,2,3,4]",
        "[1 0,2,3,4]",
        "[1,2,3,4",
        "1,2,3,4]",
        "[1,2,3," + "9" * 1000 + "]",
        "[1,2,3,4](5,6),(7,8)",
        "[1,2,3,4]]",
        "[[1,2,3,4]",
        "{'bbox_2d': [1,2,3,4]}",
        # brackets and commas stand around the boxes and between them
        "[][1,2,3,4]",
        "[1,2,3,4][]",
        "[1,2,3,4][5,6,7,8],",
        ",[1,2,3,4][5,6,7,8]",
    ],
)
def test_anything_else_is_not_boxes(text):
    assert answer_boxes.bare_boxes(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10**6,
        "[1," * 300_000,
        "[1,2,3,4]," * 100_000,
        "(1,2)," * 160_000,
        "9" * 10**6,
        "[" + " " * 10**6,
        "[1" + " " * 10**6 + "x",
    ],
    ids=["brackets", "starts", "boxes", "pairs", "digits", "blanks", "blanks inside"],
)
def test_a_megabyte_of_bare_boxes_is_read_quickly(text):
    start = process_time()
    answer_boxes.bare_boxes(text)
    assert process_time() - start < 2


def test_blanks_after_a_corner_are_read_in_linear_time():
    start = process_time()
    assert answer_boxes.bare_boxes("(1,2)" + " " * 20_000 + "x") is None
    assert process_time() - start < 0.3


def test_written_boxes_are_read_back():
    box = Box(1.25, 2.5, 3.75, 4)
    assert answer_boxes.bare_boxes(boxes.write(box, digits=2)) == [box]
