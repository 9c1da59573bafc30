"""Propose the source of a config that reads some rows, by the layout of the first of them.

Only what the rows prove is proposed. What a person has to decide is asked in words.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpg_vl.config.loading import parse
from gpg_vl.config.paths import expanded, is_file, is_folder
from gpg_vl.config.schema import Source
from gpg_vl.data.columns import cells
from gpg_vl.data.reading import files, formats
from gpg_vl.data.reading.raw_rows import Row
from gpg_vl.data.recognise import answers, layouts, pictures
from gpg_vl.data.recognise.first_rows import Proposal, Table, cell
from gpg_vl.data.recognise.layouts import LAYOUTS, Columns, Layout
from gpg_vl.data.rows import BOX_KINDS, CHAT_COLUMNS, PICTURE_COLUMNS, pictures_in_words
from gpg_vl.errors import UserError, shown

OWN = Layout(name="rows of gpg_vl's own format", needs={})
PLAIN = Layout(name="rows with a question and an answer", needs={})
CHATS = Layout(name="chats", needs={})
CLASSES = Layout(name="pictures with the name of a class each", needs={})
OURS = frozenset(
    {"id", "question", "answer", "answer_kind", "choices", "frame", "answer_image", "sizes"}
    | {"solution", "tags", *PICTURE_COLUMNS}
)
"""Columns that are read under their own names."""
_SHARD = re.compile(r"\d{5}-of-(\d{5})")
"""Number of a file among those that hold one table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """Layout of some rows, and what reads them.

    Example:
        recognise("clevr.jsonl", Path()).layout == "conversations of LLaVA, ShareGPT and VLM-R1"
    """

    layout: str
    """Layout in words."""
    source: Source
    """Proposed source of a config."""
    questions: tuple[str, ...]
    """What a person has to decide or to know, in sentences."""
    unused: tuple[str, ...]
    """Columns that nothing uses, apart from verifiers of your own."""
    looked_at: int
    """Number of rows that were looked at."""


def recognise(names: str, base_dir: Path, given: Mapping[str, Any] | None = None) -> Recognised:
    """Recognise the layout of rows by their first rows.

    Args:
        names: a file, a folder, a pattern such as data/train-*.parquet, or a data set of the hub.
        base_dir: folder that relative names start at.
        given: keys of the source that the user has settled, for instance {split: test}; they are
            not changed.

    Raises:
        UserError: there are no such rows, or none of the first can be read.
    """
    settled = {**_origin(names, base_dir), **(given or {})}
    table = Table.of(parse(Source, settled, names), base_dir)
    layout = _layout(table.columns)
    proposal = _begun(layout, table, settled)
    _tell_of_shards(parse(Source, settled, names), base_dir, proposal)
    _name_question(table, proposal)
    _name_answer(table, proposal)
    _tell_of_turns(table, proposal)
    _name_choices(table, proposal)
    _name_pictures(table, proposal)
    _name_id(table, proposal)
    pictures.declare(table, proposal)
    answered = answers.answers_of(
        table, proposal, lambda row: pictures.sizes_of(row, table, proposal)
    )
    answers.declare(answered, proposal)
    _tell_of_guesses(table, proposal)
    if layout is PLAIN:
        layout = _plain(table, proposal)
    return Recognised(
        layout=layout.name,
        source=parse(Source, {**settled, **_keys(proposal)}, names),
        questions=tuple(proposal.questions),
        unused=tuple(_unused(table, proposal)),
        looked_at=len(table.rows),
    )


def _origin(names: str, base_dir: Path) -> dict[str, str]:
    """Return the key of a source that says where its rows are."""
    name = expanded(names)
    for place in (base_dir / name, name):
        if is_folder(place):
            return {"files" if _is_one_table(names, place, base_dir) else "hub": names}
        if is_file(place):
            return {"files": names}
    owner, _, rest = names.partition("/")
    is_set_of_hub = bool(owner and rest) and not set(rest) & set("/*?[") and owner[0] not in ".~"
    if is_set_of_hub and formats.kind_of(name) is None and not is_folder(base_dir / owner):
        return {"hub": names}
    return {"files": names}  # a pattern, or a name that finds nothing and is refused with advice


def _is_one_table(names: str, folder: Path, base_dir: Path) -> bool:
    """Return True if the files of a folder are one table, without splits or classes."""
    if files.is_saved(folder):
        return False
    try:
        files.find_files(names, base_dir)
    except UserError:  # reading it as a folder of the hub gives the reason
        return False
    return True


def _layout(columns: Columns) -> Layout:
    for layout in LAYOUTS:
        has_options = layout.columns.get("answer") == "answers" and _options_among(columns)
        if layout.fits(columns) and not has_options:
            return layout
    return PLAIN


def _options_among(columns: Columns) -> bool:
    """Return True if the column `answers` holds options, one of which is the correct answer."""
    return layouts.are_options_of(columns.get("answers", ()), columns.get("correct_answer", ()))


