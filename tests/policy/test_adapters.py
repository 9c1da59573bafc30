"""Adapters: gradients against plain rows in every family, merging, the base model, files."""

from dataclasses import replace
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForImageTextToText

from gpg_vl.config.schema import LoraConfig, PolicyConfig
from gpg_vl.errors import UserError
from gpg_vl.policy import adapter_files, adapters, group_forward
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.load import fill
from gpg_vl.policy.plain_forward import UnsharedForward
from gpg_vl.policy.vision import Features
from tests.adapted import LANGUAGE, PROJECTOR, TOWER, adapted, moved, tiny
from tests.conftest import FAMILIES
from tests.policy.test_group_forward import error, gradients, questions

SPLITS = [(None, False), (200, False), (1, False), (None, True), (200, True)]
"""(tokens at once, checkpointing)."""


@pytest.mark.parametrize(("tokens_at_once", "checkpointing"), SPLITS)
@pytest.mark.parametrize("parts", [LANGUAGE, TOWER, {**TOWER, "projector": "full"}])
@pytest.mark.parametrize("family", [*FAMILIES, "internvl"])
def test_gradients_of_adapters_agree_with_plain_rows(family, parts, tokens_at_once, checkpointing):
    oracle, policy = adapted(family, parts), adapted(family, parts)
    _, expected = gradients(UnsharedForward(oracle, 0.9), oracle, questions(oracle, family, 4))
    forward = GroupForward(policy, 0.9, tokens_at_once=tokens_at_once, checkpointing=checkpointing)
    _, found = gradients(forward, policy, questions(policy, family, 4))
    whole, worst = error(found, expected)
    assert whole <= 1e-6
    assert worst <= 1e-5
    assert all(adapters.is_trained_name(name) for name in found)
    assert any("visual" in name or "vision" in name for name in found) == (parts != LANGUAGE)


def test_another_adapter_is_noticed():
    """The negative control of the test above: one matrix of one layer is another."""
    policy = adapted("qwen2_5_vl", LANGUAGE)
    asked = questions(policy, "qwen2_5_vl", 4)
    _, expected = gradients(UnsharedForward(policy, 0.9), policy, asked)
    (_, layer), *_ = policy.adapters.layers()
    with torch.no_grad():
        layer.lora_B["default"].weight[0, 0] += 0.05
    _, found = gradients(GroupForward(policy, 0.9), policy, asked)
    assert error(found, expected)[0] > 1e-4


def test_new_adapters_change_nothing():
    policy, base = tiny(), tiny(language="full")
    asked = questions(policy, "qwen2_5_vl", 3)
    found = GroupForward(policy, 1.0)(asked).logprobs_N
    assert torch.equal(found, GroupForward(base, 1.0)(asked).logprobs_N)


def test_drawing_adapters_and_a_tiny_model_leaves_the_caller_s_generators_alone(monkeypatch):
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    tiny()
    assert torch.equal(torch.get_rng_state(), before)
    assert seeded == [7], "of GPUs, by this test alone"


def test_a_policy_filled_from_a_file_is_as_if_it_had_been_loaded_from_it(tmp_path):
    policy, other = tiny(), moved(tiny())
    other.save(tmp_path)
    gradients(GroupForward(moved(policy, 0.2), 1.0), policy, questions(policy, "qwen2_5_vl", 3))
    policy.vision.cache.put("a picture", Features(torch.zeros(1, 2)))
    assert policy.vision.cache.cached
    policy.sharing.why_not = "the first step found something"
    values = policy.adapters.read(adapter_files.read(tmp_path, "checkpoint"), "checkpoint")
    filled = fill(policy, dict(values), PolicyConfig(**LANGUAGE))
    assert filled.model is policy.model
    assert (filled.sharing.why_not, filled.vision.cache.cached) == ("", {})
    expected = dict(other.model.named_parameters())
    for name, parameter in filled.model.named_parameters():
        assert torch.equal(parameter, expected[name]), name
        assert parameter.requires_grad == expected[name].requires_grad
        assert parameter.grad is None


