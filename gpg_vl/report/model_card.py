"""Write the model card (README.md) of a checkpoint: training, data, accuracy and how to use it."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from gpg_vl import __version__
from gpg_vl.boxes import Frame
from gpg_vl.config.schema import Config
from gpg_vl.evaluation import records as eval_records
from gpg_vl.prompts import Style
from gpg_vl.types import Sample

HEAD = {
    "library_name": "transformers",
    "pipeline_tag": "image-text-to-text",
    "tags": ["gpg_vl", "reinforcement-learning"],
}
NEUTRAL_QUESTION = "Your question about the picture"
"""Question of the program where the training data have none that can stand there."""
MOST_CHARACTERS = 200
"""Longest question of the data that stands in the program."""
_UNCLEAR = re.compile(r"[\n\r\"\\`{}<>]")
"""Signs that JSON or Markdown writes otherwise, and those of marks."""
SNIPPET = """\
from PIL import Image, ImageOps
from transformers import AutoModelForImageTextToText, AutoProcessor

folder = "."  # the folder of this file, or the name of the model on a hub
model = AutoModelForImageTextToText.from_pretrained(folder)
try:
    processor = AutoProcessor.from_pretrained(folder)
except ImportError:  # without torchvision transformers builds no Qwen-VL processor, gpg_vl does
    from pathlib import Path

    from gpg_vl.policy.processor import load_processor

    processor = load_processor(Path(folder), "pil")
messages = {messages}
text = processor.apply_chat_template(messages, add_generation_prompt=True){opening}
image = ImageOps.exif_transpose(Image.open("picture.png")).convert("RGB")
inputs = processor(text=[text], images=[image], return_tensors="pt")
output = model.generate(**inputs, max_new_tokens={max_tokens}, do_sample=False)
answer = output[0, inputs["input_ids"].shape[1] :]
print(processor.decode(answer, skip_special_tokens=True))"""
"""Program that asks a checkpoint with plain transformers, or with gpg_vl's processor beside it."""


def question_of(samples: Iterable[Sample]) -> str:
    """Return the first question that can stand alone in a program; neutral words if none can."""
    for sample in samples:
        text = sample.question
        alone = len(sample.images) == 1 and not sample.choices and not sample.context
        if alone and len(text) <= MOST_CHARACTERS and not _UNCLEAR.search(text):
            return text
    return NEUTRAL_QUESTION


def model_card(
    config: Config,
    step: int,
    run: Path,
    style: Style,
    frame: Frame,
    *,
    opened: bool = False,
    question: str = NEUTRAL_QUESTION,
) -> str:
    """Return Markdown with the metadata block that model hubs read.

    Args:
        config: the resolved config of the run.
        step: the step of the checkpoint.
        run: the run folder, with the evaluations so far.
        style: the prompt style of the run.
        frame: the coordinate frame of the model's boxes.
        opened: True if the chat template itself writes the text that opens an answer.
        question: an example, which the program asks.
    """
    name = config.policy.model
    is_on_hub = name != "tiny" and not Path(name).is_absolute()  # a folder is one of this machine
    base = {"base_model": name} if is_on_hub else {}
    metadata = yaml.safe_dump({**HEAD, **base}, sort_keys=False).strip()
    method = [f"| {name} | {value} |" for name, value in _method(config).items()]
    data = [f"- `{_short(source.model_dump(exclude_defaults=True))}`" for source in config.data]
    lines = [
        "---",
        metadata,
        "---",
        "",
        f"# {config.name}, step {step}",
        "",
        (
            f"Trained by gpg_vl {__version__} from {_start(config)} with the estimator "
            f"`{_short(config.estimator)}`."
        ),
        "",
        "| | |",
        "| --- | --- |",
        *method,
        "",
        "## Data",
        "",
        *data,
        "",
        "## Held-out greedy accuracy",
        "",
        *_results(run),
        "",
        "## How to ask it",
        "",
        *_use(style, frame, config.rollout.max_tokens, opened, question),
        "",
    ]
    return "\n".join(lines)


