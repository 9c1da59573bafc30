"""A page that is watched: it follows its run, and what its reader looks at stays."""

import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.report.page import watch
from gpg_vl.report.page.watch import HOST, make_server
from gpg_vl.run_folder import RunFolder
from tests import made_runs
from tests.browser.watched import READY, Watched

LONG = "It is a loop.\n" * 40
PATIENCE_MS = 20_000
"""Milliseconds within which a page that looks every two seconds has what is new."""
NOT_ANSWERED = "error: Failed to load resource: net::ERR_CONNECTION_REFUSED"
"""What the browser itself says of a server that has ended; no page can keep it from that."""


class Live(Watched):
    """A page in a browser that comes from the server of a run."""

    def __init__(self, tab: Any, run: Path, server: ThreadingHTTPServer) -> None:
        super().__init__(tab, run)
        self.address = f"http://{HOST}:{server.server_port}/"
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        self._thread.start()

    def open(self) -> None:
        self.tab.goto(self.address)
        self.tab.locator(READY).wait_for(state="attached")

    def end(self) -> None:
        """End the server."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def check(self) -> None:
        assert not self.complaints
        assert not self.dialogs
        assert not [url for url in self.asked if not url.startswith(self.address)]

    def waits_for(self, words: str, where: str = "#head") -> None:
        """Wait until a part of the page says something."""
        found = self.tab.locator(where).get_by_text(words)
        found.first.wait_for(timeout=PATIENCE_MS)


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(watch, "REST", 0.0)
    return made_runs.make(
        tmp_path, "live", steps=3, total=80, moments=["before"], pictures="all", seconds_ago=1
    )


@pytest.fixture
def page(browser, run) -> Iterator[Live]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    live = Live(context.new_page(), run, make_server(run, 0))
    live.open()
    yield live
    live.check()
    context.close()
    live.end()


def take_step(run: Path, step: int) -> None:
    """Write a further step into a run, as its training does."""
    groups = made_runs.groups_of(made_runs.samples(), step, 0.5)
    answers = [made_runs.completion(f"<think>{LONG}</think><answer>1</answer>")] * 2
    groups[0] = made_runs.group(
        groups[0].prompt.sample, groups[0].prompt_index, answers, made_runs.verifiers()
    )
    log = RunFolder(run, rank=0, pictures="all", true_boxes=made_runs.verifiers().true_boxes)
    log.rollouts(step, groups, groups, made_runs.weights_of(groups))
    log.metrics(step, made_runs.numbers(step, groups))


def test_a_new_step_is_shown_without_a_reload(page, run):
    page.tab.evaluate("window.notReloaded = true")
    page.waits_for("step 3 of 80")
    assert page.current()[0] == 3
    take_step(run, 4)
    page.waits_for("step 4 of 80")
    assert page.current()[0] == 4, "a reader at the last step stays at the last step"
    assert page.tab.locator("#step-output").inner_text() == "4"
    assert page.tab.evaluate("window.notReloaded")


def test_a_step_before_the_page_asks_for_the_first_time_is_not_missed(page, run):
    take_step(run, 4)
    page.waits_for("step 4 of 80")


def test_what_the_reader_chose_stays(page, run):
    take_step(run, 4)
    page.waits_for("step 4 of 80")
    page.tab.locator("#filter-task").select_option(label="count")
    page.tab.locator("#search").fill("loop")
    page.tab.locator("#item-tag").select_option(label="box")
    page.tab.locator("article.group .talk > .more").first.click()
    assert page.tab.locator("article.group.whole").count() == 1
    chosen = page.counted()[0]
    page.tab.locator("#all-steps").check()
    page.tab.locator("article.group").first.focus()
    take_step(run, 5)
    page.waits_for("step 5 of 80")
    assert page.tab.locator("#filter-task").input_value() == "=count"
    assert page.tab.locator("#search").input_value() == "loop"
    assert page.tab.locator("#item-tag").input_value() == "=box"
    assert page.tab.locator("#all-steps").is_checked()
    whole = page.tab.locator("article.group.whole")
    assert whole.get_attribute("data-step") == "4"
    assert whole.locator(".talk > .more").inner_text() == "beginnings only"
    assert page.counted()[0] >= chosen
    assert page.tab.evaluate("document.activeElement.matches('article.group.current')")


@pytest.mark.parametrize("key", ["Home", "ArrowLeft"])
def test_a_step_that_is_not_the_last_stays(key, page, run):
    page.tab.locator("#step").focus()
    page.tab.keyboard.press(key)
    page.tab.keyboard.press("j")
    page.tab.keyboard.press("j")
    before = page.current()
    assert before[0] == {"Home": 1, "ArrowLeft": 2}[key]
    top = page.tab.locator("article.group.current").bounding_box()["y"]
    take_step(run, 4)
    page.waits_for("step 4 of 80")
    assert page.current() == before
    after = page.tab.locator("article.group.current").bounding_box()["y"]
    assert after == pytest.approx(top, abs=3), "what is read does not move"


def test_the_values_of_a_chart_stay(page, run):
    figure = page.tab.locator("figure.chart").first
    figure.focus()
    page.tab.keyboard.press("ArrowLeft")
    page.tab.keyboard.press("ArrowLeft")
    said = figure.locator(".readout").inner_text()
    assert said.startswith("2:")
    take_step(run, 4)
    page.waits_for("step 4 of 80")
    assert page.tab.locator("figure.chart").first.locator(".readout").inner_text() == said


def test_a_paused_page_shows_nothing_new_until_it_goes_on(page, run):
    button = page.tab.locator("#live")
    assert button.inner_text() == "live"
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert button.inner_text() == "paused"
    asked = len(page.asked)
    take_step(run, 4)
    page.tab.wait_for_timeout(4500)
    assert len(page.asked) == asked
    assert "step 3 of 80" in page.tab.locator("#head").inner_text()
    button.click()
    page.waits_for("step 4 of 80")
    assert button.inner_text() == "live"


def test_a_server_that_ends_is_said_and_breaks_nothing(page):
    page.end()
    page.waits_for("not connected", ".tools")
    page.tab.keyboard.press("[")
    assert page.current()[0] == 2
    page.tab.locator("article.group figure.picture").first.click()
    assert page.tab.locator("#zoom").is_visible()
    assert page.complaints
    assert set(page.complaints) == {NOT_ANSWERED}
    page.complaints.clear()


def test_a_run_folder_that_vanishes_is_said(page, run):
    shutil.rmtree(run)
    page.waits_for("run folder is gone", ".tools")
    assert page.tab.locator("article.group").count() > 0
    assert {"404" in complaint for complaint in page.complaints} == {True}
    page.complaints.clear()


def test_a_large_picture_comes_in_full_size_from_the_run_folder(page, run):
    sample = replace(made_runs.samples()[0], images=(made_runs.photograph(1),), sizes=((640, 480),))
    answers = [made_runs.completion("<answer>1</answer>")]
    groups = [made_runs.group(sample, 99, answers, made_runs.verifiers())]
    log = RunFolder(run, rank=0, pictures="all", true_boxes=made_runs.verifiers().true_boxes)
    log.rollouts(4, groups, groups, made_runs.weights_of(groups))
    log.metrics(4, made_runs.numbers(4, groups))
    page.waits_for("step 4 of 80")
    small = page.tab.locator("article.group figure.picture").first
    assert small.locator("img").evaluate("image => image.naturalWidth") == 320
    small.click()
    page.waits_for("640 x 480 pixels, full size", "#zoom")
    image = page.tab.locator("#zoom img")
    assert image.evaluate("image => image.naturalWidth") == 640
    assert image.get_attribute("src").startswith(f"{page.address}images/")
