"""Read marks of pictures in a text: <image>, <image 2>, <|image_1|>, [IMG] and their kin.

A mark is the place of a picture. Marks without numbers are pictures in their order: the third mark
is the third picture. Marks with numbers name their pictures, counted from 1, or from 0 where one of
them is 0; the first mention of a number is the place, a later one is read as words ("image 2").
"""

import re
from collections.abc import Sequence

Pieces = list[str | int]
"""A text in pieces: words, and numbers of pictures, counted from 0, at their places."""

_NUMBER = r"[ _#:-]{{0,2}}(?P<number{}>\d{{1,4}})"
_MARKS = (
    # <image 1>, <image_1>, <img1>, <image1></image1>
    rf"<(?:image|img){_NUMBER.format(1)}>(?:</(?:image|img)[ _#:-]{{0,2}}\d{{1,4}}>)?",
    rf"<\|(?:image|img){_NUMBER.format(2)}\|>",  # <|image_1|> of Phi-3
    rf"\[(?:image|img){_NUMBER.format(3)}\]",  # [IMG_1]
    rf"\{{image{_NUMBER.format(4)}\}}",  # {image#1}
    r"<image>(?:\./|[^<>\n]{1,300}\.\w{2,4})?</image>",  # <image>./</image> of MiniCPM-V
    r"<img>(?:<IMG_CONTEXT>)+</img>|(?:<IMG_CONTEXT>)+",  # InternVL
    r"<img>(?:[^<>\n]{1,300}</img>)?",  # <img>a.png</img> of Qwen-VL: the row names its pictures
    r"<fake_token_around_image>(?:<image>)+<fake_token_around_image>",  # Idefics
    r"<\|begin_of_image\|>(?:<\|image\|>)+<\|end_of_image\|>",  # GLM
    r"<\|image_start\|>(?:<\|image\|>|<\|patch\|>)+<\|image_end\|>",  # Llama 4
    r"<\|media_(?:start|begin)\|>image<\|media_content\|><\|media_pad\|><\|media_end\|>",  # Kimi
    r"<image>|<image_?placeholder>|<image_?here>|<image_?content>|<image_token>|<image_pad>",
    r"<(?:image|img) ?/>|&lt;image&gt;",  # <image/>, and <image> as a web page writes it
    r"<\|image\|>|<\|image_pad\|>|<\|imgpad\|>|<\|media_pad\|>",
    r"<start_of_image>(?:<image_soft_token>)*(?:<end_of_image>)?|<image_soft_token>",  # Gemma 3
    r"!\[[^\[\]\n]{0,100}\]\([^()\s]{1,300}\)",  # ![](a.png) of Markdown
    r"\[(?:image|img)\]",  # [IMG] of Pixtral
)
_MARK = re.compile(
    # a picture's place may be written out: many <|image_pad|> between the two ends are one picture
    rf"<\|vision_start\|>\s*(?:(?:<\|image_pad\|>){{2,}}|(?:{'|'.join(_MARKS)}))\s*<\|vision_end\|>".replace(
        "(?P<number", "(?P<wrapped"
    )
    + "|"
    + "|".join(_MARKS),
    re.IGNORECASE,
)
_NAME = re.compile(r"<(img|image)>([^<>\n]{1,300}\.\w{2,4})</\1>", re.IGNORECASE)
"""Mark with the name of its picture."""
_OTHER_MEDIA = re.compile(
    r"<(?:video|audio)(?:[ _]?\d{1,4})?>|<\|(?:video|audio)(?:_pad|_\d{1,4})?\|>", re.IGNORECASE
)
_BLANK_LINE = re.compile(r"\A[ \t]*\r?\n\s*")


def split(text: str, count: int) -> Pieces:
    """Split a text at the marks of its pictures.

    A text without marks is one piece: its pictures have no place in it. Blanks and line breaks are
    left out behind marks that begin the text, and line breaks behind marks that are a whole line.

    Args:
        count: number of pictures that there are.

    Raises:
        ValueError: the marks do not agree with the number of pictures.

    Example:
        split("Is <image> brighter than <image>?", 2) == ["Is ", 0, " brighter than ", 1, "?"]
    """
    return split_all([text], count)[0]


