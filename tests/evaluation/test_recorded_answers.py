"""`gpg-vl evaluate NAME --answers FILE`: recorded answers are scored without a model; a file
that does not fit is refused in one sentence."""

import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from gpg_vl.config.schema import BenchmarkSpec, Source
from gpg_vl.errors import UserError
from gpg_vl.evaluation import recorded_answers
from gpg_vl.evaluation import records as eval_records
from gpg_vl.evaluation.benchmark import Benchmark
from gpg_vl.evaluation.compare import remarks
from gpg_vl.evaluation.recorded_answers import Answer
from gpg_vl.prompts import AnswerOnly
from gpg_vl.types import LeftOut, Sample
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.number import Number
from tests.commands import gpg_vl
from tests.recorded import needed, read, reference
from tests.strict_json import strict_rows

ROWS = [
    {
        "id": "a",
        "question": "How many?",
        "answer_kind": "number",
        "answer": 3,
        "tags": {"task": "count"},
    },
    {
        "id": "b",
        "question": "How long?",
        "answer_kind": "value",
        "answer": "2√3 cm",
        "tags": {"task": "measure"},
    },
    {
        "id": "c",
        "question": "Which?",
        "answer_kind": "choice",
        "answer": "B",
        "choices": ["cat", "dog"],
        "tags": {"task": "choose"},
    },
    {
        "id": "d",
        "question": "Where?",
        "answer_kind": "boxes",
        "answer": [[100, 100, 500, 500]],
        "frame": "norm1000",
        "sizes": [[200, 400]],
    },
]
ANSWERS = {
    "a": "<think>so</think><answer>3</answer>",
    "b": "<answer>$2\\sqrt{3}$ cm</answer>",
    "c": "The answer is (B), because it barks.",
    "d": '```json\n[{"bbox_2d": [20, 40, 100, 200], "label": "dog"}]\n```',
}
SPEC = "# Four questions.\nname: four\ndata: [{files: rows.jsonl}]\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "four.yaml").write_text(SPEC)
    write(tmp_path, [{"id": name, "text": text} for name, text in ANSWERS.items()])
    return tmp_path


