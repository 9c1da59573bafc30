"""Read the number of an option, where the question lists its options by numbers: 1. cat 2. dog."""

import re
from collections.abc import Sequence

from gpg_vl.parsing import markup
from gpg_vl.parsing.choices import cues, is_question, phrase_behind

_NUMBERED = re.compile(r"[(（]?(\d{1,2})[)）]?(?:[.:：、](?!\d))?\s*(.*)", re.DOTALL)
"""A number and its words: "2. big dog"; but not 2.5."""


def are_numbered(question: str, choices: Sequence[str]) -> bool:
    """Return True where a question lists its options in order by numbers: "1. cat 2. dog".

    Where an option is a number itself, a number in the answer would be ambiguous.
    """
    if not choices or any(re.search(r"\d", option) for option in choices):
        return False
    listed: list[str] = []
    for place, option in enumerate(choices, 1):
        listed.append(rf"(?<![\w.]){place}\s?[.):：、]\s*{re.escape(option.strip())}(?!\w)")
    return re.search(r"[\s,;，；(（|]{0,8}".join(listed), question, re.IGNORECASE) is not None


def named_option(text: str, choices: Sequence[str], *, exactly: bool) -> int | None:
    """Return the index of the option that a text names by its number: "2", "(2)", "2. dog".

    Args:
        exactly: the number is the whole text; otherwise it may stand in `\\boxed{}` or behind "the
            answer is", too.
    """
    if is_question(text):
        return None
    phrases = [text.strip()]
    if not exactly and len(text) <= markup.MAX_COMPARED:
        bare = markup.unwrapped(text)
        stated = [phrase_behind(text, cue.end()) for cue in cues(text)]
        phrases = [bare, *markup.boxed(text), *stated]
    indices: list[int] = []
    for phrase in phrases:
        label = _NUMBERED.match(phrase)
        if label is None:
            continue
        index = int(label[1]) - 1
        if not 0 <= index < len(choices):
            return None
        if markup.normalise(label[2]) not in {"", markup.normalise(choices[index])}:
            return None  # another option's words, or a second number
        indices.append(index)
    return markup.agreed(indices)
