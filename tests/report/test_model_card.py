"""The README.md beside a checkpoint's weights, by hand: what was trained on what, how, what it
reached, and how it is asked."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from gpg_vl.boxes import Frame
from gpg_vl.config import loading
from gpg_vl.evaluation import records
from gpg_vl.evaluation.records import Record
from gpg_vl.prompts import AnswerOnly, Style
from gpg_vl.report.model_card import NEUTRAL_QUESTION, model_card, question_of
from gpg_vl.types import Sample


def card(
    run: Path, *knobs: str, style: Style | None = None, frame: Frame | None = None, **given: Any
) -> str:
    """The card of step 7 of a run that counts digits."""
    return model_card(
        loading.load("digits_count", knobs),
        7,
        run,
        style or AnswerOnly(),
        frame or Frame(),
        **given,
    )


def section(text: str, title: str) -> list[str]:
    """The lines below a title that say something."""
    return [line for line in text.split(f"## {title}\n")[1].split("\n## ")[0].splitlines() if line]


def answered(tag: str, *scores: float) -> list[Record]:
    """Questions of one row of the table, and what their greedy answers earned."""
    given = {"sampled": 0.0, "text": "", "answer": "", "reason": ""}
    return [
        Record(id=f"{tag}{place}", tag=tag, greedy=score, **given)
        for place, score in enumerate(scores)
    ]


@pytest.mark.parametrize(
    ("model", "base"),
    [
        ("tiny", {}),
        ("/models/mine", {}),
        ("Qwen/Qwen2.5-VL-3B-Instruct", {"base_model": "Qwen/Qwen2.5-VL-3B-Instruct"}),
    ],
)
def test_a_hub_reads_the_model_that_training_began_with_unless_there_was_none(
    model, base, tmp_path
):
    _, head, text = card(tmp_path, f"policy.model={model}").split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["gpg_vl", "reinforcement-learning"],
        **base,
    }
    assert text.startswith("\n# digits_count, step 7\n")


@pytest.mark.parametrize(
    ("knobs", "start"),
    [
        (
            ("warmup.steps=90",),
            (
                "a tiny qwen2_5_vl with random weights, warmed up by 90 supervised steps, with the "
                "estimator `gpg`."
            ),
        ),
        (("warmup.steps=0",), "a tiny qwen2_5_vl with random weights with the estimator `gpg`."),
        (
            ("policy.tiny.family=qwen3_vl", "warmup.steps=0", "estimator=grpo"),
            "a tiny qwen3_vl with random weights with the estimator `grpo`.",
        ),
        (
            ("policy.model=some/model", "warmup.steps=2"),
            "`some/model`, warmed up by 2 supervised steps, with the estimator `gpg`.",
        ),
    ],
)
def test_it_says_what_training_began_with_and_by_which_method(knobs, start, tmp_path):
    (line,) = [
        line
        for line in card(tmp_path, *knobs).splitlines()
        if line.startswith("Trained by gpg_vl ")
    ]
    assert line.endswith(f" from {start}")


def test_it_names_what_a_reader_would_need_to_repeat_it(tmp_path):
    knobs = [
        "policy.vision=frozen",
        "rollout.groups_per_step=5",
        "rollout.group_size=3",
        "rollout.temperature=0.9",
        "seed=11",
    ]
    text = card(tmp_path, *knobs, "optimizer.lr=3e-6", "optimizer.schedule=cosine")
    table = text.split("| --- | --- |\n")[1].split("\n\n")[0]
    assert dict(line.strip("| ").split(" | ") for line in table.splitlines()) == {
        "parts": "language full, projector full, vision frozen",
        "groups per step x answers": "5 x 3",
        "temperature": "0.9",
        "learning rate": "3e-06 (cosine)",
        "prompt style": "`answer`",
        "seed": "11",
    }


def test_data_are_listed_without_what_was_not_said(tmp_path):
    listed = section(
        card(
            tmp_path,
            "data=[{recipe: digits, options: {task: add}}, {files: mine.jsonl, weight: 2}]",
        ),
        "Data",
    )
    assert listed == [
        "- `{recipe: digits, options: {task: add}}`",
        "- `{files: mine.jsonl, weight: 2}`",
    ]


def test_accuracies_stand_in_per_cent_in_the_order_of_the_run_a_row_for_each_task(tmp_path):
    records.save(
        [*answered("count", 1, 0, 0), *answered("add", 1, 1)],
        tmp_path / "evaluation" / "mine-after.jsonl",
    )
    records.save(answered("count", 0, 0, 0, 1), tmp_path / "evaluation" / "mine-before.jsonl")
    records.save(answered("count", 0.5), tmp_path / "evaluation" / "mine-000004.jsonl")
    assert section(card(tmp_path), "Held-out greedy accuracy")[2:] == [
        "| mine-before | count | 4 | 25.0 % |",
        "| mine-000004 | count | 1 | 50.0 % |",
        "| mine-after | count | 3 | 33.3 % |",
        "| mine-after | add | 2 | 100.0 % |",
    ]


def test_a_run_without_evaluations_says_so(tmp_path):
    assert section(card(tmp_path), "Held-out greedy accuracy") == ["Not evaluated."]


def test_its_program_asks_as_the_run_did(tmp_path):
    style = Style(system="You count.")
    text = card(tmp_path, "rollout.max_tokens=23", style=style)
    assert "max_new_tokens=23," in text
    assert '{"role": "system", "content": [{"type": "text", "text": "You count."}]}' in text
    assert '{"type": "image"}' in text, "the picture goes to the processor"
    assert "An answer looks like `<think>...</think><answer>4</answer>`." in text


def test_it_does_not_open_a_thought_that_the_template_opens(tmp_path):
    style = Style(think="opened")
    assert '+ "<think>"' in card(tmp_path, style=style)
    assert '+ "<think>"' not in card(tmp_path, style=style, opened=True)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (Frame(kind="norm1000"), "thousandths of width and height, from 0 to 1000."),
        (Frame(kind="norm1"), "shares of width and height, from 0 to 1."),
        (Frame(kind="pixels"), "pixels of the picture."),
        (Frame(kind="undeclared"), "in no declared frame."),
        (
            Frame(kind="resized", factor=28, min_pixels=3136, max_pixels=1_048_576),
            (
                "pixels of the picture as the processor resizes it (each side a multiple of 28, the"
                " area from 3,136 to 1,048,576 pixels)."
            ),
        ),
    ],
)
def test_it_says_what_the_coordinates_of_a_box_are(frame, words, tmp_path):
    assert f"\nCoordinates of boxes are {words}\n" in card(tmp_path, frame=frame)


def test_the_example_is_a_question_of_the_data_that_can_stand_alone():
    def asked(question: str, **given: Any) -> Sample:
        fields: dict[str, Any] = {"images": (b"",), "sizes": ((8, 8),), **given}
        return Sample(id="a", question=question, answer_kind="label", answer="x", **fields)

    unfit = [
        asked("Which?", choices=("a", "b")),
        asked("Two?", images=(b"", b""), sizes=((8, 8), (8, 8))),
        asked('Is it "x"?'),
        asked("<image> What?"),
        asked("x" * 201),
    ]
    assert question_of([*unfit, asked("What colour?"), asked("Why?")]) == "What colour?"
    assert question_of(unfit) == NEUTRAL_QUESTION
