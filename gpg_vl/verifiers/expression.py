"""Verify a mathematical expression with math-verify: algebra, sets, intervals, equations."""

import re
import unicodedata
from dataclasses import dataclass
from typing import ClassVar

from gpg_vl.errors import shown
from gpg_vl.parsing import markup, numbers, quantities
from gpg_vl.types import Sample
from gpg_vl.verifiers import math_worker, published_rules
from gpg_vl.verifiers.base import Grade, MalformedTruthError, RuleVerifier
from gpg_vl.verifiers.value import check_no_range

MAX_LENGTH_STRICT = 1000
"""Characters of the longest answer in strict mode."""
MAX_LENGTH_LENIENT = 20_000
"""Characters of the longest answer in the other modes."""
MAX_INNER_EXPONENT = 10_000
"""Largest exponent that is itself a power: `x^{2^{13}}` is compared, `x^{2^{14}}` is not."""

_MATH = re.compile(r"\\boxed|\$|\\\(|\\\[")
_COMMAND = re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf|operatorname)\s?\{[^{}]*\}|\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{4,}|\b(?:or|and|is|not|the|any|all|so)\b")
_FUNCTIONS = frozenset(
    {
        "sqrt",
        "infty",
        "sinh",
        "cosh",
        "tanh",
        "asin",
        "acos",
        "atan",
        "degrees",
        "degree",
        "infinity",
    }
)
"""Words of four and more letters that are mathematics."""
_TWO_NUMBERS = re.compile(r"\d\s+[\d.]")  # 3 4
_TOWER = re.compile(r"\^[\s{(-]{0,6}(\d{1,9})[\d.]*\s{0,6}\^[\s{(-]{0,6}(\d{1,9})")  # x^{2^{13}}
_HUGE = re.compile(
    r"\^[\s{(-]{0,6}\d{5,}"  # 2^{10000}
    r"|(?<!\d)\d{4,}\s*!"  # 1000!
    r"|!\s*!"  # 3!!
    r"|\d[eE][-+]?\d{5,}"  # 1e10000
)
_JOINED = re.compile(
    # 3 \vee 4, x \to 3, 3 \approx 4, 1, \ldots
    r"\\(?:vee|lor|wedge|land|to|(?:[Ll]ong)?[Rr]ightarrow|implies|iff|approx|sim|simeq|equiv|cong"
    r"|propto|cup|cap|ldots|dots|cdots|mid|not|neg|lnot|prime|mp|tag|label)(?![A-Za-z])"
    # 3 \\ 4, 1..3, 3_2, 50%
    r"|\\\\|\.\.|//|\d_|[∨∧→⇒≈∼≡∪∩…¬&@?#%'~]"
)
"""Signs that join a second answer to the first, or negate it: math-verify ignores one side of
most of them."""
_SPELLINGS = str.maketrans(
    {
        **str.maketrans("（）［］｛｝，：；＝＋－＜＞．∶–—−！％～", "()[]{},:;=+-<>.:---!%~"),
        **str.maketrans("０１２３４５６７８９", "0123456789"),
        "∠": "\\angle ",
        "℃": "°C",
        "∞": "\\infty ",
        "∈": "\\in ",
        "·": "\\cdot ",
        "⩽": "\\leqslant ",
        "⩾": "\\geqslant ",
    }
)
"""Signs at which math-verify stops reading -> those that it reads: of 2：3 it would read 2."""
_MATHEMATICAL = frozenset("√π°±×÷∙≤≥≠∅∨∧→⇒≈∼≡∪∩…¬")
"""Signs beyond ASCII that math-verify reads, or that `_JOINED` has; behind most others it reads
nothing."""
_SUPERSCRIPTS = re.compile(r"⁻?[⁰¹²³⁴-⁹]+")
_SUBSCRIPTS = re.compile(r"[₀-₉]+")
_FRACTION = re.compile(r"[¼½¾⅐-⅞]")
_POWER_OF_UNIT = re.compile(r"(?<=\d)\s*(mm|cm)\s*\^\s*\{?([23])\}?(?![\w^])")  # 36 cm^2
_HAN_UNITS = (re.escape(unit) for unit in quantities.UNITS if "一" <= unit[0] <= "鿿")
_HAN_UNIT = re.compile(rf"(?<=[\d)}}π])\s*(?:{'|'.join(_HAN_UNITS)})$")  # 5厘米
_TEXTS = re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf|operatorname)\s?\{([^{}]*)\}")
_ENGLISH = "|".join(word for word in numbers.NUMBER_WORDS if word.isascii())
_SECOND_ANSWER = re.compile(
    rf"(?<![A-Za-z])\d|\b(?:or|and|not|if|maybe|perhaps|but|nor|{_ENGLISH})\b", re.IGNORECASE
)
"""Words in `\\text{}` that may be a second answer, which math-verify ignores."""
_EQUALS = re.compile(r"(?<![<>!:])=")
_SYMBOL = re.compile(
    r"\s*(?:\\?[A-Za-z]|\\[A-Za-z]+)"  # x, \alpha
    r"(?:_\{?\w+\}?)?(?:\(\s*[A-Za-z]\s*\))?\s*"  # x_1, f(x)
)
_MEMBER = re.compile(r"(.*?)(?:\\in(?![A-Za-z])|∈)\s*(.?)", re.DOTALL)  # x \in [1, 2]
_WRITTEN_MEMBER = re.compile(r"(?<=[A-Za-z]) in (?=\s*(?:[\[({]|\\\{))")  # x in [1, 2]
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([-+]?\d{1,4})(?!\w)")  # 1.5e-3
_THOUSANDS = re.compile(r"(?<=\d)(?:\\[,!;: ]|\{,\})(?=\d{3}(?!\d))")  # 5\,000, 5{,}000
_BASE = re.compile(r"\d_\{?(\d+)")  # 1010_2
_NEEDS_LATEX = re.compile(
    r"[A-Za-zα-ωΑ-Ω\\√π^\[({<>:;]"
    r"|,\s|,.*,"  # 1, 2 and 1,2,3 are several numbers, and 1,234 is one
)
"""Signs of a truth that math-verify reads as LaTeX only: of a bare 3:4 it reads the 3."""
_COMMA = re.compile(r"[-+]?\d+,(?:\d{1,2}|\d{4,})")
"""A decimal comma, or two numbers."""
_CONTENT = re.compile(r"[^\W_]|[∅∞]")
_ROOT = re.compile(r"√\s?(?:\{([^{}]*)\}|\(([^()]*)\)|(\d+(?:\.\d+)?|[A-Za-z]))")  # √{3}, √(3), √3


