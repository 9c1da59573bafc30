"""Rows of the published sets by hand: pictures that are not square, boxes at their edges, every
option of a recipe, numbers to the one."""

import json
import re

import pytest

from gpg_vl.data.recipes import card
from gpg_vl.data.recipes.card import Published, answer_text, need, numbers, tags_of
from gpg_vl.data.recipes.clevr import clevr, superclevr
from gpg_vl.data.recipes.cv_bench import cv_bench
from gpg_vl.data.recipes.detection import coco, file_of, lvis
from gpg_vl.data.recipes.digits import digits
from gpg_vl.data.recipes.fine_grained import cars196, fgvc_aircraft, flower102, pets37
from gpg_vl.data.recipes.geoqa import geoqa
from gpg_vl.data.recipes.lisa import lisa
from gpg_vl.data.recipes.refcoco import refcoco, refcoco_plus, refcocog, refgta
from gpg_vl.data.recipes.sat import sat
from gpg_vl.errors import UserError
from gpg_vl.prompts import AnswerOnly
from gpg_vl.types import LeftOut
from tests import published

WIDE = (80, 40)


# --- lisa -----------------------------------------------------------------------------------------


def region(folder, *polygons, size=WIDE, texts=("one", "two"), **fields):
    """A picture of the set with polygons of (label, points)."""
    published.picture(folder / "test" / "a.jpg", size=size)
    shapes = [{"label": label, "points": points} for label, points in polygons]
    published.written(folder / "test" / "a.json", {"text": list(texts), "shapes": shapes} | fields)


TARGET = ("target", [[10, 5], [70, 5], [30, 35]])


@pytest.mark.parametrize(
    ("points", "box"),
    [
        ([[10, 5], [70, 5], [30, 35]], [10, 5, 70, 35]),
        ([[-5, -3], [90, 5], [30, 50]], [0, 0, 80, 40]),  # cut on all four sides of 80 x 40
        ([[10, 5], [60, 39]], [10, 5, 60, 39]),
        ([[10, 5], [60, 60]], [10, 5, 60, 40]),
        ([[10, 5], [90, 39]], [10, 5, 80, 39]),
        ([[10.5, 5.25], [11.5, 6.25]], [10.5, 5.25, 11.5, 6.25]),
        ([[81, 5], [90, 30]], None),
        ([[10, 41], [60, 50]], None),
        ([[10, 5], [10, 30]], None),
        ([[10, 5], [60, 5]], None),
    ],
)
def test_the_box_of_a_region_is_cut_to_a_wide_picture(points, box, tmp_path):
    region(tmp_path, ("target", points), texts=["one"])
    (row,) = lisa("test", str(tmp_path))
    if box is None:
        assert row == LeftOut("lisa/test/a", "no polygon with an area inside the image")
    else:
        assert (row.answer, row.sizes) == ([box], (WIDE,))


def test_a_tall_picture_is_cut_by_its_own_sides(tmp_path):
    region(tmp_path, ("target", [[10, 5], [90, 90]]), size=(40, 80), texts=["one"])
    (row,) = lisa("test", str(tmp_path))
    assert row.answer == [[10, 5, 40, 80]]


def test_the_targets_or_the_first_region_all_instructions_or_the_first(tmp_path):
    ignored, other = ("ignore", [[1, 1], [9, 9]]), ("target", [[5, 20], [20, 38]])
    region(tmp_path, ignored, TARGET, other)
    rows = list(lisa("test", str(tmp_path)))
    assert [(row.id, row.answer, row.tags) for row in rows] == [
        ("lisa/test/a#0", [[5, 5, 70, 38]], {"task": "phrase"}),
        ("lisa/test/a#1", [[5, 5, 70, 38]], {"task": "phrase"}),
    ]
    assert [row.question.rpartition(": ")[2] for row in rows] == ["one", "two"]
    assert rows[0].columns == {"polygons": [TARGET[1], other[1]]}
    assert [(row.id, row.answer) for row in lisa("test", str(tmp_path), regions="first")] == [
        *(("lisa/test/a#0", [[1, 1, 9, 9]]), ("lisa/test/a#1", [[1, 1, 9, 9]]))
    ]
    assert [row.id for row in lisa("test", str(tmp_path), instructions="first")] == [
        "lisa/test/a#0"
    ]
    region(tmp_path, TARGET, is_sentence=True)
    assert {row.tags["task"] for row in lisa("test", str(tmp_path))} == {"sentence"}


