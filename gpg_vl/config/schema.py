"""Define every config key of the toolkit, with its default, on one page.

A YAML file sets only what differs from these defaults, and `key=value` on the command line
overrides it. An unknown key is an error that names the nearest known key. The keys of a part with
a `kind` (estimator, verifiers, prompt, engine) are the fields of the class of that name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from gpg_vl.config.paths import expanded
from gpg_vl.errors import shown
from gpg_vl.types import Mode

Part = str | dict[str, Any]
"""A part by name, or a mapping with `kind: NAME` and its fields."""
Training = Literal["frozen", "full", "lora"]
Decay = Annotated[float, Field(ge=0, lt=1)]
"""Decay rate of an estimate."""
LONGEST_NAME = 200
"""Bytes of the name of a run folder: file systems take 255."""
SHARED_FOLDERS = ("warmups", "served")
"""Folders beside the runs: warmed-up policies, tiny models that are served."""
TrackerName = Literal[
    "tensorboard",
    "trackio",
    "wandb",
    "comet_ml",
    "aim",
    "mlflow",
    "clearml",
    "dvclive",
    "swanlab",
]


class Section(BaseModel):
    """A group of config keys."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Located(Section):
    """Settings that know the folder of the file they were read from.

    Relative files and plug-ins named in the settings are looked for there. The folder is not a
    config key: `model_dump` does not contain it, and a YAML file cannot set it.
    """

    _base_dir: Path = PrivateAttr(default=Path())

    @property
    def base_dir(self) -> Path:
        """Folder of the file that the settings were read from; the working directory by default."""
        return self._base_dir

    def at(self, base_dir: Path) -> Self:
        """Return a copy whose relative files and plug-ins are looked for in `base_dir`."""
        located = self.model_copy()
        located._base_dir = base_dir
        return located


