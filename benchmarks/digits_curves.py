"""The README's picture: held-out accuracy of each task over the steps of GPG, a line per seed, as an SVG.

python benchmarks/digits_curves.py runs/table/gpg-0 runs/table/gpg-1 runs/table/gpg-2 --to evaluation/digits.svg
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--to", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.to.write_text(picture([curves(run) for run in arguments.runs]))


def curves(run: Path) -> dict[str, Curve]:
    """Task -> (step, accuracy) from the evaluations of a run."""
    given = loading.load(str(run / "config.yaml"))
    name = given.evaluation.benchmark
    found: dict[str, Curve] = {}
    for path in (run / "evaluation").glob(f"{name}-*.jsonl"):
        when = re.sub(rf"^{name}-|\.jsonl$", "", path.name)
        step = {"before": 0, "after": given.steps}.get(when, int(when) if when.isdigit() else -1)
        if step >= 0:
            for tag, records in eval_records.by_tag(eval_records.load(path)).items():
                found.setdefault(tag, []).append((step, fmean(record.greedy for record in records)))
    return {tag: sorted(curve) for tag, curve in found.items()}


def picture(runs: list[dict[str, Curve]]) -> str:
    tasks = list(runs[0])
    wide, high = LEFT + len(tasks) * (WIDTH + GAP), TOP + HEIGHT + 40
    panels = [panel(task, [run[task] for run in runs], LEFT + place * (WIDTH + GAP)) for place, task in enumerate(tasks)]
    style = "font-family:sans-serif;font-size:12px"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" style="{style}">'
    return "\n".join([head, f'<rect width="{wide}" height="{high}" fill="white"/>', *panels, "</svg>"]) + "\n"


def panel(task: str, lines: list[Curve], left: int) -> str:
    last = max(step for line in lines for step, _ in line)

    def at(step: float, accuracy: float) -> tuple[float, float]:
        return left + WIDTH * step / last, TOP + HEIGHT * (1 - accuracy)

    parts = [f'<text x="{left + WIDTH / 2}" y="{TOP - 10}" text-anchor="middle" font-weight="bold">{task}</text>']
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        (x, y), end = at(0, tick), left + WIDTH
        parts.append(f'<line x1="{x}" y1="{y}" x2="{end}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6}" y="{y + 4}" text-anchor="end" fill="#555">{100 * tick:.0f}</text>')
    for line, colour in zip(lines, COLOURS, strict=False):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in line))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in (at(*point) for point in line)]
    parts.append(f'<text x="{left + WIDTH / 2}" y="{TOP + HEIGHT + 30}" text-anchor="middle" fill="#555">GPG steps (0 to {last})</text>')
    return "\n".join(parts)


if __name__ == "__main__":
    main()
