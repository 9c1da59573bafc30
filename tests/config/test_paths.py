"""Files and folders: can they be written, and are they whole at any moment?"""

import errno
import os
from pathlib import Path

import pytest

from gpg_vl.config import paths
from gpg_vl.config.paths import (
    check_new_file,
    check_writable,
    folder_aside,
    nearest_path,
    write_whole,
)
from gpg_vl.errors import UserError


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working directory: a folder, a file, and a link to nothing."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    (tmp_path / "lost").symlink_to(tmp_path / "unmounted")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "name", [".", "folder", "new", "new/in/new", "my folder/ü 模型", "x" * 255]
)
def test_a_folder_that_can_be_made_leaves_nothing(name, here):
    before = below(here)
    check_writable(Path(name), "folder")
    assert below(here) == before


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("file", "/file is a file; choose another"),
        ("file/run", "/file is a file; choose another"),
        ("lost", "/lost is a link to nothing; choose another"),
        ("lost/run", "/lost is a link to nothing; choose another"),
        ("/proc/run", "folder: /proc/run cannot be made: "),
        ("x" * 256, "File name too long; choose another"),
        ("new/" * 2000, "File name too long; choose another"),
        ("a\0b", "null byte"),
    ],
)
def test_a_folder_that_cannot_be_made_is_one_sentence(name, why, here):
    before = below(here)
    with pytest.raises(UserError) as refused:
        check_writable(Path(name), "folder")
    assert str(refused.value).startswith("folder: ")
    assert why in str(refused.value)
    assert len(str(refused.value)) < 500
    assert below(here) == before


def test_a_disk_that_is_read_only_is_found_by_writing(here, monkeypatch):
    def refused(*given: object, **more: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(paths, "TemporaryDirectory", refused)
    with pytest.raises(UserError, match=r"^--to: folder cannot be made: Read-only file system;"):
        check_writable(Path("folder"), "--to")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("folder", "folder is a folder, expected the name of a file"),
        ("nowhere/a.jsonl", "--to nowhere/a.jsonl: there is no folder nowhere"),
        ("file/a.jsonl", "there is no folder file"),
        ("/proc/a.jsonl", "/proc cannot be made"),
    ],
)
def test_a_file_that_cannot_be_written_is_one_sentence(name, why, here):
    with pytest.raises(UserError, match=why):
        check_new_file(Path(name), "--to")


@pytest.mark.parametrize("name", ["file", "new", "folder/new", "/dev/stdout", "/dev/null"])
def test_a_file_that_can_be_written_is_not_touched(name, here):
    before = below(here)
    check_new_file(Path(name), "--to")
    assert below(here) == before
    assert (here / "file").read_text() == "old"


def test_a_file_is_written_whole_and_what_fails_leaves_the_old_one(here):
    write_whole(here / "file", "new ü\n")
    write_whole(here / "other", "new")
    assert (here / "file").read_text(encoding="utf-8") == "new ü\n"
    with pytest.raises(UnicodeEncodeError):
        write_whole(here / "file", "\ud800")
    assert (here / "file").read_text(encoding="utf-8") == "new ü\n"
    assert below(here) == {"folder", "file", "lost", "other"}
    write_whole(here / "file", "\ud800", errors="replace")
    assert (here / "file").read_text() == "?"


def test_a_link_stays_a_link_and_a_device_a_device(here):
    (here / "link").symlink_to("file")
    write_whole(here / "link", "through")
    assert (here / "link").is_symlink()
    assert (here / "file").read_text() == "through"
    write_whole(Path("/dev/null"), "gone")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("end", [KeyboardInterrupt, OSError, None])
def test_what_is_written_aside_is_gone_at_the_end(end, here):
    def write() -> None:
        with folder_aside(here) as aside:
            (aside / "half").mkdir()
            (aside / "half" / "rows").write_text("")
            if end is not None:
                raise end

    if end is None:
        write()
    else:
        with pytest.raises(end):
            write()
    assert below(here) == {"folder", "file", "lost"}


def test_the_nearest_name_of_the_folder_is_found(tmp_path):
    for name in ("ev.jsonl", "rewards.py", ".ev.json"):
        (tmp_path / name).write_text("")
    (tmp_path / "runs").mkdir()
    assert nearest_path(tmp_path / "ev.json") == tmp_path / "ev.jsonl"
    assert nearest_path(tmp_path / "run") == tmp_path / "runs"
    assert nearest_path(tmp_path / "reward.py", "*.py") == tmp_path / "rewards.py"
    assert nearest_path(tmp_path / "reward.py", "*.jsonl") is None
    assert nearest_path(tmp_path / "quite another") is None
    assert nearest_path(tmp_path / "nowhere" / "ev.json") is None
    assert nearest_path(tmp_path / "ev.jsonl" / "ev.json") is None