# --- refcoco --------------------------------------------------------------------------------------


def test_a_box_of_corner_and_sides_becomes_two_corners(tmp_path):
    row = {
        "image": published.inside(),
        "answer": ["left man.", "him"],
        "bbox": [4.0, 6.0, 30.0, 10.0],
    }
    published.parquet(
        tmp_path / "data" / "val-0.parquet",
        [row, {**row, "bbox": [1.0, 2.0, 3.0, 40.0], "answer": ["tall"]}],
    )
    rows = list(refcoco("val", str(tmp_path)))
    assert [(row.id, row.answer, row.tags) for row in rows] == [
        ("refcoco/val/0#0", [[4, 6, 34, 16]], {"split": "val"}),
        ("refcoco/val/0#1", [[4, 6, 34, 16]], {"split": "val"}),
        ("refcoco/val/1#0", [[1, 2, 4, 42]], {"split": "val"}),
    ]
    asked = "Please provide the bounding box coordinate of the region this sentence describes: {}."
    assert [row.question for row in rows] == [
        asked.format(words) for words in ("left man", "him", "tall")
    ]


@pytest.mark.parametrize(
    ("recipe", "split"),
    [(refcoco, "testA"), (refcoco_plus, "testA"), (refcocog, "test"), (refgta, "test")],
)
def test_each_set_of_expressions_is_itself(recipe, split, tmp_path):
    file = card.read_card(recipe.args[0]).splits[split].files[0]
    published.written(
        tmp_path / file, [{"image": "x.jpg", "problem": "Where?", "solution": [1, 2, 3, 4]}]
    )
    (row,) = recipe(split=split, folder=str(tmp_path), pictures=False)
    assert (row.id, row.question, row.answer, row.images) == (
        f"{recipe.args[0]}/{split}/0",
        "Where?",
        [[1, 2, 3, 4]],
        (),
    )
    published.picture(tmp_path / "x.jpg", size=WIDE)
    # with its picture, unless one says otherwise
    (row,) = recipe(split=split, folder=str(tmp_path))
    assert (row.images, row.sizes) == ((tmp_path / "x.jpg",), (WIDE,))


def test_a_row_of_neither_form_is_reported(tmp_path):
    published.written(
        tmp_path / "refcoco_val.json", [{"image": "x.jpg", "problem": "?", "bbox": [1, 2, 3, 4]}]
    )
    with pytest.raises(
        UserError,
        match=(
            r"row 1: neither problem and solution nor answer and bbox; it has image, problem, bbox"
        ),
    ):
        list(refcoco("val", str(tmp_path), pictures=False))


# --- detection ------------------------------------------------------------------------------------


def annotated(folder, *boxes, images=((7, 80, 40),), file="instances_val2017.json", **image):
    """An annotation file of (image, category, box, crowd) with classes 3, 5 and 8, and a picture
    for each image."""
    listed = [
        {"id": name, "width": wide, "height": high, "file_name": f"{name}.jpg"} | image
        for name, wide, high in images
    ]
    items = [
        {"id": number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd}
        for number, (image, category, box, crowd) in enumerate(boxes, 1)
    ]
    categories = [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 8, "name": "hen"}]
    published.written(
        folder / file, {"images": listed, "annotations": items, "categories": categories}
    )
    for name, wide, high in images:
        published.picture(folder / f"{name}.jpg", size=(wide, high))
    return str(folder)


