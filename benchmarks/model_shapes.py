"""Write checkpoints with random weights for the benchmarks: their cost is that of trained ones.

Shapes: tiny; mid (hidden 512, vocabulary 152k); and two published architectures, by the numbers of
their config.json on the hub: Qwen/Qwen2.5-VL-3B-Instruct and Qwen/Qwen2-VL-2B-Instruct. All use the
tiny tokenizer, whose ids are valid in each of the vocabularies.
"""

from pathlib import Path
from typing import Any

import torch

from gpg_vl.config.schema import Tiny
from gpg_vl.policy import tiny
from gpg_vl.policy.processor import choose_backend

VOCABULARY = 151936
"""Vocabulary of Qwen2-VL and Qwen2.5-VL (3B)."""
MID = Tiny(hidden=512, layers=8, vision_hidden=256, vision_layers=4)

_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768,
}
_ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
_TOWER = {
    "depth": 32,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "qwen2_5_vl_3b": {
        "family": "qwen2_5_vl",
        "text": {
            **_TEXT,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
        },
        "vision": {
            **_TOWER,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "out_hidden_size": 2048,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "hidden_act": "silu",
        },
    },
    "qwen2_vl_2b": {
        "family": "qwen2_vl",
        "text": {
            **_TEXT,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
        },
        "vision": {**_TOWER, "embed_dim": 1280, "hidden_size": 1536, "mlp_ratio": 4},
    },
}

TOY_TEXT = {
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
TOY_VISION: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {
        "depth": 2,
        "num_heads": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "out_hidden_size": 256,
        "fullatt_block_indexes": [1],
    },
    "qwen2_vl": {"depth": 2, "num_heads": 2, "embed_dim": 64, "hidden_size": 256},
}
"""Sizes that `--toy` puts over those of a published architecture, by family."""


def write(shape: str, folder: Path, *, toy: bool = False) -> Path:
    """Build a model of this shape and its processor, and write them as a checkpoint.

    Args:
        toy: keep the architecture of a published shape, with a few small layers.
    """
    tokenizer = tiny.build_tokenizer()
    if shape in PUBLISHED:
        model = _published(PUBLISHED[shape], tokenizer, toy=toy)
    else:
        model = _small(shape, tokenizer)
    processor = tiny.build_processor(tokenizer, model.config.model_type, choose_backend("auto"))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _small(shape: str, tokenizer: Any) -> Any:
    """Build `tiny`, `mid`, or `tiny_152k`: the tiny model with a vocabulary of the usual size."""
    model = tiny.build_model(tokenizer, MID if shape == "mid" else Tiny(), seed=0)
    if shape != "tiny":
        model.resize_token_embeddings(VOCABULARY, mean_resizing=False)
    return model


def _published(numbers: dict[str, Any], tokenizer: Any, *, toy: bool) -> Any:
    """Build a published architecture in bfloat16, on the GPU if there is one."""
    import transformers

    name = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL"}[numbers["family"]]
    text, vision = dict(numbers["text"]), dict(numbers["vision"])
    if toy:
        text |= TOY_TEXT
        vision |= TOY_VISION[numbers["family"]]
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in tiny.SPECIAL_TOKENS}
    config = getattr(transformers, f"{name}Config")(
        text_config={
            **text,
            "rope_parameters": _ROPE,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = getattr(transformers, f"{name}ForConditionalGeneration")(config).to(torch.bfloat16)
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    return model
