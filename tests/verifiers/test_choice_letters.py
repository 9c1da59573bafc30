"""Choices whose options have letters of their own, and truths of several options."""

import math
from dataclasses import replace

import pytest

from gpg_vl.errors import UserError
from gpg_vl.prompts import Style
from gpg_vl.types import Sample
from gpg_vl.verifiers import exploits, published_rules
from gpg_vl.verifiers.choice import Choice, lettered
from gpg_vl.verifiers.dispatch import VerifierSet

ANIMALS = ("dog", "cat", "cow")
PIECES = ("red", "green", "blue", "black and white")
MODES = ["strict", "lenient"]


def sample_of(answer, choices=ANIMALS, letters=("B", "A", "F"), **fields):
    return Sample(
        id="1",
        question="Which?",
        answer_kind="choice",
        answer=answer,
        choices=choices,
        letters=letters,
        **fields,
    )


def accuracy(verifier, answer, sample):
    text = verifier.style.write(answer, thought="so")
    return verifier(text, sample).parts["accuracy"]


def several_of(answer):
    return sample_of(answer, choices=PIECES, letters=())


# --- letters of their own -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("truth", ["B", "b", "(B)", "B.", "B)", "B. dog", "dog", " dog ", ["B"]])
@pytest.mark.parametrize(
    ("answer", "earned"),
    [
        ("B", 1),
        ("(b)", 1),
        ("B. dog", 1),
        ("dog", 1),
        ("A", 0),
        ("A. cat", 0),
        ("A. dog", 0),
        ("cat", 0),
        ("C", 0),
        ("F", 0),
    ],
)
def test_a_letter_is_the_options_own(mode, truth, answer, earned):
    assert accuracy(Choice(mode=mode), answer, sample_of(truth)) == earned


def test_letters_may_be_any_and_may_be_small():
    sample = sample_of("g", choices=("cat", "dog"), letters=("f", "g"))
    assert [accuracy(Choice(), answer, sample) for answer in ("G", "g", "F", "A", "dog")] == [
        1,
        1,
        0,
        0,
        1,
    ]


def test_a_letter_of_no_option_is_no_truth():
    with pytest.raises(ValueError, match="with the letters B, A, F"):
        Choice().reference_answer(sample_of("C"))
    with pytest.raises(ValueError, match="3 choices have 2 letters"):
        Choice().reference_answer(sample_of("A", letters=("A", "B")))


def test_the_reference_answer_is_the_own_letter_where_words_are_alike():
    alike = sample_of("A", choices=("aa", "AA", "b"))
    assert Choice().reference_answer(alike) == "A"
    assert accuracy(Choice(), "A", alike) == 1
    assert accuracy(Choice(), "B", alike) == 0


def test_letters_are_shown_where_the_question_or_the_truth_has_them():
    hidden = Style(options="never")
    with_own = sample_of("dog", letters=("B", "A", "F"))
    assert not lettered(with_own, hidden)
    assert lettered(replace(with_own, question="B) dog A) cat F) cow"), hidden)
    assert lettered(sample_of("F"), hidden)
    assert not lettered(sample_of("C"), hidden)
    assert lettered(sample_of(["A", "F"]), hidden)
    assert lettered(sample_of("AF"), hidden)
    assert lettered(sample_of("A, F"), hidden)
    assert not lettered(sample_of(["A", "dog"]), hidden)
    assert not lettered(sample_of("BAD", choices=("bad", "good"), letters=()), hidden)


def test_letters_are_shown_where_the_prompt_lists_the_options():
    with_own = sample_of("dog", letters=("B", "A", "F"))
    assert lettered(with_own, Style(options="auto"))
    # the question names every option itself, so the prompt lists none
    named = replace(with_own, question="Is it a dog, a cat or a cow?")
    assert not lettered(named, Style(options="auto"))
    assert not lettered(named, Style(options="never"))


