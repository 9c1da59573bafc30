"""Write the page of a run now and then while it runs, and at its end.

A page is a help, not a part of the run: what goes wrong with it ends with a warning, and it takes
no more than a fiftieth of the time.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from gpg_vl.errors import Stopped, command, one_line
from gpg_vl.experiment import Log
from gpg_vl.run_folder import page_path
from gpg_vl.training.setup import TrainingRun

REST = 50
"""Times the seconds of a refresh that pass before the next: at most 2 % of the time is spent."""


class LivePage:
    """Writes `report.html` of a run again every so many steps."""

    def __init__(
        self, run: Path, *, every: int, log: Log, clock: Callable[[], float] = perf_counter
    ) -> None:
        """Prepare to write; nothing is written yet.

        Args:
            every: steps between two refreshes; 0 = there is none.
            log: called once if the page cannot be written.
            clock: returns the time in seconds.
        """
        self._run = run
        self._every = every
        self._log = log
        self._clock = clock
        self._is_on = True
        self._is_due = False
        self._not_before = -float("inf")

    def after_step(self, step: int) -> None:
        """Write the page if it is due after this step, or was due when it was too early for it."""
        if self._every and step % self._every == 0:
            self._is_due = True
        if self._is_due and self._clock() >= self._not_before:
            self.write()

    def write(self, *, is_last: bool = False) -> bool:
        """Write the page, and return whether it is written.

        An error switches the refreshing off, with one warning; the run goes on.

        Args:
            is_last: the run has ended. It is tried again then: a disk may have come back.
        """
        if not self._is_on and not is_last:
            return False
        self._is_on = True
        begin = self._clock()
        try:
            # here: a run without a page needs none of its libraries
            from gpg_vl.report.page.write import write_page

            write_page([self._run], page_path(self._run), has_ended=is_last)
        except Exception as error:  # whatever it is, it is about the page
            self._is_on = False
            self._log(
                f"warning: {page_path(self._run).name} is not written any more, the run is not "
                f"affected: {type(error).__name__}: {one_line(error, 200)}; "
                f"`{command('gpg-vl', 'report', self._run)}` writes it when that is mended"
            )
        end = self._clock()
        self._is_due = False
        self._not_before = end + REST * (end - begin)
        return self._is_on


@contextmanager
def live_page(run: TrainingRun) -> Generator[LivePage | None, None, None]:
    """Write the page at the end of the block, also where a run was stopped or failed.

    It is not written if the run is left at once (a second Ctrl-C), or failed before its first step.

    Yields:
        What writes it in between; None on all processes but the main one.
    """
    if not run.processes.is_main:
        yield None
        return
    page = LivePage(run.folder.path, every=run.config.report.every, log=run.log)
    try:
        yield page
    except BaseException as error:
        leaves_at_once = isinstance(error, KeyboardInterrupt) and not isinstance(error, Stopped)
        if run.state.step and not leaves_at_once:
            _write_last(page, run)
        raise
    _write_last(page, run)


def _write_last(page: LivePage, run: TrainingRun) -> None:
    """Write the page once more, and give it to the trackers."""
    if page.write(is_last=True):
        run.folder.send_page(page_path(run.folder.path))
