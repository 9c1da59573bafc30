"""The authors' rules by the values measured on their code, and what the verifiers make of the
same answers."""

from time import process_time

import pytest

from gpg_vl.boxes import Box, Frame
from gpg_vl.verifiers import published_rules
from gpg_vl.verifiers.boxes import Boxes
from gpg_vl.verifiers.detection import Detection
from gpg_vl.verifiers.label import Label
from tests.verifiers.test_verifiers import reward, sample_of

TRUTH = Box(0.2, 0.3, 0.5, 0.7)
LISA = sample_of("boxes", sizes=((1000, 1000),), answer=[[200, 300, 500, 700]])


@pytest.mark.parametrize(
    ("answer", "theirs", "ours"),
    [
        ("(200,300),(500,700)", 2.0, 1.0),
        ("(210,300),(500,700)", 1.966667, 0.966667),
        ("(0,0),(1000,1000)", 1.12, 0.12),
        ("(900,900),(950,950)", 0.251282, 0.0),
        ("(0,0),(0,0)", 0.342857, 0.0),
        ("(500,700),(200,300)", 2.0, 0.0),
        ("(500,300),(200,700)", 0.0, 0.0),
        ("(1000,1000),(0,0)", 9.333333, 0.0),
        ("(9999,9999),(0,0)", 834.166667, 0.0),
        ("(100,100),(200,200),(200,300),(500,700)", 0.583333, 0.0),
        ("(200,300),(500,700),(1,1),(2,2)", 1.495842, 0.0),
    ],
)
def test_the_grounding_reward(answer, theirs, ours):
    raw = published_rules.lisa_reward(f"<answer>{answer}</answer>", TRUTH)
    assert raw == pytest.approx(theirs, abs=1e-2 if theirs > 100 else 1e-6)
    assert reward(Boxes(frame=Frame(kind="norm1000")), answer, LISA) == pytest.approx(
        ours, abs=1e-6
    )
    assert (
        0 <= Boxes(mode="reference", measure="giou")(f"<answer>{answer}</answer>", LISA).reward <= 1
    )


def test_the_classification_rule_accepts_what_it_must_not():
    assert published_rules.virft_label("<answer></answer>", "pink primrose")
    assert published_rules.virft_label("<answer>rose</answer>", "pink primrose")
    assert not published_rules.virft_label("<answer>pink-primrose</answer>", "pink primrose")
    assert reward(Label(), "pink-primrose", sample_of("label")) == 1.0
    assert reward(Label(), "Pink_Primrose.", sample_of("label")) == 1.0
    assert reward(Label(), "a rose", sample_of("label")) == 0.0
    assert (
        reward(Label(aliases={"primrose": "pink primrose"}), "primrose", sample_of("label")) == 1.0
    )


TWO = [Box(10, 20, 60, 80), Box(5, 5, 9, 9)]


def dets(*items):
    return (
        "["
        + ", ".join(
            f"{{'Position': {box}, 'Confidence': {confidence}}}" for box, confidence in items
        )
        + "]"
    )


@pytest.mark.parametrize(
    ("items", "theirs", "ours"),
    [
        # one of two found at 0.9: IoU 1 of 2; Brier 0.01 times recall 0.5
        ([([10, 20, 60, 80], 0.9)], (0.5, 0.9), (0.5 + 0.99 * 0.5) / 2),
        # a junk box of confidence 0 is paid by theirs alone
        ([([90, 90, 95, 95], 0.0)], (0.0, 1.0), 0.0),
        ([([10, 20, 60, 80], 1.0), ([5, 5, 9, 9], 1.0)], (1.0, 1.0), 1.0),
        # the same box twice: theirs drops it, ours counts a junk box at full confidence
        (
            [([10, 20, 60, 80], 1.0), ([5, 5, 9, 9], 1.0), ([5, 5, 9, 9.001], 1.0)],
            (2 / 3, 2 / 3),
            (2 / 3 + 2 / 3) / 2,
        ),
    ],
)
def test_the_detection_reward(items, theirs, ours):
    assert published_rules.virft_detection(
        f"<answer>{dets(*items)}</answer>", TWO
    ) == pytest.approx(theirs, abs=1e-3)
    assert reward(Detection(), dets(*items), sample_of("detection")) == pytest.approx(
        ours, abs=1e-3
    )


def test_silence_is_right_where_there_is_nothing():
    empty = sample_of("detection", answer=[])
    assert [
        reward(Detection(), answer, empty)
        for answer in ("No Objects", "[]", dets(([1, 1, 2, 2], 0.0)))
    ] == [1.0, 1.0, 0.0]
    assert published_rules.virft_detection("<answer>No Objects</answer>", []) == (0.0, 0.0)
    assert [
        reward(Detection(), answer, sample_of("detection")) for answer in ("No Objects", "[]")
    ] == [0.0, 0.0]


