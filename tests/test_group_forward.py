"""The group forward against one row per completion: every family, every way to split, with checkpointing, and what must be noticed."""

import math
from dataclasses import replace

import pytest
import torch

from gpg_vl.config import PolicyConfig, Tiny
from gpg_vl.policy import group_forward
from gpg_vl.policy.families import why_not_shared
from gpg_vl.policy.group_forward import Agreement, GroupForward, rows_of
from gpg_vl.policy.load import load_policy
from gpg_vl.policy.logprobs import PlainForward

from .any_family import hand_made, policy_of_family
from .asking import completion, prompts, random_completions
from .conftest import FAMILIES

OTHERS = ("smolvlm", "idefics3", "internvl", "llava", "gemma3")


def uneven_loss(logprobs_n, line_n):
    """Every token of the line weighs differently, and the slope depends on the log-probability itself, as a ratio's does."""
    weights = torch.cos(1.0 + line_n.to(logprobs_n.dtype))
    return (weights * logprobs_n + 0.01 * logprobs_n.square()).sum()


def gradients(forward, policy, asked):
    policy.model.zero_grad(set_to_none=True)
    scores = forward(asked, uneven_loss)
    scores.loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in policy.model.named_parameters() if parameter.grad is not None}
    return scores, found


def error(found, expected):
    """All parameters as one vector; and the worst tensor, with a floor of a thousandth of the whole."""
    assert found.keys() == expected.keys()
    off = {name: float((found[name] - expected[name]).norm()) for name in expected}
    size = sum(float(gradient.norm()) ** 2 for gradient in expected.values()) ** 0.5
    worst = max(off[name] / max(float(expected[name].norm()), 1e-3 * size) for name in expected)
    return sum(value**2 for value in off.values()) ** 0.5 / size, worst


def questions(policy, family, group_size):
    """Unequal prompts: one picture, two, none, another size where the family has sizes; early ends, a short group."""
    if family in FAMILIES:
        asked = prompts(policy)
    else:
        asked = [hand_made(family, count, words, seed) for seed, (count, words) in enumerate([(1, 9), (2, 5), (0, 12), (1, 4)])]
    sizes = [group_size - (index == 1) for index in range(len(asked))]
    return [
        (prompt, random_completions(size, longest=9, seed=index)) for index, (prompt, size) in enumerate(zip(asked, sizes, strict=True))
    ]


@pytest.fixture
def policy_in(policy_of):
    def load(family, dtype=torch.float64, *, vision=True):
        if family not in FAMILIES:
            return policy_of_family(family, dtype, vision=vision)
        part = "full" if vision else "frozen"
        return policy_of(family, dtype=str(dtype).removeprefix("torch."), vision=part, projector=part)

    return load


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
@pytest.mark.parametrize("vision", [True, False])
@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_every_family_agrees_with_plain_rows(family, vision, dtype, bound, policy_in):
    policy = policy_in(family, dtype, vision=vision)
    asked = questions(policy, family, 4)
    plain, expected = gradients(PlainForward(policy, 0.9), policy, asked)
    shared, found = gradients(GroupForward(policy, 0.9), policy, asked)
    torch.testing.assert_close(shared.logprobs_N, plain.logprobs_N, rtol=0, atol=max(bound, 1e-5))
    torch.testing.assert_close(shared.entropy_N, plain.entropy_N, rtol=0, atol=max(bound, 1e-5))
    assert float(shared.loss.detach()) == pytest.approx(float(plain.loss.detach()), rel=1e-4)
    whole, worst = error(found, expected)
    assert whole <= bound
    assert worst <= 10 * bound


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "smolvlm", "gemma3"])
def test_models_that_take_no_features_in_see_the_pixels(family, policy_in):
    policy = policy_in(family)
    policy.vision.hands_over = False  # transformers before 5.18
    asked = questions(policy, family, 3)
    _, expected = gradients(PlainForward(policy, 1.0), policy, asked)
    _, found = gradients(GroupForward(policy, 1.0), policy, asked)
    assert error(found, expected)[0] <= 1e-6


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("tokens_at_once", [None, 200, 1])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "gemma3"])
def test_split_groups_and_checkpointing_in_training_mode_change_nothing(family, tokens_at_once, checkpointing, policy_in):
    oracle, policy = policy_in(family), policy_in(family)
    _, expected = gradients(PlainForward(oracle, 1.0), oracle, questions(oracle, family, 5))
    policy.model.train()
    forward = GroupForward(policy, 1.0, tokens_at_once=tokens_at_once, checkpointing=checkpointing)
    _, found = gradients(forward, policy, questions(policy, family, 5))
    whole, worst = error(found, expected)
    assert whole <= 1e-6
    assert worst <= 1e-5


