"""Export: an adapter for peft or one plain model, whose logits are the policy's; what is refused,
and nothing half-written."""

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

import gpg_vl as package
from gpg_vl.errors import UserError
from gpg_vl.policy import quantised
from gpg_vl.report import export as exporting
from gpg_vl.report.export import export
from tests.adapted import LANGUAGE, PROJECTOR, TOWER, moved, tiny
from tests.commands import gpg_vl

IDS = torch.tensor([[5, 6, 7, 8]])
INPUTS = {"input_ids": IDS, "mm_token_type_ids": torch.zeros_like(IDS)}
WHOLE = {"language": "full"}
CARD = "---\nlibrary_name: peft\ntags:\n- lora\n---\n\n# mine, step 3\n\nTrained.\n"


def saved_run(policy, run: Path, step: int = 3) -> Path:
    """A run folder as far as export looks at it."""
    folder = run / "checkpoints" / f"{step:06d}"
    policy.save(folder / "policy")
    (folder / "policy" / "README.md").write_text(CARD)
    (folder / "state.json").write_text('{"step": 3, "score": null}')
    (folder / "learner").mkdir()
    (folder / "learner" / "optimizer.pt").touch()
    for name in ("config.yaml", "environment.json"):
        (run / name).write_text("{}")
    return run


def logits(model, dtype=torch.float64):
    with torch.no_grad():
        return model.eval().to(dtype)(**INPUTS).logits


def plain(folder, **options):
    return AutoModelForImageTextToText.from_pretrained(folder, **options)


@pytest.fixture(scope="module")
def adapter_run(tmp_path_factory):
    """A run with adapters in language and tower, in float64."""
    policy = moved(tiny(**TOWER))
    return policy, saved_run(policy, tmp_path_factory.mktemp("lora") / "run")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    policy = moved(tiny(**WHOLE, dtype="float32"))
    return policy, saved_run(policy, tmp_path_factory.mktemp("whole") / "run")


def test_a_merged_model_computes_what_the_policy_does(adapter_run, tmp_path):
    policy, run = adapter_run
    lines = []
    assert export(str(run), tmp_path / "model", merged=True, log=lines.append) == tmp_path / "model"
    model, info = plain(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not [*(tmp_path / "model").glob("adapter*")]
    assert not (tmp_path / "model" / "base").exists()
    torch.testing.assert_close(logits(model), logits(policy.model), rtol=0, atol=1e-6)
    base = plain(run / "checkpoints" / "000003" / "policy" / "base")
    assert (logits(base) - logits(policy.model)).abs().max() > 1e-3
    assert "a whole model in float64" in lines[-1]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("parts", [LANGUAGE, PROJECTOR])
def test_without_merged_peft_loads_the_adapter_onto_its_base(parts, tmp_path):
    policy = moved(tiny(**parts))
    run = saved_run(policy, tmp_path / "run")
    export(str(run), tmp_path / "adapter", log=lambda line: None)
    base = plain(tmp_path / "adapter" / "base")
    model = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(model), logits(policy.model), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_type_is_that_of_every_tensor_and_of_the_config(dtype, adapter_run, tmp_path):
    policy, run = adapter_run
    lines = []
    export(str(run), tmp_path / "model", merged=True, dtype=dtype, log=lines.append)
    assert ("lose small changes of a weight" in lines[-1]) == (dtype == "bfloat16")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == dtype
    export(str(run), tmp_path / "adapter", dtype=dtype, log=lambda line: None)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}
    found, expected = logits(plain(tmp_path / "model")), logits(policy.model)
    assert (found - expected).abs().max() < (0.1 if dtype == "bfloat16" else 1e-4)


def test_a_run_without_adapters_is_copied_to_the_last_byte(whole_run, tmp_path):
    _, run = whole_run
    origin = run / "checkpoints" / "000003" / "policy"
    (origin / "optimizer.pt").write_text("what a trainer left")
    export(str(run), tmp_path / "model", log=lambda line: None)
    (origin / "optimizer.pt").unlink()
    copied = {path.name for path in (tmp_path / "model").iterdir()}
    assert copied == {path.name for path in origin.iterdir()}
    for name in copied - {"README.md"}:
        assert (tmp_path / "model" / name).read_bytes() == (origin / name).read_bytes()


