"""The row format: what is read from JSONL, parquet and `datasets`, what is refused in which
words, and the order of draws."""

import json
import math
import re
import sys
from pathlib import Path

import pytest

from gpg_vl import pictures
from gpg_vl.config.schema import Source
from gpg_vl.data import rows as sample_rows
from gpg_vl.data import sources
from gpg_vl.data.dataset import Dataset
from gpg_vl.errors import UserError
from gpg_vl.types import LeftOut, Sample, Turn
from tests.hand_made import png

ROW = {"question": "How many?", "answer_kind": "number", "answer": 3}


@pytest.fixture
def jsonl(tmp_path):
    """Writes rows (or lines as they are) and reads them back as samples."""

    def read(*rows, **source):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / "rows.jsonl").write_text("".join(line + "\n" for line in lines))
        return read_all(tmp_path, files="rows.jsonl", **source)

    return read


def read_all(folder, **source):
    return list(sources.read_source(Source(**source), base_dir=folder, key="data.0"))


def refused(sentence):
    return pytest.raises(UserError, match=f"^{re.escape(sentence)}$")


def unreadable(sentence):
    return pytest.raises(ValueError, match=f"^{re.escape(sentence)}$")


def checked(row, image_root=None):
    row_format = sample_rows.RowFormat(image_root=image_root)
    return sample_rows.checked(row, origin="row 1", row_format=row_format)


# --- rows -----------------------------------------------------------------------------------------


def test_the_smallest_row(jsonl):
    (sample,) = jsonl(ROW)
    assert sample == Sample(
        id="rows.jsonl row 1", question="How many?", answer_kind="number", answer=3
    )


def test_every_column_has_its_place(jsonl, tmp_path):
    (tmp_path / "a.png").write_bytes(png((4, 3)))
    row = ROW | {
        "id": 7,
        "images": ["a.png", "a.png"],
        "choices": ["2", 3],
        "frame": "norm1000",
        "solution": "One, two, three.",
        "tags": {"task": "count", "level": 2},
        "difficulty": "hard",
    }
    (sample,) = jsonl(row)
    assert sample == Sample(
        id="7",
        question="How many?",
        images=(tmp_path / "a.png", tmp_path / "a.png"),
        sizes=((4, 3), (4, 3)),
        answer_kind="number",
        answer=3,
        choices=("2", "3"),
        frame="norm1000",
        solution="One, two, three.",
        tags={"task": "count", "level": "2"},
        columns={"difficulty": "hard"},
    )


