"""Read the answer's text out of its markup: answer blocks, boxes, bold, code fences, JSON fields.

Pure Python; never raises; linear in the text. A reader returns what it read, or None. Whether that
reading counts is decided by the verifier. Options are read by `choices`, numbers by `numbers` and
`stated_numbers`, values with units by `quantities`, boxes by `boxes`.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import TypeVar

Reading = TypeVar("Reading")

SPECIAL_TOKEN = re.compile(r"<\|[^<>|]{1,64}\|>")
"""A chat or vision token such as <|image_pad|> in the decoded text."""
MAX_COMPARED = 2000
"""Characters of the longest text that is normalised. Longer texts are compared as they are: no
option is that long, and normalising many combining accents takes quadratic time."""
MAX_NESTED_MARKUP = 8
"""Layers of markup that are removed from one text, for example `**$\\boxed{B}$**` has three."""

_END_TOKENS = re.compile(
    r"<s>|</s>|"  # Llama 2
    r"<\|(?:im_end|im_start|endoftext|eot_id|end|begin_of_text|eos|bos|end_of_text)\|>|"  # Qwen
    r"<end_of_turn>|<eos>|<bos>"  # Gemma
)
_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\s*\{")
_PAIRED_MARKUP = (
    ("**", "**"),
    ("__", "__"),
    ("`", "`"),
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ('"', '"'),
    ("“", "”"),
    ("*", "*"),
)
"""Opening and closing marks, the longer ones first: `**B**` is bold, not two stars in stars."""
_COMMAND = re.compile(r"\\(?:boxed|text|textbf|textit|textrm|mathrm|mathbf|mbox|rm|bf)\s*\{")
_TYPED = str.maketrans("‘’“”‐‑‒–−", "''\"\"-----")
"""Quotes and hyphens of printed texts -> those of a keyboard, which models write."""
_PUNCTUATION = " .,;:!?\"'"
_FIELD = re.compile(
    # the key: "answer":
    r"[\"'](?:final[_ ]?answer|answer|count|number|value|result|total|choice|option)[\"']"
    r"\s{0,8}:\s{0,8}"
    # the value: "big dog", 'big dog' (both perhaps cut off before the closing quote), or 14
    r"(?:\"((?:[^\"\\\n]|\\.){0,300})|'((?:[^'\\\n]|\\.){0,300})|([^\s,\"'{}\[\]]{1,40}))",
    re.IGNORECASE,
)


def only_answer(text: str) -> str:
    """Return the inside of the one answer block of an otherwise malformed text.

    Empty where there is no block or several, and where the text has special tokens.
    """
    if SPECIAL_TOKEN.search(text) or text.count("<answer>") != 1 or text.count("</answer>") != 1:
        return ""
    return text.partition("<answer>")[2].partition("</answer>")[0].strip()


def last_answer(text: str) -> str:
    """Return the inside of the last complete `<answer>` block, or the whole text where none is.

    For answers of models that were not trained on the format. A thought, all before `</think>`,
    and turn-end tokens around the answer (`</s>`, `<|im_end|>`) are left out.
    """
    thought, _, behind = text.rpartition("</think>")
    if not behind.strip():
        thought, behind = "", text
    inside = _last_block(text, len(thought))
    if inside is None:
        return _without_end_tokens(behind)
    # the block may have begun before the thought
    return _without_end_tokens(inside.rpartition("</think>")[2])


def _last_block(text: str, start: int) -> str | None:
    """Return the inside of the last complete `<answer>` block; None where there is none.

    Args:
        start: blocks that end before this place do not count.
    """
    opened: int | None = None
    inside: str | None = None
    for tag in _ANSWER_TAG.finditer(text):
        is_closing = bool(tag[1])
        if not is_closing:
            opened = tag.end()
        elif opened is not None:
            if tag.start() >= start:
                inside = text[opened : tag.start()]
            opened = None
    return inside


def _without_end_tokens(text: str) -> str:
    """Remove the turn-end tokens before and after a text."""
    tokens = list(_END_TOKENS.finditer(text))
    start = 0
    end = len(text)
    for token in tokens:
        if text[start : token.start()].strip():
            break
        start = token.end()
    for token in reversed(tokens):
        if token.start() < start or text[token.end() : end].strip():
            break
        end = token.start()
    return text[start:end].strip()


def boxed(text: str) -> list[str]:
    r"""Return the insides of all complete `\boxed{...}`, in order; nested braces are matched."""
    if "\\boxed" not in text:
        return []
    closing_braces = _closing_braces(text)
    insides: list[str] = []
    for match in _BOXED.finditer(text):
        end = closing_braces.get(match.end() - 1)
        if end is not None:
            insides.append(text[match.end() : end].strip())
    return insides


def _closing_braces(text: str) -> dict[int, int]:
    """Map the index of each opening brace to that of its closing brace; unclosed ones are left out.

    One pass over the text, because a text of a million opening braces must not take quadratic time.
    """
    open_braces: list[int] = []
    closing_braces: dict[int, int] = {}
    for match in re.finditer(r"[{}]", text):
        if match[0] == "{":
            open_braces.append(match.start())
        elif open_braces:
            closing_braces[open_braces.pop()] = match.start()
    return closing_braces


def unwrapped(text: str) -> str:
    r"""Remove the markup around the whole of a short text.

    Markup is bold, code, dollar signs, `\boxed{}`, `\text{}`, a code fence and quotes.
    """
    bare = text.strip()
    for _ in range(MAX_NESTED_MARKUP):
        inner = _without_outer_markup(bare)
        if inner == bare or len(bare) > MAX_COMPARED:
            return bare
        bare = inner
    return bare


def _without_outer_markup(text: str) -> str:
    """Remove the outermost layer of markup; a text without any is returned as it is."""
    if text.startswith("```") and text.endswith("```") and len(text) > 6:
        return _inside_fence(text[3:-3]).strip()
    # the full stop may stand behind the markup: "**B**."
    without_stop = text.rstrip(".。 ")
    for opening, closing in _PAIRED_MARKUP:
        ended = without_stop
        if closing == '"':
            ended = text
        inside = ended[len(opening) : -len(closing)]
        if (
            len(ended) > len(opening) + len(closing)
            and ended.startswith(opening)
            and ended.endswith(closing)
            and closing not in inside
        ):
            return inside.strip()
    command = _COMMAND.match(text)
    if command is not None and without_stop.endswith("}"):
        last = len(without_stop) - 1
        if _closing_braces(without_stop).get(command.end() - 1) == last:
            return without_stop[command.end() : last].strip()
    return text


def _inside_fence(inside: str) -> str:
    """Remove the language from the first line of a code fence: "json\\n[...]" -> "[...]"."""
    if re.match(r"[A-Za-z]*\n", inside):
        return inside.partition("\n")[2]
    return inside


def normalise(text: str) -> str:
    """Fold a text and remove its outer punctuation, so that option texts can be compared."""
    return stripped(folded(text), _PUNCTUATION)


def stripped(text: str, marks: str) -> str:
    """Remove marks at both ends of a text; the point of `.5` is none of them, that of `...5` is."""
    words = text.strip(marks)
    before = text[: len(text) - len(text.lstrip(marks))]
    is_decimal = before.endswith(".") and not before.endswith("..") and words[:1].isdecimal()
    return "." + words if is_decimal else words


def folded(text: str) -> str:
    """Normalise a text to NFKC and to plain quotes and hyphens, in one case with single spaces."""
    if len(text) > MAX_COMPARED:
        return text
    typed = unicodedata.normalize("NFKC", text).translate(_TYPED)
    return " ".join(typed.casefold().split())


def field(text: str) -> str | None:
    """Return the value of the one key such as "answer" of a JSON record.

    The record may stand in a code fence, and it may be cut off. None where the text is no such
    record, or has several such keys.
    """
    bare = text.lstrip("` \t\n").removeprefix("json").lstrip()
    if not bare.startswith(("{", "[{")):
        return None
    matches = list(_FIELD.finditer(bare[:MAX_COMPARED]))
    if len(matches) != 1:
        return None
    for value in matches[0].groups():
        if value:
            return value
    return ""


def agreed(readings: Iterable[Reading]) -> Reading | None:
    """Return the one distinct reading; None where there is none, or where readings differ."""
    distinct = set(readings)
    if len(distinct) == 1:
        return distinct.pop()
    return None
