"""One step by hand: which number belongs to which token, whatever order the forward has them in,
and how a step is cut in pieces."""

import gc
import math
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from gpg_vl.config.schema import OptimizerConfig
from gpg_vl.errors import UserError
from gpg_vl.methods.estimator import k3
from gpg_vl.methods.gpg import Gpg
from gpg_vl.methods.grpo import Grpo
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.plain_forward import UnsharedForward
from gpg_vl.policy.reference import Reference, first_values
from gpg_vl.training import learner as learning
from gpg_vl.training.learner import COMPARED_TOKENS, Learner, StepLoss, Sums
from gpg_vl.training.microbatches import (
    WeightedGroup,
    padded_tokens,
    per_token,
    plan_microbatches,
)
from gpg_vl.training.processes import Processes
from gpg_vl.types import Batch, Prompt, Sample, Update
from tests.asking import gradient_norm, make_learner, parameters, prompts, take_update
from tests.hand_made import completion, group

LOG2 = math.log(2)


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def bare(tokens: int, *pictures: str) -> Prompt:
    """A prompt that no model sees."""
    sample = Sample(id=f"{tokens}", question="?", answer_kind="number", answer=1)
    return Prompt(sample=sample, text="", input_ids=(7,) * tokens, features={}, pictures=pictures)


def weighted(
    prompt_tokens: int, lengths, *pictures: str, weights=None, shares=None
) -> WeightedGroup:
    answers = [completion([5] * length) for length in lengths]
    own = group(
        [float(place) for place in range(len(lengths))],
        answers,
        asked=bare(prompt_tokens, *pictures),
    )
    return WeightedGroup(
        own, tuple(weights or [1.0] * len(lengths)), tuple(shares or [1.0] * len(lengths))
    )


def sizes(batches) -> list[list[int]]:
    """Prompt tokens of each group of each micro-batch."""
    return [[len(item.group.prompt.input_ids) for item in batch] for batch in batches]


# --- the loss of the tokens of a micro-batch ------------------------------------------------------

# Three tokens. Place 0 is 1.1 times as likely as when it was sampled, place 1 is fresh, place 2 is
# 0.9 times as likely. The reference gives place 0 twice the probability, place 1 the same, place 2
# half of it: k3 = 2 - log 2 - 1 = 1 - log 2, then 0, then 1/2 + log 2 - 1.
LOGPROBS = numbers(-1.0, -2.0, -3.0)
WEIGHTS, SHARES = numbers(1.0, 10.0, 100.0), numbers(4.0, 5.0, 8.0)
SAMPLED = numbers(-1.0 - math.log(1.1), math.nan, -3.0 - math.log(0.9))
REFERENCE = numbers(-1.0 + LOG2, -2.0, -3.0 - LOG2)
OF_PLACE = (-1.1 + 0.5 * 4 * (1 - LOG2), -10.0, -90.0 + 0.5 * 8 * (LOG2 - 0.5))


@pytest.mark.parametrize(
    "pieces", [[[0, 1, 2]], [[2, 0, 1]], [[1, 2, 0]], [[2], [0, 1]], [[2, 1], [0]], [[1], [2], [0]]]
)
def test_every_token_meets_its_own_weight_ratio_and_reference_in_whatever_order_they_come(pieces):
    loss = StepLoss(Grpo(kl=0.5), WEIGHTS, SAMPLED, SHARES, REFERENCE)
    for places in pieces:
        found = loss(LOGPROBS[places], torch.tensor(places))
        assert float(found) == pytest.approx(sum(OF_PLACE[place] for place in places), abs=1e-12)


def test_the_slope_of_every_token_is_its_own_too():
    places = [2, 0, 1]
    leaf = LOGPROBS[places].requires_grad_()
    StepLoss(Grpo(kl=0.5), WEIGHTS, SAMPLED, SHARES, REFERENCE)(
        leaf, torch.tensor(places)
    ).backward()
    # of -ratio * weight: itself; of k3 = exp(ref - log p) - (ref - log p) - 1: 1 - exp(ref - log
    # p), which is 1/2, -1 and 0
    expected = numbers(-90.0 + 0.5 * 8 * 0.5, -1.1 + 0.5 * 4 * -1.0, -10.0)
    torch.testing.assert_close(leaf.grad, expected, rtol=0, atol=1e-12)


def test_without_a_reference_there_is_no_divergence_and_without_old_groups_the_ratio_is_one():
    loss = StepLoss(Grpo(kl=0.5), WEIGHTS, None, SHARES, None)
    assert float(loss(LOGPROBS[[2, 0]], torch.tensor([2, 0]))) == -101.0


def test_the_present_probability_that_stands_for_a_missing_one_carries_no_gradient():
    """Else exp(log p - log p) would lose its slope, and with it a fresh group its whole gradient
    under GRPO."""
    for sampled in (None, numbers(math.nan, math.nan, math.nan)):
        leaf = LOGPROBS.clone().requires_grad_()
        StepLoss(Grpo(), WEIGHTS, sampled, SHARES, None)(leaf, torch.tensor([0, 1, 2])).backward()
        assert leaf.grad.tolist() == [-1.0, -10.0, -100.0]


def test_weights_in_double_precision_do_not_widen_a_loss_in_single():
    loss = StepLoss(Grpo(kl=0.5), WEIGHTS, SAMPLED, SHARES, REFERENCE.float())
    assert loss(LOGPROBS.float(), torch.tensor([0, 1, 2])).dtype == torch.float32


