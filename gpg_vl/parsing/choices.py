r"""Which letter does a foreign answer state? Models write "The answer is (C) because...", "**Answer: B**", `\boxed{\text{D}}`, "答案是C".

Evidence comes in tiers, best first; the first tier that says anything decides, and a tier that says two different things says nothing:

1. the whole text is an option, or a letter with or without words behind it;
2. letters in `\boxed{}`, and letters or an option's words behind "the answer is", "answer:", "correct option is", "答案", "故选"; "A or B"
   there is two letters;
3. parenthesised letters behind a verb: "the missing shape is **(F)**";
4. lines and bold phrases that begin with a label: "C. because", "(C) 12 cm", "**C**";
5. parenthesised letters anywhere: "the second picture (B)";
6. letters behind "option", "choice", "选项";
7. a letter that ends the text: "so it must be C.", "Result: C. 12 cm";
8. the words, or the value, of exactly one option in `\boxed{}` or as the last line.

A letter that is denied ("not C", "C is wrong", "不选C") states nothing, and a JSON record is read by its one key such as "answer".
A letter outside the closed set of options counts as a letter, so it contradicts. Every search is linear in the text.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import islice

from gpg_vl.parsing import markup, quantities
from gpg_vl.parsing.markup import normalise

_COMMANDS = r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathsf|mathit|mbox|boxed|bf|rm)"
_OPEN = rf"(?:[\s*_$`\"'“‘:：]|\\[(\[]|{_COMMANDS}\s*\{{|\{{){{0,12}}"
"""Markup between a cue and its letter."""
_BARE = r"(?:(?<![A-Za-z0-9])([A-Z])(?![A-Za-z0-9'’_^=+<>|]|\s*[=+<>^]|-[A-Za-z0-9]))"
_BRACKETED = r"(?:[(（\[【]\s*(?:\\(?:text|textbf|mathrm|mathbf)\s*\{\s*)?\**([A-Za-z])\**\s*\}?\s*[)）\]】])"
_LETTER = rf"(?:{_BRACKETED}|{_BARE})"
_BRACKETED_ONLY = re.compile(_BRACKETED)
_JOIN = r"\s{0,3}(?:,|，|、|/|&|;|\bor\b|\band\b|和|或|与|及)\s{0,3}(?:\b(?:or|and)\b\s{0,3})?(?:option\s|choice\s)?\s{0,2}"
_LETTERS = re.compile(rf"{_LETTER}")
_SAME = rf"(?:{_BRACKETED}(?:{_JOIN}{_BRACKETED}){{0,30}}|{_BARE}(?:{_JOIN}{_BARE}){{0,30}})"
"""One letter, or several of one make joined by commas, "or", "and"."""
_RUN = re.compile(rf"{_OPEN}(?:(?:(?i:option|choice|letter)\b|选项){_OPEN})?({_SAME})")
_IS = r"(?:\s*(?:is|are|was|be|would\s+be|should\s+be|must\s+be|will\s+be|has\s+to\s+be|seems\s+to\s+be|appears\s+to\s+be)\b)"
_KIND = r"(?:\b(?:answers?|option|choice|selection|solution)\b(?:\s+(?:choice|option|letter)\b)?)"
_KEYWORDS = re.compile(
    r"answer|option|choice|selection|solution|correct|right|best|closest|final|\b(?:i|we)\s|^choose|^select|^pick|it['’]s|it\s+is|it\s+must|hence|therefore|thus|\bso\b|答案|正确|最终|选|应选|故|所以|因此",
    re.I,
)
"""How a cue may begin; found first, because the cues themselves are slow to look for."""
_CUES = re.compile(
    rf"""(?:
    {_KIND} [\s*_]{{0,4}} (?:(?:for|to|of|from|based|with|provided|given|that|in)\b[^.\n:：]{{0,80}}?)? {_IS}
      (?:\s+(?:therefore|thus|likely|most\s+likely|probably|clearly|also|still|then|simply|definitely|option|choice|letter)\b)? \s* [:：]?
  | \banswer\b [\s*_]{{0,4}} (?:\([^()\n]{{0,20}}\))? [\s*_]{{0,4}} [:：=]
  | ^(?:choose|select|pick)\b
  | \b(?:correct|right|best|closest|final|final\s+answer)\s+(?:option|choice|one)\b [\s*_]{{0,4}} [:：]
  | \b(?:it\s+is|it['’]s|it\s+must\s+be|hence|therefore|thus|so)\b [\s,:]{{1,3}} (?=[(（\[]?[A-Z][)）\]]?[\s.。]*$)
  | \b(?:i|we)\s+(?:would\s+|will\s+|'d\s+|should\s+)?(?:choose|select|pick|go\s+with|answer)\b
  | (?:答案|正确选项|正确答案|最终答案|选择|应选|故选|所以选|因此选|选) \s* (?:应该|应)? \s* (?:是|为|选)? \s* [:：]? \s* (?:选项)?
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_DENIED = re.compile(
    r"(?:\b(?:not|cannot|never|wrong|incorrect|false|neither|nor|eliminate|rule\s+out|ruled\s+out|exclude)\b|n['’]t\b)(?:(?!\bbut\b)[^.!?,;:\n]){0,20}$|(?:不|非|错误|排除)[^。，；\n]{0,4}$",
    re.IGNORECASE,
)
"""Words that take back what follows."""
_DENIES = re.compile(r"[\s*_]{0,4}(?:not|never|neither|wrong|incorrect|不是|错)", re.IGNORECASE)
_LABEL = re.compile(
    rf"^[ \t>*_#$-]{{0,8}}(?:\\[(\[]\s{{0,4}})?(?:{_COMMANDS}\s{{0,2}}\{{\s{{0,2}})?"
    r"(?:\(([A-Za-z])\)|([A-Z])(?:[).:：](?![A-Za-z0-9]\.)|(?=[\s*_$}\\]*$)|[、．](?=\S)|\s[-–—]\s(?=\S)))",
    re.MULTILINE,
)
_BOLD = re.compile(r"\*\*\s?\(?([A-Z])(?:\)|[.:：](?!\d)|\s?\*\*)")
_VERB = re.compile(rf"(?:\b(?:is|are|be)\b|[:：是为])\s{{0,3}}{_OPEN}\(\s?([A-Z])\s?\)")
_PARENTHESISED = re.compile(r"(?<![A-Za-z0-9_^\\}])\(\s?([A-Z])\s?\)")
_APPROVED = re.compile(
    rf"{_LETTER}\**\s(?:is|would\sbe|must\sbe|seems|looks)\s(?:also\s|clearly\s|therefore\s|thus\s)?(?:the\s)?(?:correct|right|best|closest|true|most\slikely)\b"
    r"(?!\s(?:or|if|about)\b)(?![^.\n]{0,60}\?)"
)
"""C is the correct answer."""
_WRONG = re.compile(
    r"[)\]）.*_\s]{0,4}(?:[:：]\s{0,2}(?:no|not|wrong|incorrect|false)\b|(?:is|are|was|seems|looks|would\sbe|does|do)\s?"
    r"(?:n['’]t|not\b|never\b|wrong\b|incorrect\b|false\b|clearly\s(?:wrong|incorrect|not)\b|also\s(?:wrong|incorrect|not)\b)|(?:cannot|can['’]t|can\snot|could\snot|couldn['’]t)\sbe\s(?:the|right|correct|true)\b"
    r"|是?错|不[对是正])",
    re.IGNORECASE,
)
_REFUSED = re.compile(r"[\s*_]{0,3}(?:no|not|wrong|incorrect|false|错误?|不对)\b[\s*_.,。]{0,3}(?:$|\n|because|since)", re.IGNORECASE)
"""Behind a label: "C: no"."""
_NAMED = re.compile(rf"\b(?:option|choice)s?\b{_OPEN}{_LETTER}|选项\s*{_LETTER}", re.IGNORECASE)
_LAST = re.compile(
    rf"(?:(?:\b(?:is|be|to|with|choose|select|as|for)\b|[:：→])\s{{0,3}}{_OPEN}{_LETTER}[\s.*_$\\)\]}}。]*$)|(?:[:：]\s{{0,3}}([A-Z])[.)]\s[^\n]*$)"
)
_FURTHER = re.compile(r"(?<![A-Za-z0-9])\(?([A-Z])[.)]\s?")
MAX_BOXED = 200
"""A text that states more than so many answers states none."""
_TOKEN = re.compile(r"[(\[（{【]?([A-Z])[)\]）}】]?[.:。：、]?")
_ARTICLES = frozenset("AI")
_UNKNOWN = -1
"""A letter that stands for no option."""


def stated(text: str, choices: Sequence[str]) -> int | None:
    """The index of the one option that a foreign answer states; None where it states none or several."""
    whole = _whole(text, choices)
    if whole is not None or not choices:
        return whole
    field = markup.field(text)
    if field is not None:
        return _whole(field, choices)
    for tier in _TIERS:
        stated = set(tier(text, choices))
        if stated:
            return stated.pop() if len(stated) == 1 and _UNKNOWN not in stated else None
    return None


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """An option's text without spaces and mathematical dress: `$9 \\mathrm{~cm}^{2}$` and `9 cm^2` are the same words."""
    bare = markup.folded(text)
    if len(bare) > 2000:
        return bare
    bare = re.sub(r"\\(?:text|textbf|mathrm|mathbf|mbox|textrm)\s*\{([^{}]*)\}", r"\1", bare)
    bare = re.sub(r"\^\{?\\circ\}?|\\degree|\bdegrees?\b", "°", bare)
    bare = re.sub(r"\^\{(\w)\}", r"^\1", bare).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return re.sub(r"\\left|\\right|\\[,!;: ]|\\(?=[%$])|[\s$~]", "", bare).strip(".,;:!?\"'。")


def _whole(text: str, choices: Sequence[str]) -> int | None:
    """The whole text is one option: its words, its letter, or a letter with words that are no other option's."""
    if len(text) > _longest(choices):
        return None
    bare = markup.unwrapped(text)
    token = _TOKEN.fullmatch(bare)
    if token and not _is_written(bare, token[1], choices):
        index = _index(token[1], choices)
        return None if index == _UNKNOWN else index
    by_words = _by_words(bare, choices)
    return exact(bare, choices) if by_words is None else by_words


def _longest(choices: Sequence[str]) -> int:
    """Characters of the longest text that can be one option with some dress around it."""
    return 100 + 4 * max(map(len, choices), default=0)


def _is_written(text: str, letter: str, choices: Sequence[str]) -> bool:
    """Whether a letter is itself an option's text, as it stands: "(E)" is the fifth option, also where the third reads "(e)"."""
    return any(option.strip() in {text, letter} for option in choices)


def _by_words(text: str, choices: Sequence[str]) -> int | None:
    if len(text) > _longest(choices):
        return None
    token = _TOKEN.fullmatch(text)
    if token and not _is_written(text, token[1], choices):
        return None
    words = plain(text)
    found = [index for index, option in enumerate(choices) if words and plain(option) == words]
    exact = [index for index in found if choices[index] == text] if len(found) > 1 else found
    return exact[0] if exact and len({choices[index] for index in exact}) == 1 else None


def _index(letter: str, choices: Sequence[str]) -> int:
    index = ord(letter.upper()) - ord("A")
    return index if 0 <= index < len(choices) else _UNKNOWN


def _one(groups: Iterable[str | None]) -> str:
    return next(letter for letter in groups if letter)


def _answers(text: str, choices: Sequence[str]) -> Iterable[int]:
    yield from _boxed(text, choices)
    yield from _cued(text, choices)


def _boxed(text: str, choices: Sequence[str]) -> Iterable[int]:
    for inside in markup.boxed(text)[:MAX_BOXED]:
        bare = markup.unwrapped(inside)
        labelled = _LABEL.match(bare)
        if labelled and not _lists(bare):
            yield _index(_one(labelled.groups()), choices)
        elif len(bare) < 200 and (run := _RUN.fullmatch(bare)):
            yield from (_index(_one(match.groups()), choices) for match in _LETTERS.finditer(run[1]))


def _lists(text: str) -> bool:
    return len({match[1] for match in _PARENTHESISED.finditer(text)}) > 1


def _cued(text: str, choices: Sequence[str]) -> Iterable[int]:
    for cue in _some(cues(text)):
        if cue is None:
            yield _UNKNOWN
            return
        by_words = _by_words(_phrase(text, cue.end()), choices)
        run = None if by_words is not None else _RUN.match(text, cue.end())
        if by_words is not None:
            yield by_words
        elif run is not None:
            letters = list((_BRACKETED_ONLY if run[2] else _LETTERS).finditer(run[1]))
            if _WRONG.match(text, run.end(1)):
                continue
            if len(letters) > 1 or not _is_article(text, run.start(1), run.end(1), choices):
                yield from (_index(_one(match.groups()), choices) for match in letters)
                rest = text[run.end(1) : run.end(1) + 300].lstrip(")]}.:：*_ ").partition("\n")[0].strip(" *_:：.。")
                words = _by_words(rest, choices) if len(letters) == 1 else None
                yield from () if words is None else (words,)


def cues(text: str) -> Iterable["re.Match[str]"]:
    """The places where a text says "the answer is" or the like, unless it denies it there: "I would not choose", "the wrong option is"."""
    found = (cue for word in _KEYWORDS.finditer(text) if (cue := _CUES.match(text, word.start())))
    return (cue for cue in found if not denied(text, cue.start()) and not _DENIES.match(text, cue.end()))


def denied(text: str, place: int) -> bool:
    """Whether what follows a place is denied by the words before it, in the same clause."""
    return _DENIED.search(text[max(0, place - 40) : place]) is not None


def _some(matches: Iterable["re.Match[str]"]) -> Iterable["re.Match[str] | None"]:
    """The first matches, and None where there are so many that the text is babble."""
    for count, match in enumerate(matches):
        if count == MAX_BOXED:
            yield None
            return
        yield match


def _phrase(text: str, start: int) -> str:
    """What stands behind a cue on its own line, or on the next one."""
    return markup.unwrapped(text[start : start + 300].lstrip(" *_:：\n").partition("\n")[0].strip(" *_:：.。"))


def _is_article(text: str, start: int, end: int, choices: Sequence[str]) -> bool:
    """Whether a bare "A" or "I" begins a phrase ("The answer is A dog") instead of naming an option."""
    letter = text[start:end]
    follows = re.match(r" +([A-Za-z][^\n.]{0,200})", text[end : end + 202])
    if letter.upper() not in _ARTICLES or follows is None or letter in {"(", "["}:
        return False
    index = _index(letter, choices)
    agrees = index != _UNKNOWN and plain(follows[1]).startswith(plain(choices[index])) and plain(choices[index]) != ""
    return not agrees and not re.match(r"(?:because|since|as|which|with|for|and|or|is|in|based|due|the|but)\b", follows[1])


def _verbs(text: str, choices: Sequence[str]) -> Iterable[int]:
    return (_index(match[1], choices) for match in _VERB.finditer(text) if not _taken_back(text, match))


def _labels(text: str, choices: Sequence[str]) -> Iterable[int]:
    for pattern in (_LABEL, _BOLD):
        for match in islice(pattern.finditer(text), MAX_BOXED):
            if _taken_back(text, match) or _REFUSED.match(text, match.end()):
                continue
            yield _index(_one(match.groups()), choices)
            yield from _beside(text[match.end() : match.end() + 2000].partition("\n")[0], match[0].rstrip().endswith(")"), choices)


def _beside(line: str, bracketed: bool, choices: Sequence[str]) -> Iterable[int]:
    """What else the rest of a labelled line states: another option's words, or further labels of the same make."""
    by_words = _by_words(line.strip(" *_:：.。"), choices)
    if by_words is not None:
        yield by_words
    if bracketed:
        yield from _parenthesised(line, choices)
    for match in islice(_FURTHER.finditer(line), MAX_BOXED):
        index = _index(match[1], choices)
        words = plain(choices[index]) if index != _UNKNOWN else ""
        if words and plain(line[match.end() : match.end() + 200]).startswith(words):
            yield index


def _parenthesised(text: str, choices: Sequence[str]) -> Iterable[int]:
    return (_index(match[1], choices) for match in _PARENTHESISED.finditer(text) if not _taken_back(text, match))


def _named(text: str, choices: Sequence[str]) -> Iterable[int]:
    return (_index(_one(match.groups()), choices) for match in _NAMED.finditer(text) if not _taken_back(text, match))


def _approved(text: str, choices: Sequence[str]) -> Iterable[int]:
    found = (match for match in islice(_APPROVED.finditer(text), MAX_BOXED) if not denied(text, match.start()))
    return (_index(_one(match.groups()), choices) for match in found)


def _taken_back(text: str, match: "re.Match[str]") -> bool:
    """Whether a named letter is denied, before it or behind it: "not option C", "option C is wrong"."""
    return denied(text, match.start()) or _WRONG.match(text, match.end()) is not None


def _last(text: str, choices: Sequence[str]) -> Iterable[int]:
    match = _LAST.search(text[-120:])
    return [] if match is None or denied(text[-120:], match.start()) else [_index(_one(match.groups()), choices)]


def _words(text: str, choices: Sequence[str]) -> Iterable[int]:
    lines = [line for line in text[-2000:].splitlines() if line.strip()]
    for phrase in markup.boxed(text)[:MAX_BOXED] + lines[-1:]:
        bare = markup.unwrapped(phrase.strip(" *_:：.。"))
        index = _by_words(bare, choices)
        index = _by_value(bare, choices) if index is None else index
        if index is not None:
            yield index


def _by_value(text: str, choices: Sequence[str]) -> int | None:
    """The one option that has the value of the text: 0.5 for one half."""
    given = quantities.read(text)
    options = [] if given is None else [quantities.read(option) for option in choices]
    same = [index for index, option in enumerate(options) if given and option and quantities.agree(given, option, 1e-6)]
    return same[0] if len(same) == 1 else None


_TIERS: tuple[Callable[[str, Sequence[str]], Iterable[int]], ...] = (
    _answers,
    _approved,
    _verbs,
    _labels,
    _parenthesised,
    _named,
    _last,
    _words,
)
_LABELLED = re.compile(r"\(?([A-Za-z])(?:\)|[.:](?!\d))\s*(.*)", re.DOTALL)


def exact(text: str, choices: Sequence[str]) -> int | None:
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
