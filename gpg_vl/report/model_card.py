"""The README.md beside the weights of a checkpoint: what was trained on what, how, what it reached, and how it is asked."""

import json
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

HEAD = {"library_name": "transformers", "pipeline_tag": "image-text-to-text", "tags": ["gpg_vl", "reinforcement-learning"]}
SNIPPET = """\
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

folder = "."  # where this file lies, or the model's name on a hub
model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
messages = {messages}
text = processor.apply_chat_template(messages, add_generation_prompt=True){opening}
inputs = processor(text=[text], images=[Image.open("picture.png").convert("RGB")], return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens={longest}, do_sample=False)[0, inputs["input_ids"].shape[1] :]
print(processor.decode(answer, skip_special_tokens=True))"""
"""How plain transformers asks a checkpoint."""


def model_card(config: Config, step: int, run: Path, style: Style, frame: Frame, *, opened: bool = False) -> str:
    """Markdown with the metadata block that model hubs read.

    Args:
        style: how the run asks.
        frame: what the model's box coordinates mean.
        opened: the chat template itself writes what the style would open an answer with.
    """
    base = {} if config.policy.model == "tiny" else {"base_model": config.policy.model}
    lines = ["---", yaml.safe_dump({**HEAD, **base}, sort_keys=False).strip(), "---", "", f"# {config.name}, step {step}", ""]
    lines += [f"Trained by gpg_vl {__version__} from {_start(config)} with the estimator `{_short(config.estimator)}`."]
    lines += ["", "| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in _method(config).items())]
    lines += ["", "## Data", "", *(f"- `{_short(source.model_dump(exclude_defaults=True))}`" for source in config.data)]
    lines += ["", "## Held-out greedy accuracy", "", *_results(run)]
    return "\n".join([*lines, "", "## How to ask it", "", *_use(style, frame, config.rollout.max_tokens, opened), ""])


def _use(style: Style, frame: Frame, longest: int, opened: bool) -> list[str]:
    """The words of a prompt, the form of an answer, and a program of plain transformers that asks."""
    question = "How many digits are there in the image?"
    chat = style.messages(Sample(id="", question=question, images=(Path("picture.png"),), sizes=((56, 56),), answer_kind="", answer=""))
    for part in (part for message in chat for part in message["content"] if part["type"] == "image"):
        del part["image"]  # the processor is shown the picture itself
    opening = f" + {json.dumps(style.opening)}" if style.opening and not opened else ""
    messages = json.dumps(chat, ensure_ascii=False)
    return [
        f"It was trained on chats like the one below; another wording is another task. An answer looks like `{style.write('4', '...')}`.",
        f"Coordinates of boxes are {_coordinates(frame)}.",
        "",
        "```python",
        SNIPPET.format(messages=messages, opening=opening, longest=longest),
        "```",
        "",
        "The processor of a Qwen-VL model needs torchvision, also where no video is shown: transformers builds none without.",
    ]


def _coordinates(frame: Frame) -> str:
    if frame.kind == "resized":
        size = f"each side a multiple of {frame.factor}, the area from {frame.min_pixels:,} to {frame.max_pixels:,} pixels"
        return f"pixels of the picture as the processor resizes it ({size})"
    return {
        "pixels": "pixels of the picture",
        "norm1": "shares of width and height, from 0 to 1",
        "norm1000": "thousandths of width and height, from 0 to 1000",
        "undeclared": "in no declared frame",
    }[frame.kind]


def _start(config: Config) -> str:
    name = f"a tiny {config.policy.tiny.family} with random weights" if config.policy.model == "tiny" else f"`{config.policy.model}`"
    return f"{name}, warmed up by {config.warmup.steps} supervised steps," if config.warmup.steps else name


def _method(config: Config) -> dict[str, Any]:
    trained = [f"{part} {getattr(config.policy, part)}" for part in ("language", "projector", "vision")]
    return {
        "parts": ", ".join(trained),
        "groups per step x answers": f"{config.rollout.groups_per_step} x {config.rollout.group_size}",
        "temperature": config.rollout.temperature,
        "learning rate": f"{config.optimizer.lr:g} ({config.optimizer.schedule})",
        "prompt style": f"`{_short(config.prompt)}`",
        "seed": config.seed,
    }


def _results(run: Path) -> list[str]:
    """A row per evaluation that has been made so far."""
    moments = {"before": 0, "after": 2}  # a number of steps stands between them
    files = sorted((run / "evaluation").glob("*.jsonl"), key=lambda path: (moments.get(path.stem.rpartition("-")[2], 1), path.stem))
    rows = [
        f"| {path.stem} | {tag} | {len(records)} | {100 * fmean(record.greedy for record in records):.1f} % |"
        for path in files
        for tag, records in eval_records.by_tag(eval_records.load(path)).items()
    ]
    return ["| evaluation | task | questions | accuracy |", "| --- | --- | --- | --- |", *rows] if rows else ["Not evaluated."]


def _short(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).strip().removesuffix("...").strip()
