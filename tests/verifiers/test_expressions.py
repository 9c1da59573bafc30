"""Expressions: which texts are one, which truths are sound, and the process that compares them."""

import io
import json
import math
import os
import subprocess
import sys
from time import process_time

import pytest

from gpg_vl.errors import UserError
from gpg_vl.prompts import Style
from gpg_vl.verifiers import math_worker, published_rules
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.expression import Expression
from tests.hand_made import completion
from tests.recorded import sample
from tests.verifiers.test_verifiers import reward, said, sample_of


@pytest.mark.parametrize("truth", ["[0,1]", "(1,2)", "(0,1]", "\\{1,2\\}"])
def test_a_truth_may_be_an_interval_a_point_or_a_set_of_numbers(truth):
    assert (
        VerifierSet(by_kind={"expression": Expression()}).validation_error(
            sample_of("expression", answer=truth)
        )
        == ""
    )
    assert reward(Expression(), "3", sample_of("expression", answer=truth)) == 0


@pytest.mark.parametrize("truth", [")", "?", "1,2"])
def test_a_truth_that_is_no_expression_is_a_validation_error_and_no_crash(truth):
    error = VerifierSet(by_kind={"expression": Expression()}).validation_error(
        sample_of("expression", answer=truth)
    )
    assert truth in error


def test_a_long_number_in_a_foreign_text_is_read_in_linear_time(monkeypatch):
    monkeypatch.setattr(math_worker.WORKER, "ask", lambda seconds, **request: None)
    start = process_time()
    Expression(mode="lenient").grade("1" * 20_000, sample_of("expression", answer="3"))
    assert process_time() - start < 0.3


@pytest.mark.parametrize(
    ("answer", "truth", "earned"),
    [
        ("4=3", "3", 0),
        ("x=3", "3", 1),
        ("y=x=3", "3", 0),
        ("x=3", "x=3", 1),
        ("x=4", "x=3", 0),
        ("2x=6", "3", 0),
        ("3=", "3", 0),
        ("|3", "3", 0),
        ("x\\in[0,1]", "[0,1]", 1),
        ("3\\in[0,1]", "[0,1]", 0),
        ("x\\in 4", "4", 0),
    ],
)
def test_an_equation_has_one_symbol_on_its_left(answer, truth, earned):
    assert reward(Expression(), answer, sample_of("expression", answer=truth)) == earned


@pytest.mark.parametrize(
    ("answer", "truth", "earned"),
    [
        ("5000", r"5\,000", 1),
        ("5,000", "5{,}000", 1),
        ("0", r"5\,000", 0),
        ("5", r"5\,000", 0),
        ("1010_{2}", "1010_2", 1),
        ("1010_3", "1010_2", 0),
        ("1010", "1010_2", 0),
    ],
)
def test_signs_between_digits_and_bases_count(answer, truth, earned):
    assert reward(Expression(), answer, sample_of("expression", answer=truth)) == earned


@pytest.mark.parametrize("answer", ["9^{9^9}", "2^{100000}", "10000!", "3!!", "2^2^99"])
def test_numbers_of_more_than_ten_thousand_digits_are_not_written_out(answer, monkeypatch):
    monkeypatch.setattr(math_worker.WORKER, "ask", lambda seconds, **request: pytest.fail("asked"))
    for mode in ("strict", "lenient"):
        grade = Expression(mode=mode).grade(answer, sample_of("expression", answer="3"))
        assert (grade.accuracy, grade.reason) == (0.0, "unreadable: not one expression")


@pytest.mark.parametrize(("mode", "longest"), [("strict", 1000), ("lenient", 20_000)])
def test_powers_and_texts_of_bearable_size_are_compared(mode, longest, monkeypatch):
    monkeypatch.setattr(
        math_worker.WORKER,
        "ask",
        lambda seconds, **request: {"right": True, "read": "x", "truth": True},
    )
    verifier, sample = Expression(mode=mode), sample_of("expression", answer="3")
    asked = ("2^{9999}", "x^{2^{13}}", "999!", "3!", "1" * longest)  # 2^13 = 8192
    refused = ("2^{10000}", "x^{2^{14}}", "1" * (longest + 1), "", " ")
    assert [verifier.grade(answer, sample).accuracy for answer in (*asked, *refused)] == [
        1.0
    ] * 5 + [0.0] * 5


