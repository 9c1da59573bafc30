"""`gpg-vl evaluate`: real pictures through every kind of benchmark, several at once, interrupted
and resumed; recorded answers by name."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.config import loading
from gpg_vl.config.schema import BenchmarkSpec, Source
from gpg_vl.data import rows as sample_rows
from gpg_vl.evaluation import average_precision, metrics, recorded_answers
from gpg_vl.evaluation import evaluate as evaluating
from gpg_vl.evaluation import records as eval_records
from gpg_vl.evaluation.benchmark import Benchmark
from gpg_vl.evaluation.records import EvalLog
from gpg_vl.experiment import Experiment, benchmark_for_recorded_answers
from gpg_vl.pictures import picture_size
from gpg_vl.policy import load
from gpg_vl.prompts import AnswerOnly
from gpg_vl.types import Sample
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.number import Number
from tests import published
from tests.commands import gpg_vl
from tests.hand_made import completion
from tests.recorded import home, needed, read, reference
from tests.strict_json import strict_rows

SMALL = [
    "policy.tiny.hidden=32",
    "policy.tiny.layers=1",
    "policy.tiny.vision_hidden=16",
    "policy.tiny.vision_layers=1",
]


def evaluate(*arguments: object) -> tuple[int, str]:
    done = gpg_vl("evaluate", *arguments)
    return done.returncode, done.printed


# --- the tiny model on real pictures --------------------------------------------------------------


def real_pictures() -> Iterator[Sample]:
    """A question of every kind about recorded photographs, renders and drawings."""
    folder = home()
    assert folder is not None
    for row in read("images/superclevr/index.jsonl")[:2]:
        picture, name = folder / "images/superclevr" / row["image"], Path(row["image"]).stem
        yield asked(
            "number",
            f"clevr/{name}",
            picture,
            "How many different items are there in the image?",
            row["count"],
        )
        for question in row["questions"][:1]:
            answer = "yes" if question["answer"] else "no"
            yield asked(
                "choice",
                f"clevr/{name}/yes",
                picture,
                question["question"],
                answer,
                choices=("yes", "no"),
            )
    for row in read("images/bccd/index.jsonl")[:2]:
        picture, name = folder / "images/bccd" / row["image"], Path(row["image"]).stem
        white, *_ = [item["box"] for item in row["objects"] if item["label"] == "WBC"]
        yield asked("boxes", f"bccd/{name}/white", picture, "Where is the white cell?", [white])
        every = [item["box"] for item in row["objects"] if item["label"] == "RBC"]
        yield asked("detection", f"bccd/{name}/red", picture, "Detect all red blood cells.", every)
        yield asked(
            "label",
            f"bccd/{name}/label",
            picture,
            "Which large cell is it?",
            "WBC",
            choices=("WBC", "Platelets"),
        )
    for row in [row for row in read("images/mathvision/index.jsonl") if row["answer"].isdecimal()][
        :2
    ]:
        question = row["question"].replace("<image1>", "")
        yield asked(
            "value",
            f"math/{row['id']}",
            folder / "images/mathvision" / Path(row["image"]).name,
            question,
            row["answer"],
        )


def asked(
    kind: str,
    name: str,
    picture: Path,
    question: str,
    answer: object,
    choices: tuple[str, ...] = (),
) -> Sample:
    return Sample(
        id=name,
        question=question,
        images=(picture,),
        sizes=(picture_size(picture),),
        answer_kind=kind,
        answer=answer,
        choices=choices,
    )


@needed
def test_every_kind_of_benchmark_runs_on_real_pictures(tmp_path):
    rows = list(real_pictures())
    sample_rows.write(rows, tmp_path / "rows")
    spec = (
        "name: real\ndata: [{files: rows/samples.jsonl}]\nprompt: think\nbeside: "
        "reference\nsamples: 2\nmax_tokens: 12\n"
    )
    (tmp_path / "real.yaml").write_text(spec)
    limits = ["policy.max_pixels=12544", "policy.min_pixels=784"]
    code, output = evaluate(
        tmp_path / "real.yaml", "--model", "tiny", *SMALL, *limits, "--to", tmp_path / "out.jsonl"
    )
    assert code == 0, output
    for kind in ("number", "choice", "boxes", "detection", "label", "value"):
        assert f" {kind} " in output
    assert " reference " in output
    assert " pass@2 " in output
    records = eval_records.load(tmp_path / "out.jsonl")
    assert [record.id for record in records] == [sample.id for sample in rows]
    assert [record.truth for record in records] == [sample.answer for sample in rows]
    for line, sample in zip(strict_rows(tmp_path / "out.jsonl"), rows, strict=True):
        assert (line["question"], line["kind"]) == (sample.question, sample.answer_kind)
        assert len(line["texts"]) == 2
        assert all(Path(picture).is_file() for picture in line["images"])
    assert all(record.reason for record in records)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("name", ["superclevr", "cv_bench", "geoqa", "coco"])
def test_a_shipped_benchmark_runs_by_name_and_knobs_reach_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv("GPG_VL_DATA", str(tmp_path))
    published.MADE[name](tmp_path / name)
    code, output = evaluate(name, "--model", "tiny", *SMALL, "benchmark.max_tokens=3")
    assert code == 2
    assert "complete=false" in output
    knobs = ["benchmark.max_tokens=3", "benchmark.data.0.options.complete=false"]
    code, output = evaluate(name, "--model", "tiny", *SMALL, *knobs)
    assert code == 0, output
    if name == "cv_bench":
        assert "CV-Bench" in output
    if name == "coco":
        assert "average precision (coco)" in output
        assert "AP50" in output


def test_several_benchmarks_are_taken_with_one_model(tmp_path, monkeypatch):
    for name in ("first", "second"):
        add = "{recipe: digits, options: {task: add, count: 2}}"
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\ndata: [{add}]\nmax_tokens: 3\n")
    loads = []
    load_policy = load.load_policy
    monkeypatch.setattr(
        load,
        "load_policy",
        lambda *args, **given: loads.append(1) or load_policy(*args, **given),
    )
    code, output = evaluate(
        tmp_path / "first.yaml",
        tmp_path / "second.yaml",
        "--model",
        "tiny",
        *SMALL,
        "--to",
        tmp_path / "out",
    )
    assert code == 0, output
    assert loads == [1]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"first.jsonl", "second.jsonl"}
    for name in ("first", "second"):
        assert f"records: {tmp_path / 'out' / name}.jsonl" in output


class Stop(BaseException):
    """The power goes off."""


def test_an_interrupted_evaluation_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    (tmp_path / "add.yaml").write_text(
        "name: add\ndata: [{recipe: digits, options: {task: add, count: 6}}]\nsamples: "
        "2\nmax_tokens: 3\n"
    )
    monkeypatch.setattr(evaluating, "QUESTIONS_AT_ONCE", 2)
    starts = iter("abcdef")
    monkeypatch.setattr(evaluating, "facts_of", lambda **facts: {**facts, "time": next(starts)})
    whole = (tmp_path / "add.yaml", "--model", "tiny", *SMALL)
    assert evaluate(*whole, "--to", tmp_path / "whole.jsonl")[0] == 0
    asked = []
    ask = evaluating._ask

    def failing(batch, *others):
        if len(asked) == 2:
            raise Stop
        asked.append(len(batch))
        return ask(batch, *others)

    monkeypatch.setattr(evaluating, "_ask", failing)
    with pytest.raises(Stop):
        list(
            evaluating.evaluate_benchmarks(
                [str(tmp_path / "add.yaml")],
                "tiny",
                SMALL,
                path_of=lambda name: tmp_path / "cut.jsonl",
            )
        )
    kept = tmp_path / "cut.jsonl.part"
    with kept.open("a") as file:
        file.write('{"id": "half a li')  # the last line was being written
    asked.clear()
    asked.append(0)
    assert evaluate(*whole, "--to", tmp_path / "cut.jsonl")[0] == 0
    assert asked == [0, 2]  # of three batches only the last was asked again
    at_any_time = re.compile(r'"time": "[^"]*"')
    cut, uncut = (
        at_any_time.subn("", (tmp_path / name).read_text()) for name in ("cut.jsonl", "whole.jsonl")
    )
    assert cut == uncut
    assert cut[1] == 1, "one that goes on is known by the time when it began"
    assert not kept.exists()


ADD = (
    "name: add\ndata: [{recipe: digits, options: {task: add, count: 4}}]\nmax_tokens: "
    "3\nsamples: 0\n"
)


@pytest.fixture
def asking(monkeypatch):
    """How many questions are asked, batch by batch."""
    counted: list[int] = []
    ask = evaluating._ask

    def counting(batch, *others):
        counted.append(len(batch))
        return ask(batch, *others)

    monkeypatch.setattr(evaluating, "_ask", counting)
    return counted


@pytest.mark.parametrize("half", [False, True])
def test_answers_of_another_evaluation_are_neither_mixed_in_nor_overwritten(half, tmp_path, asking):
    (tmp_path / "add.yaml").write_text(ADD)
    whole = (tmp_path / "add.yaml", "--model", "tiny", *SMALL, "--to", tmp_path / "out.jsonl")
    assert evaluate(*whole)[0] == 0
    if half:
        (tmp_path / "out.jsonl").rename(tmp_path / "out.jsonl.part")
    asking.clear()
    code, output = evaluate(*whole, "benchmark.max_tokens=2")
    assert code == 2
    assert (
        "answers of another evaluation (model, questions or scoring differ); delete it, or choose "
        "another --to" in output
    )
    assert evaluate(*whole, "--blank")[0] == 2
    assert evaluate(*whole)[0] == 0
    assert asking == []


@pytest.mark.parametrize("letters", ["\x0b\x0c\x1ey\u0085z\u2029x\u2028", "数"])
def test_any_letters_are_read_back_and_a_file_cut_inside_one_goes_on(letters, tmp_path):
    record = eval_records.Record(
        id="a",
        tag="t",
        greedy=1.0,
        sampled=math.nan,
        text=letters,
        answer=letters,
        reason="right",
        evaluation="e",
    )
    eval_records.save([record, replace(record, id="b")], tmp_path / "out.jsonl")
    assert [(read.id, read.text) for read in eval_records.load(tmp_path / "out.jsonl")] == [
        ("a", letters),
        ("b", letters),
    ]
    written = (tmp_path / "out.jsonl").read_bytes()
    (tmp_path / "out.jsonl").unlink()
    kept = EvalLog(tmp_path / "out.jsonl", "e")
    kept.part.write_bytes(written[: written.rindex(letters[-1].encode()) + 1])
    assert [read.id for read in kept.records()] == ["a"]
    kept.add([replace(record, id="b")])
    assert [(read.id, read.text, read.evaluation) for read in kept.records()] == [
        ("a", letters, "e"),
        ("b", letters, "e"),
    ]


def test_of_several_benchmarks_the_finished_ones_are_not_asked_again(tmp_path, asking, monkeypatch):
    for name in ("first", "second"):
        (tmp_path / f"{name}.yaml").write_text(ADD)
    monkeypatch.setattr(evaluating, "QUESTIONS_AT_ONCE", 2)
    ask = evaluating._ask

    def stopping(batch, *others):
        if len(asking) == 3:
            raise KeyboardInterrupt
        return ask(batch, *others)

    monkeypatch.setattr(evaluating, "_ask", stopping)
    whole = (
        tmp_path / "first.yaml",
        tmp_path / "second.yaml",
        "--model",
        "tiny",
        *SMALL,
        "--to",
        tmp_path / "out",
    )
    code, output = evaluate(*whole)
    assert code == 130
    assert "stopped; the same command goes on from there" in output
    monkeypatch.setattr(evaluating, "_ask", ask)
    code, output = evaluate(*whole)
    assert (code, asking) == (0, [2, 2, 2, 2])
    for name in ("first.yaml", "second.yaml"):  # not on a terminal: plain lines
        assert f"{name}: 4 questions\n" in output


def test_a_foreign_file_in_the_place_of_the_second_is_reported_before_the_first_is_asked(
    tmp_path, asking
):
    for name in ("first", "second"):
        (tmp_path / f"{name}.yaml").write_text(ADD)
    eval_records.save([], tmp_path / "out" / "first.jsonl.part")
    foreign = eval_records.Record(
        id="a", tag="t", greedy=1.0, sampled=math.nan, text="", answer="", reason=""
    )
    eval_records.save([foreign], tmp_path / "out" / "second.jsonl")
    code, output = evaluate(
        tmp_path / "first.yaml",
        tmp_path / "second.yaml",
        "--model",
        "tiny",
        *SMALL,
        "--to",
        tmp_path / "out",
    )
    assert code == 2
    assert "second.jsonl: answers of another evaluation" in output
    assert asking == []


OWN = """class Own:
    def __call__(self, text, sample):
        from gpg_vl.types import Verdict
        return Verdict(reward=1.0, reason="right")
