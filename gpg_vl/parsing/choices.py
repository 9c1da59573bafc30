r"""Read which option an answer states, as its letter or in its words.

`exact` reads a text that is nothing but one option: "B", "(B)", "B. big dog", "big dog" (strict
mode). `stated` reads answers of models that were not trained on the format: "The answer is (C)
because...", "**Answer: B**", `\boxed{\text{D}}`, "答案是C" (lenient mode). `exact_set` and
`stated_set` read several options: "A, C", "AC", "cat and dog".

Options have the letters A, B, C in their order, or their own: two options may be B and A, or A
and C.

`stated` looks for evidence in tiers, the most reliable first. The first tier with any evidence
decides, and a tier with evidence for two options states none:

1. the whole text is an option, or a letter with or without words behind it;
2. letters in `\boxed{}`, and letters or an option's words behind "the answer is", "answer:",
   "correct option is", "答案", "故选"; "A or B" there is two letters;
3. letters that are called right: "C is the correct answer";
4. parenthesised letters behind a verb: "the missing shape is **(F)**";
5. lines and bold phrases that begin with a label: "C. because", "(C) 12 cm", "**C**";
6. parenthesised letters anywhere: "the second picture (B)";
7. letters behind "option", "choice", "选项";
8. a letter that ends the text: "so it must be C.", "Result: C. 12 cm";
9. the words, or the value, of exactly one option in `\boxed{}` or as the last line.

A letter that is denied ("not C", "C is wrong", "不选C") states nothing, and a JSON record is read
by its one key such as "answer". A letter outside the closed set of options counts as a letter, so
it contradicts. Every search is linear in the text.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice
from typing import NamedTuple

from gpg_vl.parsing import markup, quantities
from gpg_vl.parsing.letters import letters_of
from gpg_vl.parsing.markup import normalise

MAX_STATEMENTS = 200
"""Statements that are read in one text; a text with more states no option."""
_UNKNOWN = -1
"""Index of a letter that stands for no option, as `str.find` returns it."""

# --- letters --------------------------------------------------------------------------------------

_COMMANDS = r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathsf|mathit|mbox|boxed|bf|rm)"
_OPEN = rf"(?:[\s*_$`\"'“‘:：]|\\[(\[]|{_COMMANDS}\s*\{{|\{{){{0,12}}"
"""Markup between a cue and its letter: " **(" or " $\\text{"."""
_BARE = (
    r"(?:(?<![A-Za-z0-9])([A-Z])"  # C
    r"(?![A-Za-z0-9'’_^=+<>|]|\s*[=+<>^]|-[A-Za-z0-9]))"  # not Cat, C's, C = 3, C-shaped
)
_BRACKETED = (
    r"(?:[(（\[【]\s*(?:\\(?:text|textbf|mathrm|mathbf)\s*\{\s*)?"  # ( and (\text{
    r"\**([A-Za-z])\**\s*\}?\s*[)）\]】])"
)
_LETTER = rf"(?:{_BRACKETED}|{_BARE})"
_BRACKETED_LETTERS = re.compile(_BRACKETED)
_LETTERS = re.compile(_LETTER)
_JOIN = (
    r"\s{0,3}(?:,|，|、|/|&|;|\bor\b|\band\b|和|或|与|及)\s{0,3}"  # A, B
    r"(?:\b(?:or|and)\b\s{0,3})?(?:option\s|choice\s)?\s{0,2}"  # A, or option B
)
_SAME_KIND = rf"(?:{_BRACKETED}(?:{_JOIN}{_BRACKETED}){{0,30}}|{_BARE}(?:{_JOIN}{_BARE}){{0,30}})"
"""One letter, or several of one kind joined by commas, "or", "and": "(A) or (B)", "A and B"."""
_LETTER_RUN = re.compile(rf"{_OPEN}(?:(?:(?i:option|choice|letter)\b|选项){_OPEN})?({_SAME_KIND})")
_WHOLE_LETTER = re.compile(r"[(\[（{【]?([A-Z])[)\]）}】]?[.:。：、]?")
_LABELLED = re.compile(r"\(?([A-Za-z])(?:\)|[.:](?!\d))\s*(.*)", re.DOTALL)
"""A letter and its words, in strict mode: "B. big dog"; but not the number "B.5"."""
_RUN = re.compile(r"[A-Z]{2,26}")
"""Several letters without a sign between them: "AC"."""
_RUN_BEHIND_CUE = re.compile(rf"{_OPEN}([A-Z]{{2,26}})(?![A-Za-z0-9'’])")
_LISTED_LETTERS = re.compile(
    r"""(?:\{\s*"answers?"\s*:)?"""  # {"answer": ["A", "C"]}
    r"(?:[\s\[\](){}\"'.,;/，；、&]{0,8}[A-Z](?![A-Za-z])){2,26}[\s\[\](){}\"'.]{0,8}"
)
"""Nothing but letters: "A/C", "A C", '["A", "C"]'."""
_SEPARATORS = re.compile(r"[,;&，；、](?:\s*and(?=\s))?|(?<=\s)and(?=\s)", re.IGNORECASE)
"""Signs and words between two of several options: "A, C", "A and C", "cat, and dog"."""
_ARTICLES = frozenset("AI")
"""Letters that are also English words: "A dog", "I think"."""
_ARTICLE = re.compile(r"^\s*(?:an?|An|[Tt]he)\s+")

# --- cues -----------------------------------------------------------------------------------------

_IS = (
    r"(?:\s*(?:is|are|was|be|would\s+be|should\s+be|must\s+be|will\s+be|has\s+to\s+be"
    r"|seems\s+to\s+be|appears\s+to\s+be)\b)"
)
_KIND = r"(?:\b(?:answers?|option|choice|selection|solution)\b(?:\s+(?:choice|option|letter)\b)?)"
_KEYWORDS = re.compile(
    r"answer|option|choice|selection|solution|correct|right|best|closest|final|\b(?:i|we)\s|\bi['’]d\s"
    r"|^choose|^select|^pick|it['’]s|it\s+is|it\s+must|hence|therefore|thus|\bso\b"
    r"|答案|正确|最终|选|应选|故|所以|因此",
    re.I,
)
"""First words of a cue. They are searched first, because a search for `_CUES` itself is slow."""
_CUES = re.compile(
    r"(?:"
    # The answer to the question is / the correct option would be / the answer is clearly
    rf"{_KIND}[\s*_]{{0,4}}"
    r"(?:(?:for|to|of|from|based|with|provided|given|that|in)\b[^.\n:：]{0,80}?)?"
    rf"{_IS}(?:\s+(?:therefore|thus|likely|most\s+likely|probably|clearly|also|still|then|simply"
    r"|definitely|option|choice|letter)\b)?\s*[:：]?"
    # Answer: / **Answer (letter)** =
    r"|\banswer\b[\s*_]{0,4}(?:\([^()\n]{0,20}\))?[\s*_]{0,4}[:：=]"
    # Choose
    r"|^(?:choose|select|pick)\b"
    # Correct option: / Final choice:
    r"|\b(?:correct|right|best|closest|final|final\s+answer)\s+(?:option|choice|one)\b"
    r"[\s*_]{0,4}[:：]"
    # It's (before C at the end of the text) / Hence, (before (C). at the end of the text)
    r"|\b(?:it\s+is|it['’]s|it\s+must\s+be|hence|therefore|thus|so)\b[\s,:]{1,3}"
    r"(?=[(（\[]?[A-Z][)）\]]?[\s.。]*$)"
    # I would choose / we pick
    r"|\b(?:i|we)\s+(?:would\s+|will\s+|'d\s+|should\s+)?"
    r"(?:choose|select|pick|go\s+with|answer)\b"
    # I'd say
    r"|\bi(?:\s+would|['’]d)\s+(?:say|guess|choose|select|pick|go\s+with)\b"
    # 答案是 / 正确选项为 / 故选：
    r"|(?:答案|正确选项|正确答案|最终答案|选择|应选|故选|所以选|因此选|选)"
    r"\s*(?:应该|应)?\s*(?:是|为|选)?\s*[:：]?\s*(?:选项)?"
    r")",
    re.IGNORECASE,
)
_DENIAL_BEFORE = re.compile(
    # The answer is not / I can't choose / the wrong option is; "but" ends the denial: not A but
    r"(?:\b(?:not|cannot|never|wrong|incorrect|false|neither|nor|eliminate|rule\s+out|ruled\s+out"
    r"|exclude)\b|n['’]t\b)(?:(?!\bbut\b)[^.!?,;:\n]){0,20}$"
    # 不选
    r"|(?:不|非|错误|排除)[^。，；\n]{0,4}$",
    re.IGNORECASE,
)
"""Words that deny what follows them, at the end of the text before it."""
_DENIAL_AFTER_CUE = re.compile(
    r"[\s*_]{0,4}(?:not|never|neither|wrong|incorrect|不是|错)", re.IGNORECASE
)
"""The answer is | not C."""
_DENIAL_AFTER_LETTER = re.compile(
    r"[)\]）.*_\s]{0,4}(?:"
    # C: no
    r"[:：]\s{0,2}(?:no|not|wrong|incorrect|false)\b"
    # C isn't / (C) is wrong / C is clearly incorrect / C does not
    r"|(?:is|are|was|seems|looks|would\sbe|does|do)\s?"
    r"(?:n['’]t|not\b|never\b|wrong\b|incorrect\b|false\b|clearly\s(?:wrong|incorrect|not)\b"
    r"|also\s(?:wrong|incorrect|not)\b)"
    # C cannot be right
    r"|(?:cannot|can['’]t|can\snot|could\snot|couldn['’]t)\sbe\s(?:the|right|correct|true)\b"
    # C是错的 / C不对
    r"|是?错|不[对是正])",
    re.IGNORECASE,
)
"""Option C | is wrong."""
_DENIAL_AFTER_LABEL = re.compile(
    r"[\s*_]{0,3}(?:no|not|wrong|incorrect|false|错误?|不对)\b[\s*_.,。]{0,3}(?:$|\n|because|since)",
    re.IGNORECASE,
)
"""C: | no."""

# --- the other tiers ------------------------------------------------------------------------------

_APPROVED = re.compile(
    # C is the correct answer / (C) seems right
    rf"{_LETTER}\**\s(?:is|would\sbe|must\sbe|seems|looks)\s"
    r"(?:also\s|clearly\s|therefore\s|thus\s)?(?:the\s)?"
    r"(?:correct|right|best|closest|true|most\slikely)\b"
    # not: C is right or wrong / Is C the correct answer?
    r"(?!\s(?:or|if|about)\b)(?![^.\n]{0,60}\?)"
)
_BEHIND_VERB = re.compile(rf"(?:\b(?:is|are|be)\b|[:：是为])\s{{0,3}}{_OPEN}\(\s?([A-Z])\s?\)")
_LABEL = re.compile(
    rf"^[ \t>*_#$-]{{0,8}}(?:\\[(\[]\s{{0,4}})?(?:{_COMMANDS}\s{{0,2}}\{{\s{{0,2}})?(?:"
    r"\(([A-Za-z])\)"  # (C) 12 cm
    r"|([A-Z])(?:"
    r"[).:：](?![A-Za-z0-9]\.)"  # C. 12 cm / C) 12 cm; but not the initials C.S.
    r"|(?=[\s*_$}\\]*$)"  # C alone on its line
    r"|[、．](?=\S)"  # C、12 cm
    r"|\s[-–—]\s(?=\S)"  # C - 12 cm
    r"))",
    re.MULTILINE,
)
_BOLD_LABEL = re.compile(r"\*\*\s?\(?([A-Z])(?:\)|[.:：](?!\d)|\s?\*\*)")
_FURTHER_LABEL = re.compile(r"(?<![A-Za-z0-9])\(?([A-Z])[.)]\s?")
_PARENTHESISED = re.compile(r"(?<![A-Za-z0-9_^\\}])\(\s?([A-Z])\s?\)")
_BEHIND_OPTION = re.compile(
    rf"(?:\b(?i:option|choice)s?\b|选项){_OPEN}(?P<letters>{_SAME_KIND}"
    r"|[a-z](?=[)*_]{0,3}(?:[.,;:!?\s]{0,2}$|[.,;:!?\n]|\s(?:is|as|because|since)\b)))",
)
_SIGN_OF_LABEL = re.compile(r"(?:[)\]}:：*_ ]|\.(?!\d))*")
"""C | ). 12 cm; but not the point of C. | .5."""
_AT_END = re.compile(
    # so it must be C.
    rf"(?:(?:\b(?:is|be|to|with|choose|select|as|for)\b|[:：→])\s{{0,3}}{_OPEN}{_LETTER}"
    r"[\s.*_$\\)\]}。]*$)"
    # Result: C. 12 cm
    r"|(?:[:：]\s{0,3}([A-Z])[.)]\s[^\n]*$)"
)


class _Options(NamedTuple):
    """The closed set of options that an answer is read against."""

    texts: Sequence[str]
    """Words of each option."""
    letters: str
    """Letter of each option, in capitals."""


def exact(text: str, choices: Sequence[str], letters: Sequence[str] = ()) -> int | None:
    """Return the index of the one option that the whole text names.

    A text names an option by its words, its letter, "(B)", "B." or "B. its words". None when it
    names none or several, or a letter and the words of another option. Option words win over
    letters: among the options "B" and "A" the answer "A" is the second. A capital letter is no
    small one: among "b" and "a" it is the first.

    Args:
        text: the answer.
        choices: words of the options.
        letters: their own letters; empty = A, B, C in their order.
    """
    return _exact(text, _Options(choices, letters_of(choices, letters)))


def exact_set(
    text: str, choices: Sequence[str], letters: Sequence[str] = ()
) -> frozenset[int] | None:
    """Return the indices of the options that the whole text names, each once.

    A text names several options by their letters, "AC", or as `exact` reads one, with commas or
    "and" between them: "A, C", "A and C", "cat, dog". None where a part of it names no option, or
    where it names one twice.
    """
    return _exact_set(text, _Options(choices, letters_of(choices, letters)))


def stated(text: str, choices: Sequence[str], letters: Sequence[str] = ()) -> int | None:
    """Return the index of the one option that an answer in free form states.

    None where it states none or several. Arguments as in `exact`.
    """
    options = _Options(choices, letters_of(choices, letters))
    whole = _whole_text(text, options)
    if whole is not None or not choices:
        return whole
    field = markup.field(text)
    if field is not None:
        return _whole_text(field, options)
    return markup.agreed(_evidence(text, options))


def stated_set(
    text: str, choices: Sequence[str], letters: Sequence[str] = ()
) -> frozenset[int] | None:
    """Return the indices of all options that an answer in free form states.

    None where it states none. Arguments as in `exact`.
    """
    options = _Options(choices, letters_of(choices, letters))
    field = markup.field(text)
    given = text if field is None else field
    whole = _whole_text(given, options)
    if whole is not None:
        return frozenset((whole,))
    bare = markup.unwrapped(given)
    named = _exact_set(bare, options)
    if named is None and _LISTED_LETTERS.fullmatch(bare):
        named = _distinct([_index(letter, options) for letter in re.findall("[A-Z]", bare)])
    if named is not None or field is not None:
        return named
    run = _run_behind_cue(text, options)
    return run or frozenset(_evidence(text, options)) or None


def _run_behind_cue(text: str, options: _Options) -> frozenset[int] | None:
    """Return the options of letters without a sign between them behind a cue: 答案是AC.

    Only in the order of the alphabet: "BAD" is a word.
    """
    runs: list[frozenset[int]] = []
    for cue in islice(cues(text), MAX_STATEMENTS):
        match = _RUN_BEHIND_CUE.match(text, cue.end())
        if match is None or list(match[1]) != sorted(match[1]):
            continue
        named = _distinct([_index(letter, options) for letter in match[1]])
        if named is not None:
            runs.append(named)
    return markup.agreed(runs)


def same_words(text: str, choices: Sequence[str]) -> list[int]:
    """Return the indices of the options whose words a text is."""
    bare = normalise(text)
    return [index for index, option in enumerate(choices) if normalise(option) == bare]


def is_question(text: str) -> bool:
    """Return True where a text ends in a question mark: "B?" and "B?!" are doubts."""
    return text.rstrip(" \n\t!！").endswith(("?", "？"))


def _exact(text: str, options: _Options) -> int | None:
    if is_question(text) and not any(map(is_question, options.texts)):
        return None  # "B?" is a doubt
    capital = _WHOLE_LETTER.fullmatch(text.strip())
    if capital is not None and not _is_option_text(text.strip(), capital[1], options):
        index = _option_of_letter(capital[1], options)
        if index is not None:
            return index
    by_words = same_words(text, options.texts)
    if by_words:
        return markup.agreed(by_words)
    bare = normalise(text)
    if len(bare) == 1 and bare.isascii() and bare.isalpha():
        return _option_of_letter(bare, options)
    labelled = _LABELLED.fullmatch(text.strip())
    if labelled is None:
        return None
    index = _option_of_letter(labelled[1], options)
    if index is None or normalise(labelled[2]) not in {"", normalise(options.texts[index])}:
        return None
    return index


def _exact_set(text: str, options: _Options) -> frozenset[int] | None:
    if len(text) > _max_length(options) * max(1, len(options.texts)):
        return None
    one = _exact(text, options)
    if one is not None:
        return frozenset((one,))
    bare = text.strip(" .")
    if _RUN.fullmatch(bare):
        return _distinct([options.letters.find(letter) for letter in bare])
    return _distinct(_parts(text, options))


def _distinct(indices: Sequence[int]) -> frozenset[int] | None:
    """Return indices as a set; None where there is none, a letter of no option, or one twice."""
    distinct = frozenset(indices)
    if not distinct or _UNKNOWN in distinct or len(distinct) < len(indices):
        return None
    return distinct


def _parts(text: str, options: _Options) -> list[int]:
    """Return the option of each part of a list, from its first part to its last.

    Where options hold commas themselves ("red, blue"), the longest part that is an option counts.
    """
    separators = list(_SEPARATORS.finditer(text))
    starts = [0, *(separator.end() for separator in separators)]
    ends = [*(separator.start() for separator in separators), len(text)]
    longest = 1 + max(len(_SEPARATORS.findall(option)) for option in options.texts or [""])
    indices: list[int] = []
    first = 0
    while first < len(starts) and len(indices) <= len(options.texts):
        index = _UNKNOWN
        after = min(first + longest, len(starts))
        while index == _UNKNOWN and after > first:
            option = _exact(text[starts[first] : ends[after - 1]], options)
            index = _UNKNOWN if option is None else option
            after -= 1
        if index == _UNKNOWN:
            return []
        indices.append(index)
        first = after + 1
    return indices


def _evidence(text: str, options: _Options) -> set[int]:
    """Return the options of the first tier with any evidence; none where a letter is unknown."""
    for tier in _TIERS:
        indices = set(tier(text, options))
        if _UNKNOWN in indices:
            return set()
        if indices:
            return indices
    return set()


def _option_of_letter(letter: str, options: _Options) -> int | None:
    """Return the index of a letter's option; None where there is no such option."""
    index = _index(letter, options)
    return None if index == _UNKNOWN else index


