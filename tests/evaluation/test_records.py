"""Records of an evaluation: how questions are asked, what is kept of the answers, and that a
file of them is whole or not there."""

import hashlib
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gpg_vl import __version__
from gpg_vl.boxes import Frame
from gpg_vl.config.schema import BenchmarkSpec, Source
from gpg_vl.errors import UnusableSampleError, UserError
from gpg_vl.evaluation import compare, evaluate
from gpg_vl.evaluation import records as eval_records
from gpg_vl.evaluation.benchmark import Benchmark, style_settings
from gpg_vl.evaluation.records import EvalLog, Record
from gpg_vl.prompts import AnswerOnly, Style
from gpg_vl.types import Completion, LeftOut, Sample, Turn, Verdict
from gpg_vl.verifiers.boxes import Boxes
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.number import Number
from tests.hand_made import completion, png
from tests.strict_json import strict_rows

SPEC = BenchmarkSpec(
    name="b", data=(Source(recipe="digits"),), samples=3, max_tokens=7, temperature=0.5
)
CHECKS = VerifierSet(by_kind=dict.fromkeys(("number", "amount"), Number(mode="lenient")))


def question(name: str, answer: object = 3, **fields: Any) -> Sample:
    return Sample(id=name, question="How many?", answer_kind="number", answer=answer, **fields)


def benchmark_of(*questions: Sample, seed: int = 0, **changed: Any) -> Benchmark:
    spec = SPEC.model_copy(update=changed)
    return Benchmark(spec=spec, questions=questions, style=Style(), verifiers=CHECKS, seed=seed)


@dataclass
class Engine:
    """Says 3 to every question greedily, and 4, 3, 4... in the draws; keeps what it was asked."""

    asked: list[Any] = field(default_factory=list)

    def generate(
        self, prompts: Sequence[Sample], sampling: Any, seeds: Sequence[Sequence[int]]
    ) -> list[list[Completion]]:
        self.asked.append((list(prompts), sampling, [list(each) for each in seeds]))
        return [
            [
                completion(text="3" if sampling.greedy or place % 2 else "4")
                for place in range(len(each))
            ]
            for each in seeds
        ]


UNUSABLE = {"cut", "gone"}
"""Ids of questions that cannot be asked."""


@pytest.fixture(autouse=True)
def bare_prompts(monkeypatch):
    """A question stands for its own prompt: no model is needed."""

    def encode(sample, style, policy):
        if sample.id in UNUSABLE:
            raise UnusableSampleError(f"image {sample.id}.jpg cannot be read")
        return sample

    monkeypatch.setattr(evaluate, "encode", encode)
    monkeypatch.setattr(evaluate, "ensure_fits", lambda prompt, engine, max_tokens: prompt)


def evaluated(small: Benchmark, **given: Any) -> tuple[list[Record], list[Any]]:
    engine = Engine()
    return evaluate.run_benchmark(small, None, engine, **given), engine.asked


# --- asking ---------------------------------------------------------------------------------------


def test_every_draw_of_every_question_has_a_seed_of_its_own_and_the_same_one_each_time():
    small = benchmark_of(question("a"), question("b"))
    (greedy, drawn), (_, again) = evaluated(small)[1], evaluated(small)[1]
    assert [len(seeds) for seeds in drawn[2]] == [3, 3]
    assert len({seed for seeds in drawn[2] for seed in seeds}) == 6
    assert drawn[2] == again[2]
    # a question keeps its seeds whatever stands beside it, and another seed of the run gives it
    # others
    assert evaluated(benchmark_of(question("b")))[1][1][2] == drawn[2][1:]
    other = evaluated(benchmark_of(question("a"), question("b"), seed=1))[1][1][2]
    assert not {seed for seeds in other for seed in seeds} & {
        seed for seeds in drawn[2] for seed in seeds
    }
    assert greedy[2] == [[0], [0]]


