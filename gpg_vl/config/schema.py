"""Every knob of the toolkit on one page.

A YAML file states only what differs from these defaults; `key=value` on the command line states more; an unknown key is refused with its
nearest match. Parts with a `kind` (estimator, verifiers, prompt, engine) have their knobs where they are written: the keys beside `kind`
are the fields of that class.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gpg_vl.types import Mode

Part = str | dict[str, Any]
"""A part by name, or a mapping with `kind: NAME` and its fields."""
Training = Literal["frozen", "full"]


class Section(BaseModel):
    """A group of knobs."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Source(Section):
    """Where rows come from: exactly one of recipe, files, hub."""

    recipe: str | None = None
    """A shipped recipe by name, or `my_lab.data:scenes`, `./scenes.py:scenes`: a function that yields samples."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The recipe's arguments."""
    files: str | None = None
    """A .jsonl or .parquet file of rows; image paths are looked for beside it."""
    hub: str | None = None
    """A data set on the Hugging Face hub, or a local folder that `datasets.load_dataset` reads."""
    split: str = "train"
    """Which split of `hub`."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column -> theirs, for rows that use other names: {question: problem, answer: solution}."""
    defaults: dict[str, Any] = Field(default_factory=dict)
    """Values for columns that the rows do not have, for instance {answer_kind: choice}."""
    head: int | None = Field(default=None, ge=1)
    """Use only the first so many rows."""
    weight: int = Field(default=1, ge=1)
    """How many of every sum(weights) draws come from this source."""

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        named = [key for key in ("recipe", "files", "hub") if getattr(self, key) is not None]
        if len(named) != 1:
            raise ValueError(f"a source needs exactly one of recipe, files, hub; got {', '.join(named) or 'none'}")
        return self


class Tiny(Section):
    """The tiny model built on the spot when `policy.model` is tiny: real architecture, random weights, its own tokenizer."""

    family: Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl"] = "qwen2_5_vl"
    """Architecture."""
    hidden: int = Field(default=128, ge=32, multiple_of=32)
    """Width of the language model."""
    layers: int = Field(default=4, ge=1)
    """Layers of the language model."""
    vision_hidden: int = Field(default=64, ge=16, multiple_of=16)
    """Width of the vision tower."""
    vision_layers: int = Field(default=2, ge=1)
    """Layers of the vision tower."""


class PolicyConfig(Section):
    """The model that is trained."""

    model: str = "tiny"
    """tiny, a folder, or a hub id of a checkpoint: Qwen2-VL, Qwen2.5-VL, Qwen3-VL, InternVL, SmolVLM, Idefics3, LLaVA, Gemma 3."""
    tiny: Tiny = Tiny()
    """Shape of the tiny model; ignored for any other."""
    language: Training = "full"
    """Language model: frozen | full."""
    projector: Training = "full"
    """The merger between tower and language model: frozen | full."""
    vision: Training = "frozen"
    """Vision tower: frozen | full."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """What the forward computes in; trained weights are kept in float32 (float64 for float64)."""
    frame: Literal["auto", "pixels", "norm1", "norm1000", "resized"] = "auto"
    """Coordinate frame of the boxes that the model writes; auto = what its family was taught."""
    min_pixels: int | None = Field(default=None, ge=1)
    """Smallest image area the processor makes; empty = the checkpoint's own."""
    max_pixels: int | None = Field(default=None, ge=1)
    """Largest image area the processor makes; empty = the checkpoint's own."""
    image_backend: Literal["auto", "pil", "torchvision"] = "auto"
    """Who resizes images; auto = torchvision where it works, else Pillow. Never mix the two within one experiment."""
    feature_cache_mb: int = Field(default=512, ge=0)
    """Memory for vision features across steps, in MiB; used where vision and projector are both frozen."""
    feature_folder: str | None = None
    """Where such features are kept between runs; empty = nowhere."""


class RewardConfig(Section):
    """How accuracy and format become one reward."""

    mode: Mode = "strict"
    """How answers are read. strict: the style's grammar | lenient: foreign answers | reference: the authors' rule, with its holes."""
    combine: Literal["gate", "sum"] = "gate"
    """gate: accuracy counts only in a well-formed answer | sum: accuracy and format add up (the papers)."""
    accuracy: float = Field(default=1.0, ge=0)
    """Weight of the accuracy."""
    format: float = Field(default=0.0, ge=0)
    """Weight of being well-formed."""
    truncated: Literal["zero", "score", "drop"] = "zero"
    """A completion that ran into max_tokens earns 0 | its accuracy without its format | nothing at all (left out, NaN)."""