def _index(letter: str, options: _Options) -> int:
    """Return the index of a letter's option; `_UNKNOWN` where there is no such option."""
    return options.letters.find(letter.upper())


def _letter_index(match: "re.Match[str]", options: _Options) -> int:
    """Return the index of the letter that stands in one of several groups of a pattern."""
    letters = [group for group in match.groups() if group]
    return _index(letters[0], options)


# --- options by their words -----------------------------------------------------------------------


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """Remove spaces and mathematical markup from an option's text, so that spellings compare equal.

    Example:
        plain("$9 \\\\mathrm{~cm}^{2}$") == plain("9 cm^2") == "9cm^2"
    """
    bare = markup.folded(text)
    if len(bare) > markup.MAX_COMPARED:
        return bare
    bare = re.sub(r"\\(?:text|textbf|mathrm|mathbf|mbox|textrm)\s*\{([^{}]*)\}", r"\1", bare)
    bare = re.sub(r"\^\{?\\circ\}?|\\degree|\bdegrees?\b", "°", bare)
    bare = re.sub(r"\^\{(\w)\}", r"^\1", bare)
    bare = bare.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    bare = re.sub(r"\\left|\\right|\\[,!;: ]|\\(?=[%$])|[\s$~]", "", bare)
    return markup.stripped(bare, ".,;:!?\"'。")


