"""How large a model is, by its config.json alone: parameters of each part, widths, layers.

For the Qwen families this is arithmetic, so a 72B model is told in a moment, without torch; the tests hold it against the real classes.
For other families the real class is built without weights, which takes the seconds that importing transformers takes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpg_vl.config.schema import PolicyConfig
from gpg_vl.errors import UserError
from gpg_vl.policy import tiny
from gpg_vl.policy.model_folder import SUPPORTED, config_file
from gpg_vl.policy.processor import LOCAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Equal layers of a transformer: language model or tower. Widths in numbers per token."""

    layers: int
    width: int
    """Of the residual stream."""
    inner: int
    """Of the feed-forward part."""
    queries: int
    """Of all query heads together."""
    keys: int
    """Of all key heads together; the values are as wide."""
    inner_kept: int = 4
    """Tensors of the feed-forward part's width that its gradient needs: 4 of SwiGLU, 3 of quick-GELU, 2 of GELU."""
    normed: bool = False
    """Whether queries and keys are normalised."""
    sight: bool = False
    """Whether it is a tower, whose rotary positions are made in float32."""
    layer_norm: bool = False
    """Whether its norms subtract the mean too: one kernel, which keeps less than RMS norm's four."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A model without its weights."""

    parameters: Mapping[str, int]
    """Of language, projector and vision; a tied head counts once."""
    language: Stack
    tower: Stack
    vocabulary: int
    tied: bool
    """Whether the head is the embedding."""
    patches: float
    """Patches of the tower for one visual token of the language model."""
    patch: int
    """Side of a patch in pixels."""

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parameters.values())

    @property
    def head(self) -> int:
        """Numbers of the head, [vocabulary, width]."""
        return self.vocabulary * self.language.width


def size_of(config: PolicyConfig) -> Size:
    """The size of a config's policy.

    Raises:
        UserError: its config.json cannot be found, is none, or is of a family that is not supported.
    """
    if config.model == "tiny":
        return _qwen(tiny.shape(config.tiny))
    file = config_file(config.model)
    said = json.loads(file.read_text())
    if said.get("model_type") not in SUPPORTED:
        raise UserError(f"policy.model: {file}: is a {said.get('model_type')}; expected one of {', '.join(SUPPORTED)}")
    try:
        return _qwen(said)
    except KeyError:  # another family, or sizes that its class knows and the file does not say
        return _built(file.parent)


def _qwen(said: Mapping[str, Any]) -> Size:
    """By arithmetic.

    Raises:
        KeyError: the file does not say enough, or is of another family.
    """
    family, text, vision = said["model_type"], said.get("text_config") or said, said["vision_config"]
    language = _decoder(family, text)
    tower = _TOWERS[family](vision)
    tied, merged = said["tie_word_embeddings"], vision["spatial_merge_size"] ** 2
    out = vision["hidden_size"] if family == "qwen2_vl" else vision["out_hidden_size"]
    embedding = text["vocab_size"] * language.width
    parameters = {
        "language": _decoder_layer(language, family, text) * language.layers + language.width + embedding * (1 if tied else 2),
        "projector": _mergers(family, vision, tower.width, merged, out),
        "vision": _tower_layer(tower, family) * tower.layers + _patches(family, vision, tower.width),
    }
    return Size(
        parameters=parameters,
        language=language,
        tower=tower,
        vocabulary=text["vocab_size"],
        tied=tied,
        patches=merged,
        patch=vision["patch_size"],
    )


def _decoder(family: str, text: Mapping[str, Any]) -> Stack:
    heads = text["num_attention_heads"]
    head = text["head_dim"] if family == "qwen3_vl" else text["hidden_size"] // heads
    return Stack(
        layers=text["num_hidden_layers"],
        width=text["hidden_size"],
        inner=text["intermediate_size"],
        queries=heads * head,
        keys=text["num_key_value_heads"] * head,
        normed=family == "qwen3_vl",
    )


