"""List the layouts of published rows, and the names that columns of one meaning have.

Everything here is a table: `recognise` goes through it from the top and takes the first that fits.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from gpg_vl.data.columns import cells, chats, options, picture_cells, true_boxes
from gpg_vl.parsing.boxes import EDGE_NAMES

Columns = Mapping[str, Sequence[Any]]
"""Filled cells of each column, in order; fields of a mapping are columns by dotted name."""
Test = Callable[[Any], bool]

_MOST = 0.9
"""Share of the filled cells of a column that must pass a test."""


# --- tests on the cells of a column ---------------------------------------------------------------


def mostly(values: Sequence[Any], test: Test) -> bool:
    """Return True if most of the values pass a test; empty lists do not count."""
    filled = [value for value in values if not _is_empty_list(value)]
    passed = sum(map(test, filled))
    return bool(filled) and passed >= _MOST * len(filled)


def _is_empty_list(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip() == "[]"
    return value in ([], ())


def is_text(value: Any) -> bool:
    """Return True for words; a name of a picture is none."""
    return isinstance(value, str) and not is_picture(value)


def is_picture(value: Any) -> bool:
    """Return True for what holds or names one picture or several."""
    try:
        found = picture_cells.pictures_of(value)
    except ValueError:
        return False
    return bool(found) and all(map(_names_picture, found))


def is_local_picture(value: Any) -> bool:
    """Return True for what holds or names pictures on this machine."""
    return is_picture(value) and not any(
        map(picture_cells.is_url, picture_cells.pictures_of(value))
    )


def is_records(value: Any) -> bool:
    """Return True for a list of mappings."""
    members = cast(Sequence[Any], value) if isinstance(value, list | tuple) else ()
    return bool(members) and all(isinstance(member, Mapping) for member in members)


def _names_picture(picture: picture_cells.Picture) -> bool:
    """Return True for encoded bytes, an address, or the name of a file with pictures."""
    if not isinstance(picture, str) or picture_cells.is_url(picture):
        return True
    return picture_cells.is_file_name(picture)


def is_truth(value: Any) -> bool:
    """Return True for what may be a true answer: text, a number, a list, a box or a turn."""
    if isinstance(value, Mapping):
        return _is_box(value)
    if isinstance(value, bytes | bool):
        return False
    try:
        return not is_picture(chats.read_answer(value))
    except ValueError:  # a chat of other turns
        return False


def _is_box(value: Any) -> bool:
    """Return True for a record that names the numbers of a box."""
    try:
        return len(true_boxes.read_boxes(value, "xyxy").answer) == 1
    except ValueError:
        return False


def is_options(value: Any) -> bool:
    """Return True for two options or more, in any form."""
    try:
        return len(options.read_options(value).choices) >= 2
    except ValueError:
        return False


def are_options_of(values: Sequence[Any], truths: Sequence[Any]) -> bool:
    """Return True if each truth is one of the texts beside it, which all differ.

    Such a column of `answers` holds options, as in SAT; accepted answers would repeat themselves.
    """
    if len(values) != len(truths) or not mostly(values, is_options):
        return False
    for value, truth in zip(values, truths, strict=True):
        texts = options.read_options(value).choices
        if truth not in texts or len(set(texts)) < len(texts):
            return False
    return True


def is_referring(value: Any) -> bool:
    """Return True for a text, or a list of texts that each name the object of a box."""
    if not isinstance(value, list | tuple):
        return is_text(value)
    texts = cast(Sequence[Any], value)
    return bool(texts) and all(map(is_text, texts))


# --- names of columns -----------------------------------------------------------------------------

QUESTIONS = (
    *("question", "problem", "query", "instruction", "prompt", "question_text", "problem_text"),
    *("q", "input", "user_prompt", "text"),
)
"""Names of the column with the question, the surest first."""
EXPRESSIONS = ("expression", "referring", "sentence", "sent", "phrase", "caption", "sentences")
"""Names of the column that says which object a box is around."""
CLASSES = ("class", "class_name", "category", "species")
"""Names of columns that are as often the subject of a question as its answer."""
ANSWERS = (
    *("answer", "ground_truth", "reward_model.ground_truth", "solution", "gt", "correct_answer"),
    *("answers", "truth", "gold", "target", "label", "labels", "final_answer", "gt_answer"),
    "answer_key",
    *("correct_option", "correct_choice", "correct", "correct_choice_idx", "answer_idx"),
    *("answer_index", "label_idx", "cop", "multiple_choice_answer"),
    *("response", "output", "completion"),
    *CLASSES,
)
BOXES = ("bbox", "box", "boxes", "bboxes", "objects.bbox", "bounding_box", "gt_bbox", "polygon")
CHOICES = (
    *("choices", "options", "option", "answer_choices", "candidates", "mc_options"),
    "answer_options",
)
PICTURES = (
    *("decoded_image", "images", "image", "img", "imgs", "image_path", "img_path", "image_paths"),
    *("image_file", "image_name", "imgname", "image_filename", "picture", "pictures", "photo"),
    *("photos", "file_name", "filename", "image_bytes", "image_base64", "image_url", "image_urls"),
    *("img_filename", "img_file", "image_filepath", "filepath", "file_path"),
    *("images_file_names", "image_file_names", "file_names", "image_file_name"),
    *("url", "path", "file", "screenshot", "frame", "imageid", "image_id", "img_id"),
    *("png", "jpg", "jpeg", "webp"),
)
_OPTION_NAMES = ("option_", "option", "choice_", "choice", "answer_", "opt_", "opt", "op")
_OPTION_ENDS = ("abcdefgh", "ABCDEFGH", "12345678", "01234567")
OPTION_COLUMNS = [tuple("ABCDEFGHIJ")]
for _name in _OPTION_NAMES:
    for _ends in _OPTION_ENDS:
        OPTION_COLUMNS.append(tuple(_name + end for end in _ends))
"""Columns that hold one option each: at least the first two must be there."""
PICTURE_COLUMNS = tuple(f"image_{number}" for number in range(10))
"""Columns that hold one picture each, as in MMMU; some count from 0."""
IDS = ("question_id", "questionid", "index", "pid", "qid", "uid", "sample_id", "image_id")


_VAGUE = frozenset(
    {"q", "input", "text", "prompt", "target", "label", "labels", "correct", "cop", "truth", "gold"}
    | {"response", "output", "completion", "class", "classname", "category", "species"}
    | {"url", "path", "file", "frame", "polygon"}
)
"""Names that mean something else inside another column: `metadata.category` is no true answer."""


def spelling(name: str) -> str:
    """Return the name of a column without case, blanks, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def named(columns: Columns, names: Sequence[str], test: Test) -> str | None:
    """Return the first column of one of these names whose cells mostly pass a test.

    Where there is none, a field of a mapping that is called so, if no other field is; but for
    names that are vague there.
    """
    by_spelling = by_spellings(columns)
    for name in names:
        found = by_spelling.get(spelling(name))
        if found is not None and mostly(columns[found], test):
            return found
    for name in names:
        if spelling(name) in _VAGUE:
            continue
        fields = [each for each in columns if spelling(each.rpartition(".")[2]) == spelling(name)]
        if len(fields) == 1 and mostly(columns[fields[0]], test):
            return fields[0]
    return None


