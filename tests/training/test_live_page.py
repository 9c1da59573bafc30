"""The page of a run: when it is written, and that the run never depends on it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.errors import Stopped, UserError
from gpg_vl.training.checkpoint import State
from gpg_vl.training.live_page import LivePage, live_page
from tests.training.test_loop import run_of

WRITER = "gpg_vl.report.page.write.write_page"


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def written(monkeypatch) -> list[tuple[Sequence[Path], Path]]:
    """What the writer was given, at each call."""
    calls: list[tuple[Sequence[Path], Path]] = []

    def write_page(runs: Sequence[Path], to: Path, *, has_ended: bool = False) -> Path:
        calls.append((runs, to))
        return to

    monkeypatch.setattr(WRITER, write_page)
    return calls


def taking(seconds: float, clock: Clock, steps: list[int], step: list[int]) -> Callable[..., None]:
    """Return a writer that takes so long and notes the step that it was called after."""

    def write_page(runs: Sequence[Path], to: Path, *, has_ended: bool = False) -> None:
        clock.now += seconds
        steps.extend(step)

    return write_page


# --- in between -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "due"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4]), (9, []), (0, [])])
def test_it_is_written_every_so_many_steps(every, due, tmp_path, written):
    page = LivePage(tmp_path, every=every, log=print, clock=Clock())
    after: list[int] = []
    for step in range(1, 6):
        page.after_step(step)
        if len(written) > len(after):
            after.append(step)
    assert after == due
    assert written == [([tmp_path], tmp_path / "report.html")] * len(due)


@pytest.mark.parametrize(
    ("seconds_of_step", "after"),
    [
        (9.5, [2, 13]),  # 2 s of writing, 100 s of rest: due again at 4, written 11 steps later
        (200.0, [2, 4, 6, 8, 10, 12, 14]),
    ],
)
def test_refreshes_take_a_fiftieth_of_the_time(seconds_of_step, after, tmp_path, monkeypatch):
    clock, steps, step = Clock(), list[int](), [0]
    monkeypatch.setattr(WRITER, taking(2.0, clock, steps, step))
    page = LivePage(tmp_path, every=2, log=print, clock=clock)
    for step[0] in range(1, 15):
        clock.now += seconds_of_step
        page.after_step(step[0])
    assert steps == after


def test_the_last_one_does_not_wait(tmp_path, monkeypatch):
    clock, steps, step = Clock(), list[int](), [2]
    monkeypatch.setattr(WRITER, taking(2.0, clock, steps, step))
    page = LivePage(tmp_path, every=2, log=print, clock=clock)
    page.after_step(2)
    step[0] = 3
    page.write()
    assert steps == [2, 3]


def test_only_the_last_one_says_that_the_run_has_ended(tmp_path, monkeypatch):
    ended: list[bool] = []
    monkeypatch.setattr(WRITER, lambda runs, to, *, has_ended: ended.append(has_ended))
    page = LivePage(tmp_path, every=1, log=print, clock=Clock())
    page.after_step(1)
    assert page.write(is_last=True)
    assert ended == [False, True]


def test_a_page_that_failed_is_tried_again_at_the_end(tmp_path, monkeypatch):
    lines: list[str] = []
    page = LivePage(tmp_path, every=1, log=lines.append, clock=Clock())
    monkeypatch.setattr(WRITER, lambda *given, **more: 1 / 0)
    assert not page.write()
    monkeypatch.setattr(WRITER, lambda *given, **more: None)
    assert not page.write()
    assert page.write(is_last=True)
    assert len(lines) == 1


@pytest.mark.parametrize(
    "error", [ValueError("no such\ncolumn"), OSError(28, "No space left"), ImportError("bokeh")]
)
def test_an_error_is_one_warning_and_no_more_pages(error, tmp_path, monkeypatch):
    calls: list[Any] = []

    def failing(*given: Any, **more: Any) -> None:
        calls.append(given)
        raise error

    monkeypatch.setattr(WRITER, failing)
    lines: list[str] = []
    page = LivePage(tmp_path, every=1, log=lines.append)
    for step in (1, 2):
        page.after_step(step)
    page.write()
    assert len(calls) == len(lines) == 1
    why = f"{type(error).__name__}: {' '.join(str(error).split())}"
    assert lines[0].startswith(
        f"warning: report.html is not written any more, the run is not affected: {why}; `gpg-vl "
    )


def test_ctrl_c_while_it_is_written_leaves(tmp_path, monkeypatch):
    def interrupted(*given: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(WRITER, interrupted)
    with pytest.raises(KeyboardInterrupt):
        LivePage(tmp_path, every=1, log=print).after_step(1)


# --- at the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "step", "pages"),
    [
        (None, 0, 1),  # a warm-up alone
        (None, 4, 1),
        (Stopped(), 4, 1),
        (UserError("everything is wrong"), 4, 1),
        (RuntimeError("out of memory"), 1, 1),
        (RuntimeError("out of memory"), 0, 0),
        (Stopped(), 0, 0),
        (KeyboardInterrupt(), 4, 0),  # a second Ctrl-C: leave at once
    ],
)
def test_it_is_written_however_a_run_ends(error, step, pages, tmp_path, written):
    run = run_of(tmp_path, state=State(step=step))
    if error is None:
        with live_page(run):
            pass
    else:
        with pytest.raises(type(error)) as raised, live_page(run):
            raise error
        assert raised.value is error
    assert written == [([tmp_path / "run"], tmp_path / "run" / "report.html")] * pages


def test_a_run_that_failed_says_why_and_not_what_its_page_lacks(tmp_path, monkeypatch):
    def failing(*given: Any, **more: Any) -> None:
        raise ValueError("no column")

    monkeypatch.setattr(WRITER, failing)
    run = run_of(tmp_path, state=State(step=3))
    with pytest.raises(RuntimeError, match="out of memory"), live_page(run):
        raise RuntimeError("out of memory")
    assert [event[0] for event in run.events] == ["log"]


def test_only_the_main_process_writes_it(tmp_path, written):
    run = run_of(tmp_path, state=State(step=3))
    run.processes.accelerator.is_main_process = False
    with live_page(run) as page:
        assert page is None
    assert written == []
