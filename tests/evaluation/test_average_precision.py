"""Average precision: figures by hand, the COCO sample and the VOC toy by their published numbers."""

import pytest

from gpg_vl.errors import UserError
from gpg_vl.evaluation import average_precision
from tests.recorded import home, needed, read, reference


def truth(*boxes):
    return {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "bbox": list(box), "area": box[2] * box[3], "iscrowd": 0}
            for number, box in enumerate(boxes, 1)
        ],
    }


def found(*boxes):
    return [{"image_id": 1, "category_id": 1, "bbox": list(box), "score": score} for *box, score in boxes]


TWO = truth((0, 0, 10, 10), (50, 50, 10, 10))


def test_half_found_is_half_the_area():
    # one of two at full precision, then nothing: the envelope is 1 up to recall 0.5
    assert average_precision.voc(TWO, found((0, 0, 10, 10, 0.9))) == pytest.approx(0.5)
    # eleven points: recall 0 to 0.5 are six of them
    assert average_precision.voc(TWO, found((0, 0, 10, 10, 0.9)), points="eleven") == pytest.approx(6 / 11)
    # a junk box before it halves the precision
    assert average_precision.voc(TWO, found((80, 0, 9, 9, 0.95), (0, 0, 10, 10, 0.9))) == pytest.approx(0.25)


def test_the_inclusive_pixel_belongs_to_voc():
    # 10 x 10 against 10 x 5: 50 / 100 without, 66 / 121 with the extra pixel
    half = found((0, 0, 10, 5, 0.9))
    assert average_precision.voc(truth((0, 0, 10, 10)), half, iou=0.51) == pytest.approx(1.0)
    assert average_precision.voc(truth((0, 0, 10, 10)), half, iou=0.51, inclusive=False) == 0.0


def test_silence_and_an_empty_truth():
    assert average_precision.voc(TWO, []) == 0.0
    assert average_precision.coco(TWO, [])["AP"] == 0.0
    with pytest.raises(UserError, match="nothing to find"):
        average_precision.coco(truth(), found((0, 0, 1, 1, 0.5)))


@needed
def test_the_coco_sample():
    figures = average_precision.coco(read("detection/coco100/gts.json"), read("detection/coco100/dets.json"))
    expected = reference("detection/coco100")["reference_pycocotools"]
    assert {name: round(figure, 6) for name, figure in figures.items()} == expected
    assert round(figures["AP"], 6) == 0.503647
    assert round(figures["AP50"], 6) == 0.696973


def voc_toy():
    folder = home() / "detection" / "voc_toy"
    images, annotations, detections = [], [], []
    for number, path in enumerate(sorted((folder / "gts").glob("*.txt")), 1):
        images.append({"id": number, "width": 300, "height": 300})
        for line in path.read_text().splitlines():
            box = [float(edge) for edge in line.split()[1:]]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            )
        for line in (folder / "dets" / path.name).read_text().splitlines():
            score, *box = (float(word) for word in line.split()[1:])
            detections.append({"image_id": number, "category_id": 1, "bbox": box, "score": score})
    return {"images": images, "categories": [{"id": 1, "name": "object"}], "annotations": annotations}, detections


@needed
@pytest.mark.parametrize("threshold", ["0.1", "0.3", "0.5", "0.75"])
def test_the_voc_toy_under_its_own_convention(threshold):
    known, given = voc_toy()
    expected = reference("detection/voc_toy")
    assert (len(known["annotations"]), len(given)) == (expected["boxes"], expected["detections"])
    iou = float(threshold)
    assert average_precision.voc(known, given, iou=iou) == pytest.approx(expected["AP_all_points"][threshold], abs=1e-9)
    assert average_precision.voc(known, given, iou=iou, points="eleven") == pytest.approx(expected["AP_11_points"][threshold], abs=1e-9)


# --- several pictures, classes and sides --------------------------------------------------------------------------------


def item(image, category, box, **fields):
    return {"image_id": image, "category_id": category, "bbox": list(box), **fields}


