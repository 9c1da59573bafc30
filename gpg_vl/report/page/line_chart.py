"""Draw a line chart as SVG: lines with breaks, means over steps, intervals, values outside.

Colours come from the page: line N has the class `series-N`. The pattern of dashes is in the SVG, so
that lines can be told apart without colours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpg_vl.report.page.texts import MAX_NAME, escaped, number, single_line

DASHES = ("", "7 3", "2 2", "9 3 2 3", "14 4", "1 4", "9 2 2 2 2 2", "4 1")
"""Pattern of each slot, in units of the SVG; empty = a solid line."""
WIDTH, HEIGHT = 420, 210
LEFT, RIGHT, TOP, BOTTOM = 50, 404, 8, 178
"""Edges of the plot inside the picture."""
COLUMN = 2
"""Width of the columns in which many values are drawn as one stroke from least to most."""
MOST_POINTS = 400
"""Longest line that is drawn point by point."""
HOVER_POINTS = 200
"""Most points per line of which the page says the values."""
MOST_BANDS = 3
"""Most lines whose intervals are bands too: more of them would hide one another."""
LARGEST = 1e100
"""Values beyond it are drawn as if they were it: their differences must stay finite."""
FEW_STEPS = 40
"""A line with fewer values is drawn as it is; a longer one has a mean over some steps."""
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a chart.

    Example:
        Line(label="digits", slot=1, x=[0, 60], y=[0.67, 0.86], low=[0.64, 0.8], high=[0.7, 0.9])
    """

    label: str
    """Name in the legend; as a user wrote it."""
    slot: int
    """Number of its colour and its pattern of dashes, from 1."""
    x: Sequence[float]
    """Steps, ascending."""
    y: Sequence[float]
    """Values; NaN = missing, which breaks the line."""
    low: Sequence[float] = ()
    """Lower ends of 95 % intervals; NaN = unknown; empty = there are none."""
    high: Sequence[float] = ()
    """Upper ends."""
    is_noisy: bool = False
    """True for figures of steps: a mean over some steps is drawn over them."""
    is_control: bool = False
    """True for a control, which is drawn as a hollow square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LegendEntry:
    """An entry of a legend."""

    label: str
    """Clean text, not escaped."""
    sample: str
    """A small SVG that shows how it is drawn; safe to be put into HTML."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A chart that is drawn."""

    svg: str
    legend: Sequence[LegendEntry]
    points: dict[str, Any]
    """Frame and values for a readout; all of it can be written as JSON."""
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The part of the plane that is shown."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, x: Numbers) -> Numbers:
        """Return places from the left edge of the picture."""
        first, last = self.x
        return LEFT + (x - first) / (last - first) * (RIGHT - LEFT)

    def down(self, y: Numbers) -> Numbers:
        """Return places from the upper edge; values outside lie on the edge."""
        low, high = self.y
        return BOTTOM - (np.clip(y, low, high) - low) / (high - low) * (BOTTOM - TOP)


@dataclass(slots=True, kw_only=True)
class _Values:
    """Numbers of a line, ready to be drawn."""

    line: Line
    x: Numbers
    y: Numbers
    low: Numbers
    high: Numbers
    mean: Numbers = field(default_factory=lambda: np.empty(0))
    """Mean over some steps; empty = the line is drawn as it is."""
    has_band: bool = True
    """False if intervals are bars only."""
    outside: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, dtype=bool))

    @property
    def has_faint(self) -> bool:
        """True if each step is drawn below the mean; values of 0 and 1 say no more than it."""
        return len(self.mean) > 0 and not np.isin(self.y[np.isfinite(self.y)], (0, 1)).all()

    @property
    def shown(self) -> Numbers:
        """The bold line."""
        return self.mean if len(self.mean) else self.y


# --- figures --------------------------------------------------------------------------------------


def window_of(count: int) -> int:
    """Return over how many steps a mean is taken: an odd number near a twentieth; 1 = no mean."""
    return 1 if count < FEW_STEPS else count // 20 | 1


