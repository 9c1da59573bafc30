r"""Read the true answer of a row: take off what published sets write around it.

R1 sets write `<think>...</think> <answer> 3 </answer>`, MATH `... = \boxed{3}.`, GSM8K
`...\n#### 3`, LaTeX `$3$`, LLaVA-CoT `<CONCLUSION> 3 </CONCLUSION>`, The Cauldron `Answer: 3`.
What is inside is the truth. Boxes are handed on: `verifiers.boxes` and its readers know them.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, cast

import numpy as np

from gpg_vl.data.columns import cells
from gpg_vl.errors import shown
from gpg_vl.parsing import markup

ONE_OF_SEVERAL = frozenset({"number", "value", "expression", "label"})
"""Kinds whose list of truths holds several accepted answers, any of which is right."""
_OF_BOXES = frozenset({"boxes", "detection"})
_OURS = ONE_OF_SEVERAL | _OF_BOXES | {"choice"}
_MAX_LAYERS = 8
_PLAIN = re.compile(r"([-+]?[0-9]+)(\.[0-9]+)?")
_ANSWER_TAG = re.compile(r"</?answer>", re.IGNORECASE)
_CONCLUSION = re.compile(r"<CONCLUSION>((?:(?!<CONCLUSION>).)*)</CONCLUSION>\s*", re.DOTALL)
"""Last part of a solution of LLaVA-CoT."""
_ANSWER_WORD = re.compile(
    r"(?:(?:the|final|correct) ){0,3}answer(?: is)?\s*[:：]\s*(\S[^\n]*)", re.IGNORECASE
)
"""`Answer: B`, as The Cauldron writes it."""
_HASHES = re.compile(r"(?:^|\n)[ \t]*####(?!#)[ \t]*([^\n]*?)\s*$")  # ...\n#### 72
_DOLLARS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox)\s*(?=\{)")


def read_truth(value: Any, kind: str, words: Sequence[str] = ()) -> Any:
    """Return the true answer that a cell holds, as JSON; for kind number the text 2 is the number.

    For a number, value, expression or label, a list of several is any one of them; a list of one is
    that one. For a kind of the user's own the value is not interpreted.

    Args:
        value: the cell.
        kind: `answer_kind` of the row.
        words: the options of a choice: one that is written as `$6$` is not unwrapped.

    Raises:
        ValueError: it is missing, or no answer of this kind.
    """
    value = cells.plain(value)
    if cells.is_missing(value):
        raise ValueError(f"answer is missing: got {shown(value)}")
    if kind not in _OURS:
        return value
    if isinstance(value, str):
        value = cells.visible(value)
    if _is_written_null(value):
        raise ValueError(
            f"answer is missing: got the text {shown(value)}, which pandas writes for an empty cell"
        )
    if kind in ONE_OF_SEVERAL:
        return _one_or_several(value, kind)
    if isinstance(value, list) and kind == "choice":
        members = cast(list[Any], value)
        members = [cells.visible(each) if isinstance(each, str) else each for each in members]
        return [member if member in words else _one(member, kind) for member in members]
    if isinstance(value, list | dict) and kind in _OF_BOXES:
        return cast(Any, value)
    if isinstance(value, str) and value in words:
        return value
    return _one(value, kind)


def _is_written_null(value: Any) -> bool:
    return isinstance(value, str) and value.strip() in cells.WRITTEN_NULLS


def _one_or_several(value: Any, kind: str) -> Any:
    """Return one accepted answer, or the list of several."""
    if isinstance(value, str):
        value = unwrapped(value)
        members = _members(value, kind)
        if members is not None:
            value = members
    if not isinstance(value, list):
        return _one(value, kind)
    accepted: dict[str, Any] = {}  # by its text: 3 and "3" are one answer
    for member in cast(list[Any], value):
        answer = _answer_of_record(member)
        if not (cells.is_missing(answer) or _is_written_null(answer)):
            answer = _one(answer, kind)
            accepted.setdefault(str(answer), answer)
    if not accepted:
        raise ValueError(
            f"answer is missing: got {shown(cast(object, value))}, a list without an answer"
        )
    answers = list(accepted.values())
    return answers[0] if len(answers) == 1 else answers


def _members(text: str, kind: str) -> list[Any] | None:
    """Return the members of a text that is a list of accepted answers: a cell of a CSV file.

    A list of numbers is that only for a number or a label: `[1, 2]` may be an interval.
    """
    members = cells.listed(text)
    if members is None and kind == "label" and re.fullmatch(r"\[.*,.*\]", text, re.DOTALL):
        raise ValueError(
            f"answer {shown(text)} looks like a list and is none in JSON or Python; write "
            '["sofa", "couch"]'
        )
    if members is None or kind in {"number", "label"}:
        return members
    if all(isinstance(member, str | Mapping) for member in members):
        return members
    return None


def _answer_of_record(member: Any) -> Any:
    """Return the answer of one of VQA's records {"answer": "net", "answer_confidence": "yes"}."""
    if not isinstance(member, Mapping):
        return member
    record = cast(Mapping[str, Any], member)
    return record.get("answer", record)


