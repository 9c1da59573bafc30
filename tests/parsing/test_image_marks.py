"""Marks of pictures in a text: which there are, whose place each is, and when they contradict the
number of pictures."""

import time

import pytest

from gpg_vl.parsing.image_marks import check, has_marks, names_in, split, split_all


@pytest.mark.parametrize(
    "mark",
    [
        "<image>",
        "<IMAGE>",
        "<Image>",
        "<image 1>",
        "<image_1>",
        "<image-1>",
        "<image#1>",
        "<image1>",
        "<Image 01>",
        "<img1>",
        "<|image_1|>",
        "<|image|>",
        "<|image_pad|>",
        "<|vision_start|><|image_pad|><|vision_end|>",
        "<|vision_start|><|image_pad|><|image_pad|><|image_pad|><|vision_end|>",
        "<|vision_start|><image 1><|vision_end|>",
        "<image_placeholder>",
        "<ImageHere>",
        "<start_of_image>",
        "<start_of_image><image_soft_token><image_soft_token><end_of_image>",
        "<image></image>",
        "<image>./</image>",
        "<img>",
        "<img>photos/a b.png</img>",
        "[IMG]",
        "[img]",
        "[IMG_1]",
        "[Image 1]",
        "{image#1}",
        "<image #1>",
        "<image: 1>",
        "<image/>",
        "<img />",
        "&lt;image&gt;",
        "<image>photos/a.png</image>",
        "<IMG_CONTEXT>",
        "<img><IMG_CONTEXT><IMG_CONTEXT></img>",
        "<fake_token_around_image><image><fake_token_around_image>",
        "<|begin_of_image|><|image|><|end_of_image|>",
        "<|image_start|><|image|><|patch|><|image_end|>",
        "<|media_start|>image<|media_content|><|media_pad|><|media_end|>",
        "<|media_pad|>",
    ],
)
def test_every_kind_of_mark_is_a_place(mark):
    assert split(f"Look at {mark}, please.", 1) == ["Look at ", 0, ", please."]
    assert has_marks(mark)
    with pytest.raises(ValueError, match=r"the row has 0 pictures"):
        check(f"Look at {mark}, please.", 0)


@pytest.mark.parametrize(
    "words",
    [
        "",
        " ",
        "Image 1 is darker than image 2.",
        '<img src="a.png">',
        "<figure>",
        "<imagery>",
        "a < image > b",
        "[images]",
        "<|im_end|>",
        "<|image",
        "image>",
        "\n<p>How?</p>\n",
    ],
)
def test_words_stay_as_they_are(words):
    assert split(words, 0) == split(words, 3) == [words]
    assert not has_marks(words)


@pytest.mark.parametrize(
    ("text", "count", "pieces"),
    [
        ("Is <image> brighter than <image>?", 2, ["Is ", 0, " brighter than ", 1, "?"]),
        ("<image 2> or <image 1>?", 2, [1, "or ", 0, "?"]),
        ("<image 1>: is <image 1> like <image 2>?", 2, [0, ": is image 1 like ", 1, "?"]),
        ("<image_2><image_1>", 2, [1, 0]),
        ("<image_1> or <image_0>? <image_1>", 2, [1, "or ", 0, "? image 1"]),
        ("![a cat](cat.png) or ![](a/dog.png)?", 2, [0, "or ", 1, "?"]),
        ("<image1></image1> or <image2></image2>?", 2, [0, "or ", 1, "?"]),
        ("See <image 1>. So <image_1>, <|image_1|>.", 1, ["See ", 0, ". So image 1, image 1."]),
        ("<image 10>" + "".join(f"<image {n}>" for n in range(1, 10)), 10, [9, *range(9)]),
    ],
)
def test_marks_are_in_order_or_name_their_pictures(text, count, pieces):
    assert split(text, count) == pieces


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("<image>How many?", [0, "How many?"]),
        ("<image>\nHow many?", [0, "How many?"]),
        ("<image> How many?", [0, "How many?"]),
        ("\n <image>\r\n\n How many?", [0, "How many?"]),
        ("How many?\n<image>", ["How many?\n", 0]),
        ("How many?\n<image>\n", ["How many?\n", 0]),
        ("A. <image>\nB. none", ["A. ", 0, "\nB. none"]),
        ("One:\n<image> \n two\nlines", ["One:\n", 0, "two\nlines"]),
        ("One: <image> and\ntwo", ["One: ", 0, " and\ntwo"]),
    ],
)
def test_no_stray_blanks_stand_beside_a_picture(text, pieces):
    assert split(text, 1) == pieces


