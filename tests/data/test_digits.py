"""The digits recipe proves itself: every truth is checked against the picture, glyph by glyph,
and no handwriting is in two splits."""

import io
import itertools
import re
from functools import cache

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from gpg_vl.data.recipes.digits import CANVASES, DIFFICULTIES, _glyphs, digits
from gpg_vl.errors import UserError
from gpg_vl.parsing import choices
from gpg_vl.prompts import AnswerOnly
from gpg_vl.verifiers.boxes import Boxes
from gpg_vl.verifiers.choice import Choice
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.number import Number

TASKS = ["count", "count_of", "choice", "box", "compare", "add"]
BRIGHT = 12
"""Brighter than any background noise."""
SCENES = 25


@cache
def glyphs(side):
    """Every glyph at one size, background blacked out, with its digit."""
    images, labels = load_digits(return_X_y=True)
    grey = (images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    drawn = [
        np.asarray(Image.fromarray(glyph).resize((side, side), Image.Resampling.BILINEAR))
        for glyph in grey
    ]
    return [np.where(glyph > BRIGHT, glyph, 0) for glyph in drawn], labels


@cache
def glyphs_by_ink(side):
    """Inked rectangle's content -> (number of the glyph, digit, its offset in the glyph)."""
    found = {}
    for number, (glyph, digit) in enumerate(zip(*glyphs(side), strict=True)):
        x, y, ink = inked(glyph)
        found.setdefault((ink.shape, ink.tobytes()), (number, int(digit), x, y))
    return found


def inked(pixels):
    """The smallest rectangle that holds all ink: its x, y and content."""
    rows, columns = np.nonzero(pixels.any(1))[0], np.nonzero(pixels.any(0))[0]
    return (
        int(columns[0]),
        int(rows[0]),
        np.ascontiguousarray(pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]),
    )


def recognised(image, cells, side):
    """Every glyph in a picture as (number, digit, box), found by its exact pixels."""
    pixels = np.asarray(Image.open(io.BytesIO(image)))
    pixels = np.where(pixels[:, :, 0] > BRIGHT, pixels[:, :, 0], 0)
    cell, found = len(pixels) // cells, []
    for top in range(0, cell * cells, cell):
        for left in range(0, cell * cells, cell):
            here = pixels[top : top + cell, left : left + cell]
            if here.any():
                x, y, ink = inked(here)
                number, digit, dx, dy = glyphs_by_ink(side)[ink.shape, ink.tobytes()]
                corner = (left + x - dx, top + y - dy)
                found.append((number, digit, [*corner, corner[0] + side, corner[1] + side]))
    return found


def scenes(task, **options):
    """Samples of a task, each with the glyphs of its pictures."""
    canvas = CANVASES.get(task, CANVASES["count"])
    cells, side = options.get("cells", canvas.cells), options.get("glyph", canvas.glyph)
    for sample in digits(task, **({"count": SCENES} | options)):
        yield sample, [recognised(image, cells, side) for image in sample.images]


def asked_digit(sample):
    return int(re.search(r"\d", sample.question)[0])


# --- truth ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("difficulty", [1, 6, 16])
def test_count_is_the_number_of_digits_in_the_picture(difficulty):
    truths = []
    for sample, (seen,) in scenes("count", difficulty=difficulty):
        assert sample.answer == len(seen)
        truths.append(sample.answer)
    assert min(truths) >= 1
    assert max(truths) <= difficulty


@pytest.mark.parametrize("difficulty", [1, 6, 16])
def test_count_of_is_the_number_of_one_digit_among_others(difficulty):
    for sample, (seen,) in scenes("count_of", difficulty=difficulty):
        assert sample.answer == [digit for _, digit, _ in seen].count(asked_digit(sample))
        assert 1 <= len(seen) <= difficulty


@pytest.mark.parametrize("difficulty", [2, 3, 10])
def test_choice_is_the_digit_in_the_picture(difficulty):
    for sample, (seen,) in scenes("choice", difficulty=difficulty):
        ((_, digit, _),) = seen
        assert sample.answer == str(digit)
        assert len(set(sample.choices)) == len(sample.choices) == difficulty
        assert sample.answer in sample.choices
        assert all(option in sample.question for option in sample.choices)


def test_box_is_where_the_digit_stands():
    for sample, (seen,) in scenes("box"):
        ((_, digit, box),) = seen
        assert digit == asked_digit(sample)
        assert sample.answer == [box]


def test_box_among_distractors_is_that_of_the_digit_asked_for():
    seen_together = set()
    for sample, (seen,) in scenes("box", difficulty=4, side=112, cells=2, glyph=32):
        assert [[box] for _, digit, box in seen if digit == asked_digit(sample)] == [sample.answer]
        seen_together.add(len(seen))
    assert seen_together == {1, 2, 3, 4}


def test_compare_names_the_picture_that_holds_more():
    for sample, (first, second) in scenes("compare"):
        assert len(first) != len(second)
        assert sample.answer == ("first" if len(first) > len(second) else "second")
        assert max(len(first), len(second)) <= 6


def test_add_is_the_sum():
    for sample in digits("add", count=SCENES, difficulty=9):
        a, b = map(int, re.findall(r"\d+", sample.question))
        assert max(a, b) <= 9
        assert sample.answer == a + b
        assert sample.images == ()


