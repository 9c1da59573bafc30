"""Held-out questions of a run: the control on grey pictures, and the pictures that are kept."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.config.schema import BenchmarkSpec, Source
from gpg_vl.evaluation import evaluate as evaluating
from gpg_vl.evaluation import records as eval_records
from gpg_vl.evaluation.benchmark import Benchmark
from gpg_vl.evaluation.records import Record
from gpg_vl.prompts import AnswerOnly
from gpg_vl.run_folder import content_name, is_evaluated
from gpg_vl.training import held_out, metrics
from gpg_vl.training.checkpoint import State
from gpg_vl.training.held_out import evaluate_held_out
from gpg_vl.training.signals import EvaluationDroppedError
from gpg_vl.types import LeftOut, Sample
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.number import Number
from tests.hand_made import completion, png
from tests.training.test_loop import run_of

PICTURES = [png(colour=colour) for colour in ("red", "green", "blue")]


def question(number: int, *images: Path | bytes) -> Sample:
    return Sample(
        id=f"q{number}",
        question="How many?",
        answer_kind="number",
        answer=number,
        images=images,
        sizes=((56, 56),) * len(images),
        tags={"task": "count" if images else "add"},
    )


QUESTIONS = (question(0, PICTURES[0]), question(1), question(2, *PICTURES[1:]))
"""Two questions with pictures, of which there are three, and one without."""


def benchmark_of(questions: Sequence[Sample] = QUESTIONS) -> Benchmark:
    return Benchmark(
        spec=BenchmarkSpec(name="small", data=(Source(recipe="digits"),), samples=4),
        questions=questions,
        style=AnswerOnly(),
        verifiers=VerifierSet(by_kind={"number": Number(style=AnswerOnly())}),
        seed=7,
    )


class Asking:
    """Answers every question right, with grey pictures all with 0; notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[bool, int, list[str]]] = []
        self.files_then: list[list[str]] = []
        self.unusable: set[str] = set()
        self.stops_at = ""

    def __call__(
        self, benchmark: Benchmark, policy: Any, engine: Any, *, blank: bool, **how: Any
    ) -> list[Record]:
        names = [sample.id for sample in benchmark.questions]
        self.asked.append((blank, benchmark.spec.samples, names))
        if self.stops_at == ("grey" if blank else "asked"):
            raise EvaluationDroppedError
        made: list[Record] = []
        for sample in benchmark.questions:
            if sample.id in self.unusable:
                how["on_left_out"](LeftOut(sample.id, "gone", sample.source))
                continue
            text = f"<answer>{0 if blank else sample.answer}</answer>"
            record = benchmark.score(sample, completion(text=text), [])
            made.append(replace(record, settings={"benchmark": "small", "blank": blank}))
        return made


@pytest.fixture
def asking(monkeypatch) -> Asking:
    made = Asking()
    monkeypatch.setattr(evaluating, "run_benchmark", made)
    return made


def run(tmp_path: Path, *knobs: str, benchmark: Benchmark | None = None, **more: Any) -> Any:
    return run_of(tmp_path, *knobs, benchmark=benchmark or benchmark_of(), **more)


def files(tmp_path: Path) -> set[str]:
    folder = tmp_path / "run" / "evaluation"
    return {path.name for path in folder.glob("*.jsonl")}


def logged(of_run: Any) -> list[str]:
    return [event[1] for event in of_run.events if event[0] == "log"]


def figures(of_run: Any) -> dict[str, float]:
    return next(event[2] for event in of_run.events if event[0] == "held_out")


# --- the control on grey pictures -----------------------------------------------------------------


def test_after_the_last_step_questions_with_pictures_are_asked_with_grey_ones(tmp_path, asking):
    of_run = run(tmp_path)
    assert evaluate_held_out(of_run, "after") == 1.0
    assert asking.asked == [(False, 4, ["q0", "q1", "q2"]), (True, 0, ["q0", "q2"])]
    assert files(tmp_path) == {"small-after.jsonl", "small-blank.jsonl"}
    guessed = eval_records.load(tmp_path / "run" / "evaluation" / "small-blank.jsonl")
    assert [(record.id, record.greedy) for record in guessed] == [("q0", 1.0), ("q2", 0.0)]
    assert logged(of_run) == [
        "held out, after: count 100.0 %, add 100.0 %",
        "held out, grey pictures: count 50.0 %",
    ]
    assert figures(of_run)["held_out/blank"] == 0.5
    assert figures(of_run)["held_out"] == figures(of_run)["held_out/score"] == 1.0


@pytest.mark.parametrize("when", ["before", "000002"])
def test_no_other_evaluation_has_a_control(when, tmp_path, asking):
    of_run = run(tmp_path)
    evaluate_held_out(of_run, when)
    assert [blank for blank, *_ in asking.asked] == [False]
    assert files(tmp_path) == {f"small-{when}.jsonl"}
    assert "held_out/blank" not in figures(of_run)


