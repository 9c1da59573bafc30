"""Rewards for TRL, called as TRL calls them: a list per column, one value per completion."""

import io
import json
import logging
import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from gpg_vl import (
    Experiment,
    Grade,
    RuleVerifier,
    Sample,
    UserError,
    Verdict,
    load_config,
)
from gpg_vl.integrations.trl import SAMPLE, dataset, reward
from gpg_vl.verifiers.boxes import Boxes
from tests.hand_made import png
from tests.test_public_face import in_a_new_process

ANSWERED = "<think>so</think><answer>{}</answer>"


def scored(function, *answers, prompts=None, said=ANSWERED, **columns):
    """The rewards of completions in plain text, one for each value of the columns."""
    texts = [said.format(answer) for answer in answers]
    return function(
        prompts=prompts or ["?"] * len(texts),
        completions=texts,
        completion_ids=[[1, 2]] * len(texts),
        trainer_state=None,
        **columns,
    )


# --- which verifier, and what it is called --------------------------------------------------------


def test_a_verifier_by_name_scores_every_row():
    assert scored(reward("number"), 3, 4, "3 or 4", answer=[3, 3, 3]) == [1.0, 0.0, 0.0]
    by_hand = [[0, 0, 10, 20]] * 2
    # half of the box: 10 x 10 of 10 x 20
    rewards = scored(reward("boxes"), "[0,0,10,20]", "[0,0,10,10]", answer=[[b] for b in by_hand])
    assert rewards == [1.0, 0.5]


def test_a_mapping_has_the_fields_of_the_verifier():
    within = reward({"kind": "number", "tolerance": 1})
    assert scored(within, 4, 5, answer=[3, 3]) == [1.0, 0.0]
    summed = reward({"kind": "number", "combine": "sum", "format_weight": 0.5})
    assert scored(summed, 4, answer=[3]) == [0.5]


def test_without_a_verifier_each_row_says_its_kind():
    rewards = scored(
        reward(), 3, "cat", answer=[3, "cat"], answer_kind=["number", "choice"],
        choices=[None, ["cat", "dog"]],
    )  # fmt: skip
    assert rewards == [1.0, 1.0]
    labelled = reward(defaults={"answer_kind": "label"})
    assert scored(labelled, "rose", answer=["rose"]) == [1.0]


@dataclass(frozen=True, kw_only=True)
class Short(RuleVerifier):
    """Pays for answers that are not longer than the row allows."""

    def grade(self, answer: str, sample: Sample) -> Grade:
        return Grade.of(len(answer) <= sample.columns["most"], answer)

    def reference_answer(self, sample: Sample) -> str:
        return ""


def politeness(text: str, sample: Sample) -> Verdict:
    return Verdict(reward=float("please" in text))


def test_a_verifier_of_ones_own_sees_the_other_columns():
    rows = {"answer": ["", ""], "answer_kind": ["own", "own"], "most": [3, 2]}
    assert scored(reward(Short()), "abc", "abc", **rows | {"answer": ["x", "x"]}) == [1.0, 0.0]
    assert scored(reward(politeness), "please", answer=[1], answer_kind=["own"]) == [1.0]
    assert scored(reward(politeness), "please", answer=[1]) == [1.0]  # no kind is needed


def test_the_name_in_the_logs_is_that_of_the_verifier():
    names = {
        "boxes": reward("boxes"),
        "value": reward({"kind": "value", "tolerance": 0.1}),
        "Boxes": reward(Boxes()),
        "politeness": reward(politeness),
        "gpg_vl": reward(),
        "where": reward("boxes", name="where"),
    }
    assert {name: function.__name__ for name, function in names.items()} == {n: n for n in names}


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (("boxs",), {}, "verifier: got 'boxs', expected .*; did you mean boxes?"),
        (("boxes",), {"mode": "stric"}, "mode: got 'stric', expected strict, lenient, reference"),
        (("boxes",), {"style": "thinking"}, "prompt: got 'thinking'.*did you mean think?"),
        (("boxes",), {"frame": "pixel"}, "frame: got 'pixel', expected pixels"),
        (
            ("boxes",),
            {"box_fromat": "xywh"},
            "reward: box_fromat: no such key; did you mean box_",
        ),
        (("boxes",), {"part": "test"}, "reward: part: no such key; known here: columns, defaults,"),
        ((Boxes,), {}, "verifier: got <class .*, expected a name such as 'boxes', or a verifier"),
        ((politeness,), {"mode": "lenient"}, "verifier: politeness has no field mode that mode="),
    ],
)
def test_a_mistake_is_a_sentence_before_the_first_step(arguments, options, sentence):
    with pytest.raises(UserError, match=sentence):
        reward(*arguments, **options)


# --- completions and rows -------------------------------------------------------------------------