def test_labels_of_boxes_must_agree_where_the_truth_has_them():
    asked = sample_of("detection", answer=[{"box": [10, 20, 60, 80], "label": "dog"}])
    named = '[{"bbox_2d": [10, 20, 60, 80], "label": "NAME", "confidence": 1}]'
    assert reward(Detection(), named.replace("NAME", "Dog"), asked) == 1.0
    assert reward(Detection(), named.replace("NAME", "cat"), asked) == 0.0


def test_several_boxes_are_paired_for_the_best_sum():
    # the first box overlaps both truths; greedy pairing would leave the second box without its only
    # partner
    asked = sample_of("boxes", answer=[[0, 0, 10, 10], [0, 0, 10, 20]])
    verifier = Boxes(policy="all")
    assert reward(verifier, "[[0,0,10,20],[0,0,10,10]]", asked) == 1.0
    assert reward(verifier, "[[0,0,10,10]]", asked) == 0.5
    assert reward(verifier, "[[0,0,10,10],[0,0,10,20],[50,50,60,60]]", asked) == pytest.approx(
        2 / 3
    )
    assert reward(verifier, "[[0,0,10,10],[10,10,0,0]]", asked) == 0.5
    assert reward(verifier, "[]", sample_of("boxes", answer=[])) == 1.0
    assert reward(verifier, "[[0,0,1,1]]", sample_of("boxes", answer=[])) == 0.0


@pytest.mark.parametrize(
    ("policy", "earned"), [("exactly_one", 0.0), ("first", 1.0), ("last", 0.0)]
)
def test_the_policy_chooses_before_the_truth_is_looked_at(policy, earned):
    assert (
        reward(Boxes(policy=policy), "[[10,20,60,80],[70,70,90,90]]", sample_of("boxes")) == earned
    )


@pytest.mark.parametrize(
    "answer",
    [
        f"```json\n{dets(([10, 20, 60, 80], 0.9))}\n```",
        "{'Position': [10, 20, 60, 80], 'Confidence': 0.9}",
        "[{'bbox_2d': [10, 20, 60, 80], 'Confidence': 0.9}]",
        "[{'Position': [10, 20, 60, 80]}]",
        "[{'Position': [10, 20, 60], 'Confidence': 0.9}]",
        "[]",
        "[[[" * 5000,
    ],
)
def test_what_the_published_detection_parser_does_not_read(answer):
    assert published_rules.virft_detection(f"<answer>{answer}</answer>", TWO) == (0.0, 0.0)


def test_what_the_published_detection_parser_repairs():
    cut = dets(([10, 20, 60, 80], 0.9), ([5, 5, 9, 9], 0.9))[:-20]
    assert published_rules.virft_detection(f"<answer>{cut}</answer>", TWO) == (0.5, 0.9)
    double = dets(([10, 20, 60, 80], 0.9)).replace("[{", "[[{").replace("}]", "}]]")
    assert published_rules.virft_detection(f"<answer>{double}</answer>", TWO) == (0.5, 0.9)


