"""Prompt styles: the chat they ask with and the grammar they read with, for each way of
thinking."""

from dataclasses import replace
from pathlib import Path

import pytest

from gpg_vl.prompts import AnswerOnly, Reading, Style
from gpg_vl.types import Sample, Turn

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


INVISIBLE = [
    *("\u00ad", "\u034f", "\u061c", "\u115f", "\u1160", "\u17b4", "\u17b5", "\u180b", "\u180e"),
    *("\u180f", "\u200b", "\u200d", "\u202e", "\u2060", "\u2064", "\u2065", "\u206f", "\u2800"),
    *("\u3164", "\ufe00", "\ufe0f", "\ufeff", "\uffa0", "\ufff8", "\U0001bca0", "\U0001d173"),
    *("\U000e0000", "\U000e0020", "\U000e0100", "\U000e01ef", "\U000e0fff"),
    *("\u0301", "\u0301\u0302", "\u00a0\u3000", "\x00", "\ufe0f \U000e0100\u17b4\n"),
]


@pytest.mark.parametrize("thought", ["", " ", "\n", "\u2060 \ufeff", *INVISIBLE])
def test_only_required_minds_an_empty_thought(thought):
    assert problem("required", f"<think>{thought}</think><answer>4</answer>") == "empty thought"
    assert STYLES["optional"].read(f"<think>{thought}</think><answer>4</answer>") == Reading(
        "4", ""
    )
    assert STYLES["opened"].read(f"{thought}</think><answer>4</answer>") == Reading("4", "")


@pytest.mark.parametrize(
    "thought", [".", "e\u0301", "\u2764\ufe0f", "\ufe0f1", "\u0915\u093e", "\u200bא"]
)
def test_a_thought_of_one_visible_character_is_a_thought(thought):
    assert STYLES["required"].read(f"<think>{thought}</think><answer>4</answer>").answer == "4"


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
@pytest.mark.parametrize("answer", ["", " ", "\n\t", *INVISIBLE])
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


# --- places of images -----------------------------------------------------------------------------

IMAGE = {"type": "image"}


def pictured(question, count=1, **fields):
    images, sizes = (b"png",) * count, ((1, 1),) * count
    return Sample(**{"id": "1", "answer_kind": "number", "answer": 4} | fields,
                  question=question, images=images, sizes=sizes)  # fmt: skip


def content(question, count=1, style=None, **fields):
    """The one user's turn; words without their wrapping."""
    (message,) = (style or AnswerOnly()).messages(pictured(question, count, **fields))
    assert message["role"] == "user"
    return [part["text"] if part["type"] == "text" else part for part in message["content"]]


@pytest.mark.parametrize("mark", ["<image>", "<image>\n", "<image 1> ", "<|image_1|>\n\n"])
@pytest.mark.parametrize("style", [Style(), AnswerOnly(), Style(instruction="")])
def test_a_mark_that_begins_the_question_changes_nothing(mark, style):
    assert content(f"{mark}How many?", style=style) == content("How many?", style=style)


def test_a_mark_is_the_place_of_its_image():
    assert content("Is <image> brighter than <image>?", 2) == [
        *("Is ", IMAGE, " brighter than ", IMAGE, "?")
    ]
    assert content("How many?\n<image>", style=Style(instruction="Be brief.")) == [
        *("How many?\n", IMAGE, "Be brief.")
    ]
    assert content("<image>", style=AnswerOnly()) == [IMAGE]


def test_a_numbered_mark_names_its_image():
    assert content("<image 1> or <image 2>?", 2) == [IMAGE, "or ", IMAGE, "?"]
    second, first = {"type": "image", "number": 2}, {"type": "image", "number": 1}
    assert content("Is <image 2> or <image 1>, <image 2>?", 2) == [
        *("Is ", second, " or ", first, ", image 2?")
    ]


def test_a_template_stands_around_the_places():
    style = Style(template=" User: {question} \nAssistant: {instruction} ", instruction="So")
    assert content("Is <image> red?", style=style) == [
        *("User: Is ", IMAGE, " red? \nAssistant: So")
    ]
    assert content("Is it red?", style=style) == [IMAGE, "User: Is it red? \nAssistant: So"]
    twice = Style(template="{question} Again: {question} {instruction}", instruction="Go")
    assert content("Is <image> red?", style=twice) == [
        *("Is ", IMAGE, " red? Again: Is image 1 red? Go")
    ]
    assert content("Red?", style=twice) == [IMAGE, "Red? Again: Red? Go"]


@pytest.mark.parametrize("question", ["<image> <image>", "What is the tag <image 2>?", "<video>"])
def test_marks_that_do_not_agree_with_the_images_are_refused(question):
    with pytest.raises(ValueError, match="the text has"):
        AnswerOnly().messages(pictured(question))


def test_only_the_question_and_its_options_may_hold_marks_of_the_sample():
    style = Style(instruction="Look at <image>.", template="<image> {question} {instruction}")
    assert content("How many?", style=style) == [IMAGE, "<image> How many? Look at <image>."]


# --- earlier turns --------------------------------------------------------------------------------

CHAT = (
    Turn("system", "You count."),
    Turn("user", "<image>\nWhat is it?"),
    Turn("assistant", "The tag <image> is a cat."),
)


def text(words):
    return {"type": "text", "text": words}


def test_earlier_turns_come_before_the_question_with_their_images():
    sample = pictured("And in <image>?", 2, context=CHAT)
    assert AnswerOnly(system="Be brief.").messages(sample) == [
        {"role": "system", "content": [text("Be brief.\n\nYou count.")]},
        {"role": "user", "content": [IMAGE, text("What is it?")]},
        {"role": "assistant", "content": [text("The tag <image> is a cat.")]},
        {"role": "user", "content": [text("And in "), IMAGE, text("?")]},
    ]
    assert AnswerOnly().messages(sample)[0]["content"] == [text("You count.")]


