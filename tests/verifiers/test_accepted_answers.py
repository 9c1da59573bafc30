"""Several accepted answers: any one is right, two are no answer, and chance counts them all."""

import math
import re
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_vl.types import Sample
from gpg_vl.verifiers import exploits
from gpg_vl.verifiers.base import Grade, MalformedTruthError, RuleVerifier
from gpg_vl.verifiers.choice import Choice
from gpg_vl.verifiers.detection import Detection
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.expression import Expression
from gpg_vl.verifiers.label import Label
from gpg_vl.verifiers.number import Number
from gpg_vl.verifiers.value import Value
from tests.verifiers.test_verifiers import KINDS, reward, said, sample_of, verifier_of

SOFA = {"answer": ["sofa", "couch"], "choices": ()}


def asked(verifier, truth, **fields):
    kind = type(verifier).__name__.lower()
    return replace(sample_of(kind), answer=truth, **fields)


@pytest.mark.parametrize("mode", ["strict", "lenient"])
@pytest.mark.parametrize(
    ("verifier", "truths", "right", "wrong"),
    [
        (
            Label(),
            ["sofa", "couch"],
            ["sofa", "Couch"],
            ["chair", "sofa or couch", "['sofa', 'couch']"],
        ),
        (Number(), ["7", "seven", 8], ["7", "seven", "8"], ["9", "7 or 8", "7, 8", "7 8"]),
        (Value(), ["0.5", "1/3"], ["1/2", "0.5"], ["0.7", "0.5 or 1/3", "0.5, 1/3"]),
        (Expression(), ["x+1", "y"], ["1+x", "y"], ["x", "x+1 or z", "x+1=y"]),
        (Number(), ["several", "7"], ["7"], ["several", "8"]),  # one that cannot be read
        (Expression(), ["seven", "7"], ["7"], ["8"]),
    ],
)
def test_any_of_the_accepted_answers_is_right_and_two_of_them_are_none(
    verifier, truths, right, wrong, mode
):
    verifier = replace(verifier, mode=mode)
    sample = asked(verifier, truths, choices=())
    assert [reward(verifier, answer, sample) for answer in right] == [1.0] * len(right)
    assert [reward(verifier, answer, sample) for answer in wrong] == [0.0] * len(wrong)
    assert VerifierSet(by_kind={sample.answer_kind: verifier}).validation_error(sample) == ""


def test_reference_mode_accepts_any_of_them():
    label, number = Label(mode="reference"), Number(mode="reference")
    assert reward(label, "couch", sample_of("label", **SOFA)) == 1
    assert reward(number, "8", sample_of("number", answer=["7", 8])) == 1
    assert reward(number, "9", sample_of("number", answer=["7", 8])) == 0


def test_an_unfinished_text_may_name_any_of_them():
    verdict = Number(combine="sum").unfinished(said("8"), sample_of("number", answer=[7, 8]))
    assert verdict.parts["accuracy"] == 1


def test_the_perfect_answer_is_the_first_that_can_be_read():
    sample = sample_of("number", answer=["several", "7", 8])
    assert Number().perfect_answer(sample) == "7"
    assert Number().perfect_answers(sample) == ["7", "8"]
    assert Choice().perfect_answers(sample_of("choice")) == ["big dog"]


@pytest.mark.parametrize(
    ("verifier", "truth", "sentence"),
    [
        (Number(), ["many", "few"], "answer 'many' is not a number"),
        (Value(), ["many"], "answer 'many' is not a value"),
        (Expression(), ["many"], "answer 'many' is not one expression"),
        (Label(classes=("cat", "dog")), ["cow", "pig"], "answer 'cow' is not one of the 2 classes"),
        (Number(), [], "answer [] is a list without an answer"),
        (Label(), None, "answer None is not a text or a number"),
        (Label(), [None], "answer None is not a text or a number"),
        (Label(), True, "answer True is not a text or a number"),
        (Number(), {"ground_truth": 3}, "answer {'ground_truth': 3} is not a text or a number"),
        (Label(), [["sofa"], ["couch"]], "answer ['sofa'] is not a text or a number"),
    ],
)
def test_where_none_can_be_read_the_first_says_why(verifier, truth, sentence):
    sample = asked(verifier, truth, choices=())
    error = VerifierSet(by_kind={sample.answer_kind: verifier}).validation_error(sample)
    assert error.startswith(sentence)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        verifier.verdict_of(said("3"), sample)
    verdict = verifier(said("3"), sample)
    assert math.isnan(verdict.reward)
    assert verdict.verifier_error.startswith(f"fault: ValueError: {sentence}")


