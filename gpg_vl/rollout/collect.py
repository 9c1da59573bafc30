"""Sample rounds of groups until enough of them are informative (their rewards differ)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from gpg_vl.config.schema import RolloutConfig
from gpg_vl.errors import UnusableSampleError, raise_on_all_ranks
from gpg_vl.randomness import seed
from gpg_vl.rollout.engine import RolloutEngine, Sampling, ensure_fits
from gpg_vl.rollout.timer import Timer
from gpg_vl.types import Batch, Group, Prompt
from gpg_vl.verifiers.dispatch import VerifierSet

MIN_LOST = 10
"""Smallest number of lost rows, or of lost draws, from which their share is judged."""


class LostDraw(NamedTuple):
    """A draw whose sample could not become a prompt.

    Example:
        LostDraw(17, "image a.png cannot be read: image file is truncated")
    """

    prompt_index: int
    """Index in the endless order of the data."""
    why: str
    """Reason, in words."""


def too_many_lost(max_lost: float, *, lost: int, drawn: int, lost_rows: int, rows: int) -> bool:
    """Judge whether a run loses too many of its samples to go on.

    A small sample says nothing about a share, and a few bad rows must not end a run: there have to
    be MIN_LOST different ones (all, if the data have fewer), or most draws are lost.

    Args:
        max_lost: largest share; 0 = none may be lost.
        lost: draws that could not become prompts, of `drawn`.
        lost_rows: different rows among them, of `rows` in the data.
    """
    if lost <= max_lost * drawn:
        return False
    are_most = lost >= MIN_LOST and lost > drawn / 2
    return max_lost == 0 or are_most or lost_rows >= min(MIN_LOST, rows)


AllGather = Callable[[Any], list[Any]]
"""Returns one small picklable value per process, in rank order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutContext:
    """Everything that sampling needs and that stays the same from step to step."""

    engine: RolloutEngine
    prompt_at: Callable[[int], Prompt]
    """Prompt at an index of the endless order of the data."""
    verifiers: VerifierSet
    config: RolloutConfig
    min_informative_groups: int
    """Informative groups that a step needs, over all processes; 0 = one round is enough."""
    seed: int
    """Seed of the run."""
    rank: int = 0
    ranks: int = 1
    all_gather: AllGather = lambda own: [own]
    timer: Timer = field(default_factory=Timer)
    """Seconds by phase: encode, sample, score..."""

    @property
    def groups_per_rank(self) -> int:
        """Groups of one round on this process."""
        return self.config.groups_per_step // self.ranks


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampledBatch(Batch):
    """The groups of one step as they were sampled.

    `groups`, which the estimator sees, are in prompt order: carried-over and fresh groups, all
    zero-variance ones, and informative ones of which all processes together use at most
    groups_per_step.
    """

    surplus: tuple[Group, ...]
    """Informative groups beyond those: reported, then carried over or discarded."""
    fresh: tuple[Group, ...]
    """All groups sampled in this step; the mean reward is theirs."""
    unusable: tuple[LostDraw, ...]
    """Draws of this process whose samples could not become prompts."""
    rounds: int
    """Rounds that were sampled."""
    cursor: int
    """Prompts used since the start of the run, over all processes."""