def test_a_completion_s_number_is_repeated_for_each_of_its_tokens():
    batch = [
        weighted(3, [1, 3], weights=[0.1, 0.2], shares=[1.0, 2.0]),
        weighted(3, [2, 1], weights=[0.0, -0.4], shares=[3.0, 4.0]),
    ]
    weights = [0.1, 0.2, 0.2, 0.2, 0.0, 0.0, -0.4]
    assert per_token([item.weights for item in batch], batch).tolist() == weights
    shares = [1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 4.0]
    assert per_token([item.shares for item in batch], batch).tolist() == shares


# --- a whole step on a model, answers short then long, some of an older version -------------------

ANSWERS = [[[5], [6, 7, 8, 9]], [[10, 11], [12], [13, 14, 15]]]
"""Two groups; the longest comes last, or in no order at all."""
VERSIONS = [[2, 3], [3, 2, 2]]
REWARDS = [[1.0, 0.0], [0.0, 0.25, 1.0]]


def old_and_new(policy):
    """Groups of two sizes are no matrix, so the smaller one has an unscored third."""
    asked = prompts(policy, ["add", "count"])
    made = []
    for prompt, answers, versions, rewards in zip(asked, ANSWERS, VERSIONS, REWARDS, strict=True):
        completions = [
            completion(ids, version=version, logprobs=[-5.75 - (token % 4) / 8 for token in ids])
            for ids, version in zip(answers, versions, strict=True)
        ]
        missing = 3 - len(completions)
        made.append(
            group(
                [*rewards, *[math.nan] * missing],
                [*completions, *[completion([20, 21])] * missing],
                asked=prompt,
            )
        )
    return tuple(made)


def written_out(policy, reference, groups, estimator):
    """The loss in plain loops, answer by answer through rows of their own."""
    rewards_BG = torch.tensor([own.rewards for own in groups], dtype=torch.float64)
    lengths_BG = torch.tensor([own.lengths for own in groups])
    weights, shares = (
        estimator.weights(rewards_BG, lengths_BG).tolist(),
        estimator.shares(rewards_BG, lengths_BG).tolist(),
    )
    now, then = UnsharedForward(policy, 1.0), UnsharedForward(reference, 1.0)
    loss = torch.zeros((), dtype=torch.float64)
    for row, own in enumerate(groups):
        for place, answer in enumerate(own.completions):
            logprobs = now([(own.prompt, [answer])]).logprobs_N
            before = numbers(*answer.logprobs) if answer.version != 3 else logprobs.detach()
            loss = loss + estimator.objective(
                logprobs, before, torch.full_like(logprobs, weights[row][place])
            )
            if estimator.kl:
                with torch.no_grad():
                    anchor = then([(own.prompt, [answer])]).logprobs_N
                loss = loss + estimator.kl * shares[row][place] * k3(logprobs, anchor).sum()
    return loss


@pytest.mark.parametrize("tokens", [1 << 20, 1])
@pytest.mark.parametrize(
    "estimator",
    [Gpg(min_informative=0.0, max_ratio=1.2), Grpo(kl=0.3)],
    ids=["gpg", "grpo with a reference"],
)
def test_a_step_on_old_and_new_groups_is_the_formula_written_out(estimator, tokens, policy_of):
    policy, other, fresh = (policy_of(dtype="float64") for _ in range(3))
    with torch.no_grad():
        other.model.lm_head.weight += 0.02 * torch.randn(
            other.model.lm_head.weight.shape, generator=torch.Generator().manual_seed(0)
        )
    groups = old_and_new(policy)
    loss = written_out(policy, other, groups, estimator)
    loss.backward()
    norm = gradient_norm(policy)
    forward = GroupForward(fresh, 1.0, tokens_at_once=tokens)
    reference = Reference(forward, first_values(other)) if estimator.kl else None
    learner = make_learner(forward, estimator, reference=reference)
    update = take_update(learner, groups, version=3)
    assert update.metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-6)
    assert update.metrics["grad_norm"] == pytest.approx(norm, rel=1e-6)
    assert update.metrics["trained_tokens"] == 1 + 4 + 2 + 2 + 1 + 3


def test_a_rank_trains_on_its_own_rows_of_everybodys_matrices(policy_of):
    """The second of two ranks: its groups are rows 1 and 2 of 3, and the denominator is of all
    three."""
    policy, oracle = policy_of(dtype="float64"), policy_of(dtype="float64")
    groups = old_and_new(policy)
    rewards_BG = torch.tensor(
        [[0.0, 1.0, math.nan], *(own.rewards for own in groups)], dtype=torch.float64
    )
    lengths_BG = torch.tensor([[9, 8, 7], *(own.lengths for own in groups)])
    estimator = Grpo(kl=0.3, scale="none", aggregation="group_token")
    weights, shares = (
        estimator.weights(rewards_BG, lengths_BG).tolist(),
        estimator.shares(rewards_BG, lengths_BG).tolist(),
    )
    # the last row: rewards 0, 1/4, 1 less their mean 5/12; 2 + 1 + 3 tokens, three groups
    assert weights[2] == pytest.approx([-5 / 12 / 18, -2 / 12 / 18, 7 / 12 / 18])
    assert shares[1] == pytest.approx([1 / 15, 1 / 15, 0.0])  # 1 + 4 scored tokens, three groups
    with torch.no_grad():
        oracle.model.lm_head.weight += 0.02
    forward = GroupForward(policy, 1.0)
    reference = Reference(forward, first_values(oracle))
    learner = make_learner(forward, estimator, tokens=1, reference=reference)
    seen, honest = [], learner.gradients
    learner.gradients = lambda batches, sampled: seen.extend(batches) or honest(batches, sampled)
    batch = Batch(groups=groups, rewards_BG=rewards_BG, lengths_BG=lengths_BG, own_rows=slice(1, 3))
    weights_BG = estimator.weights(rewards_BG, lengths_BG)
    assert not learner.update(batch, weights_BG, version=3).skipped
    found = {
        item.group.prompt.sample.id: (item.weights, item.shares) for batch in seen for item in batch
    }
    assert found == {
        own.prompt.sample.id: (tuple(weights[row]), tuple(shares[row]))
        for row, own in enumerate(groups, 1)
    }
    learner.estimator = Gpg(min_informative=0.0)
    ones_BG = torch.ones(2, 2)
    empty = Batch(groups=(), rewards_BG=ones_BG, lengths_BG=ones_BG, own_rows=slice(0, 0))
    weights_BG = learner.estimator.weights(ones_BG, ones_BG)
    assert learner.update(empty, weights_BG, version=3).skipped == "no informative group"


