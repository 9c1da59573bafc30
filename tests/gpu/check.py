"""Check gpg_vl on one GPU in a budget of eight minutes: training, exactness, speed and memory.

    python tests/gpu/check.py [--to check.jsonl] [--minutes 8] [--parts NAME ...]
    python tests/gpu/check.py --toy          # the same parts at toy size, on any machine

The weights are random, at the shape of Qwen2.5-VL-3B; nothing is downloaded. Each part runs in its
own process with a time limit: one that fails or is late is a row with its reason, and the rest goes
on. A row is printed as soon as a part has ended, and appended with all its numbers as a JSON line.
Ends with 1 if a part failed or was late.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from runner import Numbers, Outcome, run_all, write_numbers


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the check, which runs in its own process."""

    seconds: float
    """Its share of the budget, beside the seconds of the other parts."""
    function: str
    """Its module:function in this folder; imported only in the part's own process."""
    options: dict[str, str] = field(default_factory=dict)


PARTS = {
    "card": Part(12, "running:card"),
    "train float32": Part(30, "running:train", {"dtype": "float32"}),
    "train bfloat16": Part(30, "running:train", {"dtype": "bfloat16"}),
    "exactness float32": Part(22, "exactness:exactness", {"dtype": "float32"}),
    "exactness bfloat16": Part(22, "exactness:exactness", {"dtype": "bfloat16"}),
    "3B weights": Part(30, "steps:weights"),
    "3B step, shared": Part(65, "steps:step", {"framework": "gpg_vl"}),
    "3B step, plain rows": Part(65, "steps:step", {"framework": "not shared"}),
    "3B step, TRL": Part(75, "steps:step", {"framework": "trl"}),
    "attention": Part(25, "attention:two_ways"),
    "compiles": Part(40, "attention:compiles"),
    "3B decoding": Part(45, "decoding:decoding"),
    "3B decoding, CUDA graph": Part(30, "decoding:graph"),
    "3B memory": Part(55, "steps:memory_of_update"),
}
"""All parts, in the order in which they run."""
PACKAGES = ("torch", "transformers", "accelerate", "peft", "trl", "datasets", "triton")
ROOT = Path(__file__).parents[2]


def measure(name: str, numbers_file: Path, folder: Path, *, toy: bool) -> None:
    """Run one part in this process; its numbers are written to a file at once."""
    from case import Case

    part = PARTS[name]
    module, function = part.function.split(":")
    case = Case(folder, toy, partial(write_numbers, numbers_file))
    for numbers in getattr(import_module(module), function)(case, **part.options):
        write_numbers(numbers_file, numbers)


def main() -> None:
    options = _parser().parse_args()
    if options.one:
        name, numbers_file, folder = options.one
        measure(name, Path(numbers_file), Path(folder), toy=options.toy)
        return
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": _path()}
    gpu = _gpu()
    if gpu == "cpu" and not options.toy:
        sys.exit(
            "this needs a CUDA GPU and torch finds none; --toy runs the same parts at toy size on "
            "any machine"
        )
    shares = {name: PARTS[name].seconds for name in options.parts}
    minutes = options.minutes or (30 if options.toy else 8)
    outcomes = check(shares, options.to, 60 * minutes, gpu, toy=options.toy)
    wrong = [outcome.part for outcome in outcomes if outcome.state in {"failed", "late"}]
    print(f"\nall numbers: {options.to}")
    if wrong:
        print(f"failed or late: {', '.join(wrong)}")
    sys.exit(bool(wrong))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--to", type=Path, default=Path("check.jsonl"), help="results, a JSON line a part, appended"
    )
    parser.add_argument(
        "--minutes", type=float, help="for all parts together; default: 8, a toy 30"
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        metavar="NAME",
        help=f"of {', '.join(PARTS)}",
    )
    parser.add_argument("--toy", action="store_true", help="a few small layers, on any machine")
    parser.add_argument(
        "--one", nargs=3, metavar=("NAME", "NUMBERS", "FOLDER"), help=argparse.SUPPRESS
    )
    return parser


def check(
    shares: dict[str, float], to: Path, budget: float, gpu: str, *, toy: bool
) -> list[Outcome]:
    """Run the parts; each is printed and appended to the file as soon as it has ended."""
    versions = _versions()
    outcomes: list[Outcome] = []
    print(f"{gpu}; {', '.join(f'{name} {of}' for name, of in versions.items())}\n")
    print(_row(("part", "state", "s", "found")), _row(("---",) * 4), sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:

        def command(part: str, numbers_file: Path) -> list[str]:
            arguments = ["--one", part, str(numbers_file), folder, *["--toy"] * toy]
            return [sys.executable, __file__, *arguments]

        for outcome in run_all(shares, command, budget):
            outcomes.append(outcome)
            print(line(outcome), flush=True)
            _append(to, outcome, {"card": gpu, "versions": versions, "toy": toy})
    return outcomes


def line(outcome: Outcome) -> str:
    """Return a row of the table: the reason first, then the numbers; lists are only in the file."""
    found: list[str] = []
    if outcome.reason:
        found.append(outcome.reason)
    for name, value in outcome.numbers.items():
        if not isinstance(value, list) and name != outcome.state:
            found.append(f"{name} {value}")
    text = "; ".join(found).replace("|", "/")
    return _row((outcome.part, outcome.state, f"{outcome.seconds:.0f}", text))


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def _append(path: Path, outcome: Outcome, about: Numbers) -> None:
    record = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **about, **asdict(outcome)}
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def _gpu() -> str:
    """Return the GPU's name, or cpu; from another process, so that this one holds no GPU memory."""
    code = (
        "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu')"
    )
    return subprocess.check_output([sys.executable, "-c", code], text=True).strip()


def _versions() -> Numbers:
    versions = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "missing"
    return versions


def _path() -> str:
    """Return PYTHONPATH: this checkout first, whether or not a gpg_vl is installed.

    Then the benchmarks, which import one another as scripts do.
    """
    folders = [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH")]
    return os.pathsep.join(filter(None, folders))


if __name__ == "__main__":
    main()
