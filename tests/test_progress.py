"""Reports of progress reach the display that was opened last, and nobody without one."""

from typing import Any

from gpg_vl import progress


class Watcher:
    """A display that notes what it is told."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *given: self.events.append((name, *given))


def test_the_display_that_was_opened_last_shows():
    outer, inner = Watcher(), Watcher()
    progress.phase("nobody")
    with progress.shown_by(outer):
        progress.phase("loading")
        with progress.shown_by(inner):
            assert progress.is_shown()
            progress.steps(2, 10)
            progress.part_of_step("sample")
        progress.count(3, note="loss 0.5")
    assert not progress.is_shown()
    assert outer.events == [("phase", "loading", None, ""), ("count", 3, None, "loss 0.5")]
    assert inner.events == [("steps", 2, 10), ("part_of_step", "sample")]


def test_rows_are_counted_now_and_then(monkeypatch):
    watcher = Watcher()
    seconds = iter([0.0, 0.05, 0.1, 0.1, 0.15, 0.3, 0.3, 0.3])
    monkeypatch.setattr(progress, "monotonic", lambda: next(seconds))
    with progress.shown_by(watcher):
        assert list(progress.counted("abcd", "reading rows", lambda: 4)) == list("abcd")
    assert watcher.events == [
        ("phase", "reading rows", 4, "rows"),
        ("count", 2, None, ""),
        ("count", 4, None, ""),
    ]
