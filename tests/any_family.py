"""Tiny random models of every family, with prompts made by hand: their processors are not what
is tested here."""

from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForImageTextToText
from transformers import models as architectures

from gpg_vl.boxes import Frame
from gpg_vl.policy.families import Sharing, why_not_shared
from gpg_vl.policy.load import Policy
from gpg_vl.policy.vision import Vision, digest, pictures
from gpg_vl.types import Prompt, Sample

VOCABULARY, PAD, END, IMAGE, BEGIN = 300, 1, 2, 299, 298

TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": PAD,
    "eos_token_id": END,
    "bos_token_id": None,
}
SIGHT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
TOKENS = {"smolvlm": 4, "idefics3": 4, "internvl": 4, "llava": 16, "gemma3": 4, "qwen3_5": 4}
"""Visual tokens of a picture of 32 x 32 pixels."""


def _config(family: str) -> Any:
    if family in {"smolvlm", "idefics3"}:
        kind = (
            architectures.smolvlm.SmolVLMConfig
            if family == "smolvlm"
            else architectures.idefics3.Idefics3Config
        )
        return kind(
            text_config={**TEXT, "model_type": "llama"},
            vision_config=SIGHT,
            scale_factor=2,
            image_token_id=IMAGE,
            pad_token_id=PAD,
        )
    if family == "internvl":
        sight = {**SIGHT, "image_size": [32, 32], "patch_size": [8, 8]}
        return architectures.internvl.InternVLConfig(
            text_config={**TEXT, "model_type": "qwen2"},
            vision_config=sight,
            image_token_id=IMAGE,
            image_seq_length=4,
        )
    if family == "llava":
        sight = {**SIGHT, "model_type": "clip_vision_model", "projection_dim": 32}
        return architectures.llava.LlavaConfig(
            text_config={**TEXT, "model_type": "llama"},
            vision_config=sight,
            image_token_index=IMAGE,
        )
    if family == "gemma3":  # windows of 8 tokens, shorter than any prompt below; one full layer
        text = {
            **TEXT,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        }
        return architectures.gemma3.Gemma3Config(
            text_config=text,
            vision_config=SIGHT,
            mm_tokens_per_image=4,
            boi_token_index=BEGIN,
            eoi_token_index=BEGIN - 1,
            image_token_index=IMAGE,
        )
    assert family == "qwen3_5"
    text = {
        **TEXT,
        "layer_types": ["linear_attention", "linear_attention", "full_attention"],
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 1, 1],
            "mrope_interleaved": True,
            "partial_rotary_factor": 0.5,
        },
    }
    sight = {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 48,
        "patch_size": 8,
        "out_hidden_size": 64,
    }
    return architectures.qwen3_5.Qwen3_5Config(
        text_config=text,
        vision_config={**sight, "num_position_embeddings": 16},
        image_token_id=IMAGE,
        video_token_id=IMAGE - 5,
        vision_start_token_id=BEGIN,
        vision_end_token_id=BEGIN - 1,
    )


def policy_of_family(
    family: str, dtype: torch.dtype = torch.float64, *, vision: bool = True
) -> Policy:
    """A policy with a tiny random model; `vision` = tower and projector are trained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(_config(family)).to(dtype).eval()
        for parameter in model.parameters():
            if (
                parameter.dim() > 1 and not parameter.any()
            ):  # Gemma 3's projector is born as zeros: a model that sees nothing
                torch.nn.init.normal_(parameter, std=0.05)
    for name, parameter in model.named_parameters():
        if (
            not vision
            and "language_model" not in name
            and "text_model" not in name
            and "lm_head" not in name
        ):
            parameter.requires_grad_(False)
    return Policy(
        model=model,
        processor=SimpleNamespace(
            tokenizer=SimpleNamespace(decode=lambda ids, **_: " ".join(map(str, ids)))
        ),
        frame=Frame(),
        end_ids=frozenset({END}),
        banned_ids=(IMAGE,),
        pad_id=PAD,
        window=4096,
        dtype=dtype,
        image_backend="pil",
        vision=Vision(model, None),
        sharing=Sharing(why_not_shared(model)),
    )


def hand_made(family: str, count: int, words: int, seed: int) -> Prompt:
    """A prompt with `count` random pictures and `words` random words."""
    draw = torch.Generator().manual_seed(seed)
    text = torch.randint(3, 250, (words,), generator=draw).tolist()
    seen = [BEGIN, *[IMAGE] * TOKENS[family], BEGIN - 1] * count
    features = _pixels(family, count, draw) if count else {}
    sample = Sample(id=f"{count}-{words}-{seed}", question="?", answer_kind="number", answer=1)
    return Prompt(
        sample=sample,
        text="",
        input_ids=(*text[:2], *seen, *text[2:]),
        features=features,
        pictures=tuple(map(digest, pictures(features))),
    )


def _pixels(family: str, count: int, draw: torch.Generator) -> dict[str, torch.Tensor]:
    if family == "qwen3_5":
        grid = torch.tensor([[1, 4, 4]] * count)
        return {
            "pixel_values": torch.randn(16 * count, 3 * 2 * 8 * 8, generator=draw),
            "image_grid_thw": grid,
        }
    pixels = torch.randn(count, 3, 32, 32, generator=draw)
    return {"pixel_values": pixels[None] if family in {"smolvlm", "idefics3"} else pixels}
