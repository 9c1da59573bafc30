"""Whole training steps, ours against TRL's: seconds and memory, each case and each side in a fresh process.

python benchmarks/step_time.py --rows 64 256                # measure, append to step_time.jsonl; what is there is not measured again
python benchmarks/step_time.py --table                      # the table of all that was measured
python benchmarks/step_time.py --cuda                       # real architectures in bfloat16 on one CUDA card
python benchmarks/step_time.py --cuda --toy                 # the same way through, at toy size, on any machine

TRL is the extra `bench`. On a shared machine compare CPU seconds (`cpu`), not wall seconds.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import model_shapes
import torch
from frameworks import SIDES, Row
from fresh_process import Record, append, markdown, read, record, run
from profiler import Meter, matrix_rate

CPU_ROWS = (
    Row(name="64", pixels=224),
    Row(name="256", trl_rows=32),
    Row(name="1024", pixels=896, laps=2, trl_rows=16),
    Row(name="256 half silent", half_silent=True, trl_rows=32),
    Row(name="256 G16", group_size=16, trl_rows=32),
    Row(name="256 C128", length=128, trl_rows=32),
    Row(name="64 C512", pixels=224, length=512, trl_rows=32),
    Row(name="mid 64", shape="mid", pixels=224, laps=2, trl_rows=16),
)
CUDA_ROWS = tuple(
    Row(
        name=shape, shape=shape, pixels=980, length=200, dtype="bfloat16", tokens=6000, trl_rows=8, vision="frozen", checkpointing=True
    )
    for shape in ("qwen2_5_vl_3b", "qwen2_vl_2b")
)  # fmt: skip
"""Tower frozen and layers checkpointed, on every side: so 3B with AdamW fits on a card of 80 GB."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", metavar="NAME", help=f"default: all of {', '.join(row.name for row in CPU_ROWS)}")
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--to", type=Path, default=Path("step_time.jsonl"), help="results, a JSON line each")
    parser.add_argument("--again", action="store_true", help="measure also what has been measured; the newest counts")
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--toy", action="store_true", help="with --cuda: a few small layers, small pictures, short completions")
    parser.add_argument("--build", nargs=2, metavar=("ROW", "CHECKPOINT"), help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=3, metavar=("ROW", "SIDE", "CHECKPOINT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    rows = {row.name: row for row in _rows(cuda=given.cuda, toy=given.toy)}
    if not given.cuda:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # these rows compare on the CPU, also where there is a card
    if given.build:
        name, checkpoint = given.build
        if given.cuda and not given.toy and not torch.cuda.is_available():
            sys.exit("--cuda: this machine has no CUDA card; --cuda --toy goes the same way at toy size")
        model_shapes.write(rows[name].shape, Path(checkpoint), toy=given.toy)
        return
    if given.one:
        name, side, checkpoint = given.one
        print(json.dumps(measure(rows[name], side, Path(checkpoint), cuda=given.cuda)))
        return
    if not given.table:
        wanted = _chosen(parser, rows, given.rows)
        measure_all(wanted, given.sides, given.to, again=given.again, cuda=given.cuda, toy=given.toy)
    if given.to.exists():
        records = newest(read(given.to))
        print((cuda_table if given.cuda else table)({name: sides for name, sides in records.items() if name in rows}))


def _rows(*, cuda: bool, toy: bool) -> tuple[Row, ...]:
    if not cuda:
        return CPU_ROWS
    return tuple(toy_of(row) for row in CUDA_ROWS) if toy else CUDA_ROWS


def toy_of(row: Row) -> Row:
    """The same way through with small pictures and short completions."""
    return replace(row, name=f"{row.name} toy", pixels=112, length=6, laps=1, tokens=512)


def _chosen(parser: argparse.ArgumentParser, rows: dict[str, Row], names: list[str] | None) -> list[Row]:
    if unknown := [name for name in names or () if name not in rows]:
        parser.error(f"--rows: {', '.join(unknown)}: expected {', '.join(rows)}")
    return [rows[name] for name in names or rows]


def newest(records: list[Record]) -> dict[str, dict[str, Record]]:
    """Row -> side -> its newest record."""
    found: dict[str, dict[str, Record]] = {}
    for measured in records:
        found.setdefault(measured["row"], {})[measured["side"]] = measured
    return found


def measure_all(rows: list[Row], sides: list[str], to: Path, *, again: bool, cuda: bool, toy: bool) -> None:
    """Each side of each row in a process of its own; every result is written down at once."""
    known = newest(read(to))
    flags = ["--cuda"] * cuda + ["--toy"] * toy
    for row in rows:
        missing = [side for side in sides if again or side not in known.get(row.name, {})]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as checkpoint:
            run(__file__, ["--build", row.name, checkpoint, *flags])
            for side in missing:
                append(to, record(__file__, ["--one", row.name, side, checkpoint, *flags]))
                print(f"{row.name}, {side}: measured", file=sys.stderr)


def measure(row: Row, side: str, checkpoint: Path, *, cuda: bool, meter: Meter | None = None) -> Record:
    """One side of one row, in this process.

    Args:
        meter: None = one that counts operations on a card only.
    """
    meter = meter or Meter(row.laps, count_operations=cuda)
    told = SIDES[side](row, checkpoint, meter)
    return {
        "row": row.name,
        "side": side,
        **meter.result(),
        **told,
        "case": asdict(row),
        "image_tokens": row.image_tokens,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "transformers", *(["trl"] if side == "trl" else []))},
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        **({"matrix_tflops": matrix_rate()} if cuda else {}),
    }


