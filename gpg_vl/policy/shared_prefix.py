"""Keys and values of a prompt are computed once and attended to in place by the rows of its group, exactly, with gradients.

Two passes over the stock transformers model: the prompts go through vision tower and language model once and leave their keys and values;
completions are rows that attend to their group's keys and values *in place* (never copied per row) and to their own tokens before them.
The attention function below does that; it is registered with transformers, so no modelling file is patched, and without a prefix it is
plain SDPA.

Shape letters: P prompts, R rows per prompt, Q new tokens of a row, L prompt tokens, K a row's own tokens so far, H query heads, J key
heads, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from gpg_vl.policy.families import cache_input, picture_tokens, prompt_positions, row_positions, token_inputs
from gpg_vl.policy.load import Policy
from gpg_vl.types import Prompt

ATTENTION = "gpg_vl_shared_prefix"

BLOCK = 128
"""Queries and keys of one block of FlexAttention's mask."""

_FLASH: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACKWARD: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
"""The two kernels behind `scaled_dot_product_attention` on a CPU, which keeps their normaliser to itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """What a batch of prompts leaves behind."""

    keys: tuple[Tensor, ...]
    """Per layer [P, J, L, D]."""
    values: tuple[Tensor, ...]
    """Per layer [P, J, L, D]."""
    visible_PL: Tensor
    """False on the padding to the left of a shorter prompt."""
    padded: bool
    """Whether there is any such padding."""
    next_position_P: Tensor
    """Rotary position of the first completion token: with images this is not the number of prompt tokens."""
    last_hidden_PD: Tensor
    """The state that predicts the first completion token."""
    masks: dict[tuple[int, ...], Any] = field(default_factory=dict[tuple[int, ...], Any])
    """FlexAttention's block masks, made once for all layers."""

    def select(self, which: Tensor) -> "Prefix":
        """Only some of the prompts."""
        return Prefix(
            tuple(layer[which] for layer in self.keys),
            tuple(layer[which] for layer in self.values),
            self.visible_PL[which],
            self.padded,
            self.next_position_P[which],
            self.last_hidden_PD[which],
        )


class _Notes(DynamicCache):
    """Takes down keys and values of each layer and hands them back as they are, however often a layer runs (checkpointing runs it twice).

    Unlike a cache it copies nothing, and a sliding layer leaves all of its keys.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        self.taken.setdefault(layer_idx, (key_states, value_states))
        return key_states, value_states


def use_shared_prefix(model: Any) -> None:
    """Let the language model's attention understand a prefix. Without one it stays what it was."""
    model.model.get_decoder().config._attn_implementation = ATTENTION


