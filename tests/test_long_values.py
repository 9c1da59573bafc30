"""A value may be as long as a picture; a message shows the beginning of it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.config import loading
from gpg_vl.config.schema import Source
from gpg_vl.data.sources import read_source
from gpg_vl.errors import UserError
from gpg_vl.evaluation import compare, metrics, recorded_answers
from gpg_vl.evaluation.records import Record, failures
from gpg_vl.experiment import Experiment
from gpg_vl.policy.model_folder import find_model
from gpg_vl.report.left_out import lines
from gpg_vl.types import LeftOut

LONG = "x" * 100_000
MOST_CHARACTERS = 2000
"""Several values and the words between them."""


def sentence(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as refused:
        call()
    message = str(refused.value)
    assert len(message) <= MOST_CHARACTERS
    assert not re.search("x{501}", message)
    return message


@pytest.mark.parametrize(
    "override",
    [
        LONG,
        f"steps={LONG}",
        f"steps=[{LONG}]",
        f"{LONG}=1",
        f"steps.{LONG}=1",
        f"data.{LONG}=1",
        f"seed={LONG}",
        f"policy.vision={LONG}",
        f"optimizer.{LONG}=1",
        f"trackers=[{LONG}]",
        f"prompt={LONG}",
        f"prompt={LONG}:Style",
        f"prompt=os:{LONG}",
        f"prompt=./{LONG}.py:Style",
        f"prompt.kind={LONG}",
        f"prompt.{LONG}=1",
        f"prompt.think={LONG}",
        f"verifiers.number={LONG}",
        f"verifiers.{LONG}={LONG}",
        f"estimator={LONG}",
    ],
    ids=lambda override: re.sub("x{2,}", "LONG", override),
)
def test_a_long_knob_has_a_short_message(override):
    assert "x" * 100 in sentence(lambda: Experiment.resolve(loading.load("digits", [override])))


@pytest.mark.parametrize("ending", ["", ".yaml"])
def test_a_long_name_has_a_short_message(ending):
    sentence(lambda: loading.load(LONG + ending))
    sentence(lambda: loading.load_benchmark(LONG + ending))


@pytest.mark.parametrize("name", [LONG, f"./{LONG}", f"who/{LONG}"], ids=["bare", "path", "hub"])
def test_a_model_of_a_long_name_has_a_short_message(name):
    sentence(lambda: find_model(name))


@pytest.mark.parametrize(
    "row",
    [
        {"id": LONG},
        {"id": [LONG], "text": "3"},
        {"id": "a", "text": [LONG, LONG]},
        {"id": "a", "text": {"role": LONG, "content": LONG}},
        {LONG: 1},
        [LONG],
        LONG,
    ],
    ids=["no text", "id", "list", "mapping", "column", "row", "word"],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_long_answer_has_a_short_message(row: Any, name, tmp_path):
    content = row if name == "a.jsonl" else [row]
    (tmp_path / name).write_text(json.dumps(content) + "\n")
    sentence(lambda: recorded_answers.read_answers(tmp_path / name))


@pytest.mark.parametrize("name", [LONG, f"{LONG}.jsonl", f"{LONG}/*.jsonl", "~nobody_here/a.jsonl"])
def test_a_name_that_finds_no_rows_has_a_short_message(name, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "?", "answer": 3, "answer_kind": "number"}\n')
    for source in (
        Source(files=name),
        Source(hub=name),
        Source(files="a.jsonl", image_root=name),
        Source(files="a.jsonl", columns={"tags": name}),
    ):
        sentence(lambda source=source: list(read_source(source, base_dir=tmp_path, key="data.0")))


def test_long_ids_in_a_file_of_answers_have_a_short_message(tmp_path):
    rows = [{"id": f"{place}{LONG}", "text": "3"} for place in range(9)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *rows]))
    message = sentence(lambda: recorded_answers.read_answers(tmp_path / "a.jsonl"))
    assert "9 ids" in message
    sentence(lambda: recorded_answers.read_answers(tmp_path / "a.jsonl", [f"{LONG}={LONG}"]))


def record(name: str, **fields: Any) -> Record:
    given = {"tag": "t", "greedy": 1.0, "sampled": 0.0, "text": "", "answer": "", "reason": ""}
    return Record(id=name, **given | fields)


def test_long_ids_tags_and_settings_of_records_have_short_messages():
    one, other = [record(f"1{LONG}")], [record(f"2{LONG}")]
    sentence(lambda: compare.compare(one, other))
    sentence(lambda: metrics.total([record(LONG, tags={LONG: LONG})], [LONG + "y"]))
    assert len(failures([record(LONG, fault="fault: x")])) < MOST_CHARACTERS
    pair = [record("a", settings={"mode": LONG})], [record("a", settings={"mode": LONG + "y"})]
    assert all(len(line) < MOST_CHARACTERS for line in compare.remarks(*pair))


def test_rows_with_long_ids_and_reasons_are_listed_shortly():
    rows = [LeftOut(f"{place}{LONG}", f"answer '{LONG}' {LONG}") for place in range(9)]
    assert all(len(line) < MOST_CHARACTERS for line in lines(rows, Path("left_out.jsonl")))
