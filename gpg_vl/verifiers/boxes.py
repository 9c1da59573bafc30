"""Grounding: a box in the picture, scored by overlap."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from gpg_vl import boxes
from gpg_vl.boxes import Box, Frame
from gpg_vl.types import Sample
from gpg_vl.verifiers.verifier import Graded, Mark

DECLARED = {"pixels": Frame(), "norm1": Frame(kind="norm1"), "norm1000": Frame(kind="norm1000")}
"""Frames in which a truth may be stored: those that depend on nothing but the image."""


@dataclass(frozen=True, kw_only=True)
class Boxes(Graded):
    """Exactly one proper box inside the first image, scored by IoU with the truth.

    The answer's numbers are read in the frame that the model speaks and converted once to original pixels. A reversed, empty, out-of-range
    or second box earns 0.
    """

    measure: Literal["iou", "giou"] = "iou"
    """iou | giou: (GIoU + 1) / 2, which also tells far from near."""
    threshold: float | None = None
    """When set, 1 at this IoU or above and 0 below."""
    spelling_loss: ClassVar[float] = 0.05
    frame: Frame = field(default_factory=Frame)
    """Filled from the policy: what the model's numbers mean."""

    def mark(self, answer: str, sample: Sample) -> Mark:
        given = boxes.read(answer)
        if given is None or len(given) != 1:
            return Mark(0.0, answer, "unreadable: not exactly one box")
        width, height = self.frame.units(sample.sizes[0])
        inside = given[0].proper and given[0].x1 >= 0 and given[0].y1 >= 0 and given[0].x2 <= width and given[0].y2 <= height
        if not inside:
            return Mark(0.0, answer, "wrong: reversed, empty or outside the image")
        box, truth = self.frame.to_pixels(given[0], sample.sizes[0]), self._truth(sample)
        overlap = boxes.iou(box, truth)
        return Mark(self._accuracy(box, truth), boxes.write(box), f"{'right' if overlap >= 0.5 else 'wrong'}: IoU {overlap:.2f}")

    def gold(self, sample: Sample) -> str:
        box = self.frame.from_pixels(self._truth(sample), sample.sizes[0])
        for digits in range(5):
            spelt = Box(*(round(edge, digits) for edge in box))
            if spelt.proper and boxes.iou(spelt, box) >= 1 - self.spelling_loss:
                return boxes.write(spelt, digits)
        return boxes.write(box, 5)

    def _accuracy(self, box: Box, truth: Box) -> float:
        if self.threshold is not None:
            return float(boxes.iou(box, truth) >= self.threshold)
        return boxes.iou(box, truth) if self.measure == "iou" else (boxes.giou(box, truth) + 1) / 2

    def _truth(self, sample: Sample) -> Box:
        if not sample.sizes:
            raise ValueError("a box needs an image")
        if sample.frame not in DECLARED:
            raise ValueError(f"frame {sample.frame!r} is none of {', '.join(DECLARED)}")
        truth = DECLARED[sample.frame].to_pixels(_only_box(sample.answer), sample.sizes[0])
        width, height = sample.sizes[0]
        if not (truth.proper and truth.x1 >= 0 and truth.y1 >= 0 and truth.x2 <= width and truth.y2 <= height):
            raise ValueError(f"box {sample.answer} is empty or outside the image of {width} x {height} pixels")
        return truth


def _only_box(answer: Any) -> Box:
    try:
        (corners,) = answer
        x1, y1, x2, y2 = map(float, corners)
    except (TypeError, ValueError):
        raise ValueError(f"answer {answer!r} is not one box [[x1, y1, x2, y2]]") from None
    return Box(x1, y1, x2, y2)
