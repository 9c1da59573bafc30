"""Average precision: figures by hand, and the COCO sample by its published numbers."""

import copy

import pytest
from faster_coco_eval import COCO, COCOeval_faster

from gpg_vl.errors import UserError
from gpg_vl.evaluation import average_precision
from tests.recorded import needed, read, reference


def truth(*boxes):
    return {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": 1,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for number, box in enumerate(boxes, 1)
        ],
    }


def found(*boxes):
    return [
        {"image_id": 1, "category_id": 1, "bbox": list(box), "score": score}
        for *box, score in boxes
    ]


TWO = truth((0, 0, 10, 10), (50, 50, 10, 10))


def library_figures(known, found):
    """AP, AP50 and AP75 as the library's own summary has them."""
    data_set = COCO()
    data_set.dataset = copy.deepcopy(known)
    data_set.createIndex()
    summary = COCOeval_faster(data_set, data_set.loadRes(copy.deepcopy(found)), "bbox")
    summary.run()
    return dict(zip(average_precision.FIGURES, summary.stats, strict=False))


def test_no_detection_and_an_empty_truth():
    assert average_precision.with_intervals(TWO, [])["AP"].mean == 0.0
    with pytest.raises(UserError, match="nothing to find"):
        average_precision.with_intervals(truth(), found((0, 0, 1, 1, 0.5)))


def test_the_callers_truth_and_detections_stay_as_they_are():
    known, given = copy.deepcopy(TWO), found((0, 0, 10, 10, 0.9))
    average_precision.with_intervals(known, given)
    assert known == TWO
    assert given == found((0, 0, 10, 10, 0.9))


@needed
def test_the_coco_sample():
    """The record was made with pycocotools."""
    known, given = read("detection/coco100/gts.json"), read("detection/coco100/dets.json")
    figures = average_precision.with_intervals(known, given)
    expected = reference("detection/coco100")["reference_pycocotools"]
    for name, figure in figures.items():
        assert round(figure.mean, 6) == expected[name]
        assert figure.mean == pytest.approx(library_figures(known, given)[name], abs=1e-12)
    assert round(figures["AP"].mean, 6) == 0.503647
    assert round(figures["AP50"].mean, 6) == 0.696973


# --- several pictures, classes and sides ----------------------------------------------------------


def item(image, category, box, **fields):
    return {"image_id": image, "category_id": category, "bbox": list(box), **fields}


def several(images, categories, *items, **fields):
    """A truth of (image, category, box) on pictures of 200 x 100."""
    return {
        "images": [{"id": image, "width": 200, "height": 100, **fields} for image in images],
        "categories": [{"id": category, "name": str(category)} for category in categories],
        "annotations": [
            item(*each, id=number, area=each[2][2] * each[2][3], iscrowd=0)
            for number, each in enumerate(items, 1)
        ],
    }


WIDE_BOX, TALL_BOX = (10, 20, 40, 10), (10, 20, 10, 40)


def intervals(known, found, **how):
    return {
        name: (each.low, each.mean, each.high)
        for name, each in average_precision.with_intervals(known, found, **how).items()
    }


def test_figures_with_intervals_are_those_of_coco_and_stay_between_zero_and_one():
    known = several([1, 2], [1], (1, 1, WIDE_BOX), (2, 1, TALL_BOX))
    found = [item(1, 1, (10, 20, 40, 8), score=0.9), item(2, 1, (10, 20, 6, 40), score=0.9)]
    # IoU 0.8 and 0.6: both at 0.5 to 0.6, one at 0.65 to 0.8 (precision 1/1 or 1/2 at recall 1/2;
    # here the first of equal scores wins)
    figures, library = intervals(known, found), library_figures(known, found)
    for name, (low, mean, high) in figures.items():
        assert mean == pytest.approx(library[name])
        assert 0 <= low <= mean <= high <= 1
    assert list(figures) == ["AP", "AP50", "AP75"]
    assert figures["AP50"] == pytest.approx((1.0, 1.0, 1.0))  # whichever pictures are drawn
    low, mean, high = figures["AP75"]
    assert low < mean < high
    assert average_precision.with_intervals(known, found)["AP"].count == 2
    assert intervals(known, found) == figures  # the same draws each time


def test_a_box_is_found_at_the_thresholds_up_to_its_iou():
    # IoU 0.8 (40 x 10 against 40 x 8): found at 0.5 to 0.8, that is at 7 of 10 thresholds
    known = several([1], [1], (1, 1, WIDE_BOX))
    figures = intervals(known, [item(1, 1, (10, 20, 40, 8), score=0.9)])
    assert [figures[name][1] for name in figures] == pytest.approx([0.7, 1.0, 1.0])


