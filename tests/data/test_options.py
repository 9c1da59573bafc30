"""Options of multiple choice as people have them, and truths that are the place of one."""

import math
import re
from decimal import Decimal
from time import process_time

import numpy as np
import pytest

from gpg_vl.data.columns.options import Options, from_columns, read_options
from gpg_vl.data.columns.true_options import check_question, read_truth, truth_of_index

PETS = ("cat", "dog")
ANIMALS = Options(("cat", "dog", "cow"))
NUMBERS = Options(("1", "2", "3"))


@pytest.mark.parametrize(
    "cell",
    [
        ["cat", "dog"],
        ("cat", " dog "),
        np.array(["cat", "dog"]),
        np.array(["cat", "dog"], dtype=object),
        {"A": "cat", "B": "dog"},
        {"a": "cat", "b": "dog"},
        {"A": "A. cat", "B": "B. dog"},
        {"option_a": "cat", "option_b": "dog"},
        {"label": ["A", "B"], "text": ["cat", "dog"]},
        {"text": np.array(["cat", "dog"]), "label": np.array(["(a)", "(b)"])},
        {"text": ["cat", "dog"]},
        [{"label": "A", "text": "cat"}, {"label": "B", "text": "dog"}],
        [{"option": "A", "text": "cat"}, {"option": "B", "text": "dog"}],
        [{"letter": "A", "option": "cat"}, {"letter": "B", "option": "dog"}],
        [{"id": "A", "value": "cat", "image": None}, {"id": "B", "value": "dog", "image": None}],
        [{"text": "cat"}, {"text": "dog"}],
        [{"A": "cat"}, {"B": "dog"}],
        [{"A": "cat", "B": None}, {"A": None, "B": "dog"}],
        '["cat", "dog"]',
        "['cat', 'dog']",
        "('cat', 'dog')",
        '{"A": "cat", "B": "dog"}',
        "{'label': ['A', 'B'], 'text': ['cat', 'dog']}",
        "A. cat\nB. dog",
        "A.cat\nB.dog\n",
        "a) cat\n\nb) dog",
        "A: cat\nB: dog",
        "(A) cat (B) dog",
        "(A) cat; (B) dog",
        "A. cat B. dog",
        "Choices:\n(A) cat\n(B) dog",
        ["A. cat", "B. dog"],
        ["(A) cat", "(B) dog"],
        ["a) cat", "b) dog"],
        ["A: cat", "B: dog"],
        ["[A] cat", "[B] dog"],
        ["A - cat", "B - dog"],
        ["A、cat", "B、dog"],
        ["A:cat", "B:dog"],
        "A.cat;B.dog",
        "A:cat,B:dog",
        "A. cat | B. dog |",
        ["Option A: cat", "Option B: dog"],
        ["cat", "dog", None, None],
        ["cat", "dog", "", "nan", math.nan],
        {"choices": ["cat", "dog"]},
        ["A. cat", "B. dog", "C. nan", "D."],
        ["\ufeffcat", "do\u00adg\u200b"],
        ["\u200bA. cat", "\u202aB. dog\u202c", "\u200b"],
        {"\ufeffA": "cat", "B": "dog"},
        '\ufeff["cat", "dog"]',
    ],
    ids=repr,
)
def test_two_options_in_every_form(cell):
    assert read_options(cell) == Options(PETS)


@pytest.mark.parametrize(
    ("cell", "words", "letters"),
    [
        ({"B": "cat", "A": "dog"}, PETS, ("B", "A")),
        ({"A": "cat", "C": "dog"}, PETS, ("A", "C")),
        ({"label": ["B", "A"], "text": ["cat", "dog"]}, PETS, ("B", "A")),
        ([{"key": "B", "content": "cat"}, {"key": "A", "content": "dog"}], PETS, ("B", "A")),
        (["B. cat", "A. dog"], PETS, ("B", "A")),
        (["B:cat", "A:dog"], PETS, ("B", "A")),
        (["(b) cat", "(a) dog"], PETS, ("B", "A")),
        (["F) cat", "G) dog"], PETS, ("F", "G")),
        (["H) cat", "J) dog"], PETS, ("H", "J")),  # I is skipped
        (["D. cat", "B. dog"], PETS, ("D", "B")),
        ('["B. cat", "A. dog"]', PETS, ("B", "A")),
        ("{'A': 'cat', 'C': 'dog'}", PETS, ("A", "C")),
    ],
)
def test_options_keep_letters_of_their_own(cell, words, letters):
    assert read_options(cell)[:2] == (words, letters)