def _max_length(options: _Options) -> int:
    """Return the length of the longest text that can be one option with some markup around it."""
    longest = max(map(len, options.texts), default=0)
    return 100 + 4 * longest


def _whole_text(text: str, options: _Options) -> int | None:
    """Read a whole text that is one option.

    That is its words, its letter, or a letter with words that are no other option's.
    """
    if len(text) > _max_length(options):
        return None
    bare = markup.unwrapped(text)
    letter = _WHOLE_LETTER.fullmatch(bare)
    if letter is not None and not _is_option_text(bare, letter[1], options):
        return _option_of_letter(letter[1], options)
    by_words = _by_words(bare, options)
    if by_words is not None:
        return by_words
    index = _exact(bare, options)
    return _letter_and_words(bare, options) if index is None else index


def _letter_and_words(text: str, options: _Options) -> int | None:
    """Return the option of "B dog", where the dog is B."""
    index = _index(text[:1], options)
    if not text[:1].isupper() or text[1:2] != " " or index == _UNKNOWN:
        return None
    words = plain(options.texts[index])
    return index if words and plain(text[2:]) == words else None


def _is_option_text(text: str, letter: str, options: _Options) -> bool:
    """Return True where a letter is itself an option's text, as it is written.

    Otherwise it is a label: "(E)" is the fifth option, also where the third one reads "(e)".
    """
    return any(option.strip() in {text, letter} for option in options.texts)


