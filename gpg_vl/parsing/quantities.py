r"""Values as people write them: `10√{3} cm`, `\frac{24}{5}`, `16π平方米`, `2*sqrt(5)/5`, `145°`, `1.5 \times 10^{3}`, `3 1/2`.

A small calculator instead of `eval`: numbers, + - * / ^, brackets, fractions, roots, π, and one unit at the end. A text that is anything
more (words, an equation, a ratio) is no value. The work is bounded: a text longer than LONGEST is not read, brackets nest at most DEPTH
deep, and powers stay small.
"""

import math
import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from gpg_vl.parsing import markup, numbers

LONGEST = 200
"""Characters of the longest value."""
DEPTH = 12
"""Deepest nesting of brackets, roots and fractions."""


class Quantity(NamedTuple):
    """A value, and what it is a value of."""

    value: float
    """As written, before the unit."""
    dimension: str = ""
    """length, area, volume, angle, time...; empty = no unit was written."""
    scale: float = 1.0
    """How many basic units (metre, degree, second...) the written unit has."""


_LENGTHS = {
    1e-6: "μm um micrometer micrometers micrometre micrometres 微米",
    1e-3: "mm millimeter millimeters millimetre millimetres 毫米",
    1e-2: "cm centimeter centimeters centimetre centimetres 厘米",
    1e-1: "dm decimeter decimeters decimetre decimetres 分米",
    1.0: "m meter meters metre metres 米",
    1e3: "km kilometer kilometers kilometre kilometres 千米 公里",
    1852.0: "nauticalmile nauticalmiles nmi 海里",
    1609.344: "mile miles mi 英里",
    0.3048: "ft foot feet 英尺",
    0.0254: "inch inches 英寸",
    0.9144: "yd yard yards 码",
}
_OTHERS: dict[str, dict[float, str]] = {
    "angle": {1.0: "° degree degrees deg 度", 180 / math.pi: "rad radian radians 弧度"},
    "time": {
        1e-3: "ms",
        1.0: "s sec secs second seconds 秒 秒钟",
        60.0: "min mins minute minutes 分钟 分",
        3600.0: "h hr hrs hour hours 小时 时",
        86400.0: "day days 天 日",
        604800.0: "week weeks 周",
        31557600.0: "year years yr yrs 年",
    },
    "mass": {1e-6: "mg 毫克", 1e-3: "g gram grams 克", 1.0: "kg kilogram kilograms 千克 公斤", 1e3: "ton tons tonne tonnes 吨"},
    "volume": {1e-3: "l liter liters litre litres 升", 1e-6: "ml milliliter milliliters millilitre millilitres 毫升"},
    "area": {1e4: "ha hectare hectares 公顷"},
    "speed": {1.0: "m/s mps 米/秒", 1 / 3.6: "km/h kmh kph 千米/时 千米/小时 公里/小时", 0.44704: "mph"},
    "share": {0.01: "% percent"},
    "money": {1.0: "dollar dollars 元", 0.01: "cent cents"},
    "count": {1.0: "unit units 个 单位"},
}


def _table() -> dict[str, tuple[str, float]]:
    table = {word: (dimension, scale) for dimension, scales in _OTHERS.items() for scale, words in scales.items() for word in words.split()}
    for scale, words in _LENGTHS.items():
        for word in words.split():
            table[word] = ("length", scale)
            for power, dimension, before, han in ((2, "area", "square", "平方"), (3, "volume", "cubic", "立方")):
                table |= dict.fromkeys((f"{word}^{power}", f"{word}{power}", before + word, han + word), (dimension, scale**power))
    table |= {"sqcm": ("area", 1e-4), "sqm": ("area", 1.0), "squareunits": ("area", 1.0), "cubicunits": ("volume", 1.0)}
    return {word: unit for word, unit in table.items() if word not in {"inch2", "inch3"}}


