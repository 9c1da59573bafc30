"""Two processes are one: the same prompts, the same update, the same numbers in the log."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gpg_vl.config import loading
from gpg_vl.errors import UserError
from gpg_vl.experiment import Experiment
from gpg_vl.training import processes, setup
from gpg_vl.training.processes import start_accelerator
from tests import two_ranks
from tests.training.test_train import metrics, of_the_machine
from tests.two_ranks import BUDGETS, CASES, KNOBS

HERE = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("initialised", "backend", "left"),
    [(True, "gloo", True), (True, "nccl", False), (False, "gloo", False)],
)
def test_a_process_leaves_its_group_in_order(initialised, backend, left, monkeypatch):
    """At exit gloo would abort a process whose peers have left first, after all work is done."""
    left_groups: list[str] = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: initialised)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: backend)
    monkeypatch.setattr(
        torch.distributed, "destroy_process_group", lambda: left_groups.append(backend)
    )
    processes._end_process_group()
    assert left_groups == (["gloo"] if left else [])


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """What one process makes, this one."""
    folder = tmp_path_factory.mktemp("one")
    two_ranks.small_run(folder)
    two_ranks.write_gradients(folder)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """What two make, in one launch for all tests of this file."""
    folder = tmp_path_factory.mktemp("two")
    done = launched("tests.two_ranks", str(folder), cwd=HERE.parent)
    assert done.returncode == 0, done.stderr[-8000:]
    return folder


def launched(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", module]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, *launcher, *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"{step:06d}" / "policy" / "model.safetensors")


def test_warmup_and_update_are_the_same(one, two):
    of_two = weights(two / "small", 2)
    for name, parameter in weights(one / "small", 2).items():
        torch.testing.assert_close(of_two[name], parameter, rtol=0, atol=1e-5)


RATIOS_OF_ROUNDING = {"gate/excess", "gate/carriers"}
"""Last bits divided by last bits: these are no rank's and no run's own."""


def test_the_log_is_of_all_ranks(one, two):
    of_one, of_two = metrics(one / "small"), metrics(two / "small")
    assert len(of_one) == len(of_two) == 2
    for first, second in zip(of_one, of_two, strict=True):
        assert first.keys() == second.keys()
        compared = {key for key in first if not of_the_machine(key)} - RATIOS_OF_ROUNDING
        assert {key: second[key] for key in compared} == pytest.approx(
            {key: first[key] for key in compared}, rel=1e-4, abs=1e-6
        )


def test_every_rank_keeps_its_rollouts(two):
    assert {path.name for path in (two / "small" / "rollouts").iterdir()} == {
        f"00000{step}{rank}.jsonl.gz" for step in (1, 2) for rank in ("", ".rank1")
    }


def test_the_rows_of_all_ranks_name_pictures_that_are_there_and_those_of_one(one, two):
    assert images_of(one / "small") == images_of(two / "small")
    names = [image["file"] for images in images_of(two / "small").values() for image in images]
    assert any(names)
    assert all((two / "small" / name).is_file() for name in names if name)


def rows_of(run: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the groups of a run by step and draw."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for path in (run / "rollouts").iterdir():
        for line in gzip.decompress(path.read_bytes()).splitlines():
            row = json.loads(line)
            rows[path.name.split(".")[0], row["draw"]] = row
    return rows


def images_of(run: Path) -> dict[tuple[str, int], list[dict[str, str]]]:
    return {place: row["images"] for place, row in rows_of(run).items()}


def test_every_answer_has_the_weight_that_it_has_in_one_process(one, two):
    of_one, of_two = rows_of(one / "small"), rows_of(two / "small")
    assert of_one.keys() == of_two.keys()
    weights: list[float] = []
    for place, row in of_one.items():
        own = [answer["weight"] for answer in row["answers"]]
        others = [answer["weight"] for answer in of_two[place]["answers"]]
        if not row["used"]:
            assert own == others == [None] * len(own)
            continue
        assert others == pytest.approx(own, rel=1e-9)
        weights += own
    assert min(weights) < 0 < max(weights)


@pytest.mark.parametrize("tokens", BUDGETS)
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_make_the_gradient_of_one(case, tokens, one, two):
    of_one, of_two = (
        torch.load(folder / f"{list(CASES).index(case)}-{tokens}.pt") for folder in (one, two)
    )
    assert sum(gradient.abs().sum() for gradient in of_one.values()) > 0
    for name, gradient in of_one.items():
        torch.testing.assert_close(of_two[name], gradient, rtol=1e-5, atol=1e-9)


def test_out_of_memory_on_one_of_two_ranks_both_begin_the_step_again_and_it_is_the_same(two):
    case = list(CASES).index("one rank has only text")
    expected = torch.load(two / f"{case}-{BUDGETS[0]}.pt")
    of_ranks = [torch.load(two / f"memory.rank{rank}.pt") for rank in (0, 1)]
    assert [found["tried"] for found in of_ranks] == [[2, 2], [2, 1, 1]]
    assert of_ranks[0]["metrics"] == of_ranks[1]["metrics"]
    assert of_ranks[0]["metrics"]["memory_splits"] == 1.0
    for found in of_ranks:
        assert found["gradients"].keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found["gradients"][name], gradient, rtol=1e-5, atol=1e-9)


def test_all_ranks_round_alike(two):
    first, second = (torch.load(two / f"rounded.rank{rank}.pt") for rank in (0, 1))
    narrow = [name for name, item in first.items() if item.dtype == torch.bfloat16]
    assert len(narrow) > 50
    for name, item in first.items():
        assert torch.equal(item, second[name]), name


STOPPED = (
    "stopped after step 1: no answer in 900 s. Then go on with accelerate launch ... -m gpg_vl "
    "train --resume"
)


def test_what_one_process_loses_all_stop_for_with_a_checkpoint(two):
    for rank in (0, 1):
        assert STOPPED in (two / f"stopped.rank{rank}.txt").read_text()
    assert {path.name for path in (two / "lost" / "checkpoints").iterdir()} == {"000000", "000001"}


@pytest.mark.nightly
def test_the_command_of_two_processes_ends_with_the_sentence_and_no_traceback(tmp_path):
    engine = "rollout.engine=lost_engine.py:LostOnOne"
    done = launched("gpg_vl", "train", "small.yaml", f"folder={tmp_path}", *KNOBS, engine, cwd=HERE)
    assert done.returncode != 0
    assert STOPPED in done.stdout + done.stderr
    assert "gpg_vl/training" not in done.stdout + done.stderr, "nobody's traceback"


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        (
            "ACCELERATE_USE_FSDP",
            "true",
            "accelerate: launched with FSDP, which trains a wrong model here or none",
        ),
        ("ACCELERATE_USE_DEEPSPEED", "true", "accelerate: launched with DeepSpeed, which"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "accelerate: launched with Megatron-LM, which"),
        (
            "ACCELERATE_MIXED_PRECISION",
            "fp16",
            "accelerate: got mixed_precision fp16, expected no; gpg_vl casts by itself",
        ),
    ],
)
def test_what_would_train_a_wrong_model_is_refused_before_one_is_loaded(
    key, value, sentence, tmp_path, monkeypatch
):
    """By what was asked for: on a CPU accelerate itself passes over these."""
    monkeypatch.setenv(key, value)
    monkeypatch.setattr(
        Experiment, "policy", lambda *given, **named: pytest.fail("a model was loaded")
    )
    config = loading.load(str(HERE / "small.yaml"), [f"folder={tmp_path}"])
    with pytest.raises(UserError, match=sentence):
        setup.set_up(Experiment.resolve(config))


def test_what_is_said_to_be_off_is_not_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert start_accelerator().num_processes == 1
