r"""Which number or value does a foreign answer state? "There are a total of 5 squares.", "So the answer is **14**.", `x = 10√3`, `14个`.

Evidence comes in tiers, best first; the first tier that says anything decides, and a tier that says two different things says nothing:

1. the whole text: a number, with a unit or a noun behind it, on the right of one `=`, in `\boxed{}` or under a key such as "answer";
2. numbers behind "the answer is", "Answer:", "答案是";
3. the last sentence that draws a conclusion: "So, there are 7 - 5 = 2 objects left.";
4. totals: "a total of 5", "5 squares in total", "the total number of squares is 5", "一共5个";
5. what the picture is said to hold, "there are 5", "the image contains five", and numbers in bold; what a text of one sentence says,
   "the line is 8 cm long".

A denied number ("the answer is not 3"), a range, a ratio, "3 or 4" and a question state nothing. Every search is linear in the text.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import islice

from gpg_vl.parsing import choices, markup, quantities
from gpg_vl.parsing import numbers as whole_numbers
from gpg_vl.parsing.quantities import Quantity

SHORT = 200
"""Characters of the longest text that can be one statement."""
MOST = 400
"""A text of more sentences than this is read from its end."""
_DRESS = re.compile(r"\\[()\[\]]|\$|\*\*|__|`|\\(?:left|right)(?![A-Za-z])")
_WORDED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|textrm)\s?\{([^{}]{0,80})\}")
_THIN = re.compile(r"(?<=\d)(?:\{,\}|\\[,!;: ])(?=\d{3}(?!\d))")
_DEGREE = re.compile(r"\^\{?\\circ\}?|\\degree")
_ENGLISH = "|".join(sorted((word for word in whole_numbers.NUMBER_WORDS if word.isascii()), key=len, reverse=True))
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,15})(?:\.\d{1,15})?(?:[eE][-+]?\d{1,2})?|\.\d{1,15}"
_SIGN = r"(?:[-+−]\s?|负|\b(?:minus|negative)\s)?"
_HAN = r"[零〇一二两三四五六七八九十]{1,3}"
_UNITS = "|".join(sorted((re.escape(unit) for unit in quantities.UNITS if unit.isascii() and unit.isalpha()), key=len, reverse=True))
_MORE = rf"(?:\d|\.\d|\b(?:{_ENGLISH})\b|[√π(\\])"
_REST = (
    r"(?![\d√π^_%‰]?\d|[.,:/]\d|['’]s|\s?\?)"
    rf"(?!\s{{0,2}}(?:[-–—~+*/×÷:^=<>±]|to\b|or\b|and\b|until\b|through\b|或|至|到|比|/)\s{{0,2}}{_MORE})"
    r"(?!\s?(?:\\(?:frac|dfrac|sqrt|pi|times|cdot|pm|div)|[√π^²³×]|\*\s?\d))"
    r"(?!\s?(?:hundred|thousand|million|billion|trillion|dozen|and\sa\shalf|and\shalf|percentage\spoints)\b|[万千百亿点十]|分之)"
    rf"(?!\s(?:{_ENGLISH})\b|\s\d|\sof\sthe\s\d|\s(?:out\s)?of\s\d)"
    rf"(?:(?![A-Za-z_])|(?=(?:{_UNITS})\b))"
)
_NUMBER = rf"(?P<sign>{_SIGN})(?P<number>{_DIGITS}|\b(?:{_ENGLISH})\b(?!-)|{_HAN}){_REST}"
_NUMBER_AT = re.compile(_NUMBER, re.IGNORECASE)
_ABOUT = (
    r"(?:(?:approximately|about|around|roughly|nearly|exactly|only|just|simply|equal\sto|equals|therefore|thus|大约|约)\s{0,2}"
    r"|[≈=:：]\s{0,2})?"
)
_ABOUT_AT = re.compile(_ABOUT, re.IGNORECASE)
_GAP = re.compile(
    rf"[\s:：*_\"'“(\[]{{0,6}}(?:(?:option|choice)\b)?(?:(?:∠|△|angle\s)?[A-Za-z]{{1,12}}(?:_\{{?\w\}}?)?\s?=\s?)?{_ABOUT}", re.IGNORECASE
)
_NAME = re.compile(
    r"\s*(?:(?:the\s)?(?:angle|arc|area|length|value)\s(?:of\s)?)?[∠△⊙\\]?\s?[A-Za-z](?:[A-Za-z']|\s(?=[A-Z])){0,14}(?:_\{?\w{1,4}\}?)?\s*",
    re.I,
)
_TAIL = re.compile(
    r"(?:\s?(?:°|%|degrees?))?(?:\s{0,3}(?!(?:or|and|but|not|to|if|maybe|perhaps|is|are|than|no)\b)[A-Za-z²³/]{1,20}){0,4}\s?[\u4e00-\u9fff]{0,5}\s?(?:(?<=[a-z])!)?[.。)\]\"']{0,3}\s*"
)
_ITEM = re.compile(r"[\s:：]*\n\s*\d{1,2}[.)]\s+\S")
_ENDS = re.compile(r"(?<=[.!?])[\s*_]+(?=\S)|(?<=[。！？])|\n+")
_CONCLUDES = re.compile(
    r"(?:^[\s>*_#-]{0,6}(?:and\s|but\s)?|[,;]\s(?:and\s)?)(?:so|therefore|thus|hence)\b(?!\sthat)|因此|所以|综上|总之"
    r"|^[\s>*_#-]{0,6}(?:consequently|accordingly|overall|altogether|finally|in\s(?:total|all|conclusion|summary|this\scase))\b",
    re.IGNORECASE,
)
_TOTALS = (
    re.compile(
        rf"\btotals?\b(?:\s(?:number|count|amount|sum))?(?:\s(?:of|for|in)\s(?!\d)[^.,:;=\n]{{1,80}}?)?\s?(?:\bis\b|\bare\b|:|=|\bof\b|\bto\b)\s{{0,3}}{_ABOUT}{_NUMBER}",
        re.I,
    ),
    re.compile(rf"{_NUMBER}(?:\s[A-Za-z-]+){{0,5}}?\s(?:in\stotal|in\sall|altogether|total)\b", re.I),
    re.compile(rf"(?:共有?|总共有?|一共有?|总数[是为:：]?)\s?{_NUMBER}", re.I),
)
_HELD = re.compile(
    rf"(?:\bthere\s?(?:are|is|were|was|'re)|\b(?:image|picture|figure|photo|diagram|drawing|scene|it|graph|chart)\s(?:\w+\s)?"
    rf"(?:contains?|shows?|has|depicts?|displays?|features?|consists\sof|includes?|presents?)|\b(?:i|we)\s(?:can\s)?(?:see|count|counted|find|found)"
    rf"|有|看到)\s{{0,2}}(?:a\stotal\sof\s|in\stotal\s)?{_ABOUT}{_NUMBER}(?!(?:\s[A-Za-z-]+){{1,4}}\sand\s{_MORE})",
    re.I,
)
_SAID = re.compile(
    rf"(?:\b(?:is|are|was|were|equals|be|has|have|contains?|shows?|leaves?|gives?|makes?|get|left\swith|consists\sof)|(?<!\d)[=:是为有])"
    rf"\s{{0,3}}{_ABOUT}{_NUMBER}(?!(?:\s[A-Za-z-]+){{1,4}}\sand\s{_MORE})",
    re.I,
)
_EQUAL = re.compile(rf"[=≈]\s{{0,3}}{_NUMBER}(?![^=≈]*(?:[=≈]|\b(?:is|are)\s))", re.I)
_BOLD = re.compile(rf"\*\*\s?\$?{_NUMBER}[^*\n]{{0,40}}\*\*", re.I)


def number(text: str) -> float | None:
    """The one number that a foreign answer states; None where it states none or several."""
    given = whole_numbers.foreign_number(text)
    if given is not None:
        return given
    if stated := markup.boxed(text)[: choices.MAX_BOXED]:
        return _agreed(_whole(_bare(inside)) for inside in stated)
    field = markup.field(text)
    if field is not None:
        return _whole(_bare(field))
    bare = _bare(text)
    given = _whole(bare)
    return _in_prose(text, bare) if given is None else given


def value(text: str, *, prose: bool) -> Quantity | None:
    """The one value that a foreign answer states.

    Args:
        prose: read values out of longer texts too, behind "the answer is" and in the conclusion; else a text is one statement or none.
    """
    given = quantities.foreign(text)
    if given is not None or markup.boxed(text):
        return given
    field = markup.field(text)
    if field is not None:
        return _statement(field)
    if len(text) <= SHORT and (given := _statement(text, whole=True)) is not None:
        return given
    if not prose:
        return None
    found = list(dict.fromkeys(filter(None, (_statement(text[end : end + SHORT]) for end in _cue_ends(text)))))
    if not found:
        last = _conclusion(_sentences(text))
        found = [] if last is None else list(filter(None, [_statement(re.split(r"\b(?:is|are|equals)\b|[=≈]", last)[-1])]))
    return found[0] if len(found) == 1 else None


def _bare(text: str) -> str:
    """The text without mathematical dress and bold, thousands joined."""
    return _DRESS.sub("", _WORDED.sub(r" \1", _DEGREE.sub("°", _THIN.sub("", text)))).replace("−", "-")


def _read(match: "re.Match[str]") -> float | None:
    word = " ".join(match["number"].lower().split())
    size = whole_numbers.NUMBER_WORDS.get(word)
    if size is None:
        size = float(word.replace(",", "")) if word[-1].isdigit() and word[0] in "0123456789." else None
    return -size if size is not None and match["sign"].strip().lower() in {"-", "负", "minus", "negative"} else size


def _agreed(numbers: Iterable[float | None]) -> float | None:
    """The one number among several readings; None where they differ or one is none."""
    several = set(numbers)
    return several.pop() if len(several) == 1 else None


def _whole(text: str) -> float | None:
    """A short text that is one number: `14 objects`, `[14]`, `x = 14`."""
    if len(text) > SHORT:
        return None
    bare = markup.unwrapped(text).strip(" ([\"'")
    left, equals, right = bare.partition("=")
    bare = right.strip() if equals and (not left or _NAME.fullmatch(left)) else bare
    match = _NUMBER_AT.match(bare, _ABOUT_AT.match(bare).end())  # pyright: ignore[reportOptionalMemberAccess]
    return _read(match) if match and _TAIL.fullmatch(bare, match.end()) else None


def _in_prose(text: str, bare: str) -> float | None:
    cued = [found for end in _cue_ends(bare) if (found := _behind(bare, end)) is not None]
    if cued:
        return _agreed(cued)
    sentences = _sentences(bare)
    last = _conclusion(sentences)
    if last is not None and (concluded := _sentence(last)) is not None:
        return concluded
    totals, held = ([found for sentence in sentences for found in _all(patterns, sentence)] for patterns in (_TOTALS, (_HELD,)))
    if totals:
        return _agreed(totals)
    if len(sentences) == 1 and not held:
        return _sentence(sentences[0])
    return _agreed([*held, *(_read(match) for match in islice(_BOLD.finditer(text), MOST))])


def _cue_ends(text: str) -> list[int]:
    """Where the phrases behind "the answer is" begin; none where there are so many that the text is babble."""
    found = [cue.end() for cue in islice(choices.cues(text), choices.MAX_BOXED + 1)]
    return found if len(found) <= choices.MAX_BOXED else []


def _behind(text: str, start: int) -> float | None:
    """The number behind a cue: at once, or on the right of the last = of its sentence."""
    before = text[max(0, start - SHORT) : start]
    if _ITEM.match(text, start - len(before) + len(before.rstrip())):  # a cue may have taken the end of its line
        return None  # the answer is a list
    phrase = _ENDS.split(text[start : start + SHORT].lstrip(), maxsplit=1)[0]
    equal = _EQUAL.search(phrase)
    if equal:
        return _read(equal)
    gap = _GAP.match(phrase)
    match = _NUMBER_AT.match(phrase, gap.end() if gap else 0)
    return _read(match) if match else None


def _sentences(text: str) -> list[str]:
    return [sentence[:1000] for sentence in _ENDS.split(text[-40_000:]) if sentence.strip()][-MOST:]


def _conclusion(sentences: Sequence[str]) -> str | None:
    """The last sentence that draws a conclusion; a question never does."""
    drawn = [sentence for sentence in sentences if _CONCLUDES.search(sentence) and not sentence.rstrip().endswith("?")]
    return drawn[-1][_CONCLUDES.search(drawn[-1]).start() :] if drawn else None  # pyright: ignore[reportOptionalMemberAccess]


def _sentence(sentence: str) -> float | None:
    """What a sentence states: a total, the right of its last =, or the one number behind "is", "has", "are"."""
    if sentence.rstrip().endswith("?"):
        return None
    for patterns in ((_EQUAL,), _TOTALS, (_SAID,)):
        said = list(_all(patterns, sentence))
        if said:
            return _agreed(said)
    return None


def _all(patterns: Sequence["re.Pattern[str]"], sentence: str) -> Iterable[float]:
    for pattern in patterns:
        for match in islice(pattern.finditer(sentence), MOST):
            found = _read(match)
            if found is not None and not choices.denied(sentence, match.start()):
                yield found


_SUBJECT = re.compile(
    r"(?:so\s|therefore,?\s|thus,?\s|hence,?\s)?(?:the|its|their|this|it|angle)\b[^\d.,;=≈\n]{0,80}?\s(?:is|are|equals)\s", re.IGNORECASE
)
_EQUATION = re.compile(r"[=≈]")
_PHRASE_ENDS = re.compile(r"[.。](?:\s|$)|\n|[,;，；]\s|\s(?:because|since|as|which|so)\b")


def _statement(text: str, *, whole: bool = False) -> Quantity | None:
    """One value, behind a cue or a name: `The answer is $10\\sqrt{3}$ cm.`, `∠A=145°`, `10√3 ≈ 17.32`, `负3`.

    Args:
        whole: nothing else that could be a value may stand behind it.
    """
    bare = markup.unwrapped(text)
    cue = next(iter(choices.cues(bare[:SHORT])), None) or _SUBJECT.match(bare)
    if cue is not None and cue.start() <= 4:
        bare = bare[cue.end() :]
    bare, *rest = _PHRASE_ENDS.split(bare.strip(" *_:：\n"), maxsplit=1)
    if whole and re.search(r"[\d√π]", "".join(rest)):
        return None
    bare = markup.unwrapped(bare)
    bare = re.sub(r"\\(?:approx|angle|triangle)(?![A-Za-z])", lambda match: {"\\approx": "≈"}.get(match[0], "∠"), bare)
    sides = _EQUATION.split(bare)
    if len(sides) == 2 and "≈" in bare:
        exact, rounded = _plain(sides[0]), _plain(sides[1])
        if exact is not None and rounded is not None:
            return exact if quantities.agree(exact, rounded, 1e-2, whole=False) else None
    if len(sides) == 2 and _NAME.fullmatch(_DRESS.sub("", sides[0])):
        bare = sides[1]
    return _plain(bare)


def _plain(text: str) -> Quantity | None:
    """A value as `quantities.read` has it, with a Chinese sign or classifier."""
    unsigned = re.sub(r"^\s*负", "-", text)
    return quantities.read(re.sub(r"(?<=[\d)}π])\s?个(?=小时|月|单位)", "", unsigned).strip(" *_$" if text.count("$") % 2 else " *_"))
