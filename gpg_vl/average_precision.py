"""Average precision of detections, by pycocotools (extra `gpg-vl[detection]`): the COCO figures, and PASCAL VOC's with its own pixel rule.

A box here is (x, y, width, height), as in COCO files. Crowd regions and small-object areas count as pycocotools counts them.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

from gpg_vl.types import UserError

COCO_FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""What `coco` gives, in pycocotools' order."""


def coco(truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The twelve COCO figures.

    Args:
        truth: a COCO data set: images, annotations, categories.
        detections: COCO results: image_id, category_id, bbox, score.

    Raises:
        UserError: pycocotools is not installed, or there is nothing to find.
    """
    evaluation = _evaluation(truth, detections)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(COCO_FIGURES, map(float, evaluation.stats), strict=True))


def voc(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    *,
    iou: float = 0.5,
    points: Literal["all", "eleven"] = "all",
    inclusive: bool = True,
) -> float:
    """PASCAL VOC average precision of one threshold, over all classes.

    Args:
        points: all: the area under the precision envelope (VOC 2010 on) | eleven: its mean at recall 0, 0.1 ... 1 (VOC 2007).
        inclusive: the right and lower corner are the last pixels inside, as in VOC's annotations: one pixel is added to each side.
    """
    extra = 1.0 if inclusive else 0.0
    numpy: Any = import_module("numpy")
    figures: list[float] = []
    for category in truth["categories"]:
        mine = [item for item in truth["annotations"] if item["category_id"] == category["id"]]
        if not mine:
            continue
        grown = {**truth, "annotations": [_grown(item, extra) for item in mine], "categories": [category]}
        found = [_grown(item, extra) for item in detections if item["category_id"] == category["id"]]
        evaluation = _evaluation(grown, found)
        evaluation.params.iouThrs = numpy.array([iou])
        steps = numpy.arange(1, len(mine) + 1) / len(mine) if points == "all" else numpy.linspace(0, 1, 11)
        evaluation.params.recThrs = steps
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [max(1, len(found))]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
            evaluation.accumulate()
        figures.append(float(evaluation.eval["precision"].mean()))
    return sum(figures) / len(figures) if figures else 0.0


def _grown(item: Mapping[str, Any], extra: float) -> dict[str, Any]:
    x, y, width, height = item["bbox"]
    box = [x, y, width + extra, height + extra]
    return {**item, "bbox": box, "area": box[2] * box[3]}


def _evaluation(truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> Any:
    if find_spec("pycocotools") is None:
        raise UserError("average precision needs pycocotools: pip install 'gpg-vl[detection]'")
    if not truth["annotations"]:
        raise UserError("average precision: the truth holds no box, so there is nothing to find")
    data_set: Any = import_module("pycocotools.coco").COCO
    evaluation: Any = import_module("pycocotools.cocoeval").COCOeval
    with contextlib.redirect_stdout(io.StringIO()):
        known = data_set()
        known.dataset = {"info": {}, **truth}
        known.createIndex()
        given = known.loadRes([dict(item) for item in detections]) if detections else data_set()
        return evaluation(known, given, "bbox")
