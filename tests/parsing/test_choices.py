"""Which option an answer names or states: the ways models write it, and the texts that name or
state none or several."""

from time import process_time

import pytest

from gpg_vl.parsing import choices

ANIMALS = ("cat", "big dog", "horse", "cow")
LENGTHS = ("$9 \\mathrm{~cm}^{2}$", "$\\frac{1}{2}$", "$30^{\\circ}$", "12")
LETTERS = ("A", "B", "C", "D")


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "b",
        "(B)",
        "B.",
        "B)",
        "[B]",
        "**B**",
        "**(B)**",
        "$B$",
        "\\boxed{B}",
        "\\boxed{\\text{B}}",
        "$\\boxed{\\text{(B)}}$",
        "\\boxed{(B) big dog}",
        "\\(\\boxed{B}\\).",
        "B. big dog",
        "(B) big dog",
        "B: big dog, because it barks",
        "**B. big dog**",
        "big dog",
        "Big Dog.",
        "The answer is B.",
        "The answer is (B) because it barks.",
        "the answer is **B**",
        "The correct answer is B. big dog",
        "The correct answer is:\n\n**B. big dog**",
        "The correct answer is option B.",
        "The correct option is **B.**",
        "The best choice would be (B).",
        "Therefore, the final answer is: $\\boxed{B}$",
        "Answer: B",
        "**Answer: B**",
        "**Answer:** B",
        "### Answer\nB. big dog",
        "Final answer: (B)",
        "Answer: **B. big dog**",
        "The answer to the question is B.",
        "The answer is \\( \\text{B. } \\).",
        "The picture (B) is the most similar.",
        "It barks, so it must be B.",
        "Thus, the correct choice is:\n\nB. big dog",
        "Option B is the correct answer.",
        "I would choose B.",
        "Looking at it, option (B) fits.",
        "The missing animal is **(B)**.\n\nThe options are cats and dogs.",
        "答案是B",
        "答案：B",
        "答案是（B）。",
        "故选B。",
        "因此，正确答案是 B。",
        "正确选项是B",
        "选择B",
        "<s> B</s>",
        "B<|im_end|>",
        "It is not a cat.\n\nB",
        "It has four legs and barks.\nThe answer is: big dog.",
        "(B) The second one; (B) it is.",
        "Cats meow (no). So the answer should be (b).",
    ],
)
def test_one_option_is_stated(text):
    from gpg_vl.parsing import markup

    assert choices.stated(markup.last_answer(text), ANIMALS) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "I cannot see the image.",
        "A B C D",
        "ABCD",
        "A, B, C, D",
        "(A)(B)(C)(D)",
        "(A) cat (B) big dog (C) horse (D) cow",
        "A. cat\nB. big dog\nC. horse\nD. cow",
        "A or B",
        "B, C",
        "The answer is A or B.",
        "The answer is (A) and (B).",
        "The answer is (A). The answer is (B).",
        "Answer: A\nAnswer: B",
        "\\boxed{A} \\boxed{B}",
        "\\boxed{(A), (B)}",
        "The answer is E.",
        "The answer is (Z).",
        "The answer is A dog.",
        "A dog is in the picture.",
        "I think so.",
        "cat, big dog",
        "答案是A或B",
        "The answer is \\boxed{E}",
        "A. big dog",
        "<answer></answer>",
        "nan",
    ],
)
def test_no_option_or_several_are_stated(text):
    assert choices.stated(text, ANIMALS) is None


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("\\boxed{9 \\text{ cm}^2}", 0),
        ("Its area is $\\boxed{9\\,\\mathrm{cm}^{2}}$.", 0),
        ("The answer is \\frac{1}{2}.", 1),
        ("so the angle is \\boxed{30^\\circ}.", 2),
        ("The answer is 12.", 3),
        ("\\boxed{0.5}", 1),
        ("The answer is: \\boxed{(C)}", 2),
    ],
)
def test_options_that_are_mathematics(text, index):
    assert choices.stated(text, LENGTHS) == index


def test_a_letter_as_it_stands_wins_over_an_option_that_only_looks_like_it():
    # the fifth option is meant, although the third reads "(e)"
    assert choices.stated("Therefore, the answer is (E).", ("(c)", "(a)", "(e)", "(d)", "(b)")) == 4
    assert choices.stated("(e)", ("(c)", "(a)", "(e)", "(d)", "(b)")) == 2


def test_options_that_differ_only_in_case():
    assert choices.stated("aa", ("AA", "Aa", "aa")) == 2
    assert choices.stated("The answer is (B).", ("AA", "Aa", "aa")) == 1


