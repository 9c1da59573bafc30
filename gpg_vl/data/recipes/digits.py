"""Scenes of real handwritten digits with exact truth, made on the spot: the offline data set.

Source: the UCI "Optical Recognition of Handwritten Digits" test set as shipped inside scikit-learn (1,797 glyphs of 8 x 8 pixels, 17 grey
levels, CC BY 4.0, doi 10.24432/C50P49). Glyphs are split once into train (1,297), validation (100) and test (400); a scene uses glyphs of
one split only, so held-out scenes are made of handwriting that training never saw. Sums are split too, by a hash of the two numbers in
either order: a quarter is for test, an eighth for validation, and no sum of these is in training.

Tasks: count (how many digits), count_of (how many of digit k), choice (which of these is in the picture), box (where is digit k),
compare (which of two pictures holds more), add (two numbers, text only).

Example row:
    {"id": "digits/train/box/3", "question": "Where is the digit 7?", "answer_kind": "boxes", "answer": [[9, 14, 41, 46]],
     "tags": {"task": "box"}}
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal

import numpy as np
from PIL import Image

from gpg_vl.errors import UserError
from gpg_vl.randomness import seed as addressed_seed
from gpg_vl.types import Sample

Task = Literal["count", "count_of", "choice", "box", "compare", "add"]
Split = Literal["train", "validation", "test"]
TRAIN_GLYPHS, VALIDATION_GLYPHS = 1297, 100
LEAST_HELD_OUT_SUMMAND = 5
"""Up to smaller summands there are too few sums to keep some apart: all belong to train."""
_SPLIT_SEED = 1234
_BACKGROUND_NOISE = 12
Generator = np.random.Generator
Placed = tuple[int, tuple[int, int, int, int]]


@dataclass(frozen=True)
class Canvas:
    """How a scene is drawn."""

    side: int
    """Width and height of the image, in pixels."""
    cells: int
    """Cells along each side; a cell holds at most one digit."""
    glyph: int
    """Side of a digit, in pixels."""


DIFFICULTIES: dict[Task, int] = {"count": 6, "count_of": 4, "choice": 3, "box": 1, "compare": 6, "add": 9}
CANVASES: dict[Task, Canvas] = {
    "count": Canvas(112, 4, 24),
    "count_of": Canvas(112, 4, 24),
    "choice": Canvas(56, 1, 48),
    "box": Canvas(56, 1, 32),
    "compare": Canvas(56, 3, 18),
}


def digits(
    task: Task,
    split: Split = "train",
    count: int = 1000,
    difficulty: int | None = None,
    seed: int = 0,
    side: int | None = None,
    cells: int | None = None,
    glyph: int | None = None,
) -> Iterator[Sample]:
    """Yield `count` scenes of one task.

    Args:
        difficulty: the most digits in a picture (count, count_of, compare, box), options to choose from (choice), or the largest summand
            (add); default: DIFFICULTIES.
        side, cells, glyph: override how the task's scenes are drawn, in pixels and cells.

    Raises:
        UserError: the scenes cannot be drawn: more digits than cells, or a digit larger than its cell.
    """
    default = CANVASES.get(task, CANVASES["count"])
    canvas = Canvas(side or default.side, cells or default.cells, glyph or default.glyph)
    difficulty = DIFFICULTIES[task] if difficulty is None else difficulty
    _check(task, split, difficulty, canvas)
    for index in range(count):
        rng = np.random.default_rng(addressed_seed(seed, "digits", task, split, difficulty, index))
        yield Sample(
            id=f"digits/{split}/{task}/{difficulty}/{seed}/{index}", tags={"task": task}, **_TASKS[task](rng, split, difficulty, canvas)
        )


def _check(task: Task, split: Split, difficulty: int, canvas: Canvas) -> None:
    least, most = {"choice": (2, 10), "compare": (2, canvas.cells**2), "add": (0, 10**6)}.get(task, (1, canvas.cells**2))
    if task == "add" and split != "train":
        least = LEAST_HELD_OUT_SUMMAND
    if task == "box":
        most = min(most, 10)
    if not least <= difficulty <= most:
        why = "fewer sums cannot be split" if task == "add" else "more digits need more `cells`"
        raise UserError(f"digits: {task} of difficulty {difficulty}, split {split}: expected {least} to {most} ({why})")
    if task != "add" and canvas.glyph > canvas.side // canvas.cells:
        raise UserError(
            f"digits: a glyph of {canvas.glyph} pixels in a cell of {canvas.side // canvas.cells}; make `glyph` or `cells` smaller"
        )


def _count(rng: Generator, split: Split, difficulty: int, canvas: Canvas) -> dict[str, Any]:
    number = int(rng.integers(1, difficulty + 1))
    image, _ = _scene(rng, split, _several(rng, number), canvas)
    return _asked("How many digits are there in the image?", "number", number, [image], canvas)


def _count_of(rng: Generator, split: Split, difficulty: int, canvas: Canvas) -> dict[str, Any]:
    wanted = int(rng.integers(0, 10))
    others = [digit for digit in range(10) if digit != wanted]
    number = int(rng.integers(0, difficulty // 2 + 1))
    rest: list[int] = rng.choice(others, int(rng.integers(int(number == 0), difficulty - difficulty // 2 + 1))).tolist()
    image, _ = _scene(rng, split, [wanted] * number + rest, canvas)
    return _asked(f"How many {wanted} are there?", "number", number, [image], canvas)


def _choice(rng: Generator, split: Split, difficulty: int, canvas: Canvas) -> dict[str, Any]:
    options: list[int] = rng.permutation(10)[:difficulty].tolist()
    shown = int(rng.choice(options))
    image, _ = _scene(rng, split, [shown], canvas)
    choices = tuple(map(str, options))
    question = f"Which digit is in the image? Choices: {', '.join(choices)}."
    return {**_asked(question, "choice", str(shown), [image], canvas), "choices": choices}


def _box(rng: Generator, split: Split, difficulty: int, canvas: Canvas) -> dict[str, Any]:
    number = int(rng.integers(1, difficulty + 1))
    image, placed = _scene(rng, split, rng.permutation(10)[:number].tolist(), canvas)
    digit, box = placed[0]
    return _asked(f"Where is the digit {digit}?", "boxes", [list(box)], [image], canvas)


def _compare(rng: Generator, split: Split, difficulty: int, canvas: Canvas) -> dict[str, Any]:
    numbers: list[int] = rng.permutation(np.arange(1, difficulty + 1))[:2].tolist()
    images = [_scene(rng, split, _several(rng, number), canvas)[0] for number in numbers]
    answer = "first" if numbers[0] > numbers[1] else "second"
    question = "Which image holds more digits? Choices: first, second."
    return {**_asked(question, "choice", answer, images, canvas), "choices": ("first", "second")}


def _add(rng: Generator, split: Split, difficulty: int, canvas: Canvas) -> dict[str, Any]:
    del canvas  # a text-only question has no picture
    while True:  # until a sum of this split is drawn
        a, b = (int(summand) for summand in rng.integers(0, difficulty + 1, 2))
        if difficulty < LEAST_HELD_OUT_SUMMAND or _split_of_sum(a, b) == split:
            return {"question": f"What is {a}+{b}?", "answer_kind": "number", "answer": a + b}


def _split_of_sum(a: int, b: int) -> Split:
    """Which split asks for a+b and b+a."""
    eighth = addressed_seed("digits", "add", min(a, b), max(a, b)) % 8
    return "test" if eighth < 2 else "validation" if eighth == 2 else "train"


_TASKS = {"count": _count, "count_of": _count_of, "choice": _choice, "box": _box, "compare": _compare, "add": _add}


def _asked(question: str, kind: str, answer: Any, images: Sequence[bytes], canvas: Canvas) -> dict[str, Any]:
    sizes = ((canvas.side, canvas.side),) * len(images)
    return {"question": question, "answer_kind": kind, "answer": answer, "images": tuple(images), "sizes": sizes}


def _scene(rng: Generator, split: Split, shown: Sequence[int], canvas: Canvas) -> tuple[bytes, list[Placed]]:
    """A PNG of the digits on distinct cells over faint noise, and where each one stands."""
    pixels = rng.integers(0, _BACKGROUND_NOISE + 1, (canvas.side, canvas.side, 3)).astype(np.uint8)
    cell = canvas.side // canvas.cells
    placed: list[Placed] = []
    for slot, digit in zip(rng.permutation(canvas.cells**2)[: len(shown)], shown, strict=True):
        free = cell - canvas.glyph
        x = int(slot) % canvas.cells * cell + int(rng.integers(0, free + 1))
        y = int(slot) // canvas.cells * cell + int(rng.integers(0, free + 1))
        drawn = np.asarray(Image.fromarray(_glyph(rng, split, digit)).resize((canvas.glyph, canvas.glyph), Image.Resampling.BILINEAR))
        spot = pixels[y : y + canvas.glyph, x : x + canvas.glyph]
        np.maximum(spot, drawn[:, :, None], out=spot)
        placed.append((digit, (x, y, x + canvas.glyph, y + canvas.glyph)))
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG", compress_level=1)
    return encoded.getvalue(), placed


def _several(rng: Generator, number: int) -> list[int]:
    return [int(digit) for digit in rng.integers(0, 10, number)]


def _glyph(rng: Generator, split: Split, digit: int) -> Any:
    glyphs, by_digit = _glyphs()
    return glyphs[rng.choice(by_digit[split][digit])]


@cache
def _glyphs() -> tuple[Any, dict[Split, list[Any]]]:
    datasets: Any = import_module("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    grey: Any = (images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    cuts = np.split(order, [TRAIN_GLYPHS, TRAIN_GLYPHS + VALIDATION_GLYPHS])
    names: tuple[Split, ...] = ("train", "validation", "test")
    return grey, {name: [part[labels[part] == digit] for digit in range(10)] for name, part in zip(names, cuts, strict=True)}
