"""Read true boxes as data sets write them; return them in the one form that verifiers read.

A box is four numbers, two corner points, or a record that names them; the boxes of a row are one
box, a list of boxes, or a text of these. `box_format` declares the meaning of four bare numbers,
which is never guessed from them. Numbers keep their frame: pixels, shares or thousandths.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain
from typing import Any, NamedTuple, cast

from gpg_vl.errors import shown
from gpg_vl.parsing import markup
from gpg_vl.parsing.boxes import CONFIDENCE_KEYS, CORNER_KEYS, EDGE_NAMES, LABEL_KEYS, literal

Number = int | float

MAX_COORDINATE = 1e9
"""Numbers of this size and above are no coordinates."""
MAX_NUMBER_LENGTH = 40
"""Characters of the longest text that is read as one number."""
SHOWN_PART = 120
"""Characters of a part of the boxes in a message, beside the boxes themselves."""
BOX_KEYS = (
    *CORNER_KEYS,
    "bndbox",
    "box2d",
    "boundingbox",
    "objects",
    "annotations",
    "detections",
    "shapes",
)
"""Keys of a record that hold a box or several boxes, lower case."""
POLYGON_KEYS = ("segmentation", "polygon", "polygons", "points", "quad", "vertices")
"""Keys of a record that hold the points of an outline, lower case."""
IMAGE_KEYS = ("answer_image", "image")
"""Keys of a record that hold the number of its picture, counted from 1."""
LABELS_KEYS = ("labels", "classes", "categories", "names", "category_names")
"""Keys of a record of several boxes that hold their classes."""
_EDGE_NAMES = (
    *EDGE_NAMES,
    ("x0", "top", "x1", "bottom"),
    ("minx", "miny", "maxx", "maxy"),
    ("xtl", "ytl", "xbr", "ybr"),
)
_CORNER_NAMES = (("x1", "y1"), ("xmin", "ymin"), ("x_min", "y_min"), ("left", "top"))
_MIDDLE_NAMES = (("cx", "cy"), ("xc", "yc"), ("x_center", "y_center"), ("center_x", "center_y"))
_SIZE_NAMES = (("width", "height"), ("w", "h"))
_POINT_NAMES = (("top_left", "bottom_right"), ("topleft", "bottomright"))

_LABEL_STUDIO = {"original_width", "rectanglelabels"}
"""Keys that Label Studio writes beside x, y, width and height."""
_MODES = {"xyxy": ("0", "XYXY_ABS"), "xywh": ("1", "XYWH_ABS")}
"""Box format -> how detectron2 writes it under `bbox_mode`."""
_ROBOFLOW = ({"detection_id"}, {"class", "confidence"})
"""Keys, one set of which Roboflow writes beside x, y, width and height."""
_SAME_AREA = 0.005
"""Share by which two areas may differ that are one and the same."""
_SHAPES = ("rectangle", "polygon")
"""Shapes of LabelMe whose points bound a box."""

_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_TOKENS = re.compile(r"<\|?/?(?:box_start|box_end|box|bbox)\|?>")
"""Grounding tokens around boxes."""
_POINTS = re.compile(r"</box>\s*<points>[^<>]*</points>")
"""Points inside the boxes before them, as Seg-Zero writes them."""
_LABELLED = re.compile(
    r"(?:<ref>|<\|object_ref_start\|>)([^<>]{1,200})(?:</ref>|<\|object_ref_end\|>)\s{0,8}"
    r"(?:<box>|<\|box_start\|>)([^<>|]{1,2000})(?:</box>|<\|box_end\|>)"
)
"""A class and its boxes, as InternVL and Qwen2-VL write them."""
_ARRAY = re.compile(r"\b(?:array|tensor)\(([^()]*?)(?:,\s*dtype=[\w.]+)?\)")
"""An array as Python shows it: array([0, 0, 56, 42], dtype=float32)."""
_NUMBERS_ALONE = re.compile(r"[\d\s.,;+\-eE()\[\]]+", re.ASCII)
_NO_OBJECTS = frozenset({"no objects", "no object"})


class Boxes(NamedTuple):
    """The true boxes of a row.

    Example:
        Boxes([[0, 0, 56, 42]], image=0)
    """

    answer: list[Any]
    """[x1, y1, x2, y2] of each box, or {"box": [x1, y1, x2, y2], "label": ...} where the row says
    more of it. Empty = no objects."""
    image: int
    """Number of the picture that they are in, counted from 1; 0 = not said."""


@dataclass(frozen=True, slots=True)
class _TrueBox:
    """One box, and what its record says of it."""

    corners: list[Number]
    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    """Everything but the box itself and its picture, by the name that verifiers read."""
    image: int = 0


def read_boxes(value: Any, box_format: str) -> Boxes:
    """Read the true boxes of a row.

    Read are lists, one flat list of four numbers, two corner points, records, arrays, and texts of
    all these. Records that name their numbers (x1, y1, x2, y2; left, top, width, height; cx, cy, w,
    h) are read by their names, whatever is declared; only under `cxcywh` is the point of (x, y,
    width, height) the middle. A list of flat outlines is the parts of one object, as in COCO's
    `segmentation`; a list of lists of points is an object each. Corners in the wrong order are
    left as they are, because the verifier refuses them.

    Args:
        box_format: meaning of four bare numbers: xyxy | xywh | cxcywh, or polygon for the points of
            an outline, whose bounds are the box.

    Raises:
        ValueError: a part of the value is no box.

    Example:
        read_boxes("[56, 42, 56, 42]", "xywh") == Boxes([[56, 42, 112, 84]], image=0)
    """
    try:
        found = _boxes(_plain(value), box_format)
        image = _common_image(found)
    except RecursionError:
        raise ValueError("the boxes are nested too deep; write [[x1, y1, x2, y2]]") from None
    except ValueError as error:
        raise ValueError(f"boxes {shown(value)}: {error}") from None
    return Boxes([_written(box) for box in found], image)


def _written(box: _TrueBox) -> list[Number] | dict[str, Any]:
    if not box.fields:
        return box.corners
    return {"box": box.corners, **box.fields}


def _common_image(found: Sequence[_TrueBox]) -> int:
    images = {box.image for box in found}
    if len(images) > 1:
        raise ValueError(
            f"they lie in the pictures {sorted(images)} (0 = not said), expected all in one; make a"
            " row for each picture"
        )
    return images.pop() if images else 0


def _part(value: object) -> str:
    """Return a part of the boxes for a message."""
    return shown(value, SHOWN_PART)


# --- values ---------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """Return arrays, tuples and texts as lists of numbers; records stay as they are."""
    value = _without_array(value)
    if isinstance(value, str):
        return _of_text(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast(Sequence[Any], value)]
    if isinstance(value, Mapping):
        return cast(Mapping[Any, Any], value)
    return _number(value)


def _without_array(value: Any) -> Any:
    """Return an array of numpy or torch as lists or as a number; other values as they are."""
    return value.tolist() if hasattr(value, "tolist") else value


def _number(value: Any) -> Number:
    """Check a number; a whole `Decimal` becomes an int."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(f"{_part(value)} is no number; a box is four numbers, [x1, y1, x2, y2]")
    # compared before it is made a float: a large int or Decimal does not fit into one
    is_nan = value.is_nan() if isinstance(value, Decimal) else value != value
    if is_nan or not -MAX_COORDINATE < value < MAX_COORDINATE:
        raise ValueError(f"{_part(value)} is no coordinate; expected numbers below 1,000,000,000")
    if not isinstance(value, Decimal):
        return value
    return _exact(value, whole=True)


