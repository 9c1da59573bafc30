"""Round to bfloat16 by chance (stochastic rounding), so that small changes count on average.

A bfloat16 has 8 bits: next to 0.02, its neighbours are 0.00012 apart, and the nearest one to 0.02
and a change of 1e-6 is 0.02 itself.
"""

import torch
from torch import Tensor

_DROPPED_BITS = 16
"""Bits that a float32 has and a bfloat16 has not: the last ones."""


def rounded_by_chance(wide: Tensor, seed: int) -> Tensor:
    """Return float32 numbers that bfloat16 holds: each is the next one below or above, by chance.

    The nearer one is the likelier, so that the mean is the number itself. Computed in place.

    Args:
        wide: finite numbers; others stay what they are.
    """
    generator = torch.Generator(wide.device).manual_seed(seed)
    noise = torch.empty_like(wide, dtype=torch.int32)
    noise.random_(0, 1 << _DROPPED_BITS, generator=generator)
    noise.masked_fill_(~wide.isfinite(), 0)
    # The bits of a float32 are sign, exponent and digits in this order: a carry out of the dropped
    # digits makes it the next number of bfloat16, away from zero.
    bits = wide.view(torch.int32)
    bits.add_(noise).bitwise_and_(-1 << _DROPPED_BITS)
    return wide
