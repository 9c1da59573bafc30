"""Progress: the line of a terminal at any width, the lines elsewhere, and the time that is left."""

import io
import re
import time

import pytest
from rich.console import Console

from gpg_vl import progress
from gpg_vl.report.display import Counting, Display, Track, duration, figures, that_fit

METRICS = {
    "reward": 0.5,
    "informative": 0.25,
    "alpha": 1.5,
    "seconds/sample": 1.25,
    "seconds/update": 0.5,
    "loss": 3.0,
}
SHOWN = ["reward 0.500", "informative 25 %", "alpha 1.50", "sample 1.25 s", "update 0.50 s"]


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def drawn(display: Display, width: int) -> str:
    """The line of a display on a terminal of so many columns."""
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(display, end="")
    (line,) = capture.get().splitlines()
    assert len(line) < width
    return line.rstrip()


def terminal(clock: Clock) -> Display:
    return Display(Console(file=io.StringIO()), live=True, clock=clock)


# --- figures --------------------------------------------------------------------------------------


def test_the_figures_of_a_step_by_importance():
    assert figures(METRICS) == SHOWN
    assert figures({**METRICS, "skipped": 1.0}) == [
        "reward 0.500",
        "skipped",
        *SHOWN[1:],
    ]
    assert figures({**METRICS, "skipped": 0.0}) == SHOWN


@pytest.mark.parametrize(
    ("width", "line"),
    [(0, ""), (11, ""), (12, "reward 0.500"), (29, "reward 0.500"), (30, "  ".join(SHOWN[:2]))],
)
def test_only_whole_items_are_shown(width, line):
    assert that_fit(SHOWN, width) == line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (250, "4:10"),
        (3600, "1:00:00"),
        (3_661, "1:01:01"),
        (359_999, "99:59:59"),
        (360_000, "4 days"),
    ],
)
def test_times(seconds, text):
    assert duration(seconds) == text


def test_the_time_left_is_what_the_last_ones_took():
    track = Track(total=10)
    assert track.left(100.0) is None
    track.reach(0, 100.0)
    assert track.left(101.0) is None
    assert track.left(101.0, pace=4.0) == 39.0  # ten at 4 s, of which one second has passed
    track.reach(3, 112.0)
    assert track.left(112.0, pace=99.0) == 28.0  # seven at 4 s
    assert track.left(113.0) == 27.0
    assert track.left(999.0) == 0.0
    track.reach(4, 117.0)
    track.reach(5, 124.0)
    assert track.left(124.0) == pytest.approx(5 * 12 / 2), "without the first three"


@pytest.mark.parametrize(
    ("reached", "pace"),
    [
        ([(60.0, 1)], None),  # one, which is slow
        ([(60.0, 1), (62.0, 2)], None),
        ([(60.0, 1), (62.0, 2), (64.0, 3)], 2.0),
        ([(60.0, 1), (70.0, 2)], 10.0),
        ([(5.0, 3)], 5 / 3),  # several at once
    ],
)
def test_the_first_step_alone_tells_nothing(reached, pace):
    track = Track(total=100)
    track.reach(0, 0.0)
    for now, done in reached:
        track.reach(done, now)
    assert track.pace == pace


def test_what_was_long_ago_does_not_count():
    track = Track(total=1000)
    track.reach(0, 0.0)
    track.reach(1, 1000.0)
    for step in range(2, 100):
        track.reach(step, 1000.0 + step)
    assert track.pace == 1.0


def test_a_resumed_run_counts_its_own_steps_only():
    clock = Clock()
    display = terminal(clock)
    display.steps(80, 100)
    clock.now = 10.0
    display.step(81, METRICS)
    assert display.time_left == "0:10 so far"
    clock.now = 20.0
    display.step(82, METRICS)
    assert display.time_left == "3:00 left"  # 18 at 10 s


