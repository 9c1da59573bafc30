"""Measure attention over a shared prompt on the GPU: speed of two kernels, and compilations."""

import random
from contextlib import nullcontext
from functools import partial
from time import perf_counter
from typing import Any
from unittest import mock

import torch
from case import SMALL, Case, Figures, best_of, questions, random_completions, relative_error, wait
from profiler import memory, peak, reset_peak
from torch import Tensor

from gpg_vl.policy import shared_prefix
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.plain_forward import PromptAndAnswers


def two_ways(case: Case) -> Figures:
    """Measure FlexAttention, and two flash calls merged by their normalisers.

    Both run forward and backward over the same rows.
    """
    heads, key_heads, width, length, new = 16, 2, 128, 1250, 200
    if case.toy:
        heads, key_heads, width, length, new = 4, 2, 16, 40, 6
    prompts, rows = 2, 8
    dtype = torch.bfloat16 if case.device == "cuda" else torch.float32
    make = partial(torch.randn, device=case.device, dtype=dtype)
    own_shape = (prompts * rows, key_heads, new, width)
    prompt_shape = (prompts, key_heads, length, width)
    states = [
        make(prompts * rows, heads, new, width),  # queries
        make(own_shape),  # keys and values of the rows
        make(own_shape),
        make(prompt_shape),  # keys and values of the prompts
        make(prompt_shape),
    ]
    visible = torch.ones(prompts, length, dtype=torch.bool, device=case.device)
    nothing = torch.zeros(prompts, device=case.device)
    prefix = shared_prefix.Prefix((), (), visible, False, nothing, nothing)
    ways = {
        "two flash calls": shared_prefix._merged_flash_attention,
        "FlexAttention": shared_prefix._flex_attention,
    }
    backward = case.device == "cuda"  # FlexAttention has none on a CPU
    outputs: dict[str, Tensor] = {}
    for name, attend in ways.items():
        leaves = [tensor.clone().requires_grad_(backward) for tensor in states]

        def once(attend: Any = attend, leaves: Any = leaves, name: str = name) -> None:
            query, key, value, *prompt = leaves
            outputs[name] = attend(query, key, value, tuple(prompt), prefix, width**-0.5, None)
            if backward:
                torch.autograd.grad(outputs[name].sum(), leaves)

        with gpu_flash_kernels() if case.device == "cuda" else nullcontext():
            once()
            reset_peak()
            before = memory()
            yield {
                f"{name}: ms": round(1000 * best_of(once, 5), 3),
                f"{name}: peak MB": round((peak() - before) / 2**20),
            }
    merged, flex = (outputs[name].detach() for name in ways)
    yield {"relative difference": relative_error([merged], [flex])}


def gpu_flash_kernels() -> Any:
    """Replace the CPU's flash kernels by those of the GPU, which have no mask.

    Their signature is another one.
    """
    aten: Any = torch.ops.aten

    def flash(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        attn_mask: None = None,
        is_causal: bool = False,
        scale: float,
    ) -> Any:
        assert attn_mask is None
        return aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, is_causal, scale=scale
        )[:2]

    def flash_backward(grad: Tensor, *states: Any, attn_mask: None = None, scale: float) -> Any:
        *tensors, dropout, is_causal = states
        query, key = tensors[:2]
        # The random state of a dropout, which is not used here.
        unused = torch.zeros(2, dtype=torch.uint64, device=query.device)
        sizes = (None, None, query.shape[2], key.shape[2])
        return aten._scaled_dot_product_flash_attention_backward(
            grad, *tensors, *sizes, dropout, is_causal, unused, unused[0], scale=scale
        )

    return mock.patch.multiple(shared_prefix, _FLASH=flash, _FLASH_BACKWARD=flash_backward)


def compiles(case: Case) -> Figures:
    """Count how often FlexAttention is compiled for micro-batches of many sizes, and the seconds.

    Raises:
        torch._dynamo.exc.FailOnRecompileLimitHit: more often than dynamo allows; from then on
        scores would be held in memory.
    """
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    policy = case.policy(SMALL, "bfloat16" if case.device == "cuda" else "float32")
    generator = random.Random(0)
    forward = GroupForward(policy, temperature=1.0)
    prompts = questions(policy, 2 if case.toy else 8, "count", "compare", "add")
    seconds = list[float]()
    for _ in range(3 if case.toy else 60):
        asked: list[PromptAndAnswers] = []
        for prompt in generator.sample(prompts, generator.randint(1, 5)):
            max_length = 5 if case.toy else generator.randint(20, 200)
            asked.append((prompt, random_completions(policy, 8, max_length, generator)))
        start = perf_counter()
        forward(asked, lambda logprobs_n, index_n: logprobs_n.sum()).loss.backward()
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
