"""Boxes and detections by hand: pictures that are not square, boxes at their edges, thresholds
from both sides and exactly at them."""

from dataclasses import replace

import pytest

from gpg_vl.boxes import Box, Frame
from gpg_vl.verifiers import exploits
from gpg_vl.verifiers.boxes import Boxes, assign, truth_boxes
from gpg_vl.verifiers.detection import Detection
from gpg_vl.verifiers.dispatch import VerifierSet
from tests.hand_made import completion
from tests.verifiers.test_verifiers import reward, sample_of

WIDE, TALL = (200, 100), (100, 200)
THOUSANDTHS = Frame(kind="norm1000")


def boxed(size, *truths, **fields):
    return sample_of("boxes", sizes=(size,), answer=[list(truth) for truth in truths], **fields)


def detected(size, *truths, **fields):
    return sample_of(
        "detection",
        sizes=(size,),
        answer=[list(truth) if isinstance(truth, tuple) else truth for truth in truths],
        **fields,
    )


def sure(*items):
    """Boxes with their confidence, as a model writes them."""
    return (
        "["
        + ", ".join(
            f'{{"bbox_2d": {list(box)}, "confidence": {confidence}}}' for *box, confidence in items
        )
        + "]"
    )


# --- at the edges of the picture ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "truth", "answer", "earned"),
    [
        # one hundredth of the width is 2 pixels, of the height 1
        (WIDE, (100, 20, 200, 100), "[100,20,202,100]", 1),
        (WIDE, (100, 20, 200, 100), "[100,20,203,100]", 0),
        (WIDE, (100, 20, 200, 100), "[100,20,200,101]", 1),
        (WIDE, (100, 20, 200, 100), "[100,20,200,102]", 0),
        (WIDE, (0, 0, 100, 80), "[-2,0,100,80]", 1),
        (WIDE, (0, 0, 100, 80), "[-3,0,100,80]", 0),
        (WIDE, (0, 0, 100, 80), "[0,-1,100,80]", 1),
        (WIDE, (0, 0, 100, 80), "[0,-2,100,80]", 0),
        (WIDE, (0, 0, 200, 100), "[-2,-1,202,101]", 1),
        (TALL, (20, 100, 100, 200), "[20,100,101,200]", 1),
        (TALL, (20, 100, 100, 200), "[20,100,102,200]", 0),
        (TALL, (20, 100, 100, 200), "[20,100,100,202]", 1),
        (TALL, (20, 100, 100, 200), "[20,100,100,203]", 0),
        (TALL, (0, 0, 80, 100), "[-1,0,80,100]", 1),
        (TALL, (0, 0, 80, 100), "[-2,0,80,100]", 0),
        (TALL, (0, 0, 80, 100), "[0,-2,80,100]", 1),
        (TALL, (0, 0, 80, 100), "[0,-3,80,100]", 0),
    ],
)
def test_a_box_may_leave_the_picture_by_a_hundredth_of_that_side_and_is_cut(
    size, truth, answer, earned
):
    assert reward(Boxes(), answer, boxed(size, truth)) == earned
    confident = answer.replace("[", '[{"bbox_2d": [', 1) + ', "confidence": 1}]'
    assert reward(Detection(), confident, detected(size, truth)) == earned


@pytest.mark.parametrize(
    ("answer", "earned"),
    [("[500,200,1010,1000]", 1), ("[500,200,1011,1000]", 0), ("[500,200,1000,1011]", 0)],
)
def test_the_hundredth_is_counted_in_the_frame_of_the_answer(answer, earned):
    # the right half of 200 x 100, from a fifth of the height
    assert reward(Boxes(frame=THOUSANDTHS), answer, boxed(WIDE, (100, 20, 200, 100))) == earned


def test_what_is_cut_off_is_not_paid_for():
    # [100,0,202,50] is cut to 100 x 50, which is the truth; [-2,0,98,50] is cut to 98 x 50 and
    # shares 48 x 50 of it with [50,0,150,50]
    assert reward(Boxes(), "[100,0,202,50]", boxed(WIDE, (100, 0, 200, 50))) == 1
    assert reward(Boxes(), "[-2,0,98,50]", boxed(WIDE, (50, 0, 150, 50))) == pytest.approx(
        48 / (98 + 100 - 48)
    )


