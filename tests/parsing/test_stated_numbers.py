"""Numbers and values that foreign answers state in words, by hand: what a careful reader takes
as stated, and what states nothing."""

from time import process_time

import pytest

from gpg_vl.parsing import stated_numbers
from gpg_vl.verifiers.number import Number
from gpg_vl.verifiers.value import Value
from tests import recorded

SQUARES = "There are 4 squares: 1. the small one. 2. the large one.\n\n"


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("The answer is 14", 14),
        ("Answer: 14", 14),
        ("There are 14 objects.", 14),
        ("14 objects", 14),
        ("14个", 14),
        ("答案是14", 14),
        ('{"answer": 14}', 14),
        ("[14]", 14),
        ("x = 14", 14),
        ("14°", 14),
        ("1{,}234", 1234),
        ("1\\,234", 1234),
        ("1.234e3", 1234),
        ("The answer is **14**.", 14),
        ("**Answer:** 14", 14),
        ("The answer is $14$.", 14),
        ("Final answer: fourteen", 14),
        ("there are fourteen of them in the picture.", 14),
        ("一共14个", 14),
        ("图中有14个物体。", 14),
        ("共有十四个", 14),
        ('```json\n{"count": 14}\n```', 14),
        ('{"answer": "14"', 14),
        ("\\boxed{14 \\text{ cm}}", 14),
        ("14 cm", 14),
        ("$14", 14),
        ("14%", 14),
        ("The total is 14.", 14),
        ("I count 14 dogs.", 14),
        ("It is 14.", 14),
        ("So the answer is 7 + 7 = 14.", 14),
        ("The answer is x = 14.", 14),
        ("approximately 14", 14),
        ("about 14", 14),
        ("= 14", 14),
        ("n=14", 14),
        ("The number of dogs is 14.", 14),
        ("The answer to the question is: 14", 14),
        ("Count: 14", 14),
        ("The final count is 14.", 14),
        ("Result: 14", 14),
        ("-14", -14),
        ("The answer is -14.", -14),
        ("minus fourteen", -14),
        ("\\boxed{= 14}", 14),
        ("14 squares in total", 14),
        ("The answer is 1,234.", 1234),
        ("\\(14\\)", 14),
        ("14.", 14),
        ("Therefore, x = 14", 14),
        ("答案：14个", 14),
        ("所以一共有14只猫。", 14),
        ("There are fourteen dogs", 14),
        ("负3", -3),
        (SQUARES + "So, the total number of squares is 5.", 5),
        ("The answer:\n\n1. We add.\n2. We halve.\n\nTherefore, the length is 19.", 19),
        ("There are 7 balls. There are 5 cubes.\nHence, there are 7 - 5 = 2 more balls.", 2),
    ],
)
def test_a_number_is_stated(text, stated):
    assert stated_numbers.number(text) == stated
    assert (
        Number(mode="lenient")(f"<answer>{text}</answer>", recorded.sample("number", stated)).reward
        == 1
    )


@pytest.mark.parametrize(
    "text",
    [
        "The answer is not 14",
        "The answer isn't 14.",
        "14 or 15",
        "The answer is 14 or 15",
        "13-14",
        "between 13 and 14",
        "14/15",
        "14:15",
        "The answer is 14. The answer is 15.",
        "Is the answer 14?",
        "The wrong answer is 14.",
        "10√2",
        "The answer is 10√2",
        "3π",
        "2x",
        "14 thousand",
        "14th",
        "B. 9",
        "",
        "No idea",
        "nan",
        '{"answer": 14, "count": 15}',
        "3 4",
        "0 1 2 3 4",
        "14!",
        "14?",
        "1.2.3",
        "two and a half",
        "twenty thousand",
        "I would not answer 14",
        "There are not 14 dogs",
        "14 dogs and 3 cats",
        "There are 3 dogs and 4 cats.",
        "一千四百",
        "**3** and **4**",
        "A total of 3. A total of 4.",
    ],
)
def test_no_number_or_several_are_stated(text):
    assert stated_numbers.number(text) is None


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("x = 10√3", 17.32050807568877),
        ("The answer is $10\\sqrt{3}$ cm.", 17.32050807568877),
        ("10√3 ≈ 17.32", 17.32050807568877),
        ("∠A=145°", 145),
        ("3个小时", 3),
        ("负3", -3),
        ("minus 3", -3),
        ("\\angle ABC = 145^\\circ", 145),
        ("Answer: 2π", 6.283185307179586),
        ("答案是2√3厘米", 3.4641016151377544),
        ("AB = 10", 10),
        ("The angle is 145°", 145),
        ('{"value": "2√3"}', 3.4641016151377544),
        ("x=14.", 14),
    ],
)
def test_a_value_is_stated(text, stated):
    assert stated_numbers.value(text, prose=False).value == pytest.approx(stated)
    assert Value(mode="lenient")(text, recorded.sample("value", str(stated))).reward == 1


@pytest.mark.parametrize(
    "text",
    [
        "1:4",
        "2N3",
        "3 or 4",
        "AB = 1.8 * BC / 1.5 = 10.8",
        "10√3 ≈ 20",
        "4=3",
        "The answer is not 3",
        "The answer is 3. The answer is 4.",
    ],
)
def test_no_value_or_several_are_stated(text):
    assert stated_numbers.value(text, prose=False) is None
    assert stated_numbers.value(text, prose=True) is None


