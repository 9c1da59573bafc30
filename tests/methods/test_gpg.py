"""The method by hand: advantages, zero-variance groups, alpha, aggregations, and a plain-loop twin
of the weights.

B groups, G completions; NaN = could not be scored. Numbers are small enough to redo in the head.
"""

import math
import random

import pytest
import torch

from gpg_vl.methods import gpg
from gpg_vl.methods.gpg import Gpg
from tests.hand_made import group

NAN = math.nan

# The oracle at the end of gpg.md: four groups of four, the second and third of zero variance, so
# alpha = 4 / 2.
ORACLE_BG = [[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]]
AGGREGATIONS = ["group_token", "completion", "token", "constant"]


def matrix(rows):
    return torch.tensor(rows, dtype=torch.float64)


def weights(rewards_BG, lengths_BG, **fields):
    """Gpg with the threshold off and one step = the given groups, unless fields are given."""
    fields = {"min_informative": 0.0, "groups_per_step": len(rewards_BG)} | fields
    return Gpg(**fields).weights(matrix(rewards_BG), torch.tensor(lengths_BG))


def same(got, expected):
    torch.testing.assert_close(got, matrix(expected), rtol=0, atol=1e-12)


# --- advantages -----------------------------------------------------------------------------------


def test_advantages_of_the_oracle():
    same(
        gpg.centre(matrix(ORACLE_BG)),
        [[0.75, -0.25, -0.25, -0.25], [0, 0, 0, 0], [0, 0, 0, 0], [0.5, 0.5, -0.5, -0.5]],
    )


def test_an_unscored_completion_is_left_out_of_the_mean():
    same(gpg.centre(matrix([[1, 0, NAN, 0.5]])), [[0.5, -0.5, 0, 0]])


def test_a_group_without_any_score_has_no_advantage():
    same(gpg.centre(matrix([[NAN, NAN]])), [[0, 0]])


def test_scale_none_leaves_advantages_alone():
    same(gpg.advantages(matrix([[1, 0]]), "none"), [[0.5, -0.5]])


def test_scale_std_divides_by_the_unbiased_std_of_the_group():
    # (3, 1): mean 2, squares 1 + 1 over 2 - 1, std sqrt(2)
    got = gpg.advantages(matrix([[3, 1]]), "std")
    same(got, [[1 / (math.sqrt(2) + 1e-4), -1 / (math.sqrt(2) + 1e-4)]])


def test_scale_std_counts_only_scored_completions():
    got = gpg.advantages(matrix([[3, 1, NAN]]), "std")
    same(got, [[1 / (math.sqrt(2) + 1e-4), -1 / (math.sqrt(2) + 1e-4), 0]])


def test_scale_batch_std_divides_by_the_std_of_all_scored_completions():
    # 1, 0, 1, 1 and one unscored: mean 3/4, squares 1/16 + 9/16 + 1/16 + 1/16 = 3/4 over 3, std 1/2
    rewards_BG = matrix([[1, 0, NAN], [1, 1, NAN]])
    got = gpg.advantages(rewards_BG, "batch_std")
    same(got, [[0.5 / 0.5001, -0.5 / 0.5001, 0], [0, 0, 0]])


def test_scale_batch_std_of_a_single_score_divides_by_nothing():
    same(gpg.advantages(matrix([[1, NAN]]), "batch_std"), [[0, 0]])


# --- zero-variance groups -------------------------------------------------------------------------


def test_zero_variance_groups_of_the_oracle():
    assert gpg.zero_variance(matrix(ORACLE_BG)).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("spread", "is_zero"), [(0.0, True), (0.9e-6, True), (1.1e-6, False), (0.1, False)]
)
def test_zero_variance_is_decided_by_raw_rewards_at_one_millionth(spread, is_zero):
    assert gpg.zero_variance(matrix([[0.5, 0.5, 0.5 + spread]])).tolist() == [is_zero]


def test_a_spread_of_exactly_one_millionth_has_zero_variance_for_estimator_and_group():
    """Estimators and sampling must agree on every group, else one waits for what the other leaves
    out."""
    for rewards, is_zero in (
        ([0.0, 1e-6], True),
        ([1e-6, 0.0, NAN], True),
        ([0.0, 1.5e-6], False),
        ([1e-6], True),
        ([NAN, 1.0], True),
    ):
        own = group(rewards)
        assert gpg.zero_variance(matrix([rewards])).tolist() == [is_zero]
        assert own.informative != is_zero


@pytest.mark.parametrize("seed", range(20))
def test_the_tensor_and_the_group_agree_on_zero_variance(seed):
    """On groups with equal rewards, spreads about the threshold, and completions without score."""
    draw = random.Random(seed)
    values = (NAN, 0.0, 0.3, 0.1 + 0.2, 0.5, 0.5 + 0.9e-6, 0.5 + 1e-6, 0.5 + 1.1e-6, 1.0)
    few = draw.sample(values, draw.randint(1, 3))
    rows = [[draw.choice(few) for _ in range(4)] for _ in range(50)]
    is_informative = [group(row).informative for row in rows]
    assert (~gpg.zero_variance(matrix(rows))).tolist() == is_informative


