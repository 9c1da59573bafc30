"""Boxes by hand: overlap, coordinate frames, and the processors' resizing."""

import math
import random

import pytest

from gpg_vl import boxes
from gpg_vl.boxes import Box, Frame

LEFT, RIGHT = Box(0, 0, 2, 2), Box(1, 0, 3, 2)
"""Two 2 x 2 squares that share half of each: 2 of 6."""


# --- overlap --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "iou", "giou"),
    [
        (LEFT, LEFT, 1.0, 1.0),
        (LEFT, RIGHT, 2 / 6, 2 / 6),  # the hull 3 x 2 is all union
        (LEFT, Box(2, 0, 4, 2), 0.0, 0.0),  # they touch: no overlap, and a hull without a gap
        (LEFT, Box(4, 0, 6, 2), 0.0, -4 / 12),  # a gap of 2 x 2 in a hull of 6 x 2
        (LEFT, Box(2, 2, 4, 4), 0.0, -8 / 16),  # diagonal: two of four quarters are empty
        (Box(0, 0, 4, 4), Box(1, 1, 3, 3), 4 / 16, 4 / 16),  # one inside the other
        # 40 x 10 and 20 x 30: they share 15 x 5 of 400 + 600 - 75; the hull is 45 x 35
        (Box(0, 0, 40, 10), Box(25, 5, 45, 35), 75 / 925, 75 / 925 - (1575 - 925) / 1575),
        # beside each other, 10 apart and 20 lower: nothing of 400 + 200; the hull is 60 x 40
        (Box(0, 0, 40, 10), Box(50, 20, 60, 40), 0.0, -(2400 - 600) / 2400),
        (Box(0, 0, 40, 10), Box(10, 20, 50, 30), 0.0, -(1500 - 800) / 1500),
        (Box(10, 5, 20, 35), Box(0, 0, 40, 40), 300 / 1600, 300 / 1600),
    ],
)
def test_iou_and_giou_by_hand(a, b, iou, giou):
    assert boxes.iou(a, b) == boxes.iou(b, a) == pytest.approx(iou)
    assert boxes.giou(a, b) == boxes.giou(b, a) == pytest.approx(giou)


def test_overlap_is_bounded_and_giou_is_never_the_larger():
    dice = random.Random(0)
    for _ in range(500):
        a, b = (_some_box(dice) for _ in range(2))
        assert 0 <= boxes.iou(a, b) <= 1
        assert -1 < boxes.giou(a, b) <= boxes.iou(a, b) + 1e-12


def _some_box(dice):
    x, y = dice.uniform(0, 100), dice.uniform(0, 100)
    return Box(x, y, x + dice.uniform(1e-3, 50), y + dice.uniform(1e-3, 50))


@pytest.mark.parametrize(
    "box",
    [
        Box(2, 0, 1, 1),
        Box(0, 2, 1, 1),
        Box(0, 0, 0, 1),
        Box(0, 0, 1, 0),
        Box(0, 0, math.nan, 1),
        Box(0, 0, math.inf, 1),
        Box(-math.inf, 0, 1, 1),
    ],
)
def test_reversed_flat_and_endless_boxes_are_not_proper(box):
    assert not box.proper


def test_a_proper_box_has_an_area():
    assert Box(1, 2, 4, 6).proper
    assert Box(1, 2, 4, 6).area == 12


# --- frames ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "box"),
    [
        ("pixels", Box(20, 10, 100, 50)),
        ("norm1", Box(0.1, 0.1, 0.5, 0.5)),
        ("norm1000", Box(100, 100, 500, 500)),
        ("resized", Box(19.6, 11.2, 98, 56)),  # 200 x 100 becomes 196 x 112
    ],
)
def test_each_frame_by_hand(kind, box):
    frame, pixels = Frame(kind=kind), Box(20, 10, 100, 50)
    assert frame.from_pixels(pixels, (200, 100)) == pytest.approx(box)
    assert frame.to_pixels(box, (200, 100)) == pytest.approx(pixels)


@pytest.mark.parametrize("kind", ["pixels", "norm1", "norm1000", "resized"])
def test_frames_round_trip(kind):
    dice, frame = random.Random(kind), Frame(kind=kind)
    for _ in range(100):
        box, size = _some_box(dice), (dice.randint(1, 3000), dice.randint(1, 3000))
        assert frame.to_pixels(frame.from_pixels(box, size), size) == pytest.approx(box)


