"""One long group in bounded memory: G 16, C 1,000 at a prompt of about 1,250 tokens, whole and split, each way in a fresh process.

python benchmarks/long_group.py

The tiny model; seconds and peak memory of the update alone, above what was there once model and optimizer were loaded.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import model_shapes
from frameworks import Row, random_groups, trainer_of, update
from fresh_process import Record, markdown, record
from profiler import Meter

from gpg_vl.policy.group_forward import checkpoint_layers

LONG = Row(name="long group", pixels=980, group_size=16, length=1000, laps=1)
WAYS = {"whole": 1 << 20, "budget 8,192": 8192, "one by one": 1, "one by one, checkpointed": 1}
"""Tokens at once."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="a small picture and short completions")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "CHECKPOINT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    row = replace(LONG, pixels=112, length=20) if given.toy else LONG
    if given.one:
        print(json.dumps(measure(row, given.one[0], Path(given.one[1]))))
        return
    with tempfile.TemporaryDirectory() as checkpoint:
        model_shapes.write(row.shape, Path(checkpoint))
        flags = ["--toy"] * given.toy
        results = {way: record(__file__, ["--one", way, checkpoint, *flags]) for way in WAYS}
    lines = [(way, f"{result['peak_mb']:,.0f}", f"{result['cpu']['step']:.1f}") for way, result in results.items()]
    print(markdown(("completions at once", "peak MB", "CPU s"), lines))


def measure(row: Row, way: str, checkpoint: Path) -> Record:
    """One way, in this process. A small update before it makes the optimizer's moments, which belong to no way."""
    meter = Meter(row.laps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(replace(row, tokens=WAYS[way]), checkpoint, Path(folder))
        if "checkpointed" in way:
            checkpoint_layers(trainer.policy.model)
        groups = random_groups(trainer, row, 1)
        update(trainer, random_groups(trainer, Row(name="small", group_size=2, length=2), 1))
        meter.start()
        for _ in range(meter.laps):
            update(trainer, groups)
            meter.lap()
    return meter.result()


if __name__ == "__main__":
    main()
