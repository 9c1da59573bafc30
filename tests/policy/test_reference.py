"""The policy as it was before the first step, computed by the present model."""

import pytest
import torch

from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.reference import Reference, first_values
from tests.adapted import LANGUAGE, TOWER, moved, tiny
from tests.policy.test_group_forward import gradients, questions

PARTS = [
    {"language": "full", "vision": "full", "projector": "full"},
    {"language": "full", "vision": "frozen", "projector": "frozen"},
    {**TOWER, "projector": "full"},
]


@pytest.mark.parametrize("parts", PARTS)
def test_the_first_policy_is_computed_exactly_and_the_present_one_comes_back(parts):
    policy, first = moved(tiny(**parts)), moved(tiny(**parts))
    forward = GroupForward(policy, 1.0)
    reference = Reference(forward, first_values(policy))
    asked = questions(policy, "qwen2_5_vl", 3)
    moved(policy, 0.02)
    present = forward(asked).logprobs_N
    expected = GroupForward(first, 1.0)(asked).logprobs_N
    assert torch.equal(reference.logprobs(asked), expected)
    assert torch.equal(forward(asked).logprobs_N, present)
    assert (present - expected).abs().max() > 1e-4
    assert not reference.logprobs(asked).requires_grad


def test_new_adapters_are_turned_off():
    base, policy = tiny(language="full"), tiny(**LANGUAGE)
    forward = GroupForward(policy, 1.0)
    moved(policy)
    asked = questions(policy, "qwen2_5_vl", 3)
    expected = GroupForward(base, 1.0)(asked).logprobs_N
    assert torch.equal(Reference(forward, None).logprobs(asked), expected)


def test_a_gradient_after_the_reference_is_that_without_it():
    policy = moved(tiny(**{**TOWER, "projector": "full"}))
    forward = GroupForward(policy, 1.0)
    asked = questions(policy, "qwen2_5_vl", 3)
    _, expected = gradients(forward, policy, asked)
    for reference in (Reference(forward, None), Reference(forward, first_values(policy))):
        reference.logprobs(asked)
        _, found = gradients(forward, policy, asked)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
