"""The gate's limits, each tried on both sides and exactly at it; and what the gate asks, of whom
and how often, without a model."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gpg_vl.errors import MismatchError
from gpg_vl.rollout.engine import RolloutEngine, Sampling
from gpg_vl.rollout.gate import vision_gate
from gpg_vl.rollout.gate.rounding import MAX_DECODING_ERROR, Gap, portions
from gpg_vl.rollout.gate.vision_gate import GateCheck, VisionGate
from gpg_vl.types import Completion, Prompt
from tests.hand_made import completion, prompt

SPREAD = [0.01, -0.01] * 80
"""Rounding of 160 tokens, alike in all: the limits are their plain multiples."""


def gap(
    gap_N: list[float],
    noise_N: list[float],
    places_N: list[int] | None = None,
    *,
    grain: float = 1e-12,
    **limits: float,
) -> Gap:
    places = torch.arange(len(noise_N)) if places_N is None else torch.tensor(places_N)
    return Gap(
        gap_N=torch.tensor(gap_N).double(),
        noise_N=torch.tensor(noise_N).double(),
        places_N=places,
        grain=grain,
        **limits,
    )


# --- what may be ----------------------------------------------------------------------------------

SHIFTED = [0.011, -0.009] * 160
"""320 tokens, in the mean 0.001 to one side: sqrt(160 x (0.011^2 + 0.009^2)) / 320 = 5.61806e-4
is the error of that mean."""
UNEVEN = [0.01, -0.01] * 80 + [0.03, -0.03] * 20
"""160 + 40 tokens: (160 x 0.01 + 40 x 0.03)^2 / (160 x 0.01^2 + 40 x 0.03^2) = 150.769 places;
sqrt(160 / 150.769) = 1.03016 is chance."""


@pytest.mark.parametrize(
    ("made", "mean", "tail", "worst", "bias"),
    [
        # 2.95, 3.7 and 8 times 0.01; 8 times 0.01 / sqrt(160)
        pytest.param(
            gap(SPREAD, SPREAD), 0.0295, 0.037, 0.08, 0.0063246, id="rounding alike in all tokens"
        ),
        # with a quarter of the places all is sqrt(160 / 40) = 2 times as wide, the tail 2 x 2 x
        # 0.0295; 2 x 8 x 0.01 / sqrt(40)
        pytest.param(gap(SPREAD[:40], SPREAD[:40]), 0.059, 0.118, 0.16, 0.0252982, id="40 tokens"),
        pytest.param(
            gap(SPREAD * 4, SPREAD * 4),
            0.0295,
            0.037,
            0.08,
            0.0031623,
            id="640 tokens are not more than enough",
        ),
        # 8 x 5.61806e-4 + 2.95 x 0.001
        pytest.param(
            gap(SHIFTED, SHIFTED), 0.0295, 3.7 * 0.011, 0.088, 0.0074444, id="rounding to one side"
        ),
        # 8 x 0.01 / sqrt(160) + 2.95 x 0.01 would be more than the mean may be
        pytest.param(gap(SPREAD, [0.01] * 160), 0.0295, 0.037, 0.08, 0.0295, id="all to one side"),
        # the mean of absolute values is 2.8 / 200 = 0.014; 8 x sqrt(160 x 0.01^2 + 40 x 0.03^2) /
        # 200 = 0.0091214
        pytest.param(
            gap(UNEVEN, UNEVEN),
            1.03016 * 2.95 * 0.014,
            1.03016 * 3.7 * 0.03,
            1.03016 * 8 * 0.03,
            1.03016 * 0.0091214,
            id="uneven rounding",
        ),
        # pairs that cancel each other at their place: nothing is left of the error, the grain alone
        # is allowed
        pytest.param(
            gap(SPREAD * 2, [0.01, -0.01] * 160, [n // 2 for n in range(320)], grain=1e-4),
            0.0295,
            0.037,
            0.08,
            4e-4,
            id="pairs",
        ),
        # pairs that add up: 8 x 0.02 x sqrt(160) / 320
        pytest.param(
            gap(SPREAD * 2, [0.01, 0.01, -0.01, -0.01] * 80, [n // 2 for n in range(320)]),
            0.0295,
            0.037,
            0.08,
            0.0063246,
            id="equal pairs",
        ),
        # 4 grains for means and 32 for single tokens, however small rounding is
        pytest.param(
            gap(SPREAD, [0.0] * 160, grain=1e-3), 0.004, 0.032, 0.032, 0.004, id="no rounding"
        ),
        pytest.param(
            gap(SPREAD, [1e-4, -1e-4] * 80, grain=1e-3),
            0.004,
            0.032,
            0.032,
            0.004,
            id="less rounding than grain",
        ),
        # 32 grains are more than 3.7 and less than 8 times the rounding; 8 x 0.01 / sqrt(160) + 4 x
        # 0.0015
        pytest.param(
            gap(SPREAD, SPREAD, grain=1.5e-3),
            0.0295,
            0.048,
            0.08,
            0.0123246,
            id="the grain of the tail",
        ),
        pytest.param(gap(SPREAD, SPREAD, mean=0.05), 0.05, 0.05, 0.08, 0.05, id="a mean in nats"),
        pytest.param(
            gap(SPREAD, SPREAD, mean=0.2), 0.2, 0.08, 0.08, 0.2, id="a mean in nats above the worst"
        ),
        pytest.param(
            gap(SPREAD, SPREAD, worst=0.1), 0.0295, 0.1, 0.1, 0.0063246, id="a worst in nats"
        ),
        pytest.param(
            gap(SPREAD, SPREAD, mean=0.001, worst=0.002),
            0.001,
            0.002,
            0.002,
            0.001,
            id="both in nats",
        ),
        # 2 of 20 tokens carry it: chance is sqrt(160 / 2) = 8.94427; their mean is 0.01, and chance
        # x chance x 2.95 x 0.01 is a wide tail
        pytest.param(
            gap([0.0] * 20, [0.1, -0.1] + [0.0] * 18),
            8.94427 * 0.0295,
            80 * 0.0295,
            8.94427 * 0.8,
            8.94427 * 0.0295,
            id="two carriers",
        ),
    ],
)
def test_what_may_be_by_hand(made, mean, tail, worst, bias):
    allowed = made.allowed
    assert (allowed.mean, allowed.tail, allowed.worst, allowed.bias) == pytest.approx(
        (mean, tail, worst, bias), rel=2e-5
    )


@pytest.mark.parametrize(
    ("found", "excess"),
    [
        pytest.param([0.0295, -0.0295] * 80, 1.0, id="the mean, at it"),
        pytest.param([0.029, -0.029] * 80, 0.0290 / 0.0295, id="the mean, below"),
        pytest.param([0.030, -0.030] * 80, 0.0300 / 0.0295, id="the mean, above"),
        # 32 of 160 tokens: the 90 % quantile is one of theirs; their mean is small
        pytest.param([0.036, -0.036] * 16 + [0.0] * 128, 0.036 / 0.037, id="the tail, below"),
        pytest.param([0.040, -0.040] * 16 + [0.0] * 128, 0.040 / 0.037, id="the tail, above"),
        pytest.param([0.079] + [0.0] * 159, 0.079 / 0.08, id="the worst, below"),
        pytest.param([-0.09] + [0.0] * 159, 0.09 / 0.08, id="the worst, above"),
        # half the mean square is what a signed mean is expected to be: 0.006 - 0.006^2 / 2 =
        # 0.005982
        pytest.param([0.006] * 160, 0.005982 / 0.0063246, id="the signed mean, below"),
        pytest.param([0.007] * 160, 0.0069755 / 0.0063246, id="the signed mean, above"),
        pytest.param(
            [-0.007] * 160, 0.0070245 / 0.0063246, id="the signed mean, on the other side"
        ),
        pytest.param([0.0] * 160, 0.0, id="none"),
    ],
)
def test_any_one_figure_beyond_its_limit_is_a_gap(found, excess):
    made = gap(found, SPREAD)
    assert made.excess == pytest.approx(excess, rel=2e-5)
    if excess != 1.0:
        assert made.within_limits == (excess < 1)


def test_exactly_what_may_be_holds():
    """Numbers that a computer holds exactly: the mean is what it may be, then one token is."""
    even, one = (
        gap([0.25, -0.25] * 80, SPREAD, mean=0.25, worst=0.5),
        gap([0.5] + [0.0] * 159, SPREAD, mean=0.25, worst=0.5),
    )
    assert (even.excess, one.excess) == (1.0, 1.0)
    assert even.within_limits
    assert one.within_limits
    assert not gap([0.5001] + [0.0] * 159, SPREAD, mean=0.25, worst=0.5).within_limits
    assert not gap([0.2501, -0.2501] * 80, SPREAD, mean=0.25, worst=0.5).within_limits


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 159])
@pytest.mark.parametrize("limits", [{}, {"mean": 9.0, "worst": 9.0}])
def test_no_number_is_infinitely_far_wherever_it_stands(number, place, limits):
    found = [0.0] * 160
    found[place] = number
    made = gap(found, SPREAD, **limits)
    assert made.excess == math.inf
    assert not made.within_limits


def test_gaps_are_put_together_and_taken_apart_token_by_token():
    first, second = (
        gap([1, 2], [0.5, 0.25], [7, 8], grain=0.5, mean=0.3, worst=0.4),
        gap([3], [0.125], [7]),
    )
    both = first + second
    assert [both.gap_N.tolist(), both.noise_N.tolist(), both.places_N.tolist()] == [
        [1, 2, 3],
        [0.5, 0.25, 0.125],
        [7, 8, 7],
    ]
    assert (both.grain, both.mean, both.worst) == (0.5, 0.3, 0.4)
    some = both[torch.tensor([False, True, True])]
    assert [some.gap_N.tolist(), some.noise_N.tolist(), some.places_N.tolist()] == [
        [2, 3],
        [0.25, 0.125],
        [8, 7],
    ]
    assert (some.grain, some.mean, some.worst) == (0.5, 0.3, 0.4)


def test_carriers_are_counted_by_place_and_by_size():
    assert gap([0.0] * 4, [0.1, -0.1, 0.1, -0.1]).carriers == pytest.approx(4)
    assert gap([0.0] * 4, [0.1, -0.1, 0.1, -0.1], [1, 1, 2, 2]).carriers == pytest.approx(2)
    # (0.3 + 0.1)^2 / (0.09 + 0.01)
    assert gap([0.0] * 4, [0.3, 0.1, 0.0, 0.0]).carriers == pytest.approx(0.4**2 / 0.1)
    assert gap([0.0] * 4, [0.0] * 4).carriers == 0


def test_answers_are_scored_in_portions_of_512_tokens_at_most():
    """Rows are as long as the longest of them: three of 200 would be 600."""
    question = ("prompt", [completion([5] * length) for length in (3, 200, 7, 200, 1)])
    assert [[len(one.token_ids) for one in some] for _, some in portions(question)] == [
        [3, 200],
        [7, 200],
        [1],
    ]
    assert [
        [len(one.token_ids) for one in some]
        for _, some in portions(("prompt", [completion([5] * 256)] * 3))
    ] == [[256, 256], [256]]
    assert [len(some) for _, some in portions(("prompt", [completion([5] * 600)] * 2))] == [1, 1]


# --- what is asked --------------------------------------------------------------------------------


shown = partial(prompt, images=1)
"""A question with a picture."""


@dataclass
class Hand(RolloutEngine):
    """An engine whose answers are made by hand: each of `tokens` tokens at a place of its own;
    off by what `off` says of it."""

    off: Callable[[Prompt, int, int], float] = lambda asked, index, copy: 0.0
    """Of prompt, number of the answer and copy of the weights."""
    tokens: int = 40
    answers: int = 10**6
    """Different ones, after which they are repeated word for word."""
    version: Callable[[int, int], int] = lambda group, index: 0
    num_replicas: int = 1
    narrow: bool = False
    needs_verification: bool = True
    asked: list[tuple[list[str], Sampling, list[list[int]]]] = field(default_factory=list)

    def generate(self, prompts, sampling, seeds):
        self.asked.append(([it.text for it in prompts], sampling, [list(own) for own in seeds]))
        return [
            [self._said(it, place, index, own) for index, own in enumerate(group)]
            for place, (it, group) in enumerate(zip(prompts, seeds, strict=True))
        ]

    def _said(self, it: Prompt, place: int, index: int, own: int) -> Completion:
        far = self.off(it, index, place % self.num_replicas)
        start = own % self.answers * 1000
        ids = [start + at for at in range(self.tokens)]
        return completion(
            ids,
            [sure(token) + far * (-1) ** at for at, token in enumerate(ids)],
            version=self.version(place, index),
        )

    def update_weights(self, policy, version):
        raise NotImplementedError


def sure(token: int) -> float:
    """The log-probability of a token by everybody's first way of scoring: 0 to -0.75."""
    return -(token % 7) / 8