def by_spellings(columns: Columns) -> dict[str, str]:
    """Return the names of columns by their spelling; the first of one spelling counts."""
    return {spelling(name): name for name in reversed(list(columns))}


def edge_columns(columns: Columns) -> tuple[str, ...]:
    """Return the four columns that hold the edges of one box each; empty = there are none."""
    by_spelling = by_spellings(columns)
    for names in EDGE_NAMES:
        edges = [by_spelling.get(spelling(name), "") for name in names]
        if all(edge and mostly(columns[edge], _is_number) for edge in edges):
            return tuple(edges)
    return ()


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


# --- published layouts ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Layout of published rows.

    Example:
        Layout(name="EasyR1 rows", needs={"problem": is_text, "answer": is_truth})
    """

    name: str
    """Name in words, for the user."""
    needs: Mapping[str, Test]
    """Columns that must be there, and the test that most of their cells pass."""
    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    """Our column -> theirs, where the names alone do not tell."""
    source: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Other keys of a source that are known for this layout."""

    def fits(self, columns: Columns) -> bool:
        """Return True if the columns have this layout."""
        for name, test in self.needs.items():
            if name not in columns or not mostly(columns[name], test):
                return False
        return True


def _any(value: Any) -> bool:
    return not cells.is_missing(value)


def _is_from_and_value(value: Any) -> bool:
    turns = cast(Sequence[Any], value) if isinstance(value, list | tuple) else ()
    return bool(turns) and isinstance(turns[0], Mapping) and "from" in turns[0]


