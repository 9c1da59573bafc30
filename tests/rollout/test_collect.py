"""Drawing rounds until enough groups speak, with an engine that answers from a script."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from gpg_vl.config.schema import RolloutConfig
from gpg_vl.errors import EngineLostError, UnusableSampleError, UserError
from gpg_vl.randomness import seed
from gpg_vl.rollout.collect import RolloutContext, collect
from gpg_vl.rollout.engine import RolloutEngine
from gpg_vl.training.processes import raise_on_all_ranks
from gpg_vl.types import Prompt, Sample, Verdict
from gpg_vl.verifiers.dispatch import VerifierSet
from tests.hand_made import completion


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
        return completion(text=text)


def ask(draw: int) -> Prompt:
    sample = Sample(id=str(draw), question="?", answer_kind="script", answer=1)
    return Prompt(sample=sample, text="", input_ids=(1,), features={})


def drawing(
    engine: Scripted, *, wanted: int, groups: int = 4, rank: int = 0, ranks: int = 1, everybodys=lambda own: [own], max_rounds: int = 5
) -> RolloutContext:
    checks = VerifierSet(by_kind={"script": lambda text, sample: Verdict(reward=float(text))})
    config = RolloutConfig(groups_per_step=groups, group_size=2, max_rounds=max_rounds)
    return RolloutContext(
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
    with pytest.raises(EngineLostError, match="no answer"), raise_on_all_ranks(lambda own: [own, lost]):
        """This one has nothing to complain about."""
    with pytest.raises(EngineLostError, match="no answer"), raise_on_all_ranks(lambda own: [own, None]):
        raise lost
    with raise_on_all_ranks(lambda own: [own, None]):
        """Nobody has."""


def test_a_completion_s_stream_is_addressed_by_run_purpose_draw_and_index():
    found = []
    for run, cursor, rank in ((0, 0, 0), (1, 0, 0), (0, 4, 0), (0, 0, 1)):
        engine = Scripted(lambda draw: True)
        plan = drawing(engine, wanted=0, groups=4, rank=rank, ranks=2, everybodys=lambda own: [own])
        collect(replace(plan, seed=run), cursor)
        draws_of_rank = [cursor + rank, cursor + rank + 2]
        assert engine.seeds == [seed(run, "rollout", draw, index) for draw in draws_of_rank for index in range(2)]
        found += engine.seeds
    assert len(set(found)) == len(found) == 4 * 4
    assert seed(0, "rollout", 0, 0) == 4088056024999395354  # the same on every machine, in every version


def test_the_cut_takes_the_earliest_draws_whoever_drew_them():
    plan = drawing(Scripted(lambda draw: True), wanted=4, groups=4, rank=0, ranks=2, everybodys=lambda own: [own and [7, 3, 1, 5], own])
    carried = collect(drawing(Scripted(lambda draw: True), wanted=0, groups=2), cursor=2).groups  # draws 2 and 3
    collected = collect(plan, cursor=4, carried=carried[:1])
    assert draws(collected.fresh) == [4, 6]
    # of 1, 2, 3, 4, 5, 6 and 7 the first four; 1 and 3 are the other's
    assert draws(collected.groups) == [2, 4]
    assert draws(collected.surplus) == [6]
    assert (collected.rounds, collected.cursor) == (1, 8)


def test_a_silent_group_is_reported_and_never_surplus():
    collected = collect(drawing(Scripted(lambda draw: draw % 2 == 0), wanted=2, groups=2), cursor=0)
    assert collected.rounds == 2
    assert draws(collected.groups) == [0, 1, 2, 3]
    assert collected.surplus == ()
    late = collect(drawing(Scripted(lambda draw: draw > 1), wanted=1, groups=2), cursor=0, carried=collected.groups[:3:2])
    assert draws(late.groups) == [0, 2, 0, 1]
    assert draws(late.fresh) == [0, 1]


@pytest.mark.parametrize(("wanted", "rounds"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3), (7, 3)])
def test_rounds_end_with_the_group_that_makes_it_enough_or_with_the_cap(wanted, rounds):
    """Two of the four of each round speak; three rounds at most."""
    collected = collect(drawing(Scripted(lambda draw: draw % 2 == 1), wanted=wanted, groups=4, max_rounds=3), cursor=0)
    assert collected.rounds == rounds
    assert collected.cursor == 4 * rounds
    assert draws(collected.fresh) == list(range(4 * rounds))
    speaking = [1, 3, 5, 7, 9, 11][: 2 * rounds]
    assert draws(group for group in collected.groups if group.informative) == speaking[:4]
    assert draws(collected.surplus) == speaking[4:]


def test_samples_that_cannot_be_asked_are_left_out_with_a_sentence_and_their_draws_pass():
    def some(draw):
        if draw in {1, 4}:
            raise UnusableSampleError(f"{draw}: its image is gone")
        return ask(draw) if draw != 2 else replace(ask(draw), input_ids=(1,) * 60)

    engine = Scripted(lambda draw: draw == 5)
    engine.longest = lambda: 60 + 11
    plan = drawing(engine, wanted=1)
    plan = replace(plan, ask=some, config=plan.config.model_copy(update={"max_tokens": 12}))
    collected = collect(plan, cursor=0)
    assert collected.lost == (
        "1: its image is gone",
        "2: prompt and answer may have 72 tokens, the engine's window is 71",
        "4: its image is gone",
    )
    assert draws(collected.groups) == draws(collected.fresh) == [0, 3, 5, 6, 7]
    engine.longest = lambda: 60 + 12
    assert collect(plan, cursor=0).lost == ("1: its image is gone", "4: its image is gone")


def test_a_round_of_which_nothing_can_be_asked_asks_nobody():
    def none(draw):
        raise UnusableSampleError(f"{draw}: gone")

    engine = Scripted(lambda draw: True)
    collected = collect(replace(drawing(engine, wanted=0), ask=none), cursor=0)
    assert (collected.groups, collected.fresh, engine.seeds) == ((), (), [])
    assert len(collected.lost) == 4


def test_every_answer_is_judged_by_its_own_question_and_asked_as_the_config_says():
    told, judged = [], []

    class Counting(Scripted):
        def generate(self, prompts, sampling, seeds):
            told.append((sampling.max_tokens, sampling.temperature, sampling.greedy, [len(group) for group in seeds]))
            return [
                [replace(self._answer(prompt, 0), text=f"{prompt.sample.id}.{row}") for row in range(len(group))]
                for prompt, group in zip(prompts, seeds, strict=True)
            ]

    plan = drawing(Counting(lambda draw: True), wanted=0, groups=2)
    checks = VerifierSet(by_kind={"script": lambda text, sample: judged.append((text, sample.id)) or Verdict(reward=float(text))})
    config = plan.config.model_copy(update={"group_size": 3, "max_tokens": 7, "temperature": 0.5})
    first, second = collect(replace(plan, verifiers=checks, config=config), cursor=5).groups
    assert told == [(7, 0.5, False, [3, 3])]
    assert judged == [("5.0", "5"), ("5.1", "5"), ("5.2", "5"), ("6.0", "6"), ("6.1", "6"), ("6.2", "6")]
    assert (first.rewards, second.rewards) == ((5.0, 5.1, 5.2), (6.0, 6.1, 6.2))
    assert [first.prompt.sample.id, second.prompt.sample.id] == ["5", "6"]


def test_only_what_a_user_is_told_is_shared_between_processes():
    with pytest.raises(ZeroDivisionError), raise_on_all_ranks(lambda own: [own]):
        raise ZeroDivisionError
    with pytest.raises(UserError, match="first"), raise_on_all_ranks(lambda own: [None, UserError("first"), own]):
        raise UserError("own")
