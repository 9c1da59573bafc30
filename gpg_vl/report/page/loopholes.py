"""Find answers that earn the reward although they are not the truth.

`gpg_vl.verifiers.exploits` tries texts on a verifier before training; here are the texts that a
policy found. Only what the rows of `rollouts/` hold is used, and only truths that are one number or
one text: of other kinds the verifier alone can say what is right.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpg_vl.errors import one_line
from gpg_vl.parsing.numbers import lenient_number
from gpg_vl.report.page.contents import GroupRow, Row, RunContents
from gpg_vl.report.page.finding import (
    QUOTED,
    answers_of,
    commonest,
    percent,
    quoted,
    recent_groups,
    setting,
    truth_of,
)

FULL = 0.9
"""Share of the largest reward from which an answer counts as fully paid."""
LEAST_PAID = 20
"""Fewest fully paid answers that are judged: a share of fewer is chance."""
OFTEN = 0.2
"""Share of the fully paid answers from which an oddity is a loophole: a rare one is a slip of the
model, or a rule of the verifier that this page does not know."""
NEAR = 0.05
"""Relative difference of two numbers that a verifier may well call equal, by rounding."""
LONG_TRUTH = 40
"""Characters of the longest text whose answers are searched for lists of options."""
SAME_TRUTHS = 3
"""Number of different truths for which one answer may not be fully right."""
_NUMBER = re.compile(r"(?<![A-Za-z\d.])-?\d+(?:\.\d+)?")
_FORMULA = re.compile(r"[/^\\*×·√=%²³]|\d[eE][+-]?\d|\bpi\b|π")
"""Signs of a value that is more than one plain number or a list of them."""
_BETWEEN = re.compile(r"[,;/|\n]|\bor\b|\band\b", re.IGNORECASE)
"""What stands between the members of a list of options."""

Paid = tuple[GroupRow, Row]
"""An answer that earned the full reward, with its group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loophole:
    """A way in which answers earn the full reward without being right.

    Example:
        Loophole(text="62.0 % of the fully paid answers ...", groups=(group,))
    """

    text: str
    """A sentence with numbers and an example."""
    groups: Sequence[GroupRow]
    """Groups with such answers."""


def loopholes(run: RunContents) -> list[Loophole]:
    """Return the loopholes that the recent answers of a run use."""
    paid = fully_paid(run)
    if len(paid) < LEAST_PAID:
        return []
    oddities: list[tuple[Callable[[GroupRow, Row], bool], str]] = [
        (_is_another, "hold another number than the truth, or several"),
        (_offers_several, "offer several answers at once"),
        (_has_two_tags, "have more than one answer tag"),
    ]
    found = [_oddity(paid, is_odd, words) for is_odd, words in oddities]
    found.append(_same_for_all(paid))
    return [loophole for loophole in found if loophole is not None]


def weak_settings(run: RunContents) -> list[str]:
    """Return the settings of the reward that pay for more than a right, well-formed answer."""
    mode, combine = setting(run, "reward", "mode"), setting(run, "reward", "combine")
    weak = [f"`reward.mode: {mode}`"] if mode in ("reference", "lenient") else []
    return [*weak, "`reward.combine: sum`"] if combine == "sum" else weak


def fully_paid(run: RunContents) -> list[Paid]:
    """Return the recent answers that earned (nearly) the full reward."""
    parts = [setting(run, "reward", "accuracy"), setting(run, "reward", "format")]
    largest = sum(float(part) for part in parts if isinstance(part, int | float)) or 1.0
    paid: list[Paid] = []
    for group, answer in answers_of(recent_groups(run)):
        reward = answer.get("reward")
        if isinstance(reward, int | float) and reward >= FULL * largest:
            paid.append((group, answer))
    return paid


