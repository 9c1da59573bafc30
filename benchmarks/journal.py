"""Time what writing rollouts and pictures adds to a step, and count the bytes of the run folder.

python benchmarks/journal.py FOLDER [key=value...]
"""

import sys
from pathlib import Path
from time import perf_counter

from gpg_vl import load_config
from gpg_vl.experiment import Experiment
from gpg_vl.run_folder import RunFolder
from gpg_vl.training.loop import train


def main() -> None:
    """Take ten steps of the default config and print the figures."""
    folder, *knobs = sys.argv[1:]
    seconds: list[float] = []
    write = RunFolder.rollouts

    def timed(*arguments: object) -> None:
        start = perf_counter()
        write(*arguments)  # pyright: ignore[reportArgumentType]
        seconds.append(perf_counter() - start)

    setattr(RunFolder, "rollouts", timed)  # noqa: B010  # the checker knows no such signature
    short = ["steps=10", "warmup.steps=30", "evaluation.benchmark=null", f"folder={folder}"]
    start = perf_counter()
    run = train(Experiment.resolve(load_config("digits", [*short, *knobs])), log=lambda line: None)
    spent = sorted(seconds)
    print(f"steps {len(spent)}, {perf_counter() - start:.0f} s in all")
    print(f"rollouts and pictures: median {1000 * spent[len(spent) // 2]:.1f} ms a step")
    for name in ("rollouts", "images", "metrics.jsonl", "pictures.jsonl"):
        print(f"{name}: {size(run / name):,} bytes")


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


if __name__ == "__main__":
    main()
