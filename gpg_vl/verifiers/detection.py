"""Detection: all objects of a class, each with a confidence."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from gpg_vl import boxes
from gpg_vl.boxes import Box, Frame
from gpg_vl.parsing import boxes as answer_boxes
from gpg_vl.parsing import markup
from gpg_vl.parsing.boxes import Found
from gpg_vl.types import Sample
from gpg_vl.verifiers import published_rules
from gpg_vl.verifiers.base import Grade, RuleVerifier
from gpg_vl.verifiers.boxes import Boxes, assign, truth_boxes


@dataclass(frozen=True, kw_only=True)
class Detection(RuleVerifier):
    """Boxes with confidence, `[{"bbox_2d": [x1, y1, x2, y2], "confidence": 0.9}, ...]`, or "No Objects".

    Boxes and truths are paired one to one by optimal assignment; a pair below `threshold` is no pair. Localisation is the sum of IoU over
    the larger number of boxes. Confidence is 1 minus the Brier score, times recall, so a junk box of confidence 0 buys nothing. Where
    nothing is to be found, silence earns full marks and any box earns 0. A truth may name classes (`{"box": [...], "label": "cat"}`):
    then labels must agree.

    Reference mode is Visual-RFT's mean of IoU reward and confidence reward, without the symbolic stage that runs before them there:
    math-verify on the whole completion, which pays in full for the right second number.
    """

    threshold: float = 0.5
    """Smallest IoU of a pair."""
    confidence_weight: float = 0.5
    """Share of the accuracy that is confidence, the rest is localisation."""
    most: int = 100
    """An answer of more boxes than this earns nothing."""
    spelling_loss: ClassVar[float] = 0.05
    frame: Frame = field(default_factory=Frame)
    """Filled from the policy: what the model's numbers mean."""

    def mark(self, answer: str, sample: Sample) -> Grade:
        truths, given = self._truths(sample), self._read(answer)
        if given is None or any(item.confidence is None or not 0 <= item.confidence <= 1 for item in given):
            return Grade(0.0, answer, "unreadable: not boxes with a confidence between 0 and 1")
        if len(given) > self.most:
            return Grade(0.0, answer, f"wrong: more than {self.most} boxes")
        if not truths or not given:
            right = not truths and not given
            return Grade(float(right), f"{len(given)} boxes", f"{'right' if right else 'wrong'}: {len(given)} boxes for {len(truths)}")
        return self._mark(given, truths, sample)

    def reference(self, text: str, sample: Sample) -> Grade:
        overlap, confidence = published_rules.virft_detection(text, [self._from_pixels(truth, sample) for truth in self._truths(sample)])
        accuracy = (overlap + confidence) / 2
        return Grade(
            accuracy, published_rules.reading(text), f"{'right' if accuracy >= 0.5 else 'wrong'}: {overlap:.4f} and {confidence:.4f}"
        )

    def gold(self, sample: Sample) -> str:
        spelt = [Boxes(frame=self.frame).spelt(truth, sample) for truth in self._truths(sample)]
        named = [f', "label": "{label}"' if label else "" for label in _labels(sample)]
        records = [f'{{"bbox_2d": {box}, "confidence": 1.0{label}}}' for box, label in zip(spelt, named, strict=True)]
        return f"[{', '.join(records)}]" if records else "No Objects"

    def placed(self, answer: str, sample: Sample) -> list[tuple[Box, float]]:
        """The boxes of an answer in original pixels with their confidence; those that are no box of the picture are left out."""
        placer = Boxes(frame=self.frame, mode=self.mode)
        pairs = [(placer.placed(item.box, sample), item.confidence) for item in self._read(answer) or []]
        return [(box, 0.0 if confidence is None else confidence) for box, confidence in pairs if box is not None]

    def _mark(self, given: Sequence[Found], truths: Sequence[Box], sample: Sample) -> Grade:
        labels, placer = _labels(sample), Boxes(frame=self.frame, mode=self.mode)
        in_pixels = [placer.placed(item.box, sample) for item in given]

        def overlap(row: int, column: int) -> float:
            box = in_pixels[row]
            iou = boxes.iou(box, truths[column]) if box is not None and _alike(given[row].label, labels[column]) else 0.0
            return iou if iou >= self.threshold else 0.0

        pairs = [(row, iou) for row, _, iou in assign(len(given), len(truths), overlap) if iou > 0]
        matched = {row for row, _ in pairs}
        localised = sum(iou for _, iou in pairs) / max(len(given), len(truths))
        brier = sum(((item.confidence or 0.0) - (row in matched)) ** 2 for row, item in enumerate(given)) / len(given)
        sure = (1 - brier) * len(pairs) / len(truths)
        accuracy = (1 - self.confidence_weight) * localised + self.confidence_weight * sure
        told = f"{len(pairs)} of {len(truths)} found by {len(given)} boxes, localisation {localised:.2f}, confidence {sure:.2f}"
        return Grade(accuracy, f"{len(given)} boxes", f"{'right' if accuracy >= 0.5 else 'wrong'}: {told}")

    def _read(self, answer: str) -> list[Found] | None:
        if self.mode == "strict":
            return answer_boxes.records(answer)
        return answer_boxes.found(answer) or ([] if answer_boxes.silent(answer) else None)

    def _from_pixels(self, box: Box, sample: Sample) -> Box:
        return self.frame.from_pixels(box, sample.sizes[0]) if sample.sizes else box

    def _truths(self, sample: Sample) -> list[Box]:
        return truth_boxes(sample, sizeless=self.mode != "strict" and not sample.sizes and self.frame.kind == sample.frame != "resized")


def _labels(sample: Sample) -> list[str]:
    return [str(cast(dict[str, Any], item).get("label", "")) if isinstance(item, dict) else "" for item in cast(list[Any], sample.answer)]


def _alike(given: str, wanted: str) -> bool:
    return not wanted or markup.normalise(given).replace("_", " ") == markup.normalise(wanted).replace("_", " ")
