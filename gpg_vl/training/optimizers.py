"""Make the optimizer of a run: AdamW with moments in float32 or in 8 bits, a rate for each part.

Weights held in bfloat16 have 8 bits: next to 0.02, its neighbours are 0.00012 apart, and an update
of 1e-6 would always be rounded away. So their update is computed in float32, one tensor at a time,
and rounded up or down by chance, with probabilities that make the mean exact (stochastic rounding).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from gpg_vl import randomness
from gpg_vl.config.schema import OptimizerConfig
from gpg_vl.policy.families import parts
from gpg_vl.policy.rounding import rounded_by_chance
from gpg_vl.policy.widened import NARROW


def make_optimizer(model: nn.Module, config: OptimizerConfig, *, seed: int) -> Optimizer:
    """Make the optimizer of what is trained in a model, on the device where it is.

    Args:
        seed: seed of the run, for the rounding of bfloat16 weights.
    """
    groups = parameter_groups(model, config)
    narrow = False
    on_gpu = False
    for group in groups:
        for parameter in group["params"]:
            narrow = narrow or parameter.dtype == NARROW
            on_gpu = on_gpu or parameter.is_cuda
    kind, options = _kind(config, on_gpu=on_gpu)
    made: Any = type(f"Rounded{kind.__name__}", (RoundedSteps, kind), {}) if narrow else kind
    optimizer = made(
        groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, **options
    )
    if narrow:
        optimizer.seed = seed
    return optimizer


def _kind(config: OptimizerConfig, *, on_gpu: bool) -> tuple[type[Any], dict[str, Any]]:
    """Return the class of the optimizer, and its options."""
    if config.kind == "adamw8bit":
        from bitsandbytes.optim.adamw import AdamW8bit  # only here: it takes seconds to import

        return AdamW8bit, {}
    # On a GPU: one fused kernel, without a second set of gradients. Not on a CPU: its last bits
    # differ there, and a run has to go on as it began.
    return AdamW, {"fused": True} if on_gpu else {"foreach": True}


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Return the trained parameters as torch's parameter groups: alike rates are one group.

    Norms and biases, which have fewer than two dimensions, are not decayed. Within a group the
    parameters are in the order of the model.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for part, _, parameter in parts(model):
        if not parameter.requires_grad:
            continue
        own = getattr(config, part)
        lr = config.lr if own.lr is None else own.lr
        decay = config.weight_decay if own.weight_decay is None else own.weight_decay
        if parameter.ndim < 2:
            decay = 0.0
        groups.setdefault((lr, decay), []).append(parameter)
    return [
        {"params": members, "lr": lr, "weight_decay": decay}
        for (lr, decay), members in groups.items()
    ]


def moment_bytes(parameter: nn.Parameter, config: OptimizerConfig) -> int:
    """Return the bytes of a parameter's two moments."""
    if config.kind == "adamw8bit":
        return 2 * parameter.numel()
    return 2 * parameter.numel() * max(4, parameter.element_size())


class RoundedSteps(Optimizer):
    """Steps of a torch optimizer for parameters in bfloat16; a base beside that optimizer.

    While one parameter is stepped, it and its gradient are float32; so are its moments, which the
    optimizer makes in its type. Other parameters are stepped as always.
    """

    seed: int = 0
    """Seed of the run."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step of every parameter that has a gradient; a closure is not supported."""
        assert closure is None
        groups, wide = self.param_groups, list[dict[str, Any]]()
        narrow: list[tuple[int, nn.Parameter, dict[str, Any]]] = []
        index = 0
        for group in groups:
            others: list[nn.Parameter] = []
            for parameter in group["params"]:
                if parameter.dtype != NARROW:
                    others.append(parameter)
                elif parameter.grad is not None:
                    narrow.append((index, parameter, group))
                index += 1
            wide.append({**group, "params": others})
        updates = groups[0].get("updates", 0)
        try:
            self.param_groups = wide
            super().step()
            for index, parameter, group in narrow:
                self.param_groups = [{**group, "params": [parameter]}]
                self._step_one(parameter, randomness.seed(self.seed, "rounding", updates, index))
        finally:
            self.param_groups = groups
        for group in groups:  # among what is saved of a group
            group["updates"] = updates + 1

    def _step_one(self, parameter: nn.Parameter, seed: int) -> None:
        """Step the one parameter of `param_groups` in float32, and round it."""
        weights, gradient = parameter.data, parameter.grad
        assert gradient is not None
        parameter.grad = None  # a gradient has the type of its parameter
        parameter.data = weights.float()
        parameter.grad = gradient.float()
        super().step()
        weights.copy_(rounded_by_chance(parameter.data, seed))
        parameter.grad = None
        parameter.data = weights
        parameter.grad = gradient

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state with all its digits; torch itself casts moments to the parameter's type."""
        super().load_state_dict(state_dict)
        ids: list[int] = []
        for group in state_dict["param_groups"]:
            ids += group["params"]
        parameters: list[nn.Parameter] = []
        for group in self.param_groups:
            parameters += group["params"]
        for number, parameter in zip(ids, parameters, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                loaded = self.state[parameter].get(name)
                if isinstance(loaded, Tensor) and loaded.dtype != value.dtype:
                    self.state[parameter][name] = value.to(loaded.device)