@pytest.mark.parametrize(
    ("size", "truth"),
    [
        (WIDE, (150, 10, 200, 100)),
        (TALL, (10, 150, 100, 200)),
        (WIDE, (0, 0, 200, 100)),
        (WIDE, (0, 0, 1, 1)),
    ],
)
def test_a_truth_at_the_edges_is_sound(size, truth):
    assert truth_boxes(boxed(size, truth)) == [Box(*truth)]
    assert VerifierSet(by_kind={"boxes": Boxes()}).validation_error(boxed(size, truth)) == ""


@pytest.mark.parametrize(
    ("size", "truth"),
    [
        (WIDE, (10, 10, 201.5, 100)),
        (WIDE, (10, 10, 20, 101.5)),
        (WIDE, (10, 10, 20, 150)),
        (TALL, (10, 10, 102, 200)),
        (TALL, (10, 10, 100, 202)),
        (TALL, (10, 10, 150, 200)),
        (WIDE, (-1.5, 10, 20, 20)),
        (WIDE, (10, -1.5, 20, 20)),
        (WIDE, (20, 10, 20, 20)),
        (WIDE, (10, 20, 20, 20)),
        # only what is cut off has an area
        (WIDE, (200, 10, 201, 20)),
        (WIDE, (-1, 10, 0, 20)),
        (WIDE, (10, 10, float("nan"), 20)),
        (WIDE, (10, 10, float("inf"), 20)),
    ],
)
def test_a_truth_outside_the_picture_or_without_area_is_refused(size, truth):
    with pytest.raises(
        ValueError, match=f"is empty or outside the image of {size[0]} x {size[1]} pixels"
    ):
        truth_boxes(boxed(size, truth))


@pytest.mark.parametrize(
    ("frame", "size", "truth", "pixels"),
    [
        # half a pixel, one pixel, the width as the last pixel
        ("pixels", (112, 84), (0, 0, 112.4, 84), (0, 0, 112, 84)),
        ("pixels", (112, 84), (-1, 0, 56, 42), (0, 0, 56, 42)),
        ("pixels", (112, 84), (0, -0.5, 113, 85), (0, 0, 112, 84)),
        # 1.008 of 112 pixels is 112.896
        ("norm1", (112, 84), (0, 0, 1.008, 0.5), (0, 0, 112, 42)),
        # a thousandth of 4000 pixels is four of them
        ("norm1", (4000, 2000), (-0.001, 0, 0.5, 1.001), (0, 0, 2000, 2000)),
        ("norm1000", (4000, 2000), (-1, -1, 500, 1001), (0, 0, 2000, 2000)),
    ],
)
def test_a_truth_rounded_beyond_the_edge_is_cut_off(frame, size, truth, pixels):
    sample = boxed(size, truth, frame=frame)
    assert truth_boxes(sample) == [pytest.approx(pixels)]
    for model_frame in (Frame(), THOUSANDTHS, Frame(kind="resized")):
        verifier = Boxes(frame=model_frame)
        assert VerifierSet(by_kind={"boxes": verifier}).validation_error(sample) == ""
    found = replace(sample, answer_kind="detection")
    assert VerifierSet(by_kind={"detection": Detection()}).validation_error(found) == ""


@pytest.mark.parametrize(
    ("frame", "truth"),
    [
        ("norm1", (0, 0, 1.0011, 1)),
        ("norm1", (0, -0.0011, 1, 1)),
        ("norm1000", (0, 0, 500, 1002)),
        ("pixels", (0, 0, 4001.5, 2000)),
    ],
)
def test_more_than_rounding_is_outside(frame, truth):
    with pytest.raises(ValueError, match="outside the image of 4000 x 2000 pixels"):
        truth_boxes(boxed((4000, 2000), truth, frame=frame))