def test_letters_as_options():
    assert choices.stated("Shape B is the largest. The answer is B", LETTERS) == 1
    assert choices.stated("it shows point C", LETTERS) is None


@pytest.mark.parametrize(
    "piece",
    [
        "The answer is ",
        "(B) ",
        "B. ",
        "\\boxed{",
        "\\boxed{A}",
        "option ",
        "**",
        "answer: (",
        "A, ",
        "answer is for ",
        "\n\n",
        "{",
        "答案",
        "** ",
        " (",
    ],
)
def test_a_megabyte_is_read_quickly(piece):
    start = process_time()
    choices.stated(piece * (10**6 // len(piece)), ANIMALS)
    assert process_time() - start < 4


CENTIMETRES = ("10 cm", "12 cm", "15 cm", "18 cm")


@pytest.mark.parametrize(
    "text",
    [
        "（C）",
        "{C}",
        "C、15 cm",
        "C - 15 cm",
        "C – 15 cm",
        '{"answer": "C"}',
        '```json\n{"answer": "C"}\n```',
        '{"answer": "C',
        '{"answer": "(C) 15 cm"}',
        '{"answer": "15 cm"}',
        "It's C.",
        "I think it's C",
        "It is C",
        "Choose C",
        "Choose (C).",
        "C is correct",
        "C is correct.",
        "So C is the correct answer.",
        "Option C is correct.",
        "Hence, C.",
        "Therefore, (C).",
        "Answer = C",
        "Not A but C. The answer is C.",
        "Option A is wrong. Option C is correct.",
        "A: no\nB: no\nC: 15 cm",
        "The answer cannot be A. The answer is C.",
        "答案不是A，答案是C",
        "I would not choose A. I would choose C.",
        "The answer is C, not A.",
        "The wrong options are eliminated. The answer is C.",
        "【C】",
        "C。",
        "The answer isn't A; it's C",
        "It must be C.",
    ],
)
def test_further_spellings_of_one_option(text):
    assert choices.stated(text, CENTIMETRES) == 2


@pytest.mark.parametrize(
    "text",
    [
        "The answer cannot be C",
        "Option C is incorrect",
        "The wrong option is C",
        "The incorrect option is C",
        "I would not choose C",
        "不选C",
        "我不选C",
        "C: no",
        "Answer: C is wrong",
        "The answer is not C",
        "The answer isn't C",
        "Option C is not correct",
        "Option C cannot be right",
        "C is incorrect",
        "C is not the correct answer",
        "I don't think the answer is C",
        "I do not think option C fits",
        "(C) is wrong.",
        "答案不是C",
        "C是错的",
        "Is C the correct answer?",
        "not C",
        "It's not C",
        "C is wrong",
        "选项C是错误的",
        "I can rule out option C",
        "The answer can't be (C).",
        "C is incorrect because it is long",
        "**C** is wrong",
    ],
)
def test_an_option_that_is_denied_is_not_stated(text):
    assert choices.stated(text, CENTIMETRES) is None


@pytest.mark.parametrize(
    ("text", "index"),
    [
        # boxes and cues together, before approval, before labels, before brackets, before the end
        # of the text
        ("\\boxed{C} so the answer is D", None),
        ("Option C is correct. It is (A).", 0),
        ("the shape is (C). Options: A. 10 cm", 2),
        ("The second (C), not (A)", 2),
        ("I looked at option C", 2),
        ("so it must be C", 2),
        ("It is long.\n15 cm", 2),
        ("It is \\boxed{15 cm}", 2),
        ("\\boxed{0.15 m}", 2),  # by its value
        ("\\boxed{0.16 m}", None),
        ("The answer is 15 cm (C)", 2),
        ("The answer is C: 15 cm", 2),
        ("The answer is C. 12 cm", None),  # a letter and the words of another option
        ("C. 12 cm", None),
        ("C. 15 cm, A. 10 cm", None),
        ("C. 15 cm, as A. Smith has it", 2),
        ("The answer is A. The answer is A.", 0),
        ("The answer is A because", 0),
        ("A dog", None),
        ("(C) or (D)", None),
        ("**C** and **D**", None),
        ("**C** it is", 2),
        ("D", 3),
        ("E", None),
    ],
)
def test_better_evidence_decides_and_a_contradiction_states_nothing(text, index):
    assert choices.stated(text, CENTIMETRES) == index


@pytest.mark.parametrize(("times", "index"), [(1, 2), (200, 2), (201, None)])
def test_a_text_that_states_too_many_answers_states_none(times, index):
    assert choices.stated("The answer is C. " * times, CENTIMETRES) == index


def test_without_options_nothing_is_stated():
    assert choices.stated("The answer is C.", ()) is None
    assert choices.stated("The answer is C.", ("x", "y")) is None
    assert choices.stated("The answer is B.", ("x", "y")) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("$9 \\mathrm{~cm}^{2}$", "9 cm^2"),
        ("30^{\\circ}", "30 degrees"),
        ("\\dfrac{1}{2}", "\\frac{1}{2}"),
        ("Big Dog.", "big dog"),
        ("\\left( 1 \\right)", "(1)"),
        ("50\\%", "50%"),
    ],
)
def test_mathematical_dress_is_no_difference(one, other):
    assert choices.plain(one) == choices.plain(other) != ""


