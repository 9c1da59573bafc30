"""Prompt styles: the chat they ask with and the grammar they read with, for each way of
thinking."""

from pathlib import Path

import pytest

from gpg_vl.prompts import AnswerOnly, Reading, Style
from gpg_vl.types import Sample

STYLES = {think: Style(think=think) for think in ("required", "optional", "absent", "opened")}
WELL_FORMED = {
    "required": "<think>two and two</think><answer>4</answer>",
    "optional": "<think></think><answer>4</answer>",
    "absent": "<answer>4</answer>",
    "opened": "two and two</think><answer>4</answer>",
}
THINKING = ["required", "optional", "opened"]


def problem(think, text):
    """Why the text is malformed; fails where it is read."""
    answer, reason = STYLES[think].read(text)
    assert not answer
    assert reason
    return reason


@pytest.mark.parametrize("think", STYLES)
def test_a_well_formed_answer_is_read(think):
    assert STYLES[think].read(WELL_FORMED[think]) == Reading("4", "")


@pytest.mark.parametrize("think", STYLES)
def test_blanks_around_the_tags_and_inside_are_fine(think):
    spaced = WELL_FORMED[think].replace("<answer>4</answer>", "\n <answer> 4\n</answer> \n")
    assert STYLES[think].read(spaced) == Reading("4", "")


@pytest.mark.parametrize("think", STYLES)
def test_an_answer_may_have_several_lines(think):
    assert STYLES[think].read(WELL_FORMED[think].replace("4", "4\n5")) == Reading("4\n5", "")


@pytest.mark.parametrize("think", STYLES)
@pytest.mark.parametrize("tag", ["<think>", "</think>", "<answer>", "</answer>"])
def test_a_missing_tag_is_malformed(think, tag):
    if tag in WELL_FORMED[think]:
        assert problem(think, WELL_FORMED[think].replace(tag, "")).startswith("expected the tags ")


@pytest.mark.parametrize("think", STYLES)
@pytest.mark.parametrize("tag", ["<think>", "</think>", "<answer>", "</answer>"])
def test_a_doubled_tag_is_malformed(think, tag):
    if tag in WELL_FORMED[think]:
        assert problem(think, WELL_FORMED[think].replace(tag, tag + tag)).startswith(
            "expected the tags "
        )


@pytest.mark.parametrize("think", STYLES)
def test_a_second_answer_is_malformed(think):
    assert problem(think, WELL_FORMED[think] + "<answer>5</answer>").startswith(
        "expected the tags "
    )
    assert problem(think, WELL_FORMED[think] * 2).startswith("expected the tags ")


@pytest.mark.parametrize("think", THINKING)
def test_an_answer_inside_the_thought_is_malformed(think):
    opening = "" if think == "opened" else "<think>"
    assert problem(think, f"{opening}so <answer>4</answer></think>").startswith(
        "expected the tags "
    )
    assert problem(think, f"{opening}so <answer>4</think></answer>").startswith(
        "expected the tags "
    )


@pytest.mark.parametrize("think", STYLES)
def test_a_nested_answer_is_malformed(think):
    assert problem(think, WELL_FORMED[think].replace("4", "<answer>4</answer>")).startswith(
        "expected the tags "
    )


def test_the_answer_stands_after_the_thought():
    assert problem("required", "<answer>4</answer><think>two</think>").startswith(
        "expected the tags "
    )


@pytest.mark.parametrize("think", STYLES)
def test_text_behind_the_answer_is_malformed(think):
    assert problem(think, WELL_FORMED[think] + " or 5") == "text outside the tags"


@pytest.mark.parametrize("think", THINKING)
def test_text_between_thought_and_answer_is_malformed(think):
    assert (
        problem(think, WELL_FORMED[think].replace("</think>", "</think> so "))
        == "text outside the tags"
    )


@pytest.mark.parametrize("think", ["required", "optional", "absent"])
def test_text_before_the_first_tag_is_malformed(think):
    assert problem(think, "well " + WELL_FORMED[think]) == "text outside the tags"


def test_text_before_the_first_tag_is_the_thought_that_the_prompt_opened():
    assert STYLES["opened"].read("well </think><answer>4</answer>") == Reading("4", "")


@pytest.mark.parametrize("thought", ["", " ", "\n", "\u200b", "\u2060 \ufeff", "\u3164"])
def test_only_required_minds_an_empty_thought(thought):
    assert problem("required", f"<think>{thought}</think><answer>4</answer>") == "empty thought"
    assert STYLES["optional"].read(f"<think>{thought}</think><answer>4</answer>") == Reading(
        "4", ""
    )
    assert STYLES["opened"].read(f"{thought}</think><answer>4</answer>") == Reading("4", "")


def test_absent_minds_any_thought():
    assert (
        problem("absent", WELL_FORMED["required"])
        == "expected the tags <answer> </answer>, got <think> </think> <answer> </answer>"
    )