# --- on a terminal --------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 100, 160])
@pytest.mark.parametrize("total", [4, 100, 25_000])
def test_phase_bar_step_and_time_are_first_at_any_width(width, total):
    clock = Clock()
    display = terminal(clock)
    display.steps(0, total)
    for step in (1, 2, 3):
        clock.now += 4000 / total
        display.step(step, METRICS)
    display.part_of_step("update")
    line = drawn(display, width)
    left = duration(4000 / total * (total - 3))
    assert re.match(rf"updating the model +[━─]+ +step 4/{total} +{left} left", line)
    shown = re.split(r"  +", line.partition(" left")[2])[1:]
    assert shown == SHOWN[: len(shown)], "whole items, the most important first"
    assert len(shown) >= {60: 0, 80: 0, 100: 1, 160: 4}[width]


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_an_evaluation_shows_its_own_amount_and_time(width):
    clock = Clock()
    display = terminal(clock)
    display.steps(0, 240)
    display.phase("evaluating, step 100", 1536, "questions")
    display.count(0, 1536)
    assert "0:00 so far" in drawn(display, width)
    clock.now = 100.0
    display.count(64, 1536)
    line = drawn(display, width)
    assert re.match(r"evaluating, step 10?0? +[━─]+ +64/1536", line)
    assert "38:20 left" in line  # 1472 at 100/64 s
    assert ("questions" in line) == (width > 60)
    display.part_of_step("encode")
    assert "step 1/240" in drawn(display, width)


def test_the_figures_of_the_last_step_come_back_after_an_evaluation():
    display = terminal(Clock())
    display.steps(0, 10)
    display.step(1, METRICS)
    display.phase("evaluating, step 1", 5, "questions")
    assert "reward" not in drawn(display, 160)
    display.part_of_step("encode")
    assert "reward 0.500" in drawn(display, 160)


def test_the_next_evaluation_knows_the_time_from_its_beginning():
    clock = Clock()
    display = terminal(clock)
    display.phase("evaluating, before", 10, "questions")
    clock.now = 5.0
    display.count(10)
    display.phase("saving")
    display.phase("evaluating, after", 20, "questions")
    assert display.time_left == "0:10 left"
    display.phase("reading rows.jsonl", 20, "rows")
    assert display.time_left == "0:00 so far"


def test_nothing_moves_while_the_number_of_a_step_grows():
    display = terminal(Clock())
    display.steps(0, 100)
    places: set[int] = set()
    for step in (1, 9, 10, 100):
        display.step(step, METRICS)
        places.add(drawn(display, 80).index(":"))
    assert len(places) == 1


def test_a_phase_without_an_amount_shows_how_long_it_has_lasted():
    clock = Clock()
    display = terminal(clock)
    display.phase("loading the model")
    clock.now = 65.0
    assert re.fullmatch(r"loading the model +[━─]+ +1:05 so far", drawn(display, 60))


def test_parts_of_a_step_are_shown_only_in_a_step():
    display = terminal(Clock())
    display.phase("trying the tasks")
    display.part_of_step("sample")
    assert display.name == "trying the tasks"
    display.steps(2, 4)
    shown: list[tuple[str, str]] = []
    for part in ("encode", "sample", "score", "update", "mine"):
        display.part_of_step(part)
        shown.append((display.name, display.amount))
    names = ["reading pictures", "sampling answers", "scoring answers", "updating the model"]
    assert shown == [(name, "step 3/4") for name in [*names, "mine"]]
    display.step(3, METRICS)
    display.part_of_step("save")
    assert (display.name, display.amount) == ("saving", "step 3/4")
    display.part_of_step("encode")
    assert display.amount == "step 4/4"


def test_a_long_line_is_broken_between_words_and_a_command_is_not():
    console = Console(width=20, file=io.StringIO(), force_terminal=True, color_system=None)
    display = Display(console, live=True)
    with console.capture() as capture:
        display.log("warning: [a] word that is long")
        display.log("  gpg-vl train --resume /home/me/runs/digits")
    assert capture.get().splitlines() == [
        "warning: [a] word ",
        "that is long",
        "  gpg-vl train --resume /home/me/runs/digits",
    ]