@pytest.mark.parametrize(
    ("outcomes", "calls", "reported"),
    [
        (["", "", ""], 3, "third"),
        (["", "non-finite loss", ""], 2, "first"),
        (["non-finite loss", "", ""], 1, "first"),
    ],
)
def test_updates_of_a_rollout_end_at_the_first_that_is_skipped_and_the_last_step_taken_is_reported(
    outcomes, calls, reported, learner, monkeypatch
):
    left = [
        Update(skipped=why, metrics={name: 1.0, "memory_splits": 0.0})
        for why, name in zip(outcomes, ("first", "second", "third"), strict=True)
    ]
    monkeypatch.setattr(learner, "_step_in_memory", lambda *_: left.pop(0))
    learner.updates_per_rollout = 3
    (prompt,) = prompts(learner.forward.policy, ["add"])
    own = group([1.0, 0.0], [completion([5]), completion([6, 7])], asked=prompt)
    learner.estimator = Grpo()
    assert list(take_update(learner, [own]).metrics) == [reported, "memory_splits"]
    assert len(left) == 3 - calls


# --- log-probabilities of the sampling policy -----------------------------------------------------


@pytest.fixture
def learner(policy_of):
    return make_learner(GroupForward(policy_of(dtype="float64"), 1.0), Gpg())


def test_only_an_older_answer_is_held_against_what_was_sampled(learner):
    first, second = old_and_new(learner.forward.policy)
    batch = [
        WeightedGroup(second, (1.0,) * 3, (1.0,) * 3),
        WeightedGroup(first, (1.0,) * 3, (1.0,) * 3),
    ]
    # answers [10, 11] new, [12] old, [13, 14, 15] old; then [5] old, [6, 7, 8, 9] new, and an
    # unscored [20, 21] of version 0
    old = [math.nan, math.nan, -5.75, -5.875, -6.0, -6.125, -5.875, *[math.nan] * 4, 0.0, 0.0]
    found = learner._sampled_logprobs(batch, 3)
    assert [math.isnan(value) for value in found.tolist()] == [math.isnan(value) for value in old]
    torch.testing.assert_close(
        found.nan_to_num(9.0).double(), numbers(*old).nan_to_num(9.0), rtol=0, atol=1e-6
    )
    present = UnsharedForward(learner.forward.policy, 1.0)(
        [item.asked for item in batch]
    ).logprobs_N.detach()
    learner.updates_per_rollout = 2
    both = learner._sampled_logprobs(batch, 3)
    torch.testing.assert_close(
        both, torch.where(numbers(*old).isnan(), present, numbers(*old)), rtol=0, atol=1e-6
    )
    assert not both.requires_grad


def test_nothing_old_is_nothing_to_correct(learner):
    (prompt,) = prompts(learner.forward.policy, ["add"])
    own = group(
        [1.0, 0.0], [completion([5], version=4), completion([6, 7], version=4)], asked=prompt
    )
    batch = [WeightedGroup(own, (1.0, -1.0), (1.0, 1.0))]
    assert learner._sampled_logprobs(batch, 4) is None
    assert learner._sampled_logprobs(batch, 5).tolist() == [0.0, 0.0, 0.0]
    learner.updates_per_rollout = 2
    assert not learner._sampled_logprobs(batch, 4).isnan().any()


@pytest.mark.parametrize("updates", [1, 2, 3])
def test_further_updates_are_held_against_the_policy_before_the_first(
    updates, policy_of, monkeypatch
):
    """Every update of a rollout has the same sampled log-probabilities; with one update there is
    nothing to write down."""
    policy = policy_of(dtype="float64")
    config = OptimizerConfig(lr=1e-3, warmup_steps=0)
    forward = GroupForward(policy, 1.0)
    learner = make_learner(forward, Grpo(), config, updates_per_rollout=updates)
    (prompt,) = prompts(policy, ["add"])
    own = group([1.0, 0.0], [completion([5]), completion([6, 7])], asked=prompt)
    before = UnsharedForward(policy, 1.0)([(prompt, own.completions)]).logprobs_N.detach()
    seen, honest = [], learner.gradients
    monkeypatch.setattr(
        learner,
        "gradients",
        lambda batches, sampled: seen.append(sampled) or honest(batches, sampled),
    )
    assert not take_update(learner, [own]).skipped
    assert len(seen) == updates
    if updates == 1:
        assert seen == [[None]]
        return
    for (sampled,) in seen:
        torch.testing.assert_close(sampled, before, rtol=0, atol=1e-6)


# --- out of memory --------------------------------------------------------------------------------


