"""The pages of made runs in a real browser: the system's Chromium, driven by Playwright.

Collected only where both are installed. The CI stage that is about the browser sets
GPG_VL_NEEDS_BROWSER, so that there the absence of either is a failure.
"""

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.watched import Watched

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
HAS_BROWSER = importlib.util.find_spec("playwright") is not None and CHROMIUM is not None
assert HAS_BROWSER or not os.environ.get("GPG_VL_NEEDS_BROWSER"), (
    "this environment was made for a browser; install playwright with pip, and chromium"
)
collect_ignore_glob = [] if HAS_BROWSER else ["test_*.py"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Start the browser, once."""
    from playwright.sync_api import sync_playwright

    as_root = ["--no-sandbox"] if hasattr(os, "getuid") and os.getuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=as_root)
        yield started
        started.close()


@pytest.fixture(scope="session")
def page_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Write a run of a kind of `made_runs`, and its page into it, once: `page_of("finished")`."""
    from gpg_vl.report.page.write import write_page
    from tests import made_runs

    kinds = {**made_runs.KINDS, "large": made_runs.large, "drawn": made_runs.drawn}
    written: dict[str, Path] = {}

    def page(kind: str) -> Path:
        if kind not in written:
            made = kinds[kind](tmp_path_factory.mktemp(kind))
            run = made[0] if isinstance(made, tuple) else made
            written[kind] = write_page([run], run / "report.html")
        return written[kind]

    return page


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Watched]]:
    """Open a file in a tab of its own: `open_page(path, color_scheme="dark")`.

    At the end of the test no page may have complained, asked for anything from elsewhere, or run a
    script that a text brought with it.
    """
    opened: list[Watched] = []

    def open_(path: Path, **options: Any) -> Watched:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        watched = Watched(context.new_page(), path)
        opened.append(watched)
        watched.open()
        return watched

    yield open_
    for watched in opened:
        watched.check()
        watched.tab.context.close()
