"""Texts of models and data on a page: every character visible, none too many."""

import pytest

from gpg_vl.report.page.texts import plain, shortened, single_line
from tests.hostile_texts import HOSTILE


def test_control_characters_become_signs_that_are_seen():
    assert plain("a\x00b\x07c\x1b[31m\x7f") == "a\u2400b\u2407c\u241b[31m\u2421"
    assert plain("tab\tline\nend") == "tab\tline\nend"
    assert plain("one\r\ntwo\rthree") == "one\ntwo\u240dthree"
    assert plain("a\x85b\x9fc") == "a\ufffdb\ufffdc"


def test_halves_of_pairs_and_what_is_no_character_are_replaced():
    assert plain("a\ud83db\udc4dc\ufffe\uffff") == "a\ufffdb\ufffdc\ufffd\ufffd"
    assert plain("\U0001f44d e\u0301 \u0643") == "\U0001f44d e\u0301 \u0643"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_every_hostile_text_can_be_written_to_a_file(text):
    for shown in (plain(text), shortened(text), single_line(text)):
        assert shown.encode()
        assert "\x00" not in shown


def test_what_is_no_text_is_shown_as_json():
    assert plain(None) == ""
    assert plain([[1, 2.5], None]) == "[[1, 2.5], null]"
    assert plain({"größe": {3}}) == '{"größe": "{3}"}'


def test_of_a_long_text_the_beginning_and_the_end_stay():
    text = "a" * 3000 + "b" * 3000
    note = "... [2,000 characters are left out here] ..."
    assert shortened(text) == "a" * 2500 + note + "b" * 1500
    assert shortened("x" * 4000) == "x" * 4000
    assert shortened("abcdefghijk", 10) == "abcde... [1 characters are left out here] ...ghijk"


def test_one_line_is_cut_with_dots():
    assert single_line(" one\n two\tthree ") == "one two three"
    assert single_line("a" * 120) == "a" * 120
    assert single_line("a" * 121) == "a" * 117 + "..."
    assert single_line("abcdef", 5) == "ab..."