def _by_words(text: str, options: _Options) -> int | None:
    """Return the one option whose words a short text is."""
    if len(text) > _max_length(options):
        return None
    letter = _WHOLE_LETTER.fullmatch(text)
    if letter is not None and not _is_option_text(text, letter[1], options):
        return None
    words = plain(text)
    if not words:
        return None
    alike = [index for index, option in enumerate(options.texts) if plain(option) == words]
    if not alike:
        words = plain(_without_article(text))
        for index, option in enumerate(options.texts):
            if words and plain(_without_article(option)) == words:
                alike.append(index)
    if len(alike) > 1:  # "AA" and "aa": only the same case decides
        alike = [index for index in alike if options.texts[index] == text]
    spellings = {options.texts[index] for index in alike}
    if len(spellings) != 1:
        return None
    return alike[0]


def _without_article(text: str) -> str:
    """Remove an article: "the dog" -> "dog". A capital "A" may be a letter, so it stays."""
    return _ARTICLE.sub("", text)


def _by_value(text: str, options: _Options) -> int | None:
    """Return the one option that has the value of the text: 0.5 for one half."""
    given = quantities.read(text)
    if given is None:
        return None
    same: list[int] = []
    for index, option in enumerate(options.texts):
        quantity = quantities.read(option)
        if quantity is not None and quantities.agree(given, quantity, 1e-6):
            same.append(index)
    if len(same) != 1:
        return None
    return same[0]