class Pipe:
    """A process of which only the ends are used."""

    def __init__(self):
        self.stdin, self.stdout, self.killed = io.BytesIO(), io.BytesIO(), False

    def poll(self):
        return None

    def kill(self):
        self.killed = True

    def communicate(self):
        return b"", b""


def worker_that_says(*lines):
    """A worker whose process says these lines, one to each request."""
    worker, process, left = math_worker.Worker(), Pipe(), list(lines)
    worker.process, worker.owner = process, os.getpid()
    worker._line = lambda given, seconds: left.pop(0)
    return worker, process


def reply(number, right=True):
    return json.dumps({"id": number, "right": right, "read": "3", "truth": True}).encode()


def test_an_answer_of_the_math_process_to_another_request_is_a_fault_and_ends_it(monkeypatch):
    for stale in (0, 3, "2"):
        worker, process = worker_that_says(reply(1), reply(stale))
        assert worker.ask(5, answer="3", truth="3")["right"]
        with pytest.raises(
            RuntimeError,
            match=(
                f"the math-verify process answered request {stale} instead of 2; it is started anew"
            ),
        ):
            worker.ask(5, answer="4", truth="3")
        assert process.killed
        assert worker.process is None
    worker, _ = worker_that_says(reply(7))
    monkeypatch.setattr(math_worker, "WORKER", worker)
    verdict = VerifierSet(by_kind={"expression": Expression()}).judge(
        completion(text=said("x")), sample_of("expression", answer="x")
    )
    assert math.isnan(verdict.reward)
    assert verdict.reason.startswith(
        "fault: RuntimeError: the math-verify process answered request 7 instead of 1"
    )


def test_requests_of_the_math_process_are_numbered_and_a_silent_one_is_ended():
    worker, process = worker_that_says(reply(1), reply(2, right=False), None)
    assert [worker.ask(5, answer=answer, truth="3")["right"] for answer in "34"] == [True, False]
    asked = [json.loads(line) for line in process.stdin.getvalue().splitlines()]
    assert asked == [{"id": 1, "answer": "3", "truth": "3"}, {"id": 2, "answer": "4", "truth": "3"}]
    assert not process.killed
    assert worker.ask(5, answer="5", truth="3") is None
    assert process.killed


def test_math_verify_is_looked_for_only_before_a_process_is_started(monkeypatch):
    monkeypatch.setattr(math_worker, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="the expression verifier needs math-verify: pip install"):
        math_worker.Worker().ask(5, answer="3", truth="3")
    worker, _ = worker_that_says(reply(1))
    assert worker.ask(5, answer="3", truth="3")["right"]


def test_a_process_that_says_nothing_in_time_is_not_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(
        math_worker.select,
        "select",
        lambda read, write, failed, seconds: waited.append(seconds) or ([], [], []),
    )
    process = Pipe()
    process.stdout = io.BytesIO(b"too late\n")
    assert math_worker.Worker()._line(process, 2.5) is None
    monkeypatch.setattr(
        math_worker.select, "select", lambda read, write, failed, seconds: (read, [], [])
    )
    # the end is no line
    assert [math_worker.Worker()._line(process, 2.5) for _ in range(2)] == [
        b"too late\n",
        None,
    ]
    assert waited == [2.5]