def _exact(value: Decimal, *, whole: bool) -> Number:
    """Return a decimal as a float, or as an int where it is one and `whole` allows it."""
    if whole and value == int(value):
        return int(value)
    return float(value)


# --- texts ----------------------------------------------------------------------------------------


def _of_text(text: str) -> Any:
    """Read a text: a number, JSON, a Python literal, or numbers between commas and spaces."""
    bare = text.strip()
    if len(bare) <= MAX_NUMBER_LENGTH and _NUMBER.fullmatch(bare):
        return _number(int(bare) if bare.lstrip("+-").isdigit() else float(bare))
    if "<answer>" in bare:
        bare = markup.only_answer(bare)
    if _LABELLED.search(bare):
        return _of_labelled(bare)
    bare = _POINTS.sub("</box>", bare)
    bare = markup.unwrapped(_TOKENS.sub(" ", bare))
    if markup.normalise(bare) in _NO_OBJECTS:
        return []
    content = _json(bare)
    if content is None:
        content = _python(bare)
    if not isinstance(content, list | Mapping):
        raise ValueError(
            f"{_part(text)} is no number and no box; write [x1, y1, x2, y2] or [[x1, y1, x2, y2]]"
        )
    return _plain(content)


def _of_labelled(text: str) -> list[dict[str, Any]]:
    """Read classes and boxes between grounding tokens, and nothing else."""
    if _LABELLED.sub("", text).strip(" \t\r\n,;."):
        raise ValueError(f"{_part(text)} has words beside its classes and boxes")
    records: list[dict[str, Any]] = []
    for label, boxes in _LABELLED.findall(text):
        inner = _python(boxes)
        if not isinstance(inner, list):
            raise ValueError(f"{_part(boxes)} is no box")
        items = cast(list[Any], inner)
        corners = [isinstance(item, list) and len(cast(list[Any], item)) == 4 for item in items]
        for box in items if items and all(corners) else [items]:
            records.append({"label": label.strip(), "box": box})
    return records


