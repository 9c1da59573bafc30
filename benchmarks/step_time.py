"""Measure whole training steps of gpg_vl and of TRL: seconds and memory.

    # measure, and append to step_time.jsonl; what is there is not measured again
    python benchmarks/step_time.py --rows 64 256
    # the table of all that was measured
    python benchmarks/step_time.py --table
    # real architectures in bfloat16 on one CUDA GPU
    python benchmarks/step_time.py --cuda
    # the same code at toy size, on any machine
    python benchmarks/step_time.py --cuda --toy

Each row and each framework (`--sides`) has a fresh process. TRL is the extra `bench`. On a shared
machine compare CPU seconds (`cpu`), not wall seconds.
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
from typing import Any

import model_shapes
import torch
from frameworks import FRAMEWORKS, Row
from fresh_process import Record, append, markdown, read, record, run
from profiler import Profiler, matrix_rate

CPU_ROWS = (
    Row(name="64", pixels=224),
    Row(name="256", trl_rows=32),
    Row(name="1024", pixels=896, laps=2, trl_rows=16),
    Row(name="256 half zero-variance", half_zero_variance=True, trl_rows=32),
    Row(name="256 G16", group_size=16, trl_rows=32),
    Row(name="256 C128", length=128, trl_rows=32),
    Row(name="64 C512", pixels=224, length=512, trl_rows=32),
    Row(name="mid 64", shape="mid", pixels=224, laps=2, trl_rows=16),
)
CUDA_ROWS = tuple(
    Row(
        name=shape,
        shape=shape,
        pixels=980,
        length=200,
        dtype="bfloat16",
        tokens=6000,
        trl_rows=8,
        vision="frozen",
        checkpointing=True,
    )
    for shape in ("qwen2_5_vl_3b", "qwen2_vl_2b")
)
"""Tower frozen and layers checkpointed in every framework: so 3B with AdamW fits a GPU of 80 GB."""

Results = dict[str, dict[str, Record]]
"""Row -> framework -> its newest record."""


def main() -> None:
    parser = _parser()
    options = parser.parse_args()
    rows = {row.name: row for row in _rows(cuda=options.cuda, toy=options.toy)}
    if not options.cuda:
        # These rows are compared on the CPU, also on a machine with a GPU.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if options.build:
        name, checkpoint = options.build
        if options.cuda and not options.toy and not torch.cuda.is_available():
            sys.exit(
                "--cuda: this machine has no CUDA GPU; --cuda --toy runs the same code at toy size"
            )
        model_shapes.write(rows[name].shape, Path(checkpoint), toy=options.toy)
    elif options.one:
        name, framework, checkpoint = options.one
        print(json.dumps(measure(rows[name], framework, Path(checkpoint), cuda=options.cuda)))
    else:
        if not options.table:
            measure_all(_chosen(parser, rows, options.rows), options)
        if options.to.exists():
            print_table(rows, read(options.to), cuda=options.cuda)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(row.name for row in CPU_ROWS)
    parser.add_argument("--rows", nargs="+", metavar="NAME", help=f"default: all of {names}")
    parser.add_argument(
        "--sides",
        nargs="+",
        choices=list(FRAMEWORKS),
        default=list(FRAMEWORKS),
        help="frameworks to measure; not shared: gpg_vl with plain rows",
    )
    parser.add_argument(
        "--to", type=Path, default=Path("step_time.jsonl"), help="results, a JSON line each"
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="measure also what has been measured; the newest counts",
    )
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument(
        "--toy",
        action="store_true",
        help="with --cuda: a few small layers, small images, short completions",
    )
    parser.add_argument("--build", nargs=2, metavar=("ROW", "CHECKPOINT"), help=argparse.SUPPRESS)
    parser.add_argument(
        "--one", nargs=3, metavar=("ROW", "SIDE", "CHECKPOINT"), help=argparse.SUPPRESS
    )
    return parser


def _rows(*, cuda: bool, toy: bool) -> tuple[Row, ...]:
    if not cuda:
        return CPU_ROWS
    return tuple(map(toy_of, CUDA_ROWS)) if toy else CUDA_ROWS


def toy_of(row: Row) -> Row:
    """Return the row with small images and short completions."""
    return replace(row, name=f"{row.name} toy", pixels=112, length=6, laps=1, tokens=512)


def _chosen(
    parser: argparse.ArgumentParser, rows: dict[str, Row], names: list[str] | None
) -> list[Row]:
    if not names:
        return list(rows.values())
    unknown = [name for name in names if name not in rows]
    if unknown:
        parser.error(f"--rows: {', '.join(unknown)}: expected {', '.join(rows)}")
    return [rows[name] for name in names]


def newest(records: list[Record]) -> Results:
    """Keep the newest record of each row and framework."""
    found: Results = {}
    for measured in records:
        found.setdefault(measured["row"], {})[measured["side"]] = measured
    return found


def measure_all(rows: list[Row], options: Any) -> None:
    """Measure each framework of each row in a fresh process, and append every result at once."""
    known = newest(read(options.to))
    flags = ["--cuda"] * options.cuda + ["--toy"] * options.toy
    for row in rows:
        missing = list(options.sides)
        if not options.again:
            missing = [name for name in missing if name not in known.get(row.name, {})]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as checkpoint:
            run(__file__, ["--build", row.name, checkpoint, *flags])
            for framework in missing:
                arguments = ["--one", row.name, framework, checkpoint, *flags]
                append(options.to, record(__file__, arguments))
                print(f"{row.name}, {framework}: measured", file=sys.stderr)


def measure(
    row: Row, framework: str, checkpoint: Path, *, cuda: bool, profiler: Profiler | None = None
) -> Record:
    """Measure one framework of one row, in this process.

    Args:
        profiler: None = one that counts operations on a GPU only.
    """
    profiler = profiler or Profiler(row.laps, count_operations=cuda)
    figures = FRAMEWORKS[framework](row, checkpoint, profiler)
    packages = ["torch", "transformers"]
    if framework == "trl":
        packages.append("trl")
    result = {
        "row": row.name,
        "side": framework,
        **profiler.result(),
        **figures,
        "case": asdict(row),
        "image_tokens": row.image_tokens,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in packages},
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    if cuda:
        result["matrix_tflops"] = matrix_rate()
    return result


def print_table(rows: dict[str, Row], records: list[Record], *, cuda: bool) -> None:
    """Print the newest records of these rows."""
    results: Results = {}
    for name, frameworks in newest(records).items():
        if name in rows:
            results[name] = frameworks
    print(cuda_table(results) if cuda else table(results))


HEAD = (
    "row",
    "gpg_vl s",
    "not shared s",
    "TRL s",
    "TRL / gpg_vl",
    "update: not shared / gpg_vl",
    "wall: TRL / gpg_vl",
    "gpg_vl MB",
    "not shared MB",
    "TRL MB",
)
PHASES = ("encode", "sample", "score", "update")


def table(results: Results) -> str:
    """Return two Markdown tables: steps, then seconds by phase.

    Seconds are CPU seconds of a step, megabytes the peak above what was loaded.
    """
    steps: list[tuple[str, ...]] = []
    phases: list[tuple[str, ...]] = []
    for name, frameworks in results.items():
        steps.append(_steps_line(name, frameworks))
        for framework in FRAMEWORKS:
            if framework in frameworks:
                phases.append(_phases_line(name, framework, frameworks[framework]))
    phases_head = ("row", "side", *PHASES, "step", "wall", "micro-batch")
    return f"{markdown(HEAD, steps)}\n\n{markdown(phases_head, phases)}"


def _phases_line(name: str, framework: str, record: Record) -> tuple[str, ...]:
    """Return the seconds by phase.

    TRL's update is the rest of a step without its rollout. The rest of its rollout, where it
    prepares the images a second time, counts as encoding.
    """
    cpu = record["cpu"]
    encode = cpu["encode"]
    if "rollout" in cpu:
        encode += cpu["rollout"] - sum(cpu[phase] for phase in PHASES[:3])
        update = cpu["step"] - cpu["rollout"]
    else:
        update = cpu["update"]
    seconds = (encode, cpu["sample"], cpu["score"], update, cpu["step"], record["wall"]["step"])
    return (name, framework, *map(_number, seconds), str(record["microbatch"]))


def _steps_line(name: str, frameworks: dict[str, Record]) -> tuple[str, ...]:
    shared, plain, trl = (frameworks.get(framework, {}) for framework in FRAMEWORKS)
    in_order = (shared, plain, trl)
    return (
        name,
        *(_number(_seconds(record, "cpu")) for record in in_order),
        _ratio(_seconds(trl, "cpu"), _seconds(shared, "cpu")),
        _ratio(_seconds(plain, "cpu", "update"), _seconds(shared, "cpu", "update")),
        _ratio(_seconds(trl, "wall"), _seconds(shared, "wall")),
        *(_number(record.get("peak_mb"), 0) for record in in_order),
    )


def _seconds(record: Record, clock: str, phase: str = "step") -> float | None:
    """Return the seconds of a phase; None if it was not measured.

    Args:
        clock: cpu | wall.
    """
    return record.get(clock, {}).get(phase)


def cuda_table(results: Results) -> str:
    """Return a Markdown table of throughput by wall seconds.

    It shows the share of the GPU's measured matrix rate that the counted operations use.
    """
    head = (
        "row",
        "side",
        "s a step",
        "completion tokens/s",
        "TFLOP/s",
        "of the measured matrix rate",
        "peak GB",
        "device",
    )
    lines: list[tuple[str, ...]] = []
    for name, frameworks in results.items():
        for measured in frameworks.values():
            lines.append(_cuda_line(name, measured))
    return markdown(head, lines)


def _cuda_line(name: str, record: Record) -> tuple[str, ...]:
    seconds, case = record["wall"]["step"], record["case"]
    tokens = case["groups"] * case["group_size"] * case["length"]
    rate = record["operations"] / seconds / 1e12
    return (
        name,
        record["side"],
        _number(seconds),
        _number(tokens / seconds, 0),
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
