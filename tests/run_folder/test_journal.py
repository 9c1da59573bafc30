"""Boxes in pixels beside the rows of rollouts, by hand, in every frame, as the verifiers score."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gpg_vl.boxes import Box, Frame
from gpg_vl.pictures import picture_size
from gpg_vl.prompts import AnswerOnly
from gpg_vl.run_folder import group_row
from gpg_vl.types import Group, Sample
from gpg_vl.verifiers.boxes import Boxes
from gpg_vl.verifiers.detection import Detection
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.number import Number
from tests.hand_made import completion, encoded, prompt

WIDE = (200, 100)
"""Width and height of a picture: a thousandth is 0.2 pixels across and 0.1 down."""
RESIZED = Frame(kind="resized", min_pixels=28 * 28, max_pixels=28 * 28 * 1280)
"""200 x 100 becomes 196 x 112: the nearest multiples of 28."""

STYLE = AnswerOnly()


def boxed(answer: Any, *, kind: str = "boxes", **more: Any) -> Sample:
    given = {"images": (b"picture",), "sizes": (WIDE,), **more}
    return Sample(id="q", question="?", answer_kind=kind, answer=answer, **given)


def row_of(sample: Sample, verifier: Any, *texts: str) -> dict[str, Any]:
    """Return the row of a group, scored and written as in a run."""
    verifiers = VerifierSet(by_kind={sample.answer_kind: verifier})
    completions = tuple(completion(text=f"<answer>{text}</answer>") for text in texts)
    asked = prompt()
    object.__setattr__(asked, "sample", sample)
    group = Group(
        prompt=asked,
        completions=completions,
        verdicts=tuple(verifiers.judge(answer, sample) for answer in completions),
        prompt_index=0,
    )
    row = group_row(group, used=True, true_boxes=verifiers.true_boxes)
    return json.loads(json.dumps(row, allow_nan=False))


def answered(row: dict[str, Any]) -> list[Any]:
    return [answer["boxes_pixels"] for answer in row["answers"]]


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (Frame(), "[20,10,60,50]"),
        (Frame(kind="norm1"), "[0.1,0.1,0.3,0.5]"),
        (Frame(kind="norm1000"), "[100,100,300,500]"),
        # 20 * 196 / 200 = 19.6, 10 * 112 / 100 = 11.2, 60 -> 58.8, 50 -> 56
        (RESIZED, "[19.6,11.2,58.8,56]"),
    ],
    ids=lambda given: given.kind if isinstance(given, Frame) else "",
)
def test_an_answer_in_any_frame_is_the_same_box_of_the_picture(frame, text):
    row = row_of(boxed([[20, 10, 60, 50]]), Boxes(frame=frame, style=STYLE), text)
    assert row["truth_pixels"] == [[20, 10, 60, 50]]
    assert answered(row) == [[[20, 10, 60, 50]]]
    assert row["answers"][0]["reward"] == pytest.approx(1.0)
    assert row["boxed_image"] == 1


def test_a_truth_in_thousandths_is_in_pixels_too_and_the_row_keeps_it_as_it_was():
    row = row_of(
        boxed([[100, 100, 300, 500]], frame="norm1000"), Boxes(style=STYLE), "[20,10,60,50]"
    )
    assert row["truth"] == [[100, 100, 300, 500]]
    assert row["truth_pixels"] == [[20, 10, 60, 50]] == answered(row)[0]


def test_only_what_was_scored_is_drawn():
    """Two boxes where one is asked for, nonsense, a box outside, one that leaves by a pixel."""
    row = row_of(
        boxed([[20, 10, 60, 50]]),
        Boxes(style=STYLE),
        "[[1,1,2,2],[20,10,60,50]]",
        "a dog",
        "[150,10,260,50]",
        "[150,10,201,50]",
    )
    assert answered(row) == [[], [], [], [[150, 10, 200, 50]]]
    last = row_of(
        boxed([[20, 10, 60, 50]]), Boxes(policy="last", style=STYLE), "[[1,1,2,2],[20,10,60,50]]"
    )
    assert answered(last) == [[[20, 10, 60, 50]]]


def test_a_box_is_in_the_image_that_the_row_names():
    """The second picture is 100 x 50: a thousandth is 0.1 and 0.05 pixels."""
    sample = boxed(
        [[10, 5, 30, 25]],
        images=(b"one", b"two"),
        sizes=(WIDE, (100, 50)),
        answer_image=2,
    )
    row = row_of(sample, Boxes(frame=Frame(kind="norm1000"), style=STYLE), "[100,100,300,500]")
    assert (row["boxed_image"], answered(row)) == (2, [[[10, 5, 30, 25]]])
    assert row["truth_pixels"] == [[10, 5, 30, 25]]
    assert [image["size"] for image in row["images"]] == [[200, 100], [100, 50]]


def test_a_picture_that_a_camera_turned_has_its_boxes_as_a_person_sees_it(tmp_path):
    """Stored 200 x 100 with the orientation 6 it is seen 100 x 200."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    path.write_bytes(encoded(Image.new("RGB", WIDE), "JPEG", exif=exif))
    size = picture_size(path)
    assert size == (100, 200)
    sample = boxed([[10, 40, 30, 120]], images=(path,), sizes=(size,))
    row = row_of(sample, Boxes(frame=Frame(kind="norm1000"), style=STYLE), "[100,200,300,600]")
    assert answered(row) == [[[10, 40, 30, 120]]] == [row["truth_pixels"]]
    assert row["images"] == [{"file": None, "original": str(path), "size": [100, 200]}]


