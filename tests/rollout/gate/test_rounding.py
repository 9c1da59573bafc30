"""What rounding does, by hand; honest engines, which the gate never stops, and faults three
times the rounding, which it does."""

import itertools
import math
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from gpg_vl.config.schema import PolicyConfig, Tiny
from gpg_vl.errors import MismatchError
from gpg_vl.policy import decoding
from gpg_vl.policy.families import Sharing
from gpg_vl.policy.load import load_policy
from gpg_vl.rollout import transformers_engine
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.gate import rounding
from gpg_vl.rollout.gate.rounding import Gap, places, score, score_again
from gpg_vl.rollout.gate.vision_gate import GateCheck, VisionGate
from gpg_vl.rollout.transformers_engine import TransformersEngine
from tests.adapted import LANGUAGE, TOWER, moved, tiny
from tests.asking import prompts, random_completions

DTYPES = ("float32", "bfloat16")
IN_4_BITS = {**TOWER, "language": "frozen", "quantise": "nf4"}
SAMPLING = Sampling(max_tokens=16, temperature=0.7)


def gap(gap_N, noise_N, places_N=None, **limits) -> Gap:
    """A gap of tokens that stand each at a place of its own, or at the given ones."""
    places_N = torch.arange(len(gap_N)) if places_N is None else torch.tensor(places_N)
    return Gap(
        gap_N=torch.tensor(gap_N).double(),
        noise_N=torch.tensor(noise_N).double(),
        places_N=places_N,
        grain=1e-9,
        **limits,
    )


# --- by hand --------------------------------------------------------------------------------------


def test_figures_by_hand():
    """200 tokens whose rounding is 0.01 either way; the engine is off by 0.02 either way."""
    made = gap([0.02, -0.02] * 100, [0.01, -0.01] * 100)
    assert (made.found.mean, made.found.tail, made.found.worst) == pytest.approx((0.02, 0.02, 0.02))
    assert made.found.bias == pytest.approx(0.02**2 / 2), (
        "drawn by the engine itself: half the mean square is expected, and found is none"
    )
    assert made.carriers == pytest.approx(200)
    assert made.allowed.mean == pytest.approx(2.95 * 0.01)
    assert made.allowed.worst == pytest.approx(8 * 0.01)
    assert made.allowed.bias == pytest.approx(8 * 0.01 / math.sqrt(200))
    assert made.excess == pytest.approx(2 / 2.95)
    assert made.within_limits


def test_three_times_the_rounding_is_more_than_rounding():
    assert not gap([0.03, -0.03] * 100, [0.01, -0.01] * 100).within_limits


def test_a_small_shift_of_all_tokens_shows_in_the_signed_mean():
    """Each gap is within the rounding, yet all have one sign: tokens that are all a little too
    likely, as when a tail is cut off."""
    shifted = gap([0.01] * 400, [0.01, -0.01] * 200)
    assert shifted.found.mean == pytest.approx(shifted.rounding.mean)
    assert not shifted.within_limits
    assert shifted.excess == pytest.approx((0.01 - 0.01**2 / 2) / (8 * 0.01 / 20))


def test_one_wrong_token_shows_in_the_worst():
    assert not gap([0.09] + [0.01, -0.01] * 100, [0.0] + [0.01, -0.01] * 100).within_limits


def test_the_fewer_tokens_carry_the_rounding_the_wider_chance_is():
    """Ten tokens of a thousand carry it all: limits are sqrt(160 / 10) = 4 times as wide."""
    ten = [0.1, -0.1] * 5 + [0.0] * 990
    assert gap(ten, ten).carriers == pytest.approx(10)
    assert gap(ten, ten).allowed.mean == pytest.approx(4 * 2.95 * 0.001)