def test_a_single_image_may_stand_under_image(jsonl, tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    (sample,) = jsonl(ROW | {"image": "a.png"})
    assert sample.images == (tmp_path / "a.png",)
    assert sample.columns == {}


@pytest.mark.parametrize("answer", [0, False, [[1, 2, 3, 4]], "three", 0.5, {"a": 1}, []])
def test_a_truth_of_a_kind_of_ones_own_may_be_any_json_that_is_not_empty(jsonl, answer):
    (sample,) = jsonl(ROW | {"answer_kind": "mine", "answer": answer})
    assert sample.answer == answer


@pytest.mark.parametrize(
    ("kind", "answer"), [("number", 0), ("number", 0.5), ("label", "three"), ("value", "0")]
)
def test_a_truth_of_ours_may_be_zero(jsonl, kind, answer):
    (sample,) = jsonl(ROW | {"answer_kind": kind, "answer": answer})
    assert sample.answer == answer


@pytest.mark.parametrize("kind", ["number", "value", "expression", "label", "choice"])
def test_true_is_no_truth_of_ours(jsonl, kind):
    (left,) = jsonl(ROW | {"answer_kind": kind, "answer": True, "choices": ["True", "False"]})
    assert left.why.startswith(f"answer is True, expected the truth of a {kind}")


def test_other_names_are_mapped_and_missing_columns_filled(jsonl):
    row = {"problem": "How many?", "truth": 3}
    (sample,) = jsonl(
        row,
        columns={"question": "problem", "answer": "truth"},
        defaults={"answer_kind": "number", "frame": "norm1"},
    )
    assert (sample.question, sample.answer, sample.answer_kind, sample.frame) == (
        "How many?",
        3,
        "number",
        "norm1",
    )


def test_a_row_wins_over_a_default(jsonl):
    (sample,) = jsonl(ROW, defaults={"answer_kind": "choice", "question": "?"})
    assert (sample.answer_kind, sample.question) == ("number", "How many?")


def test_a_renamed_column_no_longer_counts_under_its_own_name(jsonl):
    """The example under `columns:` itself: their `solution` is our answer, so it is no worked
    text to imitate."""
    row = {"problem": "How many?", "solution": "3", "answer_kind": "number"}
    (sample,) = jsonl(row, columns={"question": "problem", "answer": "solution"})
    assert sample.answer == 3
    assert sample.solution == ""


def test_head_takes_the_first_rows(jsonl):
    assert [
        sample.answer for sample in jsonl(ROW, ROW | {"answer": 4}, ROW | {"answer": 5}, head=2)
    ] == [3, 4]


def test_head_does_not_look_at_the_rest(jsonl):
    assert len(jsonl(ROW, "not JSON", head=1)) == 1


def test_files_are_found_in_the_working_directory_too(tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW))
    monkeypatch.chdir(tmp_path)
    assert (
        len(
            list(
                sources.read_source(
                    Source(files="rows.jsonl"), base_dir=tmp_path / "elsewhere", key="data.0"
                )
            )
        )
        == 1
    )


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["question", "answer_kind", "answer"])
@pytest.mark.parametrize("empty", [None, "", " ", math.nan])
def test_a_row_without_a_needed_column_is_left_out(jsonl, column, empty):
    without = {name: value for name, value in ROW.items() if name != column}
    first, emptied, missing, last = jsonl(ROW, ROW | {column: empty}, without, ROW)
    assert (first.answer, last.answer) == (3, 3)
    advice = "name it under `columns:` or set it under `defaults:`"
    assert emptied == LeftOut(
        "rows.jsonl row 2",
        f"column {column!r} is missing or empty; the row has 'question', 'answer_kind', 'answer': "
        f"{advice}",
    )
    names = ", ".join(map(repr, without))
    assert missing == LeftOut(
        "rows.jsonl row 3", f"column {column!r} is missing or empty; the row has {names}: {advice}"
    )


def test_a_row_that_cannot_be_read_is_named_by_its_own_id(jsonl):
    wrong = {"answer": None}
    assert [row.id for row in jsonl(ROW | wrong | {"id": "a7"}, ROW | wrong | {"id": 7})] == [
        "a7",
        "7",
    ]
    (left,) = jsonl({"key": "k1"}, columns={"id": "key"})
    assert left.id == "k1"
    (left,) = jsonl({"key": None, "id": "not meant"}, columns={"id": "key"})
    assert left.id == "rows.jsonl row 1"


def test_a_line_that_is_no_row_is_left_out_with_file_and_line(jsonl):
    first, broken, listed, last = jsonl(ROW, "{question: 3}", "[1, 2]", ROW | {"answer": 4})
    assert (first.answer, last.answer, last.id) == (3, 4, "rows.jsonl row 4")
    assert broken.id == "rows.jsonl line 2"
    assert broken.why.startswith("not JSON: ")
    assert listed == LeftOut("rows.jsonl line 3", "got list, expected an object of columns")


def test_a_missing_image_leaves_its_row_out(jsonl, tmp_path):
    missing, sound = jsonl(ROW | {"images": ["a.png"]}, ROW)
    assert missing == LeftOut(
        "rows.jsonl row 1",
        f"image {tmp_path / 'a.png'} does not exist; where the pictures are in another folder, set "
        "image_root",
    )
    assert sound.answer == 3


@pytest.mark.parametrize(
    ("content", "why"), [(b"not a picture", "cannot be read: "), (b"", "0 bytes, it is empty")]
)
def test_an_unreadable_image_leaves_its_row_out(jsonl, tmp_path, content, why):
    (tmp_path / "a.png").write_bytes(content)
    broken, sound = jsonl(ROW | {"images": ["a.png"]}, ROW)
    assert broken.why.startswith(f"image {tmp_path / 'a.png'} cannot be read: ")
    assert why in broken.why
    assert sound.answer == 3


@pytest.mark.parametrize("path", ["../a.png", "images/../../a.png", "/etc/a.png"])
def test_an_image_outside_the_data_folder_is_refused(jsonl, tmp_path, path):
    outside, sound = jsonl(ROW | {"images": [path]}, ROW)
    assert outside.why == leaves(path, tmp_path)
    assert sound.answer == 3


