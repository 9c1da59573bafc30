"""Compare the bytes of parameters with what peft and bitsandbytes make, and with sums by hand."""

from dataclasses import replace
from typing import Any

import peft
import pytest
import torch
from torch import nn

from gpg_vl.config.schema import LoraConfig, PolicyConfig, Tiny
from gpg_vl.policy import quantised
from gpg_vl.policy.load import load_policy
from gpg_vl.policy.part_names import part_of
from gpg_vl.policy.sizes import Matrix, size_of, size_of_model
from gpg_vl.preflight import storage
from gpg_vl.preflight.storage import Storage
from tests.any_family import policy_of_family
from tests.workloads import MODEL, adapter_on, run_of

WIDE = Tiny(hidden=320, layers=2, vision_hidden=160, vision_layers=2)
"""A model with tensors below and above 4,096 numbers."""


def numbers_of_adapters(model: Any, parts: tuple[str, ...], targets: tuple[str, ...]) -> int:
    """Return the number of parameters that peft's own adapters of rank 4 have."""
    names: list[str] = []
    for name, module in model.named_modules():
        part = part_of(f"{name}.weight")
        is_repeated = any(place in name for place in (".layers.", ".layer.", ".blocks."))
        is_named = not targets or name.rpartition(".")[2] in targets
        is_chosen = part in parts and is_named and (is_repeated or part == "projector")
        if isinstance(module, nn.Linear) and is_chosen:
            names.append(name)
    before = sum(parameter.numel() for parameter in model.parameters())
    peft.inject_adapter_in_model(peft.LoraConfig(r=4, target_modules=names), model)
    return sum(parameter.numel() for parameter in model.parameters()) - before


@pytest.mark.parametrize(
    ("trains", "targets"),
    [
        ({"language": "lora"}, ()),
        ({"language": "lora", "vision": "lora", "projector": "lora"}, ()),
        ({"language": "frozen", "projector": "lora"}, ()),
        ({"language": "lora", "vision": "lora"}, ("q_proj", "fc1", "qkv", "linear_fc2")),
    ],
)
@pytest.mark.parametrize(
    "family",
    ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm", "idefics3", "llava", "gemma3"],
)
def test_adapters_have_as_many_numbers_as_pefts_own(family, trains, targets):
    if family.startswith("qwen"):
        model = load_policy(PolicyConfig(tiny=Tiny(family=family, layers=3)), seed=0).model
    else:
        model = policy_of_family(family).model
    config = PolicyConfig.model_validate(
        {**trains, "lora": LoraConfig(rank=4, targets=targets).model_dump()}
    )
    found = Storage(policy=config, size=size_of_model(model)).adapters
    if family == "gemma3" and trains.get("language") == "frozen":
        assert found == 0  # its projector is a parameter, no linear module
        return
    parts = tuple(part for part, training in trains.items() if training == "lora")
    assert found == numbers_of_adapters(model, parts, targets)


@pytest.mark.parametrize("shape", [(320, 880), (64, 64), (50, 90)])
def test_a_matrix_in_nf4_has_the_bytes_of_bitsandbytes(shape):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    outputs, inputs = shape
    layer = bitsandbytes.nn.Linear4bit(
        inputs, outputs, bias=False, compress_statistics=True, quant_type="nf4"
    ).to("cpu")
    packed, state = layer.weight, layer.weight.quant_state
    tensors = [
        packed.data, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code
    ]  # fmt: skip
    assert packed.dtype == torch.uint8
    assert storage.nf4_bytes(inputs * outputs) == sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("numbers", [1, 4095, 4096, 4097, 70_000])
def test_moments_in_8_bits_have_the_bytes_of_bitsandbytes(numbers):
    optim = pytest.importorskip("bitsandbytes.optim")
    parameter = nn.Parameter(torch.zeros(numbers))
    parameter.grad = torch.ones(numbers)
    optimizer = optim.AdamW8bit([parameter])
    optimizer.step()
    state = optimizer.state[parameter]
    names = ("state1", "state2", "absmax1", "absmax2")
    assert storage.moments_8bit(numbers) == sum(
        state[name].nbytes for name in names if name in state
    )


@pytest.mark.parametrize("trains", [{"vision": "full"}, {"language": "lora", "vision": "lora"}])
def test_moments_of_a_model_in_8_bits(trains):
    """Adapters are counted exactly, norms and biases of whole parts about."""
    config = PolicyConfig.model_validate({"tiny": WIDE, **trains})
    found = Storage(policy=config, size=size_of(config)).moment_bytes("adamw8bit")
    model = load_policy(PolicyConfig(tiny=WIDE), seed=0).model
    names: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and (".layers." in name or ".blocks." in name):
            names.append(name)
    if "language" in trains:
        peft.inject_adapter_in_model(peft.LoraConfig(r=16, target_modules=names), model)
    expected = 0
    for name, parameter in model.named_parameters():
        if "language" not in trains or "lora_" in name or ".merger." in name:
            expected += storage.moments_8bit(parameter.numel())
    assert found == pytest.approx(expected, rel=0.05)


# --- by hand, on a model of 10^9 parameters -------------------------------------------------------


def test_whole_parts_by_hand():
    stored = run_of("policy.dtype=bfloat16").storage
    assert (stored.full, stored.adapters, stored.trained, stored.frozen) == (
        850_000_000, 0, 850_000_000, 150_000_000
    )  # fmt: skip
    assert (stored.trained_type, stored.trained_width, stored.narrow) == ("float32", 4, 2)
    assert stored.moment_bytes("adamw") == 6.8e9
    assert stored.saved_bytes == 3.4e9 + 0.3e9
    half = run_of("policy.dtype=bfloat16", "policy.weights=bfloat16").storage
    assert (half.trained_type, half.gradient_bytes) == ("bfloat16", 1.7e9)
    assert half.moment_bytes("adamw") == 6.8e9
    assert half.largest_trained == 2_000_000  # a matrix of 1000 x 2000, above the head's 10^6
    assert run_of("policy.dtype=float64").storage.moment_bytes("adamw") == 13.6e9


