"""Read rows that are written as a chat: LLaVA, ShareGPT, OpenAI, transformers, TRL, verl.

The last turn of the user is the question, a turn of the assistant behind it the answer, and what
comes before is the context. A part that is a picture becomes the mark `<image>` at its place.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, cast

from gpg_vl.data.columns import cells
from gpg_vl.errors import shown
from gpg_vl.types import Turn

MARK = "<image>"
"""Place of a picture in a text."""
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
"""Roles of the formats, in small letters -> ours."""
_ROLE_KEYS = ("role", "from")
_CONTENT_KEYS = ("content", "value", "parts")
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
_OF_GEMINI = ("inlineData", "inline_data", "fileData", "file_data")
_OF_OUMI = ("image_path", "image_binary")
_PICTURE_PARTS = frozenset({"image", "image_url", "input_image", *_OF_GEMINI, *_OF_OUMI})
_PICTURE_KEYS = (
    *("image", "image_url", "url", "path", "bytes", "base64"),
    "source",  # Anthropic's {"type": "base64", "data": ...}
    *_OF_GEMINI,
    *_OF_OUMI,
    "content",
)
_ADDRESS_KEYS = ("url", "fileUri", "file_uri")
_WRITTEN_CHAT = re.compile(
    r"\s*\[\s*\{\s*(?:"
    r"[\"'](?:role|from|content|value)[\"']\s*:"  # [{"role": "user", ...
    r"|[^{}\[\]]{0,200}?[\"'](?:role|from)[\"']\s*:)"  # [{"weight": 1, "role": ...
)


class Chat(NamedTuple):
    """A chat as a question.

    Example:
        Chat("<image>How many?", (Turn("system", "Count."),), answer="4", images=[])
    """

    question: str
    """Words of the last turn of the user."""
    context: tuple[Turn, ...]
    """Turns before the question."""
    answer: str | None
    """Words of the assistant's turn behind the question; None = the chat ends with the question."""
    images: list[Any]
    """Pictures that stand in the chat itself, in order; empty = they are in a column of the row."""


class _Turn(NamedTuple):
    """A turn with its pictures."""

    role: str
    text: str
    pictures: list[Any]
    """Content of each picture's part; None for one that has only a place."""


def is_chat(value: Any) -> bool:
    """Return True for a list of turns, also where it is written as text or as lists of columns."""
    if isinstance(value, str):
        return _WRITTEN_CHAT.match(value) is not None
    value = cells.plain(value)
    if isinstance(value, Mapping):
        return _turns_of_columns(cast(Mapping[str, Any], value)) is not None
    if not isinstance(value, list) or not value:
        return False
    first = cast(list[Any], value)[0]
    if not isinstance(first, Mapping):
        return False
    return any(key in first for key in _ROLE_KEYS) or _is_pair(cast(Mapping[str, Any], first))


def read_chat(value: Any) -> Chat:
    """Read a chat.

    Raises:
        ValueError: it has no question, or a turn or part that cannot be asked.
    """
    turns = _turns(value)
    if [turn.role for turn in turns[-2:]] == ["assistant", "assistant"]:
        raise ValueError("the chat ends with two turns of the assistant, expected one answer")
    turns = _joined(turns)
    answer: str | None = None
    if turns and turns[-1].role == "assistant":
        answer = _answer(turns.pop())
    if not turns or turns[-1].role != "user":
        raise ValueError(_no_question(turns, answer))
    *before, question = turns
    if not question.text.strip():
        raise ValueError("the question, the last turn of the user, is empty")
    context = tuple(Turn(turn.role, turn.text) for turn in before)
    return Chat(question.text, context, answer, _images(turns))


def read_answer(value: Any) -> Any:
    """Return the words of an answer that is written as a turn of the assistant, as TRL does.

    Any other value is returned as it is.

    Raises:
        ValueError: it is a chat of other turns.
    """
    if not is_chat(value):
        return value
    turns = _turns(value)
    if [turn.role for turn in turns] != ["assistant"]:
        raise ValueError(
            f"the answer is a chat with the turns {shown([turn.role for turn in turns])}, expected "
            "one turn of the assistant"
        )
    return _answer(turns[0])


def _answer(turn: _Turn) -> str | None:
    if turn.pictures:
        raise ValueError("the answer, the last turn of the assistant, holds a picture")
    return turn.text or None  # an empty turn is to be filled by the model


def _no_question(turns: Sequence[_Turn], answer: str | None) -> str:
    roles = [turn.role for turn in turns] + ["assistant"] * (answer is not None)
    return (
        f"the chat has the turns {shown(roles)}, expected a turn of the user at its end, or before "
        "the answer of the assistant"
    )


def _images(turns: Sequence[_Turn]) -> list[Any]:
    """Return the pictures of all turns, which all have content, or none has."""
    pictures: list[Any] = []
    for turn in turns:
        pictures += turn.pictures
    given = [picture for picture in pictures if picture is not None]
    if given and len(given) < len(pictures):
        raise ValueError(
            f"{len(given)} of {len(pictures)} pictures stand in the chat, expected all of them or "
            "none; put them all into the chat, or all into the column `images`"
        )
    return given


# --- turns ----------------------------------------------------------------------------------------


