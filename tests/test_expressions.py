"""Expressions: which texts are one, which truths are sound, and the process that compares them."""

from time import process_time

import pytest

from gpg_vl.verifiers import math_worker
from gpg_vl.verifiers.expression import Expression
from gpg_vl.verifiers.verifier import Verifiers
from tests.test_verifiers import reward, sample_of


@pytest.mark.parametrize("truth", ["[0,1]", "(1,2)", "(0,1]", "\\{1,2\\}"])
def test_a_truth_may_be_an_interval_a_point_or_a_set_of_numbers(truth):
    assert Verifiers(by_kind={"expression": Expression()}).complaint(sample_of("expression", answer=truth)) == ""
    assert reward(Expression(), "3", sample_of("expression", answer=truth)) == 0


@pytest.mark.parametrize("truth", [")", "?", "1,2"])
def test_a_truth_that_is_no_expression_is_a_complaint_and_no_crash(truth):
    told = Verifiers(by_kind={"expression": Expression()}).complaint(sample_of("expression", answer=truth))
    assert truth in told


def test_a_long_number_in_a_foreign_text_is_read_in_linear_time(monkeypatch):
    monkeypatch.setattr(math_worker.WORKER, "ask", lambda seconds, **request: None)
    start = process_time()
    Expression(mode="lenient").mark("1" * 20_000, sample_of("expression", answer="3"))
    assert process_time() - start < 0.3