def test_all_boxes_of_a_detection_and_none_where_there_is_nothing():
    sure = [{"bbox_2d": [100, 100, 300, 500], "confidence": 0.9, "label": "cat"}]
    stray = {"bbox_2d": [0, 0, 50, 50], "confidence": 0.1}
    truth = [{"box": [20, 10, 60, 50], "label": "cat"}]
    verifier = Detection(frame=Frame(kind="norm1000"), style=STYLE)
    row = row_of(boxed(truth, kind="detection"), verifier, json.dumps([*sure, stray]), "No Objects")
    assert row["truth_pixels"] == [[20, 10, 60, 50]]
    assert answered(row) == [[[20, 10, 60, 50], [0, 0, 10, 5]], []]
    nothing = row_of(boxed([], kind="detection"), verifier, json.dumps(sure))
    assert (nothing["truth_pixels"], answered(nothing)) == ([], [[[20, 10, 60, 50]]])


def test_several_boxes_that_are_paired():
    row = row_of(
        boxed([[0, 0, 10, 10], [20, 20, 40, 40]]),
        Boxes(policy="all", style=STYLE),
        "[[0,0,10,10],[30,30,20,20],[20,20,40,40]]",
    )
    assert answered(row) == [[[0, 0, 10, 10], [20, 20, 40, 40]]]


def test_the_authors_rule_says_its_box_too():
    row = row_of(
        boxed([[20, 10, 60, 50]]),
        Boxes(mode="reference", style=STYLE),
        '{"bbox_2d": [20, 10, 60, 50]}',
    )
    assert answered(row) == [[[20, 10, 60, 50]]]


def test_without_a_size_nothing_is_in_pixels():
    sample = boxed([[100, 100, 300, 500]], images=(), sizes=(), frame="norm1000")
    verifier = Boxes(mode="lenient", frame=Frame(kind="norm1000"), style=STYLE)
    row = row_of(sample, verifier, "[100,100,300,500]")
    assert row["answers"][0]["reward"] == pytest.approx(1.0)
    assert (row["truth_pixels"], answered(row)) == ([], [[]])


def test_other_answers_have_no_boxes():
    sample = Sample(id="q", question="?", answer_kind="number", answer=3)
    row = row_of(sample, Number(style=STYLE), "3")
    assert not {"truth_pixels", "boxed_image"} & row.keys()
    assert "boxes_pixels" not in row["answers"][0]


def test_a_verifier_of_your_own_may_say_its_boxes_and_one_that_fails_ends_nothing():
    class Own(Boxes):
        def true_boxes(self, sample):
            return [Box(1, 2, 3, 4)]

    class Failing(Boxes):
        def true_boxes(self, sample):
            raise ValueError("no such column")

    sample = boxed([[20, 10, 60, 50]])
    assert row_of(sample, Own(style=STYLE), "[1,1,2,2]")["truth_pixels"] == [[1, 2, 3, 4]]
    assert "truth_pixels" not in row_of(sample, Failing(style=STYLE), "[1,1,2,2]")
    assert VerifierSet(by_kind={"boxes": lambda text, it: None}).true_boxes(sample) is None  # type: ignore[dict-item]


def test_a_file_whose_name_is_no_text_is_named_all_the_same():
    sample = boxed([[20, 10, 60, 50]], images=(Path("/a\udc80.png"),))
    row = row_of(sample, Boxes(style=STYLE), "[1,1,2,2]")
    assert row["images"][0]["original"] == "/a\udc80.png"