@pytest.mark.parametrize("group_size", [2, 3, 16])
def test_groups_of_any_size(group_size, policy_in):
    policy = policy_in("qwen2_5_vl")
    asked = questions(policy, "qwen2_5_vl", group_size)
    _, expected = gradients(PlainForward(policy, 1.0), policy, asked)
    for tokens_at_once in (None, 300):
        _, found = gradients(GroupForward(policy, 1.0, tokens_at_once=tokens_at_once), policy, asked)
        assert error(found, expected)[0] <= 1e-6


@pytest.mark.parametrize("family", ["qwen2_5_vl", "smolvlm"])
def test_positions_off_by_one_are_noticed(family, policy_in, monkeypatch):
    policy = policy_in(family)
    asked = questions(policy, family, 4)
    _, expected = gradients(PlainForward(policy, 1.0), policy, asked)
    honest = group_forward.prefill

    def one_further(policy, prompts):
        prefix = honest(policy, prompts)
        return replace(prefix, next_position_P=prefix.next_position_P + 1)

    monkeypatch.setattr(group_forward, "prefill", one_further)
    _, wrong = gradients(GroupForward(policy, 1.0), policy, asked)
    assert error(wrong, expected)[0] > 1e-4


def test_transformers_own_checkpointing_would_lose_the_prompt(policy_in):
    policy = policy_in("qwen2_5_vl")
    policy.model.train()
    model = policy.model
    (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
    with pytest.raises((ValueError, KeyError)):  # the layers were told of no cache, so the prompt left nothing
        GroupForward(policy, 1.0)(questions(policy, "qwen2_5_vl", 2), uneven_loss)


def test_a_running_state_cannot_be_shared_and_says_so():
    policy = policy_of_family("qwen3_5")
    assert "linear_attention" in why_not_shared(policy.model)
    asked = questions(policy, "qwen3_5", 3)
    plain, expected = gradients(PlainForward(policy, 1.0), policy, asked)
    fallback, found = gradients(GroupForward(policy, 1.0), policy, asked)
    torch.testing.assert_close(fallback.logprobs_N, plain.logprobs_N, rtol=0, atol=1e-6)
    assert error(found, expected)[0] <= 1e-6


def test_models_that_share_say_nothing(policy_in):
    assert not any(why_not_shared(policy_in(family).model) for family in (*FAMILIES, *OTHERS))


def test_the_rectangle_by_hand():
    rows = rows_of([(None, [completion([5]), completion([6, 7, 8])]), (None, [completion([9, 4])])], pad_id=0, device=torch.device("cpu"))
    assert rows.tokens_PRC.tolist() == [[[6, 7, 8], [5, 0, 0]], [[9, 4, 0], [0, 0, 0]]]
    assert rows.line_PRC.tolist() == [[[1, 2, 3], [0, -1, -1]], [[4, 5, -1], [-1, -1, -1]]]
    second = rows.take(slice(1, 2))
    assert second.line_PRC.tolist() == [[[0]], [[-1]]]


@pytest.mark.parametrize("tokens_at_once", [None, 1])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "gemma3"])
def test_bfloat16_composes(family, tokens_at_once, policy_in):
    rough, exact = (policy_in(family, torch.float32) for _ in range(2))
    rough = replace(rough, dtype=torch.bfloat16)
    asked = questions(exact, family, 4)
    _, expected = gradients(PlainForward(exact, 1.0), exact, asked)
    scores, found = gradients(GroupForward(rough, 1.0, tokens_at_once=tokens_at_once), rough, asked)
    assert scores.logprobs_N.dtype == torch.float32
    assert error(found, expected)[0] < 0.1


def test_work_is_counted_tower_once_per_picture_and_prompt_once_per_group(policy_of):
    policy = policy_of()
    patches: list[int] = []
    tokens: list[int] = []
    core = policy.model.model
    core.visual.register_forward_pre_hook(lambda module, args, kwargs: patches.append(len(args[0])), with_kwargs=True)
    core.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["inputs_embeds"].shape[0] * kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    count, choice = prompts(policy, ["count", "choice"])
    GroupForward(policy, 1.0)([(count, [completion([1, 2, 3, 4])] * 8)])
    assert patches == [64]
    assert tokens == [len(count.input_ids), 8 * 3]
    patches.clear()
    longer = replace(count, input_ids=(*count.input_ids, 5, 6))  # another question about the same picture, in one batch
    GroupForward(policy, 1.0)([(count, [completion([1])] * 2), (longer, [completion([1])] * 2), (choice, [completion([1])] * 2)])
    assert patches == [64 + 16]


