"""Find out from the true answers of some rows which kind they are, and what has to be declared."""

import re
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple, cast

from gpg_vl.data.columns import cells, chats, options, true_boxes, true_options, truths
from gpg_vl.data.columns.options import Options
from gpg_vl.data.recognise.first_rows import Proposal, Table, cell
from gpg_vl.errors import shown
from gpg_vl.parsing import numbers, quantities
from gpg_vl.types import Size

MOST = 0.8
"""Share of the answers that must be of a kind before that kind is proposed for all of them."""
FITTING = 0.98
"""Share of the boxes that must lie inside their pictures before a way to read them is proposed."""
FEW = 20
"""Number of boxes below which two ways that both fit are told apart by a person."""
WORDS_OF_A_LABEL = 6
"""Words of the longest answers that are names rather than sentences, in the median."""
_MATHEMATICS = re.compile(r"\\[A-Za-z{]|[\^=<>√π∞]|\d\s*[a-z]\b|[(\[][^()\[\]]*,[^()\[\]]*[)\]]")
_TAG = re.compile(r"</?[A-Za-z]\w*>")
_PAIR = re.compile(r"\(\s*-?\d+(?:\.\d+)?\s*,\s*-?\d+(?:\.\d+)?\s*\)")
_DECIMAL_COMMA = re.compile(r"[-+]?\d{1,3}(?:\.\d{3})*,\d+|[-+]?\d+,\d+|[-+]?\d+")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+")
_LETTER = re.compile(r"\(?[A-J]\)?\.?")

Way = tuple[str, str]
"""Box format and frame."""
_BOUNDS = {"norm1": 1.0, "norm1000": 1000.0}
_PIXEL_WAYS: tuple[Way, ...] = (
    ("xyxy", "pixels"),
    ("xywh", "pixels"),
    ("polygon", "pixels"),
    ("xyxy", "norm1000"),
    ("xywh", "norm1000"),
)
_SHARE_WAYS: tuple[Way, ...] = (
    ("xyxy", "norm1"),
    ("xywh", "norm1"),
    ("cxcywh", "norm1"),
    ("polygon", "norm1"),
)


class Answered(NamedTuple):
    """The true answer of a row, and what it is judged by."""

    value: Any
    kind: str
    """Kind that the row names; empty = none."""
    options: Options
    sizes: tuple[Size, ...]


def answers_of(
    table: Table, proposal: Proposal, sizes_of: Callable[[Any], tuple[Size, ...]]
) -> list[Answered]:
    """Return the true answer of each row that has one.

    Args:
        sizes_of: returns the sizes of the pictures of a row that can be read.
    """
    name = proposal.columns.get("answer", "answer")
    answered: list[Answered] = []
    for row in table.rows:
        value = cell(row, name)
        if cells.is_missing(value):
            chat = table.chat(row)
            value = chat.answer if chat is not None else None
        if cells.is_missing(value):
            value = proposal.defaults.get("answer")
        if not cells.is_missing(value):
            value = _words_of(value)
            kind = str(cell(row, proposal.columns.get("answer_kind", "answer_kind")) or "")
            answered.append(Answered(value, kind, _options(row, proposal), sizes_of(row)))
    return answered


def _words_of(value: Any) -> Any:
    try:
        return chats.read_answer(value)
    except ValueError:  # the row is left out with this reason when it is tried
        return value


def declare(answered: Sequence[Answered], proposal: Proposal) -> None:
    """Propose the kind of the answers and what belongs to it, or ask."""
    without_kind = [each for each in answered if not each.kind]
    default = proposal.defaults.get("answer_kind")
    if without_kind and default is None:
        default = _kind(without_kind, proposal)
        proposal.defaults["answer_kind"] = default
    of_choice = [each for each in answered if (each.kind or default) == "choice"]
    of_boxes = [each for each in answered if (each.kind or default) in ("boxes", "detection")]
    if of_choice:
        _declare_index(of_choice, proposal)
    if of_boxes:
        _declare_boxes(of_boxes, proposal)


