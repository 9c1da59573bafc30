"""Decide which groups go through the model together: whole groups under a token budget.

A micro-batch may exceed the budget in two cases; the forward then splits it by completions. A
single group may be larger than the budget. And groups that ask about one picture stay together as
long as their prompts fit, because a tower that is trained then sees the picture once per update.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gpg_vl.policy.plain_forward import PromptAndAnswers
from gpg_vl.types import Group

MAX_LENGTH_RATIO = 1.25
"""Ratio of the longest to the shortest prompt of a micro-batch: at most a fifth of the prompts'
tokens is padding."""


@dataclass(frozen=True, slots=True)
class WeightedGroup:
    """A group with the weights of its completions' tokens."""

    group: Group
    weights: tuple[float, ...]
    """[G] weight of each token of a completion."""
    shares: tuple[float, ...]
    """[G] weight of each token of a completion in the divergence."""

    @property
    def asked(self) -> PromptAndAnswers:
        """Prompt and completions, as the forward takes them."""
        return self.group.prompt, self.group.completions

    @property
    def alone(self) -> "WeightedGroup":
        """The group with its longest completion only."""
        lengths = self.group.lengths
        longest = lengths.index(max(lengths))
        kept = slice(longest, longest + 1)
        group = replace(
            self.group,
            completions=self.group.completions[kept],
            verdicts=self.group.verdicts[kept],
        )
        return WeightedGroup(group, self.weights[kept], self.shares[kept])


def plan_microbatches(
    items: Sequence[WeightedGroup], budget: int, *, shared: bool = True, tower_trains: bool = False
) -> list[list[WeightedGroup]]:
    """Put neighbours of similar length together, each batch within the budget with its padding.

    Args:
        budget: tokens of a micro-batch.
        shared: prompts are computed once per group, not once per completion.
        tower_trains: groups about one picture stay together, so that its features and their
            gradient are computed once.
    """
    clusters = [[item] for item in items]
    if shared and tower_trains:
        clusters = []
        for cluster in _about_one_picture(items):
            clusters += _affordable(cluster, budget)
    clusters.sort(key=_lengths)
    batches: list[list[WeightedGroup]] = []
    for cluster in clusters:
        if batches:
            both = [*batches[-1], *cluster]
            if _is_even(both) and padded_tokens(both, shared=shared) <= budget:
                batches[-1] = both
                continue
        batches.append(list(cluster))
    return batches


def _about_one_picture(items: Sequence[WeightedGroup]) -> Iterator[list[WeightedGroup]]:
    """Yield clusters of groups that share a picture, directly or through other groups."""
    clusters: list[tuple[set[str], list[WeightedGroup]]] = []
    for item in items:
        pictures, members = set(item.group.prompt.pictures), list[WeightedGroup]()
        others: list[tuple[set[str], list[WeightedGroup]]] = []
        own_pictures = frozenset(pictures)
        for cluster in clusters:
            if cluster[0] & own_pictures:
                pictures |= cluster[0]
                members += cluster[1]
            else:
                others.append(cluster)
        clusters = [*others, (pictures, [*members, item])]
    for _, members in clusters:
        yield members


def _affordable(cluster: list[WeightedGroup], budget: int) -> Iterator[list[WeightedGroup]]:
    """Yield a cluster in parts whose prompts alone fit the budget.

    Completions can be split by the forward, prompts cannot.
    """
    count = max(1, budget // _longest_prompt(cluster))
    for first in range(0, len(cluster), count):
        yield cluster[first : first + count]


def padded_tokens(batch: Sequence[WeightedGroup], *, shared: bool = True) -> int:
    """Return the tokens of the rectangles that a forward over these groups computes."""
    prompt, completion = _lengths(batch)
    rows = max(len(item.weights) for item in batch)
    if shared:
        return len(batch) * (prompt + rows * completion)
    return len(batch) * rows * (prompt + completion)


def per_token(values_BG: Sequence[Sequence[float]], batch: Sequence[WeightedGroup]) -> Tensor:
    """Return [N] float64: each completion's value, repeated for each of its tokens."""
    values: list[float] = []
    lengths: list[int] = []
    for of_group, item in zip(values_BG, batch, strict=True):
        values += of_group
        lengths += item.group.lengths
    return torch.tensor(values, dtype=torch.float64).repeat_interleave(torch.tensor(lengths))


def _lengths(batch: Sequence[WeightedGroup]) -> tuple[int, int]:
    """Return the longest prompt and the longest completion, in tokens."""
    return _longest_prompt(batch), max(max(item.group.lengths) for item in batch)


def _longest_prompt(batch: Sequence[WeightedGroup]) -> int:
    return max(len(item.group.prompt.input_ids) for item in batch)


def _is_even(batch: Sequence[WeightedGroup]) -> bool:
    shortest = min(len(item.group.prompt.input_ids) for item in batch)
    return _longest_prompt(batch) <= MAX_LENGTH_RATIO * shortest