@pytest.mark.parametrize("kind", ["pixels", "norm1", "norm1000", "resized"])
def test_the_whole_image_spans_the_units_of_every_frame(kind):
    frame = Frame(kind=kind)
    assert frame.from_pixels(Box(0, 0, 640, 480), (640, 480)) == pytest.approx(
        (0, 0, *frame.units((640, 480)))
    )


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((56, 56), (56, 56)),  # fits as it is
        ((100, 60), (112, 56)),  # 3.57 and 2.14 patches of 28: 4 and 2
        ((70, 42), (56, 56)),  # 2.5 and 1.5 patches round to even: 2 and 2
        ((28, 28), (56, 56)),  # 784 pixels grow to 3136: twice the side
        # 2,000,000 shrink by 1.41 to 1416 x 708: 50 and 25 whole patches
        ((2000, 1000), (1400, 700)),
    ],
)
def test_resizing_by_hand(size, expected):
    assert boxes.resized(size, factor=28, min_pixels=3136, max_pixels=1_003_520) == expected


def test_resizing_never_leaves_less_than_one_patch():
    # 36 x 1 patches are too many; shrunk by 1.06 it is 33.7 x 0.9 patches: 33 x 1
    assert boxes.resized((1000, 28), factor=28, min_pixels=784, max_pixels=25_000) == (924, 28)


@pytest.mark.parametrize(
    ("widths", "heights"), [((30, 3000), (30, 3000)), ((1, 40), (1, 40)), ((6, 13), (400, 1100))]
)
def test_resizing_equals_the_processors_own(widths, heights):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    dice = random.Random(0)
    for _ in range(300):
        width, height = dice.randint(*widths), dice.randint(*heights)
        high, wide = smart_resize(height, width, factor=28, min_pixels=3136, max_pixels=1_003_520)
        assert boxes.resized((width, height), factor=28, min_pixels=3136, max_pixels=1_003_520) == (
            wide,
            high,
        ), f"{width} x {height}"


# --- writing --------------------------------------------------------------------------------------


def test_boxes_are_written_as_short_lists():
    assert boxes.write(Box(1, 2, 3, 4)) == "[1,2,3,4]"
    assert boxes.write(Box(0.12345678, 0, 1, 0.5), digits=5) == "[0.12346,0.00000,1.00000,0.50000]"


# --- families -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "size", "units"),
    [
        ("qwen2_vl", (300, 150), (1000, 1000)),
        ("internvl", (300, 150), (1000, 1000)),
        ("qwen3_vl", (300, 150), (1000, 1000)),
        ("qwen2_5_vl", (300, 150), (308, 140)),  # 10.7 and 5.4 patches of 28: 11 and 5
        ("qwen2_5_vl", (150, 300), (140, 308)),
        ("qwen2_5_vl", (28, 28), (56, 56)),  # at least 56 x 56 pixels
        ("qwen2_5_vl", (3000, 4000), (2996, 4004)),  # 107.1 and 142.9 patches: below 16,384 of them
        # 250 x 125 patches are too many: shrunk by the root of 24.5 M / 12.8 M to 181 x 90
        ("qwen2_5_vl", (7000, 3500), (5068, 2520)),
    ],
)
def test_what_each_family_was_taught_to_write(family, size, units):
    assert boxes.frame_named(family).units(size) == units


def test_frames_have_names():
    assert boxes.frame_named("norm1") == Frame(kind="norm1")
    assert boxes.frame_named("norm1").units((300, 150)) == (1, 1)
    assert boxes.frame_named("pixels").units((300, 150)) == (300, 150)
    assert boxes.frame_named("qwen3_vl") == Frame(
        kind="norm1000", factor=32, min_pixels=65_536, max_pixels=16_777_216
    )
    assert boxes.frame_named("llava") is None
    with pytest.raises(
        ValueError,
        match=r"it is not known in which frame this model writes boxes; set policy\.frame",
    ):
        boxes.frame_named("undeclared").units((300, 150))


@pytest.mark.parametrize(
    ("size", "factor", "least", "most", "expected"),
    [
        ((100, 50), 10, 5_000, 5_000, (100, 50)),  # exactly as small and as large as may be
        # 10.4 and 4.8 patches: what they round to is what counts
        ((104, 48), 10, 5_000, 5_000, (100, 50)),
        ((96, 52), 10, 5_000, 5_000, (100, 50)),
        ((100, 50), 10, 5_001, 9_999, (110, 60)),  # grown by 1.0001 and rounded up to whole patches
        ((100, 50), 10, 100, 4_999, (90, 40)),  # shrunk by 1.0001 and rounded down
        ((50, 100), 10, 100, 4_999, (40, 90)),
        ((200, 50), 10, 100, 2_500, (100, 20)),  # shrunk by 2: 100 x 25
        ((20, 5), 10, 400, 9_999, (40, 10)),  # 20 x 0 patches; grown by 2
    ],
)
def test_resizing_at_its_borders(size, factor, least, most, expected):
    assert boxes.resized(size, factor=factor, min_pixels=least, max_pixels=most) == expected