GREY = "grey "
SAMPLING = Sampling(max_tokens=300, temperature=0.7)
POLICY: Any = SimpleNamespace(dtype=torch.float32)


@pytest.fixture
def yardstick(monkeypatch) -> SimpleNamespace:
    """A trainer whose second way differs by `noise`, up and down in turn; grey pictures are
    marked."""
    record = SimpleNamespace(
        noise=1e-5, narrow=[], temperatures=[], policies=[], decoding=0.0, decoded=[]
    )

    def score(policy, asked, temperature):
        record.temperatures.append(temperature)
        record.policies.append(policy)
        return torch.tensor(
            [sure(token) for _, group in asked for one in group for token in one.token_ids]
        ).double()

    def again(policy, asked, temperature, *, narrow=False):
        record.narrow.append(narrow)
        base = score(policy, asked, temperature)
        return base + record.noise * torch.tensor(
            [(-1.0) ** at for at in range(len(base))], dtype=torch.float64
        )

    def decoding(policy, asked, temperature):
        record.decoded.append(asked)
        return record.decoding

    def grey(it, policy):
        return replace(
            it,
            text=GREY + it.text,
            input_ids=(*it.input_ids, -1),
            pictures=("grey",) * len(it.images),
        )

    monkeypatch.setattr(vision_gate, "score", score)
    monkeypatch.setattr(vision_gate, "score_again", again)
    monkeypatch.setattr(vision_gate, "decoding_error", decoding)
    monkeypatch.setattr(vision_gate, "with_grey_pictures", grey)
    monkeypatch.setattr(vision_gate, "cause", lambda check, worst, asked: "Why: not asked here")
    return record


