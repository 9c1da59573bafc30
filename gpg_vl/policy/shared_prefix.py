"""Share the keys and values of a prompt among the completions of its group, exactly.

There are two passes over the stock transformers model. First the prompts go through vision tower
and language model once, and their keys and values are kept (`prefill`). Then each completion is a
row that attends to the keys and values of its prompt in place (they are never copied per row) and
to its own earlier tokens (`extend`). Gradients flow through both. The attention function below is
registered with transformers, so no modelling file is patched; without a prefix it is plain SDPA.

Shape letters:

    P  prompts of a batch
    R  rows (completions) of each prompt
    Q  queries: new tokens of a row
    L  prompt tokens, padded on the left
    K  keys of a row: all of its own tokens so far, earlier ones and the Q new ones
    J  key heads
    h  query heads that share one key head (grouped-query attention)
    H  query heads, H = J * h
    D  width: of a head in attention, of the residual stream in states

Attention scores of one prompt and one key head. A line of the picture is one query; the lines are
ordered [R, h, Q]. `x` is a score, `.` is masked: the two prompt tokens on the left are padding, and
a token never attends to a later one. Here R = 2, h = 2, Q = K = 3, L = 5:

                            prompt keys: one copy      own keys: those of the row
                            for all rows, [J, L]       itself, [R, J, K]

                             L=0  1  2  3  4            K=0  1  2
    row 0  head 0  Q=0        .   .  x  x  x             x   .  .
                   Q=1        .   .  x  x  x             x   x  .
                   Q=2        .   .  x  x  x             x   x  x
           head 1  Q=0        .   .  x  x  x             x   .  .
                   Q=1        .   .  x  x  x             x   x  .
                   Q=2        .   .  x  x  x             x   x  x
    row 1  head 0  Q=0        .   .  x  x  x             x   .  .     <- keys of row 1,
                   Q=1        .   .  x  x  x             x   x  .        not those of row 0
                   Q=2        .   .  x  x  x             x   x  x
           head 1  Q=0 ...

                           [P, J, R, h, Q, L]          [P, J, R, h, Q, K]
                           <------- one softmax over [L | K] of each line ------->

All R * h * Q queries of a prompt and key head attend to the same prompt keys. So the left block is
one matrix product [R*h*Q, D] @ [D, L] for each of the P * J pairs. The right block is one product
[h*Q, D] @ [D, K] for each of the P * R * J pairs of a row and a key head.
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

from gpg_vl.policy.families import (
    cache_input,
    picture_tokens,
    prompt_positions,
    row_positions,
    token_inputs,
)
from gpg_vl.policy.load import Policy, compute_dtype
from gpg_vl.types import Prompt

ATTENTION = "gpg_vl_shared_prefix"
"""Name of the attention function in the registry of transformers."""

BLOCK = 128
"""Number of queries, and of keys, in one block of FlexAttention's mask."""

_FLASH: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACKWARD: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
"""The two CPU kernels of `scaled_dot_product_attention`, called directly because that function
does not return the normaliser (log-sum-exp) of the softmax."""


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """Keys, values and last states of a batch of prompts, for the rows of their groups."""

    keys: tuple[Tensor, ...]
    """Keys of each layer, [P, J, L, D]."""
    values: tuple[Tensor, ...]
    """Values of each layer, [P, J, L, D]."""
    visible_PL: Tensor
    """Mask of prompt tokens; False on the padding to the left of a shorter prompt."""
    padded: bool
    """True if any prompt has padding."""
    next_position_P: Tensor
    """Rotary position of the first completion token. With images it differs from the number of
    prompt tokens."""
    last_hidden_PD: Tensor
    """State that predicts the first completion token."""
    masks: dict[tuple[int, ...], Any] = field(default_factory=dict[tuple[int, ...], Any])
    """Block masks of FlexAttention, built once for all layers."""

    def select(self, which: Tensor) -> "Prefix":
        """Return the prefix of some of the prompts, in the given order."""
        return Prefix(
            tuple(layer[which] for layer in self.keys),
            tuple(layer[which] for layer in self.values),
            self.visible_PL[which],
            self.padded,
            self.next_position_P[which],
            self.last_hidden_PD[which],
        )


