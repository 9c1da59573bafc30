"""Requests to stop: what is answered, when a run is left, and that the answer comes at once."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from gpg_vl.training import signals
from gpg_vl.training.signals import EvaluationDroppedError, StopRequest, stop_request

SOON = signals.SAME_REQUEST / 2
LATER = signals.SAME_REQUEST * 2
LONG_ENOUGH = 10
"""Seconds that nothing waits for, unless the code is wrong."""


@pytest.fixture
def request_and_lines() -> tuple[StopRequest, list[str]]:
    lines: list[str] = []
    return StopRequest(lines.append), lines


def test_before_there_is_a_step_the_first_request_leaves(request_and_lines):
    request, lines = request_and_lines
    assert request.receive(signal.SIGINT, 0.0)
    assert (request.asked, request.leaving, lines) == (False, True, ["leaving now"])
    with pytest.raises(KeyboardInterrupt):
        request.interrupt(signal.SIGINT, None)


def test_in_a_step_the_first_request_waits_and_the_second_leaves(request_and_lines):
    request, lines = request_and_lines
    request.can_wait, request.doing = True, "finishing step 3, then saving"
    assert not request.receive(signal.SIGTERM, 0.0)
    assert (request.asked, request.leaving) == (True, False)
    assert lines == ["finishing step 3, then saving; again leaves now"]
    request.interrupt(signal.SIGTERM, None)  # the handler raises nothing
    assert request.receive(signal.SIGINT, LATER)
    assert lines[1:] == ["leaving now"]
    assert not request.receive(signal.SIGINT, 2 * LATER), "it is leaving already"
    with pytest.raises(KeyboardInterrupt):
        request.interrupt(signal.SIGINT, None)
    try:
        request.interrupt(signal.SIGINT, None)
    except KeyboardInterrupt:
        pytest.fail("what is done in order to leave was interrupted")


def test_a_request_that_two_pass_on_is_one(request_and_lines):
    """A launcher and a scheduler, or the terminal and a launcher."""
    request, lines = request_and_lines
    request.can_wait = True
    request.receive(signal.SIGTERM, 10.0)
    assert not request.receive(signal.SIGTERM, 10.0 + SOON)
    assert not request.receive(signal.SIGINT, 10.0 + 2 * SOON - 0.01)
    assert not request.leaving
    assert len(lines) == 1


def test_a_closed_terminal_is_a_first_request_only(request_and_lines):
    request, lines = request_and_lines
    request.can_wait, request.doing = True, "finishing step 3, then saving"
    request.receive(signal.SIGHUP, 0.0)
    assert lines == [
        "the terminal or the reader of this output is gone: finishing step 3, then saving; again "
        "leaves now"
    ]
    assert not request.receive(signal.SIGHUP, LATER)
    assert not request.leaving
    assert request.receive(signal.SIGTERM, 2 * LATER)


def test_an_evaluation_is_ended_and_only_where_the_run_can_be_saved(request_and_lines):
    request, lines = request_and_lines
    request.doing = "finishing"
    with request.droppable("leaving the evaluation"):
        assert request.receive(signal.SIGINT, 0.0)
    assert lines == ["leaving now"]
    request.leaving = request.is_due = False
    request.can_wait = True

    def evaluate() -> None:
        with request.droppable("leaving the evaluation"):
            assert request.receive(signal.SIGINT, LATER)
            request.interrupt(signal.SIGINT, None)

    with pytest.raises(EvaluationDroppedError):
        evaluate()
    assert lines[1:] == ["leaving the evaluation; again leaves now"]
    assert (request.asked, request.can_drop, request.doing) == (True, False, "finishing")
    request.interrupt(signal.SIGINT, None)  # after the evaluation it raises nothing
    with pytest.raises(EvaluationDroppedError), request.droppable("leaving the evaluation"):
        pytest.fail("an evaluation was begun")


def test_handlers_are_set_while_a_run_lasts_and_put_back():
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    with contextlib.suppress(RuntimeError), stop_request(lambda line: None) as request:
        assert [signal.getsignal(number) for number in signals.SIGNALS] == 3 * [request.interrupt]
        raise RuntimeError
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before


def test_a_hangup_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_request(lambda line: None) as request:
            request.can_wait = True
            signal.raise_signal(signal.SIGHUP)
            time.sleep(0.1)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert not request.asked
            assert not request.leaving
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_answer_comes_while_the_main_thread_is_in_one_long_call():
    """The handler cannot run before the call has returned; the answer is there by then."""
    lines: list[str] = []
    answered = threading.Event()

    def log(line: str) -> None:
        lines.append(line)
        answered.set()

    with stop_request(log) as request:
        request.can_wait, request.doing = True, "finishing step 3, then saving"
        interrupting = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        interrupting.start()
        rounds = 200_000
        while not answered.is_set():  # until one call was long enough to be interrupted
            hashlib.pbkdf2_hmac("sha256", b"password", b"salt", rounds)  # releases the GIL
            if request.asked:
                assert lines == ["finishing step 3, then saving; again leaves now"]


def test_a_request_that_leaves_wakes_a_main_thread_that_waits():
    lines: list[str] = []

    def run() -> None:
        with stop_request(lines.append):
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
            threading.Event().wait(LONG_ENOUGH)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert lines == ["leaving now"]


def test_an_interrupt_that_is_swallowed_comes_again(monkeypatch):
    monkeypatch.setattr(signals, "ASK_AGAIN", 0.05)
    swallowed: list[str] = []

    def run() -> None:
        with stop_request(lambda line: None):
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
            with contextlib.suppress(KeyboardInterrupt):  # as a bare `except:` of a plug-in
                threading.Event().wait(LONG_ENOUGH)
            swallowed.append("once")
            threading.Event().wait(LONG_ENOUGH)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert swallowed == ["once"]


def test_the_interrupt_that_ends_an_evaluation_is_no_second_request(monkeypatch):
    """Though it comes later than a launcher's, because the terminal takes long for a line."""
    monkeypatch.setattr(signals, "SAME_REQUEST", 0.02)
    lines: list[str] = []

    def log(line: str) -> None:
        time.sleep(0.1)
        lines.append(line)

    def run() -> None:
        with stop_request(log) as request:
            request.can_wait = True
            with contextlib.suppress(EvaluationDroppedError), request.droppable("leaving it"):
                # its own thread takes it, so that only the answer wakes the main thread
                take = threading.Timer(
                    0.05, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT)
                )
                take.start()
                threading.Event().wait(LONG_ENOUGH)
            time.sleep(1)  # long enough for it to be answered on a busy machine

    try:
        run()
    except KeyboardInterrupt:
        pytest.fail("the run was left")
    assert lines == ["leaving it; again leaves now"]


