"""Values as people write them, by hand: which texts are one value, which are none, and which two
values are the same."""

import math
from time import process_time

import pytest

from gpg_vl.parsing import quantities
from gpg_vl.parsing.quantities import Quantity


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
        "3~4",
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
    given = quantities.read_lenient("Because of this, $x = \\boxed{2\\sqrt{3}}$.")
    assert given.value == pytest.approx(2 * 3**0.5)
    assert quantities.read_lenient("\\boxed{2} and \\boxed{3}") is None
    assert quantities.read_lenient("Therefore, the answer is 40.") is None


@pytest.mark.parametrize(
    "piece", ["9", "√", "(", "\\frac{", "{", "-", "1+", "²", "\\boxed{1}", "3\u0301"]
)
def test_a_megabyte_is_read_quickly(piece):
    start = process_time()
    quantities.read_lenient(piece * (10**6 // len(piece)))
    for length in range(150, 200):
        quantities.read((piece * 200)[:length])
    assert process_time() - start < 2


def test_whole_numbers_may_differ_where_one_says_so():
    assert quantities.agree(quantities.read("2017"), quantities.read("2016"), 1e-3, whole=False)
    assert quantities.agree(quantities.read("2016.4"), quantities.read("2016"), 1e-3)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2+3*4", 14),
        ("2*3^2", 18),
        ("-2^2", -4),
        ("(-2)^2", 4),
        ("2^-1", 0.5),
        ("6/2*3", 9),
        ("2-3-4", -5),
        ("-2*-3", 6),
        ("+2", 2),
        ("2(3+4)", 14),
        ("[1+2]*3", 9),
        ("{1+2}/2", 1.5),
        ("√4√9", 6),
        ("2√4+1", 5),
        ("\\sqrt[2]{9}", 3),
        ("\\sqrt[3]{-27}", -3),
        ("\\sqrt[5]{-32}", -2),
        ("\\sqrt[2]{0.25}", 0.5),
        ("\\frac{1}{2}\\frac{1}{2}", 0.25),
        ("2^{3}", 8),
        ("2^64", 2**64),
        ("2^{-64}", 2**-64),
        ("1.5e-3", 0.0015),
        ("12,345+1", 12346),
        (".5+.25", 0.75),
        ("2 1/2", 2.5),
        ("3\\frac{3}{4}", 3.75),
        ("(" * 12 + "1" + ")" * 12, 1),
        ("1+" * 99 + "1", 100),
    ],
)
def test_a_value_is_worked_out(text, value):
    assert quantities.read(text).value == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "2^65",
            "2^{-65}",
            "(-8)^(1/3)",
            "(1]",
            "[1)",
            "2 3/2",
            "2 2/2",
            "2 0/2",
            "(" * 13 + "1" + ")" * 13,
            "1+" * 100 + "1",
        ),
        *(
            "2+",
            "*2",
            "√",
            "2^",
            "\\frac{1}",
            "12,34",
            "1 2",
            "2..5",
            "\\sqrt[2]{-9}",
            "\\sqrt[4]{-16}",
            "\\sqrt[0]{4}",
            "0^{-1}",
        ),
    ],
)
def test_what_cannot_be_worked_out(text):
    assert quantities.read(text) is None


