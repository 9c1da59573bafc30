"""Makes every fault in a copy of the project and runs the test that must see it; reports the faults that pass unseen.

python -m tests.faults.run                     # all of them; exit 1 when one is not seen
python -m tests.faults.run detection shared    # those whose name or file has one of these words
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from time import perf_counter

from tests.faults import FAULTS
from tests.faults.fault import Fault

ROOT = Path(__file__).parents[2]
COPIED = ("gpg_vl", "tests", "configs", "data", "evaluation", ".ci", ".github", "pyproject.toml", "README.md", "constraints.txt")
LONGEST = 300
"""Seconds. A fault that lets its test run on for ever is seen, too."""
PASSED, FAILED = 0, 1


def main() -> int:
    """Exit code: 0 where every fault is seen."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("named", nargs="*", help="parts of names or files; all without")
    words.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = words.parse_args()
    chosen = [fault for fault in FAULTS if not given.named or any(part in f"{fault.name} {fault.file}" for part in given.named)]
    with tempfile.TemporaryDirectory() as scratch:
        places = [copy_to(Path(scratch) / str(number)) for number in range(given.workers)]
        honest = pytest(places[0], sorted({fault.seen_by for fault in chosen}))
        if honest.returncode != PASSED:
            print(honest.stdout, "these fail without any fault", sep="\n")
            return 1
        outcomes = try_all(chosen, places)
    unseen = [fault for fault, outcome in outcomes if outcome != "seen"]
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


def try_all(faults: Sequence[Fault], places: Sequence[Path]) -> list[tuple[Fault, str]]:
    """Every fault with what became of it; each copy holds one at a time."""
    free: Queue[Path] = Queue()
    for place in places:
        free.put(place)

    def one(fault: Fault) -> tuple[Fault, str]:
        place, start = free.get(), perf_counter()
        try:
            outcome = try_in(place, fault)
        finally:
            free.put(place)
        print(f"{outcome:12} {perf_counter() - start:5.0f} s  {fault.file}: {fault.name}", flush=True)
        return fault, outcome

    with ThreadPoolExecutor(len(places)) as workers:
        return list(workers.map(one, faults))


def try_in(place: Path, fault: Fault) -> str:
    """`seen`, `NOT SEEN`, or why it could not be tried."""
    path = place / "gpg_vl" / fault.file
    honest = path.read_text()
    if honest.count(fault.right) != 1:
        return f"FOUND {honest.count(fault.right)}x"
    path.write_text(honest.replace(fault.right, fault.wrong))
    try:
        code = pytest(place, [fault.seen_by]).returncode
    except subprocess.TimeoutExpired:
        return "seen"
    finally:
        path.write_text(honest)
    return {PASSED: "NOT SEEN", FAILED: "seen"}.get(code, f"PYTEST {code}")


def pytest(place: Path, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Those tests on that copy, nightly ones too, up to the first failure."""
    options = ["-x", "-m", "", "-p", "no:cacheprovider", "--tb=line", "--durations=0"]
    command = [sys.executable, "-m", "pytest", *options, *(f"tests/{name}" for name in tests)]
    own = {"PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=place, env={**os.environ, **own}, capture_output=True, text=True, timeout=LONGEST)


if __name__ == "__main__":
    sys.exit(main())
