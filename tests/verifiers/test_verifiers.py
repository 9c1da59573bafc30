"""The contract of every shipped verifier: the reference answer earns the full reward, nothing
hostile earns anything, no text raises."""

import json
import math
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_vl import verifiers
from gpg_vl.boxes import Box, Frame
from gpg_vl.config import plugins
from gpg_vl.prompts import AnswerOnly, Style
from gpg_vl.types import Sample, Verdict
from gpg_vl.verifiers import exploits, label
from gpg_vl.verifiers.base import Grade
from gpg_vl.verifiers.boxes import Boxes
from gpg_vl.verifiers.choice import Choice
from gpg_vl.verifiers.detection import Detection
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.expression import Expression
from gpg_vl.verifiers.label import Label
from gpg_vl.verifiers.number import Number
from gpg_vl.verifiers.value import Value
from tests.hand_made import completion

TRUTH = {
    "choice": {
        "question": "Which animal?",
        "choices": ("cat", "big dog", "horse"),
        "answer": "big dog",
    },
    "number": {"question": "How many of the 4 dogs bark?", "answer": 3},
    "value": {
        "question": "How long is the diagonal of a square whose side is √6 cm?",
        "answer": "2√{3} cm",
    },
    "expression": {"question": "Expand x(x+1).", "answer": "x^2+x"},
    "label": {
        "question": "Which flower?",
        "answer": "pink primrose",
        "choices": ("pink primrose", "rose", "hard-leaved pocket orchid"),
    },
    "detection": {
        "question": "Find dogs.",
        "answer": [[10, 20, 60, 80], [5, 5, 9, 9]],
        "images": (b"png",),
        "sizes": ((100, 100),),
    },
    "boxes": {
        "question": "Where is the dog?",
        "answer": [[10, 20, 60, 80]],
        "images": (b"png",),
        "sizes": ((100, 100),),
    },
}
KINDS = sorted(verifiers.ALIASES)
STYLES = [AnswerOnly(), Style(), Style(think="optional"), Style(think="opened")]


def sample_of(kind, **fields):
    return Sample(**{"id": kind, "answer_kind": kind, **TRUTH[kind], **fields})


def verifier_of(kind, **fields):
    return plugins.build(kind, verifiers.ALIASES, base_dir=Path(), key="verifiers", given=fields)


def said(answer):
    """The answer in the default style, with a thought."""
    return Style().write(answer, thought="so")


def reward(verifier, answer, sample):
    return verifier(verifier.style.write(answer, thought="so"), sample).reward


# --- the contract of all --------------------------------------------------------------------------


def test_every_shipped_verifier_is_tested():
    assert set(KINDS) == set(TRUTH)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.think)
def test_the_reference_answer_earns_the_full_reward(kind, style):
    verifier, sample = verifier_of(kind, style=style), sample_of(kind)
    verdict = verifier(style.write(verifier.reference_answer(sample), thought="so"), sample)
    assert verdict.reward == 1.0
    assert verdict.parts == {"accuracy": 1.0, "format": 1.0}
    assert verdict.reason.split(":")[0] == "right"


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_answer_earns_the_sum_of_the_weights(kind):
    verifier, sample = (
        verifier_of(kind, combine="sum", accuracy_weight=2.0, format_weight=0.5),
        sample_of(kind),
    )
    assert reward(verifier, verifier.reference_answer(sample), sample) == 2.5