def leaves(path, folder):
    return (
        f"the picture {str(path)!r} leaves the data folder {str(folder)!r}; put it there, or name "
        "the folder of the pictures: image_root: FOLDER"
    )


def test_a_sibling_folder_whose_name_begins_alike_is_outside(tmp_path):
    for name in ("data", "data-x"):
        (tmp_path / name).mkdir()
    (tmp_path / "data-x" / "a.png").write_bytes(png())
    for path in ("../data-x/a.png", str(tmp_path / "data-x" / "a.png")):
        with unreadable(leaves(path, tmp_path / "data")):
            checked(ROW | {"images": [path]}, tmp_path / "data")


def test_a_link_that_leads_out_of_the_data_folder_is_refused(tmp_path):
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for folder in (data, elsewhere):
        folder.mkdir()
    (elsewhere / "a.png").write_bytes(png())
    (data / "a.png").symlink_to(elsewhere / "a.png")
    (data / "folder").symlink_to(elsewhere)
    for path in ("a.png", "folder/a.png"):
        with unreadable(
            f"the picture {path!r} leaves the data folder {str(data)!r}; if the link is yours, "
            "declare the folder in which it is: image_root: FOLDER"
        ):
            checked(ROW | {"images": [path]}, data)


def test_links_in_a_folder_that_the_config_names_are_followed(jsonl, tmp_path):
    data, elsewhere = tmp_path / "pictures", tmp_path / "elsewhere"
    for folder in (data, elsewhere):
        folder.mkdir()
    (elsewhere / "a.png").write_bytes(png((5, 2)))
    (data / "link.png").symlink_to(elsewhere / "a.png")
    (data / "folder").symlink_to(elsewhere)
    rows = [ROW | {"images": [path]} for path in ("link.png", "folder/a.png")]
    for sample in jsonl(*rows, image_root="pictures"):
        assert sample.images == (elsewhere / "a.png",)
        assert sample.sizes == ((5, 2),)
    (left_out,) = jsonl(ROW | {"images": ["../elsewhere/a.png"]}, image_root="pictures")
    assert left_out.why == leaves("../elsewhere/a.png", data)


def test_a_data_folder_may_be_a_link_itself_and_paths_may_go_up_and_down_inside(tmp_path):
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "a.png").write_bytes(png((5, 2)))
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for path in ("a.png", "images/../a.png", "./a.png", str(tmp_path / "data" / "a.png")):
        sample = checked(ROW | {"images": [path]}, tmp_path / "link")
        assert sample.images == (tmp_path / "data" / "a.png",)
        assert sample.sizes == ((5, 2),)


def test_without_a_folder_only_absolute_paths_are_read(tmp_path):
    (tmp_path / "a.png").write_bytes(png((5, 2)))
    for path in (str(tmp_path / "a.png"), f"file://{tmp_path}/a.png"):
        sample = checked(ROW | {"images": [path]})
        assert sample.images == (tmp_path / "a.png",)
    with unreadable(
        "picture 'a.png' is a relative path, and a data set of the hub has no folder; set "
        "image_root to the folder of the pictures"
    ):
        checked(ROW | {"images": ["a.png"]})
    with pytest.raises(ValueError, match=r"'s3://bucket/a\.png' is an address, expected a path"):
        checked(ROW | {"images": ["s3://bucket/a.png"]})


def test_encoded_bytes_win_over_the_path_beside_them(tmp_path):
    (tmp_path / "a.png").write_bytes(png((5, 2)))
    both = {"bytes": png((2, 7)), "path": "a.png"}
    assert checked(ROW | {"image": both}, tmp_path).sizes == ((2, 7),)
    assert checked(ROW | {"image": both | {"bytes": None}}, tmp_path).sizes == ((5, 2),)


def test_a_cell_of_pictures_that_is_null_hides_no_other(tmp_path):
    (tmp_path / "a.png").write_bytes(png((5, 2)))
    for empty in (None, [], "", math.nan, [None]):
        for full, other in (("image", "images"), ("images", "image")):
            assert checked(ROW | {full: "a.png", other: empty}, tmp_path).sizes == ((5, 2),)