def _json(text: str) -> Any:
    """Parse JSON; None where the text is none, or names a key twice."""
    try:
        return json.loads(text, object_pairs_hook=_record_of_pairs)
    except ValueError:
        return None


def _record_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key is there twice")
    return record


def _python(text: str) -> Any:
    """Parse a Python literal, also of arrays, or bare numbers; None where the text is neither."""
    bare = _ARRAY.sub(r"\1", text)
    content = literal(bare)
    if content is None and _NUMBERS_ALONE.fullmatch(bare):
        content = literal(f"[{_with_commas(bare)}]")
    return _with_ints(content)


def _with_commas(text: str) -> str:
    """Set commas between numbers: "[0 0 56 42]", "(0,0) (56,42)"; a line or ";" ends a box."""
    lines = [line for line in re.split(r"[;\n]", text) if line.strip()]
    is_line_a_box = len(lines) > 1 and not re.search(r"[()\[\]]", text)
    if is_line_a_box and all(len(re.split(r"[\s,]+", line.strip())) > 1 for line in lines):
        text = ",".join(f"[{line}]" for line in lines)
    text = text.replace(";", ",")
    text = re.sub(r"([)\]])\s*(?=[(\[])", r"\1,", text)
    return re.sub(r"(?<=[\d.])\s+(?=[\d.+-])", ",", text)


