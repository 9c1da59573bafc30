"""The optimizer: which parameter has which rate, what a step does, and that it goes on exactly."""

import importlib.util
import io
import math

import pytest
import torch
from torch import nn

from gpg_vl.config.loading import load
from gpg_vl.config.schema import Config, OptimizerConfig
from gpg_vl.errors import UserError
from gpg_vl.policy import packages
from gpg_vl.policy.rounding import rounded_by_chance
from gpg_vl.training.optimizers import (
    RoundedSteps,
    make_optimizer,
    moment_bytes,
    parameter_groups,
)

LARGE = 96 * 64  # bitsandbytes keeps the moments of fewer than 4096 numbers in float32
KINDS = ["adamw", "adamw8bit"]
TYPES = [torch.float32, torch.bfloat16]


class Model(nn.Module):
    """A parameter of each kind in each part, in the names of a family."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.model = nn.ModuleDict(
            {
                "visual": nn.ModuleDict({"block": nn.Linear(64, 96), "merger": nn.Linear(8, 4)}),
                "language_model": nn.ModuleDict(
                    {"q_proj": nn.Linear(3, 5), "norm": nn.LayerNorm(6)}
                ),
            }
        )
        self.to(dtype)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    """Take a step with gradients that belong to its number."""
    generator = torch.Generator().manual_seed(100 + number)
    for parameter in model.parameters():
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = gradient.to(parameter.dtype)
    optimizer.step()


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([item.detach().double().flatten() for item in model.parameters()])


def names_of(model: nn.Module, members: list[nn.Parameter]) -> list[str]:
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    return [named[id(parameter)].removeprefix("model.") for parameter in members]


# --- groups ---------------------------------------------------------------------------------------


def test_without_decay_and_rates_of_parts_there_is_one_group_in_the_order_of_the_model():
    """As it always was: a state that was saved before goes on."""
    model = Model()
    (group,) = parameter_groups(model, OptimizerConfig(lr=0.5))
    assert list(map(id, group["params"])) == list(map(id, model.parameters()))
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.0)


def test_each_part_has_its_own_rate_and_norms_and_biases_have_no_decay():
    model = Model()
    config = OptimizerConfig.model_validate(
        {
            "lr": 0.5,
            "weight_decay": 0.1,
            "vision": {"lr": 0.25},
            "projector": {"lr": 0.25, "weight_decay": 0.0},
        }
    )
    found = {
        (group["lr"], group["weight_decay"]): names_of(model, group["params"])
        for group in parameter_groups(model, config)
    }
    assert found == {
        (0.25, 0.1): ["visual.block.weight"],
        (0.25, 0.0): ["visual.block.bias", "visual.merger.weight", "visual.merger.bias"],
        (0.5, 0.1): ["language_model.q_proj.weight"],
        (0.5, 0.0): [
            "language_model.q_proj.bias",
            "language_model.norm.weight",
            "language_model.norm.bias",
        ],
    }


def test_what_is_frozen_is_in_no_group():
    model = Model()
    model.model["visual"].requires_grad_(False)
    (group,) = parameter_groups(model, OptimizerConfig())
    assert all(name.startswith("language_model") for name in names_of(model, group["params"]))


@pytest.mark.parametrize(
    ("kind", "dtype", "expected"),
    [
        ("adamw", torch.float32, 80),
        ("adamw", torch.bfloat16, 80),
        ("adamw", torch.float64, 160),
        ("adamw8bit", torch.bfloat16, 20),
    ],
)
def test_bytes_of_two_moments_of_ten_numbers(kind, dtype, expected):
    parameter = nn.Parameter(torch.zeros(10, dtype=dtype))
    assert moment_bytes(parameter, OptimizerConfig(kind=kind)) == expected


# --- one step, and many ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_step_by_hand(kind):
    """The quotient of the two moments is the gradient's sign then: a weight moves by its rate, and
    a matrix decays by rate * decay."""
    model = Model()
    before = {name: item.detach().clone() for name, item in model.named_parameters()}
    config = OptimizerConfig.model_validate(
        {"kind": kind, "lr": 1e-3, "weight_decay": 0.5, "vision": {"lr": 1e-2}}
    )
    step(model, make_optimizer(model, config, seed=0), 0)
    for name, parameter in model.named_parameters():
        lr = 1e-2 if "visual.block" in name else 1e-3
        decay = 0.5 if parameter.ndim > 1 else 0.0
        large = parameter.grad.abs() > 1e-3  # well above AdamW's epsilon
        expected = before[name] * (1 - lr * decay) - lr * parameter.grad.sign()
        error = (parameter.detach() - expected)[large].abs().max()
        assert error < 1e-3 * lr, name


@pytest.mark.parametrize("dtype", TYPES)
def test_moments_in_eight_bits_stay_close_to_those_in_float32(dtype):
    moved = {}
    for kind in KINDS:
        model = Model(dtype)
        start = weights(model)
        optimizer = make_optimizer(model, OptimizerConfig(kind=kind, lr=1e-3), seed=0)
        for number in range(20):
            step(model, optimizer, number)
        moved[kind] = weights(model) - start
    off = (moved["adamw8bit"] - moved["adamw"]).norm() / moved["adamw"].norm()
    assert 0 < off < 0.1


# --- weights in bfloat16 --------------------------------------------------------------------------


def test_small_updates_of_bfloat16_weights_count_on_average_and_plain_rounding_moves_nothing():
    """At 0.02 neighbours are 2**-13 apart: 122 updates of 1e-6."""
    steps, count = 200, 20_000
    moved = {}
    for name in ("float32", "plain", "by chance"):
        weight = nn.Linear(count, 1, bias=False)
        weight.weight.data = torch.full((1, count), 0.02).to(torch.bfloat16)
        start = float(weight.weight.detach()[0, 0])
        if name == "float32":
            weight.weight.data = weight.weight.data.float()
        if name == "plain":
            optimizer: torch.optim.Optimizer = torch.optim.AdamW(
                weight.parameters(), lr=1e-6, betas=(0.9, 0.99), weight_decay=0.0
            )
        else:
            optimizer = make_optimizer(weight, OptimizerConfig(lr=1e-6), seed=3)
        for _ in range(steps):
            weight.weight.grad = torch.ones_like(weight.weight)
            optimizer.step()
        moved[name] = weight.weight.detach().double().flatten() - start
    assert float(moved["plain"].abs().max()) == 0.0
    assert float(moved["float32"].mean()) == pytest.approx(-steps * 1e-6, rel=1e-3)
    by_chance = moved["by chance"]
    standard_error = float(by_chance.std()) / math.sqrt(count)
    assert 0 < standard_error < 0.01 * steps * 1e-6
    assert abs(float(by_chance.mean() - moved["float32"].mean())) < 3 * standard_error


def test_a_number_is_rounded_to_a_neighbour_by_its_distance_to_both():
    """0.02 lies between 163 * 2**-13 and 164 * 2**-13, 0.84 of the way."""
    below, above = 163 * 2.0**-13, 164 * 2.0**-13
    for sign in (1.0, -1.0):
        found = rounded_by_chance(torch.full((100_000,), sign * 0.02), seed=5) * sign
        assert set(found.tolist()) == {below, above}
        share = float((found == above).double().mean())
        assert share == pytest.approx((0.02 - below) / (above - below), abs=0.005)
    kept = torch.tensor([0.0, -0.0, 1.5, -(2.0**-120), math.inf, -math.inf, math.nan])
    found = rounded_by_chance(kept.clone(), seed=5)
    assert torch.equal(found.nan_to_num(7.0), kept.nan_to_num(7.0)), "numbers that bfloat16 holds"


@pytest.mark.parametrize("kind", KINDS)
def test_moments_of_bfloat16_weights_have_float32_or_eight_bits(kind):
    model = Model(torch.bfloat16)
    optimizer = make_optimizer(model, OptimizerConfig(kind=kind), seed=0)
    step(model, optimizer, 0)
    large = model.model["visual"]["block"].weight
    types = {item.dtype for item in optimizer.state[large].values() if torch.is_tensor(item)}
    assert types == {torch.float32} | ({torch.uint8} if kind == "adamw8bit" else set())
    assert {item.dtype for item in model.parameters()} == {torch.bfloat16}
    assert {item.grad.dtype for item in model.parameters()} == {torch.bfloat16}


def test_wide_weights_beside_bfloat16_ones_are_stepped_as_always():
    mixed, wide = Model(), Model()
    block = mixed.model["visual"]["block"]
    block.to(torch.bfloat16)
    for model in (mixed, wide):
        optimizer = make_optimizer(model, OptimizerConfig(lr=1e-3, weight_decay=0.1), seed=0)
        for number in range(3):
            step(model, optimizer, number)
    others = [name for name, _ in mixed.named_parameters() if "visual.block" not in name]
    assert len(others) == 6
    for name in others:
        assert torch.equal(mixed.get_parameter(name), wide.get_parameter(name)), name
    assert not torch.equal(block.weight.float(), wide.model["visual"]["block"].weight)


def test_another_seed_rounds_otherwise_and_so_does_the_next_update():
    def after(seed: int, steps: int = 1) -> torch.Tensor:
        model = Model(torch.bfloat16)
        optimizer = make_optimizer(model, OptimizerConfig(lr=1e-5), seed=seed)
        for _ in range(steps):
            step(model, optimizer, 0)
        return weights(model)

    assert torch.equal(after(1), after(1))
    assert not torch.equal(after(1), after(2))
    optimizer = make_optimizer(Model(torch.bfloat16), OptimizerConfig(), seed=1)
    assert isinstance(optimizer, RoundedSteps)
    seeds = []
    optimizer._step_one = lambda parameter, seed: seeds.append(seed)
    model_parameters = optimizer.param_groups[0]["params"]
    for parameter in model_parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.step()
    assert len(set(seeds)) == 2 * len(model_parameters)


# --- saved, and resumed ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*TYPES, "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_optimisation_is_the_uninterrupted_one_bit_for_bit(kind, dtype):
    config = OptimizerConfig(kind=kind, lr=1e-3, weight_decay=0.1)

    def made() -> tuple[Model, torch.optim.Optimizer]:
        model = Model(torch.float32 if dtype == "both" else dtype)
        if dtype == "both":
            model.model["visual"].to(torch.bfloat16)
        return model, make_optimizer(model, config, seed=9)

    whole, optimizer = made()
    for number in range(6):
        step(whole, optimizer, number)
    first, optimizer = made()
    for number in range(3):
        step(first, optimizer, number)
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, map_location="cpu", weights_only=True)
    second, optimizer = made()
    second.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    for number in range(3, 6):
        step(second, optimizer, number)
    assert torch.equal(weights(second), weights(whole))


@pytest.mark.parametrize(("count", "error"), [(8, 0.003), (64, 0.009)])
def test_sums_of_gradients_in_bfloat16_lose_as_much_as_the_page_on_scale_says(count, error):
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(64, 64, bias=False).bfloat16()
    exact = torch.zeros(64, 64)
    for _ in range(count):
        given = (torch.randn(32, 64, generator=generator) + 0.3).bfloat16()
        loss = layer(given).float().sum() / 32
        (gradient,) = torch.autograd.grad(loss, layer.weight, retain_graph=True)
        exact += gradient.float()
        loss.backward()
    assert layer.weight.grad is not None
    found = layer.weight.grad.float()
    assert float((found - exact).norm() / exact.norm()) == pytest.approx(error, rel=0.2)


# --- what is not there ----------------------------------------------------------------------------


def config_of(section: str, kind: str, dtype: str) -> Config:
    """A run whose optimizer, or that of its warm-up, is of a kind."""
    return load("digits", [f"{section}.kind={kind}", f"policy.dtype={dtype}", "warmup.steps=3"])


def test_a_missing_package_is_named_with_the_command_before_anything_is_loaded(monkeypatch):
    packages.check_optimizers(config_of("optimizer", "adamw8bit", "bfloat16"))
    packages.check_optimizers(config_of("optimizer", "adamw", "float64"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    packages.check_optimizers(config_of("optimizer", "adamw", "float32"))
    with pytest.raises(
        UserError,
        match=r"needs bitsandbytes, which is not installed: pip install 'gpg-vl\[qlora\]'",
    ):
        packages.check_optimizers(config_of("optimizer", "adamw8bit", "float32"))


@pytest.mark.parametrize("section", ["optimizer", "warmup.optimizer"])
def test_a_type_that_the_kernels_do_not_know_is_refused_with_the_config(section):
    with pytest.raises(UserError, match=rf"{section}\.kind: got adamw8bit with .*float64, which"):
        config_of(section, "adamw8bit", "float64")
