"""Make the rows of `rollouts/`: a question, and every answer with its verdict."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpg_vl.run_folder.json_lines import json_value
from gpg_vl.types import Corners, Group, Sample

TrueBoxes = Callable[[Sample], Sequence[Corners] | None]
"""Returns the true boxes of a sample in pixels of its picture; None = its answers are no boxes."""
Reference = Callable[[Path | bytes], dict[str, Any]]
"""Returns how to find a picture."""


def no_boxes(sample: Sample) -> Sequence[Corners] | None:
    """Return None: no answers are boxes."""
    del sample


def original(image: Path | bytes) -> dict[str, Any]:
    """Return how to find a picture that is not kept: the file that it came from, if any."""
    if isinstance(image, Path):
        return {"file": None, "original": str(image.absolute())}
    return {"file": None}


def group_row(
    group: Group,
    *,
    used: bool,
    weights: Sequence[float] | None = None,
    reference: Reference = original,
    true_boxes: TrueBoxes = no_boxes,
) -> dict[str, Any]:
    """Return a group as JSON: the question once, then every answer with its verdict.

    The reward of an answer whose verifier failed is NaN, which JSON does not have: it is null.
    Where answers are boxes, they and the true ones are given in pixels too, of the picture as a
    person sees it (upright).

    Args:
        weights: [G] of each token of an answer in the update; None = the group has none.
        reference: returns how to find a picture.
        true_boxes: returns the true boxes of a sample.
    """
    sample = group.prompt.sample
    truths = true_boxes(sample)
    answers: list[dict[str, Any]] = []
    weights_or_none = weights if weights is not None else [None] * len(group.completions)
    for completion, verdict, weight in zip(
        group.completions, group.verdicts, weights_or_none, strict=True
    ):
        answer = {
            "text": completion.text,
            "token_ids": completion.token_ids,
            "logprobs": completion.logprobs,
            "finish": completion.finish,
            "version": completion.version,
            "reward": verdict.reward,
            "parts": dict(verdict.parts),
            "answer": verdict.answer,
            "reason": verdict.reason,
            "weight": weight,
        }
        if truths is not None:
            answer["boxes_pixels"] = rounded_boxes(verdict.boxes)
        answers.append(answer)
    row: dict[str, Any] = {
        "draw": group.prompt_index,
        "used": used,
        "id": sample.id,
        "source": sample.source,
        "question": sample.question,
        "truth": sample.answer,
        "tags": dict(sample.tags),
        "images": _images(sample, reference),
    }
    if truths is not None:
        row["boxed_image"] = max(sample.answer_image, 1)
        row["truth_pixels"] = rounded_boxes(truths)
    return json_value({**row, "answers": answers})


def _images(sample: Sample, reference: Reference) -> list[dict[str, Any]]:
    """Return how to find each picture, with its width and height where they are known."""
    images: list[dict[str, Any]] = []
    for place, image in enumerate(sample.images):
        found = reference(image)
        if place < len(sample.sizes):
            found["size"] = list(sample.sizes[place])
        images.append(found)
    return images


def rounded_boxes(boxes: Sequence[Corners]) -> list[list[float]]:
    """Return boxes to a hundredth of a pixel."""
    rounded: list[list[float]] = []
    for box in boxes:
        rounded.append([round(edge, 2) for edge in box])
    return rounded