def test_a_forked_process_ends_as_usual_and_does_not_stop_this_one():
    """Such as a worker of a pool that a plug-in has made, which a pool ends by SIGTERM."""
    with stop_request(lambda line: None) as request:
        request.can_wait = True
        child = os.fork()
        if child == 0:
            time.sleep(LONG_ENOUGH)
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGTERM
        time.sleep(0.1)
        assert not request.asked


def test_a_signal_that_a_forked_process_handles_itself_does_not_stop_this_one():
    """Python writes its number into the pipe that both have, unless it is told not to."""
    with stop_request(lambda line: None) as request:
        request.can_wait = True
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, lambda number, frame: None)
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        assert os.waitpid(child, 0) == (child, 0)
        time.sleep(0.1)
        assert not request.asked


ENDED_WHILE_IT_IS_FORKED = """
import os, signal, threading, time
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))
from gpg_vl.training.signals import stop_request  # so that its part of a fork comes later

answered = threading.Event()
with stop_request(lambda line: answered.set()) as request:
    request.can_wait = True
    child = os.fork()
    if child == 0:
        os._exit(0)
    _, status = os.waitpid(child, 0)
    time.sleep(0.1)
    print(signal.Signals(os.WTERMSIG(status)).name, request.asked)
    signal.raise_signal(signal.SIGTERM)  # no signal is held back for ever
    print(answered.wait(10))
"""


def test_a_process_that_is_ended_while_it_is_forked_ends_and_does_not_stop_this_one():
    words = [sys.executable, "-c", ENDED_WHILE_IT_IS_FORKED]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("SIGTERM False\nTrue\n", "")


def test_in_another_thread_nothing_is_listened_to():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with stop_request() as request:
            seen.append((request.asked, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


@pytest.mark.parametrize(("rank", "said"), [("0", 1), ("1", 0)])
def test_only_the_main_process_answers(rank, said, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    lines: list[str] = []
    with stop_request(lines.append) as request:
        request.receive(signal.SIGINT, 0.0)
    assert len(lines) == said
