"""Attention over a shared prompt on the card: which kernel is faster, and how often it is compiled."""

import random
from contextlib import nullcontext
from functools import partial
from time import perf_counter
from typing import Any
from unittest import mock

import torch
from case import SMALL, Case, Told, best_of, drawn, questions, relative_error, wait
from profiler import forget_peak, memory, peak
from torch import Tensor

from gpg_vl.policy import shared_prefix
from gpg_vl.policy.group_forward import GroupForward


def two_ways(case: Case) -> Told:
    """FlexAttention, and two flash calls merged by their normalisers, over the same rows, forward and backward."""
    heads, key_heads, width, length, new = (4, 2, 16, 40, 6) if case.toy else (16, 2, 128, 1250, 200)
    prompts, rows = 2, 8
    make = partial(torch.randn, device=case.device, dtype=torch.bfloat16 if case.device == "cuda" else torch.float32)
    own, theirs = (prompts * rows, key_heads, new, width), (prompts, key_heads, length, width)
    states = [make(prompts * rows, heads, new, width), make(own), make(own), make(theirs), make(theirs)]
    visible = torch.ones(prompts, length, dtype=torch.bool, device=case.device)
    nothing = torch.zeros(prompts, device=case.device)
    prefix = shared_prefix.Prefix((), (), visible, False, nothing, nothing)
    ways = {"two flash calls": shared_prefix._in_two_flashes, "FlexAttention": shared_prefix._in_blocks}
    backward = case.device == "cuda"  # FlexAttention has none on a CPU
    outputs: dict[str, Tensor] = {}
    for name, attend in ways.items():
        leaves = [tensor.clone().requires_grad_(backward) for tensor in states]

        def once(attend: Any = attend, leaves: Any = leaves, name: str = name) -> None:
            query, key, value, *prompt = leaves
            outputs[name] = attend(query, key, value, tuple(prompt), prefix, width**-0.5, None)
            if backward:
                torch.autograd.grad(outputs[name].sum(), leaves)

        with card_flashes() if case.device == "cuda" else nullcontext():
            once()
            forget_peak()
            before = memory()
            yield {f"{name}: ms": round(1000 * best_of(once, 5), 3), f"{name}: peak MB": round((peak() - before) / 2**20)}
    yield {"relative difference": relative_error(*([output.detach()] for output in outputs.values()))}


def card_flashes() -> Any:
    """Let the two-call way use the card's flash kernels: the CPU's by another signature, and without a mask."""
    aten: Any = torch.ops.aten

    def flash(query: Tensor, key: Tensor, value: Tensor, *, attn_mask: None = None, is_causal: bool = False, scale: float) -> Any:
        assert attn_mask is None
        return aten._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal, scale=scale)[:2]

    def flash_backward(slope: Tensor, *states: Any, attn_mask: None = None, scale: float) -> Any:
        *tensors, dropout, is_causal = states
        query, key = tensors[:2]
        unused = torch.zeros(2, dtype=torch.uint64, device=query.device)  # random state of a dropout that is none
        sizes = (None, None, query.shape[2], key.shape[2])
        return aten._scaled_dot_product_flash_attention_backward(
            slope, *tensors, *sizes, dropout, is_causal, unused, unused[0], scale=scale
        )

    return mock.patch.multiple(shared_prefix, _FLASH=flash, _FLASH_BACKWARD=flash_backward)


def compiles(case: Case) -> Told:
    """Micro-batches of many sizes: how often FlexAttention is compiled, and what the first of them take.

    Raises:
        torch._dynamo.exc.FailOnRecompileLimitHit: more often than dynamo does it; from then on scores would be held in memory.
    """
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    policy, draw = case.policy(SMALL, "bfloat16" if case.device == "cuda" else "float32"), random.Random(0)
    forward = GroupForward(policy, temperature=1.0)
    prompts = questions(policy, 2 if case.toy else 8, "count", "compare", "add")
    seconds = list[float]()
    for _ in range(3 if case.toy else 60):
        batch = draw.sample(prompts, draw.randint(1, 5))
        asked = [(prompt, drawn(policy, 8, 5 if case.toy else draw.randint(20, 200), draw)) for prompt in batch]
        start = perf_counter()
        forward(asked, lambda logprobs_n, line_n: logprobs_n.sum()).loss.backward()
        wait()
        seconds.append(perf_counter() - start)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    usual = sorted(seconds)[len(seconds) // 2]
    slow = [place for place, each in enumerate(seconds) if each > 5 * usual]
    yield {
        "micro-batches": len(seconds),
        "compiles": graphs,
        "limit": torch._dynamo.config.recompile_limit,
        "first s": round(seconds[0], 2),
    }
    yield {"median s": round(usual, 4), "over 5 medians": str(slow)}