def test_an_answer_on_which_the_library_fails_is_wrong_and_the_next_one_is_compared():
    program = (
        "from gpg_vl.verifiers import math_worker\n"
        "def compare(request):\n"
        "    if request['answer'] == 'bad': raise ValueError('two\\n  words' + 'x' * 999)\n"
        "    return {'right': True, 'read': request['answer'], 'truth': True}\n"
        "math_worker._answer = compare\n"
        "math_worker.main()\n"
    )
    requests = "".join(
        json.dumps({"id": number, "truth": "3", "answer": answer}) + "\n"
        for number, answer in enumerate(("bad", "3"))
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=requests,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    # the first line says that it is ready
    _, failed, right = map(json.loads, done.stdout.splitlines())
    assert failed == {
        "id": 0,
        "right": False,
        "read": f"ValueError: two words{'x' * 179}",
        "truth": True,
        "failed": True,
    }
    assert right == {"id": 1, "right": True, "read": "3", "truth": True}


@pytest.mark.parametrize(
    ("answer", "truth", "reply"),
    [
        ("$x^2$", "$x^2$", {"right": True, "read": "x**2", "truth": True}),
        ("$x^3$", "$x^2$", {"right": False, "read": "x**3", "truth": True}),
        ("no idea", "$x^2$", {"right": False, "read": "", "truth": True}),
        ("$x^2$", "no idea", {"right": False, "read": "x**2", "truth": False}),
        ("no idea", "no idea", {"right": False, "read": "", "truth": False}),
    ],
)
def test_what_math_verify_does_not_read_is_said_and_no_failure(answer, truth, reply):
    assert math_worker._answer({"answer": answer, "truth": truth}) == reply


@pytest.mark.parametrize(
    ("answer", "earned", "reason"),
    [
        (None, 0.0, "unreadable: takes longer than 5 s"),
        ({"right": True, "read": "3", "truth": True}, 1.0, "right"),
        ({"right": False, "read": "4", "truth": True}, 0.0, "wrong"),
        ({"right": False, "read": "", "truth": True}, 0.0, "unreadable: not one expression"),
        (
            {"right": False, "read": "ValueError: x", "truth": True, "failed": True},
            0.0,
            "unreadable: not one expression",
        ),
    ],
)
def test_what_the_math_process_says_becomes_a_verdict(answer, earned, reason, monkeypatch):
    monkeypatch.setattr(math_worker.WORKER, "ask", lambda seconds, **request: answer)
    grade = Expression().grade("3", sample_of("expression", answer="3"))
    assert (grade.accuracy, grade.reason) == (earned, reason)
    whole = published_rules.r1v_geoqa("x", "3")
    assert whole.accuracy == earned
    assert whole.reason == (
        "unreadable: took too long" if answer is None else "right" if earned else "wrong"
    )


def test_a_truth_that_the_math_process_cannot_read_is_a_fault(monkeypatch):
    monkeypatch.setattr(
        math_worker.WORKER,
        "ask",
        lambda seconds, **request: {"right": False, "read": "3", "truth": False},
    )
    with pytest.raises(ValueError, match="answer '3' is not an expression that math-verify reads"):
        Expression().grade("3", sample_of("expression", answer="3"))


def test_the_authors_evaluator_reads_the_end_of_a_long_text_and_the_truth_as_it_stands(monkeypatch):
    asked = []
    monkeypatch.setattr(
        math_worker.WORKER, "ask", lambda seconds, **request: asked.append((seconds, request))
    )
    published_rules.r1v_geoqa("x" + "y" * 20_000, "12 cm")
    Expression(mode="reference").reference("so 3", sample_of("expression", answer="3"))
    assert asked == [
        (10.0, {"answer": "y" * 20_000, "truth": "12 cm", "swapped": True}),
        (10.0, {"answer": "so 3", "truth": "3", "swapped": True}),
    ]


@pytest.mark.parametrize(
    "join", ["或", "和", "、", "，", "；", "★", "↔", "∴", "//", " \\tag", "：", "–"]
)
def test_a_second_answer_behind_a_sign_that_math_verify_does_not_read_earns_nothing(join):
    text = Style().write(f"5{join}{{7}}" if join.isascii() else f"5{join}7", thought="so")
    assert Expression()(text, sample("expression", "5")).reward == 0


@pytest.mark.parametrize(
    ("truth", "answer", "reward"),
    [
        ("5", "5 \\text{7}", 0),
        ("5", "5 \\text{seven}", 0),
        ("5", "5 \\text{ or } 7", 0),
        ("5", "5 \\text{ cm}", 1),
        ("5", "5厘米", 1),
        ("5", "5·7", 0),
        ("35", "5·7", 1),
        ("x^2-1", "x²−1", 1),
        ("2：3", "2:3", 1),  # a full-width colon
        ("2：3", "2", 0),
        ("3½", "3.5", 1),
        ("10⁻³", "0.001", 1),
        ("(1,2)", "（1，2）", 1),
        ("36 cm^2", "36", 1),
        ("36 cm^2", "36\\text{ cm}^2", 1),
        ("36 cm^2", "37 cm^2", 0),
        ("2m^2", "2", 0),  # a variable m
        ("θ", "θ", 1),
    ],
)
def test_signs_beyond_ascii(truth, answer, reward):
    text = Style().write(answer, thought="so")
    assert Expression()(text, sample("expression", truth)).reward == reward


@pytest.mark.parametrize("truth", ["x<-1或x>2", "AB∥CD", "面积为5"])
def test_a_truth_that_math_verify_reads_in_part_is_refused(truth):
    with pytest.raises(ValueError, match="math-verify does not read; write it in LaTeX"):
        Expression().reference_answer(sample("expression", truth))
