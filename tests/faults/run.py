"""Makes every fault in a copy of the project and runs the test that must see it; reports the faults
that pass unseen.

python -m tests.faults.run                     # all of them; exit 1 when one is not seen
python -m tests.faults.run detection shared    # those whose name or file has one of these words
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from time import perf_counter
from typing import TypeVar

from tests.faults import FAULTS
from tests.faults.fault import Fault

ROOT = Path(__file__).parents[2]
COPIED = (
    "gpg_vl",
    "tests",
    "configs",
    "data",
    "evaluation",
    "docs",
    "examples",
    "benchmarks",
    ".ci",
    ".github",
    "pyproject.toml",
    "README.md",
    "CHANGELOG.md",
    "constraints.txt",
)
LONGEST = 1800.0
"""Seconds of a test without a fault."""
PATIENCE = 10
"""A test that takes so many times as long with a fault (and a minute at least) hangs, which is
seen too."""
PASSED, FAILED, LATE = 0, 1, -1

Given = TypeVar("Given")
Made = TypeVar("Made")


def main() -> int:
    """Exit code: 0 where every fault is seen."""
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("named", nargs="*", help="parts of names or files; all without")
    words.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = words.parse_args()
    chosen = [
        fault
        for fault in FAULTS
        if not given.named or any(part in f"{fault.name} {fault.file}" for part in given.named)
    ]
    if not chosen:
        words.error(f"no fault has one of these words in its name or file: {' '.join(given.named)}")
    with tempfile.TemporaryDirectory() as scratch:
        places = [copy_to(Path(scratch) / str(number)) for number in range(given.workers)]
        tests = sorted({fault.seen_by for fault in chosen})
        honest = dict(
            zip(
                tests,
                in_copies(lambda place, test: pytest(place, test, LONGEST), tests, places),
                strict=True,
            )
        )
        if failing := [
            f"{test}: exit code {code}" for test, (code, _) in honest.items() if code != PASSED
        ]:
            print("these do not pass without any fault:", *failing, sep="\n")
            return 1
        limits = {test: max(60.0, PATIENCE * seconds) for test, (_, seconds) in honest.items()}
        outcomes = in_copies(
            lambda place, fault: tried(place, fault, limits[fault.seen_by]), chosen, places
        )
    unseen = [outcome for outcome in outcomes if outcome not in {"seen", "hangs"}]
    print(f"{len(chosen) - len(unseen)} of {len(chosen)} faults are seen")
    return 1 if unseen else 0


def copy_to(place: Path) -> Path:
    """A copy of what the tests need."""
    place.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, place / name)
    return place


def in_copies(
    work: Callable[[Path, Given], Made], items: Iterable[Given], places: Sequence[Path]
) -> list[Made]:
    """`work(copy, item)` of every item, in order; each copy has one at a time."""
    free: Queue[Path] = Queue()
    for place in places:
        free.put(place)

    def one(item: Given) -> Made:
        place = free.get()
        try:
            return work(place, item)
        finally:
            free.put(place)

    with ThreadPoolExecutor(len(places)) as workers:
        return list(workers.map(one, items))


def tried(place: Path, fault: Fault, limit: float) -> str:
    """`seen`, `hangs`, `NOT SEEN`, or why it could not be tried; printed as well."""
    path = place / "gpg_vl" / fault.file
    honest = path.read_text()
    path.write_text(honest.replace(fault.right, fault.wrong))
    try:
        code, seconds = pytest(place, fault.seen_by, limit)
    finally:
        path.write_text(honest)
    outcome = {PASSED: "NOT SEEN", FAILED: "seen", LATE: "hangs"}.get(
        code, f"pytest exits with {code}"
    )
    print(f"{outcome:9} {seconds:5.0f} s  {fault.file}: {fault.name}", flush=True)
    return outcome


def pytest(place: Path, test: str, limit: float) -> tuple[int, float]:
    """Exit code and seconds of a test in that copy, a nightly one too, up to its first failure;
    nothing that it started outlives it."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-m",
        "",
        "-p",
        "no:cacheprovider",
        "--tb=no",
        f"tests/{test}",
    ]
    own = {"PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    start = perf_counter()
    with subprocess.Popen(
        command,
        cwd=place,
        env={**os.environ, **own},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = LATE
        end_group(process.pid)
    return code, perf_counter() - start


def end_group(leader: int) -> None:
    """End a process and all that it has started and left."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return  # all have ended


if __name__ == "__main__":
    sys.exit(main())