def test_opened_minds_a_second_opening():
    assert problem("opened", WELL_FORMED["required"]).startswith(
        "expected the tags </think> <answer> </answer>, got <think> "
    )


@pytest.mark.parametrize("think", STYLES)
@pytest.mark.parametrize("answer", ["", " ", "\n\t"])
def test_an_empty_answer_is_malformed(think, answer):
    assert problem(think, WELL_FORMED[think].replace("4", answer)) == "empty answer"


@pytest.mark.parametrize("think", STYLES)
@pytest.mark.parametrize("token", ["<|im_end|>", "<|image_pad|>", "<|endoftext|>"])
def test_a_special_token_anywhere_is_malformed(think, token):
    text = WELL_FORMED[think]
    for spoiled in (
        token + text,
        text + token,
        text.replace("4", f"4{token}"),
        text.replace("two", token),
    ):
        if spoiled != text:
            assert problem(think, spoiled) == f"special token {token}"


@pytest.mark.parametrize("think", STYLES)
@pytest.mark.parametrize(
    "text", ["", " ", "4", "<answer", "<ANSWER>4</ANSWER>", "<answer >4</answer >"]
)
def test_texts_without_tags_are_malformed(think, text):
    assert problem(think, text).endswith(", got none")


@pytest.mark.parametrize("think", STYLES)
@pytest.mark.parametrize("answer", ["4", "[1,2,3,4]", "big dog", "a < b"])
def test_what_a_style_writes_it_reads(think, answer):
    style = STYLES[think]
    assert style.read(style.write(answer, thought="so")) == Reading(answer, "")


def test_what_is_written_continues_the_prompt():
    assert STYLES["opened"].opening + STYLES["opened"].write("4", thought="so") == STYLES[
        "required"
    ].write("4", thought="so")
    assert [STYLES[think].opening for think in STYLES] == ["", "", "", "<think>"]


def asked(images=()):
    return Sample(
        id="1",
        question="What is 2+2?",
        images=images,
        sizes=((1, 1),) * len(images),
        answer_kind="number",
        answer=4,
    )


def test_the_question_comes_with_its_instruction():
    words = (
        "What is 2+2? Output the thinking process in <think> </think> and the final answer in "
        "<answer> </answer> tags."
    )
    assert Style().messages(asked()) == [
        {"role": "user", "content": [{"type": "text", "text": words}]}
    ]


def words(style, question):
    (message,) = style.messages(Sample(id="1", question=question, answer_kind="number", answer=4))
    return message["content"][0]["text"]


@pytest.mark.parametrize(
    "question", ["What is {instruction}?", "What is {question}?", "{", "}{", "{0} {x!r}"]
)
def test_a_question_is_asked_as_it_stands_whatever_braces_it_holds(question):
    assert words(Style(instruction="Be brief."), question) == f"{question} Be brief."
    assert words(AnswerOnly(), question) == question


def test_a_template_says_where_question_and_instruction_stand():
    assert (
        words(Style(template="{instruction}\n{question}", instruction="Be brief."), "What?")
        == "Be brief.\nWhat?"
    )
    assert words(Style(template="Q: {question}", instruction="Be brief."), "What?") == "Q: What?"
    # only blanks at the ends go
    assert words(Style(template=" {question}\n", instruction=""), " What? ") == "What? \n"


@pytest.mark.parametrize(
    ("think", "template", "wanted"),
    [
        ("required", "", ""),
        ("opened", "", ""),
        ("opened", "<think>", ""),
        ("required", "<think>", "opened"),
        ("absent", "<think>", "opened"),
        ("optional", "<think>", "opened"),
        ("absent", "</think>", ""),
        ("opened", "</think>", "absent"),
        ("required", "</think>", "absent"),
    ],
)
def test_a_template_that_thinks_by_itself_fits_one_style(think, template, wanted):
    what = {"<think>": "opens <think>", "</think>": "writes a whole thought"}.get(template)
    expected = (
        f"the chat template {what} by itself, so no answer is well-formed with think: {think}; set "
        f"prompt.think to {wanted}"
    )
    assert STYLES[think].misfit(template) == (expected if wanted else "")


def test_images_come_before_the_words():
    (message,) = AnswerOnly().messages(asked(images=(Path("a.png"), b"png")))
    assert message["content"] == [
        {"type": "image"},
        {"type": "image"},
        {"type": "text", "text": "What is 2+2?"},
    ]


def test_a_system_message_comes_first():
    first, second = AnswerOnly(system="Be brief.").messages(asked())
    assert first == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert second["role"] == "user"


def test_answer_only_is_the_absent_style_without_words():
    assert AnswerOnly() == AnswerOnly(think="absent", instruction="")
    assert AnswerOnly().read("<answer>4</answer>") == Reading("4", "")