def test_boxes_of_several_pictures_name_theirs():
    small, large = (60, 50), (112, 84)
    sample = sample_of("boxes", sizes=(small, large), answer=[[60, 50, 100, 80]])
    with pytest.raises(ValueError, match=r"2 images.*column answer_image, counted from 1"):
        truth_boxes(sample)
    for kind, verifier in (("boxes", Boxes()), ("detection", Detection())):
        error = VerifierSet(by_kind={kind: verifier}).validation_error(
            replace(sample, answer_kind=kind)
        )
        assert "column answer_image" in error
    with pytest.raises(ValueError, match="outside the image of 60 x 50 pixels"):
        truth_boxes(replace(sample, answer_image=1))
    assert truth_boxes(replace(sample, answer_image=2)) == [(60, 50, 100, 80)]
    for number in (3, -1):
        with pytest.raises(ValueError, match=f"answer_image is {number}.* from 1 to 2"):
            truth_boxes(replace(sample, answer_image=number))
    with pytest.raises(ValueError, match="answer_image is 2, but there are 1 images"):
        truth_boxes(replace(sample, sizes=(large,), answer_image=2))


def test_a_box_of_the_second_picture_is_measured_in_the_second():
    # thousandths of 200 x 100, not of 50 x 50
    sample = sample_of(
        "boxes", sizes=((50, 50), WIDE), answer_image=2, answer=[[100, 20, 200, 100]]
    )
    assert reward(Boxes(frame=THOUSANDTHS), "[500,200,1000,1000]", sample) == 1
    assert Boxes(frame=THOUSANDTHS).reference_answer(sample) == "[500,200,1000,1000]"
    # beyond the edges of the first picture, and a hundredth beyond those of the second
    assert reward(Boxes(), "[100,20,202,100]", sample) == 1
    assert Boxes().whole_image_accuracy(sample) == pytest.approx(100 * 80 / (200 * 100))
    found = replace(sample, answer_kind="detection")
    assert reward(Detection(frame=THOUSANDTHS), sure((500, 200, 1000, 1000, 1)), found) == 1
    assert Detection(frame=THOUSANDTHS).placed("[500,200,1000,1000]", found) == [
        (Box(100, 20, 200, 100), 0.0)
    ]
    for verifier in (Boxes(frame=THOUSANDTHS), Detection(frame=THOUSANDTHS)):
        assert verifier.chance_level([replace(sample, answer_kind="detection")]) == pytest.approx(1)
        assert exploits.working_exploits(sample, verifier) == []


def test_a_truth_that_is_no_number_is_refused_in_a_short_sentence():
    with pytest.raises(ValueError, match="is not one box") as refused:
        truth_boxes(boxed(WIDE, (0, 0, 10**400, 1)))
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    ("frame", "truth", "pixels"),
    [
        ("pixels", (20, 10, 100, 50), (20, 10, 100, 50)),
        ("norm1", (0.1, 0.1, 0.5, 0.5), (20, 10, 100, 50)),
        ("norm1000", (100, 100, 500, 500), (20, 10, 100, 50)),
        ("norm1000", (0, 0, 1000, 1000), (0, 0, 200, 100)),
    ],
)
def test_a_truth_is_read_in_its_own_frame(frame, truth, pixels):
    assert truth_boxes(boxed(WIDE, truth, frame=frame)) == [pytest.approx(pixels)]


def test_a_truth_a_rounding_error_beyond_the_edge_is_sound():
    assert len(truth_boxes(boxed((333, 77), (0, 0, 1 + 1e-10, 1 + 1e-10), frame="norm1"))) == 1
    # 1.004 of 333 pixels and 1.014 of 77 are more than a pixel
    for beyond in ((0, 0, 1.004, 1), (0, 0, 1, 1.014)):
        with pytest.raises(ValueError, match="outside the image of 333 x 77"):
            truth_boxes(boxed((333, 77), beyond, frame="norm1"))


