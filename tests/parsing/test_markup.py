"""The text of an answer inside its markup: answer blocks, boxes, bold, code fences and fields."""

from time import process_time

import pytest

from gpg_vl.parsing import markup


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
        # a thought is no answer
        ("<think>So 4.</think>\n\n3", "3"),
        ("So 4.</think>3<|im_end|>", "3"),
        ("<think><answer>4</answer>?</think>3", "3"),
        ("<think><answer>4</answer>?</think><answer>3", "<answer>3"),  # it was cut off
        ("<answer><think>4</think>3</answer>", "3"),
        ("<think>4</think><answer>3</answer>", "3"),
        ("<think>It is 3.</think>\n", "<think>It is 3.</think>"),
        ("<think>It is 3.", "<think>It is 3."),
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


def test_normalised_texts_differ_only_in_their_words():
    assert markup.normalise("  The Ｃａｔ,\n sat! ") == "the cat, sat"
    assert [markup.normalise(text) for text in (".5", ".5.", "...5")] == [".5", ".5", "5"]


@pytest.mark.parametrize(
    ("readings", "reading"),
    [([], None), ([3.0], 3.0), ([3.0, 3.0], 3.0), ([3.0, 4.0], None), ([3.0, None], None)],
)
def test_readings_agree_where_they_are_one_and_the_same(readings, reading):
    assert markup.agreed(iter(readings)) == reading


@pytest.mark.parametrize(
    "piece", ["9", "1,234", "A) ", "<answer>", "</answer><answer>", " ", "cat ", "<|image_pad|>"]
)
def test_a_megabyte_is_read_quickly(piece):
    start = process_time()
    markup.only_answer(piece * (10**6 // len(piece)))
    assert process_time() - start < 2
