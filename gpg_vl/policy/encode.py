"""Encode a sample as a prompt: chat template, images, token ids with one id per visual token.

A sample is encoded once; sampler and trainer use the same prompt.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from gpg_vl.errors import UnusableSampleError, UserError, one_line
from gpg_vl.pictures import open_picture
from gpg_vl.policy.askable import Limits, why_unaskable
from gpg_vl.policy.load import Policy
from gpg_vl.policy.processor import INSTALL_TORCHVISION
from gpg_vl.policy.vision import digest, pictures
from gpg_vl.prompts import Message, Style
from gpg_vl.types import Prompt, Sample, Size

_THOUGHT = re.compile(r"</?think>")


def encode(sample: Sample, style: Style, policy: Policy) -> Prompt:
    """Encode the question of a sample and its images.

    Raises:
        UnusableSampleError: an image cannot be read, the words of the sample hold a special token
            or marks that do not agree with its images, the processor cannot take it, or the prompt
            is longer than the model's window (it is never truncated).
        UserError: the chat template cannot be used for any sample.
    """
    why = why_unaskable(sample, style, Limits.of(policy.processor, policy.window))
    if why:
        raise UnusableSampleError(f"{one_line(sample.id)}: {why}")
    messages = style.messages(sample)
    if _contain_images(messages):  # a prompt style of your own may do that
        return encode_messages(messages, sample, policy, opening=style.opening)
    text = _sample_text(sample, style, messages, policy.processor)
    images = _in_places(open_images(sample), messages)
    return encode_text(text, images, sample, policy)


def _contain_images(messages: list[Message]) -> bool:
    """Return True if chat messages hold images or videos, not only their places."""
    return any(part.keys() - {"type", "number"} for part in _media(messages))


def _in_places(images: list[Image.Image], messages: list[Message]) -> list[Image.Image]:
    """Return images in the order of their places, where the places are numbered."""
    numbers = [part["number"] for part in _media(messages) if "number" in part]
    if not numbers:
        return images
    return [images[number - 1] for number in numbers]


def _media(messages: list[Message]) -> list[dict[str, Any]]:
    """Return the images and videos of chat messages, or their places, in order."""
    media: list[dict[str, Any]] = []
    for message in messages:
        if not isinstance(message["content"], str):
            media += [part for part in message["content"] if part["type"] in {"image", "video"}]
    return media


def _sample_text(sample: Sample, style: Style, messages: list[Message], processor: Any) -> str:
    """Render the chat of a sample.

    Raises:
        UnusableSampleError: the chat template refuses its earlier turns (their order, their roles)
            or moves its images.
        UserError: the template refuses the question without them, too.
    """
    if _have_words_first(messages) and not _keeps_places(processor):
        raise UnusableSampleError(
            f"{one_line(sample.id)}: an image has its place behind words, and the chat template of "
            "the model puts all images first; leave the marks out if their places do not matter"
        )
    try:
        return _chat_text(processor, messages, style.opening)
    except UserError as error:
        if not sample.context:
            raise
        bare = replace(sample, context=(), question="?", images=(), sizes=())
        _render(processor, style.messages(bare))
        raise UnusableSampleError(
            f"{one_line(sample.id)}: with its earlier turns, {error}"
        ) from error


def _have_words_first(messages: list[Message]) -> bool:
    """Return True where an image stands behind words of its own turn."""
    for message in messages:
        if not isinstance(message["content"], str):
            kinds = [part["type"] for part in message["content"]]
            if "text" in kinds and "image" in kinds[kinds.index("text") :]:
                return True
    return False


def _keeps_places(processor: Any) -> bool:
    """Return True where a chat template writes an image at its place between words."""
    before, after = {"type": "text", "text": "Before."}, {"type": "text", "text": "Behind."}
    content = [before, {"type": "image"}, after]
    text = _render(processor, [{"role": "user", "content": content}])
    return "Before." in text.partition(_placeholder(processor))[0]


def encode_messages(
    messages: list[Message], sample: Sample, policy: Policy, *, opening: str = ""
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
    text = _render(processor, _harmless(question))
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


def _harmless(question: str) -> list[Message]:
    """Return a chat with a picture and a question that any model can read."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def _chat_text(processor: Any, messages: list[Message], opening: str) -> str:
    """Render chat messages and add the opening, unless the chat template has written it itself."""
    text = _render(processor, messages)
    if opening and text.rstrip().endswith(opening):
        return text
    return text + opening


def _render(processor: Any, messages: list[Message]) -> str:
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
        UnusableSampleError: the text has another number of placeholders, the processor cannot take
            text or images, or the prompt is longer than the model's window.
    """
    placeholder = _placeholder(policy.processor)
    if text.count(placeholder) != len(images):
        raise UnusableSampleError(
            f"{one_line(sample.id)}: {len(images)} images, but the text holds "
            f"{text.count(placeholder)} image placeholders"
        )
    try:
        features = _processed(policy.processor, text, images)
    except Exception as error:  # a processor may raise anything for a row that it cannot take
        _check_works(policy.processor)
        why = f"{type(error).__name__}: {one_line(error)}"
        raise UnusableSampleError(
            f"{one_line(sample.id)}: its processor cannot take it: {why}"
        ) from error
    input_ids = features.pop("input_ids")
    if input_ids.shape[1] >= policy.window:
        raise UnusableSampleError(
            f"{one_line(sample.id)}: its prompt has {input_ids.shape[1]} tokens, the model's "
            f"window is {policy.window}"
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


def _processed(processor: Any, text: str, images: list[Image.Image]) -> dict[str, Any]:
    """Return the token ids of a chat text and the pixels of its images."""
    options = {"return_tensors": "pt", "return_mm_token_type_ids": True}
    return dict(processor(text=[text], images=images or None, **options))


def _check_works(processor: Any) -> None:
    """Process a harmless chat; what is raised then is no fault of a row, and ends the run."""
    text = _render(processor, _harmless("What is to be seen?"))
    _processed(processor, text, [Image.new("RGB", (224, 224), "grey")])


def open_images(sample: Sample) -> list[Image.Image]:
    """Open the images of a sample as RGB, in order.

    Raises:
        UnusableSampleError: an image cannot be read, or is another one than when the rows were
            read: boxes would be scored in its old size. Or only its size is known.
    """
    if sample.sizes and not sample.images:
        raise UnusableSampleError(
            f"{one_line(sample.id)}: it has sizes of pictures and no pictures; name them under "
            "`columns: {images: ...}`, or take `sizes` out of a question that needs none"
        )
    images = [open_picture(image) for image in sample.images]
    sizes = tuple(image.size for image in images)
    if sample.sizes and sizes != sample.sizes:
        raise UnusableSampleError(
            f"{one_line(sample.id)}: its pictures have {_in_words(sizes)} pixels, and had "
            f"{_in_words(sample.sizes)} when the rows were read; start anew with the right ones"
        )
    return images


def _in_words(sizes: Iterable[Size]) -> str:
    """Return sizes for a sentence."""
    return one_line(", ".join(f"{width} x {height}" for width, height in sizes))


def read_images(messages: list[Message]) -> list[Image.Image]:
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
    return [open_picture(source) for source in sources]


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
