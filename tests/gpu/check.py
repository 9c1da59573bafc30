"""What one card can tell in eight minutes: does it run, is it exact, what does sharing buy, how fast is decoding, does memory go as planned?

    python tests/gpu/check.py [--to check.jsonl] [--minutes 8] [--parts NAME ...]
    python tests/gpu/check.py --toy          # the same way through at toy size, on any machine

Random weights at the shape of Qwen2.5-VL-3B; nothing is downloaded. Each part runs in a process of its own with a time limit: one that
fails or is late is a row with its reason, and the rest goes on. Prints a row as soon as a part has ended, and appends it with all its
numbers as a JSON line. Ends with 1 if a part failed or was late.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from runner import Numbers, Outcome, run_all, tell

SHARES = {
    "card": 12,
    "train float32": 30,
    "train bfloat16": 30,
    "exactness float32": 22,
    "exactness bfloat16": 22,
    "3B weights": 30,
    "3B step, shared": 65,
    "3B step, plain rows": 65,
    "3B step, TRL": 75,
    "attention": 25,
    "compiles": 40,
    "3B decoding": 45,
    "3B decoding, CUDA graph": 30,
    "3B memory": 55,
}
"""The parts in their order, and how long each should take on a card, in seconds."""
PACKAGES = ("torch", "transformers", "accelerate", "peft", "trl", "datasets", "triton")
ROOT = Path(__file__).parents[2]


def measure(name: str, told: Path, folder: Path, *, toy: bool) -> None:
    """One part, in this process; its numbers go to a file as they come."""
    import parts

    keep = partial(tell, told)
    measures: dict[str, Any] = {
        "card": parts.card,
        "train float32": partial(parts.train, dtype="float32"),
        "train bfloat16": partial(parts.train, dtype="bfloat16"),
        "exactness float32": partial(parts.exactness, dtype="float32"),
        "exactness bfloat16": partial(parts.exactness, dtype="bfloat16"),
        "3B weights": parts.weights,
        "3B step, shared": partial(parts.step, side="gpg_vl", tell=keep),
        "3B step, plain rows": partial(parts.step, side="not shared", tell=keep),
        "3B step, TRL": partial(parts.step, side="trl", tell=keep),
        "attention": parts.attention,
        "compiles": parts.compiles,
        "3B decoding": parts.decoding,
        "3B decoding, CUDA graph": parts.graph,
        "3B memory": parts.held,
    }
    for numbers in measures[name](parts.Case(folder, toy)):
        keep(numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path("check.jsonl"), help="results, a JSON line a part, appended")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--parts", nargs="+", choices=SHARES, default=list(SHARES), metavar="NAME", help=f"of {', '.join(SHARES)}")
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
    versions = _versions()
    print(f"{card}; {', '.join(f'{name} {of}' for name, of in versions.items())}\n\n{_row(('part', 'state', 's', 'found'))}\n{_row(['---'] * 4)}")
    outcomes = list[Outcome]()
    with tempfile.TemporaryDirectory() as folder:

        def command(part: str, told: Path) -> list[str]:
            return [sys.executable, __file__, "--one", part, str(told), folder, *["--toy"] * given.toy]

        for outcome in run_all({part: SHARES[part] for part in given.parts}, command, 60 * given.minutes):
            outcomes.append(outcome)
            print(line(outcome), flush=True)
            _keep(given.to, outcome, card, versions, toy=given.toy)
    wrong = [outcome.part for outcome in outcomes if outcome.state in {"failed", "late"}]
    print(f"\nall numbers: {given.to}" + (f"; look at: {', '.join(wrong)}" if wrong else ""))
    sys.exit(bool(wrong))


def line(outcome: Outcome) -> str:
    """A row of the table: the reason first, then what was told. Lists are only kept in the JSON."""
    short = [f"{name} {value}" for name, value in outcome.numbers.items() if not isinstance(value, list) and name != outcome.state]
    found = "; ".join([*([outcome.reason] if outcome.reason else []), *short])
    return _row((outcome.part, outcome.state, f"{outcome.seconds:.0f}", found.replace("|", "/")))


def _row(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _keep(path: Path, outcome: Outcome, card: str, versions: Numbers, *, toy: bool) -> None:
    about = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "card": card, "versions": versions, "toy": toy}
    fields = {name: getattr(outcome, name) for name in Outcome.__slots__}
    with path.open("a") as file:
        file.write(json.dumps({**about, **{name: value for name, value in fields.items() if value != ""}}) + "\n")


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
    """The checkout first, whether or not a gpg_vl is installed."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


if __name__ == "__main__":
    main()