def test_completions_are_texts_or_chats():
    chat = [
        {"role": "assistant", "content": "<think>no</think><answer>4</answer>"},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": [{"type": "text", "text": ANSWERED.format(3)}]},
    ]
    without_words = [{"role": "assistant", "content": None, "tool_calls": []}]
    rewards = reward("number")(
        prompts=["?"] * 3, completions=[chat, without_words, ANSWERED.format(3)], answer=[3] * 3
    )
    assert rewards == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("name", ["answer", "solution", "ground_truth", "target"])
def test_the_truth_stands_under_the_names_that_data_sets_use(name):
    assert scored(reward("number"), 3, 4, **{name: [3, 3]}) == [1.0, 0.0]
    assert scored(reward("boxes"), "[0,0,10,20]", **{name: [[0, 0, 10, 20]]}) == [1.0]


def test_columns_are_named_and_declared_as_under_data():
    function = reward("boxes", columns={"answer": "objects.bbox"}, box_format="xywh")
    assert scored(function, "[5,5,15,25]", objects=[{"bbox": [5, 5, 10, 20]}]) == [1.0]
    function = reward("number", decimal=",")
    assert scored(function, 2.5, answer=["2,5"]) == [1.0]


def test_the_size_of_a_picture_places_boxes_in_relative_frames():
    picture = Image.new("RGB", (200, 100))
    encoded = png((200, 100))
    function = reward("boxes", frame="norm1000")
    truth = {"answer": [[[20, 10, 100, 50]]]}
    for pictures in (
        {"image": [picture]},
        {"images": [[picture]]},
        {"image": [{"bytes": encoded, "path": None}]},
        {"images": [[encoded]]},
    ):
        assert scored(function, "[100,100,500,500]", **truth, **pictures) == [1.0]
    assert scored(reward(Boxes()), "[20,10,100,50]", **truth, image=[picture]) == [1.0]


def test_pictures_of_a_row_reach_a_verifier_of_ones_own():
    picture = Image.new("RGB", (20, 10))

    def wide(text: str, sample: Sample) -> Verdict:
        width, height = sample.columns["image"].size
        return Verdict(reward=float(width > height and sample.sizes == ((20, 10),)))

    assert scored(reward(wide), "", answer=[1], answer_kind=["own"], image=[picture]) == [1.0]


def test_the_question_of_a_chat_is_that_of_the_user():
    """A letter counts only where the question shows it: the question has to be the right one."""
    function = reward({"kind": "choice", "letters": "shown"})
    rows = {"answer": ["dog"], "choices": [["cat", "dog"]]}
    shown = [
        {"role": "system", "content": "Answer."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "A. cat B. dog"}]},
    ]
    assert scored(function, "B", prompts=[shown], **rows) == [1.0]


# --- what cannot be scored ------------------------------------------------------------------------


def test_a_row_that_cannot_be_scored_is_none_and_is_logged_once(caplog):
    function = reward("number")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert scored(function, 3, 3, answer=[3, "many"]) == [1.0, None]
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["reward number: not scored: fault: ValueError: answer 'many' is not a number"]


def test_a_box_without_its_picture_is_none_and_says_why(caplog):
    with caplog.at_level(logging.WARNING):
        relative = reward("boxes", frame="norm1000")
        assert scored(relative, "[1,2,3,4]", answer=[[[1, 2, 3, 4]]]) == [None]
    assert "a box needs an image" in caplog.text


def test_columns_that_no_row_can_be_read_by_end_the_training():
    with pytest.raises(UserError, match="reward number: no row can be scored: column 'answer' is"):
        scored(reward("number"), 3, 4, anwser=[3, 3])
    with pytest.raises(UserError, match="answer_kind"):
        scored(reward(), 3, answer=[3])
    with pytest.raises(UserError, match="got 'poem', which no shipped verifier scores"):
        scored(reward(), 3, answer=[3], answer_kind=["poem"])


def test_a_row_of_a_kind_that_nobody_scores_ends_no_training(caplog):
    rewards = scored(reward(), 3, 3, answer=[3, 3], answer_kind=["nmber", "number"])
    assert rewards == [None, 1.0]
    assert "got 'nmber'" in caplog.text


def test_an_error_of_a_verifier_of_ones_own_ends_no_training(caplog):
    def fragile(text: str, sample: Sample) -> Verdict:
        return Verdict(reward=1 / len(text))

    with caplog.at_level(logging.WARNING):
        assert scored(reward(fragile), "a", "", said="{}", answer=[1, 1]) == [1.0, None]
    assert "reward fragile: not scored: fault: ZeroDivisionError: division by zero" in caplog.text


