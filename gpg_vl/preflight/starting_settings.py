"""Choose the settings of a first config from what is known: its rows, and the facts of its model.

Each choice keeps the sentence that says why, which is printed and stands in the config.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gpg_vl.boxes import Frame
from gpg_vl.config import models
from gpg_vl.config.paths import expanded
from gpg_vl.config.schema import Config, PolicyConfig, RewardConfig, Source
from gpg_vl.experiment import Experiment, build_style, build_verifiers
from gpg_vl.policy.adapter_files import AdapterFiles
from gpg_vl.policy.sizes import Size, size_of
from gpg_vl.preflight.adapter_checks import can_train, parts_to_train_on
from gpg_vl.preflight.memory import Workload, fits, machine_of
from gpg_vl.preflight.remedies import LORA_LR
from gpg_vl.types import Sample
from gpg_vl.verifiers.base import RuleVerifier

SMALL_MODEL = 50_000_000
"""Parameters below which a model is taken for one that was trained from random weights."""
THOUGHT_TOKENS = 512
"""Tokens of a completion that thinks first, where no worked solution tells more."""
MANY_PIXELS = {"small": 200_704, "real": 1_003_520}
"""Area above which pictures are made smaller: 256 and 1,280 visual tokens of 28 x 28 pixels."""
FITTING_SOLUTIONS = 0.96
"""Share of the worked solutions that must earn the full reward before they are imitated: a run
stops where more than rollout.max_lost = 0.05 cannot be."""
ANSWER_ALONE = "Reply with the final answer alone, in <answer> </answer> tags."
FORMS = {
    "boxes": "the box as (x1,y1),(x2,y2)",
    "detection": "the objects as [{'Position': [x1, y1, x2, y2], 'Confidence': number}, ...]",
}
"""Form of an answer that a model has to be told, by the kind of the answers."""
REWARDS = {
    "boxes": "how far the boxes overlap (IoU)",
    "detection": "how far boxes and classes agree",
    "value": "1 for the true value with its unit, else 0",
    "choice": "1 for the right option, else 0",
    "number": "1 for the right number, else 0",
    "expression": "1 for an equal expression, else 0",
    "label": "1 for the true words, else 0",
}
"""Reward of a well-formed answer, by the kind of the answers."""


@dataclass(frozen=True, slots=True)
class Model:
    """Facts of a model that decide settings; its weights are not loaded."""

    name: str
    """Name for `policy.model`: tiny, a folder, or a hub id."""
    parameters: int
    """Number of its parameters."""
    reader: Any
    """Its processor and its window."""
    thought: str
    """Last thought tag that its chat template writes by itself, as `Style.misfit` takes it."""
    size: Size | None = None
    """Its size, to judge whether it fits the GPU; None = it is not judged."""
    adapter: AdapterFiles | None = None
    """Adapter that the name means; None = a whole model."""

    @classmethod
    def of(cls, name: str) -> "Model":
        """Read a model's config.json and processor.

        Args:
            name: tiny, a run folder, a folder of a model, or a hub id.

        Raises:
            UserError: there is no such model, or it cannot be trained.
        """
        from gpg_vl.policy.encode import template_thought
        from gpg_vl.policy.model_folder import adapter_here, find_model
        from gpg_vl.preflight.model_checks import reader_of

        found = models.find(name, "--model")
        if found.folder is not None:
            find_model(found.name, "--model")
        policy = PolicyConfig(model=found.name)
        experiment = Experiment.of(Config(data=(Source(recipe="digits"),), policy=policy))
        reader = reader_of(experiment)
        thought = template_thought(reader.processor)
        size = size_of(policy)
        adapter = adapter_here(found.name, "--model")
        return cls(found.name, size.total, reader, thought, size, adapter)

    @property
    def is_small(self) -> bool:
        """True if the model knows nothing before it is trained."""
        return self.parameters < SMALL_MODEL


@dataclass(frozen=True, slots=True)
class Setting:
    """A part of a config, and why it is so."""

    key: str
    value: Any
    why: str
    """Sentence that is printed and stands above the key."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a first config, beside its data and its benchmark."""

    parts: tuple[Setting, ...]
    max_tokens: int
    problems: tuple[str, ...] = field(default=())
    """What a person has to decide, in sentences."""


