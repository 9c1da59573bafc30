"""Pictures as a person sees them: upright, on white, in eight bits, one frame, and never a size
that is not that of the opened picture."""

import io
import os
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from gpg_vl import pictures
from gpg_vl.errors import UnusableSampleError
from gpg_vl.pictures import open_picture, peculiarities, picture_size
from tests.hand_made import encoded, png

RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def pixels(content: Path | bytes) -> list[Any]:
    picture = open_picture(content)
    assert picture.mode == "RGB"
    width, height = picture.size
    return [picture.getpixel((x, y)) for y in range(height) for x in range(width)]


def noise(size: tuple[int, int] = (30, 20)) -> Image.Image:
    width, height = size
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png_of(
    depth: int, colour_type: int, size: tuple[int, int], rows: list[bytes], *chunks: bytes
) -> bytes:
    """A PNG by hand: bit depth, colour type, the bytes of its rows, chunks before them."""
    header = struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + b"".join(chunks) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# --- upright --------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "MPO"])
def test_the_size_is_that_of_the_upright_picture(kind, orientation, tmp_path):
    content = encoded(noise(), kind, exif=turned(orientation))
    (tmp_path / "it").write_bytes(content)
    with Image.open(io.BytesIO(content)) as raw:
        upright = ImageOps.exif_transpose(raw).convert("RGB")
    for source in (content, tmp_path / "it"):
        shown = open_picture(source)
        assert shown.size == picture_size(source) == upright.size
        assert shown.tobytes() == upright.tobytes()
    assert upright.size == ((20, 30) if orientation > 4 else (30, 20))


def test_a_phone_held_sideways_shows_its_left_side_on_top():
    # 6 = the camera's top is on the right of the stored picture, so a quarter turn clockwise
    stored = Image.new("RGB", (2, 1))
    stored.putpixel((0, 0), RED)
    stored.putpixel((1, 0), BLUE)
    content = encoded(stored, exif=turned(6))
    assert picture_size(content) == (1, 2)
    assert pixels(content) == [RED, BLUE]
    assert open_picture(encoded(stored, exif=turned(8))).getpixel((0, 0)) == BLUE


def test_an_orientation_behind_the_pixels_counts_as_well():
    plain, before = encoded(noise()), encoded(noise(), exif=turned(6))
    block = turned(6).tobytes().removeprefix(b"Exif\0\0")
    behind = plain[:-12] + chunk(b"eXIf", block) + plain[-12:]
    assert behind.index(b"eXIf") > behind.index(b"IDAT")
    assert picture_size(behind) == picture_size(before) == (20, 30)
    assert open_picture(behind).tobytes() == open_picture(before).tobytes()


def test_the_size_of_a_png_is_read_without_decoding_it(monkeypatch):
    content = encoded(noise())
    cut = content[: content.index(b"IDAT") + 20]  # no pixels to be decoded
    assert picture_size(cut) == (30, 20)
    with pytest.raises(UnusableSampleError, match=r"^its bytes cannot be read: "):
        open_picture(cut)


def test_an_exif_block_that_cannot_be_parsed_turns_nothing():
    content = encoded(noise(), "JPEG", exif=b"Exif\0\0XX*\0garbage")
    assert open_picture(content).size == picture_size(content) == (30, 20)


# --- transparency ---------------------------------------------------------------------------------


def test_transparency_of_every_kind_is_white():
    clear = {"RGBA": (255, 0, 0, 0), "LA": (0, 0)}
    for mode, colour in clear.items():
        assert pixels(png((1, 1), colour, mode)) == [WHITE]
        for kind in ("TIFF", "WEBP"):
            file = encoded(Image.new(mode, (1, 1), colour), kind, lossless=True)
            assert pixels(file) == [WHITE], (mode, kind)
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        assert pixels(encoded(palette, kind, transparency=0)) == [WHITE, BLUE]
    assert pixels(encoded(palette, transparency=bytes([51, 255]))) == [(255, 204, 204), BLUE]