def build():
    return Own()
"""


@pytest.fixture
def own(tmp_path):
    """A benchmark of two questions in a file, scored by a verifier of one's own that is no
    dataclass."""
    rows = [
        {"id": name, "question": "Which?", "answer_kind": "own", "answer": name} for name in "ab"
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "own.yaml").write_text(
        "name: own\ndata: [{files: rows.jsonl}]\nverifiers: {own: "
        f"{tmp_path}/own.py:build}}\nmax_tokens: 3\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("own.py", "1.0", "0.5"),
        ("rows.jsonl", "Which?", "What?"),
        ("rows.jsonl", '"answer": "a"', '"answer": "c"'),
    ],
)
def test_a_changed_verifier_or_question_is_another_evaluation(file, before, after, own, asking):
    whole = (own / "own.yaml", "--model", "tiny", *SMALL, "--to", own / "out.jsonl")
    assert evaluate(*whole)[0] == 0
    assert evaluate(*whole)[0] == 0
    assert asking == [2]
    (own / file).write_text((own / file).read_text().replace(before, after))
    code, output = evaluate(*whole)
    assert code == 2
    assert "answers of another evaluation" in output


def test_another_revision_of_a_hub_model_is_another_evaluation(own, policy_of):
    experiment = Experiment.resolve(loading.load_for_model("who/model", ["prompt=answer"]))
    policy = policy_of()
    own_benchmark = experiment.benchmark(policy, str(own / "own.yaml"))
    fingerprints = []
    for revision in ("aaa", "bbb", "aaa"):
        policy.model.config._commit_hash = revision
        fingerprints.append(
            evaluating._fingerprint(own_benchmark, experiment, "who/model", policy, False)
        )
    assert fingerprints[0] == fingerprints[2] != fingerprints[1]


@pytest.mark.parametrize("recorded", [False, True])
def test_a_verifier_that_fails_is_reported_and_ends_with_an_error(recorded, own):
    (own / "own.py").write_text(
        OWN.replace(
            "        return Verdict",
            "        if sample.id == 'b': raise TypeError('no such column')\n        return "
            "Verdict",
        )
    )
    answers = answered(own / "answers.jsonl", {"a": "x", "b": "y"})
    code, output = evaluate(
        own / "own.yaml",
        *(
            ("--answers", answers)
            if recorded
            else ("--model", "tiny", *SMALL, "benchmark.mode=lenient")
        ),
    )
    assert code == 1
    assert (
        "the verifier failed on answers to 1 question of 2, which count as wrong; b: fault: "
        "TypeError: no such column" in output
    )


def test_questions_that_cannot_be_scored_are_reported(tmp_path):
    rows = [
        {"id": str(place), "question": "How many?", "answer_kind": "number", "answer": answer}
        for place, answer in enumerate((3, "many"))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "some.yaml").write_text("name: some\ndata: [{files: rows.jsonl}]\nmax_tokens: 3\n")
    code, output = evaluate(tmp_path / "some.yaml", "--model", "tiny", *SMALL)
    assert code == 0
    assert "some: 1 question is left out, 1 are asked; 1: answer 'many' is not a number" in output


def of_numbers(**knobs: Any) -> Benchmark:
    """Return a benchmark that scores numbers and asks nothing."""
    return Benchmark(
        spec=BenchmarkSpec(name="x", data=(Source(recipe="digits"),), **knobs),
        questions=(),
        style=AnswerOnly(),
        verifiers=VerifierSet(by_kind={"number": Number()}),
        seed=0,
    )


def test_another_reading_scores_what_was_decoded_whatever_its_end():
    benchmark = of_numbers(beside="reference")
    sample = Sample(id="q", question="How many?", answer_kind="number", answer=3)
    ends = [completion(text="<answer>3</answer>", finish=end) for end in ("stop", "length")]
    assert [benchmark.score(sample, end, []).beside for end in ends] == [1.0, 1.0]
    formatted = [replace(end, text="<think>so</think><answer>3</answer>") for end in ends]
    strict = [benchmark.score(sample, end, []).greedy for end in formatted]
    assert strict == [1.0, 0.0]


def test_a_record_knows_its_question_its_truth_and_its_pictures(tmp_path):
    grey = evaluating.blanked(
        Sample(
            id="q", question="?", answer_kind="number", answer=3, sizes=((8, 8),), images=(b"x",)
        )
    )
    (tmp_path / "grey.png").write_bytes(grey.images[0])
    benchmark = of_numbers()
    said = completion(text="3")
    same = [grey, replace(grey, id="other", images=(tmp_path / "grey.png",))]
    others = [
        replace(grey, question="!"),
        replace(grey, answer=4),
        replace(grey, images=(b"y",)),
        replace(grey, images=grey.images * 2),
    ]
    kept = [benchmark.score(sample, said, []) for sample in (*same, *others)]
    keys = [(record.digest, record.pictures) for record in kept]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 5
    assert benchmark.score(replace(grey, images=()), said, []).pictures == ""


def test_what_cannot_be_written_is_reported_before_a_model_is_loaded(tmp_path):
    (tmp_path / "a").mkdir()
    for place in (tmp_path / "add.yaml", tmp_path / "a" / "add.yaml", tmp_path / "b.yaml"):
        place.write_text(ADD)
    one, two, three = tmp_path / "add.yaml", tmp_path / "a" / "add.yaml", tmp_path / "b.yaml"
    model = ("--model", tmp_path / "no such model", "--to")
    for arguments, sentence in (
        ((one, two, *model, tmp_path / "out"), "several benchmarks would be written to add.jsonl"),
        ((one, *model, tmp_path / "a"), "is a folder, expected a .jsonl file for one benchmark"),
        ((one, three, *model, one), "is a file, expected a folder for 2 benchmarks"),
        ((one, *model, one / "x.jsonl"), "a folder above it is a file"),
    ):
        code, output = evaluate(*arguments)
        assert code == 2
        assert sentence in output


def test_a_models_records_are_not_written_over_by_recorded_answers(own):
    answers = answered(own / "answers.jsonl", {"a": "x", "b": "y"})
    given = (own / "own.yaml", "--answers", answers, "--to")
    assert evaluate(*given, own / "one.jsonl")[0] == 0
    code, output = evaluate(*given, own / "one.jsonl")
    assert code == 0
    assert f"written over: {own / 'one.jsonl'}" in output
    assert evaluate(own / "own.yaml", "--model", "tiny", *SMALL, "--to", own / "two.jsonl")[0] == 0
    code, output = evaluate(*given, own / "two.jsonl")
    assert code == 2
    assert "holds what a model was asked; delete it, or choose another --to" in output


def test_average_precision_without_its_library_is_reported_before_anything_is_asked(
    tmp_path, monkeypatch, asking
):
    published.coco(tmp_path / "coco")
    monkeypatch.setenv("GPG_VL_DATA", str(tmp_path))
    monkeypatch.setattr(average_precision, "find_spec", lambda name: None)
    answers = answered(tmp_path / "a.jsonl", {})
    for how in (
        ("--model", "tiny", *SMALL, "benchmark.data.0.options.complete=false"),
        ("--answers", answers, "data.0.options.complete=false"),
    ):
        code, output = evaluate("coco", *how)
        assert code == 2
        assert "average precision needs faster-coco-eval: pip install 'gpg-vl[detection]'" in output
    assert asking == []


def test_mistakes_are_reported():
    assert "no benchmark named; shipped: " in evaluate("steps=1", "--model", "tiny")[1]
    code, output = evaluate("lisa_test", "--model", "tiny", *SMALL)
    assert code == 2
    assert (
        "lisa (test): downloads/lisa holds no ReasonSeg/test/*.json or test/*.json. ReasonSeg.zip "
        "from" in output
    )
    assert "Put them into downloads/lisa" in output


# --- recorded answers by the name of the benchmark ------------------------------------------------


def figure(output: str, row: str) -> tuple[float, float]:
    """The greedy figure of a row of the table, and the one beside it."""
    lines = output.splitlines()
    (place,) = [place for place, line in enumerate(lines) if re.search(rf"│ {row} ", line)]
    first, second = (
        re.search(r"│ (greedy|reference) +│ ([\d.]+) \[", line) for line in lines[place : place + 2]
    )
    assert first
    assert second
    return float(first[2]), float(second[2])


def answered(path: Path, texts: dict[str, str]) -> Path:
    path.write_text(
        "".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts.items())
    )
    return path


@needed
def test_recorded_counts_to_the_record(tmp_path):
    folder = home()
    assert folder is not None
    options = [f"data.0.options.folder={folder / 'counting'}", "data.0.options.pictures=false"]
    for log in (
        "counting/superclevr_200_qwen2vl_2b_instruct.json",
        "counting/superclevr_200_qwen2vl_2b_grpo100.json",
    ):
        texts = {
            f"superclevr/test/{place}": row["model_output"]
            for place, row in enumerate(read(log)["results"])
        }
        code, output = evaluate(
            "superclevr", "--answers", answered(tmp_path / "a.jsonl", texts), *options
        )
        assert code == 0, output
        assert figure(output, "number")[1] == reference(log)["recorded_accuracy"]


@needed
def test_recorded_geometry_to_the_record(tmp_path):
    folder = home()
    assert folder is not None
    log = "math/geoqa_test_qwen2vl_7b_instruct.json"
    texts = {
        f"geoqa/test/{place}": row["model_output"] for place, row in enumerate(read(log)["results"])
    }
    options = [
        f"data.0.options.folder={folder / 'math'}",
        "data.0.options.pictures=false",
        "mode=lenient",
    ]
    answers = answered(tmp_path / "a.jsonl", texts)
    code, output = evaluate("geoqa", "--answers", answers, *options, "--to", tmp_path / "out.jsonl")
    assert code == 0, output
    assert figure(output, "value")[1] == pytest.approx(
        reference(log)["recorded_accuracy"], abs=0.05
    )
    records = eval_records.load(tmp_path / "out.jsonl")
    tagged = [record.greedy for record in records if "<answer>" in record.text]
    assert sum(tagged) == reference(log)["reference_correct_value_in_answer_tag"]
    answered(tmp_path / "a.jsonl", dict(list(texts.items())[1:]) | {"geoqa/test/x": "5"})
    code, output = evaluate("geoqa", "--answers", answers, *options)
    assert code == 2
    assert (
        "1 id (geoqa/test/x) not asked; 1 id (geoqa/test/0) not answered; nothing was scored"
        in output
    )


@needed
@pytest.mark.parametrize(("name", "file"), [("flower102", "oxford_flowers"), ("pets37", "pets")])
def test_recorded_class_names_to_the_record(tmp_path, name, file):
    rows = read(f"classification/{file}.jsonl")
    pairs = [[Path(row["image"]).name, row["label_id"], row["label"]] for row in rows]
    listed = {"flower102": "split_zhou_OxfordFlowers.json", "pets37": "split_zhou_OxfordPets.json"}[
        name
    ]
    published.written(tmp_path / listed, {"test": pairs})
    texts = {
        f"{name}/test/{place}": f"<think>so</think><answer>{row['clip_top10'][0]}</answer>"
        for place, row in enumerate(rows)
    }
    options = [f"data.0.options.folder={tmp_path}", "data.0.options.pictures=false"]
    code, output = evaluate(
        name,
        "--answers",
        answered(tmp_path / "a.jsonl", texts),
        *options,
        "--to",
        tmp_path / "out.jsonl",
    )
    assert code == 0, output
    records, known = (
        eval_records.load(tmp_path / "out.jsonl"),
        reference(f"classification/{file}.jsonl"),
    )
    strict, beside = (
        100 * sum(values) / len(records)
        for values in zip(*((r.greedy, r.beside) for r in records), strict=True)
    )
    assert strict == pytest.approx(known["clip_top1_accuracy"], abs=0.005)
    assert beside == pytest.approx(known["accuracy_under_reference_substring_rule"], abs=0.005)
    if name == "flower102":
        assert (f"{strict:.2f}", f"{beside:.2f}") == ("70.48", "71.70")
        assert sum(record.beside > record.greedy for record in records) == 30


@needed
@pytest.mark.parametrize(
    "log",
    ["refcoco_val_qwen2_5vl_3b_instruct_r1_600", "refgta_subsample_qwen2_5vl_3b_instruct_baseline"],
)
def test_recorded_boxes_to_the_record(tmp_path, log):
    name, split = ("refcoco", "val") if "refcoco_" in log else ("refgta", "test")
    results, known = (
        read(f"grounding/vlmr1/rec_results_{log}.json")["results"],
        reference(f"grounding/vlmr1/rec_results_{log}.json"),
    )
    rows = [
        {"image": "x.jpg", "problem": row["question"], "solution": row["ground_truth"]}
        for row in results
    ]
    published.written(
        tmp_path / {"refcoco": "refcoco_val.json", "refgta": "refgta_subsample.json"}[name], rows
    )
    texts = {f"{name}/{split}/{place}": row["model_output"] for place, row in enumerate(results)}
    one = (
        f'data=[{{recipe: {name}, options: {{split: {split}, folder: "{tmp_path}", pictures: '
        "false}}]"
    )
    code, output = evaluate(
        name, "--answers", answered(tmp_path / "a.jsonl", texts), one, "mode=lenient"
    )
    assert code == 0, output
    assert figure(output, split) == (known["reference_acc_at_0_5"], known["recorded_accuracy"])


# --- average precision ----------------------------------------------------------------------------


def spelt(truths: list[list[float]], score: float = 0.9) -> str:
    boxes = ", ".join(f'{{"bbox_2d": {box}, "confidence": {score}}}' for box in truths)
    return (
        f"<think>so</think><answer>[{boxes}]</answer>"
        if truths
        else "<think>so</think><answer>No Objects</answer>"
    )


def taken(folder: Path, texts: dict[str, str], tmp_path: Path) -> dict[str, float]:
    knobs = [f"data.0.options.folder={folder}", "data.0.options.complete=false"]
    coco = benchmark_for_recorded_answers("coco", knobs)
    path = answered(tmp_path / "a.jsonl", texts)
    records = recorded_answers.score_answers(coco, recorded_answers.read_answers(path), path)
    return {name: interval.mean for name, interval in metrics.detection(coco, records).items()}


def test_average_precision_of_a_benchmarks_texts(tmp_path):
    """Two cats in one picture, one in the other: all found is 1; the second picture missed is
    recall 2/3: 67 of 101 points."""
    published.coco(tmp_path / "coco")
    every = {
        "coco/val/7/cat": spelt([[4, 5, 24, 35], [30, 5, 56, 35]]),
        "coco/val/9/cat": spelt([[1, 1, 21, 21]]),
    }
    assert taken(tmp_path / "coco", every, tmp_path)["AP50"] == pytest.approx(1.0)
    missed = every | {"coco/val/9/cat": spelt([])}
    assert taken(tmp_path / "coco", missed, tmp_path)["AP50"] == pytest.approx(67 / 101)


def lvis_like(**image: object) -> dict[str, object]:
    box = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 10, 10], "area": 100}
    picture = {
        "id": 1,
        "width": 50,
        "height": 50,
        "neg_category_ids": [],
        "not_exhaustive_category_ids": [],
        **image,
    }
    empty = {
        "id": 2,
        "width": 50,
        "height": 50,
        "neg_category_ids": [],
        "not_exhaustive_category_ids": [],
    }
    return {
        "images": [picture, empty],
        "annotations": [box],
        "categories": [{"id": 7, "name": "die"}],
    }


FALSE = {"category_id": 7, "bbox": [30, 30, 10, 10], "score": 0.9}
TRUE = {"image_id": 1, "category_id": 7, "bbox": [0, 0, 10, 10], "score": 0.5}


@pytest.mark.parametrize(
    ("image", "where", "expected"),
    [
        ({}, 1, 0.5),  # a false box before the true one
        ({"not_exhaustive_category_ids": [7]}, 1, 1.0),  # it may be one that nobody labelled
        ({}, 2, 1.0),  # nobody looked for the class in that picture
    ],
)
def test_federated_rules_by_hand(image, where, expected):
    found = average_precision.with_intervals(
        lvis_like(**image), [TRUE, {**FALSE, "image_id": where}], federated=True
    )
    assert found["AP50"].mean == pytest.approx(expected)


@needed
def test_coco_figures_with_intervals_to_the_record(monkeypatch):
    monkeypatch.setattr(average_precision, "BOOTSTRAP_SAMPLES", 20)
    truth, found = read("detection/coco100/gts.json"), read("detection/coco100/dets.json")
    figure = average_precision.with_intervals(truth, found)
    expected = reference("detection/coco100")["reference_pycocotools"]["AP"]
    assert figure["AP"].mean == pytest.approx(expected, abs=1e-6)
    assert 0.02 < figure["AP"].high - figure["AP"].mean < 0.15


@needed
def test_all_truths_found_is_full_precision_on_recorded_lvis(monkeypatch):
    monkeypatch.setattr(average_precision, "BOOTSTRAP_SAMPLES", 2)
    truth = dict(read("detection/lvis_val_100_boxes.json"))
    there = {item["category_id"] for item in truth["annotations"]}
    truth["categories"] = [item for item in truth["categories"] if item["id"] in there]
    perfect = [
        {key: item[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for item in truth["annotations"]
    ]
    assert average_precision.with_intervals(truth, perfect, federated=True)[
        "AP"
    ].mean == pytest.approx(1.0)