def test_a_broken_row_ends_no_training(caplog):
    """TRL may ask for the completions of a single row at a time."""
    function = reward("number")
    assert scored(function, 3, 4, answer=[3, 3]) == [1.0, 0.0]
    with caplog.at_level(logging.WARNING):
        assert scored(function, 3, 3, answer=[None, None]) == [None, None]
    assert "reward number: not scored: fault: column 'answer' is missing" in caplog.text
    assert scored(function, 3, 4, answer=[3, 3]) == [1.0, 0.0]


def test_parts_and_reasons_go_to_the_logs_of_trl():
    metrics: dict[str, float] = {}
    extra: dict[str, list[str]] = {}
    scored(
        reward("number"), 3, 4, answer=[3, 3],
        log_metric=metrics.__setitem__, log_extra=extra.__setitem__,
    )  # fmt: skip
    assert metrics == {"number/accuracy": 0.5, "number/format": 1.0, "number/not scored": 0.0}
    assert extra == {"number: read": ["3", "4"], "number: why": ["right", "wrong"]}


def test_it_can_be_pickled():
    assert scored(pickle.loads(pickle.dumps(reward("number"))), 3, answer=[3]) == [1.0]


# --- data -----------------------------------------------------------------------------------------


def test_samples_become_rows_and_rows_the_same_samples():
    pytest.importorskip("datasets")
    sample = Sample(
        id="a",
        question="Is <image 2> like <image 1>? Where is the dog?",
        context=[("system", "Look.")],
        images=(png((20, 10), "red"), png((30, 10), "blue")),
        sizes=((20, 10), (30, 10)),
        answer_kind="boxes",
        answer=[[1, 2, 3, 4]],
        answer_image=2,
        tags={"task": "box"},
        columns={"raw": b"not JSON"},
    )
    rows = dataset([sample], style="answer")
    (row,) = rows
    assert [image.size for image in row["images"]] == [(30, 10), (20, 10)]  # by their places
    kinds = [part["type"] for turn in row["prompt"] for part in turn["content"]]
    assert kinds == ["text", "text", "image", "text", "image", "text"]
    again = Sample(**json.loads(row[SAMPLE]))
    assert (again.id, again.context, again.sizes) == ("a", sample.context, sample.sizes)
    assert scored(reward(), "[1,2,3,4]", **{SAMPLE: [row[SAMPLE]]}) == [1.0]


def test_a_config_becomes_rows_without_pictures_where_it_has_none(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "rows.jsonl").write_text(
        '{"question": "2+1?", "answer_kind": "number", "answer": 3}\n'
    )
    config = tmp_path / "own.yaml"
    config.write_text("prompt: answer\ndata: [{files: rows.jsonl}]\n")
    rows = dataset(config)
    assert set(rows.column_names) == {"prompt", SAMPLE}
    columns = {name: rows[name] for name in rows.column_names if name != "prompt"}
    assert scored(reward(style="answer"), 3, said="<answer>{}</answer>", **columns) == [1.0]
    with pytest.raises(UserError, match="dataset: got no samples"):
        dataset([])


def test_data_are_a_config_an_experiment_or_samples(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "rows.jsonl").write_text(
        '{"question": "2+1?", "answer_kind": "number", "answer": 3}\n' * 3
    )
    (tmp_path / "own.yaml").write_text("prompt: answer\ndata: [{files: rows.jsonl}]\n")
    config = load_config(tmp_path / "own.yaml")
    for given in (config, Experiment.resolve(config)):
        assert len(dataset(given)) == 3
        assert len(dataset(given, {"data.0.head": 2})) == 2
    sample = Sample(question="2+1?", answer_kind="number", answer=3)
    for wrong in (None, 5, sample, [sample, {"question": "2+1?"}]):
        with pytest.raises(UserError, match=r"dataset: got .*, expected a config by name or file"):
            dataset(wrong)
    with pytest.raises(UserError, match="overrides are knobs of a config, got samples"):
        dataset([sample], ["data.0.head=2"])
    lost = Sample(id="a", question="?", answer_kind="number", answer=3, images=(Path("no.png"),))
    with pytest.raises(UserError, match=r"dataset: a: image no\.png does not exist"):
        dataset([lost])


def test_nothing_of_trl_and_no_torch_is_imported():
    printed = in_a_new_process(
        "import sys; from gpg_vl.integrations.trl import reward; reward('boxes'); "
        "print({'torch', 'transformers', 'trl', 'datasets'} & sys.modules.keys())"
    )
    assert printed == "set()\n"


def test_only_the_header_of_a_picture_is_read(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png((200, 100)))
    truth = {"answer": [[[20, 10, 100, 50]]]}
    function = reward("boxes", frame="norm1000", image_root=str(tmp_path))
    assert scored(function, "[100,100,500,500]", **truth, image=["a.png"]) == [1.0]
    stream = io.BytesIO(path.read_bytes())
    with Image.open(stream) as picture:
        assert scored(function, "[100,100,500,500]", **truth, image=[picture]) == [1.0]
