"""Show how far a program is: one line that is kept up to date on a terminal, lines elsewhere.

The line has what matters first: phase, bar, how much is done, time that is left. The figures of the
last step follow, as many as have room. Elsewhere than on a terminal, each phase, the first and the
last step, and about one line a minute are printed, each with the time of day.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gpg_vl import progress
from gpg_vl.report.output import lasting

SECONDS_BETWEEN_LINES = 60.0
"""Time between two lines of progress where the output is not a terminal."""
REMEMBERED = 50
"""Steps or counts from whose time the time that is left is estimated."""
ENOUGH, ENOUGH_TIME = 3, 10.0
"""Steps or counts, or seconds after the first one, from which the time left is estimated."""
PARTS = {
    "encode": "reading pictures",
    "sample": "sampling answers",
    "score": "scoring answers",
    "update": "updating the model",
    "gate": "checking the engine",
    "save": "saving",
}
"""Part of a step, as the timer names it -> what a person reads."""
PHASE_WIDTH, WIDE_PHASE_WIDTH = 19, 28
"""Columns for the name of the phase, on a terminal of less and of at least WIDE columns."""
WIDE = 100
TIME_WIDTH = 12
"""Columns for a time such as `1:04:10 left`."""
MIN_BAR, MAX_BAR = 5, 30
GAP = 2
"""Columns between two items of the line."""


@dataclass(slots=True)
class Track:
    """An amount of which a part is done, and the pace of it.

    Example:
        track = Track(total=10)
        track.reach(0, now=100.0)
        track.reach(4, now=120.0)
        track.left(now=121.0)  # 6 more at 5 seconds each, of which one second has passed: 29.0
    """

    total: int | None = None
    unit: str = ""
    done: int = 0
    seen: deque[tuple[float, int]] = field(
        default_factory=lambda: deque[tuple[float, int]](maxlen=REMEMBERED + 1)
    )
    """When how much was done."""

    def reach(self, done: int, now: float) -> None:
        """Note that so much is done at a time in seconds."""
        self.done = done
        self.seen.append((now, done))

    @property
    def pace(self) -> float | None:
        """Mean seconds of one; None if too little has been done to tell.

        The first is left out as soon as there are more: it makes what the others find made.
        """
        times = list(self.seen)
        if len(times) < 2 or times[-1][1] <= times[0][1]:
            return None
        count, seconds = times[-1][1] - times[0][1], 0.0
        if times[1][1] < times[-1][1]:
            times = times[1:]
            seconds = times[-1][0] - times[0][0]
        if count < ENOUGH and seconds < ENOUGH_TIME:
            return None
        (first, done_first), (last, done_last) = times[0], times[-1]
        return (last - first) / (done_last - done_first)

    def left(self, now: float, pace: float | None = None) -> float | None:
        """Return the seconds that are left; None if they cannot be estimated yet.

        Args:
            pace: used as long as this has none of its own.
        """
        own = self.pace
        pace = pace if own is None else own
        if pace is None or self.total is None or not self.seen:
            return None
        reached, _ = self.seen[-1]
        return max(0.0, pace * (self.total - self.done) - (now - reached))


class Display:
    """Progress display of a program; `log` prints a line above it.

    Example:
        with Display(Console()) as display:
            train(experiment, callbacks=[display.step], log=display.log)
    """

    def __init__(
        self,
        console: Console,
        *,
        live: bool | None = None,
        lines: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a display, which begins to show in a `with` block.

        Args:
            live: keep one line up to date; None = if the console is a terminal that can.
            lines: print lines of progress elsewhere than on a terminal; without them, only what is
                logged.
            clock: returns seconds.
        """
        self.console = console
        if live is None:
            live = console.file.isatty() and not console.is_dumb_terminal
        self.is_live = live
        self.prints = lines and not live
        self.is_main = os.environ.get("RANK", "0") == "0"
        self.clock = clock
        self.name = "starting"
        self.part = Track()
        self.run: Track | None = None
        """Steps of the run, from the first one on."""
        self.current = 0
        """Step that is worked on."""
        self.notes: list[str] = []
        self._figures: list[str] = []
        """Those of the last step, which an evaluation hides for a while."""
        self.phases: list[str] = []
        """Names of all phases so far."""
        self._paces: dict[str, float] = {}
        """Unit -> seconds of one, from earlier phases that counted it."""
        self._began = self._printed = clock()
        self._in_step = False
        self._opened = ExitStack()
        self._over = threading.Event()
        self._printing = threading.Lock()

    def __enter__(self) -> Self:
        self._opened.enter_context(progress.shown_by(self))
        if not self.is_main:
            return self
        self._opened.enter_context(lasting(self.console))
        if self.prints:
            threading.Thread(target=self._print_each_minute, daemon=True).start()
            self._opened.callback(self._over.set)
        if self.is_live:
            live = Live(
                self,
                console=self.console,
                refresh_per_second=4,
                transient=True,
                redirect_stderr=_is_terminal(2),
            )
            self._opened.enter_context(live)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.close()

    # --- what programs report ---------------------------------------------------------------------

    def log(self, line: str) -> None:
        """Print a line; elsewhere than on a terminal with the time of day."""
        if not self.is_main:
            return
        stamp = "" if self.is_live else f"{datetime.now():%H:%M:%S}  "
        # a command or a path, which is indented, has to be copied as one line
        in_words = self.is_live and not line.startswith(" ")
        self.console.print(f"{stamp}{line}", markup=False, highlight=False, soft_wrap=not in_words)

    def phase(self, name: str, total: int | None = None, unit: str = "") -> None:
        """Begin a phase."""
        self._leave_phase()
        self.name, self.part = name, Track(total, unit)
        self.phases.append(name)
        self.notes, self._in_step = [], False
        self._began = self.clock()
        if total is not None:
            self.part.reach(0, self._began)
        if self.prints and unit != "rows":  # sources that are read in a moment
            amount = f": {total:,} {unit or 'steps'}" if total else ""
            self._print(f"{name}{amount}")

    def count(self, done: int, total: int | None = None, note: str = "") -> None:
        """Show how much of the phase is done."""
        if total is not None:
            self.part.total = total
        if done != self.part.done or not self.part.seen:
            self.part.reach(done, self.clock())
        self.notes = [note] if note else []
        self._print_now_and_then()

    def steps(self, done: int, total: int) -> None:
        """Begin the steps of a run."""
        self._leave_phase()
        self.run = Track(total, "steps")
        self._began = self.clock()
        self.run.reach(done, self._began)
        self.current = done
        self.notes = []

    def part_of_step(self, name: str) -> None:
        """Show a part of a step; before the first step, the phase has a better name for it."""
        if self.run is None:
            return
        if not self._in_step:
            self._leave_phase()
            self.part, self.notes = Track(), self._figures
        if name != "save":  # the step that is saved is over
            self._in_step = True
            self.current = min(self.run.done + 1, self.run.total or 0)
        self.name = PARTS.get(name, name)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of one step; a callback of a run."""
        if "reward" not in metrics:  # a row of something else than a step
            return
        if self.run is None:
            self.run = Track(None, "steps")
        self.run.reach(step, self.clock())
        self.current = step
        self.notes = self._figures = figures(metrics)
        self._in_step = False
        is_end = len(self.run.seen) == 2 or step == self.run.total
        self._print_now_and_then(name="", always=is_end)

    def _leave_phase(self) -> None:
        """Remember how fast a phase counted, for the next one that counts the same."""
        if self.part.pace is not None:
            self._paces[self.part.unit] = self.part.pace

    # --- lines ------------------------------------------------------------------------------------

    def _print(self, line: str) -> None:
        self._printed = self.clock()
        self.log(line)

    def _print_now_and_then(self, *, name: str | None = None, always: bool = False) -> None:
        """Print how far it is, if a minute has passed since the last line.

        Args:
            name: of the phase; None = the present one.
            always: also where less time has passed.
        """
        if not self.prints:
            return
        with self._printing:
            if always or self.clock() - self._printed >= SECONDS_BETWEEN_LINES:
                amount, left = self.amount, self.time_left
                name = self.name if name is None else name
                notes = [] if self._in_step else self.notes  # those of the step before
                self._print("  ".join([f"{name} {amount}".strip(), left, *notes]))

    def _print_each_minute(self) -> None:
        """Print a line where nothing has been counted for a minute; the work of a thread."""
        while not self._over.wait(self._printed + SECONDS_BETWEEN_LINES - self.clock()):
            self._print_now_and_then()

    @property
    def _track(self) -> Track:
        """The amount that the bar shows: that of the phase if it counts, else the steps."""
        if self.part.total is None and not self.part.done and self.run is not None:
            return self.run
        return self.part

    @property
    def amount(self) -> str:
        """The amount that is done, in words: `step 3/100`, `64/192 questions`."""
        track = self._track
        if track is self.run:
            return f"step {self.current}/{track.total}"
        if track.total is None:
            return f"{track.done} {track.unit}" if track.done else ""
        return f"{track.done}/{track.total} {track.unit}".rstrip()

    @property
    def time_left(self) -> str:
        """Time that is left, or the time since the phase began where that is not known."""
        track, now = self._track, self.clock()
        left = track.left(now, self._paces.get(track.unit))
        if left is None:
            return f"{duration(now - self._began)} so far"
        return f"{duration(left)} left"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the line, not wider than the console."""
        width = options.max_width - 1  # the last column makes some terminals wrap
        name_width = WIDE_PHASE_WIDTH if width >= WIDE - 1 else PHASE_WIDTH
        track, amount = self._track, self.amount
        amount_width = self._amount_width(amount)
        taken = name_width + amount_width + TIME_WIDTH + 3 * GAP
        if taken + MIN_BAR > width:  # the unit is what can be missed
            amount = amount.removesuffix(f" {track.unit}")
            amount_width = self._amount_width(amount)
            taken = name_width + amount_width + TIME_WIDTH + 3 * GAP
        bar_width = max(MIN_BAR, min(MAX_BAR, width // 6, width - taken))
        room = width - taken - bar_width
        line = Table.grid(padding=(0, GAP, 0, 0))
        cells = [
            (Text(self.name[:name_width], style="bold"), name_width),
            (bar(track, bar_width, only_ascii=options.ascii_only), bar_width),
            (Text(amount), amount_width),
            (Text(self.time_left), TIME_WIDTH),
        ]
        notes = that_fit(self.notes, room - GAP)
        if notes:
            cells.append((Text(notes, style="dim"), len(notes)))
        for _, cell_width in cells:
            line.add_column(width=cell_width, no_wrap=True, overflow="crop")
        line.add_row(*(cell for cell, _ in cells))
        yield line

    def _amount_width(self, amount: str) -> int:
        """Return the width of the amount at the end, so that nothing moves until then."""
        track = self._track
        if track.total is None:
            return len(amount)
        done = self.current if track is self.run else track.done
        return len(amount) + len(str(track.total)) - len(str(done))


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def bar(track: Track, width: int, *, only_ascii: bool = False) -> Text:
    """Return a bar, which can be read without colours too."""
    done = 0
    if track.total:
        done = min(width, width * track.done // track.total)
    thick, thin = "=-" if only_ascii else "━─"
    return Text.assemble((thick * done, "bold"), (thin * (width - done), "dim"))


def that_fit(items: list[str], width: int) -> str:
    """Return the first items as one line, as many as fit whole."""
    line = ""
    for item in items:
        longer = f"{line}  {item}" if line else item
        if len(longer) > width:
            break
        line = longer
    return line


def duration(seconds: float) -> str:
    """Return a time as h:mm:ss, without hours where there are none, in days where it is long.

    Example:
        duration(250) == "4:10"
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 100:
        return f"{hours // 24} days"
    if hours:
        return f"{hours}:{minute:02d}:{second:02d}"
    return f"{minute}:{second:02d}"


def figures(metrics: Mapping[str, float]) -> list[str]:
    """Return the figures of one step, the most important first.

    Reward, share of informative groups, alpha, then the seconds of each part.
    """
    items = [f"reward {metrics['reward']:.3f}"]
    if metrics.get("skipped"):
        items.append("skipped")
    items.append(f"informative {100 * metrics['informative']:.0f} %")
    items.append(f"alpha {metrics['alpha']:.2f}")
    for name, seconds in metrics.items():
        if name.startswith("seconds/"):
            items.append(f"{name.removeprefix('seconds/')} {seconds:.2f} s")
    return items


class Counting(Display):
    """Progress display of an evaluation: the number of answered questions."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.benchmark = ""

    def progress(self, name: str, done: int, total: int) -> None:
        """Show that `done` of `total` questions of a benchmark are answered."""
        if name != self.benchmark:
            self.benchmark = name
            self.phase(f"evaluating {name}", total, "questions")
        self.count(done, total)
