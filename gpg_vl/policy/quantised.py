"""Store the frozen matrices of a language model in 4 bits (NF4; QLoRA, arXiv 2305.14314).

bitsandbytes stores 64 numbers of a matrix as 4-bit places in a table of normal quantiles, with one
scale, which is quantised itself. Each use reads the matrix back in the type that is computed in.
"""

from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from gpg_vl.errors import UserError

BLOCK = 64
"""Numbers of a row that share a scale."""


def quantise(model: Any, dtype: torch.dtype) -> None:
    """Store the matrices of the layers of the language model in 4 bits.

    On a GPU each is quantised there, one after the other, and stays there. A matrix whose rows are
    no multiple of a block stays as it is: bitsandbytes reads it back wrong on a CPU.

    Args:
        dtype: type in which they are computed with.

    Raises:
        UserError: there is no matrix that can be stored so.
    """
    bnb: Any = import_module("bitsandbytes")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for layer in model.model.get_decoder().layers:
        for name, plain in [*layer.named_modules()]:
            if not isinstance(plain, nn.Linear) or plain.in_features % BLOCK:
                continue
            small: Any = bnb.nn.Linear4bit(
                plain.in_features,
                plain.out_features,
                bias=False,
                compute_dtype=dtype,
                compress_statistics=True,
                quant_type="nf4",
                device="meta",
            )
            small.weight = bnb.nn.Params4bit(
                plain.weight.data.to(dtype),
                requires_grad=False,
                compress_statistics=True,
                quant_type="nf4",
                module=small,
            )
            small.bias = plain.bias
            # Its own repacking for inference on a CPU cannot be trained through.
            small.support_avx512bf16_for_cpu = False
            parent, _, child = name.rpartition(".")
            setattr(layer.get_submodule(parent), child, small.to(device))
    if not weights(model):
        raise UserError(
            "policy.quantise: no matrix of the language model's layers has rows of "
            f"{BLOCK} numbers or a multiple; set it to none"
        )
    for parameter in model.parameters():  # else the whole file stays mapped for the few others
        if parameter.is_floating_point():
            parameter.data = parameter.data.clone()


def is_quantised(module: Any) -> bool:
    """Return True if a layer holds its matrix in 4 bits; an adapter around it holds none itself."""
    own = dict(module.named_parameters(recurse=False))
    return hasattr(own.get("weight"), "quant_state")


def weights(model: Any) -> dict[str, Any]:
    """Return the quantised layers of a model by the names of their matrices."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        if is_quantised(module):
            found[f"{name}.weight"] = module
    return found


def plain_names(model: Any) -> list[str]:
    """Return names of all matrices that are not quantised, as `llm_int8_skip_modules` of
    transformers' BitsAndBytesConfig takes them: whole modules, and ends of names in the layers.

    Args:
        model: a quantised model, with or without adapters.
    """
    small = [name.removesuffix(".weight") for name in weights(model)]
    found: set[str] = set()
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or is_quantised(module) or ".lora_" in name:
            continue
        words = name.removesuffix(".base_layer").split(".")
        end = 1  # of the largest module around it in which nothing is quantised
        while any(each.startswith(".".join(words[:end]) + ".") for each in small):
            end += 1
        is_in_layer = end == len(words) and end > 2
        found.add(".".join(words[-2:] if is_in_layer else words[:end]))
    return sorted(found)


def compute_dtype(module: Any) -> torch.dtype:
    """Return the type in which a quantised layer computes."""
    return module.compute_dtype


def plain_weight(module: Any) -> Tensor:
    """Return the matrix of a quantised layer, [outputs, inputs], as it is computed with."""
    from bitsandbytes.functional import dequantize_4bit

    weight = module.weight
    return dequantize_4bit(weight.data, weight.quant_state).to(module.compute_dtype)


def read_back(model: Any) -> None:
    """Put plain matrices in the place of the quantised ones, as they are computed with."""
    for name, module in [*model.named_modules()]:
        if not is_quantised(module):
            continue
        has_bias = module.bias is not None
        plain = nn.Linear(module.in_features, module.out_features, bias=has_bias, device="meta")
        plain.weight = nn.Parameter(plain_weight(module), requires_grad=False)
        if has_bias:
            plain.bias = module.bias
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, plain)


@contextmanager
def computing_in(model: Any, dtype: torch.dtype) -> Generator[None, None, None]:
    """Let the quantised layers of a model compute in another type, for a while."""
    layers = [module for module in model.modules() if is_quantised(module)]
    types = [layer.compute_dtype for layer in layers]
    try:
        for layer in layers:
            layer.compute_dtype = dtype
        yield
    finally:
        for layer, own in zip(layers, types, strict=True):
            layer.compute_dtype = own
