"""The README's picture of cost: one group's update over the prompt's length P and over the group's size G, as an SVG.

python benchmarks/cost_curves.py --points evaluation/cost.jsonl --to evaluation/cost.svg

Measures the points that the file does not have yet, each in a fresh process, and draws them: CPU seconds and peak memory above what was
loaded, for the group forward (P + G*C tokens) and for plain rows (G*(P + C) tokens).
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
from frameworks import Row, random_groups, trainer_of, update
from fresh_process import Record, append, read, record, run
from profiler import Meter

PIXELS = (112, 224, 336, 448, 560, 672, 784, 896)
GROUP_SIZES = (2, 4, 8, 16, 32)
FORMS = {"group forward": "#0b6e99", "plain rows": "#c4500b"}
WIDTH, HEIGHT, LEFT, TOP, GAP = 250, 170, 58, 66, 66


@dataclass(frozen=True)
class Case:
    """A point to measure."""

    over: str
    """P | G."""
    pixels: int
    group_size: int
    form: str

    @property
    def row(self) -> Row:
        """What is measured. The budget is out of the way: a group is one micro-batch."""
        return Row(name=self.over, pixels=self.pixels, group_size=self.group_size, laps=3, tokens=10**6)


CASES = [
    *(Case("P", pixels, 8, form) for pixels in PIXELS for form in FORMS),
    *(Case("G", 448, group_size, form) for group_size in GROUP_SIZES for form in FORMS),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=Path, required=True, help="JSON lines: what has been measured")
    parser.add_argument("--to", type=Path, help="the picture")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "CHECKPOINT"), help=argparse.SUPPRESS)
    parser.add_argument("--build", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.build:
        model_shapes.write("tiny", Path(given.build))
    elif given.one:
        print(json.dumps(measure(CASES[int(given.one[0])], Path(given.one[1]))))
    else:
        measure_all(given.points)
        if given.to:
            given.to.write_text(picture(read(given.points)))


def measure_all(to: Path) -> None:
    known = {(point["over"], point["x"], point["form"]) for point in read(to)}
    with tempfile.TemporaryDirectory() as checkpoint:
        run(__file__, ["--build", checkpoint, "--points", str(to)])
        for index, case in enumerate(CASES):
            if (case.over, case.pixels if case.over == "P" else case.group_size, case.form) not in known:
                append(to, record(__file__, ["--one", str(index), checkpoint, "--points", str(to)]))
                print(f"{index + 1} of {len(CASES)}: {case}", file=sys.stderr)


def measure(case: Case, checkpoint: Path) -> Record:
    """A point, in this process. A small update before it makes the optimizer's moments."""
    meter = Meter(case.row.laps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(case.row, checkpoint, Path(folder), shared=case.form == "group forward")
        groups = random_groups(trainer, case.row, 1)
        update(trainer, random_groups(trainer, Row(name="small", group_size=2, length=2), 1))
        meter.start()
        for _ in range(meter.laps):
            update(trainer, groups)
            meter.lap()
    prompt, size, length = len(groups[0].prompt.input_ids), case.group_size, case.row.length
    return {
        "over": case.over,
        "x": case.pixels if case.over == "P" else size,
        "form": case.form,
        "P": prompt,
        "G": size,
        "C": length,
        "tokens": prompt + size * length if case.form == "group forward" else size * (prompt + length),
        "cpu": median(cpu["step"] for _, cpu in meter.done[1:]),
        "peak_mb": meter.result()["peak_mb"],
        "date": datetime.now(UTC).date().isoformat(),
    }


def picture(points: list[Record]) -> str:
    """Two rows (seconds, megabytes) of two panels (over P, over G)."""
    wide, high = LEFT + 2 * WIDTH + GAP + 20, 2 * (TOP + HEIGHT) + 46
    panels = [
        panel(
            [point for point in points if point["over"] == over], over, measure, LEFT + column * (WIDTH + GAP), TOP + line * (TOP + HEIGHT)
        )
        for column, over in enumerate(("P", "G"))
        for line, measure in enumerate(("cpu", "peak_mb"))
    ]
    style = "font-family:sans-serif;font-size:12px"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" style="{style}">'
    return "\n".join([head, f'<rect width="{wide}" height="{high}" fill="white"/>', *panels, *legend(), "</svg>"]) + "\n"


def legend() -> list[str]:
    return [
        f'<text x="{LEFT + place * 130}" y="16" fill="{colour}" font-weight="bold">{form}</text>'
        for place, (form, colour) in enumerate(FORMS.items())
    ]


TITLES = {"cpu": "CPU seconds of a group's update", "peak_mb": "peak megabytes above loaded"}


def panel(points: list[Record], over: str, measure: str, left: int, top: int) -> str:
    most_x, step_y = max(point[over] for point in points), nice(max(point[measure] for point in points) / 4)
    most_y = step_y * math.ceil(max(point[measure] for point in points) / step_y)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + WIDTH * x / most_x, top + HEIGHT * (1 - y / most_y)

    parts = [f'<text x="{left}" y="{top - 10}">{TITLES[measure]}</text>', *grid(at, nice(most_x / 4), most_x, step_y, most_y, top + HEIGHT)]
    named = "P, tokens of the prompt (G 8, C 32)" if over == "P" else f"G, completions (P {points[0]['P']}, C 32)"
    parts.append(f'<text x="{left + WIDTH / 2}" y="{top + HEIGHT + 30}" text-anchor="middle" fill="#555">{named}</text>')
    for form, colour in FORMS.items():
        places = [at(point[over], point[measure]) for point in sorted(points, key=lambda point: point[over]) if point["form"] == form]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in places]
    return "\n".join(parts)


def grid(
    at: Callable[[float, float], tuple[float, float]], step_x: float, most_x: float, step_y: float, most_y: float, bottom: float
) -> list[str]:
    parts: list[str] = []
    for tick in range(round(most_y / step_y) + 1):
        (x, y), (end, _) = at(0, tick * step_y), at(most_x, 0)
        parts.append(f'<line x1="{x}" y1="{y:.1f}" x2="{end}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#555">{tick * step_y:g}</text>')
    for tick in range(int(most_x / step_x) + 1):
        x, _ = at(tick * step_x, 0)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle" fill="#555">{tick * step_x:g}</text>')
    return parts


def nice(rough: float) -> float:
    """The next round number above: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)


if __name__ == "__main__":
    main()
