"""Pages of two sides and of several runs, and what charts say below the pointer."""

import json
from pathlib import Path

import pytest
import yaml

from gpg_vl.report.page.write import write_comparison, write_page
from gpg_vl.run_folder import evaluation_path
from tests import made_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Two runs: the second took more steps with another rate, and answers better."""
    folder = tmp_path_factory.mktemp("sides")
    both = [
        made_runs.make(folder, "short", steps=5, total=40, moments=["before", "after"]),
        made_runs.make(folder, "long", steps=30, total=40, moments=["before", "after"]),
    ]
    config = yaml.safe_load((both[1] / "config.yaml").read_text())
    config["optimizer"]["lr"] = 0.125
    (both[1] / "config.yaml").write_text(yaml.safe_dump(config))
    for run, corner in zip(both, (10.0, 20.0), strict=True):
        _give_boxes(evaluation_path(run, "digits", "after"), corner)
    return both


def _give_boxes(file: Path, corner: float) -> None:
    """Write into records where the answered boxes lie in their pictures."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        if row["kind"] == "boxes":
            row["boxes_pixels"] = [[corner, corner, 40.0, 40.0]]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def compared(runs, open_page):
    return open_page(write_comparison(runs[0], runs[1], runs[0].parent / "comparison.html"))


def test_two_runs_are_compared(compared):
    section = compared.tab.locator("section#comparison")
    table = section.locator("table").first
    assert "difference" in table.locator("thead").inner_text()
    assert table.locator("tbody tr").count() == 4, "all, and the three tasks"
    assert "better, +" in section.locator(".headline").first.inner_text()
    settings = section.get_by_role("region", name="Settings that differ")
    assert settings.locator("tbody th").all_inner_texts() == ["optimizer.lr"]
    assert settings.locator("tbody td").nth(1).inner_text() == "0.125"


def test_the_questions_are_filtered_by_what_became_of_them(compared):
    tab = compared.tab
    options = tab.locator("#item-change option").evaluate_all("all => all.map(o => o.value)")
    kinds = [value for value in options if value != "all"]
    assert len(kinds) >= 2
    for value in kinds:
        tab.locator("#item-change").select_option(value)
        found = tab.locator("article.item").evaluate_all("all => all.map(i => i.dataset.change)")
        assert set(found) <= {value.removeprefix("=")}


def test_boxes_of_both_sides_are_told_apart(compared):
    tab = compared.tab
    tab.locator("#item-tag").select_option(label="box")
    both = "article.item:has(rect.second):has(rect.answered:not(.second))"
    card = tab.locator(both).first
    looks = "one => [getComputedStyle(one).stroke, getComputedStyle(one).strokeDasharray]"
    first = card.locator("rect.answered:not(.second)").first.evaluate(looks)
    second = card.locator("rect.answered.second").first.evaluate(looks)
    assert first[0] != second[0]
    assert first[1] != second[1], "not by the colour alone"
    rows = card.locator(".answer .facts")
    assert rows.nth(0).locator("i.answered:not(.second)").count() == 1
    assert rows.nth(1).locator("i.answered.second").count() == 1


def test_two_files_of_records_have_no_run_and_no_gallery(runs, open_page, tmp_path):
    files = [evaluation_path(run, "digits", "after") for run in runs]
    page = open_page(write_comparison(files[0], files[1], tmp_path / "files.html"))
    assert page.tab.locator("section#answers").count() == 0
    assert page.tab.locator("a.skip").get_attribute("href") == "#comparison"
    for link in page.tab.locator("nav a").evaluate_all("all => all.map(a => a.hash)"):
        assert page.tab.locator(link).count() == 1
    assert page.tab.locator("article.item").count() > 0
    for key in ("j", "k", "[", "]", "/", "z", "Enter", "t"):
        page.tab.keyboard.press(key)
    page.tab.keyboard.press("?")
    assert page.tab.locator("dialog#help").is_visible()


def test_several_runs_are_in_one_page(runs, open_page, tmp_path):
    page = open_page(write_page(runs, tmp_path / "both.html"))
    choice = page.tab.locator("#filter-run")
    assert choice.locator("option").all_inner_texts() == ["short", "long"]
    assert page.current()[0] == 5
    choice.select_option(label="long")
    assert page.current()[0] == 30
    labels = page.tab.locator("figure.chart").first.locator(".legend bdi").all_inner_texts()
    assert any("short" in label for label in labels)
    assert any("long" in label for label in labels)


def test_a_chart_says_its_values_below_the_pointer_and_by_key(page_of, open_page):
    page = open_page(page_of("finished"))
    figure = page.tab.locator("figure.chart").first
    said = figure.locator(".readout")
    figure.scroll_into_view_if_needed()
    edges = figure.locator(":scope > svg").bounding_box()
    page.tab.mouse.move(edges["x"] + edges["width"] / 2, edges["y"] + edges["height"] / 2)
    assert 15 <= int(said.inner_text().split(":")[0]) <= 26
    page.tab.mouse.move(2, 2)
    assert said.inner_text() == ""
    figure.focus()
    page.tab.keyboard.press("ArrowRight")
    start = int(said.inner_text().split(":")[0])
    page.tab.keyboard.press("ArrowLeft")
    assert int(said.inner_text().split(":")[0]) == start - 1
    page.tab.keyboard.press("ArrowRight")
    assert int(said.inner_text().split(":")[0]) == start
    figure.evaluate("one => one.blur()")
    assert said.inner_text() == ""