def test_a_question_is_asked_once_greedily_and_as_often_as_said_by_chance():
    greedy, drawn = evaluated(benchmark_of(question("a"), question("b")))[1]
    assert (greedy[1].greedy, greedy[1].max_tokens) == (True, 7)
    assert (drawn[1].greedy, drawn[1].max_tokens, drawn[1].temperature) == (False, 7, 0.5)
    assert [sample.id for sample in greedy[0]] == [sample.id for sample in drawn[0]] == ["a", "b"]
    records, asked = evaluated(benchmark_of(question("a"), samples=0))
    assert len(asked) == 1
    assert records[0].each == []
    assert math.isnan(records[0].sampled)


def test_a_record_holds_the_greedy_answer_and_the_mean_of_the_others():
    wrong = question("b", answer=4)
    first, second = evaluated(benchmark_of(question("a", tags={"task": "count"}), wrong))[0]
    assert (
        first.id,
        first.tag,
        first.greedy,
        first.each,
        first.text,
        first.answer,
        first.reason,
    ) == (*("a", "count", 1.0, [0.0, 1.0, 0.0], "3", "3", "right"),)
    assert first.sampled == pytest.approx(1 / 3)
    assert (second.id, second.tag, second.greedy, second.each, second.reason) == (
        "b",
        "number",
        0.0,
        [1.0, 0.0, 1.0],
        "wrong",
    )
    assert second.sampled == pytest.approx(2 / 3)
    assert (first.well_formed, first.tags, second.tags) == (0.0, {"task": "count"}, {})


def test_records_say_how_they_were_taken():
    for blank in (False, True):
        (record,) = evaluated(benchmark_of(question("a"), mode="lenient"), blank=blank)[0]
        style = Style()
        assert record.settings == {
            "benchmark": "b",
            "mode": "lenient",
            "max_tokens": 7,
            "blank": blank,
            "prompt": "think",
            "prompt.think": "required",
            "prompt.instruction": style.instruction,
            "prompt.template": "{question} {instruction}",
            "prompt.system": "",
            "prompt.options": "auto",
        }
        assert record.evaluation == ""
        assert record.about.items() >= {"model": "", "seed": 0, "temperature": 0.5}.items()
        assert record.about["gpg_vl"] == __version__
        assert datetime.fromisoformat(str(record.about["time"])).tzinfo is not None


def test_a_record_is_read_without_its_benchmark(tmp_path):
    png = b"\x89PNG..."
    sample = question(
        "a",
        answer=[[1, 2, 3, 4]],
        choices=("cat", "dog"),
        letters=("P", "Q"),
        context=(Turn("system", "Be kind."),),
        frame="norm1000",
        images=(tmp_path / "7.png", png),
        source="rows.jsonl",
    )
    result = benchmark_of().score(
        sample, completion(text="3", finish="length"), [completion(text="4"), completion(text="3")]
    )
    eval_records.save([result], tmp_path / "a.jsonl")
    (line,) = strict_rows(tmp_path / "a.jsonl")
    name = f"{hashlib.sha256(png).hexdigest()[:16]}.png"
    assert (
        line.items()
        >= {
            "question": "How many?",
            "truth": [[1, 2, 3, 4]],
            "choices": ["cat", "dog"],
            "letters": ["P", "Q"],
            "context": [["system", "Be kind."]],
            "kind": "number",
            "frame": "norm1000",
            "images": [str(tmp_path / "7.png"), name],
            "picture_names": ["", name.removesuffix(".png")],
            "source": "rows.jsonl",
            "finish": "length",
            "texts": ["4", "3"],
        }.items()
    )


def test_a_plugin_style_is_named_by_its_place():
    @dataclass(frozen=True, kw_only=True)
    class Mine(Style):
        shots: int = 2

    settings = style_settings(Mine(system="Be kind."))
    assert settings.items() >= {"prompt.shots": 2, "prompt.system": "Be kind."}.items()
    assert str(settings["prompt"]).startswith("tests.evaluation.test_records:")
    assert style_settings(AnswerOnly())["prompt"] == "answer"


