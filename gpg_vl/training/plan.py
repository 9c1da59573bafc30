"""What a config asks for, in numbers, before anything is loaded: completions, tokens, and the memory of the weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpg_vl import samples
from gpg_vl.boxes import Frame
from gpg_vl.config import Config
from gpg_vl.loading import load_benchmark
from gpg_vl.policy import tiny
from gpg_vl.policy.families import parts
from gpg_vl.policy.model_folder import locate
from gpg_vl.policy.processor import LOCAL
from gpg_vl.training.experiment import build_estimator, build_ruler, build_style, build_verifiers
from gpg_vl.types import UserError

TRAINED_BYTES, FROZEN_BYTES = 16, 4
"""Of a parameter: float32 weight, gradient and two moments; float32 weight."""


def plan(config: Config, folder: Path) -> Iterator[str]:
    """Lines that tell the run. Sources, prompt, verifiers, method and benchmark are resolved on the way, so a mistake in them shows here.

    Raises:
        UserError: a part that cannot be resolved.
    """
    style = build_style(config.prompt, folder)
    checks = build_verifiers(config.verifiers, style, Frame(), config.reward, folder)
    estimator = build_estimator(config, folder)
    _resolve_data(config, folder)
    rollout = config.rollout
    answers = rollout.groups_per_step * rollout.group_size
    yield f"run:     {config.run_folder}, {config.steps} steps of {rollout.groups_per_step} prompts x {rollout.group_size} answers"
    yield f"sampled: {answers} answers a round, {config.steps * answers:,} in all; at most {rollout.max_rounds} rounds a step"
    yield f"tokens:  at most {answers * rollout.max_tokens:,} sampled in a round ({rollout.max_tokens} an answer)"
    yield "prompts: their tokens and those of their pictures are not counted here; gpg-vl audit counts them"
    for source in config.data:
        yield f"data:    {source.recipe or source.files or source.hub} {source.options or ''}".rstrip()
    read = ", ".join(sorted({getattr(verifier, "mode", "own") for verifier in checks.by_kind.values()}))
    yield f"reward:  {config.reward.combine} of accuracy {config.reward.accuracy:g} and format {config.reward.format:g}, read {read}"
    yield f"method:  {type(estimator).__name__}, {style.think} thought, evaluated on {config.evaluation.benchmark or 'nothing'}"
    yield f"memory:  {_memory(config)}"


def _resolve_data(config: Config, folder: Path) -> None:
    for key, sources in (("data", config.data), ("warmup.data", config.warmup.data or ())):
        for number, source in enumerate(sources):
            samples.resolve(source, folder=folder, key=f"{key}.{number}")
    if config.evaluation.benchmark is not None:
        spec, home = load_benchmark(config.evaluation.benchmark, folder)
        build_ruler(spec, home, config, folder, Frame())
        for number, source in enumerate(spec.data):
            samples.resolve(source, folder=home, key=f"evaluation.benchmark: data.{number}")


def _memory(config: Config) -> str:
    try:
        model = _outline(config)
    except (OSError, ValueError, UserError) as error:
        return f"unknown until {config.policy.model} can be read ({' '.join(str(error).split())[:80]})"
    trained = sum(parameter.numel() for part, _, parameter in parts(model) if getattr(config.policy, part) == "full")
    frozen = sum(parameter.numel() for part, _, parameter in parts(model) if getattr(config.policy, part) != "full")
    if not trained:
        raise UserError("policy.language, policy.projector and policy.vision are all frozen: nothing would be trained; set one to full")
    needed = (trained * TRAINED_BYTES + frozen * FROZEN_BYTES) / 2**30
    return f"{needed:.2f} GiB for weights, gradients and moments ({trained:,} parameters trained, {frozen:,} frozen), activations beside"


def _outline(config: Config) -> Any:
    """The model without its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    if config.policy.model == "tiny":
        return tiny.build_model(tiny.build_tokenizer(), config.policy.tiny, 0)
    shape = AutoConfig.from_pretrained(locate(config.policy.model, weights=False), **LOCAL)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(shape)