def _use(style: Style, frame: Frame, max_tokens: int, opened: bool, question: str) -> list[str]:
    """Return the lines on the prompt, the form of an answer, and a program that asks the model."""
    example = Sample(
        id="",
        question=question,
        images=(Path("picture.png"),),
        sizes=((56, 56),),
        answer_kind="",
        answer="",
    )
    chat = style.messages(example)
    for message in chat:
        for part in message["content"]:
            if part["type"] == "image":
                part.pop("image", None)  # of a style of your own; the program opens the picture
    opening = ""
    if style.opening and not opened:
        opening = f" + {json.dumps(style.opening)}"
    messages = json.dumps(chat, ensure_ascii=False)
    return [
        (
            "It was trained on chats like the one below; another wording is another task. An "
            f"answer looks like `{style.write('4', '...')}`."
        ),
        f"Coordinates of boxes are {_coordinates(frame)}.",
        "",
        "```python",
        SNIPPET.format(messages=messages, opening=opening, max_tokens=max_tokens),
        "```",
        "",
        (
            "Write your question in the place of "
            f"`{example.question}`, and the name of your picture for `picture.png`. Plain "
            "transformers is enough where torchvision is installed: it builds no processor of a "
            "Qwen-VL model without, also where no video is shown. Where it is not, as after the "
            "install command of gpg_vl's README, the program takes gpg_vl's processor."
        ),
    ]


def _coordinates(frame: Frame) -> str:
    """Return a phrase on the coordinate frame of boxes."""
    if frame.kind == "resized":
        size = (
            f"each side a multiple of {frame.factor}, the area from {frame.min_pixels:,} to "
            f"{frame.max_pixels:,} pixels"
        )
        return f"pixels of the picture as the processor resizes it ({size})"
    phrases = {
        "pixels": "pixels of the picture",
        "norm1": "shares of width and height, from 0 to 1",
        "norm1000": "thousandths of width and height, from 0 to 1000",
        "undeclared": "in no declared frame",
    }
    return phrases[frame.kind]


def _start(config: Config) -> str:
    """Return a phrase on the model that training began with."""
    if config.policy.model == "tiny":
        name = f"a tiny {config.policy.tiny.family} with random weights"
    else:
        name = f"`{config.policy.model}`"
    if config.warmup.steps:
        return f"{name}, warmed up by {config.warmup.steps} supervised steps,"
    return name


def _method(config: Config) -> dict[str, Any]:
    """Return the rows of the table of hyperparameters."""
    policy, rollout, optimizer = config.policy, config.rollout, config.optimizer
    return {
        "parts": (
            f"language {policy.language}, projector {policy.projector}, vision {policy.vision}"
        ),
        "groups per step x answers": f"{rollout.groups_per_step} x {rollout.group_size}",
        "temperature": rollout.temperature,
        "learning rate": f"{optimizer.lr:g} ({optimizer.schedule})",
        "prompt style": f"`{_short(config.prompt)}`",
        "seed": config.seed,
    }


def _results(run: Path) -> list[str]:
    """Return a table with a row for each task of each evaluation so far."""
    moments = {"before": 0, "after": 2}  # evaluations during training, named by step, are 1
    files = sorted(
        eval_records.files_in(run / "evaluation"),
        key=lambda path: (moments.get(path.stem.rpartition("-")[2], 1), path.stem),
    )
    rows: list[str] = []
    for path in files:
        for tag, records in eval_records.by_tag(eval_records.load(path)).items():
            accuracy = f"{100 * fmean(record.greedy for record in records):.1f} %"
            rows.append(f"| {path.stem} | {tag} | {len(records)} | {accuracy} |")
    if not rows:
        return ["Not evaluated."]
    return ["| evaluation | task | questions | accuracy |", "| --- | --- | --- | --- |", *rows]


def _short(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    # YAML ends a document that is a single word with a line "..."
    return text.strip().removesuffix("...").strip()