def _with_ints(value: Any) -> Any:
    """Return what `literal` read with whole numbers as ints: it makes every number a float."""
    if isinstance(value, list):
        return [_with_ints(item) for item in cast(list[Any], value)]
    if isinstance(value, dict):
        record = cast(dict[str, Any], value)
        return {name: _with_ints(item) for name, item in record.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


# --- lists ----------------------------------------------------------------------------------------


def _boxes(value: Any, box_format: str) -> list[_TrueBox]:
    """Read the boxes of a plain value."""
    if isinstance(value, Mapping):
        return _of_record(cast(Mapping[Any, Any], value), box_format)
    if not isinstance(value, list):
        raise ValueError(f"one number is no box, expected four; got {_part(value)}")
    items = _without_outer_lists(cast(list[Any], value))
    if not items:
        return []
    numbers = [item for item in items if isinstance(item, int | float)]
    if len(numbers) == len(items):
        return [_TrueBox(_of_numbers(numbers, box_format))]
    if numbers:
        raise ValueError(f"{_part(items)} mixes numbers and boxes; write [[x1, y1, x2, y2]]")
    points = [_point(item) for item in items]
    if None not in points:
        return [_TrueBox(_of_points(cast(list[list[Number]], points), box_format))]
    if box_format == "polygon" and all(map(_is_flat, items)):
        return [_TrueBox(_bounds_of_parts(items))]
    found: list[_TrueBox] = []
    for item in items:
        inner = _boxes(item, box_format)
        if len(inner) != 1 and not isinstance(item, Mapping):
            raise ValueError(f"{_part(item)} is not one box, expected [x1, y1, x2, y2]")
        found += inner
    return found


def _without_outer_lists(items: list[Any]) -> list[Any]:
    """Return the inside of lists of one list: [[[0, 0, 56, 42]]] is the box [0, 0, 56, 42]."""
    while len(items) == 1 and isinstance(items[0], list) and items[0]:
        items = cast(list[Any], items[0])
    return items


def _is_flat(item: Any) -> bool:
    """Return True for a list of numbers."""
    if not isinstance(item, list):
        return False
    return all(isinstance(number, int | float) for number in cast(list[Any], item))


def _point(item: Any) -> list[Number] | None:
    """Return x and y of a point, [x, y] or {"x": x, "y": y}; None where it is none."""
    if isinstance(item, Mapping):
        fields = _lower_keys(cast(Mapping[Any, Any], item))
        if set(fields) != {"x", "y"}:
            return None
        return [_one_number(fields["x"]), _one_number(fields["y"])]
    if _is_flat(item) and len(item) == 2:
        return item
    return None


def _one_number(value: Any) -> Number:
    number = _plain(value)
    if not isinstance(number, int | float):
        raise ValueError(f"{_part(value)} is no number")
    return number


def _of_numbers(numbers: Sequence[Number], box_format: str) -> list[Number]:
    """Return the corners of a flat list of numbers."""
    if box_format == "polygon":
        return _bounds(numbers)
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        raise ValueError(
            f"{len(numbers)} numbers are no box; the points of an outline need box_format: "
            "polygon, several boxes are a list of lists"
        )
    if len(numbers) != 4:
        raise ValueError(f"{_part(numbers)} has {len(numbers)} numbers, expected four")
    if box_format == "xyxy":
        return list(numbers)
    return _of_size(*numbers, is_middle=box_format == "cxcywh")


def _of_size(
    x: Number, y: Number, width: Number, height: Number, *, is_middle: bool
) -> list[Number]:
    """Return the corners of a box of a point, width and height, without errors of rounding.

    Args:
        is_middle: the point is the middle of the box, else its upper left corner.
    """
    if width < 0 or height < 0:
        raise ValueError(
            f"a box of width {width} and height {height}, expected no negative ones; corners "
            "x1, y1, x2, y2 are box_format: xyxy"
        )
    whole = all(isinstance(number, int) for number in (x, y, width, height))
    # the shortest decimals of the numbers: 0.1 + 0.2 is 0.3
    left, top, wide, high = (Decimal(str(number)) for number in (x, y, width, height))
    if is_middle:
        left -= wide / 2
        top -= high / 2
    return [_exact(edge, whole=whole) for edge in (left, top, left + wide, top + high)]


def _of_points(points: Sequence[list[Number]], box_format: str) -> list[Number]:
    """Return the corners of a box of two corner points, or of the points of an outline."""
    if box_format == "polygon":
        return _bounds(list(chain.from_iterable(points)))
    if len(points) > 2:
        raise ValueError(
            f"{len(points)} points are no box; the points of an outline need box_format: polygon"
        )
    if len(points) < 2:
        raise ValueError("one point is no box, expected two corners or four numbers")
    if box_format != "xyxy":
        raise ValueError(
            f"two pairs of numbers under box_format: {box_format} may be two corners, or a point "
            "and a size; write four numbers, or declare xyxy if they are corners"
        )
    return [*points[0], *points[1]]


def _bounds(numbers: Sequence[Number]) -> list[Number]:
    """Return the corners of the box around the points x, y, x, y..."""
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(
            f"{_part(numbers)} has {len(numbers)} numbers, expected x and y of at least three "
            "points (box_format: polygon)"
        )
    return [min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])]