class Source(Section):
    """A source of rows: exactly one of recipe, files, hub."""

    recipe: str | None = None
    """A function that yields samples: a shipped recipe by name, or `my_lab.data:scenes`, or
    `./scenes.py:scenes`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The recipe's arguments."""
    files: str | tuple[str, ...] | None = None
    """Rows (.jsonl, .json, .parquet, .arrow, .csv, .tsv, also .gz and .zst): a file, a folder, a
    pattern such as data/train-*.parquet, or a list of them."""
    hub: str | None = None
    """A data set on the Hugging Face hub, or a local folder in its format: `load_dataset`,
    `save_to_disk` or a folder of images."""
    subset: str | None = None
    """Config of `hub`, where the data set has several."""
    split: str = "train"
    """Split of `hub`."""
    columns: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    """Our column -> column of the source: {question: problem, answer: reward_model.ground_truth}.
    Dots lead into a column's own fields; options in columns of their own are a list:
    {choices: [A, B, C, D]}, and so are the edges of a box."""
    defaults: dict[str, Any] = Field(default_factory=dict)
    """Values of columns that the rows do not have, for example {answer_kind: choice}."""
    image_root: str | None = None
    """Folder that image paths start at, and may not leave but by links; empty = the folder of the
    file, and no link leads out."""
    image_hosts: tuple[str, ...] = ()
    """Hosts that images may be downloaded from, where a row has an address instead of a path:
    example.org | .example.org = its subdomains | 127.0.0.1:8000 = a server on this machine."""
    answer_index: Literal[0, 1] | None = None
    """Number of the first option, where the truth of a choice is the number of the right option;
    empty = truths are letters or words."""
    box_format: Literal["xyxy", "xywh", "cxcywh", "polygon"] = "xyxy"
    """Numbers of a true box. xyxy: two corners | xywh: corner, width, height (COCO) | cxcywh:
    middle, width, height (YOLO) | polygon: points x, y, x, y...; its bounds are the box."""
    decimal: Literal[".", ","] = "."
    """Decimal sign of numbers in the answers; many countries write a comma in their .csv files."""
    head: int | None = Field(default=None, ge=1)
    """Number of rows to use, from the first; empty = all."""
    part: Literal["all", "train", "test"] = "all"
    """Rows that are used. all | test: a share of them | train: the others. A row is in its part by
    the name of its first picture (without pictures: by its question), whatever rows are beside it.
    """
    test_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the rows that part: test has."""
    weight: int = Field(default=1, ge=1)
    """Number of samples from this source among every sum(weights) samples."""

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        """Check that the rows have exactly one origin."""
        named = [key for key in ("recipe", "files", "hub") if getattr(self, key) is not None]
        if len(named) != 1:
            got = ", ".join(named) or "none"
            raise ValueError(f"a source needs exactly one of recipe, files, hub; got {got}")
        return self


class Tiny(Section):
    """Shape of the model that is built when `policy.model` is tiny.

    It has a real architecture, random weights and its own tokenizer.
    """

    family: Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl"] = "qwen2_5_vl"
    """Architecture."""
    hidden: int = Field(default=128, ge=32, multiple_of=32)
    """Hidden size of the language model."""
    layers: int = Field(default=4, ge=1)
    """Number of layers of the language model."""
    vision_hidden: int = Field(default=64, ge=16, multiple_of=16)
    """Hidden size of the vision tower."""
    vision_layers: int = Field(default=2, ge=1)
    """Number of layers of the vision tower."""


class LoraConfig(Section):
    """Low-rank adapters (LoRA, arXiv 2106.09685) of the parts that are set to lora.

    An adapter that a run begins with (policy.model) keeps its own rank, alpha and targets."""

    rank: int = Field(default=16, ge=1)
    """Rank of the matrices A and B of an adapter, whose product is added to a matrix."""
    alpha: float = Field(default=32.0, gt=0)
    """Scale of an adapter: A and B count alpha / rank times."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that are set to zero in the update; not in sampling or scoring,
    so ratios to the sampling policy and a divergence vary with it."""
    targets: tuple[str, ...] = ()
    """Names of the matrices that get an adapter, in all layers: [q_proj, v_proj]; empty = every
    matrix of the layers."""


class PolicyConfig(Section):
    """The model that is trained."""

    model: str = "tiny"
    """Checkpoint: tiny, a folder of a model or of a LoRA adapter, a run (its newest checkpoint),
    RUN/checkpoints/STEP, or a hub id: Qwen2-VL, Qwen2.5-VL, Qwen3-VL, InternVL, SmolVLM, Idefics3,
    LLaVA, Gemma 3."""
    tiny: Tiny = Tiny()
    """Shape of the tiny model; ignored for any other."""
    language: Training = "full"
    """Language model: frozen | full | lora: adapters on frozen weights."""
    projector: Training = "full"
    """The merger between tower and language model: frozen | full | lora."""
    vision: Training = "frozen"
    """Vision tower: frozen | full | lora."""
    lora: LoraConfig = LoraConfig()
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Data type of the forward pass, and of the weights that are not trained."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """Data type of parts set to full. float32 (float64 for dtype float64) | bfloat16: half the
    memory; updates are rounded up or down by chance, so that small ones count on average."""
    quantise: Literal["none", "nf4"] = "none"
    """Storage of the language model's frozen matrices. none: in dtype | nf4: 4 bits a number
    (QLoRA, arXiv 2305.14314), for parts set to lora."""
    frame: Literal["auto", "pixels", "norm1", "norm1000", "resized"] = "auto"
    """Coordinate frame of the boxes that the model writes; auto = the frame its family was trained
    with."""
    min_pixels: int | None = Field(default=None, ge=1)
    """Smallest area of a resized image, in pixels; empty = the checkpoint's own."""
    max_pixels: int | None = Field(default=None, ge=1)
    """Largest area of a resized image, in pixels; empty = the checkpoint's own."""
    image_backend: Literal["auto", "pil", "torchvision"] = "auto"
    """Library that resizes images; auto = torchvision where it works, else Pillow. Do not use both
    in one experiment: their pixels differ."""
    feature_cache_mb: int = Field(default=512, ge=0)
    """Memory in MiB for vision features that are reused across steps; used if vision and projector
    are both frozen."""
    feature_folder: str | None = None
    """Folder that stores such features between runs; empty = they are not stored."""

    @model_validator(mode="after")
    def _ordered_areas(self) -> PolicyConfig:
        """Check that the smallest area of an image is not above the largest."""
        smallest, largest = self.min_pixels, self.max_pixels
        if smallest is not None and largest is not None and smallest > largest:
            raise ValueError(f"got min_pixels {smallest} above max_pixels {largest}; exchange them")
        return self

    @property
    def trains_adapters(self) -> bool:
        """True if a part is trained by adapters."""
        return "lora" in (self.language, self.projector, self.vision)

    @model_validator(mode="after")
    def _storable(self) -> PolicyConfig:
        """Check that the parts can be trained, and saved, as they are to be stored."""
        if self.language == "full" and self.trains_adapters:
            raise ValueError(
                "got adapters beside language: full; a checkpoint would be an adapter and a whole "
                "language model: set language to lora, or the other parts to full"
            )
        if self.weights == "bfloat16" and self.dtype != "bfloat16":
            raise ValueError(
                f"got weights: bfloat16 with dtype: {self.dtype}, which has more digits than the "
                "weights; set dtype to bfloat16, or weights to float32"
            )
        parts = (self.language, self.projector, self.vision)
        if self.weights == "bfloat16" and "full" not in parts:
            raise ValueError(
                "got weights: bfloat16, and no part is full, so it is used for nothing (adapters "
                "are float32); set weights to float32, or a part to full"
            )
        if self.quantise == "none":
            return self
        if self.language == "full":
            raise ValueError(
                f"got quantise: {self.quantise} with language: full; quantised weights cannot be "
                "trained: set language to lora"
            )
        if not self.trains_adapters:
            raise ValueError(
                f"got quantise: {self.quantise} without adapters; a checkpoint would hold the "
                "quantised weights: set language to lora"
            )
        if self.dtype == "float64":
            raise ValueError(
                f"got quantise: {self.quantise} with dtype: float64; set dtype to float32 or "
                "bfloat16"
            )
        return self