UNITS = _table()
"""Unit, lower case and without spaces -> (dimension, how many basic units)."""
_UNIT = re.compile("(" + "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True)) + r")\.?$")
_MEGA = re.compile(r"(?<![A-Za-z])M(?:g|m|s|l|L)[\s.]*$")
"""Mega, which folding would make milli."""
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|textrm|operatorname|rm)\s*\{([^{}]*)\}")
_SPELLINGS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹]+"), lambda match: "^" + match[0].translate(_SUPERSCRIPTS)),
    (re.compile(r"\^\{?\\circ\}?|\\degree|˚|º|∘"), "°"),
    (re.compile(r"\\(?:left|right|displaystyle|,|!|;|:|quad|qquad| )"), " "),
    (re.compile(r"\\(?:dfrac|tfrac|cfrac)"), r"\\frac"),
    (re.compile(r"\\(?:cdot|times|ast)|[×·∙⋅∗]|\*\*(?!\d)"), "*"),
    (re.compile(r"[¼½¾⅐-⅞]"), lambda match: " " + unicodedata.normalize("NFKC", match[0])),
    (re.compile(r"\\frac\s?(\d)(\d)(?!\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\div|÷|⁄|∕"), "/"),
    (re.compile(r"\\sqrt|\bsqrt\b|(?<=\d)sqrt"), "√"),
    (re.compile(r"\\pi\b|\bpi\b|(?<=\d)pi\b|ᴨ|∏"), "π"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"[−–—]"), "-"),
    (re.compile(r"\\(?=[%$])|~"), ""),
    (re.compile(r"\^(\d)\^$|\^\{(\d)\}$"), lambda match: "^" + (match[1] or match[2])),
)


def read(text: str) -> Quantity | None:
    """The one value that a text consists of, or None."""
    bare = markup.unwrapped(text)
    if not 0 < len(bare) <= LONGEST:
        return None
    by_word = numbers.number(bare)
    if by_word is not None:
        return Quantity(by_word)
    bare = _spelt(bare)
    if len(bare) > LONGEST:
        return None
    if _MEGA.search(bare):
        return None
    expression, dimension, scale = _without_unit(markup.folded(bare).rstrip(" .,;。"))
    value = _Calculator(expression).result()
    return None if value is None else Quantity(value, dimension, scale)


def foreign(text: str) -> Quantity | None:
    r"""As `read`; in a longer text the one value in `\boxed{}` is the answer."""
    given = read(text)
    if given is None and (stated := markup.boxed(text)):
        values = {read(inside) for inside in stated}
        return values.pop() if len(values) == 1 else None
    return given


def agree(a: Quantity, b: Quantity, tolerance: float, *, whole: bool = True) -> bool:
    """Whether two values are the same within a relative tolerance; two whole numbers must be equal, unless `whole` is False.

    Where both have a unit, units count by value (50 cm is 0.5 m) and must measure the same thing; where one has none, the written numbers
    count.
    """
    if a.dimension and b.dimension and "count" not in (a.dimension, b.dimension):
        if a.dimension != b.dimension:
            return False
        a, b = Quantity(a.value * a.scale), Quantity(b.value * b.scale)
    if whole and a.value.is_integer() and b.value.is_integer():  # the year 2017 is not 2016
        return a.value == b.value
    return abs(a.value - b.value) <= tolerance * max(abs(a.value), abs(b.value))


def _spelt(text: str) -> str:
    """One spelling for each thing: √ π * / ^ °, no dollar signs, no LaTeX spaces."""
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    text = _TEXT.sub(r" \1", text)
    return text.replace("$", " ")


def _without_unit(text: str) -> tuple[str, str, float]:
    """The text before a unit at its end, and the unit."""
    words = re.search(r"[^\d().{}√π]{1,30}(?:\^?\{?[23]\}?)?\.?$", text)
    tail = words[0].replace(" ", "").replace("{", "").replace("}", "") if words else ""
    unit = _UNIT.search(tail)
    if words is None or unit is None or tail[: unit.start()].strip("*") not in {"", "of"}:
        return text, "", 1.0
    rest = text[: words.start()]
    return rest, *UNITS[unit[1]]


