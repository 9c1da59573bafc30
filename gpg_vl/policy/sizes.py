"""Compute the size of a model from its config.json: parameters of each part, widths, matrices.

For the Qwen families this is arithmetic, so it takes no time for a 72B model and does not import
torch; the tests compare it with the real classes. For other families the real class is built
without memory for its weights, which takes as long as importing transformers (seconds).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpg_vl.config.schema import PolicyConfig
from gpg_vl.errors import UserError, one_line
from gpg_vl.policy import tiny
from gpg_vl.policy.model_folder import config_file, family_problems
from gpg_vl.policy.part_names import part_of
from gpg_vl.policy.processor import LOCAL

_IN_FIRST_LAYER = re.compile(r"\.(?:layers?|blocks)\.0\.")
"""What the names of modules of a stack's first layer hold: `language_model.layers.0.mlp.up_proj`,
`visual.blocks.0.attn.qkv`, `encoder.layer.0.mlp.fc1`."""


@dataclass(frozen=True, slots=True, order=True)
class Matrix:
    """A linear map of a layer or of the projector; its bias is not counted."""

    name: str
    """Last word of its module's name: q_proj, by which adapters name what they adapt."""
    inputs: int
    outputs: int

    @property
    def numbers(self) -> int:
        """Number of its weights."""
        return self.inputs * self.outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Equal layers of a transformer: language model or vision tower.

    Widths are counted in numbers per token.
    """

    layers: int
    """Number of layers."""
    matrices: tuple[Matrix, ...]
    """Matrices of one layer, sorted by name."""
    width: int
    """Width of the residual stream."""
    inner: int
    """Width of the feed-forward part."""
    queries: int
    """Width of all query heads together."""
    keys: int
    """Width of all key heads together; the values have the same width."""
    inner_kept: int = 4
    """Number of tensors of width `inner` that the backward needs: 4 with SwiGLU, 3 with quick-GELU,
    2 with GELU."""
    normed: bool = False
    """True if queries and keys are normalised."""
    is_tower: bool = False
    """True for a vision tower, which computes its rotary positions in float32."""
    layer_norm: bool = False
    """True if its norms subtract the mean too. That is one kernel, which stores less for the
    backward than the four kernels of RMS norm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Size of a model: numbers of parameters, widths and layers."""

    parameters: Mapping[str, int]
    """Number of parameters of language, projector and vision; a tied head counts once."""
    projector: tuple[Matrix, ...]
    """Matrices of the projector, sorted by name."""
    language: Stack
    """Language model."""
    tower: Stack
    """Vision tower."""
    vocabulary: int
    """Number of tokens in the embedding."""
    tied: bool
    """True if the head is the embedding."""
    patches: float
    """Number of patches of the tower for one visual token of the language model."""
    patch: int
    """Side of a patch, in pixels."""

    @property
    def total(self) -> int:
        """Number of all parameters."""
        return sum(self.parameters.values())

    @property
    def head(self) -> int:
        """Number of parameters of the head, [vocabulary, width]."""
        return self.vocabulary * self.language.width

    def matrices(self, part: str) -> tuple[Matrix, ...]:
        """Return every matrix of the projector, or of all layers of another part."""
        if part == "projector":
            return self.projector
        stack = self.language if part == "language" else self.tower
        return stack.matrices * stack.layers


def size_of(config: PolicyConfig) -> Size:
    """Return the size of a config's policy.

    Raises:
        UserError: its config.json cannot be found or read, or is of a family that is not supported.
    """
    if config.model == "tiny":
        return _qwen(tiny.shape(config.tiny))
    file = config_file(config.model)
    model_config = json.loads(file.read_text())
    problem = next(family_problems(model_config), None)
    if problem is not None:
        raise UserError(f"policy.model: {file.parent}: {problem}")
    try:
        return _qwen(model_config)
    except KeyError:
        # Another family, or a size is not in the file because it is the default of the class.
        return _built(file.parent)


def _qwen(model_config: Mapping[str, Any]) -> Size:
    """Compute the size of a Qwen model by arithmetic.

    Raises:
        KeyError: a size is not in the config, or it is of another family.
    """
    family, vision = model_config["model_type"], model_config["vision_config"]
    # Qwen2-VL's config has the sizes of its language model at the top level.
    text = model_config.get("text_config") or model_config
    language = _decoder(family, text)
    tower = _qwen_tower(family, vision)
    tied, merged = model_config["tie_word_embeddings"], vision["spatial_merge_size"] ** 2
    layers = _decoder_layer(language, family, text) * language.layers
    final_norm = language.width
    embeddings = text["vocab_size"] * language.width
    if not tied:
        embeddings *= 2
    tower_layers = _tower_layer(tower, family) * tower.layers
    return Size(
        parameters={
            "language": layers + final_norm + embeddings,
            "projector": _mergers(family, vision, tower.width, merged),
            "vision": tower_layers + _patches(family, vision, tower.width),
        },
        projector=_merger_matrices(family, vision, tower.width, merged),
        language=language,
        tower=tower,
        vocabulary=text["vocab_size"],
        tied=tied,
        patches=merged,
        patch=vision["patch_size"],
    )


def _decoder(family: str, text: Mapping[str, Any]) -> Stack:
    """Return the layers of the language model of a Qwen family."""
    heads = text["num_attention_heads"]
    head = text["hidden_size"] // heads
    if family == "qwen3_vl":
        head = text["head_dim"]
    width, inner = text["hidden_size"], text["intermediate_size"]
    queries, keys = heads * head, text["num_key_value_heads"] * head
    return Stack(
        layers=text["num_hidden_layers"],
        matrices=(
            Matrix("down_proj", inner, width),
            Matrix("gate_proj", width, inner),
            Matrix("k_proj", width, keys),
            Matrix("o_proj", queries, width),
            Matrix("q_proj", width, queries),
            Matrix("up_proj", width, inner),
            Matrix("v_proj", width, keys),
        ),
        width=width,
        inner=inner,
        queries=queries,
        keys=keys,
        normed=family == "qwen3_vl",
    )


def _decoder_layer(stack: Stack, family: str, text: Mapping[str, Any]) -> int:
    """Count the parameters of a layer of the language model.

    They are four projections of attention, three matrices of the feed-forward part, norms, and
    biases where the family has them.
    """
    matrices = sum(matrix.numbers for matrix in stack.matrices)
    # Queries and output have the width of all query heads, keys and values that of all key heads.
    biases = head_norms = 0
    if family != "qwen3_vl":
        biases = stack.queries + 2 * stack.keys
    else:
        if text.get("attention_bias", False):
            biases = stack.queries + 2 * stack.keys + stack.width
        head_norms = 2 * (stack.queries // text["num_attention_heads"])
    layer_norms = 2 * stack.width
    return matrices + biases + head_norms + layer_norms


_KEPT = {"qwen2_vl": 3, "qwen2_5_vl": 4}
"""`Stack.inner_kept` of vision towers; 2 for all other families."""


def _qwen_tower(family: str, vision: Mapping[str, Any]) -> Stack:
    """Return the layers of the vision tower of a Qwen family.

    Raises:
        KeyError: the config is of another family.
    """
    if family == "qwen2_vl":
        width = vision["embed_dim"]
        inner = int(width * vision["mlp_ratio"])
    elif family in {"qwen2_5_vl", "qwen3_vl"}:
        width, inner = vision["hidden_size"], vision["intermediate_size"]
    else:
        raise KeyError(family)
    ups, down = _FEED_FORWARD[family]
    matrices = [Matrix("qkv", width, 3 * width), Matrix("proj", width, width)]
    matrices += [Matrix(up, width, inner) for up in ups]
    matrices.append(Matrix(down, inner, width))
    return _tower(vision["depth"], width, inner, family, tuple(sorted(matrices)))


_FEED_FORWARD = {
    "qwen2_vl": (("fc1",), "fc2"),
    "qwen2_5_vl": (("gate_proj", "up_proj"), "down_proj"),
    "qwen3_vl": (("linear_fc1",), "linear_fc2"),
}
"""Matrices upwards and downwards of the feed-forward part of a tower."""


def _tower(layers: int, width: int, inner: int, family: str, matrices: tuple[Matrix, ...]) -> Stack:
    """Return the layers of a vision tower, which has as many key heads as query heads."""
    return Stack(
        layers=layers,
        matrices=matrices,
        width=width,
        inner=inner,
        queries=width,
        keys=width,
        inner_kept=_KEPT.get(family, 2),
        is_tower=True,
        layer_norm=family != "qwen2_5_vl",
    )


def _tower_layer(stack: Stack, family: str) -> int:
    """Count the parameters of a layer of a vision tower; all its matrices have a bias."""
    # Qwen2.5-VL has RMS norms without a bias. The others have layer norms with a bias.
    norms = 2 * stack.width * 2
    if family == "qwen2_5_vl":
        norms = 2 * stack.width
    return norms + sum(matrix.numbers + matrix.outputs for matrix in stack.matrices)


def _patches(family: str, vision: Mapping[str, Any], width: int) -> int:
    """Count the parameters of the patch embedding, and of Qwen3-VL's learned positions."""
    pixels = vision["temporal_patch_size"] * vision["patch_size"] ** 2
    kernel = vision.get("in_channels", 3) * pixels * width
    if family != "qwen3_vl":
        return kernel
    bias = width
    return kernel + bias + vision["num_position_embeddings"] * width