def _plain(table: Table, proposal: Proposal) -> Layout:
    """Name rows that have no published layout."""
    if _own(table, "answer_kind") and _own(table, "question") and _own(table, "answer"):
        return OWN
    if "question" in proposal.defaults and proposal.defaults.get("answer_kind") == "label":
        return CLASSES
    return CHATS if table.chat_column is not None else PLAIN


def _begun(layout: Layout, table: Table, settled: Mapping[str, Any]) -> Proposal:
    """Return the proposal of a layout, and over it what the user has settled."""
    proposal = Proposal(keys=dict(layout.source))
    for our_column, theirs in layout.columns.items():
        if any(cells.has(row, theirs) for row in table.rows):
            proposal.columns[our_column] = theirs
    proposal.columns |= settled.get("columns", {})
    proposal.defaults |= settled.get("defaults", {})
    for key, value in settled.items():
        if key not in ("columns", "defaults"):
            proposal.keys[key] = value
    return proposal


def _keys(proposal: Proposal) -> dict[str, Any]:
    """Return the keys of the source; a column that has our name already needs no line."""
    columns: dict[str, Any] = {}
    for our_column, theirs in proposal.columns.items():
        if theirs != our_column and (our_column, theirs) != ("images", "image"):
            columns[our_column] = theirs
    return {**proposal.keys, "columns": columns, "defaults": proposal.defaults}


# --- columns --------------------------------------------------------------------------------------


def _free(table: Table, proposal: Proposal) -> Columns:
    """Return the columns that have no meaning yet."""
    named = proposal.named()
    return {name: values for name, values in table.columns.items() if name not in named}


def _own(table: Table, our_column: str) -> str | None:
    """Return our own name of a column if a cell under it is filled: rows are read by it."""
    return our_column if table.columns.get(our_column) else None


def _name_question(table: Table, proposal: Proposal) -> None:
    if proposal.has("question") or table.chat_column in CHAT_COLUMNS:
        return
    if table.chat_column is not None:
        proposal.columns["question"] = table.chat_column
        return
    found = _own(table, "question")
    found = found or layouts.named(table.columns, layouts.QUESTIONS, layouts.is_text)
    if found is not None:
        proposal.columns["question"] = found
        return
    found = layouts.named(table.columns, layouts.EXPRESSIONS, layouts.is_referring)
    if found is not None:
        is_list = not isinstance(table.columns[found][0], str)
        proposal.columns["question"] = f"{found}.0" if is_list else found
        return
    proposal.defaults["question"] = "What is in the picture?"
    proposal.questions.append(
        "no column holds a question, so every row is asked the same one: write yours, "
        "defaults.question=..., or name the column: columns.question=NAME"
    )


def _name_answer(table: Table, proposal: Proposal) -> None:
    if proposal.has("answer"):
        return
    names: Sequence[str] = (*layouts.ANSWERS, *layouts.BOXES)
    asked = str(proposal.columns.get("question", ""))
    if asked.removesuffix(".0") in layouts.EXPRESSIONS:
        names = (*layouts.BOXES, *layouts.ANSWERS)
    found = _own(table, "answer") if names[0] == "answer" else None
    found = found or layouts.named(_free(table, proposal), names, layouts.is_truth)
    if found is not None:
        proposal.columns["answer"] = found
        return
    chats = [table.chat(row) for row in table.rows]
    if any(chat is not None and chat.answer for chat in chats):
        return
    free = _free(table, proposal)
    edges = layouts.edge_columns(free)
    records = [name for name in free if layouts.mostly(free[name], layouts.is_records)]
    if edges:
        proposal.columns["answer"] = edges
    elif records:
        fields = list(free[records[0]][0][0])
        proposal.questions.append(
            f"no column looks like the true answer, but each cell of {records[0]!r} is a list of "
            f"records with {shown(fields)}; write a row with its picture for each of them"
        )
    else:
        proposal.questions.append(
            "no column looks like the true answer; name it: columns.answer=NAME"
        )


def _tell_of_guesses(table: Table, proposal: Proposal) -> None:
    """Ask about a question or an answer from a column that often holds something else."""
    question, answer = proposal.columns.get("question"), proposal.columns.get("answer")
    is_expression = str(question).removesuffix(".0") in layouts.EXPRESSIONS
    if is_expression and proposal.defaults.get("answer_kind") not in BOX_KINDS:
        proposal.questions.append(
            f"the question is taken from column {question!r}, which is none by its name; if "
            "another column asks: columns.question=NAME"
        )
    if isinstance(answer, str) and answer in layouts.CLASSES and question is not None:
        proposal.questions.append(
            f"the true answer is taken from column {answer!r}, which may be the subject of the "
            "question; if another column answers it: columns.answer=NAME"
        )
    texts = {str(value) for value in table.columns.get(str(answer or "answer"), ())}
    if texts == {"0", "1"} and proposal.defaults.get("answer_kind") == "number":
        proposal.questions.append(
            "all answers are 0 or 1; if they stand for no and yes, no question says so: write the "
            "words into the rows, or what the numbers mean into the questions"
        )


