"""Local folders in the forms of `datasets`, and names of the hub: which rows they are, where their
pictures are, and what is refused. The real library reads folders that the tests write."""

import gc
import json
import os
import re
from pathlib import Path
from zipfile import ZipFile

import datasets
import pytest

from gpg_vl.data.caches import cache_dir
from gpg_vl.data.reading.hub import hub_rows
from gpg_vl.data.reading.raw_rows import BadRow
from gpg_vl.errors import UserError
from tests.hand_made import png

TWO_CONFIGS = """---
configs:
- config_name: a
  data_files: [{split: train, path: a/*.parquet}]
- config_name: b
  data_files: [{split: train, path: b/*.parquet}, {split: test, path: a/*.parquet}]
---
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)


def rows_of(name, base_dir, subset=None, split="train"):
    return list(hub_rows(name, subset, split, base_dir)[0])


def refused(sentence):
    return pytest.raises(UserError, match=re.escape(sentence))


def put(folder, **columns):
    """Write a parquet file of these columns."""
    datasets.Dataset.from_dict(columns).to_parquet(folder / "train.parquet")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_a_file_beside_the_rows_may_have_a_name_that_is_not_utf_8(tmp_path):
    (tmp_path / "set").mkdir()
    put(tmp_path / "set", a=[1, 2])
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/set/caf\xe9.txt")).touch()
    assert rows_of("set", tmp_path) == [{"a": 1}, {"a": 2}]


# --- which folder a name means --------------------------------------------------------------------


def test_folders_of_one_name_are_kept_apart(tmp_path):
    for place in ("mine", "other"):
        (tmp_path / place / "rows").mkdir(parents=True)
        put(tmp_path / place / "rows", answer=[place])
    for place in ("mine", "other", "mine"):
        assert rows_of("rows", tmp_path / place) == [{"answer": place}]


def test_a_folder_beside_the_config_comes_before_one_in_the_working_directory(tmp_path):
    for folder in (tmp_path / "configs" / "rows", tmp_path / "rows", tmp_path / "only"):
        folder.mkdir(parents=True)
        put(folder, answer=[str(folder)])
    rows, image_dir = hub_rows("rows", None, "train", tmp_path / "configs")
    assert image_dir == tmp_path / "configs" / "rows"
    assert list(rows) == [{"answer": str(image_dir)}]
    assert rows_of("only", tmp_path / "configs") == [{"answer": str(tmp_path / "only")}]
    assert rows_of(str(tmp_path / "only"), tmp_path) == [{"answer": str(tmp_path / "only")}]


def test_a_folder_that_is_gone_is_not_answered_out_of_a_cache(tmp_path, monkeypatch):
    (tmp_path / "there" / "rows").mkdir(parents=True)
    put(tmp_path / "there" / "rows", answer=[1])
    monkeypatch.chdir(tmp_path / "there")
    datasets.load_dataset("rows")  # now its cache answers to this name, wherever it is asked
    monkeypatch.chdir(tmp_path)
    assert datasets.load_dataset("rows", split="train")[0] == {"answer": 1}
    with refused(
        f"hub: rows is no folder, neither beside the config ({tmp_path}) nor in the working "
        "directory; a data set of the hub is named OWNER/NAME"
    ):
        rows_of("rows", tmp_path)


@pytest.mark.parametrize("name", ["./a/b", "../b", "/a/b", "~/no", "a/b/c", "json", "a/", r"a\b/c"])
def test_a_name_that_is_a_path_is_not_asked_of_the_hub(tmp_path, name):
    with refused(f"hub: {name} is no folder, neither beside the config"):
        rows_of(name, tmp_path)


def test_a_file_is_no_folder(tmp_path):
    put(tmp_path, answer=[1])
    with refused("hub: train.parquet is a file; name it under `files:` instead"):
        rows_of("train.parquet", tmp_path)


def test_a_set_of_the_hub_has_no_folder_for_pictures(tmp_path, monkeypatch):
    asked = []

    def load_dataset(path, **options):
        asked.append((path, options))
        return datasets.Dataset.from_dict({"image": ["a.png"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows, image_dir = hub_rows("owner/name", "b", "test", tmp_path)
    assert (list(rows), image_dir) == ([{"image": "a.png"}], None)
    assert asked == [("owner/name", {"name": "b", "split": "test"})]


def test_a_set_of_the_hub_that_cannot_be_reached_is_named(tmp_path, monkeypatch):
    told = "hub: 'owner/name' (split 'train') cannot be loaded: Couldn't reach 'owner/name'"
    with refused(told):
        rows_of("owner/name", tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set, so only .* load it once with the"):
        rows_of("owner/name", tmp_path)


@pytest.mark.parametrize("page", ["https://huggingface.co/datasets/a/b-c", "datasets/a/b-c"])
def test_the_page_of_a_set_tells_its_name(tmp_path, page):
    with pytest.raises(UserError, match=r"a data set of the hub is named a/b-c$"):
        rows_of(page, tmp_path)


# --- what is in a folder now ----------------------------------------------------------------------


def test_a_file_that_changed_is_read_again(tmp_path):
    (tmp_path / "rows").mkdir()
    for answer in (1, 2):
        put(tmp_path / "rows", answer=[answer])
        assert rows_of("rows", tmp_path) == [{"answer": answer}]


def test_an_archive_that_changed_is_read_again(tmp_path):
    (tmp_path / "rows").mkdir()
    for number, size in enumerate([(4, 3), (3, 4)]):
        path = tmp_path / "rows" / "train.zip"
        with ZipFile(path, "w") as archive:
            archive.writestr("metadata.jsonl", json.dumps({"file_name": "a.png", "n": number}))
            archive.writestr("a.png", png(size))
        os.utime(path, (number, number))
        (row,) = rows_of("rows", tmp_path)
        assert (row["n"], row["image"]) == (number, {"bytes": png(size), "path": "a.png"})


def test_a_picture_that_is_broken_in_its_archive_is_the_fault_of_its_row(tmp_path):
    (tmp_path / "rows").mkdir()
    path = tmp_path / "rows" / "train.zip"
    with ZipFile(path, "w") as archive:
        for name in ("a", "b"):
            archive.writestr(f"{name}.png", png((4, 3)) + name.encode() * 9)
    path.write_bytes(path.read_bytes().replace(b"a" * 9, b"x" * 9))
    bad, good = rows_of("rows", tmp_path)
    assert bad.where == "row 1"
    assert bad.why.startswith("a picture in a zip file cannot be read: Bad CRC-32")
    assert good["image"]["path"] == "b.png"


# --- subsets and splits ---------------------------------------------------------------------------


@pytest.fixture
def two_configs(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "rows" / name).mkdir(parents=True)
        put(tmp_path / "rows" / name, answer=[name])
    write(tmp_path / "rows" / "README.md", TWO_CONFIGS)
    return tmp_path


def test_a_subset_is_named(two_configs):
    assert rows_of("rows", two_configs, "a") == [{"answer": "a"}]
    assert rows_of("rows", two_configs, "b") == [{"answer": "b"}]
    assert rows_of("rows", two_configs, "b", "test") == [{"answer": "a"}]
    assert rows_of("rows", two_configs, "b", "test[:1]") == [{"answer": "a"}]


@pytest.mark.parametrize(
    ("subset", "split", "sentence"),
    [
        (None, "train", "has several subsets: a, b; name one: `subset: a`"),
        ("c", "train", "has no subset 'c'; there are a, b"),
        ("b", "val", "has no such split; there are train, test"),
        ("b", "val[:1]", "has no such split; there are train, test"),
    ],
)
def test_subsets_and_splits_that_do_not_exist(two_configs, subset, split, sentence):
    with refused(f"hub: 'rows' (split '{split}') {sentence}"):
        rows_of("rows", two_configs, subset, split)


def test_a_subset_that_the_authors_chose_needs_no_name(two_configs):
    readme = two_configs / "rows" / "README.md"
    readme.write_text(TWO_CONFIGS.replace("name: b\n", "name: b\n  default: true\n"))
    assert rows_of("rows", two_configs) == [{"answer": "b"}]


# --- folders of save_to_disk ----------------------------------------------------------------------


def test_a_saved_data_set(tmp_path):
    datasets.Dataset.from_dict({"answer": [1, 2]}).save_to_disk(tmp_path / "saved")
    rows, image_dir = hub_rows("saved", None, "train", tmp_path)
    assert (list(rows), image_dir) == ([{"answer": 1}, {"answer": 2}], tmp_path / "saved")
    with refused("is one split that was saved as a data set without splits; leave `split` out"):
        rows_of("saved", tmp_path, split="test")
    with refused("was written by save_to_disk and has no subsets; leave `subset` out"):
        rows_of("saved", tmp_path, subset="a")


def test_a_saved_data_set_of_several_splits(tmp_path):
    splits = {}
    for name in ("train", "test"):
        splits[name] = datasets.Dataset.from_dict({"answer": [name]}, split=name)
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    for name in ("train", "test"):
        assert rows_of("saved", tmp_path, split=name) == [{"answer": name}]
    assert rows_of("saved/test", tmp_path) == rows_of("saved/test", tmp_path, split="test")
    with refused("hub: 'saved' (split 'val') has no such split; there are train, test"):
        rows_of("saved", tmp_path, split="val")
    with refused("is one split that was saved as test; leave `split` out"):
        rows_of("saved/test", tmp_path, split="val")


def test_a_saved_data_set_that_is_not_whole(tmp_path):
    datasets.Dataset.from_dict({"answer": [1]}).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "data-00000-of-00001.arrow").unlink()
    with refused("hub: 'saved' (split 'train') cannot be loaded: "):
        rows_of("saved", tmp_path)


# --- folders of pictures --------------------------------------------------------------------------


# `datasets` leaves the file of metadata open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_folder_of_pictures_with_rows(tmp_path, name):
    write(tmp_path / "rows" / "a.png", png((4, 3)))
    texts = {
        "metadata.csv": "file_name,question\na.png,Why?\n",
        "metadata.jsonl": '{"file_name": "a.png", "question": "Why?"}\n',
    }
    write(tmp_path / "rows" / name, texts[name])
    rows, image_dir = hub_rows("rows", None, "train", tmp_path)
    picture = {"bytes": None, "path": str(tmp_path / "rows" / "a.png")}
    assert list(rows) == [{"image": picture, "question": "Why?"}]
    assert image_dir == tmp_path / "rows"
    gc.collect()  # the warning comes here, not in another test


def test_names_of_folders_are_labels(tmp_path):
    for label in ("bee", "ant"):
        write(tmp_path / "rows" / label / "1.png", png())
    rows = rows_of("rows", tmp_path)
    assert [row["label"] for row in rows] == ["ant", "bee"]
    assert [Path(row["image"]["path"]).parent.name for row in rows] == ["ant", "bee"]


def test_rows_beside_pictures_are_not_left_out_unseen(tmp_path):
    for number in range(3):
        write(tmp_path / "rows" / "images" / f"{number}.png", png())
    write(tmp_path / "rows" / "list.jsonl", '{"question": "?", "image": "images/0.png"}\n')
    with refused("has pictures beside list.jsonl, whose rows would be left out; name that file"):
        rows_of("rows", tmp_path)


def test_paths_in_rows_start_at_the_folder(tmp_path):
    write(tmp_path / "rows" / "train.jsonl", '{"question": "?", "image": "images/a.png"}\n')
    write(tmp_path / "rows" / "images" / "a.png", png((4, 3)))
    write(tmp_path / "images" / "a.png", png((9, 9)))  # in the working directory
    rows, image_dir = hub_rows("rows", None, "train", tmp_path)
    (row,) = rows
    assert image_dir / row["image"] == tmp_path / "rows" / "images" / "a.png"


# --- values ---------------------------------------------------------------------------------------


def test_pictures_stay_encoded_and_labels_become_names_at_any_depth(tmp_path):
    label, image = datasets.ClassLabel(names=["ant", "bee"]), datasets.Image()
    picture = {"bytes": b"no picture: decoding it would raise", "path": None}
    row = {
        "image": picture,
        "images": [picture, None],
        "parts": [{"image": picture, "label": 1}],
        "part": {"image": picture, "labels": [0, 1]},
        "label": 1,
        "none": -1,
    }
    features = datasets.Features(
        {
            "image": image,
            "images": [image],
            "parts": [{"image": image, "label": label}],
            "part": {"image": image, "labels": [label]},
            "label": label,
            "none": label,
        }
    )
    data = datasets.Dataset.from_list([row], features=features)
    (tmp_path / "rows").mkdir()
    data.to_parquet(tmp_path / "rows" / "train.parquet")
    data.save_to_disk(tmp_path / "saved")
    meant = row | {
        "parts": [{"image": picture, "label": "bee"}],
        "part": {"image": picture, "labels": ["ant", "bee"]},
        "label": "bee",
        "none": None,
    }
    assert rows_of("rows", tmp_path) == [meant]
    assert rows_of("saved", tmp_path) == [meant]


def test_columns_of_mixed_values_are_values(tmp_path):
    rows = [{"answer": 1}, {"answer": "x"}, {"answer": {"A": [1]}}]
    write(tmp_path / "rows" / "train.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert rows_of("rows", tmp_path) == rows


def test_a_broken_file_of_a_folder_is_told_with_the_way_around(tmp_path):
    write(tmp_path / "rows" / "train.jsonl", '{"answer": 1}\n{"answer": \n')
    with pytest.raises(UserError, match=r"cannot be loaded: JSON.*name its files under `files:`"):
        rows_of("rows", tmp_path)
    write(tmp_path / "empty" / "notes", "none")
    with refused("hub: 'empty' (split 'train') cannot be loaded: "):
        rows_of("empty", tmp_path)


def test_a_row_that_python_cannot_hold_is_told(tmp_path):
    import pyarrow
    from pyarrow import parquet

    days = pyarrow.array([10_000_000, 0], pyarrow.int32()).cast(pyarrow.date32())
    (tmp_path / "rows").mkdir()
    parquet.write_table(pyarrow.table({"day": days}), tmp_path / "rows" / "train.parquet")
    bad, good = rows_of("rows", tmp_path)
    assert isinstance(bad, BadRow)
    assert good["day"].year == 1970


# --- the cache ------------------------------------------------------------------------------------


def test_the_cache_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_dir("images") == tmp_path / "x" / "gpg_vl" / "images"
    assert cache_dir("images").is_dir()
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_dir("images") == tmp_path / ".cache" / "gpg_vl" / "images"
    write(tmp_path / "file", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with refused("set XDG_CACHE_HOME to a folder that can be written"):
        cache_dir("images")