def test_halves_of_a_microbatch_keep_their_own_sampled_tokens():
    a, b, c = weighted(3, [1, 2]), weighted(4, [3, 1]), weighted(5, [2, 2])
    batches, sampled = learning._halved(
        [[a, b, c], [b], [c, a]], [torch.arange(11.0), torch.arange(20.0, 24.0), None]
    )
    assert batches == [[a, b], [c], [b], [c], [a]]
    # 3 tokens of a, 4 of b, 4 of c
    assert [None if part is None else part.tolist() for part in sampled] == [
        [0, 1, 2, 3, 4, 5, 6],
        [7, 8, 9, 10],
        [20, 21, 22, 23],
        None,
        None,
    ]


@pytest.mark.parametrize(
    "estimator",
    [Gpg(min_informative=0.0, max_ratio=1.2), Grpo(kl=0.3)],
    ids=["gpg", "grpo with a reference"],
)
def test_out_of_memory_with_old_groups_takes_the_same_step(estimator, policy_of, monkeypatch):
    whole, split, other = (policy_of(dtype="float64") for _ in range(3))
    with torch.no_grad():
        other.model.lm_head.weight += 0.02
    steps = []
    # both groups in one micro-batch, whatever their prompts
    monkeypatch.setattr("gpg_vl.training.microbatches.MAX_LENGTH_RATIO", 9.0)
    for policy, room in ((whole, 9), (split, 1)):
        group_forward = GroupForward(policy, 1.0)
        reference = Reference(GroupForward(policy, 1.0), first_values(other))
        learner = make_learner(group_forward, estimator, reference=reference)
        forward = learner.forward.forward

        def small(asked, loss, forward=forward, room=room):
            if len(asked) > room:
                raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
            return forward(asked, loss)

        monkeypatch.setattr(learner.forward, "forward", small)
        steps.append(take_update(learner, old_and_new(policy), version=3).metrics)
    assert [metrics["memory_splits"] for metrics in steps] == [0, 1]
    for name in ("loss", "grad_norm", "entropy", "trained_tokens"):
        assert steps[1][name] == pytest.approx(steps[0][name], rel=1e-6)


def test_out_of_memory_before_further_updates_takes_the_same_steps(policy_of, monkeypatch):
    """What the sampling policy scored is computed first, and does not fit whole either."""
    monkeypatch.setattr("gpg_vl.training.microbatches.MAX_LENGTH_RATIO", 9.0)
    steps = []
    for room in (9, 1):
        policy = policy_of(dtype="float64")
        group_forward = GroupForward(policy, 1.0)
        learner = make_learner(group_forward, Grpo(), updates_per_rollout=2)
        forward, sizes = learner.forward.forward, []

        def small(asked, loss=None, forward=forward, room=room, sizes=sizes):
            sizes.append(len(asked))
            if len(asked) > room:
                raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
            return forward(asked, loss)

        monkeypatch.setattr(learner.forward, "forward", small)
        steps.append(take_update(learner, old_and_new(policy), version=3).metrics)
    assert sizes == [2, 1, 1, 1, 1, 1, 1], "halves from the first pass on"
    assert [metrics["memory_splits"] for metrics in steps] == [0, 1]
    for name in ("loss", "grad_norm", "entropy", "trained_tokens"):
        assert steps[1][name] == pytest.approx(steps[0][name], rel=1e-6)


def test_what_did_not_fit_once_is_not_tried_again(policy_of, monkeypatch):
    """Neither in the next update of a rollout, nor in the next rollout."""
    monkeypatch.setattr("gpg_vl.training.microbatches.MAX_LENGTH_RATIO", 9.0)
    policy = policy_of(dtype="float64")
    learner = make_learner(GroupForward(policy, 1.0), Gpg(), updates_per_rollout=2)
    forward, sizes = learner.forward.forward, []

    def small(asked, loss=None):
        # while what the sampling policy thought is computed, there is more room
        if loss is not None:
            sizes.append(len(asked))
            if len(asked) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return forward(asked, loss)

    monkeypatch.setattr(learner.forward, "forward", small)
    splits = []
    for _ in range(2):
        update = take_update(learner, old_and_new(policy), version=3)
        splits.append(update.metrics["memory_splits"])
    assert sizes == [2, 1, 1, 1, 1, 1, 1, 1, 1]
    assert splits == [1, 0]


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_only_a_lack_of_memory_is_one(error, is_memory):
    assert learning.is_out_of_memory(error) == is_memory


def test_a_group_that_does_not_fit_goes_in_ever_smaller_pieces_down_to_one_answer(policy_of):
    policy = policy_of()
    forward = GroupForward(policy, 1.0)
    learner = make_learner(forward, Gpg())
    batches = [[weighted(20, [8, 2, 3, 4])], [weighted(10, [4, 4, 4, 4])]]
    # rectangles: 20 + 4 * 8 = 52 and 10 + 4 * 4 = 26 tokens
    # one answer alone: 20 + 8 = 28 and 10 + 4 = 14
    learner.split_groups(batches)
    assert forward.tokens_at_once == 28  # half of 52 is less than one answer needs
    with pytest.raises(UserError, match="out of memory with one group of 52 tokens"):
        learner.split_groups(batches)
    forward.tokens_at_once = None
    batches = [[weighted(4, [30, 1])], [weighted(4, [10] * 10)]]  # 64 and 104; alone 34 and 14
    learner.split_groups(batches)
    assert forward.tokens_at_once == 52
    learner.split_groups(batches)
    assert forward.tokens_at_once == 34
    forward.tokens_at_once = 1000  # more than there is: half of what there is
    learner.split_groups([[weighted(4, [10] * 10)]])
    assert forward.tokens_at_once == 52


