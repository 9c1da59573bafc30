"""Alter prompts (other pictures, no pictures, other words) to tell engine faults apart."""

import numpy as np
from PIL import Image

from gpg_vl.policy.encode import encode_text
from gpg_vl.policy.load import Policy
from gpg_vl.randomness import seed
from gpg_vl.types import Prompt

GREY = (128, 128, 128)


def with_grey_pictures(prompt: Prompt, policy: Policy) -> Prompt:
    """Replace all pictures by grey ones of the same sizes."""
    grey = [Image.new("RGB", image.size, GREY) for image in prompt.images]
    return encode_text(prompt.text, grey, prompt.sample, policy)


def with_new_pictures(prompt: Prompt, policy: Policy, *address: int) -> Prompt:
    """Replace all pictures by noise of the same sizes, which no encoder cache contains.

    Args:
        address: numbers that make the noise differ from call to call.
    """
    generator = np.random.default_rng(seed("noise", prompt.sample.id, *address))
    noise: list[Image.Image] = []
    for image in prompt.images:
        shape = (image.height, image.width, 3)
        noise.append(Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)))
    return encode_text(prompt.text, noise, prompt.sample, policy)


def with_new_words(prompt: Prompt, policy: Policy, *address: int) -> Prompt:
    """Put a random number in front of the text, so that no prefix cache contains the prompt.

    Args:
        address: numbers that make the number differ from call to call.
    """
    text = f"{seed(prompt.text, *address)} {prompt.text}"
    return encode_text(text, list(prompt.images), prompt.sample, policy)


def without_pictures(prompt: Prompt, policy: Policy) -> Prompt:
    """Remove all pictures and their placeholders."""
    text = prompt.text.replace(policy.processor.image_token, "")
    return encode_text(text, [], prompt.sample, policy)