def test_rounding_residue_does_not_make_a_group_informative():
    # The mean of three times 0.1 is not exactly 0.1, so a test on advantages would take this group.
    assert gpg.zero_variance(matrix([[0.1, 0.1, 0.1]])).tolist() == [True]
    assert weights([[0.1, 0.1, 0.1]], [[1, 1, 1]]).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(
    ("rewards", "is_zero"),
    [([1, NAN, NAN], True), ([NAN, NAN, NAN], True), ([1, 0, NAN], False), ([1, 1, NAN], True)],
)
def test_fewer_than_two_scored_completions_have_zero_variance(rewards, is_zero):
    assert gpg.zero_variance(matrix([rewards])).tolist() == [is_zero]


# --- aggregations by hand -------------------------------------------------------------------------

# One group: rewards 1 and 0, so advantages 1/2 and -1/2, lengths 1 and 3. Beside it a group of zero
# variance.
TWO_GROUPS, TWO_LENGTHS = [[1, 0], [1, 1]], [[1, 3], [5, 7]]


@pytest.mark.parametrize(
    ("aggregation", "token_weights"),
    [
        ("group_token", [0.5 / 4, -0.5 / 4]),  # the group's 4 tokens
        ("completion", [0.5 / 2, -0.5 / 6]),  # own length, 2 completions
        ("token", [0.5 / 4, -0.5 / 4]),  # 4 tokens of informative groups
        ("constant", [0.5 / 20, -0.5 / 20]),  # max_tokens 10, 2 completions
    ],
)
def test_each_aggregation_by_hand(aggregation, token_weights):
    same(
        weights(TWO_GROUPS, TWO_LENGTHS, aggregation=aggregation, max_tokens=10),
        [token_weights, [0, 0]],
    )


def test_group_token_weighs_groups_alike_and_token_weighs_tokens_alike():
    rewards_BG, lengths_BG = [[1, 0], [1, 0]], [[1, 1], [4, 4]]
    same(
        weights(rewards_BG, lengths_BG, aggregation="group_token"),
        [[0.5 / 2 / 2, -0.5 / 2 / 2], [0.5 / 8 / 2, -0.5 / 8 / 2]],
    )
    same(
        weights(rewards_BG, lengths_BG, aggregation="token"),
        [[0.5 / 10, -0.5 / 10], [0.5 / 10, -0.5 / 10]],
    )


def test_unscored_completions_have_no_weight_and_their_tokens_do_not_count():
    rewards_BG, lengths_BG = [[1, 0, NAN]], [[1, 3, 100]]
    same(weights(rewards_BG, lengths_BG, aggregation="group_token"), [[0.5 / 4, -0.5 / 4, 0]])
    same(weights(rewards_BG, lengths_BG, aggregation="completion"), [[0.5 / 2, -0.5 / 6, 0]])
    same(weights(rewards_BG, lengths_BG, aggregation="token"), [[0.5 / 4, -0.5 / 4, 0]])
    same(
        weights(rewards_BG, lengths_BG, aggregation="constant", max_tokens=10),
        [[0.5 / 20, -0.5 / 20, 0]],
    )


# --- alpha ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregation", ["group_token", "completion", "constant"])
def test_the_weights_contain_alpha_exactly_once(aggregation):
    lengths_BG = [[3, 1, 4, 1], [5, 9, 2, 6], [5, 3, 5, 8], [9, 7, 9, 3]]
    whole = weights(ORACLE_BG, lengths_BG, aggregation=aggregation, max_tokens=9)
    everyone = gpg.token_shares(
        matrix(ORACLE_BG),
        torch.tensor(lengths_BG),
        torch.ones(4, dtype=torch.bool),
        aggregation=aggregation,
        max_tokens=9,
    )
    same(whole, (2 * gpg.centre(matrix(ORACLE_BG)) * everyone).tolist())


def test_zero_variance_groups_change_nothing():
    alone = weights([ORACLE_BG[0], ORACLE_BG[3]], [[1, 2, 3, 4], [5, 6, 7, 8]])
    among = weights(ORACLE_BG, [[1, 2, 3, 4], [9, 9, 9, 9], [9, 9, 9, 9], [5, 6, 7, 8]])
    same(among[[0, 3]], alone.tolist())


def test_alpha_of_the_oracle_is_two():
    assert gpg.alpha(matrix(ORACLE_BG), groups_per_step=4, min_groups=0) == 2.0


@pytest.mark.parametrize("min_informative", [0.25, 0.4, 0.6, 1.0])
@pytest.mark.parametrize("informative", range(17))
def test_alpha_never_exceeds_one_over_min_informative(min_informative, informative):
    rewards_BG = matrix([[1, 0]] * informative + [[1, 1]] * (16 - informative))
    min_groups = Gpg(min_informative=min_informative, groups_per_step=16).min_groups
    assert (
        1.0
        <= gpg.alpha(rewards_BG, groups_per_step=16, min_groups=min_groups)
        <= 1 / min_informative
    )


