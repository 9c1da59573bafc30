"""Draw rounds of groups until enough of them speak."""

from collections.abc import Callable
from dataclasses import dataclass, field

from gpg_vl.clock import Clock
from gpg_vl.config import RolloutConfig
from gpg_vl.rollout.engine import RolloutEngine, Sampling
from gpg_vl.seeds import seed
from gpg_vl.types import Group, Prompt
from gpg_vl.verifiers.verifier import Verifiers


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """What stays the same from step to step."""

    engine: RolloutEngine
    ask: Callable[[int], Prompt]
    """The prompt at an index of the endless order of the data."""
    verifiers: Verifiers
    config: RolloutConfig
    wanted: int
    """Informative groups a step needs, over all ranks; 0 = whatever one round brings."""
    seed: int
    """Of the run."""
    rank: int = 0
    ranks: int = 1
    total: Callable[[int], int] = int
    """Sum over all ranks."""
    clock: Clock = field(default_factory=Clock)
    """Told what the seconds are spent on."""

    @property
    def share(self) -> int:
        """Groups of one step on this rank."""
        return self.config.groups_per_step // self.ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The groups of one step on this rank."""

    groups: tuple[Group, ...]
    """What the estimator sees: carried-over and fresh groups in draw order, at most `share` informative ones, and all silent ones."""
    surplus: tuple[Group, ...]
    """Informative groups beyond the share: reported, and carried over or discarded."""
    fresh: tuple[Group, ...]
    """Everything drawn in this step: the mean reward is that of the draw."""
    rounds: int
    cursor: int
    """Prompts drawn since the start of the run, over all ranks."""


def collect(drawing: Drawing, cursor: int, carried: tuple[Group, ...] = ()) -> Collected:
    """Draw whole rounds until the kept informative groups reach what is wanted, or the cap on rounds."""
    groups, fresh, rounds = list(carried), list[Group](), 0
    while rounds < drawing.config.max_rounds:
        drawn = draw_round(drawing, cursor)
        groups += drawn
        fresh += drawn
        rounds += 1
        cursor += drawing.config.groups_per_step
        kept = min(sum(group.informative for group in groups), drawing.share)
        if drawing.total(kept) >= drawing.wanted:
            break
    used, surplus = _split(groups, drawing.share, drop=bool(drawing.wanted))
    return Collected(groups=used, surplus=surplus, fresh=tuple(fresh), rounds=rounds, cursor=cursor)


def draw_round(drawing: Drawing, cursor: int) -> list[Group]:
    """Sample and score this rank's share of one round."""
    draws = [cursor + drawing.rank + index * drawing.ranks for index in range(drawing.share)]
    with drawing.clock("encode"):
        asked = [(draw, drawing.ask(draw)) for draw in draws]
    return sample_groups(drawing, asked)


def sample_groups(drawing: Drawing, asked: list[tuple[int, Prompt]]) -> list[Group]:
    """A scored group for each (draw number, prompt)."""
    config = drawing.config
    sampling = Sampling(max_tokens=config.max_tokens, temperature=config.temperature)
    seeds = [[seed(drawing.seed, "rollout", draw, index) for index in range(config.group_size)] for draw, _ in asked]
    with drawing.clock("sample"):
        answered = drawing.engine.generate([prompt for _, prompt in asked], sampling, seeds)
    with drawing.clock("score"):
        return [
            Group(
                prompt=prompt,
                completions=tuple(completions),
                verdicts=tuple(drawing.verifiers.judge(completion, prompt.sample) for completion in completions),
                draw=draw,
            )
            for (draw, prompt), completions in zip(asked, answered, strict=True)
        ]


def _split(groups: list[Group], share: int, *, drop: bool) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
    """In draw order: the groups that are used, and informative ones beyond the share."""
    speaking = [group for group in groups if group.informative]
    surplus = speaking[share:] if drop else []
    left_over = {id(group) for group in surplus}
    return tuple(group for group in groups if id(group) not in left_over), tuple(surplus)
