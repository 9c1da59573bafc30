"""Read pictures as a person sees them: upright, on white, in eight bits a channel, one frame.

The size comes from the header alone and is always that of the opened picture.
"""

import io
import stat
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from gpg_vl.errors import UnusableSampleError, one_line, shown
from gpg_vl.types import Size

MAX_IMAGE_PIXELS = 100_000_000
"""Number of pixels above which an image is an error, before it is decoded."""

Read = TypeVar("Read")

_ORIENTATION = 0x0112
"""Number of the EXIF tag that says how a camera was held."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the picture upright."""
_SIDEWAYS = {5, 6, 7, 8}
"""EXIF orientations that exchange width and height."""

_DEEP = {"I;16", "I;16L", "I;16B", "I;16N", "I", "F"}
"""Modes with more than eight bits; a plain conversion would make them white or black."""
_BITS = {"I": "more than 16 bits", "F": "floating-point numbers"}
_UNSIGNED, _SIGNED = 1, 2
"""Kinds of numbers in a TIFF file (tag 339)."""
_NO_DATA = 42113
"""Number of the TIFF tag that says which number stands for a missing one (GDAL)."""
_NO_NUMBER = 1e30
"""Size from which a floating-point number stands for a missing one."""
_TRANSPARENT = {"RGBA", "LA", "PA", "La", "RGBa"}
_NEARLY_BLACK = 32
"""Value of eight bits below which a picture is dark: 12 bits stored as 16 end at 16."""
_PNG_STEPS = {"L;2": 85, "L;4": 17}
"""Factor by which Pillow multiplies grey of 2 or 4 bits, but not its transparent grey."""

_NOT_PICTURES = {"EPS", "MPEG"}
"""Formats that Pillow knows by their header, but cannot decode without other programs."""
_CONVERT = "which Pillow cannot open here; convert it to PNG or JPEG"
_TIFF = (
    "it is a TIFF file of a kind that Pillow cannot open (numbers of 64 bits, many bands), or it "
    "is damaged; convert it to PNG"
)
_OTHER_CONTENT = (
    (0, b"version https://git-lfs", "it is a Git LFS pointer; fetch the picture: git lfs pull"),
    (4, b"ftyphei", f"it is a HEIC picture, {_CONVERT}"),
    (4, b"ftyphev", f"it is a HEIC picture, {_CONVERT}"),
    (4, b"ftypmif1", f"it is a HEIC or AVIF picture, {_CONVERT}"),
    (4, b"ftypmsf1", f"it is a HEIC or AVIF picture, {_CONVERT}"),
    (4, b"ftypavi", f"it is an AVIF picture, {_CONVERT}"),
    (0, b"\xff\x0a", f"it is a JPEG XL picture, {_CONVERT}"),
    (4, b"JXL ", f"it is a JPEG XL picture, {_CONVERT}"),
    (0, b"%PDF", f"it is a PDF document, {_CONVERT}"),
    (0, b"PK\x03\x04", "it is a zip archive; unpack it"),
    (0, b"\x1f\x8b", "it is compressed with gzip; unpack it"),
    (0, b"\x93NUMPY", "it is an array of NumPy; save it as a picture (PNG, TIFF)"),
    (128, b"DICM", f"it is a DICOM file, {_CONVERT}"),
    (0, b"v/1\x01", f"it is an OpenEXR picture, {_CONVERT}"),
    (0, b"#?RADIANCE", f"it is a Radiance HDR picture, {_CONVERT}"),
    (4, b"ftyp", "it is a video; save its frames as pictures"),
    (0, b"\x1aE\xdf\xa3", "it is a video; save its frames as pictures"),
    (0, b"II*\x00", _TIFF),
    (0, b"MM\x00*", _TIFF),
    (0, b"II+\x00", _TIFF),
    (0, b"\x89PNG", "it is a damaged PNG file; copy or download it again"),
)
"""Offset, bytes there, and what to say of a file that is no picture for Pillow."""
_OTHER_TEXT = (
    (b"<svg", f"it is an SVG drawing, {_CONVERT}"),
    (b"<?xml", f"it is XML, perhaps an SVG drawing, {_CONVERT}"),
    (b"<!doctype", "it is a web page; download the picture again"),
    (b"<html", "it is a web page; download the picture again"),
)
"""First words, in lower case, of a text that is no picture."""
_HEAD_BYTES = 160
_TEXT_MARGIN = b"\xef\xbb\xbf \t\r\n"
"""Byte order mark and blanks that may stand before a text."""


