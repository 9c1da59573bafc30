"""Reading an answer out of text: blocks, letters, words, numbers. Pure Python, never raises, linear in the text.

A reader returns what it read or None; it does not judge. Which readings count is the verifier's business. What stands here is read from
a text that is nothing but the answer; letters stated in prose are read by `statements`, values with units by `quantities`, boxes by
`box_texts`.
"""

import re
import unicodedata

SPECIAL_TOKEN = re.compile(r"<\|[^<>|]{1,64}\|>")
"""A chat or vision token such as <|image_pad|> in the decoded text."""
MAX_COMPARED = 2000
"""Longer texts are compared as they are: no option is that long, and folding heaped accents takes quadratic time."""
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
        if peeled == bare or len(bare) > MAX_COMPARED:
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
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()) if len(text) <= MAX_COMPARED else text


_FIELD = re.compile(
    r"[\"'](?:final[_ ]?answer|answer|count|number|value|result|total|choice|option)[\"']\s{0,8}:\s{0,8}"
    r"(?:\"((?:[^\"\\\n]|\\.){0,300})|'((?:[^'\\\n]|\\.){0,300})|([^\s,\"'{}\[\]]{1,40}))",
    re.IGNORECASE,
)


def field(text: str) -> str | None:
    """What stands under the one key such as "answer" of a JSON record, which may be fenced or cut off; None where it is no such record."""
    bare = text.lstrip("` \t\n").removeprefix("json").lstrip()
    found = list(_FIELD.finditer(bare[:MAX_COMPARED])) if bare.startswith(("{", "[{")) else []
    return next((inside for inside in found[0].groups() if inside), "") if len(found) == 1 else None
