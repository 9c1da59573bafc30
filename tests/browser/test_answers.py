"""The gallery of answers: each filter narrows as it says, keys move, pictures get large."""

import statistics

import pytest

from gpg_vl.report.page.contents import GroupRow
from gpg_vl.report.page.read import read_run


@pytest.fixture(scope="module")
def groups(page_of) -> list[GroupRow]:
    """The groups of the finished run, as they are in its files."""
    return list(read_run(page_of("finished").parent).groups)


@pytest.fixture
def page(page_of, open_page):
    page = open_page(page_of("finished"))
    page.all_steps()
    return page


def key(group: GroupRow) -> tuple[int, int]:
    return group.step, group.row["draw"]


def kinds(group: GroupRow) -> set[str]:
    """The first words of the reasons of its answers."""
    return {answer["reason"].split()[0].rstrip(":") for answer in group.answers}


def mean(group: GroupRow) -> float:
    return statistics.fmean(group.rewards)


def test_all_groups_are_there_in_their_order(page, groups):
    assert page.counted() == (320, 320)
    assert page.groups() == [key(group) for group in groups]


def test_a_step_shows_its_own_groups(page_of, open_page, groups):
    page = open_page(page_of("finished"))
    last = [key(group) for group in groups if group.step == 40]
    assert page.groups() == last, "the newest step comes first"
    slider = page.tab.locator("#step")
    slider.focus()
    page.tab.keyboard.press("Home")
    assert page.groups() == [key(group) for group in groups if group.step == 1]
    page.all_steps()
    assert slider.is_disabled()
    assert page.counted() == (320, 320)


@pytest.mark.parametrize("task", ["count", "choice", "box"])
def test_filter_by_task(task, page, groups):
    page.tab.locator("#filter-task").select_option(label=task)
    assert page.groups() == [key(group) for group in groups if group.task == task]


@pytest.mark.parametrize("reason", ["right", "wrong", "malformed"])
def test_filter_by_reason(reason, page, groups):
    page.tab.locator("#filter-reason").select_option(label=reason)
    wanted = [key(group) for group in groups if reason in kinds(group)]
    assert 0 < len(wanted) < len(groups)
    assert page.groups() == wanted


def test_filter_by_reward(page, groups):
    limits = {"high": (0.75, 2.0), "middle": (0.25, 0.75), "low": (-1.0, 0.25)}
    for value, (low, high) in limits.items():
        page.tab.locator("#filter-reward").select_option(value)
        assert page.groups() == [key(group) for group in groups if low <= mean(group) < high]


@pytest.mark.parametrize("kind", ["informative", "zero-variance"])
def test_filter_by_kind(kind, page, groups):
    page.tab.locator("#filter-kind").select_option(kind)
    spread = [group.spread > 1e-6 for group in groups]
    wanted = kind == "informative"
    expected = [key(one) for one, differs in zip(groups, spread, strict=True) if differs == wanted]
    assert 0 < len(expected) < len(groups)
    assert page.groups() == expected


def test_the_widest_spread_comes_first(page, groups):
    page.tab.locator("#filter-order").select_option(label="widest spread first")
    spreads = {key(group): group.spread for group in groups}
    found = [spreads[group] for group in page.groups()]
    assert found == sorted(found, reverse=True)
    assert len(found) == 320


def test_filters_narrow_together_and_are_undone(page, groups):
    page.tab.locator("#filter-task").select_option(label="box")
    page.tab.locator("#filter-kind").select_option("informative")
    wanted = [key(one) for one in groups if one.task == "box" and one.spread > 1e-6]
    assert page.groups() == wanted
    page.tab.locator("#filter-task").select_option("all")
    page.tab.locator("#filter-kind").select_option("all")
    assert page.counted() == (320, 320)


