"""Texts that are one number, in digits or counting words, and texts that are none."""

from time import process_time

import pytest

from gpg_vl.parsing import numbers


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


@pytest.mark.parametrize(("text", "value"), [(".5", 0.5), ("-.5", -0.5), (",5", None)])
def test_a_leading_point_does_not_turn_half_into_five(text, value):
    assert numbers.number(text) == value


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


@pytest.mark.parametrize(
    "piece", ["9", "1,234", "A) ", "<answer>", "</answer><answer>", " ", "cat ", "<|image_pad|>"]
)
def test_a_megabyte_is_read_quickly(piece):
    start = process_time()
    numbers.number(piece * (10**6 // len(piece)))
    assert process_time() - start < 2


def test_heaped_accents_are_read_in_linear_time():
    start = process_time()
    assert numbers.number("3" + "\u0301\u0316" * 20_000) is None
    assert process_time() - start < 0.3
