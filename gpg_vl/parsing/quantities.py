r"""Read values with roots, fractions and units: `10√{3} cm`, `\frac{24}{5}`, `16π平方米`, `145°`.

More examples: `2*sqrt(5)/5`, `1.5 \times 10^{3}`, `3 1/2`.

A small calculator instead of `eval`: numbers, + - * / ^, brackets, fractions, roots, π, and one
unit at the end. A text that is anything more (words, an equation, a ratio) is no value. The work is
bounded: a text longer than MAX_LENGTH is not read, brackets nest at most MAX_DEPTH deep, and
exponents are at most MAX_EXPONENT.
"""

import math
import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from gpg_vl.parsing import markup, numbers

MAX_LENGTH = 200
"""Characters of the longest text that is read as a value."""
MAX_DEPTH = 12
"""Deepest nesting of brackets, roots and fractions."""
MAX_EXPONENT = 64
"""Largest absolute exponent; no answer needs more, and a larger one takes long to compute."""


UNKNOWN_SCALE = 0.0
"""Scale of a unit whose size is not known."""


class Quantity(NamedTuple):
    """A value and its unit."""

    value: float
    """The number as written, before the unit."""
    dimension: str = ""
    """Kind of the unit: length, area, volume, angle, time...; empty = no unit was written."""
    scale: float = 1.0
    """Size of the written unit in basic units (metre, degree, second...); 0 = not known, as that
    of a square unit."""


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
    "mass": {
        1e-6: "mg 毫克",
        1e-3: "g gram grams 克",
        1.0: "kg kilogram kilograms 千克 公斤",
        1e3: "ton tons tonne tonnes 吨",
    },
    "volume": {
        1e-3: "l liter liters litre litres 升",
        1e-6: "ml milliliter milliliters millilitre millilitres 毫升",
    },
    "area": {1e4: "ha hectare hectares 公顷"},
    "speed": {
        1.0: "m/s mps meterspersecond metrespersecond 米/秒",
        1 / 3.6: "km/h kmh kph kilometersperhour kilometresperhour 千米/时 千米/小时 公里/小时",
        0.44704: "mph milesperhour",
    },
    "acceleration": {1.0: "m/s^2 m/s2 米/秒^2"},
    "force": {1.0: "newton newtons 牛 牛顿", 1e3: "kn"},
    "energy": {1.0: "joule joules 焦耳", 1e3: "kj", 3.6e6: "kwh"},
    "power": {1.0: "watt watts 瓦", 1e3: "kw"},
    "voltage": {1.0: "volt volts 伏", 1e3: "kv"},
    "current": {1.0: "ampere amperes amp amps 安", 1e-3: "ma"},
    "resistance": {1.0: "ohm ohms \N{GREEK SMALL LETTER OMEGA} 欧 欧姆"},
    "frequency": {1.0: "hz hertz 赫兹", 1e3: "khz"},
    "pressure": {1.0: "pascal pascals", 1e3: "kpa"},
    "celsius": {1.0: "°c degreescelsius 摄氏度"},
    "fahrenheit": {1.0: "°f degreesfahrenheit"},
    "kelvin": {1.0: "kelvin"},
    "share": {0.01: "% percent"},
    "money": {1.0: "dollar dollars 元", 0.01: "cent cents"},
    "count": {1.0: "unit units 个 单位"},
}


def _table() -> dict[str, tuple[str, float]]:
    table: dict[str, tuple[str, float]] = {}
    for dimension, scales in _OTHERS.items():
        for scale, words in scales.items():
            for word in words.split():
                table[word] = (dimension, scale)
    for scale, words in _LENGTHS.items():
        for word in words.split():
            table[word] = ("length", scale)
            # cm^2, cm2, squarecm, 平方厘米
            for spelling in (f"{word}^2", f"{word}2", f"square{word}", f"平方{word}"):
                table[spelling] = ("area", scale**2)
            for spelling in (f"{word}^3", f"{word}3", f"cubic{word}", f"立方{word}"):
                table[spelling] = ("volume", scale**3)
    # square inches are read as inch^2 or square inch only
    del table["inch2"], table["inch3"]
    return table | {
        "sqcm": ("area", 1e-4),
        "sqm": ("area", 1.0),
        "squareunits": ("area", UNKNOWN_SCALE),
        "squareunit": ("area", UNKNOWN_SCALE),
        "units^2": ("area", UNKNOWN_SCALE),
        "cubicunits": ("volume", UNKNOWN_SCALE),
        "cubicunit": ("volume", UNKNOWN_SCALE),
        "units^3": ("volume", UNKNOWN_SCALE),
    }