def gate(*asked: Prompt, **more) -> VisionGate:
    return VisionGate(
        **{"prompts": asked or (shown(1), shown(2)), "sampling": SAMPLING, "seed": 0, **more}
    )


def is_grey(it: Prompt) -> bool:
    return it.text.startswith(GREY)


@pytest.mark.parametrize(
    ("off", "opens"),
    [
        pytest.param(lambda it, index, copy: 1e-5, True, id="as rounding"),
        pytest.param(lambda it, index, copy: 1e-3, False, id="everywhere"),
        pytest.param(
            lambda it, index, copy: 1e-3 * is_grey(it), False, id="on grey pictures alone"
        ),
        pytest.param(
            lambda it, index, copy: 1e-3 * (not is_grey(it)), False, id="on what is shown alone"
        ),
        pytest.param(lambda it, index, copy: 1e-2 * (it.text == "q2"), False, id="on one question"),
        pytest.param(
            lambda it, index, copy: 1e-2 * (it.text == GREY + "q2"),
            False,
            id="on one grey question",
        ),
        pytest.param(
            lambda it, index, copy: math.nan * (index == 1),
            False,
            id="no number in the second answers",
        ),
        pytest.param(
            lambda it, index, copy: math.nan if is_grey(it) else 0.0,
            False,
            id="no number on grey pictures",
        ),
        pytest.param(
            lambda it, index, copy: 1e-3 * (copy == 2), False, id="in the last of three copies"
        ),
        pytest.param(
            lambda it, index, copy: 1e-3 * (copy == 0), False, id="in the first of three copies"
        ),
        pytest.param(
            lambda it, index, copy: 1e-3 * (copy == 1 and is_grey(it)),
            False,
            id="in one copy on grey pictures",
        ),
    ],
)
def test_the_gate_shuts_wherever_the_engine_is_off(off, opens, yardstick):
    engine = Hand(off=off, num_replicas=3)
    if opens:
        assert gate().check(engine, POLICY, 0)["gate/excess"] < 0.5
        return
    with pytest.raises(
        MismatchError,
        match=r"vision gate, weights 0: engine and trainer disagree .* Why: not asked here",
    ):
        gate().check(engine, POLICY, 0)


