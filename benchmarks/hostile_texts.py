"""Hostile texts by the hundred thousand: no verifier raises, every reward lies in [0, 1], and no text takes long.

    python benchmarks/hostile_texts.py --count 100000 --expression 10000

The reference rule of value and expression is math-verify on the whole text, so it is left out. Texts are drawn with a fixed seed: pieces of
answers, tags, LaTeX, boxes and noise, glued, doubled, cut and nested.
"""

import argparse
import random
from time import perf_counter

from gpg_vl.prompts import Style
from gpg_vl.types import Sample
from gpg_vl.verifiers.boxes import Boxes
from gpg_vl.verifiers.choice import Choice
from gpg_vl.verifiers.detection import Detection
from gpg_vl.verifiers.expression import Expression
from gpg_vl.verifiers.label import Label
from gpg_vl.verifiers.number import Number
from gpg_vl.verifiers.value import Value

IMAGE = {"images": (b"png",), "sizes": ((100, 100),)}
ASKED = {
    Choice: {"answer": "big dog", "choices": ("cat", "big dog", "horse")},
    Number: {"answer": 3},
    Value: {"answer": "2√{3} cm"},
    Expression: {"answer": "x^2+x"},
    Label: {"answer": "pink primrose", "choices": ("pink primrose", "rose", "hard-leaved pocket orchid")},
    Boxes: {"answer": [[10, 20, 60, 80]], **IMAGE},
    Detection: {"answer": [[10, 20, 60, 80]], **IMAGE},
}
WORDS = """
<think> </think> <answer> </answer> <answer> </answer> <|im_end|> <|image_pad|> </s> B (B) B. (A) C) option answer is: 答案 选
big dog cat rose
pink primrose hard-leaved_pocket_orchid 3 -3 3.0 1e9 1,000 nan inf ½ ² √ √{3} π 2√3 \\frac{1}{2} \\frac \\sqrt \\boxed{ \\text{ } { [ ] ( )
,
; : . / * ^ ^^ + - = == ° cm 厘米 % $ $$ \\( \\) x x^2+x 9^{9^9} [10,20,60,80] (10,20),(60,80) {"bbox_2d":[10,20,60,80]} "confidence":0.9
x1: y1: ```json ``` ** _ 𝟛 ３ \u0301 \u202e
"""
PIECES = [*WORDS.split(), " ", "\n", "\ud800", "\x00", '"', "'", "The answer is ", "No Objects"]


def hostile(dice):
    """One text."""
    count = dice.choice((1, 2, 3, 5, 8, 13, 40, 200))
    text = "".join(dice.choice(PIECES) for _ in range(count))
    trick = dice.random()
    if trick < 0.1:
        text *= dice.choice((2, 10, 300))
    elif trick < 0.2:
        text = dice.choice("[({√-\\^ ") * dice.choice((10, 1000, 20000)) + text
    elif trick < 0.3:
        text = "".join(chr(dice.choice((dice.randrange(32, 127), dice.randrange(0x20000)))) for _ in range(count))
    return Style().write(text, thought="so") if dice.random() < 0.5 else text


def main():
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--count", type=int, default=100_000)
    words.add_argument("--expression", type=int, default=10_000)
    words.add_argument("--seed", type=int, default=0)
    given = words.parse_args()
    for kind, fields in ASKED.items():
        count = given.expression if kind is Expression else given.count
        dice, sample, slowest, paid = random.Random(given.seed), Sample(id="x", question="?", answer_kind="x", **fields), 0.0, 0
        modes = [kind(mode=mode) for mode in ("strict", "lenient", "reference")[: 2 if kind in (Value, Expression) else 3]]
        for place in range(count):
            text = hostile(dice)
            start = perf_counter()
            verdict = modes[place % len(modes)](text, sample)
            slowest = max(slowest, perf_counter() - start)
            paid += verdict.reward > 0
            assert 0 <= verdict.reward <= 1, (kind, modes[place % len(modes)].mode, text, verdict)
        print(f"{kind.__name__.lower():12} {count:7} texts, none raised, {paid} paid, slowest {slowest:.2f} s", flush=True)


if __name__ == "__main__":
    main()
