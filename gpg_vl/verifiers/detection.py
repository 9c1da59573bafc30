"""Verify detection: all objects of a class, each with a confidence."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from gpg_vl import boxes
from gpg_vl.boxes import Box, Frame
from gpg_vl.parsing import markup
from gpg_vl.parsing.boxes import Found
from gpg_vl.types import Corners, Sample
from gpg_vl.verifiers import published_rules
from gpg_vl.verifiers.base import Grade, RuleVerifier, right_or_wrong
from gpg_vl.verifiers.boxes import (
    Boxes,
    assign,
    best_mean_overlap,
    check_size,
    constant_boxes,
    in_pixels,
    needs_no_size,
    read_boxes,
    truth_boxes,
)


@dataclass(frozen=True, kw_only=True)
class Detection(RuleVerifier):
    """Boxes with confidence, `[{"bbox_2d": [x1, y1, x2, y2], "confidence": 0.9}, ...]`.

    Or "No Objects". Boxes and truths are paired one to one by optimal assignment; a pair below
    `threshold` is no pair. Localisation is the sum of IoU over the larger number of boxes.
    Confidence is 1 minus the Brier score, times recall, so a junk box of confidence 0 earns
    nothing. Where nothing is to be found, "No Objects" earns the full reward and any box earns 0. A
    truth may name classes (`{"box": [...], "label": "cat"}`): then labels must agree.

    Reference mode is Visual-RFT's mean of IoU reward and confidence reward, without the symbolic
    stage that runs before them there: math-verify on the whole completion, which pays in full for
    the right second number.
    """

    threshold: float = 0.5
    """Smallest IoU of a pair."""
    confidence_weight: float = 0.5
    """Share of the accuracy that is confidence, the rest is localisation."""
    most: int = 100
    """Largest number of boxes; an answer of more earns nothing."""
    spelling_loss: ClassVar[float] = 0.05
    frame: Frame = field(default_factory=Frame)
    """Frame of the model's numbers; filled from the policy."""

    def grade(self, answer: str, sample: Sample) -> Grade:
        """Score boxes with confidences against the true ones; 0 where one has none."""
        truths = self._truths(sample)
        given = read_boxes(answer, self.mode)
        if given is None or not all(map(_has_confidence, given)):
            return Grade(0.0, answer, "unreadable: not boxes with a confidence between 0 and 1")
        if len(given) > self.most:
            return Grade(0.0, answer, f"wrong: more than {self.most} boxes")
        if not truths or not given:
            right = not truths and not given
            reason = f"{right_or_wrong(right)}: {len(given)} boxes for {len(truths)}"
            shown = in_pixels([box for box, _ in self.placed(answer, sample)], sample)
            return Grade(float(right), f"{len(given)} boxes", reason, shown)
        return self._grade_boxes(given, truths, sample)

    def reference(self, text: str, sample: Sample) -> Grade:
        """Score by the authors' rule; see the class."""
        truths = [self._from_pixels(truth, sample) for truth in self._truths(sample)]
        overlap, confidence = published_rules.virft_detection(text, truths)
        accuracy = (overlap + confidence) / 2
        reason = f"{right_or_wrong(accuracy >= 0.5)}: {overlap:.4f} and {confidence:.4f}"
        return Grade(accuracy, published_rules.reading(text), reason)

    def reference_answer(self, sample: Sample) -> str:
        if self.mode == "strict":
            check_size(sample)
        writer = Boxes(frame=self.frame)
        records: list[str] = []
        for truth, label in zip(self._truths(sample), _labels(sample), strict=True):
            named = f', "label": {json.dumps(label, ensure_ascii=False)}' if label else ""
            box = writer.spelt(truth, sample)
            records.append(f'{{"bbox_2d": {box}, "confidence": 1.0{named}}}')
        if not records:
            return "No Objects"
        return f"[{', '.join(records)}]"

    def true_boxes(self, sample: Sample) -> Sequence[Corners] | None:
        return in_pixels(self._truths(sample), sample)

    def placed(self, answer: str, sample: Sample) -> list[tuple[Box, float]]:
        """Return the boxes of an answer in original pixels with their confidence.

        Those that cannot be placed inside the image are left out.
        """
        placer = Boxes(frame=self.frame, mode=self.mode)
        placed: list[tuple[Box, float]] = []
        for item in read_boxes(answer, self.mode) or []:
            box = placer.placed(item.box, sample)
            if box is not None:
                placed.append((box, 0.0 if item.confidence is None else item.confidence))
        return placed

    def _grade_boxes(self, given: Sequence[Found], truths: Sequence[Box], sample: Sample) -> Grade:
        labels = _labels(sample)
        placer = Boxes(frame=self.frame, mode=self.mode)
        placed = [placer.placed(item.box, sample) for item in given]

        def overlap(row: int, column: int) -> float:
            box = placed[row]
            if box is None or not _is_same_class(given[row].label, labels[column]):
                return 0.0
            iou = boxes.iou(box, truths[column])
            return iou if iou >= self.threshold else 0.0

        assigned = assign(len(given), len(truths), overlap)
        pairs = [(row, iou) for row, _, iou in assigned if iou > 0]
        matched = {row for row, _ in pairs}
        localised = sum(iou for _, iou in pairs) / max(len(given), len(truths))
        squared_errors: list[float] = []
        for row, item in enumerate(given):
            squared_errors.append(((item.confidence or 0.0) - (row in matched)) ** 2)
        brier = sum(squared_errors) / len(given)
        sure = (1 - brier) * len(pairs) / len(truths)
        accuracy = (1 - self.confidence_weight) * localised + self.confidence_weight * sure
        reason = (
            f"{right_or_wrong(accuracy >= 0.5)}: {len(pairs)} of {len(truths)} found by "
            f"{len(given)} boxes, localisation {localised:.2f}, confidence {sure:.2f}"
        )
        return Grade(accuracy, f"{len(given)} boxes", reason, in_pixels(placed, sample))

    def _from_pixels(self, box: Box, sample: Sample) -> Box:
        return self.frame.from_pixels(box, sample.boxed_size) if sample.sizes else box

    def _truths(self, sample: Sample) -> list[Box]:
        return truth_boxes(sample, sizeless=needs_no_size(self.frame, sample))

    # --- the exploit suite ------------------------------------------------------------------------

    def constant_answers(self, samples: Sequence[Sample]) -> list[str]:
        """Return the boxes of `constant_boxes` with medium confidence, and "No Objects"."""
        answers: list[str] = []
        for box in constant_boxes(samples, self.frame):
            answers.append(f'[{{"bbox_2d": {boxes.write(box, 4)}, "confidence": 0.5}}]')
        return [*answers, "No Objects"]

    def chance_level(self, samples: Sequence[Sample]) -> float:
        """Compute the best mean overlap of one box, or the share of images without any object."""
        return best_mean_overlap(samples, self.frame, boxes.iou)


def _has_confidence(item: Found) -> bool:
    return item.confidence is not None and 0 <= item.confidence <= 1


def _labels(sample: Sample) -> list[str]:
    """Return the class of each true box; empty where the truth names none."""
    labels: list[str] = []
    for item in cast(list[Any], sample.answer):
        label = cast(dict[str, Any], item).get("label") if isinstance(item, dict) else None
        labels.append("" if label is None else str(label))
    return labels


def _is_same_class(given: str, true: str) -> bool:
    """Compare two class names without case, and with space and underscore alike."""
    return not true or _class_key(given) == _class_key(true)


def _class_key(name: str) -> str:
    return markup.normalise(name).replace("_", " ")