def test_a_run_without_adapters_in_half_the_size(whole_run, tmp_path):
    _, run = whole_run
    lines = []
    export(str(run), tmp_path / "model", merged=True, dtype="bfloat16", log=lines.append)
    assert "has no adapter to merge; it is one plain model as it is" in lines[0]
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    whole = load_file(run / "checkpoints" / "000003" / "policy" / "model.safetensors")
    assert tensors.keys() == whole.keys()
    assert all(torch.equal(tensors[name], whole[name].to(torch.bfloat16)) for name in whole)
    assert logits(plain(tmp_path / "model")).isfinite().all()


def test_a_checkpoint_of_a_run_and_a_folder_of_an_adapter_are_exported(adapter_run, tmp_path):
    policy, run = adapter_run
    folder = run / "checkpoints" / "000003"
    for place, name in enumerate((folder, folder / "policy")):
        export(str(name), tmp_path / str(place), merged=True, log=lambda line: None)
        torch.testing.assert_close(
            logits(plain(tmp_path / str(place))), logits(policy.model), rtol=0, atol=1e-6
        )


def test_quantised_weights_are_merged_as_they_were_trained(tmp_path):
    """The adapter was trained on what 4 bits stand for, not on the base model."""
    start = tmp_path / "start"
    tiny(**WHOLE, dtype="float32").save(start)
    policy = moved(tiny(model=str(start), dtype="float32", quantise="nf4"))
    run = saved_run(policy, tmp_path / "run")
    export(str(run), tmp_path / "model", merged=True, log=lambda line: None)
    found, expected = logits(plain(tmp_path / "model")), logits_of_quantised(policy)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    about = run / "checkpoints" / "000003" / "policy" / "base.json"
    assert json.loads(about.read_text())["quantise"] == "nf4"
    about.write_text(json.dumps({}))  # the negative control: merged with the base model itself
    export(str(run), tmp_path / "other", merged=True, log=lambda line: None)
    assert (logits(plain(tmp_path / "other")) - expected).abs().max() > 1e-2


def test_sums_with_a_quantised_base_keep_the_digits_of_the_type_that_is_asked_for(tmp_path):
    """In bfloat16 the base computes in bfloat16; its sum with an adapter has more digits."""
    start = tmp_path / "start"
    tiny(**WHOLE, dtype="float32").save(start)
    policy = moved(tiny(model=str(start), dtype="bfloat16", quantise="nf4"))
    run = saved_run(policy, tmp_path / "run")
    export(str(run), tmp_path / "model", merged=True, dtype="float32", log=lambda line: None)
    saved = plain(tmp_path / "model")
    adapted = 0
    for name, layer in policy.adapters.layers():
        if not quantised.is_quantised(layer.base_layer):
            continue
        base = quantised.plain_weight(layer.base_layer)
        assert base.dtype == torch.bfloat16
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        expected = base.float() + policy.adapters.settings.lora_alpha / len(a) * b @ a
        found = saved.get_submodule(name).weight
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
        assert (expected.bfloat16() - expected).abs().max() > 1e-5
        adapted += 1
    assert adapted >= 4


def logits_of_quantised(policy):
    with torch.no_grad():
        return policy.model.train()(**INPUTS).logits.double()


@pytest.mark.parametrize("form", [{}, {"merged": True}, {"dtype": "bfloat16"}])
def test_who_may_read_a_new_file_may_read_the_weights(form, adapter_run, tmp_path):
    """Colleagues, and a server that runs as another user; safetensors by itself allows neither."""
    export(str(adapter_run[1]), tmp_path / "new", log=lambda line: None, **form)
    (tmp_path / "other").touch()
    expected = (tmp_path / "other").stat().st_mode
    for folder in (adapter_run[1], tmp_path / "new"):
        weights = [*folder.rglob("*.safetensors")]
        assert weights
        assert {path.stat().st_mode for path in weights} == {expected}