@pytest.mark.parametrize(
    "cell",
    [
        ["cat", None, "dog"],
        ["cat", math.nan, "dog", None],
        ["cat", "nan", "dog"],
        "['cat', None, 'dog']",
        ["A. cat", None, "C. dog"],
        {"A": "cat", "B": None, "C": "dog", "D": None},
    ],
    ids=repr,
)
def test_the_letter_of_an_option_behind_an_empty_slot_is_that_of_its_place(cell):
    assert read_options(cell) == Options(PETS, ("A", "C"), places=(0, 2))


@pytest.mark.parametrize(
    "words",
    [
        ["a cat", "b dog"],
        ["a:b", "b:a"],
        ["A:B", "B:A"],
        ["a:bc", "b:ac"],
        ["a.m.", "p.m."],
        ["A.", "B."],
        ["(B)", "(A)"],
        ["A. cat", "dog"],
        ["A. cat", "(B) dog"],
        ["A. Lincoln", "A. Johnson"],
        ["1. May", "2. June"],
        ["cat", "cat"],
        ["None", "null"],
        ["A.A. Milne", "C.S. Lewis"],
        ["E. coli", "S. aureus", "B. subtilis"],
        ["T. rex", "V. mongoliensis"],
    ],
)
def test_words_that_only_look_like_letters_stay(words):
    assert read_options(words) == Options(tuple(words))


def test_numbers_are_their_texts():
    cell = [3.0, 2.5, Decimal("3.00"), Decimal("2.50"), np.float32(0.1), np.int64(4), 10**400]
    assert read_options(cell).choices == ("3", "2.5", "3", "2.50", "0.1", "4", str(10**400))


@pytest.mark.parametrize("cell", [None, "", " ", "nan", math.nan, [], [None], {}, np.array([])])
def test_an_empty_cell_has_no_options(cell):
    assert read_options(cell) == Options(())


@pytest.mark.parametrize(
    ("cell", "advice"),
    [
        ("cat; dog", "expected a JSON list of texts or options"),
        ("yes; no", 'a list in a cell of a CSV file is ["yes", "no"]'),
        ("cat|dog", "write a list of texts or a mapping"),
        ("ABCD", "columns: {choices: [A, B, C, D]}"),
        ("[cat, dog]", "expected a JSON list"),
        ("B. dog\nA. cat", "labelled A, B, C in order"),
        ("A. Vitamin C. B. iron", "labelled A, B, C in order"),
        ("Which? (A) cat (B) dog", "labelled A, B, C in order"),
        ("A. cat", "labelled A, B, C in order"),
        ("(A) (B) (C)", "labelled A, B, C in order"),
        ("['cat' 'dog']", "no commas between its members"),
        ("{'cat', 'dog'}", "expected a JSON list"),
        (5, "choices is 5, expected a list"),
        (b"cat", "expected a list"),
        ({"cat", "dog"}, "expected a list"),
        ([True, False], "write it in quotes"),
        ({"A": np.bool_(True), "B": "no"}, "write it in quotes"),
        ([["cat"], ["dog"]], "an option is a list"),
        ([math.inf], "an option is a float"),
        (np.array([["cat"], ["dog"]]), "expected a list"),
        ({"cat": "A", "dog": "B"}, "has the keys"),
        ({"A": "cat", "a": "dog"}, "all different"),
        ({"A": "cat", "1": "dog"}, "expected a letter each"),
        ({"A": ["cat"]}, "an option is a list"),
        ({"label": ["A"], "text": ["cat", "dog"]}, "as many labels as texts"),
        ({"label": ["one", "two"], "text": ["cat", "dog"]}, "has the label 'one'"),
        ([{"text": "cat", "right": True}], "has the keys"),
        ([{"id": "1", "label": "A", "text": "cat"}], "has the keys"),
        ([{"A": "cat", "B": "dog"}], "expected one letter"),
        ({"1": "cat", "0": "dog"}, "0, 1, 2... or 1, 2, 3... in order"),
        ([{"id": 17, "text": "cat"}, {"id": 18, "text": "dog"}], "give them letters"),
        ([None] * 26 + ["cat"], "leave the empty slots out"),
    ],
)
def test_what_is_not_clear_is_refused_with_advice(cell, advice):
    with pytest.raises(ValueError, match=re.escape(advice)) as caught:
        read_options(cell)
    assert len(str(caught.value)) < 1000


def test_a_long_value_is_shown_in_part():
    with pytest.raises(ValueError, match="1,000,002 characters") as caught:
        read_options("x" * 10**6)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("cell", ["A" + " " * 10**5 + "b", "A. " * 30_000, "[" * 10**5])
def test_a_long_text_is_refused_quickly(cell):
    start = process_time()
    with pytest.raises(ValueError, match="choices is the text"):
        read_options(cell)
    assert process_time() - start < 2