def test_a_reference_is_asked_only_for_a_divergence(learner, monkeypatch):
    asked = []
    zeros = torch.zeros(3, dtype=torch.float64)
    learner.reference = SimpleNamespace(logprobs=lambda batch: asked.append(batch) or zeros)
    for kl, times in ((0.0, 0), (0.1, 1)):
        (prompt,) = prompts(learner.forward.policy, ["add"])
        own = group([1.0, 0.0], [completion([5]), completion([6, 7])], asked=prompt)
        learner.estimator = Grpo(kl=kl)
        take_update(learner, [own])
        assert len(asked) == times


def test_out_of_memory_halves_whatever_can_be_halved_before_a_group_is_split(learner, monkeypatch):
    """Two micro-batches, one of a single group already: the other is halved; only then a group's
    answers."""
    a, b, c = weighted(3, [1, 2]), weighted(3, [1, 2]), weighted(5, [2, 2])
    tried, split = [], []

    def no_memory(batches, sampled):
        tried.append([len(batch) for batch in batches])
        return Sums(0.0, 0.0, 0) if split else None

    monkeypatch.setattr(learner, "gradients", no_memory)
    monkeypatch.setattr(learner, "split_groups", split.append)
    monkeypatch.setattr(learner, "_step", lambda own: Update(metrics={}))
    update = learner._step_in_memory(learning._Work([[a, b], [c]], [None, None]))
    assert tried == [[2, 1], [1, 1, 1], [1, 1, 1]]
    assert update.metrics == {"memory_splits": 2.0}


@pytest.mark.parametrize(
    ("own_fails", "tried"), [(1, [[2], [1, 1]]), (0, [[2], [2]])], ids=["here", "elsewhere"]
)
def test_out_of_memory_on_any_process_all_begin_again_and_that_one_halves(
    own_fails, tried, learner, monkeypatch
):
    """The other of two processes has enough memory the second time."""
    pieces, left = [], [True, False]

    def gradients(batches, sampled):
        pieces.append([len(batch) for batch in batches])
        return None if len(pieces) <= own_fails else Sums(0.0, 0.0, 0)

    monkeypatch.setattr(learner, "gradients", gradients)
    monkeypatch.setattr(learner, "_step", lambda own: Update(metrics={}))
    monkeypatch.setattr(Processes, "any", lambda processes, value: left.pop(0) or value)
    both = [weighted(3, [1, 2]), weighted(3, [1, 2])]
    update = learner._step_in_memory(learning._Work([both], [None]))
    assert pieces == tried
    assert update.metrics == {"memory_splits": 1.0}


def test_what_a_failed_try_held_is_free_before_the_next(learner, monkeypatch):
    """Its tensors are the variables of functions that the error's traceback still names."""
    held: list[weakref.ref[torch.Tensor]] = []

    def no_memory(asked, loss):
        activations = torch.zeros(9)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory (simulated)")

    def empty_cache():
        assert [kept() for kept in held] == [None], "before the allocator gives it back"
        emptied.append(True)

    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    monkeypatch.setattr(learner.forward, "forward", no_memory)
    gc.disable()
    try:
        assert learner.gradients([[weighted(3, [1, 2])]], [None]) is None
    finally:
        gc.enable()
    assert emptied == [True]


# --- the optimizer --------------------------------------------------------------------------------


def two_groups(policy):
    answers = [completion([5]), completion([6, 7])]
    return [
        group([1.0, 0.0], answers, asked=prompt) for prompt in prompts(policy, ["add", "count"])
    ]


def learner_of(policy, tokens: int = 1 << 20, **optimizer) -> Learner:
    config = OptimizerConfig(**{"warmup_steps": 0, **optimizer})
    estimator = Gpg(min_informative=0.0)
    return make_learner(GroupForward(policy, 1.0), estimator, config, tokens=tokens)


def test_the_optimizer_has_the_numbers_of_its_section(policy_of):
    learner = learner_of(policy_of(), lr=3e-4, betas=(0.7, 0.8), weight_decay=0.25)
    groups = learner.optimizer.param_groups
    assert {(own["lr"], *own["betas"]) for own in groups} == {(3e-4, 0.7, 0.8)}
    assert sorted(own["weight_decay"] for own in groups) == [0.0, 0.25]


def test_only_what_is_trained_is_given_to_the_optimizer(policy_of):
    policy = policy_of(language="frozen", vision="frozen", projector="full")
    (own,) = learner_of(policy).optimizer.param_groups
    trained = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
    assert list(map(id, own["params"])) == list(map(id, trained))
    before = parameters(policy)
    assert not take_update(learner_of(policy, lr=1e-2), two_groups(policy)).skipped
    moved = {name for name, parameter in policy.model.named_parameters() if parameter.requires_grad}
    after = parameters(policy)
    start = 0
    for name, parameter in policy.model.named_parameters():
        span = slice(start, start := start + parameter.numel())
        assert torch.equal(before[span], after[span]) or name in moved
    assert not torch.equal(before, after)


def test_the_first_step_of_adamw_by_hand(policy_of):
    """After the first step the two moments' quotient is the gradient's sign, so a weight moves
    by lr and decays by lr * decay."""
    policy = policy_of(dtype="float64")
    head = policy.model.lm_head.weight
    before = head.detach().clone()
    take_update(learner_of(policy, lr=1e-3, weight_decay=0.5), two_groups(policy))
    gradient = head.grad
    large = gradient.abs() > 1e-5  # well above AdamW's epsilon
    expected = before * (1 - 1e-3 * 0.5) - 1e-3 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(head.detach()[large], expected[large], rtol=0, atol=1e-8)


