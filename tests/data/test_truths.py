"""Truths: the wrappings of published sets, several accepted answers, and what is refused."""

import re
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_vl.data.columns.truths import read_truth, unwrapped


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("<answer> 3 </answer>", "3"),
        ("<ANSWER>3</ANSWER>", "3"),
        ("<think>It is <b>.</think> <answer>A</answer>", "A"),
        ("<think>a <answer>1</answer>?</think>\n<answer>2</answer>", "2"),
        ("<think>Two and one.</think>\n3", "3"),
        ("\\boxed{3}", "3"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("$$\\boxed{\\text{B}}$$", "B"),
        ("\\boxed{\\boxed{3}}", "3"),
        ("<answer>$\\boxed{3}$</answer>", "3"),
        ("Thus $x = \\boxed{3}$.", "3"),
        ("\\boxed{3}. Indeed \\boxed{3}.", "3"),
        ("$3$", "3"),
        ("$ 3 $", "3"),
        ("$3$.", "3"),
        ("\\(x^2\\)", "x^2"),
        ("\\[x^2\\]", "x^2"),
        ("\\text{blue}", "blue"),
        ("Half of 48 is 24 <<48/2=24>>.\n#### 1,234", "1,234"),
        ("#### -5", "-5"),
        ("<REASONING> So B. </REASONING>\n\n<CONCLUSION> B </CONCLUSION>", "B"),
        ("<CONCLUSION> B </CONCLUSION> or not", "<CONCLUSION> B </CONCLUSION> or not"),
        ("Answer: B", "B"),
        ("The final answer is: $3$.", "3"),
        ("Answer: B\nbecause it is red", "Answer: B\nbecause it is red"),
        # what is no wrapping
        ("$5", "$5"),
        ("costs $3 and $4", "costs $3 and $4"),
        ("$3 and $4", "$3 and $4"),
        ("$3 and $", "$3 and $"),
        ("\\(a\\) and \\(b\\)", "\\(a\\) and \\(b\\)"),
        ("\\{1, 2\\}", "\\{1, 2\\}"),
        ("[0, 1)", "[0, 1)"),
        ("\\text{a} and \\text{b}", "\\text{a} and \\text{b}"),
        ("3####4", "3####4"),
        ("##### 3", "##### 3"),
        ("3 cm", "3 cm"),
        (" rose ", "rose"),
        # what nobody sees
        ("\ufeffrose\u200b", "rose"),
        ("$x\u2060$\u200e", "x"),
        ("rose\ufe0f", "rose"),
        ("❤\ufe0f", "❤\ufe0f"),
        ("1\ufe0f\u20e3", "1\ufe0f\u20e3"),
        ("می\u200cروم", "می\u200cروم"),
    ],
)
def test_the_wrapping_of_published_sets_is_taken_off(text, truth):
    for kind in ("number", "value", "expression", "label", "choice"):
        assert str(read_truth(text, kind)) == truth


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<answer>3", "only one of <answer> and </answer>"),
        ("<answer></answer>", "answer is missing"),
        ("\\boxed{}", "answer is missing"),
        ("####", "answer is missing"),
        ("\\boxed{3} or \\boxed{4}", "2 different \\boxed{}"),
        ("\\boxed{3", "0 different \\boxed{}"),
        ("a\ud800", "half of a character"),
    ],
)
def test_a_wrapping_that_is_cut_off_empty_or_double_is_refused(text, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        read_truth(text, "label")


@pytest.mark.parametrize(
    ("value", "kind", "truth"),
    [
        (["sofa", "couch"], "label", ["sofa", "couch"]),
        (["sofa", None, "couch", float("nan"), "", "sofa"], "label", ["sofa", "couch"]),
        (np.array(["7", "seven"]), "number", [7, "seven"]),
        ([3, "3", 3.0], "number", 3),
        ([3], "number", 3),
        (["$x$", "<answer>y</answer>"], "expression", ["x", "y"]),
        ('["sofa", "couch"]', "label", ["sofa", "couch"]),
        ("['sofa', 'couch']", "label", ["sofa", "couch"]),
        ("<answer>['sofa', 'couch']</answer>", "label", ["sofa", "couch"]),
        ("[3, 4]", "number", [3, 4]),
        ("[3, 4]", "expression", "[3, 4]"),
        ("[3, 4]", "value", "[3, 4]"),
        ('["0.5", "1/2"]', "value", ["0.5", "1/2"]),
        (
            [{"answer": "net", "answer_confidence": "yes"}, {"answer": "nets"}, {"answer": "net"}],
            "label",
            ["net", "nets"],
        ),
    ],
)
def test_a_list_holds_several_accepted_answers(value, kind, truth):
    assert read_truth(value, kind) == truth


@pytest.mark.parametrize(
    ("value", "kind", "truth"),
    [
        (3.0, "number", 3),
        (Decimal("2.50"), "number", "2.50"),
        (np.int64(4), "label", 4),
        (["A", "<answer>C</answer>"], "choice", ["A", "C"]),
        ([[12.0, 5, 44, 37.5]], "boxes", [[12, 5, 44, 37.5]]),
        ([], "detection", []),
        ({"bbox_2d": [1, 2, 3, 4]}, "boxes", {"bbox_2d": [1, 2, 3, 4]}),
        ("<answer>[1,2,3,4]</answer>", "boxes", "[1,2,3,4]"),
        ('{"bbox_2d": [1, 2, 3, 4]}', "boxes", '{"bbox_2d": [1, 2, 3, 4]}'),
        (True, "my_kind", True),
        ({"a": (1.0,)}, "my_kind", {"a": [1]}),
        ("\\boxed{3}", "my_kind", "\\boxed{3}"),
    ],
)
def test_a_truth_is_read_for_its_kind(value, kind, truth):
    assert read_truth(value, kind) == truth


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (None, "number", "answer is missing"),
        (float("nan"), "label", "answer is missing: got nan"),
        (Decimal("NaN"), "number", "answer is missing"),
        ("", "my_kind", "answer is missing"),
        ([], "label", "without an answer"),
        ([None, float("nan")], "number", "without an answer"),
        (True, "number", "answer is True"),
        (np.bool_(False), "choice", "answer is False"),
        (["yes", True], "label", "answer is True"),
        (True, "boxes", "answer is True"),
        ({"style": "rule", "ground_truth": 4}, "number", "['style', 'ground_truth']"),
        ({"style": "rule"}, "choice", "columns: {answer: reward_model.ground_truth}"),
        ('{"ground_truth": "4"}', "label", "['ground_truth']"),
        ([[3]], "number", "answer is a list"),
        (b"3", "number", "answer is a bytes"),
        ("['sofa' 'couch']", "label", "no commas"),
        ("[sofa, couch]", "label", "looks like a list"),
    ],
)
def test_what_is_no_truth_is_refused_with_a_sentence(value, kind, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        read_truth(value, kind)


CELLS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals()
    | st.binary()
    | st.text(st.sampled_from("<>/answerthink#$\\boxed{}[]()'\"\n ,.:3A\ud800\0"))
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=6,
)