def test_a_split_group_sees_its_picture_and_prompt_once(policy_of):
    policy = policy_of()
    seen: list[int] = []
    core = policy.model.model
    core.visual.register_forward_pre_hook(lambda module, args, kwargs: seen.append(-1), with_kwargs=True)
    core.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"].shape[0] * kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    (prompt,) = prompts(policy, ["count"])
    group = [(prompt, [completion([1, 2, 3, 4])] * 4)]
    GroupForward(policy, 1.0, tokens_at_once=1)(group, uneven_loss).loss.backward()
    assert seen == [-1, len(prompt.input_ids), 3, 3, 3, 3]


@pytest.mark.parametrize("tokens_at_once", [None, 1])
def test_the_check_of_the_first_step_measures_agreement(tokens_at_once, policy_of, monkeypatch):
    policy = policy_of()
    (prompt,) = prompts(policy, ["box"])
    forward = GroupForward(policy, 1.0, tokens_at_once=tokens_at_once)
    asked = (prompt, random_completions(2, longest=6, seed=0))
    agreement = forward.agreement(asked)
    assert agreement.holds
    assert max(agreement.exact) < 1e-4
    honest = group_forward.prefill
    shifted = lambda policy, prompts: replace(honest(policy, prompts), next_position_P=torch.zeros(1, dtype=torch.long))  # noqa: E731
    monkeypatch.setattr(group_forward, "prefill", shifted)
    agreement = forward.agreement(asked)
    assert not agreement.holds
    assert max(agreement.exact) > 1e-3


def test_rounding_to_a_narrow_type_is_no_disagreement_however_coarse():
    """Sharp logits in a deeper model: bfloat16 costs plain rows as much as it costs the group forward, and no limit of its own is met."""
    policy = load_policy(PolicyConfig(dtype="bfloat16", tiny=Tiny(layers=8, hidden=256)), seed=0)
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(6)
    (prompt,) = prompts(policy, ["box"])
    agreement = GroupForward(policy, 1.0).agreement((prompt, random_completions(2, longest=12, seed=0)))
    assert agreement.holds
    assert max(agreement.exact) < 1e-4
    assert max(agreement.narrow) > 1e-3
    assert max(agreement.plain) > 1e-3


def test_a_wrong_position_is_a_disagreement_in_a_narrow_type_too(policy_of, monkeypatch):
    policy = policy_of(dtype="bfloat16")
    (prompt,) = prompts(policy, ["box"])
    honest = group_forward.prefill

    def shifted(policy, prompts):
        prefix = honest(policy, prompts)
        return replace(prefix, next_position_P=prefix.next_position_P + 1)

    monkeypatch.setattr(group_forward, "prefill", shifted)
    assert not GroupForward(policy, 1.0).agreement((prompt, random_completions(2, longest=6, seed=0))).holds


@pytest.mark.parametrize(
    ("narrow", "holds"), [((0.2, 0.1), True), ((0.009, 0.1), True), ((0.2, 0.6), False), ((math.nan, 0.1), False), ((0.6, 0.1), False)]
)
def test_the_narrow_type_is_judged_by_what_plain_rows_lose_in_it(narrow, holds):
    """By hand: plain rows lose 0.1 and 0.05 (0 and 0.05 in the second row); five times that is allowed, or 0.01."""
    plain = (0.0, 0.05) if narrow[0] == 0.009 else (0.1, 0.05)
    assert Agreement(torch.float32, (1e-6, 1e-5), narrow, plain).holds == holds


def test_a_kernel_that_fails_only_in_the_type_of_the_weights_leaves_the_narrow_type_to_be_judged(policy_of, monkeypatch):
    policy = policy_of(dtype="bfloat16")
    (prompt,) = prompts(policy, ["box"])
    honest = group_forward.prefill

    def narrow_only(policy, prompts):
        if policy.dtype == torch.float32:
            raise RuntimeError("out of resource: shared memory")
        return honest(policy, prompts)

    monkeypatch.setattr(group_forward, "prefill", narrow_only)
    agreement = GroupForward(policy, 1.0).agreement((prompt, random_completions(2, longest=6, seed=0)))
    assert agreement.holds
    assert str(agreement).startswith("not comparable in float32; computed in the narrower type")