@pytest.mark.parametrize("mode", ["LA", "PA", "La", "RGBa", "RGBA"])
def test_half_of_black_is_grey_in_every_mode_with_an_alpha_channel(mode, monkeypatch):
    solid = Image.new("LA" if mode in {"LA", "La"} else "RGBA", (1, 1))
    solid.putalpha(51)
    picture = solid.convert("P").convert("PA") if mode == "PA" else solid.convert(mode)
    if mode == "PA":
        picture.putalpha(51)
    assert picture.mode == mode
    shown = pictures._upright_rgb(picture)
    assert (shown.mode, shown.getpixel((0, 0))) == ("RGB", (204, 204, 204))


@pytest.mark.parametrize(
    ("depth", "colour_type", "row", "clear", "shown"),
    [
        (8, 0, bytes([0, 9]), (9,), [BLACK, WHITE]),
        (8, 0, bytes([0, 9]), (8,), [BLACK, (9, 9, 9)]),
        (1, 0, bytes([0b01000000]), (0,), [WHITE, WHITE]),
        (1, 0, bytes([0b00000000]), (1,), [BLACK, BLACK]),
        (2, 0, bytes([0b00100000]), (2,), [BLACK, WHITE]),  # 2 of 0..3, in eight bits 170
        (4, 0, bytes([0x07]), (7,), [BLACK, WHITE]),  # 7 of 0..15, in eight bits 119
        (8, 2, bytes([255, 0, 0, 0, 0, 255]), (255, 0, 0), [WHITE, BLUE]),
        (16, 2, bytes([255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255]), (65535, 0, 0), [WHITE, BLUE]),
        (16, 0, bytes([0, 0, 15, 160]), (0,), [WHITE, WHITE]),  # 4000 is the largest: white
        (16, 0, bytes([0, 0, 15, 160]), (4000,), [BLACK, WHITE]),
    ],
)
def test_one_transparent_colour_of_a_png_is_white(depth, colour_type, row, clear, shown):
    mark = chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear))
    assert pixels(png_of(depth, colour_type, (2, 1), [row], mark)) == shown


# --- depth ----------------------------------------------------------------------------------------


def grey(values: list[float], kind: Any) -> Image.Image:
    return Image.fromarray(np.array([values], dtype=kind))


@pytest.mark.parametrize(
    ("values", "kind", "file", "shown"),
    [
        ([0, 1000, 4000], np.uint16, "PNG", [0, 64, 255]),  # 255 / 4 is 63.75
        ([0, 1000, 4000], np.uint16, "TIFF", [0, 64, 255]),
        ([1000, 2000, 3000], np.uint16, "PNG", [0, 128, 255]),  # 127.5 rounds to even
        ([-2, 0, 2], np.int32, "TIFF", [0, 128, 255]),
        ([2_000_000_000, 2_000_000_051, 2_000_000_255], np.int32, "TIFF", [0, 51, 255]),
        ([0.0, 0.2, 1.0], np.float32, "TIFF", [0, 51, 255]),
        ([np.nan, 0.0, 0.2, 1.0], np.float32, "TIFF", [0, 0, 51, 255]),
        ([np.inf, -np.inf, 0.0, 0.2, 1.0], np.float32, "TIFF", [255, 0, 0, 51, 255]),
        ([np.nan, np.nan], np.float32, "TIFF", [0, 0]),
        ([-3.4028235e38, 0.0, 0.2, 1.0], np.float32, "TIFF", [0, 0, 51, 255]),  # missing in a map
        ([65535, 65535], np.uint16, "PNG", [255, 255]),  # all white
        ([0, 0], np.uint16, "PNG", [0, 0]),
        ([257, 257], np.uint16, "PNG", [1, 1]),
        ([0.0, 0.0], np.float32, "TIFF", [0, 0]),
    ],
)
def test_grey_of_more_than_eight_bits_is_scaled_by_its_own_range(values, kind, file, shown):
    assert pixels(encoded(grey(values, kind), file)) == [(value,) * 3 for value in shown]