def test_questions_go_out_in_batches_and_come_back_in_their_order(monkeypatch):
    monkeypatch.setattr(evaluate, "QUESTIONS_AT_ONCE", 2)
    progress: list[tuple[int, int]] = []
    records, asked = evaluated(
        benchmark_of(*map(question, "edcba"), samples=0),
        on_progress=lambda *given: progress.append(given),
    )
    assert [[sample.id for sample in prompts] for prompts, _, _ in asked] == [
        ["e", "d"],
        ["c", "b"],
        ["a"],
    ]
    assert [record.id for record in records] == list("edcba")
    assert progress == [(0, 5), (2, 5), (4, 5), (5, 5)]


def test_what_is_kept_is_not_asked_again_and_stands_in_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "QUESTIONS_AT_ONCE", 2)
    kept, progress = EvalLog(tmp_path / "runs" / "out.jsonl", "mine"), list[Any]()
    kept.add([record("c", evaluation="mine", text="as it was")])
    records, asked = evaluated(
        benchmark_of(*map(question, "abcd"), samples=0),
        eval_log=kept,
        on_progress=lambda *given: progress.append(given),
    )
    assert [[sample.id for sample in prompts] for prompts, _, _ in asked] == [["a", "b"], ["d"]]
    assert [(each.id, each.text) for each in records] == [
        ("a", "3"),
        ("b", "3"),
        ("c", "as it was"),
        ("d", "3"),
    ]
    assert progress == [(1, 4), (3, 4), (4, 4)]
    assert [each.id for each in kept.records()] == ["c", "a", "b", "d"]
    assert {each.evaluation for each in records} == {"mine"}


@pytest.mark.parametrize(
    ("head", "kept"),
    [(1, "a1 b1"), (2, "a1 a2 b1 b2"), (3, "a1 a2 b1 a3 b2"), (9, "a1 a2 b1 a3 b2 a4")],
)
def test_a_short_evaluation_asks_the_first_so_many_of_every_row(head, kept):
    questions = [
        question(name, tags={"task": name[0]}) for name in ("a1", "a2", "b1", "a3", "b2", "a4")
    ]
    assert [
        sample.id for sample in benchmark_of(*questions).shortened(head).questions
    ] == kept.split()


def test_rows_of_the_table_are_those_of_the_tag_it_is_grouped_by():
    both = question("a", tags={"task": "count", "room": "hall"})
    assert [benchmark_of(both, group_by=name).tag(both) for name in ("task", "room", "colour")] == [
        "count",
        "hall",
        "number",
    ]
    rows = eval_records.by_tag([record("a", tag="x"), record("b", tag="y"), record("c", tag="x")])
    assert {tag: [each.id for each in group] for tag, group in rows.items()} == {
        "x": ["a", "c"],
        "y": ["b"],
    }
    assert list(rows) == ["x", "y"]


def test_what_is_left_out_is_reported_by_number():
    one, two = LeftOut("x", "why not"), LeftOut("y", "because")
    small = benchmark_of(question("a"), question("b"))
    assert small.missing == ""
    assert (
        replace(small, left_out=[one]).missing
        == "b: 1 question is left out, 2 are asked; x: why not"
    )
    assert (
        replace(small, left_out=[one, two]).missing
        == "b: 2 questions are left out, 2 are asked; x: why not"
    )


# --- questions that cannot be asked, and equal ids ------------------------------------------------


def test_a_question_that_cannot_be_asked_is_left_out_and_the_others_are_asked(monkeypatch):
    monkeypatch.setattr(evaluate, "QUESTIONS_AT_ONCE", 2)
    small = benchmark_of(*map(question, ["a", "cut", "gone", "b", "c"]), samples=0)
    left_out: list[LeftOut] = []
    progress: list[tuple[int, int]] = []
    records, asked = evaluated(
        small, on_left_out=left_out.append, on_progress=lambda *given: progress.append(given)
    )
    assert [each.id for each in records] == ["a", "b", "c"]
    assert [[sample.id for sample in prompts] for prompts, _, _ in asked] == [["a"], ["b"], ["c"]]
    assert left_out == [
        LeftOut("cut", "image cut.jpg cannot be read"),
        LeftOut("gone", "image gone.jpg cannot be read"),
    ]
    assert progress == [(0, 5), (2, 5), (4, 5), (5, 5)]
    over = small.without(left_out)
    assert [sample.id for sample in over.questions] == ["a", "b", "c"]
    assert over.not_asked == (
        "b: 2 of 5 questions could not be asked, the figures are over the other 3; cut: image "
        "cut.jpg cannot be read"
    )
    assert small.not_asked == ""


