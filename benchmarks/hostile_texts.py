"""Give every verifier hostile texts: none may raise, give a reward outside [0, 1], or take long.

    python benchmarks/hostile_texts.py --count 100000 --expression 10000

The reference rule of value and expression is math-verify on the whole text, so it is left out.
Texts are made with a fixed seed from pieces of answers, tags, LaTeX, boxes and noise: joined,
repeated, cut and nested.
"""

import argparse
import random
import sys
from time import perf_counter
from typing import Any

from gpg_vl.prompts import Style
from gpg_vl.types import Mode, Sample
from gpg_vl.verifiers.boxes import Boxes
from gpg_vl.verifiers.choice import Choice
from gpg_vl.verifiers.detection import Detection
from gpg_vl.verifiers.expression import Expression
from gpg_vl.verifiers.label import Label
from gpg_vl.verifiers.number import Number
from gpg_vl.verifiers.value import Value

LONGEST_SECONDS = 15.0
"""Longest time for one text: three times what the expression verifier allows a comparison."""
IMAGE = {"images": (b"png",), "sizes": ((100, 100),)}
QUESTIONS: dict[Any, dict[str, Any]] = {
    Choice: {"answer": "big dog", "choices": ("cat", "big dog", "horse")},
    Number: {"answer": 3},
    Value: {"answer": "2√{3} cm"},
    Expression: {"answer": "x^2+x"},
    Label: {
        "answer": "pink primrose",
        "choices": ("pink primrose", "rose", "hard-leaved pocket orchid"),
    },
    Boxes: {"answer": [[10, 20, 60, 80]], **IMAGE},
    Detection: {"answer": [[10, 20, 60, 80]], **IMAGE},
}
"""Verifier -> fields of the sample that it scores."""
WORDS = r"""
<think> </think> <answer> </answer> <answer> </answer> <|im_end|> <|image_pad|> </s>
B (B) B. (A) C) option answer is: 答案 选 big dog cat rose
pink primrose hard-leaved_pocket_orchid 3 -3 3.0 1e9 1,000 nan inf ½ ² √ √{3} π 2√3
\frac{1}{2} \frac \sqrt \boxed{ \text{ } { [ ] ( )
, ; : . / * ^ ^^ + - = == ° cm 厘米 % $ $$ \( \) x x^2+x 9^{9^9}
[10,20,60,80] (10,20),(60,80) {"bbox_2d":[10,20,60,80]} "confidence":0.9
x1: y1: ```json ``` ** _ 𝟛 ３"""
ACCENT, RIGHT_TO_LEFT = "\u0301", "\u202e"
PIECES = [
    *WORDS.split(),
    ACCENT,
    RIGHT_TO_LEFT,
    " ",
    "\n",
    "\ud800",
    "\x00",
    '"',
    "'",
    "The answer is ",
    "No Objects",
]


def hostile(generator: random.Random) -> str:
    """Return one text."""
    count = generator.choice((1, 2, 3, 5, 8, 13, 40, 200))
    text = "".join(generator.choice(PIECES) for _ in range(count))
    trick = generator.random()
    if trick < 0.1:
        text *= generator.choice((2, 10, 300))
    elif trick < 0.2:
        text = generator.choice("[({√-\\^ ") * generator.choice((10, 1000, 20000)) + text
    elif trick < 0.3:
        text = "".join(character(generator) for _ in range(count))
    if generator.random() < 0.5:
        return Style().write(text, thought="so")
    return text


def character(generator: random.Random) -> str:
    """Return an ASCII character or, as often, any of the first two planes of Unicode."""
    return chr(generator.choice((generator.randrange(32, 127), generator.randrange(0x20000))))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--expression", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for kind, fields in QUESTIONS.items():
        count = options.expression if kind is Expression else options.count
        sample = Sample(id="x", question="?", answer_kind="x", **fields)
        rewarded, slowest = try_verifier(kind, sample, count, options.seed)
        if slowest > LONGEST_SECONDS:
            sys.exit(f"{kind.__name__}: {slowest:.1f} s for one text, at most {LONGEST_SECONDS:g}")
        print(
            f"{kind.__name__.lower():12} {count:7} texts, none raised, {rewarded} rewarded, slowest"
            f" {slowest:.2f} s",
            flush=True,
        )


def try_verifier(kind: Any, sample: Sample, count: int, seed: int) -> tuple[int, float]:
    """Score texts in every mode in turn.

    Returns:
        Number of texts with a reward above 0, and the seconds of the slowest.
    """
    modes: list[Mode] = ["strict", "lenient"]
    if kind not in (Value, Expression):
        modes.append("reference")
    verifiers = [kind(mode=mode) for mode in modes]
    generator, rewarded, slowest = random.Random(seed), 0, 0.0
    for place in range(count):
        text = hostile(generator)
        verifier = verifiers[place % len(verifiers)]
        start = perf_counter()
        verdict = verifier(text, sample)
        slowest = max(slowest, perf_counter() - start)
        rewarded += verdict.reward > 0
        assert 0 <= verdict.reward <= 1, (kind, verifier.mode, text, verdict)
    return rewarded, slowest


if __name__ == "__main__":
    main()
