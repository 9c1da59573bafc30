"""Tiny checkpoints in the published format of families whose processors need no torchvision."""

from pathlib import Path

import torch
import transformers
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from gpg_vl.policy import tiny
from tests.any_family import SIGHT, TEXT


def other_checkpoint(family: str, folder: Path) -> Path:
    """Write a tiny checkpoint in the published format of a family."""
    tokenizer = tiny.build_tokenizer()
    extra = ["<image>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    tokenizer.add_special_tokens({"additional_special_tokens": extra})
    ids = dict(zip(extra, tokenizer.convert_tokens_to_ids(extra), strict=True))
    text = {
        **TEXT,
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if family == "llava":
        tokenizer.chat_template = tiny.CHAT_TEMPLATE.replace(
            "<|vision_start|><|image_pad|><|vision_end|>", "<image>"
        )
        images = CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )
        built = transformers.LlavaProcessor(
            images,
            tokenizer,
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=tokenizer.chat_template,
        )
        sight = {**SIGHT, "model_type": "clip_vision_model", "projection_dim": 32}
        config = transformers.LlavaConfig(
            text_config={**text, "model_type": "llama"},
            vision_config=sight,
            image_token_index=ids["<image>"],
        )
    else:
        tokenizer.chat_template = tiny.CHAT_TEMPLATE.replace(
            "<|vision_start|><|image_pad|><|vision_end|>", "<start_of_image>"
        )
        names = dict(zip(("boi_token", "eoi_token", "image_token"), extra[1:], strict=True))
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer,
            eos_token=tokenizer.eos_token,
            pad_token=tokenizer.pad_token,
            model_specific_special_tokens=names,
            chat_template=tokenizer.chat_template,
        )
        images = Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
        built = transformers.Gemma3Processor(
            images, tokenizer, chat_template=tokenizer.chat_template, image_seq_length=4
        )
        config = transformers.Gemma3Config(
            text_config=text,
            vision_config=SIGHT,
            mm_tokens_per_image=4,
            boi_token_index=ids["<start_of_image>"],
            eoi_token_index=ids["<end_of_image>"],
            image_token_index=ids["<image_soft_token>"],
        )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    built.save_pretrained(folder)
    return folder
