"""Measure completions per second and core of every verifier and mode, on recorded texts.

    python benchmarks/verifier_speed.py --recorded ../shared/recorded

Each line: verifier, mode, texts, completions per second. The target is 5,000 (expression: 200).
"""

import argparse
import json
from pathlib import Path
from time import process_time
from typing import Any

from gpg_vl.types import Sample
from gpg_vl.verifiers.boxes import Boxes
from gpg_vl.verifiers.choice import Choice
from gpg_vl.verifiers.detection import Detection
from gpg_vl.verifiers.expression import Expression
from gpg_vl.verifiers.label import Label
from gpg_vl.verifiers.math_worker import WORKER
from gpg_vl.verifiers.number import Number
from gpg_vl.verifiers.value import Value

Pairs = list[tuple[str, Sample]]
"""Texts of a model and the questions that they answer."""


def _sample(kind: str, answer: Any, **fields: Any) -> Sample:
    return Sample(id="x", question="?", answer_kind=kind, answer=answer, **fields)


def _texts(folder: Path) -> dict[Any, Pairs]:
    """Read the recorded texts of every verifier."""
    grounding, geometry = _grounding(folder), _geometry(folder)
    detection: Pairs = []
    for text, sample in grounding:
        detection.append((text, _sample("detection", sample.answer, sizes=sample.sizes)))
    expressions = [(text, _sample("expression", sample.answer)) for text, sample in geometry]
    return {
        Boxes: grounding,
        Detection: detection,
        Number: _counting(folder),
        Value: geometry,
        Expression: expressions,
        Choice: _blink(folder),
        Label: _flowers(folder),
    }


def _results(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["results"]


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _grounding(folder: Path) -> Pairs:
    pairs: Pairs = []
    for path in sorted((folder / "grounding/vlmr1").glob("*.json")):
        for record in _results(path):
            box = record["ground_truth"]
            if box[0] < box[2]:  # a box without width is no answer
                sample = _sample("boxes", [box], sizes=((4000, 4000),))
                pairs.append((record["model_output"], sample))
    return pairs


def _counting(folder: Path) -> Pairs:
    pairs: Pairs = []
    for name in ("instruct", "grpo100"):
        for record in _results(folder / f"counting/superclevr_200_qwen2vl_2b_{name}.json"):
            pairs.append((record["model_output"], _sample("number", record["ground_truth"])))
    return pairs


def _geometry(folder: Path) -> Pairs:
    pairs: Pairs = []
    for record in _results(folder / "math/geoqa_test_qwen2vl_7b_instruct.json"):
        pairs.append((record["model_output"], _sample("value", record["ground_truth"])))
    return pairs


def _blink(folder: Path) -> Pairs:
    pairs: Pairs = []
    for path in sorted((folder / "choice/blink_val").glob("*.jsonl")):
        for record in _json_lines(path):
            if record["answer"][1] in "ABCD":  # answers are written "(A)"
                sample = _sample("choice", record["answer"], choices=tuple("ABCD"))
                pairs.append((record["full_prediction"], sample))
    return pairs


def _flowers(folder: Path) -> Pairs:
    names = (folder / "classification/val_data/oxford_flowers.txt").read_text().split("\n")
    choices = tuple(filter(None, names))
    pairs: Pairs = []
    for record in _json_lines(folder / "classification/oxford_flowers.jsonl"):
        text = f"<think>so</think><answer>{record['clip_top10'][0]}</answer>"
        pairs.append((text, _sample("label", record["label"], choices=choices)))
    return pairs


def _speed(verifier: Any, pairs: Pairs, min_texts: int) -> tuple[int, float]:
    """Measure the speed of this process and its workers, over at least so many texts.

    Returns:
        Number of texts, and completions per second.
    """
    verifier(*pairs[0])  # starts the worker, which is not measured
    rounds = max(1, -(-min_texts // len(pairs)))
    start = process_time() + _worker_seconds()
    for _ in range(rounds):
        for text, sample in pairs:
            verifier(text, sample)
    seconds = process_time() + _worker_seconds() - start
    return rounds * len(pairs), rounds * len(pairs) / seconds


def _worker_seconds() -> float:
    """Return the CPU seconds of the math-verify process."""
    if WORKER.process is None:
        return 0.0
    # proc(5): user and system time, in hundredths, are fields 14 and 15; those after the name,
    # which may contain spaces, begin with field 3
    fields = Path(f"/proc/{WORKER.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recorded", type=Path, default=Path("../shared/recorded"))
    parser.add_argument("--least", type=int, default=2000, help="texts per line, at least")
    options = parser.parse_args()
    for kind, pairs in _texts(options.recorded).items():
        for mode in ("strict", "lenient"):
            count, speed = _speed(kind(mode=mode), pairs, options.least)
            print(
                f"{kind.__name__.lower():12} {mode:8} {count:7} texts {speed:10.0f} a second",
                flush=True,
            )


if __name__ == "__main__":
    main()
