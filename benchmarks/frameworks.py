"""The two sides that `step_time.py` compares, each a run of real training steps over the same row: `gpg_vl` and TRL's `GRPOTrainer`.

Same checkpoint, questions, pictures, optimizer (AdamW), scoring by the same verifier, and completions of exactly the same length: no id
ends one. Both train the same parameters: all of them, unless the row freezes the vision tower. Rewards are given, after the answer has
really been scored, so that it is known which groups have something to say.
"""

import os
import random
import tempfile
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import torch
from profiler import Meter

from gpg_vl.config.schema import Config, Training
from gpg_vl.policy.encode import encode
from gpg_vl.policy.load import Policy, load_policy
from gpg_vl.training import setup
from gpg_vl.training.loop import take_step
from gpg_vl.training.setup import TrainingRun
from gpg_vl.types import Completion, Group, Prompt, Sample, Verdict
from gpg_vl.verifiers.dispatch import VerifierSet


@dataclass(frozen=True, kw_only=True)
class Row:
    """A case to measure."""

    name: str
    shape: str = "tiny"
    """Which model; see shapes.py."""
    pixels: int = 448
    """Side of the picture; (pixels / 28) squared image tokens."""
    groups: int = 8
    """Groups in a step."""
    group_size: int = 8
    length: int = 32
    """Tokens of every completion."""
    half_silent: bool = False
    """Every second group gets equal rewards, so it has nothing to say."""
    laps: int = 5
    """Steps that count."""
    tokens: int = 16384
    """gpg_vl's budget of a micro-batch."""
    trl_rows: int = 64
    """TRL's micro-batch: completions at once, the size that was fastest."""
    dtype: str = "float32"
    vision: Training = "full"
    """The vision tower: frozen | full."""
    checkpointing: bool = False
    """Keep only each layer's input, on every side."""

    @property
    def image_tokens(self) -> int:
        """Of one picture."""
        return (self.pixels // 28) ** 2


class Judge(Protocol):
    """What a drawing asks of its verifiers."""

    def judge(self, completion: Completion, sample: Sample) -> Verdict:
        """The verdict on a completion."""
        ...


@dataclass
class GivenRewards:
    """Judges for real, then gives the reward that the row wants: 0 and 1 in turn, or 0 throughout a silent group."""

    verifiers: Judge
    row: Row
    judged: int = field(default=0)

    def judge(self, completion: Completion, sample: Sample) -> Verdict:
        """The verdict on a completion; they come group by group."""
        assert len(completion.token_ids) == self.row.length, f"{len(completion.token_ids)} tokens, the row has {self.row.length}"
        group, place = divmod(self.judged, self.row.group_size)
        self.judged += 1
        silent = self.row.half_silent and group % 2
        return replace(self.verifiers.judge(completion, sample), reward=0.0 if silent else float(place % 2))


def config_of(row: Row, checkpoint: Path, folder: Path, *, shared: bool = True) -> Config:
    """The experiment that a row is. `steps` is 0: the benchmark takes the steps, so nothing is probed before them."""
    canvas = {"task": "count", "side": row.pixels, "cells": 4, "glyph": 24, "count": row.groups * (row.laps + 2)}
    return Config.model_validate(
        {
            "folder": str(folder),
            "steps": 0,
            "data": [{"recipe": "digits", "options": canvas}],
            "prompt": "answer",
            "policy": {"model": str(checkpoint), "vision": row.vision, "dtype": row.dtype},
            "rollout": {"groups_per_step": row.groups, "group_size": row.group_size, "max_tokens": row.length, "max_rounds": 1},
            "reward": {"truncated": "score"},
            "optimizer": {"lr": 1e-5},
            "learner": {"shared_prefix": shared, "tokens_per_microbatch": row.tokens, "checkpointing": row.checkpointing},
        }
    )


def trainer_of(row: Row, checkpoint: Path, folder: Path, *, shared: bool = True) -> TrainingRun:
    """A run of gpg_vl, assembled as always, whose completions never end before their full length."""
    with mock.patch.object(setup, "load_policy", _endless):
        return setup.set_up(config_of(row, checkpoint, folder, shared=shared), folder, say=lambda line: None)


def _endless(*arguments: Any, **options: Any) -> Policy:
    return replace(load_policy(*arguments, **options), end_ids=frozenset())


def gpg_vl(row: Row, checkpoint: Path, meter: Meter, *, shared: bool = True) -> dict[str, Any]:
    """Steps of gpg_vl's own loop."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(row, checkpoint, Path(folder), shared=shared)
        judge: Any = GivenRewards(trainer.drawing.verifiers, row)
        trainer.drawing = replace(trainer.drawing, clock=meter, verifiers=judge)
        meter.start()
        for _ in range(meter.laps):
            update = take_step(trainer)
            assert not update.skipped, update.skipped
            meter.lap()
    told = _told(trainer.policy, trainer.drawing.ask(0), row.tokens)
    return told | {"why_not_shared": trainer.policy.sharing.why_not}


def random_groups(trainer: TrainingRun, row: Row, count: int) -> list[Group]:
    """Scored groups of random completions, for measuring the update alone."""
    draw, last = random.Random(0), trainer.policy.processor.tokenizer.vocab_size - 1

    def completion() -> Completion:
        ids = tuple(draw.randint(0, last) for _ in range(row.length))
        return Completion(token_ids=ids, logprobs=(-1.0,) * row.length, text="", finish="length", version=0)

    def group(index: int) -> Group:
        completions = tuple(completion() for _ in range(row.group_size))
        verdicts = tuple(Verdict(reward=float(place % 2)) for place in range(row.group_size))
        return Group(prompt=trainer.drawing.ask(index), completions=completions, verdicts=verdicts, draw=index)

    return [group(index) for index in range(count)]


def update(trainer: TrainingRun, groups: list[Group]) -> None:
    """One optimizer step of gpg_vl's learner on these groups."""
    rewards_BG, lengths_BG, mine = trainer.ranks.matrices(tuple(groups))
    done = trainer.learner.update(groups, trainer.estimator, rewards_BG, lengths_BG, mine, 0)
    assert not done.skipped, done.skipped


def trl(row: Row, checkpoint: Path, meter: Meter) -> dict[str, Any]:
    """Steps of TRL's GRPOTrainer without a reference model."""
    os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    with tempfile.TemporaryDirectory() as folder:
        given = config_of(row, checkpoint, Path(folder))
        policy = load_policy(given.policy, seed=0)
        samples, style, verifiers = _asked(given, policy)
        judge = GivenRewards(verifiers, row)

        def reward(completions: list[Any], completion_ids: list[list[int]], index: list[int], **_: Any) -> list[float]:
            with meter("score"):
                texts = [policy.decode(ids) for ids in completion_ids]
                answers = [_truncated(tuple(ids), text) for ids, text in zip(completion_ids, texts, strict=True)]
                return [judge.judge(answer, samples[place]).reward for answer, place in zip(answers, index, strict=True)]

        trainer = _grpo_trainer(row, policy, _table(samples, style), reward, meter, folder)
        trainer.train()
    return _told(policy, encode(samples[0], style, policy), row.trl_rows)


def _told(policy: Policy, prompt: Prompt, microbatch: int) -> dict[str, Any]:
    parameters = sum(parameter.numel() for parameter in policy.model.parameters())
    return {"parameters": parameters, "prompt_tokens": len(prompt.input_ids), "microbatch": microbatch}


def _asked(given: Config, policy: Policy) -> tuple[list[Sample], Any, VerifierSet]:
    from gpg_vl.data.dataset import read_dataset
    from gpg_vl.experiment import build_style, build_verifiers

    style = build_style(given.prompt, Path())
    verifiers = build_verifiers({}, style, policy.frame, given.reward, Path())
    questions = read_dataset(given.data, verifiers, folder=Path())
    return list(questions.sources[0]), style, verifiers


def _truncated(token_ids: tuple[int, ...], text: str) -> Completion:
    return Completion(token_ids=token_ids, logprobs=(), text=text, finish="length", version=0)


def _table(samples: list[Sample], style: Any) -> Any:
    """TRL's columns: a conversation, its picture, and where the truth is found."""
    import io

    from datasets import Dataset
    from PIL import Image

    def row(index: int, sample: Sample) -> dict[str, Any]:
        (message,) = style.messages(sample)
        (words,) = (part["text"] for part in message["content"] if part["type"] == "text")
        (picture,) = sample.images
        assert isinstance(picture, bytes)
        return {"prompt": [{"role": "user", "content": words}], "image": Image.open(io.BytesIO(picture)), "index": index}

    return Dataset.from_list([row(index, sample) for index, sample in enumerate(samples)])


def _grpo_trainer(row: Row, policy: Policy, table: Any, reward: Any, meter: Meter, folder: str) -> Any:
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
        max_steps=meter.laps,
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
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            meter.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            meter.lap()

    trainer = trl.GRPOTrainer(
        policy.model, reward, args=settings, train_dataset=table, processing_class=policy.processor, callbacks=[Laps()]
    )
    for method, phase in {
        "_tokenize_prompts": "encode",
        "_generate_single_turn": "sample",
        "_generate_and_score_completions": "rollout",
    }.items():
        setattr(trainer, method, metered(getattr(trainer, method), meter, phase))
    return trainer


def metered(method: Any, meter: Meter, phase: str) -> Any:
    def timed(*arguments: Any, **options: Any) -> Any:
        with meter(phase):
            return method(*arguments, **options)

    return timed


SIDES: dict[str, Any] = {
    "gpg_vl": gpg_vl,
    "not shared": lambda row, checkpoint, meter: gpg_vl(row, checkpoint, meter, shared=False),
    "trl": trl,
}
"""How each side is run."""
