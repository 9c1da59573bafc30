"""A page that is open in a browser, and everything that it said or asked for."""

import re
from pathlib import Path
from typing import Any

CARDS = """cards => cards.map(card => ({
    step: Number(card.dataset.step),
    draw: Number(card.dataset.draw),
    rewards: [...card.querySelectorAll(".answer .reward")].map(one => one.textContent),
}))"""
READY = "html[data-ready='true']"
"""There when the script of the page has shown all that it shows at first."""


class Watched:
    """A page in a browser."""

    def __init__(self, tab: Any, path: Path) -> None:
        self.tab = tab
        self.path = path
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        tab.on("console", self._on_console)
        tab.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        tab.on("request", lambda request: self.requests.append(request.url))
        tab.on("dialog", self._on_dialog)

    def _on_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def _on_dialog(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def open(self) -> None:
        """Open the file, and wait until it shows what it shows at first."""
        self.tab.goto(self.path.as_uri())
        self.tab.locator(READY).wait_for(state="attached")

    @property
    def asked(self) -> list[str]:
        """Addresses that the page asked for, beside what it holds itself."""
        return [url for url in self.requests if not url.startswith(("data:", "blob:"))]

    def check(self) -> None:
        """Check that nothing happened that must not happen on any page."""
        assert not self.complaints
        assert not self.dialogs
        assert self.tab.evaluate("window.__hacked") is None
        images = (self.path.parent / "images").as_uri()
        elsewhere = set(self.asked) - {self.path.as_uri()}
        assert not [url for url in elsewhere if not url.startswith(images)]

    def all_steps(self) -> None:
        """Show the groups of all steps."""
        self.tab.locator("#all-steps").check()

    def counted(self) -> tuple[int, int]:
        """Return how many groups the page says that it found, and of how many."""
        text = self.tab.locator("#answers-count").inner_text()
        found = re.search(r"([\d,]+) of ([\d,]+) groups", text)
        assert found, text
        return int(found[1].replace(",", "")), int(found[2].replace(",", ""))

    def cards(self) -> list[dict[str, Any]]:
        """Return what the cards of the groups say, on all sheets from the first to the last."""
        following = self.tab.locator("#next-groups")
        cards = self.tab.eval_on_selector_all("article.group", CARDS)
        while following.is_enabled():
            following.click()
            cards += self.tab.eval_on_selector_all("article.group", CARDS)
        return cards

    def groups(self) -> list[tuple[int, int]]:
        """Return step and draw of all groups that the page found, in its order."""
        found = [(card["step"], card["draw"]) for card in self.cards()]
        assert len(found) == self.counted()[0]
        return found

    def current(self) -> tuple[int, int]:
        """Return step and draw of the group that the keys are at."""
        (card,) = self.tab.eval_on_selector_all("article.group.current", CARDS)
        return card["step"], card["draw"]
