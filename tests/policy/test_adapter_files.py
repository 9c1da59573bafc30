"""Folders of adapters: names of before transformers 5, and what cannot be used, as a sentence
before a weight is loaded."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from gpg_vl.config.schema import Config, LoraConfig, PolicyConfig, Source, Tiny
from gpg_vl.errors import UserError
from gpg_vl.experiment import Experiment
from gpg_vl.policy import adapter_files, packages
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.load import load_policy, only_asked
from gpg_vl.policy.model_folder import config_file, find_model
from gpg_vl.preflight.adapter_checks import check_adapters
from gpg_vl.preflight.memory import Workload
from gpg_vl.preflight.plan import workload_of
from tests.adapted import LANGUAGE, PROJECTOR, TOWER, moved, tiny
from tests.policy.test_group_forward import questions

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`"),
]
"""What peft asks for and warns of."""

SETTINGS, TENSORS = adapter_files.SETTINGS, adapter_files.TENSORS
BOTH = {**TOWER, "projector": "full"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base model, and adapters on it: of the language, with projector, with projector and
    tower."""
    folder = tmp_path_factory.mktemp("adapters")
    tiny(language="full", dtype="float32").save(folder / "base")
    for name, parts in (("language", LANGUAGE), ("projector", PROJECTOR), ("both", BOTH)):
        policy = tiny(model=str(folder / "base"), dtype="float32", **parts)
        moved(policy).save(folder / name)
    return folder


@pytest.fixture
def adapter(made, tmp_path):
    """The adapter of the language, to be damaged."""
    return shutil.copytree(made / "language", tmp_path / "adapter")


def edit(folder: Path, name: str = SETTINGS, **values) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, **values}))


def rename(folder: Path, *pairs: tuple[str, str]) -> None:
    """Give tensors other names."""
    tensors = {}
    for name, tensor in load_file(folder / TENSORS).items():
        for old, new in pairs:
            name = name.replace(old, new)
        tensors[name] = tensor
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})


def refused(monkeypatch, name, **knobs) -> str:
    """The sentence on a model, which comes before a weight of its base is loaded."""
    monkeypatch.setattr(
        AutoModelForImageTextToText, "from_pretrained", lambda *_, **__: pytest.fail("loaded")
    )
    with pytest.raises(UserError) as caught:
        load_policy(PolicyConfig(model=str(name), **{**LANGUAGE, **knobs}), seed=0)
    return str(caught.value)


def run_on(model: Path, **knobs) -> Workload:
    """A run that begins with a model, as plan and audit see it."""
    config = Config(data=(Source(recipe="digits"),), policy=PolicyConfig(model=str(model), **knobs))
    return workload_of(Experiment.resolve(config))


# --- names ----------------------------------------------------------------------------------------

OLD = {
    "qwen2_vl before 5": (
        ("base_model.model.model.language_model.layers", "base_model.model.model.layers"),
        ("base_model.model.model.visual.", "base_model.model.visual."),
    ),
    "others before 5": (
        (
            "base_model.model.model.language_model.layers",
            "base_model.model.language_model.model.layers",
        ),
    ),
}


@pytest.mark.parametrize("old", OLD)
@pytest.mark.parametrize("parts", [BOTH, {"language": "full", "vision": "full"}])
def test_an_adapter_with_names_of_before_is_the_same_adapter(old, parts, made, tmp_path):
    folder = shutil.copytree(made / "both", tmp_path / "old")
    rename(folder, *OLD[old])
    assert load_file(folder / TENSORS).keys() != load_file(made / "both" / TENSORS).keys()
    found = load_policy(PolicyConfig(model=str(folder), **parts), seed=0)
    expected = load_policy(PolicyConfig(model=str(made / "both"), **parts), seed=0)
    theirs = dict(expected.model.named_parameters())
    for name, parameter in found.model.named_parameters():
        assert torch.equal(parameter, theirs[name]), name