def test_pictures_in_lines_of_their_own_have_nothing_between_them():
    assert split("<image>\n<image> <image>\nCompare.", 3) == [0, 1, 2, "Compare."]
    assert split("So:\n<image>\n<image>\nCompare.", 2) == ["So:\n", 0, 1, "Compare."]


@pytest.mark.parametrize(
    ("text", "count", "words"),
    [
        ("What does the HTML tag <image> do?", 0, r"1 marks of pictures \(<image>\), .* 0 picture"),
        ("<image> <image> <image>", 2, "3 marks of pictures .* the row has 2 pictures"),
        ("<image>", 2, "1 marks of pictures .* the row has 2 pictures"),
        ("<image 1> <image 2>", 1, "the pictures 1 to 2, the row has 1 pictures"),
        ("<image 0> <image 1>", 1, "the pictures 0 to 1, the row has 1 pictures"),
        ("<image 0> <image 2>", 2, "the pictures 0 to 2, the row has 2 pictures"),
        ("<image 0> <image 2>", 3, "marks of 2 pictures, the row has 3; picture 1 has no mark"),
        ("<image 1> <image 3>", 3, "marks of 2 pictures, the row has 3; picture 2 has no mark"),
        ("<image 1> <image 1>", 2, "marks of 1 pictures, the row has 2; picture 2 has no mark"),
        ("<image 1> <image>", 2, r"with numbers \(1\) and without \(1\)"),
        ("<video>\nWhat happens?", 0, "the mark <video>.*videos and sounds are not read"),
        ("What does <|video_pad|> mean?", 1, r"the mark <\|video_pad\|>"),
    ],
)
def test_marks_that_contradict_the_pictures_are_refused(text, count, words):
    for function in (split, check):
        with pytest.raises(ValueError, match=words):
            function(text, count)


def test_turns_of_a_chat_share_their_pictures():
    assert split_all(["<image>\nWhat is it?", "And <image>?"], 2) == [
        [0, "What is it?"],
        ["And ", 1, "?"],
    ]
    assert split_all(["Is <image 2> red?", "<image 2> or <image 1>?"], 2) == [
        ["Is ", 1, " red?"],
        ["image 2 or ", 0, "?"],
    ]
    with pytest.raises(ValueError, match=r"2 marks of pictures .* 1 pictures"):
        split_all(["<image>", "<image>"], 1)


@pytest.mark.parametrize(
    "text",
    [
        "<|vision_start|>" * 50_000,
        "<|vision_start|>" + "<|image_pad|>" * 50_000,
        "<|vision_start|>" + " " * 200_000,
        "<img>" + "a" * 200_000,
        "<img>" * 50_000,
        "<start_of_image>" * 50_000,
        "<image" * 50_000,
        "<image>" + "\n" * 200_000 + "?",
    ],
)
def test_hostile_texts_take_linear_time(text):
    began = time.perf_counter()
    for count in (1, 2):
        try:
            split(text, count)
        except ValueError:
            continue
    assert time.perf_counter() - began < 5


def test_marks_may_name_their_pictures():
    texts = [
        "Picture 1: <img>a b.png</img>",
        "<image>./</image> <img>",
        "<IMG>x/b.jpg</IMG> is <b>",
    ]
    assert names_in(texts) == ["a b.png", "x/b.jpg"]
