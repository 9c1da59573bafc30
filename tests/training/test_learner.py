"""The update: pieces add up to the whole, what must not count does not, and a bad batch changes
nothing."""

import math
import re
from dataclasses import replace

import pytest
import torch

from gpg_vl.config.schema import OptimizerConfig
from gpg_vl.errors import UserError
from gpg_vl.methods.gpg import Gpg
from gpg_vl.methods.grpo import DrGrpo, Grpo
from gpg_vl.methods.rloo import Rloo
from gpg_vl.policy import group_forward
from gpg_vl.policy.decoding import RepeatedRows, begin
from gpg_vl.policy.group_forward import Agreement, GroupForward
from gpg_vl.policy.plain_forward import UnsharedForward
from gpg_vl.policy.reference import Reference, first_values
from gpg_vl.training.microbatches import (
    MAX_LENGTH_RATIO,
    WeightedGroup,
    padded_tokens,
    plan_microbatches,
)
from tests.asking import (
    TASKS,
    gradient_norm,
    make_learner,
    parameters,
    prompts,
    random_completions,
    take_update,
)
from tests.hand_made import completion, group

REWARDS = [
    [1.0, 0.0, 0.0, 0.0],
    [1.0, 1.0, 1.0, 1.0],
    [0.5, math.nan, 1.0, 0.0],
    [0.0, 0.0, 0.0, 0.0],
    [1.0, 1.0, 0.0, 0.0],
]


def groups_of(policy, rewards=REWARDS, tasks=TASKS):
    return tuple(
        group(row, random_completions(len(row), longest=7, seed=index), asked=prompt, draw=index)
        for index, (prompt, row) in enumerate(zip(prompts(policy, tasks), rewards, strict=True))
    )


def learner_of(policy, forward=GroupForward, **options):
    config = OptimizerConfig(
        lr=options.pop("lr", 1e-2),
        warmup_steps=options.pop("warmup_steps", 0),
        **options.pop("optimizer", {}),
    )
    return make_learner(forward(policy, 1.0), Gpg(), config, total_steps=10, **options)


def step(learner, groups, estimator, version=0):
    """Update with another estimator than the learner was made with."""
    learner.estimator = estimator
    return take_update(learner, groups, version)


@pytest.mark.parametrize(
    ("forward", "tokens"),
    [(GroupForward, 1), (GroupForward, 120), (UnsharedForward, 1 << 20), (UnsharedForward, 1)],
)
def test_pieces_add_up_to_the_step(forward, tokens, policy_of):
    whole, pieces = policy_of(dtype="float64"), policy_of(dtype="float64")
    update = step(learner_of(whole), groups_of(whole), Gpg(min_informative=0.0))
    piecewise = step(
        learner_of(pieces, forward, tokens=tokens), groups_of(pieces), Gpg(min_informative=0.0)
    )
    assert piecewise.metrics["loss"] == pytest.approx(update.metrics["loss"], rel=1e-6)
    assert piecewise.metrics["grad_norm"] == pytest.approx(update.metrics["grad_norm"], rel=1e-6)


def test_the_gradient_is_the_formula_written_out(policy_of):
    policy = policy_of(dtype="float64")
    groups = groups_of(policy, REWARDS)
    forward = UnsharedForward(policy, 1.0)
    loss = torch.zeros((), dtype=torch.float64)
    informative = [0, 2, 4]
    for index in informative:
        own = groups[index]
        scored = [place for place, reward in enumerate(own.rewards) if not math.isnan(reward)]
        mean = sum(own.rewards[place] for place in scored) / len(scored)
        tokens = sum(own.lengths[place] for place in scored)
        for place in scored:
            logprobs = forward([(own.prompt, [own.completions[place]])]).logprobs_N
            loss = loss - (own.rewards[place] - mean) * logprobs.sum() / tokens / len(informative)
    loss.backward()
    fresh = policy_of(dtype="float64")
    update = step(learner_of(fresh), groups_of(fresh), Gpg(min_informative=0.0))
    assert update.metrics["grad_norm"] == pytest.approx(gradient_norm(policy), rel=1e-6)
    assert update.metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-6)