def _bounds_of_parts(parts: Iterable[list[Number]]) -> list[Number]:
    """Return the corners of the box around the parts of one object."""
    corners: list[Number] = []
    for part in parts:
        left, top, right, bottom = _bounds(part)
        corners += [left, top, right, top, right, bottom]
    return _bounds(corners)


# --- records --------------------------------------------------------------------------------------


def _of_record(record: Mapping[Any, Any], box_format: str) -> list[_TrueBox]:
    """Read the boxes of a record, with their classes, confidences and picture."""
    fields = _lower_keys(record)
    used, found = _boxes_of_fields(fields, box_format)
    others = {name: item for name, item in record.items() if str(name).strip().lower() not in used}
    boxes: list[_TrueBox] = []
    for place, box in enumerate(found):
        own = _fields_of_place(others, place, len(found))
        image, own = _split_image(own)
        boxes.append(_TrueBox(box.corners, {**own, **box.fields}, box.image or image))
    return boxes


def _lower_keys(record: Mapping[Any, Any]) -> dict[str, Any]:
    fields = {str(name).strip().lower(): item for name, item in record.items()}
    if len(fields) < len(record):
        raise ValueError(f"a key is there twice among {_part(list(record))}")
    return fields


def _boxes_of_fields(fields: Mapping[str, Any], box_format: str) -> tuple[set[str], list[_TrueBox]]:
    """Return the boxes of a record, and the keys that hold them.

    Raises:
        ValueError: the record has no box, or different ones under several keys.
    """
    _check_meaning(fields, box_format)
    if fields.get("shape_type") == "rectangle" and "points" in fields:
        return {"points"}, [_of_drawn_rectangle(fields["points"])]
    used: set[str] = set()
    readings: list[list[_TrueBox]] = []
    names, named = _of_names(fields, box_format)
    if named:
        used.update(names)
        readings.append(named)
    for key in _keys_with_boxes(fields, box_format, has_names=bool(named)):
        used.add(key)
        readings.append(_boxes(_plain(fields[key]), box_format))
    if not readings:
        raise ValueError(
            f"a record with the keys {_part(list(fields))} has no box that can be read; name it "
            "box: [x1, y1, x2, y2]"
        )
    for reading in readings[1:]:
        if reading != readings[0]:
            raise ValueError(f"a record has different boxes under {_part(sorted(used))}")
    _check_numbers(fields, readings[0], box_format)
    return used, readings[0]


def _check_meaning(fields: Mapping[str, Any], box_format: str) -> None:
    """Check that the numbers of a record are what they seem to be.

    Raises:
        ValueError: a program is known to write another thing under these keys.
    """
    sides = {"x", "y", "width", "height"}
    if fields.get("box_2d") is not None and not isinstance(fields["box_2d"], Mapping):
        raise ValueError(
            "box_2d is [y1, x1, y2, x2] as Gemini writes it, and [x1, y1, x2, y2] elsewhere; name "
            "the box bbox_2d: [x1, y1, x2, y2]"
        )
    if sides <= fields.keys() and fields.keys() & _LABEL_STUDIO:
        raise ValueError(
            "Label Studio counts in hundredths of the picture; divide x, y, width and height by "
            "100, write box: [x, y, width, height] and declare frame: norm1, box_format: xywh"
        )
    is_detected = any(keys <= fields.keys() for keys in _ROBOFLOW)
    if sides <= fields.keys() and is_detected and box_format == "xyxy":
        raise ValueError(
            "x and y are the middle of the box in what Roboflow detects; declare box_format: "
            "cxcywh, or xywh if they are its corner"
        )
    coordinates = fields.get("coordinates")
    if isinstance(coordinates, Mapping) and sides <= coordinates.keys() and box_format == "xyxy":
        raise ValueError(
            "x and y of `coordinates` are the middle of the box in CreateML; declare box_format: "
            "cxcywh, or xywh if they are its corner"
        )
    turn = str(fields.get("rotation"))
    if len(turn) <= MAX_NUMBER_LENGTH and _NUMBER.fullmatch(turn) and float(turn):
        raise ValueError(f"the box is turned by {turn} degrees, expected an upright one")
    shape = fields.get("shape_type")
    if isinstance(shape, str) and shape not in _SHAPES:
        raise ValueError(f"a {_part(shape)} is no box, expected one of {', '.join(_SHAPES)}")