def test_metrics_are_what_was_measured_and_allowed(yardstick):
    """By hand: rounding 1e-5, an engine off by 2e-5, by 1e-5 on grey pictures. Two questions,
    two answers of 60 tokens to each: the first tokens of both stand at one place, so there are 2
    x 1 places of 2e-5 and 2 x 118 of 1e-5: (2 x 2 + 236)^2 / (2 x 4 + 236) carriers."""
    measured = gate().check(
        Hand(off=lambda it, index, copy: 1e-5 if is_grey(it) else 2e-5, tokens=60), POLICY, 0
    )
    hand = {
        "mean": 2e-5,
        "worst": 2e-5,
        "noise": 1e-5,
        "noise_worst": 1e-5,
        "allowed": 2.95e-5,
        "allowed_worst": 8e-5,
    }
    hand |= {"excess": 2 / 2.95, "blind_worst": 1e-5, "carriers": 240**2 / 244}
    assert measured == pytest.approx(
        {f"gate/{name}": number for name, number in hand.items()} | {"visual_reliance": 0.0},
        rel=1e-6,
    )


def test_the_fewest_carriers_and_the_largest_excess_of_both_sides_are_reported(
    yardstick, monkeypatch
):
    again = vision_gate.score_again

    def first_of_grey(policy, asked, temperature, *, narrow):
        """On grey pictures only the answers to the second question carry the rounding."""
        first_N, second_N = (
            vision_gate.score(policy, asked, temperature),
            again(policy, asked, temperature, narrow=narrow),
        )
        half = len(first_N) // 2 if is_grey(asked[0][0]) else 0
        return torch.cat([first_N[:half], second_N[half:]])

    monkeypatch.setattr(vision_gate, "score_again", first_of_grey)
    measured = gate().check(Hand(off=lambda it, index, copy: 1e-5, tokens=100), POLICY, 0)
    assert measured["gate/carriers"] == pytest.approx(
        200**2 / 202
    )  # 1 place of 2e-5 and 198 of 1e-5
    # in the mean, of which half is left
    assert measured["gate/excess"] == pytest.approx(1 / (2.95 / 2))


