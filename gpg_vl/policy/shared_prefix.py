"""One image and one prompt are computed once for the G answers of a group, exactly, with gradients through the prompt.

Two passes over the stock transformers model: the prompts go through vision tower and language model once and leave their keys and values;
completions are rows that attend to their group's keys and values *in place* (never copied per row) and to their own tokens before them.
The attention function below does that; it is registered with transformers, so no modelling file is patched, and without a prefix it is
plain SDPA.

Shape letters: P prompts, R rows per prompt, Q new tokens of a row, L prompt tokens, K a row's own tokens so far, H query heads, J key
heads, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from gpg_vl.policy.load import Policy
from gpg_vl.policy.logprobs import Asked, Scores, completion_tokens, gather_features, score
from gpg_vl.types import Prompt

ATTENTION = "gpg_vl_shared_prefix"


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """What a batch of prompts leaves behind."""

    keys: tuple[Tensor, ...]
    """Per layer [P, J, L, D]."""
    values: tuple[Tensor, ...]
    """Per layer [P, J, L, D]."""
    visible_PL: Tensor
    """False on the padding to the left of a shorter prompt."""
    next_position_P: Tensor
    """Rotary position of the first completion token: with images this is not the number of prompt tokens."""
    last_hidden_PD: Tensor
    """The state that predicts the first completion token."""

    def select(self, which: Tensor) -> "Prefix":
        """Only some of the prompts."""
        return Prefix(
            tuple(layer[which] for layer in self.keys),
            tuple(layer[which] for layer in self.values),
            self.visible_PL[which],
            self.next_position_P[which],
            self.last_hidden_PD[which],
        )


def use_shared_prefix(model: Any) -> None:
    """Let the language model's attention understand a prefix. Without one it stays what it was."""
    model.model.get_decoder().config._attn_implementation = ATTENTION


def prefill(policy: Policy, prompts: Sequence[Prompt]) -> Prefix:
    """Run vision tower and language model once over each prompt, padded on the left."""
    model, device = policy.model.model, policy.device
    longest = max(len(prompt.input_ids) for prompt in prompts)
    input_ids = torch.full((len(prompts), longest), policy.pad_id)
    visible = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt.input_ids) :] = torch.tensor(prompt.input_ids)
        visible[row, longest - len(prompt.input_ids) :] = 1
    input_ids, visible = input_ids.to(device), visible.to(device)
    inputs = gather_features(prompts, longest, policy.model.dtype, device, left=True)
    positions, deltas = model.get_rope_index(
        input_ids, inputs["mm_token_type_ids"], image_grid_thw=inputs.get("image_grid_thw"), attention_mask=visible
    )
    cache = DynamicCache(config=policy.model.config)
    output = model(input_ids=input_ids, attention_mask=visible, position_ids=positions, past_key_values=cache, use_cache=True, **inputs)
    layers: list[Any] = cache.layers
    return Prefix(
        keys=tuple(layer.keys for layer in layers),
        values=tuple(layer.values for layer in layers),
        visible_PL=visible.bool(),
        next_position_P=visible.sum(1) + deltas.squeeze(1),
        last_hidden_PD=output.last_hidden_state[:, -1],
    )