def picture_size(image: Path | bytes) -> Size:
    """Read width and height in pixels, as a person sees the picture, from its header.

    Raises:
        ValueError: missing, empty, unreadable, or larger than MAX_IMAGE_PIXELS.
    """
    width, height = _with_pillow(image, _upright_size)
    if width * height > MAX_IMAGE_PIXELS:
        raise ValueError(
            f"{_name(image)} cannot be used: {width} x {height} pixels, more than "
            f"{MAX_IMAGE_PIXELS:,}; shrink it"
        )
    if width * height < 1:
        raise ValueError(f"{_name(image)} cannot be read: it has {width} x {height} pixels")
    return width, height


def open_picture(image: Path | bytes) -> Image.Image:
    """Open a picture as a person sees it, as RGB of eight bits.

    It is turned upright by its EXIF orientation; transparent pixels are white; grey pictures of
    more than eight bits are scaled by their own range; of an animation or a file of several pages
    it is the first one.

    Raises:
        UnusableSampleError: the picture cannot be read.
    """
    try:
        size = picture_size(image)
        picture = _with_pillow(image, _upright_rgb)
    except ValueError as error:
        raise UnusableSampleError(str(error)) from None
    if picture.size != size:
        raise UnusableSampleError(
            f"{_name(image)} cannot be read: its header says {size[0]} x {size[1]} pixels, it has "
            f"{picture.size[0]} x {picture.size[1]}; convert it to PNG"
        )
    return picture


def peculiarities(image: Path | bytes) -> list[str]:
    """List what of a picture is not shown as it is stored, or looks like a mistake.

    Example:
        peculiarities(Path("depth.png")) == ["16 bits, shown by its own range of 0 to 4000"]

    Raises:
        UnusableSampleError: the picture cannot be read.
    """
    picture = open_picture(image)
    try:
        found = _with_pillow(image, _reduced)
    except ValueError as error:
        raise UnusableSampleError(str(error)) from None
    extrema = cast(tuple[tuple[int, int], ...], picture.getextrema())
    brightest = max(high for _, high in extrema)
    if all(low == high for low, high in extrema):
        found.append("all pixels have one colour")
    elif brightest < _NEARLY_BLACK:
        found.append(f"nearly black, no value is above {brightest} of 255")
    return found


def _name(image: Path | bytes) -> str:
    """Return the name of a picture in a sentence."""
    if isinstance(image, bytes):
        return "its bytes"
    path = shown(str(image))
    return "image " + path.strip("\"'")  # shown quotes it


def _with_pillow(image: Path | bytes, read: Callable[[Image.Image], Read]) -> Read:
    """Open a picture, not yet decoded, and read something of it.

    Raises:
        ValueError: the picture is missing or empty, or Pillow raised anything.
    """
    _check_content(image)
    source = io.BytesIO(image) if isinstance(image, bytes) else image
    try:
        with warnings.catch_warnings():
            # Pillow warns of every odd header, and of pictures that are large but allowed here
            warnings.filterwarnings("ignore", module="PIL")
            with Image.open(source) as opened:
                if isinstance(opened, ImageFile.StubImageFile) or opened.format in _NOT_PICTURES:
                    raise UnidentifiedImageError
                return read(opened)
    except Image.DecompressionBombError:
        raise ValueError(
            f"{_name(image)} cannot be used: more than {MAX_IMAGE_PIXELS:,} pixels; shrink it"
        ) from None
    except UnidentifiedImageError:
        raise ValueError(f"{_name(image)} cannot be read: {_other_content(image)}") from None
    except Exception as error:  # Pillow's decoders raise many kinds; all are about the picture
        why = one_line(error) or type(error).__name__
        raise ValueError(f"{_name(image)} cannot be read: {why}") from None