@pytest.mark.parametrize(
    "piece", ["<answer>", "<answer>\n", "[" + "9" * 40_000, "(9", "(" + " " * 9, "[["]
)
def test_the_authors_rules_take_linear_time(piece):
    text, start = piece * (200_000 // len(piece)), process_time()
    published_rules.single_line_answer(text)
    published_rules.vlm_r1_box(text)
    published_rules.lisa_reward(text, TRUTH)
    published_rules.virft_label(text, "rose")
    published_rules.virft_detection(text, TWO)
    published_rules.r1v_count(text)
    assert process_time() - start < 1


# --- each rule by hand ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>3</answer>", "3"),
        ("so <answer> 3 </answer> <answer>4</answer>", " 3 "),
        ("<answer>3\n</answer>", "<answer>3\n</answer>"),  # on one line, or the whole text
        ("<answer>3\n</answer>\n<answer>4</answer>", "4"),
        ("</answer><answer>3</answer>", "3"),
        ("<answer>3", "<answer>3"),
        ("<answer></answer>", ""),
        ("3", "3"),
    ],
)
def test_the_first_answer_block_of_one_line(text, answer):
    assert published_rules.single_line_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("<answer>3</answer>", 3),
        ("<answer> 12 </answer><answer>4</answer>", 12),
        ("<answer>x</answer><answer>4</answer>", 4),
        ("<answer>-3</answer>", None),
        ("<answer>3.0</answer>", None),
        ("3", None),
        (f"<answer>1{'0' * 17}7</answer>", 7),  # the last eighteen digits
    ],
)
def test_a_counted_number_stands_between_tags(text, count):
    assert published_rules.r1v_count(text) == count


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ('<answer>{"bbox_2d": [1, 2, 3, 4]}</answer>', Box(1, 2, 3, 4)),
        # the last one
        ('<answer>{"bbox_2d": [1, 2, 3, 4]} {"bbox_2d": [5, 6, 7, 8]}</answer>', Box(5, 6, 7, 8)),
        ("<answer>[1, 2, 3, 4]</answer>", None),  # no braces
        ("<answer>[1, 2, 3, 4] {}</answer>", None),
        ("<answer>{} [1, 2, 3, 4]</answer>", None),
        ("<answer>{[1, 2, 3, 4]}</answer>", Box(1, 2, 3, 4)),
        ("<answer>{[1.5, 2, 3, 4]}</answer>", None),  # whole numbers
        ("<think>[1, 2, 3, 4]</think>", None),
        ("<answer>[1, 2, 3, 4]", None),
        ("It is [1.5, 2, 3, 4] or [5, 6, 7, 8]", Box(1.5, 2, 3, 4)),  # without tags the first one
        ("It is [-1, .5, 3, 4]", Box(-1, 0.5, 3, 4)),
        ("It is (1, 2, 3, 4)", None),
    ],
)
def test_where_the_authors_look_for_a_box(text, box):
    assert published_rules.vlm_r1_box(text) == box


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        # less one and plus one: as if they were edges, but what overlaps by a single pixel shares
        # nothing
        (Box(0, 0, 10, 20), Box(0, 0, 10, 20), 1.0),
        (Box(0, 0, 10, 20), Box(5, 0, 15, 20), 100 / 300),
        (Box(0, 0, 10, 20), Box(0, 15, 10, 35), 50 / 350),
        (Box(0, 0, 10, 20), Box(8, 17, 18, 37), 6 / 394),
        (Box(0, 0, 10, 20), Box(9, 0, 19, 20), 0.0),
        (Box(0, 0, 10, 20), Box(0, 19, 10, 39), 0.0),
        (Box(0, 0, 10, 20), Box(10, 0, 20, 20), 0.0),
        (Box(0, 0, 10, 20), Box(4, 5, 8, 15), 40 / 200),
        (Box(0, 0, 0, 0), Box(1, 1, 1, 1), 0.0),
    ],
)
def test_the_authors_overlap_of_wide_and_tall_boxes(a, b, iou):
    assert (
        published_rules.vlm_r1_iou(a, b) == published_rules.vlm_r1_iou(b, a) == pytest.approx(iou)
    )


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("(200,300),(500,700)", 2.0),  # without tags the whole text
        ("<answer>( 200 , 300 ) , ( 500 , 700 )</answer>", 2.0),
        ("<answer>[200,300,500,700]</answer>", 0.0),
        ("<answer>none</answer> (200,300),(500,700)", 0.0),
        # the upper half: 0.06 of 0.12, and the hull is the truth
        ("(200,300),(500,500)", 1.5),
        # the left third beside it: nothing shared, 0.12 + 0.04 of a hull of 0.4 x 0.4
        ("(100,300),(200,700)", 1.0),
        # below it with a gap: 0.12 + 0.03 of a hull of 0.3 x 0.6
        ("(200,800),(500,900)", 1 - 0.03 / 0.18),
    ],
)
def test_the_grounding_reward_by_hand(text, reward):
    assert published_rules.lisa_reward(text, TRUTH) == pytest.approx(reward)


@pytest.mark.parametrize(
    ("answer", "earned"),
    [("(200,300),(500,500)", 0.75), ("(200,300),(500,700)", 1.0), ("(500,300),(200,700)", 0.0)],
)
def test_the_grounding_reward_in_reference_mode_is_half_of_it(answer, earned):
    verdict = Boxes(mode="reference", measure="giou")(f"<answer>{answer}</answer>", LISA)
    assert verdict.reward == pytest.approx(earned)
    assert (
        verdict.reason == f"{'right' if earned >= 0.75 else 'wrong'}: GIoU + 1 = {2 * earned:.4f}"
    )


def test_the_grounding_reward_of_a_wide_picture_is_counted_in_shares_of_each_side():
    wide = sample_of("boxes", sizes=((2000, 1000),), answer=[[400, 300, 1000, 700]])
    assert Boxes(mode="reference", measure="giou")(
        "(200,300),(500,700)", wide
    ).reward == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("given", "truth", "right"),
    [
        ("rose", "Rose", True),
        ("pink_primrose", "pink primrose", True),
        ("it is a rose", "rose", True),
        ("rose", "pink primrose", True),  # one within the other
        ("iris", "rose", False),
        ("ro se", "rose", True),
        ("", "rose", True),
    ],
)
def test_the_classification_rule_by_hand(given, truth, right):
    assert published_rules.virft_label(f"<answer>{given}</answer>", truth) is right
    verdict = Label(mode="reference")(
        f"<answer>{given}</answer>", sample_of("label", answer=truth, choices=())
    )
    assert (verdict.reward, verdict.reason) == (float(right), "right" if right else "wrong")


