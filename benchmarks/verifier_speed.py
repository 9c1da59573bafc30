"""Completions a second and core, for every verifier and mode, on recorded and on hostile texts.

    python benchmarks/verifier_speed.py --recorded ../shared/recorded

Each line: verifier, mode, texts, completions a second. The bar is 5,000 (expression: 200).
"""

import argparse
import json
from pathlib import Path
from time import process_time

from gpg_vl.types import Sample
from gpg_vl.verifiers.boxes import Boxes
from gpg_vl.verifiers.choice import Choice
from gpg_vl.verifiers.detection import Detection
from gpg_vl.verifiers.expression import Expression
from gpg_vl.verifiers.label import Label
from gpg_vl.verifiers.math_worker import WORKER
from gpg_vl.verifiers.number import Number
from gpg_vl.verifiers.value import Value


def _sample(kind, answer, **fields):
    return Sample(**{"id": "x", "question": "?", "answer_kind": kind, "answer": answer, **fields})


def _texts(home):
    def log(name):
        return json.loads((home / name).read_text())["results"]

    grounding = [
        (record["model_output"], _sample("boxes", [record["ground_truth"]], sizes=((4000, 4000),)))
        for path in sorted((home / "grounding/vlmr1").glob("*.json"))
        for record in json.loads(path.read_text())["results"]
        if record["ground_truth"][0] < record["ground_truth"][2]
    ]
    counting = [
        (record["model_output"], _sample("number", record["ground_truth"]))
        for name in ("instruct", "grpo100")
        for record in log(f"counting/superclevr_200_qwen2vl_2b_{name}.json")
    ]
    geometry = [
        (record["model_output"], _sample("value", record["ground_truth"])) for record in log("math/geoqa_test_qwen2vl_7b_instruct.json")
    ]
    blink = [
        (record["full_prediction"], _sample("choice", record["answer"], choices=tuple("ABCD")))
        for path in sorted((home / "choice/blink_val").glob("*.jsonl"))
        for record in map(json.loads, path.read_text().splitlines())
        if record["answer"][1] in "ABCD"
    ]
    names = tuple((home / "classification/val_data/oxford_flowers.txt").read_text().split("\n"))
    flowers = [
        (
            f"<think>so</think><answer>{record['clip_top10'][0]}</answer>",
            _sample("label", record["label"], choices=tuple(filter(None, names))),
        )
        for record in map(json.loads, (home / "classification/oxford_flowers.jsonl").read_text().splitlines())
    ]
    return {
        Boxes: grounding,
        Detection: [(text, _sample("detection", sample.answer, sizes=sample.sizes)) for text, sample in grounding],
        Number: counting,
        Value: geometry,
        Expression: [(text, _sample("expression", sample.answer)) for text, sample in geometry],
        Choice: blink,
        Label: flowers,
    }


def _speed(verifier, pairs, least):
    """Completions a second of this process and its workers, over at least so many texts."""
    verifier(*pairs[0])
    rounds = max(1, -(-least // len(pairs)))
    start = process_time() + _worker_seconds()
    for _ in range(rounds):
        for text, sample in pairs:
            verifier(text, sample)
    return rounds * len(pairs), rounds * len(pairs) / (process_time() + _worker_seconds() - start)


def _worker_seconds():
    """Processor seconds of the math-verify process."""
    if WORKER.process is None:
        return 0.0
    fields = Path(f"/proc/{WORKER.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main():
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--recorded", type=Path, default=Path("../shared/recorded"))
    words.add_argument("--least", type=int, default=2000, help="texts per line, at least")
    given = words.parse_args()
    for kind, pairs in _texts(given.recorded).items():
        for mode in ("strict", "lenient"):
            count, speed = _speed(kind(mode=mode), pairs, given.least)
            print(f"{kind.__name__.lower():12} {mode:8} {count:7} texts {speed:10.0f} a second", flush=True)


if __name__ == "__main__":
    main()
