"""Convert rows to samples and write samples as rows.

A row is a mapping with the fields of `Sample`: id, question, images, answer_kind, answer, choices,
frame, answer_image, solution, tags. Other columns are kept for a user's own verifiers. What a cell
may hold is decided by one module for each kind of cell: `picture_cells`, `options`, `truths`,
`true_boxes`, `chats`.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from gpg_vl.config.schema import Source
from gpg_vl.data.columns import (
    cells,
    chats,
    object_marks,
    options,
    picture_cells,
    true_boxes,
    true_options,
    truths,
)
from gpg_vl.data.columns.chats import Chat
from gpg_vl.data.columns.options import Options
from gpg_vl.data.columns.picture_cells import Picture
from gpg_vl.errors import shown
from gpg_vl.parsing import image_marks
from gpg_vl.parsing.letters import letters_of
from gpg_vl.pictures import picture_size
from gpg_vl.types import Sample, Size, Turn
from gpg_vl.verifiers.boxes import DECLARED

NEEDED = ("question", "answer_kind", "answer")
"""Columns that every row must have."""
CHAT_COLUMNS = ("conversations", "messages", "prompt", "conversation", "texts")
"""Columns that hold the question as a chat, in rows without a question."""
PICTURE_COLUMNS = ("images", "image")
BOX_KINDS = {"boxes", "detection"}
NUMBER_KINDS = {"number", "value", "expression"}
_KINDS_WITHOUT_BOXES = NUMBER_KINDS | {"choice", "label"}
_FIELDS = (
    "id",
    "question",
    "answer_kind",
    "answer",
    "choices",
    "frame",
    "answer_image",
    "solution",
    "tags",
    "sizes",
)
"""Columns that become fields of a sample, beside those of pictures."""
_WITH_SIGNS = re.compile(r"\d+(?:[.,]\d+)+")
"""Digits with signs between them."""
_WITH_COMMA = re.compile(r"(\d{1,3}(?:\.\d{3})+|\d+)(?:,(\d+))?")
"""A number whose decimal sign is a comma; points stand before each three digits."""
_MAY_BE_DECIMAL = re.compile(r"\s*[-+]?\d+,(?:\d{1,2}|\d{4,})\s*")  # 2,5; but 1,234 is a thousand


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFormat:
    """Declarations on the cells of a source, and the folder of its pictures."""

    image_root: Path | None = None
    """Folder that image paths are relative to and must not leave; None = there is none, and only
    absolute paths are read."""
    follow_links: bool = False
    """Links inside that folder may lead out of it."""
    answer_index: Literal[0, 1] | None = None
    """Number of the first option, where truths are places of options."""
    box_format: str = "xyxy"
    decimal: str = "."
    downloaded: Mapping[str, Path | ValueError] = field(default_factory=dict[str, Any])
    """File of each downloaded picture, or the reason why there is none, by address."""
    size_of: Callable[[Path | bytes], Size] = picture_size
    """Returns width and height of a picture in pixels."""


def sample_of(
    row: Mapping[str, Any], source: Source, *, row_format: RowFormat, origin: str
) -> Sample:
    """Convert a row of a source to a sample: columns are renamed and defaults filled in.

    Args:
        row: the row in the source's column names.
        source: the names (`columns`) and values (`defaults`).
        row_format: declarations on the cells.
        origin: the id of a row without one.

    Raises:
        ValueError: a column is missing, or a value is not valid.
    """
    return checked(renamed(row, source), row_format=row_format, origin=origin)


def renamed(row: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """Return the values of a row under our column names.

    A column that is named under `columns:` wins over one of our own name, also where its cell is
    empty. A missing cell takes the value under `defaults:`.

    Raises:
        ValueError: the row has no such column.
    """
    named: dict[str, Any] = {}
    taken: set[str] = set()
    for our_column, theirs in source.columns.items():
        if isinstance(theirs, tuple):
            values = [cells.dotted(row, name) if cells.has(row, name) else None for name in theirs]
            named[our_column] = _joined(our_column, values)
            taken |= set(theirs)
        elif cells.has(row, theirs):
            named[our_column] = cells.dotted(row, theirs)
            taken.add(theirs)
        elif our_column in NEEDED and our_column not in source.defaults:
            raise ValueError(
                f"columns: {our_column}: the row has no column {shown(theirs)}; it has "
                f"{_names(row)}"
            )
    if "system" in named and not cells.is_missing(named["system"]):
        # a turn, so that it is known for what it is also beside a question that is no chat
        named["system"] = Turn("system", cells.text_of(named["system"], "system"))
    others = {name: value for name, value in row.items() if name not in taken}
    if set(PICTURE_COLUMNS) & set(source.columns):
        for name in PICTURE_COLUMNS:
            others.pop(name, None)
    values = {**others, **named}
    for name, value in source.defaults.items():
        if cells.is_missing(values.get(name)):
            values[name] = value
    return values


def _joined(our_column: str, values: Sequence[Any]) -> Any:
    """Join the cells of several columns: of options, of pictures, of the numbers of a box..."""
    if our_column == "choices":
        return options.from_columns(values)
    # an empty one keeps its place: without it <image 3> would be the second picture
    return [None if cells.is_missing(value) else value for value in values]


def checked(
    values: Mapping[str, Any], *, origin: str, row_format: RowFormat | None = None
) -> Sample:
    """Convert a row in our own column names to a sample.

    Images are opened to read their sizes, but not decoded.

    Args:
        values: the row.
        origin: the id of a row without one.
        row_format: declarations on the cells.

    Raises:
        ValueError: a needed column is missing, or a value is not valid.
    """
    row_format = row_format or RowFormat()
    chat = _chat(values)
    kind = cells.text_of(_needed(values, "answer_kind"), "answer_kind")
    images = _images(values, chat, row_format)
    sizes = tuple(row_format.size_of(image) for image in images)
    others = _of_other_meaning(values, kind)
    ours = {name: value for name, value in values.items() if name not in others}
    if not sizes:
        sizes = _declared_sizes(ours.get("sizes"))
    found = _options(ours.get("choices"), kind)
    question = _question(ours, chat)
    if kind == "choice":
        true_options.check_question(question, found)
    answer, answer_image = _answer(ours, kind, chat, found, row_format)
    tags = _tags(ours.get("tags"))
    columns: dict[str, Any] = {}
    taken = {*_FIELDS, *PICTURE_COLUMNS, _chat_column(ours)} - others
    if tags is None:
        taken.remove("tags")
    context, question = _with_names(_context(ours, chat), question, ours)
    if context:
        taken.add("system")
    for name, value in values.items():
        if name not in taken:
            columns[name] = value
    return Sample(
        id=_text(ours, "id", origin),
        question=question,
        context=context,
        images=images,
        sizes=sizes,
        answer_kind=kind,
        answer=answer,
        choices=found.choices,
        letters=found.letters,
        frame=_text(ours, "frame", "pixels"),
        answer_image=answer_image,
        solution=_text(ours, "solution", ""),
        tags=tags or {},
        columns=columns,
    )


# --- the question ---------------------------------------------------------------------------------


def _chat(values: Mapping[str, Any]) -> Chat | None:
    """Return the chat that a row asks with; None where its question is a text."""
    name = _chat_column(values)
    if name:
        return chats.read_chat(values[name])
    for column in CHAT_COLUMNS:
        if cells.is_missing(values.get("question")) and isinstance(values.get(column), list):
            raise ValueError(
                f"{column} is {shown(values[column])}, expected a list of turns such as "
                "{role: user, content: ...}"
            )
    return None


def _chat_column(values: Mapping[str, Any]) -> str:
    """Return the name of the column whose chat asks the question; empty = none does."""
    question = values.get("question")
    if not cells.is_missing(question):
        return "question" if chats.is_chat(question) else ""
    for name in CHAT_COLUMNS:
        if chats.is_chat(values.get(name)):
            return name
    return ""


def _question(values: Mapping[str, Any], chat: Chat | None) -> str:
    if chat is not None:
        return cells.text_of(chat.question, "question")
    question = cells.text_of(_needed(values, "question"), "question")
    if question.strip() in cells.WRITTEN_NULLS:
        raise ValueError(
            f"question is missing: got the text {shown(question)}, which pandas writes for an "
            "empty cell"
        )
    return question


def _context(values: Mapping[str, Any], chat: Chat | None) -> tuple[Turn, ...]:
    """Return the turns before the question.

    ShareGPT has the system message of a chat in a column `system`; beside a question that is no
    chat such a column may be anything, and counts where it is named under `columns:`.
    """
    turns = () if chat is None else chat.context
    system = values.get("system")
    if chat is not None and isinstance(system, str) and system.strip():
        system = Turn("system", cells.text_of(system, "system"))
    if isinstance(system, Turn) and not any(turn.role == "system" for turn in turns):
        return (system, *turns)
    return turns


def _with_names(
    context: tuple[Turn, ...], question: str, values: Mapping[str, Any]
) -> tuple[tuple[Turn, ...], str]:
    """Fill the marks of named objects in the turns and the question."""
    texts = [*(turn.text for turn in context), question]
    *before, question = object_marks.filled(texts, values.get("objects"))
    turns = [turn._replace(text=text) for turn, text in zip(context, before, strict=True)]
    return tuple(turns), question


def _needed(values: Mapping[str, Any], name: str) -> Any:
    value = values.get(name)
    if cells.is_missing(value):
        raise ValueError(
            f"column {name!r} is missing or empty; the row has {_names(values)}: name it under "
            "`columns:` or set it under `defaults:`"
        )
    return value


def _names(row: Mapping[str, Any]) -> str:
    return shown(list(row)).strip("[]")


def _text(values: Mapping[str, Any], name: str, default: str) -> str:
    """Return a cell as text; numbers are written as they are."""
    value = values.get(name)
    if cells.is_missing(value):
        return default
    plain = cells.plain(value)
    if isinstance(plain, int) and not isinstance(plain, bool):
        return str(plain)
    return cells.text_of(plain, name)


# --- pictures -------------------------------------------------------------------------------------


def addresses_of(row: Mapping[str, Any], source: Source) -> list[str]:
    """Return the addresses on the web of a row's pictures.

    Raises:
        ValueError: the row, or its chat, cannot be read.
    """
    values = renamed(row, source)
    found = _pictures(values, _chat(values))
    return [str(picture) for picture in found if picture_cells.is_url(picture)]


def _picture_cell(values: Mapping[str, Any]) -> Any:
    """Return the cell that holds the pictures of a row: `images`, or `image` where it is empty.

    Raises:
        ValueError: both hold pictures, and not the same ones.
    """
    filled = [name for name in PICTURE_COLUMNS if not cells.is_missing(values.get(name))]
    if not filled:
        return None
    if len(filled) == 2:
        several, one = (picture_cells.pictures_of(values[name]) for name in filled)
        if one and several and one != several:
            raise ValueError(
                "both `images` and `image` hold pictures; name the right one under `columns:`"
            )
        if not several:
            return values[filled[1]]
    return values[filled[0]]


def _pictures(values: Mapping[str, Any], chat: Chat | None) -> list[Picture]:
    """Return the pictures of a row or of its chat, as they are named there."""
    found = picture_cells.pictures_of(_picture_cell(values))
    if chat is None or not chat.images:
        return found or pictures_in_words(values.get("question"), chat)
    in_chat = picture_cells.pictures_of(chat.images)
    if found and found != in_chat:
        raise ValueError(
            "the chat holds pictures, and the row beside it other ones; expected them in one place"
        )
    return in_chat


def pictures_in_words(question: Any, chat: Chat | None) -> list[Picture]:
    """Return the pictures that a question and the turns before it name in their marks."""
    texts = [question] if isinstance(question, str) else []
    if chat is not None:
        texts = [*(turn.text for turn in chat.context), chat.question]
    return list(image_marks.names_in(texts))


def _images(
    values: Mapping[str, Any], chat: Chat | None, row_format: RowFormat
) -> tuple[Path | bytes, ...]:
    images: list[Path | bytes] = []
    for picture in _pictures(values, chat):
        if isinstance(picture, bytes):
            images.append(picture)
        elif picture_cells.is_url(picture):
            images.append(_downloaded(str(picture), row_format))
        else:
            images.append(_resolved(picture, row_format))
    return tuple(images)


def _resolved(picture: str | Path, row_format: RowFormat) -> Path:
    root = row_format.image_root
    path = picture_cells.resolve(picture, root, follow_links=row_format.follow_links)
    if root is None and not path.is_absolute():
        raise ValueError(
            f"picture {shown(str(picture))} is a relative path, and a data set of the hub has no "
            "folder; set image_root to the folder of the pictures"
        )
    return path


def _downloaded(address: str, row_format: RowFormat) -> Path:
    found = row_format.downloaded.get(address)
    if found is None:
        raise ValueError(
            f"picture {shown(address)} is an address; download it first, or list its host under "
            "image_hosts: [HOST]"
        )
    if isinstance(found, ValueError):
        raise found
    return found


def _of_other_meaning(values: Mapping[str, Any], kind: str) -> set[str]:
    """Return columns of a row without boxes that are called as ours are, and hold something else.

    A `frame` may be that of a video there, and `answer_image` the picture of a solution.
    """
    others: set[str] = set()
    if kind not in _KINDS_WITHOUT_BOXES:
        return others
    frame = cells.plain(values.get("frame"))
    # a list: what stands there need not be hashable
    if not cells.is_missing(frame) and frame not in list(DECLARED):
        others.add("frame")
    try:
        _number_of_image(values.get("answer_image"))
    except ValueError:
        others.add("answer_image")
    return others


def _declared_sizes(sizes: Any) -> tuple[Size, ...]:
    """Read the column `sizes` of a row without images.

    Sizes are enough to score recorded boxes, but not to ask the question.
    """
    if cells.is_missing(sizes):
        return ()
    try:
        declared = tuple((int(width), int(height)) for width, height in sizes)
    except (TypeError, ValueError, OverflowError):  # the last is that of infinity
        raise ValueError(
            f"sizes is {shown(sizes)}, expected a list of [width, height] in pixels"
        ) from None
    for size in declared:
        if min(size) < 1:
            raise ValueError(f"sizes is {shown(sizes)}, expected positive pixels")
    return declared


# --- options and truth ----------------------------------------------------------------------------


def _options(cell: Any, kind: str) -> Options:
    if isinstance(cell, Options):  # from columns of their own
        return cell
    if cells.is_missing(cell):
        return Options((), ())
    return options.read_options(cell, lettered=kind == "choice")


def _answer(
    values: Mapping[str, Any],
    kind: str,
    chat: Chat | None,
    found: Options,
    row_format: RowFormat,
) -> tuple[Any, int]:
    """Return the truth of a row, and the number of the image that its boxes name; 0 = none."""
    value = values.get("answer")
    if cells.is_missing(value) and chat is not None and chat.answer is not None:
        value = chat.answer
    else:
        value = chats.read_answer(_needed(values, "answer"))
    answer = truths.read_truth(value, kind, found.choices)
    declared = _number_of_image(values.get("answer_image"))
    if kind in BOX_KINDS:
        boxes = true_boxes.read_boxes(answer, row_format.box_format)
        if declared and boxes.image and boxes.image != declared:
            raise ValueError(
                f"answer_image is {declared}, but the boxes name image {boxes.image}; expected one"
            )
        return boxes.answer, declared or boxes.image
    if kind == "choice":
        return true_options.read_truth(answer, found, row_format.answer_index), declared
    if kind in NUMBER_KINDS and row_format.decimal == ",":
        answer = _with_decimal_point(answer)
    elif kind in NUMBER_KINDS and isinstance(answer, str) and _MAY_BE_DECIMAL.fullmatch(answer):
        raise ValueError(
            f"answer {shown(answer)} has a comma; if that is its decimal sign, set decimal: ','"
        )
    return answer, declared


def _with_decimal_point(answer: Any) -> Any:
    """Write 1.234,5 as 1234.5, also inside a list.

    Raises:
        ValueError: a number is not written with a decimal comma.
    """
    if isinstance(answer, list):
        return [_with_decimal_point(each) for each in cast(list[Any], answer)]
    if not isinstance(answer, str):
        return answer
    return _WITH_SIGNS.sub(_rewritten, answer)


def _rewritten(written: "re.Match[str]") -> str:
    number = _WITH_COMMA.fullmatch(written[0])
    if number is None:
        raise ValueError(
            f"answer holds {shown(written[0])}, which is no number with a decimal comma, such as "
            "2,5 or 1.234,5; set decimal: '.' if its decimal sign is a point"
        )
    whole = number[1].replace(".", "")
    return f"{whole}.{number[2]}" if number[2] else whole


def _number_of_image(value: Any) -> int:
    if cells.is_missing(value):
        return 0
    number = cells.plain(value)
    if isinstance(number, str) and number.strip().isdecimal():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"answer_image is {shown(value)}, expected 1, 2...: 1 is the first image")
    return number


def _tags(tags: Any) -> dict[str, str] | None:
    """Return tags with their values as text; None where the column is another one of that name.

    Tags without a value are dropped.
    """
    if cells.is_missing(tags):
        return {}
    if isinstance(tags, str):
        tags = cells.mapped(tags)
    if not isinstance(tags, Mapping):
        return None
    texts: dict[str, str] = {}
    for name, value in cast(Mapping[Any, Any], tags).items():
        if not cells.is_missing(value):
            texts[str(name)] = str(cells.plain(value))
    return texts


# --- writing --------------------------------------------------------------------------------------


def write(samples: Iterable[Sample], folder: Path) -> int:
    """Write `samples.jsonl` and `images/` into a folder, and return the number of rows.

    Samples are written one by one; the file gets its name when it is complete.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    unfinished = folder / "samples.jsonl.part"
    count = 0
    # half of a surrogate pair is written as \ud83d, which JSON reads back
    with unfinished.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for sample in samples:
            count += 1
            row = _row(sample, folder, count)
            file.write(json.dumps(row, ensure_ascii=False, default=_as_json) + "\n")
    unfinished.replace(folder / "samples.jsonl")
    return count