@pytest.mark.parametrize("order", ["I;16", "I;16L", "I;16B"])
def test_either_order_of_bytes_is_read(order):
    data = np.array([0, 1000, 4000], dtype=">u2" if order.endswith("B") else "<u2").tobytes()
    picture = Image.frombytes(order, (3, 1), data)
    shown = pictures._upright_rgb(picture)
    assert [shown.getpixel((x, 0)) for x in range(3)] == [BLACK, (64, 64, 64), WHITE]


def test_numbers_that_mean_white_at_zero_are_turned_round():
    content = encoded(grey([0, 3000, 4000], np.uint16), "TIFF", tiffinfo={262: 0})
    assert pixels(content) == [WHITE, (64, 64, 64), BLACK]


def test_a_missing_number_of_a_map_is_not_of_its_range():
    content = encoded(grey([-9999, 0, 1000], np.int32), "TIFF", tiffinfo={42113: "-9999"})
    assert pixels(content) == [BLACK, BLACK, WHITE]


def test_whole_numbers_without_a_sign_are_not_read_as_negative_ones():
    content = encoded(grey([0, 0x7FFFFFFF, -1], np.int32), "TIFF")
    signed, unsigned = (struct.pack("<HHIHH", 339, 3, 1, kind, 0) for kind in (2, 1))
    assert content.count(signed) == 1
    content = content.replace(signed, unsigned)
    assert pixels(content) == [BLACK, (127, 127, 127), WHITE]  # -1 is 0xFFFFFFFF


def test_eight_bits_with_a_sign_are_refused():
    content = encoded(Image.new("L", (1, 1), 200), "TIFF", tiffinfo={339: 2})
    with pytest.raises(UnusableSampleError, match="its numbers are signed"):
        open_picture(content)


def test_an_orientation_in_xmp_alone_counts_in_a_tiff_too():
    content = encoded(noise(), "TIFF", tiffinfo={700: b'<x tiff:Orientation="6"/>'})
    assert picture_size(content) == open_picture(content).size == (20, 30)