@pytest.mark.parametrize("parts", [TOWER, {**TOWER, "projector": "full"}])
def test_adapters_that_are_off_leave_the_base_model_exactly(parts):
    policy, base = moved(tiny(**parts)), tiny(language="full")
    asked = questions(policy, "qwen2_5_vl", 3)
    on = GroupForward(policy, 1.0)(asked).logprobs_N
    trained = [parameter.requires_grad for parameter in policy.model.parameters()]
    with torch.no_grad(), policy.adapters.off():
        found = GroupForward(policy, 1.0)(asked).logprobs_N
    assert torch.equal(found, GroupForward(base, 1.0)(asked).logprobs_N)
    assert torch.equal(GroupForward(policy, 1.0)(asked).logprobs_N, on)
    assert (on - found).abs().max() > 1e-3
    assert [parameter.requires_grad for parameter in policy.model.parameters()] == trained


@pytest.mark.parametrize("at_each_use", [False, True])
def test_merged_for_a_while_is_the_same_model_and_leaves_no_trace(at_each_use):
    policy = moved(tiny(**TOWER))
    asked = questions(policy, "qwen2_5_vl", 3)
    before = {name: tensor.clone() for name, tensor in policy.model.named_parameters()}
    apart = GroupForward(policy, 1.0)(asked).logprobs_N
    with torch.no_grad(), policy.adapters.merged(torch.float64, at_each_use=at_each_use):
        assert not [*policy.adapters.layers()]
        together = GroupForward(policy, 1.0)(asked).logprobs_N
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-6)
    after = dict(policy.model.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_merged_matrix_by_hand():
    policy = moved(tiny())
    (name, layer), *_ = policy.adapters.layers()
    parts: Any = layer
    down, up = parts.lora_A["default"].weight, parts.lora_B["default"].weight
    expected = parts.base_layer.weight + 32 / 4 * (up @ down)
    assert name == "model.language_model.layers.0.self_attn.q_proj"
    torch.testing.assert_close(adapters.merged_weight(layer), expected)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("parts", [LANGUAGE, {**TOWER, "projector": "full"}])
def test_a_checkpoint_is_read_back_and_is_what_peft_reads(parts, tmp_path):
    policy = moved(tiny(**parts))
    policy.save(tmp_path / "saved")
    expected = dict(policy.model.named_parameters())
    for again in (
        tiny(**parts, path=tmp_path / "saved"),
        tiny(**parts, model=str(tmp_path / "saved")),
    ):
        found = dict(again.model.named_parameters())
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    policy.save_whole(tmp_path / "whole")
    base = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "saved" / "base", dtype=torch.float64
    )
    theirs = peft.PeftModel.from_pretrained(
        base, tmp_path / "saved", autocast_adapter_dtype=False
    ).to(torch.float64)
    merged = dict(theirs.merge_and_unload().named_parameters())
    ours = AutoModelForImageTextToText.from_pretrained(tmp_path / "whole", dtype=torch.float64)
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, merged[name]), name


def test_an_adapter_is_merged_where_parts_are_trained_as_a_whole(tmp_path):
    policy = moved(tiny(**PROJECTOR))
    policy.save(tmp_path)
    whole = tiny(language="full", projector="full", model=str(tmp_path))
    assert whole.adapters is None
    expected = dict(policy.adapters.whole_state())
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, expected[name]), name
        assert parameter.requires_grad == ("visual" not in name or "merger" in name)


def test_targets_are_all_matrices_of_the_layers_of_a_part():
    by_part = {
        "language": {*"qkvo"} | {"gate", "up", "down"},
        "vision": {"qkv", "proj", "gate_proj", "up_proj", "down_proj"},
    }
    names = {name for name, _ in tiny(**TOWER).adapters.layers()}
    language = {name for name in names if "language_model" in name}
    ends = {name.rpartition(".")[2].removesuffix("_proj") for name in language}
    assert ends == by_part["language"]
    assert {name.rpartition(".")[2] for name in names - language} == by_part["vision"]
    assert len(language) == 2 * 7


