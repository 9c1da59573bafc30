"""Dropout of adapters: in the update alone, with masks that are addressed."""

import peft
import pytest
import torch
from torch import nn

from gpg_vl.config.schema import OptimizerConfig
from gpg_vl.methods.gpg import Gpg
from gpg_vl.policy.dropout import adapter_dropout, drops_inputs
from gpg_vl.policy.group_forward import GroupForward
from tests.asking import make_learner, prompts, random_completions, take_update
from tests.hand_made import group


def with_adapters(policy, dropout: float):
    """Put adapters into every layer of the language model; their B is not zero."""
    config = peft.LoraConfig(
        r=4,
        lora_dropout=dropout,
        target_modules=r".*language_model\.layers\..*\.(q_proj|v_proj|down_proj)",
    )
    torch.manual_seed(0)
    peft.inject_adapter_in_model(config, policy.model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            parameter.requires_grad_("lora_" in name)
            if "lora_" in name:
                parameter.data = parameter.data.double()
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    policy.model.eval()
    return policy


def groups_of(policy):
    return [
        group(
            [1.0, 0.0, 0.0, 1.0],
            random_completions(4, longest=7, seed=place),
            asked=prompt,
            draw=place,
        )
        for place, prompt in enumerate(prompts(policy, ["count", "add"]))
    ]


def gradients(policy_of, dropout=0.5, *, seed=0, tokens=1 << 20, updates=1, checkpointing=False):
    """Return the adapters' gradients of the last of several updates that move (almost) nothing."""
    policy = with_adapters(policy_of(dtype="float64", vision="frozen"), dropout)
    forward = GroupForward(policy, 1.0, tokens_at_once=tokens, checkpointing=checkpointing)
    config = OptimizerConfig(lr=1e-30, clip_norm=1e9)
    learner = make_learner(
        forward, Gpg(min_informative=0.0), config, seed=seed, tokens=tokens, total_steps=9
    )
    for _ in range(updates):
        assert not take_update(learner, groups_of(policy)).skipped
    assert not drops_inputs(policy.model.modules()), "off again"
    return torch.cat([parameter.grad.flatten() for parameter in learner.trained])


@pytest.mark.parametrize("tokens", [1 << 20, 60], ids=["whole", "split"])
def test_layers_that_run_again_drop_the_same_inputs(tokens, policy_of):
    plain = gradients(policy_of, tokens=tokens)
    again = gradients(policy_of, tokens=tokens, checkpointing=True)
    torch.testing.assert_close(again, plain, rtol=1e-9, atol=1e-12)
    without = gradients(policy_of, 0.0, tokens=tokens)
    assert (plain - without).norm() > 0.1 * without.norm()


def test_masks_are_those_of_the_seed_and_of_the_update(policy_of):
    first = gradients(policy_of)
    torch.rand(7)  # the global stream is somewhere else
    assert torch.equal(gradients(policy_of), first)
    assert not torch.allclose(gradients(policy_of, seed=1), first)
    assert not torch.allclose(gradients(policy_of, updates=2), first)
    none = gradients(policy_of, 0.0)
    assert torch.equal(gradients(policy_of, 0.0, seed=1), none)
    assert torch.equal(gradients(policy_of, 0.0, updates=2), none)


def test_scores_without_a_gradient_are_without_dropout_and_no_stream_moves(policy_of):
    policy = with_adapters(policy_of(dtype="float64"), 0.5)
    asked = [(own.prompt, own.completions) for own in groups_of(policy)]
    forward = GroupForward(policy, 1.0)
    before, state = forward(asked).logprobs_N, torch.get_rng_state()
    learner = make_learner(forward, Gpg(min_informative=0.0), OptimizerConfig(lr=1e-30))
    take_update(learner, groups_of(policy))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(forward(asked).logprobs_N, before)
    with adapter_dropout(policy.model, 0, "here"):
        assert not torch.allclose(forward(asked).logprobs_N, before)
    assert torch.equal(forward(asked).logprobs_N, before)


def test_only_dropout_of_adapters_is_turned_on():
    class Layer(nn.Module):
        def __init__(self, rate: float) -> None:
            super().__init__()
            own = nn.Dropout(rate) if rate else nn.Identity()
            self.lora_dropout = nn.ModuleDict({"default": own})
            self.attention_dropout = nn.Dropout(0.5)

    for rate, on in ((0.25, True), (0.0, False)):
        model = nn.Sequential(Layer(rate)).eval()
        state = torch.get_rng_state()
        with adapter_dropout(model, 0, "a"):
            assert model[0].lora_dropout["default"].training == on
            assert not model[0].attention_dropout.training
            assert drops_inputs(model.modules()) == on
            first = torch.rand(3)
        assert not drops_inputs(model.modules())
        with adapter_dropout(model, 0, "a"):
            assert torch.equal(torch.rand(3), first) == on
        torch.set_rng_state(state)


def test_dropout_is_off_again_after_an_error():
    model = nn.Sequential(nn.Linear(1, 1))
    model[0].lora_dropout = nn.ModuleDict({"default": nn.Dropout(0.5)})
    model.eval()
    with pytest.raises(ValueError, match="here"), adapter_dropout(model, 0):
        raise ValueError("here")
    assert not drops_inputs(model.modules())