# --- denials --------------------------------------------------------------------------------------


def denied(text: str, position: int) -> bool:
    """Return True where the words before a position deny what follows it, in the same clause."""
    return _DENIAL_BEFORE.search(text[max(0, position - 40) : position]) is not None


def _is_denied(text: str, match: "re.Match[str]") -> bool:
    """Return True where a letter is denied, before it or behind it: not option C, C is wrong."""
    if denied(text, match.start()):
        return True
    return _DENIAL_AFTER_LETTER.match(text, match.end()) is not None


# --- tier 2: boxes and cues -----------------------------------------------------------------------


def _answers(text: str, options: _Options) -> Iterator[int]:
    yield from _boxed(text, options)
    yield from _behind_cues(text, options)


def _boxed(text: str, options: _Options) -> Iterator[int]:
    for inside in markup.boxed(text)[:MAX_STATEMENTS]:
        yield from _letters_of_box(markup.unwrapped(inside), options)


def _letters_of_box(bare: str, options: _Options) -> Iterator[int]:
    """Read the one letter of a label ("B. a cat"), or every letter of a run ("A, C")."""
    label = _LABEL.match(bare)
    if label is not None and not _has_several_letters(bare):
        yield _letter_index(label, options)
        return
    if len(bare) >= 200:
        return
    run = _LETTER_RUN.fullmatch(bare)
    if run is None:
        return
    for letter in _LETTERS.finditer(run[1]):
        yield _letter_index(letter, options)


