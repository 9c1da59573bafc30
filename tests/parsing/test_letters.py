"""Letters of options, in their order or their own."""

from gpg_vl.parsing.letters import MAX_LETTERS, letter_of, letters_of


def test_letters_stand_for_options_in_their_order():
    assert [letter_of(index) for index in (0, 1, MAX_LETTERS - 1)] == ["A", "B", "Z"]
    assert letters_of(["cat", "dog", "horse"]) == "ABC"
    assert len(letters_of(["cat"] * 30)) == MAX_LETTERS


def test_options_may_have_letters_of_their_own():
    assert letters_of(["cat", "dog", "horse"], ("b", "a", "f")) == "BAF"
    assert letter_of(1, ("b", "c")) == "C"