@pytest.mark.parametrize(
    ("box", "corners"),
    [
        ([10, 5, 30, 20], [10, 5, 40, 25]),
        ([60, 5, 30, 20], [60, 5, 80, 25]),  # cut at 80 across
        ([10, 30, 30, 20], [10, 30, 40, 40]),  # and at 40 down
        ([10, 5, 50, 20], [10, 5, 60, 25]),
        ([0, 0, 80, 40], [0, 0, 80, 40]),
    ],
)
def test_a_box_of_an_annotation_is_cut_to_a_wide_picture(box, corners, tmp_path):
    (row,) = coco("val", annotated(tmp_path, (7, 3, box, 0)))
    assert (row.answer, row.sizes, row.frame, row.answer_kind) == (
        [corners],
        ((80, 40),),
        "pixels",
        "detection",
    )


def test_a_picture_and_a_class_are_one_question(tmp_path):
    boxes = [
        (9, 5, [0, 0, 9, 9], 0),
        (7, 5, [1, 1, 9, 9], 0),
        (7, 3, [2, 2, 9, 9], 0),
        (7, 5, [3, 3, 9, 9], 0),
        (7, 5, [0, 0, 5, 5], 1),
    ]
    folder = annotated(tmp_path, *boxes, (9, 8, [0, 0, 5, 5], 1), images=((7, 80, 40), (9, 40, 80)))
    rows = list(coco("val", folder))
    assert rows[-1] == LeftOut("coco/val/9/hen", "only a crowd region, which has no single objects")
    # sorted by picture and class; a crowd beside single objects is left out of the truth
    assert [(row.id, row.answer) for row in rows[:-1]] == [
        ("coco/val/7/cat", [[2, 2, 11, 11]]),
        ("coco/val/7/dog", [[1, 1, 10, 10], [3, 3, 12, 12]]),
        ("coco/val/9/dog", [[0, 0, 9, 9]]),
    ]
    first = rows[0]
    assert first.tags == {"task": "detection", "class": "cat"}
    assert (first.columns["image_id"], first.columns["category_id"]) == (7, 3)
    assert first.columns["truth_file"] == str((tmp_path / "instances_val2017.json").resolve())
    assert first.question.startswith(
        "Detect all objects belonging to the category 'cat' in the image, and provide"
    )
    assert first.question.endswith(
        "If no object belonging to the category 'cat' in the image, return 'No Objects'."
    )
    assert [row.id for row in coco("val", folder, classes=["dog"])] == [
        "coco/val/7/dog",
        "coco/val/9/dog",
    ]
    with pytest.raises(UserError, match=r"no class 'unicorn'; it has cat, dog, hen\.\.\."):
        list(coco("val", folder, classes=["cat", "unicorn"]))
    assert [row.sizes for row in coco("val", folder, classes=["dog"], pictures=False)] == [
        ((80, 40),),
        ((40, 80),),
    ]


def test_what_is_asked_about_may_be_nowhere_in_the_picture(tmp_path):
    folder = annotated(tmp_path, (7, 3, [2, 2, 9, 9], 0), (7, 5, [0, 0, 5, 5], 1))
    published.written(tmp_path / "map.json", {"7": ["hen", "cat", "dog", "hen", "unicorn"]})
    hen, cat, dog = coco("val", folder, asked="map.json")
    assert [(row.id, row.answer) for row in (hen, cat)] == [
        ("coco/val/7/hen", []),
        ("coco/val/7/cat", [[2, 2, 11, 11]]),
    ]
    assert dog == LeftOut("coco/val/7/dog", "only a crowd region, which has no single objects")
    assert [row.id for row in coco("val", folder, asked="map.json", classes=["hen"])] == [
        "coco/val/7/hen"
    ]


def test_lvis_is_read_in_the_same_way(tmp_path):
    (row,) = lvis("val", annotated(tmp_path, (7, 3, [2, 2, 9, 9], 0), file="lvis_v1_val.json"))
    assert (row.id, row.answer) == ("lvis/val/7/cat", [[2, 2, 11, 11]])


@pytest.mark.parametrize(
    ("image", "file"),
    [
        ({"id": 1, "file_name": "a.jpg"}, "a.jpg"),
        (
            {"id": 1, "file_name": "a.jpg", "coco_url": "http://x/val2017/000000000007.jpg"},
            "val2017/000000000007.jpg",
        ),
        ({"id": 1, "coco_url": "http://x/y/train2017/b.jpg"}, "train2017/b.jpg"),
    ],
)
def test_where_a_picture_stands(image, file):
    assert file_of(image) == file


