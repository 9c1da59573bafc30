"""Prompts, completions, groups and pictures written by hand, without a model."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from PIL import Image

from gpg_vl.types import Completion, Group, Prompt, Sample, Size, Verdict


def prompt(
    number: int = 1,
    *,
    tokens: int | Sequence[int] = 1,
    images: int = 0,
    kind: str = "number",
    task: str = "add",
) -> Prompt:
    """Make question `q{number}`.

    Args:
        tokens: its ids, or how many there are; each is its number then.
        images: number of pictures, all different.
    """
    ids = (number,) * tokens if isinstance(tokens, int) else tuple(tokens)
    sample = Sample(id=f"q{number}", question="?", answer_kind=kind, answer=1, tags={"task": task})
    shown = tuple(Image.new("RGB", (3, 2), (place, 0, 0)) for place in range(images))
    digests = tuple(f"picture {place}" for place in range(images))
    return Prompt(
        sample=sample, text=f"q{number}", input_ids=ids, features={}, pictures=digests, images=shown
    )


def completion(
    token_ids: Sequence[int] = (1,),
    logprobs: Sequence[float] | float = 0.0,
    *,
    text: str = "",
    finish: Literal["stop", "length"] = "stop",
    version: int = 0,
) -> Completion:
    """Make an answer; one number for `logprobs` is every token's."""
    if isinstance(logprobs, int | float):
        each = (float(logprobs),) * len(token_ids)
    else:
        each = tuple(logprobs)
    return Completion(
        token_ids=tuple(token_ids), logprobs=each, text=text, finish=finish, version=version
    )


def answers(*lengths: int) -> list[Completion]:
    """Make answers of so many tokens."""
    return [completion((5,) * length) for length in lengths]


def group(
    rewards: Sequence[float],
    completions: Sequence[Completion] | None = None,
    *,
    asked: Prompt | None = None,
    parts: Sequence[Mapping[str, float]] | None = None,
    reason: str = "wrong",
    fault: str = "fault",
    draw: int = 0,
) -> Group:
    """Make a group of answers of one token to question `q{draw}`, unless others are given.

    Args:
        draw: prompt index.
        fault: reason of answers whose reward is NaN.
    """
    verdicts = tuple(
        Verdict(reward=reward, parts=part, reason=fault if math.isnan(reward) else reason)
        for reward, part in zip(rewards, parts or [{}] * len(rewards), strict=True)
    )
    if completions is None:
        completions = answers(*[1] * len(rewards))
    return Group(
        prompt=asked or prompt(draw),
        completions=tuple(completions),
        verdicts=verdicts,
        prompt_index=draw,
    )


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return the bytes of a file of this picture."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(size: Size = (56, 56), colour: Any = "red", mode: str = "RGB") -> bytes:
    """Return a file of a picture of one colour."""
    return encoded(Image.new(mode, size, colour))


def names(events: Sequence[Any]) -> list[str]:
    """Return the names of events that are a name or begin with one, in order."""
    return [event if isinstance(event, str) else event[0] for event in events]
