"""Compute in float32 with weights that are held in bfloat16, without a second copy of them.

Rounding and mistakes can be told apart only in a type with enough digits. Weights that are held in
bfloat16 are exact numbers of float32 too: here each is widened when it is used, and not kept.

Shape letters: O outputs, I inputs.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from gpg_vl.policy import quantised

NARROW = torch.bfloat16
"""Type of half-size weights."""


@contextmanager
def widened(model: Any) -> Generator[None, None, None]:
    """Compute in float32 whatever the weights of a model are held in; without autocast."""
    with quantised.computing_in(model, torch.float32), _Widened():
        yield


@contextmanager
def held_wide(parameter: torch.nn.Parameter) -> Generator[None, None, None]:
    """Hold a parameter in float32 for a while, so that its gradient is summed up in float32 too."""
    held = parameter.data
    try:
        parameter.data = held.float()
        yield
    finally:
        parameter.data = held


class _Widened(TorchFunctionMode):
    """Widen the weights of those functions that want all arguments in one type.

    Others (sums, products) widen by themselves.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        options = dict(kwargs or {})
        if func is functional.linear:
            return _linear(*args, **options)
        if func is functional.embedding:
            return _wide(func(*args, **options))
        if func in _WIDENED:
            wide = [_wide(each) for each in args]
            return func(*wide, **{name: _wide(each) for name, each in options.items()})
        return func(*args, **options)


_WIDENED = {functional.layer_norm, functional.rms_norm, torch.conv2d, torch.conv3d}
"""Functions with small weights, which are kept in float32 for the backward."""
for _name in ("conv1d", "conv2d", "conv3d"):
    _WIDENED.add(getattr(functional, _name))


def _linear(states: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Any:
    """Return [..., O] of [..., I] in float32."""
    states = _wide(states)
    if not _is_narrow(weight_OI):
        return functional.linear(states, weight_OI, _wide(bias_O))
    result: Any = _WideLinear.apply(states, weight_OI)
    return result if bias_O is None else result + bias_O


class _WideLinear(torch.autograd.Function):
    """Product with a narrow matrix in float32; the narrow one is kept for the backward."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight_OI: Tensor) -> Tensor:
        """Return [..., O] of [..., I]."""
        ctx.save_for_backward(states, weight_OI)
        return states @ weight_OI.to(states.dtype).T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of the states and of the matrix."""
        states, weight_OI = ctx.saved_tensors
        (grad,) = grads
        states_grad = weight_grad = None
        if ctx.needs_input_grad[0]:
            states_grad = grad @ weight_OI.to(grad.dtype)
        if ctx.needs_input_grad[1]:
            weight_grad = grad.flatten(0, -2).T @ states.flatten(0, -2)
        return states_grad, weight_grad


def _is_narrow(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == NARROW


def _wide(value: Any) -> Any:
    """Return a narrow tensor in float32, and anything else as it is."""
    return value.float() if _is_narrow(value) else value