def write(folder, rows):
    (folder / "answers.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    )


def evaluate(folder, *words, answers="answers.jsonl"):
    done = gpg_vl("evaluate", folder / "four.yaml", "--answers", folder / answers, *words)
    return done.returncode, " ".join(done.printed.split())


def records(folder, *words):
    code, output = evaluate(folder, "--to", str(folder / "out.jsonl"), *words)
    assert code == 0, output
    strict_rows(folder / "out.jsonl")
    return {record.id: record for record in eval_records.load(folder / "out.jsonl")}


def test_only_a_line_feed_ends_a_line_and_a_mark_of_byte_order_is_no_part_of_it(folder):
    plain = {name: record.text for name, record in records(folder).items()}
    lines = (folder / "answers.jsonl").read_text().replace('", "', '",\r"')
    assert "\r" in lines
    (folder / "answers.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert {name: record.text for name, record in records(folder).items()} == plain


def test_a_benchmark_scores_recorded_answers_in_its_own_mode(folder):
    """As it scores those of a model: a mode beside a verifier would mix two figures."""
    given = records(folder, "verifiers.number.mode=lenient", "verifiers.number.kind=number")
    assert (given["a"].greedy, given["b"].greedy) == (1.0, 0.0)


def test_strictly_only_well_formed_answers_count(folder):
    given = records(folder)
    assert {name: record.greedy for name, record in given.items()} == {
        "a": 1.0,
        "b": 0.0,
        "c": 0.0,
        "d": 0.0,
    }
    assert {name: record.well_formed for name, record in given.items()} == {
        "a": 1.0,
        "b": 0.0,
        "c": 0.0,
        "d": 0.0,
    }
    assert (
        given["c"].reason
        == "malformed: expected the tags <think> </think> <answer> </answer>, got none"
    )


def test_leniently_foreign_answers_count_and_each_says_why(folder):
    given = records(folder, "mode=lenient")
    assert {name: record.greedy for name, record in given.items()} == {
        "a": 1.0,
        "b": 1.0,
        "c": 1.0,
        "d": 1.0,
    }
    assert {name: record.answer for name, record in given.items()} == {
        "a": "3",
        "b": "3.4641",
        "c": "dog",
        "d": "[20,40,100,200]",
    }
    assert given["d"].reason == "right: IoU 1.00"
    assert given["a"].tag == "count"
    assert given["c"].text == ANSWERS["c"]


def test_answers_that_nearly_all_lack_the_format_are_explained(folder):
    foreign = {"a": "3", "b": "The answer is $2\\sqrt{3}$ cm.", "c": "(B)", "d": "Nowhere."}
    write(folder, [{"id": name, "text": text} for name, text in foreign.items()])
    code, output = evaluate(folder)
    assert code == 0
    assert (
        "four: 4 of 4 answers do not have the format of the prompt style; lenient mode would read "
        "75 % as right: set mode=lenient" in output
    )
    for knob in ("mode=lenient", "mode=reference"):
        assert "do not have the format" not in evaluate(folder, knob)[1]
    write(
        folder, [{"id": name, "text": f"<answer>{text}</answer>"} for name, text in foreign.items()]
    )
    assert "set prompt=answer" in evaluate(folder)[1]
    assert "do not have the format" not in evaluate(folder, "prompt=answer")[1]
    assert "do not have" not in evaluate(folder, "prompt.kind=think", "prompt.think=absent")[1]


def test_a_strict_record_says_by_which_grammar_it_was_read(folder):
    by_default = records(folder)
    answer_only = records(folder, "prompt=answer")
    assert by_default["a"].settings["prompt.think"] == "required"
    assert remarks([*by_default.values()], [*answer_only.values()]) == [
        "prompt differs: think in the first, answer in the second",
        "prompt.think differs: required in the first, absent in the second",
    ]
    # another mode reads every style, and how the model was asked is not known
    assert "prompt" not in records(folder, "mode=lenient")["a"].settings


def test_a_record_names_its_file_of_answers_for_any_folder():
    asked = benchmark_of(how_many("a", 3, "s"))
    (scored,) = recorded_answers.score_answers(asked, [Answer("a", "3")], Path("answers.jsonl"))
    assert scored.about["answers"] == str(Path.cwd() / "answers.jsonl")


def test_knobs_may_begin_as_they_do_with_a_model(folder):
    assert records(folder, "benchmark.mode=lenient")["b"].greedy == 1.0


def test_the_frame_of_the_answers_is_a_knob(folder):
    write(
        folder,
        [
            {"id": name, "text": text}
            for name, text in (ANSWERS | {"d": "(100,100),(500,500)"}).items()
        ],
    )
    assert records(folder, "mode=lenient", "frame=qwen2_vl")["d"].greedy == 1.0
    assert records(folder, "mode=lenient", "frame=internvl")["d"].greedy == 1.0
    assert records(folder, "mode=lenient", "frame=pixels")["d"].greedy < 0.2
    code, output = evaluate(folder, "frame=qwen9")
    assert code == 2
    assert (
        "frame: got 'qwen9', expected pixels, norm1, norm1000, resized or a family: qwen2_vl, "
        "qwen2_5_vl, qwen3_vl, internvl" in output
    )


def test_columns_may_have_other_names(folder):
    write(folder, [{"idx": name, "response": text} for name, text in ANSWERS.items()])
    assert (
        records(folder, "mode=lenient", "--map", "id=idx", "--map", "text=response")["b"].greedy
        == 1.0
    )
    assert records(folder, "mode=lenient", "--map", "id=idx,text=response")["b"].greedy == 1.0


def test_any_letters_in_an_answer_are_read_and_written(folder):
    texts = ANSWERS | {
        "a": "<think>so\u2028\u0085</think><answer>3</answer>",
        "b": "half a pair \ud83d",
    }
    (folder / "answers.jsonl").write_text(
        "".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts.items())
    )
    assert records(folder)["b"].text == "half a pair \ufffd"
    # the separators as they are
    write(folder, [{"id": name, "text": text} for name, text in (texts | {"b": "x"}).items()])
    assert records(folder)["a"].text == texts["a"]
    assert records(folder)["a"].greedy == 1.0


def test_verifiers_are_knobs_too(folder):
    assert (
        records(
            folder, "mode=lenient", "verifiers.number.kind=value", "verifiers.number.tolerance=0.5"
        )["a"].greedy
        == 1.0
    )


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"id": "a", "text": "3"}], "3 ids (b, c, d) not answered; nothing was scored"),
        ([{"id": name, "text": "3"} for name in "abcdx"], "1 id (x) not asked; nothing was scored"),
        ([{"id": name, "text": "3"} for name in "abcda"], "1 id (a) answered more than once"),
        ([{"id": "x", "text": "3"}], "1 id (x) not asked; 4 ids (a, b, c, d) not answered"),
        (
            [{"id": str(number), "text": "3"} for number in range(9)],
            "9 ids (0, 1, 2, 3, 4 and 4 more) not asked",
        ),
        (
            [{"id": "a", "answer": "3"}],
            "line 1: no column 'text'; it has id, answer: name it with --map text=COLUMN",
        ),
        ([[1, 2]], "line 1: got list, expected an object of columns"),
    ],
)
def test_a_file_that_does_not_fit_is_reported_and_nothing_is_scored(folder, rows, sentence):
    write(folder, rows)
    code, output = evaluate(folder, "--to", str(folder / "out.jsonl"))
    assert code == 2
    assert sentence in output
    assert not (folder / "out.jsonl").exists()