def test_chosen_targets():
    policy = tiny(lora=LoraConfig(targets=("q_proj", "mlp.down_proj")))
    found = [name.partition("layers.")[2] for name, _ in policy.adapters.layers()]
    assert found == [
        f"{layer}.{name}" for layer in (0, 1) for name in ("self_attn.q_proj", "mlp.down_proj")
    ]


def test_names_of_layers_become_one_pattern():
    names = ["a.layers.0.up", "a.layers.11.up", "a.blocks.3.mlp.fc1"]
    assert adapters.pattern(names) == r"a\.layers\.\d+\.up|a\.blocks\.\d+\.mlp\.fc1"


def test_a_target_that_matches_nothing_is_named_with_the_nearest():
    with pytest.raises(UserError) as refusal:
        tiny(lora=LoraConfig(targets=("q_proj", "gate")))
    assert str(refusal.value) == (
        "policy.lora.targets: 'gate' matches no matrix of the parts set to lora; did you mean "
        "gate_proj? They have down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    )


def test_a_part_that_would_get_no_adapter_is_refused():
    """It would not be trained, and its checkpoint could not be read back."""
    with pytest.raises(UserError, match=r"q_proj match no matrix of vision, and policy\.vision is"):
        tiny(**TOWER, lora=LoraConfig(targets=("q_proj",)))
    with pytest.raises(UserError, match=r"policy\.projector: got lora, and .* model has no matri"):
        adapted("gemma3", {**LANGUAGE, "projector": "lora"})


@pytest.mark.parametrize("kind", ["bfloat16", "float32", "float64"])
def test_types_that_weights_are_held_in(kind):
    policy = tiny(dtype=kind, projector="full", vision="frozen")
    wide = torch.float64 if kind == "float64" else torch.float32
    for name, parameter in policy.model.named_parameters():
        expected = wide if parameter.requires_grad else getattr(torch, kind)
        assert parameter.dtype == expected, name


@pytest.mark.parametrize(
    ("weights", "held"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_frozen_parts_are_held_in_the_type_that_is_computed_in(weights, held):
    policy = tiny(language="full", dtype="bfloat16", weights=weights)
    for name, parameter in policy.model.named_parameters():
        expected = torch.bfloat16 if "visual" in name else held
        assert parameter.dtype == expected, name


@pytest.mark.parametrize("tokens_at_once", [None, 1])
@pytest.mark.parametrize(
    "knobs",
    [LANGUAGE, {**TOWER, "projector": "full"}, {"language": "full", "weights": "bfloat16"}],
)
def test_the_check_of_the_first_step_tells_rounding_from_a_mistake(
    knobs, tokens_at_once, monkeypatch
):
    """Weights that are held in bfloat16 are compared in float32, in which a mistake shows."""
    policy = moved(tiny(dtype="bfloat16", **knobs))
    forward = GroupForward(policy, 1.0, tokens_at_once=tokens_at_once)
    asked = questions(policy, "qwen2_5_vl", 2)[0]
    agreement = forward.agreement(asked)
    assert agreement.holds, str(agreement)
    assert agreement.weights_type == torch.float32
    assert agreement.exact is not None
    assert agreement.narrow is not None
    assert max(agreement.exact) < 1e-4
    assert min(agreement.narrow) > 1e-4
    extend = group_forward.extend

    def one_later(policy, prefix, tokens, start, cache):
        later = replace(prefix, next_position_P=prefix.next_position_P + 1)
        return extend(policy, later, tokens, start, cache)

    monkeypatch.setattr(group_forward, "extend", one_later)
    assert not forward.agreement(asked).holds


@pytest.mark.parametrize("family", FAMILIES)
def test_the_matrices_of_a_projector_have_other_layers_between_them(family):
    """A pattern of numbers would match the activation in the middle, too."""
    policy = tiny(family, language="frozen", projector="lora", vision="frozen")
    names = {name for name, _ in policy.adapters.layers()}
    linear: set[str] = set()
    for name, module in tiny(family, language="full").model.named_modules():
        if "merger" in name and isinstance(module, torch.nn.Linear):
            linear.add(name)
    assert names == linear