def _one(value: Any, kind: str) -> Any:
    """Return one answer without its wrapping."""
    if isinstance(value, bool):
        raise ValueError(
            f"answer is {value}, expected the truth of a {kind}; write words in quotes, for "
            "example 'yes'"
        )
    fields = cells.mapped(value) if isinstance(value, str) and kind not in _OF_BOXES else value
    if isinstance(fields, Mapping):
        names = list(cast(Mapping[str, Any], fields))
        raise ValueError(
            f"answer is a mapping of {shown(names)}, expected the truth of a {kind}; name the "
            "field with the truth: `columns: {answer: reward_model.ground_truth}`"
        )
    if isinstance(value, str):
        text = unwrapped(value)
        return _plain_number(text) if kind == "number" else text
    if isinstance(value, float):
        return _written(value)
    if isinstance(value, int):
        return value
    raise ValueError(
        f"answer is a {type(value).__name__}, {shown(value)}, expected the truth of a {kind}: text "
        "or a number"
    )


def _plain_number(text: str) -> int | float | str:
    """Return the number that a text is, as a cell of a CSV file.

    A text of which a digit or a sign would be lost stays as it is, such as 3.10 or 1,234.
    """
    plain = _PLAIN.fullmatch(text)
    if plain is None or len(text) > sys.float_info.dig:
        return text
    whole, decimals = plain.groups()
    if decimals == ".0":  # 3.0, as pandas writes 3 beside empty cells
        text, decimals = whole, None
    exact = float(text) if decimals else int(text)
    return exact if str(exact) == text else text


def _written(number: float) -> float | str:
    """Return a float with the digits that are sure: 0.30000000000000004 is 0.3, 1e-07 0.0000001.

    A number of 32 bits, which tables hand on as 0.10000000149011612, has the digits of these.
    """
    with np.errstate(over="ignore"):
        short = np.float32(number)
    is_short = float(short) == number
    number = float(str(short)) if is_short else float(f"{number:.{sys.float_info.dig}g}")
    text = repr(number)
    return f"{Decimal(text):f}" if "e-" in text else number


# --- what is written around a truth ---------------------------------------------------------------


def unwrapped(text: str) -> str:
    """Return the answer inside a published truth; a text without wrapping as it is, stripped.

    Raises:
        ValueError: the wrapping is cut off, empty, or holds several answers.
    """
    bare = cells.visible(cells.text_of(text, "answer")).strip()
    for _ in range(_MAX_LAYERS):
        inner = _without_layer(bare)
        if not inner:
            raise ValueError(f"answer is missing: {shown(text)} holds no answer")
        if inner == bare:
            break
        bare = inner
    return bare


def _without_layer(text: str) -> str:
    """Remove the outermost wrapping."""
    for remove in _LAYERS:
        inner = remove(text).strip()
        if inner != text:
            return inner
    return text


def _answer_block(text: str) -> str:
    """Return the inside of the last answer block, else what comes after the thought."""
    if _ANSWER_TAG.search(text):
        inside = markup.last_answer(text)
        if inside == text.strip():
            raise ValueError(f"answer {shown(text)} has only one of <answer> and </answer>")
        return inside
    if "</think>" in text:
        return text.rpartition("</think>")[2]
    if text.count("<CONCLUSION>") == 1:
        conclusion = _CONCLUSION.search(text)
        if conclusion is not None and conclusion.end() == len(text):
            return conclusion[1]
    return text


def _last_line(text: str) -> str:
    """Return what stands behind the #### of the last line, as in GSM8K."""
    match = _HASHES.search(text)
    return match[1] if match else text


def _without_word(text: str) -> str:
    """Return what stands behind `Answer:`, where that is the whole."""
    match = _ANSWER_WORD.fullmatch(text)
    return match[1] if match else text


def _boxed(text: str) -> str:
    r"""Return the inside of the one `\boxed{}`, around the whole or at the end of a solution."""
    if "\\boxed" not in text:
        return text
    without_stop = text.rstrip(".。 ")
    whole = _inside_braces(without_stop.removeprefix("\\boxed").lstrip())
    if without_stop.startswith("\\boxed") and whole is not None:
        return whole
    insides = list(dict.fromkeys(markup.boxed(text)))
    if len(insides) != 1:
        raise ValueError(
            f"answer {shown(text)} has {len(insides)} different \\boxed{{}}, expected one; write "
            "the truth alone"
        )
    return insides[0]


def _without_dollars(text: str) -> str:
    """Remove the dollar signs around the whole of a formula; those of "$5" are an amount."""
    without_stop = text.rstrip(".。 ")
    for opening, closing in _DOLLARS:
        inside = without_stop[len(opening) : -len(closing)]
        if without_stop != opening + inside + closing or opening in inside or closing in inside:
            continue
        # "$3 and $" is no formula; "$ 3 $" is one
        if inside.strip() and inside[0].isspace() == inside[-1].isspace():
            return inside
    return text


def _without_command(text: str) -> str:
    r"""Remove `\text{}` around the whole."""
    command = _TEXT_COMMAND.match(text)
    if command is None:
        return text
    inside = _inside_braces(text[command.end() :])
    return text if inside is None else inside


def _inside_braces(text: str) -> str | None:
    """Return the inside of the braces around the whole of a text; None where there are none."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth <= 0:
            is_whole = place == len(text) - 1 and character == "}"
            return text[1:place] if is_whole else None
    return None


_LAYERS = (_answer_block, _last_line, _without_word, _boxed, _without_dollars, _without_command)
"""What may be removed, each of which leaves a text without it as it is."""
