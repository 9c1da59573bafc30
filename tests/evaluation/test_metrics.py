"""Figures of records by hand: the best of several answers, a second reading, and the boxes that
average precision is given."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpg_vl.errors import UserError
from gpg_vl.evaluation import average_precision, metrics
from gpg_vl.evaluation.records import Record
from gpg_vl.prompts import AnswerOnly
from gpg_vl.types import Sample
from gpg_vl.verifiers.detection import Detection
from gpg_vl.verifiers.number import Number


def record(number: int, greedy: float = 0.0, text: str = "", **more: Any) -> Record:
    return Record(
        id=f"q{number}",
        tag="a",
        greedy=greedy,
        sampled=math.nan,
        text=text,
        answer="",
        reason="",
        **more,
    )


def mean(found: Any) -> float | None:
    return None if found is None else found.mean


@pytest.mark.parametrize(
    ("each", "k", "message"),
    [
        ([(1.0, 0.0), (0.0, 0.0)], 1, 0.25),
        ([(1.0, 0.0), (0.0, 0.0)], 2, 0.5),
        ([(1.0, 0.0), (0.0,)], 2, None),  # one of them has fewer answers
        ([(0.0,), (1.0, 0.0)], 2, None),
        ([(1.0, 0.5, 0.0)], 2, 1 * 2 / 3 + 0.5 * 1 / 3),  # the best is in two of three pairs
        ([], 1, None),
    ],
)
def test_the_best_of_some_answers_needs_as_many_of_every_question(each, k, message):
    found = mean(metrics.pass_at([record(place, each=own) for place, own in enumerate(each)], k))
    assert found == (None if message is None else pytest.approx(message))


@pytest.mark.parametrize(
    ("values", "message"),
    [([0.0, 1.0, 1.0], 2 / 3), ([1.0, math.nan], None), ([math.nan, math.nan], None), ([], None)],
)
def test_a_second_reading_is_of_all_questions_or_of_none(values, message):
    found = mean(
        metrics.beside([record(place, beside=value) for place, value in enumerate(values)])
    )
    assert found == (None if message is None else pytest.approx(message))


def test_totals_are_means_over_the_values_of_each_tag_in_turn():
    """Source x has types a (1, 0) and b (1): (0.5 + 1) / 2; source y has a (0, 0, 0): 0. The
    mean of both is 0.375."""
    given = [
        ("x", "a", 1),
        ("x", "a", 0),
        ("x", "b", 1),
        ("y", "a", 0),
        ("y", "a", 0),
        ("y", "a", 0),
    ]
    rows = [
        record(place, value, tags={"source": source, "type": kind})
        for place, (source, kind, value) in enumerate(given)
    ]
    assert metrics.total(rows, ["source", "type"]).mean == pytest.approx(0.375)
    assert metrics.total(rows, ["source"]).mean == pytest.approx((2 / 3 + 0) / 2)
    assert metrics.total(rows, []).mean == pytest.approx(2 / 6)
    assert metrics.total(rows, ["source"], lambda it: 1.0 - it.greedy).mean == pytest.approx(
        (1 / 3 + 1) / 2
    )


# --- boxes ----------------------------------------------------------------------------------------

TRUTH = {
    "images": [{"id": 5}, {"id": 6}],
    "categories": [
        {"id": 1, "name": "cat"},
        {"id": 2, "name": "dog"},
        {"id": 3, "name": "never asked"},
    ],
    "annotations": [
        {"id": 10, "category_id": 1, "image_id": 5},
        {"id": 11, "category_id": 3, "image_id": 5},
        {"id": 12, "category_id": 2, "image_id": 6},
    ],
}


@pytest.fixture
def given(tmp_path, monkeypatch) -> Any:
    """What average precision is computed of: the questions, in order, with the answers to them;
    taken down, not computed."""
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    taken: list[Any] = []
    monkeypatch.setattr(metrics, "annotations", lambda path: json.loads(path.read_text()))
    monkeypatch.setattr(
        average_precision,
        "with_intervals",
        lambda truth, found, *, federated: taken.append((truth, found, federated)) or {},
    )

    def question(number: int, category: int, image: int, **columns: Any) -> Sample:
        known = {
            "truth_file": str(tmp_path / "truth.json"),
            "image_id": image,
            "category_id": category,
        }
        return Sample(
            id=f"q{number}",
            question="?",
            answer_kind="detection",
            answer=[],
            sizes=((200, 100),),
            columns={**known, **columns},
        )

    def examine(
        questions: list[Sample],
        texts: list[str],
        kind: str = "coco",
        verifier: Any = None,
        unasked: tuple[Sample, ...] = (),
    ) -> Any:
        verifiers = SimpleNamespace(
            by_kind={"detection": verifier or Detection(style=AnswerOnly())}
        )
        benchmark: Any = SimpleNamespace(
            spec=SimpleNamespace(average_precision=kind),
            questions=questions,
            verifiers=verifiers,
            unasked=unasked,
        )
        records = [record(place, text=text) for place, text in enumerate(texts)]
        metrics.detection(benchmark, records[::-1])
        return taken[-1]

    return SimpleNamespace(question=question, examine=examine, taken=taken)


BOX = (
    '<answer>[{"bbox_2d": [10, 20, 40, 80], "confidence": 0.75}, {"bbox_2d": [0, 0, 200, 100], '
    '"confidence": 0.5}]</answer>'
)


@pytest.mark.parametrize(("kind", "federated"), [("coco", False), ("lvis", True)])
def test_boxes_are_handed_over_with_sides_scores_and_their_question(kind, federated, given):
    """A picture of 200 x 100; corners become a corner, a width and a height. Records may stand
    in any order."""
    asked = [given.question(0, 1, 5), given.question(1, 2, 6)]
    truth, found, rule = given.examine(asked, [BOX, "<answer>[]</answer>"], kind)
    assert rule == federated
    assert found == [
        {"image_id": 5, "category_id": 1, "bbox": [10, 20, 30, 60], "score": 0.75},
        {"image_id": 5, "category_id": 1, "bbox": [0, 0, 200, 100], "score": 0.5},
    ]
    assert [item["id"] for item in truth["categories"]] == [1, 2]
    assert [item["id"] for item in truth["annotations"]] == [10, 12]
    assert truth["images"] == TRUTH["images"]


def test_boxes_of_a_question_that_could_not_be_asked_are_not_missed(given):
    asked, unasked = [given.question(0, 1, 5)], (given.question(1, 1, 6),)
    of_both = {**TRUTH, "annotations": [*TRUTH["annotations"], dict(TRUTH["annotations"][0])]}
    of_both["annotations"][3] |= {"id": 13, "image_id": 6}
    Path(asked[0].columns["truth_file"]).write_text(json.dumps(of_both))
    truth, _, _ = given.examine(asked, [BOX], unasked=unasked)
    assert [item["id"] for item in truth["annotations"]] == [10]
    truth, _, _ = given.examine(asked, [BOX])
    assert [item["id"] for item in truth["annotations"]] == [10, 13]


def test_equal_ids_of_two_sources_are_two_questions_of_the_figures(given):
    first = replace(given.question(0, 1, 5), source="one")
    second = replace(given.question(0, 1, 6), source="two")
    texts = {"one": BOX, "two": "<answer>[]</answer>"}
    benchmark: Any = SimpleNamespace(
        spec=SimpleNamespace(average_precision="coco"),
        questions=[first, second],
        verifiers=SimpleNamespace(by_kind={"detection": Detection(style=AnswerOnly())}),
        unasked=(),
    )
    records = [record(0, text=text, source=source) for source, text in texts.items()]
    assert metrics.detection(benchmark, records) == {}
    assert {item["image_id"] for item in given.taken[-1][1]} == {5}


def test_strictly_only_what_keeps_the_format_has_boxes(given):
    bare = BOX.removeprefix("<answer>").removesuffix("</answer>")
    assert given.examine([given.question(0, 1, 5)], [bare])[1] == []
    lenient = Detection(style=AnswerOnly(), mode="lenient")
    assert len(given.examine([given.question(0, 1, 5)], [bare], verifier=lenient)[1]) == 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["", ""], "1 annotation files"),
        (["a", "b"], "2 annotation files"),
        (["a", ""], "2 annotation files"),
    ],
)
def test_questions_must_come_of_one_annotation_file(files, message, given):
    asked = [given.question(place, 1, 5, truth_file=file) for place, file in enumerate(files)]
    with pytest.raises(
        UserError, match=f"average_precision: coco: the questions name {message}, expected one"
    ):
        given.examine(asked, ["", ""])


def test_only_detections_have_an_average_precision(given):
    with pytest.raises(
        UserError, match="average_precision: q0 is scored by Number, expected kind detection"
    ):
        given.examine([given.question(0, 1, 5)], [BOX], verifier=Number())
