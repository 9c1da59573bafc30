"""Generate scenes of real handwritten digits with exact answers: a data set without downloads.

Source: the UCI "Optical Recognition of Handwritten Digits" test set as shipped inside scikit-learn
(1,797 glyphs of 8 x 8 pixels, 17 grey levels, CC BY 4.0, doi 10.24432/C50P49). Glyphs are split
once into train (1,297), validation (100) and test (400). A scene uses glyphs of one split only, so
the handwriting of held-out scenes is not in training. Sums are split too, by a hash of the two
numbers in either order: a quarter is for test, an eighth for validation, and training has none of
these.

Tasks: count (how many digits), count_of (how many of digit k), choice (which of these is in the
image), box (where is digit k), compare (which of two images holds more), add (two numbers, text
only).

Example row:
    {"id": "digits/train/box/1/0/3", "question": "Where is the digit 7?", "answer_kind": "boxes",
    "answer": [[9, 14, 41, 46]], "tags": {"task": "box"}}
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
"""Smallest difficulty of `add` whose sums are split; below it all sums belong to train."""
_SPLIT_SEED = 1234
_BACKGROUND_NOISE = 12
"""Largest grey level of the background noise, of 255."""
Generator = np.random.Generator
Placed = tuple[int, tuple[int, int, int, int]]
"""A digit in a scene and its box (x1, y1, x2, y2), in pixels."""


@dataclass(frozen=True)
class Canvas:
    """Layout of a scene."""

    side: int
    """Width and height of the image, in pixels."""
    cells: int
    """Number of cells along each side; a cell holds at most one digit."""
    glyph: int
    """Side of a digit, in pixels."""


# the defaults of the options difficulty, side, cells and glyph
DIFFICULTIES: dict[Task, int] = {
    "count": 6,
    "count_of": 4,
    "choice": 3,
    "box": 1,
    "compare": 6,
    "add": 9,
}
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
        task: the kind of question.
        split: the split of handwriting and sums.
        count: number of scenes.
        difficulty: largest number of digits in an image (count, count_of, compare, box), number of
            options (choice), or largest summand (add); default: DIFFICULTIES.
        seed: seed of the scenes.
        side, cells, glyph: layout of the scenes, in pixels and cells; default: CANVASES.

    Raises:
        UserError: the scenes cannot be drawn: more digits than cells, or a digit larger than its
            cell.
    """
    default = CANVASES.get(task, CANVASES["count"])
    canvas = Canvas(side or default.side, cells or default.cells, glyph or default.glyph)
    difficulty = DIFFICULTIES[task] if difficulty is None else difficulty
    _check(task, split, difficulty, canvas)
    for index in range(count):
        rng = np.random.default_rng(addressed_seed(seed, "digits", task, split, difficulty, index))
        yield Sample(
            id=f"digits/{split}/{task}/{difficulty}/{seed}/{index}",
            tags={"task": task},
            **_TASKS[task](rng, split, difficulty, canvas),
        )


def _check(task: Task, split: Split, difficulty: int, canvas: Canvas) -> None:
    """Check that scenes of this difficulty fit the layout."""
    least, largest = 1, canvas.cells**2
    if task == "choice":
        least, largest = 2, 10
    elif task == "compare":
        least = 2  # the two images hold different numbers of digits
    elif task == "add":
        least, largest = 0, 10**6
        if split != "train":
            least = LEAST_HELD_OUT_SUMMAND
    elif task == "box":
        largest = min(largest, 10)  # the digits of a scene differ from one another
    if not least <= difficulty <= largest:
        why = "fewer sums cannot be split" if task == "add" else "more digits need more `cells`"
        raise UserError(
            f"digits: {task} of difficulty {difficulty}, split {split}: expected {least} to "
            f"{largest} ({why})"
        )
    if task != "add" and canvas.glyph > canvas.side // canvas.cells:
        raise UserError(
            f"digits: a glyph of {canvas.glyph} pixels in a cell of {canvas.side // canvas.cells}; "
            "make `glyph` or `cells` smaller"
        )


def _count(rng: Generator, split: Split, difficulty: int, canvas: Canvas) -> dict[str, Any]:
    """Ask for the number of digits."""
    number = int(rng.integers(1, difficulty + 1))
    image, _ = _scene(rng, split, _several(rng, number), canvas)
    return _asked("How many digits are there in the image?", "number", number, [image], canvas)


