"""Drop inputs of adapters in the update, and nowhere else.

A policy is always in evaluation mode: sampling, scoring and comparisons are without dropout. Only
the update turns that of adapters on, for one micro-batch at a time, and addresses its masks.
"""

from collections.abc import Generator, Iterable
from contextlib import contextmanager

import torch
from torch import nn

from gpg_vl import randomness


@contextmanager
def adapter_dropout(model: nn.Module, *address: int | str) -> Generator[None, None, None]:
    """Turn the dropout of adapters on while the block lasts; nothing happens if there is none.

    The block holds the forward and the backward, which may run layers again. The global random
    state is put back afterwards.

    Args:
        address: addresses the masks; the same one gives the same masks.
    """
    dropouts = list(_adapter_dropouts(model))
    if not dropouts:
        yield
        return
    devices = {item.device for item in model.parameters() if item.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(randomness.seed(*address))
        for module in dropouts:
            module.train()
        try:
            yield
        finally:
            for module in dropouts:
                module.eval()


def drops_inputs(modules: Iterable[nn.Module]) -> bool:
    """Return True if one of these modules draws a mask in its forward now."""
    for module in modules:
        if isinstance(module, nn.Dropout) and module.training and module.p > 0:
            return True
    return False


def _adapter_dropouts(model: nn.Module) -> Generator[nn.Dropout, None, None]:
    """Yield the modules that peft's layers pass their inputs through, if they drop any."""
    for layer in model.modules():
        of_adapters = getattr(layer, "lora_dropout", None)  # a module by name of adapter
        if not isinstance(of_adapters, nn.ModuleDict):
            continue
        for module in of_adapters.values():
            if isinstance(module, nn.Dropout) and module.p > 0:
                yield module