_TOKEN = re.compile(r"\s*(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?(?:e[-+]?\d{1,3}(?![\d.]))?|\.\d+|\\frac|[-+*/^()\[\]{}√π])")
_IMPLICIT = frozenset({"√", "π", "(", "\\frac"})
"""What may follow a factor without a sign of multiplication; never a number: "3 4" is two numbers."""
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_MIXED = re.compile(r"(\d+)\s*(?:\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|(?<=\d)\s(\d+)\s*/\s*(\d+))")


class _Calculator:
    """Recursive descent over the tokens of one short text; `result` is None where the text is no expression."""

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        self.tokens: list[str] = []
        self.place = 0

    def result(self) -> float | None:
        """The value of the whole text; None where it is no expression, or has no finite real value."""
        mixed = _MIXED.fullmatch(self.text)
        if mixed:  # three and a half: whole, part, of
            whole, part, of = (float(digits) for digits in mixed.groups() if digits is not None)
            return whole + part / of if 0 < part < of else None
        position = 0
        while position < len(self.text):
            token = _TOKEN.match(self.text, position)
            if token is None:
                return None
            self.tokens.append(token[1])
            position = token.end()
        try:
            value = self.sum(0)
        except (ValueError, ArithmeticError, IndexError):
            return None
        return value if self.place == len(self.tokens) and math.isfinite(value) else None

    def peek(self) -> str:
        """The next token; empty = the end."""
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self) -> str:
        """The next token, taken; an IndexError at the end."""
        self.place += 1
        return self.tokens[self.place - 1]

    def minus(self) -> float:
        """-1 where a minus comes next, which is taken; else 1."""
        if self.peek() != "-":
            return 1.0
        self.take()
        return -1.0

    def sum(self, depth: int) -> float:
        """Terms with + and - between them; `depth` counts the brackets around."""
        if depth > DEPTH:
            raise ValueError("nested too deep")
        sign = -1.0 if self.peek() == "-" else 1.0
        if self.peek() in {"+", "-"}:
            self.take()
        total = sign * self.product(depth)
        while self.peek() in {"+", "-"}:
            sign = 1.0 if self.take() == "+" else -1.0
            total += sign * self.product(depth)
        return total

    def product(self, depth: int) -> float:
        """Factors with *, / or nothing between them."""
        total = self.power(depth)
        while True:
            following = self.peek()
            if following in {"*", "/"}:
                self.take()
                factor = self.minus() * self.power(depth)
                total = total * factor if following == "*" else total / factor
            elif following in _IMPLICIT:
                total *= self.power(depth)
            else:
                return total

    def power(self, depth: int) -> float:
        """One factor, perhaps with an exponent; a ValueError where that is too large or gives no real number."""
        base = self.atom(depth)
        if self.peek() != "^":
            return base
        self.take()
        exponent = self.minus() * self.atom(depth)
        if abs(exponent) > 64:
            raise ValueError("a power that large is no answer")
        value: float | complex = base**exponent
        if isinstance(value, complex):
            raise ValueError("not a real number")
        return value

    def atom(self, depth: int) -> float:
        """A number, π, a root, a fraction or what stands in brackets; a ValueError where none of them does."""
        token = self.take()
        if token[0].isdigit() or token[0] == ".":
            return float(token.replace(",", ""))
        if token == "π":
            return math.pi
        if token == "√":
            return self.root(depth)
        if token == "\\frac":
            above, below = self.argument(depth), self.argument(depth)
            return above / below
        if token in _CLOSING:
            inside = self.sum(depth + 1)
            if self.take() != _CLOSING[token]:
                raise ValueError("brackets do not match")
            return inside
        raise ValueError(f"{token} out of place")

    def root(self, depth: int) -> float:
        if self.peek() != "[":
            return math.sqrt(self.argument(depth))
        order, radicand = self.atom(depth + 1), self.argument(depth)  # \sqrt[3]{8}
        if radicand < 0 and order % 2 != 1:
            raise ValueError("not a real number")
        return math.copysign(abs(radicand) ** (1 / order), radicand)

    def argument(self, depth: int) -> float:
        """What stands behind √ or \\frac: a bracket, π or a number; `\\frac12` is not read."""
        if depth > DEPTH:
            raise ValueError("nested too deep")
        return self.atom(depth + 1)