def test_an_interval_is_as_wide_as_the_spread_over_drawn_pictures(monkeypatch):
    # of four pictures two are solved; a draw of four holds k solved ones: AP50 is about k/4, whose
    # standard deviation is 1/4
    monkeypatch.setattr(average_precision, "BOOTSTRAP_SAMPLES", 400)
    known = several([1, 2, 3, 4], [1], *((image, 1, WIDE_BOX) for image in (1, 2, 3, 4)))
    found = [item(image, 1, WIDE_BOX, score=0.9) for image in (1, 2)]
    low, mean, high = intervals(known, found)["AP50"]
    assert mean == pytest.approx(51 / 101)  # recall 0, 0.01 ... 0.5
    assert (low, high) == (
        pytest.approx(mean - 1.96 * 0.25, abs=0.05),
        pytest.approx(mean + 1.96 * 0.25, abs=0.05),
    )


def test_a_class_without_a_truth_does_not_count():
    known = several([1], [1, 2], (1, 1, WIDE_BOX))
    found = [item(1, 1, WIDE_BOX, score=0.9), item(1, 2, WIDE_BOX, score=0.9)]
    assert intervals(known, found)["AP50"][1] == pytest.approx(1.0)


def lvis(*items, **image):
    return several(
        [1], [1, 2], *items, **{"neg_category_ids": [], "not_exhaustive_category_ids": [], **image}
    )


@pytest.mark.parametrize(
    ("image", "ap"),
    [
        # class 1 is there and found after a junk box of its own; class 2 is somewhere else: junk of
        # it counts where it was looked for
        ({}, 1 / 2),
        ({"not_exhaustive_category_ids": [1]}, 1.0),
        ({"not_exhaustive_category_ids": [2]}, 1 / 2),
        ({"not_exhaustive_category_ids": [9]}, 1 / 2),  # no class of the set
    ],
)
def test_a_false_box_of_a_class_that_was_not_labelled_exhaustively_is_ignored(image, ap):
    found = [item(1, 1, (150, 60, 20, 20), score=0.9), item(1, 1, WIDE_BOX, score=0.5)]
    figures = intervals(lvis((1, 1, WIDE_BOX), **image), found, federated=True)
    assert figures["AP50"][1] == pytest.approx(ap)


def test_what_is_ignored_has_numbers_of_its_own():
    """COCO's evaluator takes a truth by its number, and 0 for none."""
    given = lvis((1, 1, WIDE_BOX), (1, 2, TALL_BOX), not_exhaustive_category_ids=[1, 2])
    known, _ = average_precision._apply_federated_rules(given, [])
    numbers = [item["id"] for item in known["annotations"]]
    assert len(set(numbers)) == 4
    assert min(numbers) > 0
    assert [(item["iscrowd"], item["category_id"]) for item in known["annotations"]] == [
        (0, 1),
        (0, 2),
        (1, 1),
        (1, 2),
    ]


@pytest.mark.parametrize(("absent", "ap"), [([], 1.0), ([2], 1 / 2), ([1], 1.0)])
def test_a_class_is_judged_only_where_it_was_looked_for(absent, ap):
    two = several(
        [1, 2], [2], (1, 2, WIDE_BOX), neg_category_ids=[], not_exhaustive_category_ids=[]
    )
    two["images"][1]["neg_category_ids"] = absent
    found = [item(2, 2, WIDE_BOX, score=0.9), item(1, 2, WIDE_BOX, score=0.5)]
    assert intervals(two, found, federated=True)["AP50"][1] == pytest.approx(ap)


@pytest.mark.parametrize(("junk", "ap"), [(299, 1 / 300), (300, 0.0)])
def test_of_a_picture_the_three_hundred_surest_count_all_classes_together(junk, ap):
    known = lvis((1, 1, WIDE_BOX), (1, 2, TALL_BOX))
    before = [item(1, 1, (100, place * 0.25, 5, 5), score=0.9) for place in range(junk)]
    found = [item(1, 1, WIDE_BOX, score=0.5), *before, item(1, 2, TALL_BOX, score=0.4)]
    # class 2 is the 301st either way
    assert intervals(known, found, federated=True)["AP50"][1] == pytest.approx(ap / 2)


def test_without_the_federated_rules_every_box_counts():
    known = several([1, 2], [1], (1, 1, WIDE_BOX))
    found = [item(2, 1, WIDE_BOX, score=0.9), item(1, 1, WIDE_BOX, score=0.5)]
    assert intervals(known, found)["AP50"][1] == pytest.approx(1 / 2)
    given = several([1], [1], (1, 1, WIDE_BOX))
    hundred = [item(1, 1, (100, place * 0.5, 5, 5), score=0.9) for place in range(100)]
    last = item(1, 1, WIDE_BOX, score=0.5)
    assert intervals(given, [*hundred, last])["AP50"][1] == 0.0  # the hundred highest scores
    assert intervals(given, [*hundred[1:], last])["AP50"][1] == pytest.approx(1 / 100)
