"""An option by its number, where the question numbers its options."""

import pytest

from gpg_vl.parsing import numbered_options

PETS = ("cat", "dog", "bird", "fish")
NUMBERED = "Which animal is it?\n1. cat\n2. dog\n3. bird\n4. fish"


@pytest.mark.parametrize(
    ("text", "exactly", "index"),
    [
        ("2", True, 1),
        ("(2)", True, 1),
        ("2. dog", True, 1),
        ("2. cat", True, None),
        ("2?", True, None),
        ("2.5", True, None),
        ("2, 3", True, None),
        ("0", True, None),
        ("5", True, None),
        ("The answer is 2.", False, 1),
        ("\\boxed{2}", False, 1),
        ("There are 2 cats.", False, None),
        ("The answer is 2. The answer is 3.", False, None),
    ],
)
def test_an_option_by_its_number(text, exactly, index):
    assert numbered_options.are_numbered(NUMBERED, PETS)
    assert numbered_options.named_option(text, PETS, exactly=exactly) == index


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("A cat, a dog, a bird or a fish?", PETS),
        ("2. cat 3. dog 4. bird 5. fish", PETS),
        ("1. 4\n2. 2\n3. 1", ("4", "2", "1")),  # a number would be an option's words
    ],
)
def test_a_number_means_nothing_where_options_are_not_numbered(question, options):
    assert not numbered_options.are_numbered(question, options)
