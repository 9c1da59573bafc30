"""Generate answers token by token: rows that continue their prompts until they are dropped.

There are two implementations. `SharedRows` attend to one copy of the keys and values of their
prompt. `RepeatedRows` give every row its own copy of the cache of its prompt; they are for models
whose layers keep a running state.

Shape letters: P prompts, R rows per prompt, L prompt tokens, D width. Lower-case letters count what
remains after some have been dropped: p prompts, r rows per prompt.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from gpg_vl.policy.families import cache_input, row_positions
from gpg_vl.policy.load import Policy
from gpg_vl.policy.shared_prefix import extend, prefill, read_prompts, use_shared_prefix
from gpg_vl.types import Prompt


class _OwnTokens(DynamicCache):
    """Keys and values of the rows' own tokens, in preallocated buffers.

    When a buffer is full, its content is copied to a new one of twice the needed size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.buffers: dict[int, tuple[Tensor, Tensor]] = {}
        """Keys and values of each layer, [P*R, J, capacity, D]."""
        self.lengths: dict[int, int] = {}
        """Number of tokens of each layer that are filled in."""

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        start = self.lengths.get(layer_idx, 0)
        end = start + key_states.shape[2]
        self.lengths[layer_idx] = end
        if layer_idx not in self.buffers or end > self.buffers[layer_idx][0].shape[2]:
            self._grow(layer_idx, (key_states, value_states), start, 2 * end)
        keys, values = self.buffers[layer_idx]
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        return keys[:, :, :end], values[:, :, :end]

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows, in this order."""
        for layer, (keys, values) in self.buffers.items():
            self.buffers[layer] = (keys[rows], values[rows])

    def _grow(self, layer: int, like: tuple[Tensor, Tensor], filled: int, capacity: int) -> None:
        """Allocate larger buffers and copy the first `filled` tokens to them."""
        keys, values = (
            states.new_empty(*states.shape[:2], capacity, states.shape[3]) for states in like
        )
        if layer in self.buffers:
            old_keys, old_values = self.buffers[layer]
            keys[:, :, :filled] = old_keys[:, :, :filled]
            values[:, :, :filled] = old_values[:, :, :filled]
        self.buffers[layer] = (keys, values)


class SharedRows:
    """Rows that attend to one copy of each prompt."""

    def __init__(self, policy: Policy, prompts: Sequence[Prompt], rows: int) -> None:
        use_shared_prefix(policy.model)
        self.policy = policy
        self.prefix = prefill(policy, prompts)
        self.cache = _OwnTokens()
        self.length = 0
        """Number of tokens that each row has so far."""
        self.first_PRD = self.prefix.last_hidden_PD[:, None].expand(-1, rows, -1)
        """States that predict the first tokens."""

    def append(self, tokens_PR: Tensor) -> Tensor:
        """Append one token to each row; return the states that predict the next, [P, R, D]."""
        # [P, R, 1, D]
        states = extend(self.policy, self.prefix, tokens_PR[..., None], self.length, self.cache)
        self.length += 1
        return states[:, :, 0]

    def keep(self, prompts_p: Tensor, rows_pr: Tensor) -> None:
        """Drop all other prompts and rows; `rows_pr` counts the rows of all prompts together."""
        self.cache.keep(rows_pr.flatten())
        if len(prompts_p) < len(self.prefix.visible_PL):
            self.prefix = self.prefix.select(prompts_p)


class RepeatedRows:
    """Rows that each hold their own copy of the prompt."""

    def __init__(self, policy: Policy, prompts: Sequence[Prompt], rows: int) -> None:
        self.policy = policy
        self.cache: Any = DynamicCache(config=policy.model.config.get_text_config())
        states, visible, following = read_prompts(policy, prompts, self.cache)
        # Selecting each prompt several times copies its cache to its rows: 0, 0, 1, 1, 2, 2...
        prompt_of_row = torch.arange(len(prompts), device=policy.device).repeat_interleave(rows)
        self.cache.reorder_cache(prompt_of_row)
        self.visible = visible.repeat_interleave(rows, 0)
        self.next_position = following.repeat_interleave(rows)
        self.first_PRD = states[:, -1:].expand(-1, rows, -1)
        """States that predict the first tokens."""

    def append(self, tokens_PR: Tensor) -> Tensor:
        """Append one token to each row; return the states that predict the next, [P, R, D]."""
        core = self.policy.model.model
        self.visible = torch.cat([self.visible, torch.ones_like(self.visible[:, :1])], 1)
        decoder = core.get_decoder()
        output = decoder(
            inputs_embeds=core.get_input_embeddings()(tokens_PR.reshape(-1, 1)),
            position_ids=row_positions(core, self.next_position, 0, 1),
            attention_mask=self.visible,
            use_cache=True,
            **cache_input(decoder, self.cache),
        )
        self.next_position = self.next_position + 1
        return output.last_hidden_state.view(*tokens_PR.shape, -1)

    def keep(self, prompts_p: Tensor, rows_pr: Tensor) -> None:
        """Drop all other prompts and rows; `rows_pr` counts the rows of all prompts together."""
        del prompts_p  # each row holds its own prompt
        rows = rows_pr.flatten()
        # Layers that keep a running state support this selection only.
        self.cache.reorder_cache(rows)
        self.visible = self.visible[rows]
        self.next_position = self.next_position[rows]


def begin(policy: Policy, prompts: Sequence[Prompt], rows: int) -> SharedRows | RepeatedRows:
    """Run the model over the prompts and prepare `rows` answers to each."""
    if policy.sharing.why_not:
        return RepeatedRows(policy, prompts, rows)
    return SharedRows(policy, prompts, rows)