@dataclass(frozen=True, kw_only=True)
class Expression(RuleVerifier):
    """1 when math-verify finds the answer equal to the truth.

    Strictly, the whole answer is one expression. Words and numbers side by side are none, and
    neither are signs that join two answers or change its size (`\\vee`, `\\approx`, `%`) unless the
    truth has them too; an equation has one symbol on its left, unless the truth has more.
    Leniently, math-verify picks an expression out of the answer. Reference mode is R1-V's GEOQA
    evaluator, which reads the whole completion. Needs the extra `gpg-vl[math]`.
    """

    seconds: float = 5.0
    """Longest comparison, in seconds; an answer that takes longer earns nothing. Reference mode has
    its own limit, `published_rules.R1V_SECONDS`."""
    any_of: ClassVar[bool] = True

    def grade(self, answer: str, sample: Sample) -> Grade:
        """Grade an answer that was read by the prompt's format.

        Raises:
            MalformedTruthError: math-verify reads no expression in the truth.
        """
        truth = str(sample.answer)
        given = self._expression(answer, truth)
        if given is None:
            return Grade(0.0, answer[:200], "unreadable: not one expression")
        reply = math_worker.WORKER.ask(self.seconds, answer=given, truth=_truth_for_parser(truth))
        if reply is None:
            return Grade(0.0, answer, f"unreadable: takes longer than {self.seconds:g} s")
        if not reply["truth"]:
            raise MalformedTruthError(
                f"answer {shown(sample.answer)} is not an expression that math-verify reads"
            )
        if reply.get("failed") or not reply["read"]:
            return Grade(0.0, answer, "unreadable: not one expression")
        return Grade.of(reply["right"], reply["read"])

    def reference(self, text: str, sample: Sample) -> Grade:
        return published_rules.r1v_geoqa(text, str(sample.answer))

    def reference_answer(self, sample: Sample) -> str:
        """Return the true answer as a completion writes it.

        Raises:
            ValueError: the truth is not one expression that can be read.
        """
        truth = str(sample.answer)
        if _COMMA.fullmatch(truth.strip(" $")):
            raise ValueError(
                f"answer {shown(sample.answer)} is one number with a decimal comma, or two "
                "numbers; write 1.5, or \\{1, 5\\}"
            )
        check_no_range(sample)
        # math-verify divides 3:4:5 twice, which is no ratio
        spelt = _HAN_UNIT.sub("", _spelt(truth))
        unread = "".join(sorted(_unread_signs(spelt)))
        if unread:
            raise ValueError(
                f"answer {shown(sample.answer)} has {shown(unread)}, which math-verify does not "
                "read; write it in LaTeX, or answer_kind: label, which compares words"
            )
        if spelt.count(":") > 1 or not _CONTENT.search(truth):
            raise ValueError(f"answer {shown(sample.answer)} is not one expression")
        if self._expression(truth, truth) is None or not _is_mathematics(truth):
            raise ValueError(f"answer {shown(sample.answer)} is not one expression")
        return truth

    def _expression(self, answer: str, truth: str) -> str | None:
        """Return an answer as math-verify is to read it; None where it is not one expression."""
        max_length = MAX_LENGTH_STRICT if self.mode == "strict" else MAX_LENGTH_LENIENT
        if not answer.strip() or len(answer) > max_length or _is_huge(answer):
            return None
        if self.mode == "strict":
            return _one_expression(answer, truth)
        if _NEEDS_LATEX.search(truth):
            # read as the truth is: of a bare tuple or interval, math-verify reads nothing
            return _one_expression(answer, truth) or _with_dollar_signs(answer)
        return _with_dollar_signs(answer)


