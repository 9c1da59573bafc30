"""Explain every metric of a run, and the words of its page, in sentences for a newcomer.

The texts of the metrics are those of docs/reading_a_run.md; a test compares them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

Unit = Literal["share", "nats", "tokens", "tokens/s", "seconds", "count", "plain", "GB"]
"""share: 0 to 1 | nats: of log-probabilities | count: of things | plain: a number without a
unit."""
_FILE = Path(__file__).parent / "assets" / "glossary.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A metric, or a word of the page, and what it means.

    Example:
        Term(key="reward/TASK", name="mean reward of count", what="...", unit="plain")
    """

    key: str
    """Name of the metric, or a pattern whose last part is in capitals (reward/TASK); the word
    itself if it is no metric."""
    name: str
    """Short name for people."""
    what: str
    """Meaning."""
    healthy: str = ""
    """Values that are healthy; empty = there is nothing to say."""
    if_not: str = ""
    """What to do if it is not healthy; empty = there is nothing to say."""
    unit: Unit = "plain"
    is_metric: bool = True
    """False for a word of the page."""

    @property
    def anchor(self) -> str:
        """Id of its place in a page: letters, digits and hyphens."""
        kind = "metric" if self.is_metric else "word"
        letters = [letter if letter.isalnum() else "-" for letter in self.key]
        return f"term-{kind}-{''.join(letters)}"

    @property
    def placeholder(self) -> str:
        """Word in capitals that stands for any name: TASK, PART, PHASE; empty = there is none."""
        last = self.key.rpartition("/")[2]
        return last if self.is_metric and last.isupper() else ""


@cache
def terms() -> tuple[Term, ...]:
    """Return all terms: the metrics in the order of docs/reading_a_run.md, then the words."""
    content: Mapping[str, Any] = yaml.safe_load(_FILE.read_text("utf-8"))
    metrics = [Term(**row) for row in content["metrics"]]
    words = [Term(key=row["name"], **row, is_metric=False) for row in content["words"]]
    return (*metrics, *words)


def term_of(metric: str) -> Term | None:
    """Return the term of a metric; None = it is not a metric that is explained.

    Example:
        term_of("reward/count").name == "mean reward of count"
    """
    metrics = [term for term in terms() if term.is_metric]
    for term in metrics:
        if term.key == metric:
            return term
    for term in metrics:
        beginning = term.key.removesuffix(term.placeholder)
        if term.placeholder and metric.startswith(beginning) and metric != beginning:
            own = metric.removeprefix(beginning)
            return replace(term, name=term.name.replace(term.placeholder, own))
    return None


def word(name: str) -> Term:
    """Return the term of a word that is no metric.

    Raises:
        KeyError: the glossary does not have it.
    """
    for term in terms():
        if not term.is_metric and term.key == name:
            return term
    raise KeyError(name)
