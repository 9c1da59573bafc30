"""The pictures of one cell, in every form that published sets use, and where a path may lead."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gpg_vl.data.columns.picture_cells import is_url, pictures_of, resolve
from gpg_vl.pictures import open_picture, picture_size
from tests.hand_made import encoded, png

PNG = png((9, 5))
TEXT = base64.b64encode(PNG).decode()
FORMATS = {
    kind: encoded(Image.new("RGB", (9, 5), "red"), kind)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "JPEG2000", "MPO")
}


# --- what is no picture ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell",
    [
        None,
        float("nan"),
        np.float32("nan"),
        np.float64("nan"),
        "",
        "  \n",
        [],
        (),
        "[]",
        [None],
        ["", None],
        '["", null]',
        [[], [None]],
        np.array([], dtype=object),
        {"bytes": None, "path": None},
        {"bytes": None, "path": ""},
        [{"bytes": None, "path": None}],
        {"type": "image", "image": None},
    ],
    ids=repr,
)
def test_an_empty_cell_has_no_picture(cell):
    assert pictures_of(cell) == []


# --- paths, addresses, bytes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("a.png", ["a.png"]),
        (" a.png\n", ["a.png"]),
        ("/data/a b.png", ["/data/a b.png"]),
        (Path("a.png"), [Path("a.png")]),
        ("images\\a.png", ["images\\a.png"]),
        ("(1).png", ["(1).png"]),
        ("[1] a.png", ["[1] a.png"]),
        ("{a}.png", ["{a}.png"]),
        ("b'a'.png", ["b'a'.png"]),
        ("database.png", ["database.png"]),
        ("/9j/4AAQ.jpg", ["/9j/4AAQ.jpg"]),  # begins as the base64 of a JPEG does
        ("a" * 40, ["a" * 40]),  # an id that could be base64, but of no picture
        ("Qk" + "a" * 62, ["Qk" + "a" * 62]),  # begins with the two letters of a BMP
        ("https://example.com/a.png", ["https://example.com/a.png"]),
        (["a.png", "b.png"], ["a.png", "b.png"]),
        (("a.png", Path("b.png")), ["a.png", Path("b.png")]),
        ([["a.png"], ["b.png", ["c.png"]]], ["a.png", "b.png", "c.png"]),
        (["a.png", None, ""], ["a.png"]),  # a table for three pictures, filled up
        (np.array(["a.png", "b.png"]), ["a.png", "b.png"]),
        (np.array(["a.png", PNG], dtype=object), ["a.png", PNG]),
        (np.array("a.png"), ["a.png"]),
        (np.str_("a.png"), ["a.png"]),
        (PNG, [PNG]),
        (bytearray(PNG), [PNG]),
        (memoryview(PNG), [PNG]),
        (np.bytes_(PNG), [PNG]),
        (list(PNG), [PNG]),
        (np.frombuffer(PNG, dtype=np.uint8), [PNG]),
        ([list(PNG), "a.png"], [PNG, "a.png"]),
        ([PNG, "a.png"], [PNG, "a.png"]),
        (b"not a picture", [b"not a picture"]),  # said when its size is read
    ],
)
def test_paths_addresses_and_bytes(cell, found):
    assert pictures_of(cell) == found


def test_text_that_writes_a_list_is_that_list():
    for text in (
        '["a.png", "b.png"]',
        "['a.png', 'b.png']",
        "('a.png', 'b.png')",
        "['a.png' 'b.png']",  # NumPy writes no comma
        "['a.png'\n 'b.png']",
        "[['a.png'], ['b.png']]",
        "[{'bytes': None, 'path': 'a.png'}, {'bytes': None, 'path': 'b.png'}]",
        '[{"url": "a.png"}, {"url": "b.png"}]',
        "['a.png', 'b.png', None]",
    ):
        assert pictures_of(text) == ["a.png", "b.png"], text
    assert pictures_of("{'bytes': None, 'path': 'a.png'}") == ["a.png"]
    assert pictures_of(repr(PNG)) == [PNG]
    assert pictures_of(repr({"bytes": PNG, "path": "a.png"})) == [PNG]
    assert pictures_of(json.dumps([TEXT])) == [PNG]


def test_text_that_names_several_pictures_between_signs_is_these():
    for text in ("a.png;b.JPG", "a.png, b.JPG", "a.png | b.JPG", "a.png\nb.JPG"):
        assert pictures_of(text) == ["a.png", "b.JPG"], text
    both = ["https://example.com/a.png", "https://example.com/b.png"]
    assert pictures_of(",".join(both)) == both
    for one in (
        "Smith, J.png",
        "a;b.png",
        "a.png;",
        "https://example.com/a.png,b.png",
        "https://example.com/a;b.png",
    ):
        assert pictures_of(one) == [one]


# --- base64 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_base64_of_every_format_is_its_bytes(kind):
    content = FORMATS[kind]
    text = base64.b64encode(content).decode()
    mime = "image/" + kind.lower()
    for cell in (
        text,
        text.rstrip("="),
        base64.urlsafe_b64encode(content).decode(),
        base64.encodebytes(content).decode(),  # lines of 76
        "\n".join(text[start : start + 4] for start in range(0, len(text), 4)),
        f"data:{mime};base64,{text}",
        f"DATA:{mime};charset=utf-8;base64,{text}",
        f"data:;base64,{text}",
        f"data:{mime};base64,{text.replace('+', '%2B').replace('/', '%2F')}",
        text.encode(),
        f"data:{mime};base64,{text}".encode(),
        repr(text.encode()),  # str() of the bytes of b64encode
    ):
        assert pictures_of(cell) == [content]
    assert picture_size(content) == (9, 5)


@pytest.mark.parametrize(
    "begin", ["image/png;base64,", "base64,", "base64://", "IMAGE/X-PNG;base64,"]
)
def test_a_data_address_may_lack_its_first_word(begin):
    content = png((8, 8), "red")
    assert pictures_of(begin + base64.b64encode(content).decode()) == [content]
    with pytest.raises(ValueError, match="not the base64 of a picture"):
        pictures_of(begin + "hello")


def test_a_path_in_quotation_marks_is_that_path():
    assert pictures_of('"a.png"') == pictures_of("'a.png'") == ["a.png"]
    assert pictures_of("'it's a.png'") == ["'it's a.png'"]


def test_paths_as_python_shows_them_are_these():
    assert pictures_of("PosixPath('a.png')") == ["a.png"]
    assert pictures_of("[PosixPath('a.png'), WindowsPath('b/c.png')]") == ["a.png", "b/c.png"]
    assert pictures_of("\ufeffa.png\u200b") == ["a.png"]


def test_base64_as_python_shows_its_bytes_is_these():
    shown = str(base64.b64encode(PNG))
    lines = base64.encodebytes(FORMATS["JPEG"]).decode().replace("\n", "\\n")
    assert pictures_of(f"data:image/png;base64,{shown}") == [PNG]
    assert pictures_of({"base64": shown}) == [PNG]
    assert pictures_of(lines) == [FORMATS["JPEG"]]


def test_a_data_address_may_be_written_in_percent():
    written = "".join(f"%{byte:02x}" for byte in PNG)
    assert pictures_of("data:image/png," + written) == [PNG]


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (TEXT[:-30] + "!!" + TEXT[-28:], "is not the base64 of a picture"),
        (TEXT[: len(TEXT) // 4 * 4 - 3], "was it cut short"),  # a lonely sign at the end
        ({"base64": "a.png"}, "under base64, which is not the base64 of a picture"),
        ({"bytes": "a.png"}, "under bytes"),
        ("data:image/png;base64,aGVsbG8=", "under data:image/png;base64, which is not the base64"),
        ("data:image/svg+xml;base64,PHN2Zy8+", r"under data:image/svg\+xml;base64, which is not"),
        ("data:image/png;base64", "expected data:image/png;base64,"),
        ("data:text/plain,hello", "holds no picture"),
    ],
)
def test_base64_of_nothing_is_refused(cell, words):
    with pytest.raises(ValueError, match=words) as caught:
        pictures_of(cell)
    assert len(str(caught.value)) < 700


# --- mappings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ({"bytes": PNG, "path": "a.png"}, [PNG]),
        ({"bytes": PNG, "path": None}, [PNG]),
        ({"bytes": PNG}, [PNG]),
        ({"bytes": None, "path": "a.png"}, ["a.png"]),
        ({"bytes": b"", "path": "a.png"}, ["a.png"]),
        ({"bytes": b"", "path": None}, [b""]),  # an empty file, not a question without a picture
        ({"path": "a.png"}, ["a.png"]),
        ({"bytes": TEXT, "path": None}, [PNG]),
        ({"bytes": list(PNG), "path": None}, [PNG]),
        ({"base64": TEXT}, [PNG]),
        ({"b64": f"data:image/png;base64,{TEXT}"}, [PNG]),
        ({"image": "a.png", "id": 7}, ["a.png"]),
        ({"image": {"bytes": PNG, "path": "a.png"}}, [PNG]),
        ({"url": "https://example.com/a.png"}, ["https://example.com/a.png"]),
        ({"src": "a.png"}, ["a.png"]),
        ({"filename": "a.png", "width": 9}, ["a.png"]),
        ({"file_name": "a.png", "url": "https://example.com/a.png"}, ["a.png"]),
        ({"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}}, ["a.png"]),
        ({"type": "image_url", "image_url": "a.png"}, ["a.png"]),
        ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{TEXT}"}}, [PNG]),
        ({"type": "image", "source": {"type": "base64", "data": TEXT}}, [PNG]),
        ({"image": "a.png", "source": "coco"}, ["a.png"]),
        ([{"path": "a.png"}, {"bytes": PNG}], ["a.png", PNG]),
        (np.array([{"path": "a.png"}], dtype=object), ["a.png"]),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_a_mapping_holds_or_names_a_picture(cell, found):
    assert pictures_of(cell) == found


# --- decoded pictures -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_a_decoded_picture_is_written_without_loss(mode):
    generator = np.random.default_rng(0)
    values = generator.integers(0, 256, (5, 9, 4), dtype=np.uint8)
    if mode in {"I;16", "I", "F"}:
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        picture = Image.fromarray((generator.random((5, 9)) * 70_000).astype(kind))
    else:
        picture = Image.fromarray(values, "RGBA" if mode != "CMYK" else "CMYK").convert(mode)
    (content,) = pictures_of(picture)
    assert isinstance(content, bytes)
    with Image.open(io.BytesIO(content)) as back:
        assert (back.mode, back.size) == (mode, (9, 5))
        assert back.tobytes() == picture.tobytes()


@pytest.mark.parametrize(("mode", "colour"), [("HSV", (0, 255, 255)), ("RGBa", (255, 0, 0, 255))])
def test_a_mode_that_no_file_has_is_written_as_what_it_shows(mode, colour):
    (content,) = pictures_of(Image.new(mode, (1, 1), colour))
    assert isinstance(content, bytes)
    assert open_picture(content).getpixel((0, 0)) == (255, 0, 0)


def test_a_decoded_picture_is_written_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.new("RGB", (9, 5), "blue")
    stored.putpixel((0, 4), (255, 0, 0))  # bottom left; a quarter turn brings it to the top left
    with Image.open(io.BytesIO(encoded(stored, exif=exif))) as decoded:
        (content,) = pictures_of([decoded])
    assert isinstance(content, bytes)
    assert picture_size(content) == (5, 9)
    assert open_picture(content).getpixel((0, 0)) == (255, 0, 0)


def test_a_palette_keeps_its_transparent_colour():
    picture = Image.new("P", (1, 1))
    picture.putpalette([255, 0, 0])
    picture.info["transparency"] = 0
    (content,) = pictures_of(picture)
    assert isinstance(content, bytes)
    assert open_picture(content).getpixel((0, 0)) == (255, 255, 255)


def test_a_picture_that_pillow_cannot_decode_is_refused():
    cut = encoded(Image.effect_noise((64, 64), 90))
    with (
        Image.open(io.BytesIO(cut[:200])) as broken,
        pytest.raises(ValueError, match="the picture cannot be decoded"),
    ):
        pictures_of(broken)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (7, "the picture is 7 of type int; expected a path"),
        (True, "of type bool"),
        (1.5, "of type float"),
        ({"a.png"}, "of type set"),
        ({}, "expected one of the keys bytes"),
        ({"type": "text", "text": "How many?"}, "expected one of the keys"),
        ([1, 2, 3], "a list of numbers, .*not the bytes of a picture"),
        ([*list(PNG), 256], "not the bytes of a picture"),
        ("[1, 2]", "a list of numbers"),
        (np.zeros((4, 4, 3), np.uint8), r"an array of numbers of shape \(4, 4, 3\)"),
        (np.zeros(4), "an array of numbers of shape"),
        ("[a.png, b.png]", "no list of JSON or Python"),
        ("<PIL.Image.Image image mode=RGB size=9x5 at 0x7F>", "the picture itself was not saved"),
        ("X4LC" * 2000, "too long for a path and not the base64 of a picture"),
        (["a.png", None, "b.png"], "picture 2 of 3 is missing"),
        ([None, "a.png"], "picture 1 of 2 is missing"),
        ("[" * 100_000, "too many lists"),
        ("[" * 5000 + "]" * 5000, "too many lists"),
        ({"image": object()}, "of type object"),
        ({"x" * 10_000: "y" * 10_000}, "expected one of the keys"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_anything_else_is_refused_with_a_short_sentence(cell: Any, words):
    with pytest.raises(ValueError, match=words) as caught:
        pictures_of(cell)
    assert len(str(caught.value)) < 900


# --- where a path may lead ------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for name in ("a.png", "images/a b.png", "images/b.png"):
        (folder / name).write_bytes(PNG)
    (tmp_path / "outside.png").write_bytes(PNG)
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "inner.png").symlink_to(folder / "a.png")
    return folder


def test_a_path_is_found_below_its_root(root):
    for written, found in {
        "a.png": "a.png",
        "./images/../a.png": "a.png",
        "inner.png": "a.png",
        "images/b.png": "images/b.png",
        "images\\b.png": "images/b.png",
        ".\\images\\b.png": "images/b.png",
        "gone.png": "gone.png",
        str(root / "a.png"): "a.png",
        f"file://{root}/a.png": "a.png",
        f"file://localhost{root}/images/a%20b.png": "images/a b.png",
        "file://images/b.png": "images/b.png",
        "FILE://images\\b.png": "images/b.png",
    }.items():
        assert resolve(written, root) == (root / found).resolve(), written
    assert resolve(Path("a.png"), root) == (root / "a.png").resolve()


def test_a_name_is_found_in_another_spelling(root):
    (root / "a b.png").write_bytes(b"")
    (root / "e\u0301.png").write_bytes(b"")  # as macOS writes it
    assert resolve("a%20b.png", root).name == "a b.png"
    assert resolve("\u00e9.png", root).name == "e\u0301.png"
    assert resolve(f"file:{root}/a.png", root) == (root / "a.png").resolve()
    (root / "a%20b.png").write_bytes(b"")
    assert resolve("a%20b.png", root).name == "a%20b.png"
    assert resolve("gone%20.png", root).name == "gone%20.png"


@pytest.mark.parametrize("written", ["C:\\data\\a.png", "d:/data/a.png"])
def test_a_drive_of_windows_is_refused_unless_there_is_such_a_name(written, root):
    with pytest.raises(ValueError, match=r"drive of Windows.*set image_root"):
        resolve(written, root)
    (root / "d:" / "data").mkdir(parents=True)
    (root / "d:" / "data" / "a.png").write_bytes(b"")
    assert resolve("d:/data/a.png", root).name == "a.png"


def test_a_name_with_a_backslash_is_taken_where_it_exists(root):
    (root / "images\\b.png").write_bytes(b"")
    assert resolve("images\\b.png", root).name == "images\\b.png"
    assert resolve("gone\\b.png", root).name == "gone\\b.png"


@pytest.mark.parametrize(
    "written",
    [
        "../outside.png",
        "..\\outside.png",
        "images/../../outside.png",
        "link.png",
        "/etc/passwd",
        "file:///etc/passwd",
        "file://../outside.png",
        "file://%2e%2e/outside.png",
    ],
)
def test_a_path_never_leaves_its_root(written, root):
    with pytest.raises(ValueError, match=r"leaves the data folder .*image_root: FOLDER"):
        resolve(written, root)


def test_a_snapshot_in_the_cache_of_the_hub_is_links_into_its_blobs(tmp_path):
    """As `snapshot_download` leaves a data set."""
    blobs, snapshot = tmp_path / "datasets--x--y" / "blobs", tmp_path / "datasets--x--y/snapshots/1"
    (snapshot / "images").mkdir(parents=True)
    blobs.mkdir()
    (blobs / "7f3a").write_bytes(PNG)
    (snapshot / "images" / "a.png").symlink_to("../../../blobs/7f3a")
    (tmp_path / "outside.png").write_bytes(PNG)
    (snapshot / "b.png").symlink_to(tmp_path / "outside.png")
    for root, name in ((snapshot, "images/a.png"), (snapshot / "images", "a.png")):
        assert resolve(name, root) == blobs / "7f3a"
    with pytest.raises(ValueError, match="leaves the data folder"):
        resolve("b.png", snapshot)
    with pytest.raises(ValueError, match="leaves the data folder"):
        resolve("../2/a.png", snapshot)


def test_without_a_root_a_path_is_used_as_it_is(root, monkeypatch):
    monkeypatch.chdir(root)
    assert resolve("../outside.png", None) == Path("../outside.png")
    assert resolve("images\\b.png", None) == Path("images/b.png")
    assert resolve("file:///etc/passwd", None) == Path("/etc/passwd")


def test_an_address_and_what_is_no_path_are_refused(root):
    (root / "circle").symlink_to(root / "circle")
    for written, words in (
        ("https://example.com/a.png", "image_hosts"),
        ("s3://bucket/a.png", "download the pictures first"),
        ("a\0b", "is no path"),
        ("circle", "is no path"),
    ):
        with pytest.raises(ValueError, match=words):
            resolve(written, root)
    assert resolve("a\\" * 3000, root)  # too long a name: its size says so
    assert is_url("HTTP://example.com/a.png")
    assert not is_url("http.png")
    assert not is_url(b"http://example.com")
