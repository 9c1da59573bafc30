"""Sample -> Prompt: chat template, images, expanded ids. Called once for a drawn sample; sampler and trainer share the result."""

import io
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from gpg_vl.errors import UnusableSampleError, UserError
from gpg_vl.policy.load import Policy
from gpg_vl.policy.processor import INSTALL_TORCHVISION
from gpg_vl.policy.vision import digest, pictures
from gpg_vl.prompts import Style
from gpg_vl.types import Prompt, Sample

_THOUGHT = re.compile(r"</?think>")


def encode(sample: Sample, style: Style, policy: Policy) -> Prompt:
    """The prompt of one sample.

    Raises:
        UnusableSampleError: an image cannot be read, or the prompt is longer than the model's window (never truncated).
        UserError: the question itself contains an image placeholder.
    """
    return encode_messages(style.messages(sample), sample, policy, opening=style.opening)


def encode_messages(messages: list[dict[str, Any]], sample: Sample, policy: Policy, *, opening: str = "") -> Prompt:
    """A prompt from chat messages; `opening` is what the prompt already says of the answer."""
    text = _rendered(policy.processor, messages)
    opened = opening and text.rstrip().endswith(opening)  # by the chat template itself
    return encode_text(text if opened else text + opening, read_images(messages), sample, policy)


def template_thought(processor: Any) -> str:
    """The last thought tag that a chat template writes behind a question by itself: <think>, </think> or none.

    Raises:
        UserError: the template cannot be rendered, or does not show the picture and the question that it is given.
    """
    question = "What is to be seen?"
    text = _rendered(processor, [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}])
    if question not in text or "'type':" in text or text.count(_placeholder(processor)) != 1:
        raise UserError(
            f"policy.model: its chat template makes {text[:200]!r} of a picture and a question; expected the place of one picture and the "
            "question in words: it is not the template of this vision-language model, copy chat_template.jinja from there"
        )
    tags = _THOUGHT.findall(text.rpartition(question)[2])
    return tags[-1] if tags else ""


def _rendered(processor: Any, messages: list[dict[str, Any]]) -> str:
    """Chat text up to where the answer begins."""
    try:
        return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # whatever a template raises: a TemplateError, a TypeError...
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"policy.model: its chat template cannot be used: {why}") from error


def _placeholder(processor: Any) -> str:
    """What stands for a picture in chat text."""
    return getattr(processor, "boi_token", processor.image_token)  # Gemma 3's text holds where an image begins


def encode_text(text: str, images: list[Image.Image], sample: Sample, policy: Policy) -> Prompt:
    """A prompt from chat text with one placeholder an image."""
    processor = policy.processor
    placeholder = _placeholder(processor)
    if text.count(placeholder) != len(images):
        raise UserError(f"{sample.id}: {len(images)} images, but the text holds {text.count(placeholder)} image placeholders")
    features = dict(processor(text=[text], images=images or None, return_tensors="pt", return_mm_token_type_ids=True))
    input_ids = features.pop("input_ids")
    if input_ids.shape[1] >= policy.window:
        raise UnusableSampleError(f"{sample.id}: its prompt has {input_ids.shape[1]} tokens, the model's window is {policy.window}")
    features.pop("attention_mask")
    seen = tuple(map(digest, pictures(features)))
    return Prompt(sample=sample, text=text, input_ids=tuple(input_ids[0].tolist()), features=features, pictures=seen, images=tuple(images))


def read_images(messages: list[dict[str, Any]]) -> list[Image.Image]:
    """The images of chat messages, in order, as RGB.

    Paths and encoded bytes are opened here; any other way to name vision (a URL, base64, a video) is left to qwen-vl-utils.
    """
    contents = [part for message in messages if not isinstance(message["content"], str) for part in message["content"]]
    shown = [part for part in contents if part["type"] in {"image", "video"}]
    if all(part["type"] == "image" and isinstance(part["image"], Path | bytes) for part in shown):
        return [_open(part["image"]) for part in shown]
    return _fetched(messages)


def _open(image: Path | bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            return _on_white(opened) if opened.mode in {"RGBA", "LA", "P"} else opened.convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise UnusableSampleError(f"image {'bytes' if isinstance(image, bytes) else image} cannot be read: {error}") from None


def _on_white(image: Image.Image) -> Image.Image:
    """Transparent pixels become white, as a person would see them on a page, not whatever colour lies beneath."""
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _fetched(messages: list[dict[str, Any]]) -> list[Image.Image]:
    try:
        utils: Any = import_module("qwen_vl_utils")
    except (ImportError, RuntimeError):
        raise UserError(
            f"messages name images or videos that only qwen-vl-utils can fetch, and it needs torchvision; {INSTALL_TORCHVISION}"
        ) from None
    images, videos = utils.process_vision_info(messages)
    frames = [frame for video in videos or [] for frame in video]
    return [*(images or []), *frames]