def read_prompts(policy: Policy, prompts: Sequence[Prompt], notes: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Run tower and language model once over each prompt, padded on the left; `notes` takes down what the layers leave.

    Returns:
        [P, L, D] states, [P, L] what is not padding, [P] rotary position of what follows.
    """
    core, device = policy.model.model, policy.device
    longest = max(len(prompt.input_ids) for prompt in prompts)
    input_ids = torch.full((len(prompts), longest), policy.pad_id)
    visible = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt.input_ids) :] = torch.tensor(prompt.input_ids)
        visible[row, longest - len(prompt.input_ids) :] = 1
    input_ids, visible = input_ids.to(device), visible.to(device)
    types = picture_tokens(policy.model, input_ids)
    grids = [prompt.features["image_grid_thw"] for prompt in prompts if "image_grid_thw" in prompt.features]
    positions, following = prompt_positions(core, input_ids, visible, types, torch.cat(grids).to(device) if grids else None)
    output = core(
        input_ids=input_ids,
        attention_mask=visible,
        position_ids=positions,
        use_cache=True,
        **cache_input(core, notes),
        **token_inputs(policy.model, types),
        **policy.vision.inputs(prompts),
    )
    return output.last_hidden_state, visible, following


def prefill(policy: Policy, prompts: Sequence[Prompt]) -> Prefix:
    """What the prompts leave for the rows of their groups."""
    notes = _Notes()
    states, visible, following = read_prompts(policy, prompts, notes)
    keys, values = zip(*(notes.taken[layer] for layer in range(len(notes.taken))), strict=True)
    padded = len({len(prompt.input_ids) for prompt in prompts}) > 1
    return Prefix(keys, values, visible.bool(), padded, following, states[:, -1])


def extend(policy: Policy, prefix: Prefix, tokens_PRQ: Tensor, start: int, cache: DynamicCache | None) -> Tensor:
    """[P, R, Q, D] states of completion tokens that follow `start` earlier ones, whose keys and values are in `cache`."""
    prompts, rows, new = tokens_PRQ.shape
    core = policy.model.model
    own = torch.ones(1, 1, new, start + new, dtype=torch.bool, device=tokens_PRQ.device).tril(start)
    decoder = core.get_decoder()
    output = decoder(
        inputs_embeds=core.get_input_embeddings()(tokens_PRQ.reshape(prompts * rows, new)),
        position_ids=row_positions(core, prefix.next_position_P.repeat_interleave(rows), start, new),
        attention_mask=own.expand(prompts * rows, 1, new, start + new),
        use_cache=cache is not None,
        shared_prefix=prefix,
        **cache_input(decoder, cache),
    )
    return output.last_hidden_state.view(prompts, rows, new, -1)


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    shared_prefix: Prefix | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of rows [P*R, H, Q, D] over their group's prompt and their own tokens [P*R, J, K, D], in one softmax."""
    if shared_prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    layer: int = module.layer_idx  # type: ignore[assignment]
    prompt = (shared_prefix.keys[layer], shared_prefix.values[layer])
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    attend = _way(query, key, sliding_window)
    return attend(query, key, value, prompt, shared_prefix, scale, sliding_window), None


def _way(query: Tensor, key: Tensor, window: int | None) -> Callable[..., Tensor]:
    """One token a row: scores are small. Whole completions: never hold their scores, where there is a kernel for it."""
    if query.shape[2] == 1:
        return _in_one_softmax
    if query.is_cuda:
        return _in_blocks
    return _in_two_flashes if query.is_cpu and window is None and query.shape[2] == key.shape[2] else _in_one_softmax


def _in_one_softmax(
    query: Tensor, key: Tensor, value: Tensor, prompt: tuple[Tensor, Tensor], prefix: Prefix, scale: float, window: int | None
) -> Tensor:
    """Two blocks of scores, joined before the softmax: exact. The prompt's block is one matrix product per prompt and key head."""
    prompts, heads, length, width = prompt[0].shape
    rows, new, own = len(query) // prompts, query.shape[2], key.shape[2]
    per_head = query.shape[1] // heads
    by_row = (query * scale).reshape(prompts * rows, heads, per_head * new, width)  # [PR, J, hQ, D]
    by_prompt = by_row.view(prompts, rows, heads, -1, width).transpose(1, 2).reshape(prompts, heads, -1, width)  # [P, J, RhQ, D]
    over_prompt = (by_prompt @ prompt[0].transpose(-1, -2)).view(prompts, heads, rows, per_head, new, length)
    over_own = by_row @ key.transpose(-1, -2)  # as the keys lie in memory: nothing but scores is ever turned round
    over_own = over_own.view(prompts, rows, heads, per_head, new, own).transpose(1, 2)
    seen_prompt_PQL, seen_own_QK = _seen(prefix.visible_PL, new, own, window)
    if prefix.padded or window is not None:
        over_prompt = over_prompt.masked_fill(~seen_prompt_PQL[:, None, None, None], -torch.inf)
    if new > 1 or window is not None:
        over_own = over_own.masked_fill(~seen_own_QK, -torch.inf)
    scores = torch.cat([over_prompt, over_own], -1)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
    on_prompt, on_own = weights.split([length, own], -1)
    from_prompt = (on_prompt.reshape(prompts, heads, -1, length) @ prompt[1]).view(prompts, heads, rows, per_head * new, width)
    from_own = on_own.transpose(1, 2).reshape(prompts * rows, heads, per_head * new, own) @ value
    mixed = from_prompt.transpose(1, 2).reshape_as(from_own) + from_own
    return mixed.reshape(prompts * rows, heads * per_head, new, width).transpose(1, 2).contiguous()


def _seen(visible_PL: Tensor, new: int, own: int, window: int | None) -> tuple[Tensor, Tensor]:
    """[P, Q or 1, L] and [Q, K]: what the last `new` of a row's `own` tokens may attend to."""
    at_Q = torch.arange(own - new, own, device=visible_PL.device)[:, None]
    at_K = torch.arange(own, device=visible_PL.device)
    if window is None:
        return visible_PL[:, None], at_K <= at_Q
    length = visible_PL.shape[1]
    near_QL = at_Q + length - torch.arange(length, device=visible_PL.device) < window
    return visible_PL[:, None] & near_QL, (at_K <= at_Q) & (at_Q - at_K < window)


def _in_two_flashes(
    query: Tensor, key: Tensor, value: Tensor, prompt: tuple[Tensor, Tensor], prefix: Prefix, scale: float, _window: int | None
) -> Tensor:
    """Flash attention over the prompt and over the rows' own tokens, the two merged by their normalisers; no scores in memory."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    hidden = None if not prefix.padded else (~prefix.visible_PL)[:, None, None].to(dtype) * torch.finfo(dtype).min
    states = (tensor.to(dtype) for tensor in (query, key, value, *prompt))
    return _TwoFlashes.apply(*states, hidden, scale).transpose(1, 2)


class _TwoFlashes(torch.autograd.Function):
    """Softmax over [prompt | own tokens up to here] from two kernels that each know one block.

    A block's backward needs nothing of the other block but the merged output and normaliser (as in ring attention, arXiv 2310.01889).
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, prompt_key: Tensor, prompt_value: Tensor, hidden: Tensor | None, scale: float
    ) -> Tensor:
        heads = _Heads(len(prompt_key), query.shape[1], prompt_key.shape[1])
        over_prompt, norm_prompt = _FLASH(heads.folded(query), prompt_key, prompt_value, attn_mask=hidden, scale=scale)
        over_own, norm_own = _FLASH(query, heads.repeated(key), heads.repeated(value), is_causal=True, scale=scale)
        over_prompt, norm_prompt = heads.unfolded(over_prompt, query), heads.unfolded(norm_prompt[..., None], query)
        norm = torch.logaddexp(norm_prompt, norm_own := norm_own[..., None])
        mixed = (over_prompt * (norm_prompt - norm).exp() + over_own * (norm_own - norm).exp()).to(query.dtype)
        ctx.save_for_backward(query, key, value, prompt_key, prompt_value, hidden, mixed, norm.squeeze(-1))
        ctx.heads, ctx.scale = heads, scale
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Each kernel's own backward, given the joined normaliser: its part of the joined softmax's gradient."""
        query, key, value, prompt_key, prompt_value, hidden, mixed, norm = ctx.saved_tensors
        heads, slope = ctx.heads, slopes[0].contiguous()
        of_query, of_key, of_value = _FLASH_BACKWARD(
            slope, query, heads.repeated(key), heads.repeated(value), mixed, norm, 0.0, True, scale=ctx.scale
        )
        folded = [heads.folded(states) for states in (slope, query, mixed)]
        norm_folded = heads.folded(norm[..., None]).squeeze(-1)
        by_prompt, of_prompt_key, of_prompt_value = _FLASH_BACKWARD(
            folded[0], folded[1], prompt_key, prompt_value, folded[2], norm_folded, 0.0, False, attn_mask=hidden, scale=ctx.scale
        )
        of_query = of_query + heads.unfolded(by_prompt, query)
        return of_query, heads.summed(of_key), heads.summed(of_value), of_prompt_key, of_prompt_value, None, None


class _Heads(NamedTuple):
    """How query heads of rows meet key heads of prompts."""

    prompts: int
    query_heads: int
    key_heads: int

    def folded(self, rows: Tensor) -> Tensor:
        """[P*R, H, Q, D] -> [P, J, R*h*Q, D]: all queries of a prompt that meet one key head, in a line."""
        inner = rows.reshape(self.prompts, -1, self.key_heads, self.query_heads // self.key_heads, *rows.shape[2:])
        return inner.transpose(1, 2).flatten(2, 4)

    def unfolded(self, line: Tensor, like: Tensor) -> Tensor:
        """Back again; `like` has the rows' shape but for the last dimension."""
        rows, heads, new, _ = like.shape
        inner = line.reshape(self.prompts, self.key_heads, rows // self.prompts, heads // self.key_heads, new, line.shape[-1])
        return inner.transpose(1, 2).reshape(rows, heads, new, line.shape[-1])

    def repeated(self, states: Tensor) -> Tensor:
        """[P*R, J, K, D] -> [P*R, H, K, D]."""
        return states.repeat_interleave(self.query_heads // self.key_heads, 1)

    def summed(self, gradient: Tensor) -> Tensor:
        """The gradient of `repeated`."""
        return gradient.unflatten(1, (self.key_heads, -1)).sum(2)


def _in_blocks(
    query: Tensor, key: Tensor, value: Tensor, prompt: tuple[Tensor, Tensor], prefix: Prefix, scale: float, window: int | None
) -> Tensor:
    """FlexAttention: rows in one line against [prompt | own tokens of all rows], blocks of other rows skipped; no scores in memory."""
    prompts, heads, _, width = prompt[0].shape
    rows, new, own = len(query) // prompts, query.shape[2], key.shape[2]
    dtype = torch.get_autocast_dtype("cuda") if query.is_cuda and torch.is_autocast_enabled("cuda") else query.dtype
    line = query.to(dtype).reshape(prompts, rows, -1, new, width).transpose(1, 2).flatten(2, 3)  # [P, H, RQ, D]
    keys, values = (
        torch.cat([theirs.to(dtype), states.to(dtype).reshape(prompts, rows, heads, own, width).transpose(1, 2).flatten(2, 3)], 2)
        for theirs, states in zip(prompt, (key, value), strict=True)
    )
    shape = (rows, new, own, window or 0)
    if shape not in prefix.masks:
        prefix.masks[shape] = block_mask(prefix.visible_PL, rows, new, own, window)
    mixed = _flex(compiled=query.is_cuda)(line, keys, values, block_mask=prefix.masks[shape], scale=scale, enable_gqa=True)
    return mixed.view(prompts, -1, rows, new, width).permute(0, 2, 3, 1, 4).reshape(prompts * rows, new, -1, width)


def block_mask(visible_PL: Tensor, rows: int, new: int, own: int, window: int | None) -> Any:
    """FlexAttention's mask for a line of `rows` rows of `new` queries against [prompt | `own` tokens of each row].

    Written down block by block, for which blocks meet is known: all of the prompt, and the rows that a block of queries touches. Making it
    from scores, as `create_block_mask` does, would hold them all. Inside the blocks `seen` decides. It reads sizes from a tensor, so that
    other sizes compile nothing anew.
    """
    from torch.nn.attention.flex_attention import BlockMask

    (prompts, length), device = visible_PL.shape, visible_PL.device
    queries, keys = rows * new, length + rows * own
    blocks = [_blocks_met(first, min(first + BLOCK, queries) - 1, length, new, own) for first in range(0, queries, BLOCK)]
    most = -(-keys // BLOCK)
    met = torch.tensor([len(each) for each in blocks], dtype=torch.int32, device=device)
    places = torch.tensor([each + [0] * (most - len(each)) for each in blocks], dtype=torch.int32, device=device)
    sizes = torch.tensor([new, own, length, window or queries + keys], device=device)

    def seen(prompt: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        new, own, length, window = sizes[0], sizes[1], sizes[2], sizes[3]
        at, beyond = q % new + own - new, k - length
        distance = torch.where(k < length, at - beyond, at - beyond % own)
        own_row = (q // new == beyond // own) & (distance >= 0)
        return torch.where(k < length, visible_PL[prompt, k.clamp(max=length - 1)], own_row) & (distance < window)

    return BlockMask.from_kv_blocks(
        met.expand(prompts, 1, -1).contiguous(),
        places.expand(prompts, 1, -1, -1).contiguous(),
        BLOCK_SIZE=BLOCK,
        mask_mod=seen,
        seq_lengths=(queries, keys),
    )


def _blocks_met(first: int, last: int, length: int, new: int, own: int) -> list[int]:
    """Blocks of keys that hold the prompt or an own token of the rows of queries `first` to `last`."""
    beginning, end = length + first // new * own, length + (last // new + 1) * own
    return sorted({*range(-(-length // BLOCK)), *range(beginning // BLOCK, -(-end // BLOCK))})


@cache
def _flex(*, compiled: bool) -> Any:
    """FlexAttention, compiled where there is a kernel to make."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if compiled else flex_attention


AttentionInterface.register(ATTENTION, shared_prefix_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