def test_training_rows_of_a_detection_are_in_thousandths_and_say_no_format(tmp_path):
    published.coco(tmp_path)
    cat, empty, left = coco("train", str(tmp_path))
    assert (cat.id, cat.answer, cat.frame) == ("coco/train/0", [[10, 20, 300, 400]], "norm1000")
    assert (empty.id, empty.answer) == ("coco/train/1", [])
    assert cat.question == "Detect all objects belonging to the category 'cat' in the image."
    assert left == LeftOut("coco/train/2", "its solution holds no box: '<answer>?</answer>'")


# --- classes, counts, choices, values -------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "thing", "kind"),
    [
        (flower102, "a plant", "species of the plant"),
        (pets37, "a pet", "species of the pet"),
        (fgvc_aircraft, "an aircraft", "model of the aircraft"),
        (cars196, "a car", "model of the car"),
    ],
)
def test_each_set_of_classes_asks_in_its_own_words(recipe, thing, kind, tmp_path):
    published.four_shot(tmp_path)
    rows = list(recipe("train", str(tmp_path)))
    asked = f"This is an image containing {thing}. Please identify the {kind} based on the image."
    assert {row.question for row in rows} == {asked}
    assert [row.id for row in rows] == [f"{recipe.args[0]}/train/{number}" for number in range(4)]
    assert {row.choices for row in rows} == {("pink primrose", "rose")}
    assert [row.answer for row in rows] == ["rose", "pink primrose"] * 2


@pytest.mark.parametrize(
    ("recipe", "file", "folder"),
    [
        (flower102, "split_zhou_OxfordFlowers.json", "jpg"),
        (pets37, "split_zhou_OxfordPets.json", "images"),
        (cars196, "split_zhou_StanfordCars.json", ""),
    ],
)
def test_test_pictures_stand_where_the_published_folder_has_them(recipe, file, folder, tmp_path):
    published.written(
        tmp_path / file,
        {"train": [], "val": [], "test": [["b.jpg", 1, "rose"], ["a.jpg", 0, "iris"]]},
    )
    for name in "ab":
        published.picture(tmp_path / folder / f"{name}.jpg")
    rows = list(recipe("test", str(tmp_path)))
    assert [(row.answer, row.images) for row in rows] == [
        *(("rose", (tmp_path / folder / "b.jpg",)), ("iris", (tmp_path / folder / "a.jpg",)))
    ]
    assert rows[0].choices == ("iris", "rose")
    with pytest.raises(UserError, match="holds 2 rows, published are"):
        list(recipe("test", str(tmp_path), complete=True))


def test_a_list_of_aircraft_names_file_and_class(tmp_path):
    published.fgvc_aircraft(tmp_path)
    rows = list(fgvc_aircraft("test", str(tmp_path)))
    assert [(row.answer, row.images[0]) for row in rows] == [
        ("737-300", tmp_path / "images" / "0034309.jpg"),
        ("Cessna 172", tmp_path / "images" / "0056978.jpg"),
    ]
    (tmp_path / "data" / "images").mkdir(parents=True)  # where the published archive has them
    for path in ("images_variant_test.txt", "images/0034309.jpg", "images/0056978.jpg"):
        (tmp_path / path).rename(tmp_path / "data" / path)
    assert [row.images[0].parent for row in fgvc_aircraft("test", str(tmp_path))] == [
        tmp_path / "data" / "images"
    ] * 2
    (tmp_path / "images_variant_test.txt").write_text("0034309 737-300\n0056978\n")
    with pytest.raises(UserError, match="line '0056978' names no class; expected NUMBER CLASS"):
        list(fgvc_aircraft("test", str(tmp_path)))


