"""Draw held-out accuracy of each task over the steps of GPG, a line per seed, as SVG.

    python benchmarks/digits_curves.py runs/table/gpg-0 runs/table/gpg-1 runs/table/gpg-2 \
        --to evaluation/digits.svg

The README shows the drawing.
"""

import argparse
import re
from pathlib import Path
from statistics import fmean

from gpg_vl.config import loading
from gpg_vl.evaluation import records as eval_records

WIDTH, HEIGHT, LEFT, TOP, GAP = 240, 180, 44, 30, 26
COLOURS = ("#0b6e99", "#c4500b", "#4c8c2b", "#7a4ea3", "#8a6d00")

Curve = list[tuple[int, float]]
"""Steps and accuracies."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    options.to.write_text(picture([curves(run) for run in options.runs]))


def curves(run: Path) -> dict[str, Curve]:
    """Read the curve of each task from the evaluations of a run."""
    config = loading.load(str(run / "config.yaml"))
    name = config.evaluation.benchmark
    found: dict[str, Curve] = {}
    for path in (run / "evaluation").glob(f"{name}-*.jsonl"):
        when = re.sub(rf"^{name}-|\.jsonl$", "", path.name)
        if when == "before":
            step = 0
        elif when == "after":
            step = config.steps
        elif when.isdigit():
            step = int(when)
        else:  # "blank", the evaluation with grey images
            continue
        for tag, records in eval_records.by_tag(eval_records.load(path)).items():
            accuracy = fmean(record.greedy for record in records)
            found.setdefault(tag, []).append((step, accuracy))
    return {tag: sorted(curve) for tag, curve in found.items()}


def picture(runs: list[dict[str, Curve]]) -> str:
    """Draw a panel for each task."""
    tasks = list(runs[0])
    width, height = LEFT + len(tasks) * (WIDTH + GAP), TOP + HEIGHT + 40
    panels: list[str] = []
    for place, task in enumerate(tasks):
        lines = [run[task] for run in runs]
        panels.append(panel(task, lines, LEFT + place * (WIDTH + GAP)))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" style="font-family:sans-serif;font-size:12px">'
    )
    background = f'<rect width="{width}" height="{height}" fill="white"/>'
    return "\n".join([head, background, *panels, "</svg>"]) + "\n"


def panel(task: str, lines: list[Curve], left: int) -> str:
    """Draw the curves of one task."""
    last_step = max(line[-1][0] for line in lines)
    parts = [
        f'<text x="{left + WIDTH / 2}" y="{TOP - 10}" text-anchor="middle" '
        f'font-weight="bold">{task}</text>'
    ]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y, end = TOP + HEIGHT * (1 - tick), left + WIDTH
        parts.append(f'<line x1="{left:.1f}" y1="{y}" x2="{end}" y2="{y}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{left - 6:.1f}" y="{y + 4}" text-anchor="end" '
            f'fill="#555">{100 * tick:.0f}</text>'
        )
    for line, colour in zip(lines, COLOURS, strict=False):
        places: list[tuple[float, float]] = []
        for step, accuracy in line:
            places.append((left + WIDTH * step / last_step, TOP + HEIGHT * (1 - accuracy)))
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        for x, y in places:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>')
    parts.append(
        f'<text x="{left + WIDTH / 2}" y="{TOP + HEIGHT + 30}" text-anchor="middle" fill="#555">GPG'
        f" steps (0 to {last_step})</text>"
    )
    return "\n".join(parts)


if __name__ == "__main__":
    main()
