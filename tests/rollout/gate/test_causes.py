"""Why an engine disagrees: when an experiment is tried, what it must show, how often, and how a
cut is measured. No model."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.gate import causes
from gpg_vl.rollout.gate.rounding import Gap
from gpg_vl.types import Prompt
from tests.hand_made import completion, prompt


def gap(size: float) -> Gap:
    """A gap of so many times what is allowed: in nats, of 0.25 at most."""
    found = torch.tensor([0.25 * size, -0.25 * size] * 80).double()
    return Gap(
        gap_N=found,
        noise_N=torch.zeros(160).double(),
        places_N=torch.arange(160),
        grain=1e-9,
        mean=0.25,
        worst=9.0,
    )


def look_of(*prompts: Prompt, version: int = 1, temperature: float = 0.7, **more: Any) -> Any:
    known = {
        "prompts": prompts or (prompt(1, images=1),),
        "sampling": Sampling(max_tokens=4, temperature=temperature),
        "last_answers": {},
    }
    return SimpleNamespace(
        gate=SimpleNamespace(**known),
        version=version,
        policy=SimpleNamespace(banned_ids=(5,)),
        **more,
    )


# --- which experiments, and what they must show ---------------------------------------------------

WORDS = [
    "temperature",
    "the ban",
    "image lost",
    "stale prefix cache",
    "stale encoder cache",
    "only pictures disagree",
    "stale weights",
]


@pytest.mark.parametrize(
    ("pictures", "version", "tried"),
    [
        (1, 1, WORDS),
        (1, 0, WORDS[:-1]),  # nothing has been handed over yet
        (0, 1, ["temperature", "the ban", "stale prefix cache", "stale weights"]),
        (0, 0, ["temperature", "the ban", "stale prefix cache"]),
    ],
)
def test_experiments_are_tried_where_they_can_show_something(pictures, version, tried):
    check = look_of(prompt(1), prompt(2, images=pictures), version=version)
    assert [words.partition(":")[0] for words, _ in causes._experiments(check)] == tried


@pytest.fixture
def experiments(monkeypatch):
    """Experiments with given outcomes; which were tried."""
    tried: list[str] = []

    def given(*outcomes: bool, cut: str = "") -> list[str]:
        def made(check: Any) -> Any:
            for number, outcome in enumerate(outcomes):
                yield (
                    f"cause {number}",
                    lambda check, asked, number=number, outcome=outcome: (
                        tried.append(str(number)) or outcome
                    ),
                )

        monkeypatch.setattr(causes, "_experiments", made)
        monkeypatch.setattr(causes, "_cut", lambda check: tried.append("cut") or cut)
        return tried

    return given


def test_the_first_experiment_that_explains_names_the_cause(experiments):
    tried = experiments(False, True, True)
    assert causes.cause(look_of(), gap(5.0), []) == "Cause: cause 1"
    assert tried == ["0", "1"]


def test_a_cut_is_looked_for_last_and_what_nothing_explains_is_unknown(experiments):
    tried = experiments(False, cut="truncated sampling")
    assert causes.cause(look_of(), gap(5.0), []) == "Cause: truncated sampling"
    assert tried == ["0", "cut"]
    experiments(False)
    assert causes.cause(look_of(), gap(5.0), []).startswith(
        "Cause unknown: it is not the temperature"
    )


@pytest.mark.parametrize(
    ("size", "looks"), [(1.99, False), (2.0, True), (2.5, True), (1.01, False)]
)
def test_from_a_gap_that_is_hardly_more_than_rounding_nothing_is_concluded(
    size, looks, experiments
):
    experiments(True)
    assert causes.cause(look_of(), gap(size), []).startswith(
        "Cause: " if looks else "Cause unknown: "
    )


Sizes = list[tuple[str, float]]


def scripted(*sizes: tuple[str, float]) -> Any:
    """A look whose gaps are given in turn, each with what it must be asked of."""
    left = list(sizes)

    def answered(prompts: Any, count: int) -> Any:
        return [(it.text, count) for it in prompts]

    def measured(asked: Any, *more: Any) -> Gap:
        whom, size = left.pop(0)
        assert asked == [(whom, causes.COMPLETIONS)]
        return gap(size)

    return look_of(prompt(1), sample=answered, gap=measured, left=left)


@pytest.mark.parametrize(
    ("sizes", "explains"),
    [
        ([("other", 0.9), ("q1", 2.0), ("other", 1.0), ("q1", 2.0)], True),
        ([("other", 1.1)], False),  # the gap is still there
        ([("other", 0.9), ("q1", 1.9)], False),  # and so it is not where nothing was done
        ([("other", 0.9), ("q1", 2.0), ("other", 1.1)], False),  # it vanished once
        ([("other", 0.9), ("q1", 2.0), ("other", 0.9), ("q1", 1.9)], False),
    ],
)
def test_a_gap_must_vanish_twice_and_be_there_twice(sizes, explains):
    check = scripted(*sizes)
    times: list[int] = []

    def other(given: Any, policy: Any, version: int, time: int) -> Any:
        assert (policy, version) == (check.policy, check.version)
        times.append(time)
        return replace(given, text="other")

    assert causes._vanishes(check, other) == explains
    assert check.left == []
    assert times == list(range(1 + (len(sizes) > 2)))


@pytest.mark.parametrize(
    ("altered", "plain", "explains"),
    [
        ([0.9, 0.9], [2.0, 2.0], True),
        ([1.1, 0.9], [2.0, 2.0], False),
        ([0.9, 1.1], [2.0, 2.0], False),
        ([0.9, 0.9], [1.9, 2.0], False),
        ([0.9, 0.9], [2.0, 1.9], False),
    ],
)
def test_another_way_of_scoring_must_explain_twice_what_is_there_twice(altered, plain, explains):
    sides = {"altered": iter(altered), "plain": iter(plain)}
    check = look_of(
        prompt(1), sample=lambda prompts, count: count, gap=lambda asked: gap(next(sides["plain"]))
    )
    assert causes._is_explained(check, lambda asked: gap(next(sides["altered"]))) == explains


def test_raw_log_probabilities_show_at_another_temperature_than_one(monkeypatch):
    scored: list[Any] = []
    monkeypatch.setattr(causes, "replace", lambda policy, **more: (policy, more))
    monkeypatch.setattr(causes, "_is_explained", lambda check, altered: altered("asked"))
    check = look_of(gap=lambda *given: scored.append(given) or True)
    assert causes._reports_raw(check, [])
    assert scored == [("asked", (check.policy, {"banned_ids": ()}), 1.0)]
    assert not causes._reports_raw(look_of(temperature=1.0), [])
    assert causes._ignores_the_ban(check, [])
    assert scored[1] == ("asked", (check.policy, {"banned_ids": ()}))


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        (
            {0: completion([1, 2]), 1: completion([3])},
            {0: completion([1, 2]), 1: completion([3])},
            True,
        ),
        (
            {0: completion([1, 2]), 1: completion([3])},
            {0: completion([1, 2], 0.01), 1: completion([3])},
            True,
        ),
        (
            {0: completion([1, 2]), 1: completion([3])},
            {0: completion([1, 2], 0.5), 1: completion([3])},
            False,
        ),
        (
            {0: completion([1, 2]), 1: completion([3])},
            {0: completion([1, 2]), 1: completion([4])},
            False,
        ),
        (
            {0: completion([1, 2]), 1: completion([3])},
            {0: completion([1]), 1: completion([3])},
            False,
        ),
        ({}, {0: completion([1, 2]), 1: completion([3])}, False),
        ({0: completion([1, 2])}, {0: completion([1, 2]), 1: completion([3])}, False),
    ],
)
def test_stale_weights_say_the_same_words_with_the_same_numbers(then, now, same):
    judged: list[Any] = []

    def beside(asked: Any, gap_N: Any, noise_N: Any) -> Any:
        judged.append(asked)
        return SimpleNamespace(within_limits=bool((gap_N.abs() <= noise_N).all()))

    check = look_of(
        prompt(1),
        prompt(2),
        first_answers=lambda asked: now,
        logprobs=lambda completions: torch.tensor(
            [it for one in completions for it in one.logprobs]
        ),
        gap=lambda firsts: SimpleNamespace(noise_N=torch.full((3,), 0.1)),
        make_gap=beside,
    )
    check.gate.last_answers = then
    asked: Any = [("first prompt", ["others"]), ("second prompt", ["others"])]
    assert causes._repeats_last_answers(check, asked) == same
    if same:
        assert judged == [[("first prompt", [now[0]]), ("second prompt", [now[1]])]]


# --- pictures that are lost -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "shift", "own", "deaf"),
    [
        (["a", "b"], 0.0, 0.5, True),
        (["a", "c"], 0.0, 0.5, False),  # other words: it hears something
        (["a", "b"], 0.5, 0.5, False),  # other numbers
        (["a", "b"], 0.0, 0.0, False),  # to the trainer it is no difference either
    ],
)
def test_an_engine_is_blind_where_it_says_alike_what_the_trainer_tells_apart(
    words, shift, own, deaf, monkeypatch
):
    """Asked greedily about the pictures and about others."""
    ids = {"a": (1, 2), "b": (3,), "c": (4,)}
    samplings: list[Any] = []

    def generate(prompts: Any, sampling: Any, seeds: Any) -> Any:
        samplings.append((sampling.greedy, seeds))
        first = len(samplings) == 1
        return [
            [completion(ids[word], 0.0 if first else shift)]
            for word in (["a", "b"] if first else words)
        ]

    def score(policy: Any, asked: Any, temperature: float) -> Any:
        assert asked[0][0].text == "q3", "the shown pictures are scored by the gap"
        return torch.full((3,), own)

    monkeypatch.setattr(causes, "score", score)
    check = look_of(
        engine=SimpleNamespace(generate=generate),
        sampling=Sampling(max_tokens=4, temperature=0.7),
        # The trainer's own log-probabilities of these answers are 0, as the engine's are.
        gap=lambda asked: SimpleNamespace(gap_N=torch.zeros(3), noise_N=torch.full((3,), 0.1)),
        logprobs=lambda completions: torch.tensor(
            [it for one in completions for it in one.logprobs]
        ),
        make_gap=lambda asked, gap_N, noise_N: SimpleNamespace(
            within_limits=bool((gap_N.abs() <= noise_N).all())
        ),
    )
    shown, hidden = [prompt(1), prompt(2)], [prompt(3), prompt(4)]
    assert causes._answers_alike(check, shown, hidden) == deaf
    assert samplings == [(True, [[0], [0]])] * 2


@pytest.mark.parametrize(
    ("grey", "noise", "lost"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_grey_pictures_and_noise_must_both_say_so(grey, noise, lost, monkeypatch):
    monkeypatch.setattr(causes, "with_grey_pictures", lambda it, policy: "grey")
    monkeypatch.setattr(causes, "with_new_pictures", lambda it, policy, version: "noise")
    outcome = {"grey": grey, "noise": noise}
    monkeypatch.setattr(
        causes,
        "_answers_alike",
        lambda check, shown, hidden: outcome[hidden[0]] and len(shown) == len(hidden) == 1,
    )
    check = look_of(prompt(1, images=1), prompt(2), repeat_for_replicas=list)
    assert causes._ignores_pictures(check, []) == lost


# --- a cut distribution ---------------------------------------------------------------------------

MASS = torch.tensor([[0.5, 0.75, 0.875, 1.0], [0.25, 0.5, 0.75, 1.0]]).double()
"""Probability of the likeliest token, of the two likeliest, and so on, at two places."""


@pytest.mark.parametrize(
    ("cut", "kept"),
    [
        (1, [0.5, 0.25]),
        (2, [0.75, 0.5]),
        (4, [1.0, 1.0]),
        (9, [1.0, 1.0]),  # more than there are
        (0.5, [0.5, 0.5]),  # the fewest that hold the share: one, two
        (0.51, [0.75, 0.75]),
        (0.76, [0.875, 1.0]),
        (0.99, [1.0, 1.0]),
    ],
)
def test_what_a_cut_keeps_by_hand(cut, kept):
    assert causes._log_kept(MASS, cut).tolist() == pytest.approx([math.log(it) for it in kept])


def test_a_share_beyond_the_candidates_cuts_nothing():
    assert causes._log_kept(torch.tensor([[0.5, 0.75]]).double(), 0.8).tolist() == [0.0]


def test_what_a_cut_leaves_is_nothing_where_it_is_the_cause():
    """Tokens are likelier by what was cut off: -log of what is kept."""
    for cut, kept in ((2, [0.75, 0.5]), (0.6, [0.75, 0.75])):
        gap_N = -torch.tensor(kept).double().log()
        assert causes._unexplained(gap_N, MASS, cut).abs().max() < 1e-12
    assert causes._unexplained(torch.zeros(2).double(), MASS, 2).tolist() == pytest.approx(
        [math.log(0.75), math.log(0.5)]
    )


def test_at_the_border_of_a_share_a_token_may_be_in_or_out():
    """0.75 and a millionth: to the engine's sums the third token may be needed or not."""
    for kept in (0.75, 0.875):
        gap_N = -torch.tensor([kept]).double().log()
        assert causes._unexplained(gap_N, MASS[:1], 0.750001).abs().max() < 1e-12
        assert causes._unexplained(gap_N, MASS[:1], 0.749999).abs().max() < 1e-12
    assert (
        causes._unexplained(-torch.tensor([0.875]).double().log(), MASS[:1], 0.7499).abs().max()
        > 0.1
    )