def test_limits_of_the_config_are_those_of_the_gate(yardstick):
    with pytest.raises(MismatchError):
        gate(mean=1e-6).check(Hand(off=lambda it, index, copy: 1e-5), POLICY, 0)
    with pytest.raises(MismatchError):
        gate(worst=1e-6).check(Hand(off=lambda it, index, copy: 1e-5), POLICY, 0)
    measured = gate(mean=0.1, worst=0.2).check(Hand(off=lambda it, index, copy: 0.05), POLICY, 0)
    assert (
        measured["gate/allowed"],
        measured["gate/allowed_worst"],
        measured["gate/excess"],
    ) == pytest.approx((0.1, 0.2, 0.5))


@pytest.mark.parametrize(
    ("dtype", "most", "remedy"),
    [
        (
            torch.float64,
            1e-6,
            "rounding to float64 explains a mean of 1e-06 at most, .* please report it",
        ),
        (
            torch.float32,
            1e-3,
            "rounding to float32 explains a mean of 0.001 at most, .* please report it",
        ),
        (
            torch.bfloat16,
            0.25,
            "rounding to bfloat16 explains a mean of 0.25 at most, .* set policy.dtype: float32",
        ),
    ],
)
def test_a_trainer_whose_two_ways_lie_far_apart_judges_nobody(dtype, most, remedy, yardstick):
    policy: Any = SimpleNamespace(dtype=dtype)
    yardstick.noise = 0.999 * most
    assert gate().check(Hand(), policy, 0)
    for noise in (1.001 * most, math.nan):
        yardstick.noise = noise
        with pytest.raises(MismatchError, match=remedy):
            gate().check(Hand(), policy, 0)


def test_what_measures_the_rounding_of_bfloat16_is_itself_compared_once(yardstick):
    narrow: Any = SimpleNamespace(dtype=torch.bfloat16)
    gate().check(Hand(), POLICY, 0)
    assert not yardstick.decoded
    yardstick.decoding = MAX_DECODING_ERROR
    looked = gate()
    for version in range(3):
        looked.check(Hand(version=lambda group, index, version=version: version), narrow, version)
    (asked,) = yardstick.decoded
    assert [prompt.text for prompt, _ in asked] == [shown(1).text, shown(2).text] * 2
    for error in (1.001 * MAX_DECODING_ERROR, math.nan):
        yardstick.decoding = error
        with pytest.raises(MismatchError, match="samples with, is wrong; please report it"):
            gate().check(Hand(), narrow, 0)


