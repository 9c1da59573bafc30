"""A mathematical expression, compared by math-verify: algebra, sets, intervals, equations."""

import re
from dataclasses import dataclass

from gpg_vl.parsing import markup
from gpg_vl.types import Sample
from gpg_vl.verifiers import math_worker
from gpg_vl.verifiers.base import Grade, MalformedTruthError, RuleVerifier

LONGEST = {"strict": 1000, "lenient": 20_000}
"""Characters of the longest answer, by mode."""
_MATH = re.compile(r"\\boxed|\$|\\\(|\\\[")
_COMMAND = re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf|operatorname)\s?\{[^{}]*\}|\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{4,}|\b(?:or|and|is|not|the|any|all|so)\b")
_FUNCTIONS = frozenset({"sqrt", "infty", "sinh", "cosh", "tanh", "asin", "acos", "atan", "degrees", "degree", "infinity"})
_TWO_NUMBERS = re.compile(r"\d\s+[\d.]")
_TOWER = re.compile(r"\^[\s{(-]{0,6}(\d{1,9})[\d.]*\s{0,6}\^[\s{(-]{0,6}(\d{1,9})")
_HUGE = re.compile(r"\^[\s{(-]{0,6}\d{5,}|(?<!\d)\d{4,}\s*!|!\s*!")
_JOINED = re.compile(
    r"\\(?:vee|lor|wedge|land|to|(?:[Ll]ong)?[Rr]ightarrow|implies|iff|approx|sim|simeq|equiv|cong|propto|cup|cap|ldots"
    r"|dots|cdots|mid|not|neg|lnot|prime)(?![A-Za-z])|\\\\|\.\.|\d_|[∨∧→⇒≈∼≡∪∩…¬&@?#%'~]"
)
"""Signs that join a second answer to the first, or take it back: math-verify drops one side of most of them."""
_EQUALS = re.compile(r"(?<![<>!:])=")
_SYMBOL = re.compile(r"\s*(?:\\?[A-Za-z]|\\[A-Za-z]+)(?:_\{?\w+\}?)?(?:\(\s*[A-Za-z]\s*\))?\s*")
_MEMBER = re.compile(r"(.*?)(?:\\in(?![A-Za-z])|∈)\s*(.?)", re.DOTALL)
_ROOT = re.compile(r"√\s?(?:\{([^{}]*)\}|\(([^()]*)\)|(\d+(?:\.\d+)?|[A-Za-z]))")


@dataclass(frozen=True, kw_only=True)
class Expression(RuleVerifier):
    """1 when math-verify finds the answer equal to the truth.

    Strictly, the whole answer is one expression. Words and numbers side by side are none, and neither are signs that join two answers or
    change its size (`\\vee`, `\\approx`, `%`) unless the truth has them too; an equation has one symbol on its left, unless the truth has
    more. Leniently, math-verify picks an expression out of the answer. Reference mode is R1-V's GEOQA evaluator, which reads the whole
    completion. Needs the extra `gpg-vl[math]`.
    """

    seconds: float = 5.0
    """An answer that takes longer to compare earns nothing."""

    def mark(self, answer: str, sample: Sample) -> Grade:
        given = self._expression(answer, str(sample.answer))
        if given is None:
            return Grade(0.0, answer[:200], "unreadable: not one expression")
        told = math_worker.WORKER.ask(self.seconds, answer=given, gold=_truth(str(sample.answer)))
        if told is None:
            return Grade(0.0, answer, f"unreadable: takes longer than {self.seconds:g} s")
        if not told["gold"]:
            raise MalformedTruthError(f"answer {sample.answer!r} is not an expression that math-verify reads")
        if told.get("failed") or not told["read"]:
            return Grade(0.0, answer, "unreadable: not one expression")
        return Grade(float(told["right"]), told["read"], "right" if told["right"] else "wrong")

    def reference(self, text: str, sample: Sample) -> Grade:
        return math_worker.whole_completion(text, str(sample.answer))

    def gold(self, sample: Sample) -> str:
        if self._expression(str(sample.answer), str(sample.answer)) is None:
            raise ValueError(f"answer {sample.answer!r} is not one expression")
        return str(sample.answer)

    def _expression(self, answer: str, truth: str) -> str | None:
        if not answer.strip() or len(answer) > LONGEST["strict" if self.mode == "strict" else "lenient"]:
            return None
        if _HUGE.search(answer) or any(int(base) ** min(int(above), 30) > 10_000 for base, above in _TOWER.findall(answer)):
            return None  # sympy would write out a number of more than ten thousand digits
        if self.mode != "strict":
            return _dressed(answer)
        bare = markup.unwrapped(answer)
        words = set(_WORD.findall(_COMMAND.sub(" ", bare)))
        if words - _FUNCTIONS or _TWO_NUMBERS.search(bare) or _MATH.search(bare) or not _single(bare, truth):
            return None
        return f"${_latex(bare)}$"


def _single(text: str, truth: str) -> bool:
    """Whether a text makes one statement, or as many as the truth: `4=3` and `3\\vee4` make two where the truth is 3."""
    if set(_JOINED.findall(text)) - set(_JOINED.findall(truth)) or text.count("|") % 2 or text.rstrip()[-1:] in {"/", "*", "^", "_", "="}:
        return False
    member = _MEMBER.match(text)
    if member and not _MEMBER.match(truth) and not (_SYMBOL.fullmatch(member[1]) and member[2] in {"[", "(", "{", "\\"}):
        return False
    sides, wanted = _EQUALS.split(text), _EQUALS.split(truth)
    if len(wanted) > 2 or (len(wanted) == 2 and not _SYMBOL.fullmatch(wanted[0])):
        return len(sides) == len(wanted)
    return len(sides) == 1 or (len(sides) == 2 and _SYMBOL.fullmatch(sides[0]) is not None)


def _dressed(text: str) -> str:
    """LaTeX without dollar signs gets them: math-verify reads a bare `\\frac{3}{5}` as 5."""
    needs = not _MATH.search(text) and re.search(r"[\\√π]", text)
    return f"${_latex(markup.unwrapped(text))}$" if needs else text


def _truth(text: str) -> str:
    return text if _MATH.search(text) or not re.search(r"[A-Za-z\\√π^\[({]", text) else f"${_latex(text)}$"


def _latex(text: str) -> str:
    roots = _ROOT.sub(lambda match: f"\\sqrt{{{match[1] or match[2] or match[3] or ''}}}", text)
    return roots.replace("π", "\\pi ").replace("°", "^{\\circ}")
