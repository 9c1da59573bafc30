"""Score answers that were recorded elsewhere, without any model: the verifiers of training on a file of texts.

The file has one JSON object a line with the columns `id` and `text` (others by `--map id=idx,text=response`). Every question of the
benchmark must be answered once and every answer must belong to a question; else nothing is scored and one sentence says which ids are at
fault.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from gpg_vl.boxes import FAMILIES, frame_named
from gpg_vl.config import loading
from gpg_vl.config.schema import BenchmarkSpec, RewardConfig
from gpg_vl.data.dataset import Dataset, read_dataset
from gpg_vl.errors import UserError
from gpg_vl.evaluation import average_precision, benchmark
from gpg_vl.evaluation import records as eval_records
from gpg_vl.evaluation.benchmark import Benchmark
from gpg_vl.evaluation.records import Record
from gpg_vl.experiment import build_style, build_verifiers
from gpg_vl.prompts import Style
from gpg_vl.types import Completion, Sample
from gpg_vl.verifiers.dispatch import VerifierSet

SHOWN = 5
"""Ids that a sentence names; the others are counted."""


def score(
    name: str,
    answers: Path,
    columns: Sequence[str],
    overrides: Sequence[str],
    *,
    to: Path | None = None,
    say: Callable[[str], None] = print,
) -> tuple[Benchmark, list[Record]]:
    """A benchmark, and the records of its questions with the answers of a file.

    Args:
        name: a shipped benchmark or a YAML file.
        columns: our column=theirs, for files that call `id` or `text` something else.
        overrides: key=value knobs of the benchmark: mode=lenient, frame=qwen2_5_vl, verifiers.boxes.policy=first...
        to: where the records are written.
        say: told what is left out, and what is written over.

    Raises:
        UserError: an unreadable file, ids that are unknown, doubled or missing, or a model's own records where these should be written.
    """
    if to and to.exists():
        _may_be_replaced(to, say)
    texts = read_answers(answers, columns)
    spec, home = loading.load_benchmark(name, overrides=overrides)
    if spec.average_precision:
        average_precision.check_installed()
    style, checks = _parts(spec, home)
    questions = read_dataset(spec.data, checks, folder=home)
    asked = [sample for source in questions.sources for sample in source]
    _check_ids(texts, asked, questions, answers)
    exam = Benchmark(spec=spec, questions=asked, style=style, checks=checks, seed=0, left_out=questions.left_out)
    if exam.missing:
        say(exam.missing)
    records = [_record(sample, texts[sample.id], spec, checks) for sample in asked]
    if to:
        eval_records.save(records, to)
    return exam, records


def _may_be_replaced(path: Path, say: Callable[[str], None]) -> None:
    """Scores of recorded answers can be had again in seconds, answers of a model cannot."""
    if any(record.evaluation for record in eval_records.load(path)):
        raise UserError(f"--to {path}: holds what a model was asked; delete it, or choose another --to")
    say(f"written over: {path}")


def read_answers(path: Path, columns: Sequence[str] = ()) -> dict[str, str]:
    """The answers of a file by id.

    Raises:
        UserError: no such file, not JSON lines, a column missing, or doubled ids.
    """
    theirs = _mapping(columns)
    pairs: list[tuple[str, str]] = []
    for number, row in _rows(path):
        missing = [f"{ours!r}" + (f" (their {name!r})" if name != ours else "") for ours, name in theirs.items() if name not in row]
        if missing:
            has = ", ".join(row)
            raise UserError(f"{path} line {number}: no column {' and no '.join(missing)}; it has {has}: name it with --map text=THEIRS")
        pairs.append((str(row[theirs["id"]]), _text(row[theirs["text"]])))
    doubled = [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]
    if doubled:
        raise UserError(f"{path}: {_told(doubled)} answered more than once; keep one answer each")
    return dict(pairs)


def _text(answer: Any) -> str:
    """A string as it is, other JSON as its text; half a surrogate pair, which no file can hold, as the sign for an unreadable letter."""
    text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _mapping(columns: Sequence[str]) -> dict[str, str]:
    theirs = {"id": "id", "text": "text"}
    for item in (part for column in columns for part in column.split(",")):
        ours, separator, name = item.partition("=")
        if ours not in theirs or not separator or not name:
            raise UserError(f"--map {item}: expected id=THEIRS or text=THEIRS, for instance --map text=response")
        theirs[ours] = name
    return theirs


def _rows(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    if not path.is_file():
        raise UserError(f"--answers {path}: no such file")
    rows: list[tuple[int, Mapping[str, Any]]] = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # other separators of Unicode belong to the texts
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row: object = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path} line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path} line {number}: got {type(row).__name__}, expected an object with id and text")
        rows.append((number, cast(dict[str, Any], row)))
    return rows


def _parts(spec: BenchmarkSpec, folder: Path) -> tuple[Style, VerifierSet]:
    frame = frame_named(spec.frame)
    if frame is None:
        raise UserError(f"frame: got {spec.frame!r}, expected pixels, norm1, norm1000, resized or a family: {', '.join(FAMILIES)}")
    style = build_style(spec.prompt or "think", folder)
    return style, build_verifiers(spec.verifiers, style, frame, RewardConfig(mode=spec.mode), folder)


def _check_ids(texts: Mapping[str, str], asked: Sequence[Sample], questions: Dataset, path: Path) -> None:
    known = {sample.id for sample in asked}
    unknown = [name for name in texts if name not in known | {name for name, _ in questions.left_out}]
    missing = [sample.id for sample in asked if sample.id not in texts]
    doubled = [name for name, times in Counter(sample.id for sample in asked).items() if times > 1]
    faults = [f"{_told(ids)} {what}" for ids, what in ((unknown, "not asked"), (missing, "not answered"), (doubled, "asked twice")) if ids]
    if faults:
        raise UserError(f"{path}: {'; '.join(faults)}; nothing was scored: answer every question of the benchmark once")


def _told(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return f"{len(ids)} id{'s' if len(ids) > 1 else ''} ({', '.join(ids[:SHOWN])}{more})"


def _record(sample: Sample, text: str, spec: BenchmarkSpec, checks: VerifierSet) -> Record:
    said = Completion(token_ids=(), logprobs=(), text=text, finish="stop", version=0)
    return replace(benchmark.score_question(sample, said, [], spec, checks), settings=benchmark.settings_of(spec))