def test_an_interrupted_evaluation_with_a_question_that_cannot_be_asked_agrees(tmp_path):
    small = benchmark_of(*map(question, ["a", "cut", "b"]))
    whole: list[LeftOut] = []
    expected, _ = evaluated(small, on_left_out=whole.append)
    kept = EvalLog(tmp_path / "out.jsonl", "")
    kept.add(expected[:1])
    again: list[LeftOut] = []
    records, asked = evaluated(small, on_left_out=again.append, eval_log=kept)
    assert again == whole
    assert [(each.id, each.each) for each in records] == [(it.id, it.each) for it in expected]
    assert [sample.id for sample in asked[0][0]] == ["b"]
    kept.finish(records)
    third: list[LeftOut] = []
    finished, asked = evaluated(small, on_left_out=third.append, eval_log=kept)
    assert ([each.id for each in finished], asked, third) == (["a", "b"], [], whole)


def test_a_benchmark_of_which_nothing_can_be_asked_is_a_mistake():
    with pytest.raises(
        UserError,
        match=r"^b: none of 2 questions can be asked; image gone.jpg cannot be read$",
    ):
        evaluated(benchmark_of(*map(question, ["gone", "cut"])))


def test_what_is_left_out_is_listed_beside_the_records_and_is_no_file_of_records(tmp_path):
    records = tmp_path / "out.jsonl"
    eval_records.save([record("a")], records)
    rows = [LeftOut("x", "é", "rows.jsonl"), LeftOut("y", "why")]
    written = eval_records.save_left_out(rows, records)
    assert written == tmp_path / "out.left_out.jsonl"
    lines = [json.loads(line) for line in written.read_text("utf-8").splitlines()]
    assert lines[0] == {"id": "x", "why": "é", "source": "rows.jsonl"}
    assert [line["id"] for line in lines] == ["x", "y"]
    assert eval_records.files_in(tmp_path) == [records]
    assert eval_records.save_left_out([], records) is None
    assert not written.exists()


def test_equal_ids_of_two_sources_are_two_questions():
    first = [question(name, answer=3, source="one") for name in "abc"]
    second = [question(name, answer=4, source="two") for name in "abc"]
    records, asked = evaluated(benchmark_of(*first, *second))
    assert [each.key for each in records] == [
        (source, name) for source in ("one", "two") for name in "abc"
    ]
    assert [each.greedy for each in records] == [1.0] * 3 + [0.0] * 3
    assert len({each.digest for each in records}) == 6, "each question has its own"
    seeds = [seed for own in asked[1][2] for seed in own]
    assert len(set(seeds)) == len(seeds) == 18
    # where each id is that of one question, sources change no seed
    alone = evaluated(benchmark_of(*map(question, "abc")))[1][1][2]
    assert evaluated(benchmark_of(*first))[1][1][2] == alone


def test_one_that_cannot_be_asked_leaves_its_namesake_of_another_source():
    pair = [question("cut", source="one"), question("b", source="one")]
    small = benchmark_of(*pair, question("cut", source="two"))
    over = small.without([LeftOut("cut", "why", "two")])
    assert [(each.source, each.id) for each in over.questions] == [("one", "cut"), ("one", "b")]
    assert [each.source for each in over.unasked] == ["two"]


def test_questions_that_cannot_be_told_apart_are_refused():
    with pytest.raises(UserError, match=r"b: the id 'a' names several questions of the source 'x'"):
        evaluated(benchmark_of(question("a", source="x"), question("a", source="x")))


def test_a_picture_that_vanished_has_no_digest(tmp_path):
    sample = question("a", images=(tmp_path / "gone.png", b"there"))
    assert benchmark_of().score(sample, completion(text="3"), []).pictures == ""


