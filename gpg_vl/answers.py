"""Reading an answer out of text: blocks, letters, words, numbers. Pure Python, never raises, linear in the text.

A reader returns what it read or None; it does not judge. Which readings count is the verifier's business. What stands here is read from
a text that is nothing but the answer; letters stated in prose are read by `statements`, values with units by `quantities`, boxes by
`box_texts`.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

Mode = Literal["strict", "lenient", "reference"]
"""strict: the prompt style's grammar | lenient: foreign answers, see `last_answer` | reference: what the authors' code did."""

SPECIAL_TOKEN = re.compile(r"<\|[^<>|]{1,64}\|>")
"""A chat or vision token such as <|image_pad|> in the decoded text."""

_UNITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = ["zero", *_UNITS, *_TEENS]
_HAN = {character: value for value, character in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}


def _counting_words() -> dict[str, float]:
    words = {word: float(value) for value, word in enumerate(_WORDS)}
    for tens, ten in enumerate(_TENS, 2):
        words[ten] = 10.0 * tens
        for value, unit in enumerate(_UNITS, 1):
            words |= {f"{ten}-{unit}": 10.0 * tens + value, f"{ten} {unit}": 10.0 * tens + value}
    for character, value in _HAN.items():
        words[character] = float(value)
    for tens in range(1, 10):
        for units in range(10):
            ten, unit = ("" if tens == 1 else _written(tens)), ("" if units == 0 else _written(units))
            words[f"{ten}十{unit}"] = 10.0 * tens + units
    return words | {"hundred": 100.0, "one hundred": 100.0, "a hundred": 100.0, "一百": 100.0}


def _written(digit: int) -> str:
    return "零一二三四五六七八九"[digit]


NUMBER_WORDS = _counting_words()
"""Counting words understood by `number`: English and Chinese, zero to one hundred."""

_NUMBER = re.compile(r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d{1,15})(?:\.\d{1,15})?|\.\d{1,15})")
_RAISED = re.compile(r"[⁰¹²³⁴-⁹₀-₉]")
_LONGEST = 2000
"""Longer texts are compared as they are: no option is that long, and folding heaped accents takes quadratic time."""
_LABELLED = re.compile(r"\(?([A-Za-z])(?:\)|[.:](?!\d))\s*(.*)", re.DOTALL)
_END_TOKENS = re.compile(
    r"<s>|</s>|<\|(?:im_end|im_start|endoftext|eot_id|end|begin_of_text|eos|bos|end_of_text)\|>|<end_of_turn>|<eos>|<bos>"
)
_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\s*\{")
_SHORT_MARKUP = (
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
_COMMAND = re.compile(r"\\(?:boxed|text|textbf|textit|textrm|mathrm|mathbf|mbox|rm|bf)\s*\{")


def only_answer(text: str) -> str:
    """The inside of the one answer block of an otherwise malformed text; empty where there are none or several, or special tokens."""
    if SPECIAL_TOKEN.search(text) or text.count("<answer>") != 1 or text.count("</answer>") != 1:
        return ""
    return text.partition("<answer>")[2].partition("</answer>")[0].strip()


def last_answer(text: str) -> str:
    """What a foreign text answers: the inside of its last complete `<answer>` block, else the whole text.

    Turn-end tokens around it (`</s>`, `<|im_end|>`) are left out.
    """
    opened, inside = None, None
    for tag in _ANSWER_TAG.finditer(text):
        if not tag[1]:
            opened = tag.end()
        elif opened is not None:
            inside, opened = text[opened : tag.start()], None
    return without_end_tokens(text if inside is None else inside)


def without_end_tokens(text: str) -> str:
    """The text without turn-end tokens before and after it."""
    start, end = 0, len(text)
    found = [(match.start(), match.end()) for match in _END_TOKENS.finditer(text)]
    for first, after in found:
        if text[start:first].strip():
            break
        start = after
    for first, after in reversed(found):
        if first < start or text[after:end].strip():
            break
        end = first
    return text[start:end].strip()


def boxed(text: str) -> list[str]:
    r"""The insides of all complete `\boxed{...}`, in order; nested braces are matched."""
    found: list[str] = []
    closes = _closing_braces(text) if "\\boxed" in text else {}
    for match in _BOXED.finditer(text):
        end = closes.get(match.end() - 1)
        if end is not None:
            found.append(text[match.end() : end].strip())
    return found


def _closing_braces(text: str) -> dict[int, int]:
    """Where each opened brace is closed; an unclosed one is missing."""
    waiting: list[int] = []
    closes: dict[int, int] = {}
    for match in re.finditer(r"[{}]", text):
        if match[0] == "{":
            waiting.append(match.start())
        elif waiting:
            closes[waiting.pop()] = match.start()
    return closes


def unwrapped(text: str) -> str:
    r"""A short text without the markup around the whole of it: bold, code, dollar signs, `\boxed{}`, `\text{}`, a code fence, quotes."""
    bare = text.strip()
    for _ in range(8):
        peeled = _peeled(bare)
        if peeled == bare or len(bare) > _LONGEST:
            return bare
        bare = peeled
    return bare


def _peeled(text: str) -> str:
    if text.startswith("```") and text.endswith("```") and len(text) > 6:
        inside = text[3:-3]
        return (inside.partition("\n")[2] if re.match(r"[A-Za-z]*\n", inside) else inside).strip()
    for opening, closing in _SHORT_MARKUP:
        ended = text.rstrip(".。 ") if closing != '"' else text
        inside = ended[len(opening) : -len(closing)]
        if len(ended) > len(opening) + len(closing) and ended.startswith(opening) and ended.endswith(closing) and closing not in inside:
            return inside.strip()
    command, ended = _COMMAND.match(text), text.rstrip(".。 ")
    if command and ended.endswith("}") and _closing_braces(ended).get(command.end() - 1) == len(ended) - 1:
        return ended[command.end() : -1].strip()
    return text


def normalise(text: str) -> str:
    """Casefolded NFKC with single spaces, without outer punctuation: how option texts are compared."""
    return folded(text).strip(" .,;:!?\"'")


def folded(text: str) -> str:
    """Casefolded NFKC with single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()) if len(text) <= _LONGEST else text