def _oddity(
    paid: Sequence[Paid], is_odd: Callable[[GroupRow, Row], bool], words: str
) -> Loophole | None:
    """Return a loophole if an oddity is frequent among the answers that are fully paid."""
    odd = [(group, answer) for group, answer in paid if is_odd(group, answer)]
    if len(odd) < OFTEN * len(paid):
        return None
    group, answer = odd[-1]
    return Loophole(
        text=(
            f"{percent(len(odd) / len(paid))} of {len(paid):,} recent answers with the full reward "
            f"{words}: {quoted(answer.get('text', ''))} where {quoted(group.row.get('truth'))} "
            "is the truth."
        ),
        groups=[group for group, _ in odd],
    )


def _read(answer: Row) -> str:
    """Return what was read out of a text; the text where nothing was."""
    return str(answer.get("answer") or answer.get("text") or "")


def _number_of(truth: Any) -> float | None:
    """Return a truth that is one number; None = it is none."""
    if isinstance(truth, bool):
        return None
    if isinstance(truth, int | float):
        return float(truth)
    return lenient_number(truth) if isinstance(truth, str) else None


def _is_another(group: GroupRow, answer: Row) -> bool:
    """Return True if the truth is a number and the answer holds another one."""
    truth = _number_of(group.row.get("truth"))
    if truth is None:
        return False
    given = _read(answer)
    whole = lenient_number(given)
    if whole is not None:
        return _differs(whole, truth)
    if _FORMULA.search(given):  # a fraction, a power or a unit: its verifier reads more than this
        return False
    return any(_differs(float(word), truth) for word in _NUMBER.findall(given))


def _differs(number: float, truth: float) -> bool:
    """Return True for another number; counts and years must be equal, measures only near."""
    if number.is_integer() and truth.is_integer():
        return number != truth
    return abs(number - truth) > NEAR * abs(truth)


def _offers_several(group: GroupRow, answer: Row) -> bool:
    """Return True if the truth is a short text and the answer is a list that holds more."""
    truth = group.row.get("truth")
    if not isinstance(truth, str) or len(truth) > LONG_TRUTH or _number_of(truth) is not None:
        return False
    given = str(answer.get("text", ""))
    is_list = len(_BETWEEN.findall(_inside(given))) >= 2
    return is_list and not _BETWEEN.search(truth)


def _inside(text: str) -> str:
    """Return a text's answer block; a thought before it may list options."""
    return text.rpartition("<answer>")[2].partition("</answer>")[0]


def _has_two_tags(group: GroupRow, answer: Row) -> bool:
    del group
    return str(answer.get("text", "")).count("<answer>") > 1


def _same_for_all(paid: Sequence[Paid]) -> Loophole | None:
    """Return a loophole if one answer is fully paid for different truths."""
    comparable = [(group, answer) for group, answer in paid if _names_its_truth(group, answer)]
    text, share = commonest([_read(answer).strip() for _, answer in comparable])
    groups = [group for group, answer in comparable if _read(answer).strip() == text]
    truths = sorted({truth_of(group) for group in groups})
    if share < OFTEN or len(truths) < SAME_TRUTHS:
        return None
    shown = ", ".join(one_line(truth, QUOTED) for truth in truths[:5])
    return Loophole(
        text=(
            f"One answer, {quoted(text)}, earns the full reward for {len(truths)} different truths "
            f"({shown}): {percent(share)} of {len(comparable):,} recent answers with the full "
            "reward."
        ),
        groups=groups,
    )


def _names_its_truth(group: GroupRow, answer: Row) -> bool:
    """Return True if a right answer would hold the words of the truth.

    Boxes overlap, and the letter or the number of an option is another one in another question.
    """
    truth = group.row.get("truth")
    if not isinstance(truth, str | int | float):
        return False
    given = _read(answer)
    if _number_of(truth) is not None:
        return any(character.isdigit() for character in given)
    return not _is_letter(str(truth)) and not _is_letter(given)


def _is_letter(text: str) -> bool:
    """Return True for the letter of an option: A, (A), A."""
    letters = [character for character in text if character.isalnum()]
    return len(letters) < 2
