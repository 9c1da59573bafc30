"""Attention over a shared prefix, and the plain scores it is held against."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.functional import scaled_dot_product_attention

from gpg_vl.policy import shared_prefix
from gpg_vl.policy.plain_forward import allowed_logits, score
from gpg_vl.policy.shared_prefix import (
    BLOCK,
    Prefix,
    _choose_attention,
    _flex_attention,
    _merged_flash_attention,
    _softmax_attention,
    block_mask,
)


def drawn(prompts, rows, new, own, length, heads=4, key_heads=2, width=8):
    draw = torch.Generator().manual_seed(0)
    make = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
    query, key, value = (
        make(prompts * rows, heads, new, width),
        make(prompts * rows, key_heads, own, width),
        make(prompts * rows, key_heads, own, width),
    )
    prompt = (make(prompts, key_heads, length, width), make(prompts, key_heads, length, width))
    visible = torch.ones(prompts, length, dtype=torch.bool)
    visible[0, :2] = False
    return (
        query,
        key,
        value,
        prompt,
        Prefix((), (), visible, True, torch.zeros(prompts), torch.zeros(prompts)),
    )


def row_by_row(query, key, value, prompt, prefix, scale, window):
    """The slow twin: every row with its own copy of the prompt."""
    rows, (own, new), length = (
        len(query) // len(prompt[0]),
        (key.shape[2], query.shape[2]),
        prompt[0].shape[2],
    )
    mixed = []
    for row in range(len(query)):
        mine = row // rows
        keys, values = (
            torch.cat([theirs[mine], states[row]], 1)[None]
            for theirs, states in zip(prompt, (key, value), strict=True)
        )
        at = torch.arange(length + own - new, length + own)[:, None]
        to = torch.arange(length + own)
        seen = (
            (to <= at)
            & (at - to < (window or 10**9))
            & torch.cat([prefix.visible_PL[mine], torch.ones(own, dtype=torch.bool)])
        )
        mixed.append(
            scaled_dot_product_attention(
                query[row : row + 1], keys, values, seen, scale=scale, enable_gqa=True
            )
        )
    return torch.cat(mixed).transpose(1, 2)


# its meaning is tested here, not its kernel
@pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [None, 3, 7])
@pytest.mark.parametrize(("new", "own"), [(5, 5), (1, 4)])
@pytest.mark.parametrize("attend", [_softmax_attention, _flex_attention])
def test_attention_in_place_is_attention_over_copies(attend, new, own, window):
    states = drawn(2, 3, new, own, length=6)
    expected = row_by_row(*states, 0.3, window)
    torch.testing.assert_close(attend(*states, 0.3, window), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("attend", [_softmax_attention, _merged_flash_attention])
def test_gradients_of_attention_in_place_are_those_over_copies(attend, padded):
    query, key, value, prompt, prefix = drawn(2, 3, 5, 5, length=6)
    prefix = replace(
        prefix,
        padded=padded,
        visible_PL=prefix.visible_PL if padded else torch.ones_like(prefix.visible_PL),
    )
    leaves = [states.requires_grad_() for states in (query, key, value, *prompt)]
    slopes = torch.cos(torch.arange(2 * 3 * 5 * 4 * 8, dtype=torch.float64)).view(6, 5, 4, 8)
    found, expected = (
        torch.autograd.grad(
            (way(query, key, value, prompt, prefix, 0.3, None) * slopes).sum(), leaves
        )
        for way in (attend, row_by_row)
    )
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("length", "rows", "own"), [(6, 3, 5), (200, 5, 90), (128, 2, 128), (300, 4, 130)]
)
def test_blocks_written_down_are_all_that_have_a_score(length, rows, own):
    visible = torch.ones(2, length, dtype=torch.bool)
    mask = block_mask(visible, rows, own, own, None)
    made = (
        create_block_mask(
            mask.mask_mod, 2, None, rows * own, length + rows * own, device="cpu", BLOCK_SIZE=BLOCK
        )
        .to_dense()
        .bool()
    )
    written = mask.to_dense().bool()
    assert not (made & ~written).any()
    line = torch.arange(rows * own)
    same_row = (line[:, None] // own) == (line // own)
    in_question = torch.cat([torch.ones(rows * own, length, dtype=torch.bool), same_row], 1)
    touched = torch.zeros_like(written[0, 0])
    for q, k in in_question.nonzero().tolist():
        touched[q // BLOCK, k // BLOCK] = True
    assert not (written & ~touched).any()


def test_scores_are_held_only_where_they_are_small():
    one, many = torch.zeros(2, 4, 1, 8), torch.zeros(2, 4, 9, 8)
    assert _choose_attention(one, many, None) is _softmax_attention
    assert _choose_attention(many, many, None) is _merged_flash_attention
    assert _choose_attention(many, many, 5) is _softmax_attention


def test_temperature_and_ban_by_hand():
    logits = torch.tensor([[0.0, 2.0, 100.0]])
    logprobs_N, entropy_N = score(logits, torch.tensor([1]), temperature=2.0, banned_ids=[2])
    one_of_two = 1 / (1 + torch.e**-1.0)
    assert logprobs_N.item() == pytest.approx(torch.log(torch.tensor(one_of_two)).item())
    entropy = -(
        one_of_two * torch.log(torch.tensor(one_of_two))
        + (1 - one_of_two) * torch.log(torch.tensor(1 - one_of_two))
    )
    assert entropy_N.item() == pytest.approx(entropy.item(), rel=1e-5)
    assert allowed_logits(logits, 1.0, [2])[0, 2] == -torch.inf


def test_a_banned_token_has_no_finite_score_and_poisons_no_gradient():
    logits = torch.zeros(1, 3, requires_grad=True)
    logprobs_N, _ = score(logits, torch.tensor([0]), temperature=1.0, banned_ids=[2])
    logprobs_N.sum().backward()
    assert torch.isfinite(logits.grad).all()


# --- by hand --------------------------------------------------------------------------------------


def picture(seen) -> list[str]:
    return ["".join("x" if each else "." for each in row) for row in seen.tolist()]


@pytest.mark.parametrize(
    ("new", "own", "window", "over_prompt", "over_own"),
    [
        (3, 3, None, ["..xx"], ["x..", "xx.", "xxx"]),
        (1, 3, None, ["..xx"], ["xxx"]),
        (2, 4, None, ["..xx"], ["xxx.", "xxxx"]),
        (3, 3, 9, ["..xx"] * 3, ["x..", "xx.", "xxx"]),
        # a window of 3 sees the token itself and two before it: the last two of the prompt, then
        # the last one, then none
        (3, 3, 3, ["..xx", "...x", "...."], ["x..", "xx.", "xxx"]),
        (3, 3, 2, ["...x", "....", "...."], ["x..", "xx.", ".xx"]),
        (3, 3, 1, ["....", "....", "...."], ["x..", ".x.", "..x"]),
        (1, 3, 4, ["...x"], ["xxx"]),
        (1, 3, 3, ["...."], ["xxx"]),
        (1, 3, 2, ["...."], [".xx"]),
    ],
)
def test_what_a_token_may_attend_to_by_hand(new, own, window, over_prompt, over_own):
    """A prompt of four tokens of which two are padding; the last `new` of `own` tokens ask."""
    visible = torch.tensor([[False, False, True, True], [True] * 4])
    prompt, mine = shared_prefix._masks(visible, new, own, window)
    assert picture(prompt[0]) == over_prompt
    assert picture(mine) == over_own
    if window is None:
        assert picture(prompt[1]) == ["xxxx"]


@pytest.mark.parametrize(
    ("first", "last", "length", "new", "own", "met"),
    [
        # blocks of 128: a prompt of 200 takes blocks 0 and 1; rows of 90 own tokens begin at 200,
        # 290, 380...
        (0, 89, 200, 90, 90, [0, 1, 2]),  # row 0: keys 200 to 289
        (0, 127, 200, 90, 90, [0, 1, 2]),  # rows 0 and 1: up to 379
        (180, 269, 200, 90, 90, [0, 1, 2, 3]),  # row 2: 380 to 469
        (90, 90, 128, 90, 128, [0, 2]),  # row 1, at block borders: 256 to 383, and the whole prompt
        (0, 0, 128, 1, 128, [0, 1]),
        (128, 255, 10, 1, 1, [0, 1, 2]),  # 128 rows of one token: keys 138 to 265
        (0, 127, 384, 128, 128, [0, 1, 2, 3]),
    ],
)
def test_the_blocks_that_queries_meet_by_hand(first, last, length, new, own, met):
    assert shared_prefix._key_blocks(first, last, length, new, own) == met


def test_heads_of_rows_meet_the_heads_of_their_prompt():
    """Two prompts of three rows, four query heads that share two key heads, five tokens: what
    meets one key head of a prompt is a line."""
    heads = shared_prefix._Heads(2, 4, 2)
    row, head, place = torch.meshgrid(
        torch.arange(6), torch.arange(4), torch.arange(5), indexing="ij"
    )
    named = (100 * row + 10 * head + place)[..., None].expand(6, 4, 5, 2)
    line = heads.fold(named)
    assert line.shape == (2, 2, 3 * 2 * 5, 2)
    for prompt in range(2):
        for key in range(2):
            expected = [
                100 * (3 * prompt + own) + 10 * (2 * key + query) + token
                for own in range(3)
                for query in range(2)
                for token in range(5)
            ]
            assert line[prompt, key, :, 0].tolist() == expected
    assert torch.equal(heads.unfold(line, named), named)
    assert heads.repeat(torch.arange(2).view(1, 2, 1, 1))[0, :, 0, 0].tolist() == [0, 0, 1, 1]
    assert heads.sum_repeats(torch.tensor([1.0, 2.0, 10.0, 20.0]).view(1, 4, 1, 1))[
        0, :, 0, 0
    ].tolist() == [3, 30]


@pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile")
def test_masks_are_made_once_for_all_layers_and_again_for_other_sizes(monkeypatch):
    prefix = drawn(2, 3, 5, 5, length=6)[-1]
    made, honest = [], shared_prefix.block_mask
    monkeypatch.setattr(
        shared_prefix, "block_mask", lambda *sizes: made.append(sizes[1:]) or honest(*sizes)
    )
    for new, own, window in (
        (5, 5, None),
        (5, 5, None),
        (5, 5, 3),
        (5, 5, 2),
        (1, 4, None),
        (5, 5, 3),
    ):
        query, key, value, prompt, _ = drawn(2, 3, new, own, length=6)
        _flex_attention(query, key, value, prompt, prefix, 0.3, window)
    assert made == [(3, 5, 5, None), (3, 5, 5, 3), (3, 5, 5, 2), (3, 1, 4, None)]


def test_attention_without_a_scale_divides_by_the_root_of_the_width_and_takes_its_own_layer(
    monkeypatch,
):
    query, key, value, prompt, prefix = drawn(2, 3, 1, 4, length=6)
    other = tuple(torch.zeros_like(states) for states in prompt)
    prefix = replace(prefix, keys=(other[0], prompt[0]), values=(other[1], prompt[1]))
    module = torch.nn.Module()
    module.layer_idx = 1
    for scaling, scale in ((None, 8**-0.5), (0.3, 0.3)):
        found, _ = shared_prefix.shared_prefix_attention(
            module, query, key, value, None, scaling=scaling, shared_prefix=prefix
        )
        torch.testing.assert_close(
            found, row_by_row(query, key, value, prompt, prefix, scale, None), rtol=0, atol=1e-9
        )


def test_one_softmax_needs_no_padding_mask_where_there_is_no_padding():
    query, key, value, prompt, prefix = drawn(2, 3, 5, 5, length=6)
    whole = replace(prefix, padded=False, visible_PL=torch.ones_like(prefix.visible_PL))
    for window in (None, 3):
        found = _softmax_attention(query, key, value, prompt, whole, 0.3, window)
        torch.testing.assert_close(
            found, row_by_row(query, key, value, prompt, whole, 0.3, window), rtol=0, atol=1e-9
        )


def test_a_closed_recorder_passes_states_on_and_keeps_none():
    """A checkpointed layer runs again in the backward; what the first pass left is what the rows
    attend to."""
    recorder = shared_prefix._KeyValueRecorder()
    for layer, number in ((0, 1.0), (1, 2.0)):
        keys, values = recorder.update(torch.tensor(number), torch.tensor(-number), layer)
        assert (float(keys), float(values)) == (number, -number)
    recorded = recorder.close()
    assert {layer: (float(keys), float(values)) for layer, (keys, values) in recorded.items()} == {
        0: (1.0, -1.0),
        1: (2.0, -2.0),
    }
    keys, values = recorder.update(torch.tensor(3.0), torch.tensor(-3.0), 0)
    assert (float(keys), float(values)) == (3.0, -3.0)
    assert float(recorded[0][0]) == 1.0
    assert recorder.recorded == {}


@pytest.mark.parametrize(
    ("given", "scored"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_logits_of_a_narrow_type_are_scored_in_single_precision_and_no_type_is_narrowed(
    given, scored
):
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]], dtype=given)
    logprobs_N, entropy_N = score(logits, torch.tensor([2]), temperature=0.7, banned_ids=[3])
    # exp(2 / 0.7) of 1 + exp(1 / 0.7) + exp(2 / 0.7): 17.4117 of 22.5844
    assert (logprobs_N.dtype, entropy_N.dtype) == (scored, scored)
    assert float(logprobs_N) == pytest.approx(-0.26012, abs=1e-4)
    assert allowed_logits(logits, 0.7, [3]).dtype == scored