LAYOUTS = (
    Layout(
        name="a VLMEvalKit table: one column for each option",
        needs={"index": _any, "question": is_text, "A": _any, "B": _any, "answer": is_text},
        columns={"id": "index"},
    ),
    Layout(
        name="MMMU rows: options as text, pictures in image_1, image_2...",
        needs={"question": is_text, "options": is_options, "image_1": is_picture},
    ),
    Layout(
        name="MathVista rows",
        needs={"pid": _any, "question": is_text, "question_type": is_text, "answer_type": is_text},
        columns={"id": "pid", "images": "decoded_image"},
    ),
    Layout(
        name="A-OKVQA rows: the truth is the place of an option",
        needs={"question": is_text, "choices": is_options, "correct_choice_idx": _any},
        columns={"id": "question_id", "answer": "correct_choice_idx"},
        source={"answer_index": 0},
    ),
    Layout(
        name="ScienceQA rows: the truth is the place of an option",
        needs={"question": is_text, "choices": is_options, "answer": _any, "lecture": _any},
        source={"answer_index": 0},
    ),
    Layout(
        name="verl rows: a prompt list and reward_model.ground_truth",
        needs={"prompt": chats.is_chat, "reward_model.ground_truth": _any},
        columns={"answer": "reward_model.ground_truth"},
    ),
    Layout(
        name="ms-swift grounding rows: messages and objects",
        needs={"messages": chats.is_chat, "objects.bbox": _any},
        columns={"answer": "objects.bbox"},
    ),
    Layout(
        name="conversations of LLaVA, ShareGPT and VLM-R1",
        needs={"conversations": _is_from_and_value},
    ),
    Layout(name="chats with role and content", needs={"conversations": chats.is_chat}),
    Layout(
        name="messages of OpenAI and transformers (also LLaMA-Factory and ms-swift)",
        needs={"messages": chats.is_chat},
    ),
    Layout(name="TRL prompt lists", needs={"prompt": chats.is_chat}),
    Layout(name="The Cauldron rows: pairs of user and assistant", needs={"texts": chats.is_chat}),
    Layout(
        name="RefCOCO rows of lmms-lab: expressions and a box x, y, width, height",
        needs={"bbox": is_truth, "answer": is_referring, "segmentation": _any, "file_name": _any},
        columns={"id": "question_id", "question": "answer.0", "answer": "bbox"},
        source={"box_format": "xywh"},
    ),
    Layout(
        name="EasyR1 rows: problem, answer, images",
        needs={"problem": is_text, "answer": is_truth},
        columns={"question": "problem"},
    ),
    Layout(
        name="R1-V and Visual-RFT rows: problem and solution",
        needs={"problem": is_text, "solution": is_truth},
        columns={"question": "problem", "answer": "solution"},
    ),
    Layout(
        name="VQAv2 rows: the answer of the majority",
        needs={"question": is_text, "multiple_choice_answer": _any},
        columns={"id": "question_id", "answer": "multiple_choice_answer"},
    ),
    Layout(
        name="GQA questions",
        needs={"question": is_text, "imageId": _any, "answer": _any, "fullAnswer": _any},
        columns={"images": "imageId"},
    ),
    Layout(
        name="VQA rows with several accepted answers (DocVQA, TextVQA, InfographicVQA)",
        needs={"question": is_text, "answers": _any},
        columns={"answer": "answers"},
    ),
    Layout(
        name="ChartQA rows: query and label",
        needs={"query": is_text, "label": is_truth},
        columns={"question": "query", "answer": "label"},
    ),
)
"""Published layouts: the first that fits names the rows."""
