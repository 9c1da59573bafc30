"""Score answers that were recorded elsewhere, without any model.

The file has a row per question with the columns `id` and `text` (other names by `--map
id=idx,text=response`, and dotted ones for fields of a column): JSON lines, a JSON list of such
objects, alone or in an object under a name such as `results`, a JSON object of id -> text or of
id -> row, or a table (CSV, TSV, parquet). Every question of the benchmark must be answered once,
and every answer must belong to a question; else nothing is scored, and one sentence names the ids
that do not fit. Where sources of the benchmark share ids, a column `source` says whose question is
answered.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from gpg_vl.config.paths import nearest_path
from gpg_vl.data.columns import cells
from gpg_vl.data.reading import formats, text_files
from gpg_vl.data.reading.json_rows import LISTS_OF_ROWS
from gpg_vl.data.reading.raw_rows import sound
from gpg_vl.errors import UserError, one_line, shown
from gpg_vl.evaluation.benchmark import Benchmark, facts_of, settings_of, style_settings
from gpg_vl.evaluation.records import Record, load, some_ids
from gpg_vl.types import Completion

TABLES = {".csv", ".tsv", ".parquet", ".arrow"}
"""Endings of the names of files that are no JSON."""


class Answer(NamedTuple):
    """A recorded answer to one question.

    Example:
        Answer(id="sat/17", text="<answer>3</answer>")
    """

    id: str
    """Id of the question."""
    text: str
    """Words of the answer, as the model wrote them."""
    source: str = ""
    """Name of the source of the question; empty = not said."""


def score_answers(benchmark: Benchmark, answers: Sequence[Answer], path: Path) -> list[Record]:
    """Score one recorded answer per question.

    Args:
        path: file of the answers, for messages.

    Raises:
        UserError: ids that are unknown, missing, or name several questions.
    """
    repeated = benchmark.repeated_ids
    # a row may be left out before it is found that its id is another question's, too
    not_asked = {(row.source, row.id) for row in benchmark.left_out}
    not_asked -= {(sample.source, sample.id) for sample in benchmark.questions}
    answer_of: dict[tuple[str, str], str] = {}
    times = Counter[tuple[str, str]]()
    for answer in answers:
        # else it would answer the question of another source that has the same id
        if answer.source and (answer.source, answer.id) in not_asked:
            continue
        key = _key(answer.source, answer.id, repeated)
        answer_of[key] = answer.text
        times[key] += 1
    answered_twice = [name for (_, name), count in times.items() if count > 1]
    if answered_twice:
        raise UserError(
            f"{path}: {some_ids(answered_twice)} answered more than once; keep one answer each"
        )
    _check_ids(answer_of, benchmark, repeated, path)
    settings = dict(settings_of(benchmark.spec))
    if benchmark.spec.mode == "strict":  # how they were asked is not known, but how they are read
        style = style_settings(benchmark.style)
        settings |= {name: style[name] for name in ("prompt", "prompt.think")}
    about = facts_of(answers=str(path.absolute()))
    records: list[Record] = []
    for sample in benchmark.questions:
        text = answer_of[_key(sample.source, sample.id, repeated)]
        completion = Completion(token_ids=(), logprobs=(), text=text, finish="stop", version=0)
        record = benchmark.score(sample, completion, [])
        records.append(replace(record, settings=settings, about=about))
    return records


def _key(source: str, name: str, repeated: set[str]) -> tuple[str, str]:
    """Return what names a question: its id, and its source too where several sources share ids.

    Elsewhere a column of that name is no matter: published answers often say which data set a
    question is from, in words of their own.
    """
    return (source if name in repeated else "", name)


def check_replaceable(path: Path) -> None:
    """Refuse to write over a model's records.

    Scores of recorded answers can be made again in seconds, answers of a model cannot.

    Raises:
        UserError: the file holds answers that a model was asked for.
    """
    for record in load(path):
        if record.evaluation:
            raise UserError(
                f"--to {path}: holds what a model was asked; delete it, or choose another --to"
            )


def read_answers(path: Path, columns: Sequence[str] = ()) -> list[Answer]:
    """Read the answers of a file.

    Args:
        columns: our column=the file's, if the file calls `id`, `text` or `source` something else.

    Raises:
        UserError: no such file, broken content, a column missing, repeated answers, or an answer
            that is no text. One broken row is enough: no figure is right without it.
    """
    source_column = _column_names(columns)
    if not path.is_file():
        near = nearest_path(path)
        hint = f"; did you mean {near}?" if near else ""
        raise UserError(f"--answers {path}: no such file{hint}")
    answers: list[Answer] = []
    times: Counter[tuple[str, str]] = Counter()
    for where, row in _rows(path, source_column):
        _check_columns(row, source_column, where)
        answer = Answer(
            id=_id(cells.dotted(row, source_column["id"]), where),
            text=_text(cells.dotted(row, source_column["text"]), where),
            source=str(row.get(source_column["source"]) or ""),
        )
        answers.append(answer)
        times[answer.source, answer.id] += 1
    repeated = [name for (_, name), count in times.items() if count > 1]
    if repeated:
        raise UserError(
            f"{path}: {some_ids(repeated)} answered more than once; keep one answer each"
        )
    return answers


def _rows(path: Path, source_column: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of a file, each with its place for messages."""
    ending, _ = text_files.endings(path)
    if ending in TABLES:
        for number, row in enumerate(formats.read(path), 1):
            yield f"{path} row {number}", sound(row, path)
    elif ending == ".json":
        yield from _json_rows(path, source_column)
    elif rows := formats.array_of_rows(path):
        for number, row in enumerate(rows, 1):
            yield f"{path} row {number}", sound(row, path)
    else:
        for number, row in formats.numbered_jsonl(path):
            yield f"{path} line {number}", row