def test_other_mistakes_are_reported(folder):
    (folder / "broken.jsonl").write_text('{"id": "a"')
    assert "broken.jsonl line 1: not JSON" in evaluate(folder, answers="broken.jsonl")[1]
    (folder / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in evaluate(folder, answers="binary.jsonl")[1]
    assert "no such file" in evaluate(folder, answers="nowhere.jsonl")[1]
    assert "did you mean" in evaluate(folder, answers="answer.json")[1]
    assert (
        "--map words=x: expected id=COLUMN or text=COLUMN"
        in evaluate(folder, "--map", "words=x")[1]
    )
    assert "mode: got 'kind', expected" in evaluate(folder, "mode=kind")[1]
    assert "leave it out" in evaluate(folder, "--blank")[1]
    assert "expected exactly one of --model" in evaluate(folder, "--model", "runs/x")[1]


def test_questions_without_a_sound_truth_are_left_out_and_reported(folder):
    rows = [*ROWS, {"id": "e", "question": "How many?", "answer_kind": "number", "answer": "many"}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write(folder, [{"id": name, "text": text} for name, text in {**ANSWERS, "e": "3"}.items()])
    code, output = evaluate(folder, "mode=lenient")
    assert code == 0
    assert "four: 1 question is left out, 4 are asked; e: answer 'many' is not a number" in output


@needed
@pytest.mark.parametrize(
    ("mode", "figure"), [("lenient", "reference_acc_at_0_5"), ("reference", "recorded_accuracy")]
)
def test_a_recorded_log_is_scored_to_the_record(tmp_path, mode, figure):
    log = "grounding/vlmr1/rec_results_refcoco_val_qwen2_5vl_3b_instruct_r1_600.json"
    asked = [
        {
            "id": str(place),
            "question": record["question"],
            "answer_kind": "boxes",
            "answer": [record["ground_truth"]],
        }
        for place, record in enumerate(read(log)["results"])
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    (tmp_path / "four.yaml").write_text(
        SPEC + "verifiers: {boxes: {kind: boxes, policy: first, threshold: 0.5}}\n"
    )
    write(
        tmp_path,
        [
            {"id": place, "text": record["model_output"]}
            for place, record in enumerate(read(log)["results"])
        ],
    )
    code, output = evaluate(tmp_path, f"mode={mode}")
    assert code == 0
    assert re.search(rf"greedy │ {reference(log)[figure]} \[8\d\.\d, 9\d\.\d\]", output)


# --- by hand, without a command -------------------------------------------------------------------


def test_answers_are_read_by_id_whatever_their_form(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"id": 1, "text": "x"}\n\n  \n{"id": "2", "text": ["é"]}\r\n{"id": 3.0, "text": '
        '4.5, "more": 1}',
        encoding="utf-8",
    )
    assert texts(path) == {"1": "x", "2": "é", "3": "4.5"}
    path.write_text('{"name": "a", "said": "x", "text": "y"}\n')
    assert texts(path, "id=name", "text=said") == {"a": "x"}
    assert texts(path, "id=name") == {"a": "y"}


def texts(path: Path, *columns: str) -> dict[str, str]:
    return {answer.id: answer.text for answer in recorded_answers.read_answers(path, columns)}


EVERY_FORM = {
    "list.json": '[{"id": 1, "text": "x"}, {"id": "b", "text": ["y"]}]',
    "keyed.json": '{"1": "x", "b": "y"}',
    "lines.json": '{"id": 1, "text": "x"}\n{"id": "b", "text": "y"}\n',
    "lines.jsonl": '{"id": 1, "text": "x"}\n{"id": "b", "text": "y"}',
    "lines.txt": '{"id": 1, "text": "x"}\n{"id": "b", "text": "y"}',
    "list.jsonl": '[{"id": 1, "text": "x"},\n{"id": "b", "text": "y"}]',
    "named_list.json": '{"model": {}, "data": [{"id": 1, "text": "x"}, {"id": "b", "text": "y"}]}',
    "keyed_rows.json": '{"1": {"text": "x", "question": "?"}, "b": {"text": "y"}}',
    "table.csv": 'id,text\n1,x\nb,"y"\n',
    "table.tsv": "id\ttext\n1\tx\nb\ty\n",
}


@pytest.mark.parametrize("name", EVERY_FORM)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_same_answers_are_read_from_every_form(name, mark, end, tmp_path):
    content = EVERY_FORM[name].replace("\n", end)
    (tmp_path / name).write_bytes(mark + content.encode())
    assert texts(tmp_path / name) == {"1": "x", "b": "y"}


def test_a_column_may_be_a_field_of_another(tmp_path):
    """The results of a batch of requests to a server of chats."""
    response = {"body": {"choices": [{"message": {"content": "x"}}]}}
    row = {"custom_id": "a", "response": response}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    columns = "id=custom_id", "text=response.body.choices.0.message.content"
    assert texts(tmp_path / "a.jsonl", *columns) == {"a": "x"}


def test_json_in_utf_16_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"a": "é"}', encoding="utf-16")
    assert texts(tmp_path / "a.json") == {"a": "é"}


def test_the_only_answer_may_be_a_row_alone(tmp_path):
    (tmp_path / "a.json").write_text('{"id": "a", "text": "x"}')
    assert texts(tmp_path / "a.json") == {"a": "x"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (["a", "b"], "line 1: text: got a list of 2: ['a', 'b'], expected one text"),
        ([], "line 1: text: got a list of 0: [], expected one text"),
        ([[1, 2, 3, 4]], "got a list of 1: [[1, 2, 3, 4]], expected one text"),
        (
            {"role": "assistant", "content": "3"},
            "of an OpenAI response --map text=COLUMN.choices.0.message.content",
        ),
        (None, 'text: got None, expected one text; write "" for an empty answer'),
        (math.nan, 'text: got nan, expected one text; write "" for an empty answer'),
    ],
)
def test_an_answer_that_is_no_text_is_refused_and_never_scored_as_json(text, sentence, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"id": "a", "text": text}) + "\n")
    with pytest.raises(UserError, match=re.escape(sentence)):
        recorded_answers.read_answers(path)