def test_images_without_marks_come_before_the_first_words_of_the_user():
    spoken = (Turn("user", "What is it?"), Turn("assistant", "A cat."))
    first, _, last = AnswerOnly().messages(pictured("What colour?", 2, context=spoken))
    assert first == {"role": "user", "content": [IMAGE, IMAGE, text("What is it?")]}
    assert last == {"role": "user", "content": [text("What colour?")]}


def test_marks_are_counted_in_the_whole_chat():
    with pytest.raises(ValueError, match=r"2 marks of pictures .* 1 pictures"):
        AnswerOnly().messages(pictured("And in <image>?", 1, context=CHAT))


# --- options --------------------------------------------------------------------------------------


def choosing(question, *options, **fields):
    return Sample(**{"id": "1", "answer_kind": "choice", "answer": "A"} | fields,
                  question=question, choices=options)  # fmt: skip


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Which animal is it?", ["cat", "dog"]),
        ("Which animal is it? A cat?", ["cat", "dog"]),
        ("Is it a category of dogs?", ["cat", "dog"]),  # parts of words
        ("How long is it, 3.5 or 13?", ["3", "5", "13"]),
        ("AB = 3, BC = 4, AC = 5. How long is x?", ["3", "4", "5"]),  # numbers of the figure
        ("Which way is it from (A) to point (B)?", ["left", "right"]),
        ("Does ABC. have CD: or AB)?", ["x", "y", "z", "w"]),
        ("Which is it?", ["C. 1", "2", "3"]),
    ],
)
def test_options_that_the_question_does_not_list_are_added(question, options):
    lines = "".join(
        f"\n{letter}. {option}" for letter, option in zip("ABCD", options, strict=False)
    )
    assert AnswerOnly().option_text(choosing(question, *options)) == lines
    (message,) = AnswerOnly().messages(choosing(f"{question}\n ", *options))
    assert message["content"] == [text(question + lines)]


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Which digit is in the image? Choices: 3, 7, 9.", ["3", "7", "9"]),
        ("Which holds more? Choices: first, second.", ["first", "second"]),
        ("Choose between the following options: still or to the left", ["to the left", "still"]),
        ("How many? Select from the following choices.\n(A) 3\n(B) 2", ["3", "2"]),
        ("Which?\nA. A  Cat\nB. a dog", ["a cat", "A Dog"]),
        ("Which? (A) $x^2$ (B) $y$ (C) $z$", ["x²", "y", "z"]),  # lettered, spelt differently
        ("Which?\n**A.** one\n**B.** two\n**C.** three", ["1", "2", "3"]),
        ("Is it yes or no?", ["yes", "no"]),
        ("Which figure?", ["A", "B", "C", "D"]),  # in the picture, or in the question
        ("3 or 4.", ["3", "4"]),
    ],
)  # fmt: skip
def test_options_that_the_question_lists_are_not_added(question, options):
    assert AnswerOnly().option_text(choosing(question, *options)) == ""
    (message,) = AnswerOnly().messages(choosing(question, *options))
    assert message["content"] == [text(question)]


def test_options_stand_before_the_instruction_and_the_last_is_not_part_of_it():
    style = Style(instruction="Think.")
    (message,) = style.messages(choosing("Which animal?", "cat", "dog"))
    assert message["content"] == [text("Which animal?\nA. cat\nB. dog\nThink.")]


def test_options_keep_their_own_letters():
    sample = choosing("Which animal?", "dog", "cat", letters=("B", "A"))
    assert Style().option_text(sample) == "\nB. dog\nA. cat"


def test_more_options_than_letters_are_lines():
    many = [f"class {number}" for number in range(27)]
    assert Style().option_text(choosing("Which?", *many)) == "\n" + "\n".join(many)
    assert Style().option_text(choosing("Which?", *many[:26])).endswith("\nZ. class 25")


@pytest.mark.parametrize("kind", ["label", "number", "boxes", "my_kind"])
def test_only_a_choice_shows_its_closed_set(kind):
    assert Style().option_text(choosing("Which?", "cat", "dog", answer_kind=kind)) == ""


def test_options_are_never_added_where_the_style_says_so():
    sample = choosing("Which animal?", "cat", "dog")
    assert AnswerOnly(options="never").option_text(sample) == ""
    (message,) = AnswerOnly(options="never").messages(sample)
    assert message["content"] == [text("Which animal?")]


def test_options_may_be_images():
    options = ("<image 2>", "<image 3>")
    sample = replace(
        pictured("Like <image 1>?", 3), answer_kind="choice", answer="A", choices=options
    )
    (message,) = AnswerOnly().messages(sample)
    assert message["content"] == [
        *(text("Like "), IMAGE, text("?\nA. "), IMAGE, text("\nB. "), IMAGE)
    ]
    named = replace(sample, question="<image 1><image 2><image 3> Which?")
    (message,) = AnswerOnly().messages(named)
    assert message["content"][3:] == [text("Which?\nA. image 2\nB. image 3")]


def test_a_system_message_comes_first():
    first, second = AnswerOnly(system="Be brief.").messages(asked())
    assert first == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert second["role"] == "user"


def test_answer_only_is_the_absent_style_without_words():
    assert AnswerOnly() == AnswerOnly(think="absent", instruction="")
    assert AnswerOnly().read("<answer>4</answer>") == Reading("4", "")
