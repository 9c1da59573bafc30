"""Files by name, folder, pattern and list: which are found, in which order, and what is refused."""

import re
from pathlib import Path

import pytest

from gpg_vl.data.reading.files import find_files
from gpg_vl.errors import UserError


@pytest.fixture
def base_dir(tmp_path, monkeypatch):
    """A folder of a config inside the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[configs]").mkdir()
    return tmp_path / "[configs]"


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")


def found(names, base_dir):
    return [str(path.relative_to(base_dir)) for path in find_files(names, base_dir)]


def refused(sentence):
    return pytest.raises(UserError, match=re.escape(sentence))


def test_a_file_beside_the_config_comes_before_one_in_the_working_directory(base_dir):
    make(base_dir, "a.jsonl")
    make(base_dir.parent, "a.jsonl", "b.jsonl")
    assert find_files("a.jsonl", base_dir) == [base_dir / "a.jsonl"]
    assert find_files("b.jsonl", base_dir) == [Path("b.jsonl")]
    assert find_files(str(base_dir.parent / "b.jsonl"), base_dir) == [base_dir.parent / "b.jsonl"]


def test_files_of_a_pattern_are_in_natural_order(base_dir):
    make(base_dir, "d/train-10.parquet", "d/train-2.parquet", "d/test-1.parquet", "d/.train-3")
    assert found("d/train-*.parquet", base_dir) == ["d/train-2.parquet", "d/train-10.parquet"]
    assert found("d/train-[2].parquet", base_dir) == ["d/train-2.parquet"]
    assert found("**/train-*.parquet", base_dir) == ["d/train-2.parquet", "d/train-10.parquet"]
    pattern = str(base_dir.parent / "?configs?" / "d" / "train*")
    assert found(pattern, base_dir) == ["d/train-2.parquet", "d/train-10.parquet"]


def test_a_folder_is_its_readable_files(base_dir):
    make(base_dir, "d/2.jsonl", "d/10.jsonl", "d/README.md", "d/.hidden.jsonl", "d/more/3.jsonl")
    assert found("d", base_dir) == ["d/2.jsonl", "d/10.jsonl"]
    assert found("d/", base_dir) == ["d/2.jsonl", "d/10.jsonl"]
    assert found("d/*", base_dir) == ["d/2.jsonl", "d/10.jsonl"]


def test_a_list_keeps_its_order_and_names_no_file_twice(base_dir):
    make(base_dir, "a.jsonl", "b.csv", "c1.jsonl", "c2.jsonl")
    names = ("c2.jsonl", "b.csv", "./a.jsonl", "c*.jsonl", "a.jsonl")
    assert found(names, base_dir) == ["c2.jsonl", "b.csv", "a.jsonl", "c1.jsonl"]


def test_a_name_may_look_like_a_pattern(base_dir):
    make(base_dir, "a[1].jsonl", "a1.jsonl")
    assert found("a[1].jsonl", base_dir) == ["a[1].jsonl"]


def test_a_link_keeps_its_name(base_dir):
    make(base_dir, "blob")
    (base_dir / "a.jsonl").symlink_to("blob")
    (base_dir / "b.jsonl").symlink_to("blob")
    assert found(("a.jsonl", "b.jsonl"), base_dir) == ["a.jsonl"]


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        (("rows.jsonl", "metadata.csv"), "formats (.csv, .jsonl)"),
        (("rows.jsonl", "rows.jsonl.gz"), "formats (.jsonl, .jsonl.gz)"),
        (("train-1.parquet", "test-1.parquet"), "splits (test, train)"),
        (("x_train.csv", "x_val.csv", "x_dev.csv"), "splits (train, validation)"),
    ],
)
def test_files_that_may_not_all_be_meant_are_refused(base_dir, names, kinds):
    make(base_dir / "d", *names)
    for name in ("d", "d/*"):
        with refused(f"files: {name} holds files of several {kinds}; name those that are meant"):
            find_files(name, base_dir)
    assert len(find_files([f"d/{name}" for name in names], base_dir)) == len(names)


@pytest.mark.parametrize("names", [("trainer.csv", "tested.csv"), ("train_1.csv", "more.csv")])
def test_other_words_are_no_splits(base_dir, names):
    make(base_dir / "d", *names)
    assert len(find_files("d", base_dir)) == 2


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no.csv", "does not exist, neither beside the config ({}) nor in the working directory$"),
        ("d/train.jsnl", "does not exist, .* directory; did you mean d/train.jsonl\\?$"),
        ("D/train.jsonl", "does not exist, .* directory$"),
        ("e/*.jsonl", "matches no file, neither beside the config ({}) nor in"),
        ("e", "is a folder without files of rows; name a pattern such as e/\\*\\*/\\*.parquet"),
        ("s", "was written by save_to_disk; name it under `hub:` instead$"),
    ],
)
def test_names_that_find_nothing(base_dir, name, sentence):
    make(base_dir, "d/train.jsonl", "e/README.md", "s/state.json", "s/data.arrow")
    place = re.escape(f"({base_dir})")
    with pytest.raises(
        UserError, match=f"^files: {re.escape(name)} " + sentence.replace("({})", place)
    ):
        find_files(name, base_dir)


def test_an_empty_list_is_refused(base_dir):
    with refused("files: got an empty list, expected the names of files"):
        find_files((), base_dir)
