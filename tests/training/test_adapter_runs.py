"""Whole runs with adapters, quantised and half-size weights: saved, resumed, evaluated."""

import gc
import json
import weakref

import pytest
import torch
from safetensors.torch import load_file

from gpg_vl.config.schema import PolicyConfig
from gpg_vl.policy import load
from gpg_vl.policy.load import load_policy
from gpg_vl.training import warmup_cache
from tests.commands import gpg_vl
from tests.training.test_train import HERE, metrics, of_the_machine, run, set_up, small, timeless

NO_QUESTIONS = "evaluation.benchmark=null"
LORA = ("policy.language=lora", "policy.vision=lora", "policy.projector=full")
NF4 = (
    "policy.language=lora",
    "policy.vision=frozen",
    "policy.quantise=nf4",
    "policy.tiny.hidden=64",
)
RUNS = {
    "lora": LORA,
    "bfloat16": (*LORA, "policy.dtype=bfloat16"),
    "nf4": NF4,
    "divergence": (*LORA, "estimator.kind=grpo", "estimator.kl=0.5"),
    "dropout": (*LORA, "policy.lora.dropout=0.2"),
    "lora8bit": (*LORA, "optimizer.kind=adamw8bit"),
    "adamw8bit": ("optimizer.kind=adamw8bit",),
    "half": ("policy.dtype=bfloat16", "policy.weights=bfloat16"),
    "half8bit": (
        "policy.dtype=bfloat16",
        "policy.weights=bfloat16",
        "optimizer.kind=adamw8bit",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("adapter_runs")


@pytest.fixture(scope="module")
def base(folder):
    """The folder of a model that answers in the right format, as published models do."""
    done = run(folder, "name=base", NO_QUESTIONS, "steps=0", "policy.tiny.hidden=64")
    return done / "checkpoints" / "000000" / "policy"


def begin(base, *knobs):
    """Knobs of a run that begins with this model; a short warm-up goes on from there."""
    return (f"policy.model={base}", "warmup.steps=2", NO_QUESTIONS, *knobs)


def tensors(run_folder, step):
    (file,) = (run_folder / "checkpoints" / f"{step:06d}" / "policy").glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(name, base, folder):
    knobs = begin(base, *RUNS[name], "checkpoint.every=2")
    whole = run(folder, f"name={name}", *knobs)
    run(folder, f"name={name}_cut", *knobs, "steps=2")
    cut = run(folder, f"name={name}_cut", *knobs, resume=folder / f"{name}_cut")
    expected, found = tensors(whole, 4), tensors(cut, 4)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    for row, twin in zip(timeless(whole, "step"), timeless(cut, "step"), strict=True):
        assert {key: row[key] for key in row if not of_the_machine(key)} == {
            key: twin[key] for key in twin if not of_the_machine(key)
        }
    begun = tensors(whole, 2)
    assert any(not torch.equal(begun[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("name", "loads"), [("divergence", 1), ("nf4", 1), ("whole", 3)])
def test_a_warm_up_and_a_divergence_leave_one_model_in_memory_with_the_warmed_up_weights(
    name, loads, base, folder, monkeypatch
):
    """Beside adapters, no second base model is even loaded."""
    loaded: list[weakref.ref[torch.nn.Module]] = []
    honest = load._load_model

    def load_model(*given):
        model = honest(*given)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(load, "_load_model", load_model)
    divergence = ("estimator.kind=grpo", "estimator.kl=0.5", "policy.vision=frozen")
    knobs = begin(base, *RUNS.get(name, ()), *divergence, "warmup.steps=3")
    for is_cached in (False, True):
        loaded.clear()
        config = small(folder, f"name=loads_{name}_{is_cached}", *knobs)
        begun = set_up(config)
        begun.engine.close()
        begun.folder.close()
        gc.collect()
        assert len(loaded) == loads
        assert [model() for model in loaded if model() is not None] == [begun.policy.model]
        kept = warmup_cache.cache_path(begun.config, begun.experiment.warmup_data)
        warmed_up = load_policy(config.policy, seed=0, path=kept).model
        found = dict(begun.policy.model.named_parameters())
        first = begun.learner.reference.first
        for name_of, parameter in warmed_up.named_parameters():
            assert torch.equal(found[name_of], parameter), name_of
            assert found[name_of].grad is None
            if parameter.requires_grad:
                assert torch.equal(first[name_of], parameter), name_of
                assert first[name_of].dtype == parameter.dtype


def test_a_checkpoint_holds_the_adapter_alone_and_the_base_of_a_tiny_model(folder):
    done = run(folder, "name=files", *LORA, NO_QUESTIONS, "steps=1")
    policy = done / "checkpoints" / "000001" / "policy"
    settings = json.loads((policy / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "base"
    assert settings["peft_type"] == "LORA"
    assert not [*policy.glob("model*.safetensors")]
    assert (policy / "base" / "model.safetensors").is_file()
    names = tensors(done, 1)
    assert any(".lora_A." in name for name in names)
    assert any("merger" in name and ".lora_" not in name for name in names)
    assert all(name.startswith("base_model.model.") for name in names)


def test_the_commands_take_a_run_with_adapters(folder):
    done = run(folder, "name=commands", *LORA, "steps=2")
    held_out = timeless(done, "held_out")
    assert len(held_out) >= 2
    assert metrics(done)[-1]["step"] == 2
    for command in (
        ("evaluate", HERE / "small_benchmark.yaml", "--model", done, "--to", folder / "one.jsonl"),
        ("rollout", done / "config.yaml", "--model", done, "--groups", 2),
    ):
        ended = gpg_vl(*command)
        assert ended.returncode == 0, ended.stderr
    before = done / "evaluation" / "small-before.jsonl"
    after = done / "evaluation" / "small-after.jsonl"
    ended = gpg_vl("compare", before, after)
    assert ended.returncode == 0, ended.stderr
    ours = [json.loads(line)["greedy"] for line in after.read_text().splitlines()]
    again = [json.loads(line)["greedy"] for line in (folder / "one.jsonl").read_text().splitlines()]
    assert ours == again


def test_another_run_begins_with_the_adapter_of_a_run(folder):
    first = run(folder, "name=first", *LORA, NO_QUESTIONS, "steps=1")
    end = first / "checkpoints" / "000001" / "policy"
    knobs = (*LORA, NO_QUESTIONS, "steps=1", "warmup.steps=0", f"policy.model={end}")
    second = run(folder, "name=second", *knobs)
    start = tensors(second, 0)
    expected = tensors(first, 1)
    assert start.keys() == expected.keys()
    assert all(torch.equal(start[name], expected[name]) for name in start)
    whole = run(folder, "name=whole", *knobs, "policy.language=full", "policy.vision=full")
    merged = load_policy(PolicyConfig(model=str(end)), seed=0, log=lambda line: None)
    begun = load_policy(
        PolicyConfig(model=str(whole / "checkpoints" / "000000" / "policy")), seed=0
    )
    expected = dict(merged.model.named_parameters())
    for name, parameter in begun.model.named_parameters():
        assert torch.equal(parameter, expected[name]), name