def test_longer_texts_are_read_for_a_value_only_on_request():
    text = "Because of this, angle A = 20. Therefore, the answer is 40."
    assert stated_numbers.value(text, prose=False) is None
    assert stated_numbers.value(text, prose=True).value == 40
    assert (
        stated_numbers.value("We get BD = 3. So, the area of ABC is 2√3 cm².", prose=True).dimension
        == "area"
    )


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        # behind a cue, then in a conclusion, then a total, then what is there
        ("There are 3 dogs. The answer is 4.", 4),
        ("So, there are 3 dogs. The answer is 4.", 4),
        ("A total of 5. So, there are 3 dogs.", 3),
        ("There are 3 dogs. The total number of animals is 5. There are 2 cats.", 5),
        ("There are 3 dogs and 2 cats. So, there are 3 + 2 = 5 animals. There is a house.", 5),
        ("So there are 4. Therefore, there are 6.", 6),  # the last conclusion
        ("There are 3 dogs. So, are there 5 cats?", 3),  # a question draws none
        ("The total is 3? There are 4.", 4),
        ("There are **3** dogs.", 3),
        ("There are 3 dogs. I count **4** cats.", None),
        ("The line is 8 cm long.", 8),
        ("The line is 8 cm long. It is red.", None),  # more than one sentence, and nothing is held
        ("The answer is 3. Answer: three", 3),
        ("A total of 3. In total 3.", 3),
        ("x" * 300 + " The answer is 4", 4),
        ("The answer is 3 + 4 = 7 dogs.", 7),
        ("The answer is 3 of 5.", None),
        ("I see 3 of the 5 dogs", None),
        ("negative 5", -5),
        ("It was **-3** in Oslo. It is cold there.", -3),
        ("It was **−3** in Oslo. It is cold there.", -3),
        ("1.5e3", 1500),
        ("The answer is 3rd", None),
        ("There were 2 dogs, and now there are not 3 dogs.", 2),
        ("The answer is 3. " * 200, 3),
        ("The answer is 3. " * 201, None),  # so many are babble
        ("3" + " " * 150, 3),
    ],
)
def test_better_evidence_decides_and_a_contradiction_states_nothing(text, stated):
    assert stated_numbers.number(text) == stated


@pytest.mark.parametrize(
    ("text", "value", "at_length"),
    [
        ("The angle is 40°, as it is.", 40, 40),
        ("The angle is 40°. It is acute.", 40, 40),
        ("The angle is 40°. The other is 50°.", None, None),
        ("x ≈ 17.32", 17.32, 17.32),
        ("10√3 ≈ 17.4", 300**0.5, 300**0.5),  # within a hundredth
        ("10√3 ≈ 17.5", None, None),
        ("AB = 3 = CD", None, None),
        ("so the area is 3 cm²", 3, 3),
        ("The answer is 3. The answer is 3.", None, 3),
        ("The answer is 3. The answer is 4.", None, None),
        ("We see much. So the angle is 40°.", None, 40),
        ("x" * 201 + ". The answer is 40.", None, 40),
    ],
)
def test_values_of_one_statement_and_of_a_longer_text(text, value, at_length):
    for prosaic, expected in ((False, value), (True, at_length)):
        given = stated_numbers.value(text, prose=prosaic)
        assert (given.value if given else None) == (
            None if expected is None else pytest.approx(expected)
        )


@pytest.mark.parametrize("cue", ["The answer:", "The answer is", "The answer is:", "答案："])
@pytest.mark.parametrize("gap", ["\n", "\n\n", " \n  "])
def test_a_list_behind_a_cue_states_nothing(cue, gap):
    assert stated_numbers.number(f"{cue}{gap}1. red\n2. blue") is None
    assert stated_numbers.number(f"{cue}{gap}14") == 14


@recorded.needed
def test_the_counts_that_a_model_stated_in_free_text():
    records = recorded.read("counting/nested_squares_gpt4o.jsonl")
    given = [stated_numbers.number(record["completion"]) for record in records]
    assert given == [record["stated_count_rule"] for record in records]
    truths = [recorded.sample("number", record["ground_truth"]) for record in records]
    verdicts = recorded.verdicts(
        Number(mode="lenient"),
        zip((record["completion"] for record in records), truths, strict=True),
    )
    assert (
        recorded.right(verdicts)
        == recorded.reference("counting/nested_squares_gpt4o.jsonl")["stated_equals_truth"]
    )


@pytest.mark.parametrize(
    "piece",
    [
        "There are 3 dogs. ",
        "The answer is 3. ",
        "total of 3 ",
        "So, ",
        "= 3 ",
        "**3** ",
        "9",
        "in total ",
        "共3",
        "一",
        "\n1. ",
        "{",
    ],
)
def test_a_megabyte_is_read_quickly(piece):
    text, start = piece * (10**6 // len(piece)), process_time()
    stated_numbers.number(text)
    stated_numbers.value(text, prose=True)
    assert process_time() - start < 4


@pytest.mark.parametrize(
    "text",
    [
        "I count 1, 2, 3.",
        "There are 1, 2, or 3.",
        "There are 1, 2, 3 dogs.",
        "There are one, two, and three.",
    ],
)
def test_counting_is_no_statement(text):
    assert stated_numbers.number(text) is None
    assert stated_numbers.number("There are 5, 3 on the left and 2 on the right.") == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("一共五个", 5),
        ("一些", None),
        ("一个也没有", None),
        ("三四个", None),
        ("五十多个", None),
        ("两个", 2),
        ("五只狗", 5),
        ("14个", 14),
    ],
)
def test_chinese_words_that_begin_with_a_numeral(text, expected):
    assert stated_numbers.number(text) == expected