# --- elsewhere ------------------------------------------------------------------------------------


def lines_of(capsys) -> list[str]:
    """The printed lines without their times of day, which all of them have."""
    lines: list[str] = []
    for line in capsys.readouterr().out.splitlines():
        stamped = re.fullmatch(r"\d\d:\d\d:\d\d  (.*)", line)
        assert stamped, line
        lines.append(stamped[1])
    return lines


def test_elsewhere_a_line_a_minute_and_the_first_and_the_last_step(capsys):
    clock = Clock()
    with Display(Console(width=60, force_terminal=False), clock=clock) as display:
        display.steps(0, 20)
        for step in range(1, 21):
            display.part_of_step("sample")
            clock.now += 25.0
            display.step(step, METRICS)
        display.log("[a] line")
    shown = "  ".join(SHOWN)
    expected: list[str] = []
    for step in (1, 4, 7, 10, 13, 16, 19, 20):  # 60 seconds are over after three steps of 25
        left = "0:25 so far" if step == 1 else f"{duration(25 * (20 - step))} left"
        expected.append(f"step {step}/20  {left}  {shown}")
    assert lines_of(capsys) == [*expected, "[a] line"]


def test_elsewhere_a_long_part_of_a_step_prints_lines_too(capsys, monkeypatch):
    monkeypatch.setattr("gpg_vl.report.display.SECONDS_BETWEEN_LINES", 0.01)
    with Display(Console(width=60, force_terminal=False)) as display:
        display.steps(0, 2)
        display.step(1, METRICS)
        display.part_of_step("sample")
        printed: list[str] = []
        deadline = time.monotonic() + 30
        while len(printed) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
            printed += [line for line in lines_of(capsys) if line.startswith("sampling")]
    assert len(printed) >= 2
    assert all(re.fullmatch(r"sampling answers step 2/2  \d:\d\d so far", line) for line in printed)


def test_elsewhere_phases_are_reported_with_their_amounts(capsys):
    clock = Clock()
    with Display(Console(width=60, force_terminal=False), clock=clock):
        progress.phase("loading the model")
        assert list(progress.counted("abc", "reading rows.jsonl", lambda: 3)) == list("abc")
        progress.phase("warm-up", 3000)
        for step in range(1, 100):
            clock.now += 1.0
            progress.count(step, note="loss 0.512")
        progress.phase("evaluating, before", 192, "questions")
    assert lines_of(capsys) == [
        "loading the model",
        "warm-up: 3,000 steps",
        "warm-up 60/3000  49:00 left  loss 0.512",
        "evaluating, before: 192 questions",
    ]


def test_results_are_not_mixed_with_progress_where_no_lines_are_wanted(capsys):
    with Display(Console(force_terminal=False), lines=False) as display:
        display.phase("loading the model")
        display.step(1, METRICS)
    assert capsys.readouterr().out == ""


def test_another_process_shows_nothing(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with Display(Console(force_terminal=False)) as display:
        progress.phase("loading the model")
        display.step(1, METRICS)
        display.log("a line")
    assert capsys.readouterr().out == ""


def test_rows_of_metrics_that_are_no_step_are_left_alone():
    display = terminal(Clock())
    display.steps(3, 10)
    display.step(4, {"held_out": 0.5})
    assert display.amount == "step 3/10"


def test_colours_that_are_forced_do_not_make_a_terminal_of_a_pipe(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Display(Console()) as display:
        display.log("a line")
    assert not display.is_live
    assert "\x1b" not in capsys.readouterr().out


def test_questions_are_counted(capsys):
    with Counting(Console(force_terminal=False)) as counting:
        for name in ("small", "other"):
            for done in range(101):
                counting.progress(name, done, 100)
    assert lines_of(capsys) == [
        "evaluating small: 100 questions",
        "evaluating other: 100 questions",
    ]
    assert counting.amount == "100/100 questions"
