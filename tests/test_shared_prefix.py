"""Image and prompt once per group: the same numbers as one row per completion, and really only once."""

from dataclasses import replace

import pytest
import torch

from gpg_vl.policy import shared_prefix
from gpg_vl.policy.logprobs import PlainForward, allowed_logits, score
from gpg_vl.policy.shared_prefix import GroupForward

from .asking import completion, prompts, random_completions
from .conftest import FAMILIES


def loss_and_gradient(forward, policy, asked):
    policy.model.zero_grad()
    scores = forward(asked)
    weights = torch.linspace(-1, 1, len(scores.logprobs_N), dtype=scores.logprobs_N.dtype)
    (weights * scores.logprobs_N).sum().backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in policy.model.parameters() if parameter.grad is not None])
    return scores, gradient


def uneven(policy, rows=4):
    return [(prompt, random_completions(rows - index % 2, longest=7, seed=index)) for index, prompt in enumerate(prompts(policy))]


@pytest.mark.parametrize("family", FAMILIES)
def test_group_forward_is_its_slow_twin(family, policy_of):
    policy = policy_of(family, dtype="float64")
    asked = uneven(policy)
    plain, plain_gradient = loss_and_gradient(PlainForward(policy, 0.9), policy, asked)
    shared, shared_gradient = loss_and_gradient(GroupForward(policy, 0.9), policy, asked)
    assert torch.allclose(plain.logprobs_N, shared.logprobs_N, atol=1e-6)
    assert torch.allclose(plain.entropy_N, shared.entropy_N, atol=1e-6)
    assert (plain_gradient - shared_gradient).norm() / plain_gradient.norm() < 1e-6


def test_frozen_tower_gets_no_gradient_and_the_rest_is_unchanged(policy_of):
    policy = policy_of(dtype="float64", vision="frozen")
    asked = uneven(policy)
    _, plain = loss_and_gradient(PlainForward(policy, 1.0), policy, asked)
    _, shared = loss_and_gradient(GroupForward(policy, 1.0), policy, asked)
    assert len(shared) == sum(parameter.numel() for parameter in policy.model.parameters() if parameter.requires_grad)
    assert (plain - shared).norm() / plain.norm() < 1e-6


def test_positions_off_by_one_are_noticed(policy_of, monkeypatch):
    policy = policy_of(dtype="float64")
    asked = uneven(policy)
    _, plain = loss_and_gradient(PlainForward(policy, 1.0), policy, asked)
    prefill = shared_prefix.prefill

    def one_further(policy, prompts):
        prefix = prefill(policy, prompts)
        return replace(prefix, next_position_P=prefix.next_position_P + 1)

    monkeypatch.setattr(shared_prefix, "prefill", one_further)
    _, wrong = loss_and_gradient(GroupForward(policy, 1.0), policy, asked)
    assert (plain - wrong).norm() / plain.norm() > 1e-4


def test_tower_and_prompt_run_once_per_group(policy_of):
    policy = policy_of()
    patches: list[int] = []
    tokens: list[int] = []
    core = policy.model.model
    core.visual.register_forward_pre_hook(lambda module, args, kwargs: patches.append(len(args[0])), with_kwargs=True)
    core.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["inputs_embeds"].shape[0] * kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    (prompt,) = prompts(policy, ["count"])
    GroupForward(policy, 1.0)([(prompt, [completion([1, 2, 3, 4])] * 8)])
    assert patches == [64]
    assert tokens == [len(prompt.input_ids), 8 * 3]


def test_bfloat16_composes(policy_of):
    policy = policy_of(dtype="bfloat16")
    exact = policy_of()
    asked = uneven(policy)
    rough, fine = GroupForward(policy, 1.0)(asked).logprobs_N, GroupForward(exact, 1.0)(asked).logprobs_N
    assert rough.dtype == torch.float32
    assert (rough - fine).abs().max() < 0.1


def test_temperature_and_ban_by_hand():
    logits = torch.tensor([[0.0, 2.0, 100.0]])
    scores = score(logits, torch.tensor([1]), temperature=2.0, banned_ids=[2])
    one_of_two = 1 / (1 + torch.e**-1.0)
    assert scores.logprobs_N.item() == pytest.approx(torch.log(torch.tensor(one_of_two)).item())
    entropy = -(one_of_two * torch.log(torch.tensor(one_of_two)) + (1 - one_of_two) * torch.log(torch.tensor(1 - one_of_two)))
    assert scores.entropy_N.item() == pytest.approx(entropy.item(), rel=1e-5)
    assert allowed_logits(logits, 1.0, [2])[0, 2] == -torch.inf


def test_a_banned_token_has_no_finite_score_and_poisons_no_gradient():
    logits = torch.zeros(1, 3, requires_grad=True)
    scores = score(logits, torch.tensor([0]), temperature=1.0, banned_ids=[2])
    scores.logprobs_N.sum().backward()
    assert torch.isfinite(logits.grad).all()