@pytest.mark.parametrize("tokens", [1 << 20, 1])
def test_no_gradient_of_an_earlier_step_is_added(tokens, policy_of):
    fresh, used = policy_of(dtype="float64"), policy_of(dtype="float64")
    for parameter in used.model.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    norms = [
        take_update(learner_of(policy, tokens), two_groups(policy)).metrics["grad_norm"]
        for policy in (fresh, used)
    ]
    assert norms[1] == pytest.approx(norms[0], rel=1e-9)


def test_a_step_that_runs_out_of_memory_halfway_is_taken_once(policy_of, monkeypatch):
    """The first micro-batch has left its gradient when the second fails; with halves all begins
    anew."""
    whole, torn = policy_of(dtype="float64"), policy_of(dtype="float64")
    steps = [take_update(learner_of(whole), two_groups(whole)).metrics]
    learner = learner_of(torn, tokens=1)
    forward, asked_for = learner.forward.forward, []

    def small(asked, loss):
        asked_for.append(len(asked))
        if len(asked_for) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return forward(asked, loss)

    monkeypatch.setattr(learner.forward, "forward", small)
    steps.append(take_update(learner, two_groups(torn)).metrics)
    assert asked_for == [1, 1, 1, 1]
    assert [metrics["memory_splits"] for metrics in steps] == [0, 1]
    for name in ("loss", "grad_norm", "entropy", "trained_tokens"):
        assert steps[1][name] == pytest.approx(steps[0][name], rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_or_a_gradient_that_is_no_number_is_named_and_changes_nothing(
    where, bad, policy_of, monkeypatch
):
    policy = policy_of()
    learner = learner_of(policy, lr=1e-2)
    if where == "loss":
        honest = learner._backward

        def scores_with_bad_loss(*given):
            scores = honest(*given)
            return scores._replace(loss=scores.loss + bad)

        monkeypatch.setattr(learner, "_backward", scores_with_bad_loss)
    else:
        learner.trained[0].register_hook(lambda gradient: gradient + bad)
    before, rate = parameters(policy), learner.schedule.last_epoch
    update = take_update(learner, two_groups(policy))
    assert update.skipped == f"non-finite {where}"
    assert math.isfinite(update.metrics["loss"]) == (where == "gradient")
    assert torch.equal(before, parameters(policy))
    assert learner.schedule.last_epoch == rate
    assert all(parameter.grad is None for parameter in policy.model.parameters())


def test_the_rate_in_the_log_is_the_optimizers_own_and_all_parts_follow_the_schedule(policy_of):
    policy = policy_of()
    learner = learner_of(policy, lr=1e-3, warmup_steps=4, vision={"lr": 1e-2})
    first = learner.optimizer.param_groups[0]["params"][0]
    assert first is next(policy.model.model.visual.parameters())
    metrics = [take_update(learner, two_groups(policy)).metrics for _ in range(2)]
    assert [row["lr"] for row in metrics] == pytest.approx([0.25e-3, 0.5e-3])
    assert sorted(learner.schedule.get_last_lr()) == pytest.approx([0.75e-3, 0.75e-2])


@pytest.mark.parametrize(
    ("now", "sentence"),
    [
        ({"kind": "adamw8bit"}, r"optimizer\.kind: got adamw8bit, the checkpoint's is adamw; set"),
        ({"weight_decay": 0.1}, r"has groups of \[\d+\] parameters, expected \[\d+, \d+\]: other"),
    ],
)
def test_the_state_of_another_optimizer_is_refused(now, sentence, policy_of):
    saved = learner_of(policy_of()).state_dict()
    del saved["kind"]  # as states were saved before there were several
    learner_of(policy_of()).load_state_dict(saved, unchanged=True)
    with pytest.raises(UserError, match=sentence):
        learner_of(policy_of(), **now).load_state_dict(saved, unchanged=True)


def test_a_resumed_state_has_the_rates_of_the_config_which_may_be_others(policy_of):
    """Of a run that goes on with --allow-changed, and of the course to another last step."""
    then, now = {"lr": 1e-3, "vision": {"lr": 1e-2}}, {"lr": 2e-3, "vision": {"lr": 4e-2}}
    policy = policy_of()
    learner = learner_of(policy, warmup_steps=4, **then)
    take_update(learner, two_groups(policy))
    saved = learner.state_dict()
    policy = policy_of()
    other = learner_of(policy, warmup_steps=4, betas=(0.5, 0.5), **now)
    other.load_state_dict(saved, unchanged=False)
    assert [group["betas"] for group in other.optimizer.param_groups] == [(0.5, 0.5)] * 2
    rates = [take_update(other, two_groups(policy)).metrics["lr"] for _ in range(2)]
    assert rates == pytest.approx([2 / 4 * 2e-3, 3 / 4 * 2e-3])
    assert sorted(other.schedule.get_last_lr()) == pytest.approx([2e-3, 4e-2])
    same = learner_of(policy_of(), warmup_steps=4, **then)
    same.load_state_dict(saved, unchanged=True)
    for found, expected in zip(
        same.optimizer.param_groups, learner.optimizer.param_groups, strict=True
    ):
        assert {**found, "params": 0} == {**expected, "params": 0}


def test_a_state_is_loaded_for_the_kernel_of_this_machine(policy_of, monkeypatch):
    """torch puts the counts of steps on the GPU only for a kernel that wants them there."""
    learner = learner_of(policy_of())
    saved = learner.state_dict()
    other = learner_of(policy_of())
    for own in other.optimizer.param_groups:
        own.update(fused=True, foreach=None)
    loaded = []
    monkeypatch.setattr(other.optimizer, "load_state_dict", loaded.append)
    other.load_state_dict(saved, unchanged=False)
    (state,) = loaded
    assert [(own["fused"], own["foreach"]) for own in state["param_groups"]] == [(True, None)]
    assert all(own["fused"] for own in other.optimizer.param_groups)


def test_the_schedule_goes_on_by_one_with_every_step(policy_of):
    policy = policy_of()
    learner = learner_of(policy, lr=1.0e-3, warmup_steps=4)
    rates = [take_update(learner, two_groups(policy)).metrics["lr"] for _ in range(3)]
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3])