def test_the_authors_giou_needs_a_picture():
    bare = sample_of("boxes", sizes=(), images=(), answer=[[100, 200, 300, 400]], frame="norm1000")
    with pytest.raises(ValueError, match="a box needs an image"):
        Boxes(mode="reference", measure="giou", frame=THOUSANDTHS).reference(
            "(100,200),(300,400)", bare
        )


def test_without_a_picture_only_answers_in_the_truths_own_frame_are_scored():
    bare = sample_of("boxes", sizes=(), images=(), answer=[[100, 200, 300, 400]], frame="norm1000")
    with pytest.raises(ValueError, match="a box needs an image"):
        # the answer is in pixels, the truth in thousandths
        Boxes(mode="lenient").grade("[100,200,300,400]", bare)
    for mode in ("strict", "lenient"):
        same = Boxes(mode=mode, frame=THOUSANDTHS)
        assert same.grade("[100,200,300,300]", bare).accuracy == 0.5
    one = replace(bare, answer_kind="detection")
    assert (
        Detection(mode="lenient", frame=THOUSANDTHS)
        .grade(sure((100, 200, 300, 400, 1)), one)
        .accuracy
        == 1
    )
    with pytest.raises(ValueError, match="a box needs an image"):
        Detection(mode="lenient").grade(sure((100, 200, 300, 400, 1)), one)
    assert Detection(frame=THOUSANDTHS).grade(sure((100, 200, 300, 400, 1)), one).accuracy == 1
    with pytest.raises(ValueError, match="outside any image"):
        Boxes(mode="lenient", frame=THOUSANDTHS).grade(
            "[1,2,3,4]", replace(bare, answer=[[100, 200, 100, 400]])
        )


def test_a_foreign_box_is_not_cut_and_one_beyond_all_measure_is_none():
    truth = boxed(WIDE, (100, 0, 200, 100))
    # 100 x 100 of a box of 200 x 100
    assert Boxes(mode="lenient").grade("[100,0,300,100]", truth).accuracy == 0.5
    assert Boxes(mode="lenient").placed(Box(0, 0, 1e9, 1), truth) is None
    assert Boxes(mode="lenient").placed(Box(-1e9, 0, 1, 1), truth) is None
    assert Boxes(mode="lenient").placed(Box(0, 0, 9e8, 1), truth) == Box(0, 0, 9e8, 1)
    assert Boxes(mode="lenient").placed(Box(5, 0, 4, 1), truth) is None


# --- boxes ----------------------------------------------------------------------------------------


def test_the_verdict_says_the_box_in_pixels_and_its_overlap():
    half = boxed(WIDE, (20, 10, 100, 50))  # 80 x 40
    assert Boxes(frame=THOUSANDTHS).grade("[100,100,300,500]", half)[1:3] == (
        "[20,10,60,50]",
        "right: IoU 0.50",
    )
    assert Boxes(frame=THOUSANDTHS).grade("[100,100,295,500]", half)[1:3] == (
        "[20,10,59,50]",
        "wrong: IoU 0.49",
    )
    assert Boxes().grade("[50,50,20,20]", half)[1:3] == (
        "[50,50,20,20]",
        "wrong: reversed, empty or outside the image",
    )
    assert Boxes().grade("a dog", half).reason == "unreadable: not exactly one box"
    assert Boxes(policy="first").grade("a dog", half).reason == "unreadable: no box"


@pytest.mark.parametrize(
    ("answer", "earned"),
    [
        ("[0,0,60,100]", 1),
        ("[0,0,59,100]", 0),
        ("[0,0,61,100]", 1),
        ("[0,0,100,100]", 1),
        ("[0,0,167,100]", 0),
        ("[0,0,160,100]", 1),
    ],
)
def test_a_threshold_is_reached_exactly_at_it(answer, earned):
    # the truth is 100 x 100: 0.6, 0.59, 0.61, 1, 100/167 = 0.599 and 100/160 = 0.625
    assert reward(Boxes(threshold=0.6), answer, boxed(WIDE, (0, 0, 100, 100))) == earned


