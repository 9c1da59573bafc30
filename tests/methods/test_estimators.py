"""Estimators by hand: what each makes of two matrices, what its objective does to a gradient,
and that a step may be cut into pieces."""

import math

import pytest
import torch

from gpg_vl.errors import UserError
from gpg_vl.methods.estimator import k3, min_informative_groups
from gpg_vl.methods.gpg import Gpg
from gpg_vl.methods.grpo import DrGrpo, Grpo
from gpg_vl.methods.reinforce import Reinforce
from gpg_vl.methods.rloo import Rloo

NAN = math.nan
ORACLE_BG = [[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]]
LENGTHS_BG = [[3, 1, 4, 1], [5, 9, 2, 6], [5, 3, 5, 8], [9, 7, 9, 3]]
ALL = [
    Gpg(groups_per_step=4),
    Gpg(groups_per_step=4, aggregation="token", scale="std"),
    Grpo(),
    Grpo(aggregation="token"),
    DrGrpo(max_tokens=9),
    Rloo(),
    Reinforce(baseline=0.5),
]


def matrix(rows):
    return torch.tensor(rows, dtype=torch.float64)


def numbers(*values, grad=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def same(got, expected):
    torch.testing.assert_close(
        got,
        expected if isinstance(expected, torch.Tensor) else matrix(expected),
        rtol=0,
        atol=1e-12,
    )


# --- Gpg ------------------------------------------------------------------------------------------


def test_gpg_divides_by_the_fewest_groups_it_may_divide_by():
    assert [
        Gpg(min_informative=share, groups_per_step=16).min_groups for share in (0.0, 0.4, 0.6, 1.0)
    ] == [0, 7, 10, 16]


def test_gpg_refuses_a_share_that_is_none():
    with pytest.raises(
        UserError, match=r"^estimator\.min_informative: got 1\.5, expected a share from 0 to 1$"
    ):
        Gpg(min_informative=1.5)


def test_gpg_on_policy_is_weighted_log_likelihood():
    logprobs_N, weight_N = numbers(-1.0, -2.0, grad=True), numbers(0.5, -0.25)
    loss = Gpg().objective(logprobs_N, logprobs_N.detach(), weight_N)
    loss.backward()
    assert loss.item() == 0.5 * 1.0 - 0.25 * 2.0
    same(logprobs_N.grad, -weight_N)


def test_gpg_corrects_a_carried_over_token_by_its_truncated_ratio():
    # log p went from -2 to -2 + log 1.5, from -2 to -2 + log 8 (cut off at 2) and from -2 to -2 +
    # log 0.5
    ratios_N, weight_N = numbers(1.5, 8.0, 0.5), numbers(1.0, 1.0, -4.0)
    logprobs_N = (ratios_N.log() - 2).requires_grad_()
    Gpg(max_ratio=2.0).objective(logprobs_N, numbers(-2.0, -2.0, -2.0), weight_N).backward()
    same(logprobs_N.grad, -weight_N * numbers(1.5, 2.0, 0.5))


# --- Grpo and its kin -----------------------------------------------------------------------------


def test_grpo_divides_by_the_std_and_by_all_groups():
    # group (1, 0): std sqrt(1/2); lengths 1 and 2, two completions, two groups
    got = Grpo().weights(matrix([[1, 0], [1, 1]]), torch.tensor([[1, 2], [3, 4]]))
    advantage = 0.5 / (math.sqrt(0.5) + 1e-4)
    same(got, [[advantage / 1 / 2 / 2, -advantage / 2 / 2 / 2], [0, 0]])


@pytest.mark.parametrize("scale", ["none", "std", "batch_std"])
@pytest.mark.parametrize(
    "group", [[0.1, 0.1, 0.1], [0.5, 0.5, 0.5 + 9e-7], [1.0, NAN, NAN], [NAN, NAN, NAN]]
)
def test_grpo_gives_zero_variance_groups_no_weight(scale, group):
    got = Grpo(scale=scale).weights(matrix([group, [1, 0, 1]]), torch.ones(2, 3))
    assert got[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("aggregation", ["group_token", "completion", "constant"])
def test_grpo_without_std_is_gpg_without_alpha(aggregation):
    rewards_BG, lengths_BG = matrix(ORACLE_BG), torch.tensor(LENGTHS_BG)
    plain = Grpo(scale="none", aggregation=aggregation, max_tokens=9).weights(
        rewards_BG, lengths_BG
    )
    group = Gpg(min_informative=0, aggregation=aggregation, max_tokens=9).weights(
        rewards_BG, lengths_BG
    )
    same(plain, group * (4 - 2) / 4)


def test_grpo_without_std_over_tokens_is_gpg_times_its_share_of_tokens():
    rewards_BG, lengths_BG = matrix(ORACLE_BG), torch.tensor(LENGTHS_BG)
    plain = Grpo(scale="none", aggregation="token").weights(rewards_BG, lengths_BG)
    group = Gpg(min_informative=0, aggregation="token").weights(rewards_BG, lengths_BG)
    informative, everyone = 3 + 1 + 4 + 1 + 9 + 7 + 9 + 3, sum(map(sum, LENGTHS_BG))
    same(plain, group * informative / everyone)


def test_grpo_and_gpg_have_the_same_gradient_at_ratio_one():
    weight_N, sampled_N = numbers(0.5, -0.25, 0.0), numbers(-1.0, -2.0, -3.0)
    gradients = []
    for estimator in (Grpo(), Gpg()):
        logprobs_N = sampled_N.clone().requires_grad_()
        estimator.objective(logprobs_N, sampled_N, weight_N).backward()
        gradients.append(logprobs_N.grad)
    same(gradients[0], -weight_N)
    same(gradients[0], gradients[1])


@pytest.mark.parametrize(
    ("ratio", "weight", "loss", "moves"),
    [
        (1.1, 2.0, -2.2, True),  # inside
        (1.5, 2.0, -2.6, False),  # good and already 1.3 times as likely: enough
        (1.5, -2.0, 3.0, True),  # bad and more likely: must come down
        (0.5, -2.0, 1.6, False),  # bad and already 0.8 times as likely: enough
        (0.5, 2.0, -1.0, True),  # good and less likely: must come up
    ],
)
def test_grpo_clips_by_hand(ratio, weight, loss, moves):
    logprobs_N = numbers(math.log(ratio) - 1, grad=True)
    got = Grpo(clip_low=0.2, clip_high=0.3).objective(logprobs_N, numbers(-1.0), numbers(weight))
    got.backward()
    assert got.item() == pytest.approx(loss)
    assert logprobs_N.grad.item() == pytest.approx(-weight * ratio if moves else 0.0)


def test_dr_grpo_knows_neither_std_nor_length():
    # advantages 1/2 and -1/2, constant 10, 2 completions, 2 groups, whatever the lengths
    rewards_BG = matrix([[1, 0], [1, 1]])
    for lengths_BG in ([[1, 3], [5, 7]], [[9, 9], [1, 1]]):
        same(
            DrGrpo(max_tokens=10).weights(rewards_BG, torch.tensor(lengths_BG)),
            [[0.5 / 40, -0.5 / 40], [0, 0]],
        )


def test_rloo_compares_with_the_others_only():
    # 1 - mean(0, 0.5) = 0.75; 0 - mean(1, 0.5) = -0.75; 0.5 - mean(1, 0) = 0; three completions,
    # one group
    same(
        Rloo().weights(matrix([[1, 0, 0.5]]), torch.tensor([[4, 5, 6]])), [[0.75 / 3, -0.75 / 3, 0]]
    )


def test_rloo_leaves_out_unscored_completions_and_keeps_zero_variance_groups_in_the_denominator():
    # scored 1 and 0: each against the other; two scored completions, two groups
    same(
        Rloo().weights(matrix([[1, NAN, 0], [1, 1, 1]]), torch.ones(2, 3)),
        [[1 / 4, 0, -1 / 4], [0, 0, 0]],
    )


def test_reinforce_trains_on_zero_variance_groups():
    got = Reinforce(baseline=0.25).weights(matrix([[1, 1], [0, 0]]), torch.tensor([[3, 4], [5, 6]]))
    same(got, [[0.75 / 4, 0.75 / 4], [-0.25 / 4, -0.25 / 4]])


def test_reinforce_gives_unscored_completions_no_weight():
    same(Reinforce(baseline=0.5).weights(matrix([[1, NAN]]), torch.ones(1, 2)), [[0.5, 0]])


def test_only_the_grpo_family_has_a_ratio_for_a_second_update():
    assert [type(estimator).__name__ for estimator in ALL if estimator.has_ratio] == [
        "Grpo",
        "Grpo",
        "DrGrpo",
    ]


def test_only_gpg_waits_for_informative_groups():
    assert {type(estimator).__name__ for estimator in ALL if estimator.min_informative > 0} == {
        "Gpg"
    }


# --- what holds for all ---------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ALL, ids=repr)
def test_pieces_of_a_step_add_up_to_the_step(estimator):
    """One weight matrix for the step; ranks and micro-batches take rows of it, and their
    objectives and gradients are summed."""
    weight_BG = estimator.weights(matrix(ORACLE_BG), torch.tensor(LENGTHS_BG))
    random = torch.Generator().manual_seed(0)
    weight_N = weight_BG.flatten().repeat_interleave(torch.tensor(LENGTHS_BG).flatten())
    tokens_N = -torch.rand(len(weight_N), generator=random, dtype=torch.float64)
    sampled_N = tokens_N + 0.3 * torch.randn(len(weight_N), generator=random, dtype=torch.float64)
    rows = torch.tensor(LENGTHS_BG).sum(1).tolist()
    losses, gradients = [], []
    for cut in ([len(weight_N)], rows, [rows[0], sum(rows[1:])]):
        logprobs_N = tokens_N.clone().requires_grad_()
        pieces = zip(logprobs_N.split(cut), sampled_N.split(cut), weight_N.split(cut), strict=True)
        loss = sum(estimator.objective(*piece) for piece in pieces)
        loss.backward()
        losses.append(loss.item())
        gradients.append(logprobs_N.grad)
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-12)
    same(gradients[1], gradients[0])
    same(gradients[2], gradients[0])


@pytest.mark.parametrize("estimator", ALL, ids=repr)
def test_weights_follow_their_groups_when_these_are_reordered(estimator):
    order = [2, 0, 3, 1]
    straight = estimator.weights(matrix(ORACLE_BG), torch.tensor(LENGTHS_BG))
    same(
        estimator.weights(matrix(ORACLE_BG)[order], torch.tensor(LENGTHS_BG)[order]),
        straight[order],
    )


@pytest.mark.parametrize("estimator", ALL, ids=repr)
def test_unscored_completions_never_make_a_nan(estimator):
    weight_BG = estimator.weights(
        matrix([[1, 0, NAN], [NAN, NAN, NAN], [1, NAN, NAN]]), torch.ones(3, 3)
    )
    assert weight_BG.isfinite().all()
    assert weight_BG[0, 2] == 0
    assert weight_BG[1].tolist() == [0, 0, 0]
    assert weight_BG[2, 1:].tolist() == [0, 0]


@pytest.mark.parametrize("estimator", ALL, ids=repr)
def test_bad_shapes_are_refused(estimator):
    with pytest.raises(AssertionError, match=r"lengths \[1, 3\] against rewards \[1, 2\]"):
        estimator.weights(matrix([[1, 0]]), torch.ones(1, 3))
    with pytest.raises(AssertionError, match="must be a float"):
        estimator.weights(torch.tensor([[1, 0]]), torch.ones(1, 2))


def test_k3_by_hand():
    # d = log ref - log p: 0 gives 0; log 2 gives 2 - log 2 - 1; -log 2 gives 1/2 + log 2 - 1
    got = k3(numbers(-1.0, -1.0, -1.0), numbers(-1.0, -1.0 + math.log(2), -1.0 - math.log(2)))
    same(got, numbers(0.0, 1 - math.log(2), math.log(2) - 0.5))


def test_k3_is_never_negative():
    differences_N = torch.linspace(-5, 5, 1001, dtype=torch.float64)
    assert (k3(torch.zeros_like(differences_N), differences_N) >= 0).all()


# --- the denominator, and thresholds on both sides ------------------------------------------------


@pytest.mark.parametrize(
    ("share", "groups", "wanted"),
    [
        (0.28, 25, 7),  # 0.28 * 25 is 7.000000000000001 in floats
        (0.07, 100, 7),  # likewise
        (0.29, 25, 8),  # 7.25
        (0.5, 5, 3),
        (0.6, 16, 10),
        (0.0, 16, 0),
        (1.0, 16, 16),
        (0.0001, 16, 1),
        (0.7, 10, 7),
        (0.701, 10, 8),
    ],
)
def test_the_fewest_groups_that_are_a_share_of_a_step(share, groups, wanted):
    assert min_informative_groups(share, groups) == wanted
    assert Gpg(min_informative=share, groups_per_step=groups).min_groups == wanted


@pytest.mark.parametrize(
    ("share", "is_one"), [(0.0, True), (1.0, True), (-0.001, False), (1.001, False), (NAN, False)]
)
def test_a_share_is_from_zero_to_one(share, is_one):
    if is_one:
        assert Gpg(min_informative=share).min_informative == share
        return
    with pytest.raises(UserError, match="expected a share from 0 to 1"):
        Gpg(min_informative=share)


# Three groups: one is informative (rewards 1, 0; lengths 2, 3), one has zero variance, of one
# nothing could be scored.
UNSCORED_BG, UNSCORED_LENGTHS = [[1, 0], [1, 1], [NAN, NAN]], [[2, 3], [4, 5], [6, 7]]
SCALED = 0.5 / (math.sqrt(0.5) + 1e-4)  # the std of (1, 0) is sqrt(1/2)


@pytest.mark.parametrize(
    ("estimator", "weights", "shares"),
    [
        (Grpo(), [SCALED / 2 / 2 / 3, -SCALED / 3 / 2 / 3], [1 / 12, 1 / 18]),
        (
            Grpo(scale="none", aggregation="group_token"),
            [0.5 / 5 / 3, -0.5 / 5 / 3],
            [1 / 15, 1 / 15],
        ),
        (
            Grpo(scale="none", aggregation="token"),
            [0.5 / 14 * 2 / 3, -0.5 / 14 * 2 / 3],
            [2 / 42, 2 / 42],
        ),
        (DrGrpo(max_tokens=10), [0.5 / 20 / 3, -0.5 / 20 / 3], [1 / 60, 1 / 60]),
        (Rloo(), [1 / 2 / 3, -1 / 2 / 3], [1 / 6, 1 / 6]),
        (Reinforce(baseline=0.25), [0.75 / 6, -0.25 / 6], [1 / 6, 1 / 6]),
    ],
    ids=["grpo", "grpo group_token", "grpo token", "dr_grpo", "rloo", "reinforce"],
)
def test_a_group_of_which_nothing_could_be_scored_stays_in_the_denominator(
    estimator, weights, shares
):
    """Three groups were sampled. Only GPG leaves zero-variance groups out of the denominator; an
    error of the verifier enlarges no method's step."""
    rewards_BG, lengths_BG = matrix(UNSCORED_BG), torch.tensor(UNSCORED_LENGTHS)
    got = estimator.weights(rewards_BG, lengths_BG)
    same(got[0], numbers(*weights))
    assert got[2].tolist() == [0, 0]
    got_shares = estimator.shares(rewards_BG, lengths_BG)
    same(got_shares[0], numbers(*shares))
    assert got_shares[1].min() > 0  # a zero-variance group diverges like any other
    assert got_shares[2].tolist() == [0, 0]


def test_gpg_s_shares_are_of_the_informative_groups_but_of_no_fewer_than_the_least():
    rewards_BG, lengths_BG = matrix(UNSCORED_BG), torch.tensor(UNSCORED_LENGTHS)
    for wanted, units in ((0.0, 1), (0.5, 2), (1.0, 3)):
        estimator = Gpg(min_informative=wanted, groups_per_step=3)
        same(estimator.shares(rewards_BG, lengths_BG), [[1 / 5 / units] * 2, [0, 0], [0, 0]])
        same(
            estimator.weights(rewards_BG, lengths_BG),
            [[0.5 / 5 / units, -0.5 / 5 / units], [0, 0], [0, 0]],
        )
        assert estimator.alpha(rewards_BG) == pytest.approx(3 / units)
    for other in (Grpo(), DrGrpo(), Rloo(), Reinforce()):
        assert other.alpha(rewards_BG) == 1


@pytest.mark.parametrize("estimator", [Rloo(), Reinforce()])
def test_strictly_on_policy_methods_ignore_what_was_sampled(estimator):
    logprobs_N = numbers(-1.0, -2.0, grad=True)
    loss = estimator.objective(logprobs_N, numbers(-9.0, NAN), numbers(0.5, -0.25))
    loss.backward()
    assert loss.item() == 0.5 - 0.5
    same(logprobs_N.grad, numbers(-0.5, 0.25))


def test_gpg_s_ratio_is_a_number_and_no_path_for_the_gradient():
    """At ratio 1.5 the slope is -1.5 w; through the ratio it would be -1.5 w (1 + log p)."""
    logprobs_N = numbers(-2.0, grad=True)
    loss = Gpg(max_ratio=2.0).objective(logprobs_N, numbers(-2.0 - math.log(1.5)), numbers(2.0))
    loss.backward()
    assert loss.item() == pytest.approx(2.0 * 1.5 * 2.0)
    assert logprobs_N.grad.item() == pytest.approx(-3.0)


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.4), (0.4, 0.1)])
def test_grpo_s_two_clips_are_each_at_their_own_side(low, high):
    estimator = Grpo(clip_low=low, clip_high=high)
    for ratio, weight, limit in ((9.0, 1.0, 1 + high), (0.01, -1.0, 1 - low)):
        loss = estimator.objective(numbers(math.log(ratio)), numbers(0.0), numbers(weight))
        assert loss.item() == pytest.approx(-weight * limit)