def several(images, categories, *items, **fields):
    """A truth of (image, category, box) on pictures of 200 x 100."""
    return {
        "images": [{"id": image, "width": 200, "height": 100, **fields} for image in images],
        "categories": [{"id": category, "name": str(category)} for category in categories],
        "annotations": [item(*each, id=number, area=each[2][2] * each[2][3], iscrowd=0) for number, each in enumerate(items, 1)],
    }


WIDE_BOX, TALL_BOX = (10, 20, 40, 10), (10, 20, 10, 40)


def test_voc_is_the_mean_over_the_classes_that_are_there():
    # class 1 found, class 2 missed, class 3 nowhere: (1 + 0) / 2
    known = several([1], [1, 2, 3], (1, 1, WIDE_BOX), (1, 2, TALL_BOX))
    assert average_precision.voc(known, [item(1, 1, WIDE_BOX, score=0.9)]) == pytest.approx(0.5)
    # a box of another class is no find, and none of class 3 costs anything
    other = [item(1, 1, WIDE_BOX, score=0.9), item(1, 1, TALL_BOX, score=0.8), item(1, 3, TALL_BOX, score=0.7)]
    assert average_precision.voc(known, other) == pytest.approx(0.5)
    assert average_precision.voc({**known, "annotations": []}, other) == 0.0


def test_the_inclusive_pixel_is_added_to_each_side_once():
    # 40 x 10 against 20 x 10: 21 x 11 of 41 x 11, or 0.512; against 40 x 5: 41 x 6 of 41 x 11, or 0.545
    known = several([1], [1], (1, 1, WIDE_BOX))
    for box, iou in (((10, 20, 20, 10), 21 / 41), ((10, 20, 40, 5), 6 / 11)):
        found = [item(1, 1, box, score=0.9)]
        assert average_precision.voc(known, found, iou=iou - 0.001) == pytest.approx(1.0)
        assert average_precision.voc(known, found, iou=iou + 0.001) == 0.0
        assert average_precision.voc(known, found, iou=0.499, inclusive=False) == pytest.approx(1.0)
        assert average_precision.voc(known, found, iou=0.501, inclusive=False) == 0.0


def test_every_detection_of_voc_counts_however_many_there_are():
    # 150 junk boxes before the true one: precision 1/151
    junk = [item(1, 1, (100, place * 0.5, 5, 5), score=0.9) for place in range(150)]
    found = average_precision.voc(several([1], [1], (1, 1, WIDE_BOX)), [*junk, item(1, 1, WIDE_BOX, score=0.5)])
    assert found == pytest.approx(1 / 151)


def test_coco_figures_stand_under_their_names():
    # IoU 0.8 (40 x 10 against 40 x 8): a find at 0.5 to 0.8, that is 7 of 10 thresholds; the area of 400 is small
    figures = average_precision.coco(several([1], [1], (1, 1, WIDE_BOX)), [item(1, 1, (10, 20, 40, 8), score=0.9)])
    assert list(figures) == ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    assert (figures["AP"], figures["AP50"], figures["AP75"]) == pytest.approx((0.7, 1.0, 1.0))
    assert (figures["APs"], figures["APm"], figures["APl"], figures["AR1"]) == pytest.approx((0.7, -1, -1, 0.7))


def intervals(known, found, **how):
    return {name: (each.low, each.mean, each.high) for name, each in average_precision.with_intervals(known, found, **how).items()}


def test_figures_with_intervals_are_those_of_coco_and_stay_between_zero_and_one():
    known = several([1, 2], [1], (1, 1, WIDE_BOX), (2, 1, TALL_BOX))
    found = [item(1, 1, (10, 20, 40, 8), score=0.9), item(2, 1, (10, 20, 6, 40), score=0.9)]
    # IoU 0.8 and 0.6: both at 0.5 to 0.6, one at 0.65 to 0.8 (precision 1/1 or 1/2 at recall 1/2; here the first of equal scores wins)
    told, coco = intervals(known, found), average_precision.coco(known, found)
    for name, (low, mean, high) in told.items():
        assert mean == pytest.approx(coco[name])
        assert 0 <= low <= mean <= high <= 1
    assert list(told) == ["AP", "AP50", "AP75"]
    assert told["AP50"] == pytest.approx((1.0, 1.0, 1.0))  # whichever pictures are drawn
    low, mean, high = told["AP75"]
    assert low < mean < high
    assert average_precision.with_intervals(known, found)["AP"].count == 2
    assert intervals(known, found) == told  # the same draws each time


