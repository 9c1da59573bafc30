"""A card that is none: CUDA tensors that have a device, a shape and a type but no numbers (torch's
FakeTensorMode), also without CUDA.

An operation refuses tensors of two devices, wrong shapes and wrong types as on a card. What
FakeTensorMode lacks in a build without CUDA is added here: a device guard that does nothing,
autocast that believes in the card, and a walk through autograd's graph, since the engine asks a
card for its streams. Numbers that steer Python are not there: a boolean mask selects everything,
and `.item()` gives one number that the test chooses.
"""

import ctypes
import shutil
import subprocess
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import get_gradient_edge
from torch.nn.attention import flex_attention

GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>)
"""
"""A build without CUDA aborts where autograd notes the stream of a CUDA tensor; this gives it
one."""


def make_guard(folder: Path) -> None:
    """Register the guard, compiled into `folder`. A build with CUDA brings its own."""
    if torch.backends.cuda.is_built():
        return
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip(
            "no c++: without a compiler torch's CPU build cannot be given a device guard for CUDA"
        )
    home, library = Path(torch.__file__).parent, folder / "guard.so"
    flags = [
        "-shared",
        "-fPIC",
        "-std=c++20",
        f"-I{home / 'include'}",
        f"-L{home / 'lib'}",
        "-lc10",
    ]
    subprocess.run(
        [compiler, "-x", "c++", "-", "-o", str(library), *flags], input=GUARD, text=True, check=True
    )
    ctypes.CDLL(str(library))


@contextmanager
def fake_card(item: int = 1) -> Generator[None, None, None]:
    """Every tensor made inside is fake; `device="cuda"` works.

    Args:
        item: what `.item()` gives, whatever is asked: in a group forward the length of the
            completions.
    """
    mode: Any = FakeTensorMode()
    usual = mode.dispatch

    def dispatch(operation: Any, types: Any, args: Any = (), options: Any = None) -> Any:
        if operation is torch.ops.aten._local_scalar_dense.default:
            return item
        if operation is torch.ops.aten.index.Tensor:
            args = (args[0], [places for index in args[1] for places in _places(index)])
        return usual(operation, types, args, options)

    mode.dispatch = dispatch  # on the instance: flex_attention knows the mode by its class
    with ExitStack() as undo:
        undo.enter_context(
            mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False)
        )
        undo.enter_context(mock.patch("torch.cuda.is_bf16_supported", return_value=True))
        undo.enter_context(
            mock.patch.object(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
        )
        # nothing can run what it would make
        undo.enter_context(mock.patch("torch.compile", lambda function, **_: function))
        undo.enter_context(mock.patch("torch.autograd.grad", gradients))
        undo.enter_context(mode)
        yield


def _places(index: Tensor | None) -> list[Tensor | None]:
    """A boolean mask as the places that it selects: all."""
    if index is None or index.dtype != torch.bool:
        return [index]
    return [index.new_zeros(index.numel(), dtype=torch.long) for _ in range(index.dim())]


def put(model: nn.Module) -> None:
    """Move a real model to the card: the same parameters without their numbers, tied where they
    were."""
    moved: dict[Tensor, Tensor] = {}
    for module in model.modules():
        stores: tuple[Any, ...] = (module._parameters, module._buffers)
        for store in stores:
            for name, tensor in store.items():
                if tensor is None:
                    continue
                if tensor not in moved:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                    moved[tensor] = (
                        nn.Parameter(fake, tensor.requires_grad)
                        if isinstance(tensor, nn.Parameter)
                        else fake
                    )
                store[name] = moved[tensor]


def gradients(
    outputs: Any, inputs: Any, grad_outputs: Any = None, **unused: Any
) -> tuple[Any, ...]:
    """`torch.autograd.grad` without the engine: each node of the graph is called by hand, after
    all that depends on it."""
    roots, leaves, slopes = (
        list(each) if isinstance(each, Sequence) else [each]
        for each in (outputs, inputs, grad_outputs)
    )
    ends, wanted = (
        [get_gradient_edge(tensor) for tensor in tensors] for tensors in (roots, leaves)
    )
    order = list(dict.fromkeys(end.node for end in ends))
    waiting, held = Counter[Any](), {node: dict[int, Tensor]() for node in order}
    for node in order:
        for following, _ in node.next_functions:
            waiting[following] += 1
            if following is not None and following not in held:
                order.append(following)
                held[following] = {}
    for root, end, slope in zip(
        roots, ends, slopes if grad_outputs is not None else [None] * len(roots), strict=True
    ):
        _add(held, end.node, end.output_nr, torch.ones_like(root) if slope is None else slope)
    ready = [node for node in order if not waiting[node]]
    while ready:
        node = ready.pop()
        for (following, place), gradient in _run(node, held[node]):
            _add(held, following, place, gradient)
        for following, _ in node.next_functions:
            waiting[following] -= 1
            if following is not None and not waiting[following]:
                ready.append(following)
    return tuple(held.get(edge.node, {}).get(edge.output_nr) for edge in wanted)


def _run(node: Any, held: dict[int, Tensor]) -> list[Any]:
    """What a node makes of the gradients of its outputs, with the edges along which it goes."""
    if not held or hasattr(node, "variable"):
        return []
    slopes = [held.get(place) for place in range(len(node._input_metadata))]
    by_hand = isinstance(node, torch.autograd.function.BackwardCFunction)
    made: Any = node.apply(*slopes) if by_hand else node(*slopes)
    made = made if isinstance(made, tuple) else (made,)
    edges = node.next_functions
    if by_hand:  # a gradient for each argument, an edge for each tensor
        made = [
            gradient for gradient, needed in zip(made, node.needs_input_grad, strict=True) if needed
        ]
        edges = [edge for edge in edges if edge[0] is not None]
    return [
        (edge, gradient)
        for edge, gradient in zip(edges, made, strict=True)
        if edge[0] is not None and gradient is not None
    ]


def _add(held: dict[Any, dict[int, Tensor]], node: Any, place: int, gradient: Tensor) -> None:
    """As the engine does: summed to the shape that went forward, in its type, and never across
    devices."""
    like = node._input_metadata[place]
    assert gradient.device == like.device, (
        f"a gradient on {gradient.device} for a tensor on {like.device}"
    )
    gradient = (gradient.sum_to_size(like.shape) if gradient.shape != like.shape else gradient).to(
        like.dtype
    )
    held[node][place] = held[node][place] + gradient if place in held[node] else gradient