def test_zero_variance_groups_cost_no_forward(policy_of):
    policy = policy_of()
    learner = learner_of(policy)
    asked = []
    learner.forward.register_forward_pre_hook(
        lambda module, args: asked.extend(prompt.sample.id for prompt, _ in args[0])
    )
    step(learner, groups_of(policy), Gpg())
    groups = groups_of(policy)
    assert sorted(asked) == sorted(groups[index].prompt.sample.id for index in (0, 2, 4))


def test_nothing_informative_changes_nothing_and_does_not_advance_the_schedule(policy_of):
    policy = policy_of()
    learner = learner_of(policy, warmup_steps=5)
    before, rate = parameters(policy), learner.schedule.get_last_lr()
    update = step(learner, groups_of(policy, [[1.0] * 4] * 5), Gpg())
    assert update.skipped == "no informative group"
    assert torch.equal(before, parameters(policy))
    assert learner.schedule.get_last_lr() == rate


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_non_finite_is_skipped_and_changes_nothing(poison, policy_of):
    policy = policy_of()
    learner = learner_of(policy)
    before, rate = parameters(policy), learner.schedule.get_last_lr()
    norm = policy.model.model.get_decoder().norm
    handle = norm.register_forward_hook(lambda module, args, output: output * poison)
    update = step(learner, groups_of(policy), Gpg())
    handle.remove()
    assert update.skipped.startswith("non-finite")
    assert torch.equal(before, parameters(policy))
    assert learner.schedule.get_last_lr() == rate
    assert not step(learner, groups_of(policy), Gpg()).skipped
    assert torch.isfinite(parameters(policy)).all()


def test_clipping_acts_after_alpha_and_is_reported(policy_of):
    """Three of five groups are informative, so the norm is 5/3 of what a mean over all gives."""
    policy, free = policy_of(), policy_of()
    learner = learner_of(policy, optimizer={"clip_norm": 1e-3})
    clipped = step(learner, groups_of(policy), Gpg(min_informative=0.0)).metrics
    mean_of_all = Gpg(min_informative=1.0, groups_per_step=5)  # bounds alpha by 1
    unclipped = step(learner_of(free), groups_of(free), mean_of_all).metrics
    assert clipped["clipped"] == 1.0
    assert clipped["grad_norm"] == pytest.approx(5 / 3 * unclipped["grad_norm"], rel=1e-5)
    assert gradient_norm(policy) == pytest.approx(1e-3, rel=1e-2)


def test_a_stale_group_gets_its_truncated_ratio_and_a_fresh_one_exactly_one(policy_of):
    policy = policy_of(dtype="float64")
    (prompt,) = prompts(policy, ["add"])
    answers = [completion([5, 6]), completion([7])]
    now = GroupForward(policy, 1.0)([(prompt, answers)]).logprobs_N.tolist()
    fresh = [
        completion([5, 6], version=3, logprobs=[-50.0, -50.0]),
        completion([7], version=3, logprobs=[-50.0]),
    ]
    stale = [
        completion([5, 6], version=2, logprobs=[now[0] - 5.0, now[1]]),
        completion([7], version=2, logprobs=[now[2] + math.log(2)]),
    ]
    losses = []
    for answers in (fresh, stale):
        own = (group([1.0, 0.0], answers, asked=prompt),)
        learner = learner_of(policy, lr=1e-30)
        losses.append(
            step(learner, own, Gpg(min_informative=0.0, max_ratio=2.0), version=3).metrics["loss"]
        )
    weight = 0.5 / 3
    assert losses[0] == pytest.approx(-weight * (now[0] + now[1] - now[2]))
    assert losses[1] == pytest.approx(-weight * (2.0 * now[0] + now[1] - 0.5 * now[2]))


def test_two_updates_on_one_rollout_clip_the_ratio(policy_of):
    policy = policy_of()
    learner = learner_of(policy, lr=1e-4, updates_per_rollout=2)
    groups = groups_of(policy)
    before = parameters(policy)
    update = step(learner, groups, Grpo())
    assert not update.skipped
    assert update.metrics["loss"] < 0  # the second step starts from a ratio that has moved
    assert not torch.equal(before, parameters(policy))