def test_an_empty_column_among_those_of_pictures_moves_no_other_picture(tmp_path):
    content = png((8, 8))
    named = Source(files="rows.jsonl", columns={"images": ("image_1", "image_2", "image_3")})

    def read(*images):
        pictures = {f"image_{place}": image for place, image in enumerate(images, start=1)}
        row = {"question": "?", "answer_kind": "number", "answer": 1, **pictures}
        plain = sample_rows.RowFormat()
        return sample_rows.sample_of(row, named, row_format=plain, origin="o")

    assert read(content, content, None).images == (content, content)
    assert read(None, float("nan"), " ").images == ()
    with pytest.raises(ValueError, match="picture 2 of 3 is missing"):
        read(content, None, content)


def test_two_cells_of_pictures_must_hold_the_same(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(png((5, 2)))
    assert checked(ROW | {"image": "a.png", "images": ["a.png"]}, tmp_path).sizes == ((5, 2),)
    for image, images in (("a.png", ["b.png"]), ("a.png", ["a.png", "b.png"])):
        with unreadable(
            "both `images` and `image` hold pictures; name the right one under `columns:`"
        ):
            checked(ROW | {"image": image, "images": images}, tmp_path)


@pytest.mark.parametrize(
    ("sizes", "read"),
    [
        ([[30, 20]], ((30, 20),)),
        ([[30, 20], [1, 1]], ((30, 20), (1, 1))),
        ([["30", 20.0]], ((30, 20),)),
        ([], ()),
        (None, ()),
    ],
)
def test_sizes_of_pictures_that_are_not_at_hand_may_be_declared(sizes, read):
    assert checked(ROW | {"sizes": sizes}).sizes == read


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([[0, 20]], "positive pixels"),
        ([[30, 20], [30, 0]], "positive pixels"),
        ([[30, -1]], "positive pixels"),
        ([[30]], "a list of [width, height] in pixels"),
        ([30, 20], "a list of [width, height] in pixels"),
        ([["wide", 20]], "a list of [width, height] in pixels"),
        ([[math.inf, 20]], "a list of [width, height] in pixels"),
        ([[math.nan, 20]], "a list of [width, height] in pixels"),
    ],
)
def test_declared_sizes_that_are_none_are_refused(sizes, expected):
    with unreadable(f"sizes is {sizes!r}, expected {expected}"):
        checked(ROW | {"sizes": sizes})


def test_a_picture_at_hand_wins_over_declared_sizes(tmp_path):
    row = ROW | {"image": png((5, 2)), "sizes": [[9, 9]]}
    assert checked(row, tmp_path).sizes == ((5, 2),)


def test_a_tag_without_a_value_is_none():
    assert checked(ROW | {"tags": {"a": None, "b": 0}}).tags == {"b": "0"}
    assert checked(ROW | {"tags": '{"a": null, "b": 2.0}'}).tags == {"b": "2"}


@pytest.mark.parametrize("tags", [["cat", "dog"], "cat, dog", "{a", 7])
def test_a_column_of_that_name_that_holds_no_tags_is_kept_as_any_other(tags):
    read = checked(ROW | {"tags": tags})
    assert (read.tags, read.columns["tags"]) == ({}, tags)


def test_a_system_message_counts_beside_a_chat_or_where_it_is_named():
    chat = [{"role": "user", "content": "How many?"}]
    beside_chat = checked(ROW | {"question": chat, "system": "Count."})
    assert beside_chat.context == (Turn("system", "Count."),)
    assert "system" not in beside_chat.columns
    plain = checked(ROW | {"system": "windows"})
    assert (plain.context, plain.columns["system"]) == ((), "windows")
    source = Source(files="a.jsonl", columns={"system": "instruction"})
    named = sample_rows.sample_of(
        ROW | {"instruction": "Count."}, source, row_format=sample_rows.RowFormat(), origin="row 1"
    )
    assert (named.context, dict(named.columns)) == ((Turn("system", "Count."),), {})


def test_an_image_that_is_a_number_is_refused(jsonl):
    (left,) = jsonl(ROW | {"images": [3.5]})
    assert left.why.startswith("the picture is 3.5 of type float; expected a path, encoded bytes")


def test_a_huge_image_leaves_its_row_out_before_it_is_decoded(jsonl, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png((4, 3)))
    monkeypatch.setattr(pictures, "MAX_IMAGE_PIXELS", 11)
    (left,) = jsonl(ROW | {"images": ["a.png"]})
    assert left.why == (
        f"image {tmp_path / 'a.png'} cannot be used: 4 x 3 pixels, more than 11; shrink it"
    )
    monkeypatch.setattr(pictures, "MAX_IMAGE_PIXELS", 12)
    (sample,) = jsonl(ROW | {"images": ["a.png"]})
    assert sample.sizes == ((4, 3),)


