"""What differs between families of vision-language models, in one place: names of parts, rotary positions, who can share a prompt."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

TILE_ROWS = frozenset({"smolvlm", "idefics3"})
"""Families whose pixels come as one row of tiles per prompt [P, tiles, 3, height, width]."""

_PROJECTORS = (".merger.", ".deepstack_merger_list.", ".multi_modal_projector.", ".connector.")
_TOWERS = (".visual.", ".vision_tower.", ".vision_model.")


def parts(model: Any) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Every parameter as (part, name, parameter), part being language, projector or vision."""
    for name, parameter in model.named_parameters():
        if any(part in name for part in _PROJECTORS):
            yield "projector", name, parameter
        else:
            yield "vision" if any(part in name for part in _TOWERS) else "language", name, parameter


@dataclass(slots=True)
class Sharing:
    """Whether the rows of a group share their prompt, in sampling and in scoring alike."""

    why_not: str
    """Empty = they do."""


def why_not_shared(model: Any) -> str:
    """Why completions cannot attend to a prompt's keys and values in place; empty = they can.

    Layers with a running state instead of keys and values (linear attention, convolutions, state spaces) would need a copy of it per row.
    """
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"])
    other = sorted(kinds - {"full_attention", "sliding_attention"})
    return f"{model.config.model_type} has layers of {' and '.join(other)}, which keep a running state per answer" if other else ""


def cache_input(module: nn.Module, keys_and_values: Any) -> dict[str, Any]:
    """The argument that hands `module` its cache: transformers 5.24 renamed `past_key_values` to `cache`, and 5.40 forgets the old name."""
    return {_cache_keyword(type(module)): keys_and_values}


@cache
def _cache_keyword(kind: type[nn.Module]) -> str:
    return "cache" if "cache" in inspect.signature(kind.forward).parameters else "past_key_values"


def picture_tokens(model: Any, input_ids: Tensor) -> Tensor:
    """[..., L] 1 where a visual token stands, else 0."""
    return (input_ids == model.config.image_token_id).long()


def token_inputs(model: Any, types: Tensor) -> dict[str, Tensor]:
    """What the family wants to be told of each token, `types` being 1 where a visual one stands.

    Qwen-VL needs it for its positions (without it Qwen2.5-VL silently takes a picture for text); Gemma 3 attends both ways in a picture.
    """
    if model.config.model_type == "gemma3":
        return {"token_type_ids": types}
    return {"mm_token_type_ids": types} if hasattr(model.model, "get_rope_index") else {}


def prompt_positions(core: Any, input_ids: Tensor, visible: Tensor, types: Tensor, grids: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rotary positions of padded prompts, and of the token that follows each.

    Args:
        core: the model without its head.
        input_ids, visible, types: [P, L] ids, 1 where not padding, 1 where a picture.
        grids: [pictures, 3] patches in time, height and width, in prompt order.

    Returns:
        [3, P, L] (time, height, width) for Qwen-VL, else [P, L]; and [P].
    """
    if hasattr(core, "get_rope_index"):
        positions, deltas = core.get_rope_index(input_ids, types, image_grid_thw=grids, attention_mask=visible)
        return positions, visible.sum(1) + deltas.squeeze(1)
    return (visible.cumsum(1) - 1).clamp(min=0), visible.sum(1)


def row_positions(core: Any, next_position_R: Tensor, start: int, count: int) -> Tensor:
    """Rotary positions of `count` tokens of each row after `start` earlier ones: [3, R, count] for Qwen-VL, else [R, count]."""
    positions_RQ = next_position_R[:, None] + start + torch.arange(count, device=next_position_R.device)
    return positions_RQ.expand(3, -1, -1) if hasattr(core, "get_rope_index") else positions_RQ