def test_a_record_names_its_pictures_by_their_content_wherever_they_are(tmp_path):
    content = png()
    (tmp_path / "a.png").write_bytes(content)
    shown = question("a", images=(tmp_path / "a.png", content), sizes=((56, 56), (56, 56)))
    made = benchmark_of().score(shown, completion(text="3"), [])
    assert made.picture_names == [hashlib.sha256(content).hexdigest()[:16]] * 2
    assert made.sizes == ((56, 56), (56, 56))


def scored_boxes(text: str, **fields: Any) -> Record:
    """Return the record of an answer to a question for one box in a picture of 200 x 100."""
    boxes = Boxes(frame=Frame(kind="norm1000"), style=AnswerOnly())
    benchmark = replace(benchmark_of(), verifiers=VerifierSet(by_kind={"boxes": boxes}))
    given = {"images": (b"picture",), "sizes": ((200, 100),), "answer": [[20, 10, 60, 50]]}
    sample = Sample(id="q", question="?", answer_kind="boxes", **{**given, **fields})
    return benchmark.score(sample, completion(text=f"<answer>{text}</answer>"), [])


def test_boxes_are_in_pixels_too(tmp_path):
    """A thousandth is 0.2 pixels across and 0.1 down; in the second picture half of that."""
    first = scored_boxes("[100,100,300,500]")
    assert (first.boxed_image, first.truth_pixels) == (1, [[20, 10, 60, 50]])
    assert first.boxes_pixels == [[20, 10, 60, 50]]
    two = {"images": (b"one", b"two"), "sizes": ((200, 100), (100, 50)), "answer_image": 2}
    second = scored_boxes("[100,100,300,500]", **two)
    assert (second.boxed_image, second.boxes_pixels) == (2, [[10, 5, 30, 25]])
    unread = scored_boxes("a dog")
    assert (unread.boxed_image, unread.truth_pixels) == (1, [[20, 10, 60, 50]])
    assert unread.boxes_pixels == []
    eval_records.save([first, second], tmp_path / "a.jsonl")
    read = eval_records.load(tmp_path / "a.jsonl")
    assert [it.boxes_pixels for it in read] == [first.boxes_pixels, second.boxes_pixels]
    assert read[1].sizes == [[200, 100], [100, 50]]


def test_a_question_without_pictures_and_boxes_has_no_such_columns(tmp_path):
    made = benchmark_of().score(question("a"), completion(text="3"), [])
    assert made.boxed_image == 0
    eval_records.save([made], tmp_path / "a.jsonl")
    (row,) = strict_rows(tmp_path / "a.jsonl")
    new = {"picture_names", "sizes", "boxed_image", "truth_pixels", "boxes_pixels"}
    assert not new & row.keys()
    (old,) = eval_records.load(tmp_path / "a.jsonl")
    assert (old.sizes, old.truth_pixels, old.boxes_pixels, old.picture_names) == ((), (), (), ())


def test_older_records_without_a_source_are_read(tmp_path):
    eval_records.save([record("a", source="x")], tmp_path / "new.jsonl")
    line = (tmp_path / "new.jsonl").read_text()
    (tmp_path / "old.jsonl").write_text(line.replace('"source": "x", ', ""))
    assert [each.key for each in eval_records.load(tmp_path / "old.jsonl")] == [("", "a")]
    assert [each.key for each in eval_records.load(tmp_path / "new.jsonl")] == [("x", "a")]


def test_a_very_long_id_is_cut_in_a_list():
    listed = eval_records.some_ids(["a" * 100_000, "b"])
    assert listed == f"2 ids ({'a' * 100}, b)"


# --- grey pictures --------------------------------------------------------------------------------


def test_a_blank_question_shows_grey_pictures_of_the_same_sizes():
    blank = evaluate.blanked(question("a", images=(b"one", b"two"), sizes=((30, 20), (8, 40))))
    assert blank.sizes == ((30, 20), (8, 40))
    for shown, (width, height) in zip(blank.images, blank.sizes, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(shown)))
        assert pixels.shape == (height, width, 3)
        assert set(pixels.flatten().tolist()) == {128}
    assert evaluate.blanked(question("a")).images == ()


