"""One class of a closed set, by name: fine-grained classification, where the prompt does not list the classes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from gpg_vl.parsing import markup
from gpg_vl.types import Sample
from gpg_vl.verifiers import published_rules
from gpg_vl.verifiers.base import Grade, RuleVerifier

_BETWEEN = re.compile(r"[\s_\-‐-–/.]+")
_DENIED = re.compile(
    r"(?:\b(?:not|no|never|neither|nor|cannot|without|unlike|than|instead of)|n['’]t)"
    r"(?: (?:a|an|the|any|be|been|look|seem|like|of|really|quite|to))* $"
)
_ARTICLE = re.compile(r"^(?:a|an|the) ")


@dataclass(frozen=True, kw_only=True)
class Label(RuleVerifier):
    """1 when the answer names the true class and no other.

    The closed set is the sample's `choices`, else `classes`, else the truth alone. Names are compared without case, and with space,
    hyphen, underscore, slash and dot alike; "737" is not "737-300", and "rose" is not "pink primrose". Leniently, the one class name
    inside a longer answer counts, unless it is denied ("not a great dane"). Reference mode is Visual-RFT's rule
    without its symbolic stage (math-verify on the whole completion, before the tags are looked at): one name contains the other, so that
    an empty answer is always right.
    """

    classes: tuple[str, ...] = ()
    """The closed set, for rows that do not carry it as `choices`."""
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    """Other names: {great dane dog: great dane}."""

    def mark(self, answer: str, sample: Sample) -> Grade:
        truth = self._truth(sample)
        given = self._named(answer, self._closed(sample))
        if given is None:
            return Grade(0.0, answer, "unreadable: names no class of the set, or several")
        return Grade(float(given == truth), given, "right" if given == truth else "wrong")

    def reference(self, text: str, sample: Sample) -> Grade:
        right = published_rules.virft_label(text, str(sample.answer))
        return Grade(float(right), published_rules.reading(text), "right" if right else "wrong")

    def gold(self, sample: Sample) -> str:
        self._truth(sample)
        return str(sample.answer)

    def _closed(self, sample: Sample) -> tuple[str, ...]:
        return sample.choices or self.classes or (str(sample.answer),)

    def _named(self, answer: str, closed: tuple[str, ...]) -> str | None:
        names = _names(closed, tuple(self.aliases.items()))
        key = spelling(answer if self.mode == "strict" else markup.unwrapped(answer))
        if key in names or self.mode == "strict":
            return names.get(key)
        return _only_mention(key, names)

    def _truth(self, sample: Sample) -> str:
        closed = self._closed(sample)
        truth = _names(closed, tuple(self.aliases.items())).get(_of_class(str(sample.answer)))
        if truth is None:
            raise ValueError(f"answer {sample.answer!r} is not one of the {len(closed)} classes {', '.join(closed[:5])}...")
        return truth


def spelling(name: str) -> str:
    """What alike spellings of a class name have in common."""
    words = _BETWEEN.sub(" ", markup.normalise(name)).strip()
    return _ARTICLE.sub("", words)


_of_class = lru_cache(maxsize=8192)(spelling)
"""As `spelling`, for names of the data set only: what a model writes is not kept."""


@lru_cache(maxsize=256)
def _names(closed: tuple[str, ...], aliases: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Spelling -> the class's key. Two classes of one spelling are one class; an alias never takes a class's name."""
    classes = {spelling(name): spelling(name) for name in closed if spelling(name)}
    others = {spelling(name): spelling(target) for name, target in aliases if spelling(target) in classes}
    return others | classes


def _only_mention(text: str, names: Mapping[str, str]) -> str | None:
    """The class that a longer text names, taking the longest names first; None where it names several."""
    if len(text) > 2000 or not text:
        return None
    found = _pattern(tuple(names)).finditer(text)
    mentioned = {names[match[0]] for match in found if not _DENIED.search(text[max(0, match.start() - 40) : match.start()])}
    return mentioned.pop() if len(mentioned) == 1 else None


@lru_cache(maxsize=64)
def _pattern(names: Sequence[str]) -> "re.Pattern[str]":
    longest_first = sorted(map(re.escape, names), key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(longest_first)})(?!\w)")
