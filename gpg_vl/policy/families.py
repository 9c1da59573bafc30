"""Collect what differs between families of vision-language models, in one place.

These are rotary positions, extra inputs, and whether rows can share a prompt.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from gpg_vl.policy.part_names import part_of

TILE_ROWS = frozenset({"smolvlm", "idefics3"})
"""Families whose pixels come as one row of tiles per prompt, [P, tiles, 3, height, width]."""


def parts(model: Any) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Yield (part, name, parameter) of every parameter; part is language, projector or vision."""
    for name, parameter in model.named_parameters():
        yield part_of(name), name, parameter


@dataclass(slots=True)
class Sharing:
    """State of prompt sharing, used in sampling and in scoring alike."""

    why_not: str
    """Reason why the rows of a group do not share their prompt; empty = they do."""


def why_not_shared(model: Any) -> str:
    """Return why completions cannot attend to a prompt's keys and values; empty = they can.

    Layers with a running state instead of keys and values (linear attention, convolutions, state
    spaces) would need a copy of the state per row.
    """
    layer_types = getattr(model.config.get_text_config(), "layer_types", None)
    kinds = set(layer_types or ["full_attention"])
    other = sorted(kinds - {"full_attention", "sliding_attention"})
    if not other:
        return ""
    return (
        f"{model.config.model_type} has layers of {' and '.join(other)}, which keep a running state"
        " per answer"
    )


def cache_input(module: nn.Module, cache: Any) -> dict[str, Any]:
    """Return the keyword argument that passes a cache to `module`.

    transformers 5.24 renamed `past_key_values` to `cache`, and announces that 5.40 will not accept
    the old name.
    """
    return {_cache_keyword(type(module)): cache}


@cache
def _cache_keyword(kind: type[nn.Module]) -> str:
    """Return the name of the cache argument of a module's forward."""
    if "cache" in inspect.signature(kind.forward).parameters:
        return "cache"
    return "past_key_values"


def picture_tokens(model: Any, input_ids: Tensor) -> Tensor:
    """Return [..., L]: 1 where a token is visual, else 0."""
    return (input_ids == model.config.image_token_id).long()


def token_inputs(model: Any, types: Tensor) -> dict[str, Tensor]:
    """Return the model input that marks visual tokens, if the family has one.

    Qwen-VL needs it for its positions (without it Qwen2.5-VL takes a picture for text, without an
    error). Gemma 3 needs it because the tokens of a picture attend in both directions.

    Args:
        types: 1 where a token is visual, else 0.
    """
    if model.config.model_type == "gemma3":
        return {"token_type_ids": types}
    if hasattr(model.model, "get_rope_index"):
        return {"mm_token_type_ids": types}
    return {}


def prompt_positions(
    core: Any, input_ids: Tensor, visible: Tensor, types: Tensor, grids: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Compute the rotary positions of padded prompts, and of the token that follows each.

    Args:
        core: the model without its head.
        input_ids, visible, types: [P, L] ids, 1 where not padding, 1 where visual.
        grids: [pictures, 3] patches in time, height and width, in prompt order.

    Returns:
        [3, P, L] (time, height, width) for Qwen-VL, else [P, L]; and [P].
    """
    if hasattr(core, "get_rope_index"):
        positions, deltas = core.get_rope_index(
            input_ids, types, image_grid_thw=grids, attention_mask=visible
        )
        return positions, visible.sum(1) + deltas.squeeze(1)
    return (visible.cumsum(1) - 1).clamp(min=0), visible.sum(1)


def row_positions(core: Any, next_position_R: Tensor, start: int, count: int) -> Tensor:
    """Compute the rotary positions of `count` tokens of each row after `start` earlier ones.

    Returns:
        [3, R, count] for Qwen-VL, else [R, count].
    """
    offsets = torch.arange(count, device=next_position_R.device)
    positions_RQ = next_position_R[:, None] + start + offsets
    if hasattr(core, "get_rope_index"):
        # In text, the positions in time, height and width are equal.
        return positions_RQ.expand(3, -1, -1)
    return positions_RQ