def _mergers(family: str, vision: Mapping[str, Any], width: int, merged: int) -> int:
    """Count the parameters of the projector: its matrices with their biases, and its norms.

    Args:
        merged: number of patches that become one visual token.
    """
    matrices = _merger_matrices(family, vision, width, merged)
    linear = sum(matrix.numbers + matrix.outputs for matrix in matrices)
    if family == "qwen2_5_vl":  # an RMS norm, without a bias
        return linear + width
    deepstack_layers = len(vision.get("deepstack_visual_indexes", ()))
    return linear + 2 * width + deepstack_layers * 2 * width * merged


def _merger_matrices(
    family: str, vision: Mapping[str, Any], width: int, merged: int
) -> tuple[Matrix, ...]:
    """Return the matrices of the projector, two; Qwen3-VL has as many for each deepstack layer."""
    out = vision["hidden_size" if family == "qwen2_vl" else "out_hidden_size"]
    names, times = ("0", "2"), 1
    if family == "qwen3_vl":
        names, times = ("linear_fc1", "linear_fc2"), 1 + len(vision["deepstack_visual_indexes"])
    first = Matrix(names[0], width * merged, width * merged)
    second = Matrix(names[1], width * merged, out)
    return (first,) * times + (second,) * times


def _built(folder: Path) -> Size:
    """Return the size of the real class, built without memory for its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        with torch.device("meta"):
            config = AutoConfig.from_pretrained(folder, **LOCAL)
            return size_of_model(AutoModelForImageTextToText.from_config(config))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        why = one_line(error, limit=200)
        raise UserError(f"policy.model: {folder}: its config.json makes no model: {why}") from None


def size_of_model(model: Any) -> Size:
    """Return the size of a model that is loaded, of any family."""
    from gpg_vl.policy.families import parts

    parameters: dict[str, int] = {"language": 0, "projector": 0, "vision": 0}
    for part, _, parameter in parts(model):
        parameters[part] += parameter.numel()
    matrices = _matrices_of_model(model)
    text, vision = model.config.get_text_config(), model.config.vision_config
    heads = text.num_attention_heads
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    head = getattr(text, "head_dim", None) or text.hidden_size // heads
    patch = vision.patch_size
    if isinstance(patch, list | tuple):  # InternVL: height and width, which are equal
        patch = patch[0]
    return Size(
        parameters=parameters,
        projector=matrices["projector"],
        language=Stack(
            layers=text.num_hidden_layers,
            matrices=matrices["language"],
            width=text.hidden_size,
            inner=text.intermediate_size,
            queries=heads * head,
            keys=key_heads * head,
            normed=text.model_type.startswith(("qwen3", "gemma3")),
        ),
        tower=_tower_of_model(vision, model.config.model_type, matrices["vision"]),
        vocabulary=text.vocab_size,
        tied=model.lm_head.weight is model.get_input_embeddings().weight,
        patches=_merged(model.config),
        patch=patch,
    )


def _matrices_of_model(model: Any) -> dict[str, tuple[Matrix, ...]]:
    """Return the matrices of one layer of language model and tower, and those of the projector."""
    from torch import nn

    found: dict[str, list[Matrix]] = {"language": [], "projector": [], "vision": []}
    for name, module in model.named_modules():
        part = part_of(f"{name}.weight")
        if not isinstance(module, nn.Linear):
            continue
        if part == "projector" or _IN_FIRST_LAYER.search(name):
            matrix = Matrix(name.rpartition(".")[2], module.in_features, module.out_features)
            found[part].append(matrix)
    return {part: tuple(sorted(matrices)) for part, matrices in found.items()}


def _tower_of_model(vision: Any, family: str, matrices: tuple[Matrix, ...]) -> Stack:
    """Return the layers of a vision tower; the families name the same sizes differently."""
    layers = getattr(vision, "depth", None) or vision.num_hidden_layers
    width = getattr(vision, "embed_dim", None) or vision.hidden_size
    inner = getattr(vision, "intermediate_size", None) or int(width * vision.mlp_ratio)
    return _tower(layers, width, inner, family, matrices)


def _merged(config: Any) -> float:
    """Return the number of patches for one visual token."""
    vision = config.vision_config
    if config.model_type == "gemma3":
        return (vision.image_size // vision.patch_size) ** 2 / config.mm_tokens_per_image
    if config.model_type == "internvl":
        return config.downsample_ratio**-2
    # The Qwen families, then SmolVLM and Idefics3; LLaVA merges nothing.
    side = getattr(vision, "spatial_merge_size", None) or getattr(config, "scale_factor", None) or 1
    return side**2