def test_equal_words_are_rounded_alike_and_count_once():
    """Sixteen answers that are all the same are one observation, not sixteen: the limit is
    sqrt(16) = 4 times as wide as that of 160."""
    noise = [0.01, -0.01] * 80
    apart, alike = gap(noise, noise), gap(noise, noise, [place // 16 for place in range(160)])
    assert (apart.carriers, alike.carriers) == pytest.approx((160, 10))
    assert alike.allowed.mean == pytest.approx(4 * apart.allowed.mean)
    shifted = gap([0.01] * 32, [0.01] * 32, [0] * 16 + [1] * 16)
    assert shifted.carriers == pytest.approx(2)
    assert shifted.allowed.bias == pytest.approx(shifted.allowed.mean), (
        "the two places say the same by chance one time in two"
    )


def test_a_quantile_tells_little_where_few_places_carry_the_rounding():
    """As a wide and sharp model did in bfloat16: the engine rounds the common word of sixteen
    answers, the trainer others."""
    noise, places_N = [0.06] * 4 + [1e-5] * 196, [*range(184), *[184] * 16]
    honest = [0.06] * 4 + [1e-5] * 174 + [0.02] * 22
    made = gap(honest, noise, places_N)
    assert made.carriers < 5
    assert made.found.tail == pytest.approx(0.02)
    assert made.rounding.tail == pytest.approx(1e-5)
    assert made.excess < 0.5


def test_places_are_prompts_and_the_words_before(policy_of):
    """Two questions; answers 5 6 7 and 5 6 8 share a place at 5, 6 and the last word, which
    differs only after it."""
    first, second = prompts(policy_of())[:2]
    said = [
        replace(random_completions(1, longest=3, seed=0)[0], token_ids=ids, logprobs=(0.0,) * 3)
        for ids in ((5, 6, 7), (5, 6, 8))
    ]
    places_N = places([(first, said), (second, said[:1]), (first, said[1:])]).tolist()
    assert places_N[:3] == places_N[3:6] == places_N[9:]
    assert len(set(places_N)) == 6
    apart = [replace(said[0], token_ids=(1, 6, 7))]
    assert places([(first, said[:1])])[0] == places([(first, apart)])[0]
    assert places([(first, said[:1])])[1] != places([(first, apart)])[1]


def test_places_are_numbered_alike_in_every_process():
    """Python salts its hashes of text, in another process otherwise: metrics must be equal after
    a kill all the same."""
    program = (
        "from types import SimpleNamespace as S; from gpg_vl.rollout.gate.rounding import places; "
        "print(places([(S(input_ids=(1, 2), pictures=('ab',)), [S(token_ids=(3, 4))])]).tolist())"
    )
    own = {**os.environ, "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
    elsewhere = subprocess.run(
        [sys.executable, "-c", program], env=own, capture_output=True, text=True, check=True
    ).stdout
    prompt, said = (
        SimpleNamespace(input_ids=(1, 2), pictures=("ab",)),
        SimpleNamespace(token_ids=(3, 4)),
    )
    assert elsewhere == f"{places([(prompt, [said])]).tolist()}\n"


def test_a_policy_that_is_sure_of_nearly_all_tokens_is_no_fault():
    """As real weights were after six supervised steps: one token in 250 carries the measured
    rounding, in the engine it is fifteen."""
    noise = [0.15] + [0.0004, -0.0004] * 125
    honest = [0.15, -0.15] * 7 + [0.15] + [0.0004, -0.0004] * 118
    assert gap(noise, noise).carriers < 3
    assert gap(honest, noise).excess < 0.5
    assert not gap([0.15, -0.15] * 125 + [0.15], noise).within_limits


def test_no_number_is_no_agreement_and_no_token_no_gap():
    assert gap([math.nan, 0.0], [0.1, 0.1]).excess == math.inf
    assert gap([], []).within_limits


def test_limits_in_nats_overrule_the_measured_ones():
    made = gap([0.05, -0.05] * 100, [0.01, -0.01] * 100, mean=0.2, worst=0.1)
    assert (made.allowed.mean, made.allowed.worst) == (0.2, 0.1)
    assert made.excess == pytest.approx(0.5)


def test_kernels_of_another_engine_are_coarser_than_the_last_bit(policy_of):
    """vLLM's exponentials, for one, in float32: 2e-6 nat, 3.4 times the trainer's rounding; ten
    times that is no rounding."""

    class Own(TransformersEngine):
        narrow = True

        def generate(self, asked, sampling, seeds):
            sign = itertools.cycle((-1, 1))
            answers = super().generate(asked, sampling, seeds)
            return [
                [
                    replace(
                        said, logprobs=tuple(it + self.off * next(sign) for it in said.logprobs)
                    )
                    for said in group
                ]
                for group in answers
            ]

    policy = policy_of()
    engine = Own(policy)
    engine.off = 3e-6
    assert gate_of(policy).check(engine, policy, 0)["gate/excess"] < 0.5
    engine.off = 3e-5
    with pytest.raises(MismatchError):
        gate_of(policy).check(engine, policy, 0)


# --- the trainer's two ways -----------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
def test_both_ways_are_equal_on_paper(shared, policy_of):
    policy = policy_of(dtype="float64")
    if not shared:
        policy = replace(policy, sharing=Sharing("layers with a running state"))
    asked = [
        (prompt, random_completions(3, longest=7, seed=place))
        for place, prompt in enumerate(prompts(policy))
    ]
    torch.testing.assert_close(
        score_again(policy, asked, 0.7), score(policy, asked, 0.7), rtol=0, atol=1e-12
    )


def test_the_narrow_way_rounds_more_and_leaves_the_weights_as_they_were(policy_of):
    policy = policy_of(dtype="bfloat16")
    before = {
        name: parameter.detach().clone() for name, parameter in policy.model.named_parameters()
    }
    asked = [
        (prompt, random_completions(3, longest=7, seed=place))
        for place, prompt in enumerate(prompts(policy))
    ]
    plain, shared, narrow = (
        score(policy, asked, 1.0),
        score_again(policy, asked, 1.0),
        score_again(policy, asked, 1.0, narrow=True),
    )
    assert (narrow - plain).abs().mean() > (shared - plain).abs().mean() > 0
    after = dict(policy.model.named_parameters())
    assert all(
        after[name].dtype == torch.float32 and torch.equal(after[name], before[name])
        for name in before
    )


@pytest.mark.parametrize("knobs", [LANGUAGE, {**TOWER, "projector": "full"}, IN_4_BITS])
def test_the_narrow_way_has_merged_adapters_as_an_engine_holds_them(knobs, policy_of, tmp_path):
    policy = moved(policy_of(dtype="bfloat16", **knobs))
    before = dict(policy.model.named_parameters())
    numbers = {name: parameter.detach().clone() for name, parameter in before.items()}
    asked = [
        (prompt, random_completions(3, longest=7, seed=place))
        for place, prompt in enumerate(prompts(policy))
    ]
    narrow = score_again(policy, asked, 1.0, narrow=True)
    policy.save_whole(tmp_path)
    whole = PolicyConfig(dtype="bfloat16", weights="bfloat16")
    theirs = load_policy(whole, seed=0, path=tmp_path)
    assert torch.equal(narrow, score_again(theirs, asked, 1.0, narrow=True))
    assert not torch.equal(narrow, score_again(policy, asked, 1.0))
    after = dict(policy.model.named_parameters())
    assert [*after] == [*before]
    for name, parameter in after.items():
        assert parameter is before[name], name
        assert parameter.dtype == numbers[name].dtype, name
        assert torch.equal(parameter, numbers[name]), name


def test_a_trainer_that_disagrees_with_itself_is_no_yardstick(policy_of, monkeypatch):
    policy = policy_of()
    honest = score_again
    monkeypatch.setattr(
        "gpg_vl.rollout.gate.vision_gate.score_again",
        lambda *asked, **more: honest(*asked, **more) + 0.01,
    )
    with pytest.raises(
        MismatchError,
        match=(
            r"the trainer scores the same tokens in two ways that lie mean 0\.01, .* please "
            r"report it"
        ),
    ):
        gate_of(policy).check(TransformersEngine(policy), policy, 0)


# --- honest engines pass --------------------------------------------------------------------------


def gate_of(policy, **more) -> VisionGate:
    return VisionGate(
        **{"prompts": tuple(prompts(policy)), "sampling": SAMPLING, "seed": 0, **more}
    )


def sharp(dtype: str, seed: int = 0):
    """A deeper model with sharp logits, where rounding is largest."""
    policy = load_policy(PolicyConfig(tiny=Tiny(layers=8), dtype=dtype), seed=seed)
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(4)
    return policy


@pytest.mark.parametrize(
    ("number", "dtype", "temperature"),
    [(n, *it) for n, it in enumerate(itertools.product(DTYPES, (0.7, 0.85, 1.0, 1.2)))],
)
def test_an_honest_engine_stays_under_half_of_every_limit(number, dtype, temperature, policy_of):
    """A few, as those below and in test_vision_gate; benchmarks/gate_checks.py takes many more,
    also of real weights and vLLM."""
    policy = (
        sharp(dtype, number)
        if number % 2
        else policy_of(("qwen2_vl", "qwen2_5_vl", "qwen3_vl")[number % 3], dtype=dtype)
    )
    sampling = Sampling(max_tokens=(8, 24)[number % 2], temperature=temperature)
    seen = gate_of(policy, sampling=sampling, seed=number).check(
        TransformersEngine(policy), policy, 0
    )
    assert seen["gate/excess"] < 0.5, seen


@pytest.mark.parametrize("dtype", DTYPES)
def test_so_does_one_whose_prompts_cannot_be_shared(dtype, policy_of):
    policy = replace(policy_of(dtype=dtype), sharing=Sharing("layers with a running state"))
    assert gate_of(policy).check(TransformersEngine(policy), policy, 0)["gate/excess"] < 0.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("knobs", [TOWER, IN_4_BITS])
def test_so_does_one_of_a_policy_with_adapters(knobs, narrow, dtype, policy_of):
    policy = moved(policy_of(dtype=dtype, **knobs))
    kind = type("Engine", (TransformersEngine,), {"narrow": narrow})
    assert gate_of(policy).check(kind(policy), policy, 0)["gate/excess"] < 0.5


# --- faults of three times the rounding do not ----------------------------------------------------


class Fault:
    """An engine with a fault of adjustable strength, and what the fault does to the
    log-probabilities of some answers."""

    def __init__(self, kind: str, policy, other, monkeypatch) -> None:
        self.kind, self.policy, self.other, self.monkeypatch = kind, policy, other, monkeypatch

    def engine(self, strength: float) -> TransformersEngine:
        if self.kind == "temperature":
            return WrongTemperature(self.policy, 1 + strength)
        if self.kind == "top-k":
            allowed = transformers_engine.allowed_logits
            self.monkeypatch.setattr(
                transformers_engine, "allowed_logits", lambda *asked: cut(allowed(*asked), strength)
            )
            return TransformersEngine(self.policy)
        names = [
            name
            for name, _ in self.other.model.named_parameters()
            if self.kind == "stale weights" or name == "lm_head.weight"
        ]
        draw = torch.Generator().manual_seed(0)
        for name in names or ["model.language_model.embed_tokens.weight"]:
            mine, theirs = (
                dict(it.model.named_parameters())[name] for it in (self.policy, self.other)
            )
            step = torch.randn(mine.shape, generator=draw) * mine.detach().std()
            theirs.data = mine.detach() + strength * step
        return TransformersEngine(self.other)


class WrongTemperature(TransformersEngine):
    def __init__(self, policy, factor: float) -> None:
        super().__init__(policy)
        self.factor = factor

    def generate(self, asked, sampling, seeds):
        return super().generate(
            asked, replace(sampling, temperature=sampling.temperature * self.factor), seeds
        )


def cut(logits, share):
    """Without the least likely of all tokens, a share of the vocabulary."""
    size = logits.shape[-1]
    floor = logits.topk(max(1, int((1 - share) * size))).values[..., -1:]
    return logits.masked_fill(logits < floor, -torch.inf)


WEAKEST = {
    ("temperature", "float32"): -18,
    ("temperature", "bfloat16"): -6,
    ("top-k", "float32"): -7,
    ("top-k", "bfloat16"): -6,
    ("stale weights", "float32"): -19,
    ("stale weights", "bfloat16"): -8,
    ("tied head", "float32"): -19,
    ("tied head", "bfloat16"): -6,
}
"""Power of two of the weakest fault that counts here; another processor may round otherwise."""


@pytest.mark.parametrize("below", [2, pytest.param(14, marks=pytest.mark.nightly)])
@pytest.mark.parametrize(("kind", "dtype"), WEAKEST)
def test_a_fault_of_three_times_the_rounding_trips(kind, dtype, below, policy_of, monkeypatch):
    """The weakest fault whose own gap is at least three times the measured rounding in the mean;
    of twice that at most."""
    policy, other = policy_of(dtype=dtype), policy_of(dtype=dtype)
    gate = gate_of(policy, prompts=tuple(prompts(policy, ["choice", "add"])))
    honest = gate.check(TransformersEngine(policy), policy, 0)
    fault = Fault(kind, policy, other, monkeypatch)
    first = WEAKEST[kind, dtype] - below
    for strength in (2.0**power for power in range(first, 0)):
        with monkeypatch.context() as patch:
            fault.monkeypatch = patch
            engine = fault.engine(strength)
            _, found = GateCheck(replace(gate, last_answers={}), engine, policy, 0).compare(
                gate.prompts
            )
            if found.found.mean < 3 * max(found.rounding.mean, honest["gate/noise"]):
                continue
            assert strength > 2.0**first, "a weaker one may have counted already"
            with closing(engine), pytest.raises(MismatchError, match="engine and trainer disagree"):
                replace(gate, last_answers={}).check(engine, policy, 0)
            return
    raise AssertionError("no strength of this fault is three times the rounding")


@pytest.mark.parametrize("vary", ["alike", "other numbers of answers"])
@pytest.mark.parametrize("knobs", [{"language": "full"}, {**LANGUAGE}])
def test_token_by_token_is_the_same_way_for_several_prompts_at_once(knobs, vary, monkeypatch):
    policy = moved(tiny(**knobs, dtype="float64"))
    monkeypatch.setattr(rounding, "PROMPTS_AT_ONCE", 3)
    asked = [
        (prompt, random_completions(3 if vary == "alike" else 1 + place // 3, 7, place))
        for place, prompt in enumerate([*prompts(policy)] * 3)
    ]
    sizes = [len(together) for together in rounding._of_one_shape(asked)]
    assert sum(sizes) == len(asked)
    assert max(sizes) == 3
    policy = replace(policy, sharing=Sharing("layers with a running state"))
    torch.testing.assert_close(
        score_again(policy, asked, 0.7), score(policy, asked, 0.7), rtol=0, atol=1e-12
    )


def test_in_bfloat16_the_second_way_rounds_where_an_engine_does():
    """Where a policy is sure of nearly all tokens, rounding is in a few: the shared prompt alone
    showed others than the engine, and an honest run of real weights was stopped."""
    policy = sharp("bfloat16")
    check = GateCheck(gate_of(policy), TransformersEngine(policy), policy, 0)
    gap = check.gap(check.sample(tuple(prompts(policy)), 8))
    large_N = gap.gap_N.abs() > gap.found.worst / 2
    assert gap.found.worst > 0.01
    assert 0 < large_N.float().mean() < 0.02, "few tokens carry it"
    assert (gap.noise_N.abs()[large_N] > gap.found.worst / 8).all()
    assert gap.rounding.mean == pytest.approx(gap.found.mean, rel=0.5)


@pytest.mark.parametrize("least", [1, 2], ids=["always", "with several prompts"])
@pytest.mark.parametrize("knobs", [{"language": "full"}, LANGUAGE, IN_4_BITS])
def test_in_bfloat16_a_wrong_position_in_sampling_is_no_rounding(
    knobs, least, policy_of, monkeypatch
):
    """The second way of scoring has the same mistake as the engine, so their gap is no larger."""
    policy = moved(policy_of(dtype="bfloat16", **knobs))
    engine = TransformersEngine(policy)
    gate_of(policy).check(engine, policy, 0)
    honest = decoding.extend

    def one_further(policy, prefix, tokens_PRC, start, cache):
        off = start > 0 and len(tokens_PRC) >= least
        return honest(policy, prefix, tokens_PRC, start + off, cache)

    monkeypatch.setattr(decoding, "extend", one_further)
    with pytest.raises(MismatchError, match=r"token by token .* samples with, is wrong"):
        gate_of(policy).check(engine, policy, 0)


def test_token_by_token_few_logits_exist_at_a_time(monkeypatch):
    policy = moved(tiny(dtype="bfloat16"))
    asked = [(prompt, random_completions(3, 6, 1)) for prompt in prompts(policy)]
    whole = rounding.score_again(policy, asked, 1.0)
    sizes: list[int] = []
    policy.model.lm_head.register_forward_pre_hook(
        lambda module, given: sizes.append(given[0].shape[0])
    )
    monkeypatch.setattr(rounding, "MAX_TOKENS_WITH_LOGITS", 4)
    found = rounding.score_again(policy, asked, 1.0)
    assert max(sizes) == 4
    assert sum(sizes) == len(found) == len(whole)
    torch.testing.assert_close(found, whole, rtol=0, atol=0.05)