def _count_of(rng: Generator, split: Split, difficulty: int, canvas: Canvas) -> dict[str, Any]:
    """Ask for the number of one digit: at most half of the difficulty, perhaps none."""
    counted = int(rng.integers(0, 10))
    others = [digit for digit in range(10) if digit != counted]
    number = int(rng.integers(0, difficulty // 2 + 1))
    least_others = int(number == 0)  # a scene is never empty
    num_others = int(rng.integers(least_others, difficulty - difficulty // 2 + 1))
    rest: list[int] = rng.choice(others, num_others).tolist()
    image, _ = _scene(rng, split, [counted] * number + rest, canvas)
    return _asked(f"How many {counted} are there?", "number", number, [image], canvas)


def _choice(rng: Generator, split: Split, difficulty: int, canvas: Canvas) -> dict[str, Any]:
    """Ask which of several digits is in the image."""
    options: list[int] = rng.permutation(10)[:difficulty].tolist()
    shown = int(rng.choice(options))
    image, _ = _scene(rng, split, [shown], canvas)
    choices = tuple(map(str, options))
    question = f"Which digit is in the image? Choices: {', '.join(choices)}."
    return {**_asked(question, "choice", str(shown), [image], canvas), "choices": choices}


def _box(rng: Generator, split: Split, difficulty: int, canvas: Canvas) -> dict[str, Any]:
    """Ask for the box of a digit; the digits of the scene differ from one another."""
    number = int(rng.integers(1, difficulty + 1))
    image, placed = _scene(rng, split, rng.permutation(10)[:number].tolist(), canvas)
    digit, box = placed[0]
    return _asked(f"Where is the digit {digit}?", "boxes", [list(box)], [image], canvas)


def _compare(rng: Generator, split: Split, difficulty: int, canvas: Canvas) -> dict[str, Any]:
    """Ask which of two images holds more digits."""
    numbers: list[int] = rng.permutation(np.arange(1, difficulty + 1))[:2].tolist()
    images = [_scene(rng, split, _several(rng, number), canvas)[0] for number in numbers]
    answer = "first" if numbers[0] > numbers[1] else "second"
    question = "Which image holds more digits? Choices: first, second."
    return {**_asked(question, "choice", answer, images, canvas), "choices": ("first", "second")}


def _add(rng: Generator, split: Split, difficulty: int, canvas: Canvas) -> dict[str, Any]:
    """Ask for a sum of the split, without an image."""
    del canvas
    while True:  # until a sum of this split is drawn
        a, b = (int(summand) for summand in rng.integers(0, difficulty + 1, 2))
        if difficulty < LEAST_HELD_OUT_SUMMAND or _split_of_sum(a, b) == split:
            return {"question": f"What is {a}+{b}?", "answer_kind": "number", "answer": a + b}


def _split_of_sum(a: int, b: int) -> Split:
    """Return the split that asks for a+b and b+a: 2 of 8 test, 1 of 8 validation, else train."""
    eighth = addressed_seed("digits", "add", min(a, b), max(a, b)) % 8
    if eighth < 2:
        return "test"
    if eighth == 2:
        return "validation"
    return "train"


_TASKS = {
    "count": _count,
    "count_of": _count_of,
    "choice": _choice,
    "box": _box,
    "compare": _compare,
    "add": _add,
}


def _asked(
    question: str, kind: str, answer: Any, images: Sequence[bytes], canvas: Canvas
) -> dict[str, Any]:
    """Return the fields of a sample with images."""
    return {
        "question": question,
        "answer_kind": kind,
        "answer": answer,
        "images": tuple(images),
        "sizes": ((canvas.side, canvas.side),) * len(images),
    }


def _scene(
    rng: Generator, split: Split, shown: Sequence[int], canvas: Canvas
) -> tuple[bytes, list[Placed]]:
    """Draw the digits on distinct cells over faint noise; return the PNG and the boxes."""
    pixels = rng.integers(0, _BACKGROUND_NOISE + 1, (canvas.side, canvas.side, 3)).astype(np.uint8)
    cell = canvas.side // canvas.cells
    placed: list[Placed] = []
    for slot, digit in zip(rng.permutation(canvas.cells**2)[: len(shown)], shown, strict=True):
        free = cell - canvas.glyph
        x = int(slot) % canvas.cells * cell + int(rng.integers(0, free + 1))
        y = int(slot) // canvas.cells * cell + int(rng.integers(0, free + 1))
        glyph = Image.fromarray(_glyph(rng, split, digit))
        resized = glyph.resize((canvas.glyph, canvas.glyph), Image.Resampling.BILINEAR)
        spot = pixels[y : y + canvas.glyph, x : x + canvas.glyph]
        # [glyph, glyph] grey levels onto [glyph, glyph, 3] colours
        np.maximum(spot, np.asarray(resized)[:, :, None], out=spot)
        placed.append((digit, (x, y, x + canvas.glyph, y + canvas.glyph)))
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG", compress_level=1)
    return encoded.getvalue(), placed


def _several(rng: Generator, number: int) -> list[int]:
    """Draw digits, which may repeat."""
    return [int(digit) for digit in rng.integers(0, 10, number)]


def _glyph(rng: Generator, split: Split, digit: int) -> Any:
    """Draw a handwritten glyph of a digit: [8, 8] grey levels."""
    glyphs, by_digit = _glyphs()
    return glyphs[rng.choice(by_digit[split][digit])]


@cache
def _glyphs() -> tuple[Any, dict[Split, list[Any]]]:
    """Return all glyphs [1797, 8, 8], and for each split the indices of each digit."""
    datasets: Any = import_module("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    grey: Any = (images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    names: tuple[Split, ...] = ("train", "validation", "test")
    parts = np.split(order, [TRAIN_GLYPHS, TRAIN_GLYPHS + VALIDATION_GLYPHS])
    by_digit: dict[Split, list[Any]] = {}
    for name, part in zip(names, parts, strict=True):
        by_digit[name] = [part[labels[part] == digit] for digit in range(10)]
    return grey, by_digit