def _check_numbers(fields: Mapping[str, Any], found: Sequence[_TrueBox], box_format: str) -> None:
    """Check that what a record says of its numbers is what is declared.

    Raises:
        ValueError: detectron2's `bbox_mode` is another one, or the area is that of x, y, width,
            height and not that of corners.
    """
    if "bbox" not in fields or box_format == "polygon":
        return
    mode = fields.get("bbox_mode")
    # 1, 1.0 of a column with empty cells, "BoxMode.XYWH_ABS"
    name = str(mode).removesuffix(".0").rpartition(".")[2]
    if mode is not None and name not in _MODES.get(box_format, ()):
        raise ValueError(
            f"bbox_mode is {_part(mode)}, which is not box_format: {box_format}; in detectron2 0 is"
            " xyxy and 1 is xywh"
        )
    areas = _without_array(fields.get("area"))
    areas = cast(Sequence[Any], areas if isinstance(areas, list | tuple) else [areas])
    if box_format != "xyxy" or isinstance(fields["bbox"], Mapping) or len(areas) != len(found):
        return
    for box, area in zip(found, areas, strict=True):
        if is_area_of_sides(area, box.corners):
            raise ValueError(
                f"the area {_part(area)} is that of x, y, width, height, as in COCO; declare "
                "box_format: xywh"
            )


def is_area_of_sides(area: Any, numbers: Sequence[Number]) -> bool:
    """Return True if an area is that of x, y, width, height, and not that of two corners."""
    x, y, third, fourth = numbers
    return _is_about(area, third * fourth) and not _is_about(area, (third - x) * (fourth - y))


def _is_about(given: Any, area: Number) -> bool:
    """Return True for a number that is this area, but for rounding."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        return False
    return area > 0 and abs(given - area) <= _SAME_AREA * area


def _of_drawn_rectangle(points: Any) -> _TrueBox:
    """Return the box of two opposite corners, in the order in which LabelMe's user drew them."""
    corners = _plain(points)
    found: list[list[Number] | None] = []
    if isinstance(corners, list):
        found += map(_point, cast(list[Any], corners))
    if len(found) != 2 or None in found:
        raise ValueError(f"the points of a rectangle are {_part(points)}, expected two corners")
    (x1, y1), (x2, y2) = cast(list[list[Number]], found)
    return _TrueBox([min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)])


def _keys_with_boxes(fields: Mapping[str, Any], box_format: str, *, has_names: bool) -> list[str]:
    """Return the keys whose values are boxes; an outline counts where it is asked for."""
    boxes = [key for key in BOX_KEYS if _may_be_boxes(fields.get(key))]
    outlines = [key for key in POLYGON_KEYS if _may_be_boxes(fields.get(key))]
    if box_format == "polygon" and outlines:
        return outlines[:1]  # beside it stands COCO's `bbox`, which is no outline
    if boxes or has_names:
        return boxes
    return outlines[:1]


def _may_be_boxes(value: Any) -> bool:
    """Return False for null and for words: a record's `position` may be "left"."""
    if isinstance(value, str):
        return any(map(str.isdigit, value))
    return value is not None