def test_the_closed_set_of_labels_stays_that_of_the_row():
    sample = sample_of("label", answer=["sofa", "couch"], choices=("sofa", "couch", "chair"))
    for answer, earned in (("couch", 1), ("chair", 0), ("sofa couch", 0)):
        assert reward(Label(mode="lenient"), answer, sample) == earned


def test_a_list_of_boxes_or_options_is_no_list_of_accepted_answers():
    two = sample_of("detection", answer=[[0, 0, 50, 50], [50, 50, 99, 99]])
    assert Detection().accepted(two) == [two]
    three = sample_of("choice", answer=["cat", "horse"])
    assert Choice().accepted(three) == [three]


@dataclass(frozen=True, kw_only=True)
class Stumbling(RuleVerifier):
    """Reads some truths only when an answer is compared with them."""

    any_of: ClassVar[bool] = True

    def grade(self, answer: str, sample: Sample) -> Grade:
        if sample.answer == "broken":
            raise MalformedTruthError("broken truth")
        return Grade.of(answer == sample.answer, answer)

    def reference_answer(self, sample: Sample) -> str:
        return str(sample.answer)


def test_a_truth_that_turns_out_to_be_unreadable_is_ignored_beside_others():
    sample = sample_of("number", answer=["broken", "4"])
    assert reward(Stumbling(), "4", sample) == 1
    assert reward(Stumbling(), "5", sample) == 0
    with pytest.raises(MalformedTruthError, match="broken truth"):
        Stumbling().verdict_of(said("4"), replace(sample, answer=["broken", "broken"]))


# --- chance and exploits --------------------------------------------------------------------------


def rows(kind, *truths, **fields):
    samples = []
    for place, truth in enumerate(truths):
        samples.append(sample_of(kind, id=str(place), answer=truth, choices=(), **fields))
    return samples


@pytest.mark.parametrize(
    ("verifier", "truths", "chance"),
    [
        # couch is right in all three although it is nowhere first
        (Label(), (["sofa", "couch"], ["settee", "couch"], ["bench", "Couch"]), 1.0),
        (Label(), (["T-shirt", "t shirt"], "t_shirt", "cap"), 2 / 3),  # one row counts once
        (Number(), ([7, 8], [9, 8], 7, 3), 2 / 4),
        (Number(tolerance=0.5), ([1, 2], [9], [8]), 2 / 3),  # 8.5 is within half of 9 and 8
        (Number(tolerance=0.5), ([1, 2], [9], [5]), 1 / 3),  # 1.5 is right in one row only
        (Value(), (["0.5", "1/2"], ["0.7", "0.5"], "3"), 2 / 3),
        (Expression(), (["x", "y"], ["z", "x"], "w"), 2 / 3),
    ],
)
def test_chance_counts_every_accepted_answer_and_every_row_once(verifier, truths, chance):
    samples = rows(type(verifier).__name__.lower(), *truths)
    assert verifier.chance_level(samples) == pytest.approx(chance)
    constant = exploits.best_constant(samples, verifier)
    assert constant.fair
    assert constant.reward <= constant.chance


def test_the_best_constant_may_be_an_answer_that_is_nowhere_first():
    samples = rows("label", ["sofa", "couch"], ["settee", "couch"], ["bench", "couch"])
    constant = exploits.best_constant(samples, Label())
    assert (constant.answer, constant.reward) == ("couch", 1.0)


@pytest.mark.parametrize(
    ("verifier", "truths"),
    [(Label(), ["sofa", "couch"]), (Number(), [7, 8]), (Value(), ["5 cm", "6"])],
)
def test_no_exploit_works_where_several_answers_are_accepted(verifier, truths):
    assert exploits.working_exploits(asked(verifier, truths, choices=()), verifier) == []


# --- truths that their verifier cannot read -------------------------------------------------------