@pytest.mark.parametrize(
    ("parts", "tower"),
    [
        ({}, True),
        ({"vision": "frozen"}, False),
        ({"projector": "frozen"}, True),
        ({"vision": "frozen", "projector": "frozen"}, False),
    ],
)
@pytest.mark.parametrize("why_not", ["", "a reason"])
def test_micro_batches_are_planned_by_who_trains_and_who_shares(
    parts, tower, why_not, policy_of, monkeypatch
):
    policy = policy_of(**parts)
    learner = learner_of(policy, tokens=77)
    policy.sharing.why_not = why_not
    planned = []

    def plan(live, budget, **how):
        planned.append((budget, how))
        return []

    monkeypatch.setattr(learning, "plan_microbatches", plan)
    learner._plan([])
    assert planned == [(77, {"shared": not why_not, "tower_trains": tower})]


def test_a_clipped_step_has_exactly_the_limit_as_its_gradient(policy_of):
    policy, free = policy_of(), policy_of()
    metrics = take_update(learner_of(policy, clip_norm=1e-2), two_groups(policy)).metrics
    assert gradient_norm(policy) == pytest.approx(1e-2, rel=1e-3)
    unclipped = take_update(learner_of(free, clip_norm=1e9), two_groups(free)).metrics
    assert metrics["grad_norm"] == pytest.approx(unclipped["grad_norm"], rel=1e-5)


# --- micro-batches --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "expected"), [(48, [[10, 10]]), (47, [[10], [10]]), (1 << 20, [[10, 10]])]
)
def test_a_microbatch_may_be_exactly_as_large_as_the_budget(budget, expected):
    """Two prompts of 10 and two answers each in a rectangle of 7: 2 * (10 + 2 * 7) = 48."""
    assert (
        sizes(plan_microbatches([weighted(10, [7, 1]), weighted(10, [2, 3])], budget)) == expected
    )


@pytest.mark.parametrize(("budget", "expected"), [(68, [[10, 10]]), (67, [[10], [10]])])
def test_unshared_prompts_count_for_every_answer(budget, expected):
    """2 groups * 2 answers * (10 + 7) = 68."""
    assert (
        sizes(plan_microbatches([weighted(10, [7, 1]), weighted(10, [2, 3])], budget, shared=False))
        == expected
    )


@pytest.mark.parametrize(("longer", "expected"), [(10, [[8, 10]]), (11, [[8], [11]])])
def test_prompts_of_a_microbatch_differ_by_at_most_a_quarter(longer, expected):
    assert (
        sizes(plan_microbatches([weighted(longer, [1, 1]), weighted(8, [1, 1])], 1 << 20))
        == expected
    )


def test_like_lengths_are_neighbours_prompts_before_answers():
    items = [
        weighted(12, [9, 1]),
        weighted(10, [5, 1]),
        weighted(12, [2, 3]),
        weighted(10, [1, 8]),
        weighted(10, [6, 2]),
    ]
    (batch,) = plan_microbatches(items, 1 << 20)
    assert [(len(item.group.prompt.input_ids), max(item.group.lengths)) for item in batch] == [
        (10, 5),
        (10, 6),
        (10, 8),
        (12, 3),
        (12, 9),
    ]


def test_the_shortest_prompt_of_all_of_a_microbatch_is_the_measure():
    """10 goes with 8 and 12 with 10, but not 12 with 8."""
    assert sizes(plan_microbatches([weighted(n, [1, 1]) for n in (8, 10, 12)], 1 << 20)) == [
        [8, 10],
        [12],
    ]


def test_the_rectangle_of_a_microbatch_has_the_most_answers_and_the_longest_of_all():
    batch = [weighted(10, [1, 2, 3]), weighted(8, [5])]
    assert padded_tokens(batch) == 2 * (10 + 3 * 5)
    assert padded_tokens(batch, shared=False) == 2 * 3 * (10 + 5)


def test_groups_about_one_picture_also_through_a_third_stay_together_where_the_tower_trains():
    a, b, c, d = (
        weighted(8, [1], "x"),
        weighted(9, [1], "y"),
        weighted(9, [1], "z"),
        weighted(10, [1], "y", "x"),
    )
    found = plan_microbatches([a, b, c, d], 1, tower_trains=True)
    assert sizes(found) == [[8], [9], [9], [10]]  # nothing fits: each alone
    found = plan_microbatches([a, b, c, d], 30, tower_trains=True)
    assert sorted(
        map(sorted, ([item.group.prompt.pictures for item in batch] for batch in found))
    ) == [[("x",), ("y",), ("y", "x")], [("z",)]]
    # three prompts of up to 10 tokens need 30: two, then one
    found = plan_microbatches([a, b, c, d], 29, tower_trains=True)
    assert sorted(len(batch) for batch in found) == [1, 1, 2]