def rolling_mean(values: Numbers, counted: NDArray[np.bool_], window: int) -> Numbers:
    """Return the mean of the counted values at most `window // 2` places away.

    At the ends there are fewer of them. A missing value stays missing.
    """
    sums = np.concatenate([[0.0], np.cumsum(np.where(counted, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(counted)])
    places = np.arange(len(values))
    first = np.maximum(places - window // 2, 0)
    after = np.minimum(places + window // 2 + 1, len(values))
    count = counts[after] - counts[first]
    mean = (sums[after] - sums[first]) / np.maximum(count, 1)
    return np.where(np.isnan(values) | (count == 0), np.nan, mean)


def usual_range(values: Numbers) -> tuple[float, float]:
    """Return least and largest value, without those far away from all others.

    Far is ten times as far as the range, or the size, of the inner 96 %.
    """
    ordered = np.sort(values)
    last = len(ordered) - 1
    ends = ordered[math.ceil(0.02 * last)], ordered[math.floor(0.98 * last)]
    low, high = float(min(ends)), float(max(ends))
    far = 10 * max(high - low, abs(low), abs(high))
    near = ordered[(ordered >= low - far) & (ordered <= high + far)] if far else ordered
    return float(near[0]), float(near[-1])


def ticks(low: float, high: float, most: int = 5, *, whole: bool = False) -> list[float]:
    """Return round numbers that enclose a range: steps of 1, 2, 2.5 or 5 times a power of ten.

    Args:
        most: largest number of spaces between the ticks, or one more.
        whole: True if only whole numbers make sense.
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, float(math.ceil(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, last + 1)]


def tick_labels(places: Sequence[float]) -> list[str]:
    """Return the labels of ticks, all with as many decimals as their distance needs."""
    step = places[1] - places[0]
    if step < 1e-4 or max(map(abs, places)) >= 1e6:
        return [f"{place + 0.0:.3g}" for place in places]
    decimals = 0
    while decimals < 5 and abs(round(step, decimals) - step) > step * 1e-6:
        decimals += 1
    return [f"{place + 0.0:.{decimals}f}" for place in places]


# --- the chart ------------------------------------------------------------------------------------


def draw(
    lines: Sequence[Line],
    *,
    name: str,
    title: str,
    x_name: str = "step",
    y_range: tuple[float, float] | None = None,
    limit: float | None = None,
) -> Drawing | None:
    """Draw a chart; None = no line has a value.

    Args:
        name: id of the chart; the ids of its parts begin with it.
        y_range: range of the values where it is known, such as 0 to 1 for shares.
        limit: value at which a line is drawn that should not be crossed.
    """
    found = [values for values in map(_values, lines) if np.isfinite(values.y).any()]
    if not found:
        return None
    y_ticks = _y_ticks(found, y_range, limit)
    x_ticks, x_range = _x_ticks(found)
    frame = Frame(x=x_range, y=(y_ticks[0], y_ticks[-1]))
    window = max(window_of(len(values.y)) if values.line.is_noisy else 1 for values in found)
    for values in found:
        values.has_band = len(found) <= MOST_BANDS
        values.outside = (values.y < frame.y[0]) | (values.y > frame.y[1])
        if values.line.is_noisy and window > 1:
            counted = np.isfinite(values.y) & ~values.outside
            values.mean = rolling_mean(values.y, counted, window)
    summary = _summary(found, window)
    kind = "curve" if len(found) == 1 else "curve several"
    parts = [
        f'<svg class="{kind}" id="{name}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-labelledby="{name}-title {name}-desc" xmlns="http://www.w3.org/2000/svg">',
        f'<title id="{name}-title">{escaped(title, 120)}</title>',
        f'<desc id="{name}-desc">{escaped(summary, 1000)}</desc>',
        *_axes(frame, y_ticks, x_ticks, x_name),
        *(_limit(frame, limit) if limit is not None else ()),
    ]
    for draw_part in (_faint, _interval, _bold, _outside):
        for values in found:
            parts += draw_part(values, frame)
    points = {
        "frame": {
            "x": list(frame.x),
            "y": list(frame.y),
            "left": LEFT,
            "right": RIGHT,
            "top": TOP,
            "bottom": BOTTOM,
        },
        "lines": [_points(values) for values in found],
    }
    legend = _legend(found, window)
    return Drawing(svg="".join([*parts, "</svg>"]), legend=legend, points=points, summary=summary)


def _values(line: Line) -> _Values:
    """Turn the numbers of a line into arrays; what is not finite is missing."""
    arrays: list[Numbers] = []
    for numbers in (line.x, line.y, line.low, line.high):
        array = np.asarray(numbers if len(numbers) else [math.nan] * len(line.x), dtype=float)
        array = np.where(np.isfinite(array), array, np.nan)
        arrays.append(np.clip(array, -LARGEST, LARGEST))
    x, y, low, high = arrays
    if not line.is_noisy and len(y) > MOST_POINTS:
        kept = _evenly(len(y), MOST_POINTS)
        x, y, low, high = x[kept], y[kept], low[kept], high[kept]
    return _Values(line=line, x=x, y=y, low=low, high=high)


def _evenly(count: int, most: int) -> NDArray[np.intp]:
    """Return at most so many places at equal distances, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.intp))


def _y_ticks(
    found: Sequence[_Values], y_range: tuple[float, float] | None, limit: float | None
) -> list[float]:
    if y_range is not None:
        return ticks(*y_range, most=4)
    every: list[Numbers] = []
    for values in found:
        every += [values.y, values.low, values.high]
    finite = np.concatenate(every)
    low, high = usual_range(finite[np.isfinite(finite)])
    if limit is not None:
        low, high = min(low, limit), max(high, limit)
    if 0 <= low < 0.6 * high or (low == high and high > 0):
        low = 0.0  # lengths of bars and lines can be compared by eye only from zero
    if high - low <= max(1e-9 * max(abs(low), abs(high)), 1e-300):
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    return ticks(low, high, most=4)


def _x_ticks(found: Sequence[_Values]) -> tuple[list[float], tuple[float, float]]:
    """Return the ticks below a chart, and the steps that it reaches from and to."""
    steps = np.concatenate([values.x for values in found])
    first, last = float(np.nanmin(steps)), float(np.nanmax(steps))
    if first == last:
        return [first], (first - 1, last + 1)
    inside = [place for place in ticks(first, last, whole=True) if first <= place <= last]
    return inside, (first, last)


def _axes(
    frame: Frame, y_ticks: Sequence[float], x_ticks: Sequence[float], x_name: str
) -> list[str]:
    parts: list[str] = []
    grid: list[str] = []
    heights = frame.down(np.asarray(y_ticks))
    for height, label in zip(heights, tick_labels(y_ticks), strict=True):
        grid.append(f"M{LEFT} {_number(height)}H{RIGHT}")
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{_number(height + 4)}" '
            f'text-anchor="end">{label}</text>'
        )
    stubs: list[str] = []
    for place, step in zip(frame.across(np.asarray(x_ticks)), x_ticks, strict=True):
        stubs.append(f"M{_number(place)} {BOTTOM}v4")
        parts.append(
            f'<text class="tick" x="{_number(place)}" y="{BOTTOM + 17}" '
            f'text-anchor="middle">{step:.0f}</text>'
        )
    return [
        f'<path class="grid" d="{"".join(grid)}"/>',
        f'<path class="axis" d="M{LEFT} {BOTTOM}H{RIGHT}{"".join(stubs)}"/>',
        *parts,
        f'<text class="axis-name" x="{RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{x_name}</text>',
    ]


def _limit(frame: Frame, limit: float) -> list[str]:
    height = _number(float(frame.down(np.asarray([limit]))[0]))
    return [
        f'<path class="limit" d="M{LEFT} {height}H{RIGHT}" stroke-dasharray="3 3"/>',
        f'<text class="limit-name" x="{RIGHT}" y="{height}" dy="-4" text-anchor="end">limit</text>',
    ]


# --- its lines ------------------------------------------------------------------------------------


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _series(line: Line) -> str:
    return f"series-{(line.slot - 1) % len(DASHES) + 1}"


def _classes(kind: str, line: Line) -> str:
    return f'class="{kind} {_series(line)}"'


def _dashes(line: Line) -> str:
    pattern = DASHES[(line.slot - 1) % len(DASHES)]
    return f' stroke-dasharray="{pattern}"' if pattern else ""


def _runs(values: Numbers) -> list[NDArray[np.intp]]:
    """Return the places of values that are there, a list for each unbroken run."""
    there = np.flatnonzero(np.isfinite(values))
    return [run for run in np.split(there, np.flatnonzero(np.diff(there) > 1) + 1) if len(run)]


def _path(across: Numbers, down: Numbers) -> str:
    points = [f"{_number(x)} {_number(y)}" for x, y in zip(across, down, strict=True)]
    return "M" + " ".join(points)


def _faint(values: _Values, frame: Frame) -> list[str]:
    """Draw the values of each step below their mean: a thin line; strokes if they are many."""
    if not values.has_faint:
        return []
    across, down = frame.across(values.x), frame.down(values.y)
    if len(values.y) <= MOST_POINTS:
        parts = [_path(across[run], down[run]) for run in _runs(down) if len(run) > 1]
        return [f'<path {_classes("raw", values.line)} d="{"".join(parts)}"/>']
    there = np.isfinite(down)
    columns = ((across[there] - LEFT) // COLUMN).astype(int)
    strokes: list[str] = []
    begins = np.flatnonzero(np.diff(columns, prepend=-1))
    if len(begins):
        tops = np.minimum.reduceat(down[there], begins)
        ends = np.maximum.reduceat(down[there], begins)
        for column, top, end in zip(columns[begins], tops, ends, strict=True):
            length = max(float(end - top), 1.0)  # a stroke without length is not drawn
            strokes.append(f"M{LEFT + COLUMN * column + COLUMN // 2} {top:.0f}v{length:.0f}")
    return [f'<path {_classes("raw-band", values.line)} d="{"".join(strokes)}"/>']


def _interval(values: _Values, frame: Frame) -> list[str]:
    """Draw the 95 % intervals: a band, and a bar at each value, since only there they are known."""
    known = np.isfinite(values.low) & np.isfinite(values.high) & np.isfinite(values.y)
    if not known.any():
        return []
    across = frame.across(values.x)
    low, high = frame.down(values.low), frame.down(values.high)
    if not values.has_band:
        return [_bars(values.line, across[known], high[known], low[known])]
    parts: list[str] = []
    for run in _runs(np.where(known, values.y, np.nan)):
        if len(run) > 1:
            back = run[::-1]
            outline = _path(np.r_[across[run], across[back]], np.r_[high[run], low[back]])
            parts.append(f'<path {_classes("band", values.line)} d="{outline}Z"/>')
    return [*parts, _bars(values.line, across[known], high[known], low[known])]


def _bars(line: Line, across: Numbers, tops: Numbers, ends: Numbers) -> str:
    bars: list[str] = []
    for x, top, end in zip(across, tops, ends, strict=True):
        bars.append(f"M{_number(x)} {_number(top)}V{_number(end)}")
    return f'<path {_classes("whisker", line)} d="{"".join(bars)}"/>'


def _bold(values: _Values, frame: Frame) -> list[str]:
    """Draw the line itself; a value between two missing ones is a dot."""
    shown, x = values.shown, values.x
    if len(shown) > MOST_POINTS:
        kept = _evenly(len(shown), (RIGHT - LEFT) // COLUMN)
        shown, x = shown[kept], x[kept]
    across, down = frame.across(x), frame.down(shown)
    paths: list[str] = []
    dots: list[str] = []
    for run in _runs(down):
        if len(run) > 1:
            paths.append(_path(across[run], down[run]))
        if len(run) == 1 or not values.line.is_noisy:
            for place in run:
                dots.append(_dot(values.line, float(across[place]), float(down[place])))
    line = f'<path {_classes("line", values.line)}{_dashes(values.line)} d="{"".join(paths)}"/>'
    return [*([line] if paths else []), *(dots if len(dots) <= MOST_POINTS // 4 else [])]


def _dot(line: Line, x: float, y: float) -> str:
    if line.is_control:
        return (
            f'<rect {_classes("control", line)} x="{_number(x - 4)}" y="{_number(y - 4)}" '
            'width="8" height="8"/>'
        )
    return f'<circle {_classes("dot", line)} cx="{_number(x)}" cy="{_number(y)}" r="2.6"/>'


def _outside(values: _Values, frame: Frame) -> list[str]:
    """Draw an arrow at the edge for values that are not shown, one in a column."""
    arrows: dict[tuple[int, bool], str] = {}
    for place in np.flatnonzero(values.outside):
        x = float(frame.across(values.x[place : place + 1])[0])
        is_above = bool(values.y[place] > frame.y[1])
        edge, height = (TOP, 6) if is_above else (BOTTOM, -6)
        arrow = f"M{_number(x)} {edge - height // 2}l-4 {height}h8Z"
        arrows.setdefault((int(x) // 8, is_above), arrow)
    drawn = "".join(arrows.values())
    return [f'<path {_classes("outside", values.line)} d="{drawn}"/>'] if drawn else []


# --- what is said beside it -----------------------------------------------------------------------


def _points(values: _Values) -> dict[str, Any]:
    kept = _evenly(len(values.y), HOVER_POINTS)
    columns = {"x": values.x, "y": values.shown}
    if len(values.mean):
        columns["raw"] = values.y
    if np.isfinite(values.low).any():
        columns |= {"low": values.low, "high": values.high}
    line = values.line
    found: dict[str, Any] = {
        "label": single_line(line.label, MAX_NAME),
        "series": (line.slot - 1) % len(DASHES) + 1,
    }
    for key, column in columns.items():
        found[key] = [_rounded(value) for value in column[kept].tolist()]
    return found


def _rounded(value: float) -> float | int | None:
    """Return four digits of a number; a whole number stays whole; None = it is missing."""
    if math.isnan(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 1e15 else float(f"{value:.4g}")


def _legend(found: Sequence[_Values], window: int) -> list[LegendEntry]:
    entries: list[LegendEntry] = []
    if len(found) > 1 or found[0].line.label:
        entries += [_entry(values.line) for values in found]
    # of several lines no one stands for the others
    kind = 'class="{} neutral"' if len(found) > 1 else f'class="{{}} {_series(found[0].line)}"'
    if window > 1:
        bold = f'<path {kind.format("line")} d="M2 7H28"/>'
        entries.append(LegendEntry(label=f"mean of {window} steps", sample=_sample(bold)))
    faint = [len(values.y) for values in found if values.has_faint]
    if faint and max(faint) > MOST_POINTS:
        strokes = f'<path {kind.format("raw-band")} d="M9 3v8M11 2v9M13 4v8M15 5v6M17 2v7"/>'
        entries.append(LegendEntry(label="least to most", sample=_sample(strokes)))
    elif faint:
        thin = f'<path {kind.format("raw")} d="M2 9 8 4 14 10 20 5 28 8"/>'
        entries.append(LegendEntry(label="each step", sample=_sample(thin)))
    if any(np.isfinite(values.low).any() for values in found):
        bar = f'<path {kind.format("whisker")} d="M15 1V13M11 1h8M11 13h8"/>'
        entries.append(LegendEntry(label="95 % interval", sample=_sample(bar)))
    if any(values.outside.any() for values in found):
        arrow = f'<path {kind.format("outside")} d="M15 3l-4 7h8Z"/>'
        entries.append(LegendEntry(label="outside the axis", sample=_sample(arrow)))
    return entries


def _entry(line: Line) -> LegendEntry:
    mark = _dot(line, 15, 7)
    if not line.is_control:
        mark = f'<path {_classes("line", line)}{_dashes(line)} d="M2 7H28"/>'
    return LegendEntry(label=single_line(line.label, MAX_NAME), sample=_sample(mark))


def _sample(mark: str) -> str:
    return (
        '<svg class="sample" viewBox="0 0 30 14" width="30" height="14" aria-hidden="true" '
        f'xmlns="http://www.w3.org/2000/svg">{mark}</svg>'
    )


def _summary(found: Sequence[_Values], window: int) -> str:
    """Say in a sentence where each line begins and ends, and how many values are outside."""
    parts: list[str] = []
    for values in found:
        there = np.flatnonzero(np.isfinite(values.shown))
        label = f"{single_line(values.line.label, MAX_NAME)}: " if values.line.label else ""
        if not len(there):
            parts.append(f"{label}all values are outside")
            continue
        ends = [there[0]] if len(there) == 1 else [there[0], there[-1]]
        said: list[str] = []
        for place in ends:
            said.append(f"{number(float(values.shown[place]))} at step {values.x[place]:.0f}")
        parts.append(label + ", ".join(said))
    text = "; ".join(parts)
    if window > 1:
        text += f" (means of {window} steps)"
    count = sum(int(values.outside.sum()) for values in found)
    if count:
        lie = "value lies" if count == 1 else "values lie"
        farthest = max((_farthest(values) for values in found), key=abs)
        text += f"; {count} {lie} outside the axis, as far as {number(farthest)}"
    return text + "."


def _farthest(values: _Values) -> float:
    beyond = values.y[values.outside]
    return float(beyond[np.argmax(np.abs(beyond))]) if len(beyond) else 0.0


def sparkline(values: Sequence[float | None]) -> str:
    """Return a line of a few centimetres without axes, with a dot at its end."""
    numbers = [math.nan if value is None else float(value) for value in values]
    line = _values(Line(label="", slot=1, x=range(len(numbers)), y=numbers))
    there = line.y[np.isfinite(line.y)]
    if not len(there):
        return ""
    low, high = usual_range(there)
    span = high - low or 1.0
    across = 3 + line.x / max(float(line.x[-1]), 1.0) * 114
    middle = 0.5 if low == high else 0.0
    down = 25 - ((np.clip(line.y, low, high) - low) / span + middle) * 22
    parts = [_path(across[run], down[run]) for run in _runs(down) if len(run) > 1]
    last = np.flatnonzero(np.isfinite(line.y))[-1]
    said = f"from {number(there[0])} to {number(there[-1])}"
    return (
        f'<svg class="sparkline" viewBox="0 0 120 28" role="img" aria-label="{said}" '
        'xmlns="http://www.w3.org/2000/svg">'
        f'<path class="line series-1" d="{"".join(parts)}"/>'
        f'<circle class="dot series-1" cx="{_number(float(across[last]))}" '
        f'cy="{_number(float(down[last]))}" r="2.6"/></svg>'
    )