FURTHER = {
    "all letters": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "every number": "0 1 2 3 4 5 6 7 8 9",
    "two boxes": "[10,20,60,80],[10,20,60,80]",
    "the truth's corners reversed": "[60,80,10,20]",
    "one axis reversed": "[60,20,10,80]",
    "out of range on one side": "[10,20,60,1080]",
    "below zero": "[-10,20,60,80]",
    "a point": "(0,0),(0,0)",
    "half an endless box": "[0,0,inf,inf]",
    "10**999": "1" + "0" * 999,
    "zero byte": "\x00",
    "lone surrogate": "\ud800",
}
"""Hostile answers that only make sense beside the truths above; the list of all others is the
exploit suite itself."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.think)
def test_hostile_answers_earn_exactly_nothing(kind, style):
    verifier, sample = verifier_of(kind, style=style), sample_of(kind)
    tricks = {**dict(exploits.contents(sample, Box(0, 0, 100, 100))), **FURTHER}
    del tricks[exploits.WHOLE_IMAGE]  # it earns its overlap, see test_exploits
    for name, hostile in tricks.items():
        for text in (style.write(hostile, thought="so"), style.write(hostile), hostile):
            assert verifier(text, sample).reward == 0.0, name


def _around_the_reference(style, reference):
    well_formed = style.write(reference, thought="so")
    return {
        "nothing": "",
        "tags only": style.write("", thought=""),
        "without tags": reference,
        "babble before": "<|image_pad|>" * 20 + well_formed,
        "babble behind": well_formed + "<|im_end|>" * 20,
        "babble inside": style.write(reference + "<|endoftext|>", thought="so"),
        "twice": well_formed * 2,
        "never ending": well_formed[: -len("</answer>")],
        "text behind": well_formed + " or not",
        "a second answer": well_formed + "<answer>A</answer>",
        "an answer in an answer": style.write(f"<answer>{reference}</answer>", thought="so"),
        "doubled reference": style.write(f"{reference} {reference}", thought="so"),
        "reference and a doubt": style.write(f"{reference} or something else", thought="so"),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.think)
def test_the_truth_in_a_malformed_text_earns_nothing(kind, style):
    verifier, sample = verifier_of(kind, style=style), sample_of(kind)
    texts = _around_the_reference(style, verifier.reference_answer(sample)) | {
        "copied question": style.write(sample.question, thought="so")
    }
    assert {name: verifier(text, sample).reward for name, text in texts.items()} == dict.fromkeys(
        texts, 0.0
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_megabyte_earns_nothing_quickly(kind):
    verifier, sample = verifier_of(kind), sample_of(kind)
    reference = verifier.reference_answer(sample)
    start = process_time()
    for piece in (
        "x",
        reference,
        f"{reference}\n",
        "[10,20,60,80],",
        "<answer>",
        said(reference),
        "<|image_pad|>",
        " ",
    ):
        many = piece * (10**6 // len(piece))
        assert verifier(many, sample).reward == 0.0
        assert verifier(said(many), sample).reward == 0.0
    assert process_time() - start < 20  # a second or so; a quadratic reading takes hours


PIECES = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "<|im_end|>",
    "3",
    "big dog",
    "B",
    "[10,20,60,80]",
    "(10,20),(60,80)",
    " ",
    ",",
    "[",
    "-",
    "so",
    "\\boxed{",
    "}",
    "{",
    "\\frac{1}{2}",
    "2√{3} cm",
    "\\sqrt[3]{-8}",
    "\\sqrt[2]{-4}",
    "x^2+x",
    "pink primrose",
    "The answer is (B). ",
    '{"bbox_2d": [10, 20, 60, 80], "confidence": 0.9}',
    "No Objects",
    "²",
    "答案",
    "\n",
    "<|im_end|>",
]
TEXTS = st.one_of(
    st.text(),
    st.text().map(said),
    st.lists(st.sampled_from(PIECES)).map("".join),
    st.lists(st.sampled_from(PIECES)).map("".join).map(said),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("combine", "mode"),
    [("gate", "strict"), ("sum", "strict"), ("gate", "lenient"), ("sum", "reference")],
)
def test_no_text_raises_and_every_reward_is_bounded(kind, combine, mode):
    verifier, sample = (
        verifier_of(kind, combine=combine, mode=mode, accuracy_weight=0.75, format_weight=0.25),
        sample_of(kind),
    )

    @given(TEXTS)
    def check(text):
        for verdict in (verifier(text, sample), verifier.unfinished(text, sample)):
            assert 0 <= verdict.reward <= 1
            assert set(verdict.parts) == {"accuracy", "format"}
            assert verdict.reason.split(":")[0] in {"right", "wrong", "unreadable", "malformed"}

    check()


# --- one by one -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "earned"),
    [
        ("B", 1),
        ("(b)", 1),
        ("B. big dog", 1),
        ("Big dog.", 1),
        ("A", 0),
        ("cat", 0),
        ("B. cat", 0),
        ("dog", 0),
    ],
)
def test_choice_by_hand(answer, earned):
    assert reward(Choice(), answer, sample_of("choice")) == earned


def test_choice_takes_the_truth_as_letter_or_words():
    for truth in ("B", "(B)", "big dog"):
        assert reward(Choice(), "big dog", sample_of("choice", answer=truth)) == 1


@pytest.mark.parametrize(
    ("truth", "answer", "earned"),
    [("A", "C", 1), ("C", "A", 1), ("A", "A", 1), ("A", "B", 0), ("B", "C", 0), ("B", "B", 1)],
)
@pytest.mark.parametrize("mode", ["strict", "lenient"])
def test_of_two_options_that_read_alike_either_is_right(truth, answer, earned, mode):
    """Published data repeat options: the letter of the other one is no mistake."""
    sample = sample_of("choice", choices=("cat", "dog", "cat"), answer=truth)
    assert reward(Choice(mode=mode), answer, sample) == earned
    assert Choice(mode="reference")(f"The answer is ({answer}).", sample).reward == earned


def test_options_that_only_look_alike_are_two():
    sample = sample_of("choice", choices=("cat", "dog", "Cat"), answer="A")
    assert [reward(Choice(), letter, sample) for letter in "ABC"] == [1, 0, 0]
    assert Choice().reference_answer(sample) == "A"  # the words name both
    assert Choice().reference_answer(replace(sample, answer="dog")) == "dog"


@pytest.mark.parametrize(
    ("question", "truth", "letter"),
    [
        ("Which? (A) cat (B) dog", "dog", 1),
        ("Which?\nA. cat\nB. dog", "dog", 1),
        ("Which? A: cat, B: dog", "dog", 1),
        ("Which? cat or dog", "dog", 0),
        ("Which? (A) cat or dog", "dog", 0),  # one letter shown is not all
        ("Which? cat or dog", "(B)", 1),
        ("Which? cat or dog", "b.", 1),
    ],
)
def test_a_letter_may_count_only_where_it_was_shown(question, truth, letter):
    sample = sample_of("choice", question=question, choices=("cat", "dog"), answer=truth)
    assert reward(Choice(letters="shown"), "B", sample) == letter
    assert reward(Choice(letters="always"), "B", sample) == 1
    for mode in ("strict", "lenient"):
        assert [
            reward(Choice(letters="shown", mode=mode), words, sample)
            for words in ("Dog.", "cat", "A", "cow")
        ] == [1, 0, 0, 0]
    assert reward(Choice(letters="shown", mode="lenient"), "**dog**", sample) == 1


def test_without_letters_two_options_of_one_spelling_name_nothing():
    sample = sample_of(
        "choice",
        question="Which? big, Big or small",
        choices=("big", "Big", "small"),
        answer="small",
    )
    assert [reward(Choice(letters="shown"), words, sample) for words in ("big", "small")] == [0, 1]


def test_a_foreign_truth_that_stands_among_the_options_as_it_is_will_do():
    sample = sample_of("choice", choices=("cat", "Cat", "dog"), answer="Cat")
    with pytest.raises(ValueError, match="is not one of the choices"):
        Choice().reference_answer(sample)
    assert Choice(mode="lenient").reference_answer(sample) == "Cat"
    assert [reward(Choice(mode="lenient"), answer, sample) for answer in ("Cat", "cat", "B")] == [
        1,
        0,
        1,
    ]


@pytest.mark.parametrize(
    ("authors", "earned"), [("mmmu", 1), ("mmmu_pro", 1), ("visual_thinker", 0)]
)
def test_each_authors_rule_reads_letters_in_its_own_way(authors, earned):
    # the last wants the truth's very words, or a lone letter that is the truth itself
    sample = sample_of("choice")
    verifier = Choice(mode="reference", authors=authors)
    assert verifier("The answer is (B)", sample).reward == earned
    assert verifier("The answer is (A)", sample).reward == 0
    assert [verifier(f"The answer is ({letter})", sample).reason for letter in "AB"] == [
        "wrong",
        "right" if earned else "wrong",
    ]
    assert (
        Choice(mode="reference", authors="visual_thinker")(
            "<answer>big dog</answer>", sample
        ).reward
        == 1
    )
    assert (
        Choice(mode="reference", authors="visual_thinker")(
            "it is (B)", replace(sample, answer="B")
        ).reward
        == 1
    )
    assert (
        Choice(mode="reference")("no idea", sample).reason
        == "unreadable: the authors' rule draws an option at random here"
    )


@pytest.mark.parametrize(
    ("aliases", "answer", "named"),
    [
        ({"rose": "pink primrose"}, "rose", "rose"),  # an alias never takes a class's own name
        ({"primrose": "pink primrose"}, "Primrose", "pink primrose"),
        ({"the_primrose": "Pink-Primrose"}, "primrose", "pink primrose"),
        ({"daisy": "sunflower"}, "daisy", None),  # of a class that is none
        ({}, "a rose", "rose"),
        ({}, "daisy", None),
        ({}, "rose pink primrose", None),
    ],
)
def test_a_class_is_named_by_its_name_or_an_alias(aliases, answer, named):
    for truth in ("rose", "pink primrose"):
        assert reward(Label(aliases=aliases), answer, sample_of("label", answer=truth)) == (
            truth == named
        )


def test_the_closed_set_is_the_rows_then_the_verifiers_then_the_truth_alone():
    rows = sample_of("label", answer="rose", choices=("rose", "iris"))
    verifier = Label(classes=("rose", "lily"))
    reasons = [
        verifier.grade(answer, rows).reason.partition(":")[0] for answer in ("rose", "iris", "lily")
    ]
    assert reasons == ["right", "wrong", "unreadable"]
    bare = replace(rows, choices=())
    assert [
        verifier.grade(answer, bare).reason.partition(":")[0] for answer in ("rose", "iris", "lily")
    ] == ["right", "unreadable", "wrong"]
    assert [
        Label().grade(answer, bare).reason.partition(":")[0] for answer in ("rose", "iris")
    ] == ["right", "unreadable"]
    with pytest.raises(ValueError, match="answer 'rose' is not one of the 1 classes iris"):
        Label().reference_answer(replace(rows, choices=("iris",)))
    assert Label().reference_answer(replace(rows, answer="Rose ")) == "Rose "
    nameless = replace(rows, choices=("rose", "", "-"))
    assert [
        Label().grade(answer, nameless).reason.partition(":")[0] for answer in ("", "-", "rose")
    ] == ["unreadable", "unreadable", "right"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("It is a rose, I think", "rose"),
        ("a pink primrose", "pink primrose"),
        ("a prose", None),
        ("roses", None),
        ("a rose or a pink primrose", None),
        ("a rose, a rose, a rose", "rose"),
        ("**rose**", "rose"),
        ("not a rose but a pink primrose", "pink primrose"),
        ("x" * 1990 + " a rose", "rose"),
        ("x" * 2000 + " a rose", None),
    ],
)
def test_the_one_class_that_a_longer_text_names(text, named):
    for truth in ("rose", "pink primrose"):
        assert Label(mode="lenient")(text, sample_of("label", answer=truth)).reward == (
            truth == named
        )
    assert reward(Label(), text, sample_of("label", answer="rose")) == 0


@pytest.mark.parametrize(
    ("truth", "answer", "fields", "earned"),
    [
        ("2016", "2017", {}, 0),
        ("2016", "2016.0", {}, 1),
        ("2016", "2017", {"whole": False}, 1),  # half a thousandth
        ("2016", "2016.9", {}, 1),
        ("2016", "2019", {"whole": False}, 0),
        # a tenth of the larger: 1.1 of 11.6, 1.2 of 11.7, 1.0 of 10.5, 1.1 of 10.5
        ("10.5", "11.6", {"tolerance": 0.1}, 1),
        ("10.5", "11.7", {"tolerance": 0.1}, 0),
        ("10.5", "9.5", {"tolerance": 0.1}, 1),
        ("10.5", "9.4", {"tolerance": 0.1}, 0),
        ("-10.5", "-11.6", {"tolerance": 0.1}, 1),
        ("-10.5", "10.5", {"tolerance": 0.1}, 0),
        ("0.5", "0.5", {"tolerance": 0.0}, 1),
        ("0.5", "0.5001", {"tolerance": 0.0}, 0),
        ("50 cm", "0.5 m", {}, 1),
        ("50 cm", "50", {}, 1),
        ("50 cm", "50 m", {}, 0),
        ("50 cm", "50 cm^2", {}, 0),
    ],
)
def test_a_value_within_its_tolerance(truth, answer, fields, earned):
    assert reward(Value(**fields), answer, sample_of("value", answer=truth)) == earned


def test_a_value_is_read_out_of_a_longer_text_only_leniently_and_on_request():
    text, sample = (
        "Angle A is 20. Because of this the answer is 40.",
        sample_of("value", answer="40"),
    )
    given = [Value(mode="lenient", prose=True), Value(mode="lenient"), Value(prose=True)]
    assert [
        verifier(f"<think>so</think><answer>{text}</answer>", sample).reward for verifier in given
    ] == [1, 0, 0]
    assert Value().grade("x", sample)[:3] == (0.0, "x", "unreadable: not one value")
    assert Value().grade("40.0", sample)[:3] == (1.0, "40", "right")
    with pytest.raises(ValueError, match="answer 'x' is not a value such as 12"):
        Value().reference_answer(replace(sample, answer="x"))


def test_the_counting_rule_of_the_authors_wants_a_whole_number_between_tags():
    verifier, sample = Number(mode="reference"), sample_of("number")
    texts = (
        "<answer> 3 </answer>",
        "<answer>4</answer> <answer>3</answer>",
        "<answer>3.0</answer>",
        "<answer>three</answer>",
        "3",
    )
    assert [verifier(text, sample).reward for text in texts] == [1, 0, 0, 0, 0]
    assert verifier("3", sample).reason == "unreadable: no whole number between answer tags"


@pytest.mark.parametrize(
    ("answer", "earned"),
    [
        ("3", 1),
        ("3.0", 1),
        ("three", 1),
        ("+3", 1),
        ("-3", 0),
        ("4", 0),
        ("3.001", 0),
        ("3 dogs", 0),
    ],
)
def test_number_by_hand(answer, earned):
    assert reward(Number(), answer, sample_of("number")) == earned


def test_a_root_of_a_negative_number_is_wrong_and_no_fault():
    verifiers = VerifierSet(by_kind={"value": Value()})
    for answer in (
        "\\sqrt[3]{-8}",
        "\\sqrt[2]{-4}",
        "2+\\sqrt[3]{-8}",
        "\\sqrt[-3]{-8}",
        "\\sqrt[2]{-4}^2",
    ):
        assert verifiers.judge(completion(text=said(answer)), sample_of("value")).reward == 0.0


TWO_ANSWERS = [
    "4=3",
    "1=2=3",
    "4x=3",
    "3\\vee4",
    "3\\lor4",
    "3\\to4",
    "3\\\\4",
    "3\\approx4",
    "3\\sim4",
    "3\\land4",
    "3∨4",
    "3→4",
    "3≈4",
    "3\\cup4",
]
TWO_ANSWERS += [
    "3%",
    "300%",
    "3|4",
    "3\\mid4",
    "3&4",
    "3~4",
    "3...4",
    "3\\ldots4",
    "3@4",
    "3_4",
    "3\\in4",
    "\\neg 3",
    "3/",
    "4\\equiv3",
    "3'",
]


@pytest.mark.parametrize("answer", TWO_ANSWERS)
def test_an_expression_that_states_two_things_or_another_size_is_wrong(answer):
    assert reward(Expression(), answer, sample_of("expression", answer="3")) == 0


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("x=3", "3"),
        ("3", "x=3"),
        ("f(x)=x^2+x", "x^2+x"),
        ("x^2+y^2=4", "x^2+y^2=4"),
        ("30%", "30%"),
        ("(-\\infty,1)\\cup(2,3)", "(-\\infty,1)\\cup(2,3)"),
        ("|x|", "|x|"),
    ],
)
def test_signs_that_the_truth_has_are_allowed_in_an_expression(answer, truth):
    assert reward(Expression(), answer, sample_of("expression", answer=truth)) == 1


def test_a_box_just_outside_the_image_is_cut_and_earns_no_less_than_a_worse_one():
    whole = sample_of("boxes", sizes=((1000, 1000),), answer=[[0, 0, 1000, 1000]])
    earned = [reward(Boxes(), f"[0,0,{edge},1000]", whole) for edge in (500, 999, 1000, 1001, 1010)]
    assert earned == sorted(earned) == [0.5, 0.999, 1, 1, 1]
    assert [
        reward(Boxes(), box, whole)
        for box in ("[0,0,1011,1000]", "[-11,0,1000,1000]", "[1001,0,1005,1000]")
    ] == [0, 0, 0]


@pytest.mark.parametrize(
    "answer",
    [
        '{"bbox_2d": [10,20,60,80], "bbox": [0,0,1,1]}',
        '{"bbox_2d": [0,0,1,1], "bbox_2d": [10,20,60,80]}',
        '{"bbox_2d": [0,0,1,1], "BBOX_2D": [10,20,60,80]}',
        '{"bbox_2d": [10,20,60,80], "x1": 0, "y1": 0, "x2": 1, "y2": 1}',
        '{"x1": 10, "y1": 20, "x2": 60, "y2": 80, "x0": 0, "y0": 0}',
        '{"bbox_2d": [10,20,60,80], "label": [0,0,1,1]}',
        '{"bbox_2d": [10,20,60,80], "other": [[0,0,1,1]]}',
        '{"bbox_2d": [10,20,60,80], "other": {"bbox": [0,0,1,1]}}',
    ],
)
def test_a_second_box_cannot_hide_in_a_record(answer):
    assert reward(Boxes(), answer, sample_of("boxes")) == 0
    assert reward(Boxes(), '{"bbox_2d": [10,20,60,80], "label": "dog"}', sample_of("boxes")) == 1


@pytest.mark.parametrize("confidence", ["1e300", "9e9", "90%", "0.9.9"])
def test_a_confidence_is_read_whole_or_not_at_all(confidence):
    text = f"<answer>[{{'bbox_2d': [10, 20, 60, 80], 'confidence': {confidence}}}]</answer>"
    one = sample_of("detection", answer=[[10, 20, 60, 80]])
    assert Detection(mode="lenient")(text, one).reward == 0
    assert Detection(mode="lenient")(text.replace(confidence, "1e0"), one).reward == 1
    assert Detection(mode="lenient")(text.replace(confidence, "'1.0'"), one).reward == 1


@pytest.mark.parametrize(
    ("text", "earned"),
    [
        ("not a rose", 0),
        ("no rose here", 0),
        ("It isn't a rose.", 0),
        ("It cannot be a rose", 0),
        ("a pink primrose rather than a rose", 0),
        ("a rose, not a pink primrose", 1),
        ("It is a rose.", 1),
        ("a rose instead of the pink primrose", 1),
    ],
)
def test_a_class_that_is_denied_is_not_named(text, earned):
    assert Label(mode="lenient")(text, sample_of("label", answer="rose")).reward == earned


def test_what_models_write_is_not_kept_in_memory():
    sample = sample_of("label")
    Label(mode="lenient")("<answer>rose</answer>", sample)
    kept = label._spelling_of_class.cache_info().currsize
    for place in range(50):
        Label(mode="lenient")(f"<answer>flower {place}</answer>", sample)
    assert label._spelling_of_class.cache_info().currsize == kept


@pytest.mark.parametrize(
    ("kind", "answer"),
    [("number", "3!"), ("number", "3?"), ("choice", "big dog?"), ("choice", "B?")],
)
def test_a_factorial_and_a_doubt_are_no_answers(kind, answer):
    assert reward(verifier_of(kind), answer, sample_of(kind)) == 0


def test_whatever_the_math_process_prints_shifts_no_answer():
    program = """\