UNITS = _table()
"""Unit, lower case and without spaces -> (dimension, size in basic units)."""
_UNIT = re.compile("(" + "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True)) + r")\.?$")
_MEGA = re.compile(r"(?<![A-Za-z])M(?:g|m|s|l|L)[\s.]*$")
"""Units with the prefix mega (Mm, Mg), which casefolding would turn into milli."""
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|textrm|operatorname|rm)\s*\{([^{}]*)\}")
_CAPITALS = {"N": "newton", "J": "joule", "W": "watt", "V": "volt", "A": "ampere", "K": "kelvin"}
"""Units of one capital letter, which without case would be a variable: 3 N."""
_Replacement = str | Callable[[re.Match[str]], str]


def _power_of_superscript(match: re.Match[str]) -> str:
    return "^" + match[0].translate(_SUPERSCRIPTS)


def _spelt_fraction(match: re.Match[str]) -> str:
    return " " + unicodedata.normalize("NFKC", match[0])


def _unit_in_capitals(match: re.Match[str]) -> str:
    return f" {_CAPITALS[match[1]]}"


def _bare_power(match: re.Match[str]) -> str:
    return "^" + (match[1] or match[2])


_SPELLINGS: tuple[tuple[re.Pattern[str], _Replacement], ...] = (
    (re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹]+"), _power_of_superscript),  # 5² -> 5^2
    (re.compile(r"\^\{?\\circ\}?|\\degree|˚|º|∘"), "°"),  # 30^{\circ} -> 30°
    (re.compile(r"\\(?:left|right|displaystyle|,|!|;|:|quad|qquad| )"), " "),  # 3\,cm -> 3 cm
    (re.compile(r"\\(?:dfrac|tfrac|cfrac)"), r"\\frac"),
    (re.compile(r"\\(?:cdot|times|ast)|[×·∙⋅∗]|\*\*(?!\d)"), "*"),  # 2 \times 3 -> 2 * 3
    (re.compile(r"(?<=\d)\{,\}(?=\d{3})"), ","),  # 1{,}234 -> 1,234
    (re.compile(r"\bsq(?:\.|(?=\s))\s?(?=[a-z])"), "square "),  # sq. cm
    (re.compile(r"[¼½¾⅐-⅞]"), _spelt_fraction),  # 3½ -> 3 1⁄2
    (re.compile(r"\\frac\s?(\d)(\d)(?!\d)"), r"\\frac{\1}{\2}"),  # \frac12 -> \frac{1}{2}
    (re.compile(r"\\div|÷|⁄|∕"), "/"),
    (re.compile(r"\\sqrt|\bsqrt\b|(?<=\d)sqrt"), "√"),  # 2sqrt(3) -> 2√(3)
    (re.compile(r"\\pi\b|\bpi\b|(?<=\d)pi\b|ᴨ|∏"), "π"),  # 2pi -> 2π
    (re.compile(r"\*\*"), "^"),  # 2**3 -> 2^3
    (re.compile(r"[−–—]"), "-"),
    (re.compile(r"(?<=[\d)}])\s*(?:\\(?:text|mathrm)\{\s*)?([NJWVAK])\}?\s*$"), _unit_in_capitals),
    (re.compile(r"\\Omega(?![A-Za-z])"), "ω"),
    (re.compile(r"[€£¥￥]\s?(?=\d)"), ""),  # €20 -> 20, as $20
    (re.compile(r"\\(?=[%$])"), ""),  # 50\% -> 50%
    (re.compile(r"~"), " "),  # 3~cm -> 3 cm, but 3~4 is no 34
    (re.compile(r"\^(\d)\^$|\^\{(\d)\}$"), _bare_power),  # cm^{2} and cm^2^ -> cm^2
)
"""Spellings of one thing -> the one that the calculator reads; in this order, each sees the
replacements before it."""


