"""Prompts with other pictures, none, or other words: to tell one fault of an engine from another."""

import numpy as np
from PIL import Image

from gpg_vl.policy.encode import encode_text
from gpg_vl.policy.load import Policy
from gpg_vl.randomness import seed
from gpg_vl.types import Prompt

GREY = (128, 128, 128)


def with_grey_pictures(prompt: Prompt, policy: Policy) -> Prompt:
    """The same prompt with grey pictures of the same sizes."""
    return encode_text(prompt.text, [Image.new("RGB", image.size, GREY) for image in prompt.images], prompt.sample, policy)


def with_new_pictures(prompt: Prompt, policy: Policy, *address: int) -> Prompt:
    """The same prompt with noise of the same sizes that no cache has met."""
    draw = np.random.default_rng(seed("noise", prompt.sample.id, *address))
    noise = [Image.fromarray(draw.integers(0, 256, (image.height, image.width, 3), dtype=np.uint8)) for image in prompt.images]
    return encode_text(prompt.text, noise, prompt.sample, policy)


def with_new_words(prompt: Prompt, policy: Policy, *address: int) -> Prompt:
    """The same prompt behind other first words: from there on no prefix is known."""
    return encode_text(f"{seed(prompt.text, *address)} {prompt.text}", list(prompt.images), prompt.sample, policy)


def without_pictures(prompt: Prompt, policy: Policy) -> Prompt:
    """The words alone."""
    return encode_text(prompt.text.replace(policy.processor.image_token, ""), [], prompt.sample, policy)