def _of_names(fields: Mapping[str, Any], box_format: str) -> tuple[tuple[str, ...], list[_TrueBox]]:
    """Return the boxes whose numbers have names of their own, and these names; or nothing."""
    for names in _EDGE_NAMES:
        if _has_all(fields, names):
            return names, [_TrueBox(edges) for edges in _columns(fields, names)]
    for names in _POINT_NAMES:
        if _has_all(fields, names):
            points = [_point(_plain(fields[name])) for name in names]
            if None in points:
                raise ValueError(f"{_part([fields[name] for name in names])} are not two points")
            return names, [_TrueBox(_of_points(cast(list[list[Number]], points), "xyxy"))]
    for size in _SIZE_NAMES:
        for origin in (*_MIDDLE_NAMES, *_CORNER_NAMES, ("x", "y")):
            names = (*origin, *size)
            if not _has_all(fields, names):
                continue
            is_middle = origin in _MIDDLE_NAMES
            if origin == ("x", "y"):
                is_middle = box_format == "cxcywh"
            rows = _columns(fields, names)
            return names, [_TrueBox(_of_size(*row, is_middle=is_middle)) for row in rows]
    return (), []


def _has_all(fields: Mapping[str, Any], names: Sequence[str]) -> bool:
    return all(fields.get(name) is not None for name in names)


def _columns(fields: Mapping[str, Any], names: Sequence[str]) -> list[list[Number]]:
    """Return the four numbers of each box; a record of several has a list under every name."""
    columns = [_plain(fields[name]) for name in names]
    if all(isinstance(column, int | float) for column in columns):
        return [columns]
    lengths = {len(column) for column in columns if _is_flat(column)}
    if len(lengths) != 1 or not all(map(_is_flat, columns)):
        raise ValueError(f"{', '.join(names)} are {_part(columns)}, expected four numbers")
    return [list(row) for row in zip(*columns, strict=True)]


def _fields_of_place(others: Mapping[Any, Any], place: int, count: int) -> dict[str, Any]:
    """Return what a record of `count` boxes says of one of them, by the names of the verifiers."""
    fields: dict[str, Any] = {}
    for name, value in others.items():
        key = str(name).strip().lower()
        is_class = key in LABEL_KEYS or key in LABELS_KEYS
        if is_class or key in CONFIDENCE_KEYS or key in IMAGE_KEYS:
            value = _of_place(value, place, count, key)
        if is_class and _names_class(key, value):
            if fields.get("label", value) != value:
                raise ValueError(f"a box has two classes, {_part([fields['label'], value])}")
            fields["label"] = value
        elif key in CONFIDENCE_KEYS:
            fields["confidence"] = value
        elif key != "label":  # a class that is null is none
            fields[str(name)] = value
    return fields


def _of_place(value: Any, place: int, count: int, key: str) -> Any:
    """Return the part of a value that belongs to one box; a single value belongs to all."""
    value = _without_array(value)
    if not isinstance(value, list | tuple):
        return value
    values = cast(Sequence[Any], value)
    if len(values) != count:
        raise ValueError(f"{count} boxes, but {len(values)} values under {key}")
    return values[place]


def _names_class(key: str, value: Any) -> bool:
    """Return True for a class that an answer can name; numbers of classes are only ids."""
    if key == "label":
        return value is not None
    return isinstance(value, str) and (key, value) != ("name", "rect")  # the VIA tool's shape


def _split_image(fields: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return the picture that a record names (0 = none), and the rest of the record.

    A name of a file does not say the place of a picture in its row, so it is no number.
    """
    image = 0
    rest: dict[str, Any] = {}
    for name, value in fields.items():
        number = _picture_number(value) if name.strip().lower() in IMAGE_KEYS else None
        if number is None:
            rest[name] = value
        elif number < 1:
            raise ValueError(f"{name} is {number}, expected a number counted from 1")
        elif image not in (0, number):
            raise ValueError(f"a box lies in picture {image} and in picture {number}")
        else:
            image = number
    return image, rest


def _picture_number(value: Any) -> int | None:
    """Return a whole number; None where the value is none."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,6}", value.strip(), re.ASCII):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value) or value != int(value):
        return None
    return int(value)