def _tell_of_shards(source: Source, base_dir: Path, proposal: Proposal) -> None:
    """Say that shards are missing: train-00000-of-00003 counts them."""
    if source.files is None:
        return
    shards: dict[tuple[str, int], int] = {}
    for path in files.find_files(source.files, base_dir):
        match = _SHARD.search(path.name)
        if match is not None:
            key = (path.name[: match.start()], int(match[1]))
            shards[key] = shards.get(key, 0) + 1
    for (name, total), count in shards.items():
        if count < total:
            proposal.questions.append(
                f"{count} of the {total} files {name}* are here, as their names count them; get "
                "the others, or go on without their rows"
            )


def _tell_of_turns(table: Table, proposal: Proposal) -> None:
    """Say that of a chat with several questions the last one is asked."""
    several = 0
    for row in table.rows:
        chat = table.chat(row)
        several += chat is not None and any(turn.role == "user" for turn in chat.context)
    if several:
        proposal.questions.append(
            f"{several} of {len(table.rows)} chats have several questions: the last one is asked, "
            "and the others stand before it with their answers; write a row for each to ask all"
        )


def _name_choices(table: Table, proposal: Proposal) -> None:
    if proposal.has("choices"):
        return
    free = _free(table, proposal)
    found = _own(table, "choices") or layouts.named(free, layouts.CHOICES, layouts.is_options)
    if found is None and "answers" in free and _options_among(table.columns):
        found = "answers"
        proposal.questions.append(
            "column 'answers' is taken for the options, because 'correct_answer' is one of them; "
            "if every one of them is right: columns.answer=answers"
        )
    if found is not None:
        proposal.columns["choices"] = found
        return
    by_spelling = layouts.by_spellings(free)
    for names in layouts.OPTION_COLUMNS:
        spellings = [layouts.spelling(name) for name in names]
        present = [by_spelling[name] for name in spellings if name in by_spelling]
        if set(spellings[:2]) <= by_spelling.keys():
            proposal.columns["choices"] = tuple(present)
            return


def _name_pictures(table: Table, proposal: Proposal) -> None:
    """Name the column of the pictures, unless the chats hold them."""
    if any(proposal.has(name) for name in PICTURE_COLUMNS):
        return
    if any(_holds_pictures(row, table, proposal) for row in table.rows):
        return
    free = _free(table, proposal)
    found = layouts.named(free, layouts.PICTURES, layouts.is_picture)
    if found is not None:
        proposal.columns["images"] = found
        return
    several = tuple(name for name in layouts.PICTURE_COLUMNS if name in free)
    if several and layouts.mostly(free[several[0]], layouts.is_picture):
        proposal.columns["images"] = several
        return
    if _own(table, "images") or _own(table, "image"):
        return  # the rows that hold something else are left out with the reason
    others = [name for name in free if layouts.mostly(free[name], layouts.is_local_picture)]
    if len(others) == 1:
        proposal.columns["images"] = others[0]
        return
    if others:
        proposal.questions.append(
            f"pictures may be in {', '.join(map(repr, others))}; name the column: "
            "columns.images=NAME, or several: columns.images=[NAME, NAME]"
        )
        return
    like = layouts.named(free, layouts.PICTURES, lambda value: True)
    if like is not None:
        proposal.questions.append(
            f"column {like!r} is called as one with pictures, but holds "
            f"{shown(free[like][0], 60)}; write paths of files there, or leave the rows without "
            "pictures"
        )
    else:
        proposal.questions.append("no column holds pictures, so the questions are asked without")


def _holds_pictures(row: Row, table: Table, proposal: Proposal) -> bool:
    """Return True if the chat of a row, or the words of its question, hold its pictures."""
    chat = table.chat(row)
    if chat is not None and chat.images:
        return True
    return bool(pictures_in_words(cell(row, proposal.columns.get("question", "question")), chat))


def _name_id(table: Table, proposal: Proposal) -> None:
    """Name the column of the ids: one that is called so and whose cells all differ."""
    if proposal.has("id") or "id" in table.columns:
        return
    free = _free(table, proposal)
    found = layouts.named(free, layouts.IDS, lambda value: isinstance(value, str | int))
    if found is not None and len(Counter(map(str, free[found]))) == len(table.rows):
        proposal.columns["id"] = found


def _unused(table: Table, proposal: Proposal) -> Iterator[str]:
    """Yield the columns that no part of a sample comes from."""
    named = proposal.named()
    used = named | {name.partition(".")[0] for name in named} | {table.chat_column}
    for name in OURS - set(proposal.columns):
        used.add(name)
    if table.chat_column is not None:
        used.add("system")
    for name in table.rows[0]:
        if name not in used and _is_filled(table, name):
            yield name


def _is_filled(table: Table, name: str) -> bool:
    """Return True if a row has something under this column."""
    return any(value not in ([], {}) for value in table.columns[name])