def read(text: str) -> Quantity | None:
    """Read the one value that a text consists of; None where it is anything else."""
    bare = markup.unwrapped(text)
    if not 0 < len(bare) <= MAX_LENGTH:
        return None
    by_word = numbers.number(bare)
    if by_word is not None:
        return Quantity(by_word)
    bare = _in_one_spelling(bare)
    if len(bare) > MAX_LENGTH or _MEGA.search(bare):
        return None
    expression, dimension, scale = _split_unit(markup.folded(bare).rstrip(" .,;。"))
    value = _Calculator(expression).result()
    if value is None:
        return None
    return Quantity(value, dimension, scale)


def may_be_range(text: str) -> bool:
    """Return True for plain numbers with signs between: `3-4 cm`, `3~4`, `1/2/2020`.

    They are a range or a date rather than a difference or a quotient.
    """
    bare = re.sub("[~～〜]", "-", markup.unwrapped(text[:MAX_LENGTH]))
    bare = _in_one_spelling(bare)
    expression, _, _ = _split_unit(markup.folded(bare).rstrip(" .,;。"))
    return _RANGE.fullmatch(expression.strip()) is not None


def read_lenient(text: str) -> Quantity | None:
    r"""Read a value as `read` does; in a longer text the one value in `\boxed{}` is the answer."""
    given = read(text)
    if given is not None:
        return given
    return markup.agreed(read(inside) for inside in markup.boxed(text))


def agree(a: Quantity, b: Quantity, tolerance: float, *, whole: bool = True) -> bool:
    """Compare two values within a relative tolerance.

    Where both have a unit, units count by value (50 cm is 0.5 m) and must measure the same thing;
    where one has none, the written numbers count.

    Args:
        whole: two whole numbers must be equal, whatever the tolerance.
    """
    if a.dimension and b.dimension and "count" not in (a.dimension, b.dimension):
        if a.dimension != b.dimension:
            return False
        if UNKNOWN_SCALE not in (a.scale, b.scale):
            a = Quantity(a.value * a.scale)
            b = Quantity(b.value * b.scale)
    if whole and a.value.is_integer() and b.value.is_integer():  # the year 2017 is not 2016
        return a.value == b.value
    return abs(a.value - b.value) <= tolerance * max(abs(a.value), abs(b.value))


def _in_one_spelling(text: str) -> str:
    """Write each sign in one way: √ π * / ^ °, without dollar signs and LaTeX spaces."""
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    text = _TEXT.sub(r" \1", text)
    return text.replace("$", " ")


def _split_unit(text: str) -> tuple[str, str, float]:
    """Split a text into (expression, dimension, scale) of the unit at its end.

    Without a unit, the whole text with an empty dimension and the scale 1.
    """
    # what follows the last digit, bracket or sign: " cm^2" of "2√3 cm^2"
    words = re.search(r"[^\d().{}√π]{1,30}(?:\^?\{?[23]\}?)?\.?$", text)
    if words is None:
        return text, "", 1.0
    tail = words[0].replace(" ", "").replace("{", "").replace("}", "")
    unit = _UNIT.search(tail)
    # "3*cm" and "3 of cm" are still three centimetres; any other word makes the text no value
    if unit is None or tail[: unit.start()].strip("*") not in {"", "of"}:
        return text, "", 1.0
    dimension, scale = UNITS[unit[1]]
    return text[: words.start()], dimension, scale


_TOKEN = re.compile(
    r"\s*("
    r"\d{1,3}(?:,\d{3})+(?:\.\d+)?"  # 1,234.5
    r"|\d+(?:\.\d*)?(?:e[-+]?\d{1,3}(?![\d.]))?"  # 3, 3.5, 1.5e-3
    r"|\.\d+"  # .5
    r"|\\frac|[-+*/^()\[\]{}√π])"
)
_IMPLICIT_FACTORS = frozenset({"√", "π", "(", "\\frac"})
"""Tokens that may follow a factor without a sign of multiplication, as in 2√3 and 2π. A number is
not among them: "3 4" is two numbers."""
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_MIXED = re.compile(
    r"(\d+)\s*(?:"
    r"\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}"  # 3\frac{1}{2}
    r"|(?<=\d)\s(\d+)\s*/\s*(\d+))"  # 3 1/2
)