def test_no_held_out_sum_is_in_training_in_either_order():
    asked = {
        split: {
            frozenset(re.findall(r"\d+", sample.question))
            for sample in digits("add", split, count=4000, difficulty=20)
        }
        for split in ("train", "validation", "test")
    }
    assert not asked["train"] & asked["test"]
    assert not asked["train"] & asked["validation"]
    assert not asked["validation"] & asked["test"]
    assert set.union(*asked.values()) == {
        frozenset((str(a), str(b))) for a in range(21) for b in range(a + 1)
    }
    assert 0.18 < len(asked["test"]) / 231 < 0.32


def test_every_split_of_the_smallest_sums_that_are_split_has_some():
    assert all(
        next(digits("add", split, difficulty=5)) for split in ("train", "validation", "test")
    )
    assert len({sample.question for sample in digits("add", count=50, difficulty=1)}) == 4, (
        "so few are all for training"
    )
    with pytest.raises(UserError, match="add of difficulty 4, split test: expected 5 to 1000000"):
        next(digits("add", "test", difficulty=4))


@pytest.mark.parametrize("task", TASKS)
def test_every_truth_comes_up(task):
    truths = [str(sample.answer) for sample in digits(task, count=200)]
    most = max(truths.count(truth) for truth in truths)
    assert most < {"compare": 130}.get(task, 100), "always giving one answer would pay"


# --- the row --------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_scenes_are_a_function_of_their_address(task):
    first, again = list(digits(task, count=5)), list(digits(task, count=8))
    assert again[:5] == first
    assert [sample.question for sample in digits(task, count=8, seed=1)] + [
        sample.images for sample in digits(task, count=8, seed=1)
    ] != [sample.question for sample in again] + [sample.images for sample in again]


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_complete(task):
    rows = list(digits(task, split="test", count=5))
    assert [sample.id for sample in rows] == [
        f"digits/test/{task}/{DIFFICULTIES[task]}/0/{index}" for index in range(5)
    ]
    assert {sample.tags["task"] for sample in rows} == {task}
    assert all(
        sample.sizes == tuple(Image.open(io.BytesIO(image)).size for image in sample.images)
        for sample in rows
    )
    assert {len(sample.images) for sample in rows} == {{"add": 0, "compare": 2}.get(task, 1)}


@pytest.mark.parametrize("task", TASKS)
def test_the_reference_answer_earns_the_full_reward(task):
    style = AnswerOnly()
    verifiers = VerifierSet(
        by_kind={
            "number": Number(style=style),
            "choice": Choice(style=style),
            "boxes": Boxes(style=style),
        }
    )
    assert [verifiers.validation_error(sample) for sample in digits(task, count=SCENES)] == [
        ""
    ] * SCENES


@pytest.mark.parametrize("task", ["choice", "compare"])
def test_choices_are_readable_by_letter_and_by_words(task):
    for sample in digits(task, count=5):
        assert [choices.exact(words, sample.choices) for words in sample.choices] == list(
            range(len(sample.choices))
        )


# --- splits ---------------------------------------------------------------------------------------


def test_no_handwriting_is_in_two_splits():
    used = {}
    for split in ("train", "validation", "test"):
        seen = [
            glyph
            for _, (seen,) in scenes("count", split=split, difficulty=16, count=200)
            for glyph in seen
        ]
        used[split] = {number for number, _, _ in seen}
        assert {digit for _, digit, _ in seen} == set(range(10))
    assert not used["train"] & used["test"]
    assert not used["train"] & used["validation"]
    assert not used["validation"] & used["test"]
    assert [
        len(used[split]) <= most
        for split, most in (("train", 1297), ("validation", 100), ("test", 400))
    ] == [True] * 3


def test_scenes_of_two_splits_differ():
    assert [sample.images for sample in digits("choice", split="train", count=3)] != [
        sample.images for sample in digits("choice", split="test", count=3)
    ]


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("count", {"difficulty": 17}),  # 16 cells
        ("count_of", {"difficulty": 40}),
        ("compare", {"difficulty": 10}),  # 9 cells
        ("compare", {"difficulty": 1}),  # one digit cannot be more than another number of digits
        ("count", {"difficulty": 0}),
        ("box", {"cells": 3}),  # a digit of 32 pixels in a cell of 18
    ],
)
def test_scenes_that_cannot_be_drawn_are_refused_with_a_sentence(task, options):
    with pytest.raises(UserError):
        list(digits(task, count=50, **options))


def test_the_handwriting_is_shared_out_as_it_always_was():
    """Another split would be another data set under the same name."""
    _, by_digit = _glyphs()
    shared = {
        split: sorted(int(number) for part in parts for number in part)
        for split, parts in by_digit.items()
    }
    assert {split: len(numbers) for split, numbers in shared.items()} == {
        "train": 1297,
        "validation": 100,
        "test": 400,
    }
    assert sorted(itertools.chain.from_iterable(shared.values())) == list(range(1797))
    assert [numbers[:3] for numbers in shared.values()] == [[0, 4, 5], [7, 9, 17], [1, 2, 3]]
