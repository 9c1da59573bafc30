"""Read boxes as models write them: lists, pairs, JSON and Python records, grounding tokens.

Linear in the text; never raises. `records` reads a text that is nothing but boxes in one
well-formed spelling (strict mode); `find` picks boxes out of any text, also out of broken JSON
(lenient mode). Both return boxes in the order of the text.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from gpg_vl.boxes import Box
from gpg_vl.parsing import markup

MAX_LENGTH = 20_000
"""Characters of the longest text that is parsed as JSON or as a Python literal."""
MAX_DEPTH = 12
"""Deepest nesting of lists and records."""
MAX_BOXES = 1000
"""Boxes that are read from one answer; what follows is not read."""
MAX_LABEL = 200
"""Characters of a label that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One box of an answer.

    Example:
        Found(box=Box(1, 2, 3, 4), label="cat", confidence=0.9)
    """

    box: Box
    """Corners in the frame of the answer."""
    label: str = ""
    """Class of the object, as the answer names it; empty = not named."""
    confidence: float | None = None
    """Confidence as written; None = not written."""


CORNER_KEYS = (
    "bbox_2d",
    "bbox",
    "box_2d",
    "box",
    "position",
    "coordinates",
    "coords",
    "bounding_box",
    "bboxes",
    "boxes",
)
"""Keys of a record that hold its four corners, lower case."""
LABEL_KEYS = ("label", "class", "category", "name", "object", "category_name")
"""Keys of a record that hold its class."""
CONFIDENCE_KEYS = ("confidence", "score", "conf", "probability")
"""Keys of a record that hold its confidence."""
EDGE_NAMES = (
    ("x1", "y1", "x2", "y2"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("left", "top", "right", "bottom"),
    ("x0", "y0", "x1", "y1"),
)
"""Names of the four edges, in the order of a `Box`."""
_NO_OBJECTS = frozenset({"[]", "no objects", "no object", "none", "没有", "无"})
_FULL_WIDTH = str.maketrans(
    "０１２３４５６７８９［］（）｛｝，．：；＝－【】、＂", '0123456789[](){},.:;=-[],"'
)
"""Full-width signs -> ASCII. NFKC would fold them too, but takes quadratic time on many combining
accents."""
_TOKENS = re.compile(
    r"<\|?/?(?:object_ref_start|object_ref_end|box_start|box_end|quad_start|quad_end"  # Qwen
    r"|ref|box|bbox)\|?>"  # InternVL
)
"""Grounding tokens around labels and boxes."""

# --- boxes in any text ----------------------------------------------------------------------------

# Lengths in these patterns are bounded ({0,8} instead of *), so that a search takes linear time.
_DIGITS = r"[-+]?\d{1,12}(?:\.\d{0,12})?"
_N = rf"\s{{0,8}}({_DIGITS})\s{{0,8}}"  # 12.5
_QUOTED = rf"\s{{0,8}}[\"']({_DIGITS})[\"']\s{{0,8}}"  # "12.5"
_UNSPACED = rf"({_DIGITS})"
_UNCAPTURED = rf"\s{{0,8}}{_DIGITS}\s{{0,8}}"
_END = r"(?:\]|\Z)"
"""End of a list; a list that the length limit cut off ends with the text."""
_BETWEEN_CORNERS = (
    r"\s{0,8}[,;]?\s{0,8}(?:\b(?:and|to)\b\s{0,8})?(?:"
    # (10, 20) and the bottom right corner at (60, 80)
    r"(?:the\s)?[\"']?\b(?:bottom|lower)[-_ ]right\b[\"']?(?:\scorner)?\s{0,4}(?:at|is|:|=)?\s{0,4}"
    r"|右下角?(?:的?坐标)?\s{0,4}[为是:]?\s{0,4}"  # 左上角(10, 20)，右下角(60, 80)
    # (10, 20), (x2, y2) = (60, 80)
    r"|\(\s?x_?2\s?,\s?y_?2\s?\)\s?[=:]\s?)?"
)
_ANYWHERE = re.compile(
    rf"\[{_N},{_N},{_N},{_N}{_END}"  # [10, 20, 60, 80]
    # [10 20 60 80]
    rf"|\[\s{{0,8}}{_UNSPACED}\s{{1,8}}{_UNSPACED}"
    rf"\s{{1,8}}{_UNSPACED}\s{{1,8}}{_UNSPACED}\s{{0,8}}\]"
    rf"|\[{_QUOTED},{_QUOTED},{_QUOTED},{_QUOTED}{_END}"  # ["10", "20", "60", "80"]
    rf"|[(\[]{_N},{_N}[)\]]{_BETWEEN_CORNERS}[(\[]{_N},{_N}[)\]]"  # (10, 20), (60, 80)
    rf"|\({_N},{_N},{_N},{_N}\)"  # (10, 20, 60, 80)
    # {"x1": 10, "y1": 20, "x2": 60, "y2": 80} and x1=10, y1=20, x2=60, y2=80
    rf"|\{{?\s{{0,8}}("
    rf"(?:[\"']?[A-Za-z]\w{{0,5}}[\"']?\s{{0,8}}[:=]{_UNCAPTURED}[,;]?\s{{0,8}}){{4}})"
)
_NUMBER_GROUPS = 20
"""Groups of `_ANYWHERE` that are one number: four of each of its first five branches."""
_NAMED_EDGE = re.compile(rf"([A-Za-z]\w{{0,5}})[\"']?\s{{0,8}}[:=]{_N}")
_WHOLE_LINE = re.compile(
    rf"^(?=[ \t]{{0,8}}[\w\"'*>+-])"
    # "The final answer is:" and "- **Bounding box:**" before the numbers
    rf"(?:[ \t\"'*>-]{{0,8}}(?:the\s|final\s){{0,2}}"
    rf"(?:answer|bounding\sbox|box|bbox|bbox_2d|coordinates|location|position)[\"'*]{{0,3}}"
    rf"(?:\sis\b|\sare\b)?\s{{0,4}}[:=]?[*\"']{{0,3}})?"
    rf"{_N},{_N},{_N},{_N}[.\"'*]{{0,3}}\s{{0,8}}$",
    re.MULTILINE | re.IGNORECASE,
)
"""Four numbers that are a whole line, for answers without any bracket: "Box: 10, 20, 60, 80"."""
_RECORD = re.compile(r"\{[^{}]{1,2000}\}")
_FIELD = re.compile(
    r"[\"']?([A-Za-z_]\w{0,20})[\"']?\s{0,8}:\s{0,8}"  # "label":
    r"(?:\"([^\"\n]{0,200})\"|'([^'\n]{0,200})'"  # "cat" or 'cat'
    r"|([-+]?\d{0,12}\.?\d{1,12}(?:[eE][-+]?\d{1,3})?)(?=\s{0,8}(?:[,}]|$)))"  # 0.9
)
_DECIMAL = re.compile(r"\s?\d{0,12}\.?\d{1,12}\s?")

# --- bare boxes -----------------------------------------------------------------------------------

_NUMBER = r"\s*([-+]?\d{1,12}(?:\.\d{1,12})?)\s*"
_CORNERS = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")  # [10, 20, 60, 80]
_PAIRS = re.compile(  # (10, 20), (60, 80)
    rf"\({_NUMBER},{_NUMBER}\)\s*(?:,\s*)?\({_NUMBER},{_NUMBER}\)"
)
_BOX = "\x00"
"""Sign that replaces a box that was read, so that the rest of the text can be checked."""
_LIST = re.compile(rf"{_BOX}(?:,{_BOX})*|\[{_BOX}(?:,{_BOX})*\]")

# --- literals -------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"\s*(?:("
    r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'"  # "cat" or 'cat'
    r"|[-+]?(?:\d{1,15}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE][-+]?\d{1,3})?"  # -12.5e3
    r"|[\[\](){}:,]"
    r"|[A-Za-z]{4,5}"  # true, False, None, null
    r")|$)"
)
_CLOSING = {"[": "]", "(": ")"}
_CONSTANTS: dict[str, Any] = {"true": True, "false": False, "none": None, "null": None}


def records(text: str) -> list[Found] | None:
    """Read an answer that is nothing but boxes, correctly spelt; None where it is anything else.

    Understood: what `bare_boxes` understands; JSON or a Python literal, also in a code fence, of
    records such as {"bbox_2d": [x1, y1, x2, y2], "label": "cat", "confidence": 0.9} or {"x1": ...,
    "y1": ..., "x2": ..., "y2": ...}; and "No Objects".
    """
    plain = bare_boxes(text)
    if plain is not None:
        return [Found(box=box) for box in plain[:MAX_BOXES]]
    bare = markup.unwrapped(text)
    if markup.normalise(bare) in _NO_OBJECTS:
        return []
    content = literal(bare)
    if content is None:
        return None
    return _read_items(content)


def bare_boxes(text: str) -> list[Box] | None:
    """Read an answer that consists of boxes and nothing else; None where it is anything else.

    Understood: `[x1, y1, x2, y2]`, a list of those in brackets, and `(x1, y1), (x2, y2)`. Never
    raises; linear in the text.
    """
    for pattern in (_CORNERS, _PAIRS):
        found = [Box(*map(float, match.groups())) for match in pattern.finditer(text)]
        if not found:
            continue
        rest = pattern.sub(_BOX, text.replace(_BOX, "?"))
        if _LIST.fullmatch("".join(rest.split())):
            return found
        return None
    if "".join(text.split()) == "[]":
        return []
    return None


def find(text: str) -> list[Found]:
    """Return every box anywhere in a text."""
    cleaned = _TOKENS.sub(" ", text.translate(_FULL_WIDTH))
    pattern = _WHOLE_LINE
    if _ANYWHERE.search(cleaned):
        pattern = _ANYWHERE
    surroundings = list(_RECORD.finditer(cleaned))
    current = 0  # index of the first record that does not end before the box
    items: list[Found] = []
    for match in pattern.finditer(cleaned):
        box = _box_of_match(match)
        if box is None:
            continue
        start = match.start()
        while current < len(surroundings) and surroundings[current].end() <= start:
            current += 1
        label, confidence = "", None
        if current < len(surroundings) and surroundings[current].start() <= start:
            label, confidence = _label_and_confidence(surroundings[current][0])
        items.append(Found(box=box, label=label, confidence=confidence))
        if len(items) == MAX_BOXES:
            break
    return items


def states_no_objects(text: str) -> bool:
    """Return True where a text states that there is nothing to box."""
    return markup.normalise(markup.unwrapped(text)) in _NO_OBJECTS or "".join(text.split()) == "[]"


def _box_of_match(match: "re.Match[str]") -> Box | None:
    """Return the box of a match of `_ANYWHERE` or `_WHOLE_LINE`."""
    numbers = [group for group in match.groups()[:_NUMBER_GROUPS] if group is not None]
    if numbers:
        return Box(*map(float, numbers))
    edges = {name.lower(): float(value) for name, value in _NAMED_EDGE.findall(match[0])}
    named = _boxes_of_named_edges(edges)
    if not named:
        return None
    return named[0]


def _label_and_confidence(record: str) -> tuple[str, float | None]:
    """Read the class and the confidence out of a record, which need not be correct JSON."""
    label, confidence = "", None
    for key, double_quoted, single_quoted, number in _FIELD.findall(record):
        text = double_quoted or single_quoted
        if key.lower() in LABEL_KEYS:
            label = text or label
        elif key.lower() in CONFIDENCE_KEYS and (number or _DECIMAL.fullmatch(text)):
            confidence = float(number or text)
    return label, confidence


# --- JSON and Python literals ---------------------------------------------------------------------


def literal(text: str) -> Any:
    """Parse a JSON value or a Python literal of lists, records, strings and numbers.

    None where the text is neither, too long or nested too deep. A parser of its own, because
    models mix both spellings, and because a model's text is never evaluated.
    """
    if not 0 < len(text) <= MAX_LENGTH:
        return None
    tokens: list[str] = []
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            return None
        if token[1]:
            tokens.append(token[1])
        position = token.end()
    tokens.reverse()
    try:
        value = _parse_value(tokens, 0)
    except (ValueError, IndexError):
        return None
    if tokens:
        return None
    return value


def _parse_value(tokens: list[str], depth: int) -> Any:
    """Parse the next value; its tokens are taken from the end of the reversed list."""
    token = tokens.pop()
    if depth > MAX_DEPTH:
        raise ValueError("nested too deep")
    if token == "{":
        return _parse_record(tokens, depth)
    if token in _CLOSING:
        return _parse_list(tokens, _CLOSING[token], depth)
    if token[0] in "\"'":
        return _text(token)
    if token.lower() in _CONSTANTS:
        return _CONSTANTS[token.lower()]
    return float(token)


def _parse_list(tokens: list[str], closing: str, depth: int) -> list[Any]:
    items: list[Any] = []
    while tokens[-1] != closing:
        items.append(_parse_value(tokens, depth + 1))
        if tokens[-1] == ",":
            tokens.pop()
        elif tokens[-1] != closing:
            raise ValueError("no comma between items")
    tokens.pop()
    return items


def _text(token: str) -> str:
    """Return the text of a quoted token; only what JSON escapes is unescaped."""
    if "\\" in token and token[0] == '"':
        try:
            return json.loads(token)
        except ValueError:
            pass  # JSON has no such escape; the text as it stands
    return token[1:-1]


def _parse_record(tokens: list[str], depth: int) -> dict[str, Any]:
    record: dict[str, Any] = {}
    while tokens[-1] != "}":
        key = tokens.pop()
        if key[0] not in "\"'" or tokens.pop() != ":" or key[1:-1] in record:
            raise ValueError("no key, or one twice")
        record[key[1:-1]] = _parse_value(tokens, depth + 1)
        if tokens[-1] == ",":
            tokens.pop()
        elif tokens[-1] != "}":
            raise ValueError("no comma between fields")
    tokens.pop()
    return record


# --- boxes of literals ----------------------------------------------------------------------------


def _read_items(content: Any) -> list[Found] | None:
    """Read a list of boxes and records, or a single one; None where any of them is no box."""
    items: Sequence[Any] = [content]
    if isinstance(content, list):
        listed = cast(list[Any], content)
        # four numbers are one box, not a list of four
        if len(listed) != 4 or _read_corners(listed) is None:
            items = listed[:MAX_BOXES]
    read: list[Found] = []
    for item in items:
        box = _read_item(item)
        if box is None:
            return None
        read.append(box)
    return read or None


def _read_item(item: Any) -> Found | None:
    """Read one box: a record, or bare corners."""
    if isinstance(item, Mapping):
        return _read_record(cast(Mapping[Any, Any], item))
    box = _read_corners(item)
    if box is None:
        return None
    return Found(box=box)


def _read_record(fields: Mapping[Any, Any]) -> Found | None:
    """Read a record with exactly one box; None where it has none, or could hide a second one."""
    record = {str(key).lower(): value for key, value in fields.items()}
    if len(record) < len(fields):
        return None  # "box" and "Box" in one record
    candidates = _boxes_of_named_edges(record)
    has_corner_key = False
    for key in CORNER_KEYS:
        if key not in record:
            continue
        has_corner_key = True
        box = _read_corners(record[key])
        if box is not None:
            candidates.append(box)
    # a list under any other key might be a second box
    containers = sum(isinstance(value, list | dict) for value in record.values())
    if len(candidates) != 1 or containers > has_corner_key:
        return None
    label = _first_value(record, LABEL_KEYS)
    written_confidence = _first_value(record, CONFIDENCE_KEYS)
    confidence = _number(written_confidence)
    if written_confidence is not None and confidence is None:
        return None
    name = "" if label is None else str(label)[:MAX_LABEL]
    return Found(box=candidates[0], label=name, confidence=confidence)


def _first_value(record: Mapping[str, Any], keys: Sequence[str]) -> Any:
    for key in keys:
        if key in record:
            return record[key]
    return None


def _read_corners(corners: Any) -> Box | None:
    """Read [x1, y1, x2, y2], [[x1, y1], [x2, y2]] or [[x1, y1, x2, y2]]."""
    if not isinstance(corners, list | tuple):
        return None
    edges = list(cast(Sequence[Any], corners))
    if len(edges) == 2:
        edges = _flattened(edges)
    if len(edges) == 1:
        if not isinstance(edges[0], list | tuple):
            return None
        edges = list(cast(Sequence[Any], edges[0]))
    if len(edges) != 4:
        return None
    return _box_of_numbers(edges)


def _flattened(pairs: Sequence[Any]) -> list[Any]:
    edges: list[Any] = []
    for pair in pairs:
        if isinstance(pair, list | tuple):
            edges += cast(Sequence[Any], pair)
    return edges


def _boxes_of_named_edges(record: Mapping[str, Any]) -> list[Box]:
    """Return the boxes that named edges make, one for each complete set of names."""
    named: list[Box] = []
    for names in EDGE_NAMES:
        box = _box_of_numbers([record.get(name) for name in names])
        if box is not None:
            named.append(box)
    return named


def _box_of_numbers(values: Sequence[Any]) -> Box | None:
    edges: list[float] = []
    for value in values:
        edge = _number(value)
        if edge is None:
            return None
        edges.append(edge)
    return Box(*edges)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None