def _joined(turns: Sequence[_Turn]) -> list[_Turn]:
    """Join turns of one role that follow each other."""
    joined: list[_Turn] = []
    for role, same in groupby(turns, key=lambda turn: turn.role):
        group = list(same)
        pictures: list[Any] = []
        for turn in group:
            pictures += turn.pictures
        text = "\n".join(turn.text for turn in group if turn.text)
        joined.append(_Turn(role, text, pictures))
    return joined


def _turns(value: Any) -> list[_Turn]:
    if isinstance(value, str):
        text = value
        value = cells.listed(text)
        if value is None:
            raise ValueError(f"the chat {shown(text)} is no list in JSON; write the turns as JSON")
    value = cells.plain(value)
    if isinstance(value, Mapping):
        value = _turns_of_columns(cast(Mapping[str, Any], value))
    if not isinstance(value, list) or not value:
        raise ValueError(f"the chat is {shown(cast(object, value))}, expected a list of turns")
    turns: list[_Turn] = []
    for item in cast(list[Any], value):
        if not isinstance(item, Mapping):
            raise ValueError(f"a turn is {shown(item)}, expected a mapping of role and content")
        fields = cast(Mapping[str, Any], item)
        turns += _pair(fields) if _is_pair(fields) else [_turn(fields)]
    return turns


def _turns_of_columns(columns: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the turns of {"from": ["human", "gpt"], "value": [...]}, as `datasets` gives them.

    None where the mapping is something else.
    """
    roles = _first(columns, _ROLE_KEYS)
    contents = _first(columns, _CONTENT_KEYS)
    if not (isinstance(roles, list) and isinstance(contents, list)):
        return None
    names = cast(list[Any], roles)
    texts = cast(list[Any], contents)
    if len(names) != len(texts):
        return None
    return [{"role": role, "content": text} for role, text in zip(names, texts, strict=True)]


def _is_pair(fields: Mapping[str, Any]) -> bool:
    """Return True for a question and its answer in one record, as in The Cauldron."""
    return {"user", "assistant"} <= fields.keys()


def _pair(fields: Mapping[str, Any]) -> list[_Turn]:
    return [
        _turn({"role": "user", "content": fields["user"]}),
        _turn({"role": "assistant", "content": fields["assistant"]}),
    ]


def _turn(fields: Mapping[str, Any]) -> _Turn:
    name = _first(fields, _ROLE_KEYS)
    role = _ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        raise ValueError(f"a turn has the role {shown(name)}, expected one of {', '.join(_ROLES)}")
    if fields.get("tool_calls"):
        raise ValueError("a turn of the assistant calls tools, which cannot be asked")
    text, pictures = _content(_first(fields, _CONTENT_KEYS))
    return _Turn(role, text.strip(), pictures)


def _first(fields: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """Return the value of the first key that has one."""
    for key in keys:
        if not cells.is_missing(fields.get(key)):
            return fields[key]
    return None


# --- content --------------------------------------------------------------------------------------


def _content(content: Any) -> tuple[str, list[Any]]:
    """Return the words of a turn's content with its marks, and its pictures."""
    if content is None:
        return "", []
    parts = cast(list[Any], content) if isinstance(content, list) else [content]
    text = ""
    after_text = False
    pictures: list[Any] = []
    for part in parts:
        if _kind(part) in _PICTURE_PARTS:
            picture = _picture(part)
            pictures.append(picture)
            text += MARK if picture is not None else _place(part)
            after_text = False
            continue
        words = _words(part)
        # templates put parts side by side; the words of two must not become one
        if after_text and words and not (text[-1:].isspace() or words[0].isspace()):
            text += "\n"
        text += words
        after_text = bool(words) or after_text
    return text, pictures


def _kind(part: Any) -> str:
    """Return the type of a part; a part without a type is known by its fields."""
    if isinstance(part, str):
        return "text"
    if not isinstance(part, Mapping):
        raise ValueError(f"a part of a turn is {shown(part)}, expected text or a mapping")
    fields = cast(Mapping[str, Any], part)
    kind = fields.get("type") or _filled(fields)
    if kind not in _TEXT_PARTS and kind not in _PICTURE_PARTS:
        raise ValueError(
            f"a part of a turn has the type {shown(kind)}, expected text, image or image_url"
        )
    return cast(str, kind)


def _filled(fields: Mapping[str, Any]) -> str:
    """Return the name of the field that has a value; tables fill the others with null."""
    names = [name for name, field in fields.items() if not cells.is_missing(field)]
    return "text" if "text" in names or not names else names[0]


def _words(part: Any) -> str:
    words = part
    if isinstance(part, Mapping):
        words = _first(cast(Mapping[str, Any], part), ("text", "content"))
    return "" if cells.is_missing(words) else cells.text_of(words, "text")


def _place(part: Mapping[str, Any]) -> str:
    """Return the mark of a picture in a column: `index` counts from 0, our marks from 1."""
    index = part.get("index")
    return f"<image {index + 1}>" if isinstance(index, int) else MARK


def _picture(part: Mapping[str, Any]) -> Any:
    """Return the content of a picture's part; None where it has only a place."""
    picture = _first(part, _PICTURE_KEYS)
    if isinstance(picture, Mapping):
        fields = cast(Mapping[str, Any], picture)
        # OpenAI's {"url": ..., "detail": ...}
        return _first(fields, _ADDRESS_KEYS) or fields
    return picture
