"""The group forward against one row per completion: every family, every way to split, with
checkpointing, and what must be noticed."""

import gc
import math
import weakref
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from gpg_vl.config.schema import PolicyConfig, Tiny
from gpg_vl.policy import group_forward, shared_prefix
from gpg_vl.policy.families import why_not_shared
from gpg_vl.policy.group_forward import (
    Agreement,
    GroupForward,
    _relative_errors,
    checkpoint_layers,
    rows_of,
)
from gpg_vl.policy.load import load_policy
from gpg_vl.policy.out_of_memory import free_memory_of
from gpg_vl.policy.plain_forward import UnsharedForward
from tests.any_family import hand_made, policy_of_family
from tests.asking import prompts, random_completions
from tests.conftest import FAMILIES
from tests.hand_made import completion

OTHERS = ("smolvlm", "idefics3", "internvl", "llava", "gemma3")
SPLITS = [
    *product(("qwen2_5_vl", "qwen3_vl", "gemma3"), (None, 200, 1), (False, True)),
    *product(("qwen2_vl", "smolvlm", "idefics3", "internvl", "llava"), (200,), (True,)),
]
"""(family, tokens at once, checkpointing): every combination for three families, one for each of
the others."""


def uneven_loss(logprobs_n, index_n):
    """Every token of the line weighs differently, and the slope depends on the log-probability
    itself, as a ratio's does."""
    weights = torch.cos(1.0 + index_n.to(logprobs_n.dtype))
    return (weights * logprobs_n + 0.01 * logprobs_n.square()).sum()


def gradients(forward, policy, asked):
    policy.model.zero_grad(set_to_none=True)
    scores = forward(asked, uneven_loss)
    scores.loss.backward()
    found = {
        name: parameter.grad.clone()
        for name, parameter in policy.model.named_parameters()
        if parameter.grad is not None
    }
    return scores, found


def error(found, expected):
    """All parameters as one vector; and the worst tensor, with a floor of a thousandth of the
    whole."""
    assert found.keys() == expected.keys()
    off = {name: float((found[name] - expected[name]).norm()) for name in expected}
    size = sum(float(gradient.norm()) ** 2 for gradient in expected.values()) ** 0.5
    worst = max(off[name] / max(float(expected[name].norm()), 1e-3 * size) for name in expected)
    return sum(value**2 for value in off.values()) ** 0.5 / size, worst


def questions(policy, family, group_size):
    """Unequal prompts: one picture, two, none, another size where the family has sizes; early
    ends, a short group."""
    if family in FAMILIES:
        asked = prompts(policy)
    else:
        asked = [
            hand_made(family, count, words, seed)
            for seed, (count, words) in enumerate([(1, 9), (2, 5), (0, 12), (1, 4)])
        ]
    sizes = [group_size - (index == 1) for index in range(len(asked))]
    return [
        (prompt, random_completions(size, longest=9, seed=index))
        for index, (prompt, size) in enumerate(zip(asked, sizes, strict=True))
    ]


@pytest.fixture
def policy_in(policy_of):
    def load(family, dtype=torch.float64, *, vision=True):
        if family not in FAMILIES:
            return policy_of_family(family, dtype, vision=vision)
        part = "full" if vision else "frozen"
        return policy_of(
            family, dtype=str(dtype).removeprefix("torch."), vision=part, projector=part
        )

    return load


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
@pytest.mark.parametrize("vision", [True, False])
@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_every_family_agrees_with_plain_rows(family, vision, dtype, bound, policy_in):
    policy = policy_in(family, dtype, vision=vision)
    asked = questions(policy, family, 4)
    plain, expected = gradients(UnsharedForward(policy, 0.9), policy, asked)
    shared, found = gradients(GroupForward(policy, 0.9), policy, asked)
    torch.testing.assert_close(shared.logprobs_N, plain.logprobs_N, rtol=0, atol=max(bound, 1e-5))
    torch.testing.assert_close(shared.entropy_N, plain.entropy_N, rtol=0, atol=max(bound, 1e-5))
    assert float(shared.loss.detach()) == pytest.approx(float(plain.loss.detach()), rel=1e-4)
    whole, worst = error(found, expected)
    assert whole <= bound
    assert worst <= 10 * bound


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "smolvlm", "gemma3"])
def test_models_that_take_no_features_in_see_the_pixels(family, policy_in):
    policy = policy_in(family)
    policy.vision.accepts_features = False  # transformers before 5.18
    asked = questions(policy, family, 3)
    _, expected = gradients(UnsharedForward(policy, 1.0), policy, asked)
    _, found = gradients(GroupForward(policy, 1.0), policy, asked)
    assert error(found, expected)[0] <= 1e-6