def test_one_answer_of_other_weights_is_enough(yardstick):
    """Older or newer ones, in any place, also where all numbers agree."""
    gate().check(Hand(version=lambda group, index: 5), POLICY, 5)
    for other in (4, 6, 0):
        for at in ((0, 0), (1, 1)):
            engine = Hand(
                version=lambda group, index, other=other, at=at: (
                    other if (group, index) == at else 5
                )
            )
            with pytest.raises(
                MismatchError,
                match=(
                    rf"engine samples with weights {other}, the trainer has weights 5: stale "
                    r"weights"
                ),
            ):
                gate().check(engine, POLICY, 5)


def seeds_of(engine: Hand) -> list[list[int]]:
    """Of every question in turn, two of them grey."""
    return [own for _, _, seeds in engine.asked for own in seeds]


def test_the_first_answers_are_drawn_alike_at_every_look_and_all_others_anew(yardstick):
    looks = [
        Hand(version=lambda group, index, version=version: version, tokens=60) for version in (0, 1)
    ]
    for version, engine in enumerate(looks):
        gate().check(engine, POLICY, version)
    before, after = map(seeds_of, looks)
    assert [own[0] for own in before] == [own[0] for own in after]
    assert not {own[1] for own in before} & {own[1] for own in after}
    every = [own for group in before + after for own in group]
    assert len(every) - len(set(every)) == len(before), (
        "nothing but the first of each question is drawn twice"
    )
    other = Hand(tokens=60)
    gate(seed=1).check(other, POLICY, 0)
    assert not {seed for own in seeds_of(other) for seed in own} & {
        seed for own in before for seed in own
    }


def test_questions_are_asked_as_in_training_but_not_so_long(yardstick):
    engine = Hand(tokens=60)
    gate().check(engine, POLICY, 0)
    assert [texts for texts, _, _ in engine.asked] == [["q1", "q2"], ["grey q1", "grey q2"]]
    assert {sampling for _, sampling, _ in engine.asked} == {
        Sampling(max_tokens=256, temperature=0.7)
    }
    gate(sampling=replace(SAMPLING, max_tokens=9)).check(engine, POLICY, 0)
    assert engine.asked[-1][1].max_tokens == 9
    assert set(yardstick.temperatures) == {0.7}


def test_what_has_no_picture_has_no_grey_one(yardstick):
    mixed, words = Hand(tokens=100), Hand(tokens=100)
    assert "visual_reliance" in gate(prompt(1), shown(2)).check(mixed, POLICY, 0)
    assert [texts for texts, _, _ in mixed.asked] == [["q1", "q2"], ["grey q2"]]
    spare = Hand(tokens=10)
    gate(shown(1), spare=(prompt(2), shown(3))).check(spare, POLICY, 0)
    assert [texts for texts, _, _ in spare.asked[:2]] == [["q1"], ["q2", "q3"]]
    assert [text for texts, _, _ in spare.asked for text in texts if text.startswith(GREY)][:2] == [
        "grey q1",
        "grey q3",
    ]
    assert "grey q2" not in {text for texts, _, _ in spare.asked for text in texts}
    measured = gate(prompt(1), prompt(2)).check(words, POLICY, 0)
    assert [texts for texts, _, _ in words.asked] == [["q1", "q2"]]
    assert not {"visual_reliance", "gate/blind_worst"} & measured.keys()


def test_every_copy_is_asked_every_question_in_turn(yardstick):
    engine = Hand(num_replicas=3)
    gate().check(engine, POLICY, 0)
    assert engine.asked[0][0] == ["q1", "q1", "q1", "q2", "q2", "q2"]


def test_what_a_copy_says_is_told_from_what_the_others_say(yardstick):
    """Answers of different lengths: the tokens of each copy are those of its answers. Token 7 is
    certain."""
    check = GateCheck(gate(), Hand(num_replicas=2), POLICY, 0)
    asked = [
        (shown(1), [completion([7] * 3, [0.5] * 3), completion([7], [0.5])]),
        (shown(1), [completion([7] * 2, [0.25] * 2)]),
        (shown(2), [completion([7], [0.75])]),
    ]
    side = vision_gate.GateComparison(asked, check.gap(asked))
    assert [own.gap_N.tolist() for own in check.gaps_per_replica(side)] == [
        [0.5, 0.5, 0.5, 0.5, 0.75],
        [0.25, 0.25],
    ]