@pytest.mark.parametrize(
    ("policy", "answer", "earned"),
    [
        ("first", "[[0,0,50,100],[0,0,100,100],[0,0,25,100]]", 0.5),
        ("last", "[[0,0,50,100],[0,0,100,100],[0,0,25,100]]", 0.25),
        ("exactly_one", "[[0,0,50,100],[0,0,100,100],[0,0,25,100]]", 0.0),
        ("exactly_one", "[[0,0,50,100]]", 0.5),
        ("first", "[]", 0.0),
        # the sum is divided by the larger number: 1 of three boxes for one truth
        ("all", "[[0,0,50,100],[0,0,100,100],[0,0,25,100]]", 1 / 3),
    ],
)
def test_which_of_several_boxes_counts(policy, answer, earned):
    assert reward(Boxes(policy=policy), answer, boxed(WIDE, (0, 0, 100, 100))) == pytest.approx(
        earned
    )


@pytest.mark.parametrize(
    ("truths", "answer", "earned"),
    [
        # halves and a quarter, each against its own truth
        (
            ((0, 0, 100, 100), (100, 0, 200, 100)),
            "[[0,0,50,100],[100,0,125,100]]",
            (0.5 + 0.25) / 2,
        ),
        (
            ((0, 0, 100, 100), (100, 0, 200, 100)),
            "[[100,0,125,100],[0,0,50,100]]",
            (0.5 + 0.25) / 2,
        ),
        (((0, 0, 100, 100), (100, 0, 200, 100)), "[[0,0,50,100]]", 0.5 / 2),
        (((0, 0, 100, 100), (100, 0, 200, 100)), "[]", 0.0),
        (((0, 0, 100, 100),), "[[0,0,50,100],[0,0,50,100]]", 0.5 / 2),
        # a reversed box is a box too many
        (
            ((0, 0, 100, 100), (100, 0, 200, 100)),
            "[[0,0,100,100],[9,9,5,5],[100,0,200,100]]",
            2 / 3,
        ),
        ((), "[]", 1.0),
        ((), "[[0,0,50,100]]", 0.0),
    ],
)
def test_several_boxes_share_what_the_larger_number_allows(truths, answer, earned):
    assert reward(Boxes(policy="all"), answer, boxed(WIDE, *truths)) == pytest.approx(earned)


@pytest.mark.parametrize(("boxes", "earned"), [(2, 2 / 2), (3, 0)])
def test_an_answer_may_hold_as_many_boxes_as_said_and_no_more(boxes, earned):
    truths = [(0, 0, 100, 100), (100, 0, 200, 100)]
    given = [*truths, (0, 0, 9, 9)][:boxes]
    assert (
        reward(Boxes(policy="all", most=2), str([list(box) for box in given]), boxed(WIDE, *truths))
        == earned
    )
    assert (
        reward(Detection(most=2), sure(*((*box, 1) for box in given)), detected(WIDE, *truths))
        == earned
    )


def test_a_hundred_boxes_are_scored_and_one_more_is_not():
    many = [(place, 0, place + 1, 1) for place in range(101)]
    for count, earned in ((100, 1.0), (101, 0.0)):
        given = many[:count]
        assert reward(
            Boxes(policy="all"), str([list(box) for box in given]), boxed(WIDE, *given)
        ) == pytest.approx(earned)
        assert reward(
            Detection(), sure(*((*box, 1) for box in given)), detected(WIDE, *given)
        ) == pytest.approx(earned)


def test_pairs_are_chosen_for_the_largest_sum_and_named_in_order():
    table = [[0.9, 0.8, 0.0], [0.8, 0.1, 0.0]]  # greedily 0.9 + 0.1, better 0.8 + 0.8
    assert assign(2, 3, lambda row, column: table[row][column]) == [(0, 1, 0.8), (1, 0, 0.8)]
    assert assign(3, 2, lambda row, column: table[column][row]) == [(0, 1, 0.8), (1, 0, 0.8)]
    assert assign(0, 3, lambda row, column: 1.0) == assign(3, 0, lambda row, column: 1.0) == []