@pytest.mark.parametrize(("family", "tokens_at_once", "checkpointing"), SPLITS)
def test_split_groups_and_checkpointing_in_training_mode_change_nothing(
    family, tokens_at_once, checkpointing, policy_in
):
    oracle, policy = policy_in(family), policy_in(family)
    _, expected = gradients(UnsharedForward(oracle, 1.0), oracle, questions(oracle, family, 5))
    policy.model.train()
    forward = GroupForward(policy, 1.0, tokens_at_once=tokens_at_once, checkpointing=checkpointing)
    _, found = gradients(forward, policy, questions(policy, family, 5))
    whole, worst = error(found, expected)
    assert whole <= 1e-6
    assert worst <= 1e-5


@pytest.mark.parametrize("group_size", [2, 3, 16])
def test_groups_of_any_size(group_size, policy_in):
    policy = policy_in("qwen2_5_vl")
    asked = questions(policy, "qwen2_5_vl", group_size)
    _, expected = gradients(UnsharedForward(policy, 1.0), policy, asked)
    for tokens_at_once in (None, 300):
        _, found = gradients(
            GroupForward(policy, 1.0, tokens_at_once=tokens_at_once), policy, asked
        )
        assert error(found, expected)[0] <= 1e-6


@pytest.mark.parametrize("family", ["qwen2_5_vl", "smolvlm"])
def test_positions_off_by_one_are_noticed(family, policy_in, monkeypatch):
    policy = policy_in(family)
    asked = questions(policy, family, 4)
    _, expected = gradients(UnsharedForward(policy, 1.0), policy, asked)
    honest = group_forward.prefill

    def one_further(policy, prompts):
        prefix = honest(policy, prompts)
        return replace(prefix, next_position_P=prefix.next_position_P + 1)

    monkeypatch.setattr(group_forward, "prefill", one_further)
    _, wrong = gradients(GroupForward(policy, 1.0), policy, asked)
    assert error(wrong, expected)[0] > 1e-4


def test_transformers_own_checkpointing_would_lose_the_prompt(policy_in):
    policy = policy_in("qwen2_5_vl")
    policy.model.train()
    model = policy.model
    (
        getattr(model, "activation_checkpointing_enable", None)
        or model.gradient_checkpointing_enable
    )()
    with pytest.raises(ValueError, match="received no cache"):
        GroupForward(policy, 1.0)(questions(policy, "qwen2_5_vl", 2), uneven_loss)


def test_a_running_state_cannot_be_shared_and_says_so():
    policy = policy_of_family("qwen3_5")
    assert "linear_attention" in why_not_shared(policy.model)
    asked = questions(policy, "qwen3_5", 3)
    plain, expected = gradients(UnsharedForward(policy, 1.0), policy, asked)
    fallback, found = gradients(GroupForward(policy, 1.0), policy, asked)
    torch.testing.assert_close(fallback.logprobs_N, plain.logprobs_N, rtol=0, atol=1e-6)
    assert error(found, expected)[0] <= 1e-6


def test_models_that_share_say_nothing(policy_in):
    assert not any(why_not_shared(policy_in(family).model) for family in (*FAMILIES, *OTHERS))


