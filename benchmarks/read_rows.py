"""Measure how long reading and validating a large data set takes, first and second start.

    OMP_NUM_THREADS=1 python benchmarks/read_rows.py --rows 100000

Each row of a JSON-lines file has its own JPEG file of about 20 kB; only headers are read. Seconds,
CPU seconds and peak resident memory of a fresh process are printed for each start.
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 180
DISTINCT = 64
"""Pictures that differ; the others are copies of them in files of their own."""


def main() -> None:
    """Write the data set once, then read it in two fresh processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kind", choices=("number", "expression"), default="number")
    parser.add_argument("--folder", type=Path, default=None, help="kept between calls if given")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        _read(arguments.read)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if not (folder / "rows.jsonl").exists():
            _write(folder, arguments.rows, arguments.kind)
        environment = {**os.environ, "XDG_CACHE_HOME": str(Path(temporary) / "cache")}
        for start in ("first", "second"):
            command = [sys.executable, __file__, "--read", str(folder)]
            print(f"{start} start: ", end="", flush=True)
            subprocess.run(command, env=environment, check=True)


def _write(folder: Path, rows: int, kind: str) -> None:
    """Write rows.jsonl and one picture file for each row."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    pictures: list[bytes] = []
    for _ in range(DISTINCT):
        encoded = io.BytesIO()
        noise = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(encoded, "JPEG", quality=75)
        pictures.append(encoded.getvalue())
    print(f"pictures of {len(pictures[0]):,} bytes")
    with (folder / "rows.jsonl").open("w") as file:
        for number in range(rows):
            name = f"images/{number:06d}.jpg"
            (folder / name).write_bytes(pictures[number % DISTINCT])
            row = {
                "id": str(number),
                "question": f"How many squares are there in picture {number}?",
                "images": [name],
                "answer_kind": kind,
                "answer": f"{number}x + 1" if kind == "expression" else number % 10,
            }
            file.write(json.dumps(row) + "\n")


def _read(folder: Path) -> None:
    """Read and validate the rows in this process, and print what that took."""
    from gpg_vl.boxes import Frame
    from gpg_vl.config.schema import RewardConfig, Source
    from gpg_vl.data.dataset import read_dataset
    from gpg_vl.experiment import build_verifiers
    from gpg_vl.prompts import Style

    verifiers = build_verifiers({}, Style(), Frame(kind="norm1000"), RewardConfig(), folder)
    before = time.perf_counter(), time.process_time()
    dataset = read_dataset([Source(files="rows.jsonl")], verifiers, base_dir=folder, seed=0)
    seconds = time.perf_counter() - before[0]
    cpu = time.process_time() - before[1]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{len(dataset.samples):,} rows in {seconds:.1f} s ({cpu:.1f} CPU s), {memory:.2f} GB")


if __name__ == "__main__":
    main()