def _row(sample: Sample, folder: Path, number: int) -> dict[str, Any]:
    """Return the row of a sample, and write its images beside the file."""
    names: list[str] = []
    for index, image in enumerate(sample.images):
        if isinstance(image, bytes):
            content, suffix = image, ".png"
        else:
            content, suffix = image.read_bytes(), image.suffix
        name = f"images/{number:06d}_{index}{suffix}"
        (folder / name).write_bytes(content)
        names.append(name)
    row: dict[str, Any] = {
        "id": sample.id,
        "question": _written_question(sample),
        "answer_kind": sample.answer_kind,
        "answer": sample.answer,
        "choices": _written_options(sample),
        "frame": sample.frame,
        "solution": sample.solution,
        "tags": dict(sample.tags),
    }
    if sample.answer_image:
        row["answer_image"] = sample.answer_image
    if sample.sizes and not sample.images:
        row["sizes"] = sample.sizes
    return {**sample.columns, **row, "images": names}


def _written_question(sample: Sample) -> str | Sequence[Mapping[str, str]]:
    """Return the question, or the chat that it ends."""
    if not sample.context:
        return sample.question
    turns = [*sample.context, Turn("user", sample.question)]
    return [{"role": turn.role, "content": turn.text} for turn in turns]


def _written_options(sample: Sample) -> Sequence[str] | Mapping[str, str]:
    """Return the options as a list, or by letter where a list would be read otherwise."""
    letters = letters_of(sample.choices, sample.letters)
    if sample.answer_kind != "choice" or len(letters) < len(sample.choices):
        return sample.choices
    if not sample.letters and options.from_columns(sample.choices) == Options(sample.choices):
        return sample.choices
    return dict(zip(letters, sample.choices, strict=True))


def _as_json(value: Any) -> Any:
    """Convert a value that JSON does not have: a picture becomes base64, a date ISO text."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    plain = cells.plain(value)
    return str(value) if plain is value else plain
