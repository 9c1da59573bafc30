"""Boxes lie where the truth lies: held against the pixels of drawn scenes, in every frame."""

import io
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from tests import drawn_scenes
from tests.drawn_scenes import ANSWERED_COLOUR, TRUE_COLOUR

SCENES = list(drawn_scenes.scenes())
EDGES = """rect => {
    const box = rect.getBBox(), to = rect.getScreenCTM();
    const image = rect.closest("figure").querySelector("img").getBoundingClientRect();
    const edges = [box.x, box.y, box.x + box.width, box.y + box.height];
    const scale = [to.a, to.d], from = [to.e - image.x, to.f - image.y];
    return edges.map((edge, place) => edge * scale[place % 2] + from[place % 2]);
}"""
"""The edges of a box in CSS pixels of the picture as it is shown, without the stroke's width."""
WIDEST_STROKE = 4
"""CSS pixels."""


class Shown(NamedTuple):
    """A picture as it is shown."""

    pixels: np.ndarray
    """[height, width, 3] of a screenshot, in CSS pixels."""
    scale: float
    """CSS pixels to a pixel of the picture."""


def zoomed(page, place: int):
    """Open the picture of a scene, with its boxes, in full size."""
    page.tab.keyboard.press("Escape")
    page.tab.locator("#search").fill(f"({SCENES[place].name})")
    card = page.tab.locator(f'article.group[data-draw="{place}"]')
    card.locator("figure.picture:has(svg.boxes)").click()
    figure = page.tab.locator("dialog#zoom figure.picture")
    page.tab.wait_for_function("document.querySelector('#zoom img').complete")
    return figure


def shot(page, figure, visible: str) -> Shown:
    """Return a screenshot of a picture with only the boxes of one class visible; empty = none."""
    figure.evaluate(
        """(figure, visible) => {
            for (const rect of figure.querySelectorAll("svg.boxes rect")) {
                rect.style.visibility = rect.classList.contains(visible) ? "visible" : "hidden";
            }
        }""",
        visible,
    )
    box = figure.locator("img").bounding_box()
    picture = Image.open(io.BytesIO(page.tab.screenshot(clip=box))).convert("RGB")
    width = figure.locator("svg.boxes").evaluate("svg => svg.viewBox.baseVal.width")
    return Shown(np.asarray(picture).astype(int), box["width"] / width)


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, upper, right and lower edge of what is marked."""
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.fixture
def page(page_of, open_page):
    return open_page(page_of("drawn"))


@pytest.mark.parametrize("place", range(len(SCENES)), ids=[scene.name for scene in SCENES])
def test_both_boxes_lie_on_their_rectangles(place, page):
    scene = SCENES[place]
    figure = zoomed(page, place)
    bare = shot(page, figure, "")
    size = figure.locator("svg.boxes").evaluate(
        "svg => [svg.viewBox.baseVal.width, svg.viewBox.baseVal.height]"
    )
    assert tuple(size) == scene.size
    for kind, colour, edges in (
        ("true", TRUE_COLOUR, scene.true),
        ("answered", ANSWERED_COLOUR, scene.answered),
    ):
        box = figure.locator(f"rect.{kind}")
        assert box.count() == 1
        drawn = np.array(box.evaluate(EDGES)) / bare.scale
        assert drawn == pytest.approx(edges, abs=1), "the box is not where it should be"
        coloured = np.abs(bare.pixels - colour).max(axis=2) < 40
        found = np.array(bounds(coloured))
        assert found / bare.scale == pytest.approx(edges, abs=1), "the picture is not as drawn"
        stroke = np.abs(shot(page, figure, kind).pixels - bare.pixels).max(axis=2) > 40
        over = np.array(bounds(stroke)) - found
        beyond = np.array([-over[0], -over[1], over[2], over[3]])
        assert beyond.min() >= 0, "the stroke does not enclose the rectangle"
        assert beyond.max() <= WIDEST_STROKE + bare.scale, "the stroke lies too far out"


def test_a_box_is_drawn_on_the_picture_that_it_is_in(page):
    place = [scene.name for scene in SCENES].index("second of two")
    page.tab.locator("#search").fill("(second of two)")
    figures = page.tab.locator(f'article.group[data-draw="{place}"] figure.picture')
    assert figures.count() == 2
    assert figures.nth(0).locator("rect").count() == 0
    assert figures.nth(1).locator("rect.true").count() == 1


def test_an_answer_without_a_box_draws_none(page):
    page.tab.locator("#search").fill(f"({SCENES[0].name})")
    card = page.tab.locator("article.group").first
    assert card.locator(".answer").count() == 2
    assert card.locator("rect.answered").count() == 1


def test_true_and_answered_boxes_differ_in_more_than_their_colour(page):
    dashes = "rect => getComputedStyle(rect).strokeDasharray"
    figure = page.tab.locator("article.group figure.picture:has(svg.boxes)").first
    assert figure.locator("rect.true").evaluate(dashes) == "none"
    assert figure.locator("rect.answered").first.evaluate(dashes) != "none"