def test_an_interval_is_as_wide_as_the_spread_over_drawn_pictures(monkeypatch):
    # of four pictures two are solved; a draw of four holds k solved ones: AP50 is about k/4, whose standard deviation is 1/4
    monkeypatch.setattr(average_precision, "BOOTSTRAP_SAMPLES", 400)
    known = several([1, 2, 3, 4], [1], *((image, 1, WIDE_BOX) for image in (1, 2, 3, 4)))
    found = [item(image, 1, WIDE_BOX, score=0.9) for image in (1, 2)]
    low, mean, high = intervals(known, found)["AP50"]
    assert mean == pytest.approx(51 / 101)  # recall 0, 0.01 ... 0.5
    assert (low, high) == (pytest.approx(mean - 1.96 * 0.25, abs=0.05), pytest.approx(mean + 1.96 * 0.25, abs=0.05))


def test_a_class_without_a_truth_does_not_count():
    known = several([1], [1, 2], (1, 1, WIDE_BOX))
    found = [item(1, 1, WIDE_BOX, score=0.9), item(1, 2, WIDE_BOX, score=0.9)]
    assert intervals(known, found)["AP50"][1] == pytest.approx(1.0)


def lvis(*items, **image):
    return several([1], [1, 2], *items, **{"neg_category_ids": [], "not_exhaustive_category_ids": [], **image})


@pytest.mark.parametrize(
    ("image", "ap"),
    [
        # class 1 is there and found after a junk box of its own; class 2 is somewhere else: junk of it counts where it was looked for
        ({}, 1 / 2),
        ({"not_exhaustive_category_ids": [1]}, 1.0),
        ({"not_exhaustive_category_ids": [2]}, 1 / 2),
        ({"not_exhaustive_category_ids": [9]}, 1 / 2),  # no class of the set
    ],
)
def test_a_false_box_of_a_class_that_was_not_labelled_exhaustively_is_ignored(image, ap):
    found = [item(1, 1, (150, 60, 20, 20), score=0.9), item(1, 1, WIDE_BOX, score=0.5)]
    assert intervals(lvis((1, 1, WIDE_BOX), **image), found, federated=True)["AP50"][1] == pytest.approx(ap)


def test_what_is_ignored_has_numbers_of_its_own():
    """COCO's evaluator takes a truth by its number, and 0 for none."""
    known, _ = average_precision._federated(lvis((1, 1, WIDE_BOX), (1, 2, TALL_BOX), not_exhaustive_category_ids=[1, 2]), [])
    numbers = [item["id"] for item in known["annotations"]]
    assert len(set(numbers)) == 4
    assert min(numbers) > 0
    assert [(item["iscrowd"], item["category_id"]) for item in known["annotations"]] == [(0, 1), (0, 2), (1, 1), (1, 2)]


@pytest.mark.parametrize(("absent", "ap"), [([], 1.0), ([2], 1 / 2), ([1], 1.0)])
def test_a_class_is_judged_only_where_it_was_looked_for(absent, ap):
    two = several([1, 2], [2], (1, 2, WIDE_BOX), neg_category_ids=[], not_exhaustive_category_ids=[])
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
    assert intervals(given, [*hundred, item(1, 1, WIDE_BOX, score=0.5)])["AP50"][1] == 0.0  # the hundred surest
    assert intervals(given, [*hundred[1:], item(1, 1, WIDE_BOX, score=0.5)])["AP50"][1] == pytest.approx(1 / 100)
