"""The authors' rules by the values measured on their code, and what the verifiers make of the same answers."""

from time import process_time

import pytest

from gpg_vl.boxes import Box, Frame
from gpg_vl.verifiers import reference
from gpg_vl.verifiers.boxes import Boxes
from gpg_vl.verifiers.detection import Detection
from gpg_vl.verifiers.label import Label
from tests.test_verifiers import reward, sample_of

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
    raw = reference.lisa_reward(f"<answer>{answer}</answer>", TRUTH)
    assert raw == pytest.approx(theirs, abs=1e-2 if theirs > 100 else 1e-6)
    assert reward(Boxes(frame=Frame(kind="norm1000")), answer, LISA) == pytest.approx(ours, abs=1e-6)
    assert 0 <= Boxes(mode="reference", measure="giou")(f"<answer>{answer}</answer>", LISA).reward <= 1


def test_the_classification_rule_accepts_what_it_must_not():
    assert reference.virft_label("<answer></answer>", "pink primrose")
    assert reference.virft_label("<answer>rose</answer>", "pink primrose")
    assert not reference.virft_label("<answer>pink-primrose</answer>", "pink primrose")
    assert reward(Label(), "pink-primrose", sample_of("label")) == 1.0
    assert reward(Label(), "Pink_Primrose.", sample_of("label")) == 1.0
    assert reward(Label(), "a rose", sample_of("label")) == 0.0
    assert reward(Label(aliases={"primrose": "pink primrose"}), "primrose", sample_of("label")) == 1.0


TWO = [Box(10, 20, 60, 80), Box(5, 5, 9, 9)]


def dets(*items):
    return "[" + ", ".join(f"{{'Position': {box}, 'Confidence': {confidence}}}" for box, confidence in items) + "]"


@pytest.mark.parametrize(
    ("items", "theirs", "ours"),
    [
        # one of two found at 0.9: IoU 1 of 2; Brier 0.01 times recall 0.5
        ([([10, 20, 60, 80], 0.9)], (0.5, 0.9), (0.5 + 0.99 * 0.5) / 2),
        # a junk box of confidence 0 is paid by theirs alone
        ([([90, 90, 95, 95], 0.0)], (0.0, 1.0), 0.0),
        ([([10, 20, 60, 80], 1.0), ([5, 5, 9, 9], 1.0)], (1.0, 1.0), 1.0),
        # the same box twice: theirs drops it, ours counts a junk box at full confidence
        ([([10, 20, 60, 80], 1.0), ([5, 5, 9, 9], 1.0), ([5, 5, 9, 9.001], 1.0)], (2 / 3, 2 / 3), (2 / 3 + 2 / 3) / 2),
    ],
)
def test_the_detection_reward(items, theirs, ours):
    assert reference.virft_detection(f"<answer>{dets(*items)}</answer>", TWO) == pytest.approx(theirs, abs=1e-3)
    assert reward(Detection(), dets(*items), sample_of("detection")) == pytest.approx(ours, abs=1e-3)


def test_silence_is_right_where_there_is_nothing():
    empty = sample_of("detection", answer=[])
    assert [reward(Detection(), answer, empty) for answer in ("No Objects", "[]", dets(([1, 1, 2, 2], 0.0)))] == [1.0, 1.0, 0.0]
    assert reference.virft_detection("<answer>No Objects</answer>", []) == (0.0, 0.0)
    assert [reward(Detection(), answer, sample_of("detection")) for answer in ("No Objects", "[]")] == [0.0, 0.0]


def test_labels_of_boxes_must_agree_where_the_truth_has_them():
    asked = sample_of("detection", answer=[{"box": [10, 20, 60, 80], "label": "dog"}])
    named = '[{"bbox_2d": [10, 20, 60, 80], "label": "NAME", "confidence": 1}]'
    assert reward(Detection(), named.replace("NAME", "Dog"), asked) == 1.0
    assert reward(Detection(), named.replace("NAME", "cat"), asked) == 0.0


def test_several_boxes_are_paired_for_the_best_sum():
    # the first box overlaps both truths; greedy pairing would leave the second box without its only partner
    asked = sample_of("boxes", answer=[[0, 0, 10, 10], [0, 0, 10, 20]])
    verifier = Boxes(policy="all")
    assert reward(verifier, "[[0,0,10,20],[0,0,10,10]]", asked) == 1.0
    assert reward(verifier, "[[0,0,10,10]]", asked) == 0.5
    assert reward(verifier, "[[0,0,10,10],[0,0,10,20],[50,50,60,60]]", asked) == pytest.approx(2 / 3)
    assert reward(verifier, "[[0,0,10,10],[10,10,0,0]]", asked) == 0.5
    assert reward(verifier, "[]", sample_of("boxes", answer=[])) == 1.0
    assert reward(verifier, "[[0,0,1,1]]", sample_of("boxes", answer=[])) == 0.0


@pytest.mark.parametrize(("policy", "earned"), [("exactly_one", 0.0), ("first", 1.0), ("last", 0.0)])
def test_the_policy_chooses_before_the_truth_is_looked_at(policy, earned):
    assert reward(Boxes(policy=policy), "[[10,20,60,80],[70,70,90,90]]", sample_of("boxes")) == earned


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
    assert reference.virft_detection(f"<answer>{answer}</answer>", TWO) == (0.0, 0.0)


def test_what_the_published_detection_parser_repairs():
    cut = dets(([10, 20, 60, 80], 0.9), ([5, 5, 9, 9], 0.9))[:-20]
    assert reference.virft_detection(f"<answer>{cut}</answer>", TWO) == (0.5, 0.9)
    double = dets(([10, 20, 60, 80], 0.9)).replace("[{", "[[{").replace("}]", "}]]")
    assert reference.virft_detection(f"<answer>{double}</answer>", TWO) == (0.5, 0.9)


@pytest.mark.parametrize("piece", ["<answer>", "<answer>\n", "[" + "9" * 40_000, "(9", "(" + " " * 9, "[["])
def test_the_authors_rules_take_linear_time(piece):
    text, start = piece * (200_000 // len(piece)), process_time()
    reference.single_line_answer(text)
    reference.vlm_r1_box(text)
    reference.lisa_reward(text, TRUTH)
    reference.virft_label(text, "rose")
    reference.virft_detection(text, TWO)
    reference.r1v_count(text)
    assert process_time() - start < 1