def test_the_rectangle_by_hand():
    rows = rows_of(
        [(None, [completion([5]), completion([6, 7, 8])]), (None, [completion([9, 4])])],
        pad_id=0,
        device=torch.device("cpu"),
    )
    assert rows.tokens_PRC.tolist() == [[[6, 7, 8], [5, 0, 0]], [[9, 4, 0], [0, 0, 0]]]
    assert rows.index_PRC.tolist() == [[[1, 2, 3], [0, -1, -1]], [[4, 5, -1], [-1, -1, -1]]]
    second = rows.take(slice(1, 2))
    assert second.index_PRC.tolist() == [[[0]], [[-1]]]


@pytest.mark.parametrize("tokens_at_once", [None, 1])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "gemma3"])
def test_bfloat16_composes(family, tokens_at_once, policy_in):
    rough, exact = (policy_in(family, torch.float32) for _ in range(2))
    rough = replace(rough, dtype=torch.bfloat16)
    asked = questions(exact, family, 4)
    _, expected = gradients(UnsharedForward(exact, 1.0), exact, asked)
    scores, found = gradients(GroupForward(rough, 1.0, tokens_at_once=tokens_at_once), rough, asked)
    assert scores.logprobs_N.dtype == torch.float32
    assert error(found, expected)[0] < 0.1


def test_work_is_counted_tower_once_per_picture_and_prompt_once_per_group(policy_of):
    policy = policy_of()
    patches: list[int] = []
    tokens: list[int] = []
    core = policy.model.model
    core.visual.register_forward_pre_hook(
        lambda module, args, kwargs: patches.append(len(args[0])), with_kwargs=True
    )
    core.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(
            kwargs["inputs_embeds"].shape[0] * kwargs["inputs_embeds"].shape[1]
        ),
        with_kwargs=True,
    )
    count, choice = prompts(policy, ["count", "choice"])
    GroupForward(policy, 1.0)([(count, [completion([1, 2, 3, 4])] * 8)])
    assert patches == [64]
    assert tokens == [len(count.input_ids), 8 * 3]
    patches.clear()
    # another question about the same picture, in one batch
    longer = replace(count, input_ids=(*count.input_ids, 5, 6))
    GroupForward(policy, 1.0)(
        [
            (count, [completion([1])] * 2),
            (longer, [completion([1])] * 2),
            (choice, [completion([1])] * 2),
        ]
    )
    assert patches == [64 + 16]


def test_a_split_group_sees_its_picture_and_prompt_once(policy_of):
    policy = policy_of()
    seen: list[int] = []
    core = policy.model.model
    core.visual.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(-1), with_kwargs=True
    )
    core.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(
            kwargs["inputs_embeds"].shape[0] * kwargs["inputs_embeds"].shape[1]
        ),
        with_kwargs=True,
    )
    (prompt,) = prompts(policy, ["count"])
    group = [(prompt, [completion([1, 2, 3, 4])] * 4)]
    GroupForward(policy, 1.0, tokens_at_once=1)(group, uneven_loss).loss.backward()
    assert seen == [-1, len(prompt.input_ids), 3, 3, 3, 3]


@pytest.mark.parametrize("tokens_at_once", [None, 1])
def test_the_check_of_the_first_step_measures_agreement(tokens_at_once, policy_of, monkeypatch):
    policy = policy_of()
    (prompt,) = prompts(policy, ["box"])
    forward = GroupForward(policy, 1.0, tokens_at_once=tokens_at_once)
    asked = (prompt, random_completions(2, longest=6, seed=0))
    agreement = forward.agreement(asked)
    assert agreement.holds
    assert max(agreement.exact) < 1e-4
    honest = group_forward.prefill

    def shifted(policy, prompts):
        prefix = honest(policy, prompts)
        return replace(prefix, next_position_P=torch.zeros(1, dtype=torch.long))

    monkeypatch.setattr(group_forward, "prefill", shifted)
    agreement = forward.agreement(asked)
    assert not agreement.holds
    assert max(agreement.exact) > 1e-3