import os
from gpg_vl.verifiers import math_worker

honest = math_worker._answer

def noisy(request):
    print("noise")
    os.write(1, b'{"id": 1}\\n')
    return honest(request)

math_worker._answer = noisy
math_worker.main()
"""
    asked = [{"id": 7, "truth": "$1$", "answer": "1"}, {"id": 8, "truth": "$1$", "answer": "2"}]
    lines = "".join(json.dumps(request) + "\n" for request in asked)
    done = subprocess.run(
        [sys.executable, "-c", program], input=lines, capture_output=True, text=True, check=True
    )
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line.get("id"), line["right"]) for line in replies] == [
        (None, True),
        (7, True),
        (8, False),
    ]


def test_number_within_a_tolerance():
    verifier = Number(tolerance=0.5)
    assert [
        reward(verifier, answer, sample_of("number")) for answer in ("2.4", "2.5", "3.5", "3.6")
    ] == [0, 1, 1, 0]


def test_boxes_earn_their_overlap():
    # the truth is 50 x 60; its left half has half of it
    assert reward(Boxes(), "[10,20,35,80]", sample_of("boxes")) == 0.5
    assert reward(Boxes(), "(10,20),(35,80)", sample_of("boxes")) == 0.5
    assert reward(Boxes(), "[70,20,90,80]", sample_of("boxes")) == 0.0


def test_boxes_by_giou_tell_far_from_near():
    # same height, gap 10: hull 80 x 60, union 70 x 60: giou = -10/80; touching: 0
    verifier = Boxes(measure="giou")
    assert reward(verifier, "[70,20,90,80]", sample_of("boxes")) == pytest.approx((1 - 1 / 8) / 2)
    assert reward(verifier, "[60,20,80,80]", sample_of("boxes")) == pytest.approx(0.5)
    assert reward(verifier, "[10,20,60,80]", sample_of("boxes")) == 1.0


def test_boxes_by_threshold_are_right_or_wrong():
    verifier = Boxes(threshold=0.5)
    assert [
        reward(verifier, f"[10,20,{edge},80]", sample_of("boxes")) for edge in (34, 35, 60)
    ] == [0, 1, 1]


@pytest.mark.parametrize("measure", ["iou", "giou"])
def test_a_better_box_never_earns_less(measure):
    verifier = Boxes(measure=measure)
    for moved in (
        lambda d: (10 + d, 20, 60 + d, 80),
        lambda d: (10, 20, 60 - d, 80),
        lambda d: (10 - d / 4, 20 - d / 4, 60 + d, 80 + d / 4),
    ):
        earned = [
            reward(verifier, str(list(moved(step))), sample_of("boxes"))
            for step in range(40, -1, -1)
        ]
        assert earned == sorted(earned)
        assert earned[-1] == 1


def test_the_models_frame_is_converted_once():
    # 200 x 100 pixels; the model speaks thousandths, the truth is in pixels or in shares
    wide = {"sizes": ((200, 100),), "answer": [[20, 10, 100, 50]]}
    assert (
        reward(Boxes(frame=Frame(kind="norm1000")), "[100,100,500,500]", sample_of("boxes", **wide))
        == 1
    )
    assert reward(Boxes(), "[20,10,100,50]", sample_of("boxes", **wide)) == 1
    shares = wide | {"answer": [[0.1, 0.1, 0.5, 0.5]], "frame": "norm1"}
    assert (
        reward(
            Boxes(frame=Frame(kind="norm1000")), "[100,100,500,500]", sample_of("boxes", **shares)
        )
        == 1
    )


@pytest.mark.parametrize("kind", ["pixels", "norm1", "norm1000", "resized"])
@pytest.mark.parametrize("size", [(100, 100), (640, 427), (97, 301)])
def test_reference_boxes_earn_the_full_reward_in_every_frame(kind, size):
    verifiers = VerifierSet(by_kind={"boxes": Boxes(frame=Frame(kind=kind))})
    assert verifiers.validation_error(sample_of("boxes", sizes=(size,))) == ""


# --- gate and sum ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "gate", "total"),
    [
        (said("3"), 1.0, 1.0),
        (said("4"), 0.2, 0.2),  # wrong, well-formed
        ("<answer>3</answer>", 0.0, 0.8),  # right, malformed
        ("3", 0.0, 0.0),  # no answer block: nothing was answered
        ("<|image_pad|><answer>3</answer>", 0.0, 0.0),
        ("<answer>4</answer><answer>3</answer>", 0.0, 0.0),
        ("<answer>4</answer>", 0.0, 0.0),
    ],
)
def test_gate_pays_accuracy_only_in_a_well_formed_answer_and_sum_always(text, gate, total):
    weights = {"accuracy_weight": 0.8, "format_weight": 0.2}
    assert Number(combine="gate", **weights)(text, sample_of("number")).reward == pytest.approx(
        gate
    )
    assert Number(combine="sum", **weights)(text, sample_of("number")).reward == pytest.approx(
        total
    )


def test_a_verdict_explains_itself():
    verdicts = [
        Number()(text, sample_of("number")) for text in (said("3"), said("4"), said("some"), "3")
    ]
    assert [verdict.answer for verdict in verdicts] == ["3", "4", "some", ""]
    assert [verdict.reason for verdict in verdicts] == [
        "right",
        "wrong",
        "unreadable: not one number",
        "malformed: expected the tags <think> </think> <answer> </answer>, got none",
    ]


# --- judging completions --------------------------------------------------------------------------


def judged(truncated, text, **fields):
    by_kind = {"number": Number(accuracy_weight=0.8, format_weight=0.2, **fields)}
    return VerifierSet(by_kind=by_kind, truncated=truncated).judge(
        completion(text=text, finish="length"), sample_of("number")
    )


@pytest.mark.parametrize("truncated", ["zero", "score", "drop"])
def test_a_finished_completion_is_scored_whatever_truncated_says(truncated):
    verifiers = VerifierSet(by_kind={"number": Number()}, truncated=truncated)
    assert verifiers.judge(completion(text=said("3")), sample_of("number")).reward == 1.0


def test_truncated_zero_earns_nothing():
    verdict = judged("zero", said("3"), combine="sum")
    assert (verdict.reward, verdict.parts, verdict.reason) == (
        0.0,
        {"accuracy": 0.0, "format": 0.0},
        "truncated",
    )


def test_truncated_score_earns_its_accuracy_and_never_its_format():
    assert judged("score", said("3"), combine="sum").reward == 0.8
    assert judged("score", said("3"), combine="sum").parts == {"accuracy": 1.0, "format": 0.0}
    assert judged("score", said("4"), combine="sum").reward == 0.0


def test_truncated_score_behind_a_gate_earns_nothing():
    assert judged("score", said("3"), combine="gate").reward == 0.0


@pytest.mark.parametrize(("mode", "cut"), [("reference", 1.0), ("lenient", 1.0), ("strict", 0.0)])
def test_only_the_strict_reading_asks_how_a_text_ended(mode, cut):
    verifiers = VerifierSet(by_kind={"number": Number()}).in_mode("reference").in_mode(mode)
    assert verifiers.judge(completion(text=said("3")), sample_of("number")).reward == 1.0
    assert (
        verifiers.judge(completion(text=said("3"), finish="length"), sample_of("number")).reward
        == cut
    )


def test_an_unfinished_strict_text_is_read_in_its_one_block_and_a_lenient_one_anywhere():
    texts = ("<answer>3</answer>", "<answer>4</answer><answer>3</answer>", "3", "<answer>3")
    assert [judged("score", text, combine="sum").reward for text in texts] == [0.8, 0, 0, 0]
    assert [judged("score", text, mode="lenient").reward for text in texts] == [0.8, 0.8, 0.8, 0]


@pytest.mark.parametrize(
    ("mode", "combine", "text", "earned"),
    [
        # accuracy 0.75, format 0.25: only the strict gate holds the accuracy back from a malformed
        # text
        ("strict", "gate", said("3"), 1.0),
        ("strict", "gate", "<answer>3</answer>", 0.0),
        ("strict", "sum", "<answer>3</answer>", 0.75),
        ("lenient", "gate", "<answer>3</answer>", 0.75),
        ("lenient", "gate", said("3"), 1.0),
        ("lenient", "gate", said("4"), 0.25),
        ("reference", "gate", "<answer>3</answer>", 0.75),
        ("reference", "gate", said("3"), 1.0),
        ("reference", "sum", said("4"), 0.25),
        ("lenient", "sum", "It is 3.", 0.75),
        ("reference", "sum", "It is 3.", 0.0),
    ],
)
def test_the_format_is_paid_in_every_mode_and_required_in_one(mode, combine, text, earned):
    verifier = Number(mode=mode, combine=combine, accuracy_weight=0.75, format_weight=0.25)
    assert verifier(text, sample_of("number")).reward == earned


def test_another_mode_is_another_verifier_and_leaves_those_of_another_make_alone():
    own = Faulty()
    strict = VerifierSet(by_kind={"number": Number(), "own": own}, truncated="drop")
    lenient = strict.in_mode("lenient")
    assert (lenient.by_kind["number"], lenient.by_kind["own"]) == (Number(mode="lenient"), own)
    assert (lenient.whole, lenient.truncated, strict.whole) == (True, "drop", False)
    assert strict.by_kind["number"] == Number()
    assert lenient.in_mode("strict") == strict


def test_a_sound_truth_is_sound_whatever_the_authors_rule_makes_of_it():
    # the published counting rule reads whole numbers alone
    verifiers = VerifierSet(by_kind={"number": Number(mode="reference")})
    assert verifiers.validation_error(sample_of("number", answer=2.5)) == ""
    assert verifiers.validation_error_of(said("2.5"), sample_of("number", answer=2.5)) == ""
    assert (
        verifiers.validation_error_of(said("2"), sample_of("number", answer=2.5))
        == f"its own answer {said('2')!r} earns 0 of 1 (wrong)"
    )
    assert (
        verifiers.validation_error(sample_of("number", answer="many"))
        == "answer 'many' is not a number"
    )


@pytest.mark.parametrize(
    ("earned", "fine"),
    [(1.0, True), (0.9999995, True), (0.99999, False), (0.9, False), (0.0, False)],
)
def test_a_reference_answer_may_lose_a_millionth_and_no_more(earned, fine):
    class Graded(Number):
        def grade(self, answer, sample):
            return Grade(earned, answer, "right")

    for fields in ({}, {"accuracy_weight": 2.0, "format_weight": 0.5}, {"format_weight": 1.0}):
        assert (
            VerifierSet(by_kind={"number": Graded(**fields)}).validation_error(sample_of("number"))
            == ""
        ) is fine


def test_truncated_drop_is_not_scored():
    verdict = judged("drop", said("3"))
    assert math.isnan(verdict.reward)
    assert verdict.reason == "truncated"


@dataclass(frozen=True)
class Faulty:
    """A verifier of the user's with a bug."""

    def __call__(self, text, sample):
        return Verdict(reward=1 / len(text.strip("x")))


