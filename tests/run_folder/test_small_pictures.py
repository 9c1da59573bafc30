"""Small copies of pictures: what a person sees, never enlarged, each content once."""

import io
from pathlib import Path

import pytest
from PIL import Image

from gpg_vl.errors import UnusableSampleError
from gpg_vl.run_folder import content_name, image_name, small_pictures
from gpg_vl.run_folder.small_pictures import (
    keep_small_pictures,
    small_picture,
    small_picture_path,
)
from tests.hand_made import encoded, png


def opened(webp: bytes) -> Image.Image:
    """Open a copy, which is a WebP file."""
    picture = Image.open(io.BytesIO(webp))
    assert (picture.format, picture.mode) == ("WEBP", "RGB")
    return picture


@pytest.mark.parametrize(
    ("size", "small"),
    [((640, 480), (320, 240)), ((100, 1000), (32, 320)), ((320, 10), (320, 10)), ((7, 5), (7, 5))],
)
def test_the_longest_side_is_bounded_and_nothing_is_enlarged(size, small):
    made = small_picture(png(size), 320)
    assert opened(made.webp).size == small
    assert made.size == size


def test_a_picture_that_a_camera_turned_is_upright(tmp_path):
    """Stored 200 x 100 with the orientation 6, its left half black: seen 100 x 200, black on
    top."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.new("RGB", (200, 100), "white")
    stored.paste("black", (0, 0, 100, 100))
    path = tmp_path / "turned.jpg"
    path.write_bytes(encoded(stored, "JPEG", exif=exif))
    made = small_picture(path, 50)
    assert made.size == (100, 200)
    picture = opened(made.webp)
    assert picture.size == (25, 50)
    assert max(picture.getpixel((12, 5))) < 40  # type: ignore[arg-type]
    assert min(picture.getpixel((12, 45))) > 215  # type: ignore[arg-type]


def test_transparent_pixels_are_white():
    picture = opened(small_picture(png((8, 8), (0, 0, 0, 0), "RGBA"), 320).webp)
    assert picture.getpixel((4, 4)) == (255, 255, 255)


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UnusableSampleError, match="does not exist"):
        small_picture(tmp_path / "none.png", 320)


def by_content(*images: bytes) -> dict[str, Path | bytes]:
    return {content_name(image): image for image in images}


def kept(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "evaluation" / "pictures").iterdir())


def test_what_is_missing_is_written_and_what_is_there_stays(tmp_path):
    one, two = png(colour="red"), png(colour="blue")
    keep_small_pictures(tmp_path, by_content(one))
    path = small_picture_path(tmp_path, content_name(one))
    assert kept(tmp_path) == [path.name] == [f"{image_name(one).split('.')[0]}.webp"]
    assert opened(path.read_bytes()).size == (56, 56)
    path.write_bytes(b"as it was")
    keep_small_pictures(tmp_path, by_content(one, two))
    assert len(kept(tmp_path)) == 2
    assert path.read_bytes() == b"as it was"


def test_one_that_cannot_be_read_keeps_no_other_from_being_kept(tmp_path):
    file = tmp_path / "file.png"
    file.write_bytes(png())
    broken = {"0" * 16: b"no picture", "1" * 16: tmp_path / "none.png", "2" * 16: file}
    keep_small_pictures(tmp_path, broken)
    assert kept(tmp_path) == [f"{'2' * 16}.webp"]


def test_no_more_than_the_bound_are_kept_and_the_same_ones_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(small_pictures, "MOST", 3)
    names = {f"{number:016d}": png(colour=(number, 0, 0)) for number in range(6)}
    first = {name: names[name] for name in reversed(names)}
    keep_small_pictures(tmp_path / "a", first)
    assert kept(tmp_path / "a") == [f"{number:016d}.webp" for number in range(3)]
    keep_small_pictures(tmp_path / "b", {name: names[name] for name in sorted(names)[2:]})
    keep_small_pictures(tmp_path / "b", first)
    assert kept(tmp_path / "b") == [f"{number:016d}.webp" for number in (2, 3, 4)]


def test_a_copy_that_is_cut_off_is_none(tmp_path, monkeypatch):
    """The process was interrupted while it wrote."""
    write = Path.write_bytes

    def interrupted(self, content):
        write(self, content[:5])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        keep_small_pictures(tmp_path, by_content(png()))
    assert kept(tmp_path) == []