def test_adapters_by_hand():
    stored = run_of("policy.dtype=bfloat16", "policy.language=lora").storage
    # rank 16 on ten layers: q and o 2000 each, k and v 1500 each, gate, up and down 3000 each
    adapters = 10 * 16 * (2 * 2000 + 2 * 1500 + 3 * 3000)
    assert stored.adapters == adapters == 2_560_000
    assert stored.trained == adapters + 50_000_000  # the projector is trained whole
    # all are frozen, and peft keeps the projector's first values
    assert stored.frozen == 10**9
    assert stored.gradient_bytes == 4 * stored.trained
    assert stored.saved_bytes == 4 * stored.trained
    few = run_of("policy.language=lora", "policy.lora.targets=[q_proj]", "policy.lora.rank=2")
    assert few.storage.adapters == 10 * 2 * 2000


def test_four_bits_by_hand():
    # rows of 1024 numbers, in ten layers of 8000 rows
    matrices = [replace(matrix, inputs=1024) for matrix in MODEL.language.matrices]
    size = replace(MODEL, language=replace(MODEL.language, matrices=tuple(matrices)))
    stored = run_of("policy.language=lora", "policy.quantise=nf4", size=size).storage
    assert stored.quantised == 10 * 8000 * 1024
    assert stored.frozen == 10**9 - stored.quantised
    # half a byte and 1/64 a number, a scale of 4 bytes for 16,384, and tables of 273 x 4 a matrix
    expected = stored.quantised * (0.5 + 1 / 64 + 4 / 16_384) + 70 * 273 * 4
    assert stored.quantised_bytes == pytest.approx(expected, rel=1e-5)
    assert 8 * stored.quantised_bytes / stored.quantised == pytest.approx(4.127, abs=0.01)


def test_a_matrix_whose_rows_are_no_whole_blocks_stays_as_it_is():
    # as policy.quantised leaves it: of 1000 inputs none is a multiple of 64, of 1024 all are
    assert storage.NF4_BLOCK == quantised.BLOCK
    matrices = (Matrix("down_proj", 2000, 1024), Matrix("up_proj", 1024, 2000))
    size = replace(MODEL, language=replace(MODEL.language, matrices=matrices))
    stored = run_of("policy.language=lora", "policy.quantise=nf4", size=size).storage
    assert stored.quantised == 10 * 1024 * 2000
    assert stored.frozen == 10**9 - 10 * 1024 * 2000
    assert stored.quantised_bytes == 10 * storage.nf4_bytes(1024 * 2000)


def test_a_path_is_a_target_too():
    whole = "policy.lora.targets=[self_attn.q_proj,model.language_model.layers.0.mlp.up_proj]"
    few = run_of("policy.language=lora", whole, "policy.lora.rank=2")
    assert few.storage.adapters == 10 * 2 * (2000 + 3000)


def test_an_adapter_that_is_trained_on_keeps_its_size():
    ends = {
        "model.language_model.layers.0.self_attn.q_proj": (1000, 1000),
        "model.language_model.layers.1.self_attn.q_proj": (1000, 1000),
        "model.language_model.layers.1.mlp.up_proj": (1000, 2000),
        "lm_head": (1000, 1000),
    }
    adapter = adapter_on(ends, rank=4)
    run = replace(run_of("policy.language=lora", "policy.projector=frozen"), adapter=adapter)
    names = sorted(matrix.name for matrix in run.storage.all_adapted)
    assert names == ["lm_head", "q_proj", "q_proj", "up_proj"]
    assert run.storage.adapters == 4 * (3 * 2000 + 3000)
    assert sum(matrix.numbers for matrix in run.storage.adapted("language")) == 5_000_000
    moments = 7 * storage.moments_8bit(4000)
    assert run.storage.moment_bytes("adamw8bit") == moments + storage.moments_8bit(8000)
    merged = replace(run_of(), adapter=adapter)  # it is merged, and all is trained
    assert merged.storage == run_of().storage


def test_an_adapter_whose_matrices_have_ranks_of_their_own_is_counted_by_its_tensors():
    matrix = "model.language_model.layers.{}.self_attn.q_proj"
    large, small = (
        adapter_on({matrix.format(0): (1000, 1000)}, rank=8),
        adapter_on({matrix.format(1): (1000, 1000)}, rank=2),
    )
    both = replace(large, shapes={**large.shapes, **small.shapes})
    run = replace(run_of("policy.language=lora", "policy.projector=frozen"), adapter=both)
    assert run.storage.adapters == (8 + 2) * 2000


def test_a_checkpoint_of_an_adapter_on_a_tiny_model_holds_that_model():
    tiny = run_of("policy.model=tiny", "policy.language=lora").storage
    assert tiny.saved_bytes == 4 * tiny.trained + 4 * 10**9


def test_moments_in_8_bits_by_hand():
    assert storage.moments_8bit(4095) == 8 * 4095
    assert storage.moments_8bit(4096) == 2 * (4096 + 4 * 16)
    whole = run_of("policy.projector=frozen").storage
    # 90 million in matrices and 1 in the embedding, in 8 bits; the rest counts as float32
    assert whole.moment_bytes("adamw8bit") == pytest.approx(
        91e6 * 2 * (1 + 4 / 256) + 709e6 * 8, rel=1e-3
    )