def _options(row: Any, proposal: Proposal) -> Options:
    name = proposal.columns.get("choices", "choices")
    value = cell(row, name) if isinstance(name, str) else [row.get(each) for each in name]
    if cells.is_missing(value):
        value = proposal.defaults.get("choices", ())
    try:
        return options.read_options(value)
    except ValueError:  # the row is left out with this reason when it is tried
        return Options(())


# --- the kind -------------------------------------------------------------------------------------


def _kind(answered: Sequence[Answered], proposal: Proposal) -> str:
    with_options = [each for each in answered if len(each.options.choices) >= 2]
    if 2 * len(with_options) >= len(answered) and with_options:
        others = len(answered) - len(with_options)
        if others:
            proposal.questions.append(
                f"{others} of {len(answered)} rows have no options and are left out; a column "
                "answer_kind in the rows says the kind of each, or a second source of the same "
                "file with another answer_kind can read them"
            )
        return "choice"
    if _share(answered, lambda each: _is_boxes(each.value)) >= MOST:
        return (
            "boxes" if _share(answered, lambda each: _is_one_box(each.value)) > 0.5 else "detection"
        )
    texts = _texts(answered)
    if not texts:
        return "label"
    return _kind_of_texts(texts, proposal)


def _kind_of_texts(texts: Sequence[Sequence[str]], proposal: Proposal) -> str:
    """Return the kind of answers that are numbers, values, mathematics or words.

    Args:
        texts: the accepted answers of each row.
    """
    is_number = _share_of_rows(texts, lambda text: numbers.number(text) is not None)
    is_value = _share_of_rows(texts, lambda text: quantities.read(text) is not None)
    if max(is_number, is_value) >= MOST:
        _ask_about_thousands(texts, proposal)
        others = round((1 - max(is_number, is_value)) * len(texts))
        if others:
            proposal.questions.append(
                f"{others} of {len(texts)} answers are no numbers; their rows are left out"
            )
        return "number" if is_number >= is_value else "value"
    has_comma = any("," in row[0] for row in texts)
    if has_comma and _share_of_rows(texts, lambda text: bool(_DECIMAL_COMMA.fullmatch(text))) == 1:
        proposal.keys.setdefault("decimal", ",")
        return "number"
    if _share_of_rows(texts, _is_mathematics) >= MOST:
        _ask_about_points(texts, proposal)
        return "expression"
    _ask_about_words(texts, is_value, proposal)
    return "label"


def _ask_about_words(texts: Sequence[Sequence[str]], is_value: float, proposal: Proposal) -> None:
    """Say what the kind label means for answers that are no plain names."""
    if is_value >= 0.1:
        count = round(is_value * len(texts))
        kinds = "number or label in each"
        if _share_of_rows(texts, lambda text: bool(_LETTER.fullmatch(text))) >= 0.1:
            kinds = (
                "number, label or choice in each, and a column choices with the options where the "
                'answer is the letter of one, such as ["green", "blue", "red"]'
            )
        proposal.questions.append(
            f"{count} of {len(texts)} answers are numbers and the others are words; label compares "
            "all of them as words (14 is not 14.0): add a column answer_kind to the rows, with "
            f"{kinds}; or make a file for each kind"
        )
    elif _share_of_rows(texts, lambda text: bool(_LETTER.fullmatch(text))) >= MOST:
        proposal.questions.append(
            "the answers are letters, but no column holds the options; label compares the letters. "
            "If there is such a column, or once you add one: columns.choices=NAME "
            "defaults.answer_kind=choice"
        )
    elif median(len(row[0].split()) for row in texts) > WORDS_OF_A_LABEL:
        proposal.questions.append(
            f"the answers are sentences, such as {shown(texts[0][0], 60)}; label asks for exactly "
            "these words, which no model will give: use rows with short answers, or a verifier of "
            "your own"
        )


def _ask_about_thousands(texts: Sequence[Sequence[str]], proposal: Proposal) -> None:
    """Ask about 1,234: one thousand or one point two."""
    with_comma = [row[0] for row in texts if "," in row[0]]
    if with_comma and all(_THOUSANDS.fullmatch(text) for text in with_comma):
        proposal.questions.append(
            f"the comma in {shown(with_comma[0])} is read as that of thousands; if it is the "
            "decimal sign: decimal=,"
        )