def test_search_finds_questions_and_answers(page, groups):
    page.tab.locator("#search").fill("WHERE is the digit 7")
    wanted = [key(one) for one in groups if "digit 7?" in one.row["question"]]
    assert wanted
    assert page.groups() == wanted
    page.tab.locator("#search").fill("<answer><answer>")
    wanted = [
        key(one)
        for one in groups
        if any("<answer><answer>" in answer["text"] for answer in one.answers)
    ]
    assert page.groups() == wanted
    page.tab.locator("#search").fill("no such words")
    assert page.counted() == (0, 320)


def test_a_group_says_what_the_run_folder_says(page, groups):
    first = groups[0]
    card = page.tab.locator("article.group").first
    assert card.locator(".question").text_content() == first.row["question"]
    assert str(first.row["truth"]) in card.locator(".truth").text_content()
    rows = card.locator(".answer")
    assert rows.count() == len(first.answers)
    for place, answer in enumerate(first.answers):
        row = rows.nth(place)
        assert row.locator(".text").text_content() == answer["text"]
        assert row.locator(".reason").text_content() == answer["reason"]
        assert float(row.locator(".reward").text_content()) == pytest.approx(
            answer["reward"], abs=0.01
        )
        assert row.locator(".weight").text_content()


def test_keys_go_from_group_to_group(page, groups):
    keys = [key(group) for group in groups]
    assert page.current() == keys[0]
    for place in range(1, 9):  # onto the next sheet
        page.tab.keyboard.press("j")
        assert page.current() == keys[place]
    for place in range(7, 4, -1):
        page.tab.keyboard.press("k")
        assert page.current() == keys[place]


def test_brackets_go_from_step_to_step(page_of, open_page):
    page = open_page(page_of("finished"))
    assert page.current()[0] == 40
    page.tab.keyboard.press("[")
    page.tab.keyboard.press("[")
    assert page.current()[0] == 38
    page.tab.keyboard.press("]")
    assert page.current()[0] == 39


def test_a_stroke_goes_to_the_search_where_letters_are_letters(page):
    page.tab.keyboard.press("/")
    assert page.tab.evaluate("document.activeElement.id") == "search"
    page.tab.keyboard.type("jk?")
    assert page.tab.locator("#search").input_value() == "jk?"
    assert not page.tab.locator("#help").is_visible()


def test_a_question_mark_shows_the_keys(page):
    page.tab.keyboard.press("?")
    words = page.tab.locator("dialog#help").inner_text()
    assert all(sign in words for sign in ("j", "k", "[", "]", "/", "?"))
    page.tab.keyboard.press("Escape")
    assert not page.tab.locator("#help").is_visible()


def test_a_picture_gets_large_and_escape_closes_it(page):
    small = page.tab.locator("article.group figure.picture:has(img)").first
    width = small.bounding_box()["width"]
    small.click()
    large = page.tab.locator("dialog#zoom figure.picture")
    assert large.bounding_box()["width"] > width
    page.tab.keyboard.press("Escape")
    assert not page.tab.locator("dialog#zoom").is_visible()


def test_a_picture_can_be_enlarged_by_key_alone(page):
    button = page.tab.locator("article.group figure.picture button").first
    button.focus()
    page.tab.keyboard.press("Enter")
    assert page.tab.locator("dialog#zoom").is_visible()


def test_several_pictures_of_a_question_are_all_shown(page_of, open_page):
    page = open_page(page_of("several_pictures"))
    card = page.tab.locator("article.group").first
    assert card.locator("figure.picture img").count() == 2
    alts = card.locator("figure.picture img").evaluate_all("images => images.map(i => i.alt)")
    assert len(set(alts)) == 2


def test_a_run_of_text_has_no_figure(page_of, open_page):
    page = open_page(page_of("text_only"))
    assert page.tab.locator("article.group").count() > 0
    assert page.tab.locator("article.group figure.picture").count() == 0


def test_answers_of_all_processes_are_there(page_of, open_page):
    page = open_page(page_of("several_processes"))
    page.all_steps()
    assert [draw for _, draw in page.groups()] == list(range(80))
