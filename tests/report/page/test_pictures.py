"""Pictures of a page: each once, small, within a bound, and why one is not there."""

import base64
import io
import os
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from gpg_vl.report.page.pictures import PagePictures


def drawn(file: Path, size: tuple[int, int], color: str = "red") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(file, "PNG")
    return file


def pictures_of(folder: Path, room: int = 1_000_000, *, wanted: bool = True) -> PagePictures:
    pictures = PagePictures(folder, wanted=wanted)
    pictures.allow(room)
    return pictures


def test_a_picture_that_is_shown_twice_is_there_once(tmp_path):
    drawn(tmp_path / "images" / "a.png", (30, 20))
    pictures = pictures_of(tmp_path)
    first = pictures.add(tmp_path, {"file": "images/a.png"})
    assert first == {"key": "p0", "size": [30, 20], "full": "", "why": ""}
    assert pictures.add(tmp_path, {"file": "images/a.png"}) == first
    assert list(pictures.data) == ["p0"]
    head, data = pictures.data["p0"].split(",")
    assert head == "data:image/webp;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (30, 20)


def test_a_large_picture_is_small_in_the_page_and_keeps_its_size(tmp_path):
    drawn(tmp_path / "images" / "a.png", (1280, 640))
    pictures = pictures_of(tmp_path)
    found = pictures.add(tmp_path, {"file": "images/a.png", "size": [1, 1]})
    assert found == {"key": "p0", "size": [1280, 640], "full": "images/a.png", "why": ""}
    data = pictures.data["p0"].split(",")[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (320, 160)


def test_a_small_copy_has_the_size_of_the_picture_it_was_made_of(tmp_path):
    drawn(tmp_path / "evaluation" / "pictures" / "a.webp", (320, 160))
    found = {"copy": "evaluation/pictures/a.webp", "size": [4000, 2000], "original": "/no/such"}
    shown = pictures_of(tmp_path).add(tmp_path, found)
    assert shown == {"key": "p0", "size": [4000, 2000], "full": "", "why": ""}


@pytest.mark.parametrize("name", ["a b.png", "a#1.png", "50%.png", "größe.png", "a?b&c.png"])
def test_the_full_size_is_named_from_the_folder_of_the_page(name, tmp_path):
    file = drawn(tmp_path / "my run" / "images" / name, (400, 400))
    page = tmp_path / "pages"
    page.mkdir()
    found = {"file": f"images/{name}"}
    full = pictures_of(page).add(tmp_path / "my run", found)["full"]
    assert full.startswith("../my%20run/images/")
    assert not {" ", "#", "?", "&"} & set(full)
    assert full.isascii()
    assert (page / unquote(full)).resolve() == file.resolve()


def test_a_name_that_is_no_text_is_encoded_too(tmp_path):
    run = tmp_path / "caf\udce9"  # a folder whose name is Latin-1
    drawn(run / "images" / "a.png", (400, 400))
    full = pictures_of(tmp_path).add(run, {"file": "images/a.png"})["full"]
    assert full == "caf%E9/images/a.png"


def test_what_is_not_there_says_why(tmp_path):
    pictures = pictures_of(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    kept = pictures.add(tmp_path, {"file": None, "why": "only samples are kept", "size": [9, 8]})
    assert kept == {"key": "", "size": [9, 8], "full": "", "why": "only samples are kept"}
    gone = "it is not on this machine"
    assert pictures.add(tmp_path, {"original": "/no/such/file.png"})["why"] == gone
    assert pictures.add(tmp_path, {"file": "nul\x00.png"})["why"] == gone
    unreadable = pictures.add(tmp_path, {"file": "broken.png"})["why"]
    assert unreadable == "it cannot be read as a picture"
    assert pictures.data == {}


def test_without_room_a_picture_says_so_and_earlier_room_stays(tmp_path):
    for name in ("a", "b"):
        drawn(tmp_path / f"{name}.png", (40, 40), "red" if name == "a" else "blue")
    small = pictures_of(tmp_path)
    small.add(tmp_path, {"file": "a.png"})
    size = len(small.data["p0"].split(",")[1])
    pictures = pictures_of(tmp_path, size)
    assert pictures.add(tmp_path, {"file": "a.png"})["key"] == "p0"
    full = pictures.add(tmp_path, {"file": "b.png"})
    assert (full["key"], full["why"]) == ("", "there is no room in the page for more pictures")
    assert full["size"] == [40, 40]
    assert pictures.add(tmp_path, {"file": "a.png"})["key"] == "p0", "it is there already"
    pictures.allow(2 * size)
    assert pictures.add(tmp_path, {"file": "b.png"})["key"] == "p1"


def test_a_page_without_pictures_names_none(tmp_path):
    drawn(tmp_path / "a.png", (400, 400))
    pictures = pictures_of(tmp_path, wanted=False)
    shown = pictures.add(tmp_path, {"file": "a.png", "size": [400, 400]})
    why = "pictures are left out of this page"
    assert shown == {"key": "", "size": [400, 400], "full": "", "why": why}
    assert pictures.data == {}


def test_a_row_does_not_lead_out_of_its_run(tmp_path):
    run = tmp_path / "run"
    (run / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (run / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    shelf = PagePictures(run)
    shelf.allow(10_000)
    for name in ("../secret.png", "images/../../secret.png", "images/link.png"):
        assert shelf.add(run, {"file": name})["key"] == ""
    assert not shelf.data


def test_a_pipe_is_no_picture(tmp_path):
    (tmp_path / "images").mkdir()
    os.mkfifo(tmp_path / "images" / "a.png")
    shelf = PagePictures(tmp_path)
    shelf.allow(10_000)
    assert shelf.add(tmp_path, {"file": "images/a.png"})["key"] == ""