def test_rounding_to_a_narrow_type_is_no_disagreement_however_coarse():
    """Sharp logits in a deeper model: bfloat16 costs plain rows as much as it costs the group
    forward, and no limit of its own is met."""
    policy = load_policy(PolicyConfig(dtype="bfloat16", tiny=Tiny(layers=8, hidden=256)), seed=0)
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(6)
    (prompt,) = prompts(policy, ["box"])
    agreement = GroupForward(policy, 1.0).agreement(
        (prompt, random_completions(2, longest=12, seed=0))
    )
    assert agreement.holds
    assert max(agreement.exact) < 1e-4
    assert max(agreement.narrow) > 1e-3
    assert max(agreement.plain) > 1e-3


def test_a_wrong_position_is_a_disagreement_in_a_narrow_type_too(policy_of, monkeypatch):
    policy = policy_of(dtype="bfloat16")
    (prompt,) = prompts(policy, ["box"])
    honest = group_forward.prefill

    def shifted(policy, prompts):
        prefix = honest(policy, prompts)
        return replace(prefix, next_position_P=prefix.next_position_P + 1)

    monkeypatch.setattr(group_forward, "prefill", shifted)
    assert (
        not GroupForward(policy, 1.0)
        .agreement((prompt, random_completions(2, longest=6, seed=0)))
        .holds
    )


@pytest.mark.parametrize(
    ("narrow", "holds"),
    [
        ((0.2, 0.1), True),
        ((0.009, 0.1), True),
        ((0.2, 0.6), False),
        ((math.nan, 0.1), False),
        ((0.6, 0.1), False),
    ],
)
def test_the_narrow_type_is_judged_by_what_plain_rows_lose_in_it(narrow, holds):
    """By hand: plain rows lose 0.1 and 0.05 (0 and 0.05 in the second row); five times that is
    allowed, or 0.01."""
    plain = (0.0, 0.05) if narrow[0] == 0.009 else (0.1, 0.05)
    assert Agreement(torch.float32, (1e-6, 1e-5), narrow, plain).holds == holds


def test_a_kernel_that_fails_only_in_the_type_of_the_weights_leaves_the_narrow_type_to_be_judged(
    policy_of, monkeypatch
):
    policy = policy_of(dtype="bfloat16")
    (prompt,) = prompts(policy, ["box"])
    honest = group_forward.prefill

    def narrow_only(policy, prompts):
        if policy.dtype == torch.float32:
            raise RuntimeError("out of resource: shared memory")
        return honest(policy, prompts)

    monkeypatch.setattr(group_forward, "prefill", narrow_only)
    agreement = GroupForward(policy, 1.0).agreement(
        (prompt, random_completions(2, longest=6, seed=0))
    )
    assert agreement.holds
    assert str(agreement).startswith("not comparable in float32; computed in the narrower type")


# --- by hand --------------------------------------------------------------------------------------

CPU = torch.device("cpu")


def rectangle(lengths):
    """Rows of two groups, each of so many answers of so many tokens."""
    asked = [(None, [completion([5] * length) for length in own]) for own in lengths]
    return rows_of(asked, pad_id=0, device=CPU)


@pytest.mark.parametrize(
    ("budget", "rows"),
    [
        # two prompts of 10 columns are 20; a row of answers of both groups is 2 * 6 = 12
        (None, [4]),
        (20 + 48, [4]),
        (20 + 47, [3, 1]),
        (20 + 36, [3, 1]),
        (20 + 35, [2, 2]),
        (20 + 24, [2, 2]),
        (20 + 23, [1, 1, 1, 1]),
        (1, [1, 1, 1, 1]),
    ],
)
def test_pieces_are_as_large_as_the_budget_allows(budget, rows, policy_of):
    forward = GroupForward(policy_of(), 1.0, tokens_at_once=budget)
    whole = rectangle([[6, 1, 2, 3], [4, 5, 1, 1]])
    assert whole.tokens_PRC.shape == (2, 4, 6)
    prefix = SimpleNamespace(visible_PL=torch.ones(2, 10))
    pieces = forward._pieces(whole, prefix)
    assert [piece.tokens_PRC.shape[1] for piece in pieces] == rows
    places = [
        place for piece in pieces for place in piece.index_PRC.flatten().tolist() if place >= 0
    ]
    assert sorted(places) == list(range(6 + 1 + 2 + 3 + 4 + 5 + 1 + 1))
    for piece in pieces:
        # no wider than it needs
        assert piece.tokens_PRC.shape[2] == int((piece.index_PRC >= 0).sum(-1).max())
        assert torch.equal(piece.tokens_PRC == 5, piece.index_PRC >= 0)