def test_a_gap_is_the_engines_less_the_trainers_beside_the_second_way_less_the_first(yardstick):
    """Tokens 1 and 2 are worth -0.125 and -0.25 to the trainer; its second way is 0.01 more,
    then 0.01 less."""
    yardstick.noise = 0.01
    check = GateCheck(gate(), Hand(narrow=True), POLICY, 0)
    asked = [(shown(1), [completion([1, 2], [-1.0, -0.5])])]
    made = check.gap(asked)
    assert made.gap_N.tolist() == [-0.875, -0.25]
    assert made.noise_N.tolist() == pytest.approx([0.01, -0.01])
    assert yardstick.narrow == [True]
    assert yardstick.temperatures == [0.7] * 2
    other: Any = SimpleNamespace(dtype=torch.float64)
    yardstick.policies.clear()
    check.gap(asked, other, 1.5)
    assert yardstick.policies == [other, other]
    assert yardstick.temperatures[2:] == [1.5, 1.5]
    assert check.logprobs(
        [completion([1, 2], [-1.0, -0.5]), completion([3], [-0.25])]
    ).tolist() == [
        -1.0,
        -0.5,
        -0.25,
    ]


def test_the_first_answers_are_those_of_every_copy(yardstick):
    engine = Hand(num_replicas=2, tokens=60)
    watch = gate()
    watch.check(engine, POLICY, 0)
    assert sorted(watch.last_answers) == [0, 1, 2, 3]
    drawn = [own[0] % 10**6 * 1000 for own in engine.asked[0][2]]
    assert [watch.last_answers[place].token_ids[0] for place in range(4)] == drawn


@pytest.mark.parametrize(
    ("answers", "tokens", "spare", "rounds"),
    [
        # the first tokens of both answers share a place: 2 x (1 + 2 x 49) = 198 places are enough,
        # 2 x (1 + 2 x 39) = 158 are not
        pytest.param(10**6, 50, 3, [(2, 2)], id="enough at once"),
        pytest.param(10**6, 40, 0, [(2, 2), (2, 2)], id="a few too few, and no spare question"),
        # spare questions first: twice 2 x (1 + 2 x 24) = 98 places
        pytest.param(10**6, 25, 2, [(2, 2), (2, 2)], id="spare questions"),
        # first tokens weigh as much as there are answers: of 25 tokens (2 x 100)^2 / (2 x (16 +
        # 96)) = 179 carriers, and of 16 tokens (2 x 128)^2 / (2 x (64 + 120)) = 178, where half as
        # many answers have (2 x 64)^2 / (2 x (16 + 60)) = 108
        pytest.param(10**6, 25, 0, [(2, 2), (2, 2)], id="as many answers again"),
        pytest.param(10**6, 16, 0, [(2, 2), (2, 2), (2, 4)], id="and again"),
        # always the same words; 16 answers to each of two questions are the most, however they are
        # dealt
        pytest.param(1, 20, 0, [(2, 2), (2, 2), (2, 4), (2, 8)], id="sixteen answers at most"),
        # 8 x 4 = 2 x 16 answers are the most
        pytest.param(1, 2, 6, [(2, 2), (6, 2), (8, 2)], id="fewer of each with spare questions"),
        # 9 x 4 answers would be more
        pytest.param(1, 2, 7, [(2, 2), (7, 2)], id="none where more would be too many"),
    ],
)
def test_more_is_asked_until_enough_places_carry_the_rounding(
    answers, tokens, spare, rounds, yardstick
):
    engine, others = (
        Hand(answers=answers, tokens=tokens),
        [shown(10 + number) for number in range(spare)],
    )
    side = GateCheck(gate(), engine, POLICY, 0).compare([shown(1), shown(2)], others)
    assert [(len(texts), len(seeds[0])) for texts, _, seeds in engine.asked] == rounds
    assert len(side.answered) == sum(questions for questions, _ in rounds)
    assert len(side.gap.gap_N) == tokens * sum(questions * given for questions, given in rounds)


