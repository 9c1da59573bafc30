"""Attention over a shared prefix, and the plain scores it is held against."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.functional import scaled_dot_product_attention

from gpg_vl.policy.logprobs import allowed_logits, score
from gpg_vl.policy.shared_prefix import BLOCK, Prefix, _in_blocks, _in_one_softmax, _in_two_flashes, _way, block_mask  # pyright: ignore[reportPrivateUsage]


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
    return query, key, value, prompt, Prefix((), (), visible, True, torch.zeros(prompts), torch.zeros(prompts))


def row_by_row(query, key, value, prompt, prefix, scale, window):
    """The slow twin: every row with its own copy of the prompt."""
    rows, (own, new), length = len(query) // len(prompt[0]), (key.shape[2], query.shape[2]), prompt[0].shape[2]
    mixed = []
    for row in range(len(query)):
        mine = row // rows
        keys, values = (torch.cat([theirs[mine], states[row]], 1)[None] for theirs, states in zip(prompt, (key, value), strict=True))
        at = torch.arange(length + own - new, length + own)[:, None]
        to = torch.arange(length + own)
        seen = (to <= at) & (at - to < (window or 10**9)) & torch.cat([prefix.visible_PL[mine], torch.ones(own, dtype=torch.bool)])
        mixed.append(scaled_dot_product_attention(query[row : row + 1], keys, values, seen, scale=scale, enable_gqa=True))
    return torch.cat(mixed).transpose(1, 2)


@pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile")  # its meaning is tested here, not its kernel
@pytest.mark.parametrize("window", [None, 3, 7])
@pytest.mark.parametrize(("new", "own"), [(5, 5), (1, 4)])
@pytest.mark.parametrize("attend", [_in_one_softmax, _in_blocks])
def test_attention_in_place_is_attention_over_copies(attend, new, own, window):
    states = drawn(2, 3, new, own, length=6)
    expected = row_by_row(*states, 0.3, window)
    torch.testing.assert_close(attend(*states, 0.3, window), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("attend", [_in_one_softmax, _in_two_flashes])
def test_gradients_of_attention_in_place_are_those_over_copies(attend, padded):
    query, key, value, prompt, prefix = drawn(2, 3, 5, 5, length=6)
    prefix = replace(prefix, padded=padded, visible_PL=prefix.visible_PL if padded else torch.ones_like(prefix.visible_PL))
    leaves = [states.requires_grad_() for states in (query, key, value, *prompt)]
    slopes = torch.cos(torch.arange(2 * 3 * 5 * 4 * 8, dtype=torch.float64)).view(6, 5, 4, 8)
    found, expected = (
        torch.autograd.grad((way(query, key, value, prompt, prefix, 0.3, None) * slopes).sum(), leaves) for way in (attend, row_by_row)
    )
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("length", "rows", "own"), [(6, 3, 5), (200, 5, 90), (128, 2, 128), (300, 4, 130)])
def test_blocks_written_down_are_all_that_have_a_score(length, rows, own):
    visible = torch.ones(2, length, dtype=torch.bool)
    mask = block_mask(visible, rows, own, own, None)
    made = create_block_mask(mask.mask_mod, 2, None, rows * own, length + rows * own, device="cpu", BLOCK_SIZE=BLOCK).to_dense().bool()
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
    assert _way(one, many, None) is _in_one_softmax
    assert _way(many, many, None) is _in_two_flashes
    assert _way(many, many, 5) is _in_one_softmax


def test_temperature_and_ban_by_hand():
    logits = torch.tensor([[0.0, 2.0, 100.0]])
    logprobs_N, entropy_N = score(logits, torch.tensor([1]), temperature=2.0, banned_ids=[2])
    one_of_two = 1 / (1 + torch.e**-1.0)
    assert logprobs_N.item() == pytest.approx(torch.log(torch.tensor(one_of_two)).item())
    entropy = -(one_of_two * torch.log(torch.tensor(one_of_two)) + (1 - one_of_two) * torch.log(torch.tensor(1 - one_of_two)))
    assert entropy_N.item() == pytest.approx(entropy.item(), rel=1e-5)
    assert allowed_logits(logits, 1.0, [2])[0, 2] == -torch.inf


def test_a_banned_token_has_no_finite_score_and_poisons_no_gradient():
    logits = torch.zeros(1, 3, requires_grad=True)
    logprobs_N, _ = score(logits, torch.tensor([0]), temperature=1.0, banned_ids=[2])
    logprobs_N.sum().backward()
    assert torch.isfinite(logits.grad).all()