def test_rows_are_longest_first_and_know_their_places_in_the_line():
    rows = rectangle([[1, 3, 2], [2, 4]])
    assert (rows.index_PRC >= 0).sum(-1).tolist() == [[3, 2, 1], [4, 2, 0]]
    assert rows.index_PRC[:, :, 0].tolist() == [[1, 4, 0], [8, 6, -1]]


def test_scores_of_pieces_are_put_in_the_order_that_was_asked_for(policy_of):
    """Every answer other tokens, so that each score has one right place; short before long, and
    a budget of one row at a time."""
    policy = policy_of(dtype="float64")
    first, second = prompts(policy, ["count", "add"])
    asked = [
        (first, [completion([5]), completion([6, 7, 8]), completion([9, 10])]),
        (second, [completion([11]), completion([12, 13])]),
    ]
    alone = [
        GroupForward(policy, 0.8)([(prompt, [own])]) for prompt, answers in asked for own in answers
    ]
    for tokens_at_once in (None, 1):
        scores = GroupForward(policy, 0.8, tokens_at_once=tokens_at_once)(asked)
        torch.testing.assert_close(
            scores.logprobs_N, torch.cat([own.logprobs_N for own in alone]), rtol=0, atol=1e-6
        )
        torch.testing.assert_close(
            scores.entropy_N, torch.cat([own.entropy_N for own in alone]), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("tokens_at_once", [None, 1])
def test_without_a_loss_or_a_gradient_the_scores_are_the_same_and_no_gradient_is_made(
    tokens_at_once, policy_of, monkeypatch
):
    policy = policy_of(dtype="float64")
    asked = questions(policy, "qwen2_5_vl", 3)
    forward = GroupForward(policy, 1.0, tokens_at_once=tokens_at_once)
    scores = forward(asked, uneven_loss)
    monkeypatch.setattr(forward, "_piecewise", lambda *_: pytest.fail("gradients were made"))
    with torch.no_grad():
        silent = forward(asked, uneven_loss)
    bare = forward(asked)
    for other in (silent, bare):
        torch.testing.assert_close(other.logprobs_N, scores.logprobs_N, rtol=0, atol=1e-9)
        torch.testing.assert_close(other.entropy_N, scores.entropy_N, rtol=0, atol=1e-9)
    assert float(silent.loss) == pytest.approx(float(scores.loss.detach()), rel=1e-9)
    assert float(bare.loss.detach()) == 0
    assert scores.loss.requires_grad
    assert not any(own.requires_grad for own in (silent.loss, scores.logprobs_N, scores.entropy_N))


def test_the_loss_s_own_slope_reaches_every_gradient_of_a_split_group(policy_of):
    policy = policy_of(dtype="float64")
    forward = GroupForward(policy, 1.0, tokens_at_once=1)
    asked = questions(policy, "qwen2_5_vl", 3)
    _, once = gradients(forward, policy, asked)
    policy.model.zero_grad(set_to_none=True)
    (-2.5 * forward(asked, uneven_loss).loss).backward()
    found = {
        name: parameter.grad
        for name, parameter in policy.model.named_parameters()
        if parameter.grad is not None
    }
    assert error(found, {name: -2.5 * gradient for name, gradient in once.items()})[0] <= 1e-6


@pytest.mark.parametrize("lengths", [[4, 1], [1, 4, 1], [1, 1], [3, 2, 1]])
def test_a_piece_of_single_tokens_which_no_layer_sees_takes_nothing_from_the_others(
    lengths, policy_of
):
    """A single token is scored from the prompt alone: its piece has no gradient for the layers,
    and theirs so far must stay."""
    policy = policy_of(dtype="float64")
    asked = [
        (prompt, [completion(range(5, 5 + length)) for length in lengths])
        for prompt in prompts(policy, ["add", "count"])
    ]
    plain, expected = gradients(UnsharedForward(policy, 1.0), policy, asked)
    pieces, found = gradients(GroupForward(policy, 1.0, tokens_at_once=1), policy, asked)
    whole, worst = error(found, expected)
    assert whole <= 1e-6
    assert worst <= 1e-5
    assert float(pieces.loss.detach()) == pytest.approx(float(plain.loss.detach()), rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "errors", "holds"),
    [
        (torch.float32, (1e-3, 1e-3), True),
        (torch.float32, (1.01e-3, 0.0), False),
        (torch.float32, (0.0, 1.01e-3), False),
        (torch.float64, (1e-5, 1e-5), True),
        (torch.float64, (0.0, 1.01e-5), False),
        (torch.float32, (math.inf, 0.0), False),
        (torch.float32, (math.nan, 0.0), False),
        (torch.float32, None, True),
    ],
)
def test_the_type_of_the_weights_has_a_limit_of_its_own(kind, errors, holds):
    assert Agreement(kind, errors).holds == holds


