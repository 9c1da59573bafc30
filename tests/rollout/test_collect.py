"""Sampling rounds until enough groups are informative; the engine answers from a script."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from gpg_vl.config.schema import RolloutConfig
from gpg_vl.errors import EngineLostError, UnusableSampleError, UserError, raise_on_all_ranks
from gpg_vl.randomness import seed
from gpg_vl.rollout.collect import AllGather, LostDraw, RolloutContext, collect, too_many_lost
from gpg_vl.rollout.engine import RolloutEngine
from gpg_vl.types import Prompt, Sample, Verdict
from gpg_vl.verifiers.dispatch import VerifierSet
from tests.hand_made import completion


class Scripted(RolloutEngine):
    """A group is informative where the script says so of its index; the texts are the rewards."""

    def __init__(self, informative: Callable[[int], bool], other_text: str = "0") -> None:
        self.informative, self.other_text = informative, other_text
        self.seeds: list[int] = []

    def generate(self, prompts, sampling, seeds):
        self.seeds += [seed for group in seeds for seed in group]
        return [
            [self._answer(prompt, index) for index in range(len(group))]
            for prompt, group in zip(prompts, seeds, strict=True)
        ]

    def update_weights(self, policy, version):
        """There are no weights."""

    def _answer(self, prompt, index):
        if index == 0 and self.informative(int(prompt.sample.id)):
            return completion(text="1")
        return completion(text=self.other_text)


def prompt_at(index: int) -> Prompt:
    sample = Sample(id=str(index), question="?", answer_kind="script", answer=1)
    return Prompt(sample=sample, text="", input_ids=(1,), features={})


def context(
    engine: Scripted,
    *,
    wanted: int,
    groups: int = 4,
    rank: int = 0,
    ranks: int = 1,
    all_gather=lambda own: [own],
    max_rounds: int = 5,
) -> RolloutContext:
    verifiers = VerifierSet(by_kind={"script": lambda text, sample: Verdict(reward=float(text))})
    config = RolloutConfig(groups_per_step=groups, group_size=2, max_rounds=max_rounds)
    return RolloutContext(
        engine=engine,
        prompt_at=prompt_at,
        verifiers=verifiers,
        config=config,
        min_informative_groups=wanted,
        seed=0,
        rank=rank,
        ranks=ranks,
        all_gather=all_gather,
    )


def beside(other: list[int], rank: int = 1) -> AllGather:
    """The values of this process, one of two, and of another without a group of this round.

    The other has informative groups at these indices, once this one has any.
    """

    def all_gather(own):
        others = own and other
        if isinstance(own, tuple):  # rewards and lengths
            others = [], []
        return [others, own] if rank else [own, others]

    return all_gather


def indices(groups) -> list[int]:
    return [group.prompt_index for group in groups]


def test_one_round_when_enough_are_informative():
    collected = collect(context(Scripted(lambda index: True), wanted=3), cursor=8)
    assert (indices(collected.groups), collected.rounds, collected.cursor) == (
        [8, 9, 10, 11],
        1,
        12,
    )
    assert collected.surplus == ()


def test_more_rounds_until_enough_are_informative_and_the_others_are_reported():
    collected = collect(context(Scripted(lambda index: index % 4 == 0), wanted=3), cursor=0)
    assert collected.rounds == 3
    assert indices(group for group in collected.groups if group.informative) == [0, 4, 8]
    assert indices(collected.fresh) == list(range(12))


def test_surplus_beyond_the_step_is_not_used_but_reported():
    collected = collect(
        context(Scripted(lambda index: index != 0 and index != 1), wanted=3), cursor=0
    )
    assert indices(group for group in collected.groups if group.informative) == [2, 3, 4, 5]
    assert indices(collected.surplus) == [6, 7]
    assert indices(collected.fresh) == list(range(8))


def test_cap_on_rounds_takes_what_there_is():
    collected = collect(
        context(Scripted(lambda index: index == 2), wanted=3, max_rounds=2), cursor=0
    )
    assert collected.rounds == 2
    assert sum(group.informative for group in collected.groups) == 1


def test_nothing_wanted_is_one_round_with_everything_used():
    collected = collect(context(Scripted(lambda index: False), wanted=0), cursor=0)
    assert (indices(collected.groups), collected.rounds) == ([0, 1, 2, 3], 1)


def test_carried_groups_come_first_and_count():
    carried = collect(context(Scripted(lambda index: True), wanted=3), cursor=0).groups[:3]
    collected = collect(
        context(Scripted(lambda index: index == 4), wanted=3), cursor=4, carried=carried
    )
    assert collected.rounds == 1
    assert indices(group for group in collected.groups if group.informative) == [0, 1, 2, 4]
    assert indices(collected.fresh) == [4, 5, 6, 7]


def test_ranks_draw_disjoint_prompts_and_stop_together():
    quiet = context(
        Scripted(lambda index: True),
        wanted=4,
        groups=8,
        rank=1,
        ranks=2,
        all_gather=beside([]),
    )
    collected = collect(quiet, cursor=0)
    assert indices(collected.fresh) == [1, 3, 5, 7]
    assert collected.cursor == 8


def test_the_cut_is_by_draw_number_over_all_ranks():
    other = [0, 2, 4, 6, 8]
    plan = context(
        Scripted(lambda index: index > 8),
        wanted=8,
        groups=8,
        rank=1,
        ranks=2,
        all_gather=beside(other),
    )
    collected = collect(plan, cursor=0)
    assert collected.rounds == 2
    assert indices(group for group in collected.groups if group.informative) == [9, 11, 13]
    assert indices(collected.surplus) == [15]


def test_every_completion_has_its_own_seed_and_no_draw_repeats_one():
    engine = Scripted(lambda index: True)
    plan = context(engine, wanted=0)
    cursor = 0
    for _ in range(3):
        cursor = collect(plan, cursor).cursor
    assert len(set(engine.seeds)) == len(engine.seeds) == 3 * 4 * 2


@pytest.mark.parametrize("rewards", [["nan", "1"], ["nan", "nan"]])
def test_unscored_completions_do_not_make_a_group_informative(rewards):
    engine = Scripted(lambda index: rewards[1] == "1", other_text="nan")
    collected = collect(context(engine, wanted=0), cursor=0)
    assert not any(group.informative for group in collected.groups)


def test_an_error_of_one_process_is_raised_by_all():
    lost = EngineLostError("no answer in 900 s")
    with (
        pytest.raises(EngineLostError, match="no answer"),
        raise_on_all_ranks(lambda own: [own, lost]),
    ):
        """This one has no error."""
    with (
        pytest.raises(EngineLostError, match="no answer"),
        raise_on_all_ranks(lambda own: [own, None]),
    ):
        raise lost
    with raise_on_all_ranks(lambda own: [own, None]):
        """None has."""


def test_a_completion_s_stream_is_addressed_by_run_purpose_draw_and_index():
    found = []
    for run, cursor, rank in ((0, 0, 0), (1, 0, 0), (0, 4, 0), (0, 0, 1)):
        engine = Scripted(lambda index: True)
        plan = context(engine, wanted=0, groups=4, rank=rank, ranks=2, all_gather=lambda own: [own])
        collect(replace(plan, seed=run), cursor)
        own_indices = [cursor + rank, cursor + rank + 2]
        assert engine.seeds == [
            seed(run, "rollout", prompt_index, index)
            for prompt_index in own_indices
            for index in range(2)
        ]
        found += engine.seeds
    assert len(set(found)) == len(found) == 4 * 4
    # the same on every machine, in every version
    assert seed(0, "rollout", 0, 0) == 4088056024999395354


def test_the_cut_takes_the_earliest_draws_whoever_drew_them():
    plan = context(
        Scripted(lambda index: True),
        wanted=4,
        groups=4,
        rank=0,
        ranks=2,
        all_gather=beside([7, 3, 1, 5], rank=0),
    )
    carried = collect(
        context(Scripted(lambda index: True), wanted=0, groups=2), cursor=2
    ).groups  # draws 2 and 3
    collected = collect(plan, cursor=4, carried=carried[:1])
    assert indices(collected.fresh) == [4, 6]
    # of 1, 2, 3, 4, 5, 6 and 7 the first four; 1 and 3 are the other's
    assert indices(collected.groups) == [2, 4]
    assert indices(collected.surplus) == [6]
    assert (collected.rounds, collected.cursor) == (1, 8)


def test_a_zero_variance_group_is_reported_and_never_surplus():
    collected = collect(
        context(Scripted(lambda index: index % 2 == 0), wanted=2, groups=2), cursor=0
    )
    assert collected.rounds == 2
    assert indices(collected.groups) == [0, 1, 2, 3]
    assert collected.surplus == ()
    late = collect(
        context(Scripted(lambda index: index > 1), wanted=1, groups=2),
        cursor=0,
        carried=collected.groups[:3:2],
    )
    assert indices(late.groups) == [0, 2, 0, 1]
    assert indices(late.fresh) == [0, 1]


@pytest.mark.parametrize(
    ("wanted", "rounds"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3), (7, 3)]
)
def test_rounds_end_with_the_group_that_makes_it_enough_or_with_the_cap(wanted, rounds):
    """Two of the four of each round are informative; three rounds at most."""
    collected = collect(
        context(Scripted(lambda index: index % 2 == 1), wanted=wanted, groups=4, max_rounds=3),
        cursor=0,
    )
    assert collected.rounds == rounds
    assert collected.cursor == 4 * rounds
    assert indices(collected.fresh) == list(range(4 * rounds))
    informative = [1, 3, 5, 7, 9, 11][: 2 * rounds]
    assert indices(group for group in collected.groups if group.informative) == informative[:4]
    assert indices(collected.surplus) == informative[4:]


def test_samples_that_cannot_be_asked_are_left_out_with_a_sentence_and_their_draws_pass():
    def some(index):
        if index in {1, 4}:
            raise UnusableSampleError(f"{index}: its image is gone")
        return prompt_at(index) if index != 2 else replace(prompt_at(index), input_ids=(1,) * 60)

    engine = Scripted(lambda index: index == 5)
    engine.max_model_len = lambda: 60 + 11
    plan = context(engine, wanted=1)
    plan = replace(plan, prompt_at=some, config=plan.config.model_copy(update={"max_tokens": 12}))
    collected = collect(plan, cursor=0)
    assert collected.unusable == (
        LostDraw(1, "1: its image is gone"),
        LostDraw(2, "2: prompt and answer may have 72 tokens, the engine's window is 71"),
        LostDraw(4, "4: its image is gone"),
    )
    assert indices(collected.groups) == indices(collected.fresh) == [0, 3, 5, 6, 7]
    engine.max_model_len = lambda: 60 + 12
    lost = collect(plan, cursor=0).unusable
    assert lost == (LostDraw(1, "1: its image is gone"), LostDraw(4, "4: its image is gone"))


def test_a_round_of_which_nothing_can_be_asked_asks_nobody():
    def none(index):
        raise UnusableSampleError(f"{index}: gone")

    engine = Scripted(lambda index: True)
    collected = collect(replace(context(engine, wanted=0), prompt_at=none), cursor=0)
    assert (collected.groups, collected.fresh, engine.seeds) == ((), (), [])
    assert len(collected.unusable) == 4


@pytest.mark.parametrize(
    ("lost", "drawn", "lost_rows", "rows", "stops"),
    [
        (1, 16, 1, 2000, False),  # one bad row in the first step
        (1, 1, 1, 2000, False),
        (9, 16, 9, 2000, False),  # most of a small sample
        (10, 16, 10, 2000, True),
        (10, 200, 10, 2000, False),  # exactly 5 %
        (10, 199, 10, 2000, True),
        (50, 200, 9, 40, False),  # nine bad rows of 40, drawn again and again
        (50, 200, 10, 40, True),
        (100, 800, 1, 8, False),  # one bad row of 8
        (101, 200, 5, 8, True),  # most of the draws
        (10, 20, 5, 8, False),  # half of them
        (9, 10, 7, 8, False),
        (2, 2, 1, 1, True),  # the only row
        (3, 3, 3, 3, True),  # all of the rows
        (2, 3, 2, 3, False),
    ],
)
def test_the_share_of_lost_samples_is_judged_over_enough_of_them(
    lost, drawn, lost_rows, rows, stops
):
    given = {"lost": lost, "drawn": drawn, "lost_rows": lost_rows, "rows": rows}
    assert too_many_lost(0.05, **given) is stops
    assert too_many_lost(0.0, **given)
    assert not too_many_lost(1.0, **given)


def test_every_answer_is_judged_by_its_own_question_and_asked_as_the_config_says():
    calls, judged = [], []

    class Counting(Scripted):
        def generate(self, prompts, sampling, seeds):
            calls.append(
                (
                    sampling.max_tokens,
                    sampling.temperature,
                    sampling.greedy,
                    [len(group) for group in seeds],
                )
            )
            return [
                [
                    replace(self._answer(prompt, 0), text=f"{prompt.sample.id}.{row}")
                    for row in range(len(group))
                ]
                for prompt, group in zip(prompts, seeds, strict=True)
            ]

    plan = context(Counting(lambda index: True), wanted=0, groups=2)
    verifiers = VerifierSet(
        by_kind={
            "script": lambda text, sample: (
                judged.append((text, sample.id)) or Verdict(reward=float(text))
            )
        }
    )
    config = plan.config.model_copy(update={"group_size": 3, "max_tokens": 7, "temperature": 0.5})
    first, second = collect(replace(plan, verifiers=verifiers, config=config), cursor=5).groups
    assert calls == [(7, 0.5, False, [3, 3])]
    assert judged == [
        ("5.0", "5"),
        ("5.1", "5"),
        ("5.2", "5"),
        ("6.0", "6"),
        ("6.1", "6"),
        ("6.2", "6"),
    ]
    assert (first.rewards, second.rewards) == ((5.0, 5.1, 5.2), (6.0, 6.1, 6.2))
    assert [first.prompt.sample.id, second.prompt.sample.id] == ["5", "6"]


def test_only_what_a_user_is_reported_is_shared_between_processes():
    with pytest.raises(ZeroDivisionError), raise_on_all_ranks(lambda own: [own]):
        raise ZeroDivisionError
    with (
        pytest.raises(UserError, match="first"),
        raise_on_all_ranks(lambda own: [None, UserError("first"), own]),
    ):
        raise UserError("own")
