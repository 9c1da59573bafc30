"""Compute a micro-batch of long prompts and the longest answers once before the first step.

Its prompts are the longest of the first ones that a process asks, at most 32; its answers are as
long as they may become. So a run that does not fit ends before its first step, and not when the
first long answers come; a longer prompt may still come later. All that it computes is dropped: the
run is the same with it and without.
"""

from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count, cycle, islice

import torch
from torch import Tensor

from gpg_vl import progress
from gpg_vl.errors import UnusableSampleError, UserError, raise_on_all_ranks
from gpg_vl.policy.out_of_memory import is_out_of_memory
from gpg_vl.policy.vision import Vision
from gpg_vl.rollout.engine import ensure_fits
from gpg_vl.training.learner import Forward, Learner
from gpg_vl.training.microbatches import MAX_LENGTH_RATIO, WeightedGroup, padded_tokens
from gpg_vl.training.optimizers import moment_bytes
from gpg_vl.training.setup import TrainingRun
from gpg_vl.types import Completion, Group, Prompt, Verdict

MOST_PROMPTS = 32
"""Prompts among which the longest is looked for: encoding one takes about 0.1 s."""


def rehearse(run: TrainingRun) -> None:
    """Compute the rehearsed micro-batch; out of memory, let less through at once in this run.

    Raises:
        UserError: not even one answer fits, or not even the optimizer's moments.
    """
    wanted = run.config.learner.rehearse
    if wanted == "auto":
        wanted = run.policy.device.type == "cuda"
    if not wanted or run.state.step >= run.config.steps:
        return
    progress.phase("rehearsing a micro-batch of the longest answers")
    learner, gather = run.learner, run.processes.all_gather
    with raise_on_all_ranks(gather):
        prompts = _longest_prompts(run)
        run.engine.release_memory()
    while True:
        batch = _largest_batch(run, prompts)
        with raise_on_all_ranks(gather):
            fits = _fits(learner, batch)
        if not run.processes.any(not fits):
            return
        half = None
        with raise_on_all_ranks(gather):
            if not fits:
                half = learner.half_of(batch)
        tokens = min(half for half in gather(half) if half is not None)
        learner.limit_tokens(tokens)
        run.log(
            "out of memory with the longest answers to the longest of the first prompts: in this "
            f"run, at most {tokens} tokens go through the model at once"
        )


def _longest_prompts(run: TrainingRun) -> list[Prompt]:
    """Return prompts that this process is about to ask, the longest and its like."""
    rollouts = run.rollouts
    prompts: list[Prompt] = []
    for place in range(min(MOST_PROMPTS, rollouts.groups_per_rank)):
        index = run.state.cursor + rollouts.rank + place * rollouts.ranks
        with suppress(UnusableSampleError):  # the step itself counts and reports it
            prompt = rollouts.prompt_at(index)
            prompts.append(ensure_fits(prompt, rollouts.engine, rollouts.config.max_tokens))
    prompts.sort(key=lambda prompt: -len(prompt.input_ids))
    return [
        prompt
        for prompt in prompts
        if MAX_LENGTH_RATIO * len(prompt.input_ids) >= len(prompts[0].input_ids)
    ]


def _largest_batch(run: TrainingRun, prompts: list[Prompt]) -> list[WeightedGroup]:
    """Return as many groups of the longest answers as a micro-batch may hold; one at least."""
    config, learner = run.config.rollout, run.learner
    most = config.groups_per_step
    if run.estimator.kl > 0:  # the divergence trains groups of all rounds
        most = run.rollouts.groups_per_rank * config.max_rounds
    groups = [_group(run, prompt) for prompt in prompts]
    batch: list[WeightedGroup] = []
    for item in islice(cycle(groups), most):
        larger = [*batch, item]
        tokens = padded_tokens(larger, shared=learner.shared)
        if batch and tokens > learner.tokens_per_microbatch:
            break
        batch = larger
    return batch


def _group(run: TrainingRun, prompt: Prompt) -> WeightedGroup:
    """Return a group whose answers are as long as they may become, of a token that may come."""
    policy, config = run.policy, run.config.rollout
    never = {*policy.banned_ids, *policy.end_ids}
    token = next(number for number in count() if number not in never)
    answer = Completion(
        token_ids=(token,) * config.max_tokens,
        logprobs=(0.0,) * config.max_tokens,
        text="",
        finish="length",
        version=run.state.version,
    )
    size = config.group_size
    group = Group(
        prompt=prompt,
        completions=(answer,) * size,
        verdicts=(Verdict(reward=0.0),) * size,
        prompt_index=0,
    )
    weights = (1.0 / (size * config.max_tokens),) * size
    return WeightedGroup(group, weights, weights)


def _fits(learner: Learner, batch: list[WeightedGroup]) -> bool:
    """Return True if there is enough memory for a micro-batch beside the optimizer's moments.

    Raises:
        UserError: there is not enough for the moments alone.
    """
    batches = [batch] if batch else []  # no sample of this process could become a prompt
    try:
        moments = _placeholders(learner)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            "out of memory with the optimizer's moments alone: set optimizer.kind to adamw8bit, or "
            "policy.language to lora (gpg-vl plan shows what each needs)"
        ) from None
    with _without_feature_cache(learner.forward):
        fits = learner.gradients(batches, [None] * len(batches)) is not None
    learner.optimizer.zero_grad(set_to_none=True)
    del moments
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return fits


def _placeholders(learner: Learner) -> list[Tensor]:
    """Return memory as large as the moments will be; empty = the optimizer has them already."""
    held: list[Tensor] = []
    if learner.optimizer.state:
        return held
    for parameter in learner.trained:
        size = moment_bytes(parameter, learner.config)
        held.append(torch.empty(size, dtype=torch.uint8, device=parameter.device))
    return held


@contextmanager
def _without_feature_cache(forward: Forward) -> Generator[None, None, None]:
    """Compute pictures anew: features of another batch may differ from the step's in last bits."""
    policy = forward.policy
    forward.policy = replace(policy, vision=Vision(policy.model, None))
    try:
        yield
    finally:
        forward.policy = policy