def test_only_a_blank_evaluation_shows_them():
    sample = question("a", images=(b"picture",), sizes=((30, 20),))
    assert [
        prompt.images for prompts, _, _ in evaluated(benchmark_of(sample))[1] for prompt in prompts
    ] == [(b"picture",)] * 2
    for prompts, _, _ in evaluated(benchmark_of(sample), blank=True)[1]:
        assert [Image.open(io.BytesIO(prompt.images[0])).size for prompt in prompts] == [(30, 20)]


# --- faults of a verifier -------------------------------------------------------------------------


class Failing:
    """Cannot score what begins with a !."""

    def __call__(self, text: str, sample: Sample) -> Verdict:
        if text.startswith("!"):
            raise TypeError(f"bad {text}")
        return Verdict(reward=0.75, reason="right")


@pytest.mark.parametrize(
    ("best", "others", "greedy", "each", "fault"),
    [
        ("x", ["x", "x"], 0.75, [0.75, 0.75], ""),
        ("!a", ["x", "x"], 0.0, [0.75, 0.75], "fault: TypeError: bad !a"),
        ("x", ["x", "!b"], 0.75, [0.75, 0.0], "fault: TypeError: bad !b"),
        ("!a", ["!b", "x"], 0.0, [0.0, 0.75], "fault: TypeError: bad !a"),
    ],
)
def test_a_fault_counts_as_wrong_wherever_it_happens_and_the_first_is_reported(
    best, others, greedy, each, fault
):
    verifiers = VerifierSet(by_kind={"number": Failing()})
    result = replace(benchmark_of(), verifiers=verifiers).score(
        question("a"), completion(text=best), [completion(text=text) for text in others]
    )
    assert (result.greedy, result.each, result.fault) == (greedy, each, fault)
    assert result.sampled == pytest.approx(sum(each) / 2)
    assert math.isnan(result.beside)


def test_failures_are_counted():
    assert eval_records.failures([record("a"), record("b")]) == ""
    one, two = record("b", fault="fault: x"), record("c", fault="fault: y")
    counted = "the verifier failed on answers to {} of {}, which count as wrong; b: fault: x"
    assert eval_records.failures([record("a"), one]) == counted.format("1 question", 2)
    assert eval_records.failures([record("a"), one, two]) == counted.format("2 questions", 3)


# --- files of records -----------------------------------------------------------------------------


def record(name: str, **fields: Any) -> Record:
    given = {
        "tag": "t",
        "greedy": 1.0,
        "sampled": math.nan,
        "text": "3",
        "answer": "3",
        "reason": "right",
    }
    return Record(id=name, **given | fields)


def test_a_letter_that_no_file_can_hold_becomes_a_question_mark(tmp_path):
    eval_records.save([record("a", question="half \ud800", truth="\udc80")], tmp_path / "a.jsonl")
    (read,) = eval_records.load(tmp_path / "a.jsonl")
    assert (read.question, read.truth) == ("half ?", "?")


def test_files_are_valid_json_whatever_a_question_lacks(tmp_path):
    truth = {"low": -math.inf, "all": [math.nan, 1.5], "day": date(2026, 11, 30)}
    kept = EvalLog(tmp_path / "out.jsonl", "")
    kept.add([record("a"), record("b", truth=truth, each=[0.0, 1.0], sampled=0.5)])
    rows = strict_rows(kept.part)
    assert "sampled" not in rows[0]
    assert "beside" not in rows[0]
    assert rows[1]["truth"] == {"low": None, "all": [None, 1.5], "day": "2026-11-30"}
    kept.finish(kept.records())
    assert strict_rows(kept.path) == rows
    first, second = eval_records.load(kept.path)
    assert math.isnan(first.sampled)
    assert math.isnan(first.beside)
    assert (second.each, second.sampled) == ([0.0, 1.0], 0.5)


