"""Matrices in 4 bits: what is stored, gradients of adapters on them against plain rows."""

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit

from gpg_vl.config.schema import Tiny
from gpg_vl.errors import UserError
from gpg_vl.policy import quantised
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.plain_forward import UnsharedForward
from tests.adapted import LANGUAGE, moved, tiny
from tests.policy.test_group_forward import error, gradients, questions

NF4 = {**LANGUAGE, "quantise": "nf4", "dtype": "float32"}


@pytest.mark.parametrize(
    ("tokens_at_once", "checkpointing"), [(None, False), (1, False), (None, True), (200, True)]
)
@pytest.mark.parametrize("vision", ["frozen", "lora"])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_gradients_agree_with_plain_rows_in_the_same_mode(
    family, vision, tokens_at_once, checkpointing
):
    knobs = {**NF4, "vision": vision}
    oracle, policy = moved(tiny(family, **knobs)), moved(tiny(family, **knobs))
    _, expected = gradients(UnsharedForward(oracle, 0.9), oracle, questions(oracle, family, 4))
    forward = GroupForward(policy, 0.9, tokens_at_once=tokens_at_once, checkpointing=checkpointing)
    _, found = gradients(forward, policy, questions(policy, family, 4))
    assert error(found, expected)[0] <= 1e-5


def test_the_matrices_of_the_language_models_layers_are_stored_in_four_bits_and_no_others():
    policy, whole = tiny(**{**NF4, "vision": "lora"}), tiny(language="full", dtype="float32")
    stored = quantised.weights(policy.model)
    layers = range(2)
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    names += ("mlp.gate_proj", "mlp.up_proj")  # not down_proj, whose rows have 352 numbers
    assert set(stored) == {
        f"model.language_model.layers.{layer}.{name}.base_layer.weight"
        for layer in layers
        for name in names
    }
    expected = dict(whole.model.named_parameters())
    for name, layer in stored.items():
        own = expected[name.replace(".base_layer", "")]
        assert layer.weight.dtype == torch.uint8
        assert layer.weight.numel() == own.numel() // 2
        plain = quantised.plain_weight(layer)
        assert torch.equal(plain, dequantize_4bit(layer.weight.data, layer.weight.quant_state))
        # 16 places for numbers between -1 and 1 times the largest of 64: the widest gap is 0.3
        assert (plain - own).detach().abs().max() <= 0.16 * own.detach().abs().max()
        assert 0.08 < float(((plain - own).norm() / own.norm()).detach()) < 0.1


def test_a_quantised_adapter_is_read_back_and_written_whole(tmp_path):
    policy = moved(tiny(**NF4))
    policy.save(tmp_path / "adapter")
    again = tiny(**NF4, path=tmp_path / "adapter")
    asked = questions(policy, "qwen2_5_vl", 3)
    found = GroupForward(policy, 1.0)(asked).logprobs_N
    assert torch.equal(found, GroupForward(again, 1.0)(asked).logprobs_N)
    policy.save_whole(tmp_path / "whole")
    whole = tiny(language="full", dtype="float32", model=str(tmp_path / "whole"))
    merged = GroupForward(whole, 1.0)(asked).logprobs_N
    torch.testing.assert_close(found, merged, rtol=0, atol=1e-4)


def test_the_check_of_the_first_step_computes_in_float32():
    policy = moved(tiny(**{**NF4, "dtype": "bfloat16"}))
    agreement = GroupForward(policy, 1.0).agreement(questions(policy, "qwen2_5_vl", 2)[0])
    assert agreement.holds, str(agreement)
    assert agreement.exact is not None
    assert agreement.narrow is not None
    assert max(agreement.exact) < 1e-4 < min(agreement.narrow)
    types = {layer.compute_dtype for layer in quantised.weights(policy.model).values()}
    assert types == {torch.bfloat16}


def test_a_merged_matrix_is_the_one_that_is_computed_with():
    policy = moved(tiny(**NF4))
    asked = questions(policy, "qwen2_5_vl", 3)
    apart = GroupForward(policy, 1.0)(asked).logprobs_N
    with torch.no_grad(), policy.adapters.merged(torch.float32, at_each_use=True):
        together = GroupForward(policy, 1.0)(asked).logprobs_N
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-4)
    assert policy.adapters.is_quantised


def test_a_model_without_a_matrix_that_can_be_stored_so_is_refused():
    with pytest.raises(UserError, match=r"policy.quantise: no matrix .* rows of 64 numbers"):
        tiny(**NF4, tiny=Tiny(hidden=32, layers=1))