def test_a_fault_of_the_verifier_is_nan_and_reported():
    verifiers = VerifierSet(by_kind={"number": Faulty()})
    verdict = verifiers.judge(completion(text="xxx"), sample_of("number"))
    assert math.isnan(verdict.reward)
    first, _, trace = verdict.reason.partition("\n")
    assert first == "fault: ZeroDivisionError: division by zero"
    assert "Traceback" in trace
    assert verifiers.judge(completion(text="y"), sample_of("number")).reward == 1.0


def test_a_verifier_of_ones_own_needs_no_reference_answer_and_no_word_on_unfinished_texts():
    verifiers = VerifierSet(by_kind={"number": Faulty()}, truncated="score")
    assert verifiers.validation_error(sample_of("number")) == ""
    assert (
        verifiers.judge(completion(text="yy", finish="length"), sample_of("number")).reward == 0.5
    )


def test_a_truth_that_cannot_be_scored_is_a_fault_and_not_a_wrong_answer():
    verifiers = VerifierSet(by_kind={"number": Number()})
    assert math.isnan(
        verifiers.judge(completion(text=said("3")), sample_of("number", answer="many")).reward
    )


# --- validation errors ----------------------------------------------------------------------------

CHECKS = VerifierSet(by_kind={"choice": Choice(), "number": Number(), "boxes": Boxes()})
EVERY = VerifierSet(by_kind={kind: verifier_of(kind) for kind in KINDS})
NOT_ONE_BOX = (
    "is not one box [[x1, y1, x2, y2]]; any number of boxes is answer_kind: detection, or policy: "
    "all of the verifier"
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_sample_has_no_validation_error(kind):
    assert EVERY.validation_error(sample_of(kind)) == ""


@pytest.mark.parametrize(
    ("sample", "sentence"),
    [
        (sample_of("number", answer="many"), "answer 'many' is not a number"),
        (sample_of("number", answer=None), "answer None is not a text or a number"),
        (sample_of("number", answer=[[1], True, "x"]), "answer [1] is not a text or a number"),
        (sample_of("number", answer=math.nan), "answer nan is not a text or a number"),
        (
            sample_of("choice", answer="cow"),
            "answer 'cow' is not one of the choices ['cat', 'big dog', 'horse']",
        ),
        (
            sample_of("choice", choices=()),
            "answer 'big dog' is not one of the choices []; name the column of the options under "
            "`columns: {choices: ...}`, or write answer_kind: label where the question lists them "
            "and the answer is a letter",
        ),
        (
            sample_of("choice", choices=("big dog", "Big dog")),
            "answer 'big dog' is not one of the choices ['big dog', 'Big dog']",
        ),
        (
            sample_of("boxes", sizes=()),
            "a box needs an image: width and height in pixels, sizes=((640, 480),)",
        ),
        (
            sample_of("boxes", answer=[[1, 2, 3]]),
            "answer [[1, 2, 3]] is not one box [[x1, y1, x2, y2]]",
        ),
        (sample_of("boxes", answer=[]), f"answer [] {NOT_ONE_BOX}"),
        (
            sample_of("boxes", answer=[[1, 2, 3, 4]] * 2),
            f"answer [[1, 2, 3, 4], [1, 2, 3, 4]] {NOT_ONE_BOX}",
        ),
        (
            sample_of("boxes", answer=[[3, 2, 1, 4]]),
            "box [[3, 2, 1, 4]] is empty or outside the image of 100 x 100 pixels",
        ),
        (
            sample_of("boxes", answer=[[0, 0, 10, 102]]),
            "box [[0, 0, 10, 102]] is empty or outside the image of 100 x 100 pixels",
        ),
        (
            replace(sample_of("number"), answer_kind="poem"),
            "answer_kind 'poem' has no verifier; known: boxes, choice, number",
        ),
    ],
)
def test_a_sample_that_cannot_be_scored_is_reported_in_a_sentence(sample, sentence):
    assert CHECKS.validation_error(sample) == sentence


@pytest.mark.parametrize(
    "answer",
    [5, [5], [None], [[1, 2, 3, None]], [[1, 2, 3, "x"]], {"x1": 1}, None, "box"],
    ids=repr,
)
def test_a_box_of_any_other_shape_is_reported_and_never_raises(answer):
    assert CHECKS.validation_error(sample_of("boxes", answer=answer))


def test_a_truth_in_an_unknown_frame_is_reported():
    assert CHECKS.validation_error(sample_of("boxes", frame="norm100"))


def test_a_reference_answer_that_does_not_earn_the_full_reward_is_reported():
    class Strict(Choice):
        def reference_answer(self, sample):
            return "horse"

    verifiers = VerifierSet(by_kind={"choice": Strict(format_weight=0.5)})
    assert (
        verifiers.validation_error(sample_of("choice"))
        == "its own answer '<think>so</think><answer>horse</answer>' earns 0.5 of 1.5 (wrong)"
    )


@pytest.mark.parametrize(
    ("truth", "right", "wrong"),
    [
        ("-5", ["-5", "−5", "It is -5."], ["5", "It is 5"]),
        ("5", ["5", "It is 5."], ["-5", "3.5", "It is 3.5", "1,500", "10:5", "it is .5", "is -5"]),
        ("3.5", ["3.5", "It is 3.5."], ["3 5", "3-5", "3/5", "13.5"]),
        (".5", [".5", "it is .5"], ["5"]),
        ("3/5", ["3/5"], ["3.5"]),
        ("C", ["C", "It is C."], ["C++", "It is C#"]),
        ("737-300", ["737-300", "737 300", "a Boeing 737–300"], ["737", "300"]),
    ],
)
def test_the_signs_of_a_number_are_part_of_a_label(truth, right, wrong):
    verifier = Label(mode="lenient")
    sample = sample_of("label", answer=truth, choices=())
    assert [verifier(text, sample).reward for text in right] == [1.0] * len(right)
    assert [verifier(text, sample).reward for text in wrong] == [0.0] * len(wrong)
