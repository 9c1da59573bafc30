"""The README.md beside a checkpoint's weights, by hand: what was trained on what, how, what it
reached, and how it is asked."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpg_vl.boxes import Frame
from gpg_vl.config import loading
from gpg_vl.evaluation import records
from gpg_vl.evaluation.records import Record
from gpg_vl.prompts import AnswerOnly, Style
from gpg_vl.report.model_card import (
    NEUTRAL_QUESTION,
    Adapter,
    exported_card,
    model_card,
    question_of,
)
from gpg_vl.types import Sample
from tests.adapted import tiny


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
        "data types": "forward float32, trained weights float32",
        "groups per step x answers": "5 x 3",
        "temperature": "0.9",
        "optimizer": "adamw",
        "learning rate": "3e-06 (cosine)",
        "prompt style": "`answer`",
        "seed": "11",
    }


def table_of(text: str) -> dict[str, str]:
    table = text.split("| --- | --- |\n")[1].split("\n\n")[0]
    return dict(line.strip("| ").split(" | ") for line in table.splitlines())


def test_it_names_the_adapter_and_how_its_base_was_held(tmp_path):
    knobs = ["policy.language=lora", "policy.quantise=nf4", "policy.dtype=bfloat16"]
    knobs += ["policy.lora.dropout=0.1", "policy.projector=frozen", "policy.vision=frozen"]
    knobs += ["optimizer.kind=adamw8bit", "optimizer.lr=1e-5", "optimizer.language.lr=1e-6"]
    # those of the adapter itself, which may be one that was trained on
    made = Adapter(base="/models/mine", rank=8, alpha=16.0, targets=("q_proj", "v_proj"))
    rows = table_of(card(tmp_path, *knobs, adapter=made))
    assert rows["LoRA"] == "rank 8, alpha 16, on q_proj, v_proj, dropout 0.1"
    assert rows["base model in training"] == "nf4"
    assert rows["data types"] == "forward bfloat16, trained adapter float32"
    assert rows["optimizer"] == "adamw8bit"
    assert rows["learning rate"] == "1e-05 (constant), language 1e-06"


@pytest.mark.parametrize(
    ("knobs", "types"),
    [
        ({"language": "full", "dtype": "float64"}, "forward float64, trained weights float64"),
        (
            {"language": "full", "dtype": "bfloat16", "weights": "bfloat16"},
            "forward bfloat16, trained weights bfloat16",
        ),
        ({"projector": "frozen", "dtype": "float64"}, "forward float64, trained adapter float64"),
        (
            {"projector": "full", "dtype": "bfloat16", "weights": "bfloat16"},
            "forward bfloat16, trained adapter float32, projector bfloat16",
        ),
        (
            {"projector": "full", "vision": "full", "dtype": "bfloat16"},
            "forward bfloat16, trained adapter float32, projector float32, vision float32",
        ),
    ],
)
def test_its_data_types_are_those_that_are_held(knobs, types, tmp_path):
    knobs = {"language": "lora", "vision": "frozen", **knobs}
    made = None
    if knobs["language"] == "lora":
        made = Adapter(base="tiny", rank=4, alpha=16.0, targets=("q_proj",))
    text = card(tmp_path, *(f"policy.{name}={how}" for name, how in knobs.items()), adapter=made)
    assert table_of(text)["data types"] == types
    policy = tiny(**knobs)
    held = {str(each.dtype)[6:] for each in policy.model.parameters() if each.requires_grad}
    assert held == set(re.findall(r"b?float\d+", types.partition("trained")[2]))


@pytest.mark.parametrize(
    ("base", "head", "loaded"),
    [
        ("Qwen/base", {"base_model": "Qwen/base"}, '"Qwen/base"'),
        ("/models/mine", {}, '"/models/mine"'),
        ("tiny", {}, 'folder + "/base"'),
    ],
)
def test_an_adapter_is_one_to_a_hub_and_names_its_base(base, head, loaded, tmp_path):
    made = Adapter(base=base, rank=8, alpha=16.0, targets=("q_proj",))
    text = card(tmp_path, "policy.model=some/adapter", adapter=made)
    assert yaml.safe_load(text.split("---\n", 2)[1]) == {
        "library_name": "peft",
        "pipeline_tag": "image-text-to-text",
        "tags": ["gpg_vl", "reinforcement-learning", "lora"],
        **head,
    }
    assert f"base = AutoModelForImageTextToText.from_pretrained({loaded})\n" in text
    whole = exported_card(text, "a whole model", merged=True)
    assert "peft" not in whole.lower()
    assert whole.replace("Exported by gpg_vl 0.1.0 as a whole model.\n\n", "") != text
    assert yaml.safe_load(whole.split("---\n", 2)[1]) == {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["gpg_vl", "reinforcement-learning"],
        **head,
    }


def test_a_card_that_somebody_wrote_keeps_its_words():
    note = "Exported by gpg_vl 0.1.0 as a whole model."
    for text in (
        "Just words.",
        "# Title\n\nWords.\n",
        "---\nlibrary_name: transformers\n---\nWords",
        "---\nlibrary_name: transformers\ntags: mine\n---\nWords",
        "---\nA rule above the words.\n",
        "---\n\nWords between two rules.\n\n---\n\nMore.\n",
        "---\ntags: [mine, 'half\n---\nWords",
        "---\nlibrary_name: transformers\ndate: 2026-99-99\n---\nWords",
        "---\n---\nWords",
        "---\n",
    ):
        for merged in (False, True):
            written = exported_card(text, "a whole model", merged=merged)
            assert note in written
            assert written.replace(note, "").split() == text.split()


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
    records.save(answered("count", 0, 1), tmp_path / "evaluation" / "mine-blank.jsonl")
    assert section(card(tmp_path), "Held-out greedy accuracy")[2:] == [
        "| mine-before | count | 4 | 25.0 % |",
        "| mine-000004 | count | 1 | 50.0 % |",
        "| mine-after | count | 3 | 33.3 % |",
        "| mine-after | add | 2 | 100.0 % |",
        "| mine-blank (grey pictures) | count | 2 | 50.0 % |",
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