def test_options_in_columns_of_their_own():
    assert from_columns(["cat", "dog", None, math.nan]) == Options(PETS)
    assert from_columns(["cat", None, "dog"]).letters == ("A", "C")
    assert from_columns([1, 2.0]).choices == ("1", "2")
    with pytest.raises(ValueError, match="write it in quotes"):
        from_columns([True, False])


# --- truths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "first", "truth"),
    [
        (0, 0, "A"),
        (2, 0, "C"),
        (2.0, 0, "C"),
        (" 2 ", 0, "C"),
        (np.int64(2), 0, "C"),
        (Decimal(2), 0, "C"),
        (1, 1, "A"),
        (3, 1, "C"),
        ([0, 2], 0, ["A", "C"]),
        ("[1, 3]", 1, ["A", "C"]),
        (np.array([1]), 0, ["B"]),
    ],
)
def test_an_index_is_the_letter_of_its_place(answer, first, truth):
    assert truth_of_index(answer, ANIMALS, first) == truth
    assert read_truth(answer, ANIMALS, first) == truth


@pytest.mark.parametrize(
    ("answer", "first", "problem"),
    [
        (3, 0, "there is no option"),
        (-1, 0, "there is no option"),
        (0, 1, "there is no option"),
        (2.5, 0, "expected a whole number"),
        ("C", 0, "expected a whole number"),
        (True, 0, "expected a whole number"),
        (None, 0, "expected a whole number"),
        (math.nan, 0, "expected a whole number"),
        ([], 0, "empty list"),
        ([[0]], 0, "expected a whole number"),
        ([0, 3], 0, "there is no option"),
        ([0, 1, 0], 0, "a list with 1 for the right options"),
    ],
)
def test_what_is_no_place_is_refused(answer, first, problem):
    with pytest.raises(ValueError, match=problem):
        truth_of_index(answer, ANIMALS, first)


@pytest.mark.parametrize("answer", [[0, 1], [1, 0], "[0, 1]"])
def test_places_of_both_options_may_be_marks_of_the_right_one(answer):
    pair = read_options(["cat", "dog"])
    with pytest.raises(ValueError, match="a list with 1 for the right options"):
        truth_of_index(answer, pair, 0)
    assert truth_of_index([1, 2], pair, 1) == ["A", "B"]


def test_an_index_counts_empty_slots():
    options = read_options(["cat", None, "dog"])
    assert truth_of_index(2, options, 0) == "C"
    with pytest.raises(ValueError, match="there is no option"):
        truth_of_index(1, options, 0)


def test_an_index_that_contradicts_the_letter_of_its_option_is_refused():
    with pytest.raises(ValueError, match="has the letter B of its own"):
        truth_of_index(0, read_options(["B. dog", "A. cat"]), 0)


def test_an_index_is_letter_and_words_where_the_letter_is_another_options_words():
    assert truth_of_index(0, Options(("B", "A")), 0) == "A. B"
    assert read_truth("A. B", Options(("B", "A"))) == "A. B"
    with pytest.raises(ValueError, match="write options that differ"):
        truth_of_index(0, Options(("B", "A", "b")), 0)


@pytest.mark.parametrize("answer", ["B", "b", "(B)", "B.", "B. dog", " dog ", "B) dog", "Dog."])
def test_letters_and_words_are_clear(answer):
    assert read_truth(answer, ANIMALS) == answer


@pytest.mark.parametrize("answer", [0, 1, 2, 2.0, "2", [0, 2], Decimal(1), np.int64(1)])
def test_a_number_that_names_no_option_must_be_declared(answer):
    with pytest.raises(ValueError, match="declare answer_index: 0 or 1"):
        read_truth(answer, ANIMALS)


@pytest.mark.parametrize("answer", [1, 2, 2.0, 0, 4])
def test_a_number_among_numbers_must_be_declared(answer):
    with pytest.raises(ValueError, match=r"declare answer_index: .* letter or words as text"):
        read_truth(answer, NUMBERS)


def test_a_number_is_words_where_no_place_contradicts():
    assert read_truth("2", NUMBERS) == "2"
    assert read_truth("7", Options(("3", "7", "9"))) == "7"
    assert read_truth(20.0, Options(("10", "20", "30"))) == "20"
    assert read_truth(2, NUMBERS, first=0) == "C"


@pytest.mark.parametrize("answer", [None, math.nan, True, {"A": 1}, b"A", [["A"]], []])
def test_a_truth_that_is_no_text_is_refused(answer):
    with pytest.raises(ValueError, match="expected the"):
        read_truth(answer, ANIMALS)


def test_a_list_of_options_stays_a_list():
    assert read_truth(["A", "cow"], ANIMALS) == ["A", "cow"]
    assert read_truth('["A", "C"]', ANIMALS) == ["A", "C"]


