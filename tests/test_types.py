"""Samples by hand: what they take, what they refuse, and that showing one prints no picture."""

import json
import pickle
from collections import OrderedDict, UserDict
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given

from gpg_vl import Sample, UserError, short_repr
from gpg_vl.types import Turn
from tests.hand_made import completion, group, png, prompt
from tests.verifiers.test_accepted_answers import TRUTHS


def asked(**fields) -> Sample:
    return Sample(**{"question": "How many?", "answer_kind": "number", "answer": 3, **fields})


# --- made by hand ---------------------------------------------------------------------------------


def test_lists_of_a_json_line_are_taken_as_tuples():
    line = json.dumps(
        {
            "question": "Where?", "answer_kind": "boxes", "answer": [[1, 2, 3, 4]],
            "sizes": [[640, 480]], "choices": ["a", "b"], "letters": ["X", "Y"],
            "context": [["system", "Look."]],
        }
    )  # fmt: skip
    sample = Sample(**json.loads(line))
    assert sample.sizes == ((640, 480),)
    assert (sample.choices, sample.letters) == (("a", "b"), ("X", "Y"))
    assert sample.context == (Turn("system", "Look."),)
    assert sample.context[0].role == "system"
    assert sample.answer == [[1, 2, 3, 4]]  # JSON, as it is


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("images", ("a.png",), r"got ('a.png',) (tuple), expected paths or encoded bytes such as"),
        ("images", Path("a.png"), "got PosixPath('a.png') (PosixPath), expected paths"),
        ("images", b"\x89PNG" * 1000, "got <png, 4 kB> (bytes), expected paths or encoded bytes"),
        ("sizes", (640, 480), "expected width and height of each image in pixels, such as ((640"),
        ("sizes", ((0, 480),), "got ((0, 480),) (tuple), expected width and height"),
        ("sizes", ((640.5, 480),), "expected width and height"),
        ("choices", "cat", "got 'cat' (str), expected texts such as ('cat', 'dog')"),
        ("choices", [1, 4], "got [1, 4] (list), expected texts"),
        ("letters", None, "got None (NoneType), expected texts such as ('A', 'B')"),
        ("context", ["system"], "expected turns such as (Turn('system', 'You count.'),)"),
        ("question", b"How?", "got <bytes, 4 B> (bytes), expected a text"),
        ("id", 7, "got 7 (int), expected a text"),
        ("answer_kind", None, "got None (NoneType), expected a text"),
        ("answer_image", "1", "got '1' (str), expected the number of an image, 1 for the first"),
        ("tags", ["count"], "got ['count'] (list), expected a mapping by name"),
        ("columns", None, "got None (NoneType), expected a mapping by name"),
    ],
)
def test_a_field_of_another_type_is_a_sentence(field, value, sentence):
    with pytest.raises(UserError) as error:
        asked(**{field: value})
    assert str(error.value).startswith(f"Sample: {field}: got ")
    assert sentence in str(error.value)


def test_without_an_id_a_digest_names_the_sample():
    sample = asked()
    assert sample.id == asked().id
    assert len(sample.id) == 16
    others = [
        asked(answer=4),
        asked(question="How many dogs?"),
        asked(images=(b"a",)),
        asked(images=(b"b",)),
        asked(images=(Path("a"),)),
        asked(context=[("system", "Look.")]),
        asked(choices=("3", "4")),
    ]
    assert len({sample.id, *(other.id for other in others)}) == 1 + len(others)
    assert replace(sample, answer=5).id == sample.id  # the name that it has by then
    assert asked(id="q7").id == "q7"


class Nameless:
    def __repr__(self):
        raise RuntimeError("no repr")


@pytest.mark.parametrize("answer", [10**5000, Nameless(), float("nan"), "\ud800"], ids=type)
def test_any_answer_can_be_named_and_shown(answer):
    sample = asked(answer=answer)
    assert len(sample.id) == 16
    assert len(repr(sample)) < 2000


# --- shown ----------------------------------------------------------------------------------------

PICTURE = png((400, 300))


def test_a_sample_shows_what_it_is_without_the_bytes_of_its_pictures():
    sample = Sample(
        id="a/1",
        question="Where?",
        images=(b"\x89PNG" + b"\x00" * 47_996, Path("b.jpg"), b"\xff\xd8\xff", b"x" * 2_500_000),
        sizes=((56, 56),),
        answer_kind="boxes",
        answer=[[1, 2, 3, 4]],
        columns={"picture": PICTURE, "parts": [PICTURE], "more": bytearray(PICTURE)},
    )
    size = len(PICTURE) / 1000
    assert repr(sample) == (
        "Sample(id='a/1', question='Where?', images=(<png, 48 kB>, PosixPath('b.jpg'), "
        "<jpeg, 3 B>, <bytes, 2.5 MB>), sizes=((56, 56),), answer_kind='boxes', "
        f"answer=[[1, 2, 3, 4]], columns={{'more': <png, {size:.0f} kB>, "
        f"'parts': [<png, {size:.0f} kB>], 'picture': <png, {size:.0f} kB>}})"
    )
    assert str(sample) == repr(sample)


@pytest.mark.parametrize(
    "columns",
    [
        {str(number): number for number in range(100_000)},
        {"text": "word " * 100_000},
        {"list": list(range(100_000))},
        {"deep": [[[[[[[[1] * 100] * 100] * 100] * 100] * 100]]]},
        {"other": MappingProxyType({"picture": PICTURE})},
        OrderedDict(picture=PICTURE),
        UserDict(picture=PICTURE),
        {"key": {PICTURE: 1}},
        {"set": {PICTURE}, "turn": (Turn("user", "x" * 10_000),)},
    ],
    ids=lambda columns: next(iter(columns)),
)
def test_what_is_shown_is_bounded_and_holds_no_picture(columns):
    text = repr(asked(columns=columns))
    assert len(text) < 1200
    assert "\\x89PNG" not in text
    assert "IHDR" not in text


def test_prompts_groups_and_completions_show_no_pictures_and_no_long_lists():
    one = prompt(7, tokens=5000, images=3)
    shown = replace(one, sample=replace(one.sample, images=(PICTURE,)), text="word " * 10_000)
    for value in (shown, group([0, 1], [completion(range(9999))] * 2, asked=shown)):
        assert len(repr(value)) < 2500
        assert "IHDR" not in repr(value)
    assert "id='q7'" in repr(shown)
    long = completion(range(9999), text="<answer>3</answer>")
    assert repr(long).startswith("Completion(token_ids=(0, 1, 2, ")
    assert "text='<answer>3</answer>'" in repr(long)


@given(value=TRUTHS)
def test_any_value_is_shown_in_bounded_length(value):
    assert len(short_repr.of(value)) <= short_repr.MAX_CHARACTERS


def test_a_sample_stays_what_it_was_through_a_pickle():
    sample = asked(images=(PICTURE,), sizes=((400, 300),))
    assert pickle.loads(pickle.dumps(sample)) == sample
    assert replace(sample) == sample