def _has_several_letters(text: str) -> bool:
    letters = {match[1] for match in _PARENTHESISED.finditer(text)}
    return len(letters) > 1


def cues(text: str) -> Iterator["re.Match[str]"]:
    """Find the phrases "the answer is" and the like.

    Denied ones are left out: "I would not choose", "the wrong option is", "the answer is not".
    """
    for word in _KEYWORDS.finditer(text):
        cue = _CUES.match(text, word.start())
        if cue is None or denied(text, cue.start()) or _DENIAL_AFTER_CUE.match(text, cue.end()):
            continue
        yield cue


def _behind_cues(text: str, options: _Options) -> Iterator[int]:
    for count, cue in enumerate(cues(text)):
        if count == MAX_STATEMENTS:  # a model that repeats itself states nothing
            yield _UNKNOWN
            return
        yield from _behind_cue(text, cue.end(), options)


def _behind_cue(text: str, start: int, options: _Options) -> Iterator[int]:
    """Read the words of an option, or letters, that stand behind a cue."""
    by_words = _by_words(phrase_behind(text, start), options)
    if by_words is not None:
        yield by_words
        return
    run = _LETTER_RUN.match(text, start)
    if run is None or _DENIAL_AFTER_LETTER.match(text, run.end(1)):
        return
    # group 2 is the first bracketed letter: in "(A) or (B)" only bracketed letters count
    pattern = _LETTERS if run[2] is None else _BRACKETED_LETTERS
    letters = list(pattern.finditer(run[1]))
    if len(letters) == 1 and _is_article(text, run.start(1), run.end(1), options):
        return
    for letter in letters:
        yield _letter_index(letter, options)
    if len(letters) == 1:
        # "The answer is C. 12 cm": the words behind the letter may be another option's
        words = _by_words(_words_behind(text, run.end(1)), options)
        if words is not None:
            yield words