def _check_content(image: Path | bytes) -> None:
    """Check that there is a file with something in it, or bytes."""
    if isinstance(image, bytes):
        length = len(image)
    else:
        try:
            found = image.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(f"{_name(image)} does not exist") from None
        except (OSError, ValueError) as error:  # no permission, too long a name, a zero in it
            why = getattr(error, "strerror", None) or one_line(error)
            raise ValueError(f"{_name(image)} cannot be read: {why}") from None
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
            raise ValueError(f"{_name(image)} cannot be read: it is a folder or no regular file")
        length = found.st_size
    if not length:
        raise ValueError(f"{_name(image)} cannot be read: 0 bytes, it is empty")


def _other_content(image: Path | bytes) -> str:
    """Say what a file is that Pillow does not know."""
    if isinstance(image, bytes):
        head = image[:_HEAD_BYTES]
    else:
        with image.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    for offset, magic, advice in _OTHER_CONTENT:
        if head[offset:].startswith(magic):
            return advice
    words = head.lstrip(_TEXT_MARGIN).lower()
    for begin, advice in _OTHER_TEXT:
        if words.startswith(begin):
            return advice
    return f"it is no picture that Pillow knows, it begins with {head[:16]!r}"


def _upright_size(opened: Image.Image) -> Size:
    """Return width and height of an opened picture, turned upright."""
    if opened.format == "TIFF":
        # The only plugin that turns pictures itself while it decodes them; its `size` before that
        # depends on the version of Pillow, its tags do not.
        tags = cast(Any, opened).tag_v2
        width, height = int(tags[256]), int(tags[257])
    else:
        width, height = opened.size
    if _orientation(opened) in _SIDEWAYS:
        return height, width
    return width, height


def _orientation(opened: Image.Image) -> int:
    """Return the EXIF orientation of an opened picture, without decoding it; 1 = upright.

    An EXIF block that nobody can parse turns nothing, as in viewers of pictures.
    """
    try:
        if opened.format == "PNG" and "exif" not in opened.info:
            exif = _exif_behind_pixels(cast(ImageFile.ImageFile, opened))
            if exif is not None:
                opened.info["exif"] = exif
            # The PNG plugin's own `getexif` would decode the picture to look for such a block.
            return Image.Image.getexif(opened).get(_ORIENTATION, 1)
        return opened.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow parses EXIF and TIFF in many ways, and raises as many kinds
        return 1