@pytest.mark.parametrize(
    ("words", "dimension", "scale"),
    [
        ("μm um micrometre 微米", "length", 1e-6),
        ("mm millimeters 毫米", "length", 1e-3),
        ("cm centimetre 厘米", "length", 1e-2),
        ("dm 分米", "length", 0.1),
        ("m meters 米", "length", 1),
        ("km 公里 千米", "length", 1000),
        ("mile mi", "length", 1609.344),
        ("ft feet 英尺", "length", 0.3048),
        ("inch inches", "length", 0.0254),
        ("yards 码", "length", 0.9144),
        ("cm^2 cm2 squarecm 平方厘米 sqcm", "area", 1e-4),
        ("km^2 平方千米", "area", 1e6),
        ("m^2 sqm", "area", 1),
        ("squareunits units^2", "area", 0),  # not known
        ("hz", "frequency", 1),
        ("newton 牛", "force", 1),
        ("kJ", "energy", 1000),
        ("kWh", "energy", 3.6e6),
        ("ha 公顷", "area", 1e4),
        ("m^3 cubicmeters 立方米", "volume", 1),
        ("cm^3 立方厘米", "volume", 1e-6),
        ("l litres 升", "volume", 1e-3),
        ("ml 毫升", "volume", 1e-6),
        ("° degrees 度", "angle", 1),
        ("rad 弧度", "angle", 180 / math.pi),
        ("ms", "time", 1e-3),
        ("s seconds 秒", "time", 1),
        ("min 分钟", "time", 60),
        ("h hours 小时", "time", 3600),
        ("days 天", "time", 86_400),
        ("weeks 周", "time", 604_800),
        ("mg 毫克", "mass", 1e-6),
        ("g grams 克", "mass", 1e-3),
        ("kg 千克 公斤", "mass", 1),
        ("tons 吨", "mass", 1000),
        ("m/s mps 米/秒", "speed", 1),
        ("km/h 千米/时", "speed", 1 / 3.6),
        ("mph", "speed", 0.44704),
        ("% percent", "share", 0.01),
        ("dollars 元", "money", 1),
        ("cents", "money", 0.01),
        ("units 个", "count", 1),
    ],
)
def test_units_by_their_size(words, dimension, scale):
    for word in words.split():
        given = quantities.read(f"7 {word}")
        assert (given.value, given.dimension, given.scale) == (7, dimension, pytest.approx(scale))


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("1 km", "1000 m", True),
        ("1 km", "999 m", False),
        ("1 km", "1 m", False),
        ("1 h", "60 min", True),
        ("36 km/h", "10 m/s", True),
        ("1 m^2", "10000 cm^2", True),
        ("1 m^3", "1000 l", True),
        ("50%", "50", True),
        ("50%", "0.5", False),  # the written numbers count
        ("5 个", "5 cm", True),  # a count says nothing of what is counted
        ("5 个", "6 cm", False),
        ("5 s", "5 m", False),
        ("0.001", "0", False),
    ],
)
def test_units_count_where_both_have_one(a, b, same):
    one, other = quantities.read(a), quantities.read(b)
    assert quantities.agree(one, other, 1e-3) is quantities.agree(other, one, 1e-3) is same


@pytest.mark.parametrize(
    ("b", "tolerance", "same"),
    [(11.6, 0.1, True), (11.7, 0.1, False), (10.5, 0.0, True), (9.5, 0.1, True), (9.4, 0.1, False)],
)
def test_the_tolerance_is_a_share_of_the_larger_value(b, tolerance, same):
    assert quantities.agree(Quantity(10.5), Quantity(b), tolerance) is same
    assert quantities.agree(Quantity(-10.5), Quantity(-b), tolerance) is same


def test_boxed_values_that_agree_are_one():
    assert quantities.read_lenient("first \\boxed{2}, again \\boxed{2.0}").value == 2
    assert quantities.read_lenient("\\boxed{2 cm} or \\boxed{2 m}") is None
    assert quantities.read_lenient("\\boxed{x}") is None
    assert quantities.read_lenient("\\boxed{x} and \\boxed{2}") is None


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("36 square units", "36 cm^2", True),  # the size of the unit is not known
        ("36 square units", "36 cm", False),
        ("36 square units", "37 cm^2", False),
        ("36 sq. cm", "36 cm^2", True),
        ("1{,}234", "1234", True),
        ("20 N", "20", True),
        ("20 N", "20 V", False),
        ("2 kN", "2000 N", True),
        ("25℃", "25 °C", True),
        ("25 °C", "25 K", False),
        ("25 °C", "25°", False),
        ("9.8 m/s²", "9.8", True),
        ("9.8 m/s^2", "9.8 m/s", False),
        ("60 kilometers per hour", "60 km/h", True),
        ("€20", "20", True),
    ],
)
def test_units_of_physics(a, b, same):
    one, other = quantities.read(a), quantities.read(b)
    assert one is not None
    assert other is not None
    assert quantities.agree(one, other, 1e-3) is same


@pytest.mark.parametrize("text", ["20n", "20 n", "20 NV", "N", "20 N 30"])
def test_a_variable_is_no_unit(text):
    assert quantities.read(text) is None