@given(CELLS, st.sampled_from(["number", "value", "expression", "label", "choice", "boxes", "own"]))
def test_any_cell_is_a_truth_or_refused_with_a_sentence(value, kind):
    truth, refusal = None, "a sentence of words"
    try:
        truth = read_truth(value, kind)
    except ValueError as error:
        refusal = str(error)
    assert 10 < len(refusal) < 1500
    if kind == "number":
        assert not isinstance(truth, bool | dict)


@given(st.text(st.sampled_from("<>/answer#$\\boxed{} \n3")))
def test_a_truth_that_was_unwrapped_has_nothing_left_to_unwrap(text):
    try:
        truth = unwrapped(text)
    except ValueError:
        return
    assert unwrapped(truth) == truth


@pytest.mark.parametrize("text", ["nan", " NaN ", "<NA>", "NaT"])
def test_a_written_null_is_a_missing_truth(text):
    for kind in ("number", "label", "choice"):
        with pytest.raises(ValueError, match="which pandas writes for an empty cell"):
            read_truth(text, kind)
    assert read_truth([text, "rose"], "label") == "rose"
    assert read_truth("nan bread", "label") == "nan bread"


@pytest.mark.parametrize(
    ("value", "truth"),
    [
        (0.1 + 0.2, 0.3),
        (float(np.float32(0.1)), 0.1),
        (1e-7, "0.0000001"),
        (2.5, 2.5),
        ("3.0", 3),
        ("-3.0", -3),
        ("3.10", "3.10"),
    ],
)
def test_a_number_has_the_digits_that_are_sure(value, truth):
    assert read_truth(value, "number") == truth


@pytest.mark.parametrize(
    ("text", "truth"),
    [("2", 2), (" -7 ", -7), ("0", 0), ("12.5", 12.5), ("-0.25", -0.25), ("\\boxed{3}", 3)],
)
def test_a_text_that_is_a_plain_number_is_one_for_kind_number_alone(text, truth):
    read = read_truth(text, "number")
    assert (type(read), read) == (type(truth), truth)
    for kind in ("label", "value", "expression"):
        assert isinstance(read_truth(text, kind), str)


@pytest.mark.parametrize(
    "text", ["007", "+3", "-0", "2.50", "1e5", "1,234", "3/4", "1_000", "٣", "9" * 30, "0.1" * 2]
)
def test_a_text_that_a_number_would_change_stays_a_text(text):
    assert read_truth(text, "number") == text


def test_words_of_an_option_are_not_unwrapped():
    assert read_truth("$6$", "choice", ["$5$", "$6$"]) == "$6$"
    assert read_truth(["$6$", "$7$"], "choice", ["$5$", "$6$"]) == ["$6$", "7"]
    assert read_truth("$6$", "choice", ["5", "6"]) == "6"
