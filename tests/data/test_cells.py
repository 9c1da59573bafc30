"""Cells: what is missing, what becomes JSON, what is text, and columns by their dotted names."""

import re
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pytest

from gpg_vl.data.columns.cells import dotted, has, is_missing, listed, mapped, plain, text_of


class NAType:
    """Stands for pandas' NA: it is known by its module and name."""

    __module__ = "pandas._libs.missing"


NULLS = [
    None,
    float("nan"),
    np.float32("nan"),
    Decimal("NaN"),
    np.datetime64("NaT"),
    NAType(),
    "",
    " \n\t",
    "\u200b\ufeff",
]


@pytest.mark.parametrize("value", NULLS)
def test_nulls_and_blanks_are_missing(value):
    assert is_missing(value)


@pytest.mark.parametrize(
    "value", [0, 0.0, False, "nan", "0", [], {}, b"", np.float64(0), np.zeros(2), Decimal(0)]
)
def test_a_value_is_not_missing_although_it_is_false(value):
    assert not is_missing(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3.0, 3),
        (-0.0, 0),
        (2.5, 2.5),
        (1e300, 1e300),
        (Decimal("3.00"), 3),
        (Decimal("2.50"), "2.50"),
        (Decimal("1E+1000000"), "1E+1000000"),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([[1.0, 2.5]]), [[1, 2.5]]),
        ((1, (2.0, None)), [1, [2, None]]),
        ({"a": (np.float32(0.5),)}, {"a": [0.5]}),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00+00:00"),
        (b"\x89PNG", b"\x89PNG"),
        (True, True),
        (NAType(), None),
    ],
)
def test_a_cell_becomes_a_value_of_json(value, expected):
    result = plain(value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "question is missing"),
        (float("nan"), "question is missing: got nan"),
        (" ", "question is missing"),
        (["How", "many?"], "question is a list"),
        (7, "question is a int, 7, expected text"),
        (True, "question is a bool"),
        (b"How many?", "question is a bytes"),
        ({"en": "How many?"}, "{question: COLUMN.FIELD}"),
        ("a\ud800", "half of a character ('\\ud800')"),
        ("H\0o\0w", "NUL"),
    ],
)
def test_a_question_that_is_no_text_is_refused(value, words):
    with pytest.raises(ValueError, match=re.escape(words)) as refused:
        text_of(value, "question")
    assert str(refused.value).isprintable()


def test_text_is_returned_as_it_is():
    assert text_of(" Ünïcode\n😀 ", "question") == " Ünïcode\n😀 "
    assert type(text_of(np.str_("x"), "question")) is str


def test_a_sentence_shows_at_most_500_characters_of_a_value():
    with pytest.raises(ValueError, match="question is a list") as refused:
        text_of(["x" * 100_000], "question")
    assert len(str(refused.value)) < 700


# --- text that holds a list -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ('["sofa", "couch"]', ["sofa", "couch"]),
        ("['sofa', 'couch']", ["sofa", "couch"]),
        ("['a', ' ', 'b']", ["a", " ", "b"]),
        (" [1, 2] ", [1, 2]),
        ("[]", []),
        ("[sofa, couch]", None),
        ("sofa", None),
        ('{"a": 1}', None),
        ("[" * 5000 + "]" * 5000, None),
        ("[__import__('os')]", None),
    ],
)
def test_a_text_may_be_a_list_as_json_or_python_write_it(text, members):
    assert listed(text) == members


def test_a_list_of_numpy_without_commas_is_refused_and_not_joined():
    with pytest.raises(ValueError, match="no commas"):
        listed("['sofa' 'couch']")
    with pytest.raises(ValueError, match="no commas"):
        listed("['sofa'\n 'couch']")


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ('{"a": 1}', {"a": 1}),
        ("{'a': None}", {"a": None}),
        ("{1, 2}", None),
        ("{}", None),
        ("[1]", None),
    ],
)
def test_a_text_may_be_a_mapping(text, fields):
    assert mapped(text) == fields


# --- columns by dotted name -----------------------------------------------------------------------

ROW = {
    "reward_model": {"style": "rule", "ground_truth": "4"},
    "written": '{"ground_truth": "5"}',
    "choices": ["cat", "dog"],
    "array": np.array(["cat", "dog"]),
    "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}],
    "a": {"b": "inside", "x.y": {"z": 1}},
    "a.b": "column",
    "null": None,
    "text": "words",
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("text", "words"),
        ("reward_model", ROW["reward_model"]),
        ("reward_model.ground_truth", "4"),
        ("written.ground_truth", "5"),
        ("written", '{"ground_truth": "5"}'),
        ("choices.1", "dog"),
        ("choices.-1", "dog"),
        ("array.0", "cat"),
        ("conversations.0.value", "Q"),
        ("conversations.value", ["Q", "A"]),
        ("a.b", "column"),
        ("a.x.y.z", 1),
        ("null", None),
        ("null.field", None),
    ],
)
def test_dots_lead_into_the_fields_of_a_column(name, expected):
    assert dotted(ROW, name) == expected
    assert has(ROW, name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("truth", "there is no 'truth'; there is reward_model, written"),
        ("reward_model.truth", "there is no 'truth'; there is style, ground_truth"),
        ("choices.2", "no place 2 in a list of 2"),
        ("choices.first", "expected a place in it"),
        ("choices.99999999999999999999", "no place"),
        ("text.field", "expected a mapping or a list with 'field'"),
        ("conversations.text", "there is from, value"),
    ],
)
def test_a_field_that_is_not_there_is_refused_with_those_that_are(name, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        dotted(ROW, name)
    assert not has(ROW, name)


def test_a_row_of_thousands_of_columns_is_named_in_a_short_sentence():
    with pytest.raises(ValueError, match="and 4980 more") as refused:
        dotted({f"column {place}": 1 for place in range(5000)}, "x")
    assert len(str(refused.value)) < 700
