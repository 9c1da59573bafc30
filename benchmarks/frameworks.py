"""Run real training steps of one case in two frameworks: `gpg_vl` and TRL's `GRPOTrainer`.

`step_time.py` compares them. Both have the same checkpoint, questions, images, optimizer (AdamW)
and verifier, and completions of exactly the same length: no id ends one. Both train the same
parameters: all of them, unless the row freezes the vision tower. Each answer is really scored, but
then gets a fixed reward, so that it is known which groups are informative.
"""

import os
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from profiler import Profiler

from gpg_vl.config.schema import Config, Training
from gpg_vl.experiment import Experiment, Log
from gpg_vl.policy.encode import encode
from gpg_vl.policy.load import Policy
from gpg_vl.rollout.collect import gather_batch
from gpg_vl.training.loop import train_step
from gpg_vl.training.setup import TrainingRun, set_up
from gpg_vl.types import Completion, Group, Prompt, Sample, Verdict


@dataclass(frozen=True, kw_only=True)
class Row:
    """A case to measure."""

    name: str
    shape: str = "tiny"
    """Model; see model_shapes.py."""
    pixels: int = 448
    """Side of the image in pixels; (pixels / 28) squared image tokens."""
    groups: int = 8
    """Number of groups in a step."""
    group_size: int = 8
    """Number of completions in a group."""
    length: int = 32
    """Tokens of every completion."""
    half_zero_variance: bool = False
    """Every second group gets equal rewards: zero variance, so it is not trained on."""
    laps: int = 5
    """Number of steps that count."""
    tokens: int = 16384
    """Token budget of gpg_vl's micro-batch."""
    trl_rows: int = 64
    """TRL's micro-batch: number of completions at once, the size that was fastest."""
    dtype: str = "float32"
    vision: Training = "full"
    """Vision tower: frozen | full."""
    checkpointing: bool = False
    """Gradient checkpointing, in every framework."""

    @property
    def image_tokens(self) -> int:
        """Visual tokens of one image."""
        return (self.pixels // 28) ** 2


class Judge(Protocol):
    """The part of a verifier set that the rollout uses."""

    def judge(self, completion: Completion, sample: Sample) -> Verdict:
        """Return the verdict on a completion."""
        ...


@dataclass
class GivenRewards:
    """Verifiers that score for real, then replace the reward by the one that the row wants.

    0 and 1 in turn, or 0 for all answers of a zero-variance group.
    """

    verifiers: Judge
    row: Row
    judged: int = field(default=0)
    """Number of completions so far; they come group by group."""

    def judge(self, completion: Completion, sample: Sample) -> Verdict:
        """Return the verdict on the next completion."""
        assert len(completion.token_ids) == self.row.length, (
            f"{len(completion.token_ids)} tokens, the row has {self.row.length}"
        )
        group, place = divmod(self.judged, self.row.group_size)
        self.judged += 1
        reward = float(place % 2)
        if self.row.half_zero_variance and group % 2:
            reward = 0.0
        return replace(self.verifiers.judge(completion, sample), reward=reward)


class EndlessExperiment(Experiment):
    """Experiment whose completions always have the full length: no token ends one."""

    def policy(self, checkpoint: Path | None = None, *, log: Log = print) -> Policy:
        """Load the model of the config, or the weights of one of its checkpoints."""
        return replace(super().policy(checkpoint, log=log), end_ids=frozenset())


def config_of(row: Row, checkpoint: Path, folder: Path, *, shared: bool = True) -> Config:
    """Return the config of a row.

    It has no steps: the benchmark takes them itself, so nothing is checked before the first.
    """
    canvas = {
        "task": "count",
        "side": row.pixels,
        "cells": 4,
        "glyph": 24,
        "count": row.groups * (row.laps + 2),
    }
    values = {
        "folder": str(folder),
        "steps": 0,
        "data": [{"recipe": "digits", "options": canvas}],
        "prompt": "answer",
        "policy": {"model": str(checkpoint), "vision": row.vision, "dtype": row.dtype},
        "rollout": {
            "groups_per_step": row.groups,
            "group_size": row.group_size,
            "max_tokens": row.length,
            "max_rounds": 1,
        },
        "reward": {"truncated": "score"},
        "optimizer": {"lr": 1e-5},
        "learner": {
            "shared_prefix": shared,
            "tokens_per_microbatch": row.tokens,
            "checkpointing": row.checkpointing,
        },
    }
    return Config.model_validate(values).at(folder)


def run_of(row: Row, checkpoint: Path, folder: Path, *, shared: bool = True) -> TrainingRun:
    """Set up a run of gpg_vl as usual, but with completions that never end early."""
    config = config_of(row, checkpoint, folder, shared=shared)
    return set_up(EndlessExperiment.resolve(config), log=no_log)


def no_log(line: str) -> None:
    """Drop a line for the user."""


def with_given_rewards(run: TrainingRun, row: Row, profiler: Profiler) -> None:
    """Let a run use the row's rewards, and the profiler as its timer."""
    judge: Any = GivenRewards(run.rollouts.verifiers, row)
    run.rollouts = replace(run.rollouts, timer=profiler, verifiers=judge)


def gpg_vl(
    row: Row, checkpoint: Path, profiler: Profiler, *, shared: bool = True
) -> dict[str, Any]:
    """Take steps of gpg_vl's own loop, and return the figures that the profiler does not measure.

    Args:
        shared: compute image and prompt once per group; else plain rows.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = run_of(row, checkpoint, Path(folder), shared=shared)
        with_given_rewards(run, row, profiler)
        profiler.start()
        for _ in range(profiler.laps):
            update = train_step(run)
            assert not update.skipped, update.skipped
            profiler.lap()
    figures = _figures(run.policy, run.rollouts.prompt_at(0), row.tokens)
    return {**figures, "why_not_shared": run.policy.sharing.why_not}


def gpg_vl_not_shared(row: Row, checkpoint: Path, profiler: Profiler) -> dict[str, Any]:
    """Take steps of gpg_vl with plain rows."""
    return gpg_vl(row, checkpoint, profiler, shared=False)


def random_groups(run: TrainingRun, row: Row, count: int) -> list[Group]:
    """Return scored groups of random completions, for measuring the update alone."""
    generator = random.Random(0)
    last_id = run.policy.processor.tokenizer.vocab_size - 1
    groups: list[Group] = []
    for index in range(count):
        completions: list[Completion] = []
        for _ in range(row.group_size):
            ids = tuple(generator.randint(0, last_id) for _ in range(row.length))
            completions.append(
                Completion(
                    token_ids=ids,
                    logprobs=(-1.0,) * row.length,
                    text="",
                    finish="length",
                    version=0,
                )
            )
        verdicts = tuple(Verdict(reward=float(place % 2)) for place in range(row.group_size))
        groups.append(
            Group(
                prompt=run.rollouts.prompt_at(index),
                completions=tuple(completions),
                verdicts=verdicts,
                prompt_index=index,
            )
        )
    return groups


def update(run: TrainingRun, groups: list[Group]) -> None:
    """Take one optimizer step of gpg_vl's learner on these groups."""
    batch = gather_batch(groups, run.processes.all_gather, run.processes.rank)
    weights_BG = run.estimator.weights(batch.rewards_BG, batch.lengths_BG)
    done = run.learner.update(batch, weights_BG, 0)
    assert not done.skipped, done.skipped


def trl(row: Row, checkpoint: Path, profiler: Profiler) -> dict[str, Any]:
    """Take steps of TRL's GRPOTrainer, without a reference model."""
    os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment.resolve(config_of(row, checkpoint, Path(folder)))
        policy = experiment.policy()
        experiment = experiment.for_policy(policy)
        samples = experiment.train_data.samples
        judge = GivenRewards(experiment.verifiers, row)

        def reward(
            completions: list[Any], completion_ids: list[list[int]], index: list[int], **_: Any
        ) -> list[float]:
            rewards: list[float] = []
            with profiler("score"):
                for ids, place in zip(completion_ids, index, strict=True):
                    answer = Completion(
                        token_ids=tuple(ids),
                        logprobs=(),
                        text=policy.decode(ids),
                        finish="length",
                        version=0,
                    )
                    rewards.append(judge.judge(answer, samples[place]).reward)
            return rewards

        table = _trl_table(samples, experiment.style)
        trainer = _grpo_trainer(row, policy, table, reward, profiler, folder)
        trainer.train()
    return _figures(policy, encode(samples[0], experiment.style, policy), row.trl_rows)


def _figures(policy: Policy, prompt: Prompt, microbatch: int) -> dict[str, Any]:
    parameters = sum(parameter.numel() for parameter in policy.model.parameters())
    return {
        "parameters": parameters,
        "prompt_tokens": len(prompt.input_ids),
        "microbatch": microbatch,
    }


def _trl_table(samples: list[Sample], style: Any) -> Any:
    """Return TRL's columns: a conversation, its image, and the index of the sample."""
    from datasets import Dataset

    rows: list[dict[str, Any]] = []
    for index, sample in enumerate(samples):
        (message,) = style.messages(sample)
        (text,) = (part["text"] for part in message["content"] if part["type"] == "text")
        (image,) = sample.images
        assert isinstance(image, bytes)
        rows.append(
            {
                "prompt": [{"role": "user", "content": text}],
                "image": Image.open(BytesIO(image)),
                "index": index,
            }
        )
    return Dataset.from_list(rows)


def _grpo_trainer(
    row: Row,
    policy: Policy,
    table: Any,
    reward: Callable[..., list[float]],
    profiler: Profiler,
    folder: str,
) -> Any:
    from transformers import TrainerCallback

    trl: Any = import_module("trl")
    completions = row.groups * row.group_size
    settings = trl.GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=row.trl_rows,
        gradient_accumulation_steps=completions // row.trl_rows,
        num_generations=row.group_size,
        max_completion_length=row.length,
        generation_kwargs={"min_new_tokens": row.length},
        beta=0.0,
        loss_type="dr_grpo",
        scale_rewards="none",
        temperature=1.0,
        learning_rate=1e-5,
        max_steps=profiler.laps,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        bf16=row.dtype == "bfloat16",
        gradient_checkpointing=row.checkpointing,
        disable_tqdm=True,
        shuffle_dataset=False,
    )

    class Laps(TrainerCallback):
        """Tells the profiler where steps begin and end."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            profiler.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            profiler.lap()

    trainer = trl.GRPOTrainer(
        policy.model,
        reward,
        args=settings,
        train_dataset=table,
        processing_class=policy.processor,
        callbacks=[Laps()],
    )
    phases = {
        "_tokenize_prompts": "encode",
        "_generate_single_turn": "sample",
        "_generate_and_score_completions": "rollout",
    }
    for method, phase in phases.items():
        setattr(trainer, method, profiled(getattr(trainer, method), profiler, phase))
    return trainer


def profiled(method: Callable[..., Any], profiler: Profiler, phase: str) -> Callable[..., Any]:
    """Return the method with its seconds counted as a phase."""

    def timed(*arguments: Any, **options: Any) -> Any:
        with profiler(phase):
            return method(*arguments, **options)

    return timed


FRAMEWORKS: dict[str, Callable[[Row, Path, Profiler], dict[str, Any]]] = {
    "gpg_vl": gpg_vl,
    "not shared": gpg_vl_not_shared,
    "trl": trl,
}
"""Name of a framework -> function that runs it."""
