"""Encode a sample as a prompt: chat template, images, token ids with one id per visual token.

A sample is encoded once; sampler and trainer use the same prompt.
"""

import io
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from gpg_vl.errors import UnusableSampleError, UserError, one_line
from gpg_vl.policy.load import Policy
from gpg_vl.policy.processor import INSTALL_TORCHVISION
from gpg_vl.policy.vision import digest, pictures
from gpg_vl.prompts import Style
from gpg_vl.types import Prompt, Sample

_THOUGHT = re.compile(r"</?think>")


def encode(sample: Sample, style: Style, policy: Policy) -> Prompt:
    """Encode the question of a sample and its images.

    Raises:
        UnusableSampleError: an image cannot be read, or the prompt is longer than the model's
            window (it is never truncated).
        UserError: the question itself contains an image placeholder.
    """
    messages = style.messages(sample)
    if _contain_images(messages):  # a prompt style of your own may do that
        return encode_messages(messages, sample, policy, opening=style.opening)
    text = _chat_text(policy.processor, messages, style.opening)
    return encode_text(text, open_images(sample), sample, policy)


def _contain_images(messages: list[dict[str, Any]]) -> bool:
    """Return True if chat messages hold images or videos, not only their places."""
    for message in messages:
        if not isinstance(message["content"], str):
            for part in message["content"]:
                if part["type"] in {"image", "video"} and len(part) > 1:
                    return True
    return False


def encode_messages(
    messages: list[dict[str, Any]], sample: Sample, policy: Policy, *, opening: str = ""
) -> Prompt:
    """Encode chat messages that name their images themselves, in any form that qwen-vl-utils reads.

    Args:
        opening: the part of the answer that the prompt already contains.
    """
    text = _chat_text(policy.processor, messages, opening)
    return encode_text(text, read_images(messages), sample, policy)


def template_thought(processor: Any) -> str:
    """Return the last thought tag that a chat template writes after a question by itself.

    Returns:
        <think>, </think> or an empty string.

    Raises:
        UserError: the template cannot be rendered, or leaves out the picture or the question.
    """
    question = "What is to be seen?"
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = _render(processor, [{"role": "user", "content": content}])
    # "'type':" appears where a template prints the list of parts instead of reading it.
    if question not in text or "'type':" in text or text.count(_placeholder(processor)) != 1:
        raise UserError(
            f"policy.model: its chat template makes {text[:200]!r} of a picture and a question; "
            "expected the place of one picture and the question in words: it is not the template "
            "of this vision-language model, copy chat_template.jinja from there"
        )
    tags = _THOUGHT.findall(text.rpartition(question)[2])
    if not tags:
        return ""
    return tags[-1]


def _chat_text(processor: Any, messages: list[dict[str, Any]], opening: str) -> str:
    """Render chat messages and add the opening, unless the chat template has written it itself."""
    text = _render(processor, messages)
    if opening and text.rstrip().endswith(opening):
        return text
    return text + opening


def _render(processor: Any, messages: list[dict[str, Any]]) -> str:
    """Render chat messages up to the beginning of the answer."""
    try:
        return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # a template may raise anything: a TemplateError, a TypeError...
        why = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"policy.model: its chat template cannot be used: {why}") from error


def _placeholder(processor: Any) -> str:
    """Return the text that stands for a picture in chat text."""
    # Gemma 3's chat text has the token that begins an image, not the token of the image itself.
    return getattr(processor, "boi_token", processor.image_token)


def encode_text(text: str, images: list[Image.Image], sample: Sample, policy: Policy) -> Prompt:
    """Encode chat text that has one placeholder for each image.

    Raises:
        UnusableSampleError: the prompt is longer than the model's window.
        UserError: the text has another number of placeholders.
    """
    processor = policy.processor
    placeholder = _placeholder(processor)
    if text.count(placeholder) != len(images):
        raise UserError(
            f"{sample.id}: {len(images)} images, but the text holds {text.count(placeholder)} image"
            " placeholders"
        )
    features = dict(
        processor(
            text=[text], images=images or None, return_tensors="pt", return_mm_token_type_ids=True
        )
    )
    input_ids = features.pop("input_ids")
    if input_ids.shape[1] >= policy.window:
        raise UnusableSampleError(
            f"{sample.id}: its prompt has {input_ids.shape[1]} tokens, the model's window is "
            f"{policy.window}"
        )
    features.pop("attention_mask")
    return Prompt(
        sample=sample,
        text=text,
        input_ids=tuple(input_ids[0].tolist()),
        features=features,
        pictures=tuple(digest(picture) for picture in pictures(features)),
        images=tuple(images),
    )


def open_images(sample: Sample) -> list[Image.Image]:
    """Open the images of a sample as RGB, in order.

    Raises:
        UnusableSampleError: an image cannot be read.
    """
    return [_open(image) for image in sample.images]


def read_images(messages: list[dict[str, Any]]) -> list[Image.Image]:
    """Open the images that chat messages name, as RGB, in order.

    Paths and encoded bytes are opened here. Any other form (a URL, base64, a video) is left to
    qwen-vl-utils.

    Raises:
        UnusableSampleError: an image cannot be read.
        UserError: qwen-vl-utils is needed and cannot be imported.
    """
    sources: list[Path | bytes] = []
    for message in messages:
        if isinstance(message["content"], str):
            continue
        for part in message["content"]:
            if part["type"] not in {"image", "video"}:
                continue
            if part["type"] == "video" or not isinstance(part["image"], Path | bytes):
                return _fetch_images(messages)
            sources.append(part["image"])
    return [_open(source) for source in sources]


def _open(image: Path | bytes) -> Image.Image:
    """Open a file or encoded bytes as an RGB image."""
    name, source = f"image {image}", image
    if isinstance(image, bytes):
        name, source = "image bytes", io.BytesIO(image)
    try:
        with Image.open(source) as opened:
            if opened.mode in {"RGBA", "LA", "P"}:  # the modes that may have transparent pixels
                return _on_white(opened)
            return opened.convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise UnusableSampleError(f"{name} cannot be read: {error}") from None


def _on_white(image: Image.Image) -> Image.Image:
    """Put an image on a white ground, as it appears on a page.

    A plain conversion to RGB would show the colours that are stored under transparent pixels.
    """
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _fetch_images(messages: list[dict[str, Any]]) -> list[Image.Image]:
    """Fetch images and the frames of videos with qwen-vl-utils."""
    try:
        utils: Any = import_module("qwen_vl_utils")
    except (ImportError, RuntimeError):
        raise UserError(
            "messages name images or videos that only qwen-vl-utils can fetch, and it needs "
            f"torchvision; {INSTALL_TORCHVISION}"
        ) from None
    images, videos = utils.process_vision_info(messages)
    fetched = list(images or [])
    for frames in videos or []:
        fetched.extend(frames)
    return fetched
