"""Compute the average precision of detections with faster-coco-eval (extra `gpg-vl[detection]`).

A box here is (x, y, width, height), as in COCO files. Crowd regions are ignored regions, as in the
COCO evaluation.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from statistics import stdev
from typing import Any

import numpy as np

from gpg_vl.errors import UserError
from gpg_vl.evaluation.statistics import Z95, Interval

Annotation = Mapping[str, Any]
"""An annotation or a result of a COCO file: image_id, category_id, bbox and more."""
FIGURES = ("AP", "AP50", "AP75")
"""Average precision: mean over the IoU thresholds 0.5, 0.55 ... 0.95; at 0.5; at 0.75."""
BOOTSTRAP_SAMPLES = 100
"""Resampled sets of images from which the intervals are estimated."""
COCO_MAX_DETECTIONS = 100
"""Detections of one class in one image that COCO counts: those with the highest scores."""
LVIS_MAX_DETECTIONS = 300
"""Detections of one image that LVIS counts, all classes together: those with the highest scores."""


def with_intervals(
    truth: Mapping[str, Any], detections: Sequence[Annotation], *, federated: bool = False
) -> dict[str, Interval]:
    """Compute AP, AP50 and AP75 with 95 % intervals from a bootstrap over the images.

    Args:
        truth: a COCO data set: images, annotations, categories.
        detections: COCO results: image_id, category_id, bbox, score.
        federated: use the rules of LVIS. A class is judged only in images that were checked for it
            (it is annotated there, or listed as absent). Where a class was not annotated
            exhaustively, a detection that matches nothing is ignored, as in a crowd region.

    Raises:
        UserError: faster-coco-eval is not installed, or there is no box to find.
    """
    max_detections = COCO_MAX_DETECTIONS
    if federated:
        truth, detections = _apply_federated_rules(truth, detections)
        max_detections = LVIS_MAX_DETECTIONS
    evaluation = _evaluation(truth, detections)
    evaluation.params.areaRng = [[0, 1e10]]
    evaluation.params.areaRngLbl = ["all"]
    evaluation.params.maxDets = [max_detections]
    evaluation.evaluate()
    figures = _precisions(evaluation)
    samples = list(_bootstrap(evaluation))
    intervals: dict[str, Interval] = {}
    for name in FIGURES:
        margin = Z95 * stdev([sample[name] for sample in samples])
        intervals[name] = Interval(
            mean=figures[name],
            low=max(0.0, figures[name] - margin),
            high=min(1.0, figures[name] + margin),
            count=len(truth["images"]),
        )
    return intervals


def _precisions(evaluation: Any) -> dict[str, float]:
    """Compute the three figures; classes without a box in the truth do not count."""
    evaluation.accumulate()
    # shape: IoU thresholds x recall points x classes x areas x detection limits
    precision: Any = np.asarray(evaluation.eval["precision"])
    slices = {"AP": precision, "AP50": precision[:1], "AP75": precision[5:6]}
    figures: dict[str, float] = {}
    for name, values in slices.items():
        counted = values[values > -1]  # -1 marks a class without a box in the truth
        figures[name] = float(counted.mean()) if len(counted) else 0.0
    return figures


def _bootstrap(evaluation: Any) -> Iterator[dict[str, float]]:
    """Compute the figures of sets of as many images, drawn with replacement."""
    num_images = len(evaluation.params.imgIds)
    # The library offers no resampling. Its intermediate results are a list [classes x images]:
    # matching boxes once and accumulating the drawn results 100 times takes seconds; matching
    # them 100 times would take minutes.
    per_image = evaluation._evalImgs_cpp
    rng = np.random.default_rng(0)
    for _ in range(BOOTSTRAP_SAMPLES):
        drawn = [int(index) for index in rng.integers(0, num_images, num_images)]
        resampled: list[Any] = []
        for start in range(0, len(per_image), num_images):
            resampled += [per_image[start + index] for index in drawn]
        evaluation._evalImgs_cpp = resampled
        yield _precisions(evaluation)


def _apply_federated_rules(
    truth: Mapping[str, Any], detections: Sequence[Annotation]
) -> tuple[dict[str, Any], list[Annotation]]:
    """Return truth and detections whose COCO evaluation is the LVIS evaluation."""
    judged = {(item["image_id"], item["category_id"]) for item in truth["annotations"]}
    for image in truth["images"]:
        for category in image["neg_category_ids"]:
            judged.add((image["id"], category))
    in_judged = [item for item in detections if (item["image_id"], item["category_id"]) in judged]
    annotations = [{"iscrowd": 0, **item} for item in truth["annotations"]]
    annotations += _crowd_regions(truth)
    return {**truth, "annotations": annotations}, _highest_scores(in_judged)


def _crowd_regions(truth: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a crowd region over the whole image for each class not annotated exhaustively there.

    The evaluator ignores detections in a crowd region of their class that match no other box.
    """
    known = {item["id"] for item in truth["categories"]}
    number = max((item["id"] for item in truth["annotations"]), default=0)
    regions: list[dict[str, Any]] = []
    for image in truth["images"]:
        for category in image["not_exhaustive_category_ids"]:
            if category not in known:
                continue
            number += 1
            region = {
                "id": number,
                "image_id": image["id"],
                "category_id": category,
                "iscrowd": 1,
                "bbox": [0, 0, image["width"], image["height"]],
                "area": image["width"] * image["height"],
            }
            regions.append(region)
    return regions


def _highest_scores(detections: Sequence[Annotation]) -> list[Annotation]:
    """Return the `LVIS_MAX_DETECTIONS` best detections of each image, all classes together."""
    by_image: dict[Any, list[Annotation]] = {}
    for item in sorted(detections, key=lambda item: -item["score"]):
        by_image.setdefault(item["image_id"], []).append(item)
    counted: list[Annotation] = []
    for items in by_image.values():
        counted += items[:LVIS_MAX_DETECTIONS]
    return counted


def check_installed() -> None:
    """Check that the library is installed, before a model answers questions for hours.

    Raises:
        UserError: faster-coco-eval is not installed.
    """
    if find_spec("faster_coco_eval") is None:
        raise UserError("average precision needs faster-coco-eval: pip install 'gpg-vl[detection]'")


def _evaluation(truth: Mapping[str, Any], detections: Sequence[Annotation]) -> Any:
    """Return the library's evaluator for these boxes."""
    check_installed()
    if not truth["annotations"]:
        raise UserError("average precision: the truth holds no box, so there is nothing to find")
    library: Any = import_module("faster_coco_eval")
    known: Any = library.COCO()
    # the library writes into images and annotations: copies keep the caller's as they are
    known.dataset = {
        **truth,
        "images": [dict(image) for image in truth["images"]],
        "annotations": [dict(item) for item in truth["annotations"]],
    }
    known.createIndex()
    found = known.loadRes([dict(item) for item in detections])
    # separate_eval keeps the results of each image, which the bootstrap draws from
    return library.COCOeval_faster(known, found, "bbox", separate_eval=True)