@pytest.mark.parametrize(
    ("spare", "rounds"), [(12, [(4, 2), (12, 2), (16, 2)]), (13, [(4, 2), (13, 2)])]
)
def test_sixteen_answers_to_each_question_are_dealt_to_spare_ones_too(spare, rounds, yardstick):
    """Of four questions 64 answers: 16 x 4 are, 17 x 4 would be more."""
    engine = Hand(answers=1, tokens=2)
    GateCheck(gate(), engine, POLICY, 0).compare(
        [shown(number) for number in range(4)], [shown(10 + number) for number in range(spare)]
    )
    assert [(len(texts), len(seeds[0])) for texts, _, seeds in engine.asked] == rounds


def test_no_more_tokens_are_compared_than_8192(yardstick):
    """Two answers to two questions, and so on until there are so many, however few places there
    are: 4 x 2048 are."""
    yardstick.noise = 0.0
    for tokens, rounds in ((1024, [2, 2]), (1023, [2, 2, 4]), (2047, [2, 2]), (2048, [2])):
        engine = Hand(answers=1, tokens=tokens)
        GateCheck(gate(), engine, POLICY, 0).compare([shown(1), shown(2)])
        assert [len(seeds[0]) for _, _, seeds in engine.asked] == rounds


def test_an_engine_with_kernels_of_its_own_is_judged_by_the_narrow_way_and_a_coarser_grain(
    yardstick,
):
    """The spacing of float32 at 1 is 1.1920929e-07; 32 of them are a grain of such an engine."""
    yardstick.noise = 0.0
    for narrow, grain in ((False, 1.1920929e-07), (True, 32 * 1.1920929e-07)):
        measured = gate().check(Hand(narrow=narrow), POLICY, 0)
        assert measured["gate/allowed"] == pytest.approx(4 * grain)
        assert set(yardstick.narrow) == {narrow}
        yardstick.narrow.clear()
    wide: Any = SimpleNamespace(dtype=torch.float64)
    assert gate().check(Hand(), wide, 0)["gate/allowed"] == pytest.approx(4 * 2.220446e-16)
    half: Any = SimpleNamespace(dtype=torch.bfloat16)
    assert gate().check(Hand(), half, 0)["gate/allowed"] == pytest.approx(4 * 1.1920929e-07), (
        "log-probabilities are float32 all the same"
    )


def test_a_check_clears_needs_verification_and_stores_the_first_answers(yardstick):
    watch, engine = gate(), Hand()
    watch.check(engine, POLICY, 0)
    assert not engine.needs_verification
    assert sorted(watch.last_answers) == [0, 1]
    first = {own[0] % 10**6 * 1000 for own in engine.asked[0][2]}
    assert {heard.token_ids[0] for heard in watch.last_answers.values()} == first
    with pytest.raises(MismatchError):
        watch.check(Hand(off=lambda it, index, copy: 1.0, answers=1), POLICY, 0)
    assert {heard.token_ids[0] for heard in watch.last_answers.values()} == first, (
        "of the last look that went well"
    )


def test_reliance_is_measured_on_the_pictures_of_the_first_answers(yardstick, monkeypatch):
    """A token of q1 is 0.5 nat less likely without its picture, one of q2, which is twice as
    long, 0.25; q3 has none."""
    drops = {"grey q1": 0.5, "grey q2": 0.25}

    def score(policy, asked, temperature):
        return torch.cat(
            [
                torch.full((len(one.token_ids),), -drops.get(it.text, 0.0)).double()
                for it, group in asked
                for one in group
            ]
        )

    monkeypatch.setattr(vision_gate, "score", score)
    said = [
        (shown(1), [completion([1] * 4)]),
        (shown(2), [completion([1] * 8)]),
        (prompt(3), [completion([1] * 9)]),
        (shown(1), [completion([1] * 90)]),
    ]
    check = GateCheck(gate(shown(1), shown(2), prompt(3)), Hand(), POLICY, 0)
    assert check.visual_reliance(said) == pytest.approx((4 * 0.5 + 8 * 0.25) / 12)
    twice = GateCheck(gate(shown(1), shown(2)), Hand(num_replicas=2), POLICY, 0)
    assert twice.visual_reliance(said) == pytest.approx((4 * 0.5 + 8 * 0.25 + 90 * 0.5) / 102), (
        "four of them, two copies of each"
    )