def test_divergence_needs_a_reference_and_also_trains_zero_variance_groups(policy_of):
    policy = policy_of()
    first = first_values(policy)
    with torch.no_grad():
        policy.model.lm_head.weight += 0.05 * torch.randn(
            policy.model.lm_head.weight.shape, generator=torch.Generator().manual_seed(0)
        )
    learner = learner_of(policy)
    learner.reference = Reference(learner.forward, first)
    update = step(learner, groups_of(policy, [[1.0] * 4] * 5), Grpo(kl=0.1))
    assert update.skipped == ""
    assert update.metrics["loss"] > 0  # k3 is never negative, and there is nothing else


@pytest.mark.parametrize("estimator", [Gpg(), Grpo(), DrGrpo(max_tokens=8), Rloo()])
def test_every_estimator_raises_the_reward_weighted_likelihood(estimator, policy_of):
    policy = policy_of()
    groups = groups_of(policy)
    learner = learner_of(policy, lr=1e-3)
    forward = GroupForward(policy, 1.0)

    def gain():
        with torch.no_grad():
            scores = forward([(groups[4].prompt, groups[4].completions)]).logprobs_N.split(
                list(groups[4].lengths)
            )
        return float(
            sum(part.sum() for part in scores[:2]) - sum(part.sum() for part in scores[2:])
        )

    before = gain()
    for _ in range(5):
        step(learner, groups, estimator)
    assert gain() > before


def test_microbatches_hold_whole_groups_within_the_budget(policy_of):
    policy = policy_of()
    items = [WeightedGroup(own, (1.0,) * 4, (1.0,) * 4) for own in groups_of(policy)]
    batches = plan_microbatches(items, budget=100)
    assert sorted(id(item) for batch in batches for item in batch) == sorted(map(id, items))
    assert all(len(batch) == 1 or padded_tokens(batch) <= 100 for batch in batches)
    assert len(plan_microbatches(items, budget=1)) == len(items)


def test_groups_about_one_picture_stay_together_where_the_tower_trains(policy_of):
    policy = policy_of()
    first, second, third = prompts(policy, ["count"], each=3)
    both = replace(third, pictures=(*third.pictures, *first.pictures))
    items = [
        WeightedGroup(
            group([1.0, 0.0], [completion([1])] * 2, asked=prompt), (1.0,) * 2, (1.0,) * 2
        )
        for prompt in (first, second, both)
    ]
    apart = plan_microbatches(items, budget=1)
    enough = 2 * (len(first.input_ids) + 2)
    together = plan_microbatches(items, budget=enough, tower_trains=True)
    assert [len(batch) for batch in apart] == [1, 1, 1]
    assert sorted([item.group.prompt for item in batch] == [second] for batch in together) == [
        False,
        True,
    ]
    # prompts that do not fit together
    assert len(plan_microbatches(items, budget=len(first.input_ids), tower_trains=True)) == 3
    assert len(plan_microbatches(items, budget=1, shared=False, tower_trains=True)) == 3


def test_a_short_prompt_is_not_padded_to_a_long_one(policy_of):
    short, long = prompts(policy_of(), ["add", "compare"])
    assert len(long.input_ids) > MAX_LENGTH_RATIO * len(short.input_ids)
    items = [
        WeightedGroup(
            group([1.0, 0.0], [completion([1])] * 2, asked=prompt), (1.0,) * 2, (1.0,) * 2
        )
        for prompt in (short, long)
    ]
    assert len(plan_microbatches(items, budget=1 << 20)) == 2