def choose(samples: Sequence[Sample], model: Model) -> Settings:
    """Choose the settings of a first run.

    Args:
        samples: usable rows of the training data, at least one.
    """
    kinds = Counter(sample.answer_kind for sample in samples)
    prompt, can_imitate, problems = _prompt(samples, model, list(kinds))
    longest, from_solutions = _longest(samples, prompt.value, model, can_imitate)
    thinks = build_style(prompt.value, expanded(".")).think in ("required", "opened")
    max_tokens = _max_tokens(longest, thinks and not from_solutions)
    rewards = [f"{kind}: {REWARDS[kind]}" for kind in kinds if kind in REWARDS]
    policy, rollout = _policy(samples, model), _rollout(longest, max_tokens, from_solutions)
    policy = _on_this_gpu(policy, rollout, model)
    is_lora = policy.value.get("language") == "lora"
    parts = [prompt, policy, rollout, _optimizer(model, is_lora)]
    if can_imitate or (model.is_small and not problems):
        parts.append(_warmup(model, can_imitate, is_lora))
    why = f"Rewards of a well-formed answer: {'; '.join(rewards)}" if rewards else "Rewards"
    own = "A verifier of your own: {" + next(iter(kinds)) + ': "./rewards.py:Mine"}'
    parts.insert(3, Setting("verifiers", {}, f"{why}. {own}."))
    return Settings(tuple(parts), max_tokens, tuple(problems))


def _prompt(
    samples: Sequence[Sample], model: Model, kinds: Sequence[str]
) -> tuple[Setting, bool, list[str]]:
    """Choose the prompt style.

    Returns:
        The style, True if worked solutions can be imitated in it, and what a person must decide.
    """
    candidates = _styles(model, kinds)
    solved = [sample for sample in samples if sample.solution]
    if not solved:
        return candidates[0], False, []
    for candidate in candidates:
        if _share_that_fits(solved, candidate.value) >= FITTING_SOLUTIONS:
            return candidate, len(solved) >= FITTING_SOLUTIONS * len(samples), []
    form = build_style(candidates[0].value, expanded(".")).write("7", "...")
    problem = (
        "the column solution holds worked solutions that do not end in the form that the prompt "
        f"asks for, for instance {form}; "
        "write them so, or name the column otherwise; until then there is no warm-up on them"
    )
    return candidates[0], False, [problem]


def _styles(model: Model, kinds: Sequence[str]) -> list[Setting]:
    """Return the prompt styles that fit a model's chat template, the first choice first."""
    form = FORMS.get(kinds[0], "") if len(kinds) == 1 else ""
    thinking: dict[str, Any] = {"kind": "think"}
    if model.thought == "<think>":
        thinking["think"] = "opened"
    if form and not model.is_small:
        thinking["instruction"] = (
            f"Output the thinking process in <think> </think> and {form} in <answer> </answer> "
            "tags."
        )
    think = Setting(
        "prompt",
        "think" if len(thinking) == 1 else thinking,
        "The model thinks first: <think>...</think><answer>...</answer>",
    )
    if model.thought == "<think>":
        think = replace(think, why=f"{think.why}; its chat template opens the thought by itself")
    answer = Setting("prompt", "answer", "Answers without a thought: <answer>...</answer>")
    if not model.is_small:
        told = ANSWER_ALONE.replace("the final answer alone", f"{form} alone") if form else ""
        alone = {"kind": "answer", "instruction": told or ANSWER_ALONE}
        why = f"{answer.why}; the model's chat template closes the thought by itself"
        answer = replace(answer, value=alone, why=why)
    if model.thought == "<think>":
        return [think]
    if model.thought == "</think>":
        return [answer]
    return [answer, think] if model.is_small else [think]


def _share_that_fits(samples: Sequence[Sample], prompt: Any) -> float:
    """Return the share of the worked solutions that earn the full reward in a prompt style."""
    style = build_style(prompt, expanded("."))
    verifiers = build_verifiers({}, style, Frame(kind="norm1000"), RewardConfig(), expanded("."))
    fitting = 0
    for sample in samples:
        fitting += not verifiers.validation_error_of(sample.solution, sample)
    return fitting / len(samples)


def _longest(
    samples: Sequence[Sample], prompt: Any, model: Model, with_solutions: bool
) -> tuple[int, bool]:
    """Return the tokens of the longest text that is to be learnt, and True if it is a solution."""
    tokenizer = model.reader.processor.tokenizer
    texts = [sample.solution for sample in samples] if with_solutions else []
    if not texts:
        texts = list(_right_answers(samples, prompt))
    counts = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    return max(counts, default=0) + 1, with_solutions  # the end id


def _right_answers(samples: Sequence[Sample], prompt: Any) -> Iterator[str]:
    style = build_style(prompt, expanded("."))
    verifiers = build_verifiers({}, style, Frame(kind="norm1000"), RewardConfig(), expanded("."))
    for sample in samples:
        verifier = verifiers.by_kind[sample.answer_kind]
        if isinstance(verifier, RuleVerifier):
            yield style.write(verifier.perfect_answer(sample))