def test_plain_rows_see_their_picture_row_by_row_so_nothing_is_kept_together_for_it():
    items = [weighted(8, [1], "x"), weighted(9, [1], "y"), weighted(10, [1], "y", "x")]
    # three prompts of up to 10 tokens
    assert sizes(plan_microbatches(items, 30, tower_trains=True)) == [[8, 9, 10]]
    # three rows of 10 + 1 are 33
    assert sizes(plan_microbatches(items, 30, shared=False, tower_trains=True)) == [
        [8, 9],
        [10],
    ]


def test_a_picture_is_remembered_through_all_that_it_has_joined():
    """x and w are of the first; the second shows only x, the third only w: all three belong
    together."""
    items = [
        weighted(8, [1], "x", "w"),
        weighted(8, [1], "x"),
        weighted(8, [1], "v"),
        weighted(8, [1], "w"),
    ]
    found = plan_microbatches(items, 3 * 8, tower_trains=True)
    assert sorted(sorted(item.group.prompt.pictures for item in batch) for batch in found) == [
        [("v",)],
        [("w",), ("x",), ("x", "w")],
    ]


def test_the_longest_answer_of_a_group_alone_keeps_what_is_its_own():
    alone = weighted(3, [2, 5, 4], weights=[0.1, 0.2, 0.3], shares=[1.0, 2.0, 3.0]).alone
    assert (alone.group.lengths, alone.group.rewards, alone.weights, alone.shares) == (
        (5,),
        (1.0,),
        (0.2,),
        (2.0,),
    )


# --- schedule, and the check before the first step ------------------------------------------------

HALF_COSINE = 0.5 * (1 + math.cos(math.pi / 4))


@pytest.mark.parametrize(
    ("schedule", "warmup", "total", "factors"),
    [
        ("constant", 4, 12, {0: 0.25, 1: 0.5, 3: 1.0, 4: 1.0, 12: 1.0, 99: 1.0}),
        ("constant", 0, 12, {0: 1.0, 5: 1.0}),
        ("linear", 4, 12, {0: 0.25, 3: 1.0, 4: 1.0, 5: 0.875, 8: 0.5, 12: 0.0, 13: 0.0}),
        ("linear", 0, 4, {0: 1.0, 1: 0.75, 4: 0.0}),
        ("linear", 2, 2, {0: 0.5, 1: 1.0, 2: 1.0, 3: 0.0}),
        ("cosine", 4, 12, {0: 0.25, 4: 1.0, 6: HALF_COSINE, 8: 0.5, 12: 0.0, 20: 0.0}),
    ],
)
def test_the_learning_rate_by_hand(schedule, warmup, total, factors):
    factor = learning._schedule(OptimizerConfig(warmup_steps=warmup, schedule=schedule), total)
    assert {step: factor(step) for step in factors} == pytest.approx(factors)


@pytest.mark.parametrize(("limit", "clipped"), [(1e9, 0.0), (1e-6, 1.0)])
def test_a_step_says_whether_it_was_clipped_and_what_its_answers_entropy_was(
    limit, clipped, policy_of
):
    policy, oracle = policy_of(dtype="float64"), policy_of(dtype="float64")
    learner = learner_of(policy, tokens=1, clip_norm=limit)
    groups = old_and_new(policy)
    metrics = take_update(learner, groups, version=3).metrics
    entropies = UnsharedForward(oracle, 1.0)(
        [(own.prompt, own.completions) for own in groups]
    ).entropy_N
    assert metrics["clipped"] == clipped
    # of all 13 tokens alike, not of two micro-batches alike
    assert metrics["entropy"] == pytest.approx(float(entropies.mean()), rel=1e-6)


def test_the_first_check_takes_two_answers_of_at_most_thirty_two_tokens():
    answers = [
        completion(range(length), logprobs=[-float(place) for place in range(length)])
        for length in (40, 5, 9)
    ]
    asked = []
    agreement = SimpleNamespace(holds=True)
    forward = SimpleNamespace(agreement=lambda pair: asked.append(pair) or agreement)
    assert learning._compared(forward, (bare(3), answers)) == (True, str(agreement))
    ((_, short),) = asked
    assert COMPARED_TOKENS == 32
    assert [(own.token_ids, own.logprobs) for own in short] == [
        (tuple(range(32)), tuple(-float(place) for place in range(32))),
        (tuple(range(5)), tuple(-float(place) for place in range(5))),
    ]


def test_the_first_check_is_on_the_shortest_prompt_with_a_picture(learner, monkeypatch):
    asked = []
    monkeypatch.setattr(
        learner, "compare_once", lambda pair, answers: asked.append((pair[0].sample.id, answers))
    )
    policy = learner.forward.policy
    wanted = ["add", "compare", "count"]  # no picture, two pictures, one
    made = prompts(policy, wanted)
    longer = replace(made[1], input_ids=made[1].input_ids + (5,) * 9)
    groups = [
        group([1.0, 0.0], [completion([5]), completion([6])], asked=prompt)
        for prompt in (made[0], longer, made[2])
    ]
    learner.estimator = Gpg(min_informative=0.0)
    take_update(learner, groups)
    assert len(made[0].input_ids) < len(made[2].input_ids) < len(longer.input_ids)
    assert asked == [(made[2].sample.id, 2)]


def test_the_cost_of_plain_rows_by_hand():
    # a prompt of 10 and 4 answers of on average 5 tokens:
    # 4 * (10 + 5) = 60 tokens against 10 + 4 * 5 = 30
    asked = bare(10), [completion([1] * 3), completion([1] * 7)]
    assert learning._cost_of_plain_rows(asked, 4) == 2.0