def test_what_questions_share_is_written_where_it_changes(tmp_path):
    one, other = {"benchmark": "b", "mode": "strict"}, {"benchmark": "b", "mode": "lenient"}
    made = [
        record("a", settings=one, evaluation="e", about={"model": "m"}),
        record("b", settings=one, evaluation="e", about={"model": "m"}),
        record("c", settings=other, evaluation="e", about={"model": "m"}),
        record("d"),
    ]
    eval_records.save(made, tmp_path / "a.jsonl")
    shared = [row.keys() & set(eval_records.SHARED) for row in strict_rows(tmp_path / "a.jsonl")]
    assert shared == [
        {"settings", "evaluation", "about"},
        set(),
        {"settings"},
        {"settings", "evaluation", "about"},
    ]
    read = eval_records.load(tmp_path / "a.jsonl")
    assert [(it.settings, it.evaluation, it.about) for it in read] == [
        (it.settings, it.evaluation, it.about) for it in made
    ]


OLD_LINE = (
    '{"id": "a", "source": "s", "tag": "t", "greedy": 1.0, "sampled": NaN, "text": "3", "answer": '
    '"3", "reason": "right", "well_formed": 1.0, "beside": NaN, "each": [], "tags": {}, "digest": '
    '"d", "pictures": "", "fault": "", "settings": {"benchmark": "b", "mode": "strict"}, '
    '"evaluation": "e"}\n'
)
"""A line of an earlier version: it holds the token NaN, and nothing of the question."""


def test_files_of_earlier_versions_are_read_and_compared_with_new_ones(tmp_path):
    (tmp_path / "old.jsonl").write_text(OLD_LINE + OLD_LINE.replace('"a"', '"b"'))
    old = eval_records.load(tmp_path / "old.jsonl")
    assert [(it.id, it.evaluation, it.question, it.truth) for it in old] == [
        ("a", "e", "", None),
        ("b", "e", "", None),
    ]
    assert math.isnan(old[0].sampled)
    new = [record(name, source="s", digest="d", question="How many?") for name in "ab"]
    assert compare.compare(old, new)[0].difference.mean == 0
    eval_records.save(old, tmp_path / "again.jsonl")
    assert len(strict_rows(tmp_path / "again.jsonl")) == 2