def _exif_behind_pixels(opened: ImageFile.ImageFile) -> bytes | None:
    """Return the eXIf chunk of a PNG, by its chunks' headers: it may stand behind the pixels."""
    file = opened.fp
    if file is None:
        return None
    before = file.tell()
    try:
        file.seek(8)  # the signature
        while len(header := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", header)
            if kind == b"eXIf":
                return b"Exif\x00\x00" + file.read(length)
            file.seek(length + 4, io.SEEK_CUR)  # the content and its checksum
        return None
    finally:
        file.seek(before)


def _upright_rgb(opened: Image.Image) -> Image.Image:
    """Decode a picture as a person sees it."""
    turn = None
    if opened.format != "TIFF":  # turned by Pillow
        turn = _TURNS.get(_orientation(opened))
    clear = _transparent_colour(opened)
    opened.load()
    if opened.mode == "L" and _sample_format(opened) == _SIGNED:
        raise ValueError("its numbers are signed, of 8 bits, which Pillow reads wrongly; store 16")
    if opened.mode in _DEEP:
        picture = _eight_bits(opened, clear)
    elif opened.mode in _TRANSPARENT or clear is not None:
        picture = _on_white(opened, clear)
    else:
        picture = opened.convert("RGB")
    if turn is None:
        return picture
    return picture.transpose(turn)


def _transparent_colour(opened: Image.Image) -> Any:
    """Return the colour that is transparent, in the numbers of the decoded pixels; None = none.

    Pillow leaves that of a PNG as it is in the file, while it brings pixels to eight bits.
    """
    clear = opened.info.get("transparency")
    if clear is None or opened.format != "PNG":
        return clear
    tiles = cast(Any, opened).tile
    stored = tiles[0][3] if tiles else ""
    if stored in _PNG_STEPS:
        return clear * _PNG_STEPS[stored]
    if stored == "RGB;16B":
        return tuple(value >> 8 for value in clear)
    if opened.mode == "1":
        return 255 if clear else 0
    return clear


def _on_white(opened: Image.Image, clear: Any) -> Image.Image:
    """Put a picture on a white ground, as it appears on a page.

    A plain conversion to RGB would show the colours that are stored under transparent pixels.
    """
    if clear is not None:
        opened.info["transparency"] = clear
    if opened.mode == "La":  # premultiplied grey becomes RGBA in two steps only
        opened = opened.convert("LA")
    layer = opened.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _eight_bits(opened: Image.Image, clear: Any) -> Image.Image:
    """Scale a grey picture of more than eight bits by its own range; NaN is black."""
    values = _values(opened)
    low, high = _range(values)
    if low == high:  # one grey has no range; it is shown in that of 16 bits
        low, high = min(low, 0.0), max(high, 65535.0)
    scaled = np.clip((values - low) * (255 / (high - low)), 0, 255)
    if _white_is_zero(opened):
        scaled = 255 - scaled
    if isinstance(clear, int):
        scaled[values == clear] = 255
    grey = np.rint(np.nan_to_num(scaled, nan=0.0)).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _values(opened: Image.Image) -> NDArray[np.float64]:
    """Return the numbers of a grey picture; NaN where a file says that it has none.

    Maps of heights and depths mark missing numbers by one of their own, often the largest one.
    """
    stored = np.asarray(opened)
    if opened.mode == "I" and _sample_format(opened) == _UNSIGNED and _bits(opened) == 32:
        stored = stored.view(np.uint32)  # Pillow has only signed ones
    values = stored.astype(np.float64)
    values[np.isfinite(values) & (np.abs(values) >= _NO_NUMBER)] = np.nan
    if opened.format == "TIFF":
        missing = str(cast(Any, opened).tag_v2.get(_NO_DATA, "")).strip("\0 ")
        if missing:
            values[values == float(missing)] = np.nan
    return values


def _sample_format(opened: Image.Image) -> int:
    """Return the kind of numbers in a TIFF file; 0 = it is another file, or does not say."""
    return _first_tag(opened, 339)


def _bits(opened: Image.Image) -> int:
    """Return the bits of each number in a TIFF file."""
    return _first_tag(opened, 258)


def _first_tag(opened: Image.Image, tag: int) -> int:
    if opened.format != "TIFF":
        return 0
    value: Any = cast(Any, opened).tag_v2.get(tag, 0)
    if isinstance(value, tuple):
        return cast(tuple[int, ...], value)[0]
    return value


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the least and the largest finite number of a picture; without any both are 0."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 0.0
    return float(finite.min()), float(finite.max())


def _white_is_zero(opened: Image.Image) -> bool:
    """Return True for a TIFF file whose number 0 means white, as in X-rays."""
    return opened.format == "TIFF" and cast(Any, opened).tag_v2.get(262) == 0


def _reduced(opened: Image.Image) -> list[str]:
    """List what of a picture is lost when it is shown in eight bits and one frame."""
    found: list[str] = []
    if opened.mode in _DEEP:
        low, high = _range(_values(opened))
        bits = _BITS.get(opened.mode, "16 bits")
        found.append(f"{bits}, shown by its own range of {low:g} to {high:g}")
    try:
        frames = int(getattr(opened, "n_frames", 1))
    except Exception as error:  # as above; the first frame was read before
        why = one_line(error) or type(error).__name__
        found.append(f"frames after the first cannot be read: {why}; only the first is shown")
    else:
        if frames > 1:
            found.append(f"{frames} frames, only the first is shown")
    return found
