"""Two processes are one: the same draws, the same update, the same numbers in the log."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gpg_vl import loading
from gpg_vl.training import assembly
from gpg_vl.training.distributed import start_accelerator
from gpg_vl.types import UserError

from .one_step import BUDGETS, CASES

HERE = Path(__file__).parent
KNOBS = ["rollout.max_rounds=1", "steps=2", "evaluation.benchmark=null", "policy.dtype=float64", "warmup.steps=40"]


def train(folder: Path, processes: int, *knobs: str) -> Path:
    done = launched(folder, processes, *knobs)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "small"


def launched(folder: Path, processes: int, *knobs: str) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m", "gpg_vl"]
    command = [sys.executable, *(launcher if processes > 1 else ["-m", "gpg_vl"]), "train", "small.yaml"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    asked = [*command, f"folder={folder}", *KNOBS, *knobs]
    return subprocess.run(asked, cwd=HERE, env=environment, capture_output=True, text=True, timeout=120)


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"{step:06d}" / "policy" / "model.safetensors")


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("ranks")
    return train(folder / "one", 1), train(folder / "two", 2)


def test_warmup_and_update_are_the_same(one_and_two):
    one, two = one_and_two
    for name, parameter in weights(one, 2).items():
        torch.testing.assert_close(weights(two, 2)[name], parameter, rtol=0, atol=1e-5)


RATIOS_OF_ROUNDING = {"gate/excess", "gate/carriers"}
"""Last bits divided by last bits: these are no rank's and no run's own."""


def test_the_log_is_of_all_ranks(one_and_two):
    first, second = ([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in one_and_two)
    assert len(first) == len(second) == 2
    for one, two in zip(first, second, strict=True):
        assert one.keys() == two.keys()
        compared = {key for key in one if "second" not in key} - RATIOS_OF_ROUNDING
        assert {key: two[key] for key in compared} == pytest.approx({key: one[key] for key in compared}, rel=1e-4, abs=1e-6)


def test_every_rank_keeps_its_rollouts(one_and_two):
    _, two = one_and_two
    assert {path.name for path in (two / "rollouts").iterdir()} == {
        f"00000{step}{rank}.jsonl.gz" for step in (1, 2) for rank in ("", ".rank1")
    }


@pytest.fixture(scope="module")
def gradients_of_one_and_two(tmp_path_factory) -> list[Path]:
    folders = []
    for processes in (1, 2):
        folders.append(tmp_path_factory.mktemp(f"gradients{processes}"))
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
        done = subprocess.run(
            [sys.executable, *launcher, "-m", "tests.one_step", str(folders[-1])],
            cwd=HERE.parent,
            env={**os.environ, "ACCELERATE_USE_CPU": "true"},
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    return folders


@pytest.mark.parametrize("tokens", BUDGETS)
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_make_the_gradient_of_one(case, tokens, gradients_of_one_and_two):
    one, two = (torch.load(folder / f"{list(CASES).index(case)}-{tokens}.pt") for folder in gradients_of_one_and_two)
    assert sum(gradient.abs().sum() for gradient in one.values()) > 0
    for name, gradient in one.items():
        torch.testing.assert_close(two[name], gradient, rtol=1e-5, atol=1e-9)


def test_what_one_process_loses_all_stop_for_with_a_checkpoint(tmp_path):
    done = launched(tmp_path, 2, "rollout.engine=lost_engine.py:LostOnOne", "checkpoint.every=100")
    assert done.returncode != 0
    told = done.stdout + done.stderr
    assert "stopped after step 1: no answer in 900 s. Then go on with gpg-vl train --resume" in told
    assert "gpg_vl/training" not in told, "nobody's traceback"
    assert {path.name for path in (tmp_path / "small" / "checkpoints").iterdir()} == {"000000", "000001"}


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("ACCELERATE_USE_FSDP", "true", "accelerate: launched with FSDP, which trains a wrong model here or none"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "accelerate: launched with DeepSpeed, which"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "accelerate: launched with Megatron-LM, which"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "accelerate: got mixed_precision fp16, expected no; gpg_vl casts by itself"),
    ],
)
def test_what_would_train_a_wrong_model_is_refused_before_one_is_loaded(key, value, sentence, tmp_path, monkeypatch):
    """By what was asked for: on a CPU accelerate itself passes over these."""
    monkeypatch.setenv(key, value)
    monkeypatch.setattr(assembly, "load_policy", lambda *given, **named: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match=sentence):
        assembly.assemble(loading.load(str(HERE / "small.yaml"), [f"folder={tmp_path}"]), HERE)


def test_what_is_said_to_be_off_is_not_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert start_accelerator().num_processes == 1


def test_gradients_are_kept_once():
    """DDP's buckets are the gradients themselves: the plan counts no bytes for buckets."""
    assert start_accelerator().ddp_handler.gradient_as_bucket_view