def phrase_behind(text: str, start: int) -> str:
    """Return the phrase behind a cue, on its own line or on the next one."""
    line = text[start : start + 300].lstrip(" *_:：\n").partition("\n")[0]
    return markup.unwrapped(markup.stripped(line, " *_:：.。"))


def _words_behind(text: str, start: int) -> str:
    """Return the rest of the line behind a letter."""
    sign = _SIGN_OF_LABEL.match(text, start, start + 300)
    begin = start if sign is None else sign.end()
    line = text[begin : start + 300].partition("\n")[0]
    return markup.stripped(line, " *_:：.。")


def _is_article(text: str, start: int, end: int, options: _Options) -> bool:
    """Return True where a bare "A" or "I" is a word ("The answer is A dog") and names no option."""
    letter = text[start:end]
    behind = re.match(r" +([A-Za-z][^\n.]{0,200})", text[end : end + 202])
    if letter.upper() not in _ARTICLES or behind is None:
        return False
    phrase = behind[1]
    index = _index(letter, options)
    if index != _UNKNOWN:
        words = plain(options.texts[index])
        if words and plain(phrase).startswith(words):
            return False  # "The answer is A cat", where A is the cat
    reason = r"(?:because|since|as|which|with|for|and|or|is|in|based|due|the|but)\b"
    return re.match(reason, phrase) is None