@pytest.mark.parametrize(
    ("frame", "size", "truth", "spelt"),
    [
        ("pixels", WIDE, (20, 10, 100, 50), "[20,10,100,50]"),
        ("norm1000", WIDE, (20, 10, 100, 50), "[100,100,500,500]"),
        ("norm1", WIDE, (20, 10, 100, 50), "[0.1,0.1,0.5,0.5]"),
        # whole pixels and tenths lose more than a twentieth of 1.2 x 1.2
        ("pixels", WIDE, (10.37, 10.37, 11.57, 11.57), "[10.37,10.37,11.57,11.57]"),
        ("norm1", (1000, 1000), (10, 20, 13, 24), "[0.010,0.020,0.013,0.024]"),
        # a few hundredths of a pixel are not worth a digit
        ("pixels", WIDE, (0.04, 0.04, 100.04, 50.04), "[0,0,100,50]"),
    ],
)
def test_a_true_box_is_spelt_in_as_few_digits_as_keep_it(frame, size, truth, spelt):
    assert Boxes(frame=Frame(kind=frame)).reference_answer(boxed(size, truth)) == spelt


@pytest.mark.parametrize(("answer", "fine"), [("[0,0,96,100]", True), ("[0,0,94,100]", False)])
def test_a_spelling_may_cost_a_twentieth_of_the_accuracy_and_nothing_of_the_format(answer, fine):
    verifiers = VerifierSet(by_kind={"boxes": Boxes(accuracy_weight=2.0, format_weight=0.5)})
    written = "<think>so</think><answer>{}</answer>".format
    sample = boxed((100, 100), (0, 0, 100, 100))
    assert (verifiers.validation_error_of(written(answer), sample) == "") is fine
    # without its thought
    assert verifiers.validation_error_of(f"<answer>{answer}</answer>", sample) != ""
    error = verifiers.validation_error_of(written("[0,0,94,100]"), sample)
    # 2 x 0.94 + 0.5
    assert (
        error
        == "its own answer '<think>so</think><answer>[0,0,94,100]</answer>' earns 2.38 of 2.5 "
        "(right: IoU 0.94)"
    )


def test_the_authors_rule_wants_more_than_half():
    sample = boxed(WIDE, (0, 0, 100, 100))
    # their overlap of [0,0,w,100] in pixels is w x 100 of 100 x 100: corners are last pixels, less
    # one and plus one
    for width, earned in ((50, 0.0), (51, 1.0)):
        verdict = Boxes(mode="reference")(
            f'<answer>{{"bbox_2d": [0, 0, {width}, 100]}}</answer>', sample
        )
        assert (verdict.reward, verdict.reason.split(":")[0]) == (
            earned,
            "right" if earned else "wrong",
        )


# --- detection ------------------------------------------------------------------------------------

FIRST, SECOND = (0, 0, 10, 10), (50, 50, 60, 60)
"""Two truths of 10 x 10."""


