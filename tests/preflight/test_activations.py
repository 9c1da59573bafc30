"""Count what autograd saves in real layers, trained whole, in bfloat16 and by adapters, and compare
it with the formulas."""

from dataclasses import replace
from typing import Any

import peft
import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from gpg_vl.config.schema import LoraConfig, PolicyConfig, Tiny
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.load import Policy, load_policy
from gpg_vl.policy.part_names import part_of
from gpg_vl.policy.sizes import size_of
from gpg_vl.preflight import activations
from gpg_vl.preflight.activations import Kept
from gpg_vl.preflight.storage import Storage
from tests.asking import prompts
from tests.hand_made import completion
from tests.workloads import MODEL, run_of

FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
RANK = 12
"""A rank that no other size of the model is equal to."""
METHODS: dict[str, dict[str, Any]] = {
    "whole": {},
    "half": {"weights": "bfloat16"},
    "lora": {"lora": LoraConfig(rank=RANK)},
    "few": {"lora": LoraConfig(rank=RANK, targets=("q_proj", "v_proj", "qkv"))},
}


def trained_policy(config: PolicyConfig, part: str) -> Policy:
    """Return a policy whose parts are stored as the config says, put together by hand."""
    whole = {"language": "full", "projector": "full", "vision": config.vision}
    if config.vision == "lora":
        whole["vision"] = "full"
    plain = PolicyConfig.model_validate({"tiny": config.tiny, "dtype": config.dtype, **whole})
    policy = load_policy(plain, seed=0)
    model = policy.model
    if config.weights == "bfloat16":
        model.to(torch.bfloat16)
    if not config.trains_adapters:
        return policy
    model.to(policy.dtype).requires_grad_(False)
    names: list[str] = []
    for name, module in model.named_modules():
        is_in_layer = part_of(f"{name}.weight") == part and (".0." in name or ".layers." in name)
        targets = config.lora.targets or (name.rpartition(".")[2],)
        is_adapted = (is_in_layer or ".blocks." in name) and name.endswith(targets)
        if is_adapted and isinstance(module, nn.Linear):
            names.append(name)
    peft.inject_adapter_in_model(peft.LoraConfig(r=RANK, target_modules=names), model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            wide = torch.promote_types(policy.dtype, torch.float32)
            parameter.data = parameter.data.to(wide)
            parameter.requires_grad_(True)
    return policy


def saved(config: PolicyConfig, *, pictures: bool = False, checkpointing: bool = False) -> float:
    """Return the bytes that a forward saves for a token or a patch, without weights."""
    policy = trained_policy(config, "vision" if pictures else "language")
    (prompt,) = prompts(policy, ["count" if pictures else "add"])
    answers = [completion([(7 * row + place) % 300 + 3 for place in range(60)]) for row in range(7)]
    own = {parameter.untyped_storage()._cdata for parameter in policy.model.parameters()}
    weights: set[tuple[int, ...]] = set()  # shapes of the matrices and of their transposes
    for parameter in policy.model.parameters():
        if parameter.dim() == 2:
            weights |= {tuple(parameter.shape), tuple(parameter.shape)[::-1]}
    seen: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage()._cdata
        if place not in own and tuple(tensor.shape) not in weights:
            seen.setdefault(place, tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        GroupForward(policy, 1.0, checkpointing=checkpointing)(
            [(prompt, answers)], lambda logprobs_n, index_n: logprobs_n.sum()
        )
    saved_bytes = sum(tensor.untyped_storage().nbytes() for tensor in seen.values())
    tokens = len(prompt.input_ids) + 7 * 59
    patches = int(prompt.features["image_grid_thw"].prod()) if pictures else 0
    return saved_bytes / (patches or tokens)


def config_of(method: str, part: str, dtype: str, **shape: Any) -> PolicyConfig:
    trains = {"language": "full", "projector": "full", "vision": "frozen"}
    if method in ("lora", "few"):
        trains = {"language": "frozen", "projector": "frozen", "vision": "frozen", part: "lora"}
    else:
        trains[part] = "full"
    return PolicyConfig.model_validate(
        {"tiny": Tiny(**shape), "dtype": dtype, **trains, **METHODS[method]}
    )


def predicted(config: PolicyConfig, part: str) -> float:
    size = size_of(config)
    stack = size.tower if part == "vision" else size.language
    return activations.layer_bytes(stack, Kept.of(stack, Storage(policy=config, size=size)))


CASES = [
    *[(method, "bfloat16") for method in METHODS],
    *[(method, dtype) for method in ("whole", "lora", "few") for dtype in ("float32", "float64")],
]


@pytest.mark.parametrize(("method", "dtype"), CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_of_the_language_model_saves_what_is_predicted(family, method, dtype):
    one, two = (
        config_of(method, "language", dtype, family=family, hidden=320, layers=layers)
        for layers in (1, 2)
    )
    assert predicted(one, "language") == pytest.approx(saved(two) - saved(one), rel=0.1)


@pytest.mark.parametrize(("method", "dtype"), [case for case in CASES if case[1] != "float64"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_of_a_trained_tower_saves_what_is_predicted(family, method, dtype):
    two, three = (
        config_of(method, "vision", dtype, family=family, vision_hidden=160, vision_layers=layers)
        for layers in (2, 3)
    )
    found = saved(three, pictures=True) - saved(two, pictures=True)
    assert predicted(two, "vision") == pytest.approx(found, rel=0.1)


@pytest.mark.parametrize(
    ("method", "dtype", "bytes_"),
    [
        ("whole", "bfloat16", 4),
        ("whole", "float32", 4),
        ("half", "bfloat16", 2),
        ("lora", "bfloat16", 2),
        ("lora", "float32", 4),
    ],
)
def test_with_checkpointing_a_layer_saves_its_input(method, dtype, bytes_):
    one, two = (
        config_of(method, "language", dtype, hidden=320, layers=layers) for layers in (1, 2)
    )
    found = saved(two, checkpointing=True) - saved(one, checkpointing=True)
    assert found == pytest.approx(bytes_ * 320)
    size = size_of(one)
    kept = Kept.of(size.language, Storage(policy=one, size=size))
    single = activations.saved_bytes(size.language, kept, 1, True)
    twice = replace(size.language, layers=2)
    assert activations.saved_bytes(twice, kept, 1, True) - single == bytes_ * 320


# --- by hand --------------------------------------------------------------------------------------


def kept_of(stack: str, *knobs: str) -> Kept:
    run = run_of(*knobs)
    return Kept.of(getattr(MODEL, stack), run.storage)


@pytest.mark.parametrize(
    ("knobs", "normed", "language"),
    [
        # 16 x 2000 + 24 x 1000 + 10.4 x 1000 + 8 x 500
        ((), 0, 70_400),
        (("policy.dtype=float64",), 0, 140_800),
        # 8 x 2000 + 26 x 1000 + 5.4 x 1000 + 5 x 500
        (("policy.dtype=bfloat16",), 0, 49_900),
        # and of each normed query and key (1000 + 500) 8 bytes, or 6
        ((), 1, 82_400),
        (("policy.dtype=bfloat16",), 1, 58_900),
        # norms keep a float32 input and a bfloat16 output each, and two inputs are shared: 16 x
        # 1000 instead of 26 x 1000
        (("policy.dtype=bfloat16", "policy.weights=bfloat16"), 0, 39_900),
        # norms keep a float32 input each, and five matrices a copy of theirs: 18 x 1000; seven
        # inner inputs of rank 16
        (("policy.dtype=bfloat16", "policy.language=lora"), 0, 41_900 + 7 * 16 * 2),
        # the inputs of o and down are not kept: 2 x 1000 and 2 x 2000 less; one input of 2 x 1000
        (
            ("policy.dtype=bfloat16", "policy.language=lora", "policy.lora.targets=[q_proj]"),
            0,
            41_900 - 6000 - 4 * 2000 + 16 * 2,
        ),
        # a byte of each input says whether it was dropped: 6 x 1000 + 2000
        (
            ("policy.dtype=bfloat16", "policy.language=lora", "policy.lora.dropout=0.1"),
            0,
            41_900 + 7 * 16 * 2 + 8000,
        ),
        # two inputs are shared by several matrices: 16 x 1000 instead of 24 x 1000
        (("policy.language=lora",), 0, 62_400 + 7 * 16 * 4),
    ],
)
def test_a_layer_of_the_language_model_by_hand(knobs, normed, language):
    stack = replace(MODEL.language, normed=normed)
    assert activations.layer_bytes(stack, kept_of("language", *knobs)) == pytest.approx(language)


@pytest.mark.parametrize(
    ("knobs", "tower"),
    [
        # 8 x 200 + 16 x 100 + 28.3 x 100
        ((), 6030),
        (("policy.dtype=float64",), 12_060),
        # 4 x 200 + 8 x 100 + 14.3 x 100
        (("policy.dtype=bfloat16",), 3030),
    ],
)
def test_a_layer_of_a_tower_by_hand(knobs, tower):
    kept = kept_of("tower", "policy.vision=full", *knobs)
    assert activations.layer_bytes(MODEL.tower, kept) == pytest.approx(tower)


def test_an_adapter_in_bfloat16_computes_from_a_float32_copy_of_its_input():
    kept = kept_of("language", "policy.dtype=bfloat16", "policy.language=lora")
    layer = activations.layer_bytes(MODEL.language, kept)
    found = activations.saved_bytes(MODEL.language, kept, 10, False)
    assert found == 10 * (11 * layer + 4 * 2000)  # the widest input is that of the matrix downwards