def test_a_missing_file_is_refused(tmp_path):
    with refused(
        f"files: no.jsonl does not exist, neither beside the config ({tmp_path}) nor in the working"
        " directory"
    ):
        list(sources.read_source(Source(files="no.jsonl"), base_dir=tmp_path, key="data.0"))


@pytest.mark.parametrize("column", ["image", "answer", "question", "id", "choices"])
@pytest.mark.parametrize("head", [None, 1])
def test_a_mapped_column_that_no_row_has_is_refused(jsonl, column, head):
    more = "" if head else ", why"
    with refused(
        f"rows.jsonl: columns: {column}: no row has a column 'pictre'; there are question, "
        f"answer_kind, answer{more}"
    ):
        jsonl(ROW, ROW | {"why": "so"}, columns={column: "pictre"}, head=head)


def test_a_needed_column_that_some_rows_lack_leaves_these_out(jsonl):
    first, second = jsonl(ROW | {"truth": 4}, ROW, columns={"answer": "truth"})
    assert first.answer == 4
    assert second == LeftOut(
        "rows.jsonl row 2",
        "columns: answer: the row has no column 'truth'; it has 'question', 'answer_kind', "
        "'answer'",
    )


def test_a_column_that_no_table_has_is_told_by_its_first_row(tmp_path):
    (tmp_path / "a.csv").write_text("question,meta\nq,plain\n")
    (tmp_path / "b.tsv").write_text("question\tmore\n")
    (tmp_path / "c.jsonl").write_text('{"question": "q"}\n{"question": "q", "late": 1}\n')

    def check(files: str | tuple[str, ...], column: str) -> None:
        source = Source(files=files, columns={"answer": column})
        sources.check_columns(source, base_dir=tmp_path)

    with pytest.raises(UserError, match="no row has a column 'truth'; there are question, meta"):
        check("a.csv", "truth")
    check("a.csv", "meta")
    check("a.csv", "meta.truth")  # the cell of a later row may have the field
    check("b.tsv", "truth")  # without a row nothing is known
    check("c.jsonl", "late")
    check(("a.csv", "c.jsonl"), "late")
    sources.check_columns(Source(recipe="digits"), base_dir=tmp_path)


def test_a_source_that_cannot_be_begun_is_reported_before_anything_is_read(tmp_path):
    with refused(
        f"files: no.jsonl does not exist, neither beside the config ({tmp_path}) nor in the working"
        " directory"
    ):
        sources.check_source(Source(files="no.jsonl"), base_dir=tmp_path, key="data.0")
    with pytest.raises(UserError, match=r"^data\.0\.colour: no such key"):
        sources.check_source(
            Source(recipe="digits", options={"task": "count", "colour": 3}),
            base_dir=tmp_path,
            key="data.0",
        )
    with pytest.raises(UserError, match=r"^data\.0: defaults are for files and hub"):
        sources.check_source(
            Source(recipe="digits", defaults={"answer": 3}), base_dir=tmp_path, key="data.0"
        )
    for wrong, sentence in (
        ({"image_root": "no"}, "image_root: no does not exist, neither beside the config"),
        ({"image_hosts": ["https://a.org/b"]}, "image_hosts: 'https://a.org/b' is no host"),
    ):
        with pytest.raises(UserError, match=f"^{sentence}"):
            sources.check_source(Source(hub="who/what", **wrong), base_dir=tmp_path, key="data.0")
    (tmp_path / "rows.jsonl").write_text("not JSON")
    for sound in (
        Source(files="rows.jsonl"),
        Source(hub="who/what"),
        Source(recipe="digits", options={"task": "count"}),
    ):
        sources.check_source(sound, base_dir=tmp_path, key="data.0")


@pytest.mark.parametrize(
    "knobs",
    [
        {"columns": {"answer": "truth"}},
        {"defaults": {"answer": 3}},
        {"image_root": "pictures"},
        {"image_hosts": ("example.com",)},
        {"answer_index": 0},
        {"subset": "main"},
        {"box_format": "xywh"},
        {"decimal": ","},
        {"columns": {"answer": "truth"}, "decimal": ","},
    ],
    ids=str,
)
def test_knobs_of_rows_are_refused_for_a_recipe(tmp_path, knobs):
    with refused(
        f"data.0: {' and '.join(knobs)} are for files and hub; a recipe names its columns itself: "
        "leave them out"
    ):
        read_all(tmp_path, recipe="digits", **knobs)


