"""Real pretrained weights through every part of a run, in both precisions: load, answer, warm
up, train, save, load plainly, resume."""

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from gpg_vl.config import loading
from gpg_vl.config.schema import Config, LoraConfig, PolicyConfig
from gpg_vl.experiment import Experiment
from gpg_vl.policy.encode import encode
from gpg_vl.policy.load import load_policy
from gpg_vl.policy.sizes import size_of
from gpg_vl.preflight.memory import ON_CPU, Machine, Workload, items
from gpg_vl.prompts import Style
from gpg_vl.report.export import export
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.transformers_engine import TransformersEngine
from gpg_vl.run_folder import metric_rows
from gpg_vl.training import loop
from gpg_vl.types import Sample
from tests.commands import gpg_vl
from tests.held import held, one_step

HERE = Path(__file__).parent


class Run(NamedTuple):
    folder: Path
    lines: list[str]
    config: Config

    def metrics(self) -> list[dict[str, float]]:
        return metric_rows(self.folder)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def run(request, smolqwen, tmp_path_factory) -> Run:
    """A finished run of two steps."""
    lines: list[str] = []
    knobs = [
        f"folder={tmp_path_factory.mktemp(request.param)}",
        f"policy.model={smolqwen}",
        f"policy.dtype={request.param}",
    ]
    config = loading.load(str(HERE / "real.yaml"), knobs)
    folder = loop.train(Experiment.resolve(config), log=lines.append)
    return Run(folder, lines, config)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_knows_the_capital_of_france(dtype, smolqwen):
    policy = load_policy(PolicyConfig(model=str(smolqwen), dtype=dtype), seed=0)
    sample = Sample(
        id="q", question="What is the capital of France?", answer_kind="label", answer="Paris"
    )
    asked = encode(sample, Style(think="absent", instruction=""), policy)
    sampling = Sampling(max_tokens=24, temperature=1.0, greedy=True)
    ((answer,),) = TransformersEngine(policy).generate([asked], sampling, [[0]])
    assert "Paris" in policy.decode(answer.token_ids)


@pytest.mark.parametrize("vision", ["frozen", "full"])
def test_the_plan_says_what_a_process_holds(vision, smolqwen):
    given = PolicyConfig(model=str(smolqwen), vision=vision)
    policy = load_policy(given, seed=0)
    found = held(policy, one_step(policy))
    config = Config.model_validate({"data": [{"recipe": "digits"}], "policy": given.model_dump()})
    workload = Workload(config=config, size=size_of(given), machine=Machine(gb=None))
    planned = {item.name: item.step for item in items(workload, ON_CPU)}
    for name, count in found.items():
        assert planned.get(name, 0) == pytest.approx(count, rel=1e-4), name


def test_the_gate_is_on_and_knows_rounding_from_error(run):
    """Real weights in bfloat16 are off by tenths of a nat, in float32 by hundred-thousandths:
    rounding, and not stopped."""
    first = run.metrics()[0]
    assert 0 < first["gate/mean"] < first["gate/allowed"]
    assert first["gate/excess"] < 0.5
    assert any(line.startswith("engine check: fine (difference") for line in run.lines)
    assert (first["gate/worst"] > 0.02) == (run.config.policy.dtype == "bfloat16")


def test_the_prompt_is_shared(run):
    """Rounding to bfloat16 is no reason to fall back to plain rows."""
    assert any("image and prompt are computed once per group" in line for line in run.lines)


def test_the_warm_up_teaches(run):
    losses = [
        float(found[1])
        for line in run.lines
        if (found := re.match(r"warm-up \d/6: loss ([\d.]+),", line))
    ]
    assert len(losses) == 6
    assert losses[-1] < 0.5 * losses[0]


def test_gpg_steps_are_finite_and_move_the_language_model(run, smolqwen):
    rows = run.metrics()
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["grad_norm"] > 0 for row in rows), "a step without an informative group"
    after = load_file(run.folder / "checkpoints" / "000002" / "policy" / "model.safetensors")
    before = load_file(run.folder / "checkpoints" / "000000" / "policy" / "model.safetensors")
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved
    assert not any("visual" in name and "merger" not in name for name in moved), (
        "the tower is frozen"
    )
    assert all(value.isfinite().all() for value in after.values())