def test_published_settings_are_the_defaults():
    own = Gpg()
    assert (own.scale, own.aggregation) == ("none", "group_token")
    assert (own.min_informative, own.max_ratio, own.kl, own.has_ratio) == (0.6, 2.0, 0.0, False)
    own = Grpo()
    assert (own.scale, own.aggregation) == ("std", "completion")
    assert (own.clip_low, own.clip_high, own.kl, own.min_informative) == (0.2, 0.2, 0.0, 0.0)
    assert (DrGrpo().scale, DrGrpo().aggregation, DrGrpo().kl) == ("none", "constant", 0.0)
    assert (Rloo().kl, Reinforce().kl) == (0.0, 0.0)


@pytest.mark.parametrize(
    "estimator",
    [Gpg(groups_per_step=2), Grpo(), DrGrpo(), Rloo()],
    ids=lambda estimator: type(estimator).__name__,
)
@pytest.mark.parametrize(
    "group", [[0.1, 0.1, 0.1], [0.5, 0.5, 0.5 + 9e-7], [0.5 - 1e-6, 0.5, NAN], [1.0, NAN, NAN]]
)
def test_a_zero_variance_group_weighs_exactly_nothing_wherever_a_group_is_the_baseline(
    estimator, group
):
    weight_BG = estimator.weights(matrix([group, [1, 0, 1]]), torch.ones(2, 3))
    assert weight_BG[0].tolist() == [0, 0, 0]
    assert (weight_BG[1] != 0).all()
