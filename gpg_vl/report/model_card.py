"""Write the model card (README.md) of a checkpoint: training, data, accuracy and how to use it."""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from gpg_vl import __version__
from gpg_vl.boxes import Frame
from gpg_vl.config.schema import Config, OptimizerConfig, PolicyConfig
from gpg_vl.evaluation import records as eval_records
from gpg_vl.policy.adapter_files import OWN_BASE
from gpg_vl.prompts import Style
from gpg_vl.types import Sample

HEAD: dict[str, Any] = {
    "library_name": "transformers",
    "pipeline_tag": "image-text-to-text",
    "tags": ["gpg_vl", "reinforcement-learning"],
}
_LORA = "lora"
"""Tag of an adapter."""
NEUTRAL_QUESTION = "Your question about the picture"
"""Question of the program where the training data have none that can stand there."""
MOST_CHARACTERS = 200
"""Longest question of the data that stands in the program."""
_UNCLEAR = re.compile(r"[\n\r\"\\`{}<>]")
"""Signs that JSON or Markdown writes otherwise, and those of marks."""
_LOADING = "model = AutoModelForImageTextToText.from_pretrained(folder)"
"""Lines of the program that load a whole model."""
_PEFT = "from peft import PeftModel\n"
"""First line of the program that loads an adapter."""
_ADAPTER_LOADING = """\
base = AutoModelForImageTextToText.from_pretrained({base})
model = PeftModel.from_pretrained(base, folder)"""
"""Lines of the program that load a base model and its adapter."""
_NF4_IMPORT = "from transformers import BitsAndBytesConfig\n"
"""Line of the program that loads an adapter on a base model in 4 bits."""
_NF4_LOADING = """\
in_4_bits = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype="{dtype}",
    llm_int8_skip_modules={plain},
)
base = AutoModelForImageTextToText.from_pretrained(
    {base}, quantization_config=in_4_bits, dtype="{dtype}"
)
model = PeftModel.from_pretrained(base, folder)"""
"""Lines of the program that load a base model in 4 bits, as in training, and its adapter."""
_NF4_NOTE = (
    "The adapter was trained on its base model in 4 bits (NF4), and the program loads it so, which "
    "needs bitsandbytes. `gpg-vl export RUN --merged` writes the two as one plain model."
)
SNIPPET = """\
{peft}from PIL import Image, ImageOps
from transformers import AutoModelForImageTextToText, AutoProcessor
{nf4}
folder = "."  # the folder of this file, or the name of the model on a hub
{loading}
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """Facts of a checkpoint that is a LoRA adapter."""

    base: str
    """Name of its base model: a hub id, an absolute path, or tiny."""
    rank: int
    """Rank of its matrices."""
    alpha: float
    """Scale: they count alpha / rank times."""
    targets: tuple[str, ...]
    """Last words of the names of the matrices that are adapted, sorted."""
    plain: tuple[str, ...] = ()
    """Modules of its base model that are not in 4 bits where others are."""


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
    adapter: Adapter | None = None,
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
        adapter: what the checkpoint is; None = a whole model.
    """
    method = [f"| {name} | {value} |" for name, value in _method(config, adapter).items()]
    data = [f"- `{_short(source.model_dump(exclude_defaults=True))}`" for source in config.data]
    lines = [
        "---",
        _metadata(_head(config, adapter)),
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
        *_use(style, frame, config.rollout.max_tokens, opened, question, _loading(config, adapter)),
        "",
    ]
    return "\n".join(lines)


def _head(config: Config, adapter: Adapter | None) -> dict[str, Any]:
    """Return the metadata of a card."""
    head = dict(HEAD)
    if adapter is not None:
        head |= {"library_name": "peft", "tags": [*HEAD["tags"], _LORA]}
    name = config.policy.model if adapter is None else adapter.base
    if name != "tiny" and not Path(name).is_absolute():  # a folder is one of this machine
        head["base_model"] = name
    return head


def exported_card(card: str, form: str, *, merged: bool) -> str:
    """Return the card of a checkpoint in the form that it was exported in.

    Args:
        form: words on what the folder holds.
        merged: True if an adapter was merged, so that the program loads one model.
    """
    note = f"Exported by gpg_vl {__version__} as {form}."
    metadata, head, text = _metadata_and_text(card)
    if merged:
        if metadata:
            head = f"---\n{_metadata(_of_whole_model(metadata))}\n---\n"
        text = _with_whole_model(text)
    title, found, rest = text.partition("\n\n")
    title, rest = (title, rest) if found and title.lstrip().startswith("#") else ("", text)
    return f"{head}{title}\n\n{note}\n\n{rest.lstrip()}"


def _metadata_and_text(card: str) -> tuple[dict[str, Any], str, str]:
    """Split a card, which may be anybody's, behind its metadata between two marks `---`.

    Returns:
        The metadata, their lines with the marks (both empty if there is no mapping in YAML), and
        the rest.
    """
    found = re.match(r"---\n(.*?\n)---(\n|$)", card, re.DOTALL)
    if found is None:
        return {}, "", card
    metadata: Any = None
    with suppress(yaml.YAMLError, ValueError):  # the latter for a date that is none
        metadata = yaml.safe_load(found[1])
    if not isinstance(metadata, dict):
        return {}, "", card
    return metadata, found[0], card[found.end() :]


