"""Draw the cost of one group's update over the prompt's length P and the group's size G, as SVG.

    python benchmarks/cost_curves.py --points evaluation/cost.jsonl --to evaluation/cost.svg

Measures the points that the file does not have yet, each in a fresh process, and draws them: CPU
seconds and peak memory above what was loaded, for the group forward (P + G*C tokens) and for plain
rows (G*(P + C) tokens). docs/cost.md shows the drawing.
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import model_shapes
from frameworks import Row, random_groups, run_of, update
from fresh_process import Record, append, read, record, run
from profiler import Profiler

PIXELS = (112, 224, 336, 448, 560, 672, 784, 896)
GROUP_SIZES = (2, 4, 8, 16, 32)
FORMS = {"group forward": "#0b6e99", "plain rows": "#c4500b"}
"""Form -> its colour."""
WIDTH, HEIGHT, LEFT, TOP, GAP = 250, 170, 58, 66, 66
TITLES = {"cpu": "CPU seconds of a group's update", "peak_mb": "peak megabytes above loaded"}
"""Figure -> title of its panels."""

Position = Callable[[float, float], tuple[float, float]]
"""From the values of a point to its place in the drawing."""


@dataclass(frozen=True)
class Case:
    """A point to measure."""

    over: str
    """Horizontal axis: P | G."""
    pixels: int
    group_size: int
    form: str

    @property
    def x(self) -> int:
        """Number that tells the points of a curve apart: pixels of the image, or group size."""
        return self.pixels if self.over == "P" else self.group_size

    @property
    def row(self) -> Row:
        """The case as a row; its token budget is so large that a group is one micro-batch."""
        return Row(
            name=self.over, pixels=self.pixels, group_size=self.group_size, laps=3, tokens=10**6
        )


CASES: list[Case] = []
for _pixels in PIXELS:
    CASES += [Case("P", _pixels, 8, form) for form in FORMS]
for _group_size in GROUP_SIZES:
    CASES += [Case("G", 448, _group_size, form) for form in FORMS]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--points", type=Path, required=True, help="JSON lines: the points measured so far"
    )
    parser.add_argument("--to", type=Path, help="the SVG file")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "CHECKPOINT"), help=argparse.SUPPRESS)
    parser.add_argument("--build", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        model_shapes.write("tiny", Path(options.build))
    elif options.one:
        index, checkpoint = options.one
        print(json.dumps(measure(CASES[int(index)], Path(checkpoint))))
    else:
        measure_all(options.points)
        if options.to:
            options.to.write_text(picture(read(options.points)))


def measure_all(to: Path) -> None:
    """Measure the points that the file does not have, each in a fresh process."""
    known = {(point["over"], point["x"], point["form"]) for point in read(to)}
    with tempfile.TemporaryDirectory() as checkpoint:
        run(__file__, ["--build", checkpoint, "--points", str(to)])
        for index, case in enumerate(CASES):
            if (case.over, case.x, case.form) in known:
                continue
            append(to, record(__file__, ["--one", str(index), checkpoint, "--points", str(to)]))
            print(f"{index + 1} of {len(CASES)}: {case}", file=sys.stderr)


def measure(case: Case, checkpoint: Path) -> Record:
    """Measure a point, in this process.

    A small update comes first: it makes the optimizer's moments.
    """
    profiler = Profiler(case.row.laps)
    shared = case.form == "group forward"
    with tempfile.TemporaryDirectory() as folder:
        training = run_of(case.row, checkpoint, Path(folder), shared=shared)
        groups = random_groups(training, case.row, 1)
        update(training, random_groups(training, Row(name="small", group_size=2, length=2), 1))
        profiler.start()
        for _ in range(profiler.laps):
            update(training, groups)
            profiler.lap()
    prompt, size, length = len(groups[0].prompt.input_ids), case.group_size, case.row.length
    tokens = prompt + size * length if shared else size * (prompt + length)
    return {
        "over": case.over,
        "x": case.x,
        "form": case.form,
        "P": prompt,
        "G": size,
        "C": length,
        "tokens": tokens,
        "cpu": median(cpu["step"] for _, cpu in profiler.done[1:]),
        "peak_mb": profiler.result()["peak_mb"],
        "date": datetime.now(UTC).date().isoformat(),
    }


def picture(points: list[Record]) -> str:
    """Draw two rows (seconds, megabytes) of two panels (over P, over G)."""
    width, height = LEFT + 2 * WIDTH + GAP + 20, 2 * (TOP + HEIGHT) + 46
    panels: list[str] = []
    for column, over in enumerate(("P", "G")):
        own_points = [point for point in points if point["over"] == over]
        left = LEFT + column * (WIDTH + GAP)
        for line, figure in enumerate(("cpu", "peak_mb")):
            panels.append(panel(own_points, over, figure, left, TOP + line * (TOP + HEIGHT)))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" style="font-family:sans-serif;font-size:12px">'
    )
    background = f'<rect width="{width}" height="{height}" fill="white"/>'
    return "\n".join([head, background, *panels, *legend(), "</svg>"]) + "\n"


def legend() -> list[str]:
    """Draw the name of each form in its colour."""
    return [
        f'<text x="{LEFT + place * 130}" y="16" fill="{colour}" font-weight="bold">{form}</text>'
        for place, (form, colour) in enumerate(FORMS.items())
    ]


def panel(points: list[Record], over: str, figure: str, left: int, top: int) -> str:
    """Draw one panel: a curve for each form."""
    max_x = max(point[over] for point in points)
    max_value = max(point[figure] for point in points)
    step_y = nice(max_value / 4)
    max_y = step_y * math.ceil(max_value / step_y)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + WIDTH * x / max_x, top + HEIGHT * (1 - y / max_y)

    parts = [
        f'<text x="{left}" y="{top - 10}">{TITLES[figure]}</text>',
        *grid(at, nice(max_x / 4), max_x, step_y, max_y, top + HEIGHT),
    ]
    label = f"G, completions (P {points[0]['P']}, C 32)"
    if over == "P":
        label = "P, tokens of the prompt (G 8, C 32)"
    parts.append(
        f'<text x="{left + WIDTH / 2}" y="{top + HEIGHT + 30}" text-anchor="middle" '
        f'fill="#555">{label}</text>'
    )
    for form, colour in FORMS.items():
        own_points = [point for point in points if point["form"] == form]
        places: list[tuple[float, float]] = []
        for point in sorted(own_points, key=lambda point: point[over]):
            places.append(at(point[over], point[figure]))
        parts += curve(places, colour)
    return "\n".join(parts)


def curve(places: list[tuple[float, float]], colour: str) -> list[str]:
    """Draw a line through these places, with a dot at each."""
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for x, y in places:
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>')
    return parts


def grid(
    at: Position, step_x: float, max_x: float, step_y: float, max_y: float, bottom: float
) -> list[str]:
    """Draw horizontal lines, and the numbers of both axes."""
    parts: list[str] = []
    for tick in range(round(max_y / step_y) + 1):
        (x, y), (end, _) = at(0, tick * step_y), at(max_x, 0)
        parts.append(f'<line x1="{x}" y1="{y:.1f}" x2="{end}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{x - 6}" y="{y + 4:.1f}" text-anchor="end" '
            f'fill="#555">{tick * step_y:g}</text>'
        )
    for tick in range(int(max_x / step_x) + 1):
        x, _ = at(tick * step_x, 0)
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle" '
            f'fill="#555">{tick * step_x:g}</text>'
        )
    return parts


def nice(rough: float) -> float:
    """Return the next round number above: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (1, 2, 5):
        if factor * power >= rough:
            return factor * power
    return 10 * power


if __name__ == "__main__":
    main()
