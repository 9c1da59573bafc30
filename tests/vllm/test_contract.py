"""One contract for every engine: transformers, vLLM in this process, a vLLM server; over the three
families, no, one and two pictures.

On each push the families meet vLLM in this process and one family the other engines; nightly every
family meets every engine. Each test hands other weights over first, so everything here holds before
and after updates.

The engines hold no adapters: they are sent merged weights.
"""

from contextlib import closing
from dataclasses import replace

import pytest
import torch

from gpg_vl.config.schema import LoraConfig
from gpg_vl.policy.plain_forward import UnsharedForward
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.gate.vision_gate import VisionGate
from gpg_vl.rollout.transformers_engine import TransformersEngine
from tests.adapted import LANGUAGE, PROJECTOR, TOWER
from tests.asking import prompts
from tests.conftest import FAMILIES
from tests.vllm.conftest import build, move, server_spec

ENGINES = ("transformers", "vllm", "server")
SERVED = "qwen2_5_vl"
"""The family that meets every engine on each push."""
PAIRS = [
    pytest.param(
        (family, kind),
        id=f"{family}-{kind}",
        marks=() if kind == "vllm" or family == SERVED else pytest.mark.nightly,
    )
    for family in FAMILIES
    for kind in ENGINES
]
SAMPLING = Sampling(max_tokens=10, temperature=0.7)
WORST = 2e-5
"""Largest gap of a float32 log-probability, in nats."""


ADAPTED = {
    "language and tower": TOWER,
    "language": LANGUAGE,
    "language, projector whole": PROJECTOR,
    "queries and values": {**LANGUAGE, "lora": LoraConfig(targets=("q_proj", "v_proj"))},
    "projector": {**LANGUAGE, "language": "frozen", "projector": "lora"},
    "in 4 bits": {**TOWER, "quantise": "nf4"},
    "in 4 bits, tower": {**TOWER, "language": "frozen", "quantise": "nf4"},
}
"""What has adapters."""


def pairs_with_adapters():
    """Return family, engine and what has adapters; on each push every kind of the three once."""
    for family in FAMILIES:
        for kind in ENGINES:
            for parts in ADAPTED:
                is_first = kind == "vllm" and parts == "language and tower"
                is_quick = is_first or (family == SERVED and kind != "transformers")
                yield pytest.param(
                    (family, kind, parts),
                    id=f"{family}-{kind}-{parts}",
                    marks=() if is_quick else pytest.mark.nightly,
                )


def seeds(groups: int, size: int, first: int = 0) -> list[list[int]]:
    return [
        [2**62 + first + 1000 * group + index for index in range(size)] for group in range(groups)
    ]


def worst_gap(policy, asked, answers, temperature=0.7) -> float:
    with torch.no_grad():
        own = UnsharedForward(policy, temperature)(
            list(zip(asked, answers, strict=True))
        ).logprobs_N
    said = torch.tensor(
        [logprob for group in answers for completion in group for logprob in completion.logprobs]
    )
    return float((own - said).abs().max())


@pytest.fixture(params=PAIRS)
def policy_and_engine(request, policy_of, shared):
    """Engines of a family one after the other, so that the tests of one share it."""
    family, kind = request.param
    policy = policy_of(family)
    return policy, shared(kind, family)


def test_logprobs_are_the_trainers_before_and_after_updates(policy_and_engine):
    policy, shared = policy_and_engine
    asked = prompts(policy)
    for update in range(3):
        answers = shared.sampling_from(policy).generate(asked, SAMPLING, seeds(len(asked), 4))
        assert worst_gap(policy, asked, answers) <= WORST, update
        assert {completion.version for group in answers for completion in group} == {shared.version}
        move(policy, update)


def test_only_what_trains_is_sent_and_that_is_enough(policy_and_engine, policy_of):
    policy, shared = policy_and_engine
    shared.sampling_from(policy).generate(prompts(policy), SAMPLING, seeds(5, 1))
    for parameter in policy.model.model.visual.parameters():
        parameter.requires_grad_(False)
    move(policy, 5)
    asked = prompts(policy)
    assert (
        worst_gap(
            policy,
            asked,
            shared.sampling_from(policy).generate(asked, SAMPLING, seeds(len(asked), 4)),
        )
        <= WORST
    )


def test_greedy_answers_are_those_of_transformers_except_at_near_ties(policy_and_engine):
    policy, shared = policy_and_engine
    move(policy, 7)
    asked, greedy = prompts(policy), replace(SAMPLING, greedy=True, temperature=1.0)
    answers = shared.sampling_from(policy).generate(asked, greedy, [[0]] * len(asked))
    expected = TransformersEngine(policy).generate(asked, greedy, [[0]] * len(asked))
    for prompt, (answer,), (wanted,) in zip(asked, answers, expected, strict=True):
        if answer.token_ids != wanted.token_ids:
            pairs = zip(answer.token_ids, wanted.token_ids, strict=False)
            place = next(place for place, (mine, theirs) in enumerate(pairs) if mine != theirs)
            assert abs(answer.logprobs[place] - wanted.logprobs[place]) < 1e-4, prompt.sample.id


def test_a_groups_answers_depend_on_its_seeds_alone(policy_and_engine):
    policy, shared = policy_and_engine
    asked, engine = prompts(policy), shared.sampling_from(policy)
    together = engine.generate(asked, SAMPLING, seeds(len(asked), 4))
    backwards = engine.generate(asked[::-1], SAMPLING, seeds(len(asked), 4)[::-1])[::-1]
    others = engine.generate(asked, SAMPLING, seeds(len(asked), 4, first=500))
    ids = [[completion.token_ids for completion in group] for group in together]
    assert ids == [[completion.token_ids for completion in group] for group in backwards]
    assert len({answer for group in ids for answer in group}) > 15
    assert not {answer for group in ids for answer in group} & {
        completion.token_ids for group in others for completion in group
    }


