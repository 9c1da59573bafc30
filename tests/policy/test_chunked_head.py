"""The chunked head against all logits at once: values, gradients, and what it must refuse."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gpg_vl.errors import UserError
from gpg_vl.policy import chunked_head
from gpg_vl.policy.chunked_head import LogitsRule, check_head, score_in_chunks
from gpg_vl.policy.plain_forward import score
from tests.any_family import policy_of_family


def states(count=23, width=8, vocabulary=31, dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    linear = nn.Linear(width, vocabulary, bias=False, dtype=dtype)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(vocabulary, width, generator=draw))
    hidden = torch.randn(count, width, generator=draw, dtype=dtype).requires_grad_()
    tokens = torch.randint(0, vocabulary - 2, (count,), generator=draw)
    return hidden, linear, tokens, torch.randperm(count, generator=draw)


def loss(logprobs_n, index_n):
    return ((1.0 + index_n) * logprobs_n + logprobs_n.exp()).sum()


@pytest.mark.parametrize("chunk", [1, 31 * 4, 31 * 23, 1 << 24])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunks_are_the_whole(chunk, temperature, monkeypatch):
    monkeypatch.setattr(chunked_head, "CHUNK", chunk)
    hidden, linear, tokens, line = states()
    logprobs_N, entropy_N = score(linear(hidden), tokens, temperature, (30, 29))
    loss(logprobs_N, line).backward()
    expected = hidden.grad.clone(), linear.weight.grad.clone()
    hidden.grad = linear.weight.grad = None
    scores = score_in_chunks(hidden, linear, tokens, LogitsRule(temperature, (30, 29)), loss, line)
    (3 * scores.loss).backward()
    torch.testing.assert_close(scores.logprobs_N, logprobs_N.detach())
    torch.testing.assert_close(scores.entropy_N, entropy_N)
    torch.testing.assert_close(scores.loss.detach(), loss(logprobs_N, line).detach())
    torch.testing.assert_close(hidden.grad, 3 * expected[0])
    torch.testing.assert_close(linear.weight.grad, 3 * expected[1])


def test_only_the_loss_carries_a_gradient():
    hidden, linear, tokens, line = states()
    scores = score_in_chunks(hidden, linear, tokens, LogitsRule(1.0, ()), None, line)
    assert not scores.logprobs_N.requires_grad
    assert not scores.entropy_N.requires_grad
    assert float(scores.loss.detach()) == 0


def test_a_frozen_head_still_passes_the_gradient_on():
    hidden, linear, tokens, line = states()
    linear.weight.requires_grad_(False)
    score_in_chunks(hidden, linear, tokens, LogitsRule(1.0, ()), loss, line).loss.backward()
    assert hidden.grad.abs().sum() > 0
    assert linear.weight.grad is None


def test_a_sampled_banned_id_is_finite_and_terrible():
    hidden, linear, tokens, line = states()
    scores = score_in_chunks(hidden, linear, tokens.fill_(30), LogitsRule(1.0, (30,)), loss, line)
    scores.loss.backward()
    assert (scores.logprobs_N < -1e30).all()
    assert torch.isfinite(hidden.grad).all()


def test_no_more_logits_exist_than_a_chunk(monkeypatch):
    monkeypatch.setattr(chunked_head, "CHUNK", 31 * 5)
    made: list[int] = []
    honest = chunked_head._logprobs  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(
        chunked_head,
        "_logprobs",
        lambda logits, rule: made.append(logits.numel()) or honest(logits, rule),
    )
    hidden, linear, tokens, line = states()
    score_in_chunks(hidden, linear, tokens, LogitsRule(1.0, ()), loss, line)
    assert made == [31 * 5] * 4 + [31 * 3]


def test_a_head_that_is_more_than_a_matrix_is_refused():
    policy = policy_of_family("llava")
    check_head(policy.model)
    policy.model.lm_head = nn.Linear(64, 300, bias=True)
    with pytest.raises(UserError, match="llava caps or shifts its logits"):
        check_head(policy.model)


@pytest.mark.parametrize(
    ("made", "cap", "known"),
    [
        (nn.Linear(4, 5, bias=False), None, True),
        (nn.Linear(4, 5, bias=False), 0.0, True),
        (nn.Linear(4, 5, bias=False), 30.0, False),
        (nn.Linear(4, 5, bias=True), None, False),
        (nn.Sequential(nn.Linear(4, 5, bias=False)), None, False),
    ],
)
def test_only_one_matrix_product_is_a_head(made, cap, known):
    text = SimpleNamespace(final_logit_softcapping=cap)
    model = SimpleNamespace(
        lm_head=made, config=SimpleNamespace(model_type="mine", get_text_config=lambda: text)
    )
    if known:
        check_head(model)
        return
    with pytest.raises(UserError, match="mine caps or shifts its logits"):
        check_head(model)


def test_many_chunks_of_a_narrow_type_are_summed_in_a_wide_one(monkeypatch):
    """Each addition in bfloat16 would round the whole sum; rounded once, it is as good as its
    type."""
    vocabulary = 31
    monkeypatch.setattr(chunked_head, "CHUNK", 4 * vocabulary)
    found: dict[torch.dtype, torch.Tensor] = {}
    for dtype in (torch.float64, torch.bfloat16):
        hidden, linear, tokens, line = states(count=600, vocabulary=vocabulary)
        linear.weight.data = linear.weight.data.bfloat16().to(dtype)
        narrow = hidden.detach().bfloat16().to(dtype)
        rule = LogitsRule(1.0, ())
        score_in_chunks(narrow, linear, tokens, rule, lambda n, _: n.sum(), line).loss.backward()
        assert linear.weight.grad.dtype == dtype
        found[dtype] = linear.weight.grad.double()
    exact = found[torch.float64]
    # 2e-3 from rounding once and the products; 13e-3 if the sum is rounded 150 times
    assert (found[torch.bfloat16] - exact).norm() < 4e-3 * exact.norm()


def test_a_trained_head_over_frozen_states_still_gets_its_gradient():
    hidden, linear, tokens, line = states()
    score_in_chunks(hidden, linear, tokens, LogitsRule(0.7, (30,)), loss, line).loss.backward()
    expected = linear.weight.grad.clone()
    linear.weight.grad = None
    score_in_chunks(
        hidden.detach(), linear, tokens, LogitsRule(0.7, (30,)), loss, line
    ).loss.backward()
    torch.testing.assert_close(linear.weight.grad, expected)
