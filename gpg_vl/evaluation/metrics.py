"""Compute the figures of a benchmark from its records, each with its 95 % interval.

Means over nested groups, the best of k answers, and the average precision of boxes.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpg_vl.data.recipes.detection import annotations
from gpg_vl.errors import UserError, one_line, shown
from gpg_vl.evaluation import average_precision
from gpg_vl.evaluation.benchmark import Benchmark
from gpg_vl.evaluation.records import Record
from gpg_vl.evaluation.statistics import Interval, interval, weighted
from gpg_vl.parsing.markup import last_answer
from gpg_vl.types import Sample
from gpg_vl.verifiers.detection import Detection


def total(
    records: Sequence[Record],
    tags: Sequence[str],
    figure: Callable[[Record], float] = lambda record: record.greedy,
) -> Interval:
    """Compute the mean of a figure over the values of each tag, one tag after the other.

    With the tags [type, source]: the mean over types of the mean over sources of the mean over
    questions. Without a tag: the mean over all questions. The innermost groups are treated as
    independent samples.

    Raises:
        UserError: a record lacks a tag.
    """
    parts: list[tuple[float, Interval]] = []
    for weight, rows in _weighted(records, tags):
        parts.append((weight, interval([figure(record) for record in rows])))
    return weighted(parts)


def _weighted(
    records: Sequence[Record], tags: Sequence[str], weight: float = 1.0
) -> Iterator[tuple[float, Sequence[Record]]]:
    """Yield the innermost groups and their weights in the mean."""
    if not tags:
        yield weight, records
        return
    groups: dict[str, list[Record]] = {}
    for record in records:
        if tags[0] not in record.tags:
            raise UserError(
                f"totals: {one_line(record.id)} has no tag {shown(tags[0])}; it has "
                f"{one_line(', '.join(record.tags)) or 'none'}"
            )
        groups.setdefault(record.tags[tags[0]], []).append(record)
    for rows in groups.values():
        yield from _weighted(rows, tags[1:], weight / len(groups))


def best_of(each: Sequence[float], k: int) -> float:
    """Estimate the expected best accuracy among k sampled answers: pass@k without bias.

    Every subset of k answers is equally likely; the i-th best of n answers (from 0) is the best of
    a subset in C(n - 1 - i, k - 1) of C(n, k) cases (Chen et al., arXiv 2107.03374, Eq. 1).
    """
    ordered = sorted(each, reverse=True)
    count = len(ordered)
    best = sum(value * math.comb(count - 1 - index, k - 1) for index, value in enumerate(ordered))
    return best / math.comb(count, k)


def pass_at(records: Sequence[Record], k: int) -> Interval | None:
    """Compute pass@k over the questions; None if a question has fewer than k sampled answers."""
    sampled = [record.each for record in records]
    if not sampled or not all(len(each) >= k for each in sampled):
        return None
    return interval([best_of(each, k) for each in sampled])


def beside(records: Sequence[Record]) -> Interval | None:
    """Compute the accuracy by the spec's second parsing; None if a question has none."""
    values = [record.beside for record in records]
    if not values or any(map(math.isnan, values)):
        return None
    return interval(values)


def detection(benchmark: Benchmark, records: Sequence[Record]) -> dict[str, Interval]:
    """Compute the average precision of all boxes of a benchmark, over the classes asked for.

    Raises:
        UserError: the questions do not name one annotation file, or have no boxes as answers.
    """
    kind = benchmark.spec.average_precision
    assert kind is not None
    questions = benchmark.questions
    files = {str(sample.columns.get("truth_file", "")) for sample in questions}
    if len(files) != 1 or "" in files:
        raise UserError(
            f"average_precision: {kind}: the questions name {len(files)} annotation files, expected"
            " one (recipe coco or lvis)"
        )
    asked = {sample.columns["category_id"] for sample in questions}
    unasked = {
        (sample.columns["image_id"], sample.columns["category_id"]) for sample in benchmark.unasked
    }
    truth = _only(annotations(Path(files.pop())), asked, unasked)
    by_key = {record.key: record for record in records}
    found: list[dict[str, Any]] = []
    for sample in questions:
        found += _found(sample, by_key[sample.source, sample.id], benchmark)
    return average_precision.with_intervals(truth, found, federated=kind == "lvis")


def _only(
    truth: Mapping[str, Any], asked: set[Any], unasked: set[tuple[Any, Any]]
) -> dict[str, Any]:
    """Return a COCO data set with the classes asked for and no others.

    Args:
        unasked: (image, class) of the questions that could not be asked: no box of them is missed.
    """
    kept: list[Any] = []
    for item in truth["annotations"]:
        place = item["image_id"], item["category_id"]
        if item["category_id"] in asked and place not in unasked:
            kept.append(item)
    return {
        **truth,
        "categories": [item for item in truth["categories"] if item["id"] in asked],
        "annotations": kept,
    }


def _found(sample: Sample, record: Record, benchmark: Benchmark) -> list[dict[str, Any]]:
    """Return the boxes of an answer as COCO results, in pixels of the image."""
    verifier = benchmark.verifiers.by_kind[sample.answer_kind]
    if not isinstance(verifier, Detection):
        raise UserError(
            f"average_precision: {one_line(sample.id)} is scored by {type(verifier).__name__}, "
            "expected kind detection"
        )
    if verifier.mode == "strict":
        answer = verifier.style.read(record.text).answer
    else:
        answer = last_answer(record.text)
    results: list[dict[str, Any]] = []
    for box, score in verifier.placed(answer, sample):
        result = {
            "image_id": sample.columns["image_id"],
            "category_id": sample.columns["category_id"],
            # COCO boxes are x, y, width, height
            "bbox": [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1],
            "score": score,
        }
        results.append(result)
    return results
