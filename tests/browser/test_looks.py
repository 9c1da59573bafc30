"""Dark and light, on paper, on a telephone, and for people who see or point differently."""

import pytest

from tests.browser.accessibility import CONTRASTS, FOCUS, UNLABELLED

THEME = "document.documentElement.dataset.theme"
PHONE = {"width": 375, "height": 720}
LEAST_CONTRAST = 4.5
TABS = 60
"""Elements that the Tab key is followed over."""
KINDS = ("finished", "hostile", "text_only", "without_evaluation")


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_theme_is_at_first_that_of_the_system(scheme, page_of, open_page):
    page = open_page(page_of("finished"), color_scheme=scheme)
    assert page.tab.evaluate(THEME) == scheme


def test_the_theme_switches_and_is_kept(page_of, open_page):
    page = open_page(page_of("finished"), color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.tab.evaluate(paper)
    page.tab.locator("#theme").click()
    assert page.tab.evaluate(THEME) == "dark"
    assert page.tab.evaluate(paper) != light
    page.open()
    assert page.tab.evaluate(THEME) == "dark"
    page.tab.locator("#theme").click()
    assert page.tab.evaluate(THEME) == "light"
    assert page.tab.evaluate(paper) == light


def test_a_page_can_be_printed(page_of, open_page):
    page = open_page(page_of("finished"), color_scheme="dark")
    page.tab.emulate_media(media="print")
    for control in ("#theme", "#search", "#filter-task", "#step", "#next-groups", "nav"):
        assert not page.tab.locator(control).first.is_visible(), control
    assert page.tab.locator("section#verdict").is_visible()
    assert page.tab.locator("article.group").first.is_visible()
    sheets = page.tab.pdf().count(b"/Type /Page\n")
    assert sheets > 0
    assert page.tab.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_wider_than_a_telephone(kind, page_of, open_page):
    page = open_page(page_of(kind), viewport=PHONE)
    page.all_steps()
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for control in ("#theme", "#search", "#next-groups"):
        box = page.tab.locator(control).bounding_box()
        assert 0 <= box["x"] <= box["x"] + box["width"] <= PHONE["width"], control


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_text_can_be_told_from_its_ground(kind, scheme, page_of, open_page):
    page = open_page(page_of(kind), color_scheme=scheme)
    page.all_steps()
    measured = page.tab.evaluate(CONTRASTS)
    assert len(measured) > 50
    weak = {(one["text"], one["ratio"]) for one in measured if one["ratio"] < LEAST_CONTRAST}
    assert not weak


def test_the_checker_of_contrast_knows_black_from_grey(browser):
    """A negative control, with ratios that are known: 21 and 2.85."""
    tab = browser.new_page()
    tab.set_content(
        "<body style='background:#fff'><p style='color:#000'>black</p>"
        "<div style='background:rgba(0,0,0,0)'><p style='color:#999'>grey</p></div>"
        "<p style='color:rgba(0,0,0,.4)'>pale</p><p hidden>hidden</p>"
    )
    ratios = {one["text"]: one["ratio"] for one in tab.evaluate(CONTRASTS)}
    tab.close()
    assert ratios == {"black": 21, "grey": pytest.approx(2.85, abs=0.01), "pale": ratios["pale"]}
    assert ratios["pale"] == ratios["grey"]


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_and_controls_have_names(kind, page_of, open_page):
    page = open_page(page_of(kind))
    assert page.tab.evaluate(UNLABELLED) == []
    page.tab.keyboard.press("z")
    assert page.tab.evaluate(UNLABELLED) == []


def test_the_checker_of_names_knows_what_has_none(browser):
    tab = browser.new_page()
    tab.set_content("<img><img alt='a'><button></button><button>b</button><input><label>c<input>")
    assert tab.evaluate(UNLABELLED) == ["<img>", "<button></button>", "<input>"]
    tab.close()


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_element_that_has_the_keys_is_marked(scheme, page_of, open_page):
    page = open_page(page_of("finished"), color_scheme=scheme)
    seen: set[str] = set()
    for _ in range(TABS):
        page.tab.keyboard.press("Tab")
        focus = page.tab.evaluate(FOCUS)
        assert focus["marked"], focus["html"]
        seen.add(focus["html"])
    assert len(seen) > TABS / 2