class _KeyValueRecorder(DynamicCache):
    """Cache that records the keys and values of each layer and returns them unchanged.

    Unlike an ordinary cache it copies nothing, and it records all keys of a sliding-window layer.
    No layer runs twice before it is closed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_open = True
        self.recorded: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self.is_open:
            self.recorded[layer_idx] = (key_states, value_states)
        return key_states, value_states

    def close(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Return what was recorded, and hold and record nothing any more.

        Activation checkpointing keeps the arguments of a layer, this cache among them, in the graph
        of the keys and values. A cache that holds these would be a circle through C++, which Python
        cannot collect: a graph without a complete backward would never be freed. Layers that run
        again in the backward find it closed.
        """
        self.is_open = False
        recorded, self.recorded = self.recorded, {}
        return recorded


def use_shared_prefix(model: Any) -> None:
    """Make the attention of the language model accept a prefix; without one it is unchanged."""
    model.model.get_decoder().config._attn_implementation = ATTENTION


def read_prompts(
    policy: Policy, prompts: Sequence[Prompt], cache: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Run vision tower and language model once over each prompt, padded on the left.

    Args:
        cache: a transformers cache, which receives the keys and values of each layer.

    Returns:
        [P, L, D] states, [P, L] 1 where a token is not padding, [P] rotary position of the token
        after the prompt.
    """
    core, device = policy.model.model, policy.device
    input_ids, visible = _left_padded(prompts, policy.pad_id)
    input_ids, visible = input_ids.to(device), visible.to(device)
    types = picture_tokens(policy.model, input_ids)
    grids: list[Tensor] = []
    for prompt in prompts:
        if "image_grid_thw" in prompt.features:
            grids.append(prompt.features["image_grid_thw"])
    all_grids = None
    if grids:
        all_grids = torch.cat(grids).to(device)
    positions, following = prompt_positions(core, input_ids, visible, types, all_grids)
    output = core(
        input_ids=input_ids,
        attention_mask=visible,
        position_ids=positions,
        use_cache=True,
        **cache_input(core, cache),
        **token_inputs(policy.model, types),
        **policy.vision.inputs(prompts),
    )
    return output.last_hidden_state, visible, following


def _left_padded(prompts: Sequence[Prompt], pad_id: int) -> tuple[Tensor, Tensor]:
    """Return [P, L] token ids and [P, L] 1 where a token is not padding."""
    max_length = max(len(prompt.input_ids) for prompt in prompts)
    input_ids = torch.full((len(prompts), max_length), pad_id)
    visible = torch.zeros(len(prompts), max_length, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        start = max_length - len(prompt.input_ids)
        input_ids[row, start:] = torch.tensor(prompt.input_ids)
        visible[row, start:] = 1
    return input_ids, visible


def prefill(policy: Policy, prompts: Sequence[Prompt]) -> Prefix:
    """Compute keys, values and last states of prompts, for the rows of their groups.

    Raises:
        ValueError: the layers were not given the cache, as with the checkpointing of transformers.
    """
    recorder = _KeyValueRecorder()
    try:
        states, visible, following = read_prompts(policy, prompts, recorder)
    finally:
        recorded = recorder.close()
    if not recorded:
        raise ValueError("the layers of the model received no cache, so the prompts left no keys")
    keys: list[Tensor] = []
    values: list[Tensor] = []
    for layer in range(len(recorded)):
        layer_keys, layer_values = recorded[layer]
        keys.append(layer_keys)
        values.append(layer_values)
    lengths = {len(prompt.input_ids) for prompt in prompts}
    return Prefix(
        keys=tuple(keys),
        values=tuple(values),
        visible_PL=visible.bool(),
        padded=len(lengths) > 1,
        next_position_P=following,
        last_hidden_PD=states[:, -1],
    )


def extend(
    policy: Policy, prefix: Prefix, tokens_PRQ: Tensor, start: int, cache: DynamicCache | None
) -> Tensor:
    """Compute the states of completion tokens, [P, R, Q, D].

    Args:
        start: number of earlier tokens of each row, whose keys and values are in `cache`.
    """
    prompts, rows, new = tokens_PRQ.shape
    core = policy.model.model
    decoder = core.get_decoder()
    own_keys = start + new
    causal_QK = torch.ones(1, 1, new, own_keys, dtype=torch.bool, device=tokens_PRQ.device)
    causal_QK = causal_QK.tril(start)
    next_position = prefix.next_position_P.repeat_interleave(rows)  # [P*R]
    output = decoder(
        inputs_embeds=core.get_input_embeddings()(tokens_PRQ.reshape(prompts * rows, new)),
        position_ids=row_positions(core, next_position, start, new),
        attention_mask=causal_QK.expand(prompts * rows, 1, new, own_keys),
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
    """Attend from rows to the prompt of their group and to their own tokens, in one softmax.

    Args:
        query: [P*R, H, Q, D].
        key, value: own tokens of the rows, [P*R, J, K, D].
        shared_prefix: the prompts; without it this is SDPA.

    Returns:
        [P*R, Q, H, D], and no attention weights.
    """
    if shared_prefix is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    layer: int = module.layer_idx  # type: ignore[assignment]
    prompt = (shared_prefix.keys[layer], shared_prefix.values[layer])
    scale = scaling
    if scale is None:
        scale = query.shape[-1] ** -0.5
    attend = _choose_attention(query, key, sliding_window)
    return attend(query, key, value, prompt, shared_prefix, scale, sliding_window), None


def _choose_attention(query: Tensor, key: Tensor, window: int | None) -> Callable[..., Tensor]:
    """Choose the implementation.

    With one token a row (decoding), the scores are small and are held in memory. With whole
    completions, a kernel that never holds the scores is used where there is one.
    """
    if query.shape[2] == 1:
        return _softmax_attention
    if query.is_cuda:
        return _flex_attention
    # The CPU's flash kernel knows only a full causal mask: no window, and no earlier own tokens.
    if query.is_cpu and window is None and query.shape[2] == key.shape[2]:
        return _merged_flash_attention
    return _softmax_attention


def _softmax_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prompt: tuple[Tensor, Tensor],
    prefix: Prefix,
    scale: float,
    window: int | None,
) -> Tensor:
    """Compute the scores of both blocks of the picture above, join them, and take one softmax.

    Returns:
        [P*R, Q, H, D].
    """
    prompts, key_heads, length, width = prompt[0].shape
    rows, new, own = len(query) // prompts, query.shape[2], key.shape[2]
    heads = _Heads(prompts, query.shape[1], key_heads)
    scaled = query * scale
    by_row = scaled.reshape(prompts * rows, key_heads, -1, width)  # [PR, J, hQ, D]

    over_prompt = heads.fold(scaled) @ prompt[0].transpose(-1, -2)  # [P, J, RhQ, L]
    over_prompt = over_prompt.view(prompts, key_heads, rows, -1, new, length)
    # The own keys are used as they lie in memory: only scores are transposed to [P, J, R, h, Q, K].
    over_own = by_row @ key.transpose(-1, -2)  # [PR, J, hQ, K]
    over_own = over_own.view(prompts, rows, key_heads, -1, new, own).transpose(1, 2)

    prompt_mask_PQL, own_mask_QK = _masks(prefix.visible_PL, new, own, window)
    if prefix.padded or window is not None:
        over_prompt = over_prompt.masked_fill(~prompt_mask_PQL[:, None, None, None], -torch.inf)
    if new > 1 or window is not None:
        over_own = over_own.masked_fill(~own_mask_QK, -torch.inf)
    scores = torch.cat([over_prompt, over_own], -1)  # [P, J, R, h, Q, L + K]
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    on_prompt, on_own = weights.to(value.dtype).split([length, own], -1)

    from_prompt = on_prompt.flatten(2, 4) @ prompt[1]  # [P, J, RhQ, D]
    on_own = on_own.transpose(1, 2).reshape(prompts * rows, key_heads, -1, own)
    from_own = on_own @ value  # [PR, J, hQ, D]
    mixed = heads.unfold(from_prompt, query) + from_own.reshape_as(query)  # [PR, H, Q, D]
    return mixed.transpose(1, 2).contiguous()


def _masks(visible_PL: Tensor, new: int, own: int, window: int | None) -> tuple[Tensor, Tensor]:
    """Return what the last `new` of a row's `own` tokens may attend to.

    Returns:
        [P, Q, L] prompt tokens (Q is 1 without a window: all queries see the same), and [Q, K] own
        tokens.
    """
    at_Q = torch.arange(own - new, own, device=visible_PL.device)[:, None]
    at_K = torch.arange(own, device=visible_PL.device)
    if window is None:
        return visible_PL[:, None], at_K <= at_Q
    length = visible_PL.shape[1]
    # Distance from the query, at place L + at_Q of the whole text, to the prompt token at 0..L-1.
    near_QL = at_Q + length - torch.arange(length, device=visible_PL.device) < window
    return visible_PL[:, None] & near_QL, (at_K <= at_Q) & (at_Q - at_K < window)


def _merged_flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prompt: tuple[Tensor, Tensor],
    prefix: Prefix,
    scale: float,
    _window: int | None,
) -> Tensor:
    """Run flash attention over each block of the picture above and merge the two outputs.

    The outputs are merged by their normalisers. No scores are held in memory.

    Returns:
        [P*R, Q, H, D].
    """
    dtype = compute_dtype(query)
    padding_bias = None
    if prefix.padded:
        padding = ~prefix.visible_PL
        padding_bias = padding[:, None, None].to(dtype) * torch.finfo(dtype).min  # [P, 1, 1, L]
    states = [tensor.to(dtype) for tensor in (query, key, value, *prompt)]
    return _MergedFlash.apply(*states, padding_bias, scale).transpose(1, 2)


class _MergedFlash(torch.autograd.Function):
    """Softmax over [prompt | own tokens up to here] from two kernel calls, one for each block.

    The backward of a block needs nothing of the other block but the merged output and the merged
    normaliser (as in ring attention, arXiv 2310.01889).
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prompt_key: Tensor,
        prompt_value: Tensor,
        padding_bias: Tensor | None,
        scale: float,
    ) -> Tensor:
        """Return the attention output, [P*R, H, Q, D]."""
        heads = _Heads(len(prompt_key), query.shape[1], prompt_key.shape[1])
        over_prompt, norm_prompt = _FLASH(
            heads.fold(query), prompt_key, prompt_value, attn_mask=padding_bias, scale=scale
        )
        over_own, norm_own = _FLASH(
            query, heads.repeat(key), heads.repeat(value), is_causal=True, scale=scale
        )
        over_prompt = heads.unfold(over_prompt, query)
        norm_prompt = heads.unfold(norm_prompt[..., None], query)  # [PR, H, Q, 1]
        norm_own = norm_own[..., None]
        norm = torch.logaddexp(norm_prompt, norm_own)
        mixed = over_prompt * (norm_prompt - norm).exp() + over_own * (norm_own - norm).exp()
        mixed = mixed.to(query.dtype)
        ctx.save_for_backward(
            query, key, value, prompt_key, prompt_value, padding_bias, mixed, norm.squeeze(-1)
        )
        ctx.heads, ctx.scale = heads, scale
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run the backward of each kernel with the merged output and the merged normaliser.

        Each then returns its part of the gradient of the joint softmax.
        """
        query, key, value, prompt_key, prompt_value, padding_bias, mixed, norm = ctx.saved_tensors
        heads: _Heads = ctx.heads
        grad = grads[0].contiguous()
        dropout = 0.0
        query_grad, key_grad, value_grad = _FLASH_BACKWARD(
            grad,
            query,
            heads.repeat(key),
            heads.repeat(value),
            mixed,
            norm,
            dropout,
            True,  # causal
            scale=ctx.scale,
        )
        query_grad_prompt, prompt_key_grad, prompt_value_grad = _FLASH_BACKWARD(
            heads.fold(grad),
            heads.fold(query),
            prompt_key,
            prompt_value,
            heads.fold(mixed),
            heads.fold(norm[..., None]).squeeze(-1),
            dropout,
            False,  # every row attends to the whole prompt
            attn_mask=padding_bias,
            scale=ctx.scale,
        )
        return (
            query_grad + heads.unfold(query_grad_prompt, query),
            heads.sum_repeats(key_grad),
            heads.sum_repeats(value_grad),
            prompt_key_grad,
            prompt_value_grad,
            None,
            None,
        )


class _Heads(NamedTuple):
    """Reshapes between the query heads of rows and the key heads of their prompts."""

    prompts: int
    query_heads: int
    key_heads: int

    def fold(self, by_row: Tensor) -> Tensor:
        """Reshape [P*R, H, Q, D] -> [P, J, R*h*Q, D].

        This puts all queries of a prompt that use the same key head into one dimension.
        """
        per_head = self.query_heads // self.key_heads
        inner = by_row.reshape(self.prompts, -1, self.key_heads, per_head, *by_row.shape[2:])
        return inner.transpose(1, 2).flatten(2, 4)  # from [P, J, R, h, Q, D]

    def unfold(self, by_prompt: Tensor, like: Tensor) -> Tensor:
        """Reverse `fold`; `like` has the shape of the result but for the last dimension."""
        rows, heads, new, _ = like.shape
        width = by_prompt.shape[-1]
        per_head = heads // self.key_heads
        inner = by_prompt.reshape(
            self.prompts, self.key_heads, rows // self.prompts, per_head, new, width
        )
        return inner.transpose(1, 2).reshape(rows, heads, new, width)

    def repeat(self, states: Tensor) -> Tensor:
        """Repeat each key head for its query heads: [P*R, J, K, D] -> [P*R, H, K, D]."""
        return states.repeat_interleave(self.query_heads // self.key_heads, 1)

    def sum_repeats(self, grad: Tensor) -> Tensor:
        """Compute the gradient of `repeat`: [P*R, H, K, D] -> [P*R, J, K, D]."""
        return grad.unflatten(1, (self.key_heads, -1)).sum(2)


def _flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prompt: tuple[Tensor, Tensor],
    prefix: Prefix,
    scale: float,
    window: int | None,
) -> Tensor:
    """Run FlexAttention over all rows of a prompt as one sequence.

    The queries of all rows attend to [prompt | own tokens of all rows], and blocks of keys that
    belong to other rows are skipped. No scores are held in memory.

    Returns:
        [P*R, Q, H, D].
    """
    prompts, _, _, width = prompt[0].shape
    rows, new, own = len(query) // prompts, query.shape[2], key.shape[2]
    dtype = compute_dtype(query)
    queries = _rows_as_one(query.to(dtype), prompts)  # [P, H, RQ, D]
    keys = torch.cat([prompt[0].to(dtype), _rows_as_one(key.to(dtype), prompts)], 2)
    values = torch.cat([prompt[1].to(dtype), _rows_as_one(value.to(dtype), prompts)], 2)
    shape = (rows, new, own, window or 0)
    if shape not in prefix.masks:
        prefix.masks[shape] = block_mask(prefix.visible_PL, rows, new, own, window)
    flex = _flex_kernel(compiled=query.is_cuda)
    mixed = flex(
        queries, keys, values, block_mask=prefix.masks[shape], scale=scale, enable_gqa=True
    )
    mixed = mixed.view(prompts, -1, rows, new, width)  # [P, H, R, Q, D]
    return mixed.permute(0, 2, 3, 1, 4).reshape(prompts * rows, new, -1, width)


def _rows_as_one(states: Tensor, prompts: int) -> Tensor:
    """Join the rows of each prompt into one sequence: [P*R, heads, K, D] -> [P, heads, R*K, D]."""
    rows = len(states) // prompts
    return states.reshape(prompts, rows, *states.shape[1:]).transpose(1, 2).flatten(2, 3)


def block_mask(visible_PL: Tensor, rows: int, new: int, own: int, window: int | None) -> Any:
    """Build FlexAttention's mask for `rows` rows of `new` queries each, joined into one sequence.

    The keys are [prompt | `own` tokens of each row]. The mask lists the blocks of keys of each
    block of queries directly, because they are known: all of the prompt, and the own tokens of the
    rows that the block of queries touches. `create_block_mask` would hold all scores to find them.
    Inside these blocks, `attends` decides. It reads the sizes from a tensor, so that other sizes
    cause no new compilation.
    """
    from torch.nn.attention.flex_attention import BlockMask

    (prompts, length), device = visible_PL.shape, visible_PL.device
    queries, keys = rows * new, length + rows * own
    max_blocks = -(-keys // BLOCK)
    counts: list[int] = []
    padded_blocks: list[list[int]] = []
    for first in range(0, queries, BLOCK):
        last = min(first + BLOCK, queries) - 1
        blocks = _key_blocks(first, last, length, new, own)
        counts.append(len(blocks))
        padded_blocks.append(blocks + [0] * (max_blocks - len(blocks)))
    block_counts = torch.tensor(counts, dtype=torch.int32, device=device)
    block_indices = torch.tensor(padded_blocks, dtype=torch.int32, device=device)
    # Without a window the limit is larger than every distance.
    sizes = torch.tensor([new, own, length, window or queries + keys], device=device)

    def attends(prompt: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """Decide whether query q attends to key k, both counted over the joined sequence."""
        new, own, length, window = sizes[0], sizes[1], sizes[2], sizes[3]
        # `at`: place of the query among the own tokens of its row.
        # `beyond`: place of the key among the own tokens of all rows; negative in the prompt.
        at, beyond = q % new + own - new, k - length
        distance = torch.where(k < length, at - beyond, at - beyond % own)
        own_row = (q // new == beyond // own) & (distance >= 0)
        return torch.where(k < length, visible_PL[prompt, k.clamp(max=length - 1)], own_row) & (
            distance < window
        )

    return BlockMask.from_kv_blocks(
        block_counts.expand(prompts, 1, -1).contiguous(),
        block_indices.expand(prompts, 1, -1, -1).contiguous(),
        BLOCK_SIZE=BLOCK,
        mask_mod=attends,
        seq_lengths=(queries, keys),
    )


def _key_blocks(first: int, last: int, length: int, new: int, own: int) -> list[int]:
    """List the blocks of keys that queries `first` to `last` need.

    They hold the prompt, or an own token of one of the rows of these queries.
    """
    first_row, last_row = first // new, last // new
    begin = length + first_row * own
    end = length + (last_row + 1) * own
    prompt_blocks = range(-(-length // BLOCK))
    own_blocks = range(begin // BLOCK, -(-end // BLOCK))
    return sorted({*prompt_blocks, *own_blocks})


@cache
def _flex_kernel(*, compiled: bool) -> Any:
    """Return FlexAttention: compiled on CUDA, where a kernel is generated, else eager."""
    from torch.nn.attention.flex_attention import flex_attention

    if compiled:
        return torch.compile(flex_attention, dynamic=True)
    return flex_attention


AttentionInterface.register(ATTENTION, shared_prefix_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