@pytest.mark.parametrize("name", [None, math.nan, True, ["a"], {"a": 1}])
def test_an_answer_without_an_id_is_refused(name, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"id": name, "text": "3"}) + "\n")
    with pytest.raises(UserError, match=r"line 1: id: got .*, expected the id of a question"):
        recorded_answers.read_answers(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"a": "x", "b": "y", "a": "z"}', "1 id (a) answered more than once"),
        ('["x"]', "row 1: got str, expected an object of columns"),
        ('"x"', "got 'x', expected a list of objects with the columns id and text"),
        ('{"a": ["x", "y"]}', "a.json: a: text: got a list of 2"),
        ('{"a": "x"', "a.json: not JSON"),
        ("[" * 200_000, "a.json: not JSON"),
        ('{"a": ' + 5000 * "9" + "}", "a.json: not JSON: Exceeds the limit"),
    ],
)
def test_a_json_file_that_is_none_of_answers_is_refused(content, sentence, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=re.escape(sentence)):
        recorded_answers.read_answers(tmp_path / "a.json")


def benchmark_of(*questions: Sample) -> Benchmark:
    return Benchmark(
        spec=BenchmarkSpec(name="b", data=(Source(recipe="digits"),)),
        questions=questions,
        style=AnswerOnly(),
        verifiers=VerifierSet(by_kind={"number": Number(mode="lenient")}),
        seed=0,
    )