def test_out_of_memory_in_one_group_splits_its_completions_and_takes_the_same_step(
    policy_of, monkeypatch
):
    whole, split = policy_of(dtype="float64"), policy_of(dtype="float64")
    rewards = [[1.0, 0.0, 0.0, 0.0]]
    step(learner_of(whole), groups_of(whole, rewards, ["count"]), Gpg(min_informative=0.0))
    learner = learner_of(split)
    honest = group_forward.extend
    widest: list[int] = []

    def small_memory(policy, prefix, tokens_PRQ, start, cache):
        if tokens_PRQ.shape[1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        widest.append(tokens_PRQ.shape[1])
        return honest(policy, prefix, tokens_PRQ, start, cache)

    monkeypatch.setattr(group_forward, "extend", small_memory)
    update = step(learner, groups_of(split, rewards, ["count"]), Gpg(min_informative=0.0))
    assert update.metrics["memory_splits"] >= 1
    assert widest
    torch.testing.assert_close(parameters(split), parameters(whole), rtol=0, atol=1e-8)


def test_before_the_first_update_the_group_forward_is_compared_with_plain_rows(policy_of):
    policy, lines = policy_of(), []
    learner = learner_of(policy, log=lines.append)
    for _ in range(2):
        step(learner, groups_of(policy), Gpg())
    assert len(lines) == 1
    begins, figures = lines[0].rsplit(": ", 1)
    assert (
        begins
        == "image and prompt are computed once per group; compared with plain rows on a real group"
    )
    assert re.fullmatch(r"relative error \S+ of log-probabilities, \S+ of a gradient", figures)


def test_a_group_forward_that_is_wrong_is_not_used(policy_of, monkeypatch):
    policy, oracle, lines = policy_of(), policy_of(), []
    honest = group_forward.prefill

    def shifted(policy, prompts):
        zeros_P = torch.zeros(len(prompts), dtype=torch.long)
        return replace(honest(policy, prompts), next_position_P=zeros_P)

    monkeypatch.setattr(group_forward, "prefill", shifted)
    step(learner_of(policy, log=lines.append), groups_of(policy), Gpg())
    step(learner_of(oracle, UnsharedForward), groups_of(oracle), Gpg())
    assert lines[0].startswith("warning: the group forward differs from plain rows")
    torch.testing.assert_close(parameters(policy), parameters(oracle), rtol=0, atol=1e-3)


def test_a_kernel_that_fails_is_reported_and_plain_rows_train_and_sample(policy_of, monkeypatch):
    policy, lines = policy_of(), []

    def broken(*arguments):
        raise RuntimeError("no kernel image is available for execution on the device")

    learner = learner_of(policy, log=lines.append)
    monkeypatch.setattr(group_forward, "prefill", broken)
    assert not step(learner, groups_of(policy), Gpg()).skipped
    assert lines[0].startswith(
        "warning: the group forward does not run here (no kernel image is available"
    )
    assert isinstance(begin(policy, prompts(policy), 2), RepeatedRows)


def test_a_group_forward_that_gives_no_number_is_not_used(policy_of, monkeypatch):
    policy, lines = policy_of(), []
    learner = learner_of(policy, log=lines.append)
    monkeypatch.setattr(
        GroupForward, "agreement", lambda forward, asked: Agreement(torch.float32, (0.0, math.nan))
    )
    step(learner, groups_of(policy), Gpg())
    assert "plain rows from here on" in lines[0]


def test_falling_back_says_what_it_costs(policy_of, monkeypatch):
    """By hand: prompts of P tokens and four answers of C are P + 4 C tokens with a shared
    prefix, 4 (P + C) without."""
    policy, lines = policy_of(), []
    (prompt,) = prompts(policy, ["box"])
    own = group([1.0, 0.0, 0.0, 1.0], [completion([5, 6, 7])] * 4, asked=prompt)
    monkeypatch.setattr(
        GroupForward, "agreement", lambda forward, asked: Agreement(torch.float32, (1.0, 1.0))
    )
    step(learner_of(policy, log=lines.append), [own], Gpg())
    length = len(prompt.input_ids)
    assert f"{4 * (length + 3) / (length + 12):.1f} times the tokens)" in lines[0]


@pytest.mark.parametrize("error", [0.0, 1.0])
def test_what_was_decided_about_sharing_goes_on_after_a_resume(error, policy_of, monkeypatch):
    """A resumed run would otherwise judge by another group, and perhaps otherwise: then it would
    not end where the whole one does."""
    policy, lines = policy_of(), []
    learner = learner_of(policy, log=lines.append)
    assert learner.state_dict()["why_not_shared"] is None
    monkeypatch.setattr(
        GroupForward, "agreement", lambda forward, asked: Agreement(torch.float32, (error, error))
    )
    step(learner, groups_of(policy), Gpg())
    saved = learner.state_dict()
    assert bool(saved["why_not_shared"]) == bool(error)
    monkeypatch.setattr(
        GroupForward,
        "agreement",
        lambda forward, asked: Agreement(torch.float32, (1.0 - error, 1.0 - error)),
    )
    for unchanged, shares in ((True, not error), (False, bool(error))):
        again, lines = policy_of(), []
        resumed = learner_of(again, log=lines.append)
        resumed.load_state_dict(saved, unchanged=unchanged)
        step(resumed, groups_of(again), Gpg())
        assert resumed.shared == shares
        assert bool(lines) != unchanged


def test_the_cost_of_a_microbatch_by_hand(policy_of):
    short, long = prompts(policy_of(), ["add", "box"])
    items = [
        WeightedGroup(
            group([1.0, 0.0], [completion([1, 2]), completion([1])], asked=short),
            (1.0, 1.0),
            (1.0, 1.0),
        ),
        WeightedGroup(
            group([1.0, 0.0], [completion([1, 2, 3]), completion([1])], asked=long),
            (1.0, 1.0),
            (1.0, 1.0),
        ),
    ]
    longest = len(long.input_ids)
    assert padded_tokens(items) == 2 * (longest + 2 * 3)
    assert padded_tokens(items, shared=False) == 2 * 2 * (longest + 3)


def test_completions_of_one_token_are_scored_from_the_prompt_alone(policy_of):
    policy = policy_of(dtype="float64")
    asked = [(prompt, [completion([5]), completion([9])]) for prompt in prompts(policy)]
    shared, plain = GroupForward(policy, 1.0)(asked), UnsharedForward(policy, 1.0)(asked)
    torch.testing.assert_close(shared.logprobs_N, plain.logprobs_N, rtol=0, atol=1e-6)


def test_the_schedule_covers_every_update(policy_of):
    policy = policy_of()
    learner = learner_of(policy, lr=1e-3, updates_per_rollout=2, optimizer={"schedule": "linear"})
    rates = [step(learner, groups_of(policy), Grpo()).metrics["lr"] for _ in range(3)]
    assert rates == pytest.approx([1e-3 * (1 - done / 20) for done in (1, 3, 5)])


def test_out_of_memory_halves_the_microbatches_and_takes_the_same_step(policy_of, monkeypatch):
    whole, split = policy_of(dtype="float64"), policy_of(dtype="float64")
    step(learner_of(whole), groups_of(whole), Gpg(min_informative=0.0))
    learner = learner_of(split)
    forward = learner.forward.forward

    def small_memory(asked, loss):
        if len(asked) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return forward(asked, loss)

    monkeypatch.setattr(learner.forward, "forward", small_memory)
    update = step(learner, groups_of(split), Gpg(min_informative=0.0))
    assert update.metrics["memory_splits"] == 2  # three informative groups: 3 -> 2 + 1 -> 1 + 1 + 1
    torch.testing.assert_close(parameters(split), parameters(whole), rtol=0, atol=1e-8)


def test_a_single_group_that_does_not_fit_is_reported(policy_of, monkeypatch):
    policy = policy_of()
    learner = learner_of(policy)

    def no_memory(asked, loss):
        raise RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 "
            "bytes"
        )

    monkeypatch.setattr(learner.forward, "forward", no_memory)
    with pytest.raises(
        UserError, match=r"out of memory with one group of \d+ tokens; .* lower rollout.group_size"
    ):
        step(learner, groups_of(policy), Gpg())


def test_a_learner_goes_on_in_the_middle_of_its_schedule_as_if_it_had_not_stopped(policy_of):
    """Moments and rate: a step after two others, straight on and out of a saved state, moves the
    weights alike."""
    rates, moved = [], []
    for stopped in (False, True):
        policy = policy_of()
        learner = learner_of(policy, warmup_steps=2, optimizer={"schedule": "linear"})
        groups = groups_of(policy)
        for _ in range(2):
            assert not step(learner, groups, Gpg(min_informative=0.0)).skipped
        if stopped:
            saved = learner.state_dict()
            learner = learner_of(policy, warmup_steps=2, optimizer={"schedule": "linear"})
            learner.load_state_dict(saved, unchanged=True)
        rates.append(learner.schedule.get_last_lr())
        step(learner, groups, Gpg(min_informative=0.0))
        moved.append(parameters(policy))
    assert rates[0] == rates[1]
    assert torch.equal(moved[0], moved[1])
