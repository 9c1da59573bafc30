"""Boxes: reading them, comparing them, and the coordinate frames that models speak. Pure Python.

A box is (x1, y1, x2, y2) with x1 < x2 and y1 < y2, no "+1 pixel". Frames are declared, never guessed from the numbers.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast, get_args

from gpg_vl.types import Size

FrameKind = Literal["pixels", "norm1", "norm1000", "resized", "undeclared"]


class Box(NamedTuple):
    """Corners in some frame; `x2` and `y2` are edges, not the last pixel inside."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def proper(self) -> bool:
        """Finite, and with an area."""
        return all(math.isfinite(edge) for edge in self) and self.x1 < self.x2 and self.y1 < self.y2

    @property
    def area(self) -> float:
        """Of a proper box, in squared units of its frame."""
        return (self.x2 - self.x1) * (self.y2 - self.y1)


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two proper boxes of one frame, in [0, 1]."""
    shared = _overlap(a, b)
    return shared / (a.area + b.area - shared)


def giou(a: Box, b: Box) -> float:
    """Generalised IoU (arXiv 1902.09630, Algorithm 1) of two proper boxes, in (-1, 1]."""
    union = a.area + b.area - _overlap(a, b)
    hull = Box(min(a.x1, b.x1), min(a.y1, b.y1), max(a.x2, b.x2), max(a.y2, b.y2)).area
    return iou(a, b) - (hull - union) / hull


def _overlap(a: Box, b: Box) -> float:
    width = min(a.x2, b.x2) - max(a.x1, b.x1)
    height = min(a.y2, b.y2) - max(a.y1, b.y1)
    return max(0.0, width) * max(0.0, height)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What the numbers of a box mean.

    `pixels` of the original image; `norm1` and `norm1000` shares of width and height; `resized` pixels of the image as the Qwen2.5-VL
    processor resizes it: each side to a multiple of `factor`, the area between `min_pixels` and `max_pixels`.
    """

    kind: FrameKind = "pixels"
    factor: int = 28
    """Patch size times merge size of the vision tower, in pixels."""
    min_pixels: int = 56 * 56
    """Smallest area after resizing."""
    max_pixels: int = 28 * 28 * 1280
    """Largest area after resizing."""

    def units(self, size: Size) -> tuple[float, float]:
        """How many units of this frame span the width and the height of an image of `size` pixels.

        Raises:
            ValueError: nobody said what the model's numbers mean.
        """
        if self.kind == "undeclared":
            raise ValueError(
                "it is not known in which frame this model writes boxes; set policy.frame to pixels, norm1, norm1000 or resized"
            )
        if self.kind == "pixels":
            return float(size[0]), float(size[1])
        if self.kind == "resized":
            width, height = resized(size, factor=self.factor, min_pixels=self.min_pixels, max_pixels=self.max_pixels)
            return float(width), float(height)
        span = 1.0 if self.kind == "norm1" else 1000.0
        return span, span

    def to_pixels(self, box: Box, size: Size) -> Box:
        """From this frame to original pixels."""
        return _scale(box, self.units(size), (float(size[0]), float(size[1])))

    def from_pixels(self, box: Box, size: Size) -> Box:
        """From original pixels to this frame."""
        return _scale(box, (float(size[0]), float(size[1])), self.units(size))


FAMILIES = {
    "qwen2_vl": Frame(kind="norm1000"),
    "qwen2_5_vl": Frame(kind="resized", max_pixels=28 * 28 * 16384),
    "qwen3_vl": Frame(kind="norm1000", factor=32, min_pixels=65536, max_pixels=16777216),
    "internvl": Frame(kind="norm1000"),
}
"""What each model family was taught to write, with the image sizes of its published processor configuration.

Sources: arXiv 2409.12191 section 2.1 (Qwen2-VL: coordinates in [0, 1000)), 2502.13923 section 2.1 (Qwen2.5-VL: pixels of the resized
image), the Qwen3-VL cookbook (relative to 1000), the InternVL documentation (`<box>[[x1, y1, x2, y2]]</box>` in [0, 1000])."""


def frame_named(name: str) -> Frame | None:
    """The frame of a family, or the frame of a kind; None where the name is neither."""
    if name in FAMILIES:
        return FAMILIES[name]
    return Frame(kind=cast(FrameKind, name)) if name in get_args(FrameKind) else None


def _scale(box: Box, have: tuple[float, float], want: tuple[float, float]) -> Box:
    across, down = want[0] / have[0], want[1] / have[1]
    return Box(box.x1 * across, box.y1 * down, box.x2 * across, box.y2 * down)


def resized(size: Size, *, factor: int, min_pixels: int, max_pixels: int) -> Size:
    """Width and height after the Qwen-VL processors' resizing (Qwen2-VL, arXiv 2409.12191, section 2.1: dynamic resolution)."""
    width, height = size
    wide, high = (round(side / factor) * factor for side in size)
    if wide * high > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        wide, high = (max(factor, math.floor(side / shrink / factor) * factor) for side in size)
    elif wide * high < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        wide, high = (math.ceil(side * grow / factor) * factor for side in size)
    return wide, high


_NUMBER = r"\s*([-+]?\d{1,12}(?:\.\d{1,12})?)\s*"
_CORNERS = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
_PAIRS = re.compile(rf"\({_NUMBER},{_NUMBER}\)\s*(?:,\s*)?\({_NUMBER},{_NUMBER}\)")
_BOX = "\x00"
_LIST = re.compile(rf"{_BOX}(?:,{_BOX})*|\[{_BOX}(?:,{_BOX})*\]")


def read(text: str) -> list[Box] | None:
    """The boxes of an answer that consists of boxes and nothing else; None where it is anything more or less.

    Understood: `[x1, y1, x2, y2]`, a list of those in brackets, and `(x1, y1), (x2, y2)`. Never raises; linear in the text.
    """
    for pattern in (_CORNERS, _PAIRS):
        found = [Box(*map(float, match.groups())) for match in pattern.finditer(text)]
        if found:
            rest = "".join(pattern.sub(_BOX, text.replace(_BOX, "?")).split())
            return found if _LIST.fullmatch(rest) else None
    return [] if "".join(text.split()) == "[]" else None


def write(box: Box, digits: int = 0) -> str:
    """A box as the shortest JSON list, rounded to so many digits after the point."""
    return "[" + ",".join(f"{edge:.{digits}f}" for edge in box) + "]"