class RewardConfig(Section):
    """Rule that combines accuracy and format into one reward."""

    mode: Mode = "strict"
    """Parsing of answers. strict: the grammar of the prompt style | lenient: also answers in other
    formats | reference: the published rule, with its weaknesses."""
    combine: Literal["gate", "sum"] = "gate"
    """gate: accuracy counts only in a well-formed answer | sum: accuracy and format add up (the
    papers)."""
    accuracy: float = Field(default=1.0, ge=0)
    """Weight of the accuracy."""
    format: float = Field(default=0.0, ge=0)
    """Weight of being well-formed."""
    truncated: Literal["zero", "score", "drop"] = "zero"
    """Reward of a completion that was cut at max_tokens. zero: 0 | score: its accuracy, without
    the format | drop: none (NaN; the completion is left out)."""


class GateConfig(Section):
    """Vision gate: stops a run whose engine computes other log-probabilities than the trainer.

    The two are compared on images of the training data.
    """

    every: int = Field(default=20, ge=0)
    """Steps between two checks; the first one is before the first step; 0 = no checks."""
    prompts: int = Field(default=4, ge=1)
    """Questions of the training data in a check, the same in every check; up to four times as many,
    and more answers to each, if too few tokens carry the rounding."""
    mean: float | None = Field(default=None, gt=0)
    """Largest mean difference of a token's log-probability, in nats; empty = 2.95 times the
    difference caused by rounding, or more if few tokens cause it."""
    worst: float | None = Field(default=None, gt=0)
    """Largest difference of any token, in nats; empty = 8 times the largest difference caused by
    rounding, or more in the same way."""