@pytest.mark.parametrize("rule", ["mmmu", "mmmu_pro"])
def test_the_published_rules_read_own_letters(rule):
    letters = ("B", "A", "F")
    assert published_rules.mmmu_choice("It is (F).", ANIMALS, rule, letters) == 2
    assert published_rules.mmmu_choice("It is (B).", ANIMALS, rule, letters) == 0
    verifier = Choice(mode="reference", authors=rule)
    assert verifier("It is (B).", sample_of("B")).reward == 1
    assert verifier("It is (B).", sample_of("A")).reward == 0


@pytest.mark.parametrize(
    ("truth", "several", "earned"),
    [
        ("B", "refused", 1),
        (["B"], "refused", 1),
        (["A", "B"], "any", 1),
        (["A", "B"], "all", 0),
        (["A"], "any", 0),
    ],
)
def test_visual_thinkers_rule_reads_one_letter(truth, several, earned):
    verifier = Choice(mode="reference", authors="visual_thinker", several=several)
    assert verifier("<answer>B</answer>", sample_of(truth)).reward == earned


@pytest.mark.parametrize("mode", MODES)
def test_no_exploit_earns_anything_with_own_letters(mode):
    verifier = Choice(mode=mode)
    # leniently, the words of the last line count: of all options in lines, those of the last
    for truth in ("B", "A"):
        assert exploits.working_exploits(sample_of(truth), verifier) == []
    named = dict(exploits.contents(sample_of("B"), exploits.Box(0, 0, 9, 9)))
    assert named["every letter"] == "B A F"
    assert named["every option labelled"] == "B. dog A. cat F. cow"


def test_chance_counts_own_letters():
    # the letter B is the truth twice, once at each place
    samples = [
        sample_of("B", choices=("x1", "x2"), letters=("B", "A")),
        sample_of("B", choices=("x3", "x4"), letters=("A", "B")),
        sample_of("A", choices=("x5", "x6"), letters=("A", "B")),
    ]
    best = exploits.best_constant(samples, Choice())
    assert (best.answer, best.reward) == ("B", pytest.approx(2 / 3))
    assert best.chance == pytest.approx(2 / 3)
    assert Choice().constant_answers(samples) == ["A", "B"]


# --- several options ------------------------------------------------------------------------------


@pytest.mark.parametrize("truth", [["A", "C"], ("A", "C"), "A, C", "A,C", "AC", ["red", "C"]])
def test_several_options_are_refused_unless_declared(truth):
    verifiers = VerifierSet(by_kind={"choice": Choice()})
    assert "verifiers.choice: {kind: choice, several: any}" in verifiers.validation_error(
        several_of(truth)
    )
    for several in ("any", "all"):
        verifiers = VerifierSet(by_kind={"choice": Choice(several=several)})
        assert verifiers.validation_error(several_of(truth)) == ""


@pytest.mark.parametrize("several", ["refused", "any", "all"])
@pytest.mark.parametrize("mode", MODES)
def test_a_list_of_one_is_that_one(several, mode):
    verifier = Choice(several=several, mode=mode)
    for truth in (["B"], ["green"], ["B", "green"]):
        earned = [accuracy(verifier, answer, several_of(truth)) for answer in ("B", "green", "A")]
        assert earned == [1, 1, 0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("answer", "any_of_them", "all_of_them"),
    [
        ("A", 1, 0),
        ("C. blue", 1, 0),
        ("red", 1, 0),
        ("B", 0, 0),
        ("A, C", 0, 1),
        ("C and A", 0, 1),
        ("AC", 0, 1),
        ("red, blue", 0, 1),
        ("A, B", 0, 0),
        ("A, B, C", 0, 0),
        ("A, C, D", 0, 0),
        ("ABCD", 0, 0),
        ("E", 0, 0),
        ("", 0, 0),
    ],
)
def test_one_of_them_or_all_of_them(mode, answer, any_of_them, all_of_them):
    sample = several_of(["A", "C"])
    assert accuracy(Choice(several="any", mode=mode), answer, sample) == any_of_them
    assert accuracy(Choice(several="all", mode=mode), answer, sample) == all_of_them