class GateConfig(Section):
    """The vision gate: does the engine see and score what the trainer does? It stops a run whose engine does not."""

    every: int = Field(default=20, ge=0)
    """Steps between two looks, the first of which is before the first step; 0 = never."""
    prompts: int = Field(default=4, ge=1)
    """Questions of the training data that are asked, always the same ones; up to four times as many where their answers are all alike."""
    mean: float | None = Field(default=None, gt=0)
    """Largest mean gap of a token's log-probability in nats; empty = 2.95 times what rounding gives, or more where few tokens carry it."""
    worst: float | None = Field(default=None, gt=0)
    """Largest gap of any token; empty = 8 times the largest that rounding gives, or more likewise."""


class RolloutConfig(Section):
    """Sampling."""

    engine: Part = "transformers"
    """Who samples: transformers (in this process, no copy of the weights) | vllm (in this process) | server (vLLM servers)."""
    gate: GateConfig = GateConfig()
    groups_per_step: int = Field(default=16, ge=1)
    """Groups in one optimizer step, over all ranks."""
    group_size: int = Field(default=8, ge=2)
    """Completions per prompt (G)."""
    max_tokens: int = Field(default=256, ge=1)
    """Longest completion, the end id included."""
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling and of scoring alike; there is no top-k and no top-p."""
    max_rounds: int = Field(default=20, ge=1)
    """At most so many rounds of drawing for one step."""
    carry_over: Literal[0, 1] = 0
    """1 = surplus informative groups are used in the next step, with a truncated per-token ratio."""
    max_lost: float = Field(default=0.05, ge=0, le=1)
    """Stop when more than this share of all drawn samples could not be asked (image gone, prompt longer than the window)."""
    max_faults: float = Field(default=0.2, ge=0, le=1)
    """Stop when a verifier fails on more than this share of a step's answers."""
    idle_steps: int = Field(default=5, ge=1)
    """Stop after so many steps in a row without any informative group."""


class OptimizerConfig(Section):
    """AdamW, its schedule and clipping."""

    lr: float = Field(default=1e-6, gt=0)
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the two moments."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled."""
    warmup_steps: int = Field(default=10, ge=0)
    """Steps of linear rise."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What follows the rise."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Largest gradient norm, after alpha."""


class LearnerConfig(Section):
    """The update."""

    updates_per_rollout: int = Field(default=1, ge=1)
    """Optimizer steps on the same groups; more than one needs an estimator with a ratio."""
    tokens_per_microbatch: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Budget of prompt and completion tokens that go through the model at once; auto = the most that fits the GPU, 16384 on a CPU."""
    shared_prefix: bool = True
    """Compute image and prompt once per group; false = every completion is a row of its own (slower, the same numbers)."""
    checkpointing: Literal["auto"] | bool = "auto"
    """Keep only each layer's input and run layers again in the backward: less memory, a third more time; auto = where a group needs it."""
    max_bad_steps: int = Field(default=3, ge=1)
    """Stop after so many non-finite losses or gradients in a row."""

    @property
    def is_settled(self) -> bool:
        """Whether no `auto` is left."""
        return "auto" not in (self.tokens_per_microbatch, self.checkpointing)


class WarmupConfig(Section):
    """Supervised warm-up: imitate solutions until the model speaks the answer format. Kept, so it runs once."""

    steps: int = Field(default=0, ge=0)
    """0 = none."""
    batch_size: int = Field(default=48, ge=1)
    """Samples per step."""
    data: tuple[Source, ...] = ()
    """Empty = the training data."""
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3, warmup_steps=30)
    """Its own schedule."""


class EvaluationConfig(Section):
    """Looking at held-out questions while training."""

    benchmark: str | None = None
    """A benchmark by name or file; empty = no evaluation."""
    every: int = Field(default=0, ge=0)
    """Steps between evaluations; 0 = only before the first step and after the last."""
    head: int | None = Field(default=None, ge=1)
    """During training only so many questions of each task; before and after all of them."""


class CheckpointConfig(Section):
    """What is kept."""

    every: int = Field(default=50, ge=1)
    """Steps between checkpoints; the last step always has one."""
    keep_last: int = Field(default=2, ge=1)
    """Newest so many are kept."""
    keep_best: int = Field(default=1, ge=0)
    """So many of the best by evaluation are kept too."""


