"""Chats: every format of turns becomes a question, its context, its answer and its pictures."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_vl.data.columns.chats import Chat, is_chat, read_answer, read_chat
from gpg_vl.types import Turn

PNG = {"bytes": b"\x89PNG", "path": None}


def user(*parts):
    return {"role": "user", "content": list(parts)}


def words(text):
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("value", "chat"),
    [
        # LLaVA, ShareGPT
        (
            [
                {"from": "human", "value": "<image>\nHow many colours?"},
                {"from": "gpt", "value": "4"},
            ],
            Chat("<image>\nHow many colours?", (), "4", []),
        ),
        # datasets: a sequence of records is a record of sequences
        (
            {"from": ["system", "human", "gpt"], "value": ["Look.", "How many?", "4"]},
            Chat("How many?", (Turn("system", "Look."),), "4", []),
        ),
        # TRL, verl
        (
            [
                {"role": "system", "content": "Think."},
                {"role": "user", "content": "<image>How many?"},
            ],
            Chat("<image>How many?", (Turn("system", "Think."),), None, []),
        ),
        # transformers: a place, and the picture in a column
        ([user({"type": "image"}, words("How many?"))], Chat("<image>How many?", (), None, [])),
        # parquet fills absent fields with null
        (
            [
                user(
                    {"type": "text", "text": "Is ", "image": None},
                    {"type": "image", "text": None, "image": None},
                    {"type": "text", "text": " a cat?", "image": None},
                )
            ],
            Chat("Is <image> a cat?", (), None, []),
        ),
        # Anthropic
        (
            [
                user(
                    {"type": "image", "source": {"type": "base64", "data": "iVBORw0KGgo"}},
                    words("How many?"),
                )
            ],
            Chat("<image>How many?", (), None, [{"type": "base64", "data": "iVBORw0KGgo"}]),
        ),
        # Gemini
        (
            [
                {
                    "role": "user",
                    "parts": [
                        {"fileData": {"mimeType": "image/png", "fileUri": "a.png"}},
                        {"text": "How many?"},
                    ],
                },
                {"role": "model", "parts": [{"text": "4"}]},
            ],
            Chat("<image>How many?", (), "4", ["a.png"]),
        ),
        # Oumi
        (
            [user({"type": "image_path", "content": "a.png"}, words("How many?"))],
            Chat("<image>How many?", (), None, ["a.png"]),
        ),
        # the pictures in the chat
        (
            [
                user({"type": "image", "image": PNG}, words("and"), {"type": "image", "path": "b"}),
                {"role": "assistant", "content": [words("4")]},
            ],
            Chat("<image>and<image>", (), "4", [PNG, "b"]),
        ),
        # OpenAI
        (
            [
                user(
                    words("How many?"),
                    {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}},
                    {"type": "image_url", "image_url": "b.png"},
                )
            ],
            Chat("How many?<image><image>", (), None, ["data:x", "b.png"]),
        ),
        # llava-instruct-mix: the place names its picture, counted from 0
        (
            [
                user(
                    {"index": None, "text": "How many?", "type": "text"},
                    {"index": 0, "text": None, "type": "image"},
                )
            ],
            Chat("How many?<image 1>", (), None, []),
        ),
        # The Cauldron
        (
            [
                {"user": "One?", "assistant": "1", "source": "x"},
                {"user": "Two?", "assistant": "2", "source": "x"},
            ],
            Chat("Two?", (Turn("user", "One?"), Turn("assistant", "1")), "2", []),
        ),
        # several turns
        (
            [
                {"role": "user", "content": "<image>One?"},
                {"role": "assistant", "content": "1"},
                {"role": "user", "content": "Two?"},
                {"role": "user", "content": "In digits."},
                {"role": "assistant", "content": ""},
            ],
            Chat(
                "Two?\nIn digits.",
                (Turn("user", "<image>One?"), Turn("assistant", "1")),
                None,
                [],
            ),
        ),
        # the words of two parts do not become one
        ([user(words("How many?"), words("Digits."))], Chat("How many?\nDigits.", (), None, [])),
        ([user("How ", "many?")], Chat("How many?", (), None, [])),
    ],
)
def test_every_format_is_read(value, chat):
    assert is_chat(value)
    assert read_chat(value) == chat


def test_a_chat_in_a_cell_of_text_is_read():
    turns = [{"role": "user", "content": "It's one?"}, {"role": "assistant", "content": None}]
    chat = Chat("It's one?", (), None, [])
    for written in (json.dumps(turns), repr(turns), json.dumps(turns, indent=1)):
        assert is_chat(written)
        assert read_chat(written) == chat
    assert read_chat(np.array(turns)) == chat


def test_pictures_of_earlier_turns_come_first():
    value = [
        user({"type": "image", "image": "a"}, words("One?")),
        {"role": "assistant", "content": "1"},
        user({"type": "image", "image": "b"}, words("Two?")),
    ]
    assert read_chat(value).images == ["a", "b"]


@pytest.mark.parametrize(
    "value",
    ["How many?", "[1, 2]", "", None, 7, [], ["How", "many?"], {"en": "How many?"}, [{"a": 1}]],
    ids=repr,
)
def test_another_cell_is_no_chat(value):
    assert not is_chat(value)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([], "expected a list of turns"),
        ([{"role": "system", "content": "Look."}], "turns ['system'], expected a turn of the user"),
        ([{"role": "assistant", "content": "4"}], "turns ['assistant'], expected a turn of"),
        (
            [{"role": "user", "content": "Q"}, {"role": "system", "content": "S"}],
            "turns ['user', 'system']",
        ),
        (
            [{"role": "user", "content": "Q"}, *[{"role": "assistant", "content": "4"}] * 2],
            "two turns of the assistant",
        ),
        ([{"role": "tool", "content": "4"}], "role 'tool'"),
        ([{"from": "function", "value": "4"}], "role 'function'"),
        ([{"content": "4"}], "role None"),
        ([{"role": ["user"], "content": "4"}], "role ['user']"),
        ([{"role": "user", "content": " "}], "the question, the last turn of the user, is empty"),
        ([{"role": "user", "content": 7}], "a part of a turn is 7"),
        ([user(words(["How", "many?"]))], "text is a list"),
        ([user({"type": "video", "video": "a.mp4"})], "type 'video'"),
        ([user({"video": "a.mp4", "text": None})], "type 'video'"),
        ([user({"type": "input_audio", "input_audio": {}})], "type 'input_audio'"),
        ([user({"type": "image", "image": "a"}, {"type": "image"}, words("Q"))], "1 of 2 pictures"),
        (
            [user(words("Q")), {"role": "assistant", "content": [{"type": "image"}]}],
            "the answer, the last turn of the assistant, holds a picture",
        ),
        (
            [
                user(words("Q")),
                {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]},
            ],
            "calls tools",
        ),
        ([user(words("a\ud800"))], "half of a character"),
        ("[{'role': 'user'} {'role': 'user'}]", "is no list in JSON"),
        ([{"role": "user", "content": "Q"}, "4"], "a turn is '4'"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_sentence(value, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        read_chat(value)


ATOMS = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
KEYS = st.sampled_from(
    ["role", "from", "content", "value", "type", "text", "image", "image_url", "url", "user"]
)
WORDS = st.sampled_from(["user", "assistant", "system", "text", "image", "image_url", "gpt"])
CELLS = st.recursive(
    ATOMS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(CELLS | st.lists(st.dictionaries(KEYS, CELLS, max_size=4), max_size=3))
def test_any_cell_is_a_chat_or_refused_with_a_sentence(value):
    assert is_chat(value) in (True, False)
    asked, refusal = "?", "a sentence of words"
    try:
        asked = read_chat(value).question
    except ValueError as error:
        refusal = str(error)
    assert asked.strip()
    assert 10 < len(refusal) < 1500


def test_roles_may_be_written_in_capitals():
    chat = [{"from": "Human", "value": "How many?"}, {"from": "GPT", "value": "3"}]
    assert read_chat(chat) == Chat("How many?", (), "3", [])


def test_an_answer_may_be_a_turn_of_the_assistant():
    assert read_answer([{"role": "assistant", "content": "3"}]) == "3"
    assert read_answer([words("3")]) == [words("3")]
    with pytest.raises(ValueError, match="expected one turn of the assistant"):
        read_answer([user("How many?")])
