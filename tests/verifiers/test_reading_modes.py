"""One answer, three ways to read it: lenient, by the authors' own rule, strict. The small twin
of test_recorded_answers_of_models, whose files are large."""

from typing import Any, NamedTuple

import pytest

from gpg_vl.verifiers.boxes import Boxes
from gpg_vl.verifiers.choice import Choice
from gpg_vl.verifiers.detection import Detection
from gpg_vl.verifiers.label import Label
from gpg_vl.verifiers.number import Number
from gpg_vl.verifiers.value import Value
from tests.recorded import sample

PICTURE = {"images": (b"png",), "sizes": ((100, 100),)}
ASKED: dict[Any, Any] = {
    Boxes: sample("boxes", [[10, 20, 60, 80]], **PICTURE),
    Detection: sample("detection", [[10, 20, 60, 80]], **PICTURE),
    Number: sample("number", 3),
    Choice: sample("choice", "B", choices=("cat", "big dog", "horse")),
    Value: sample("value", "2√{3} cm"),
    Label: sample(
        "label", "pink primrose", choices=("pink primrose", "rose", "hard-leaved pocket orchid")
    ),
}


class Read(NamedTuple):
    """An answer as models write them, and what it earns in each mode."""

    verifier: Any
    text: str
    lenient: float
    reference: float
    strict: float


ANSWERS = [
    # Boxes: a code block is what Qwen2.5-VL writes; 48 of 50 columns overlap; VLM-R1's rule pays an
    # IoU over one half in full
    Read(
        Boxes,
        '```json\n[{"bbox_2d": [12, 20, 60, 80], "label": "the dog on the left"}]\n```',
        48 / 50,
        1,
        0,
    ),
    Read(
        Boxes,
        '<think>It stands on the left.</think>\n<answer>{"bbox_2d": [10, 20, 60, 80]}</answer>',
        1,
        1,
        1,
    ),
    Read(Boxes, "The dog is at (10,20),(60,80).", 1, 0, 0),
    Read(Boxes, "There is no dog in this picture.", 0, 0, 0),
    # confidence 0.9: our score loses half of (1 - 0.9)², the authors' the tenth
    Read(Detection, '[{"Position": [10, 20, 60, 80], "Confidence": 0.9}]', 0.995, 0.95, 0),
    Read(Detection, "<answer>No Objects</answer>", 0, 0, 0),
    Read(Number, "<think>One, two, three.</think> <answer>3</answer>", 1, 1, 1),
    Read(Number, "There are **three** spheres in the image.", 1, 0, 0),
    Read(Number, "I count 4 cylinders and 3 spheres, so the answer is 3.", 1, 0, 0),
    Read(Number, "The total is 4.", 0, 0, 0),
    Read(Number, "There are 3 spheres and 4 cubes.", 0, 0, 0),
    Read(Choice, "Looking at the fur, option (B) fits.\n\nAnswer: (B)", 1, 1, 0),
    Read(Choice, "The correct answer is B. big dog", 1, 1, 0),
    Read(Choice, "It is either (A) or (B).", 0, 1, 0),  # the authors take the last letter
    Read(Choice, "(A) cat is wrong, so the answer is (C).", 0, 0, 0),
    Read(Value, "By Pythagoras the diagonal is $\\boxed{2\\sqrt{3}}$ cm.", 1, 0, 0),
    Read(Value, "<answer>2√3</answer>", 1, 0, 0),
    Read(Value, "<answer>3.46</answer>", 0, 0, 0),  # 2√3 = 3.4641...: rounded is not exact
    Read(Label, "<think>Five petals.</think><answer>Pink Primrose</answer>", 1, 1, 1),
    Read(Label, "It is not a rose but a pink primrose.", 1, 1, 0),
    Read(Label, "This is a rose.", 0, 0, 0),
]


@pytest.mark.parametrize(
    "read", ANSWERS, ids=lambda read: f"{read.verifier.__name__}: {read.text[:40]!r}"
)
def test_an_answer_earns_in_each_mode(read):
    options = {"lenient": {"policy": "first"} if read.verifier is Boxes else {}}
    rewards = [
        read.verifier(mode=mode, **options.get(mode, {}))(read.text, ASKED[read.verifier]).reward
        for mode in ("lenient", "reference", "strict")
    ]
    assert rewards == pytest.approx([read.lenient, read.reference, read.strict])