class HardwareConfig(Section):
    """What a run has to fit on. Empty = the GPU of the machine; without one nothing is judged."""

    gpus: int = Field(default=1, ge=1)
    """GPUs, each with the whole model on it; a run on several is started with `accelerate launch`."""
    gb: float | None = Field(default=None, gt=0)
    """Memory of one GPU in GB (10^9 bytes, as on its box: 24, 80, 141); empty = what the machine has."""


class Config(Section):
    """An experiment."""

    name: str = Field(default="run", coerce_numbers_to_str=True)
    """Names the run folder."""
    folder: str = Field(default="runs", coerce_numbers_to_str=True)
    """Where run folders are made."""
    seed: int = 0
    """Of everything: the tiny model, the order of the data, every sampled token."""
    steps: int = Field(default=100, ge=0)
    """Optimizer steps, skipped ones included."""
    data: tuple[Source, ...] = Field(min_length=1)
    """What is asked; several sources are mixed by weight."""
    prompt: Part = "think"
    """How a question is asked and what an answer must look like."""
    policy: PolicyConfig = PolicyConfig()
    rollout: RolloutConfig = RolloutConfig()
    verifiers: dict[str, Part] = Field(default_factory=dict)
    """answer_kind -> who scores it; a kind that is not named here is scored by the verifier of its own name."""
    reward: RewardConfig = RewardConfig()
    estimator: Part = "gpg"
    """The method."""
    optimizer: OptimizerConfig = OptimizerConfig()
    learner: LearnerConfig = LearnerConfig()
    trackers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    """Who is told the metrics of each step, beside metrics.jsonl."""
    warmup: WarmupConfig = WarmupConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    hardware: HardwareConfig = HardwareConfig()

    @property
    def run_folder(self) -> Path:
        """Where this run writes."""
        return Path(self.folder) / self.name


class BenchmarkSpec(Section):
    """A benchmark (a file of `evaluation/`): questions, how they are asked, how often."""

    name: str
    """Shown in tables and file names."""
    data: tuple[Source, ...] = Field(min_length=1)
    """The held-out questions."""
    prompt: Part | None = None
    """Empty = as in the run's config."""
    verifiers: dict[str, Part] = Field(default_factory=dict)
    """As in a config."""
    mode: Mode = "strict"
    """As reward.mode in a config: strict | lenient: foreign answers, format not required | reference: the authors' own rule."""
    frame: str = "pixels"
    """Of the boxes in recorded answers: pixels, norm1, norm1000, resized, or a family (qwen2_vl, qwen2_5_vl, qwen3_vl, internvl). With a
    model: the model's own."""
    beside: Mode | None = None
    """A second way to read the same answers, shown beside the first: the published figure where it follows another rule."""
    average_precision: Literal["coco", "lvis"] | None = None
    """Also the average precision of all boxes: COCO's, or LVIS' with its federated rules. For questions that name their truth_file."""
    group_by: str = "task"
    """The tag that rows of the table stand for."""
    totals: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Name -> tags over whose values the mean is taken in turn: {all: [], CV-Bench: [type, source]}. [] = the mean over all questions."""
    samples: int = Field(default=4, ge=0)
    """Sampled answers per question, beside the greedy one; 0 = greedy only."""
    max_tokens: int = Field(default=256, ge=1)
    """Longest answer."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the sampled answers."""


def knobs(kind: type[Section], prefix: str = "", given: Section | None = None) -> Iterator[tuple[str, str, str]]:
    """Every knob as (key, default, sentence), sections flattened; the rows of `--help`.

    Args:
        given: whose values are the defaults, where the section around it states others than its kind does.
    """
    for name, field in kind.model_fields.items():
        section, value = field.annotation, getattr(given, name) if given is not None else field.get_default(call_default_factory=True)
        if isinstance(section, type) and issubclass(section, Section):
            yield from knobs(section, f"{prefix}{name}.", value if isinstance(value, Section) else None)
        else:
            yield prefix + name, "required" if field.is_required() else _shown(value), field.description or ""


def _shown(value: Any) -> str:
    if isinstance(value, Section):
        return ", ".join(f"{key}={_shown(inner)}" for key, inner in value if inner != type(value).model_fields[key].default)
    return "" if value in (None, (), {}) else str(value)