# --- a text that is nothing but one option --------------------------------------------------------

THREE_ANIMALS = ("cat", "big dog", "Horse")


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("cat", 0),
        (" CAT. ", 0),
        ("big  dog", 1),
        ("horse", 2),
        ("A", 0),
        ("b", 1),
        ("C.", 2),
        ("(B)", 1),
        ("B)", 1),
        ("B:", 1),
        ("B. big dog", 1),
        ("(C) horse.", 2),
        ("c: Horse", 2),
    ],
)
def test_choices_that_are_named(text, index):
    assert choices.exact(text, THREE_ANIMALS) == index


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "D",
        "(D)",
        "dog",
        "cat, big dog",
        "A B",
        "AB",
        "A, B, C",
        "(A)(B)",
        "(A) (B)",
        "A) B)",
        "A. big dog",
        "B. cat or dog",
        "a cat",
        "1",
        "not cat",
    ],
)
def test_texts_that_name_none_or_several(text):
    assert choices.exact(text, THREE_ANIMALS) is None


def test_the_words_of_an_option_win_over_its_letter():
    assert choices.exact("A", ("B", "A")) == 1
    assert choices.exact("b", ("B", "A")) == 0


@pytest.mark.parametrize(
    ("text", "index"),
    [("B", 1), ("(B)", 1), ("B.", 1), ("b", 0), ("A", 0), ("a", 2), ("B. d", 1), ("X", None)],
)
def test_a_capital_letter_is_no_option_in_small_letters(text, index):
    assert choices.exact(text, ("b", "d", "a")) == index
    assert choices.stated(text, ("b", "d", "a")) == index


def test_options_that_are_spelled_alike_name_nothing():
    assert choices.exact("cat", ("cat", "Cat!")) is None


@pytest.mark.parametrize(
    ("text", "index"), [(".5", 1), ("5", 0), ("5.", 0), ("B. .5", 1), (".5.", 1), ("A. .5", None)]
)
def test_a_point_before_a_digit_is_no_punctuation(text, index):
    assert choices.exact(text, ("5", ".5")) == index
    assert choices.stated(f"The answer is {text}", ("5", ".5")) == index


@pytest.mark.parametrize("text", ["it's", "It’s", "'it's'"])
def test_printed_quotes_and_hyphens_are_those_of_a_keyboard(text):
    assert choices.exact(text, ("it’s", "its", "2010–2015")) == 0
    assert choices.exact("2010-2015", ("it’s", "its", "2010–2015")) == 2
    assert choices.stated("The answer is -3.", ("3", "−3")) == 1


def test_numbers_as_options():
    assert choices.exact("7", ("3", "7", "1")) == 1
    assert choices.exact("-7", ("3", "7", "1")) is None
    assert choices.exact("2", ("3", "7", "1")) is None


def test_without_options_nothing_is_named():
    assert choices.exact("A", ()) is None


def test_a_doubt_is_a_choice_only_where_an_option_is_one():
    assert choices.exact("cat?", THREE_ANIMALS) is None
    assert choices.exact("who? ", ("who?", "what?")) == 0
    assert choices.exact("B?", ("who?", "what?")) == 1


@pytest.mark.parametrize(
    "piece", ["9", "1,234", "A) ", "<answer>", "</answer><answer>", " ", "cat ", "<|image_pad|>"]
)
def test_a_megabyte_is_read_quickly_where_it_must_be_one_option(piece):
    start = process_time()
    choices.exact(piece * (10**6 // len(piece)), THREE_ANIMALS)
    assert process_time() - start < 2


# --- letters of their own, and several options ----------------------------------------------------


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("B", 0),
        ("(b)", 0),
        ("B. cat", 0),
        ("A", 1),
        ("A) big dog", 1),
        ("F", 2),
        ("horse", 2),
        ("A. cat", None),
        ("C", None),
        ("D", None),
    ],
)
def test_options_with_letters_of_their_own(text, index):
    assert choices.exact(text, THREE_ANIMALS, ("B", "A", "F")) == index
    assert choices.stated(text, THREE_ANIMALS, ("b", "a", "f")) == index


