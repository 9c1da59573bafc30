r"""Read which number or value an answer in free form states.

Examples: "There are a total of 5 squares.", "So the answer is **14**.", `x = 10√3`, `14个`.

Evidence comes in tiers, the most reliable first. The first tier with any evidence decides, and a
tier with evidence for two numbers states none:

1. the whole text: a number, with a unit or a noun behind it, on the right of one `=`, in `\boxed{}`
   or under a key such as "answer";
2. numbers behind "the answer is", "Answer:", "答案是";
3. the last sentence that draws a conclusion: "So, there are 7 - 5 = 2 objects left.";
4. totals: "a total of 5", "5 squares in total", "the total number of squares is 5", "一共5个";
5. what the image is said to contain, "there are 5", "the image contains five", and numbers in bold;
   in a text of one sentence also its own number, "the line is 8 cm long".

A denied number ("the answer is not 3"), a range, a ratio, "3 or 4" and a question state nothing.
Every search is linear in the text.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from gpg_vl.parsing import choices, markup, quantities
from gpg_vl.parsing import numbers as exact_numbers
from gpg_vl.parsing.quantities import Quantity

MAX_STATEMENT = 200
"""Characters of the longest text that can be one statement."""
MAX_SENTENCES = 400
"""Sentences that are read, from the end of the text; and matches of one pattern in a sentence."""
MAX_PROSE = 40_000
"""Characters that are read from the end of a longer text."""

# --- numbers in a sentence ------------------------------------------------------------------------


def _alternatives(words: Iterable[str]) -> str:
    """Join words to a pattern, the longest first: "seventeen" must not be read as "seven"."""
    return "|".join(sorted(words, key=len, reverse=True))


_ENGLISH = _alternatives(word for word in exact_numbers.NUMBER_WORDS if word.isascii())
_UNITS = _alternatives(
    re.escape(unit) for unit in quantities.UNITS if unit.isascii() and unit.isalpha()
)
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,15})(?:\.\d{1,15})?(?:[eE][-+]?\d{1,2})?|\.\d{1,15}"
_SIGN = r"(?:[-+−]\s?|负|\b(?:minus|negative)\s)?"
_HAN = r"[零〇一二两三四五六七八九十]{1,3}"
_FURTHER_NUMBER = rf"(?:\d|\.\d|\b(?:{_ENGLISH})\b|[√π(\\])"
_NOT_MORE = (
    # 1.2.3, 14:15, 3%5, 5's, 14?
    r"(?![\d√π^_%‰]?\d|[.,:/]\d|['’]s|\s?\?)"
    # 13-14, 3 to 4, 3 or four, 2 + 3: only what stands behind the last = counts
    r"(?!\s{0,2}(?:[-–—~+*/×÷:^=<>±]|to\b|or\b|and\b|until\b|through\b|或|至|到|比|/)\s{0,2}"
    rf"{_FURTHER_NUMBER})"
    # 1, 2, 3: counting is no statement
    rf"(?!,\s{{1,2}}{_FURTHER_NUMBER}[^\s,]{{0,12}},\s{{1,2}}(?:(?:and|or)\s)?{_FURTHER_NUMBER})"
    # 10√2, 3π, 2\frac{1}{2}, 3 * 4
    r"(?!\s?(?:\\(?:frac|dfrac|sqrt|pi|times|cdot|pm|div)|[√π^²³×]|\*\s?\d))"
    # 14 thousand, two and a half, 一千, 三分之一
    r"(?!\s?(?:hundred|thousand|million|billion|trillion|dozen|and\sa\shalf|and\shalf"
    r"|percentage\spoints)\b|[万千百亿点十]|分之)"
    # twenty one, 3 4, 3 of the 5, 3 out of 5
    rf"(?!\s(?:{_ENGLISH})\b|\s\d|\sof\sthe\s\d|\s(?:out\s)?of\s\d)"
    # 2x and 14th, but not 14cm
    rf"(?:(?![A-Za-z_])|(?=(?:{_UNITS})\b))"
)
"""Texts that may not follow a number, because it would then be a part of something else."""
_NUMBER = rf"(?P<sign>{_SIGN})(?P<number>{_DIGITS}|\b(?:{_ENGLISH})\b(?!-)|{_HAN}){_NOT_MORE}"
_NUMBER_PATTERN = re.compile(_NUMBER, re.IGNORECASE)
_ABOUT = (
    r"(?:(?:approximately|about|around|roughly|nearly|exactly|only|just|simply|equal\sto|equals"
    r"|therefore|thus|大约|约)\s{0,2}"  # about 14
    r"|[≈=:：]\s{0,2})?"  # = 14
)
_ABOUT_PATTERN = re.compile(_ABOUT, re.IGNORECASE)
_BEFORE_NUMBER = re.compile(
    r"[\s:：*_\"'“(\[]{0,6}(?:(?:option|choice)\b)?"
    # The answer is x = 14 / The answer is ∠A = 14
    rf"(?:(?:∠|△|angle\s)?[A-Za-z]{{1,12}}(?:_\{{?\w\}}?)?\s?=\s?)?{_ABOUT}",
    re.IGNORECASE,
)
"""Text that may stand between "the answer is" and its number."""
_NEGATIVE = frozenset({"-", "−", "负", "minus", "negative"})

# --- a text that is one number --------------------------------------------------------------------

_NAME = re.compile(
    # the angle of / the length / ∠
    r"\s*(?:(?:the\s)?(?:angle|arc|area|length|value)\s(?:of\s)?)?[∠△⊙\\]?\s?"
    # x / ABC / A B C / S_1
    r"[A-Za-z](?:[A-Za-z']|\s(?=[A-Z])){0,14}(?:_\{?\w{1,4}\}?)?\s*",
    re.I,
)
"""The left side of an equation that gives a value a name: `x = 14`."""
_NOUN = re.compile(
    r"(?:\s?(?:°|%|degrees?))?"
    # up to four words behind the number; but not: 14 or more
    r"(?:\s{0,3}(?!(?:or|and|but|not|to|if|maybe|perhaps|is|are|than|no)\b)"
    r"[A-Za-z²³/]{1,20}){0,4}"
    # 14个
    r"\s?(?:(?![一二两三四五六七八九十百共些样般定起直切也都没无多几余])[\u4e00-\u9fff]){0,5}\s?"
    # 14 objects! but not the factorial 14!
    r"(?:(?<=[a-z])!)?[.。)\]\"']{0,3}\s*"
)
"""Text that may follow a number, to the end: a unit, a noun, punctuation."""

# --- sentences ------------------------------------------------------------------------------------

_LIST_ITEM = re.compile(r"[\s:：]*\n\s*\d{1,2}[.)]\s+\S")
_SENTENCE_ENDS = re.compile(r"(?<=[.!?])[\s*_]+(?=\S)|(?<=[。！？])|\n+")
_CONCLUDES = re.compile(
    # So, there are / 7 - 5, therefore 2
    r"(?:^[\s>*_#-]{0,6}(?:and\s|but\s)?|[,;]\s(?:and\s)?)"
    r"(?:so|therefore|thus|hence)\b(?!\sthat)"
    r"|因此|所以|综上|总之"
    # In total, there are
    r"|^[\s>*_#-]{0,6}(?:consequently|accordingly|overall|altogether|finally"
    r"|in\s(?:total|all|conclusion|summary|this\scase))\b",
    re.IGNORECASE,
)
_TOTALS = (
    # The total number of squares is 5 / a total of 5
    re.compile(
        r"\btotals?\b(?:\s(?:number|count|amount|sum))?"
        r"(?:\s(?:of|for|in)\s(?!\d)[^.,:;=\n]{1,80}?)?"
        rf"\s?(?:\bis\b|\bare\b|:|=|\bof\b|\bto\b)\s{{0,3}}{_ABOUT}{_NUMBER}",
        re.I,
    ),
    # 5 squares in total
    re.compile(
        rf"{_NUMBER}(?:\s[A-Za-z-]+){{0,5}}?\s(?:in\stotal|in\sall|altogether|total)\b", re.I
    ),
    # 一共5个
    re.compile(rf"(?:共有?|总共有?|一共有?|总数[是为:：]?)\s?{_NUMBER}", re.I),
)
_NOT_TWO_KINDS = rf"(?!(?:\s[A-Za-z-]+){{1,4}}\sand\s{_FURTHER_NUMBER})"
"""There are 3 dogs and 4 cats: neither number is the answer."""
_CONTAINED = re.compile(
    # there are 5
    r"(?:\bthere\s?(?:are|is|were|was|'re)"
    # the image contains 5
    r"|\b(?:image|picture|figure|photo|diagram|drawing|scene|it|graph|chart)\s(?:\w+\s)?"
    r"(?:contains?|shows?|has|depicts?|displays?|features?|consists\sof|includes?|presents?)"
    # I can see 5
    r"|\b(?:i|we)\s(?:can\s)?(?:see|count|counted|find|found)"
    # 图中有5
    r"|有|看到)"
    rf"\s{{0,2}}(?:a\stotal\sof\s|in\stotal\s)?{_ABOUT}{_NUMBER}{_NOT_TWO_KINDS}",
    re.I,
)
_SAID = re.compile(
    # the line is 8 cm long / it leaves 3
    r"(?:\b(?:is|are|was|were|equals|be|has|have|contains?|shows?|leaves?|gives?|makes?|get"
    r"|left\swith|consists\sof)|(?<!\d)[=:是为有])"
    rf"\s{{0,3}}{_ABOUT}{_NUMBER}{_NOT_TWO_KINDS}",
    re.I,
)
# the last = of a sentence, and nothing said behind it: 7 + 7 = 14
_EQUAL = re.compile(rf"[=≈]\s{{0,3}}{_NUMBER}(?![^=≈]*(?:[=≈]|\b(?:is|are)\s))", re.I)
_BOLD = re.compile(rf"\*\*\s?\$?{_NUMBER}[^*\n]{{0,40}}\*\*", re.I)

# --- values ---------------------------------------------------------------------------------------

_MARKUP = re.compile(r"\\[()\[\]]|\$|\*\*|__|`|\\(?:left|right)(?![A-Za-z])")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|textrm)\s?\{([^{}]{0,80})\}")
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|\\[,!;: ])(?=\d{3}(?!\d))")  # 1{,}234 and 1\,234
_DEGREE = re.compile(r"\^\{?\\circ\}?|\\degree")
_SUBJECT = re.compile(
    r"(?:so\s|therefore,?\s|thus,?\s|hence,?\s)?(?:the|its|their|this|it|angle)\b"
    r"[^\d.,;=≈\n]{0,80}?\s(?:is|are|equals)\s",
    re.IGNORECASE,
)
"""So the area of the triangle is | 2√3 cm²."""
_EQUATION = re.compile(r"[=≈]")
_IS_OR_EQUALS = re.compile(r"\b(?:is|are|equals)\b|[=≈]")
_PHRASE_ENDS = re.compile(r"[.。](?:\s|$)|\n|[,;，；]\s|\s(?:because|since|as|which|so)\b")
_MATH_SIGN = re.compile(r"\\(?:approx|angle|triangle)(?![A-Za-z])")


def number(text: str) -> float | None:
    """Return the one number that an answer states; None where it states none or several."""
    given = exact_numbers.lenient_number(text)
    if given is not None:
        return given
    boxed = markup.boxed(text)[: choices.MAX_STATEMENTS]
    if boxed:
        return markup.agreed(_whole(_without_markup(inside)) for inside in boxed)
    field = markup.field(text)
    if field is not None:
        return _whole(_without_markup(field))
    bare = _without_markup(text)
    given = _whole(bare)
    if given is not None:
        return given
    return _in_prose(text, bare)


def value(text: str, *, prose: bool) -> Quantity | None:
    """Return the one value that an answer states; None where it states none or several.

    Args:
        prose: read values out of longer texts too, behind "the answer is" and in the conclusion;
            otherwise a text is one statement or none.
    """
    given = quantities.read_lenient(text)
    if given is not None or markup.boxed(text):
        return given
    field = markup.field(text)
    if field is not None:
        return _statement(field)
    if len(text) <= MAX_STATEMENT:
        given = _statement(text, whole=True)
        if given is not None:
            return given
    if not prose:
        return None
    return _value_in_prose(text)


# --- numbers --------------------------------------------------------------------------------------


def _without_markup(text: str) -> str:
    """Remove mathematical markup and bold, and join thousands: `1{,}234` -> `1234`."""
    bare = _THOUSANDS.sub("", text)
    bare = _DEGREE.sub("°", bare)
    bare = _TEXT_COMMAND.sub(r" \1", bare)
    return _MARKUP.sub("", bare).replace("\N{MINUS SIGN}", "-")


def _number_of(match: "re.Match[str]") -> float | None:
    """Return the value of a match of `_NUMBER`; None for Chinese signs that make no numeral."""
    word = " ".join(match["number"].lower().split())
    size = exact_numbers.NUMBER_WORDS.get(word)
    if size is None:
        if not word[-1].isdigit() or word[0] not in "0123456789.":
            return None
        size = float(word.replace(",", ""))
    if match["sign"].strip().lower() in _NEGATIVE:
        return -size
    return size


def _end_of(pattern: "re.Pattern[str]", text: str) -> int:
    """Return where a pattern at the beginning of a text ends; 0 where it does not match."""
    match = pattern.match(text)
    return 0 if match is None else match.end()


def _whole(text: str) -> float | None:
    """Read a short text that is one number: `14 objects`, `[14]`, `x = 14`."""
    if len(text) > MAX_STATEMENT:
        return None
    bare = markup.unwrapped(text).strip(" ([\"'")
    left, equals, right = bare.partition("=")
    if equals and (not left or _NAME.fullmatch(left)):
        bare = right.strip()
    match = _NUMBER_PATTERN.match(bare, _end_of(_ABOUT_PATTERN, bare))
    if match is None or not _NOUN.fullmatch(bare, match.end()):
        return None
    return _number_of(match)


def _in_prose(text: str, bare: str) -> float | None:
    """Read the number that a longer text states: tiers 2 to 5 of the module's docstring.

    Args:
        text: the answer, with its markup, for numbers in bold.
        bare: the answer without markup.
    """
    behind_cues: list[float] = []
    for end in _cue_ends(bare):
        given = _behind_cue(bare, end)
        if given is not None:
            behind_cues.append(given)
    if behind_cues:
        return markup.agreed(behind_cues)

    sentences = _sentences(bare)
    conclusion = _conclusion(sentences)
    if conclusion is not None:
        concluded = _sentence(conclusion)
        if concluded is not None:
            return concluded

    totals: list[float] = []
    contained: list[float | None] = []
    for sentence in sentences:
        totals += _undenied(_TOTALS, sentence)
        contained += _undenied([_CONTAINED], sentence)
    if totals:
        return markup.agreed(totals)
    if len(sentences) == 1 and not contained:
        return _sentence(sentences[0])
    for match in islice(_BOLD.finditer(text), MAX_SENTENCES):
        contained.append(_number_of(match))
    return markup.agreed(contained)


def _cue_ends(text: str) -> list[int]:
    """Return where the phrases behind "the answer is" begin.

    Empty where there are too many: a model that repeats itself states nothing.
    """
    cues = islice(choices.cues(text), choices.MAX_STATEMENTS + 1)
    ends = [cue.end() for cue in cues]
    if len(ends) > choices.MAX_STATEMENTS:
        return []
    return ends


def _behind_cue(text: str, start: int) -> float | None:
    """Read the number behind a cue: at once, or on the right of the last = of its sentence."""
    # a cue may have taken the end of its line, so the white space before `start` counts too
    before = text[max(0, start - MAX_STATEMENT) : start]
    line_end = start - len(before) + len(before.rstrip())
    if _LIST_ITEM.match(text, line_end):
        return None  # "The answer:\n1. We add.": the answer is a list
    behind = text[start : start + MAX_STATEMENT].lstrip()
    phrase = _SENTENCE_ENDS.split(behind, maxsplit=1)[0]
    match = _EQUAL.search(phrase)
    if match is None:
        match = _NUMBER_PATTERN.match(phrase, _end_of(_BEFORE_NUMBER, phrase))
    if match is None:
        return None
    return _number_of(match)


def _sentences(text: str) -> list[str]:
    """Split a text into its sentences, each cut to 1000 characters; of many, the last ones."""
    pieces = _SENTENCE_ENDS.split(text[-MAX_PROSE:])
    sentences = [piece[:1000] for piece in pieces if piece.strip()]
    return sentences[-MAX_SENTENCES:]


def _conclusion(sentences: Sequence[str]) -> str | None:
    """Return the last sentence that draws a conclusion, from "so" on; a question draws none."""
    for sentence in reversed(sentences):
        match = _CONCLUDES.search(sentence)
        if match is not None and not choices.is_question(sentence):
            return sentence[match.start() :]
    return None


def _sentence(sentence: str) -> float | None:
    """Read what a sentence states.

    That is the right side of its last =, a total, or the one number behind "is", "has", "are".
    """
    if choices.is_question(sentence):
        return None
    for patterns in ([_EQUAL], _TOTALS, [_SAID]):
        numbers = list(_undenied(patterns, sentence))
        if numbers:
            return markup.agreed(numbers)
    return None


def _undenied(patterns: Sequence["re.Pattern[str]"], sentence: str) -> Iterator[float]:
    """Read the numbers of all matches of some patterns that are not denied."""
    for pattern in patterns:
        for match in islice(pattern.finditer(sentence), MAX_SENTENCES):
            given = _number_of(match)
            if given is not None and not choices.denied(sentence, match.start()):
                yield given


# --- values ---------------------------------------------------------------------------------------


def _value_in_prose(text: str) -> Quantity | None:
    """Read the value behind "the answer is"; without such a phrase, in the last conclusion."""
    values: list[Quantity] = []
    for end in _cue_ends(text):
        given = _statement(text[end : end + MAX_STATEMENT])
        if given is not None:
            values.append(given)
    if values:
        return markup.agreed(values)
    conclusion = _conclusion(_sentences(text))
    if conclusion is None:
        return None
    last = _IS_OR_EQUALS.split(conclusion)[-1]
    return _statement(last)


def _statement(text: str, *, whole: bool = False) -> Quantity | None:
    r"""Read one value, behind a cue or a name.

    Examples: `The answer is $10\sqrt{3}$ cm.`, `∠A=145°`, `10√3 ≈ 17.32`, `负3`.

    Args:
        whole: nothing else that could be a value may stand behind it.
    """
    bare = _without_cue(markup.unwrapped(text))
    phrase, *rest = _PHRASE_ENDS.split(bare.strip(" *_:：\n"), maxsplit=1)
    if whole and re.search(r"[\d√π]", "".join(rest)):
        return None
    phrase = _MATH_SIGN.sub(_unicode_sign, markup.unwrapped(phrase))
    sides = _EQUATION.split(phrase)
    if len(sides) != 2:
        return _plain(phrase)
    left, right = sides
    if "≈" in phrase:
        exact, rounded = _plain(left), _plain(right)
        if exact is not None and rounded is not None:
            if quantities.agree(exact, rounded, 1e-2, whole=False):
                return exact
            return None
    if _NAME.fullmatch(_MARKUP.sub("", left)):
        return _plain(right)
    return _plain(phrase)


def _without_cue(text: str) -> str:
    """Remove "the answer is" or "the area is" from the beginning of a text."""
    cue = next(iter(choices.cues(text[:MAX_STATEMENT])), None)
    if cue is None:
        cue = _SUBJECT.match(text)
    # the cue of "The answer is" begins at "answer": at most four characters stand before it
    if cue is None or cue.start() > 4:
        return text
    return text[cue.end() :]


def _unicode_sign(match: "re.Match[str]") -> str:
    return "≈" if match[0] == "\\approx" else "∠"


def _plain(text: str) -> Quantity | None:
    """Read a value as `quantities.read` does, also with a Chinese sign or classifier."""
    signed = re.sub(r"^\s*(?:负|minus\s|negative\s)", "-", text)
    bare = re.sub(r"(?<=[\d)}π])\s?个(?=小时|月|单位)", "", signed)  # 3个小时 -> 3小时
    margin = " *_"
    if text.count("$") % 2:  # one half of a pair of dollar signs
        margin = " *_$"
    return quantities.read(bare.strip(margin))