class RolloutConfig(Section):
    """Sampling."""

    engine: Part = "transformers"
    """Engine that samples: transformers (in this process, no copy of the weights) | vllm (in this
    process) | server (vLLM servers)."""
    gate: GateConfig = GateConfig()
    groups_per_step: int = Field(default=16, ge=1)
    """Number of groups in one optimizer step, over all ranks."""
    group_size: int = Field(default=8, ge=2)
    """Number of completions per prompt (G)."""
    max_tokens: int = Field(default=256, ge=1)
    """Largest length of a completion in tokens, including the end token."""
    temperature: float = Field(default=1.0, gt=0)
    """Temperature of sampling and of scoring; there is no top-k and no top-p."""
    max_rounds: int = Field(default=20, ge=1)
    """Largest number of sampling rounds for one step."""
    carry_over: Literal[0, 1] = 0
    """1 = surplus informative groups are used in the next step, with a truncated per-token
    ratio."""
    max_lost: float = Field(default=0.05, ge=0, le=1)
    """Largest share of unusable samples (image missing, prompt longer than the context window)
    among all drawn samples; above it the run stops. It is judged when 10 different rows are lost
    (all, of fewer rows), or at least 10 draws and more than half of them; 0 = none may be lost."""
    max_faults: float = Field(default=0.2, ge=0, le=1)
    """Largest share of a step's answers on which a verifier may fail; above it the run stops."""
    idle_steps: int = Field(default=5, ge=1)
    """Number of consecutive steps without an informative group after which the run stops."""


class PartOptimizerConfig(Section):
    """Knobs of the optimizer that a part of the model has for itself."""

    lr: float | None = Field(default=None, gt=0)
    """Peak learning rate; empty = that of the optimizer."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Decoupled weight decay; empty = that of the optimizer."""


class OptimizerConfig(Section):
    """AdamW, its schedule and clipping."""

    kind: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw: two moments in float32 | adamw8bit: in 8 bits, for a quarter of their memory."""
    lr: float = Field(default=1e-6, gt=0)
    """Peak learning rate. Adapters (lora) need more, ten times and above."""
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    """Decay rates of the two moment estimates."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of matrices; norms and biases have none."""
    language: PartOptimizerConfig = PartOptimizerConfig()
    projector: PartOptimizerConfig = PartOptimizerConfig()
    vision: PartOptimizerConfig = PartOptimizerConfig()
    warmup_steps: int = Field(default=10, ge=0)
    """Number of steps in which the learning rate rises linearly."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after the rise."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient, after the factor alpha."""


