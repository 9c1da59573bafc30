"""Verify the name of one class of a closed set: fine-grained classification.

The prompt does not list the classes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar, cast

from gpg_vl.errors import SHOWN_CHARACTERS, shown
from gpg_vl.parsing import markup
from gpg_vl.types import Sample
from gpg_vl.verifiers import published_rules
from gpg_vl.verifiers.base import Grade, RuleVerifier
from gpg_vl.verifiers.chance import largest_share

MAX_LENGTH = 2000
"""Characters of the longest answer in which a class name is searched."""
_SEPARATORS = re.compile(
    r"(?:[\s_]"
    r"|(?:(?<=\S)|(?<=\d\s))-|-(?!\.?\d)"  # but not the sign of -5
    r"|(?<=[^\s\d-])\.|\.(?!\d)"  # but not the point of 3.5 and .5
    r"|(?<!\d)/|/(?!\d))+"  # but not the fraction 3/5
)
_DENIED = re.compile(
    # not / isn't
    r"(?:\b(?:not|no|never|neither|nor|cannot|without|unlike|than|instead of)|n['’]t)"
    # words between the denial and the class: not really a | great dane
    r"(?: (?:a|an|the|any|be|been|look|seem|like|of|really|quite|to))* $"
)
_ARTICLE = re.compile(r"^(?:a|an|the) ")


@dataclass(frozen=True, kw_only=True)
class Label(RuleVerifier):
    """1 when the answer names the true class and no other.

    The closed set is the sample's `choices`, else `classes`, else the truth alone. Names are
    compared without case, and with space, hyphen, underscore, slash and dot alike, but for the
    signs of a number; "737" is not "737-300", and "rose" is not "pink primrose". Leniently, the one
    class name inside a longer answer counts, unless it is denied ("not a great dane"). Reference
    mode is Visual-RFT's rule without its symbolic stage (math-verify on the whole completion,
    before the tags are read): one name contains the other, so that an empty answer is always right.
    """

    classes: tuple[str, ...] = ()
    """The closed set, for rows that do not carry it as `choices`."""
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    """Other names: {great dane dog: great dane}."""
    any_of: ClassVar[bool] = True

    def grade(self, answer: str, sample: Sample) -> Grade:
        truth = self._truth(sample)
        given = self._named(answer, self._closed_set(sample))
        if given is None:
            return Grade(0.0, answer, "unreadable: names no class of the set, or several")
        return Grade.of(given == truth, given)

    def reference(self, text: str, sample: Sample) -> Grade:
        right = published_rules.virft_label(text, str(sample.answer))
        return Grade.of(right, published_rules.reading(text))

    def reference_answer(self, sample: Sample) -> str:
        self._truth(sample)
        return str(sample.answer)

    def with_truth(self, sample: Sample, truth: Any) -> Sample:
        """Keep the accepted names as the closed set: an answer that names two is not one answer."""
        return replace(sample, answer=truth, choices=self._closed_set(sample))

    def chance_level(self, samples: Sequence[Sample]) -> float:
        """Compute the largest share of one class, whatever its spelling."""
        truths = {(place, self._truth(one)) for place, one in self.each_accepted(samples)}
        return largest_share([truth for _, truth in truths], len(samples))

    def _closed_set(self, sample: Sample) -> tuple[str, ...]:
        truths: Any = sample.answer
        if not isinstance(truths, list | tuple):
            truths = [truths]
        return sample.choices or self.classes or tuple(map(str, cast(Sequence[Any], truths)))

    def _named(self, answer: str, closed_set: tuple[str, ...]) -> str | None:
        """Return the class that an answer names; None for none or several."""
        names = _names(closed_set, tuple(self.aliases.items()))
        if self.mode == "strict":
            return names.get(spelling(answer))
        key = spelling(markup.unwrapped(answer))
        if key in names:
            return names[key]
        return _only_mention(key, names)

    def _truth(self, sample: Sample) -> str:
        closed_set = self._closed_set(sample)
        names = _names(closed_set, tuple(self.aliases.items()))
        truth = names.get(_spelling_of_class(str(sample.answer)))
        if truth is None:
            raise ValueError(
                f"answer {shown(sample.answer)} is not one of the {len(closed_set)} classes "
                f"{', '.join(closed_set[:5])[:SHOWN_CHARACTERS]}..."
            )
        return truth


def spelling(name: str) -> str:
    """Reduce a class name to what its spellings share: "the Great_Dane" -> "great dane"."""
    words = _SEPARATORS.sub(" ", markup.normalise(name)).strip()
    return _ARTICLE.sub("", words)


_spelling_of_class = lru_cache(maxsize=8192)(spelling)
"""`spelling` with a cache, for names of the data set only: a model's answers are not cached."""


@lru_cache(maxsize=256)
def _names(closed_set: tuple[str, ...], aliases: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Map the spelling of each name to the spelling of its class.

    Two classes of one spelling are one class; an alias never takes a class's name.
    """
    classes: dict[str, str] = {}
    for name in closed_set:
        key = spelling(name)
        if key:
            classes[key] = key
    others: dict[str, str] = {}
    for alias, target in aliases:
        if spelling(target) in classes:
            others[spelling(alias)] = spelling(target)
    return others | classes


def _only_mention(text: str, names: Mapping[str, str]) -> str | None:
    """Return the class that a longer text names; None where it names none or several.

    The longest names are read first, so that "pink primrose" does not name a rose.
    """
    if not text or len(text) > MAX_LENGTH:
        return None
    mentioned: set[str] = set()
    for match in _pattern(tuple(names)).finditer(text):
        before = text[max(0, match.start() - 40) : match.start()]
        if not _DENIED.search(before):
            mentioned.add(names[match[0]])
    return markup.agreed(mentioned)


@lru_cache(maxsize=64)
def _pattern(names: Sequence[str]) -> "re.Pattern[str]":
    longest_first = sorted(map(re.escape, names), key=len, reverse=True)
    # 5 is no word of -5, 3.5, 1,500 and 10:50
    before, behind = r"(?<![\w-])(?<!\d[.,:/](?=\d))(?<!\.(?=\d))", r"(?![\w+#]|(?<=\d)[.,:/]\d)"
    return re.compile(rf"{before}(?:{'|'.join(longest_first)}){behind}")
