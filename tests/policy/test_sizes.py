"""Sizes from a config.json: by arithmetic what the real classes count, for every family, at
published numbers."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from gpg_vl.config.schema import PolicyConfig, Tiny
from gpg_vl.errors import UserError
from gpg_vl.policy import sizes, tiny
from tests.any_family import TOKENS, policy_of_family
from tests.published_sizes import SHAPES, write


@pytest.mark.parametrize("name", SHAPES)
def test_arithmetic_counts_what_the_real_class_has(name, tmp_path):
    folder = write(name, tmp_path)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    assert sizes.size_of(PolicyConfig(model=str(folder))) == sizes.size_of_model(model)


def test_published_counts(tmp_path):
    totals = {
        name: sizes.size_of(PolicyConfig(model=str(write(name, tmp_path)))).total for name in SHAPES
    }
    assert totals["Qwen2-VL-2B"] == 2_208_985_600
    assert totals["Qwen2.5-VL-3B"] == 3_754_622_976
    assert totals["Qwen2.5-VL-7B"] == 8_292_166_656


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("hidden", [32, 160])
def test_the_tiny_model_is_counted_without_being_built(family, hidden):
    shape = Tiny(family=family, hidden=hidden, layers=3, vision_hidden=48, vision_layers=3)
    built = tiny.build_model(tiny.build_tokenizer(), shape, 0)
    assert sizes.size_of(PolicyConfig(tiny=shape)) == sizes.size_of_model(built)


@pytest.mark.parametrize("family", ["internvl", "smolvlm", "idefics3", "llava", "gemma3"])
def test_other_families_are_built_without_weights(family, tmp_path):
    model = policy_of_family(family).model
    model.config.save_pretrained(tmp_path)
    size = sizes.size_of(PolicyConfig(model=str(tmp_path)))
    assert size == sizes.size_of_model(model)
    assert size.total == sum(parameter.numel() for parameter in model.parameters())
    visual = (32 // 8) ** 2 / size.patches  # tokens of a picture of 32 x 32 in patches of 8 x 8
    assert visual == TOKENS[family]


def test_a_file_that_leaves_sizes_out_is_read_by_its_class(tmp_path):
    folder = write("Qwen2.5-VL-3B", tmp_path)
    said = json.loads((folder / "config.json").read_text())
    del said["vision_config"]["depth"]  # the class knows: 32
    (folder / "config.json").write_text(json.dumps(said))
    assert sizes.size_of(PolicyConfig(model=str(folder))).total == 3_754_622_976


def test_what_is_no_model_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"has no config.json, so it is no model"):
        sizes.size_of(PolicyConfig(model=str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="is a llama; expected one of qwen2_vl"):
        sizes.size_of(PolicyConfig(model=str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no model_type in its config.json"):
        sizes.size_of(PolicyConfig(model=str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    with pytest.raises(UserError, match=r"has no vision_config in its config.json"):
        sizes.size_of(PolicyConfig(model=str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type"')
    with pytest.raises(UserError, match=r"config.json is not JSON"):
        sizes.size_of(PolicyConfig(model=str(tmp_path)))


def test_neither_torch_nor_transformers_is_imported(tmp_path):
    code = (
        "import sys; from gpg_vl.config.schema import PolicyConfig; from gpg_vl.policy.sizes "
        "import size_of\nsize_of(PolicyConfig()); "
        f"size_of(PolicyConfig(model={str(write('Qwen2-VL-2B', tmp_path))!r}))\nassert not "
        "{'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