def test_a_disk_that_fills_up_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    eval_records.save([record("a"), record("b")], path)
    write = type(path).write_text

    def full(self, text, **how):
        write(self, text[: len(text) // 2], **how)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        eval_records.save([record("c"), record("d")], path)
    assert [each.id for each in eval_records.load(path)] == ["a", "b"]


def test_every_part_of_a_record_is_read_back(tmp_path):
    full = record(
        "a",
        source="s",
        question="How many?",
        context=[["user", "Hello."]],
        choices=["3", "4"],
        letters=["P", "Q"],
        kind="number",
        truth={"low": 1, "high": 2.5},
        frame="norm1",
        images=["7.png"],
        picture_names=["0123456789abcdef"],
        sizes=[[640, 480]],
        boxed_image=1,
        truth_pixels=[[1.0, 2.5, 30.0, 40.0]],
        boxes_pixels=[[0.0, 2.25, 31.0, 40.0], [1, 2, 3, 4]],
        finish="length",
        texts=["3", "4"],
        about={"model": "m", "seed": 1, "temperature": 0.5},
        greedy=0.25,
        sampled=0.5,
        well_formed=1.0,
        beside=0.75,
        each=[0.0, 1.0],
        tags={"task": "count"},
        digest="d",
        pictures="p",
        fault="fault: x",
        settings={"benchmark": "b", "max_tokens": 7, "blank": False},
        evaluation="e",
    )
    eval_records.save([full], tmp_path / "a.jsonl")
    assert eval_records.load(tmp_path / "a.jsonl") == [full]
    eval_records.save([], tmp_path / "a.jsonl")
    assert eval_records.load(tmp_path / "a.jsonl") == []


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.part"])
@pytest.mark.parametrize(
    "evaluations", [["mine", "other"], ["other", "mine"], ["other", "other"], ["mine", ""]]
)
def test_one_answer_of_another_evaluation_is_enough_to_refuse_a_file(name, evaluations, tmp_path):
    eval_records.save(
        [record(str(place), evaluation=each) for place, each in enumerate(evaluations)],
        tmp_path / name,
    )
    before = (tmp_path / name).read_bytes()
    with pytest.raises(
        UserError, match=f"{re.escape(str(tmp_path / name))}: answers of another evaluation"
    ):
        EvalLog(tmp_path / "out.jsonl", "mine").records()
    assert (tmp_path / name).read_bytes() == before


def test_answers_are_kept_line_by_line_and_end_under_the_files_own_name(tmp_path):
    kept = EvalLog(tmp_path / "out.jsonl", "mine")
    a, b, c = (record(name, evaluation="mine") for name in "abc")
    assert kept.records() == []
    kept.add([a])
    kept.add([b, c])
    assert kept.part == tmp_path / "out.jsonl.part"
    assert [each.id for each in kept.records()] == ["a", "b", "c"]
    assert not kept.path.exists()
    kept.finish([c, a])
    assert [each.id for each in kept.records()] == ["c", "a"]
    assert not kept.part.exists()
    kept.finish([a])  # there is nothing to remove
    assert [each.id for each in eval_records.load(kept.path)] == ["a"]


def test_a_finished_file_wins_over_an_unfinished_one(tmp_path):
    kept = EvalLog(tmp_path / "out.jsonl", "mine")
    eval_records.save([record("whole", evaluation="mine")], kept.path)
    kept.add([record("half", evaluation="mine")])
    assert [each.id for each in kept.records()] == ["whole"]


def test_a_line_that_was_cut_short_is_dropped_and_the_next_one_stands_on_its_own(tmp_path):
    kept = EvalLog(tmp_path / "out.jsonl", "mine")
    kept.add([record("a", evaluation="mine"), record("b", evaluation="mine")])
    whole = kept.part.read_bytes()
    kept.part.write_bytes(whole[:-1])  # all of it but the end of its line
    assert [each.id for each in kept.records()] == ["a"]
    kept.add([record("c", evaluation="mine")])
    assert [each.id for each in kept.records()] == ["a", "c"]
    kept.part.write_bytes(b'{"id": "a')
    assert kept.records() == []


def test_a_file_that_is_none_of_records_is_reported_with_its_line(tmp_path):
    eval_records.save([record("a")], tmp_path / "x.jsonl")
    with (tmp_path / "x.jsonl").open("a") as file:
        file.write('\n{"id": "b"}\n')
    with pytest.raises(UserError, match=r"x.jsonl line 3: not a file of evaluation records: tag: "):
        eval_records.load(tmp_path / "x.jsonl")
    with pytest.raises(UserError, match=r"nowhere.jsonl: not a file of evaluation records: "):
        eval_records.load(tmp_path / "nowhere.jsonl")


def test_equal_digests_mean_equal_questions_truths_and_pictures():
    def digests(**changed: Any) -> tuple[str, str]:
        result = benchmark_of().score(
            replace(question("a", images=(b"x", b"y")), **changed), completion(text="3"), []
        )
        return result.digest, result.pictures

    same = digests()
    assert digests() == digests(id="b", tags={"task": "x"}, solution="s") == same
    of_questions = [
        digests(question="?"),
        digests(answer=4),
        digests(answer="3"),
        digests(choices=("3",)),
        digests(frame="norm1"),
    ]
    of_questions.append(digests(answer_kind="amount"))
    assert len({digest for digest, _ in [same, *of_questions]}) == 7
    assert {pictures for _, pictures in of_questions} == {same[1]}
    of_pictures = [
        digests(images=images) for images in ((b"y", b"x"), (b"x",), (b"xy",), (b"", b"xy"))
    ]
    assert len({pictures for _, pictures in [same, *of_pictures]}) == 5
    assert {digest for digest, _ in of_pictures} == {same[0]}
    assert benchmark_of().score(question("a"), completion(text="3"), []).pictures == ""
