"""What a benchmark prints of its records: totals over nested groups, the best of k answers, average precision of boxes; each with its
95 % interval.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpg_vl.data.recipes.detection import annotations
from gpg_vl.errors import UserError
from gpg_vl.evaluation import average_precision
from gpg_vl.evaluation.benchmark import Benchmark
from gpg_vl.evaluation.records import Record
from gpg_vl.evaluation.statistics import Interval, interval, weighted
from gpg_vl.parsing.markup import last_answer
from gpg_vl.types import Sample
from gpg_vl.verifiers.detection import Detection


def total(records: Sequence[Record], tags: Sequence[str], figure: Callable[[Record], float] = lambda record: record.greedy) -> Interval:
    """The mean of a figure, taken over the values of each tag in turn: with no tag over all questions.

    The innermost groups are independent samples.

    Raises:
        UserError: a record lacks a tag.
    """
    return weighted([(weight, interval(list(map(figure, rows)))) for weight, rows in _weighted(records, tags)])


def _weighted(records: Sequence[Record], tags: Sequence[str], weight: float = 1.0) -> Iterator[tuple[float, Sequence[Record]]]:
    if not tags:
        yield weight, records
        return
    groups: dict[str, list[Record]] = {}
    for record in records:
        if tags[0] not in record.tags:
            raise UserError(f"totals: {record.id} has no tag {tags[0]!r}; it has {', '.join(record.tags) or 'none'}")
        groups.setdefault(record.tags[tags[0]], []).append(record)
    for rows in groups.values():
        yield from _weighted(rows, tags[1:], weight / len(groups))


def best_of(each: Sequence[float], k: int) -> float:
    """The expected best accuracy among k of the sampled answers: pass@k, without bias (Chen et al., arXiv 2107.03374, Eq. 1).

    Every subset of k answers is as likely; the i-th best of n is the best of a subset in C(n - 1 - i, k - 1) of C(n, k) cases.
    """
    ordered = sorted(each, reverse=True)
    count = len(ordered)
    return sum(value * math.comb(count - 1 - place, k - 1) for place, value in enumerate(ordered)) / math.comb(count, k)


def pass_at(records: Sequence[Record], k: int) -> Interval | None:
    """pass@k over the questions; None where fewer answers were drawn."""
    drawn = [record.each for record in records]
    return interval([best_of(each, k) for each in drawn]) if drawn and all(len(each) >= k for each in drawn) else None


def beside(records: Sequence[Record]) -> Interval | None:
    """The accuracy by the second way of reading; None where there is none."""
    values = [record.beside for record in records]
    return interval(values) if values and not any(map(math.isnan, values)) else None


def detection(examination: Benchmark, records: Sequence[Record]) -> dict[str, Interval]:
    """Average precision of all boxes of a benchmark, over the classes that were asked about.

    Raises:
        UserError: the questions do not say which annotation file they come from.
    """
    kind = examination.spec.average_precision
    assert kind is not None
    files = {str(sample.columns.get("truth_file", "")) for sample in examination.questions}
    if len(files) != 1 or "" in files:
        raise UserError(f"average_precision: {kind}: the questions name {len(files)} annotation files, expected one (recipe coco or lvis)")
    asked = {sample.columns["category_id"] for sample in examination.questions}
    truth = _only(annotations(Path(files.pop())), asked)
    by_id = {record.id: record for record in records}
    found = [item for sample in examination.questions for item in _found(sample, by_id[sample.id], examination)]
    return average_precision.with_intervals(truth, found, federated=kind == "lvis")


def _only(truth: Mapping[str, Any], asked: set[Any]) -> dict[str, Any]:
    categories = [item for item in truth["categories"] if item["id"] in asked]
    return {**truth, "categories": categories, "annotations": [item for item in truth["annotations"] if item["category_id"] in asked]}


def _found(sample: Sample, record: Record, examination: Benchmark) -> list[dict[str, Any]]:
    verifier = examination.checks.by_kind[sample.answer_kind]
    if not isinstance(verifier, Detection):
        raise UserError(f"average_precision: {sample.id} is scored by {type(verifier).__name__}, expected kind detection")
    answer = verifier.style.read(record.text).answer if verifier.mode == "strict" else last_answer(record.text)
    place = {"image_id": sample.columns["image_id"], "category_id": sample.columns["category_id"]}
    return [
        {**place, "bbox": [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1], "score": score}
        for box, score in verifier.placed(answer, sample)
    ]