def _one_expression(answer: str, truth: str) -> str | None:
    """Return an answer that is one expression as LaTeX; None where it is anything else."""
    bare = _spelt(markup.unwrapped(answer))
    words = set(_WORD.findall(_COMMAND.sub(" ", bare)))
    if words - _FUNCTIONS or _TWO_NUMBERS.search(bare) or _MATH.search(bare):
        return None
    truth = _spelt(truth)
    bare = _HAN_UNIT.sub("", bare)
    if _hides_more(bare, truth):
        return None
    if not _is_single(bare, truth):
        return None
    return f"${_latex(bare)}$"


def _hides_more(text: str, truth: str) -> bool:
    """Return True where a text has signs or words that math-verify ignores, unless the truth has.

    `5或7`, `5、7` and `5 \\text{7}` are two answers where the truth is 5.
    """
    if _unread_signs(text) - set(truth):
        return True
    words = set(_TEXTS.findall(text)) - set(_TEXTS.findall(truth))
    return any(map(_SECOND_ANSWER.search, words))


def _unread_signs(text: str) -> set[str]:
    """Return the signs of a text that math-verify does not read: Chinese words, for instance."""
    unread: set[str] = set()
    for sign in set(text) - _MATHEMATICAL:
        is_read = sign.isascii() or sign.isspace()
        if not is_read and not unicodedata.name(sign, "").startswith("GREEK"):
            unread.add(sign)
    return unread


def _is_mathematics(truth: str) -> bool:
    """Return False for a truth in words, in which math-verify would look for nothing."""
    return _one_expression(truth, truth) is not None or re.search(r"[\d\\$√π]", truth) is not None