def test_more_informative_groups_than_a_step_holds_do_not_shrink_alpha_below_one():
    assert gpg.alpha(matrix([[1, 0]] * 5), groups_per_step=4, min_groups=0) == 1.0


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_one_informative_group_of_sixteen_takes_a_tenth_of_a_step(aggregation):
    rewards_BG, lengths_BG = [[1, 0]] + [[0, 0]] * 15, [[2, 3]] * 16
    alone = weights(rewards_BG, lengths_BG, aggregation=aggregation, max_tokens=4)
    # ceil(0.6 * 16) = 10
    bounded = weights(
        rewards_BG, lengths_BG, aggregation=aggregation, max_tokens=4, min_informative=0.6
    )
    assert alone.abs().sum() > 0
    same(bounded, (alone / 10).tolist())


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_no_informative_group_gives_no_weight_and_no_nan(aggregation):
    assert weights([[1, 1], [NAN, NAN]], [[1, 2], [3, 4]], aggregation=aggregation).tolist() == [
        [0, 0],
        [0, 0],
    ]


@pytest.mark.parametrize("group_size", [2, 8])
def test_share_of_zero_variance_groups_of_a_coin(group_size):
    # Of all 2^G outcomes of a fair coin exactly two have zero variance: p^G + (1-p)^G at p = 1/2.
    outcomes = matrix(
        [[number >> bit & 1 for bit in range(group_size)] for number in range(2**group_size)]
    )
    assert gpg.zero_variance(outcomes).sum() == 2


# --- the slow twin --------------------------------------------------------------------------------


def twin(rewards_BG, lengths_BG, *, aggregation, scale, min_groups, max_tokens):
    """The weights once more, in plain loops, straight from the sentences of architecture.md and
    gpg.md."""
    scored = [
        [i for i, reward in enumerate(group) if not math.isnan(reward)] for group in rewards_BG
    ]
    informative = [
        len(which) > 1 and _range([group[i] for i in which]) > 1e-6
        for which, group in zip(scored, rewards_BG, strict=True)
    ]
    all_scores = [group[i] for which, group in zip(scored, rewards_BG, strict=True) for i in which]
    all_tokens = sum(
        lengths[i]
        for which, lengths, is_live in zip(scored, lengths_BG, informative, strict=True)
        if is_live
        for i in which
    )
    units = max(sum(informative), min_groups, 1)
    result = [[0.0] * len(group) for group in rewards_BG]
    for b, which in enumerate(scored):
        if not informative[b]:
            continue
        scores = [rewards_BG[b][i] for i in which]
        norm = {"none": 1.0, "std": _std(scores) + 1e-4, "batch_std": _std(all_scores) + 1e-4}[
            scale
        ]
        for i in which:
            share = {
                "group_token": 1 / sum(lengths_BG[b][j] for j in which) / units,
                "completion": 1 / lengths_BG[b][i] / len(which) / units,
                "token": 1 / all_tokens * sum(informative) / units,
                "constant": 1 / max_tokens / len(which) / units,
            }[aggregation]
            result[b][i] = (rewards_BG[b][i] - sum(scores) / len(scores)) / norm * share
    return result


def _range(scores):
    return max(scores) - min(scores)


def _std(scores):
    mean = sum(scores) / len(scores)
    return math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("scale", ["none", "std", "batch_std"])
def test_weights_equal_their_slow_twin(aggregation, scale):
    dice = random.Random(f"{aggregation} {scale}")
    for _ in range(40):
        groups, completions, min_informative = (
            dice.randint(1, 6),
            dice.randint(2, 5),
            dice.choice([0.0, 0.4, 0.6, 1.0]),
        )
        rewards_BG = [
            [dice.choice([0.0, 0.0, 1.0, 1.0, 0.3, NAN]) for _ in range(completions)]
            for _ in range(groups)
        ]
        lengths_BG = [[dice.randint(1, 9) for _ in range(completions)] for _ in range(groups)]
        got = weights(
            rewards_BG,
            lengths_BG,
            aggregation=aggregation,
            scale=scale,
            min_informative=min_informative,
            max_tokens=9,
        )
        min_groups = math.ceil(min_informative * groups)
        same(
            got,
            twin(
                rewards_BG,
                lengths_BG,
                aggregation=aggregation,
                scale=scale,
                min_groups=min_groups,
                max_tokens=9,
            ),
        )


# --- refusals -------------------------------------------------------------------------------------


def test_rewards_must_be_a_float_matrix():
    with pytest.raises(
        AssertionError, match=r"rewards_BG must be a float \[B, G\], got torch\.int64 \[1, 2\]"
    ):
        gpg.zero_variance(torch.tensor([[1, 0]]))
    with pytest.raises(
        AssertionError, match=r"rewards_BG must be a float \[B, G\], got torch\.float64 \[2\]"
    ):
        gpg.centre(torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_lengths_must_have_the_shape_of_rewards():
    with pytest.raises(AssertionError, match=r"lengths \[1, 3\] against rewards \[1, 2\]"):
        weights([[1, 0]], [[1, 2, 3]])