@pytest.mark.parametrize(
    ("answer", "fields", "earned"),
    [
        # IoU 0.5 is a pair and counts half, and surely right; 0.4 is none
        ([(0, 0, 10, 5, 1)], {"truths": [FIRST]}, (0.5 + 1) / 2),
        ([(0, 0, 10, 4, 1)], {"truths": [FIRST]}, 0.0),
        ([(0, 0, 10, 4, 1)], {"truths": [FIRST], "threshold": 0.4}, (0.4 + 1) / 2),
        ([(0, 0, 10, 3, 1)], {"truths": [FIRST], "threshold": 0.4}, 0.0),
        # one pair and a near miss: 1/2; Brier (0.2^2 + 0.6^2) / 2 = 0.2, times recall 1/2
        ([(*FIRST, 0.8), (50, 50, 60, 54, 0.6)], {}, (0.5 + 0.4) / 2),
        ([(50, 50, 60, 54, 0.6), (*FIRST, 0.8)], {}, (0.5 + 0.4) / 2),
        (
            [(*FIRST, 0.8), (50, 50, 60, 54, 0.6)],
            {"confidence_weight": 0.25},
            0.75 * 0.5 + 0.25 * 0.4,
        ),
        ([(*FIRST, 0.8), (50, 50, 60, 54, 0.6)], {"confidence_weight": 0.0}, 0.5),
        ([(*FIRST, 0.8), (50, 50, 60, 54, 0.6)], {"confidence_weight": 1.0}, 0.4),
        # both found, and a third box of confidence 0.5: 2/3; Brier (0 + 0 + 0.25) / 3 = 1/12,
        # recall 1
        ([(*FIRST, 1), (20, 20, 30, 30, 0.5), (*SECOND, 1)], {}, (2 / 3 + 11 / 12) / 2),
        # one of two found, at 0.5: 1/2; Brier 0.25, recall 1/2
        ([(*SECOND, 0.5)], {}, (0.5 + 0.75 / 2) / 2),
        ([(*SECOND, 0)], {}, (0.5 + 0) / 2),
        ([(*FIRST, 0), (*SECOND, 1)], {}, (1 + 0.5) / 2),
    ],
)
def test_a_detection_by_hand(answer, fields, earned):
    settings = {name: value for name, value in fields.items() if name != "truths"}
    assert reward(
        Detection(**settings), sure(*answer), detected(WIDE, *fields.get("truths", [FIRST, SECOND]))
    ) == pytest.approx(earned)


def test_a_detection_says_what_it_found():
    verdict = Detection().grade(
        sure((*FIRST, 0.8), (50, 50, 60, 54, 0.6)), detected(WIDE, FIRST, SECOND)
    )
    assert verdict[1:3] == (
        "2 boxes",
        "wrong: 1 of 2 found by 2 boxes, localisation 0.50, confidence 0.40",
    )
    verdict = Detection().grade(sure((0, 0, 10, 5, 0.5)), detected(WIDE, FIRST))
    assert verdict.reason == "right: 1 of 1 found by 1 boxes, localisation 0.50, confidence 0.75"
    assert Detection().grade("No Objects", detected(WIDE, FIRST)).reason == "wrong: 0 boxes for 1"
    assert Detection().grade("No Objects", detected(WIDE)).reason == "right: 0 boxes for 0"
    assert Detection().reference_answer(detected(WIDE)) == "No Objects"
    assert Detection().grade(sure((*FIRST, 0)), detected(WIDE)).reason == "wrong: 1 boxes for 0"


@pytest.mark.parametrize(
    ("confidence", "earned"),
    [(0, 0.5), (1, 1), (0.25, (1 + 1 - 0.75**2) / 2), (-0.01, 0), (1.01, 0), ("null", 0)],
)
def test_a_confidence_lies_between_zero_and_one(confidence, earned):
    assert reward(Detection(), sure((*FIRST, confidence)), detected(WIDE, FIRST)) == pytest.approx(
        earned
    )


def test_one_box_without_a_sound_confidence_spoils_the_answer():
    both = detected(WIDE, FIRST, SECOND)
    assert reward(Detection(), sure((*FIRST, 1), (*SECOND, 1)), both) == 1
    assert reward(Detection(), sure((*FIRST, 1), (*SECOND, 1.5)), both) == 0
    assert (
        reward(
            Detection(), sure((*FIRST, 1), (*SECOND, 1)).replace(', "confidence": 1}]', "}]"), both
        )
        == 0
    )


def named(*items):
    return (
        "["
        + ", ".join(
            f'{{"bbox_2d": {list(box)}, "label": "{label}", "confidence": 1}}'
            for *box, label in items
        )
        + "]"
    )


