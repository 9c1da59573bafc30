"""Eight minutes on one card: does it run, is it exact, what does sharing buy, how fast is decoding, is memory as planned?

    python tests/gpu/check.py [--to check.jsonl] [--minutes 8] [--parts NAME ...]
    python tests/gpu/check.py --toy          # the same way through at toy size, on any machine

Random weights at the shape of Qwen2.5-VL-3B; nothing is downloaded. Each part runs in a process of its own with a time limit: one that
fails or is late is a row with its reason, and the rest goes on. Prints a row as soon as a part has ended, and appends it with all its
numbers as a JSON line. Ends with 1 if a part failed or was late.
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
from typing import Any

from runner import Numbers, Outcome, run_all, tell


@dataclass(frozen=True, slots=True)
class Part:
    """Something to measure."""

    seconds: float
    """How long it should take on a card."""
    function: str
    """module:function of this folder; imported only in the part's own process."""
    options: dict[str, str] = field(default_factory=dict)


PARTS = {
    "card": Part(12, "running:card"),
    "train float32": Part(30, "running:train", {"dtype": "float32"}),
    "train bfloat16": Part(30, "running:train", {"dtype": "bfloat16"}),
    "exactness float32": Part(22, "exactness:exactness", {"dtype": "float32"}),
    "exactness bfloat16": Part(22, "exactness:exactness", {"dtype": "bfloat16"}),
    "3B weights": Part(30, "steps:weights"),
    "3B step, shared": Part(65, "steps:step", {"side": "gpg_vl"}),
    "3B step, plain rows": Part(65, "steps:step", {"side": "not shared"}),
    "3B step, TRL": Part(75, "steps:step", {"side": "trl"}),
    "attention": Part(25, "attention:two_ways"),
    "compiles": Part(40, "attention:compiles"),
    "3B decoding": Part(45, "decoding:decoding"),
    "3B decoding, CUDA graph": Part(30, "decoding:graph"),
    "3B memory": Part(55, "steps:held"),
}
"""In their order."""
PACKAGES = ("torch", "transformers", "accelerate", "peft", "trl", "datasets", "triton")
ROOT = Path(__file__).parents[2]


def measure(name: str, told: Path, folder: Path, *, toy: bool) -> None:
    """One part, in this process; its numbers go to a file as they come."""
    from case import Case

    module, function = PARTS[name].function.split(":")
    for numbers in getattr(import_module(module), function)(Case(folder, toy, partial(tell, told)), **PARTS[name].options):
        tell(told, numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path("check.jsonl"), help="results, a JSON line a part, appended")
    parser.add_argument("--minutes", type=float, help="for all parts together; default: 8, a toy 30")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="NAME", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--toy", action="store_true", help="a few small layers, on any machine")
    parser.add_argument("--one", nargs=3, metavar=("NAME", "NUMBERS", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        name, told, folder = given.one
        measure(name, Path(told), Path(folder), toy=given.toy)
        return
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": _path()}
    card = _card()
    if card == "cpu" and not given.toy:
        sys.exit("this needs a CUDA card and torch sees none; --toy goes the same way through at toy size on any machine")
    shares = {name: PARTS[name].seconds for name in given.parts}
    outcomes = check(shares, given.to, 60 * (given.minutes or (30 if given.toy else 8)), card, toy=given.toy)
    wrong = [outcome.part for outcome in outcomes if outcome.state in {"failed", "late"}]
    print(f"\nall numbers: {given.to}" + (f"; look at: {', '.join(wrong)}" if wrong else ""))
    sys.exit(bool(wrong))


def check(shares: dict[str, float], to: Path, budget: float, card: str, *, toy: bool) -> list[Outcome]:
    """Run the parts; each is printed and kept as soon as it has ended."""
    versions, outcomes = _versions(), list[Outcome]()
    print(f"{card}; {', '.join(f'{name} {of}' for name, of in versions.items())}\n")
    print(_row(("part", "state", "s", "found")), _row(("---",) * 4), sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:

        def command(part: str, told: Path) -> list[str]:
            return [sys.executable, __file__, "--one", part, str(told), folder, *["--toy"] * toy]

        for outcome in run_all(shares, command, budget):
            outcomes.append(outcome)
            print(line(outcome), flush=True)
            _keep(to, outcome, {"card": card, "versions": versions, "toy": toy})
    return outcomes


def line(outcome: Outcome) -> str:
    """A row of the table: the reason first, then what was told. Lists are only kept in the JSON."""
    short = [f"{name} {value}" for name, value in outcome.numbers.items() if not isinstance(value, list) and name != outcome.state]
    found = "; ".join([*([outcome.reason] if outcome.reason else []), *short])
    return _row((outcome.part, outcome.state, f"{outcome.seconds:.0f}", found.replace("|", "/")))


def _row(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _keep(path: Path, outcome: Outcome, about: Numbers) -> None:
    record = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **about, **asdict(outcome)}
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def _card() -> str:
    """Its name, asked in another process, so that this one takes no memory of it."""
    ask = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu')"
    return subprocess.check_output([sys.executable, "-c", ask], text=True).strip()


def _versions() -> Numbers:
    def of(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "missing"

    return {"python": sys.version.split()[0], **{name: of(name) for name in PACKAGES}}


def _path() -> str:
    """This checkout first, whether or not a gpg_vl is installed, and the benchmarks, which import one another as scripts do."""
    return os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "tests" / "benchmarks"), os.environ.get("PYTHONPATH")]))


if __name__ == "__main__":
    main()
