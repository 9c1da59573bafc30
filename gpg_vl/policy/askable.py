"""Tell from its words and picture sizes alone whether a sample can become a prompt.

No picture is opened, so that every row of a data set can be looked at before a run. `encode`
refuses whatever is refused here, and what only shows when pictures are opened.
"""

import inspect
import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gpg_vl.errors import shown
from gpg_vl.prompts import Style
from gpg_vl.types import Sample, Size

_MAX_RATIO = 10_000
"""Largest ratio of two sides that an image processor is tried with."""
_SIDE = 28
"""Shorter side of the pictures that an image processor is tried with, in pixels."""
_COUNTED_CHARACTERS = 16
"""Characters that are counted in tokens at most, for each token of the window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a model's processor that a sample may break.

    Example:
        Limits.of(policy.processor, policy.window)
    """

    special_tokens: tuple[str, ...]
    """Texts that the tokenizer reads as special tokens, wherever they stand."""
    max_aspect: float
    """Largest ratio of the longer side of a picture to the shorter one; infinity = any."""
    window: int
    """Largest number of tokens of prompt and completion together."""
    count_tokens: Callable[[str], int]
    """Returns the number of tokens of a text."""

    @classmethod
    def of(cls, processor: Any, window: int) -> "Limits":
        """Read the limits of a loaded processor.

        Args:
            window: the model's, in tokens.
        """
        return cls(
            special_tokens=_special_tokens(processor),
            max_aspect=_max_aspect(processor.image_processor),
            window=window,
            count_tokens=lambda text: len(processor.tokenizer(text)["input_ids"]),
        )


def why_unaskable(sample: Sample, style: Style, limits: Limits) -> str:
    """Return why a sample cannot become a prompt, as far as words and sizes tell; empty = it can.

    The template and the instruction of the style are not the sample's words: they may hold tokens.
    """
    try:
        turns = style.turns(sample)
    except ValueError as error:
        return str(error)
    words: list[str] = []
    for _, pieces in turns:
        words += [piece for piece in pieces if isinstance(piece, str)]
    return _why_not_words("\n".join(words), limits) or _why_not_sizes(sample.sizes, limits)


def _why_not_words(words: str, limits: Limits) -> str:
    """Return why words cannot be put into a prompt."""
    try:
        words.encode()
    except UnicodeEncodeError as error:
        sign = words[error.start]
        return (
            f"its text holds {sign!a}, half of a surrogate pair, which is no character; repair the "
            "text"
        )
    for token in limits.special_tokens:
        if token in words:
            around = words[max(0, words.index(token) - 40) :][: 80 + len(token)]
            return (
                f"its text holds {token}, a special token of the model, in {shown(around)}; the "
                "model would not read it as words: write it in another way"
            )
    if len(words) > limits.window:  # a token has at least one character, as a rule
        tokens = limits.count_tokens(words[: _COUNTED_CHARACTERS * limits.window])
        if tokens >= limits.window:
            return (
                f"its text has {len(words):,} characters, {tokens} tokens or more, the model's "
                f"window is {limits.window}; shorten it"
            )
    return ""


def _why_not_sizes(sizes: Sequence[Size], limits: Limits) -> str:
    """Return why pictures of these sizes cannot be put into a prompt."""
    for width, height in sizes:
        if max(width, height) > limits.max_aspect * min(width, height):
            return (
                f"a picture of {width} x {height} pixels: its longer side is more than "
                f"{limits.max_aspect:g} times its shorter one, which this model cannot read; crop "
                "or pad it"
            )
    return ""


@lru_cache(maxsize=4)  # some tokenizers have thousands of added tokens
def _special_tokens(processor: Any) -> tuple[str, ...]:
    """Return the texts of all special tokens, and of the placeholders of pictures and videos."""
    texts: set[str] = set()
    for token in processor.tokenizer.added_tokens_decoder.values():
        if token.special:
            texts.add(token.content)
    for name in ("image_token", "video_token", "boi_token"):
        placeholder = getattr(processor, name, None)
        if isinstance(placeholder, str) and placeholder:
            texts.add(placeholder)
    return tuple(sorted(texts))


@lru_cache(maxsize=4)
def _max_aspect(image_processor: Any) -> float:
    """Return the largest ratio of sides that an image processor accepts, in whole numbers.

    transformers keeps the limit of Qwen-VL inside the function that resizes, so it is tried.
    """
    module = sys.modules[type(image_processor).__module__]
    resize: Any = getattr(module, "smart_resize", None)
    if resize is None or not getattr(image_processor, "do_resize", True):
        return float("inf")
    needed: set[str] = set()
    for name, parameter in inspect.signature(resize).parameters.items():
        if parameter.default is inspect.Parameter.empty:
            needed.add(name)
    if needed != {"height", "width"}:  # of another family: not known
        return float("inf")

    def is_refused(ratio: int) -> bool:
        try:
            resize(height=_SIDE, width=ratio * _SIDE)
        except ValueError:
            return True
        return False

    accepted = bisect_left(range(1, _MAX_RATIO + 1), True, key=is_refused)
    return accepted if accepted < _MAX_RATIO else float("inf")