@pytest.mark.parametrize(
    ("exact", "narrow", "plain", "holds"),
    [
        ((1.0, 0.0), (0.0, 0.0), (1.0, 1.0), False),  # either way of failing is one
        ((0.0, 0.0), (0.5, 0.25), (0.1, 0.05), True),  # exactly five times what plain rows lose
        ((0.0, 0.0), (0.501, 0.0), (0.1, 0.05), False),
        ((0.0, 0.0), (0.0, 0.251), (0.1, 0.05), False),  # each is held against its own
        ((0.0, 0.0), (0.01, 0.01), (0.0, 0.0), True),
        ((0.0, 0.0), (0.0101, 0.0), (0.0, 0.0), False),
        (None, (0.0, math.nan), (0.1, 0.1), False),
        (None, (0.1, math.inf), (0.1, 0.1), False),
    ],
)
def test_both_types_must_agree_up_to_their_limits(exact, narrow, plain, holds):
    assert Agreement(torch.float32, exact, narrow, plain).holds == holds


def test_relative_errors_by_hand():
    # (3, 4) is 5 long; off by (0, 0.5). (0, 2) is 2 long; off by (1, 0)
    found = torch.tensor([3.0, 4.5]), torch.tensor([1.0, 2.0])
    assert _relative_errors(
        found, (torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0]))
    ) == pytest.approx((0.1, 0.5))
    nothing = torch.zeros(2), torch.zeros(2)
    assert _relative_errors(nothing, nothing) == (0, 0)
    # nothing was expected, something came
    assert _relative_errors((torch.ones(2), torch.zeros(2)), nothing)[0] > 1e300


def test_layers_are_checkpointed_once_however_often_it_is_asked(policy_of):
    policy = policy_of()
    checkpoint_layers(policy.model)
    once = [module.forward for module in policy.model.modules()]
    checkpoint_layers(policy.model)
    assert [module.forward for module in policy.model.modules()] == once
    wrapped = [module for module in policy.model.modules() if "forward" in vars(module)]
    assert (
        len(wrapped)
        == policy.model.config.text_config.num_hidden_layers
        + policy.model.config.vision_config.depth
    )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_checkpointed_layer_runs_again_in_the_backward_and_only_there(checkpointing, policy_of):
    policy = policy_of()
    ran = []
    policy.model.model.get_decoder().layers[0].mlp.register_forward_pre_hook(
        lambda *_: ran.append(1)
    )
    forward = GroupForward(policy, 1.0, checkpointing=checkpointing)
    (prompt,) = prompts(policy, ["add"])
    asked = [(prompt, [completion([5, 6]), completion([7, 8])])]
    with torch.no_grad():
        forward(asked, uneven_loss)
    assert len(ran) == 2  # the prompt, and its answers
    loss = forward(asked, uneven_loss).loss
    assert len(ran) == 4
    loss.backward()
    assert len(ran) == (6 if checkpointing else 4)


