"""Grounding: boxes in the picture, scored by overlap."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Literal, cast

from gpg_vl import boxes
from gpg_vl.boxes import Box, Frame
from gpg_vl.parsing import boxes as answer_boxes
from gpg_vl.types import Sample
from gpg_vl.verifiers import published_rules
from gpg_vl.verifiers.base import Grade, RuleVerifier

DECLARED = {"pixels": Frame(), "norm1": Frame(kind="norm1"), "norm1000": Frame(kind="norm1000")}
"""Frames in which a truth may be stored: those that depend on nothing but the image."""
TOLERANCE = 0.01
"""How far an edge may lie outside the image, as a share of its side, before the box earns nothing: rounding is no mistake."""
Policy = Literal["exactly_one", "first", "last", "all"]


@dataclass(frozen=True, kw_only=True)
class Boxes(RuleVerifier):
    """Boxes scored by IoU with the truth.

    The answer's numbers are read in the frame that the model speaks and converted once to original pixels. Strictly, the answer is boxes
    and nothing else in one of the spellings of `box_texts.records` (a family's own grounding tokens and `<box>` tags are for lenient
    reading); a reversed or empty box earns 0, and so does one that leaves the image by more than a hundredth of its side; a smaller
    excess is cut off. Leniently, boxes are picked out of any text, and where both frames are the same no image is needed. There is no
    best-of: the policy says which box counts before the truth is looked at.

    Reference mode is VLM-R1's evaluator (IoU above 0.5 by its own pixel rule), or with `measure: giou` Visual-RFT's reward GIoU + 1 in
    thousandths, clamped to [0, 2] and halved.
    """

    measure: Literal["iou", "giou"] = "iou"
    """iou | giou: (GIoU + 1) / 2, which also tells far from near."""
    threshold: float | None = None
    """When set, 1 at this IoU or above and 0 below."""
    policy: Policy = "exactly_one"
    """exactly_one: a second box spoils the answer | first | last | all: boxes and truths are paired one to one by optimal assignment, and
    the sum of the scores is divided by the larger number."""
    most: int = 100
    """An answer of more boxes than this earns nothing."""
    spelling_loss: ClassVar[float] = 0.05
    frame: Frame = field(default_factory=Frame)
    """Filled from the policy: what the model's numbers mean."""

    def mark(self, answer: str, sample: Sample) -> Grade:
        """The score of the box that `policy` chooses, or of all; 0 where none can be read or placed inside the image."""
        truths, given = self._truths(sample), self._read(answer)
        if given is None:
            return Grade(0.0, answer, "unreadable: not exactly one box" if self.policy == "exactly_one" else "unreadable: no box")
        if len(given) > self.most:
            return Grade(0.0, answer, f"wrong: more than {self.most} boxes")
        if self.policy == "all":
            return self._mark_all(given, truths, sample)
        chosen = given[-1 if self.policy == "last" else 0]
        box = self.placed(chosen, sample)
        if box is None:
            return Grade(0.0, answer, "wrong: reversed, empty or outside the image")
        overlap = boxes.iou(box, truths[0])
        return Grade(self.score(box, truths[0]), boxes.write(box), f"{'right' if overlap >= 0.5 else 'wrong'}: IoU {overlap:.2f}")

    def reference(self, text: str, sample: Sample) -> Grade:
        truth = self._truths(sample)[0]
        if self.measure == "giou":
            raw = published_rules.lisa_reward(text, DECLARED["norm1"].from_pixels(truth, sample.sizes[0]))
            return Grade(
                min(max(raw, 0.0), 2.0) / 2, published_rules.reading(text), f"{'right' if raw >= 1.5 else 'wrong'}: GIoU + 1 = {raw:.4f}"
            )
        given = published_rules.vlm_r1_box(text)
        if given is None:
            return Grade(0.0, "", "unreadable: no box where the authors look for one")
        box = self._to_pixels(given, sample)
        overlap = published_rules.vlm_r1_iou(box, truth)
        return Grade(float(overlap > 0.5), boxes.write(box), f"{'right' if overlap > 0.5 else 'wrong'}: IoU {overlap:.2f}")

    def gold(self, sample: Sample) -> str:
        spelt = [self.spelt(truth, sample) for truth in self._truths(sample)]
        return spelt[0] if self.policy != "all" else f"[{','.join(spelt)}]"

    def _read(self, answer: str) -> list[Box] | None:
        if self.mode == "strict":
            records = answer_boxes.records(answer)
        else:
            records = answer_boxes.found(answer) or ([] if answer_boxes.silent(answer) else None)
        if records is None or (not records and self.policy != "all") or (len(records) != 1 and self.policy == "exactly_one"):
            return None
        return [record.box for record in records]

    def _mark_all(self, given: Sequence[Box], truths: Sequence[Box], sample: Sample) -> Grade:
        in_pixels = [self.placed(box, sample) for box in given]

        def score(row: int, column: int) -> float:
            box = in_pixels[row]
            return 0.0 if box is None else self.score(box, truths[column])

        total = sum(score for _, _, score in assign(len(given), len(truths), score))
        accuracy = total / max(len(given), len(truths)) if given or truths else 1.0
        answer = f"[{','.join(boxes.write(box) for box in in_pixels if box)}]"
        return Grade(
            accuracy, answer, f"{'right' if accuracy >= 0.5 else 'wrong'}: {len(given)} boxes for {len(truths)}, mean {accuracy:.2f}"
        )

    def placed(self, box: Box, sample: Sample) -> Box | None:
        """An answer's box in original pixels; None where it is reversed, empty or, strictly, outside the image.

        Strictly, what leaves the image by at most `TOLERANCE` of a side is cut off.
        """
        kept = self._cut(box, sample) if box.proper and self.mode == "strict" else box
        return self._to_pixels(kept, sample) if kept.proper and max(map(abs, kept)) < 1e9 else None

    def spelt(self, truth: Box, sample: Sample) -> str:
        """A true box in the frame of the answer, with as few digits as keep it."""
        box = self.frame.from_pixels(truth, sample.sizes[0]) if sample.sizes else truth
        for digits in range(5):
            spelt = Box(*(round(edge, digits) for edge in box))
            if spelt.proper and boxes.iou(spelt, box) >= 1 - self.spelling_loss:
                return boxes.write(spelt, digits)
        return boxes.write(box, 5)

    def _cut(self, box: Box, sample: Sample) -> Box:
        """The part inside the image; a box that leaves it by more than the tolerance comes back without area."""
        width, height = self.frame.units(sample.sizes[0])
        over = max(-box.x1 / width, -box.y1 / height, (box.x2 - width) / width, (box.y2 - height) / height)
        inside = Box(max(box.x1, 0.0), max(box.y1, 0.0), min(box.x2, width), min(box.y2, height))
        return inside if over <= TOLERANCE else Box(0, 0, 0, 0)

    def _to_pixels(self, box: Box, sample: Sample) -> Box:
        return self.frame.to_pixels(box, sample.sizes[0]) if sample.sizes else box

    def score(self, box: Box, truth: Box) -> float:
        """What a box earns against one truth, both in pixels."""
        if self.threshold is not None:
            return float(boxes.iou(box, truth) >= self.threshold)
        return boxes.iou(box, truth) if self.measure == "iou" else (boxes.giou(box, truth) + 1) / 2

    def _truths(self, sample: Sample) -> list[Box]:
        sizeless = self.mode != "strict" and not sample.sizes and self.frame.kind == sample.frame != "resized"
        truths = truth_boxes(sample, sizeless=sizeless)
        if self.policy != "all" and len(truths) != 1:
            raise ValueError(f"answer {sample.answer!r} is not one box [[x1, y1, x2, y2]]")
        return truths


