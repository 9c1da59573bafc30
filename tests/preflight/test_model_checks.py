"""Lengths of prompts and answers, and what a model answers: every level on both sides of its
border."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from gpg_vl.errors import UnusableSampleError
from gpg_vl.preflight import model_checks
from gpg_vl.preflight.finding import Finding
from gpg_vl.types import Group
from tests.hand_made import completion, group
from tests.preflight.by_hand import experiment, question, questions

# --- lengths --------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch):
    """The findings about prompts as long as said and a window of 100 tokens; a length of 0 = it
    cannot be asked."""

    def tokenizer(text, add_special_tokens):
        return {"input_ids": text}  # a letter a token

    reader = SimpleNamespace(window=100, processor=SimpleNamespace(tokenizer=tokenizer))

    def encode(sample, style, policy):
        if not int(sample.id):
            raise UnusableSampleError("too long")
        return SimpleNamespace(input_ids=[0] * int(sample.id))

    monkeypatch.setattr(model_checks, "encode", encode)

    def measure(
        *lengths: int, max_tokens: int = 30, truths: Any = (), **rollout: Any
    ) -> list[Finding]:
        rollout = {"max_tokens": max_tokens} | rollout
        samples = [
            question(str(length), truth)
            for length, truth in zip(lengths, truths or [3] * len(lengths), strict=True)
        ]
        asked = experiment(rollout=rollout, prompt="answer")
        return list(model_checks.lengths(asked, questions(samples), reader))

    return measure


@pytest.mark.parametrize(
    ("longest", "max_tokens", "fits"),
    [(70, 30, True), (71, 30, False), (99, 30, False), (99, 1, True), (60, 40, True)],
)
def test_a_prompt_and_the_longest_answer_must_fit_into_the_window_together(
    longest, max_tokens, fits, measured
):
    finding = measured(20, longest, 40, max_tokens=max_tokens)[0]
    if fits:
        free = 100 - max_tokens
        assert finding == Finding(
            "fine",
            f"lengths: prompts of 20 to {longest} tokens, {free} are free of a window of 100",
        )
    else:
        text = (
            f"lengths: the longest prompt has {longest} tokens; with max_tokens {max_tokens} it "
            "outgrows the window of 100"
        )
        assert finding == Finding("stop", text)


@pytest.mark.parametrize(("lost", "stops"), [(1, False), (2, False), (5, False), (6, True)])
def test_samples_that_cannot_become_prompts_stop_a_run_when_they_are_more_than_it_bears(
    lost, stops, measured
):
    # the longest question of the ten, here the first, is looked at twice: 11
    finding = measured(*[20] * (10 - lost), *[0] * lost, max_lost=0.2)[0]
    assert (
        finding == Finding("stop", f"lengths: {lost} of 11 samples cannot become prompts; too long")
    ) is stops


@pytest.mark.parametrize(
    ("truths", "level", "longest"),
    [
        # <answer>3</answer> has 18 letters, and one token ends it; the first question stands for
        # the longest and counts twice
        ((3, 4, 5), "fine", 19),
        ((3, 4, 55), "mind", 20),  # 1 of 4 is over
        ((3, 55, 66), "mind", 20),  # 2 of 4
        ((3, 44, 55, 666), "stop", 21),  # 3 of 5
        ((33, 4), "stop", 20),  # 2 of 3
    ],
)
def test_answers_that_do_not_fit_stop_a_run_when_they_are_most(truths, level, longest, measured):
    found = measured(*[20] * len(truths), max_tokens=19, truths=truths)[1]
    assert found == Finding(
        level,
        f"answers: the shortest right answer takes 19 to {longest} tokens, "
        "rollout.max_tokens is 19",
    )


@pytest.mark.parametrize(
    ("rows", "looked_at"), [(1, 2), (64, 65), (127, 128), (128, 65), (640, 65)]
)
def test_prompts_are_measured_evenly_and_the_longest_question_among_them(rows, looked_at):
    samples = [question(str(place)) for place in range(rows - 1)] + [
        question("longest", question="How many are there?")
    ]
    spread = model_checks._spread(samples, 64)
    assert len(spread) == looked_at
    assert spread[-1].id == "longest"
    assert spread[0] is samples[0]


# --- what a model answers ------------------------------------------------------------------------


def answered(*rewards: float, reason: str = "wrong") -> Group:
    return group(rewards, [completion(text="4")] * len(rewards), reason=reason)


@pytest.mark.parametrize(
    ("informative", "zero_variance", "level", "text"),
    [
        (1, 4, "fine", "informative: 20 % of 5 groups, so about 1.6 of 8 in a round"),
        (1, 5, "mind", "informative: 17 % of 6 groups, so about 1.3 of 8 in a round"),
        (2, 0, "fine", "informative: 100 % of 2 groups, so about 8.0 of 8 in a round"),
    ],
)
def test_how_many_groups_are_informative(informative, zero_variance, level, text):
    groups = [answered(0.0, 1.0)] * informative + [answered(0.0, 0.0)] * zero_variance
    assert list(model_checks.findings_on(groups, 8))[-1] == Finding(level, text)


@pytest.mark.parametrize(
    ("reward", "remedy"),
    [
        (0.0, "no answer earns anything: warm up, ask easier questions or mend the format"),
        (0.5, "no answer earns anything: warm up, ask easier questions or mend the format"),
        (1.0, "it is solved already"),
    ],
)
def test_where_no_group_is_informative_there_is_a_remedy(reward, remedy):
    finding = list(
        model_checks.findings_on([answered(reward, reward), answered(reward, reward, math.nan)], 8)
    )[-1]
    text = (
        "informative: 0 % of 2 groups, so about 0.0 of 8 in a round; no group is informative, so "
        f"there is no gradient: {remedy}"
    )
    assert finding == Finding("stop", text)


def test_what_was_answered_is_reported_by_reasons_rewards_and_three_examples():
    long = "unreadable: " + "x" * 50
    groups = [
        answered(0.0, 1.0, reason="right: IoU 0.9"),
        *[answered(0.0, 0.0, reason="malformed: expected a, got b")] * 2,
        answered(0.0, reason=long),
    ]
    texts = [finding.text for finding in model_checks.findings_on(groups, 8)]
    assert texts[0] == f"reasons: malformed: expected a 4, right 2, unreadable: {'x' * 40} 1"
    assert texts[1] == "rewards: 0.00 [6 0 0 0 0 0 0 0 0 1] 1.00, mean 0.143"
    assert texts[2:5] == [
        "sample q0 (truth 1): '4' earns 0.00, right",
        *["sample q0 (truth 1): '4' earns 0.00, malformed: expected a"] * 2,
    ]
    assert len(texts) == 6


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.0, 0.1, 0.2, 1.0], "0.00 [1 1 1 0 0 0 0 0 0 1] 1.00, mean 0.325"),
        ([0.0, 0.05, 0.95, 1.0], "0.00 [2 0 0 0 0 0 0 0 0 2] 1.00, mean 0.500"),
        ([-1.0, 0.0, 1.0], "-1.00 [1 0 0 0 0 1 0 0 0 1] 1.00, mean 0.000"),
        ([2.0, math.nan], "2.00 [1] 2.00, mean 2.000"),
        ([math.nan] * 3, "none, 3 faults"),
    ],
)
def test_a_histogram_has_ten_equal_parts_from_the_lowest_to_the_highest(values, shown):
    assert model_checks.histogram(values) == shown
