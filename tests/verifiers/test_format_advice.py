"""Why nearly all answers are malformed: read out of answers like those that models write."""

import math
from dataclasses import replace

import pytest

from gpg_vl.prompts import AnswerOnly, Style
from gpg_vl.types import Sample
from gpg_vl.verifiers.choice import Choice
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.format_advice import (
    MAX_READ,
    Answer,
    Knobs,
    answers_of,
    format_advice,
    training_knobs,
)
from gpg_vl.verifiers.number import Number
from tests.hand_made import completion, group, prompt

SAMPLE = Sample(id="q", question="How many?", answer_kind="number", answer=3)
KNOBS = Knobs(max_tokens="max_tokens (now 64)", prompt="prompt", mode="mode=lenient")
THINK = VerifierSet(by_kind={"number": Number(style=Style())})
ANSWER_ONLY = VerifierSet(by_kind={"number": Number(style=AnswerOnly())})
RIGHT = "<think>one, two, three</think><answer>3</answer>"


def read(*texts: str, verifiers: VerifierSet = THINK, finish: str = "stop") -> list[Answer]:
    """Score texts as a benchmark does."""
    answers: list[Answer] = []
    for text in texts:
        made = completion(text=text, finish="length" if finish == "length" else "stop")
        verdict = verifiers.judge(made, SAMPLE)
        answers.append(Answer(made, SAMPLE, verdict.parts.get("format", math.nan)))
    return answers


def advice(*texts: str, verifiers: VerifierSet = THINK, finish: str = "stop") -> str:
    return format_advice(read(*texts, verifiers=verifiers, finish=finish), verifiers, KNOBS)


LACK = "of {0} answers do not have the format of the prompt style; "


@pytest.mark.parametrize(
    ("texts", "verifiers", "sentence"),
    [
        # right answers in another form, as instruction-tuned models write them
        (
            ["The answer is 3.", "3", "**Answer: 3**", "There are 4."],
            THINK,
            "lenient mode would read 75 % as right: set mode=lenient",
        ),
        (
            [r"Count them: \boxed{3}", r"So we get $\boxed{3}$.", r"\boxed{4}", r"\boxed{3}"],
            THINK,
            r"lenient mode would read 75 % as right (answers stand in \boxed{}): set mode=lenient",
        ),
        # the chat template has opened the thought
        (
            ["one, two, three</think><answer>3</answer>", "hm</think>\n\n<answer>4</answer>"],
            THINK,
            "100 % have that of another style: set prompt.kind=think prompt.think=opened; "
            "lenient mode would read 50 % as right: set mode=lenient",
        ),
        (
            ["<answer>4</answer>", "<answer>5</answer>"],
            THINK,
            "100 % have that of another style: set prompt=answer",
        ),
        (
            ["<think></think><answer>4</answer>"],
            THINK,
            "100 % have that of another style: set prompt.kind=think prompt.think=optional",
        ),
        (
            ["<think>so</think><answer>4</answer>"],
            ANSWER_ONLY,
            "100 % have that of another style: set prompt=think",
        ),
        # nothing helps: say what is there
        (
            ["a cat", "a dog", ""],
            THINK,
            "mostly (67 %): expected the tags <think> </think> <answer> </answer>, got none, for "
            "instance 'a cat'; lenient mode finds no right answer in them either",
        ),
        (
            ["", "\n"],
            THINK,
            "mostly (100 %): no text, for instance ''; lenient mode finds no right answer in them "
            "either",
        ),
    ],
)
def test_the_answers_say_what_is_wrong_and_what_to_do(texts, verifiers, sentence):
    found = advice(*texts, verifiers=verifiers)
    assert found == f"{len(texts)} " + LACK.format(len(texts)) + sentence


def test_answers_that_were_cut_off_ask_for_more_tokens():
    found = advice("<think>one, two", "<think>one", finish="length")
    assert found == "2 " + LACK.format(2) + "100 % were cut off: raise max_tokens (now 64)"


def test_a_right_answer_that_was_cut_off_behind_it_has_two_ways_out():
    found = advice("The answer is 3. The answer is 3.", finish="length")
    assert found.endswith(
        "100 % were cut off: raise max_tokens (now 64); lenient mode would read 100 % as right: "
        "set mode=lenient"
    )


@pytest.mark.parametrize(("malformed", "well_formed", "speaks"), [(9, 1, True), (8, 1, False)])
def test_only_where_nearly_all_are_malformed(malformed, well_formed, speaks):
    found = advice(*["3"] * malformed, *[RIGHT] * well_formed)
    assert bool(found) == speaks


def test_well_formed_and_no_answers_need_no_advice():
    assert advice() == ""
    assert advice(RIGHT) == ""


def test_lenient_mode_needs_no_format():
    lenient = THINK.in_mode("lenient")
    assert advice("3", "4", verifiers=lenient) == ""


def test_answers_of_which_a_verifier_says_no_format_do_not_count():
    unknown = [replace_format(answer, math.nan) for answer in read("3", "4")]
    assert format_advice(unknown, THINK, KNOBS) == ""
    assert format_advice([*unknown, *read("3")], THINK, KNOBS).startswith("1 of 1 answers")


def replace_format(answer: Answer, well_formed: float) -> Answer:
    return answer._replace(well_formed=well_formed)


class Own:
    """A verifier of one's own, which reads nothing."""

    def __call__(self, text, sample):
        raise NotImplementedError


def test_a_verifier_of_ones_own_has_no_style_and_may_fail():
    own = VerifierSet(by_kind={"number": Own()})
    answers = [replace_format(answer, 0.0) for answer in read("3")]
    assert format_advice(answers, own, KNOBS) == (
        "1 "
        + LACK.format(1)
        + "mostly (100 %): no text, for instance '3'; lenient mode finds no right answer in them "
        "either"
    )


def test_questions_of_all_tasks_are_read_although_few_are():
    choice = replace(SAMPLE, answer_kind="choice", choices=("cat", "dog"), answer="cat")
    verifiers = VerifierSet(by_kind={"number": Number(), "choice": Choice()})
    first = [Answer(completion(text="a cat"), choice, 0.0)] * MAX_READ
    second = [Answer(completion(text="4"), SAMPLE, 0.0)] * MAX_READ
    assert "lenient mode would read 50 % as right" in format_advice(
        [*first, *second], verifiers, KNOBS
    )


def test_a_policy_that_is_trained_can_learn_the_format():
    asked = replace(prompt(), sample=SAMPLE)
    made = group(
        [0.0, 0.0],
        [completion(text="3"), completion(text="The answer is 3.")],
        asked=asked,
        parts=[{"format": 0.0}] * 2,
    )
    assert format_advice(answers_of([made]), THINK, training_knobs(64)) == (
        "2 "
        + LACK.format(2)
        + "lenient mode would read 100 % as right: set reward.mode=lenient, or raise warmup.steps, "
        "so that it learns the format"
    )


def test_a_policy_that_never_ends_may_need_a_warm_up():
    answers = read("on and on", finish="length")
    assert format_advice(answers, THINK, training_knobs(64)).endswith(
        "100 % were cut off: raise rollout.max_tokens (now 64), or warmup.steps, so that it learns "
        "to end"
    )
    held_out = replace(KNOBS, where=" in the file of the benchmark small")
    assert format_advice(answers, THINK, held_out).endswith(
        "100 % were cut off: raise max_tokens (now 64) in the file of the benchmark small"
    )
