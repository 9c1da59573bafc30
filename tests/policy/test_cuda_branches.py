"""What only runs on CUDA, run with tensors that have a device but no numbers: tensors of two
devices, wrong shapes, wrong types fail here.

Not reached: the tower, whose picture sizes steer Python and are not there; Triton's kernels;
synchronising.
"""

import sys
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from gpg_vl.config.schema import PolicyConfig, Tiny
from gpg_vl.policy import shared_prefix
from gpg_vl.policy.decoding import begin
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.load import load_policy
from gpg_vl.policy.plain_forward import UnsharedForward
from gpg_vl.policy.shared_prefix import (
    Prefix,
    _choose_attention,
    _flex_attention,
    _merged_flash_attention,
    block_mask,
)
from gpg_vl.rollout.transformers_engine import inverse_cdf
from tests.asking import prompts
from tests.conftest import ROOT
from tests.fake_card import fake_card, gradients, make_guard, put
from tests.hand_made import completion

CUDA = torch.device("cuda", 0)
LENGTH = 6
"""Of every completion: a mask selects everything, so there must be no padding."""


@pytest.fixture(autouse=True, scope="module")
def guard(tmp_path_factory):
    make_guard(tmp_path_factory.mktemp("guard"))


def positions(
    core, input_ids: Tensor, visible: Tensor, types: Tensor, grids
) -> tuple[Tensor, Tensor]:
    """Rotary positions of text, which transformers makes from numbers that are not there."""
    return torch.zeros(3, *input_ids.shape, dtype=torch.long, device=input_ids.device), visible.sum(
        1
    )


@pytest.fixture
def policy():
    return load_policy(PolicyConfig(dtype="bfloat16", tiny=Tiny(layers=2)), seed=0)


@pytest.fixture
def asked(policy):
    return [
        (prompt, [completion(range(LENGTH)) for _ in range(3)])
        for prompt in prompts(policy, ["add"], 2)
    ]


@pytest.fixture
def text_positions(monkeypatch):
    monkeypatch.setattr(shared_prefix, "prompt_positions", positions)
    monkeypatch.setattr("gpg_vl.policy.plain_forward.prompt_positions", positions)


def attended(*, dtype=torch.float32, padded=True, where=CUDA, needs=False) -> Any:
    """Query, key, value, prompt, prefix."""
    made = [
        torch.randn(*shape, dtype=dtype, device=CUDA, requires_grad=needs)
        for shape in (
            (6, 4, 20, 16),
            (6, 2, 20, 16),
            (6, 2, 20, 16),
            (2, 2, 300, 16),
            (2, 2, 300, 16),
        )
    ]
    visible = torch.ones(2, 300, dtype=torch.bool, device=where)
    return [
        *made[:3],
        tuple(made[3:]),
        Prefix((), (), visible, padded, torch.zeros(2, device=CUDA), torch.zeros(2, device=CUDA)),
    ]


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flex_attention_and_its_gradient_stay_on_the_card(dtype, window):
    with fake_card():
        query, key, value, prompt, prefix = attended(needs=True)
        assert _choose_attention(query, key, window) is _flex_attention
        with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
            mixed = _flex_attention(query, key, value, prompt, prefix, 0.3, window)
        assert (mixed.shape, mixed.dtype, mixed.device) == ((6, 20, 4, 16), dtype, CUDA)
        leaves = [query, key, value, *prompt]
        for leaf, gradient in zip(leaves, gradients(mixed.sum(), leaves), strict=True):
            assert (gradient.shape, gradient.dtype, gradient.device) == (
                leaf.shape,
                leaf.dtype,
                CUDA,
            )


@pytest.mark.parametrize("window", [None, 7])
def test_all_that_a_block_mask_holds_is_on_the_card(window):
    """A fake FlexAttention looks at no mask, so it is looked at here."""
    with fake_card():
        mask = block_mask(torch.ones(2, 300, dtype=torch.bool, device=CUDA), 3, 20, 20, window)
        q, k = torch.arange(60, device=CUDA)[:, None], torch.arange(360, device=CUDA)
        seen = mask.mask_mod(
            torch.zeros((), dtype=torch.long, device=CUDA),
            torch.zeros((), dtype=torch.long, device=CUDA),
            q,
            k,
        )
        captured = [cell.cell_contents for cell in mask.mask_mod.__closure__]
        held = [each for each in [*mask.as_tuple(), *captured] if isinstance(each, Tensor)]
    assert (seen.shape, seen.dtype, seen.device) == ((60, 360), torch.bool, CUDA)
    assert len(held) >= 6
    assert {tensor.device for tensor in held} == {CUDA}