@pytest.mark.parametrize("mode", ["strict", "lenient"])
@pytest.mark.parametrize(
    ("truth", "right", "wrong"),
    [
        ("(1,2)", ["(1,2)", "(1, 2)"], ["3", "(1,3)", "1"]),
        ("[1,2)", ["[1,2)"], ["[1,2]", "2"]),
        ("(-\\infty, 3)", ["(-\\infty,3)"], ["3", "(-\\infty,4)"]),
        ("3:4", ["3:4", "6:8", "3/4"], ["3", "4", "4:3"]),
        ("x in (1,2)", ["x in (1,2)", "x \\in (1,2)", "(1,2)"], ["x", "2", "(1,3)"]),
        ("3<x<5", ["3<x<5"], ["3", "5", "3<x<6"]),
        ("1, 2, 3", ["1, 2, 3", "3, 2, 1"], ["1", "3", "1, 2"]),
        ("1e3", ["1000", "1e3", "10^3"], ["1", "3e"]),
        ("1.5e-3", ["0.0015"], ["1.5", "4.5"]),
    ],
)
def test_tuples_intervals_ratios_and_powers_of_ten_are_read_in_both_modes(
    truth, right, wrong, mode
):
    verifier, sample = Expression(mode=mode), sample_of("expression", answer=truth)
    assert VerifierSet(by_kind={"expression": verifier}).validation_error(sample) == ""
    assert [reward(verifier, answer, sample) for answer in right] == [1.0] * len(right)
    assert [reward(verifier, answer, sample) for answer in wrong] == [0.0] * len(wrong)


@pytest.mark.parametrize("mode", ["strict", "lenient", "reference"])
@pytest.mark.parametrize(
    "truth",
    ["hello", "the dog", "3 or 4", "(", "-", "?", "1,5", "3:4:5", "2^{100000}", "9^{9^{9^9}}"],
)
def test_a_text_that_is_no_expression_leaves_its_row_out(truth, mode):
    verifiers = VerifierSet(by_kind={"expression": Expression(mode=mode)})
    assert "answer" in verifiers.validation_error(sample_of("expression", answer=truth))


@pytest.mark.parametrize("mode", ["strict", "lenient", "reference"])
@pytest.mark.parametrize(
    "truth",
    ["1e99999", "", " ", "\\$5", "x" * 30_000, None, True, {"a": 1}, [[1]], b"3", math.nan],
)
def test_another_truth_that_is_no_expression_leaves_its_row_out(truth, mode):
    verifiers = VerifierSet(by_kind={"expression": Expression(mode=mode)})
    error = verifiers.validation_error(sample_of("expression", answer=truth))
    assert "answer" in error
    assert len(error) < 1500


@pytest.mark.parametrize("verifier", [Value(), Expression()])
@pytest.mark.parametrize(
    "truth", ["2010-2015", "18–29%", "3-4 cm", "3~4", "3～4 cm", "2020-01-02", "1/2/2020"]
)
def test_a_range_or_a_date_is_no_difference(verifier, truth):
    with pytest.raises(ValueError, match="may be a range, a date or a difference"):
        verifier.perfect_answer(sample_of("value", answer=truth))


@pytest.mark.parametrize("truth", ["10-2√3", "-3", "16π-8", "1e-3", "1/2", "3^2-4^2"])
def test_a_difference_with_a_root_or_a_power_is_one(truth):
    sample = sample_of("value", answer=truth)
    assert Value().perfect_answer(sample) == Expression().perfect_answer(sample) == truth


TRUTHS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.binary()
    | st.text()
    | st.text(st.sampled_from("0123456789xy+-*/^_=<>(){}[],.:;\\|!% $√πein")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["box", "label", "a"]), inner, max_size=2)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("mode", ["strict", "lenient", "reference"])
@pytest.mark.parametrize("kind", KINDS)
@given(truth=TRUTHS)
def test_no_truth_of_any_kind_raises(kind, mode, truth):
    verifiers = VerifierSet(by_kind={kind: verifier_of(kind, mode=mode)})
    assert isinstance(verifiers.validation_error(sample_of(kind, answer=truth)), str)


class Broken(Number):
    def grade(self, answer, sample):
        return sample.columns["colour"]


def test_a_verifier_of_your_own_that_stumbles_over_a_row_names_its_line():
    verifiers = VerifierSet(by_kind={"number": Broken()})
    for error in (
        verifiers.validation_error(sample_of("number")),
        verifiers.validation_error_of("<think>so</think><answer>3</answer>", sample_of("number")),
    ):
        assert error.startswith("Broken fails on it: KeyError: 'colour' (test_accepted_answers.py ")