def _ask_about_points(texts: Sequence[Sequence[str]], proposal: Proposal) -> None:
    """Say that a pair of numbers is compared exactly, which a place in a picture should not be."""
    if _share_of_rows(texts, lambda text: _PAIR.fullmatch(text) is not None) >= MOST:
        proposal.questions.append(
            f"the answers are pairs of numbers, such as {shown(texts[0][0], 60)}, which expression "
            "compares exactly; if they are points in the picture, use boxes around them or a "
            "verifier of your own"
        )


def _texts(answered: Sequence[Answered]) -> list[list[str]]:
    """Return the accepted answers of each row, without what is written around them."""
    texts: list[list[str]] = []
    for each in answered:
        try:
            truth = truths.read_truth(each.value, "label")
        except ValueError:  # the row is left out with this reason when it is tried
            continue
        accepted = cast(list[Any], truth) if isinstance(truth, list) else [truth]
        texts.append(list(map(str, accepted)))
    return texts


def _share_of_rows(texts: Sequence[Sequence[str]], test: Callable[[str], bool]) -> float:
    """Return the share of the rows whose accepted answers all pass a test."""
    return _share(texts, lambda row: all(map(test, row)))


def _is_mathematics(text: str) -> bool:
    is_marked_up = _TAG.search(text) is not None  # its < and > are no signs of an inequality
    return quantities.read(text) is not None or (
        not is_marked_up and _MATHEMATICS.search(text) is not None
    )


def _share(values: Sequence[Any], test: Callable[[Any], bool]) -> float:
    return sum(map(test, values)) / max(1, len(values))


# --- places of options ----------------------------------------------------------------------------


def _declare_index(answered: Sequence[Answered], proposal: Proposal) -> None:
    """Propose the number of the first option, where truths are places and prove it."""
    places: list[tuple[int, int]] = []
    for each in answered:
        place = _place(each.value)
        if place is None or each.options.first is not None:
            return
        if each.options.choices and str(place) not in each.options.choices:
            places.append((place, _last_place(each.options)))
    if not places:
        _ask_about_numbers(answered, proposal)
        return
    from_zero = any(place == 0 for place, _ in places)
    from_one = any(place == count for place, count in places)
    declared = proposal.keys.get("answer_index")
    if from_zero != from_one and declared is None:
        proposal.keys["answer_index"] = 0 if from_zero else 1
    elif from_zero and from_one:
        proposal.questions.append(
            "the truths are whole numbers from 0 to the number of options, so they are no places "
            "of options; name another column: columns.answer=NAME"
        )
    elif declared is None:
        highest = max(place for place, _ in places)
        proposal.questions.append(
            f"the truths are whole numbers up to {highest} beside options; if 1 is the first "
            "option: answer_index=1, if 0 is: answer_index=0. Rows are left out until you say"
        )


def _ask_about_numbers(answered: Sequence[Answered], proposal: Proposal) -> None:
    """Ask about truths that are options called so, and could be places of other options, too."""
    with_options = [each for each in answered if each.options.choices]
    places = [true_options.may_be_another_place(each.value, each.options) for each in with_options]
    if "answer_index" in proposal.keys or not any(places):
        return
    proposal.questions.append(
        f"the truths, such as {shown(with_options[0].value, 60)}, are numbers beside options that "
        "are numbers: a text is read as the words of an option; if they are places of options: "
        "answer_index=0 or answer_index=1"
    )


def _last_place(options: Options) -> int:
    """Return the place of the last option, counted from 1."""
    return options.places[-1] + 1 if options.places else len(options.choices)


def _place(value: Any) -> int | None:
    plain = cells.plain(value)
    if isinstance(plain, str) and plain.strip().isdecimal():
        plain = int(plain)
    if isinstance(plain, bool) or not isinstance(plain, int):
        return None
    return plain


# --- boxes ----------------------------------------------------------------------------------------


def _is_boxes(value: Any) -> bool:
    return _corners(value, "xyxy") is not None or _corners(value, "polygon") is not None


def _is_one_box(value: Any) -> bool:
    return any(len(_corners(value, way) or ()) == 1 for way in ("xyxy", "polygon"))


