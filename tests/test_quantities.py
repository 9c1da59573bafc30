"""Values as people write them, by hand: which texts are one value, which are none, and which two values are the same."""

import math
from time import process_time

import pytest

from gpg_vl import quantities
from gpg_vl.quantities import Quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-3.5", -3.5),
        ("−3", -3),
        ("1,234.5", 1234.5),
        ("seven", 7),
        ("三", 3),
        ("½", 0.5),
        ("3½", 3.5),
        ("3 1/2", 3.5),
        ("1\\frac{1}{2}", 1.5),
        ("3/4", 0.75),
        ("\\frac{24}{5}", 4.8),
        ("\\dfrac{24}{5}", 4.8),
        ("\\frac12", 0.5),
        ("$\\frac{3}{5}$", 0.6),
        ("√2", 2**0.5),
        ("√{2}", 2**0.5),
        ("√(2)", 2**0.5),
        ("\\sqrt{2}", 2**0.5),
        ("\\sqrt2", 2**0.5),
        ("sqrt(2)", 2**0.5),
        ("\\sqrt[3]{8}", 2),
        ("\\sqrt[3]{-8}", -2),
        ("2+\\sqrt[3]{-8}", 0),
        ("2√3", 2 * 3**0.5),
        ("2\\sqrt{3}", 2 * 3**0.5),
        ("2*sqrt(3)", 2 * 3**0.5),
        ("2·√3", 2 * 3**0.5),
        ("2 × √3", 2 * 3**0.5),
        ("\\frac{2√{5}}{5}", 2 * 5**0.5 / 5),
        ("\\frac{2}{5}√{5}", 2 * 5**0.5 / 5),
        ("(√13 + 5)/2", (13**0.5 + 5) / 2),
        ("2√{2}-2", 2 * 2**0.5 - 2),
        ("√{3}+1", 3**0.5 + 1),
        ("π", math.pi),
        ("4π", 4 * math.pi),
        ("65\\pi", 65 * math.pi),
        ("2pi", 2 * math.pi),
        ("\\frac{1}{6}π", math.pi / 6),
        ("\\frac{9\\pi}{4}", 9 * math.pi / 4),
        ("5^2", 25),
        ("5²", 25),
        ("2^{-1}", 0.5),
        ("1.5 \\times 10^{3}", 1500),
        ("1.5e3", 1500),
        ("\\boxed{12}", 12),
        ("\\(12\\)", 12),
        ("**12**", 12),
        ("12.", 12),
        ("$12$", 12),
        ("\\left(2+3\\right)", 5),
    ],
)
def test_values_that_are_read(text, value):
    assert quantities.read(text).value == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        ("5cm", Quantity(5, "length", 0.01)),
        ("5 厘米", Quantity(5, "length", 0.01)),
        ("20√{2}海里", Quantity(20 * 2**0.5, "length", 1852)),
        ("16.2 nautical miles", Quantity(16.2, "length", 1852)),
        ("10米", Quantity(10, "length", 1)),
        ("\\frac{4}{3}米", Quantity(4 / 3, "length", 1)),
        ("16π平方米", Quantity(16 * math.pi, "area", 1)),
        ("75平方厘米", Quantity(75, "area", 1e-4)),
        ("5cm^2^", Quantity(5, "area", 1e-4)),
        ("4√{3}cm²", Quantity(4 * 3**0.5, "area", 1e-4)),
        ("50πm^{2}", Quantity(50 * math.pi, "area", 1)),
        ("$15 \\mathrm{~cm}^{2}$", Quantity(15, "area", 1e-4)),
        ("12 \\text{ cm}^2", Quantity(12, "area", 1e-4)),
        ("12 square meters", Quantity(12, "area", 1)),
        ("8 cubic cm", Quantity(8, "volume", 1e-6)),
        ("(√{3}+1)小时", Quantity(3**0.5 + 1, "time", 3600)),
        ("3.6秒", Quantity(3.6, "time", 1)),
        ("2 hours", Quantity(2, "time", 3600)),
        ("145°", Quantity(145, "angle", 1)),
        ("145^\\circ", Quantity(145, "angle", 1)),
        ("145 degrees", Quantity(145, "angle", 1)),
        ("145度", Quantity(145, "angle", 1)),
        ("40%", Quantity(40, "share", 0.01)),
        ("40\\%", Quantity(40, "share", 0.01)),
        ("5 m/s", Quantity(5, "speed", 1)),
    ],
)
def test_units_that_are_read(text, quantity):
    given = quantities.read(text)
    assert given.dimension == quantity.dimension
    assert (given.value, given.scale) == pytest.approx((quantity.value, quantity.scale))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "cm",
        "3 4",
        "3, 4",
        "3 or 4",
        "1:4",
        "x = 5",
        "AB = 10",
        "2N3",
        "4.0 + PE + PF",
        "10 * tan(60)",
        "3 apples",
        "3m 20cm",
        "0{3}{5}",
        "1/0",
        "√-1",
        "\\sqrt[2]{-4}",
        "\\sqrt[2.5]{-4}",
        "\\sqrt[0]{4}",
        "5 Mg",
        "5 \\text{ Mm}",
        "9^9^9",
        "10^400",
        "1e999",
        "nan",
        "inf",
        "±3",
        "(5",
        "5)",
        "()",
        "√",
        "\\frac{1}{}",
        "--3--",
        "(" * 50 + "1" + ")" * 50,
        "1" * 300,
        "+".join(["1"] * 150),
        "__import__('os')",
    ],
)
def test_texts_that_are_no_value(text):
    assert quantities.read(text) is None


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("2√3", "3.464"),
        ("2√3 cm", "2√3"),
        ("50 cm", "0.5 m"),
        ("1/3", "0.3333"),
        ("60π", "188.496"),
        ("π rad", "180°"),
        ("90 minutes", "1.5小时"),
        ("0", "0.0"),
    ],
)
def test_values_that_are_the_same(a, b):
    assert quantities.agree(quantities.read(a), quantities.read(b), 1e-3)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("10√2", "10"),
        ("5√3", "5"),
        ("27", "27.1"),
        ("5 cm", "5 m"),
        ("5 cm", "5 cm²"),
        ("3", "-3"),
        ("1/3", "0.33"),
        ("60°", "60 cm"),
        ("2017", "2016"),
        ("1001", "1000"),
    ],
)
def test_values_that_differ(a, b):
    assert not quantities.agree(quantities.read(a), quantities.read(b), 1e-3)


def test_a_boxed_value_is_the_answer_of_a_longer_text():
    assert quantities.foreign("Because of this, $x = \\boxed{2\\sqrt{3}}$.").value == pytest.approx(2 * 3**0.5)
    assert quantities.foreign("\\boxed{2} and \\boxed{3}") is None
    assert quantities.foreign("Therefore, the answer is 40.") is None


@pytest.mark.parametrize("piece", ["9", "√", "(", "\\frac{", "{", "-", "1+", "²", "\\boxed{1}", "3\u0301"])
def test_a_megabyte_is_read_quickly(piece):
    start = process_time()
    quantities.foreign(piece * (10**6 // len(piece)))
    for length in range(150, 200):
        quantities.read((piece * 200)[:length])
    assert process_time() - start < 2


def test_whole_numbers_may_differ_where_one_says_so():
    assert quantities.agree(quantities.read("2017"), quantities.read("2016"), 1e-3, whole=False)
    assert quantities.agree(quantities.read("2016.4"), quantities.read("2016"), 1e-3)