# --- tiers 3 to 9 ---------------------------------------------------------------------------------


def _approved(text: str, options: _Options) -> Iterator[int]:
    for match in islice(_APPROVED.finditer(text), MAX_STATEMENTS):
        if not denied(text, match.start()):
            yield _letter_index(match, options)


def _labels(text: str, options: _Options) -> Iterator[int]:
    for pattern in (_LABEL, _BOLD_LABEL):
        for match in islice(pattern.finditer(text), MAX_STATEMENTS):
            if _is_denied(text, match) or _DENIAL_AFTER_LABEL.match(text, match.end()):
                continue
            yield _letter_index(match, options)
            line = text[match.end() : match.end() + 2000].partition("\n")[0]
            is_bracketed = match[0].rstrip().endswith(")")
            yield from _behind_label(line, is_bracketed, options)


def _behind_label(line: str, is_bracketed: bool, options: _Options) -> Iterator[int]:
    """Read what else the rest of a labelled line states.

    That is another option's words, or further labels of the same kind: "A. 10 cm, C. 15 cm".
    """
    by_words = _by_words(markup.stripped(line, " *_:：.。"), options)
    if by_words is not None:
        yield by_words
    if is_bracketed:
        yield from _undenied(_PARENTHESISED, line, options)
    for match in islice(_FURTHER_LABEL.finditer(line), MAX_STATEMENTS):
        index = _index(match[1], options)
        if index == _UNKNOWN:
            continue
        # only a label before its own words counts: in "as A. Smith has it" there is none
        words = plain(options.texts[index])
        if words and plain(line[match.end() : match.end() + 200]).startswith(words):
            yield index


def _undenied(pattern: "re.Pattern[str]", text: str, options: _Options) -> Iterator[int]:
    """Read the letters of all matches of a pattern that are not denied."""
    for match in pattern.finditer(text):
        if not _is_denied(text, match):
            yield _letter_index(match, options)


def _behind_option(text: str, options: _Options) -> Iterator[int]:
    """Read every letter behind "option": "Options A and C are right" names two."""
    for match in _BEHIND_OPTION.finditer(text):
        if _is_denied(text, match):
            continue
        if len(match["letters"]) == 1:  # also a small one: option b
            yield _index(match["letters"], options)
            continue
        for letter in _LETTERS.finditer(match["letters"]):
            yield _letter_index(letter, options)


def _at_end(text: str, options: _Options) -> Iterator[int]:
    end = text[-120:]
    match = _AT_END.search(end)
    if match is not None and not denied(end, match.start()):
        yield _letter_index(match, options)


def _words(text: str, options: _Options) -> Iterator[int]:
    lines = [line for line in text[-2000:].splitlines() if line.strip()]
    for phrase in markup.boxed(text)[:MAX_STATEMENTS] + lines[-1:]:
        bare = markup.unwrapped(markup.stripped(phrase, " *_:：.。"))
        index = _by_words(bare, options)
        if index is None:
            index = _by_value(bare, options)
        if index is not None:
            yield index


_TIERS: tuple[Callable[[str, _Options], Iterable[int]], ...] = (
    _answers,
    _approved,
    partial(_undenied, _BEHIND_VERB),
    _labels,
    partial(_undenied, _PARENTHESISED),
    _behind_option,
    _at_end,
    _words,
)
"""Tiers 2 to 9 of the module's docstring."""