def _is_huge(answer: str) -> bool:
    """Return True for numbers that sympy would write out with more than ten thousand digits."""
    if _HUGE.search(answer):
        return True
    for base, exponent in _TOWER.findall(answer):
        # 30 bounds the work: 2^30 is too large already
        if int(base) ** min(int(exponent), 30) > MAX_INNER_EXPONENT:
            return True
    return False


def _is_single(text: str, truth: str) -> bool:
    """Return True where a text makes one statement, or as many as the truth.

    `4=3` and `3\\vee4` make two where the truth is 3.
    """
    if set(_JOINED.findall(text)) - set(_JOINED.findall(truth)):
        return False
    if _BASE.findall(text) != _BASE.findall(truth):  # math-verify ignores the base of a number
        return False
    if text.count("|") % 2 or text.rstrip()[-1:] in {"/", "*", "^", "_", "="}:
        return False
    member = _MEMBER.match(text)
    if member is not None and not _MEMBER.match(truth):
        # "x \in [1, 2]" is the interval alone, "3 \in x" is a second statement
        is_named_set = _SYMBOL.fullmatch(member[1]) and member[2] in {"[", "(", "{", "\\"}
        if not is_named_set:
            return False
    sides = _EQUALS.split(text)
    true_sides = _EQUALS.split(truth)
    is_equation = len(true_sides) == 2 and not _SYMBOL.fullmatch(true_sides[0])
    if len(true_sides) > 2 or is_equation:
        return len(sides) == len(true_sides)
    if len(sides) == 2:
        return _SYMBOL.fullmatch(sides[0]) is not None
    return len(sides) == 1


def _with_dollar_signs(text: str) -> str:
    """Put LaTeX into dollar signs: math-verify reads a bare `\\frac{3}{5}` as 5."""
    if _MATH.search(text):
        return text
    text = _THOUSANDS.sub("", text)
    if not re.search(r"[\\√π]", text):
        return text
    return f"${_latex(markup.unwrapped(text))}$"


def _truth_for_parser(text: str) -> str:
    if _MATH.search(text):
        return text
    spelt = _spelt(text)
    if not _NEEDS_LATEX.search(spelt):
        return spelt
    return f"${_latex(spelt)}$"


def _spelt(text: str) -> str:
    r"""Write what math-verify misreads as LaTeX.

    `x in [1, 2]`, `1.5e-3` (of 1e3 it makes the product 1·e·3), `x²`, `3½`, `36 cm^2` (a product of
    c and m²), and full-width signs.
    """
    text = _SUPERSCRIPTS.sub(_power, _FRACTION.sub(_latex_fraction, text.translate(_SPELLINGS)))
    text = _SUBSCRIPTS.sub(_index, text)
    text = _POWER_OF_UNIT.sub(r"\\text{ \1}^{\2}", text)
    return _SCIENTIFIC.sub(r"\1\\cdot 10^{\2}", _WRITTEN_MEMBER.sub(r" \\in ", text))


def _power(match: "re.Match[str]") -> str:
    exponent = unicodedata.normalize("NFKC", match[0]).replace("\N{MINUS SIGN}", "-")
    return f"^{{{exponent}}}"


def _index(match: "re.Match[str]") -> str:
    return f"_{{{unicodedata.normalize('NFKC', match[0])}}}"


def _latex_fraction(match: "re.Match[str]") -> str:
    numerator, _, denominator = unicodedata.normalize("NFKC", match[0]).partition("\u2044")
    return f"\\frac{{{numerator}}}{{{denominator}}}"


def _latex(text: str) -> str:
    r"""Write roots, π and degrees as LaTeX, and thousands without a sign: of 5\,000 it reads 0."""
    roots = _ROOT.sub(_latex_root, _THOUSANDS.sub("", text))
    return roots.replace("π", "\\pi ").replace("°", "^{\\circ}")


def _latex_root(match: "re.Match[str]") -> str:
    radicand = match[1] or match[2] or match[3] or ""
    return f"\\sqrt{{{radicand}}}"