def _corners(value: Any, box_format: str) -> list[list[float]] | None:
    """Return the corners of the boxes of an answer, read in one way; None where that fails."""
    try:
        found = true_boxes.read_boxes(truths.read_truth(value, "boxes"), box_format).answer
    except ValueError:
        return None
    return [_numbers_of(box) for box in found]


def _numbers_of(box: Any) -> list[float]:
    """Return the corners of a box, which may have a label beside it."""
    numbers = cast(Mapping[str, Any], box)["box"] if isinstance(box, Mapping) else box
    return cast(list[float], numbers)


def _declare_boxes(answered: Sequence[Answered], proposal: Proposal) -> None:
    """Propose a box format and a frame, in which the boxes lie inside their pictures."""
    is_settled = "frame" in proposal.defaults or "frame" in proposal.columns
    if is_settled and "box_format" in proposal.keys:
        return
    highest = max((_highest(each.value) for each in answered), default=0.0)
    fitting = _fitting_ways(answered, _SHARE_WAYS if highest <= 1 else _PIXEL_WAYS)
    if any(frame == "pixels" for _, frame in fitting):  # small pixels are thousandths as well
        fitting = [way for way in fitting if way[1] == "pixels"]
    if "box_format" in proposal.keys:
        fitting = [way for way in fitting if way[0] == proposal.keys["box_format"]]
    if is_settled:
        fitting = [way for way in fitting if way[1] == proposal.defaults.get("frame")]
    if not fitting:
        proposal.questions.append(
            "the boxes do not lie inside their pictures, however they are read; declare "
            "box_format=xyxy, xywh, cxcywh or polygon, and defaults.frame=pixels, norm1 or norm1000"
        )
        return
    box_format, frame = fitting[0]
    if box_format != "xyxy":
        proposal.keys["box_format"] = box_format
    if frame != "pixels":
        proposal.defaults.setdefault("frame", frame)
    _ask_about_boxes(answered, fitting, highest, proposal)


def _ask_about_boxes(
    answered: Sequence[Answered], fitting: Sequence[Way], highest: float, proposal: Proposal
) -> None:
    box_format, frame = fitting[0]
    sides: list[int] = []
    for each in answered:
        sides += map(max, each.sizes)
    if not sides and frame == "pixels":
        proposal.questions.append(
            "no picture could be read, so it is not known whether the boxes lie inside them"
        )
    elif frame == "pixels" and highest <= 1000 < median(sides):
        proposal.questions.append(
            f"no number of a box is above 1000, but most pictures are larger (up to {max(sides)} "
            "pixels); if the numbers are thousandths of the picture: defaults.frame=norm1000"
        )
    elif len(fitting) > 1 and len(answered) < FEW:
        others = ", ".join(f"{way[0]} in {way[1]}" for way in fitting[1:])
        proposal.questions.append(
            f"the boxes are read as {box_format} in {frame}, but there are too few to prove it "
            f"({others} would fit, too); if that is wrong: box_format=..., defaults.frame=..."
        )


def _highest(value: Any) -> float:
    for box_format in ("xyxy", "polygon"):
        corners = _corners(value, box_format)
        if corners:
            return max(max(box) for box in corners)
    return 0.0


def _fitting_ways(answered: Sequence[Answered], ways: Sequence[Way]) -> list[Way]:
    fitting: list[Way] = []
    for way in ways:
        if _share(answered, lambda each, way=way: _fits(each, way)) >= FITTING:
            fitting.append(way)
    return fitting


def _fits(each: Answered, way: Way) -> bool:
    """Return True if boxes that are read in this way have an area and lie inside the picture."""
    box_format, frame = way
    corners = _corners(each.value, box_format)
    if corners is None:
        return False
    width = height = _BOUNDS.get(frame, float("inf"))
    if frame == "pixels" and each.sizes:
        width = max(size[0] for size in each.sizes)
        height = max(size[1] for size in each.sizes)
    slack = 1.0 if frame == "pixels" else 0.005 * width
    for x1, y1, x2, y2 in corners:
        has_area = x1 < x2 and y1 < y2
        is_inside = min(x1, y1) >= -slack and x2 <= width + slack and y2 <= height + slack
        if not (has_area and is_inside):
            return False
    return True
