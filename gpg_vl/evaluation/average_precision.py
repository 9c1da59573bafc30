"""Average precision of detections, by pycocotools (extra `gpg-vl[detection]`): the COCO figures, and PASCAL VOC's with its own pixel rule.

A box here is (x, y, width, height), as in COCO files. Crowd regions and small-object areas count as pycocotools counts them.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from statistics import stdev
from typing import Any, Literal

import numpy as np

from gpg_vl.errors import UserError
from gpg_vl.evaluation.statistics import Z95, Interval

COCO_FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""What `coco` gives, in pycocotools' order."""
BOOTSTRAP_SAMPLES = 100
"""Of the bootstrap."""
LVIS_DETECTIONS = 300
"""An image's surest so many count."""


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


def with_intervals(truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], *, federated: bool = False) -> dict[str, Interval]:
    """AP, AP50 and AP75 with 95 % intervals: a bootstrap over the images, `DRAWS` times.

    Args:
        federated: LVIS' rules. A class is judged only in images where it was looked for (it is there, or listed as absent); where it was
            not labelled exhaustively, a detection that matches nothing is ignored, as in a crowd region; 300 detections an image.

    Raises:
        UserError: pycocotools is not installed, or there is nothing to find.
    """
    if federated:
        truth, detections = _federated(truth, detections)
    evaluation = _evaluation(truth, detections)
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.params.maxDets = [LVIS_DETECTIONS if federated else 100]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        figures = _precisions(evaluation)
        drawn = list(_drawn(evaluation))
    margins = {name: Z95 * stdev([figure[name] for figure in drawn]) for name in COCO_FIGURES[:3]}
    return {
        name: Interval(
            mean=figures[name], low=max(0.0, figures[name] - margin), high=min(1.0, figures[name] + margin), count=len(truth["images"])
        )
        for name, margin in margins.items()
    }


def _precisions(evaluation: Any) -> dict[str, float]:
    """AP over all thresholds, at 0.5 and at 0.75; classes without a truth do not count."""
    evaluation.accumulate()
    precision: Any = evaluation.eval["precision"]
    parts = {"AP": precision, "AP50": precision[:1], "AP75": precision[5:6]}
    return {name: float(part[part > -1].mean()) if (part > -1).any() else 0.0 for name, part in parts.items()}


def _drawn(evaluation: Any) -> Iterator[dict[str, float]]:
    """The figures of other draws of the images."""
    images, whole = len(evaluation.params.imgIds), evaluation.evalImgs
    rng = np.random.default_rng(0)
    for _ in range(BOOTSTRAP_SAMPLES):
        picked = rng.integers(0, images, images)
        evaluation.evalImgs = [whole[start + int(place)] for start in range(0, len(whole), images) for place in picked]
        yield _precisions(evaluation)


def _federated(truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    present = {(item["image_id"], item["category_id"]) for item in truth["annotations"]}
    absent = {(image["id"], category) for image in truth["images"] for category in image["neg_category_ids"]}
    known = {item["id"] for item in truth["categories"]}
    partly = [(image, category) for image in truth["images"] for category in image["not_exhaustive_category_ids"] if category in known]
    first = 1 + max((item["id"] for item in truth["annotations"]), default=0)
    crowds = [
        {"id": first + place, "image_id": image["id"], "category_id": category, "iscrowd": 1, **_everywhere(image)}
        for place, (image, category) in enumerate(partly)
    ]
    annotations = [*({"iscrowd": 0, **item} for item in truth["annotations"]), *crowds]
    return {**truth, "annotations": annotations}, _surest(
        [item for item in detections if (item["image_id"], item["category_id"]) in present | absent]
    )


def _everywhere(image: Mapping[str, Any]) -> dict[str, Any]:
    return {"bbox": [0, 0, image["width"], image["height"]], "area": image["width"] * image["height"]}


def _surest(detections: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The surest of each image, all classes together."""
    by_image: dict[Any, list[Mapping[str, Any]]] = {}
    for item in sorted(detections, key=lambda item: -item["score"]):
        by_image.setdefault(item["image_id"], []).append(item)
    return [item for items in by_image.values() for item in items[:LVIS_DETECTIONS]]


def _grown(item: Mapping[str, Any], extra: float) -> dict[str, Any]:
    x, y, width, height = item["bbox"]
    box = [x, y, width + extra, height + extra]
    return {**item, "bbox": box, "area": box[2] * box[3]}


def check_installed() -> None:
    """Before anything is asked whose answers could not be counted then.

    Raises:
        UserError: pycocotools is not there.
    """
    if find_spec("pycocotools") is None:
        raise UserError("average precision needs pycocotools: pip install 'gpg-vl[detection]'")


def _evaluation(truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> Any:
    check_installed()
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