def number(text: str) -> float | None:
    """The one number that the text consists of: digits with sign, point and thousands separators, or a word up to one hundred."""
    if _RAISED.search(text[:_LONGEST]):  # folding would make 5² fifty-two
        return None
    bare = folded(text).replace("\u2212", "-").rstrip(" .,;:\"'").lstrip("\"'")  # 14! is another number, and 14? a doubt
    if bare in NUMBER_WORDS:
        return NUMBER_WORDS[bare]
    return float(bare.replace(",", "")) if _NUMBER.fullmatch(bare) else None


def foreign_number(text: str) -> float | None:
    r"""As `number`, from a foreign answer: markup around it is left out, and in a longer text the one `\boxed{}` is the answer."""
    given = number(unwrapped(text))
    if given is None and (stated := boxed(text)):
        read = {number(unwrapped(inside)) for inside in stated}
        return read.pop() if len(read) == 1 else None
    return given


_FIELD = re.compile(
    r"[\"'](?:final[_ ]?answer|answer|count|number|value|result|total|choice|option)[\"']\s{0,8}:\s{0,8}"
    r"(?:\"((?:[^\"\\\n]|\\.){0,300})|'((?:[^'\\\n]|\\.){0,300})|([^\s,\"'{}\[\]]{1,40}))",
    re.IGNORECASE,
)


def field(text: str) -> str | None:
    """What stands under the one key such as "answer" of a JSON record, which may be fenced or cut off; None where it is no such record."""
    bare = text.lstrip("` \t\n").removeprefix("json").lstrip()
    found = list(_FIELD.finditer(bare[:_LONGEST])) if bare.startswith(("{", "[{")) else []
    return next((inside for inside in found[0].groups() if inside), "") if len(found) == 1 else None


def choice(text: str, choices: Sequence[str]) -> int | None:
    """The index of the one option that the text names: its words, its letter, "(B)", "B." or "B. its words".

    None when it names none or several, or a letter and the words of another option. Option words win over letters: among the options
    "B" and "A" the answer "A" is the second.
    """
    bare = normalise(text)
    if text.rstrip().endswith("?") and not any(option.rstrip().endswith("?") for option in choices):
        return None  # a doubt
    by_words = [index for index, option in enumerate(choices) if normalise(option) == bare]
    if by_words:
        return by_words[0] if len(by_words) == 1 else None
    if len(bare) == 1 and bare.isascii() and bare.isalpha():
        return _letter(bare, choices)
    labelled = _LABELLED.fullmatch(text.strip())
    if labelled is None:
        return None
    index, words = _letter(labelled[1], choices), normalise(labelled[2])
    agrees = index is not None and words in {"", normalise(choices[index])}
    return index if agrees else None


def _letter(letter: str, choices: Sequence[str]) -> int | None:
    index = ord(letter.upper()) - ord("A")
    return index if index < len(choices) else None
