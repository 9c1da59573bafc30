"""Draw pictures with one filled rectangle of a known colour at known edges, and ask for its box.

The row that asks is in one frame and box format, the answer in the frame of a model: both become
pixels by the package's own code, so that a page can be held against the picture itself.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image, ImageDraw

from gpg_vl.boxes import Box, Frame
from gpg_vl.config.schema import Source
from gpg_vl.data import rows
from gpg_vl.types import Corners, Sample, Size

TRUE_COLOUR = (0, 160, 80)
"""Colour of the rectangle that is asked for."""
ANSWERED_COLOUR = (200, 60, 200)
"""Colour of the rectangle that the answer names."""
GREY = (235, 235, 235)
RESIZED = Frame(kind="resized", max_pixels=28 * 28 * 64)
"""Frame of a model whose processor makes the pictures of these scenes smaller."""
FRAMES = {"pixels": Frame(), "norm1": Frame(kind="norm1"), "norm1000": Frame(kind="norm1000")}
SIDEWAYS = 6
"""EXIF orientation of a camera that was held upright: the file lies on its side."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A drawn picture, the question about it, and the answer of a model.

    Example:
        Scene(name="norm1000-xywh", sample=Sample(...), size=(320, 240), true=(40, 56, 136, 160),
              answered=(200, 24, 280, 96), model_frame=Frame(kind="norm1000"), text="<answer>...")
    """

    name: str
    sample: Sample
    size: Size
    """Width and height of the picture in pixels, upright."""
    true: Corners
    """Edges of the rectangle of TRUE_COLOUR in pixels."""
    answered: Corners
    """Edges of the rectangle of ANSWERED_COLOUR in pixels."""
    model_frame: Frame
    """Frame of the numbers in `text`."""
    text: str
    """Answer of the model."""


def scenes() -> Iterator[Scene]:
    """Yield scenes in every frame of the rows and of the models, and in every box format."""
    for place, kind in enumerate(("pixels", "norm1", "norm1000")):
        yield scene(f"row in {kind}", number=place, row_frame=kind)
    for place, kind in enumerate(("norm1", "norm1000")):
        yield scene(f"model in {kind}", number=place + 3, model_frame=FRAMES[kind])
    yield scene("model in pixels of the resized picture", number=5, model_frame=RESIZED)
    yield scene("row in xywh", number=6, box_format="xywh")
    yield scene("row in cxcywh, shares", number=7, box_format="cxcywh", row_frame="norm1")
    yield scene("polygon", number=8, box_format="polygon")
    yield scene("turned by EXIF", number=9, is_turned=True, row_frame="norm1000")
    yield scene("turned, resized", number=10, is_turned=True, model_frame=RESIZED)
    yield scene("small", number=11, size=(64, 48), model_frame=RESIZED)
    yield scene("second of two", number=12, is_second=True)


def scene(
    name: str,
    *,
    number: int = 0,
    size: Size = (320, 240),
    row_frame: str = "pixels",
    box_format: str = "xyxy",
    model_frame: Frame | None = None,
    is_turned: bool = False,
    is_second: bool = False,
) -> Scene:
    """Draw a scene and ask for its rectangle.

    Args:
        number: moves the rectangles, so that all pictures differ.
        row_frame: frame of the truth in the row.
        is_turned: the picture is a JPEG that lies on its side, with its orientation in EXIF.
        is_second: another picture of another size stands before it in the row.
    """
    model_frame = model_frame or Frame()
    width, height = size
    move = number * height // 48
    true = (width // 8 + move, height // 4, width * 3 // 8 + move, height * 5 // 8)
    answered = (width * 5 // 8, height // 8 + move, width * 7 // 8, height * 3 // 8 + move)
    picture = drawn(size, true, answered)
    images = [turned_jpeg(picture) if is_turned else encoded(picture, "PNG")]
    if is_second:
        images.insert(0, encoded(Image.new("RGB", (90, 60), GREY), "PNG"))
    scale = FRAMES[row_frame].units(size)
    row: dict[str, Any] = {
        "id": f"scenes/{number}",
        "question": f"Where is the green rectangle? ({name})",
        "images": images,
        "answer_kind": "boxes",
        "answer": _written(true, box_format, (scale[0] / width, scale[1] / height)),
        "frame": row_frame,
        "tags": {"task": name},
    }
    if is_second:
        row["answer_image"] = 2
    row_format = rows.RowFormat(box_format=box_format)
    sample = rows.sample_of(row, Source(files="scenes"), row_format=row_format, origin=name)
    numbers = [round(edge, 4) for edge in model_frame.from_pixels(Box(*answered), size)]
    return Scene(
        name=name,
        sample=sample,
        size=size,
        true=true,
        answered=answered,
        model_frame=model_frame,
        text=f"<answer>{json.dumps(numbers)}</answer>",
    )


def drawn(size: Size, true: Corners, answered: Corners) -> Image.Image:
    """Return a grey picture with both rectangles; their last pixels lie inside their edges."""
    picture = Image.new("RGB", size, GREY)
    draw = ImageDraw.Draw(picture)
    for edges, colour in ((true, TRUE_COLOUR), (answered, ANSWERED_COLOUR)):
        left, upper, right, lower = edges
        draw.rectangle((left, upper, right - 1, lower - 1), fill=colour)
    return picture


def turned_jpeg(picture: Image.Image) -> bytes:
    """Return a JPEG whose pixels lie on their side and whose EXIF data say so."""
    exif = Image.Exif()
    exif[0x0112] = SIDEWAYS
    on_its_side = picture.transpose(Image.Transpose.ROTATE_90)
    return encoded(on_its_side, "JPEG", quality=95, subsampling=0, exif=exif)


def encoded(picture: Image.Image, kind: Literal["PNG", "JPEG"], **options: Any) -> bytes:
    """Return the bytes of a file of this picture."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _written(box: Corners, box_format: str, scale: tuple[float, float]) -> list[Any]:
    """Write a box in pixels as a row has it.

    Args:
        scale: units of the row's frame per pixel, along each side.
    """
    left, right = box[0] * scale[0], box[2] * scale[0]
    upper, lower = box[1] * scale[1], box[3] * scale[1]
    if box_format == "xywh":
        return [[left, upper, right - left, lower - upper]]
    if box_format == "cxcywh":
        return [[(left + right) / 2, (upper + lower) / 2, right - left, lower - upper]]
    if box_format == "polygon":
        return [[left, upper, right, upper, right, lower, left, lower]]
    return [[left, upper, right, lower]]