@pytest.mark.parametrize(
    ("knobs", "questions"),
    [(["evaluation.blank=false"], QUESTIONS), ([], QUESTIONS[1:2])],
    ids=["switched off", "no pictures"],
)
def test_without_a_control_that_of_an_earlier_last_step_goes(knobs, questions, tmp_path, asking):
    of_run = run(tmp_path, *knobs, benchmark=benchmark_of(questions))
    stale = tmp_path / "run" / "evaluation" / "small-blank.jsonl"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    evaluate_held_out(of_run, "after")
    assert len(asking.asked) == 1
    assert files(tmp_path) == {"small-after.jsonl"}
    assert "held_out/blank" not in figures(of_run)


def test_a_question_that_could_not_be_asked_is_not_asked_in_grey(tmp_path, asking):
    asking.unusable = {"q0"}
    of_run = run(tmp_path)
    evaluate_held_out(of_run, "after")
    assert asking.asked[1] == (True, 0, ["q2"])
    assert figures(of_run)["held_out/blank"] == 0.0


@pytest.mark.parametrize("moment", ["asked", "grey"])
def test_a_request_to_stop_ends_both_and_keeps_nothing(moment, tmp_path, asking):
    asking.stops_at = moment
    of_run = run(tmp_path, "steps=4", state=State(step=4))
    assert evaluate_held_out(of_run, "after") is None
    assert files(tmp_path) == set()
    assert logged(of_run) == ["the evaluation (after) is left; it is made when the run goes on"]


def test_a_run_that_is_killed_between_the_two_makes_the_whole_evaluation_again(
    tmp_path, asking, monkeypatch
):
    save = eval_records.save

    def killed(records, path):
        if path.name == "small-after.jsonl":
            raise KeyboardInterrupt
        save(records, path)

    monkeypatch.setattr(eval_records, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate_held_out(run(tmp_path, "steps=4", state=State(step=4)), "after")
    assert files(tmp_path) == {"small-blank.jsonl"}
    assert not is_evaluated(tmp_path / "run", "small", "after", 4)


def test_a_task_that_is_called_blank_has_the_same_name_in_every_evaluation():
    made = [eval_records.Record(id="a", tag="blank", greedy=1.0, text="", answer="", reason="")]
    assert metrics.held_out_figures(made, None)["held_out/blank (task)"] == 1.0
    both = metrics.held_out_figures(made, None, [replace(made[0], greedy=0.0)])
    assert (both["held_out/blank"], both["held_out/blank (task)"]) == (0.0, 1.0)


# --- small pictures -------------------------------------------------------------------------------


def kept(tmp_path: Path) -> set[str]:
    return {path.stem for path in (tmp_path / "run" / "evaluation" / "pictures").glob("*")}


def test_the_first_evaluation_keeps_the_pictures_and_a_record_names_them(tmp_path, asking):
    (tmp_path / "file.png").write_bytes(PICTURES[2])
    questions = (*QUESTIONS[:2], question(2, PICTURES[1], tmp_path / "file.png"))
    evaluate_held_out(run(tmp_path, benchmark=benchmark_of(questions)), "before")
    assert kept(tmp_path) == {content_name(picture) for picture in PICTURES}
    loaded = eval_records.load(tmp_path / "run" / "evaluation" / "small-before.jsonl")
    named = [name for record in loaded for name in record.picture_names]
    assert named == [content_name(picture) for picture in PICTURES]


def test_a_later_evaluation_keeps_what_is_missing(tmp_path, asking):
    evaluate_held_out(run(tmp_path, benchmark=benchmark_of(QUESTIONS[:1])), "before")
    assert kept(tmp_path) == {content_name(PICTURES[0])}
    evaluate_held_out(run(tmp_path), "after")
    assert kept(tmp_path) == {content_name(picture) for picture in PICTURES}


def test_no_picture_is_kept_where_none_may_be_and_no_folder_without_pictures(tmp_path, asking):
    evaluate_held_out(run(tmp_path, "run_folder.pictures_mb=0"), "before")
    evaluate_held_out(run(tmp_path, benchmark=benchmark_of(QUESTIONS[1:2])), "before")
    assert not (tmp_path / "run" / "evaluation" / "pictures").exists()


def test_pictures_of_a_question_that_could_not_be_asked_are_not_kept(tmp_path, asking):
    asking.unusable = {"q0"}
    of_run = run(tmp_path)
    evaluate_held_out(of_run, "before")
    assert kept(tmp_path) == {content_name(picture) for picture in PICTURES[1:]}
    listed = tmp_path / "run" / "evaluation" / "small-before.left_out.jsonl"
    assert json.loads(listed.read_text())["id"] == "q0", "it is named there"


def test_only_the_main_process_keeps_pictures(tmp_path, asking, monkeypatch):
    monkeypatch.setattr(held_out, "keep_small_pictures", lambda *given: pytest.fail("written"))
    of_run = run(tmp_path)
    of_run.processes.accelerator.is_main_process = False
    assert evaluate_held_out(of_run, "before") is None
    assert asking.asked == []