def _decoder_layer(stack: Stack, family: str, text: Mapping[str, Any]) -> int:
    """Parameters of a layer: four projections, three of the feed-forward part, norms; biases where the family has them."""
    projections = 2 * stack.width * stack.queries + 2 * stack.width * stack.keys
    if family == "qwen3_vl":
        biases = (stack.queries + 2 * stack.keys + stack.width) * bool(text.get("attention_bias", False))
        norms = 2 * (stack.queries // text["num_attention_heads"])
    else:
        biases, norms = stack.queries + 2 * stack.keys, 0
    return projections + biases + norms + 3 * stack.width * stack.inner + 2 * stack.width


def _qwen2_tower(vision: Mapping[str, Any]) -> Stack:
    width = vision["embed_dim"]
    return _sight(vision["depth"], width, int(width * vision["mlp_ratio"]), "qwen2_vl")


def _qwen2_5_tower(vision: Mapping[str, Any]) -> Stack:
    return _sight(vision["depth"], vision["hidden_size"], vision["intermediate_size"], "qwen2_5_vl")


def _qwen3_tower(vision: Mapping[str, Any]) -> Stack:
    return _sight(vision["depth"], vision["hidden_size"], vision["intermediate_size"], "qwen3_vl")


_KEPT = {"qwen2_vl": 3, "qwen2_5_vl": 4}
"""Stack.inner_kept of towers; 2 of all others."""
_TOWERS = {"qwen2_vl": _qwen2_tower, "qwen2_5_vl": _qwen2_5_tower, "qwen3_vl": _qwen3_tower}


def _sight(layers: int, width: int, inner: int, family: str) -> Stack:
    return Stack(
        layers=layers,
        width=width,
        inner=inner,
        queries=width,
        keys=width,
        inner_kept=_KEPT.get(family, 2),
        sight=True,
        layer_norm=family != "qwen2_5_vl",
    )


def _tower_layer(stack: Stack, family: str) -> int:
    """Parameters of a layer: everything has a bias but the norms of Qwen2.5-VL (RMS)."""
    attention = _linear(stack.width, 3 * stack.width) + _linear(stack.width, stack.width)
    norms = 2 * stack.width * (1 if family == "qwen2_5_vl" else 2)
    up = _linear(stack.width, stack.inner) * (2 if family == "qwen2_5_vl" else 1)
    return attention + norms + up + _linear(stack.inner, stack.width)


def _patches(family: str, vision: Mapping[str, Any], width: int) -> int:
    """Parameters of what makes patches, and of Qwen3-VL's learned places."""
    kernel = vision.get("in_channels", 3) * vision["temporal_patch_size"] * vision["patch_size"] ** 2 * width
    return kernel + width + vision["num_position_embeddings"] * width if family == "qwen3_vl" else kernel


def _mergers(family: str, vision: Mapping[str, Any], width: int, merged: int, out: int) -> int:
    """Parameters of the projector: a norm and two matrices; in Qwen3-VL once more for each layer that is looked at on the way."""
    matrices = _linear(width * merged, width * merged) + _linear(width * merged, out)
    own = matrices + width * (1 if family == "qwen2_5_vl" else 2)
    if family != "qwen3_vl":
        return own
    return own + len(vision["deepstack_visual_indexes"]) * (matrices + 2 * width * merged)


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _built(folder: Path) -> Size:
    """By building the real class without memory for its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        with torch.device("meta"):
            return size_of_model(AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder, **LOCAL)))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"policy.model: {folder}: its config.json makes no model: {why}") from None


def size_of_model(model: Any) -> Size:
    """The size of a model that is there, of any family."""
    from gpg_vl.policy.families import parts

    parameters: dict[str, int] = {"language": 0, "projector": 0, "vision": 0}
    for part, _, parameter in parts(model):
        parameters[part] += parameter.numel()
    text, vision = model.config.get_text_config(), model.config.vision_config
    heads = text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // heads
    width = getattr(vision, "embed_dim", None) or vision.hidden_size
    inner = getattr(vision, "intermediate_size", None) or int(width * vision.mlp_ratio)
    return Size(
        parameters=parameters,
        language=Stack(
            layers=text.num_hidden_layers,
            width=text.hidden_size,
            inner=text.intermediate_size,
            queries=heads * head,
            keys=(getattr(text, "num_key_value_heads", None) or heads) * head,
            normed=text.model_type.startswith(("qwen3", "gemma3")),
        ),
        tower=_sight(getattr(vision, "depth", None) or vision.num_hidden_layers, width, inner, model.config.model_type),
        vocabulary=text.vocab_size,
        tied=model.lm_head.weight is model.get_input_embeddings().weight,
        patches=_merged(model.config),
        patch=vision.patch_size[0] if isinstance(vision.patch_size, list | tuple) else vision.patch_size,
    )


def _merged(config: Any) -> float:
    """Patches for one visual token."""
    vision = config.vision_config
    if config.model_type == "gemma3":
        return (vision.image_size // vision.patch_size) ** 2 / config.mm_tokens_per_image
    if config.model_type == "internvl":
        return config.downsample_ratio**-2
    side = getattr(vision, "spatial_merge_size", None) or getattr(config, "scale_factor", None) or 1
    return side**2