def test_a_base_in_float16_stays_so_and_its_terms_go_along(tmp_path):
    start = tmp_path / "start"
    base = tiny(**WHOLE, dtype="float32")
    base.model.half()
    base.save(start)
    (start / "LICENSE").write_text("terms of the base")
    run = saved_run(moved(tiny(model=str(start), dtype="float32")), tmp_path / "run")
    (run / "checkpoints" / "000003" / "policy" / "LICENSE").write_text("terms of the adapter")
    lines = []
    export(str(run), tmp_path / "model", merged=True, log=lines.append)
    assert "a whole model in float16" in lines[-1]
    assert (tmp_path / "model" / "LICENSE.adapter").read_text() == "terms of the adapter"
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "float16"
    assert plain(tmp_path / "model", dtype="auto").dtype == torch.float16
    assert (tmp_path / "model" / "LICENSE").read_text() == "terms of the base"


@pytest.mark.parametrize("base", ["nobody/has-this-model", "/moved/away"])
def test_an_adapter_is_written_without_its_base_which_need_not_be_here(base, tmp_path):
    start = tmp_path / "start"
    tiny(**WHOLE, dtype="float32").save(start)
    run = saved_run(moved(tiny(model=str(start), dtype="float32")), tmp_path / "run")
    settings = run / "checkpoints" / "000003" / "policy" / "adapter_config.json"
    content = json.loads(settings.read_text())
    settings.write_text(json.dumps({**content, "base_model_name_or_path": base}))
    lines = []
    export(str(run), tmp_path / "adapter", log=lines.append)
    assert f"an adapter of rank 4 on {base}, " in " ".join(lines)
    written = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    saved = load_file(settings.with_name("adapter_model.safetensors"))
    assert {name: tensor.tolist() for name, tensor in written.items()} == {
        name: tensor.tolist() for name, tensor in saved.items()
    }


def test_a_base_of_this_machine_is_named(tmp_path):
    start = tmp_path / "start"
    tiny(**WHOLE, dtype="float32").save(start)
    run = saved_run(moved(tiny(model=str(start), dtype="float32")), tmp_path / "run")
    lines = []
    export(str(run), tmp_path / "adapter", log=lines.append)
    assert lines[-1].startswith(f"mind: its base model is a folder of this machine, {start};")
    assert not (tmp_path / "adapter" / "base").exists()


def test_the_card_says_what_the_folder_holds(adapter_run, whole_run, tmp_path):
    for name, (_, run), options, form in (
        ("a", adapter_run, {}, "a LoRA adapter, in float64"),
        (
            "b",
            adapter_run,
            {"merged": True, "dtype": "bfloat16"},
            "a whole model, with its LoRA adapter merged into the base model, in bfloat16",
        ),
        ("c", whole_run, {}, "a whole model, in float32"),
    ):
        export(str(run), tmp_path / name, log=lambda line: None, **options)
        card = (tmp_path / name / "README.md").read_text()
        assert (
            f"\n\n# mine, step 3\n\nExported by gpg_vl {package.__version__} as {form}.\n" in card
        )
        assert ("library_name: peft" in card) == (name != "b")
        assert ("- lora" in card) == (name != "b")


def test_the_command_and_the_function_write_the_same(adapter_run, tmp_path):
    _, run = adapter_run
    done = gpg_vl("export", run, "--to", tmp_path / "a", "--merged", "--dtype", "bfloat16")
    assert done.returncode == 0, done.printed
    assert f"exported: {tmp_path / 'a'}: a whole model in bfloat16" in done.stdout
    package.export(run, tmp_path / "b", merged=True, dtype="bfloat16", log=lambda line: None)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (
        tmp_path / "b" / "model.safetensors"
    ).read_bytes()


# --- what is refused ------------------------------------------------------------------------------


def refused(*words: object) -> str:
    done = gpg_vl("export", *words)
    assert done.returncode == 2
    assert "Traceback" not in done.printed
    return " ".join(done.stderr.split())