def _max_tokens(longest: int, has_thought: bool) -> int:
    """Return room for the longest text and a quarter more; for a thought, whose length is not
    known, 512 tokens beside it."""
    room = math.ceil(1.25 * longest) + 1
    if not has_thought:
        return room
    return 64 * math.ceil((THOUGHT_TOKENS + longest) / 64)


def _policy(samples: Sequence[Sample], model: Model) -> Setting:
    values: dict[str, Any] = {"model": model.name}
    if model.is_small:
        values["vision"] = "full"
        what = "A model with random weights" if model.name == "tiny" else "A small model"
        why = (
            f"{what}, {model.parameters / 1e6:.1f} M parameters, all of them trained. A real one: "
            "{model: Qwen/Qwen2.5-VL-3B-Instruct, dtype: bfloat16}, by gpg-vl init --model"
        )
    else:
        values |= {"dtype": "bfloat16", "vision": "frozen"}
        why = (
            f"{model.parameters / 1e9:.1f} billion parameters in bfloat16; the vision tower is "
            "frozen, which saves memory (full trains it, too)"
        )
    largest = 0
    for sample in samples:
        largest = max(largest, *(width * height for width, height in sample.sizes), 0)
    limit = MANY_PIXELS["small" if model.is_small else "real"]
    size = model.reader.processor.image_processor.size
    if largest > limit and "longest_edge" in size and "shortest_edge" in size:
        values["max_pixels"] = limit
        why += (
            f". Pictures of up to {largest:,} pixels are made smaller, for speed and memory: "
            "raise max_pixels if small things matter"
        )
    return Setting("policy", values, why)


METHODS: tuple[tuple[dict[str, str], str], ...] = (
    (
        {"language": "lora"},
        "adapters of it (LoRA) are trained instead, with its weights frozen in bfloat16: "
        "pip install 'gpg-vl[lora]'",
    ),
    (
        {"language": "lora", "quantise": "nf4"},
        "adapters of it (QLoRA) are trained instead, with its weights frozen in 4 bits: "
        "pip install 'gpg-vl[qlora]'",
    ),
)
"""Training of the language model where the GPU is too small for all of it, the first choice first;
and what is said of each."""


def _on_this_gpu(policy: Setting, rollout: Setting, model: Model) -> Setting:
    """Return the policy so that it fits the GPU; unchanged if it does, or if nothing does."""
    if model.size is None or model.is_small:
        return policy
    for extra, what in ({}, ""), *METHODS:
        values = policy.value | extra
        if extra and model.adapter is not None:
            values |= parts_to_train_on(model.adapter)
        sections = {"policy": values, "rollout": rollout.value}
        config = Config.model_validate({"data": [{"recipe": "digits"}], **sections})
        machine = machine_of(config)
        workload = Workload(config=config, size=model.size, machine=machine, adapter=model.adapter)
        if not fits(workload) or not can_train(workload):
            continue
        if not extra:
            return policy
        why = (
            f"{policy.why}. The GPU of {machine.gb:.0f} GB is too small to train all of it: {what}"
        )
        return Setting("policy", sections["policy"], why)
    return policy


def _rollout(longest: int, max_tokens: int, from_solutions: bool) -> Setting:
    what = "worked solution" if from_solutions else "true answer"
    why = (
        f"A step asks 8 questions and samples 8 answers to each, of at most {max_tokens} tokens: "
        f"the longest {what} of the rows that were tried has {longest}"
    )
    return Setting(
        "rollout", {"groups_per_step": 8, "group_size": 8, "max_tokens": max_tokens}, why
    )


def _optimizer(model: Model, is_lora: bool) -> Setting:
    if model.is_small:
        return Setting("optimizer", {"lr": 1e-4}, "A learning rate for a small model")
    if is_lora:
        why = (
            "A learning rate for adapters: they begin at zero and need about ten times the 1e-6 of "
            "a model that is trained whole; try 2e-5 and 5e-5 if the reward hardly rises"
        )
        return Setting("optimizer", {"lr": LORA_LR}, why)
    return Setting("optimizer", {"lr": 1e-6}, "The learning rate of the paper, for real models")


def _warmup(model: Model, from_solutions: bool, is_lora: bool) -> Setting:
    what = "worked solutions" if from_solutions else "true answers"
    if model.is_small:
        why = f"Supervised steps on the {what} first: a new model has to learn the answer format"
        return Setting("warmup", {"steps": 120, "batch_size": 16}, why)
    lr = 1e-4 if is_lora else 1e-5
    values = {"steps": 30, "batch_size": 16, "optimizer": {"lr": lr, "warmup_steps": 5}}
    return Setting(
        "warmup", values, f"Supervised steps on the {what} first; steps: 0 leaves it out"
    )