@contextmanager
def recorded_states(monkeypatch):
    """Weak references to the keys and values that the layers make of prompts, in here; and nothing
    is collected that only a search for circles finds."""
    made: list[weakref.ref[torch.Tensor]] = []
    honest = shared_prefix._KeyValueRecorder.update

    def update(recorder, keys, values, *rest, **options):
        made.extend([weakref.ref(keys), weakref.ref(values)])
        return honest(recorder, keys, values, *rest, **options)

    monkeypatch.setattr(shared_prefix._KeyValueRecorder, "update", update)
    gc.collect()
    gc.disable()
    try:
        yield made
    finally:
        gc.enable()


def alive(references):
    return [each for each in references if each() is not None]


@pytest.mark.parametrize("tokens_at_once", [None, 1])
@pytest.mark.parametrize("where", ["prompt", "head", "backward"])
def test_what_a_checkpointed_try_without_enough_memory_held_is_free_at_once(
    where, tokens_at_once, policy_of, monkeypatch
):
    policy = policy_of()
    forward = GroupForward(policy, 1.0, tokens_at_once=tokens_at_once, checkpointing=True)
    (prompt,) = prompts(policy, ["add"])
    asked = [(prompt, [completion([5, 6]), completion([7, 8])])]
    last = policy.model.model.get_decoder().layers[-1].mlp
    runs = {"prompt": 1, "backward": 3}  # prompt, answers, then again in the backward
    ran = []

    def fail():
        raise torch.OutOfMemoryError("CUDA out of memory (simulated)")

    def layer_runs(*_):
        ran.append(1)
        if len(ran) == runs.get(where):
            fail()

    last.register_forward_pre_hook(layer_runs)
    if where == "head":
        monkeypatch.setattr(group_forward, "score_in_chunks", lambda *_: fail())
    with recorded_states(monkeypatch) as made:
        try:
            forward(asked, uneven_loss).loss.backward()
        except torch.OutOfMemoryError as error:
            free_memory_of(error)
        else:
            pytest.fail("there was enough memory")
        assert made
        assert not alive(made)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_check_of_the_first_step_leaves_nothing_in_memory(dtype, policy_of, monkeypatch):
    policy = policy_of(dtype=dtype)
    (prompt,) = prompts(policy, ["add"])
    forward = GroupForward(policy, 1.0, checkpointing=True)
    with recorded_states(monkeypatch) as made:
        forward.agreement((prompt, random_completions(2, longest=6, seed=0)))
        assert made
        assert not alive(made)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_check_in_a_narrow_type_is_at_the_policy_s_own_temperature(temperature, policy_of):
    policy = policy_of(dtype="bfloat16")
    (prompt,) = prompts(policy, ["box"])
    agreement = GroupForward(policy, temperature).agreement(
        (prompt, random_completions(2, longest=6, seed=0))
    )
    assert agreement.holds
    assert max(*agreement.narrow, *agreement.plain) < 0.1


def test_the_check_takes_no_features_that_were_made_in_another_type(policy_of):
    policy = policy_of(dtype="bfloat16", vision="frozen", projector="frozen")
    forward = GroupForward(policy, 0.7, tokens_at_once=123)
    assert policy.vision.cache is not None
    exact = forward._computing_in(torch.float32)
    assert (exact.policy.dtype, exact.policy.vision.cache) == (torch.float32, None)
    assert (exact.rule.temperature, exact.rule.banned_ids, exact.tokens_at_once) == (
        0.7,
        policy.banned_ids,
        123,
    )
    assert exact.model is forward.model
    assert forward.policy.dtype == torch.bfloat16
