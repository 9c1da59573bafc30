"""Average precision: figures by hand, the COCO sample and the VOC toy by their published numbers."""

import pytest

from gpg_vl import average_precision
from gpg_vl.types import UserError
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
