"""The glossary: it says what docs/reading_a_run.md says, and finds the term of any metric."""

import re
from typing import get_args

import pytest

from gpg_vl.report.page.glossary import Term, Unit, term_of, terms, word
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "reading_a_run.md"
METRICS = [term for term in terms() if term.is_metric]
WORDS = [term for term in terms() if not term.is_metric]


def plain(cell: str) -> str:
    """The words of a cell, without what makes them code or a link."""
    return re.sub(r"\[([^]]+)]\([^)]+\)", r"\1", cell).replace("`", "").strip()


def rows_of_the_docs() -> list[tuple[str, str, str, str]]:
    part = PAGE.read_text().split("\n## metrics.jsonl\n")[1].split("\n## rollouts\n")[0]
    rows: list[tuple[str, str, str, str]] = []
    for line in part.splitlines():
        if line.startswith("| `"):
            names, what, healthy, if_not = line.split("|")[1:-1]
            for name in re.findall(r"`([^`]+)`", names):
                rows.append((name, plain(what), plain(healthy), plain(if_not)))
    return rows


def test_the_docs_and_the_glossary_say_the_same():
    found = [(term.key, term.what, term.healthy, term.if_not) for term in METRICS]
    expected = rows_of_the_docs()
    assert len(expected) > 40
    for one, other in zip(found, expected, strict=True):
        assert one == other


def test_every_term_is_whole():
    assert {term.unit for term in METRICS} <= set(get_args(Unit))
    assert all(term.name and len(term.name) <= 48 for term in terms())
    assert len({term.name for term in METRICS}) == len(METRICS)
    anchors = [term.anchor for term in terms()]
    assert len(set(anchors)) == len(anchors)
    assert all(re.fullmatch(r"term-[A-Za-z0-9-]+", anchor) for anchor in anchors)


def test_words_are_sentences():
    assert {
        "group",
        "informative",
        "zero-variance",
        "weight",
        "reward",
        "held-out",
        "interval",
        "paired difference",
        "greedy",
        "visual reliance",
        "grey-picture control",
        "alpha",
        "epoch",
    } <= {term.key for term in WORDS}
    for term in WORDS:
        assert term.what[0].isupper(), term.key
        assert term.what.endswith("."), term.key
        assert len(term.what) < 240, term.key


@pytest.mark.parametrize(
    ("metric", "key", "name"),
    [
        ("reward", "reward", "mean reward"),
        ("reward/count", "reward/TASK", "mean reward of count"),
        ("reward/a/b", "reward/TASK", "mean reward of a/b"),
        ("part/format", "part/PART", "part of the reward: format"),
        ("seconds", "seconds", "seconds of a step"),
        ("seconds/score", "seconds/PHASE", "seconds of score"),
        ("held_out/low", "held_out/low", "lower end of its 95 % interval"),
        ("held_out/low (task)", "held_out/TASK", "held-out accuracy of low (task)"),
        ("held_out/<b>", "held_out/TASK", "held-out accuracy of <b>"),
        ("reward/TASK", "reward/TASK", "mean reward of TASK"),
    ],
)
def test_the_term_of_a_metric(metric, key, name):
    found = term_of(metric)
    assert found is not None
    assert (found.key, found.name) == (key, name)


@pytest.mark.parametrize("metric", ["", "reward/", "step", "time", "mine", "gate/else", "group"])
def test_what_is_no_metric_has_no_term(metric):
    assert term_of(metric) is None


def test_words_that_are_metrics_too_are_two_terms():
    metric = term_of("reward")
    assert isinstance(metric, Term)
    assert metric.anchor == "term-metric-reward"
    assert word("reward").anchor == "term-word-reward"
    with pytest.raises(KeyError):
        word("loss")
