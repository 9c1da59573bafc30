"""Published data sets: small files of the published form become rows that their own verifiers
accept; what does not fit is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.config.schema import RewardConfig, Source
from gpg_vl.data import sources
from gpg_vl.data.dataset import Dataset, read_dataset
from gpg_vl.data.recipes import ALIASES
from gpg_vl.data.recipes.card import read_card
from gpg_vl.errors import UserError
from gpg_vl.experiment import build_verifiers
from gpg_vl.prompts import Style
from gpg_vl.types import LeftOut, Sample
from tests import published
from tests.recorded import home, needed

OPTIONS = {
    "cv_bench": {"split": "test"},
    "lisa": {"split": "val"},
    "refcoco": {"split": "val"},
    "superclevr": {"split": "test"},
}


def read(name: str, folder: Path, **options: object) -> Dataset:
    verifiers = build_verifiers({}, Style(), frame(), RewardConfig(), Path())
    source = Source(
        recipe=name, options={"folder": str(folder), **OPTIONS.get(name, {}), **options}
    )
    return read_dataset([source], verifiers, base_dir=Path(), seed=0)


def frame():
    from gpg_vl.boxes import Frame

    return Frame(kind="norm1000")


def asked(name: str, folder: Path, **options: object):
    return list(read(name, folder, **options).sources[0])


@pytest.fixture
def made(tmp_path):
    """The folder of a small published set."""

    def make(name: str) -> Path:
        published.MADE[name](tmp_path / name)
        return tmp_path / name

    return make


@pytest.mark.parametrize("name", [name for name in ALIASES if name != "digits"])
def test_every_published_set_has_a_card_that_says_where_it_comes_from(name):
    card = read_card(name)
    assert card.recipe == name
    assert "https://" in card.get
    assert card.link.startswith("https://")


def test_sat_takes_rows_of_one_picture_and_shuffles_options_by_row(made):
    folder = made("sat")
    questions = read("sat", folder)
    first, third = questions.sources[0]
    assert [sample.id for sample in (first, third)] == ["sat/train/0", "sat/train/2"]
    assert questions.left_out == (
        LeftOut("sat/train/1", "2 images; the published experiment uses rows of one image", "sat"),
    )
    assert first.answer == "yes, it is"
    assert sorted(first.choices) == ["no", "yes, it is"]
    options = " or ".join(first.choices)
    assert (
        first.question
        == "Answer in natural language. Is the chair left of table 1? Choose between the following "
        f"options: {options}"
    )
    assert len(asked("sat", folder, rows=1)) == 1
    orders = {tuple(asked("sat", folder, rows=1, seed=seed)[0].choices) for seed in range(8)}
    assert orders == {("no", "yes, it is"), ("yes, it is", "no")}
    assert first == asked("sat", folder)[0]


def test_cv_bench_reads_both_parts_with_their_tags(made):
    rows = asked("cv_bench", made("cv_bench"))
    assert [
        (sample.tags["type"], sample.tags["source"], sample.tags["task"]) for sample in rows
    ] == [("2D", "ADE20K", "Count"), ("2D", "COCO", "Count"), ("3D", "Omni3D", "Depth")]
    assert rows[0].answer == "(B)"
    assert "(A) 0" in rows[0].question


def test_lisa_boxes_targets_or_as_published_the_first_polygon(made):
    folder = made("lisa")
    questions = read("lisa", folder)
    assert {sample.id: sample.answer for sample in questions.sources[0]} == {
        "lisa/val/a#0": [[8, 12, 56, 50]],  # a point at 60 lies outside the picture of 56
        "lisa/val/a#1": [[8, 12, 56, 50]],
        "lisa/val/b#0": [[5.5, 6, 30, 44]],
        "lisa/val/b#1": [[5.5, 6, 30, 44]],
    }
    assert questions.left_out == (
        LeftOut("lisa/val/c", "no polygon with an area inside the image", "lisa"),
    )
    assert "café" in questions.sources[0][2].question  # that file is in Windows' encoding
    as_published = asked("lisa", folder, regions="first", instructions="first")
    assert {sample.id: sample.answer for sample in as_published} == {
        "lisa/val/a#0": [[0, 0, 10, 10]],
        "lisa/val/b#0": [[5.5, 6, 30, 44]],
        "lisa/val/c#0": [[0, 0, 10, 10]],
    }


def test_refcoco_in_both_published_forms(made, tmp_path):
    rows = asked("refcoco", made("refcoco"))
    assert [sample.answer for sample in rows] == [[[4.5, 6, 30.25, 50]], [[0, 0, 20, 20]]]
    published.refcoco_parquet(tmp_path / "other")
    rows = asked("refcoco", tmp_path / "other", split="testA")
    assert [sample.answer for sample in rows] == [[[4, 6, 24, 36]]] * 2
    assert rows[1].question.endswith("describes: him.")


def test_geoqa_reads_values_and_lists_what_is_none(made):
    folder = made("geoqa")
    questions = read("geoqa", folder)
    assert [sample.answer for sample in questions.sources[0]] == ["145°", "2√3"]
    assert questions.left_out[0].id == "geoqa/train/2"
    assert "is not a value" in questions.left_out[0].why
    test = asked("geoqa", folder, split="test")
    assert [sample.answer for sample in test] == ["140°", "5cm"]
    assert test[0].images[0] == (folder / "Geo170K/images/test/0.png").resolve()


def test_counts(made):
    questions = read("clevr", made("clevr"))
    assert [sample.answer for sample in questions.sources[0]] == [3, 10]
    assert questions.left_out == (
        LeftOut("clevr/train/2", "its answer 'yes' is no count", "clevr"),
    )
    assert [sample.answer for sample in asked("superclevr", made("superclevr"))] == [3, 4, 5, 6]


def test_classes_of_a_split_are_its_closed_set(made):
    rows = asked("flower102", made("flower102"))
    assert [sample.answer for sample in rows] == ["rose", "pink primrose"] * 2
    assert rows[0].choices == ("pink primrose", "rose")
    assert (
        rows[0].question
        == "This is an image containing a plant. Please identify the species of the plant based on "
        "the image."
    )
    test = asked("flower102", made("flower102"), split="test")
    assert [(sample.answer, Path(sample.images[0]).name) for sample in test] == [
        ("rose", "image_00001.jpg"),
        ("pink primrose", "image_00002.jpg"),
    ]
    aircraft = asked("fgvc_aircraft", made("fgvc_aircraft"), split="test")
    assert [sample.answer for sample in aircraft] == ["737-300", "Cessna 172"]


def test_detection_asks_pairs_of_picture_and_class(made, tmp_path):
    folder = made("coco")
    questions = read("coco", folder, split="val")
    assert {sample.id: sample.answer for sample in questions.sources[0]} == {
        # the second reaches beyond the picture
        "coco/val/7/cat": [
            [4, 5, 24, 35],
            [30, 5, 56, 35],
        ],
        "coco/val/9/cat": [[1, 1, 21, 21]],
    }
    assert questions.left_out == (
        LeftOut("coco/val/9/dog", "only a crowd region, which has no single objects", "coco"),
    )
    published.written(tmp_path / "exist_map.json", {"7": ["cat", "cat", "unicorn"], "9": []})
    assert [
        sample.id
        for sample in asked("coco", folder, split="val", asked=str(tmp_path / "exist_map.json"))
    ] == ["coco/val/7/cat"]
    train = read("coco", folder)
    assert [sample.answer for sample in train.sources[0]] == [[[10, 20, 300, 400]], []]
    assert (
        train.sources[0][0].question
        == "Detect all objects belonging to the category 'cat' in the image."
    )
    assert "holds no box" in train.left_out[0].why


# --- what does not fit ----------------------------------------------------------------------------


def refused(sentence: str):
    return pytest.raises(UserError, match=sentence)


def test_missing_files_are_named_with_where_to_get_and_put_them(tmp_path, monkeypatch):
    with refused(
        r"geoqa \(test\): .*nowhere holds no geoqa_test_prompts.jsonl\. .*https://.*Put them into "
        r".*nowhere.*option folder"
    ):
        read("geoqa", tmp_path / "nowhere", split="test")
    monkeypatch.setenv("GPG_VL_DATA", str(tmp_path / "shelf"))
    with refused(r"superclevr \(test\): .*shelf/superclevr holds no"):
        list(sources.read_source(Source(recipe="superclevr"), base_dir=Path(), key="data.0"))


def test_the_folder_of_all_data_is_looked_into(tmp_path, monkeypatch):
    monkeypatch.setenv("GPG_VL_DATA", str(tmp_path))
    published.superclevr(tmp_path / "superclevr")
    assert (
        len(list(sources.read_source(Source(recipe="superclevr"), base_dir=Path(), key="data.0")))
        == 4
    )


def test_a_set_that_is_not_in_a_folder_comes_from_the_hub_by_its_published_name(
    tmp_path, monkeypatch
):
    import datasets

    monkeypatch.setenv("GPG_VL_DATA", str(tmp_path))
    seen: list[tuple[str, str]] = []

    def load_dataset(name: str, split: str) -> datasets.Dataset:
        seen.append((name, split))
        picture = datasets.Features(
            {
                "image": datasets.Image(),
                "problem": datasets.Value("string"),
                "solution": datasets.Value("string"),
            }
        )
        return datasets.Dataset.from_list(
            [
                {
                    "image": published.inside(),
                    "problem": "How many?",
                    "solution": "<answer> 3 </answer>",
                }
            ],
            features=picture,
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (sample,) = sources.read_source(Source(recipe="clevr"), base_dir=Path(), key="data.0")
    assert seen == [("leonardPKU/clevr_cogen_a_train", "train")]
    assert (sample.answer, sample.sizes) == (3, ((56, 56),))


def test_a_row_whose_picture_is_missing_is_left_out_with_where_it_comes_from(made):
    folder = made("superclevr")
    (folder / "images" / "superCLEVR_new_025001.png").unlink()
    found = read("superclevr", folder)
    assert [sample.answer for sample in found.sources[0]] == [3, 5, 6]
    (left,) = found.left_out
    assert (left.id, left.source) == ("superclevr/test/1", "superclevr")
    assert re.fullmatch(
        r"image .*superCLEVR_new_025001.png does not exist\. .*Lizw14/Super-CLEVR.*", left.why
    )
    assert len(asked("superclevr", folder, pictures=False)) == 4


def test_a_download_cut_short_is_reported(made):
    folder = made("clevr")
    (file,) = (folder / "data").iterdir()
    file.write_bytes(file.read_bytes()[:200])
    with refused(
        r"train-00000-of-00001.parquet: cannot be read: .*; if it was cut short, download it again"
    ):
        read("clevr", folder)
    (folder / "x.json").write_text('{"images": [')
    from gpg_vl.data.recipes.detection import annotations

    with refused(r"x.json: not JSON: .*download it again"):
        annotations(folder / "x.json")


def test_another_number_of_rows_than_published_is_refused_where_all_are_needed(made):
    with refused(r"superclevr \(test\): .* holds 4 rows, published are 200: .*complete=false"):
        read("superclevr", made("superclevr"), complete=True)
    with refused(r"coco \(val\): .* holds 2 rows, published are 5,000"):
        read("coco", made("coco"), split="val", complete=True)


def test_complete_needs_a_published_number(made, tmp_path):
    for name, split in (("geoqa", "train"), ("sat", "train"), ("refcoco", "val")):
        with refused(
            rf"{name} \({split}\): complete=true, but no published number of rows is known; leave "
            r"complete out"
        ):
            read(name, made(name), split=split, complete=True)
    published.refcoco_parquet(tmp_path / "other")
    with refused(r"refcoco \(testA\): .* holds 1 rows, published are 1,975"):
        read("refcoco", tmp_path / "other", split="testA", complete=True)


def test_sat_counts_beyond_the_rows_that_it_takes(made, monkeypatch):
    folder, card = made("sat"), read_card("sat")
    for published_rows in (3, 4):
        train = card.splits["train"].model_copy(update={"rows": published_rows})
        known = card.model_copy(update={"splits": {"train": train}})
        monkeypatch.setattr("gpg_vl.data.recipes.card.read_card", lambda name, known=known: known)
        if published_rows == 3:
            assert [sample.id for sample in asked("sat", folder, rows=1, complete=True)] == [
                "sat/train/0"
            ]
        else:
            with refused(r"sat \(train\): .* holds 3 rows, published are 4"):
                read("sat", folder, rows=1, complete=True)


def test_every_complete_benchmark_knows_its_number():
    from gpg_vl.config import resources
    from gpg_vl.config.loading import load_benchmark

    for name in resources.names("evaluation"):
        for source in load_benchmark(name).data:
            if source.options.get("complete"):
                assert isinstance(
                    read_card(str(source.recipe)).splits[source.options.get("split", "test")].rows,
                    int,
                ), name


def rewritten(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content)))


def without(*way: Any) -> Callable[[Any], Any]:
    """A change that takes out what a way of keys leads to."""

    def change(content: Any) -> Any:
        place = content
        for step in way[:-1]:
            place = place[step]
        del place[way[-1]]
        return content

    return change


LIST = "split_zhou_OxfordFlowers.json"
TRUTH = "annotations/instances_val2017.json"
NOT_AS_PUBLISHED = [
    (
        "lisa",
        "val",
        "ReasonSeg/val/a.json",
        without("shapes"),
        r"a.json: no column 'shapes'; it has text, is_sentence. Is this the pub",
    ),
    (
        "lisa",
        "val",
        "ReasonSeg/val/a.json",
        without("shapes", 0, "points"),
        r"a.json shapes: no column 'points'; it has label",
    ),
    (
        "lisa",
        "val",
        "ReasonSeg/val/a.json",
        without("shapes", 1, "points", 0, 0),
        r"a.json points: got \[20\], expected 2 numbers",
    ),
    (
        "refcoco",
        "val",
        "refcoco_val.json",
        without(0, "image"),
        r"refcoco_val.json row 1: no column 'image'; it has problem, solution. Is",
    ),
    (
        "flower102",
        "test",
        LIST,
        without("test"),
        rf"{LIST}: no column 'test'; it has train, val. Is this one of CoOp's",
    ),
    (
        "flower102",
        "test",
        LIST,
        without("test", 0, 1),
        rf"{LIST}: test holds \['image_00001.jpg', 'rose'\], expected \[FILE, NUMBER",
    ),
    (
        "flower102",
        "test",
        LIST,
        lambda content: content["test"],
        rf"{LIST}: got list, expected an object with test",
    ),
    (
        "coco",
        "val",
        TRUTH,
        without("annotations", 0, "bbox"),
        r"annotations: no column 'bbox'; it has id, image_id.* Is this a COCO",
    ),
    (
        "coco",
        "val",
        TRUTH,
        without("annotations", 0, "bbox", 0),
        r"bbox: got \[5, 20, 30\], expected 4 numbers",
    ),
    (
        "coco",
        "val",
        TRUTH,
        without("images", 0),
        r"an annotation of image 7 and category 3, which the file does not list",
    ),
    (
        "coco",
        "val",
        TRUTH,
        without("categories"),
        r"no column 'categories'; it has images, annotations",
    ),
]


@pytest.mark.parametrize(("name", "split", "file", "change", "sentence"), NOT_AS_PUBLISHED)
def test_a_file_that_is_not_as_published_is_reported(made, name, split, file, change, sentence):
    folder = made(name)
    rewritten(folder / file, change)
    with refused(sentence):
        read(name, folder, split=split)


def test_a_list_of_classes_in_another_encoding_is_reported(made):
    folder = made("fgvc_aircraft")
    (folder / "images_variant_test.txt").write_bytes("0034309 Citroën\n".encode("latin-1"))
    with refused(r"images_variant_test.txt: not UTF-8 .*; save it as UTF-8"):
        read("fgvc_aircraft", folder, split="test")


def test_one_expression_that_is_no_list_is_one_question(tmp_path):
    row = {"image": published.inside(), "answer": "left man", "bbox": [4.0, 6.0, 20.0, 30.0]}
    published.parquet(tmp_path / "data" / "val-00000-of-00001.parquet", [row])
    (sample,) = asked("refcoco", tmp_path)
    assert sample.question.endswith("this sentence describes: left man.")


def test_a_map_of_what_is_asked_has_to_fit(made, tmp_path):
    folder = made("coco")
    given = tmp_path / "map.json"
    with refused(
        r"asked: .*map.json does not exist, neither in .*coco nor in the working directory; it is a"
        r" .json file .*Put them into"
    ):
        read("coco", folder, split="val", asked=str(given))
    published.written(given, {"000000000007.jpg": ["cat"]})
    with refused(
        r"map.json: 1 keys \(000000000007.jpg\) are not among the numbers of the 2 images"
    ):
        read("coco", folder, split="val", asked=str(given))
    published.written(given, [7])
    with refused(r"map.json: expected \{image number: \[class, ...\]\}"):
        read("coco", folder, split="val", asked=str(given))
    published.written(folder / "beside.json", {"9": ["cat"]})
    assert [sample.id for sample in asked("coco", folder, split="val", asked="beside.json")] == [
        "coco/val/9/cat"
    ]
    for option in ({"asked": "nope.json"}, {"classes": ["cat"]}):
        with refused("coco: asked and classes choose among the pairs of split val"):
            read("coco", folder, split="train", **option)


@needed
@pytest.mark.parametrize(("benchmark", "count"), [("coco_novel15", 15), ("lvis_rare13", 13)])
def test_the_published_classes_are_asked_about_the_published_pairs(benchmark, count, tmp_path):
    """All pictures of the published map, as an annotation file without any box, so that every
    pair is a question."""
    from gpg_vl.config.loading import load_benchmark

    folder, spec = home(), load_benchmark(benchmark)
    assert folder is not None
    (source,) = spec.data
    classes, pairs = source.options["classes"], str(source.options["asked"])
    content = json.loads((folder / "detection" / pairs).read_text())
    names = sorted({name for named in content.values() for name in named})
    assert len(set(classes)) == count
    assert set(classes) <= set(names)
    truth = {
        "images": [
            {"id": int(image), "width": 10, "height": 10, "file_name": f"{image}.jpg"}
            for image in content
        ],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
    }
    file = {"coco": "instances_val2017.json", "lvis": "lvis_v1_val.json"}[str(source.recipe)]
    published.written(tmp_path / file, truth)
    (tmp_path / pairs).symlink_to(folder / "detection" / pairs)
    options = {**source.options, "folder": str(tmp_path), "pictures": False}
    samples_asked = list(
        sources.read_source(
            source.model_copy(update={"options": options}), base_dir=Path(), key="data.0"
        )
    )
    assert len(samples_asked) == sum(
        name in classes for named in content.values() for name in set(named)
    )
    assert {sample.tags["class"] for sample in samples_asked if isinstance(sample, Sample)} == set(
        classes
    )


def test_a_wrong_split_or_another_file_is_reported(made, tmp_path):
    with refused(r"split: got 'testa', expected 'train' or 'test'"):
        read("geoqa", tmp_path, split="testa")
    with refused(r"refcoco: got split 'testC', published are train, val, testA, testB"):
        read("refcoco", tmp_path, split="testC")
    published.parquet(
        tmp_path / "data" / "train-0.parquet", [{"image": published.inside(), "prompt": "?"}]
    )
    with refused(
        r"train-0.parquet row 1: no column 'problem'; it has image, prompt. Is this clevr, split "
        r"train\?"
    ):
        read("clevr", tmp_path)


# --- recorded material ----------------------------------------------------------------------------


@needed
def test_the_recorded_prompts_are_read_whole(tmp_path):
    folder = home()
    assert folder is not None
    assert len(asked("superclevr", folder / "counting", pictures=False, complete=True)) == 200
    assert len(asked("geoqa", folder / "math", split="test", pictures=False, complete=True)) == 754
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").symlink_to(
        folder / "detection" / "coco100" / "gts.json"
    )
    pairs = read("coco", tmp_path, split="val", pictures=False)
    boxes = sum(len(sample.answer) for sample in pairs.sources[0])
    assert boxes + sum("crowd" in left.why for left in pairs.left_out) <= 830
    assert boxes > 800
