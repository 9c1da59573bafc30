"""Measure the speed of decoding, and what limits it."""

from collections.abc import Sequence
from time import perf_counter

import torch
from case import LARGE, Case, Figures, best_of, questions, wait
from runner import SKIPPED, Numbers
from torch.profiler import ProfilerActivity, profile

from gpg_vl.policy.decoding import begin
from gpg_vl.policy.load import Policy
from gpg_vl.policy.vision import tower_inputs
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.transformers_engine import TransformersEngine
from gpg_vl.types import Prompt

ROWS = 8
"""Number of answers to a prompt."""


def decoding(case: Case) -> Figures:
    """Measure tokens per second, kernels of a step, and images per second through the tower."""
    policy = case.policy(LARGE, "bfloat16")
    small, large, length = (1, 2, 4) if case.toy else (8, 32, 64)
    start = perf_counter()
    prompts = questions(policy, large, "count", side=case.pixels)
    yield {
        "pictures prepared/s": round(large / (perf_counter() - start), 1),
        "prompt tokens": len(prompts[0].input_ids),
    }
    engine = TransformersEngine(policy)
    for count, tokens in ((1, 4), (small, length), (large, length)):  # the first is a warm-up
        seeds = [range(ROWS * group, ROWS * (group + 1)) for group in range(count)]
        start = perf_counter()
        engine.generate(prompts[:count], Sampling(max_tokens=tokens, temperature=1.0), seeds)
        wait()
        if count > 1:
            rate = ROWS * count * length / (perf_counter() - start)
            yield {f"{ROWS * count} rows: tokens/s": round(rate, 1)}
    yield _kernels(policy, prompts[:small])
    inputs = tower_inputs(prompts[:small], policy.model)

    @torch.no_grad()
    def through_tower() -> None:
        with policy.autocast():
            policy.model.model.get_image_features(**inputs, return_dict=True)

    through_tower()
    yield {"pictures through the tower/s": round(small / best_of(through_tower, 2), 1)}


@torch.no_grad()
def _kernels(policy: Policy, prompts: Sequence[Prompt], steps: int = 3) -> Numbers:
    """Count the kernels of a decoding step, and the share of its time in which one runs."""
    on_gpu = policy.device.type == "cuda"
    tokens = torch.zeros(len(prompts), ROWS, dtype=torch.long, device=policy.device)
    with policy.autocast():
        rows = begin(policy, prompts, ROWS)
        rows.append(tokens)
        wait()
        start = perf_counter()
        for _ in range(steps):
            rows.append(tokens)
        wait()
        seconds = (perf_counter() - start) / steps
        activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
        with profile(activities=[activity]) as torch_profiler:
            for _ in range(steps):
                rows.append(tokens)
            wait()
    events = torch_profiler.events() or ()
    if not on_gpu:
        return {
            "ms a step": round(1000 * seconds, 2),
            "operators a step": sum(event.cpu_parent is None for event in events) // steps,
        }
    kernels = [event for event in events if event.device_type.name == "CUDA"]
    busy = sum(event.device_time_total for event in kernels) / 1e6 / steps
    return {
        "ms a step": round(1000 * seconds, 2),
        "kernels a step": len(kernels) // steps,
        "kernels run, %": round(100 * busy / seconds),
    }


@torch.no_grad()
def graph(case: Case) -> Figures:
    """Measure one decoding step as a CUDA graph: its time if launching kernels cost nothing.

    Only one step: the rows' own keys and values grow with each, so shapes change, and a graph
    replays the same shapes.
    """
    if case.device != "cuda":
        yield {SKIPPED: "CUDA graphs need a GPU"}
        return
    policy = case.policy(LARGE, "bfloat16")
    policy.model.bfloat16()  # a graph must not hold copies that autocast makes and frees
    prompts = questions(policy, 8, "count", side=case.pixels)
    tokens = torch.zeros(8, ROWS, dtype=torch.long, device="cuda")
    rows = begin(policy, prompts, ROWS)
    for _ in range(20):
        rows.append(tokens)

    def again() -> None:
        rows.append(tokens)

    yield {"ms a step, launched": round(1000 * best_of(again, 5), 2)}
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        rows.append(tokens)
    yield {"ms a step, replayed": round(1000 * best_of(captured.replay, 5), 2)}
    yield {
        "a whole answer": (
            "not possible as it is: own keys and values grow with each step, and a graph replays "
            "the same shapes"
        )
    }
