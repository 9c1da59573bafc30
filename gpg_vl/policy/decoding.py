"""Writing answers token by token: rows that continue their prompts, G to a prompt, until they are dropped.

`SharedRows` attend to one copy of the prompt's keys and values. `RepeatedRows` give every row its own copy of the prompt's cache: for
models whose layers keep a running state.

Shape letters: P prompts, R rows per prompt, L prompt tokens, D width.
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
    """Keys and values of rows' own tokens, written into room that is there already; when it is full all moves, to twice the room."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, tuple[Tensor, Tensor]] = {}
        self.written: dict[int, int] = {}

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        start = self.written.get(layer_idx, 0)
        end = self.written[layer_idx] = start + key_states.shape[2]
        if layer_idx not in self.held or end > self.held[layer_idx][0].shape[2]:
            self._make_room(layer_idx, (key_states, value_states), start, 2 * end)
        keys, values = self.held[layer_idx]
        keys[:, :, start:end], values[:, :, start:end] = key_states, value_states
        return keys[:, :, :end], values[:, :, :end]

    def keep(self, rows: Tensor) -> None:
        """Only these rows, in this order."""
        self.held = {layer: (keys[rows], values[rows]) for layer, (keys, values) in self.held.items()}

    def _make_room(self, layer: int, like: tuple[Tensor, Tensor], filled: int, room: int) -> None:
        roomy = tuple(states.new_empty(*states.shape[:2], room, states.shape[3]) for states in like)
        for old, new in zip(self.held.get(layer, ()), roomy, strict=False):
            new[:, :, :filled] = old[:, :, :filled]
        self.held[layer] = (roomy[0], roomy[1])


class SharedRows:
    """Rows against one copy of each prompt."""

    def __init__(self, policy: Policy, prompts: Sequence[Prompt], rows: int) -> None:
        use_shared_prefix(policy.model)
        self.policy = policy
        self.prefix = prefill(policy, prompts)
        self.cache = _OwnTokens()
        self.written = 0
        self.first_PRD = self.prefix.last_hidden_PD[:, None].expand(-1, rows, -1)
        """The states that predict the first tokens."""

    def append(self, tokens_PR: Tensor) -> Tensor:
        """[P, R, D] the states that predict what follows these tokens."""
        states = extend(self.policy, self.prefix, tokens_PR[..., None], self.written, self.cache)[:, :, 0]
        self.written += 1
        return states

    def keep(self, prompts_p: Tensor, rows_pr: Tensor) -> None:
        """Drop all other prompts, and all other rows; `rows_pr` counts rows of all prompts in one line."""
        self.cache.keep(rows_pr.flatten())
        if len(prompts_p) < len(self.prefix.visible_PL):
            self.prefix = self.prefix.select(prompts_p)


class RepeatedRows:
    """Every row with its own copy of the prompt."""

    def __init__(self, policy: Policy, prompts: Sequence[Prompt], rows: int) -> None:
        self.policy = policy
        self.cache: Any = DynamicCache(config=policy.model.config.get_text_config())
        states, visible, following = read_prompts(policy, prompts, self.cache)
        self.cache.reorder_cache(torch.arange(len(prompts), device=policy.device).repeat_interleave(rows))
        self.visible = visible.repeat_interleave(rows, 0)
        self.next_position = following.repeat_interleave(rows)
        self.first_PRD = states[:, -1:].expand(-1, rows, -1)
        """The states that predict the first tokens."""

    def append(self, tokens_PR: Tensor) -> Tensor:
        """[P, R, D] the states that predict what follows these tokens."""
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

    def keep(self, prompts_p: Tensor, rows_pr: Tensor) -> None:  # noqa: ARG002 (a row carries its own prompt)
        """Drop all other prompts, and all other rows; `rows_pr` counts rows of all prompts in one line."""
        kept = rows_pr.flatten()
        self.cache.reorder_cache(kept)  # the one selection that layers with a state know
        self.visible, self.next_position = self.visible[kept], self.next_position[kept]


def begin(policy: Policy, prompts: Sequence[Prompt], rows: int) -> SharedRows | RepeatedRows:
    """Read the prompts and be ready to write `rows` answers to each."""
    return (RepeatedRows if policy.sharing.why_not else SharedRows)(policy, prompts, rows)