class LearnerConfig(Section):
    """Update of the weights."""

    updates_per_rollout: int = Field(default=1, ge=1)
    """Number of optimizer steps on the same groups; more than one needs an estimator with a
    ratio."""
    tokens_per_microbatch: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Largest number of prompt and completion tokens in one forward pass; auto = the most that fits
    the GPU, 16384 on a CPU."""
    shared_prefix: bool = True
    """Image and prompt are computed once per group; false = once per completion (slower, the same
    numbers)."""
    checkpointing: Literal["auto"] | bool = "auto"
    """Gradient checkpointing: layers run again in the backward pass; less memory, a third more
    time; auto = if a group needs it."""
    rehearse: Literal["auto"] | bool = "auto"
    """Micro-batch of the longest of the first prompts (at most 32 a process), with answers of
    rollout.max_tokens, is computed once before step 1, so that a run that does not fit ends then;
    auto = on a GPU."""
    max_bad_steps: int = Field(default=3, ge=1)
    """Number of consecutive non-finite losses or gradients after which the run stops."""

    @property
    def is_settled(self) -> bool:
        """True if no value is `auto`."""
        return "auto" not in (self.tokens_per_microbatch, self.checkpointing)


class WarmupOptimizerConfig(OptimizerConfig):
    """AdamW of the warm-up."""

    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    warmup_steps: int = Field(default=30, ge=0)
    """Number of steps in which the learning rate rises linearly."""


class WarmupConfig(Section):
    """Supervised fine-tuning before RL, so that the model learns the answer format.

    Its result is cached on disk and reused.
    """

    steps: int = Field(default=0, ge=0)
    """Number of steps; 0 = no warm-up."""
    batch_size: int = Field(default=48, ge=1)
    """Number of samples per step."""
    data: tuple[Source, ...] = ()
    """Sources of the samples; empty = the training data."""
    optimizer: WarmupOptimizerConfig = WarmupOptimizerConfig()
    """Optimizer of the warm-up."""


class EvaluationConfig(Section):
    """Evaluation on held-out questions during training."""

    benchmark: str | None = None
    """A benchmark by name or file; empty = no evaluation."""
    every: int = Field(default=0, ge=0)
    """Steps between evaluations; 0 = only before the first step and after the last."""
    head: int | None = Field(default=None, ge=1)
    """Number of questions of each task in evaluations between the steps; those before the first
    step and after the last ask all."""
    blank: bool = True
    """After the last step the questions are also asked with grey pictures, greedily: what is left
    is guessing."""


class CheckpointConfig(Section):
    """Checkpoints that are written and kept."""

    every: int = Field(default=50, ge=1)
    """Steps between checkpoints; there is always one of the last step."""
    keep_last: int = Field(default=2, ge=1)
    """Number of newest checkpoints that are kept."""
    keep_best: int = Field(default=1, ge=0)
    """Number of checkpoints with the best evaluation that are kept too."""


class RunFolderConfig(Section):
    """Contents of the run folder that take much room."""

    pictures: Literal["all", "informative", "sample"] = "sample"
    """Groups whose pictures are kept beside their answers. all: every group | informative: those
    whose rewards differ | sample: the first two of each step."""
    pictures_mb: int = Field(default=1000, ge=0)
    """Largest size of all kept pictures of a run, in MB; further ones are not kept."""


class ReportConfig(Section):
    """The page of a run, `report.html` in the run folder."""

    every: int = Field(default=50, ge=0)
    """Steps after which `report.html` in the run folder is written again; 0 = only after the last
    step."""


class TrackingConfig(Section):
    """Names under which trackers list the run."""

    project: str = Field(default="gpg_vl", coerce_numbers_to_str=True)
    """Project, or experiment, that the run belongs to."""
    entity: str | None = None
    """User or team that owns the project; empty = the tracker's default."""
    tags: tuple[str, ...] = ()
    """Tags of the run."""


class HardwareConfig(Section):
    """Hardware that a run has to fit on.

    Empty = the GPU of the machine; without a GPU nothing is checked.
    """

    gpus: int = Field(default=1, ge=1)
    """Number of GPUs, each with the whole model; a run on several is started with `accelerate
    launch`."""
    gb: float | None = Field(default=None, gt=0)
    """Memory of one GPU in GB (10^9 bytes, the advertised size: 24, 80, 141); empty = that of this
    machine's GPU."""