def truth_boxes(sample: Sample, *, sizeless: bool = False) -> list[Box]:
    """The true boxes in original pixels.

    Args:
        sizeless: the image's size is not known and not needed, because the answer speaks the frame of the truth.

    Raises:
        ValueError: no image, an unknown frame, no boxes, or one that is empty or outside the image.
    """
    if not sample.sizes and not sizeless:
        raise ValueError("a box needs an image")
    if sample.frame not in DECLARED:
        raise ValueError(f"frame {sample.frame!r} is none of {', '.join(DECLARED)}")
    truths: list[Box] = []
    for corners in _listed(sample):
        box = corners if sizeless else DECLARED[sample.frame].to_pixels(corners, sample.sizes[0])
        width, height = sample.sizes[0] if sample.sizes else (float("inf"), float("inf"))
        if not (box.proper and box.x1 >= 0 and box.y1 >= 0 and box.x2 <= width * (1 + 1e-9) and box.y2 <= height * (1 + 1e-9)):
            where = f"outside the image of {width} x {height} pixels" if sample.sizes else "outside any image"
            raise ValueError(f"box {sample.answer} is empty or {where}")
        truths.append(box)
    return truths


def _listed(sample: Sample) -> list[Box]:
    found: list[Box] = []
    try:
        for item in sample.answer:
            corners = item if not isinstance(item, dict) else cast(dict[str, Any], item)["box"]
            x1, y1, x2, y2 = map(float, corners)
            found.append(Box(x1, y1, x2, y2))
    except (TypeError, ValueError, KeyError):
        raise ValueError(f"answer {sample.answer!r} is not one box [[x1, y1, x2, y2]]") from None
    return found


def assign(rows: int, columns: int, score: Callable[[int, int], float]) -> list[tuple[int, int, float]]:
    """Pairs (row, column, score), each row and column used at most once, so that their sum is largest (Hungarian method)."""
    if not rows or not columns:
        return []
    optimize: Any = import_module("scipy.optimize")  # slow to import, and only several boxes need it
    table = [[score(row, column) for column in range(columns)] for row in range(rows)]
    paired_rows, paired_columns = optimize.linear_sum_assignment(table, maximize=True)
    pairs: list[tuple[int, int]] = [(int(row), int(column)) for row, column in zip(paired_rows, paired_columns, strict=True)]
    return [(row, column, table[row][column]) for row, column in pairs]