def _with_whole_model(text: str) -> str:
    """Return the text of an adapter's card with a program that loads a whole model."""
    for loading in (_ADAPTER_LOADING, _NF4_LOADING):
        pattern = re.sub(r"\\\{\w+\\\}", ".*", re.escape(loading))
        text = re.sub(pattern, _LOADING, text)
    return text.replace(_PEFT, "").replace(_NF4_IMPORT, "").replace(f"{_NF4_NOTE}\n\n", "")


def _of_whole_model(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of an adapter as those of a whole model."""
    whole = {**metadata, "library_name": "transformers"}
    if isinstance(metadata.get("tags"), list):
        whole["tags"] = [tag for tag in metadata["tags"] if tag != _LORA]
    return whole


def _metadata(head: dict[str, Any]) -> str:
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip()


def _loading(config: Config, adapter: Adapter | None) -> str:
    """Return the lines of the program that load the model."""
    if adapter is None:
        return _LOADING
    base = json.dumps(adapter.base)
    if adapter.base == "tiny":
        base = f'folder + "/{OWN_BASE}"'
    if config.policy.quantise == "none":
        return _ADAPTER_LOADING.format(base=base)
    plain = json.dumps(adapter.plain)
    return _NF4_LOADING.format(base=base, plain=plain, dtype=config.policy.dtype)


def _use(
    style: Style, frame: Frame, max_tokens: int, opened: bool, question: str, loading: str
) -> list[str]:
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
    is_in_4_bits = "BitsAndBytesConfig" in loading
    return [
        (
            "It was trained on chats like the one below; another wording is another task. An "
            f"answer looks like `{style.write('4', '...')}`."
        ),
        f"Coordinates of boxes are {_coordinates(frame)}.",
        "",
        "```python",
        SNIPPET.format(
            peft=_PEFT if "PeftModel" in loading else "",
            nf4=_NF4_IMPORT if is_in_4_bits else "",
            messages=messages,
            opening=opening,
            max_tokens=max_tokens,
            loading=loading,
        ),
        "```",
        "",
        *([_NF4_NOTE, ""] if is_in_4_bits else []),
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


def _method(config: Config, adapter: Adapter | None) -> dict[str, Any]:
    """Return the rows of the table of hyperparameters."""
    policy, rollout, optimizer = config.policy, config.rollout, config.optimizer
    lora: dict[str, Any] = {}
    if adapter is not None:
        targets = ", ".join(adapter.targets)
        lora["LoRA"] = f"rank {adapter.rank}, alpha {adapter.alpha:g}, on {targets}"
        if policy.lora.dropout:
            lora["LoRA"] += f", dropout {policy.lora.dropout:g}"
        if policy.quantise != "none":
            lora["base model in training"] = policy.quantise
    return {
        "parts": (
            f"language {policy.language}, projector {policy.projector}, vision {policy.vision}"
        ),
        **lora,
        "data types": f"forward {policy.dtype}, trained {_trained_types(policy, adapter)}",
        "groups per step x answers": f"{rollout.groups_per_step} x {rollout.group_size}",
        "temperature": rollout.temperature,
        "optimizer": optimizer.kind,
        "learning rate": f"{optimizer.lr:g} ({optimizer.schedule}){_other_rates(optimizer)}",
        "prompt style": f"`{_short(config.prompt)}`",
        "seed": config.seed,
    }


def _trained_types(policy: PolicyConfig, adapter: Adapter | None) -> str:
    """Return the data types in which the trained weights are held."""
    wide = "float64" if policy.dtype == "float64" else "float32"
    whole = "bfloat16" if policy.weights == "bfloat16" else wide
    if adapter is None:
        return f"weights {whole}"
    types = f"adapter {wide}"
    for part in ("projector", "vision"):
        if getattr(policy, part) == "full":
            types += f", {part} {whole}"
    return types


def _other_rates(optimizer: OptimizerConfig) -> str:
    """Return the learning rates of parts that have their own."""
    rates = ""
    for part in ("language", "projector", "vision"):
        rate = getattr(optimizer, part).lr
        if rate is not None:
            rates += f", {part} {rate:g}"
    return rates


def _results(run: Path) -> list[str]:
    """Return a table with a row for each task of each evaluation so far."""
    # evaluations during training, named by step, are 1
    moments = {"before": 0, "after": 2, "blank": 3}
    files = sorted(
        eval_records.files_in(run / "evaluation"),
        key=lambda path: (moments.get(path.stem.rpartition("-")[2], 1), path.stem),
    )
    rows: list[str] = []
    for path in files:
        for tag, records in eval_records.by_tag(eval_records.load(path)).items():
            accuracy = f"{100 * fmean(record.greedy for record in records):.1f} %"
            name = path.stem + (" (grey pictures)" if path.stem.endswith("-blank") else "")
            rows.append(f"| {name} | {tag} | {len(records)} | {accuracy} |")
    if not rows:
        return ["Not evaluated."]
    return ["| evaluation | task | questions | accuracy |", "| --- | --- | --- | --- |", *rows]


def _short(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    # YAML ends a document that is a single word with a line "..."
    return text.strip().removesuffix("...").strip()
