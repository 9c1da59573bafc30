"""Which groups go through the model together: micro-batches of whole groups under a token budget.

A micro-batch may exceed the budget where a group alone does, or where groups ask about one picture, which a tower that is trained sees once
per update as long as the prompts fit; the forward then splits it by completions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gpg_vl.policy.plain_forward import PromptAndAnswers
from gpg_vl.types import Group

UNEVEN = 1.25
"""Prompts of one micro-batch differ in length by no more than this factor, so at most a fifth of the prompts' tokens is padding."""


@dataclass(frozen=True, slots=True)
class WeightedGroup:
    """A group and what its tokens weigh."""

    group: Group
    weights: tuple[float, ...]
    """[G] of each token of a completion."""
    shares: tuple[float, ...]
    """[G] of each token of a completion in the divergence."""

    @property
    def asked(self) -> PromptAndAnswers:
        """What the forward takes."""
        return self.group.prompt, self.group.completions

    @property
    def alone(self) -> "WeightedGroup":
        """Only its longest completion."""
        longest = max(range(len(self.weights)), key=lambda row: self.group.lengths[row])
        kept = slice(longest, longest + 1)
        group = replace(self.group, completions=self.group.completions[kept], verdicts=self.group.verdicts[kept])
        return WeightedGroup(group, self.weights[kept], self.shares[kept])


def is_idle(batch: Sequence[WeightedGroup]) -> bool:
    """Whether a batch only keeps this rank in step with the others."""
    return not any(any(item.weights) or any(item.shares) for item in batch)


def plan_microbatches(
    items: Sequence[WeightedGroup], budget: int, *, shared: bool = True, tower_trains: bool = False
) -> list[list[WeightedGroup]]:
    """Neighbours of like length together, each batch within the budget, padding included.

    Args:
        shared: prompts are computed once per group, not once per completion.
        tower_trains: groups about one picture stay together, so that its features and their gradient are computed once.
    """
    batches: list[list[WeightedGroup]] = []
    clusters = [[item] for item in items]
    if shared and tower_trains:
        clusters = [part for whole in _about_one_picture(items) for part in _affordable(whole, budget)]
    for cluster in sorted(clusters, key=lambda cluster: (_prompt_tokens(cluster), max(max(item.group.lengths) for item in cluster))):
        fits = batches and _even(both := [*batches[-1], *cluster]) and padded_tokens(both, shared=shared) <= budget
        if not fits:
            batches.append([])
        batches[-1].extend(cluster)
    return batches


def _about_one_picture(items: Sequence[WeightedGroup]) -> Iterator[list[WeightedGroup]]:
    """Clusters of groups that share a picture, directly or through other groups."""
    pools: list[tuple[set[str], list[WeightedGroup]]] = []
    for item in items:
        seen = set(item.group.prompt.pictures)
        joined = [pool for pool in pools if pool[0] & seen]
        pools = [pool for pool in pools if not pool[0] & seen]
        pools.append((seen.union(*(pictures for pictures, _ in joined)), [*(other for _, pool in joined for other in pool), item]))
    yield from (pool for _, pool in pools)


def _affordable(cluster: list[WeightedGroup], budget: int) -> Iterator[list[WeightedGroup]]:
    """A cluster as it is, or in parts whose prompts alone fit the budget: completions can be split, prompts cannot."""
    count = max(1, budget // _prompt_tokens(cluster))
    yield from (cluster[first : first + count] for first in range(0, len(cluster), count))


def _prompt_tokens(batch: Sequence[WeightedGroup]) -> int:
    return max(len(item.group.prompt.input_ids) for item in batch)


def _even(batch: Sequence[WeightedGroup]) -> bool:
    return _prompt_tokens(batch) <= UNEVEN * min(len(item.group.prompt.input_ids) for item in batch)


def padded_tokens(batch: Sequence[WeightedGroup], *, shared: bool = True) -> int:
    """Tokens of the rectangles that a forward over these groups computes."""
    prompt = _prompt_tokens(batch)
    rows = max(len(item.weights) for item in batch)
    completion = max(max(item.group.lengths) for item in batch)
    return len(batch) * (prompt + rows * completion if shared else rows * (prompt + completion))


def per_token(batch: Sequence[WeightedGroup], of: Callable[[WeightedGroup], tuple[float, ...]], device: torch.device) -> Tensor:
    """[N] a completion's number, repeated for each of its tokens."""
    values = torch.tensor([value for item in batch for value in of(item)], dtype=torch.float64)
    lengths = torch.tensor([length for item in batch for length in item.group.lengths])
    return values.repeat_interleave(lengths).to(device)
