"""Adapters that training would refuse, found by names and sizes alone; and those that it takes."""

import re
from dataclasses import replace

import pytest

from gpg_vl.errors import UserError
from gpg_vl.preflight.adapter_checks import check_adapters, parts_to_train_on
from tests.workloads import MODEL, adapter_on, run_of

LANGUAGE = {"model.language_model.layers.0.self_attn.q_proj": (1000, 1000)}
HEAD = {"lm_head": (1000, 1000)}
TOWER = {"model.visual.blocks.0.attn.qkv": (100, 300)}
COPY = "lm_head.base_layer.weight"
MERGER = "model.visual.merger.mlp.0.weight"


@pytest.mark.parametrize(
    ("knobs", "why"),
    [
        (
            ["policy.language=lora", "policy.lora.targets=[q_proj,fc1]"],
            "policy.lora.targets: 'fc1' matches no matrix of the parts set to lora; they have "
            "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj",
        ),
        (
            ["policy.language=lora", "policy.lora.targets=[q_porj]"],
            "policy.lora.targets: 'q_porj' matches no matrix of the parts set to lora; did you "
            "mean q_proj? They have down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj",
        ),
        (
            ["policy.language=frozen", "policy.projector=lora"],
            "policy.projector: got lora, and the projector of this model has no matrices in layers;"
            " set policy.projector to frozen, or to full",
        ),
        (
            ["policy.language=lora", "policy.vision=lora", "policy.lora.targets=[q_proj,o_proj]"],
            "policy.lora.targets: q_proj, o_proj match no matrix of vision, and policy.vision is "
            "lora; set it to frozen, or name matrices of it",
        ),
    ],
)
def test_targets_that_training_refuses(knobs, why):
    size = replace(MODEL, projector=()) if "policy.projector=lora" in knobs else MODEL
    with pytest.raises(UserError, match=f"^{re.escape(why)}$"):
        check_adapters(run_of(*knobs, size=size))


@pytest.mark.parametrize(
    "knobs",
    [
        ["policy.lora.targets=[fc1]"],  # of no use, and no harm
        ["policy.language=lora"],
        ["policy.language=lora", "policy.lora.targets=[model.language_model.layers.0.mlp.up_proj]"],
        ["policy.language=lora", "policy.vision=lora", "policy.lora.targets=[q_proj,fc1]"],
    ],
)
def test_targets_that_training_takes(knobs):
    check_adapters(run_of(*knobs))


@pytest.mark.parametrize(
    ("ends", "whole", "knobs", "why"),
    [
        (LANGUAGE, (), [], "lacks the tensors of projector, and policy.projector is full; set "),
        (
            LANGUAGE | TOWER,
            (),
            ["policy.projector=frozen"],
            "has matrices in vision, and policy.vision is frozen; set policy.vision to lora",
        ),
        (
            LANGUAGE,
            (),
            ["policy.projector=frozen", "policy.vision=lora"],
            "has no matrix in vision, and policy.vision is lora; set policy.vision to frozen",
        ),
        (
            LANGUAGE,
            (MERGER,),
            ["policy.projector=frozen"],
            f"holds {MERGER} as a whole, and policy.projector is frozen; set policy.projector to "
            "full, or merge the adapter first",
        ),
        (
            LANGUAGE | HEAD,
            (),
            ["policy.projector=frozen"],
            "changes the head (lm_head), which is not trained here; merge it first (gpg-vl export "
            "--merged), and name that folder",
        ),
    ],
)
def test_an_adapter_of_other_parts_than_the_config_trains_is_refused(ends, whole, knobs, why):
    adapter = adapter_on(ends, whole=whole)
    run = replace(run_of("policy.language=lora", *knobs), adapter=adapter)
    with pytest.raises(UserError, match=f"^policy.model: /adapter: its adapter {re.escape(why)}"):
        check_adapters(run)


@pytest.mark.parametrize(
    ("ends", "whole", "knobs"),
    [
        # targets are not looked at
        (LANGUAGE, (MERGER,), ["policy.language=lora", "policy.lora.targets=[fc1]"]),
        # a copy of a matrix of the base model
        (LANGUAGE, (COPY,), ["policy.language=lora", "policy.projector=frozen"]),
        (
            LANGUAGE | TOWER,
            (),
            ["policy.language=lora", "policy.projector=frozen", "policy.vision=lora"],
        ),
        (LANGUAGE, (), []),  # it is merged
        (LANGUAGE | HEAD, (), []),
    ],
)
def test_an_adapter_that_is_trained_on_or_merged_passes(ends, whole, knobs):
    check_adapters(replace(run_of(*knobs), adapter=adapter_on(ends, whole=whole)))


def test_an_adapter_that_no_config_trains_on_has_no_parts():
    frozen = {"language": "lora", "projector": "frozen", "vision": "frozen"}
    assert parts_to_train_on(adapter_on(LANGUAGE)) == frozen
    assert parts_to_train_on(adapter_on(LANGUAGE | HEAD)) == {}
    assert parts_to_train_on(adapter_on({}, whole=(MERGER,))) == {}
    assert parts_to_train_on(adapter_on(TOWER, whole=("lm_head.weight",))) == {}
