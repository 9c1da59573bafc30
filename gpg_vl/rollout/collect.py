"""Draw rounds of groups until enough of them speak."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gpg_vl.config.schema import RolloutConfig
from gpg_vl.errors import UnusableSampleError
from gpg_vl.randomness import seed
from gpg_vl.rollout.engine import RolloutEngine, Sampling, ensure_fits
from gpg_vl.rollout.timer import Timer
from gpg_vl.training.processes import raise_on_all_ranks
from gpg_vl.types import Group, Prompt
from gpg_vl.verifiers.dispatch import VerifierSet


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutContext:
    """What stays the same from step to step."""

    engine: RolloutEngine
    ask: Callable[[int], Prompt]
    """The prompt at an index of the endless order of the data."""
    verifiers: VerifierSet
    config: RolloutConfig
    wanted: int
    """Informative groups a step needs, over all ranks; 0 = whatever one round brings."""
    seed: int
    """Of the run."""
    rank: int = 0
    ranks: int = 1
    everybodys: Callable[[Any], list[Any]] = lambda own: [own]
    """One small value per rank."""
    clock: Timer = field(default_factory=Timer)
    """Told what the seconds are spent on."""

    @property
    def share(self) -> int:
        """Groups of one step on this rank."""
        return self.config.groups_per_step // self.ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledStep:
    """The groups of one step on this rank."""

    groups: tuple[Group, ...]
    """What the estimator sees: carried-over and fresh groups in draw order, all silent ones, and informative ones of which all ranks
    together use at most groups_per_step."""
    surplus: tuple[Group, ...]
    """Informative groups beyond those: reported, and carried over or discarded."""
    fresh: tuple[Group, ...]
    """Everything drawn in this step: the mean reward is that of the draw."""
    lost: tuple[str, ...]
    """Why drawn samples could not be asked, a sentence each."""
    rounds: int
    cursor: int
    """Prompts drawn since the start of the run, over all ranks."""


def collect(drawing: RolloutContext, cursor: int, carried: tuple[Group, ...] = ()) -> SampledStep:
    """Draw whole rounds until the informative groups of all ranks are as many as wanted, or the cap on rounds."""
    groups, fresh, lost, rounds, used = list(carried), list[Group](), list[str](), 0, set[int]()
    while rounds < drawing.config.max_rounds:
        with raise_on_all_ranks(drawing.everybodys):
            drawn = sample_round(drawing, cursor, lost)
        groups += drawn
        fresh += drawn
        rounds += 1
        cursor += drawing.config.groups_per_step
        speaking = drawing.everybodys([group.draw for group in groups if group.informative])
        used = set(sorted(draw for own in speaking for draw in own)[: drawing.config.groups_per_step])
        if len(used) >= drawing.wanted:
            break
    kept = tuple(group for group in groups if group.draw in used or not group.informative)
    surplus = tuple(group for group in groups if group.informative and group.draw not in used)
    return SampledStep(groups=kept, surplus=surplus, fresh=tuple(fresh), lost=tuple(lost), rounds=rounds, cursor=cursor)


def sample_round(drawing: RolloutContext, cursor: int, lost: list[str]) -> list[Group]:
    """Sample and score this rank's share of one round; samples that cannot be asked are added to `lost`."""
    asked: list[tuple[int, Prompt]] = []
    with drawing.clock("encode"):
        for index in range(drawing.share):
            draw = cursor + drawing.rank + index * drawing.ranks
            try:
                asked.append((draw, ensure_fits(drawing.ask(draw), drawing.engine, drawing.config.max_tokens)))
            except UnusableSampleError as error:
                lost.append(str(error))
    return sample_groups(drawing, asked) if asked else []


def sample_groups(drawing: RolloutContext, asked: list[tuple[int, Prompt]]) -> list[Group]:
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
