"""Boxes as models write them: lists, pairs, JSON and Python records, named corners, grounding tokens. Linear in the text, never raises.

`records` reads a text that is nothing but boxes in one well-formed spelling (the strict way); `found` picks boxes out of any text, also out
of broken JSON (the lenient way); both in the order in which they stand.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from gpg_vl import boxes
from gpg_vl.boxes import Box
from gpg_vl.parsing import markup

LONGEST = 20_000
"""Characters of the longest text that is parsed as JSON or as a Python literal."""
DEPTH = 12
"""Deepest nesting of lists and records."""
MOST = 1000
"""No answer holds more boxes; what follows is not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One box of an answer.

    Example:
        Found(box=Box(1, 2, 3, 4), label="cat", confidence=0.9)
    """

    box: Box
    label: str = ""
    """What the answer says is in it."""
    confidence: float | None = None
    """How sure the answer is, as written; None = it does not say."""


CORNERS = ("bbox_2d", "bbox", "box_2d", "box", "position", "coordinates", "coords", "bounding_box", "bboxes", "boxes")
"""Keys under which a record keeps its corners, lower case."""
LABELS = ("label", "class", "category", "name", "object", "category_name")
"""Keys under which a record keeps its class."""
CONFIDENCES = ("confidence", "score", "conf", "probability")
"""Keys under which a record keeps its confidence."""
_NAMES = (
    ("x1", "y1", "x2", "y2"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("left", "top", "right", "bottom"),
    ("x0", "y0", "x1", "y1"),
)
"""Names of the four corners, in their order."""
_NO_OBJECTS = frozenset({"[]", "no objects", "no object", "none", "没有", "无"})
_N = r"\s{0,8}([-+]?\d{1,12}(?:\.\d{0,12})?)\s{0,8}"
_Q = r"\s{0,8}[\"']([-+]?\d{1,12}(?:\.\d{0,12})?)[\"']\s{0,8}"
_S = r"([-+]?\d{1,12}(?:\.\d{0,12})?)"
_END = r"(?:\]|\Z)"
"""A list that the length limit cut off ends with the text."""
_G = r"\s{0,8}[-+]?\d{1,12}(?:\.\d{0,12})?\s{0,8}"
_JOINT = (
    r"\s{0,8}[,;]?\s{0,8}(?:\b(?:and|to)\b\s{0,8})?"
    r"(?:(?:the\s)?[\"']?\b(?:bottom|lower)[-_ ]right\b[\"']?(?:\scorner)?\s{0,4}(?:at|is|:|=)?\s{0,4}"
    r"|\(\s?x_?2\s?,\s?y_?2\s?\)\s?[=:]\s?)?"
)
_TOKENS = re.compile(r"<\|?/?(?:object_ref_start|object_ref_end|box_start|box_end|quad_start|quad_end|ref|box|bbox)\|?>")
_ANYWHERE = re.compile(
    rf"\[{_N},{_N},{_N},{_N}{_END}"
    rf"|\[\s{{0,8}}{_S}\s{{1,8}}{_S}\s{{1,8}}{_S}\s{{1,8}}{_S}\s{{0,8}}\]"
    rf"|\[{_Q},{_Q},{_Q},{_Q}{_END}"
    rf"|[(\[]{_N},{_N}[)\]]{_JOINT}[(\[]{_N},{_N}[)\]]"
    rf"|\({_N},{_N},{_N},{_N}\)"
    rf"|\{{?\s{{0,8}}((?:[\"']?[A-Za-z]\w{{0,5}}[\"']?\s{{0,8}}[:=]{_G}[,;]?\s{{0,8}}){{4}})"
)
_PLAIN = re.compile(
    rf"^(?=[ \t]{{0,8}}[\w\"'*>+-])"
    rf"(?:[ \t\"'*>-]{{0,8}}(?:the\s|final\s){{0,2}}(?:answer|bounding\sbox|box|bbox|bbox_2d|coordinates|location|position)[\"'*]{{0,3}}"
    rf"(?:\sis\b|\sare\b)?\s{{0,4}}[:=]?[*\"']{{0,3}})?{_N},{_N},{_N},{_N}[.\"'*]{{0,3}}\s{{0,8}}$",
    re.MULTILINE | re.IGNORECASE,
)
"""Four numbers that are a whole line, for answers without any bracket."""
_WIDE = str.maketrans("０１２３４５６７８９［］（）｛｝，．：；＝－【】、＂", '0123456789[](){},.:;=-[],"')
"""Full-width signs; NFKC would fold them too, but takes quadratic time on heaped accents."""
_NUMBERS = 20
"""Groups of `_ANYWHERE` that are one number."""
_NAMED = re.compile(rf"([A-Za-z]\w{{0,5}})[\"']?\s{{0,8}}[:=]{_N}")
_TOKEN = re.compile(
    r"\s*(?:(\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'|[-+]?(?:\d{1,15}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE][-+]?\d{1,3})?|[\[\](){}:,]|[A-Za-z]{4,5})|$)"
)
_DECIMAL = re.compile(r"\s?\d{0,12}\.?\d{1,12}\s?")
_CLOSING = {"[": "]", "(": ")"}
_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None, "null": None}
_RECORD = re.compile(r"\{[^{}]{1,2000}\}")
_FIELD = re.compile(
    r"[\"']?([A-Za-z_]\w{0,20})[\"']?\s{0,8}:\s{0,8}(?:\"([^\"\n]{0,200})\"|'([^'\n]{0,200})'"
    r"|([-+]?\d{0,12}\.?\d{1,12}(?:[eE][-+]?\d{1,3})?)(?=\s{0,8}(?:[,}]|$)))"
)


def records(text: str) -> list[Found] | None:
    """The boxes of an answer that is nothing but boxes, well spelt; None where it is anything more or less.

    Understood: what `boxes.read` understands; JSON or a Python literal, also in a code fence, of records such as
    {"bbox_2d": [x1, y1, x2, y2], "label": "cat", "confidence": 0.9} or {"x1": ..., "y1": ..., "x2": ..., "y2": ...}; and "No Objects".
    """
    plain = boxes.read(text)
    if plain is not None:
        return [Found(box=box) for box in plain[:MOST]]
    bare = markup.unwrapped(text)
    if markup.normalise(bare) in _NO_OBJECTS:
        return []
    content = literal(bare)
    return None if content is None else _of_items(content)


def found(text: str) -> list[Found]:
    """Every box that stands anywhere in a text."""
    cleaned = _TOKENS.sub(" ", text.translate(_WIDE))
    extras = _extras(cleaned)
    several: list[Found] = []
    for match in _ANYWHERE.finditer(cleaned) if _ANYWHERE.search(cleaned) else _PLAIN.finditer(cleaned):
        box = _of_match(match)
        if box is not None:
            label, confidence = next(extras(match.start()), ("", None))
            several.append(Found(box=box, label=label, confidence=confidence))
        if len(several) == MOST:
            break
    return several


def silent(text: str) -> bool:
    """Whether a text says that there is nothing to box."""
    return markup.normalise(markup.unwrapped(text)) in _NO_OBJECTS or "".join(text.split()) == "[]"


def literal(text: str) -> Any:
    """A JSON value or a Python literal of lists, records, strings and numbers; None where the text is neither, too long or too deep.

    A parser of its own, because both spellings come mixed, and because what is read comes from a model: nothing is evaluated.
    """
    if not 0 < len(text) <= LONGEST:
        return None
    tokens: list[str] = []
    place = 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None:
            return None
        tokens += [token[1]] if token[1] else []
        place = token.end()
    tokens.reverse()
    try:
        value = _value(tokens, 0)
    except (ValueError, IndexError):
        return None
    return None if tokens else value


def _value(tokens: list[str], depth: int) -> Any:
    """The next value; tokens are taken from the end of the reversed list."""
    token = tokens.pop()
    if depth > DEPTH:
        raise ValueError("nested too deep")
    if token == "{":
        return _record(tokens, depth)
    if token in {"[", "("}:
        return _list(tokens, _CLOSING[token], depth)
    if token[0] in "\"'":
        return token[1:-1]
    return _WORDS[token.lower()] if token.lower() in _WORDS else float(token)


def _list(tokens: list[str], closing: str, depth: int) -> list[Any]:
    items: list[Any] = []
    while tokens[-1] != closing:
        items.append(_value(tokens, depth + 1))
        if tokens[-1] == ",":
            tokens.pop()
        elif tokens[-1] != closing:
            raise ValueError("no comma between items")
    tokens.pop()
    return items


def _record(tokens: list[str], depth: int) -> dict[str, Any]:
    record: dict[str, Any] = {}
    while tokens[-1] != "}":
        key = tokens.pop()
        if key[0] not in "\"'" or tokens.pop() != ":" or key[1:-1] in record:
            raise ValueError("no key, or one twice")
        record[key[1:-1]] = _value(tokens, depth + 1)
        if tokens[-1] == ",":
            tokens.pop()
        elif tokens[-1] != "}":
            raise ValueError("no comma between fields")
    tokens.pop()
    return record


def _of_items(content: Any) -> list[Found] | None:
    several = isinstance(content, list) and not (len(cast(list[Any], content)) == 4 and _of_corners(content))
    items: list[Any] = list(cast(Any, content)) if several else [content]
    read = [_of_item(item) for item in items[:MOST]]
    return None if not read or None in read else cast(list[Found], read)


def _of_item(item: Any) -> Found | None:
    if not isinstance(item, Mapping):
        box = _of_corners(item)
        return None if box is None else Found(box=box)
    fields = cast(Mapping[Any, Any], item)
    record = {str(key).lower(): value for key, value in fields.items()}
    several = [box for key in CORNERS if key in record and (box := _of_corners(record[key]))] + _of_names(record)
    nested = sum(isinstance(value, list | dict) for value in record.values())
    if len(several) != 1 or len(record) < len(fields) or nested > any(key in record for key in CORNERS):
        return None  # a second box, under whatever key, must not hide behind the first
    label, confidence = (next((record[key] for key in keys if key in record), None) for keys in (LABELS, CONFIDENCES))
    number = _number(confidence)
    unread = confidence is not None and number is None
    return None if unread else Found(box=several[0], label="" if label is None else str(label)[:200], confidence=number)


def _of_corners(corners: Any) -> Box | None:
    if isinstance(corners, list | tuple) and len(cast(list[Any], corners)) == 2:
        flat: list[Any] = [
            edge for corner in cast(list[Any], corners) if isinstance(corner, list | tuple) for edge in cast(list[Any], corner)
        ]
        corners = flat
    if isinstance(corners, list | tuple) and len(cast(list[Any], corners)) == 1:
        corners = cast(list[Any], corners)[0]
    if not isinstance(corners, list | tuple) or len(cast(list[Any], corners)) != 4:
        return None
    edges = [_number(edge) for edge in cast(list[Any], corners)]
    return None if None in edges else Box(*cast(list[float], edges))


def _of_names(record: Mapping[str, Any]) -> list[Box]:
    """The boxes that named corners make: one for each complete set of names."""
    sets = [[_number(record.get(name)) for name in names] for names in _NAMES]
    return [Box(*cast(list[float], edges)) for edges in sets if None not in edges]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _of_match(match: re.Match[str]) -> Box | None:
    numbers = [group for group in match.groups()[:_NUMBERS] if group is not None]
    if numbers:
        return Box(*map(float, numbers))
    named = {name.lower(): float(value) for name, value in _NAMED.findall(match[0])}
    return next(iter(_of_names(named)), None)


def _extras(text: str) -> Any:
    """Label and confidence of the record around a place in the text; called with rising places."""
    spans = [(match.start(), match.end(), match[0]) for match in _RECORD.finditer(text)]
    where = 0

    def around(place: int) -> Iterator[tuple[str, float | None]]:
        nonlocal where
        while where < len(spans) and spans[where][1] <= place:
            where += 1
        if where < len(spans) and spans[where][0] <= place:
            yield _fields(spans[where][2])

    return around


def _fields(record: str) -> tuple[str, float | None]:
    label, confidence = "", None
    for key, double, single, number in _FIELD.findall(record):
        if key.lower() in LABELS:
            label = double or single or label
        elif key.lower() in CONFIDENCES and (number or _DECIMAL.fullmatch(double or single)):
            confidence = float(number or double or single)
    return label, confidence