def test_a_mask_left_on_the_cpu_is_seen():
    with fake_card():
        query, key, value, prompt, prefix = attended(where=torch.device("cpu"))
        with pytest.raises(RuntimeError, match="cpu"):
            _flex_attention(query, key, value, prompt, prefix, 0.3, None)


@pytest.mark.parametrize(
    ("budget", "checkpointing"),
    [(None, False), (40, False), (None, True), pytest.param(40, True, marks=pytest.mark.nightly)],
)
def test_group_forward_and_its_gradient_stay_on_the_card(
    policy, asked, text_positions, budget, checkpointing
):
    forward = GroupForward(policy, 0.9, tokens_at_once=budget, checkpointing=checkpointing)
    with fake_card(item=LENGTH):
        put(policy.model)
        weights_N = torch.ones(2 * 3 * LENGTH, device=CUDA)
        with mock.patch.object(shared_prefix, "_flex_attention", wraps=_flex_attention) as attend:
            scores = forward(
                asked, lambda logprobs_n, index_n: (logprobs_n * weights_N[: len(index_n)]).sum()
            )
        assert attend.called
        assert (scores.logprobs_N.shape, scores.logprobs_N.dtype) == (
            weights_N.shape,
            torch.float32,
        )
        assert {each.device for each in scores} == {CUDA}
        found = gradients(scores.loss, list(policy.model.get_decoder().parameters()))
        assert {(gradient.device, gradient.dtype) for gradient in found} == {(CUDA, torch.float32)}


def test_plain_rows_stay_on_the_card(policy, asked, text_positions):
    with fake_card():
        put(policy.model)
        scores = UnsharedForward(policy, 0.9)(asked, lambda logprobs_n, index_n: logprobs_n.sum())
        assert {each.device for each in scores} == {CUDA}
        assert None not in gradients(scores.loss, list(policy.model.get_decoder().parameters()))


def test_rows_left_on_the_cpu_are_seen(policy, asked, text_positions, monkeypatch):
    rows_of = sys.modules[GroupForward.__module__].rows_of
    monkeypatch.setattr(
        f"{GroupForward.__module__}.rows_of",
        lambda asked, pad, device: rows_of(asked, pad, torch.device("cpu")),
    )
    with fake_card(item=LENGTH):
        put(policy.model)
        with pytest.raises(RuntimeError, match="cpu"):
            GroupForward(policy, 0.9)(asked, lambda logprobs_n, index_n: logprobs_n.sum())


@torch.no_grad()
def test_decoding_stays_on_the_card(policy, asked, text_positions):
    with fake_card():
        put(policy.model)
        with policy.autocast():
            rows = begin(policy, [prompt for prompt, _ in asked], 3)
            for _ in range(4):
                hidden = rows.append(torch.zeros(2, 3, dtype=torch.long, device=CUDA))
            rows.keep(torch.tensor([1], device=CUDA), torch.tensor([[3, 5]], device=CUDA))
            hidden = rows.append(torch.zeros(1, 2, dtype=torch.long, device=CUDA))
            drawn = inverse_cdf(
                policy.model.lm_head(hidden).log_softmax(-1),
                torch.rand(1, 2, dtype=torch.float64, device=CUDA),
            )
        assert (drawn.shape, drawn.dtype, drawn.device) == ((1, 2), torch.long, CUDA)


def test_the_card_s_flash_kernels_take_what_the_check_gives_them(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "gpu"))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import attention

    with fake_card(), attention.gpu_flash_kernels():
        query, key, value, prompt, prefix = attended(dtype=torch.bfloat16, padded=False, needs=True)
        mixed = _merged_flash_attention(query, key, value, prompt, prefix, 0.3, None)
        leaves = [query, key, value, *prompt]
        found = gradients(mixed.sum(), leaves)
    assert (mixed.shape, mixed.dtype, mixed.device) == ((6, 20, 4, 16), torch.bfloat16, CUDA)
    assert [(gradient.shape, gradient.dtype) for gradient in found] == [
        (leaf.shape, leaf.dtype) for leaf in leaves
    ]


def test_walk_finds_what_the_engine_finds():
    a, b = torch.randn(3, 4, requires_grad=True), torch.randn(4, requires_grad=True)
    middle = (a * b).softmax(-1)
    loss = (middle @ middle.T * a[:, :3]).sum()
    for mine, theirs in zip(
        gradients(loss, [a, b, middle]), torch.autograd.grad(loss, [a, b, middle]), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