def how_many(name: str, answer: int, source: str) -> Sample:
    return Sample(id=name, question="How many?", answer_kind="number", answer=answer, source=source)


def test_equal_ids_of_two_sources_need_a_column_that_says_whose_they_are():
    small = benchmark_of(how_many("a", 3, "one"), how_many("a", 4, "two"), how_many("b", 5, "two"))
    answers = [Answer("a", "4", "two"), Answer("a", "3", "one"), Answer("b", "5")]
    scored = recorded_answers.score_answers(small, answers, Path("f"))
    assert [(record.key, record.greedy) for record in scored] == [
        (("one", "a"), 1.0),
        (("two", "a"), 1.0),
        (("two", "b"), 1.0),
    ]
    with pytest.raises(UserError) as refused:
        recorded_answers.score_answers(small, [Answer("a", "3"), Answer("b", "5")], Path("f"))
    assert str(refused.value) == (
        "f: 1 id (a) not asked; 2 ids (a of one, a of two) not answered; nothing was scored: "
        "answer every question of the benchmark once, and say in a column `source` whose question "
        "it is: one, two"
    )


def test_an_answer_to_a_row_that_is_left_out_never_answers_another_source_s_question():
    rows = benchmark_of(how_many("a", 4, "two"), how_many("b", 5, "two"))
    small = replace(rows, left_out=(LeftOut("a", "no number", "one"),))
    answers = [Answer("a", "3", "one"), Answer("a", "4", "two"), Answer("b", "5")]
    scored = recorded_answers.score_answers(small, answers, Path("f"))
    assert [(record.key, record.greedy) for record in scored] == [
        (("two", "a"), 1.0),
        (("two", "b"), 1.0),
    ]
    with pytest.raises(UserError, match=r"f: 1 id \(a\) not answered; nothing was scored"):
        recorded_answers.score_answers(small, [answers[0], answers[2]], Path("f"))


def test_an_answer_counts_though_a_broken_row_has_the_same_id():
    broken = replace(benchmark_of(how_many("a", 4, "one")), left_out=(LeftOut("a", "?", "one"),))
    (record,) = recorded_answers.score_answers(broken, [Answer("a", "4", "one")], Path("f"))
    assert record.greedy == 1.0


def test_questions_of_one_id_have_digests_of_their_own_and_others_that_of_their_content():
    alike = [how_many("a", 3, "one"), how_many("a", 3, "two"), how_many("b", 3, "two")]
    answers = [Answer("a", "3", "one"), Answer("a", "3", "two"), Answer("b", "3")]
    scored = recorded_answers.score_answers(benchmark_of(*alike), answers, Path("f"))
    assert len({record.digest for record in scored}) == 3
    alone = benchmark_of(how_many("c", 3, "elsewhere"))
    (other,) = recorded_answers.score_answers(alone, [Answer("c", "3")], Path("f"))
    assert other.digest == scored[2].digest


def test_a_column_source_in_words_of_its_own_is_no_matter_where_ids_are_enough():
    small = benchmark_of(how_many("a", 3, "one"), how_many("b", 5, "two"))
    answers = [Answer("a", "3", "COCO"), Answer("b", "5", "ADE20K")]
    scored = recorded_answers.score_answers(small, answers, Path("f"))
    assert [record.greedy for record in scored] == [1.0, 1.0]
    with pytest.raises(UserError, match=r"f: 1 id \(a\) answered more than once"):
        recorded_answers.score_answers(small, [*answers, Answer("a", "4", "x")], Path("f"))


