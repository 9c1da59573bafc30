"""Drawing rounds until enough groups speak, with an engine that answers from a script."""

from collections.abc import Callable

import pytest

from gpg_vl.config import RolloutConfig
from gpg_vl.rollout.collect import Drawing, all_or_nobody, collect
from gpg_vl.rollout.engine import EngineLostError, RolloutEngine
from gpg_vl.types import Completion, Prompt, Sample, Verdict
from gpg_vl.verifiers.verifier import Verifiers


class Scripted(RolloutEngine):
    """Group `draw` is informative where the script says so; the texts carry the rewards."""

    def __init__(self, speaks: Callable[[int], bool], silent_text: str = "0") -> None:
        self.speaks, self.silent_text = speaks, silent_text
        self.seeds: list[int] = []

    def generate(self, prompts, sampling, seeds):
        self.seeds += [seed for group in seeds for seed in group]
        return [[self._answer(prompt, index) for index in range(len(group))] for prompt, group in zip(prompts, seeds, strict=True)]

    def refresh(self, policy, version):
        """There are no weights."""

    def _answer(self, prompt, index):
        text = "1" if index == 0 and self.speaks(int(prompt.sample.id)) else self.silent_text
        return Completion(token_ids=(1,), logprobs=(0.0,), text=text, finish="stop", version=0)


def ask(draw: int) -> Prompt:
    sample = Sample(id=str(draw), question="?", answer_kind="script", answer=1)
    return Prompt(sample=sample, text="", input_ids=(1,), features={})


def drawing(
    engine: Scripted, *, wanted: int, groups: int = 4, rank: int = 0, ranks: int = 1, everybodys=lambda own: [own], max_rounds: int = 5
) -> Drawing:
    checks = Verifiers(by_kind={"script": lambda text, sample: Verdict(reward=float(text))})
    config = RolloutConfig(groups_per_step=groups, group_size=2, max_rounds=max_rounds)
    return Drawing(
        engine=engine, ask=ask, verifiers=checks, config=config, wanted=wanted, seed=0, rank=rank, ranks=ranks, everybodys=everybodys
    )  # type: ignore[arg-type]


def draws(groups) -> list[int]:
    return [group.draw for group in groups]


def test_one_round_when_enough_speak():
    collected = collect(drawing(Scripted(lambda draw: True), wanted=3), cursor=8)
    assert (draws(collected.groups), collected.rounds, collected.cursor) == ([8, 9, 10, 11], 1, 12)
    assert collected.surplus == ()


def test_more_rounds_until_enough_speak_and_the_silent_are_reported():
    collected = collect(drawing(Scripted(lambda draw: draw % 4 == 0), wanted=3), cursor=0)
    assert collected.rounds == 3
    assert draws(group for group in collected.groups if group.informative) == [0, 4, 8]
    assert draws(collected.fresh) == list(range(12))


def test_surplus_beyond_the_step_is_not_used_but_reported():
    collected = collect(drawing(Scripted(lambda draw: draw != 0 and draw != 1), wanted=3), cursor=0)
    assert draws(group for group in collected.groups if group.informative) == [2, 3, 4, 5]
    assert draws(collected.surplus) == [6, 7]
    assert draws(collected.fresh) == list(range(8))


def test_cap_on_rounds_takes_what_there_is():
    collected = collect(drawing(Scripted(lambda draw: draw == 2), wanted=3, max_rounds=2), cursor=0)
    assert collected.rounds == 2
    assert sum(group.informative for group in collected.groups) == 1


def test_nothing_wanted_is_one_round_with_everything_used():
    collected = collect(drawing(Scripted(lambda draw: False), wanted=0), cursor=0)
    assert (draws(collected.groups), collected.rounds) == ([0, 1, 2, 3], 1)


def test_carried_groups_come_first_and_count():
    carried = collect(drawing(Scripted(lambda draw: True), wanted=3), cursor=0).groups[:3]
    collected = collect(drawing(Scripted(lambda draw: draw == 4), wanted=3), cursor=4, carried=carried)
    assert collected.rounds == 1
    assert draws(group for group in collected.groups if group.informative) == [0, 1, 2, 4]
    assert draws(collected.fresh) == [4, 5, 6, 7]


def test_ranks_draw_disjoint_prompts_and_stop_together():
    quiet = drawing(Scripted(lambda draw: True), wanted=4, groups=8, rank=1, ranks=2, everybodys=lambda own: [[], own])
    collected = collect(quiet, cursor=0)
    assert draws(collected.fresh) == [1, 3, 5, 7]
    assert collected.cursor == 8


def test_the_cut_is_by_draw_number_over_all_ranks():
    other = [0, 2, 4, 6, 8]
    plan = drawing(Scripted(lambda draw: draw > 8), wanted=8, groups=8, rank=1, ranks=2, everybodys=lambda own: [own and other, own])
    collected = collect(plan, cursor=0)
    assert collected.rounds == 2
    assert draws(group for group in collected.groups if group.informative) == [9, 11, 13]
    assert draws(collected.surplus) == [15]


def test_every_completion_has_its_own_seed_and_no_draw_repeats_one():
    engine = Scripted(lambda draw: True)
    plan = drawing(engine, wanted=0)
    cursor = 0
    for _ in range(3):
        cursor = collect(plan, cursor).cursor
    assert len(set(engine.seeds)) == len(engine.seeds) == 3 * 4 * 2


@pytest.mark.parametrize("rewards", [["nan", "1"], ["nan", "nan"]])
def test_unscored_completions_do_not_make_a_group_speak(rewards):
    engine = Scripted(lambda draw: rewards[1] == "1", silent_text="nan")
    collected = collect(drawing(engine, wanted=0), cursor=0)
    assert not any(group.informative for group in collected.groups)


def test_what_one_process_meets_all_raise():
    lost = EngineLostError("no answer in 900 s")
    with pytest.raises(EngineLostError, match="no answer"), all_or_nobody(lambda own: [own, lost]):
        """This one has nothing to complain about."""
    with pytest.raises(EngineLostError, match="no answer"), all_or_nobody(lambda own: [own, None]):
        raise lost
    with all_or_nobody(lambda own: [own, None]):
        """Nobody has."""