def test_options_of_a_spatial_question_are_shuffled_by_row_and_seed_and_stand_in_the_question(
    tmp_path,
):
    options = list("abcdefgh")
    row = {"question": "Which?", "answers": options, "question_type": "kind", "correct_answer": "a"}
    published.parquet(
        tmp_path / "SAT_train.parquet",
        [{"image_bytes": [published.inside()], **row} for _ in range(4)],
    )
    rows = list(sat("train", str(tmp_path)))
    orders = [row.choices for row in rows]
    assert {tuple(sorted(order)) for order in orders} == {tuple(options)}
    assert len(set(orders)) == 4
    assert [row.choices for row in sat("train", str(tmp_path))] == orders
    assert not set(orders) & {row.choices for row in sat("train", str(tmp_path), seed=1)}
    listed = f"{', '.join(orders[0][:7])} or {orders[0][7]}"
    assert (
        rows[0].question
        == f"Answer in natural language. Which? Choose between the following options: {listed}"
    )
    assert rows[0].tags == {"task": "kind"}
    assert [row.id for row in sat("train", str(tmp_path), rows=2)] == ["sat/train/0", "sat/train/1"]
    assert [row.id for row in sat("train", str(tmp_path), rows=0)] == []
    assert len(list(sat("train", str(tmp_path), rows=None))) == 4


def test_counts_are_whole_numbers_and_values_stand_between_tags(tmp_path):
    published.clevr(tmp_path / "clevr")
    three, ten, left = clevr("train", str(tmp_path / "clevr"))
    assert [(row.id, row.answer) for row in (three, ten)] == [
        ("clevr/train/0", 3),
        ("clevr/train/1", 10),
    ]
    assert left == LeftOut("clevr/train/2", "its answer 'yes' is no count")
    published.superclevr(tmp_path / "superclevr")
    assert [row.id for row in superclevr("test", str(tmp_path / "superclevr"))] == [
        f"superclevr/test/{number}" for number in range(4)
    ]
    published.geoqa(tmp_path / "geoqa")
    assert [(row.id, row.answer) for row in geoqa("train", str(tmp_path / "geoqa"))][:2] == [
        ("geoqa/train/0", "145°"),
        ("geoqa/train/1", "2√3"),
    ]
    published.cv_bench(tmp_path / "cv_bench")
    first, *_, last = cv_bench("test", str(tmp_path / "cv_bench"))
    assert (first.id, last.id, first.choices) == (
        "cv_bench/test/0",
        "cv_bench/test/2",
        ("0", "1", "2"),
    )


def asked_as_they_stand(rows):
    """Every prompt is picture by picture, and then the question and nothing else."""
    rows = list(rows)
    assert rows
    for row in rows:
        (message,) = AnswerOnly().messages(row)
        places = [{"type": "image"}] * len(row.images)
        assert message["content"] == [*places, {"type": "text", "text": row.question}]


@pytest.mark.parametrize("task", ["count", "box", "compare", "add", "choice"])
def test_questions_of_digits_list_their_options_themselves(task):
    asked_as_they_stand(digits(task, count=40))


def test_questions_of_published_sets_list_their_options_themselves(tmp_path):
    options = ["left", "right", "did not move"]
    rows = [
        {"question": "Which way?", "answers": options, "correct_answer": "left"},
        {"question": "Is it?", "answers": ["yes", "no"], "correct_answer": "no"},
        {"question": "Only one?", "answers": ["chair (highlighted by A)"], "correct_answer": "x"},
    ]
    pictures = {"image_bytes": [published.inside()], "question_type": "kind"}
    published.parquet(tmp_path / "SAT_train.parquet", [{**row, **pictures} for row in rows])
    asked_as_they_stand(sat("train", str(tmp_path)))
    published.cv_bench(tmp_path / "cv_bench")
    asked_as_they_stand(cv_bench("test", str(tmp_path / "cv_bench")))
    published.four_shot(tmp_path / "plants")
    asked_as_they_stand(flower102("train", str(tmp_path / "plants")))


# --- cards and columns ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solution", "text"),
    [
        ("<answer> 3 </answer>", "3"),
        ("so <answer>3\n4</answer> <answer>5</answer>", "3\n4"),
        (" 3 ", "3"),
        (3, "3"),
    ],
)
def test_what_a_published_solution_says(solution, text):
    assert answer_text(solution) == text