def _json_rows(
    path: Path, source_column: Mapping[str, str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of a .json file: a list of objects, or one object of id -> text."""
    try:
        content = _json_content(path)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise UserError(f"{path}: not JSON: {error}") from None
        for number, row in formats.numbered_jsonl(path):  # JSON lines under the name of JSON
            yield f"{path} line {number}", row
        return
    if isinstance(content, dict):
        by_id = cast(dict[str, Any], content)
        if by_id.keys() >= {source_column["id"], source_column["text"]}:
            yield f"{path}", by_id  # the only question of a benchmark
            return
        named_list = _list_of_answers(by_id)
        if named_list is None:
            for name, value in by_id.items():
                yield f"{path}: {one_line(name)}", _keyed(name, value, source_column)
            return
        content = named_list
    if not isinstance(content, list):
        raise UserError(
            f"{path}: got {shown(content)}, expected a list of objects with the columns id and "
            "text, or one object of id: text"
        )
    for number, row in enumerate(cast(list[Any], content), 1):
        if not isinstance(row, dict):
            raise UserError(
                f"{path} row {number}: got {type(row).__name__}, expected an object of columns"
            )
        yield f"{path} row {number}", cast(dict[str, Any], row)


def _list_of_answers(content: Mapping[str, Any]) -> list[Any] | None:
    """Return the list of all answers that an object holds beside other things, if it does."""
    lists: list[list[Any]] = []
    for name, value in content.items():
        if name.lower() in LISTS_OF_ROWS and isinstance(value, list):
            items = cast(list[Any], value)
            if items and isinstance(items[0], dict):
                lists.append(items)
    return lists[0] if len(lists) == 1 else None


def _keyed(name: str, value: Any, source_column: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the row of an answer that is kept by its id: a text, or an object with the text."""
    if isinstance(value, dict):
        columns = cast(dict[str, Any], value)
        if cells.has(columns, source_column["text"]):
            return {source_column["id"]: name, **columns}
    return {source_column["id"]: name, source_column["text"]: value}


def _json_content(path: Path) -> Any:
    """Read a .json file, packed or not.

    Raises:
        JSONDecodeError: not JSON.
        UserError: an object has a key twice, of which JSON readers keep only the last.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        times = Counter(name for name, _ in pairs)
        repeated = [name for name, count in times.items() if count > 1]
        if repeated:
            raise UserError(
                f"{path}: {some_ids(repeated)} answered more than once; keep one answer each"
            )
        return dict(pairs)

    try:
        return json.loads(text_files.content(path), object_pairs_hook=unique)
    except json.JSONDecodeError:
        raise
    except (RecursionError, ValueError) as error:  # the last is that of a very long number
        raise UserError(f"{path}: not JSON: {one_line(error)}") from None


def _check_columns(row: Mapping[str, Any], source_column: Mapping[str, str], where: str) -> None:
    missing: list[str] = []
    for our_column in ("id", "text"):
        name = source_column[our_column]
        if not cells.has(row, name):
            renamed = f" (the file's {shown(name)})" if name != our_column else ""
            missing.append(f"{our_column!r}{renamed}")
    if missing:
        raise UserError(
            f"{where}: no column {' and no '.join(missing)}; it has {one_line(', '.join(row))}: "
            "name it with --map text=COLUMN"
        )


def _id(value: Any, where: str) -> str:
    """Return an id as text; a whole number that a table made a float is written whole.

    Raises:
        UserError: there is none.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if value is None or isinstance(value, bool | dict | list) or value != value:  # NaN
        raise UserError(f"{where}: id: got {shown(value)}, expected the id of a question")
    return str(value)


def _text(value: Any, where: str) -> str:
    """Return the words of an answer: a string as it is, a number as it is written.

    Raises:
        UserError: the value is no text, so the words of the model are not known.
    """
    if isinstance(value, list):
        parts = cast(list[Any], value)
        if len(parts) != 1 or not isinstance(parts[0], str):
            raise UserError(
                f"{where}: text: got a list of {len(parts)}: {shown(parts)}, expected one text; "
                "give the one answer that is to be scored"
            )
        value = parts[0]
    if isinstance(value, Mapping):
        raise UserError(
            f"{where}: text: got the mapping {shown(value)}, expected one text; give the words of "
            "the model alone (of an OpenAI response --map text=COLUMN.choices.0.message.content)"
        )
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise UserError(
            f'{where}: text: got {shown(value)}, expected one text; write "" for an empty answer'
        )
    if isinstance(value, bytes):
        raise UserError(f"{where}: text: got the bytes {shown(value)}, expected one text")
    if isinstance(value, bool | int | float):
        value = json.dumps(value)
    return _writable(str(value))


def _writable(text: str) -> str:
    """Return a text that a file can hold.

    Half a surrogate pair becomes the sign for an unreadable letter.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _column_names(columns: Sequence[str]) -> dict[str, str]:
    source_column = {"id": "id", "text": "text", "source": "source"}
    for item in ",".join(columns).split(",") if columns else []:
        our_column, separator, name = item.partition("=")
        if our_column not in source_column or not separator or not name:
            raise UserError(
                f"--map {one_line(item)}: expected id=COLUMN or text=COLUMN, for instance --map "
                "text=response"
            )
        source_column[our_column] = name
    return source_column


def _label(key: tuple[str, str]) -> str:
    """Return the name of a question in a message."""
    source, name = key
    return f"{one_line(name)} of {source}" if source else name


def _check_ids(
    answers: Mapping[tuple[str, str], str], benchmark: Benchmark, repeated: set[str], path: Path
) -> None:
    """Check that each question is answered and each answer was asked for."""
    times = Counter(_key(sample.source, sample.id, repeated) for sample in benchmark.questions)
    left_out = {row.id for row in benchmark.left_out}
    unknown = [key for key in answers if key not in times and key[1] not in left_out]
    missing = [key for key in times if key not in answers]
    twice = [key for key, count in times.items() if count > 1]
    problems: list[str] = []
    for keys, what in ((unknown, "not asked"), (missing, "not answered"), (twice, "asked twice")):
        if keys:
            problems.append(f"{some_ids([_label(key) for key in keys])} {what}")
    if not problems:
        return
    advice = "answer every question of the benchmark once"
    if repeated & {name for _, name in (*unknown, *missing)}:
        sources = dict.fromkeys(sample.source for sample in benchmark.questions)
        names = one_line(", ".join(filter(None, sources)))
        advice += f", and say in a column `source` whose question it is: {names}"
    raise UserError(f"{path}: {'; '.join(problems)}; nothing was scored: {advice}")