@pytest.mark.parametrize(
    ("kept", "explained", "expected"),
    [
        ([0.75, 0.5], True, "truncated sampling: top-k 2 is on and explains all of it"),
        ([0.875, 0.75], True, "truncated sampling: top-k 3 is on"),
        # at whose border the second token may be in
        ([0.75, 0.75], True, "truncated sampling: top-p 0.5 is on"),
        ([0.75, 0.5], False, ""),
    ],
)
def test_the_cut_that_fits_best_must_explain_other_answers(kept, explained, expected, monkeypatch):
    monkeypatch.setattr(causes, "_mass", lambda check, asked: MASS)
    gap_N = -torch.tensor(kept).double().log()
    measured = SimpleNamespace(gap_N=gap_N, noise_N="noise")
    left: list[Any] = []

    def explains(check: Any, altered: Any) -> bool:
        return altered("others") == "judged" and explained

    monkeypatch.setattr(causes, "_is_explained", explains)
    check = look_of(
        sample=lambda prompts, count: "fitted",
        gap=lambda asked: measured,
        make_gap=lambda asked, gap_N, noise_N: (
            left.append((asked, gap_N.abs().max() < 1e-9, noise_N)) or "judged"
        ),
    )
    assert causes._cut(check).startswith(expected)
    assert bool(causes._cut(check)) == bool(expected)
    assert left[0] == ("others", True, "noise")
