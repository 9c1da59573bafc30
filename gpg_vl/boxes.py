"""Compare boxes, and convert them between the coordinate frames of models. Pure Python.

A box is (x1, y1, x2, y2) with x1 < x2 and y1 < y2; its width is x2 - x1, without "+1 pixel". Frames
are declared, never guessed from the numbers.
"""

import math
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
        """True where all edges are finite and the box has an area."""
        return all(map(math.isfinite, self)) and self.x1 < self.x2 and self.y1 < self.y2

    @property
    def area(self) -> float:
        """Area of a proper box, in squared units of its frame."""
        return (self.x2 - self.x1) * (self.y2 - self.y1)


def iou(a: Box, b: Box) -> float:
    """Compute the intersection over union of two proper boxes of one frame, in [0, 1]."""
    shared = _overlap(a, b)
    return shared / (a.area + b.area - shared)


def giou(a: Box, b: Box) -> float:
    """Compute the generalised IoU of two proper boxes, in (-1, 1].

    Source: arXiv 1902.09630, Algorithm 1.
    """
    union = a.area + b.area - _overlap(a, b)
    hull = Box(min(a.x1, b.x1), min(a.y1, b.y1), max(a.x2, b.x2), max(a.y2, b.y2)).area
    return iou(a, b) - (hull - union) / hull


def _overlap(a: Box, b: Box) -> float:
    """Compute the area that two boxes share."""
    width = min(a.x2, b.x2) - max(a.x1, b.x1)
    height = min(a.y2, b.y2) - max(a.y1, b.y1)
    return max(0.0, width) * max(0.0, height)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Coordinate frame: the meaning of a box's numbers.

    - `pixels`: pixels of the original image
    - `norm1`, `norm1000`: shares of width and height, of 1 or of 1000
    - `resized`: pixels of the image as the Qwen2.5-VL processor resizes it: each side to a multiple
      of `factor`, the area between `min_pixels` and `max_pixels`
    - `undeclared`: not known
    """

    kind: FrameKind = "pixels"
    factor: int = 28
    """Patch size times merge size of the vision tower, in pixels."""
    min_pixels: int = 56 * 56
    """Smallest area after resizing, in pixels."""
    max_pixels: int = 28 * 28 * 1280
    """Largest area after resizing, in pixels."""

    def units(self, size: Size) -> tuple[float, float]:
        """Return the width and the height of an image in units of this frame.

        Args:
            size: width and height of the image in pixels.

        Raises:
            ValueError: the frame of the model is not known.
        """
        if self.kind == "undeclared":
            raise ValueError(
                "it is not known in which frame this model writes boxes; set policy.frame to "
                "pixels, norm1, norm1000 or resized"
            )
        if self.kind == "pixels":
            return float(size[0]), float(size[1])
        if self.kind == "resized":
            width, height = resized(
                size, factor=self.factor, min_pixels=self.min_pixels, max_pixels=self.max_pixels
            )
            return float(width), float(height)
        if self.kind == "norm1":
            return 1.0, 1.0
        return 1000.0, 1000.0

    def to_pixels(self, box: Box, size: Size) -> Box:
        """Convert a box from this frame to pixels of the original image."""
        return _scale(box, self.units(size), (float(size[0]), float(size[1])))

    def from_pixels(self, box: Box, size: Size) -> Box:
        """Convert a box from pixels of the original image to this frame."""
        return _scale(box, (float(size[0]), float(size[1])), self.units(size))


FAMILIES = {
    "qwen2_vl": Frame(kind="norm1000"),
    "qwen2_5_vl": Frame(kind="resized", max_pixels=28 * 28 * 16384),
    "qwen3_vl": Frame(kind="norm1000", factor=32, min_pixels=65536, max_pixels=16777216),
    "internvl": Frame(kind="norm1000"),
}
"""Frame that each model family was trained to write, with the image sizes of its published
processor configuration.

Sources: arXiv 2409.12191 section 2.1 (Qwen2-VL: coordinates in [0, 1000)), 2502.13923 section 2.1
(Qwen2.5-VL: pixels of the resized image), the Qwen3-VL cookbook (relative to 1000), the InternVL
documentation (`<box>[[x1, y1, x2, y2]]</box>` in [0, 1000])."""


def frame_named(name: str) -> Frame | None:
    """Return the frame of a family, or the frame of a kind; None where the name is neither."""
    if name in FAMILIES:
        return FAMILIES[name]
    if name in get_args(FrameKind):
        return Frame(kind=cast(FrameKind, name))
    return None


def _scale(box: Box, source: tuple[float, float], target: tuple[float, float]) -> Box:
    """Convert a box between two frames, given width and height of the image in units of each."""
    x_scale = target[0] / source[0]
    y_scale = target[1] / source[1]
    return Box(box.x1 * x_scale, box.y1 * y_scale, box.x2 * x_scale, box.y2 * y_scale)


def resized(size: Size, *, factor: int, min_pixels: int, max_pixels: int) -> Size:
    """Return width and height in pixels after the resizing of the Qwen-VL processors.

    Source: Qwen2-VL, arXiv 2409.12191, section 2.1 (dynamic resolution).
    """
    width, height = size
    new_width = round(width / factor) * factor
    new_height = round(height / factor) * factor
    if new_width * new_height > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
    elif new_width * new_height < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        new_width = math.ceil(width * grow / factor) * factor
        new_height = math.ceil(height * grow / factor) * factor
    return new_width, new_height


def write(box: Box, digits: int = 0) -> str:
    """Write a box as the shortest JSON list, rounded to `digits` digits after the point."""
    return "[" + ",".join(f"{edge:.{digits}f}" for edge in box) + "]"