def test_a_foreign_adapter_without_config_and_processor_is_read(made, tmp_path):
    base = AutoModelForImageTextToText.from_pretrained(made / "base")
    settings = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=["q_proj", "o_proj"], use_rslora=True,
        init_lora_weights=False, rank_pattern={"o_proj": 2},
    )  # fmt: skip
    theirs = peft.get_peft_model(base, settings)
    theirs.save_pretrained(tmp_path / "foreign")
    assert not (tmp_path / "foreign" / "config.json").exists()
    ids = torch.tensor([[5, 6, 7, 8]])
    inputs = {"input_ids": ids, "mm_token_type_ids": torch.zeros_like(ids)}
    with torch.no_grad():
        expected = theirs.eval()(**inputs).logits
        for parts in (LANGUAGE, {}):
            policy = load_policy(PolicyConfig(model=str(tmp_path / "foreign"), **parts), seed=0)
            assert (policy.adapters is not None) == bool(parts)
            torch.testing.assert_close(policy.model(**inputs).logits, expected, rtol=0, atol=1e-5)


def test_a_matrix_of_an_old_name_keeps_its_own_rank_and_scale(made, tmp_path):
    base = AutoModelForImageTextToText.from_pretrained(made / "base")
    new, old = "model.language_model.layers.1.mlp.up_proj", "model.layers.1.mlp.up_proj"
    settings = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=r".*language.*up_proj", init_lora_weights=False,
        rank_pattern={new: 2}, alpha_pattern={new: 50},
    )  # fmt: skip
    theirs = peft.get_peft_model(base, settings)
    theirs.save_pretrained(tmp_path)
    rename(tmp_path, *OLD["qwen2_vl before 5"])
    edit(tmp_path, rank_pattern={old: 2}, alpha_pattern={old: 50})
    ids = torch.tensor([[5, 6, 7, 8]])
    inputs = {"input_ids": ids, "mm_token_type_ids": torch.zeros_like(ids)}
    policy = load_policy(PolicyConfig(model=str(tmp_path), **LANGUAGE), seed=0)
    with torch.no_grad():
        expected = theirs.eval()(**inputs).logits
        torch.testing.assert_close(policy.model(**inputs).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("which", ["embed_tokens", "lm_head"])
def test_a_head_or_embedding_that_was_trained_is_not_tied_again(which, made, tmp_path):
    base = AutoModelForImageTextToText.from_pretrained(made / "base")
    settings = peft.LoraConfig(r=3, target_modules=["q_proj"], modules_to_save=[which])
    theirs: Any = peft.get_peft_model(base, settings)
    moved(SimpleNamespace(model=theirs)).model.save_pretrained(tmp_path / "adapter")
    policy = load_policy(PolicyConfig(model=str(tmp_path / "adapter")), seed=0)
    policy.save(tmp_path / "merged")
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    assert not merged.config.tie_word_embeddings
    ids = torch.tensor([[5, 6, 7, 8]])
    inputs = {"input_ids": ids, "mm_token_type_ids": torch.zeros_like(ids)}
    with torch.no_grad():
        expected = theirs.eval()(**inputs).logits
        for model in (policy.model, merged.eval()):
            torch.testing.assert_close(model(**inputs).logits, expected, rtol=0, atol=1e-4)


def adapter_of_head(base: Path, folder: Path, copies: Any, *which: str) -> Any:
    """Write an adapter of another program, and return its model.

    Args:
        copies: is the frozen matrix of the head in its file: by peft's default, or not.
    """
    model = AutoModelForImageTextToText.from_pretrained(base)
    settings = peft.LoraConfig(r=3, target_modules=["q_proj", *which], init_lora_weights=False)
    theirs: Any = peft.get_peft_model(model, settings)
    theirs.save_pretrained(folder, save_embedding_layers=copies)
    return theirs.eval()


@pytest.fixture(params=["tied", "of its own"])
def base_with_head(request, made, tmp_path):
    """A base model whose head is the embedding, or is not."""
    folder = Path(shutil.copytree(made / "base", tmp_path / "base"))
    if request.param == "of its own":
        tensors = load_file(folder / "model.safetensors")
        tensors["lm_head.weight"] = 2 * tensors["model.embed_tokens.weight"]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        edit(folder, "config.json", tie_word_embeddings=False)
    return folder


@pytest.mark.parametrize("copies", ["auto", False])
def test_an_adapter_of_the_head_is_merged_to_be_asked(copies, base_with_head, tmp_path):
    adapter_of_head(base_with_head, tmp_path / "adapter", copies, "lm_head")
    held = load_file(tmp_path / "adapter" / TENSORS)
    assert ("base_model.model.lm_head.base_layer.weight" in held) == bool(copies)
    base = AutoModelForImageTextToText.from_pretrained(base_with_head)
    theirs: Any = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    asked = only_asked(PolicyConfig(model=str(tmp_path / "adapter"), **LANGUAGE), "model")
    policy = load_policy(asked, seed=0)
    assert policy.adapters is None
    policy.save_whole(tmp_path / "merged")
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    ids = torch.tensor([[5, 6, 7, 8]])
    inputs = {"input_ids": ids, "mm_token_type_ids": torch.zeros_like(ids)}
    with torch.no_grad():
        expected = theirs.eval()(**inputs).logits
        for model in (policy.model, merged.eval()):
            torch.testing.assert_close(model(**inputs).logits, expected, rtol=0, atol=1e-5)
        with theirs.disable_adapter():  # the negative control
            assert (theirs(**inputs).logits - expected).abs().max() > 0.1


@pytest.mark.parametrize("copies", ["auto", False])
def test_an_adapter_of_the_head_is_not_trained_on(copies, base_with_head, tmp_path, monkeypatch):
    adapter_of_head(base_with_head, tmp_path / "adapter", copies, "lm_head")
    sentence = refused(monkeypatch, tmp_path / "adapter")
    assert "its adapter changes the head (lm_head), which is not trained here; merge" in sentence
    with pytest.raises(UserError, match="changes the head"):
        check_adapters(run_on(tmp_path / "adapter", **LANGUAGE))


def test_a_copy_of_another_base_model_is_refused(made, tmp_path, monkeypatch):
    adapter_of_head(made / "base", tmp_path / "adapter", "auto", "lm_head")
    tensors = load_file(tmp_path / "adapter" / TENSORS)
    name = "base_model.model.lm_head.base_layer.weight"
    tensors[name] = tensors[name][:-1].contiguous()
    save_file(tensors, tmp_path / "adapter" / TENSORS)
    sentence = refused(monkeypatch, tmp_path / "adapter", language="full")
    assert "its adapter is not of this base model: it holds lm_head.weight [" in sentence


@pytest.mark.parametrize("copies", ["auto", False])
@pytest.mark.parametrize("knobs", [LANGUAGE, {"language": "full"}])
def test_an_adapter_of_the_embedding_is_refused(knobs, copies, made, tmp_path, monkeypatch):
    adapter_of_head(made / "base", tmp_path / "adapter", copies, "embed_tokens")
    sentence = refused(monkeypatch, tmp_path / "adapter", **knobs)
    assert "embed_tokens.lora_embedding_A, which is not of the adapter of a matrix" in sentence


def test_a_model_that_is_asked_is_what_was_trained(made):
    trained = PolicyConfig(model=str(made / "both"), **BOTH)
    assert only_asked(trained, "model") == trained
    for name, other, parts in (
        ("both", {}, BOTH),
        ("both", LANGUAGE, BOTH),
        ("language", PROJECTOR, LANGUAGE),
        ("language", {**LANGUAGE, "quantise": "nf4"}, LANGUAGE),
    ):
        asked = only_asked(PolicyConfig(model=str(made / name), **other), "model")
        assert asked == PolicyConfig(model=str(made / name), **parts)
        assert (load_policy(asked, seed=0).vision.cache is not None) == (parts == LANGUAGE)
    for name in (str(made / "base"), "tiny"):
        other = PolicyConfig(model=name, dtype="bfloat16", quantise="nf4", **LANGUAGE)
        policy = load_policy(only_asked(other, "model"), seed=0)
        assert policy.adapters is None
        assert policy.vision.cache is not None
        assert {each.dtype for each in policy.model.parameters()} == {torch.bfloat16}
    whole = PolicyConfig(model=str(made / "base"))
    assert only_asked(whole, "model") == whole


def test_an_adapter_that_no_config_can_train_is_merged_to_be_asked(made, tmp_path):
    base = AutoModelForImageTextToText.from_pretrained(made / "base")
    settings = peft.LoraConfig(r=3, target_modules=["q_proj"], modules_to_save=["lm_head"])
    peft.get_peft_model(base, settings).save_pretrained(tmp_path)
    asked = only_asked(PolicyConfig(model=str(tmp_path), dtype="bfloat16", **LANGUAGE), "model")
    assert load_policy(asked, seed=0).adapters is None


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An adapter as after about 30 steps at 1e-6, on a base model that is stored in bfloat16."""
    folder = tmp_path_factory.mktemp("small")
    half = {"dtype": "bfloat16", "weights": "bfloat16"}
    tiny(language="full", **half).save(folder / "base")
    policy = tiny(model=str(folder / "base"), dtype="bfloat16")
    generator = torch.Generator().manual_seed(0)
    for _, layer in policy.adapters.layers():
        matrix = layer.lora_B["default"].weight
        matrix.data = 3e-5 * torch.randn(matrix.shape, generator=generator)
    policy.save(folder / "adapter")
    return folder / "adapter", policy


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_a_small_adapter_is_asked_in_bfloat16_as_it_is_trained(weights, small):
    folder, trained = small
    asked = questions(trained, "qwen2_5_vl", 3)
    expected = GroupForward(trained, 1.0)(asked).logprobs_N
    config = PolicyConfig(model=str(folder), dtype="bfloat16", weights=weights)
    policy = load_policy(only_asked(config, "model"), seed=0)
    assert torch.equal(GroupForward(policy, 1.0)(asked).logprobs_N, expected)
    # the negative control: merged, as such a config would be trained
    merged = load_policy(config, seed=0)
    assert not torch.equal(GroupForward(merged, 1.0)(asked).logprobs_N, expected)


@torch.no_grad()
def kept(merged, trained) -> float:
    """The share of an adapter that is in the merged matrices, along the adapter itself."""
    along = whole = 0.0
    for name, layer in trained.adapters.layers():
        adapter = layer.get_delta_weight("default").double()
        added = merged.model.get_submodule(name).weight.double() - layer.base_layer.weight.double()
        along += float((added * adapter).sum())
        whole += float((adapter * adapter).sum())
    return along / whole


@pytest.mark.parametrize("parts", [{"language": "full"}, {"language": "frozen"}])
def test_a_small_adapter_that_is_merged_into_bfloat16_is_kept_on_average(parts, small):
    folder, trained = small
    config = PolicyConfig(model=str(folder), dtype="bfloat16", weights="bfloat16", **parts)
    merged, again, other = (load_policy(config, seed=seed) for seed in (0, 0, 1))
    assert kept(merged, trained) == pytest.approx(1.0, abs=0.05)
    state, others = merged.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(state[name], each) for name, each in again.model.state_dict().items())
    assert not all(torch.equal(state[name], others[name]) for name in state)
    nearest = load_policy(config, seed=0, by_chance=False)  # the negative control
    assert kept(nearest, trained) < 0.9


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("visual.merger", "model.visual.merger"),
        ("model.embed_tokens", "model.language_model.embed_tokens"),
        ("language_model.lm_head", "lm_head"),
        ("language_model.model.norm", "model.language_model.norm"),
        ("vision_tower.vision_model.encoder", "model.vision_tower.encoder"),
        ("model.vision_tower.vision_model.post_layernorm", "model.vision_tower.post_layernorm"),
        ("vision_tower.encoder", "model.vision_tower.encoder"),
    ],
)
def test_names_of_modules_before_transformers_5(old, new):
    assert adapter_files.current_name(old, {new: None}) == new
    assert adapter_files.current_name(old, {new: None, old: None}) == old
    assert adapter_files.current_name(old, {f"{new}s": None}) == old


# --- the base model -------------------------------------------------------------------------------


@pytest.mark.parametrize("knobs", [LANGUAGE, {"language": "full"}])
@pytest.mark.parametrize("other", ["family", "class", "size", "weights", "norm", "beside"])
def test_another_base_model_is_refused(other, knobs, adapter, tmp_path, monkeypatch):
    made_so = {
        "family": {"family": "qwen3_vl"},
        "class": {"family": "qwen3_vl"},
        "size": {"tiny": Tiny(hidden=64, layers=2)},
    }
    policy = tiny(language="full", dtype="float32", **made_so.get(other, {}))
    if other in ("weights", "beside"):
        moved(policy)
    if other == "norm":  # the smallest change of a training: 128 numbers
        policy.model.model.visual.merger.ln_q.weight.data += 0.01
    policy.save(adapter if other == "beside" else tmp_path / "other")
    edit(adapter, base_model_name_or_path=str(tmp_path / "other"))
    if other in made_so:
        (adapter / adapter_files.BASE).unlink()
        if other == "class":
            (adapter / "config.json").unlink()
            mapping = {"base_model_class": "Qwen2_5_VLForConditionalGeneration"}
            edit(adapter, auto_mapping=mapping)
    sentence = refused(monkeypatch, adapter, **knobs)
    expected = "its adapter is not of this base model"
    if other not in made_so:
        expected = "its adapter was trained on other weights than those in"
    assert expected in sentence
    assert sentence.startswith(f"policy.model: {adapter}: ")


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("/nowhere/at/all", "its base model: '/nowhere/at/all' cannot be loaded: there is no such"),
        ("lab/nothing", "its base model: 'lab/nothing' cannot be loaded: no folder of that name"),
        (None, "names no base model; write its folder or hub id there"),
        ("", "names no base model; write its folder or hub id there"),
        ("ADAPTER", "is an adapter itself; merge that one first"),
    ],
)
def test_a_base_model_that_is_none_is_refused(base, words, made, adapter, monkeypatch):
    base = str(made / "projector") if base == "ADAPTER" else base
    edit(adapter, base_model_name_or_path=base)
    sentence = refused(monkeypatch, adapter)
    assert words in sentence
    if "loaded" in words:
        expected = "; if it has moved, write its place into adapter_config.json as base_model_name_"
        assert expected in sentence


def test_a_revision_of_a_base_on_the_hub_is_not_taken_for_its_newest(adapter, monkeypatch):
    edit(adapter, revision="v1.5")  # a folder has no revisions
    load_policy(PolicyConfig(model=str(adapter), language="lora", projector="frozen"), seed=0)
    edit(adapter, base_model_name_or_path="lab/base")
    sentence = refused(monkeypatch, adapter)
    assert "was trained on revision 'v1.5' of lab/base" in sentence
    assert "hf download lab/base --revision v1.5" in sentence
    edit(adapter, revision="main")
    assert "cannot be loaded" in refused(monkeypatch, adapter)


def test_the_size_of_a_model_is_known_without_the_tensors_of_an_adapter(adapter, made):
    """Of a name on the hub, only the settings are fetched for it."""
    (adapter / "config.json").unlink()
    (adapter / TENSORS).unlink()
    assert config_file(str(adapter)) == made / "base" / "config.json"


# --- the files ------------------------------------------------------------------------------------


def cut(folder: Path) -> None:
    content = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(content[:-100])


def without_b(folder: Path) -> None:
    tensors = load_file(folder / TENSORS)
    name = next(name for name in tensors if ".lora_B." in name)
    del tensors[name]
    save_file(tensors, folder / TENSORS)


def only_a_bin(folder: Path) -> None:
    (folder / TENSORS).rename(folder / "adapter_model.bin")


DAMAGES = {
    "cut": (cut, f"{TENSORS} is cut or damaged"),
    "empty": (lambda folder: (folder / TENSORS).write_bytes(b""), "is cut or damaged"),
    "other bytes": (lambda folder: (folder / TENSORS).write_bytes(b"x" * 99), "is cut or damaged"),
    "no tensor": (lambda folder: save_file({}, folder / TENSORS), "holds no tensor"),
    "a .bin": (only_a_bin, f"has no {TENSORS}, so it is no complete adapter; load it with peft"),
    "half a pair": (without_b, "and no such matrix as"),
    "settings cut": (lambda folder: (folder / SETTINGS).write_text("{"), "cannot be read"),
    "settings a list": (lambda folder: (folder / SETTINGS).write_text("[]"), "holds no mapping"),
    "settings not UTF-8": (
        lambda folder: (folder / SETTINGS).write_bytes(b"\xff\xfe"),
        "cannot be read",
    ),
    "facts of the base cut": (
        lambda folder: (folder / adapter_files.BASE).write_text("{"),
        "base.json cannot be read",
    ),
    "unknown storage": (
        lambda folder: edit(folder, adapter_files.BASE, quantise="int3"),
        "quantise: got 'int3', expected nf4; copy it again",
    ),
    "dora": (lambda folder: edit(folder, use_dora=True), "has use_dora: True"),
    "bias": (lambda folder: edit(folder, bias="all"), "has bias: 'all', which is no plain LoRA"),
    "another kind": (
        lambda folder: edit(folder, peft_type="IA3"),
        "of kind 'IA3', expected LORA; merge it into its base model first",
    ),
    "facts of the base without a type": (
        lambda folder: edit(folder, adapter_files.BASE, quantise="nf4"),
        "dtype: got None, expected float32 or bfloat16",
    ),
    "first values taken from the base": (
        lambda folder: edit(folder, init_lora_weights="pissa_niter_4"),
        "has init_lora_weights: 'pissa_niter_4', which is no plain LoRA; merge it",
    ),
    "a list of ranks": (lambda folder: edit(folder, rank_pattern=[1]), "expected a mapping"),
    "a rank in words": (
        lambda folder: edit(folder, rank_pattern={"q_proj": "x"}),
        "has rank_pattern: q_proj: 'x', expected a number above 0",
    ),
    "a scale in words": (
        lambda folder: edit(folder, alpha_pattern={"q_proj": "x"}),
        "has alpha_pattern: q_proj: 'x', expected a number above 0",
    ),
    "a number as base": (
        lambda folder: edit(folder, base_model_name_or_path=5),
        "has base_model_name_or_path: 5, expected a folder or a hub id; copy it again",
    ),
    "rank 0": (lambda folder: edit(folder, r=0), "has r: 0, expected a number above 0"),
    "rank in words": (lambda folder: edit(folder, r="four"), "has r: 'four', expected a number"),
    "another rank": (lambda folder: edit(folder, r=5), "has r: 5; the two files are of different"),
    "an embedding": (
        lambda folder: rename(folder, (".lora_A.weight", ".lora_embedding_A")),
        "which is not of the adapter of a matrix; merge it",
    ),
}


@pytest.mark.parametrize("knobs", [LANGUAGE, {"language": "full"}])
@pytest.mark.parametrize("damage", DAMAGES)
def test_files_that_cannot_be_used_are_a_sentence(damage, knobs, adapter, monkeypatch):
    make, words = DAMAGES[damage]
    make(adapter)
    sentence = refused(monkeypatch, adapter, **knobs)
    assert words in sentence
    assert sentence.startswith(f"policy.model: {adapter}")
    with pytest.raises(UserError, match=r"policy\.model"):  # commands look before torch is imported
        find_model(str(adapter))


def test_an_adapter_that_lacks_one_tensor_of_a_part_is_a_sentence(made, tmp_path, monkeypatch):
    folder = shutil.copytree(made / "projector", tmp_path / "adapter")
    tensors = load_file(folder / TENSORS)
    del tensors["base_model.model.model.visual.merger.ln_q.weight"]
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
    expected = "its adapter lacks model.visual.merger.ln_q.weight, and policy.projector is full; "
    assert expected in refused(monkeypatch, folder, **PROJECTOR)


def test_an_adapter_that_is_not_finite_is_a_sentence(adapter):
    tensors = load_file(adapter / TENSORS)
    next(iter(tensors.values()))[0, 0] = torch.nan
    save_file(tensors, adapter / TENSORS, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"holds a NaN .* is damaged: copy it again"):
        load_policy(PolicyConfig(model=str(adapter), **LANGUAGE), seed=0)


def test_a_cut_config_beside_an_adapter_is_a_sentence(adapter, monkeypatch):
    (adapter / "config.json").write_text("{")
    assert "config.json cannot be read" in refused(monkeypatch, adapter)


@pytest.mark.parametrize("start", [True, False, None, "gaussian"])
def test_first_values_that_leave_the_base_as_it_is_are_plain(start, adapter):
    edit(adapter, init_lora_weights=start)
    assert load_policy(PolicyConfig(model=str(adapter), **LANGUAGE), seed=0).adapters


# --- config and packages --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "knobs", "words"),
    [
        ("projector", LANGUAGE, "as a whole, and policy.projector is frozen; set policy.projector"),
        (
            "language",
            TOWER,
            "has no matrix in vision, and policy.vision is lora; set policy.vision",
        ),
        (
            "language",
            {"projector": "full"},
            "lacks the tensors of projector, and policy.projector is full; set policy.projector",
        ),
        ("both", PROJECTOR, "has matrices in vision, and policy.vision is frozen; set policy.visi"),
        ("base", {"lora": LoraConfig(targets=("q_porj",))}, "did you mean q_proj?"),
        ("base", {"lora": LoraConfig(targets=("lm_head",))}, "matches no matrix of the parts set"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(name, knobs, words, made, monkeypatch):
    assert words in refused(monkeypatch, made / name, **knobs)
    with pytest.raises(UserError):  # so do plan and audit, before torch is imported
        check_adapters(run_on(made / name, **{**LANGUAGE, **knobs}))


@pytest.mark.parametrize(
    ("name", "knobs"), [("language", LANGUAGE), ("projector", PROJECTOR), ("both", BOTH)]
)
def test_the_plan_of_an_adapter_that_is_trained_on_counts_its_numbers(name, knobs, made):
    run = run_on(made / name, **knobs)
    check_adapters(run)
    model = load_policy(run.config.policy, seed=0).model
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert run.trained == sum(parameter.numel() for parameter in trained)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"language": "full", "quantise": "nf4"}, "quantised weights cannot be trained"),
        ({"lora": {"rank": 0}}, "greater than or equal to 1"),
        ({"language": "full", "vision": "lora"}, "got adapters beside language: full"),
    ],
)
def test_a_config_that_nobody_can_train_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        PolicyConfig.model_validate({"model": "x", **values})


@pytest.mark.parametrize(
    ("package", "knobs", "command"),
    [
        ("peft", LANGUAGE, "pip install 'gpg-vl[lora]'"),
        ("peft", {"language": "full"}, "pip install 'gpg-vl[lora]'"),
        ("bitsandbytes", {**LANGUAGE, "quantise": "nf4"}, "pip install 'gpg-vl[qlora]'"),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_command(
    package, knobs, command, made, monkeypatch
):
    find = packages.importlib.util.find_spec
    monkeypatch.setattr(
        packages.importlib.util,
        "find_spec",
        lambda name, *more: None if name == package else find(name, *more),
    )
    sentence = refused(monkeypatch, made / "language", **knobs)
    assert f"needs {package}, which is not installed: {command}" in sentence


def test_a_whole_model_and_an_adapter_beside_it_are_that_model_with_that_adapter(made, tmp_path):
    both = shutil.copytree(made / "base", tmp_path / "both")
    for name in (SETTINGS, TENSORS):
        shutil.copyfile(made / "language" / name, both / name)
    edit(both, base_model_name_or_path="lab/nothing")
    found = load_policy(PolicyConfig(model=str(both)), seed=0)
    expected = load_policy(PolicyConfig(model=str(made / "language")), seed=0)
    theirs = dict(expected.model.named_parameters())
    assert all(torch.equal(each, theirs[name]) for name, each in found.model.named_parameters())
    parts = {"language": "lora", "projector": "frozen", "vision": "frozen"}
    assert find_model(str(both)).adapter.trained_parts == parts


def test_the_size_of_an_adapter_that_names_itself_is_a_sentence(tmp_path):
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"has no config\.json, so it is no model"):
        config_file(str(tmp_path))
