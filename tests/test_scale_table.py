"""The table of docs/scale.md is what its script gives today; cells agree with `gpg-vl plan`."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gpg_vl.config.loading import override, parse
from gpg_vl.config.schema import Config
from gpg_vl.policy.sizes import size_of_model
from gpg_vl.preflight import memory, remedies
from tests.commands import gpg_vl

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scale.md"


@pytest.fixture(autouse=True)
def beside_the_scripts(monkeypatch):
    """They import one another as scripts do."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield
    for name in ("scale_table", "fresh_process"):
        sys.modules.pop(name, None)


def test_the_page_has_the_table_of_today():
    import scale_table

    page = PAGE.read_text()
    assert scale_table.written(page) == page
    assert page.count("does not fit") > 3


def test_the_sizes_are_those_of_the_real_classes(tmp_path):
    import scale_table
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    counts = {"3B": 3.755, "7B": 8.292, "32B": 33.453, "72B": 73.411}
    for model in scale_table.MODELS:
        size = scale_table.workload_of(model, "").size
        assert size.total / 1e9 == pytest.approx(counts[model.name], abs=5e-4)
    (tmp_path / "config.json").write_text(json.dumps(scale_table.MODELS[2].config))
    with torch.device("meta"):
        built = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(tmp_path))
    assert size_of_model(built) == scale_table.workload_of(scale_table.MODELS[2], "").size


def test_fewer_rows_are_sampled_only_where_they_are_needed():
    import scale_table

    run = scale_table.workload_of(scale_table.MODELS[1], scale_table.LORA)
    small, large = scale_table.cell(run, 24.0), scale_table.cell(run, 80.0)
    assert small is not None
    assert large is not None
    assert (small.at_once, large.at_once) == (8, 32)
    assert small.checkpointing
    assert not large.checkpointing
    assert str(small).endswith(" ckpt, 8 at once")
    assert scale_table.cell(run, 16.0) is None


def test_a_cell_is_what_the_command_says(tmp_path):
    import scale_table

    model = scale_table.MODELS[1]
    (tmp_path / "config.json").write_text(json.dumps(model.config))
    words = [f"policy.model={tmp_path}", "hardware.gb=24", *scale_table.LORA.split()]
    done = gpg_vl("plan", scale_table.CONFIG, *words)
    assert done.returncode == 1
    assert "rollout.engine.prompts_at_once=8 (" in " ".join(done.stdout.split())


@pytest.mark.parametrize("begin_with", ["full, float32", "the method"])
def test_what_plan_offers_for_each_cell_with_fewer_groups_at_once_fits(begin_with):
    import scale_table

    found: list[str] = []
    for model in scale_table.MODELS:
        for method, words in scale_table.METHODS.items():
            for gb in scale_table.CARDS_GB:
                card = memory.Machine(gb=gb)
                run = replace(scale_table.workload_of(model, words), machine=card)
                cell = scale_table.cell(run, gb)
                if cell is None or cell.at_once == scale_table.PROMPTS_AT_ONCE[0]:
                    continue
                if begin_with != "the method":
                    run = replace(scale_table.workload_of(model, ""), machine=card)
                offers = [offer.partition(" (")[0] for offer in remedies.problems(run)[1:]]
                at_once = f"rollout.engine.prompts_at_once={cell.at_once}"
                (offer,) = [
                    offer
                    for offer in offers
                    if offer.endswith(at_once)
                    and ("quantise" in offer or "quantise" in words) == ("NF4" in method)
                ]
                values = override(Config, run.config.model_dump(mode="json"), offer.split())
                changed = replace(run, config=parse(Config, values, "offered"))
                assert memory.fits(changed), f"{model.name} {method} {gb:g}: {offer}"
                found.append(f"{model.name} {method} {gb:g}")
    assert found == ["7B LoRA 24", "32B LoRA 80", "32B QLoRA (NF4) 48", "72B QLoRA (NF4) 80"]