def test_print_colours_and_bits_become_rgb():
    assert pixels(encoded(Image.new("CMYK", (1, 1), (0, 0, 0, 0)), "TIFF")) == [WHITE]
    assert pixels(encoded(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF")) == [RED]
    assert pixels(png((2, 1), 1, "1")) == [WHITE, WHITE]


def test_a_deep_picture_is_turned_upright_too():
    content = encoded(grey([0, 4000], np.uint16), exif=turned(6))
    assert (picture_size(content), pixels(content)) == ((1, 2), [BLACK, WHITE])


# --- several frames, and what is odd --------------------------------------------------------------

RED_THEN_BLUE = {"save_all": True, "append_images": [Image.new("RGB", (4, 4), BLUE)] * 2}


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP", "MPO"])
def test_the_first_frame_is_shown_and_the_others_are_counted(kind):
    options = {} if kind in {"TIFF", "MPO"} else {"duration": 100}
    file = encoded(Image.new("RGB", (4, 4), RED), kind, **RED_THEN_BLUE, **options)
    red, _, blue = open_picture(file).getpixel((0, 0))
    assert red > 250
    assert blue < 5
    found = peculiarities(file)
    assert found[-1] == "all pixels have one colour"
    assert len(found) == 2
    assert found[0].endswith(" frames, only the first is shown")
    if kind in {"TIFF", "MPO"}:
        assert found[0].startswith("3 ")  # the others may leave out a frame that repeats


def test_the_audit_is_told_of_depth_and_of_one_colour():
    assert peculiarities(encoded(noise())) == []
    assert peculiarities(png()) == ["all pixels have one colour"]
    assert peculiarities(encoded(grey([0, 7, 4000], np.uint16))) == [
        "16 bits, shown by its own range of 0 to 4000"
    ]
    assert peculiarities(encoded(grey([0, 0.5], np.float32), "TIFF")) == [
        "floating-point numbers, shown by its own range of 0 to 0.5"
    ]
    assert peculiarities(encoded(grey([-1, 9], np.int32), "TIFF")) == [
        "more than 16 bits, shown by its own range of -1 to 9"
    ]
    with pytest.raises(UnusableSampleError, match="it is empty"):
        peculiarities(b"")


def test_the_audit_is_told_of_twelve_bits_stored_as_sixteen():
    dark = png((2, 1), (15, 15, 15))
    picture = Image.new("RGB", (2, 1), (15, 3, 0))
    picture.putpixel((0, 0), (0, 0, 0))
    assert peculiarities(encoded(picture)) == ["nearly black, no value is above 15 of 255"]
    assert peculiarities(dark) == ["all pixels have one colour"]
    picture.putpixel((0, 0), (0, 32, 0))
    assert peculiarities(encoded(picture)) == []


def test_frames_that_cannot_be_read_are_said():
    file = encoded(noise(), "GIF", save_all=True, append_images=[noise().rotate(90)])
    broken = file[: file.rindex(b"\x2c")] + b"\x21\xf9"
    assert open_picture(broken).size == (30, 20)
    assert isinstance(peculiarities(broken), list)


# --- what cannot be read --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes, it is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "it is a Git LFS pointer; fetch the picture: git lfs pull",
        ),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC picture.*convert it to PNG or JPEG"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC or AVIF picture.*convert it"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG drawing"),
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (b"\xef\xbb\xbf\n<HTML>", "it is a web page"),
        (b"\0" * 128 + b"DICM", "DICOM file"),
        (b"II*\0" + b"\0" * 20, "TIFF file of a kind that Pillow cannot open"),
        (b"\0\0\0\x18ftypmp42", "it is a video"),
        (b"%PDF-1.7", "PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "no picture that"),
        (b"hello", r"it is no picture that Pillow knows, it begins with b'hello'"),
    ],
)
def test_what_is_no_picture_is_named(content, words, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    for read, error in ((picture_size, ValueError), (open_picture, UnusableSampleError)):
        with pytest.raises(error, match=rf"^its bytes cannot be read: .*{words}"):
            read(content)
        with pytest.raises(error, match=rf"a\.png cannot be read: .*{words}"):
            read(tmp_path / "a.png")


def test_what_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path / "gone.png", "gone.png does not exist"),
        (tmp_path / "pipe" / "a.png", "a.png does not exist"),
        (tmp_path, "it is a folder or no regular file"),
        (tmp_path / "pipe", "it is a folder or no regular file"),
        (tmp_path / ("a" * 5000), "File name too long"),
        (Path("a\0b"), "embedded null"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            picture_size(path)
        assert len(str(caught.value)) < 700


def test_a_picture_of_too_many_pixels_is_not_decoded():
    for size in ((10_001, 10_000), (20_000, 20_000)):
        with pytest.raises(ValueError, match=r"^its bytes cannot be used: .*100,000,000"):
            picture_size(png_of(1, 0, size, []))
        with pytest.raises(UnusableSampleError, match="shrink it"):
            open_picture(png_of(1, 0, size, []))
    assert picture_size(png_of(1, 0, (10_000, 10_000), [])) == (10_000, 10_000)


def test_whatever_the_bytes_are_the_picture_is_usable_or_is_named():
    generator = random.Random(0)
    files = [encoded(noise((9, 7)), kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "ICO")]
    usable, messages = 0, list[str]()
    for _ in range(600):
        content = bytearray(generator.choice(files))
        for _ in range(generator.choice((1, 3, 9))):
            content[generator.randrange(len(content))] = generator.randrange(256)
        content = bytes(content[: generator.choice((20, len(content), len(content)))])
        try:
            picture = open_picture(content)
        except UnusableSampleError as error:
            messages.append(str(error))
        else:
            usable += 1
            assert picture.size == picture_size(content)
            assert isinstance(peculiarities(content), list)
    assert usable > 100
    assert messages
    assert max(map(len, messages)) < 700


def test_a_decoder_that_contradicts_the_header_is_refused(monkeypatch):
    monkeypatch.setattr(pictures, "_upright_rgb", lambda opened: Image.new("RGB", (8, 8)))
    with pytest.raises(UnusableSampleError, match="its header says 16 x 16 pixels, it has 8 x 8"):
        open_picture(png((16, 16)))