def test_columns_that_are_kept_numbers_and_what_a_row_needs():
    assert tags_of({"a": 1, "b": None, "c": 0}, "a", "b", "c", "d") == {"a": 1, "c": 0}
    assert numbers(("1", 2, 3.5), 3, where="x") == [1, 2, 3.5]
    for wrong in ([1, 2], [1, 2, 3, 4], None, 5, ["x", 2, 3]):
        with pytest.raises(UserError, match=r"x: got .*, expected 3 numbers"):
            numbers(wrong, 3, where="x")
    need({"a": 1, "b": None}, "a", "b", where="x")
    with pytest.raises(UserError, match=r"x: no column 'c'; it has a\. Is this that\?"):
        need({"a": 1}, "a", "c", where="x", what="that")
    with pytest.raises(
        UserError, match=r"x: no column 'c'; it has nothing\. Is this the published file\?"
    ):
        need({}, "c", where="x")
    shown = ", ".join(str(number) for number in range(20))
    with pytest.raises(UserError, match=rf"it has {shown}\. Is"):
        need({str(number): 0 for number in range(30)}, "c", where="x")


def rows_of(name, split, folder, **options):
    return Published.find(name, split, folder=str(folder), **options)


def test_files_are_read_in_order_and_the_first_pattern_that_matches_names_them(tmp_path):
    row = {"problem": "How many?", "solution": "3", "image": published.inside()}
    for name, answer in (("data/train-00001", "2"), ("data/train-00000", "1"), ("other", "9")):
        published.parquet(tmp_path / f"{name}.parquet", [{**row, "solution": answer}])
    found = rows_of("clevr", "train", tmp_path)
    assert [path.name for path in found.files] == ["train-00000.parquet", "train-00001.parquet"]
    assert [(number, row["answer"]) for number, row in found.rows()] == [(0, "1"), (1, "2")]


@pytest.mark.parametrize(("count", "fits"), [(199, False), (200, True), (201, False)])
def test_a_complete_set_has_exactly_the_published_number_of_rows(count, fits, tmp_path):
    rows = [{"image_path": "x.png", "question": "How many?", "ground_truth": 3}] * count
    published.written(tmp_path / "superclevr_test200_counting_problems.jsonl", rows)
    given = superclevr("test", str(tmp_path), pictures=False, complete=True)
    if fits:
        assert len(list(given)) == 200
    else:
        with pytest.raises(
            UserError,
            match=(
                rf"superclevr \(test\): .* holds {count} rows, published are 200: a download cut "
                r"short"
            ),
        ):
            list(given)
    assert len(list(superclevr("test", str(tmp_path), pictures=False))) == count


def test_the_published_number_is_that_of_the_form_that_is_read(tmp_path):
    published.refcoco(tmp_path / "lists")
    published.refcoco_parquet(tmp_path / "rows")
    # known of the hub's form alone
    assert rows_of("refcoco", "val", tmp_path / "lists").published is None
    assert rows_of("refcoco", "testA", tmp_path / "rows").published == 1975
    published.superclevr(tmp_path / "counts")
    assert rows_of("superclevr", "test", tmp_path / "counts").published == 200


def test_a_set_of_the_hub_has_the_number_of_its_form(monkeypatch, tmp_path):
    monkeypatch.setenv("GPG_VL_DATA", str(tmp_path))
    found = Published.find("refcoco", "testB", complete=True)
    assert (found.base_dir, found.files, found.published) == (None, (), 1810)


def test_a_missing_picture_says_where_pictures_come_from_and_a_broken_one_does_not(tmp_path):
    published.superclevr(tmp_path)
    picture = tmp_path / "images" / "superCLEVR_new_025000.png"
    picture.unlink()
    missing, *others = superclevr("test", str(tmp_path))
    assert missing.id == "superclevr/test/0"
    assert re.search(r"superCLEVR_new_025000.png does not exist\. .*Put them into", missing.why)
    assert [row.answer for row in others] == [4, 5, 6]
    picture.write_bytes(b"x")
    broken, *others = superclevr("test", str(tmp_path))
    assert "cannot be read" in broken.why
    assert "Put them into" not in broken.why
    assert [row.answer for row in others] == [4, 5, 6]


