"""TRL's own GRPOTrainer takes the reward functions, with pictures, through a real processor.

TRL is an extra (`gpg-vl[bench]`), which the stage `card` of `.ci/run` installs; elsewhere this file
is skipped.
"""

import importlib.util
import os
from importlib import import_module

import pytest

import gpg_vl
from gpg_vl.experiment import Experiment
from gpg_vl.integrations.trl import SAMPLE, dataset, reward
from tests.conftest import ROOT

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("trl") is None,
        reason="TRL is not installed: pip install 'gpg-vl[bench]'",
    ),
    pytest.mark.filterwarnings("default"),  # TRL uses what transformers deprecates
]
STEPS = 2
GROUP = 4


def trained(tmp_path, policy, rewards, rows):
    """Train two steps of GRPO; return the trainer with its logs."""
    os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1"}
    trl = import_module("trl")
    settings = trl.GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2 * GROUP,
        num_generations=GROUP,
        max_completion_length=12,
        beta=0.0,
        learning_rate=1e-3,
        max_steps=STEPS,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        seed=0,
    )
    trainer = trl.GRPOTrainer(
        policy.model,
        reward_funcs=rewards,
        args=settings,
        train_dataset=rows,
        processing_class=policy.processor,
    )
    trainer.train()
    return trainer


def logged(trainer, name):
    """The values of one metric, step by step."""
    return [row[name] for row in trainer.state.log_history if name in row]


@pytest.fixture
def policy():
    """A tiny Qwen2.5-VL with the processor of its family."""
    config = gpg_vl.load_config("digits", {"policy.tiny.layers": 1})
    return Experiment.resolve(config).policy(log=lambda line: None)


def test_two_steps_on_columns_of_a_data_set(tmp_path, policy):
    """Columns as data sets for TRL have them: prompt, image, solution, and boxes in pixels."""
    from datasets import Dataset
    from PIL import Image

    rows = []
    for number in range(8):
        question = {"role": "user", "content": f"Where is the digit {number}?"}
        picture = Image.new("RGB", (56, 84), (30 * number, 0, 0))
        rows.append({"prompt": [question], "image": picture, "solution": [[5.0, 6.0, 40.0, 50.0]]})
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}

    scored: list[list[float | None]] = []
    perfect: list[list[float | None]] = []
    boxes = reward("boxes", mode="lenient", frame="norm1000")
    answer = [{"role": "assistant", "content": "It is at [89,71,714,595]."}]
    # [5, 6, 40, 50] of 56 x 84 pixels, in thousandths

    def length(completion_ids, **columns):
        return [float(len(ids)) for ids in completion_ids]  # differs, so that something is learned

    class Seen(type(boxes)):
        def __call__(self, **given):
            scored.append(super().__call__(**given))
            answers = [answer] * len(given["completions"])
            perfect.append(super().__call__(**{**given, "completions": answers}))
            return scored[-1]

    boxes.__class__ = Seen
    trainer = trained(tmp_path, policy, [boxes, length], Dataset.from_list(rows))
    assert trainer.state.global_step == STEPS
    assert [len(rewards) for rewards in scored] == [2 * GROUP] * STEPS
    assert all(reward is not None for rewards in scored for reward in rewards)
    assert [min(rewards) for rewards in perfect] == [pytest.approx(1.0, abs=0.01)] * STEPS
    assert len(logged(trainer, "rewards/boxes/mean")) == STEPS
    assert logged(trainer, "boxes/not scored") == [0.0] * STEPS
    after = policy.model.state_dict()
    assert any(not before[name].equal(value) for name, value in after.items())


def test_the_example_runs(tmp_path, policy, monkeypatch):
    """examples/own_trl.py, two steps of it, with the tiny model and few rows."""
    program = (ROOT / "examples" / "own_trl.py").read_text()
    few = {f"data.{place}.options.count": 8 for place in range(2)}
    shortened = {
        '"Qwen/Qwen2.5-VL-3B-Instruct",': "policy.model, processing_class=policy.processor,",
        'dataset("digits")': f'dataset("digits", {few})',
        "max_steps=100": f"max_steps={STEPS}, max_completion_length=8, use_cpu=True, bf16=False, "
        "beta=0.0, report_to=[], save_strategy='no', logging_steps=1",
    }
    for written, short in shortened.items():
        assert program.count(written) == 1
        program = program.replace(written, short)
    monkeypatch.chdir(tmp_path)
    place = {"__name__": "program", "policy": policy}
    exec(program, place)
    assert place["trainer"].state.global_step == STEPS
    assert len(logged(place["trainer"], "rewards/gpg_vl/mean")) == STEPS


def test_two_steps_on_the_data_of_a_config(tmp_path, policy):
    short = {f"data.{place}.options.count": 8 for place in range(2)}
    rows = dataset("digits", short)
    assert {"prompt", "images", SAMPLE} == set(rows.column_names)
    trainer = trained(tmp_path, policy, [reward(style="answer")], rows)
    assert trainer.state.global_step == STEPS
    assert len(logged(trainer, "rewards/gpg_vl/mean")) == STEPS
    assert logged(trainer, "gpg_vl/not scored") == [0.0] * STEPS
