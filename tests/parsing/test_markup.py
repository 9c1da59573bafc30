"""Reading letters, words and numbers out of an answer: what counts as naming one thing, and what
does not."""

from time import process_time

import pytest

from gpg_vl.parsing import choices, markup, numbers

ANIMALS = ("cat", "big dog", "Horse")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        (" 3 ", 3),
        ("3.", 3),
        ("3.0", 3),
        ("-3", -3),
        ("+3", 3),
        ("0.25", 0.25),
        ("-0.5", -0.5),
        ("1,234", 1234),
        ("1,234,567.5", 1234567.5),
        ("007", 7),
        ("zero", 0),
        ("Seven", 7),
        ("TWENTY.", 20),
        ("３", 3),
    ],
)
def test_numbers_that_are_read(text, value):
    assert numbers.number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "three four",
        "3 4",
        "3-4",
        "3, 4",
        "1,23",
        "12,34,567",
        "3 dogs",
        "x",
        "nan",
        "inf",
        "1e3",
        "0x10",
        "--3",
        "1.2.3",
        "3/4",
        "9" * 16,
    ],
)
def test_texts_that_are_not_one_number(text):
    assert numbers.number(text) is None


@pytest.mark.parametrize("text", [".5", "-.5", ",5"])
def test_a_leading_point_does_not_turn_half_into_five(text):
    assert numbers.number(text) in (None, 0.5, -0.5)


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
    assert choices.exact(text, ANIMALS) == index


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
    assert choices.exact(text, ANIMALS) is None


def test_the_words_of_an_option_win_over_its_letter():
    assert choices.exact("A", ("B", "A")) == 1
    assert choices.exact("b", ("B", "A")) == 0


def test_options_that_are_spelled_alike_name_nothing():
    assert choices.exact("cat", ("cat", "Cat!")) is None


def test_numbers_as_options():
    assert choices.exact("7", ("3", "7", "1")) == 1
    assert choices.exact("-7", ("3", "7", "1")) is None
    assert choices.exact("2", ("3", "7", "1")) is None


def test_without_options_nothing_is_named():
    assert choices.exact("A", ()) is None


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("so <answer> 3 </answer> it is", "3"),
        ("<answer>3</answer><answer>4</answer>", ""),
        ("<answer>3", ""),
        ("3", ""),
        ("</answer>3<answer>", ""),
        ("<|image_pad|><answer>3</answer>", ""),
        ("<think>a<answer>3</answer>", "3"),
        ("<answer><answer>3</answer>", ""),
        ("<answer>3</answer></answer>", ""),
        ("<answer>3</answer> or <answer>4", ""),
        ("<answer>3</answer><|im_end|>", ""),
        ("<answer>3\n4</answer>", "3\n4"),
    ],
)
def test_the_only_answer_of_a_malformed_text(text, inside):
    assert markup.only_answer(text) == inside


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("<answer>3</answer> no: <answer> 4 </answer>.", "4"),
        ("<ANSWER>3</Answer>", "3"),
        ("<answer>3</answer><answer>4", "3"),  # the last that is complete
        ("<answer>3<answer>4</answer>", "4"),
        ("<answer>3</answer></answer>", "3"),
        ("</answer>3", "</answer>3"),
        ("</answer>3<answer>4</answer>", "4"),
        ("just 3", "just 3"),
        ("<s> 3 </s>", "3"),
        ("<answer>3<|im_end|></answer>", "3"),
        ("<|im_end|><|endoftext|> 3 <|im_end|> 4 </s><eos>", "3 <|im_end|> 4"),
        ("<|im_end|>", ""),
        ("", ""),
    ],
)
def test_the_last_answer_of_a_foreign_text(text, inside):
    assert markup.last_answer(text) == inside


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("\\boxed{3}", ["3"]),
        ("\\boxed{\\frac{1}{2}} or \\boxed {4}", ["\\frac{1}{2}", "4"]),
        ("\\boxed{3", []),
        ("\\boxed{a \\boxed{b} c}", ["a \\boxed{b} c", "b"]),
        ("}\\boxed{3}", ["3"]),
        ("boxed{3}", []),
    ],
)
def test_what_stands_in_boxes(text, inside):
    assert markup.boxed(text) == inside


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("**3**", "3"),
        ("`3`", "3"),
        ("$$3$$", "3"),
        ("\\(3\\).", "3"),
        ("\\boxed{\\text{3}}", "3"),
        ("```json\n[3]\n```", "[3]"),
        ("```3```", "3"),
        ("**3** and **4**", "**3** and **4**"),
        ("\\text{3}{4}", "\\text{3}{4}"),
        ("$3", "$3"),
        ("****", "****"),
        ('"3"', "3"),
        ('"3".', '"3".'),
        ("**" * 20 + "3" + "**" * 20, "**" * 20 + "3" + "**" * 20),
        ("*`$3$`*", "3"),
        ("  3  ", "3"),
    ],
)
def test_markup_around_the_whole_of_a_text_is_left_out(text, bare):
    assert markup.unwrapped(text) == bare


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"answer": 3}', "3"),
        ("```json\n{'count': 'three dogs'}\n```", "three dogs"),
        ('[{"final answer": "x \\" y"}]', 'x \\" y'),
        ('{"answer": 3, "count": 4}', None),
        ('{"answer": ""}', ""),
        ('"answer": 3', None),
        ('so {"answer": 3}', None),
        ('{"unit": 3}', None),
        ('{"answer": "half a', "half a"),
    ],
)
def test_the_one_field_of_a_record(text, value):
    assert markup.field(text) == value


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("nineteen", 19),
        ("twenty", 20),
        ("twenty-one", 21),
        ("ninety nine", 99),
        ("hundred", 100),
        ("a hundred", 100),
        ("〇", 0),
        ("两", 2),
        ("十", 10),
        ("十一", 11),
        ("二十", 20),
        ("二十一", 21),
        ("九十九", 99),
        ("一十", None),
        ("一百", 100),
    ],
)
def test_counting_words(word, value):
    assert numbers.NUMBER_WORDS.get(word) == value


@pytest.mark.parametrize("text", ["5²", "x₂", "2⁰", "3⁻¹", "H₂O"])
def test_raised_and_lowered_digits_are_no_number(text):
    assert numbers.number(text) is None


def test_a_doubt_is_a_choice_only_where_an_option_is_one():
    assert choices.exact("cat?", ANIMALS) is None
    assert choices.exact("who? ", ("who?", "what?")) == 0
    assert choices.exact("B?", ("who?", "what?")) == 1


def test_normalised_texts_differ_only_in_their_words():
    assert markup.normalise("  The Ｃａｔ,\n sat! ") == "the cat, sat"


@pytest.mark.parametrize(
    "read",
    [numbers.number, markup.only_answer, lambda text: choices.exact(text, ANIMALS)],
    ids=["number", "answer", "choice"],
)
@pytest.mark.parametrize(
    "piece", ["9", "1,234", "A) ", "<answer>", "</answer><answer>", " ", "cat ", "<|image_pad|>"]
)
def test_a_megabyte_is_read_quickly(read, piece):
    start = process_time()
    read(piece * (10**6 // len(piece)))
    assert process_time() - start < 2


def test_heaped_accents_are_read_in_linear_time():
    start = process_time()
    assert numbers.number("3" + "\u0301\u0316" * 20_000) is None
    assert process_time() - start < 0.3