def test_the_saved_policy_loads_with_plain_transformers(run):
    folder = run.folder / "checkpoints" / "000002" / "policy"
    plain, loaded = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not loaded["missing_keys"]
    assert not loaded["unexpected_keys"]
    ids = torch.tensor([[5, 6, 7, 8]])
    policy = load_policy(run.config.policy, seed=0, path=folder)
    inputs = {"input_ids": ids, "mm_token_type_ids": torch.zeros_like(ids)}
    with torch.no_grad():
        assert torch.equal(plain(**inputs).logits, policy.model(**inputs).logits)


def test_a_resumed_run_ends_where_the_whole_one_did(run, tmp_path):
    cut = shutil.copytree(run.folder, tmp_path / "cut")
    shutil.rmtree(cut / "checkpoints" / "000002")
    loop.train(Experiment.resolve(run.config), resume=cut, log=lambda line: None)
    ends = [
        load_file(folder / "checkpoints" / "000002" / "policy" / "model.safetensors")
        for folder in (run.folder, cut)
    ]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_commands_take_it(run):
    done = gpg_vl("rollout", run.folder / "config.yaml", "--model", run.folder, "--groups", 2)
    assert done.returncode == 0, done.stderr
    assert "mean reward" in done.stdout


def test_adapters_are_exported_as_one_model_that_computes_the_same(smolqwen, tmp_path):
    given = PolicyConfig(
        model=str(smolqwen), language="lora", projector="frozen", lora=LoraConfig(rank=4)
    )
    policy = load_policy(given, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    policy.save(tmp_path / "adapter")
    export(str(tmp_path / "adapter"), tmp_path / "model", merged=True, dtype="float32")
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    base = AutoModelForImageTextToText.from_pretrained(smolqwen, dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7, 8]])
    inputs = {"input_ids": ids, "mm_token_type_ids": torch.zeros_like(ids)}
    with torch.no_grad():
        expected = policy.model(**inputs).logits
        torch.testing.assert_close(plain(**inputs).logits, expected, rtol=0, atol=1e-3)
        assert (base(**inputs).logits - expected).abs().max() > 0.1


@pytest.fixture(scope="module")
def lora_run(smolqwen, tmp_path_factory) -> Run:
    """A finished run of two steps that trains adapters in bfloat16."""
    knobs = [
        f"folder={tmp_path_factory.mktemp('lora')}",
        f"policy.model={smolqwen}",
        "policy.dtype=bfloat16",
        "policy.language=lora",
        "policy.projector=frozen",
        "optimizer.lr=1e-4",
        "warmup.optimizer.lr=1e-3",
    ]
    lines: list[str] = []
    config = loading.load(str(HERE / "real.yaml"), knobs)
    folder = loop.train(Experiment.resolve(config), log=lines.append)
    return Run(folder, lines, config)


def adapter_at(run: Run, step: int) -> dict[str, torch.Tensor]:
    folder = run.folder / "checkpoints" / f"{step:06d}" / "policy"
    return load_file(folder / "adapter_model.safetensors")


def test_adapters_learn_the_format_and_move_and_pass_the_gate(lora_run):
    losses = [
        float(found[1])
        for line in lora_run.lines
        if (found := re.match(r"warm-up \d/6: loss ([\d.]+),", line))
    ]
    assert losses[-1] < 0.5 * losses[0]
    assert any("image and prompt are computed once per group" in line for line in lora_run.lines)
    rows = lora_run.metrics()
    assert 0 < rows[0]["gate/mean"] < rows[0]["gate/allowed"]
    assert rows[0]["gate/excess"] < 0.8
    before, after = adapter_at(lora_run, 0), adapter_at(lora_run, 2)
    moved = [name for name in after if not torch.equal(before[name], after[name])]
    assert len(moved) == len(after) == 2 * 7 * 30  # A and B of seven matrices in thirty layers
    assert all(tensor.isfinite().all() for tensor in after.values())


def test_a_checkpoint_of_adapters_is_small(lora_run):
    policy = lora_run.folder / "checkpoints" / "000002" / "policy"
    weights = (policy / "adapter_model.safetensors").stat().st_size
    assert weights < 20_000_000
    assert sum(path.stat().st_size for path in policy.rglob("*") if path.is_file()) < 25_000_000


def test_a_resumed_run_of_adapters_ends_where_the_whole_one_did(lora_run, tmp_path):
    cut = shutil.copytree(lora_run.folder, tmp_path / "cut")
    shutil.rmtree(cut / "checkpoints" / "000002")
    loop.train(Experiment.resolve(lora_run.config), resume=cut, log=lambda line: None)
    expected, found = adapter_at(lora_run, 2), adapter_at(Run(cut, [], lora_run.config), 2)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