_RANGE = re.compile(
    r"\d[\d.,]*\s*[%°]?(?:\s*-\s*\d[\d.,]*){1,2}"  # 3-4, 3%-4%, 2020-01-02
    r"|\d{1,4}/\d{1,4}/\d{1,4}"  # 1/2/2020
)


class _Calculator:
    """Recursive descent parser over the tokens of one short text."""

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        self.tokens: list[str] = []
        self.place = 0

    def result(self) -> float | None:
        """Compute the value of the whole text.

        None where it is no expression, or has no finite real value.
        """
        mixed = _MIXED.fullmatch(self.text)
        if mixed is not None:
            return _mixed_number(mixed)
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
        if self.place < len(self.tokens) or not math.isfinite(value):
            return None
        return value

    def peek(self) -> str:
        """Return the next token without taking it; empty at the end."""
        if self.place < len(self.tokens):
            return self.tokens[self.place]
        return ""

    def take(self) -> str:
        """Return the next token and step behind it.

        Raises:
            IndexError: there is none.
        """
        self.place += 1
        return self.tokens[self.place - 1]

    def minus(self) -> float:
        """Take a minus sign: -1 where one comes next, else 1 and nothing is taken."""
        if self.peek() != "-":
            return 1.0
        self.take()
        return -1.0

    def sum(self, depth: int) -> float:
        """Compute terms with + and - between them.

        Args:
            depth: number of brackets around them.
        """
        if depth > MAX_DEPTH:
            raise ValueError("nested too deep")
        sign = 1.0
        if self.peek() == "-":
            sign = -1.0
        if self.peek() in {"+", "-"}:
            self.take()
        total = sign * self.product(depth)
        while self.peek() in {"+", "-"}:
            sign = 1.0 if self.take() == "+" else -1.0
            total += sign * self.product(depth)
        return total

    def product(self, depth: int) -> float:
        """Compute factors with *, / or nothing between them."""
        total = self.power(depth)
        while True:
            following = self.peek()
            if following in {"*", "/"}:
                self.take()
                factor = self.minus() * self.power(depth)
                total = total * factor if following == "*" else total / factor
            elif following in _IMPLICIT_FACTORS:
                total *= self.power(depth)
            else:
                return total

    def power(self, depth: int) -> float:
        """Compute one factor, perhaps with an exponent.

        Raises:
            ValueError: the exponent is too large, or the power is no real number.
        """
        base = self.atom(depth)
        if self.peek() != "^":
            return base
        self.take()
        exponent = self.minus() * self.atom(depth)
        if abs(exponent) > MAX_EXPONENT:
            raise ValueError("the exponent is too large")
        value: float | complex = base**exponent
        if isinstance(value, complex):
            raise ValueError("not a real number")
        return value

    def atom(self, depth: int) -> float:
        """Compute a number, π, a root, a fraction or the inside of brackets.

        Raises:
            ValueError: the next token begins none of them.
        """
        token = self.take()
        if token[0].isdigit() or token[0] == ".":
            return float(token.replace(",", ""))
        if token == "π":
            return math.pi
        if token == "√":
            return self.root(depth)
        if token == "\\frac":
            numerator = self.argument(depth)
            denominator = self.argument(depth)
            return numerator / denominator
        if token in _CLOSING:
            inside = self.sum(depth + 1)
            if self.take() != _CLOSING[token]:
                raise ValueError("brackets do not match")
            return inside
        raise ValueError(f"{token} out of place")

    def root(self, depth: int) -> float:
        """Compute a square root, or the root of the order in brackets: \\sqrt[3]{8}."""
        if self.peek() != "[":
            return math.sqrt(self.argument(depth))
        order = self.atom(depth + 1)
        radicand = self.argument(depth)
        if radicand < 0 and order % 2 != 1:
            raise ValueError("not a real number")
        return math.copysign(abs(radicand) ** (1 / order), radicand)

    def argument(self, depth: int) -> float:
        """Compute the argument of √ or \\frac: a bracket, π or a number."""
        if depth > MAX_DEPTH:
            raise ValueError("nested too deep")
        return self.atom(depth + 1)


def _mixed_number(match: re.Match[str]) -> float | None:
    """Compute three and a half from `3 1/2`; None where the fraction is not below one."""
    whole, numerator, denominator = (float(part) for part in match.groups() if part is not None)
    if not 0 < numerator < denominator:
        return None
    return whole + numerator / denominator