def test_what_cannot_be_written_is_a_sentence(adapter_run, tmp_path):
    _, run = adapter_run
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    assert "holds something already; choose a new folder" in refused(run, "--to", tmp_path / "full")
    assert "is a file; choose another" in refused(run, "--to", tmp_path / "file")
    for place in ("checkpoints/000009", "checkpoints", "checkpoints/000003/policy/new"):
        assert "is among the checkpoints of the run" in refused(run, "--to", run / place)
    sentence = refused(run, "--to", tmp_path / "new", "--dtype", "float16")
    assert "--dtype: got 'float16', expected bfloat16 or float32" in sentence
    assert "made on the spot" in refused("tiny", "--to", tmp_path / "new")
    assert "there is no such folder" in refused("./nowhere", "--to", tmp_path / "new")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_without_a_checkpoint_is_refused(adapter_run, tmp_path):
    _, run = adapter_run
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "000003")
    assert "saved no checkpoint yet" in refused(tmp_path / "run", "--to", tmp_path / "new")


def test_a_folder_with_a_model_and_an_adapter_on_it_is_merged_only(adapter_run, tmp_path):
    policy, run = adapter_run
    both = tmp_path / "both"
    shutil.copytree(run / "checkpoints" / "000003" / "policy", both)
    shutil.copyfile(both / "base" / "model.safetensors", both / "model.safetensors")
    assert "add --merged" in refused(both, "--to", tmp_path / "new")
    export(str(both), tmp_path / "new", merged=True, log=lambda line: None)
    torch.testing.assert_close(
        logits(plain(tmp_path / "new")), logits(policy.model), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({}, "adapter and base"),
        ({"merged": True}, "float64"),
        ({"merged": True, "dtype": "bfloat16"}, "bfloat16"),
    ],
)
def test_a_disk_without_room_is_refused_before_anything_is_loaded(
    options, needed, adapter_run, tmp_path, monkeypatch
):
    _, run = adapter_run
    folder = run / "checkpoints" / "000003" / "policy"
    numbers = sum(t.numel() for t in load_file(folder / "base" / "model.safetensors").values())
    adapter = (folder / "adapter_model.safetensors").stat().st_size
    size = {"adapter and base": adapter + 8 * numbers, "float64": 8 * numbers}
    expected = size.get(needed, 2 * numbers) + exporting._SPARE
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(0, 0, expected - 1))
    monkeypatch.setattr(exporting, "_write_whole", lambda *_: pytest.fail("loaded"))
    with pytest.raises(UserError, match=rf"needs {expected / 1e9:.2f} GB, and .* GB are free"):
        export(str(run), tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(0, 0, expected))
    monkeypatch.setattr(exporting, "_write_whole", lambda *_: None)
    monkeypatch.setattr(exporting, "_write_card", lambda *_, **__: None)
    monkeypatch.setattr(exporting, "_summary", lambda *_, **__: ())
    export(str(run), tmp_path / "new", **options)


KILLED = """\
import os, shutil, sys
from pathlib import Path
from gpg_vl.report import export as exporting
copy = shutil.copyfile
def cut(origin, to):
    if Path(to).name == "model.safetensors":
        Path(to).write_bytes(b"half")
        os.kill(os.getpid(), 9)
    copy(origin, to)
shutil.copyfile = cut
exporting.export(sys.argv[1], Path(sys.argv[2]))
"""


def test_an_export_that_is_killed_leaves_no_half_folder(whole_run, tmp_path):
    _, run = whole_run
    command = [sys.executable, "-c", KILLED, run, tmp_path / "new"]
    assert subprocess.run(command, check=False, env=os.environ).returncode == -9
    assert not (tmp_path / "new").exists()
    export(str(run), tmp_path / "new", log=lambda line: None)  # what is left is in nobody's way
    assert (tmp_path / "new" / "model.safetensors").stat().st_size > 1000


def test_a_disk_that_fills_up_is_a_sentence_and_leaves_nothing(whole_run, tmp_path, monkeypatch):
    _, run = whole_run

    def full(origin, to):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(UserError, match="the disk is full; nothing is left there"):
        export(str(run), tmp_path / "new")
    assert not [*tmp_path.iterdir()]