@pytest.mark.parametrize(
    ("items", "earned"),
    [
        # the surer box takes the truth, wherever it stands: IoU 0.8 of one truth and two boxes, 0.9
        # and 1 - 0.6
        ([([10, 20, 60, 80], 0.6), ([10, 20, 50, 80], 0.9)], (0.8 / 2, (0.9 + 0.4) / 2)),
        ([([10, 20, 50, 80], 0.9), ([10, 20, 60, 80], 0.6)], (0.8 / 2, (0.9 + 0.4) / 2)),
        # an overlap of exactly one half is none
        ([([10, 20, 35, 80], 0.9)], (0.0, 0.1)),
        ([([10, 20, 36, 80], 0.9)], (0.52, 0.9)),
        # a reversed box is a junk box
        ([([60, 80, 10, 20], 0.25)], (0.0, 0.75)),
        # the mean confidence is clipped
        ([([10, 20, 60, 80], 1.5)], (1.0, 1.0)),
        ([([90, 90, 95, 95], 1.5)], (0.0, 0.0)),
        # twice the same box counts once, with its last confidence
        ([([10, 20, 60, 80], 0.2), ([10, 20, 60, 80], 0.8)], (1.0, 0.8)),
    ],
)
def test_the_detection_rule_by_hand(items, earned):
    assert published_rules.virft_detection(
        f"<answer>{dets(*items)}</answer>", TWO[:1]
    ) == pytest.approx(earned)


def test_each_box_takes_the_free_truth_with_the_largest_overlap():
    truths = [Box(0, 0, 10, 10), Box(0, 0, 10, 8)]
    # the second truth is hit exactly; the next box overlaps it more but gets the one that is left:
    # 9/10
    both = dets(([0, 0, 10, 8], 0.9), ([0, 0, 10, 9], 0.5))
    assert published_rules.virft_detection(both, truths) == pytest.approx(((1 + 0.9) / 2, 0.7))
    # more truths than boxes, and boxes where there is no truth
    assert published_rules.virft_detection(dets(([0, 0, 10, 8], 0.9)), truths) == pytest.approx(
        (0.5, 0.9)
    )
    assert published_rules.virft_detection(dets(([0, 0, 10, 8], 0.9)), []) == pytest.approx(
        (0.0, 0.1)
    )


ANIMALS = ("cat", "dog", "big dog", "cow")


@pytest.mark.parametrize(
    ("text", "mmmu", "pro"),
    [
        ("(B)", 1, 1),
        ("B", 1, 1),
        ("B.", 1, 1),
        ("The answer is (B), not (A).", 0, 0),  # the last that is named
        ("The answer is (A), not (B).", 1, 1),
        ("A (B)", 1, 1),  # brackets first
        ("A or B then", 1, 1),
        ("B or A then", 0, 0),
        ("it is the big dog in front", 1, 1),  # of two options that end alike the first
        ("a cat and then a cow in front", 3, 3),
        ("a cow and then a cat in front", 0, 0),
        ("it is a cat", None, None),  # five words or fewer are not searched for options
        ("no idea at all what it might be", None, None),
        ("Xb. Answer: C", 2, 2),
        ("A B C Answer: D", 3, 3),
        # what stands behind "Answer:" counts in MMMU-Pro alone
        ("(D) was tempting. Answer: B", 3, 1),
        ("Answer: B or C", 2, 2),
        ("I saw A. then", None, 0),
    ],
)
def test_the_multiple_choice_rules_by_hand(text, mmmu, pro):
    assert published_rules.mmmu_choice(text, ANIMALS, "mmmu") == mmmu
    assert published_rules.mmmu_choice(text, ANIMALS, "mmmu_pro") == pro


@pytest.mark.parametrize(
    ("text", "truth", "right"),
    [
        ("<answer>left</answer>", "left", True),
        ("<answer>left</answer>", "right", False),
        ("<answer> left </answer>", " left", True),
        ("it is B", "B", True),
        ("(A) or (B)", "B", True),  # the last lone letter
        ("(B) or (A)", "B", False),
        ("IB", "B", False),
        ("it is I", "I", False),  # A to H
        ("", "B", False),
    ],
)
def test_the_spatial_choice_rule_by_hand(text, truth, right):
    assert published_rules.visual_thinker_choice(text, truth) is right


def test_what_a_rule_saw_is_shortened():
    assert published_rules.reading("<answer>Big  DOG</answer>") == "big dog"
    assert published_rules.reading("x" * 300) == "x" * 200