@pytest.mark.parametrize("truth", [["C", "D"], ["A", "B", "C", "D"], ["black and white", "red"]])
@pytest.mark.parametrize("several", ["any", "all"])
def test_several_truths_earn_full_marks_and_exploits_nothing(truth, several):
    verifier = Choice(several=several)
    sample = several_of(truth)
    assert VerifierSet(by_kind={"choice": verifier}).validation_error(sample) == ""
    assert exploits.working_exploits(sample, verifier) == []
    lenient = Choice(several=several, mode="lenient")
    assert VerifierSet(by_kind={"choice": lenient}).validation_error(sample) == ""


def test_every_option_may_be_named_only_where_all_are_right():
    every = several_of(["A", "B", "C", "D"])
    verifier = Choice(several="all", mode="lenient")
    assert accuracy(verifier, "The answer is A, B, C and D.", every) == 1
    assert exploits.working_exploits(every, verifier) == []
    assert verifier.every_option_accuracy(every) == 1
    assert verifier.every_option_accuracy(several_of(["A", "B"])) == 0
    assert Choice(several="any").every_option_accuracy(every) == 0


def test_the_reference_answer_is_letters_where_the_words_read_otherwise():
    sample = sample_of(["A", "B"], choices=("cat", "dog", "cat, dog"), letters=())
    assert Choice(several="all").reference_answer(sample) == "A, B"
    assert accuracy(Choice(several="all"), "cat, dog", sample) == 0
    assert accuracy(Choice(several="all"), "cat, dog", sample_of("C", sample.choices, ())) == 1


def test_repeated_options_do_not_widen_a_set():
    sample = sample_of(["A", "C"], choices=("cat", "cat", "dog"), letters=())
    verifier = Choice(several="all")
    assert accuracy(verifier, "B, C", sample) == 1  # the same words
    assert accuracy(verifier, "A, B, C", sample) == 0
    assert accuracy(verifier, "A, B", sample) == 0


def test_the_words_of_an_option_win_over_a_set_of_letters():
    sample = sample_of("AC", choices=("AB", "AC", "BC"), letters=())
    assert accuracy(Choice(), "AC", sample) == 1
    assert accuracy(Choice(), "B", sample) == 1


@pytest.mark.parametrize(("truth"), [[], ["A", "E"], ["A", None], [["A"]], "A, E", math.nan])
@pytest.mark.parametrize("several", ["refused", "any", "all"])
def test_a_set_with_something_that_is_no_option_is_refused(truth, several):
    with pytest.raises(ValueError, match="is not one of the choices"):
        Choice(several=several).reference_answer(several_of(truth))


def test_chance_of_several_truths_by_hand():
    samples = [several_of(["A", "B"]), several_of(["B", "C"]), several_of("D"), several_of("D")]
    best = exploits.best_constant(samples, Choice(several="any"))
    assert (best.reward, best.chance) == (0.5, 0.5)  # B twice, or D twice
    every = [several_of(["A", "B"]), several_of(["B", "A"]), several_of("D")]
    best = exploits.best_constant(every, Choice(several="all"))
    assert (best.answer, best.fair) == ("red, green", True)
    assert best.reward == best.chance == pytest.approx(2 / 3)


def test_all_of_several_options_needs_letters():
    with pytest.raises(UserError, match="expected letters: always"):
        Choice(several="all", letters="shown")
    assert accuracy(Choice(several="any", letters="shown", style=Style()), "red", several_of("A"))


def test_an_option_that_is_a_picture_is_answered_by_its_letter():
    sample = sample_of("B", choices=("<image 1>", "<image 2>"), letters=())
    assert Choice().reference_answer(sample) == "B"
    assert accuracy(Choice(), "B", sample) == 1
    assert accuracy(Choice(), "A", sample) == 0