@pytest.mark.parametrize(
    ("answer", "earned"),
    [
        (named((*FIRST, "hot dog"), (*SECOND, "cat")), 1),
        (named((*SECOND, "cat"), (*FIRST, "Hot_Dog")), 1),
        (named((*FIRST, "cat"), (*SECOND, "hot dog")), 0),  # each in the other's place
        # one of two found, both surely said: 1/2; Brier (0 + 1) / 2, times recall 1/2
        (named((*FIRST, "hot dog"), (*SECOND, "dog")), (0.5 + 0.25) / 2),
        (named((*FIRST, "hot dog"), (*SECOND, "")), (0.5 + 0.25) / 2),
        (sure((*FIRST, 1), (*SECOND, 1)), 0),  # no names at all
    ],
)
def test_where_the_truth_names_classes_each_box_must_name_its_own(answer, earned):
    sample = detected(
        WIDE, {"box": list(FIRST), "label": "hot dog"}, {"box": list(SECOND), "label": "cat"}
    )
    assert reward(Detection(), answer, sample) == pytest.approx(earned)


def test_where_the_truth_names_no_class_any_name_will_do():
    assert (
        reward(Detection(), named((*FIRST, "cat"), (*SECOND, "")), detected(WIDE, FIRST, SECOND))
        == 1
    )
    unnamed = detected(
        WIDE, {"box": list(FIRST), "label": ""}, {"box": list(SECOND), "label": None}
    )
    assert reward(Detection(), named((*FIRST, "cat"), (*SECOND, "dog")), unnamed) == 1
    assert (
        Detection().reference_answer(unnamed)
        == '[{"bbox_2d": [0,0,10,10], "confidence": 1.0}, {"bbox_2d": [50,50,60,60], "confidence": '
        "1.0}]"
    )


@pytest.mark.parametrize("label", ['12" pipe', "a\\b", "it's", "猫", "a\nb"])
def test_a_class_of_any_signs_earns_full_marks_for_its_own_answer(label):
    truth = [{"box": [0, 0, 100, 50], "label": label}]
    sample = replace(boxed(WIDE, [0, 0, 100, 50]), answer_kind="detection", answer=truth)
    verifiers = VerifierSet(by_kind={"detection": Detection()})
    assert verifiers.validation_error(sample) == ""


def test_a_detection_is_read_in_the_models_frame_and_placed_in_pixels():
    sample, verifier = detected(WIDE, (100, 20, 200, 100)), Detection(frame=THOUSANDTHS)
    assert (
        verifier.reference_answer(sample) == '[{"bbox_2d": [500,200,1000,1000], "confidence": 1.0}]'
    )
    assert reward(verifier, sure((500, 200, 1000, 1000, 1)), sample) == 1
    assert reward(Detection(), sure((500, 200, 1000, 1000, 1)), sample) == 0
    several = sure(
        (500, 200, 1000, 1000, 0.25),
        (9, 9, 1, 1, 0.5),
        (0, 0, 2000, 5, 0.5),
        (0, 0, 500, 500, 0.75),
    )
    assert verifier.placed(several, sample) == [
        (Box(100, 20, 200, 100), 0.25),
        (Box(0, 0, 100, 50), 0.75),
    ]
    assert verifier.placed("no idea", sample) == []


def test_the_authors_detection_rule_is_the_mean_of_its_two_halves():
    # one of two found at confidence 0.9: (1/2 + 0.9) / 2
    text = "<answer>[{'Position': [0, 0, 10, 10], 'Confidence': 0.9}]</answer>"
    verdict = Detection(mode="reference")(text, detected(WIDE, FIRST, SECOND))
    assert verdict.reward == pytest.approx(0.7)
    assert verdict.reason == "right: 0.5000 and 0.9000"
    # in thousandths of 200 x 100 the same box is [0, 0, 50, 100]
    text = text.replace("10, 10]", "50, 100]")
    assert Detection(mode="reference", frame=THOUSANDTHS)(
        text, detected(WIDE, FIRST, SECOND)
    ).reward == pytest.approx(0.7)


def test_a_fault_in_the_truth_of_a_detection_is_not_the_answers():
    verifiers = VerifierSet(by_kind={"detection": Detection()})
    said = completion(text="<think>so</think><answer>No Objects</answer>")
    verdict = verifiers.judge(said, detected(WIDE, (0, 0, 202, 10)))
    assert verdict.reward != verdict.reward
    assert verdict.reason.startswith("fault: ValueError: box ")
