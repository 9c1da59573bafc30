"""`gpg-vl evaluate`: real pictures through every kind of benchmark, several at once, interrupted and resumed; recorded answers by name."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpg_vl import average_precision, benchmark, figures, samples
from gpg_vl.benchmark import Unfinished
from gpg_vl.cli import app
from gpg_vl.training import trial
from gpg_vl.types import Sample

from . import published
from .recorded import home, needed, read, reference

SMALL = ["policy.tiny.hidden=32", "policy.tiny.layers=1", "policy.tiny.vision_hidden=16", "policy.tiny.vision_layers=1"]


def evaluate(*arguments: object) -> tuple[int, str]:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["evaluate", *map(str, arguments)])
    assert "Traceback" not in done.output
    return done.exit_code, done.output


# --- the tiny model on real pictures ------------------------------------------------------------------------------------


def real_pictures() -> Iterator[Sample]:
    """A question of every kind about recorded photographs, renders and drawings."""
    folder = home()
    assert folder is not None
    for row in read("images/superclevr/index.jsonl")[:2]:
        picture, name = folder / "images/superclevr" / row["image"], Path(row["image"]).stem
        yield asked("number", f"clevr/{name}", picture, "How many different items are there in the image?", row["count"])
        for question in row["questions"][:1]:
            answer = "yes" if question["answer"] else "no"
            yield asked("choice", f"clevr/{name}/yes", picture, question["question"], answer, choices=("yes", "no"))
    for row in read("images/bccd/index.jsonl")[:2]:
        picture, name = folder / "images/bccd" / row["image"], Path(row["image"]).stem
        (white, *_) = [item["box"] for item in row["objects"] if item["label"] == "WBC"]
        yield asked("boxes", f"bccd/{name}/white", picture, "Where is the white cell?", [white])
        every = [item["box"] for item in row["objects"] if item["label"] == "RBC"]
        yield asked("detection", f"bccd/{name}/red", picture, "Detect all red blood cells.", every)
        yield asked("label", f"bccd/{name}/label", picture, "Which large cell is it?", "WBC", choices=("WBC", "Platelets"))
    for row in [row for row in read("images/mathvision/index.jsonl") if row["answer"].isdecimal()][:2]:
        question = row["question"].replace("<image1>", "")
        yield asked("value", f"math/{row['id']}", folder / "images/mathvision" / Path(row["image"]).name, question, row["answer"])


def asked(kind: str, name: str, picture: Path, question: str, answer: object, choices: tuple[str, ...] = ()) -> Sample:
    size = samples.image_size(picture, name)
    return Sample(id=name, question=question, images=(picture,), sizes=(size,), answer_kind=kind, answer=answer, choices=choices)


@needed
def test_every_kind_of_benchmark_runs_on_real_pictures(tmp_path):
    rows = list(real_pictures())
    samples.write(rows, tmp_path / "rows")
    spec = "name: real\ndata: [{files: rows/samples.jsonl}]\nprompt: think\nbeside: reference\nsamples: 2\nmax_tokens: 12\n"
    (tmp_path / "real.yaml").write_text(spec)
    limits = ["policy.max_pixels=12544", "policy.min_pixels=784"]
    code, told = evaluate(tmp_path / "real.yaml", "--model", "tiny", *SMALL, *limits, "--to", tmp_path / "out.jsonl")
    assert code == 0, told
    for kind in ("number", "choice", "boxes", "detection", "label", "value"):
        assert f" {kind} " in told
    assert "reference %" in told
    assert "pass@2 %" in told
    records = benchmark.load(tmp_path / "out.jsonl")
    assert [record.id for record in records] == [sample.id for sample in rows]
    assert all(record.reason for record in records)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("name", ["superclevr", "cv_bench", "geoqa", "coco"])
def test_a_shipped_benchmark_runs_by_name_and_knobs_reach_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv("GPG_VL_DATA", str(tmp_path))
    published.MADE[name](tmp_path / name)
    code, told = evaluate(name, "--model", "tiny", *SMALL, "benchmark.max_tokens=3")
    assert code == 2
    assert "complete=false" in told
    knobs = ["benchmark.max_tokens=3", "benchmark.data.0.options.complete=false"]
    code, told = evaluate(name, "--model", "tiny", *SMALL, *knobs)
    assert code == 0, told
    if name == "cv_bench":
        assert "CV-Bench" in told
    if name == "coco":
        assert "average precision (coco)" in told
        assert "AP50" in told


def test_several_benchmarks_are_taken_with_one_model(tmp_path, monkeypatch):
    for name in ("first", "second"):
        add = "{recipe: digits, options: {task: add, count: 2}}"
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\ndata: [{add}]\nmax_tokens: 3\n")
    loads = []
    load_policy = trial.load_policy
    monkeypatch.setattr(trial, "load_policy", lambda *args, **given: loads.append(1) or load_policy(*args, **given))
    code, told = evaluate(tmp_path / "first.yaml", tmp_path / "second.yaml", "--model", "tiny", *SMALL, "--to", tmp_path / "out")
    assert code == 0, told
    assert loads == [1]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"first.jsonl", "second.jsonl"}


class Stop(BaseException):
    """The power goes off."""


def test_an_interrupted_evaluation_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    (tmp_path / "add.yaml").write_text("name: add\ndata: [{recipe: digits, options: {task: add, count: 6}}]\nsamples: 2\nmax_tokens: 3\n")
    monkeypatch.setattr(benchmark, "QUESTIONS_AT_ONCE", 2)
    whole = (tmp_path / "add.yaml", "--model", "tiny", *SMALL)
    assert evaluate(*whole, "--to", tmp_path / "whole.jsonl")[0] == 0
    asked = []
    ask = benchmark._ask

    def failing(batch, *others):
        if len(asked) == 2:
            raise Stop
        asked.append(len(batch))
        return ask(batch, *others)

    monkeypatch.setattr(benchmark, "_ask", failing)
    with pytest.raises(Stop):
        list(trial.evaluate_on([str(tmp_path / "add.yaml")], "tiny", SMALL, to=lambda name: tmp_path / "cut.jsonl"))
    kept = tmp_path / "cut.jsonl.part"
    with kept.open("a") as file:
        file.write('{"id": "half a li')  # the last line was being written
    asked.clear()
    asked.append(0)
    assert evaluate(*whole, "--to", tmp_path / "cut.jsonl")[0] == 0
    assert asked == [0, 2]  # of three batches only the last was asked again
    assert (tmp_path / "cut.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert not kept.exists()


def test_answers_of_another_evaluation_are_not_mixed_in(tmp_path):
    (tmp_path / "add.yaml").write_text("name: add\ndata: [{recipe: digits, options: {task: add, count: 2}}]\nmax_tokens: 3\n")
    Unfinished(tmp_path / "out.jsonl.part", "another").records()
    code, told = evaluate(tmp_path / "add.yaml", "--model", "tiny", *SMALL, "--to", tmp_path / "out.jsonl")
    assert code == 2
    assert "answers of another evaluation (model, questions or scoring differ); delete it" in told


def test_mistakes_are_told():
    assert "no benchmark named; shipped: " in evaluate("steps=1", "--model", "tiny")[1]
    code, told = evaluate("lisa_test", "--model", "tiny", *SMALL)
    assert code == 2
    assert "lisa (test): downloads/lisa holds no ReasonSeg/test/*.json or test/*.json. ReasonSeg.zip from" in told
    assert "Put them into downloads/lisa" in told


# --- recorded answers by the name of the benchmark ------------------------------------------------------------------------


def figure(told: str, row: str) -> tuple[float, float]:
    """The greedy figure and the one beside it of a row of the table."""
    (line,) = [line for line in told.splitlines() if re.search(rf"│ {row} ", line)]
    found = [float(number) for number in re.findall(r"([\d.]+) ± ", line)]
    return found[0], found[1]


def answered(path: Path, texts: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts.items()))
    return path


@needed
def test_recorded_counts_to_the_record(tmp_path):
    folder = home()
    assert folder is not None
    options = [f"data.0.options.folder={folder / 'counting'}", "data.0.options.pictures=false"]
    for log in ("counting/superclevr_200_qwen2vl_2b_instruct.json", "counting/superclevr_200_qwen2vl_2b_grpo100.json"):
        texts = {f"superclevr/test/{place}": row["model_output"] for place, row in enumerate(read(log)["results"])}
        code, told = evaluate("superclevr", "--answers", answered(tmp_path / "a.jsonl", texts), *options)
        assert code == 0, told
        assert figure(told, "number")[1] == reference(log)["recorded_accuracy"]


@needed
def test_recorded_geometry_to_the_record(tmp_path):
    folder = home()
    assert folder is not None
    log = "math/geoqa_test_qwen2vl_7b_instruct.json"
    texts = {f"geoqa/test/{place}": row["model_output"] for place, row in enumerate(read(log)["results"])}
    options = [f"data.0.options.folder={folder / 'math'}", "data.0.options.pictures=false", "mode=lenient"]
    answers = answered(tmp_path / "a.jsonl", texts)
    code, told = evaluate("geoqa", "--answers", answers, *options, "--to", tmp_path / "out.jsonl")
    assert code == 0, told
    assert figure(told, "value")[1] == pytest.approx(reference(log)["recorded_accuracy"], abs=0.05)
    records = benchmark.load(tmp_path / "out.jsonl")
    tagged = [record.greedy for record in records if "<answer>" in record.text]
    assert sum(tagged) == reference(log)["reference_correct_value_in_answer_tag"]
    answered(tmp_path / "a.jsonl", dict(list(texts.items())[1:]) | {"geoqa/test/x": "5"})
    code, told = evaluate("geoqa", "--answers", answers, *options)
    assert code == 2
    assert "1 id (geoqa/test/x) not asked; 1 id (geoqa/test/0) not answered; nothing was scored" in told


@needed
@pytest.mark.parametrize(("name", "file"), [("flower102", "oxford_flowers"), ("pets37", "pets")])
def test_recorded_class_names_to_the_record(tmp_path, name, file):
    rows = read(f"classification/{file}.jsonl")
    pairs = [[Path(row["image"]).name, row["label_id"], row["label"]] for row in rows]
    listed = {"flower102": "split_zhou_OxfordFlowers.json", "pets37": "split_zhou_OxfordPets.json"}[name]
    published.written(tmp_path / listed, {"test": pairs})
    texts = {f"{name}/test/{place}": f"<think>so</think><answer>{row['clip_top10'][0]}</answer>" for place, row in enumerate(rows)}
    options = [f"data.0.options.folder={tmp_path}", "data.0.options.pictures=false"]
    code, told = evaluate(name, "--answers", answered(tmp_path / "a.jsonl", texts), *options, "--to", tmp_path / "out.jsonl")
    assert code == 0, told
    records, known = benchmark.load(tmp_path / "out.jsonl"), reference(f"classification/{file}.jsonl")
    strict, beside = (100 * sum(values) / len(records) for values in zip(*((r.greedy, r.beside) for r in records), strict=True))
    assert strict == pytest.approx(known["clip_top1_accuracy"], abs=0.005)
    assert beside == pytest.approx(known["accuracy_under_reference_substring_rule"], abs=0.005)
    if name == "flower102":
        assert (f"{strict:.2f}", f"{beside:.2f}") == ("70.48", "71.70")
        assert sum(record.beside > record.greedy for record in records) == 30


@needed
@pytest.mark.parametrize("log", ["refcoco_val_qwen2_5vl_3b_instruct_r1_600", "refgta_subsample_qwen2_5vl_3b_instruct_baseline"])
def test_recorded_boxes_to_the_record(tmp_path, log):
    name, split = ("refcoco", "val") if "refcoco_" in log else ("refgta", "test")
    results, known = (read(f"grounding/vlmr1/rec_results_{log}.json")["results"], reference(f"grounding/vlmr1/rec_results_{log}.json"))
    rows = [{"image": "x.jpg", "problem": row["question"], "solution": row["ground_truth"]} for row in results]
    published.written(tmp_path / {"refcoco": "refcoco_val.json", "refgta": "refgta_subsample.json"}[name], rows)
    texts = {f"{name}/{split}/{place}": row["model_output"] for place, row in enumerate(results)}
    one = f'data=[{{recipe: {name}, options: {{split: {split}, folder: "{tmp_path}", pictures: false}}}}]'
    code, told = evaluate(name, "--answers", answered(tmp_path / "a.jsonl", texts), one, "mode=lenient")
    assert code == 0, told
    assert figure(told, split) == (known["reference_acc_at_0_5"], known["recorded_accuracy"])


# --- average precision ----------------------------------------------------------------------------------------------------


def spelt(truths: list[list[float]], score: float = 0.9) -> str:
    boxes = ", ".join(f'{{"bbox_2d": {box}, "confidence": {score}}}' for box in truths)
    return f"<think>so</think><answer>[{boxes}]</answer>" if truths else "<think>so</think><answer>No Objects</answer>"


def taken(folder: Path, texts: dict[str, str], tmp_path: Path) -> dict[str, float]:
    from gpg_vl import recorded

    given = [f"data.0.options.folder={folder}", "data.0.options.complete=false"]
    exam, records = recorded.score("coco", answered(tmp_path / "a.jsonl", texts), (), given)
    return {name: interval.mean for name, interval in figures.detection(exam, records).items()}


def test_average_precision_of_a_benchmarks_texts(tmp_path):
    """Two cats in one picture, one in the other: all found is 1; the second picture missed is recall 2/3: 67 of 101 points."""
    published.coco(tmp_path / "coco")
    every = {"coco/val/7/cat": spelt([[4, 5, 24, 35], [30, 5, 56, 35]]), "coco/val/9/cat": spelt([[1, 1, 21, 21]])}
    assert taken(tmp_path / "coco", every, tmp_path)["AP50"] == pytest.approx(1.0)
    missed = every | {"coco/val/9/cat": spelt([])}
    assert taken(tmp_path / "coco", missed, tmp_path)["AP50"] == pytest.approx(67 / 101)


def lvis_like(**image: object) -> dict[str, object]:
    box = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 10, 10], "area": 100}
    picture = {"id": 1, "width": 50, "height": 50, "neg_category_ids": [], "not_exhaustive_category_ids": [], **image}
    empty = {"id": 2, "width": 50, "height": 50, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    return {"images": [picture, empty], "annotations": [box], "categories": [{"id": 7, "name": "die"}]}


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
    found = average_precision.with_intervals(lvis_like(**image), [TRUE, {**FALSE, "image_id": where}], federated=True)
    assert found["AP50"].mean == pytest.approx(expected)


@needed
def test_coco_figures_with_intervals_to_the_record(monkeypatch):
    monkeypatch.setattr(average_precision, "DRAWS", 20)
    truth, found = read("detection/coco100/gts.json"), read("detection/coco100/dets.json")
    figure = average_precision.with_intervals(truth, found)
    assert figure["AP"].mean == pytest.approx(average_precision.coco(truth, found)["AP"], abs=1e-9)
    assert 0.02 < figure["AP"].margin < 0.15


@needed
def test_all_truths_found_is_full_precision_on_recorded_lvis(monkeypatch):
    monkeypatch.setattr(average_precision, "DRAWS", 2)
    truth = dict(read("detection/lvis_val_100_boxes.json"))
    there = {item["category_id"] for item in truth["annotations"]}
    truth["categories"] = [item for item in truth["categories"] if item["id"] in there]
    perfect = [{key: item[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9} for item in truth["annotations"]]
    assert average_precision.with_intervals(truth, perfect, federated=True)["AP"].mean == pytest.approx(1.0)