def test_a_set_that_is_to_be_complete_leaves_no_row_out(tmp_path):
    published.superclevr(tmp_path)
    (tmp_path / "images" / "superCLEVR_new_025000.png").unlink()
    with pytest.raises(
        UserError,
        match=r"^superclevr/test/0: image .* does not exist\. .*Put them into",
    ):
        list(superclevr("test", str(tmp_path), complete=True))


# --- digits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "difficulty", "split", "fits"),
    [
        *(
            ("count", 16, "train", True),
            ("count", 17, "train", False),
            ("count", 1, "train", True),
            ("count", 0, "train", False),
        ),
        *(
            ("choice", 10, "train", True),
            ("choice", 11, "train", False),
            ("choice", 2, "train", True),
            ("choice", 1, "train", False),
        ),
        *(
            ("compare", 9, "train", True),
            ("compare", 10, "train", False),
            ("compare", 2, "train", True),
            ("compare", 1, "train", False),
        ),
        *(("box", 1, "train", True), ("box", 2, "train", False)),
        *(
            ("add", 0, "train", True),
            ("add", 4, "test", False),
            ("add", 5, "test", True),
            ("add", 4, "validation", False),
        ),
        *(("add", 10**6, "train", True), ("add", 10**6 + 1, "train", False)),
    ],
)
def test_scenes_of_every_difficulty_that_can_be_drawn(task, difficulty, split, fits):
    if fits:
        assert len(list(digits(task, split, count=2, difficulty=difficulty))) == 2
    else:
        with pytest.raises(
            UserError, match=f"digits: {task} of difficulty {difficulty}, split {split}: expected "
        ):
            list(digits(task, split, count=1, difficulty=difficulty))


def test_a_box_has_at_most_ten_digits_and_a_digit_fits_its_cell():
    assert len(list(digits("box", count=1, difficulty=10, side=128, cells=4, glyph=32))) == 1
    with pytest.raises(UserError, match="expected 1 to 10"):
        list(digits("box", count=1, difficulty=11, side=128, cells=4, glyph=32))
    with pytest.raises(
        UserError, match=r"a glyph of 33 pixels in a cell of 32; make `glyph` or `cells` smaller"
    ):
        list(digits("box", count=1, side=128, cells=4, glyph=33))
    (row,) = digits("count", count=1, side=64, cells=2, glyph=20, difficulty=4)
    assert row.sizes == ((64, 64),)


@pytest.mark.parametrize(
    ("task", "difficulty", "sides"),
    [
        ("count", 6, 112),
        ("count_of", 4, 112),
        ("choice", 3, 56),
        ("box", 1, 56),
        ("compare", 6, 56),
        ("add", 9, 0),
    ],
)
def test_every_task_as_it_is_drawn_where_nothing_is_said(task, difficulty, sides):
    rows = list(digits(task, count=60))
    assert rows[7].id == f"digits/train/{task}/{difficulty}/0/7"
    assert {size for row in rows for size in row.sizes} == ({(sides, sides)} if sides else set())
    if task in {"count", "compare"}:
        assert len({row.answer for row in rows}) == (6 if task == "count" else 2)
    if task == "choice":
        assert {len(row.choices) for row in rows} == {3}
    if task == "add":
        assert {summand for row in rows for summand in row.question[8:-1].split("+")} == set(
            "0123456789"
        )


def test_a_count_of_a_digit_runs_from_none_to_half_of_all():
    truths = [row.answer for row in digits("count_of", count=150)]
    assert set(truths) == {0, 1, 2}


def test_a_broken_card_is_reported(tmp_path, monkeypatch):
    (tmp_path / "x.yaml").write_text(json.dumps({"recipe": "x"}))
    monkeypatch.setattr(card.resources, "find", lambda kind, name: tmp_path / "x.yaml")
    with pytest.raises(UserError, match=r"x.yaml: \('source',\): "):
        card.read_card("x")