def collect(context: RolloutContext, cursor: int, carried: tuple[Group, ...] = ()) -> SampledBatch:
    """Sample whole rounds until enough groups are informative, or the limit on rounds.

    Args:
        cursor: prompts used so far, over all processes.
        carried: informative groups of this process that an earlier step did not use.
    """
    groups_per_step = context.config.groups_per_step
    groups, fresh, unusable = list(carried), list[Group](), list[LostDraw]()
    rounds, used = 0, set[int]()
    while rounds < context.config.max_rounds:
        with raise_on_all_ranks(context.all_gather):
            sampled = sample_round(context, cursor, unusable)
        groups += sampled
        fresh += sampled
        rounds += 1
        cursor += groups_per_step
        informative: list[int] = []
        for of_one_rank in context.all_gather(_informative_prompts(groups)):
            informative += of_one_rank
        used = set(sorted(informative)[:groups_per_step])
        if len(used) >= context.min_informative_groups:
            break
    in_step, surplus = list[Group](), list[Group]()
    for group in groups:
        is_surplus = group.informative and group.prompt_index not in used
        (surplus if is_surplus else in_step).append(group)
    batch = gather_batch(in_step, context.all_gather, context.rank)
    return SampledBatch(
        groups=batch.groups,
        rewards_BG=batch.rewards_BG,
        lengths_BG=batch.lengths_BG,
        own_rows=batch.own_rows,
        surplus=tuple(surplus),
        fresh=tuple(fresh),
        unusable=tuple(unusable),
        rounds=rounds,
        cursor=cursor,
    )


def _informative_prompts(groups: Iterable[Group]) -> list[int]:
    return [group.prompt_index for group in groups if group.informative]


def gather_batch(groups: Iterable[Group], all_gather: AllGather, rank: int) -> Batch:
    """Put the groups of this process beside the rewards and lengths of all processes."""
    groups = tuple(groups)
    own = [group.rewards for group in groups], [group.lengths for group in groups]
    rewards: list[tuple[float, ...]] = []
    lengths: list[tuple[int, ...]] = []
    first_own_row = 0
    for number, (rank_rewards, rank_lengths) in enumerate(all_gather(own)):
        if number == rank:
            first_own_row = len(rewards)
        rewards += rank_rewards
        lengths += rank_lengths
    if rewards:
        rewards_BG = torch.tensor(rewards, dtype=torch.float64)
        lengths_BG = torch.tensor(lengths)
    else:  # every sample of the round was unusable
        rewards_BG = torch.empty(0, 1, dtype=torch.float64)
        lengths_BG = torch.empty(0, 1, dtype=torch.int64)
    return Batch(
        groups=groups,
        rewards_BG=rewards_BG,
        lengths_BG=lengths_BG,
        own_rows=slice(first_own_row, first_own_row + len(groups)),
    )


def sample_round(context: RolloutContext, cursor: int, unusable: list[LostDraw]) -> list[Group]:
    """Sample and score this process's share of one round.

    Args:
        unusable: gets each draw whose sample cannot become a prompt.
    """
    prompts: list[tuple[int, Prompt]] = []
    max_tokens = context.config.max_tokens
    with context.timer("encode"):
        for place in range(context.groups_per_rank):
            prompt_index = cursor + context.rank + place * context.ranks
            try:
                prompt = ensure_fits(context.prompt_at(prompt_index), context.engine, max_tokens)
            except UnusableSampleError as error:
                unusable.append(LostDraw(prompt_index, str(error)))
            else:
                prompts.append((prompt_index, prompt))
    return sample_groups(context, prompts) if prompts else []


def sample_groups(context: RolloutContext, prompts: list[tuple[int, Prompt]]) -> list[Group]:
    """Sample and score one group for each (prompt index, prompt)."""
    config = context.config
    sampling = Sampling(max_tokens=config.max_tokens, temperature=config.temperature)
    seeds: list[list[int]] = []
    for prompt_index, _ in prompts:
        address = context.seed, "rollout", prompt_index
        seeds.append([seed(*address, number) for number in range(config.group_size)])
    with context.timer("sample"):
        sampled = context.engine.generate([prompt for _, prompt in prompts], sampling, seeds)
    groups: list[Group] = []
    with context.timer("score"):
        for (prompt_index, prompt), completions in zip(prompts, sampled, strict=True):
            verdicts = [
                context.verifiers.judge(completion, prompt.sample) for completion in completions
            ]
            group = Group(
                prompt=prompt,
                completions=tuple(completions),
                verdicts=tuple(verdicts),
                prompt_index=prompt_index,
            )
            groups.append(group)
    return groups