@pytest.mark.parametrize("column", ["words=x", "id", "id=", "=x", "id=a,text", ""])
def test_a_mapping_of_columns_that_is_none_is_reported(column, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 1, "text": "x"}\n')
    with pytest.raises(UserError, match=r"--map .*: expected id=COLUMN or text=COLUMN"):
        recorded_answers.read_answers(tmp_path / "a.jsonl", [column])


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"id": "a"}], "line 1: no column 'text'; it has id"),
        ([{"text": "a"}], "line 1: no column 'id'; it has text"),
        ([{"x": "a"}], "line 1: no column 'id' and no 'text'; it has x"),
        (
            [{"id": name, "text": ""} for name in "abcabc"],
            "3 ids (a, b, c) answered more than once",
        ),
        (
            [{"id": name, "text": ""} for name in "abcdefabcdef"],
            "6 ids (a, b, c, d, e and 1 more) answered more than once",
        ),
        (
            [{"id": name, "text": ""} for name in "abcdeabcde"],
            "5 ids (a, b, c, d, e) answered more than once",
        ),
        ([{"id": 1, "text": ""}, {"id": "1", "text": ""}], "1 id (1) answered more than once"),
    ],
)
def test_a_file_of_answers_that_is_none_is_reported_with_its_line(rows, sentence, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=re.escape(sentence)):
        recorded_answers.read_answers(path)


def test_an_answer_to_a_question_that_is_left_out_is_no_mistake_and_an_id_asked_twice_is(folder):
    rows = [ROWS[0], {**ROWS[0], "answer": 4}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:1]))
    (folder / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    (folder / "four.yaml").write_text(
        "name: four\ndata: [{files: rows.jsonl}, {files: more.jsonl}]\n"
    )
    write(folder, [{"id": "a", "text": "3"}])
    code, output = evaluate(folder)
    assert code == 2
    assert "nothing was scored" in output


def test_what_was_recorded_is_scored_as_if_it_had_ended_and_says_how(folder):
    given = records(folder, "mode=lenient", "beside=strict")
    assert {name: each.beside for name, each in given.items()} == {
        "a": 1.0,
        "b": 0.0,
        "c": 0.0,
        "d": 0.0,
    }
    assert {json.dumps(each.settings) for each in given.values()} == {
        '{"benchmark": "four", "mode": "lenient"}'
    }
    assert {each.evaluation for each in given.values()} == {""}
    assert [each.each for each in given.values()] == [()] * 4


def test_the_end_says_where_the_records_are(folder):
    out = folder / "made" / "out.jsonl"
    relative = os.path.relpath(out, Path(__file__).parents[1])  # commands of tests run there
    code, output = evaluate(folder, "mode=lenient", "--to", relative)
    assert code == 0, output
    assert output.endswith(f"records: {out.resolve()}")
    assert "records:" not in evaluate(folder, "mode=lenient")[1]


def test_recorded_scores_are_written_over_and_a_models_are_not(folder):
    out = folder / "out.jsonl"
    records(folder)
    code, output = evaluate(folder, "mode=lenient", "--to", str(out))
    assert (code, output.startswith(f"written over: {out} ")) == (0, True)
    assert [record.greedy for record in eval_records.load(out)] == [1.0] * 4
    kept = [
        replace(record, evaluation="e") if record.id == "c" else record
        for record in eval_records.load(out)
    ]
    eval_records.save(kept, out)
    before = out.read_bytes()
    refusal = "holds what a model was asked; delete it, or choose another --to"
    with pytest.raises(UserError, match=refusal):
        recorded_answers.check_replaceable(out)
    code, output = evaluate(folder, "--to", str(out))
    assert (code, refusal in output) == (2, True)
    assert out.read_bytes() == before
    assert [record.id for record in eval_records.load(out) if record.evaluation] == ["c"]
