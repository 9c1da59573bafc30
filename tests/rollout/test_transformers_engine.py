"""The transformers engine: what it samples, from which stream, and what it costs."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from gpg_vl.config import plugins
from gpg_vl.config.knobs import knobs_of_part
from gpg_vl.errors import UserError
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.rollout import ALIASES
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.transformers_engine import TransformersEngine, inverse_cdf
from tests.adapted import TOWER, moved, tiny
from tests.any_family import hand_made, policy_of_family
from tests.asking import prompts
from tests.conftest import FAMILIES

SAMPLING = Sampling(max_tokens=10, temperature=1.0)


def seeds(groups: int, size: int) -> list[list[int]]:
    return [[1000 * group + index for index in range(size)] for group in range(groups)]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_are_those_of_generate(family, policy_of):
    policy = policy_of(family, dtype="float64")
    asked = prompts(policy)
    engine = TransformersEngine(policy)
    answers = engine.generate(
        asked, Sampling(max_tokens=10, temperature=1.0, greedy=True), [[0]] * len(asked)
    )
    for prompt, (answer,) in zip(asked, answers, strict=True):
        ids = torch.tensor([prompt.input_ids])
        features = {
            name: value.double() if value.is_floating_point() else value
            for name, value in prompt.features.items()
        }
        said = policy.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **features,
            max_new_tokens=10,
            do_sample=False,
            suppress_tokens=list(policy.banned_ids),
        )
        assert tuple(said[0, ids.shape[1] :].tolist()) == answer.token_ids


def test_a_completion_does_not_depend_on_who_else_is_asked(policy_of):
    policy = policy_of(dtype="float64")
    asked = prompts(policy)
    together = TransformersEngine(policy).generate(asked, SAMPLING, seeds(len(asked), 4))
    two_by_two = TransformersEngine(policy, prompts_at_once=2).generate(
        asked, SAMPLING, seeds(len(asked), 4)
    )
    backwards = TransformersEngine(policy).generate(
        asked[::-1], SAMPLING, seeds(len(asked), 4)[::-1]
    )[::-1]
    alone = [
        TransformersEngine(policy).generate([prompt], SAMPLING, [[own]])[0][0]
        for prompt, (_, own, *_) in zip(asked, seeds(5, 4), strict=True)
    ]
    ids = [[completion.token_ids for completion in group] for group in together]
    assert ids == [[completion.token_ids for completion in group] for group in two_by_two]
    assert ids == [[completion.token_ids for completion in group] for group in backwards]
    assert [group[1] for group in ids] == [completion.token_ids for completion in alone]
    assert len({completion for group in ids for completion in group}) > 15


def test_out_of_memory_fewer_prompts_go_at_once_and_the_tokens_are_the_same(policy_of, monkeypatch):
    """Also if it comes in the middle of the answers: a batch begins anew."""
    policy, lines = policy_of(dtype="float64"), []
    asked = prompts(policy)
    expected = TransformersEngine(policy).generate(asked, SAMPLING, seeds(len(asked), 4))
    engine = TransformersEngine(policy, log=lines.append)
    honest, sizes = TransformersEngine._draw, []

    def small_memory(self, hidden_PRD, groups, position, sampling):
        if position == 0:
            sizes.append(len(groups))
        if position == 3 and len(groups) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return honest(self, hidden_PRD, groups, position, sampling)

    monkeypatch.setattr(TransformersEngine, "_draw", small_memory)
    for batches in ([5, 2, 2, 1], [2, 2, 1]):  # remembered
        sizes.clear()
        found = engine.generate(asked, SAMPLING, seeds(len(asked), 4))
        assert sizes == batches
        for group, other in zip(found, expected, strict=True):
            assert [own.token_ids for own in group] == [own.token_ids for own in other]
    assert lines == [
        "out of memory while sampling: 2 prompts at once from here on, not 5 "
        "(rollout.engine.prompts_at_once)"
    ]


def test_a_single_prompt_that_does_not_fit_ends_with_what_to_lower(policy_of, monkeypatch):
    policy = policy_of()
    asked = prompts(policy, ["add", "add"])

    def no_memory(*given):
        raise torch.OutOfMemoryError("CUDA out of memory (simulated)")

    monkeypatch.setattr(TransformersEngine, "_draw", no_memory)
    with pytest.raises(
        UserError, match=r"with 4 answers to a prompt of \d+ tokens; lower rollout\.group_size"
    ):
        TransformersEngine(policy).generate(asked, SAMPLING, seeds(2, 4))

    def broken(*given):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(TransformersEngine, "_draw", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        TransformersEngine(policy).generate(asked, SAMPLING, seeds(2, 4))


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_reported_logprobs_are_the_trainers(temperature, policy_of):
    policy = policy_of(dtype="float64")
    asked = prompts(policy)
    sampling = Sampling(max_tokens=10, temperature=temperature)
    answers = TransformersEngine(policy).generate(asked, sampling, seeds(len(asked), 4))
    scores = GroupForward(policy, temperature)(list(zip(asked, answers, strict=True)))
    said = [logprob for group in answers for completion in group for logprob in completion.logprobs]
    assert scores.logprobs_N.tolist() == pytest.approx(said, abs=1e-6)


@pytest.mark.parametrize(
    "family", ["smolvlm", "idefics3", "internvl", "llava", "gemma3", "qwen3_5"]
)
def test_every_family_samples_from_the_policy_that_is_trained(family):
    policy = policy_of_family(family)
    asked = [
        hand_made(family, count, words, seed)
        for seed, (count, words) in enumerate([(1, 9), (2, 5), (0, 12), (1, 4)])
    ]
    answers = TransformersEngine(policy).generate(asked, SAMPLING, seeds(len(asked), 3))
    scores = GroupForward(policy, 1.0)(list(zip(asked, answers, strict=True)))
    said = [logprob for group in answers for completion in group for logprob in completion.logprobs]
    assert scores.logprobs_N.tolist() == pytest.approx(said, abs=1e-6)


@pytest.mark.parametrize("family", ["gemma3", "qwen3_5"])
def test_rows_that_leave_change_nothing_for_the_others(family):
    policy = policy_of_family(family)
    with torch.no_grad():
        policy.model.lm_head.weight[2] *= 0.0  # the end is about as likely as anything
    asked = [hand_made(family, 1, words, seed) for seed, words in enumerate((4, 9))]
    sampling = Sampling(max_tokens=40, temperature=4.0)
    together = TransformersEngine(policy).generate(asked, sampling, seeds(2, 16))
    alone = [
        TransformersEngine(policy).generate([prompt], sampling, [[own]])[0][0]
        for prompt, (own, *_) in zip(asked, seeds(2, 16), strict=True)
    ]
    assert len({len(completion.token_ids) for group in together for completion in group}) > 2
    assert [group[0].token_ids for group in together] == [
        completion.token_ids for completion in alone
    ]


def test_any_end_id_ends_and_is_part_of_the_completion(policy_of):
    policy = policy_of()
    with torch.no_grad():
        # The head is tied: end ids are now as likely as any other.
        policy.model.lm_head.weight[list(policy.end_ids)] = 0
    answers = TransformersEngine(policy).generate(
        prompts(policy, each=4), Sampling(max_tokens=60, temperature=5.0), seeds(20, 16)
    )
    flat = [completion for group in answers for completion in group]
    ended = [completion for completion in flat if completion.finish == "stop"]
    assert {completion.token_ids[-1] for completion in ended} == policy.end_ids
    assert all(not set(completion.token_ids[:-1]) & policy.end_ids for completion in flat)
    assert all(
        len(completion.token_ids) == 60 for completion in flat if completion.finish == "length"
    )


def test_finished_rows_stop_costing(policy_of):
    policy = policy_of()
    widths: list[int] = []
    policy.model.model.get_decoder().register_forward_hook(
        lambda module, args, kwargs, output: widths.append(kwargs["inputs_embeds"].shape[0]),
        with_kwargs=True,
    )
    engine = TransformersEngine(policy)
    asked = prompts(policy)
    draw = engine._draw

    def ends_staggered(hidden, answers, position, sampling):
        tokens = draw(hidden, answers, position, sampling)
        for group in answers:
            for answer in group:
                answer.done = answer.done or len(answer.token_ids) > 1 + int(answer.uniforms[0] * 8)
        return tokens

    engine._draw = ends_staggered
    engine.generate(asked, SAMPLING, seeds(len(asked), 8))
    decoding = widths[1:]
    assert decoding[0] == 5 * 8
    assert decoding == sorted(decoding, reverse=True)
    assert decoding[-1] < 5 * 8 / 2


def test_placeholders_are_never_sampled(policy_of):
    policy = policy_of()
    with torch.no_grad():
        policy.model.lm_head.weight[list(policy.banned_ids)] *= 1000
    answers = TransformersEngine(policy).generate(prompts(policy), SAMPLING, seeds(5, 8))
    assert not {
        token for group in answers for completion in group for token in completion.token_ids
    } & set(policy.banned_ids)


def test_inverse_cdf_by_hand():
    logprobs = torch.tensor([0.25, 0.0, 0.5, 0.25, 0.0]).log()
    for uniform, token in [
        (0.0, 0),
        (0.2499, 0),
        (0.25, 2),
        (0.74, 2),
        (0.7501, 3),
        (0.999999, 3),
        (1.0, 3),
    ]:
        assert inverse_cdf(logprobs, torch.tensor(uniform, dtype=torch.float64)).item() == token


def test_sampled_frequencies_are_the_probabilities():
    logprobs = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(20_000, 4)
    drawn = inverse_cdf(logprobs, torch.from_numpy(np.random.default_rng(0).random(20_000)))
    assert (drawn.bincount() / 20_000).tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.015)


def test_version_is_written_into_completions(policy_of):
    policy = policy_of()
    engine = TransformersEngine(policy)
    engine.update_weights(policy, 7)
    assert engine.generate(prompts(policy, ["add"]), SAMPLING, [[1]])[0][0].version == 7


def test_adapters_are_merged_for_sampling_and_the_tokens_are_the_same():
    policy = moved(tiny(**TOWER))
    asked = prompts(policy)
    own_seeds = seeds(len(asked), 3)
    apart = TransformersEngine(policy, merge=False).generate(asked, SAMPLING, own_seeds)
    merged = TransformersEngine(policy, merge=True).generate(asked, SAMPLING, own_seeds)
    for group, other in zip(apart, merged, strict=True):
        for answer, twin in zip(group, other, strict=True):
            assert answer.token_ids == twin.token_ids
            assert answer.logprobs == pytest.approx(twin.logprobs, abs=1e-6)
    base = tiny(language="full")
    without = TransformersEngine(base).generate(asked, SAMPLING, own_seeds)
    assert [group[0].token_ids for group in without] != [group[0].token_ids for group in apart]


@pytest.mark.parametrize(
    ("knobs", "why"),
    [
        ({"merge": "sometimes"}, "rollout.engine: merge: got 'sometimes', expected "),
        ({"prompts_at_once": "many"}, "rollout.engine: prompts_at_once: got 'many', expected "),
        ({"prompts_at_once": 0}, "rollout.engine.prompts_at_once: got 0, expected 1 or more"),
        ({"prompts_at_once": -3}, "rollout.engine.prompts_at_once: got -3, expected 1 or more"),
    ],
)
def test_knobs_that_mean_nothing_are_refused(knobs, why):
    spec, given = {"kind": "transformers", **knobs}, {"policy": "some", "log": None}
    with pytest.raises(UserError, match=f"^{re.escape(why)}"):
        plugins.build(spec, ALIASES, base_dir=Path(), key="rollout.engine", given=given)


def test_its_knobs_are_listed():
    path = ALIASES["transformers"]
    assert [knob.key for knob in knobs_of_part(path)] == ["prompts_at_once", "merge"]


@pytest.mark.parametrize(
    ("knobs", "merges"),
    [
        ({"dtype": "float64"}, True),
        ({"dtype": "float32"}, True),
        ({"dtype": "bfloat16"}, False),
        ({"dtype": "float32", "quantise": "nf4"}, False),
        ({"language": "full"}, False),
    ],
)
def test_adapters_are_merged_where_nothing_is_rounded(knobs, merges):
    engine = TransformersEngine(tiny(**knobs))
    assert (engine.merges, engine.narrow) == (merges, False)
    asked = TransformersEngine(tiny(**knobs), merge=True)
    assert asked.merges == ("language" not in knobs)
    assert asked.narrow == (knobs.get("dtype") == "bfloat16")