def test_a_free_answer_is_read_with_the_options_own_letters():
    assert choices.stated("The answer is (F) because...", THREE_ANIMALS, ("B", "A", "F")) == 2
    assert choices.stated("\\boxed{\\text{A}}", THREE_ANIMALS, ("B", "A", "F")) == 1
    # a letter of no option contradicts
    assert choices.stated("The answer is C or F.", THREE_ANIMALS, ("B", "A", "F")) is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("A, C", {0, 2}),
        ("C, A", {0, 2}),
        ("AC", {0, 2}),
        ("AC.", {0, 2}),
        ("A and C", {0, 2}),
        ("A, and C", {0, 2}),
        ("(A), (C)", {0, 2}),
        ("a; c", {0, 2}),
        ("A & C", {0, 2}),
        ("cat, horse", {0, 2}),
        ("A. cat, C. horse", {0, 2}),
        ("cat and C", {0, 2}),
        ("B", {1}),
        ("big dog", {1}),
        ("A, B and C", {0, 1, 2}),
    ],
)
def test_several_options_are_named(text, named):
    assert choices.exact_set(text, THREE_ANIMALS) == named
    assert choices.stated_set(text, THREE_ANIMALS) == named


@pytest.mark.parametrize(
    "text",
    ["", ",", "A or C", "A, A", "AA", "cat, A", "A, D", "AD", "ac", "A, cow", "A, C?", "A. horse"],
)
def test_texts_that_name_no_set(text):
    assert choices.exact_set(text, THREE_ANIMALS) is None


def test_an_option_may_hold_the_signs_between_options():
    flags = ("red, white and blue", "red", "black and white")
    assert choices.exact_set("red, white and blue", flags) == {0}
    assert choices.exact_set("red, red, white and blue", flags) == {0, 1}
    assert choices.exact_set("black and white and red", flags) == {1, 2}
    assert choices.exact_set("A, B", flags, ("B", "A", "C")) == {0, 1}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("The answer is A and C.", {0, 2}),
        ("\\boxed{A, C}", {0, 2}),
        ("**A, C**", {0, 2}),
        ('{"answer": "A, C"}', {0, 2}),
        ("The answer is (B).", {1}),
        ("The answer is A and D.", None),
        ("I cannot tell.", None),
    ],
)
def test_a_free_answer_states_a_set(text, named):
    assert choices.stated_set(text, THREE_ANIMALS) == named


@pytest.mark.parametrize("piece", ["A, ", " and ", "A ", "AB", "cat,", "\\boxed{A}"])
def test_a_megabyte_is_read_quickly_where_several_may_be_named(piece):
    start = process_time()
    choices.exact_set(piece * (10**6 // len(piece)), THREE_ANIMALS)
    choices.stated_set(piece * (10**6 // len(piece)), THREE_ANIMALS)
    assert process_time() - start < 4


PETS = ("cat", "dog", "bird", "fish")


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("The dog.", 1),
        ("The answer is a dog.", 1),
        ("B dog", 1),
        ("B cat", None),
        ("A dog", None),  # the letter A, or an article
        ("I'd say B.", 1),
        ("It is option b, because it barks.", 1),
        ("Options A and C are correct.", None),
        ("Option A or option B?", None),
        ("B？", None),
    ],
)
def test_articles_and_letters_with_words(text, index):
    assert choices.stated(text, PETS) == index


def test_options_that_differ_by_their_article_are_two():
    assert choices.stated("the dog", ("cat", "a dog", "the dog")) == 2
    assert choices.stated("dog", ("cat", "a dog", "the dog")) is None


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("答案：AC", {0, 2}),
        ("The answer is AC.", {0, 2}),
        ("Options A and C are correct.", {0, 2}),
        ("A/C", {0, 2}),
        ('{"answer": ["A", "C"]}', {0, 2}),
        ("The answer is BAD.", None),  # a word: not in the order of the alphabet
        ("The answer is ACE.", None),  # there is no E
        ("The answer is AC. The answer is AB.", None),
    ],
)
def test_letters_of_several_options_in_free_form(text, indices):
    assert choices.stated_set(text, PETS) == (indices and frozenset(indices))