class Config(Located):
    """An experiment."""

    name: str = Field(default="run", coerce_numbers_to_str=True)
    """Name of the run folder; with a slash, of a folder in a folder: sweep/lr1."""
    folder: str = Field(default="runs", coerce_numbers_to_str=True)
    """Folder in which run folders are created, from the working directory, with ~ for home."""
    seed: int = 0
    """Seed of all randomness: the tiny model, the order of the data, every sampled token."""
    steps: int = Field(default=100, ge=0)
    """Number of optimizer steps, including skipped ones."""
    data: tuple[Source, ...] = Field(min_length=1)
    """Training questions; several sources are mixed by weight."""
    prompt: Part = "think"
    """Prompt style: the form of a question and the required form of an answer."""
    policy: PolicyConfig = PolicyConfig()
    rollout: RolloutConfig = RolloutConfig()
    verifiers: dict[str, Part] = Field(default_factory=dict)
    """answer_kind -> verifier that scores it; a kind that is not listed here is scored by the
    verifier of the same name."""
    reward: RewardConfig = RewardConfig()
    estimator: Part = "gpg"
    """Policy-gradient method."""
    optimizer: OptimizerConfig = OptimizerConfig()
    learner: LearnerConfig = LearnerConfig()
    trackers: tuple[TrackerName, ...] = ()
    """Experiment trackers that receive the metrics of each step, beside metrics.jsonl."""
    trackers_pictures: bool = False
    """Pictures of training questions are sent to the trackers too, within the table of answers and
    the page; false = they stay on this machine."""
    tracking: TrackingConfig = TrackingConfig()
    warmup: WarmupConfig = WarmupConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    run_folder: RunFolderConfig = RunFolderConfig()
    report: ReportConfig = ReportConfig()
    hardware: HardwareConfig = HardwareConfig()

    @property
    def run_path(self) -> Path:
        """Folder that this run writes into."""
        return self.runs_path / self.name

    @property
    def runs_path(self) -> Path:
        """Folder of the run folders, and of what they share."""
        return expanded(self.folder)

    @model_validator(mode="after")
    def _used_optimizers(self) -> Config:
        """Check that optimizers know the data type, and that parts with own knobs are trained."""
        sections = {"optimizer": self.optimizer, "warmup.optimizer": self.warmup.optimizer}
        for key, optimizer in sections.items():
            if optimizer.kind == "adamw8bit" and self.policy.dtype == "float64":
                raise ValueError(
                    f"{key}.kind: got adamw8bit with policy.dtype: float64, which its kernels do "
                    "not know; set it to adamw, or the dtype to float32"
                )
            for part in ("language", "projector", "vision"):
                is_frozen = getattr(self.policy, part) == "frozen"
                if is_frozen and getattr(optimizer, part) != PartOptimizerConfig():
                    raise ValueError(
                        f"{key}.{part}: got values of its own with policy.{part}: frozen, which "
                        f"nothing uses; set policy.{part} to full or lora, or leave them out"
                    )
        return self

    @field_validator("name")
    @classmethod
    def _usable_name(cls, name: str) -> str:
        """Check that a name leads to a folder below `folder`, and that it can be typed again."""
        for part in name.split("/"):
            if not part or part in (".", ".."):
                raise ValueError(
                    f"got {shown(name)}, expected the name of a folder, or several with a slash "
                    "between them; another place is set by folder="
                )
            if not part.isprintable() or part != part.strip() or part[0] in "-~":
                raise ValueError(
                    f"got {shown(name)}, expected names without control characters, blanks at an "
                    "end, and - or ~ at the beginning: it will be part of commands"
                )
            if len(part.encode()) > LONGEST_NAME:
                raise ValueError(
                    f"got a name of {len(part.encode())} bytes, expected at most {LONGEST_NAME}"
                )
        if name.split("/")[0] in SHARED_FOLDERS:
            raise ValueError(
                f"got {shown(name)}, a folder that all runs of `folder` share; choose another"
            )
        return name


class BenchmarkSpec(Located):
    """A benchmark (a file of `evaluation/`): questions, prompt and number of answers."""

    name: str
    """Name in tables and file names."""
    data: tuple[Source, ...] = Field(min_length=1)
    """Held-out questions."""
    prompt: Part | None = None
    """Prompt style; empty = that of the run's config."""
    verifiers: dict[str, Part] = Field(default_factory=dict)
    """answer_kind -> verifier, as in a config."""
    mode: Mode = "strict"
    """Parsing of answers, as reward.mode in a config: strict | lenient: also answers in other
    formats | reference: the published rule."""
    frame: str = "pixels"
    """Coordinate frame of the boxes in recorded answers: pixels, norm1, norm1000, resized, or a
    family (qwen2_vl, qwen2_5_vl, qwen3_vl, internvl). A model has its own frame."""
    beside: Mode | None = None
    """Second parsing of the same answers, shown beside the first: for published figures that follow
    another rule."""
    average_precision: Literal["coco", "lvis"] | None = None
    """Average precision of all boxes, reported too: COCO's, or LVIS' with its federated rules. For
    questions that have a column truth_file."""
    group_by: str = "task"
    """Tag whose values are the rows of the table."""
    totals: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Name -> tags over whose values the mean is taken one after the other: {all: [], CV-Bench:
    [type, source]}. [] = the mean over all questions."""
    samples: int = Field(default=4, ge=0)
    """Number of sampled answers per question, beside the greedy one; 0 = greedy only."""
    max_tokens: int = Field(default=256, ge=1)
    """Largest length of an answer in tokens."""
    temperature: float = Field(default=1.0, gt=0)
    """Temperature of the sampled answers."""
