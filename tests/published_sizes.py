"""config.json of published models, with nothing beside it: what their authors wrote, sizes only,
flat as Qwen2-VL's are or nested."""

import json
from pathlib import Path
from typing import Any

_2B = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
}
_3B = {
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
}
_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
_4B = {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
_GRID = {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
_TOWER_2 = {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, **_GRID}
_TOWER_2_5 = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, **_GRID}
_TOWER_3 = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
    **_GRID,
    "patch_size": 16,
}

SHAPES: dict[str, dict[str, Any]] = {
    "Qwen2-VL-2B": {
        "model_type": "qwen2_vl",
        **_2B,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        "vision_config": {**_TOWER_2, "hidden_size": 1536},
    },
    "Qwen2.5-VL-3B": {
        "model_type": "qwen2_5_vl",
        **_3B,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        "vision_config": {**_TOWER_2_5, "out_hidden_size": 2048},
    },
    "Qwen2.5-VL-7B": {
        "model_type": "qwen2_5_vl",
        **_7B,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
        "vision_config": {**_TOWER_2_5, "out_hidden_size": 3584},
    },
    "Qwen3-VL-4B": {
        "model_type": "qwen3_vl",
        "text_config": {**_4B, "head_dim": 128, "vocab_size": 151936},
        "tie_word_embeddings": True,
        "vision_config": {
            **_TOWER_3,
            "out_hidden_size": 2560,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [5, 11, 17],
        },
    },
}


def write(name: str, folder: Path) -> Path:
    """A folder that holds nothing but the config.json of a published model."""
    made = folder / name
    made.mkdir(parents=True, exist_ok=True)
    (made / "config.json").write_text(json.dumps(SHAPES[name]))
    return made