def test_a_row_may_number_its_options_itself():
    options = read_options({"label": ["1", "2"], "text": ["cat", "dog"]})
    assert options == Options(PETS, first=1)
    truths = [read_truth(answer, options) for answer in (1, "2", "dog", "A")]
    assert truths == ["A", "B", "dog", "A"]
    assert read_truth(0, read_options({0: "cat", 1: "dog"})) == "A"
    with pytest.raises(ValueError, match="write answer_index: 1"):
        read_truth(1, options, first=0)
    with pytest.raises(ValueError, match="declare answer_index"):
        read_truth("1", read_options({"1": "3", "2": "1"}))


@pytest.mark.parametrize(
    ("answer", "cell"),
    [
        ("B", ["B dog", "A cat"]),
        ("B", ["(B)", "(A)"]),
        ("b", ["B) dog", "(A) cat"]),
        ("A", ["Yeast", "A. thaliana"]),
    ],
)
def test_a_letter_that_begins_another_option_is_refused(answer, cell):
    with pytest.raises(ValueError, match="begins with it"):
        read_truth(answer, read_options(cell))


@pytest.mark.parametrize(
    ("answer", "cell"),
    [
        ("B", ["B. dog", "A. cat"]),
        ("B", ["C", "B", "A"]),
        ("B", ["b", "a"]),
        ("b", ["b", "a"]),
        ("A", ["The dog", "A dog"]),
        ("E", ["(c)", "(a)", "(e)", "(d)", "(b)"]),
        ("C", ["Yeast", "E. coli", "C. elegans"]),
    ],
)
def test_a_letter_of_one_option_is_clear(answer, cell):
    read_truth(answer, read_options(cell))


@pytest.mark.parametrize(
    ("answer", "cell"),
    [
        ("B", ["B", "A"]),
        ("b", ["B", "A"]),
        ("C", {"B": "B", "C": "A", "D": "C"}),  # AI2D of VLMEvalKit: names of parts of a picture
        ("C", [None, "B", "A", "C"]),
        (["A", "C"], ["C", "B", "A"]),
    ],
)
def test_a_letter_that_is_the_words_of_another_option_is_refused(answer, cell):
    with pytest.raises(ValueError, match="words of one option and the letter of another"):
        read_truth(answer, read_options(cell))


@pytest.mark.parametrize("cell", [["A. cat", "A. dog"], ["(A) cat", "(A) dog", "(B) cow"]])
def test_a_letter_that_stands_before_several_options_is_refused(cell):
    with pytest.raises(ValueError, match="'A' stands before several options"):
        read_truth("A", read_options(cell))
    assert read_truth(cell[1], read_options(cell)) == cell[1]


def test_without_options_nothing_is_checked():
    assert read_truth("cat", Options(())) == "cat"
    assert read_truth(3, Options(())) == 3


@pytest.mark.parametrize("answer", ["Option B", "option_b", "Choice (B)", "choice B."])
def test_an_option_may_be_called_so(answer):
    assert read_truth(answer, read_options(["cat", "dog"])) == "B"
    assert read_truth("Option A", read_options(["Option B", "Option A"])) == "Option A"


def test_options_may_have_markup_that_the_truth_lacks():
    options = read_options({"choices": ["$x$", "**dog**"]})
    assert read_truth("x", options) == "$x$"
    assert read_truth("dog", options) == "**dog**"
    with pytest.raises(ValueError, match="declare answer_index"):
        read_truth("1", read_options(["$3$", "$1$"]))


@pytest.mark.parametrize(
    ("question", "choices"),
    [
        ("Which?\nA. dog\nB. cat", ["cat", "dog"]),
        ("Which? (A) 1 (B) 12", ["12", "1"]),
        ("Which?\nA. Dog \nB:  cat.", ["cat", "dog"]),
        ("Which?\nA. cat\nB. dog", ["B. cat", "A. dog"]),
    ],
)
def test_a_question_that_letters_the_options_otherwise_is_refused(question, choices):
    with pytest.raises(ValueError, match="the question gives the letter"):
        check_question(question, read_options(choices))


@pytest.mark.parametrize(
    ("question", "choices"),
    [
        ("Which?\nA. cat\nB. dog", ["cat", "dog"]),
        ("Which?\nB. dog\nA. cat", ["cat", "dog"]),
        ("Which?\nB. cat\nA. dog", ["B. cat", "A. dog"]),
        ("Which of A. Smith and B. Jones?", ["cat", "dog"]),
        ("Which? (A) 12 cm (B) 12", ["12 cm", "12"]),
        ("Is it a dog or a cat?", ["cat", "dog"]),
        ("Which? A. cat B. cat", ["cat", "cat"]),
    ],
)
def test_a_question_may_list_the_options_as_they_are(question, choices):
    check_question(question, read_options(choices))
