"""Score answers that were recorded elsewhere, without any model.

The file has one JSON object per line with the columns `id` and `text` (other names by `--map
id=idx,text=response`). Every question of the benchmark must be answered once, and every answer must
belong to a question; else nothing is scored, and one sentence names the ids that do not fit.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpg_vl.data import formats
from gpg_vl.errors import UserError
from gpg_vl.evaluation.benchmark import Benchmark, settings_of
from gpg_vl.evaluation.records import Record, load, some_ids
from gpg_vl.types import Completion


def score_answers(benchmark: Benchmark, answers: Mapping[str, str], path: Path) -> list[Record]:
    """Score one recorded answer per question.

    Args:
        answers: text by question id.
        path: file of the answers, for messages.

    Raises:
        UserError: ids that are unknown, missing, or name several questions.
    """
    _check_ids(answers, benchmark, path)
    settings = settings_of(benchmark.spec)
    records: list[Record] = []
    for sample in benchmark.questions:
        completion = Completion(
            token_ids=(), logprobs=(), text=answers[sample.id], finish="stop", version=0
        )
        record = benchmark.score(sample, completion, [])
        records.append(replace(record, settings=settings))
    return records


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


def read_answers(path: Path, columns: Sequence[str] = ()) -> dict[str, str]:
    """Read the answers of a file, by question id.

    Args:
        columns: our column=the file's, if the file calls `id` or `text` something else.

    Raises:
        UserError: no such file, not JSON lines, a column missing, or repeated ids.
    """
    source_column = _column_names(columns)
    answers: dict[str, str] = {}
    times: Counter[str] = Counter()
    if not path.is_file():
        raise UserError(f"--answers {path}: no such file")
    for number, row in formats.numbered_jsonl(path):
        _check_columns(row, source_column, f"{path} line {number}")
        name = str(row[source_column["id"]])
        times[name] += 1
        answers[name] = _text(row[source_column["text"]])
    repeated = [name for name, count in times.items() if count > 1]
    if repeated:
        raise UserError(
            f"{path}: {some_ids(repeated)} answered more than once; keep one answer each"
        )
    return answers


def _check_columns(row: Mapping[str, Any], source_column: Mapping[str, str], where: str) -> None:
    missing: list[str] = []
    for our_column, name in source_column.items():
        if name not in row:
            renamed = f" (the file's {name!r})" if name != our_column else ""
            missing.append(f"{our_column!r}{renamed}")
    if missing:
        raise UserError(
            f"{where}: no column {' and no '.join(missing)}; it has {', '.join(row)}: name it with "
            "--map text=COLUMN"
        )


def _text(answer: Any) -> str:
    """Return a string as it is, and other JSON as its text.

    Half a surrogate pair, which no file can hold, becomes the sign for an unreadable letter.
    """
    text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _column_names(columns: Sequence[str]) -> dict[str, str]:
    source_column = {"id": "id", "text": "text"}
    for item in ",".join(columns).split(",") if columns else []:
        our_column, separator, name = item.partition("=")
        if our_column not in source_column or not separator or not name:
            raise UserError(
                f"--map {item}: expected id=COLUMN or text=COLUMN, for instance --map text=response"
            )
        source_column[our_column] = name
    return source_column


def _check_ids(answers: Mapping[str, str], benchmark: Benchmark, path: Path) -> None:
    times = Counter(sample.id for sample in benchmark.questions)
    left_out = {name for name, _ in benchmark.left_out}
    unknown = [name for name in answers if name not in times and name not in left_out]
    missing = [sample.id for sample in benchmark.questions if sample.id not in answers]
    repeated = [name for name, count in times.items() if count > 1]
    problems: list[str] = []
    for ids, what in ((unknown, "not asked"), (missing, "not answered"), (repeated, "asked twice")):
        if ids:
            problems.append(f"{some_ids(ids)} {what}")
    if problems:
        raise UserError(
            f"{path}: {'; '.join(problems)}; nothing was scored: answer every question of the "
            "benchmark once"
        )