def test_more_than_fits_at_once_comes_back_whole(policy_and_engine):
    policy, shared = policy_and_engine
    asked = prompts(policy, each=6)
    answers = shared.sampling_from(policy).generate(asked, SAMPLING, seeds(len(asked), 8))
    assert [len(group) for group in answers] == [8] * 30
    assert worst_gap(policy, asked, answers) <= WORST


def test_any_end_id_ends_and_nothing_else_does(policy_and_engine):
    policy, shared = policy_and_engine
    with torch.no_grad():
        # The head is tied: end ids are now as likely as any other.
        policy.model.lm_head.weight[list(policy.end_ids)] = 0
    asked = prompts(policy)
    answers = shared.sampling_from(policy).generate(
        asked, Sampling(max_tokens=60, temperature=2.0), seeds(len(asked), 16)
    )
    flat = [completion for group in answers for completion in group]
    assert {
        completion.token_ids[-1] for completion in flat if completion.finish == "stop"
    } == policy.end_ids
    assert all(not set(completion.token_ids[:-1]) & policy.end_ids for completion in flat)
    assert all(
        len(completion.token_ids) == 60 for completion in flat if completion.finish == "length"
    )
    assert worst_gap(policy, asked, answers, temperature=2.0) <= WORST


def test_placeholders_are_never_sampled_however_likely(policy_and_engine):
    policy, shared = policy_and_engine
    with torch.no_grad():
        policy.model.lm_head.weight[list(policy.banned_ids)] *= 300
    # Texts only: tied weights this large would drown the embeddings of pictures.
    asked = prompts(policy, ["add"], each=3)
    answers = shared.sampling_from(policy).generate(asked, SAMPLING, seeds(len(asked), 8))
    assert not {
        token for group in answers for completion in group for token in completion.token_ids
    } & set(policy.banned_ids)
    assert worst_gap(policy, asked, answers) <= WORST


def test_the_gate_opens_and_measures_how_much_the_picture_matters(policy_and_engine):
    policy, shared = policy_and_engine
    gate = VisionGate(prompts=tuple(prompts(policy)), sampling=SAMPLING, seed=0)
    for update in (1, 2):
        move(policy, update)
        measured = gate.check(shared.sampling_from(policy), policy, shared.version)
        assert measured["gate/worst"] <= WORST
        assert measured["gate/blind_worst"] <= WORST
        assert measured["visual_reliance"] != 0


def test_rested_engines_go_on_as_if_they_had_not(policy_and_engine):
    policy, shared = policy_and_engine
    asked, engine = prompts(policy), shared.sampling_from(policy)
    before = engine.generate(asked, SAMPLING, seeds(len(asked), 2))
    for level in (1, 2):
        engine.sleep = level  # the transformers engine knows no sleep and ignores it
        engine.release_memory()
        assert engine.generate(asked, SAMPLING, seeds(len(asked), 2)) == before
    engine.sleep = 0


# --- adapters -------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked_for", list(pairs_with_adapters()))
def test_with_adapters_logprobs_are_the_trainers_before_and_after_updates(
    asked_for, policy_of, shared
):
    family, kind, parts = asked_for
    policy, engine = policy_of(family, **ADAPTED[parts]), shared(kind, family)
    asked = prompts(policy)
    for update in range(3):
        answers = engine.sampling_from(policy).generate(asked, SAMPLING, seeds(len(asked), 4))
        assert worst_gap(policy, asked, answers) <= WORST, update
        if update:
            with policy.adapters.off():
                assert worst_gap(policy, asked, answers) > 100 * WORST
        move(policy, update)


@pytest.mark.parametrize("kind", ["vllm", "server"])
def test_adapters_of_the_tower_alone_are_not_dropped(kind, policy_of, shared):
    """Neither in the first weight sync, which sends all tensors, nor later."""
    parts = {"language": "frozen", "projector": "frozen", "vision": "lora"}
    policy, engine = policy_of(SERVED, **parts), shared(kind, SERVED)
    asked = prompts(policy, ["count"])
    before = None
    for update in range(2):
        move(policy, update, size=0.1)
        answers = engine.sampling_from(policy).generate(asked, SAMPLING, seeds(len(asked), 4))
        assert worst_gap(policy, asked, answers) <= WORST
        with policy.adapters.off():
            assert worst_gap(policy, asked, answers) > 100 * WORST
        assert answers != before
        before = answers


@pytest.mark.parametrize(
    "parts",
    [
        "in 4 bits, tower",
        *(
            pytest.param(parts, marks=pytest.mark.nightly)
            for parts in ADAPTED
            if parts != "in 4 bits, tower"
        ),
    ],
)
def test_a_server_of_the_base_model_is_sent_what_differs_from_it(
    parts, serve, fork_server, policy_of
):
    policy = policy_of("qwen3_vl", **ADAPTED[parts])
    served = serve("qwen3_vl").wait()
    asked = prompts(policy)
    with closing(build(policy, server_spec(fork_server, served))) as engine:
        for version in (0, 1):
            move(policy, version)
            engine.update_weights(policy, version)
            answers = engine.generate(asked, SAMPLING, seeds(len(asked), 4))
            assert worst_gap(policy, asked, answers) <= WORST
    served.kill()