def test_a_mapped_column_may_be_missing_in_some_rows(jsonl, tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    first, second = jsonl(ROW | {"picture": "a.png"}, ROW, columns={"image": "picture"})
    assert (len(first.images), len(second.images)) == (1, 0)


# --- parquet and datasets -------------------------------------------------------------------------


def test_parquet_rows_with_bytes_and_paths(tmp_path):
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "a.png").write_bytes(png((4, 3)))
    rows = [
        ROW | {"image": {"bytes": png((5, 6)), "path": None}, "tags": {"task": "count"}},
        ROW | {"image": {"bytes": None, "path": "a.png"}, "tags": {"task": "add"}},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    first, second = sources.read_source(
        Source(files="rows.parquet"), base_dir=tmp_path, key="data.0"
    )
    assert first.images == (png((5, 6)),)
    assert first.sizes == ((5, 6),)
    assert second.images == (tmp_path / "a.png",)
    assert second.sizes == ((4, 3),)
    assert [first.tags["task"], second.tags["task"]] == ["count", "add"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Writes a local `datasets` folder and reads it as if it came from the hub."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()

    def read(content, features, **source):
        folder = tmp_path / "hub"
        folder.mkdir()
        datasets.Dataset.from_dict(
            content, features=datasets.Features(features(datasets))
        ).to_parquet(folder / "train.parquet")
        return list(
            sources.read_source(Source(hub=str(folder), **source), base_dir=tmp_path, key="data.0")
        )

    return read


def test_a_datasets_folder_with_encoded_images(hub):
    first, second = hub(
        {
            "problem": ["How many?", "And now?"],
            "truth": [3, 4],
            "image": [{"bytes": png((4, 3))}, {"bytes": png((5, 6))}],
        },
        lambda datasets: {
            "problem": datasets.Value("string"),
            "truth": datasets.Value("int64"),
            "image": datasets.Image(),
        },
        columns={"question": "problem", "answer": "truth"},
        defaults={"answer_kind": "number"},
    )
    assert (first.question, first.answer, first.images, first.sizes) == (
        "How many?",
        3,
        (png((4, 3)),),
        ((4, 3),),
    )
    assert (second.question, second.answer, second.images, second.sizes) == (
        "And now?",
        4,
        (png((5, 6)),),
        ((5, 6),),
    )


def test_a_datasets_folder_with_several_images_per_row(hub):
    (sample,) = hub(
        {
            "question": ["Which?"],
            "answer": ["first"],
            "answer_kind": ["choice"],
            "images": [[{"bytes": png((4, 3))}, {"bytes": png((5, 6))}]],
        },
        lambda datasets: (
            dict.fromkeys(("question", "answer", "answer_kind"), datasets.Value("string"))
            | {"images": [datasets.Image()]}
        ),
    )
    assert sample.images == (png((4, 3)), png((5, 6)))
    assert sample.sizes == ((4, 3), (5, 6))


def test_why_a_data_set_cannot_be_loaded_is_reported_on_one_line_and_shortly(tmp_path, monkeypatch):
    import datasets

    def failing(name, **given):
        raise ValueError("no\n  such " + "x" * 400)

    monkeypatch.setattr(datasets, "load_dataset", failing)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    message = (
        f"hub: 'who/what' (split 'train') cannot be loaded: no such {'x' * 292}"  # 300 letters
    )
    with refused(message):
        list(sources.read_source(Source(hub="who/what"), base_dir=tmp_path, key="data.0"))


def test_jsonl_does_not_wait_for_datasets(jsonl, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # importing it would raise
    assert len(jsonl(ROW)) == 1


# --- writing --------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path):
    written = [
        Sample(
            id="1",
            question="Wo ist die Ä?",
            images=(png((4, 3)), png((5, 6))),
            sizes=((4, 3), (5, 6)),
            answer_kind="boxes",
            answer=[[0, 1, 2.5, 3]],
            choices=("a", "b"),
            frame="norm1000",
            solution="There.",
            tags={"task": "box"},
            columns={"difficulty": 3, "notes": ["x"]},
        ),
        Sample(id="2", question="How many?", answer_kind="number", answer=3),
    ]
    assert sample_rows.write(written, tmp_path) == 2
    read = list(sources.read_source(Source(files="samples.jsonl"), base_dir=tmp_path, key="data.0"))
    assert [_with_bytes(sample) for sample in read] == [_with_bytes(sample) for sample in written]
    assert read[0].images == (tmp_path / "images/000001_0.png", tmp_path / "images/000001_1.png")


def test_written_files_are_copied_with_their_suffix(tmp_path):
    (tmp_path / "a.jpeg").write_bytes(b"picture")
    sample_rows.write(
        [
            Sample(
                id="1", question="?", images=(tmp_path / "a.jpeg",), answer_kind="number", answer=3
            )
        ],
        tmp_path / "out",
    )
    assert (tmp_path / "out/images/000001_0.jpeg").read_bytes() == b"picture"


def failing(*ids):
    """Rows that stop coming in the middle."""
    for name in ids:
        yield Sample(id=name, question="?", answer_kind="number", answer=3)
    raise OSError("the source is gone")


def ids_in(folder):
    return [
        sample.id
        for sample in sources.read_source(
            Source(files="samples.jsonl"), base_dir=folder, key="data.0"
        )
    ]


def test_rows_that_stop_coming_leave_no_file_that_looks_whole(tmp_path):
    with pytest.raises(OSError, match="the source is gone"):
        sample_rows.write(failing("1", "2"), tmp_path)
    assert not (tmp_path / "samples.jsonl").exists()
    sample_rows.write([Sample(id="old", question="?", answer_kind="number", answer=3)], tmp_path)
    with pytest.raises(OSError, match="the source is gone"):
        sample_rows.write(failing("1", "2"), tmp_path)
    assert ids_in(tmp_path) == ["old"]
    assert (
        sample_rows.write(
            [Sample(id=name, question="?", answer_kind="number", answer=3) for name in "ab"],
            tmp_path,
        )
        == 2
    )
    assert ids_in(tmp_path) == ["a", "b"]
    assert not (tmp_path / "samples.jsonl.part").exists()


def _with_bytes(sample):
    fields = {name: getattr(sample, name) for name in sample.__slots__}
    return fields | {
        "images": [
            image.read_bytes() if isinstance(image, Path) else image for image in sample.images
        ]
    }


# --- the order of draws ---------------------------------------------------------------------------

A, B = tuple("abcdef"), tuple("XY")


def drawn(stream, count):
    return [stream[index] for index in range(count)]


def test_every_block_holds_each_source_by_its_weight():
    letters = drawn(Dataset((A, B), (3, 2), seed=0), 500)
    for start in range(0, 500, 5):
        assert sum(letter in A for letter in letters[start : start + 5]) == 3


def test_blocks_are_shuffled():
    letters = drawn(Dataset((A, B), (1, 1), seed=0), 100)
    assert {letters[start] in A for start in range(0, 100, 2)} == {True, False}


@pytest.mark.parametrize(("source", "length"), [(A, 6), (B, 2)])
def test_every_row_comes_once_per_pass(source, length):
    mine = [letter for letter in drawn(Dataset((A, B), (3, 2), seed=0), 500) if letter in source]
    passes = [mine[start : start + length] for start in range(0, len(mine) - length + 1, length)]
    assert all(sorted(letters) == sorted(source) for letters in passes)
    assert len(set(map(tuple, passes))) > 1  # shuffled anew


def test_a_pass_that_ends_inside_a_block_still_holds_every_row_once():
    letters = drawn(Dataset((A[:5], B), (3, 2), seed=0), 25)  # five blocks: 15 draws from 5 rows
    assert [letters.count(letter) for letter in A[:5]] == [3] * 5


def test_a_draw_is_a_function_of_its_index():
    stream = Dataset((A, B), (2, 1), seed=0)
    straight = drawn(stream, 50)
    assert [stream[index] for index in reversed(range(50))] == straight[::-1]
    assert Dataset((A, B), (2, 1), seed=0)[10**12] in A + B


def test_seed_and_purpose_give_orders_of_their_own():
    orders = [
        drawn(stream, 50)
        for stream in (
            Dataset((A,), (1,), 0),
            Dataset((A,), (1,), 1),
            Dataset((A,), (1,), 0, "warmup"),
        )
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_a_known_order_never_changes():
    assert "".join(drawn(Dataset((A, B), (2, 1), seed=0), 15)) == "aXbcdYeYfefXbXc"