def split_all(texts: Sequence[str], count: int) -> list[Pieces]:
    """Split texts that share their pictures, for instance the turns of a chat."""
    marks = [list(_MARK.finditer(text)) for text in texts]
    numbers: list[int | None] = []
    for found in marks:
        numbers += map(_number, found)
    start = 0 if 0 in numbers else 1
    if numbers:
        first = next(found[0][0] for found in marks if found)
        _check_numbers(numbers, count, first, start)
    _check_media(texts)
    pieces: list[Pieces] = []
    placed: set[int] = set()
    for text, found in zip(texts, marks, strict=True):
        pieces.append(_pieces(text, found, placed, start))
    return pieces


def check(text: str, count: int) -> None:
    """Check that the marks of a text agree with the number of pictures.

    Raises:
        ValueError: they do not; the message says both numbers.
    """
    split_all([text], count)


def has_marks(text: str) -> bool:
    """Return True where a text has a mark of a picture."""
    return _MARK.search(text) is not None


def names_in(texts: Sequence[str]) -> list[str]:
    """Return the names of pictures that stand inside the marks of some texts, in order.

    Example:
        names_in(["Picture 1: <img>a.png</img> What is it?"]) == ["a.png"]
    """
    names: list[str] = []
    for text in texts:
        names += [name.strip() for _, name in _NAME.findall(text)]
    return names


def _number(mark: "re.Match[str]") -> int | None:
    """Return the number of a mark as it is written; None where it has none."""
    for digits in mark.groups():
        if digits is not None:
            return int(digits)
    return None


def _check_numbers(numbers: Sequence[int | None], count: int, first: str, start: int) -> None:
    """Raise where the numbers of all marks do not agree with the number of pictures.

    Args:
        first: the first mark as it is written, for messages.
        start: number of the first picture.
    """
    named = {number for number in numbers if number is not None}
    if not named:
        if len(numbers) != count:
            raise ValueError(
                f"the text has {len(numbers)} marks of pictures ({first}), the row has {count} "
                "pictures; expected one mark for each, or none at all"
            )
        return
    if None in numbers:
        raise ValueError(
            f"the text has marks with numbers ({len(named)}) and without "
            f"({numbers.count(None)}); number all of them or none"
        )
    highest = max(named)
    expected = range(start, start + count)
    if highest not in expected:
        raise ValueError(
            f"the text has marks of the pictures {min(named)} to {highest}, the row has {count} "
            f"pictures; expected one number for each, from {start} on"
        )
    if len(named) < count:
        missing = min(set(expected) - named)
        raise ValueError(
            f"the text has marks of {len(named)} pictures, the row has {count}; picture {missing} "
            "has no mark: expected one for each, or none at all"
        )


def _check_media(texts: Sequence[str]) -> None:
    """Raise where a text has the mark of a video or a sound, which no row can hold."""
    for text in texts:
        other = _OTHER_MEDIA.search(text)
        if other is not None:
            raise ValueError(
                f"the text has the mark {other[0]}, expected only marks of pictures: videos and "
                "sounds are not read; take the mark out, or give frames as pictures"
            )


def _pieces(text: str, marks: "Sequence[re.Match[str]]", placed: set[int], first: int) -> Pieces:
    """Split one text at its marks.

    Args:
        placed: numbers of the pictures that have their place; those of this text are added.
        first: number of the first picture in the marks.
    """
    if not marks:
        return [text]
    pieces: Pieces = []
    words = ""
    start = 0
    for mark in marks:
        words += text[start : mark.start()]
        start = mark.end()
        number = _number(mark)
        place = len(placed) if number is None else number - first
        if place in placed:
            words += f"image {number}"
            continue
        placed.add(place)
        _add_words(pieces, words)
        pieces.append(place)
        words = ""
    _add_words(pieces, words + text[start:])
    return pieces


def _add_words(pieces: Pieces, words: str) -> None:
    """Add the words that stand before a mark or at the end."""
    texts = [piece for piece in pieces if isinstance(piece, str)]
    if pieces and not texts:  # nothing but pictures so far
        words = words.lstrip()
    elif pieces and texts[-1].endswith("\n"):  # the picture began its line
        words = _BLANK_LINE.sub("", words, count=1)
    elif not words.strip() and not pieces:  # blanks before the first picture
        words = ""
    if words:
        pieces.append(words)
