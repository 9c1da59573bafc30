"""Every kind of run opens from its file: nothing is asked for, nothing complains, nothing runs."""

import shutil

import pytest

from tests import made_runs
from tests.hostile_texts import HACK, HOSTILE

SECTIONS = ("verdict", "curves", "answers", "evaluation", "run", "glossary")
LARGEST_BYTES = 15e6
LONGEST_SECONDS = 2.0
FIRST_GROUP = """new MutationObserver((_, observer) => {
    if (!document.querySelector("article.group")) return;
    window.__firstGroup = performance.now();
    observer.disconnect();
}).observe(document, { childList: true, subtree: true })"""
"""Notes the milliseconds from the start of opening a page until its first group is there."""
SHOWN = 200
"""Characters of a hostile text that must be found in the page."""


@pytest.mark.parametrize("kind", made_runs.KINDS)
def test_a_page_opens_from_its_file_and_asks_for_nothing(kind, page_of, open_page):
    page = open_page(page_of(kind))
    for section in SECTIONS:
        assert page.tab.locator(f"section#{section}").count() == 1
        assert page.tab.locator(f'nav a[href="#{section}"]').count() == 1
    assert page.tab.locator("article.group").count() > 0
    page.tab.wait_for_load_state("networkidle")
    assert page.asked == [page.path.as_uri()]


def test_a_page_opens_where_it_was_copied_to_alone(page_of, open_page, tmp_path):
    copied = shutil.copy(page_of("finished"), tmp_path / "alone.html")
    page = open_page(copied)
    page.tab.locator("article.group figure.picture").first.click()
    assert page.tab.locator("#zoom img").evaluate("image => image.naturalWidth") > 0


def test_the_harness_sees_what_a_page_must_not_do(browser, tmp_path):
    """A negative control: a page that does everything that is forbidden."""
    from tests.browser.watched import Watched

    path = tmp_path / "bad.html"
    path.write_text(
        f"<html data-ready=true><script>{HACK};console.warn('w')</script>"
        "<img src=other.png><script>nothing()</script>"
    )
    context = browser.new_context()
    page = Watched(context.new_page(), path)
    page.open()
    assert page.dialogs == ["1"]
    assert page.tab.evaluate("window.__hacked") == 1
    assert page.asked[1:] == [(tmp_path / "other.png").as_uri()]
    assert len(page.complaints) >= 2
    with pytest.raises(AssertionError):
        page.check()
    context.close()


def test_hostile_texts_are_shown_and_do_nothing(page_of, open_page):
    page = open_page(page_of("hostile"))
    page.all_steps()
    questions = []
    while True:
        questions += page.tab.locator("article.group .question").all_text_contents()
        page.tab.locator("article.group .answer").first.hover()
        if not page.tab.locator("#next-groups").is_enabled():
            break
        page.tab.locator("#next-groups").click()
    assert len(questions) == len(HOSTILE)
    for (name, text), shown in zip(HOSTILE.items(), questions, strict=True):
        if name in ("control", "surrogate", "separators", "invisible"):
            words = [word for word in text.split() if word.isascii() and word.isalnum()]
            assert [word for word in words if word not in shown] == [], name
        else:
            assert shown[:SHOWN] == text[:SHOWN], name
        assert "\x00" not in shown
        assert len(shown) < 10_000
    assert "left out here" in questions[list(HOSTILE).index("long")]
    for section in SECTIONS:
        assert page.tab.locator(f"section#{section}").is_visible()


def test_long_texts_are_shortened_with_a_note(page_of, open_page):
    page = open_page(page_of("hostile"))
    page.tab.locator("#search").fill("0123456789" * 30)
    (answers,) = {page.tab.locator("article.group .answer .text").count()}
    assert answers == 2
    text = page.tab.locator("article.group .answer .text").first.text_content()
    assert text.startswith("0123456789")
    assert "characters are left out here" in text


@pytest.mark.parametrize("part", ["no picture", "no answer"])
def test_what_is_not_in_the_run_is_said(part, page_of, open_page):
    if part == "no picture":
        page = open_page(page_of("old"))
        page.all_steps()
        assert page.tab.get_by_text("No picture").count() > 0
    else:
        page = open_page(page_of("without_evaluation"))
        words = page.tab.locator("section#evaluation").inner_text()
        assert "no evaluation" in words


def test_a_large_run_is_small_and_opens_quickly(page_of, open_page):
    path = page_of("large")
    assert path.stat().st_size < LARGEST_BYTES
    page = open_page(path)
    page.tab.add_init_script(FIRST_GROUP)
    seconds: list[float] = []
    for _ in range(5):  # another program may take the processor away now and then
        page.open()
        seconds.append(page.tab.evaluate("window.__firstGroup") / 1000)
    assert min(seconds) < LONGEST_SECONDS
    assert page.counted()[1] == 2000
    assert "sample" in page.tab.locator("section#answers").inner_text()