def extend(policy: Policy, prefix: Prefix, tokens_PRQ: Tensor, start: int, cache: DynamicCache | None) -> Tensor:
    """[P, R, Q, D] states of completion tokens that follow `start` earlier ones, whose keys and values are in `cache`."""
    prompts, rows, new = tokens_PRQ.shape
    model = policy.model.model
    positions_PQ = prefix.next_position_P[:, None] + start + torch.arange(new, device=tokens_PRQ.device)
    positions = positions_PQ[:, None].expand(prompts, rows, new).reshape(1, prompts * rows, new).expand(3, -1, -1)
    own = torch.ones(1, 1, new, start + new, dtype=torch.bool, device=tokens_PRQ.device).tril(start)
    output = model.get_decoder()(
        inputs_embeds=model.get_input_embeddings()(tokens_PRQ.reshape(prompts * rows, new)),
        position_ids=positions,
        attention_mask=own.expand(prompts * rows, 1, new, start + new),
        past_key_values=cache,
        use_cache=cache is not None,
        shared_prefix=prefix,
    )
    return output.last_hidden_state.view(prompts, rows, new, -1)


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    shared_prefix: Prefix | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of rows [P*R, H, Q, D] over their group's prompt and their own tokens [P*R, J, K, D], in one softmax.

    Exact: the two score blocks are joined before the softmax. The prompt's block is one matrix product per prompt and key head.
    """
    if shared_prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    assert attention_mask is not None
    layer: int = module.layer_idx  # type: ignore[assignment]
    prompt_keys, prompt_values = shared_prefix.keys[layer], shared_prefix.values[layer]
    prompts, heads, length, width = prompt_keys.shape
    rows, new = len(query) // prompts, query.shape[2]
    per_head = query.shape[1] // heads
    scaled = query * (scaling if scaling is not None else width**-0.5)
    rows_by_head = scaled.reshape(prompts, rows, heads, per_head * new, width).transpose(1, 2)  # [P, J, R, hQ, D]
    over_prompt = rows_by_head.reshape(prompts, heads, -1, width) @ prompt_keys.transpose(-1, -2)
    over_prompt = over_prompt.masked_fill(~shared_prefix.visible_PL[:, None, None], -torch.inf)
    own_keys = key.reshape(prompts, rows, heads, -1, width).transpose(1, 2)
    own_values = value.reshape(prompts, rows, heads, -1, width).transpose(1, 2)
    over_own = rows_by_head @ own_keys.transpose(-1, -2)  # [P, J, R, hQ, K]
    hidden = ~attention_mask[:1, :1].expand(1, per_head, new, -1).reshape(per_head * new, -1)
    over_own = over_own.masked_fill(hidden, -torch.inf)
    scores = torch.cat([over_prompt.view(prompts, heads, rows, per_head * new, length), over_own], -1)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
    on_prompt, on_own = weights.split([length, own_keys.shape[-2]], -1)
    mixed = (on_prompt.reshape(prompts, heads, -1, length) @ prompt_values).view_as(rows_by_head) + on_own @ own_values
    return mixed.transpose(1, 2).reshape(prompts * rows, heads * per_head, new, width).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, shared_prefix_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class GroupForward(nn.Module):
    """Scores of completions with image and prompt computed once per group; the fast twin of `PlainForward`."""

    def __init__(self, policy: Policy, temperature: float) -> None:
        super().__init__()
        self.model = policy.model
        self.policy = policy
        self.temperature = temperature
        use_shared_prefix(policy.model)

    def forward(self, asked: Sequence[Asked]) -> Scores:
        """The scores of all completion tokens, group by group, completion by completion."""
        policy = self.policy
        with torch.autocast(policy.device.type, dtype=torch.bfloat16, enabled=policy.dtype == torch.bfloat16):
            hidden_ND = self._hidden(asked)
            logits_NV = self.model.lm_head(hidden_ND)
        return score(logits_NV, completion_tokens(asked, policy.device), self.temperature, policy.banned_ids)

    def _hidden(self, asked: Sequence[Asked]) -> Tensor:
        """[N, D] the state from which each completion token is predicted."""
        prefix = prefill(self.policy, [prompt for prompt, _ in asked])
        rows = max(len(completions) for _, completions in asked)
        lengths = torch.tensor(
            [[len(completion.token_ids) for completion in completions] + [0] * (rows - len(completions)) for _, completions in asked]
        )
        first = prefix.last_hidden_PD[:, None, None].expand(-1, rows, 1, -1)
        tokens = self._tokens(asked, rows)
        states = torch.cat([first, extend(self.policy, prefix, tokens, 0, None)], 2) if tokens.shape[-1] else first
        scored = torch.arange(states.shape[2]) < lengths[..., None]
        return states[scored.to(states.device)]

    def _tokens(self, asked: Sequence[Asked], rows: int) -> Tensor:
        """[P, R, Q] completion tokens but the last, padded on the right: the last one is only predicted."""
        padded = [
            [*(completion.token_ids[:-1] for completion in completions), *[()] * (rows - len(completions))] for _, completions in asked
        ]
        flat = pad_sequence(
            [torch.tensor(row, dtype=torch.long) for group in padded for row in group], batch_first=True, padding_value=self.policy.pad_id
        )
        return flat.view(len(asked), rows, -1).to(self.policy.device)
