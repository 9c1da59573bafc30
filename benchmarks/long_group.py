"""Measure the update of one long group in bounded memory, whole and split.

    python benchmarks/long_group.py

The group has 16 completions of 1,000 tokens to a prompt of about 1,250, on the tiny model. Each way
is measured in a fresh process: seconds and peak memory of the update alone, above what was in use
once model and optimizer were loaded.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import model_shapes
from frameworks import Row, random_groups, run_of, update
from fresh_process import Record, markdown, record
from profiler import Profiler

from gpg_vl.policy.group_forward import checkpoint_layers

LONG = Row(name="long group", pixels=980, group_size=16, length=1000, laps=1)
WAYS = {"whole": 1 << 20, "budget 8,192": 8192, "one by one": 1, "one by one, checkpointed": 1}
"""Name of a way -> tokens at once."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--toy", action="store_true", help="a small image and short completions")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "CHECKPOINT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    row = replace(LONG, pixels=112, length=20) if options.toy else LONG
    if options.one:
        way, checkpoint = options.one
        print(json.dumps(measure(row, way, Path(checkpoint))))
        return
    flags = ["--toy"] * options.toy
    lines: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as checkpoint:
        model_shapes.write(row.shape, Path(checkpoint))
        for way in WAYS:
            result = record(__file__, ["--one", way, checkpoint, *flags])
            lines.append((way, f"{result['peak_mb']:,.0f}", f"{result['cpu']['step']:.1f}"))
    print(markdown(("completions at once", "peak MB", "CPU s"), lines))


def measure(row: Row, way: str, checkpoint: Path) -> Record:
    """Measure one way, in this process.

    A small update comes first: it makes the optimizer's moments, which belong to no way.
    """
    profiler = Profiler(row.laps)
    with tempfile.TemporaryDirectory() as folder:
        run = run_of(replace(row, tokens=WAYS[way]), checkpoint, Path(folder))
        if "checkpointed" in way:
            checkpoint_layers(run.policy.model)
        groups = random_groups(run, row, 1)
        update(run, random_groups(run, Row(name="small", group_size=2, length=2), 1))
        profiler.start()
        for _ in range(profiler.laps):
            update(run, groups)
            profiler.lap()
    return profiler.result()


if __name__ == "__main__":
    main()
