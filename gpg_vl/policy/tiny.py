"""Build a tiny Qwen-VL: the real architecture with random weights, a tokenizer and chat template.

It has about a million parameters. A run whose model is tiny builds it in memory; a checkpoint of it
is loaded like any other.
"""

from typing import Any

from gpg_vl.config.schema import Tiny
from gpg_vl.policy.processor import image_only

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
"""Single tokens, but not special ones: they remain in decoded text."""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}<|im_end|>\n{% endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{% endif -%}"
)

PATCH = {"qwen2_vl": 14, "qwen2_5_vl": 14, "qwen3_vl": 16}
"""Side of a patch of each family, in pixels."""
MERGE = 2
"""Side of the square of patches that the projector merges into one visual token."""
_MIN_SIDE, _MAX_SIDE = 28, 1024
"""Sides of the smallest and largest image, in pixels, if it is a square."""

_CORPUS = (
    "system user assistant",
    "How many digits are there in the image?",
    "How many 3 are there?",
    "Which digit is in the image? Choices: 1, 4, 7.",
    "Which image holds more digits? Choices: first, second.",
    "Where is the digit 7?",
    "What is 12+7?",
    "Output the thinking process in and the final answer in tags.",
)
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| "
    r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Pre-tokenizer of Qwen: words, single digits, punctuation."""
_MAX_WORD_PIECES = 400
"""Largest number of tokens of the BPE, special tokens and tags not counted."""


def build_tokenizer() -> Any:
    """Build a byte-level BPE tokenizer, trained on the words of the digits questions.

    It encodes any text; unknown words are encoded byte by byte.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_bpe(),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=8192,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _bpe() -> Any:
    """Train the BPE, without importing transformers."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=_MAX_WORD_PIECES,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=alphabet,
        special_tokens=[],
    )
    bpe.train_from_iterator(_CORPUS, trainer)
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    bpe.add_special_tokens(special)
    bpe.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return bpe


def build_processor(tokenizer: Any, family: str, backend: str) -> Any:
    """Build the family's real processor class with the tiny tokenizer."""
    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    settings = {
        "patch_size": PATCH[family],
        "temporal_patch_size": 2,
        "merge_size": MERGE,
        "size": {"shortest_edge": _MIN_SIDE**2, "longest_edge": _MAX_SIDE**2},
    }
    if backend == "pil":
        images = Qwen2VLImageProcessorPil(**settings)
    else:
        images = transformers.Qwen2VLImageProcessor(**settings)
    return image_only(family, images, tokenizer, CHAT_TEMPLATE)


def build_model(tokenizer: Any, tiny: Tiny, seed: int) -> Any:
    """Build the family's real model class, in float32, with random weights from `seed`."""
    import torch
    import transformers

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    names = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
    config_class = getattr(transformers, f"{names[tiny.family]}Config")
    model_class = getattr(transformers, f"{names[tiny.family]}ForConditionalGeneration")
    config = config_class(
        text_config=_text(tiny, len(tokenizer), ids),
        vision_config=_vision(tiny),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    # The caller's generators are not changed: torch.manual_seed would seed those of GPUs too.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = model_class(config)
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    return model


def shape(tiny: Tiny) -> dict[str, Any]:
    """Return the sizes of the tiny model as in its config.json, without importing torch."""
    bpe = _bpe()
    ids = {token: bpe.token_to_id(token) for token in SPECIAL_TOKENS}
    text = _text(tiny, bpe.get_vocab_size(with_added_tokens=True), ids)
    return {
        "model_type": tiny.family,
        "text_config": text,
        "vision_config": _vision(tiny),
        "tie_word_embeddings": True,
    }


def _text(tiny: Tiny, vocabulary: int, ids: dict[str, int]) -> dict[str, Any]:
    """Return the config of the language model."""
    heads = max(1, tiny.hidden // 32)
    head_size = tiny.hidden // heads
    # About a quarter of the rotary frequencies is for time, the rest for height and width.
    frequencies = head_size // 2
    side = (frequencies - frequencies // 4) // 2
    rope: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [frequencies - 2 * side, side, side],
    }
    text: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": tiny.hidden,
        "intermediate_size": tiny.hidden * 11 // 4 // 8 * 8,  # 2.75 times, a multiple of 8
        "num_hidden_layers": tiny.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 2),
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_parameters": rope,
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    if tiny.family == "qwen3_vl":
        text["head_dim"] = head_size
        rope["mrope_interleaved"] = True
    return text


def _vision(tiny: Tiny) -> dict[str, Any]:
    """Return the config of the vision tower; the families name the same sizes differently."""
    patch = PATCH[tiny.family]
    vision = {
        "depth": tiny.vision_layers,
        "num_heads": max(1, tiny.vision_hidden // 16),
        "in_channels": 3,
        "patch_size": patch,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
    }
    if tiny.family == "qwen2_vl":
        return {
            **vision,
            "embed_dim": tiny.vision_hidden,
            "hidden_size": tiny.hidden,
            "mlp_ratio": 2,
        }
    vision |= {
        "hidden_size": tiny.vision_hidden,
        "intermediate_size": 2 * tiny.vision_hidden,
        "out_hidden_size": tiny.hidden,
    }
    if tiny.family == "qwen3_vl":
        return {
            **vision,
            "num_position_embeddings": 16 * 16,
            "deepstack_visual_indexes": [tiny.vision_layers - 1],
        }
    return {
        **vision,
        "window_size": 8 * patch,
        "fullatt_block_indexes": [tiny.vision_layers - 1],
        "hidden_act": "silu",
    }