HEAD = (
    "row", "gpg_vl s", "not shared s", "TRL s", "TRL / gpg_vl", "update: not shared / gpg_vl", "wall: TRL / gpg_vl",
    "gpg_vl MB", "not shared MB", "TRL MB",
)  # fmt: skip
PHASES = ("encode", "sample", "score", "update")


def table(records: dict[str, dict[str, Record]]) -> str:
    """Markdown; seconds are CPU seconds of a step, megabytes the peak above what was loaded; then the seconds by phase."""
    steps = markdown(HEAD, [_line(name, sides) for name, sides in records.items()])
    phases = [_phases(name, side, sides[side]) for name, sides in records.items() for side in SIDES if side in sides]
    return f"{steps}\n\n{markdown(('row', 'side', *PHASES, 'step', 'wall', 'micro-batch'), phases)}"


def _phases(name: str, side: str, record: Record) -> tuple[str, ...]:
    """TRL's update is what its rollout leaves of a step; its rollout prepares the pictures a second time."""
    cpu = record["cpu"]
    update = cpu["step"] - cpu["rollout"] if "rollout" in cpu else cpu["update"]
    rest = cpu.get("rollout", 0.0) - sum(cpu[phase] for phase in PHASES[:3]) if "rollout" in cpu else 0.0
    seconds = (cpu["encode"] + rest, cpu["sample"], cpu["score"], update, cpu["step"])
    return (name, side, *map(_number, seconds), _number(record["wall"]["step"]), str(record["microbatch"]))


def _line(name: str, sides: dict[str, Record]) -> tuple[str, ...]:
    ours, plain, theirs = (sides.get(side, {}) for side in SIDES)

    def cpu(record: Record, phase: str = "step") -> float | None:
        return record.get("cpu", {}).get(phase)

    seconds = (_number(cpu(record)) for record in (ours, plain, theirs))
    ratios = (
        _ratio(cpu(theirs), cpu(ours)),
        _ratio(cpu(plain, "update"), cpu(ours, "update")),
        _ratio(theirs.get("wall", {}).get("step"), ours.get("wall", {}).get("step")),
    )
    return (name, *seconds, *ratios, *(_number(record.get("peak_mb"), 0) for record in (ours, plain, theirs)))


def cuda_table(records: dict[str, dict[str, Record]]) -> str:
    """Markdown: throughput by wall seconds, and how much of the card's measured matrix rate the counted operations use."""
    head = ("row", "side", "s a step", "completion tokens/s", "TFLOP/s", "of the measured matrix rate", "peak GB", "device")
    return markdown(head, [_cuda_line(name, record) for name, sides in records.items() for record in sides.values()])


def _cuda_line(name: str, record: Record) -> tuple[str, ...]:
    seconds, case = record["wall"]["step"], record["case"]
    rate = record["operations"] / seconds / 1e12
    return (
        name,
        record["side"],
        _number(seconds),
        _number(case["groups"] * case["group_size"] * case["length"] / seconds, 0),
        _number(rate),
        f"{100 * rate / record['matrix_tflops']:.1f} %",
        _number((record["loaded_mb"] + record["peak_mb"]) / 1024, 1),
        record["device"],
    )


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _ratio(over: float | None, under: float | None) -> str:
    return "" if over is None or under is None else f"{over / under:.1f}x"


if __name__ == "__main__":
    main()
