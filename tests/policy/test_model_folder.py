"""What people name as a model: whole folders load, everything else is one sentence before
anything is trained, and nothing is random."""

import json
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from gpg_vl.config.loading import load
from gpg_vl.config.schema import Config, PolicyConfig
from gpg_vl.data.recipes.digits import digits
from gpg_vl.errors import UserError
from gpg_vl.experiment import Experiment, check_template
from gpg_vl.policy.encode import encode, template_thought
from gpg_vl.policy.load import Policy, load_policy
from gpg_vl.policy.model_folder import find_model, locate, weights_digest
from gpg_vl.preflight.audit import audit
from gpg_vl.prompts import AnswerOnly, Style
from gpg_vl.training.sft import solution
from tests.commands import gpg_vl
from tests.conftest import FAMILIES

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 212000\n"


@pytest.fixture
def model(checkpoints, tmp_path) -> Path:
    """A whole checkpoint, to be damaged."""
    return Path(shutil.copytree(checkpoints("qwen2_5_vl"), tmp_path / "model"))


def loaded(folder: Path, **config) -> Policy:
    return load_policy(PolicyConfig(model=str(folder), **{"vision": "full", **config}), seed=0)


def edit(path: Path, **changed) -> None:
    """JSON with other values; None takes a key away."""
    plain = {**json.loads(path.read_text()), **changed}
    path.write_text(json.dumps({key: value for key, value in plain.items() if value is not None}))


def rewrite(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    """The weight file with other tensors."""
    save_file(
        change(load_file(folder / "model.safetensors")),
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


def without(part: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {name: value for name, value in tensors.items() if part not in name}


def refused(folder: Path, words: str) -> None:
    with pytest.raises(UserError) as caught:
        loaded(folder)
    message = str(caught.value)
    assert words in message
    assert message.startswith(f"policy.model: {folder}: ")
    assert "\n" not in message


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_checkpoint_loads_and_nothing_is_said(family, checkpoints, capsys):
    load_policy(PolicyConfig(model=str(checkpoints(family))), seed=0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("visual.", "tensors are missing, first model.visual."),
        (
            "layers.1.mlp",
            (
                "3 of 80 tensors are missing, first "
                "model.language_model.layers.1.mlp.down_proj.weight; its files hold no others"
            ),
        ),
        (
            "embed_tokens",
            "1 of 80 tensors are missing, first model.language_model.embed_tokens.weight",
        ),
        (
            "layers.0.self_attn.q_proj.bias",
            (
                "1 of 80 tensors are missing, first "
                "model.language_model.layers.0.self_attn.q_proj.bias"
            ),
        ),
    ],
)
def test_missing_tensors_are_refused_with_their_number_and_the_first_by_name(model, part, words):
    rewrite(model, without(part))
    refused(model, words)


def in_shards(model: Path) -> None:
    """The weights in two files, every second tensor in the second."""
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    shards = {
        name: f"model-0000{1 + place % 2}-of-00002.safetensors"
        for place, name in enumerate(tensors)
    }
    for shard in set(shards.values()):
        save_file(
            {name: tensors[name] for name in tensors if shards[name] == shard},
            model / shard,
            metadata={"format": "pt"},
        )
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": shards})
    )


@pytest.mark.parametrize("change", [None, "a tensor", "a name", "a type", "a shape"])
def test_the_same_weights_in_other_files_have_the_same_digest_and_no_others(model, change):
    """An adapter is refused on a base model whose digest is another."""
    before = weights_digest(model)
    tensors = load_file(model / "model.safetensors")
    name = "visual.merger.ln_q.weight"
    changed = tensors.pop(name)
    if change == "a tensor":
        changed[0] += 0.01
    if change == "a type":
        changed = changed.view(torch.int32)
    if change == "a shape":
        changed = changed.reshape(2, -1)
    tensors["another" if change == "a name" else name] = changed
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    assert (weights_digest(model) == before) == (change is None)
    in_one_file = weights_digest(model)
    in_shards(model)
    assert weights_digest(model) == in_one_file


@pytest.mark.parametrize("cut", [False, True])
def test_whole_shards_load_and_a_cut_one_is_named(model, cut):
    in_shards(model)
    if not cut:
        loaded(model)
        return
    second = model / "model-00002-of-00002.safetensors"
    second.write_bytes(second.read_bytes()[:-9])
    refused(model, "model-00002-of-00002.safetensors is cut or damaged")


def test_an_untied_head_that_is_missing_is_refused_and_a_tied_one_is_not(model):
    assert "lm_head.weight" not in load_file(model / "model.safetensors")
    policy = loaded(model)
    assert policy.model.lm_head.weight is policy.model.get_input_embeddings().weight
    edit(model / "config.json", tie_word_embeddings=False)
    refused(model, "1 of 81 tensors are missing, first lm_head.weight")


def test_a_head_of_its_own_is_kept_where_the_config_says_that_it_is_tied(model, tmp_path):
    rewrite(
        model,
        lambda tensors: {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1},
    )
    policy = loaded(model)
    assert torch.equal(policy.model.lm_head.weight, policy.model.get_input_embeddings().weight + 1)
    policy.save(tmp_path / "again")
    assert (
        json.loads((tmp_path / "again" / "config.json").read_text())["tie_word_embeddings"] is False
    )
    assert torch.equal(loaded(tmp_path / "again").model.lm_head.weight, policy.model.lm_head.weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_every_floating_type_load(dtype, model):
    rewrite(model, lambda tensors: {name: value.to(dtype) for name, value in tensors.items()})
    assert loaded(model).model.dtype == torch.float32


def test_renamed_tensors_are_named_beside_the_missing(model):
    rewrite(
        model,
        lambda tensors: {
            name.replace("visual.", "tower."): value for name, value in tensors.items()
        },
    )
    refused(model, "that the model does not know, first tower.blocks.0.")


def test_tensors_beyond_the_model_are_worth_a_line(model, capsys):
    rewrite(model, lambda tensors: {**tensors, "extra.weight": torch.ones(2)})
    loaded(model)
    assert (
        "its files hold 1 tensors that the model does not use, first extra.weight"
        in capsys.readouterr().out
    )


def test_another_shape_is_refused_with_both_shapes(model):
    edit(
        model / "config.json",
        text_config={
            **json.loads((model / "config.json").read_text())["text_config"],
            "intermediate_size": 96,
        },
    )
    refused(
        model,
        "of 80 tensors have another shape than config.json says, first "
        "model.language_model.layers.0.mlp.down_proj.weight: ",
    )


def test_loading_draws_nothing_at_random(model):
    torch.manual_seed(1)
    first = loaded(model)
    torch.manual_seed(2)
    second = loaded(model)
    for mine, theirs in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def remove(*names: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return damage


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return damage


def change(name: str, **changed) -> Callable[[Path], None]:
    return lambda folder: edit(folder / name, **changed)


def cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def only_a_config(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != "config.json":
            path.unlink()


def shards_of_which_one_is_missing(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(dict(list(tensors.items())[:5]), folder / "model-00001-of-00002.safetensors")
    of = {
        name: f"model-0000{1 if place < 5 else 2}-of-00002.safetensors"
        for place, name in enumerate(tensors)
    }
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": of})
    )


def as_a_bin(content: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(content)

    return damage


def a_step_of_a_run(folder: Path) -> None:
    inner = shutil.copytree(folder, folder / "checkpoints" / "000004" / "policy")
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    assert inner.is_dir()


ADAPTER = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "lab/base", "r": 4})
DAMAGES = {
    "an adapter beside it": (
        write("adapter_config.json", ADAPTER),
        "has no adapter_model.safetensors, so it is no complete adapter; load it with peft",
    ),
    "an adapter alone": (
        lambda folder: (
            only_a_config(folder),
            remove("config.json")(folder),
            write("adapter_config.json", ADAPTER)(folder),
        ),
        "has no adapter_model.safetensors, so it is no complete adapter; load it with peft",
    ),
    "awq": (
        change("config.json", quantization_config={"quant_method": "awq", "bits": 4}),
        "is quantised (awq)",
    ),
    "bitsandbytes": (
        change("config.json", quantization_config={"load_in_4bit": True}),
        "is quantised (unknown method)",
    ),
    "gguf": (
        lambda folder: (remove("config.json")(folder), write("model.gguf", b"GGUF")(folder)),
        "holds GGUF files",
    ),
    "half a run": (a_step_of_a_run, "is no model, it holds some; its newest checkpoint is "),
    "weights are a pointer": (
        write("model.safetensors", POINTER),
        "model.safetensors is a Git LFS pointer",
    ),
    "tokenizer is a pointer": (
        write("tokenizer.json", POINTER),
        "tokenizer.json is a Git LFS pointer",
    ),
    "config is a pointer": (write("config.json", POINTER), "config.json is a Git LFS pointer"),
    "cut": (cut_short, "model.safetensors is cut or damaged ("),
    "empty": (write("model.safetensors", b""), "model.safetensors is cut or damaged (0 bytes"),
    "a length beyond the file": (
        write("model.safetensors", struct.pack("<Q", 2**60) + b"{}"),
        "model.safetensors is cut or damaged (10",
    ),
    "a header that is none": (
        write("model.safetensors", struct.pack("<Q", 2) + b"[]rest"),
        "model.safetensors is no safetensors file",
    ),
    "a cut .bin": (
        as_a_bin(b"PK\x03\x04 and then nothing"),
        "pytorch_model.bin is cut or damaged (21 bytes, no end)",
    ),
    "a lost shard": (
        shards_of_which_one_is_missing,
        "lacks 1 of the 2 weight files that model.safetensors.index.json names, first model-00002",
    ),
    "only a config": (
        only_a_config,
        (
            "has no weights; expected model.safetensors or shards with "
            "model.safetensors.index.json; it holds config.json"
        ),
    ),
    "nothing": (
        lambda folder: (only_a_config(folder), remove("config.json")(folder)),
        "has no config.json, so it is no model; it holds nothing",
    ),
    "a config that is cut": (
        write("config.json", '{"model_type": "qwen2'),
        "config.json is not JSON",
    ),
    "a config that is a list": (
        write("config.json", "[]"),
        "config.json holds a list, expected a mapping",
    ),
    "another family": (
        change("config.json", model_type="llama"),
        "is a llama; expected one of qwen2_vl, ",
    ),
    "code of its own": (
        change("config.json", model_type="mine", auto_map={"AutoModel": "modeling_mine.Mine"}),
        "is a mine; it needs code of its own (auto_map), which is never run; expected one of",
    ),
    "no model_type": (
        change("config.json", model_type=None),
        "has no model_type in its config.json",
    ),
    "a config of nonsense": (
        change("config.json", text_config={"hidden_size": "wide"}),
        "cannot be loaded: ",
    ),
    "no processor": (
        remove("processor_config.json"),
        "has no processor (processor_config.json or preprocessor_config.json)",
    ),
    "a processor of nonsense": (
        write("processor_config.json", "{}"),
        "its processor cannot be loaded: ",
    ),
    "no tokenizer": (remove("tokenizer.json"), "has no tokenizer (tokenizer.json or the like)"),
    "a tokenizer that is cut": (
        lambda folder: write("tokenizer.json", (folder / "tokenizer.json").read_bytes()[:900])(
            folder
        ),
        "is not JSON",
    ),
    "a tokenizer of nonsense": (
        write("tokenizer.json", '{"model": {}}'),
        "its processor cannot be loaded: ",
    ),
    "no template": (
        remove("chat_template.jinja"),
        "has no chat template; copy chat_template.jinja",
    ),
    "no pad token": (
        change("tokenizer_config.json", pad_token=None),
        "its tokenizer has no pad token",
    ),
    "patches of another size": (
        lambda folder: edit(
            folder / "processor_config.json",
            image_processor={
                **json.loads((folder / "processor_config.json").read_text())["image_processor"],
                "patch_size": 16,
            },
        ),
        "its processor has patch_size 16, its model 14",
    ),
    "an index of nothing": (
        lambda folder: (
            remove("model.safetensors")(folder),
            write("model.safetensors.index.json", "{}")(folder),
        ),
        "has no weights: model.safetensors.index.json names no files",
    ),
    "int8": (
        lambda folder: rewrite(
            folder,
            lambda tensors: {
                n: v.char() if "mlp" in n and n.endswith("weight") else v
                for n, v in tensors.items()
            },
        ),
        "is stored as I8: quantised, so it cannot be trained",
    ),
    "NaN": (
        lambda folder: rewrite(
            folder,
            lambda tensors: {
                n: v * torch.nan if "layers.0.mlp.up" in n else v for n, v in tensors.items()
            },
        ),
        "model.language_model.layers.0.mlp.up_proj.weight holds a NaN",
    ),
    "no end": (
        lambda folder: (
            edit(folder / "generation_config.json", eos_token_id=None),
            edit(folder / "tokenizer_config.json", eos_token=None),
            edit(
                folder / "config.json",
                text_config={
                    **json.loads((folder / "config.json").read_text())["text_config"],
                    "eos_token_id": None,
                },
            ),
        ),
        "names no end token, so no answer would end",
    ),
    "a generation config that is cut": (
        write("generation_config.json", '{"eos'),
        "generation_config.json is not JSON",
    ),
    "a template that is a pointer": (
        write("chat_template.jinja", POINTER),
        "chat_template.jinja is a Git LFS pointer",
    ),
    "a byte order mark": (
        lambda folder: write(
            "config.json", b"\xef\xbb\xbf" + (folder / "config.json").read_bytes()
        )(folder),
        "config.json is not JSON",
    ),
    "an index that is a list": (
        lambda folder: (
            remove("model.safetensors")(folder),
            write("model.safetensors.index.json", '{"weight_map": ["model.safetensors"]}')(folder),
        ),
        "has no weights: model.safetensors.index.json names no files",
    ),
    "a header without offsets": (
        write("model.safetensors", struct.pack("<Q", 24) + b'{"a":{"data_offsets":[]}'),
        "model.safetensors is no safetensors file",
    ),
    "a header without types": (
        write("model.safetensors", struct.pack("<Q", 28) + b'{"a":{"data_offsets":[0,0]}}'),
        "model.safetensors is no safetensors file",
    ),
    "a header without shapes": (
        write(
            "model.safetensors",
            struct.pack("<Q", 42) + b'{"a":{"dtype":"F32","data_offsets":[0,0]}}',
        ),
        "model.safetensors is no safetensors file",
    ),
    "weights that are a link to nothing": (
        lambda folder: (
            remove("model.safetensors")(folder),
            (folder / "model.safetensors").symlink_to("/nowhere/blob"),
        ),
        "model.safetensors is a link to nothing",
    ),
    "a generation config that is a link to nothing": (
        lambda folder: (
            remove("generation_config.json")(folder),
            (folder / "generation_config.json").symlink_to("/nowhere/blob"),
        ),
        "generation_config.json is a link to nothing",
    ),
    "a quantised language model": (
        lambda folder: edit(
            folder / "config.json", text_config={"quantization_config": {"quant_method": "gptq"}}
        ),
        "is quantised (gptq)",
    ),
    "no vision config": (
        change("config.json", vision_config=None),
        "has no vision_config in its config.json",
    ),
    "another placeholder": (change("config.json", image_token_id=7), "a picture is token "),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_cannot_be_trained_is_one_sentence(name, model):
    damage, words = DAMAGES[name]
    damage(model)
    refused(model, words)


def test_a_tokenizer_of_a_larger_model_is_refused(model):
    rewrite(
        model,
        lambda tensors: {
            name: value[:300].clone() if "embed_tokens" in name else value
            for name, value in tensors.items()
        },
    )
    text = json.loads((model / "config.json").read_text())["text_config"]
    edit(
        model / "config.json",
        text_config={**text, "vocab_size": 300, "pad_token_id": 1, "eos_token_id": 2},
    )
    refused(model, "its tokenizer has a token ")


def test_a_damaged_checkpoint_of_a_run_is_not_blamed_on_the_config(model):
    cut_short(model)
    with pytest.raises(UserError, match=r"^checkpoint: .*model: model.safetensors is cut"):
        load_policy(PolicyConfig(), seed=0, path=model)


def test_older_ways_to_keep_a_checkpoint_load_the_same_policy(model):
    whole = loaded(model)
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").unlink()
    (model / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    torch.save(tensors, model / "pytorch_model.bin")
    settings = json.loads((model / "processor_config.json").read_text())
    (model / "processor_config.json").unlink()
    (model / "preprocessor_config.json").write_text(
        json.dumps({**settings["image_processor"], "processor_class": "Qwen2_5_VLProcessor"})
    )
    policy = loaded(model)
    for mine, theirs in zip(whole.model.parameters(), policy.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    sample = next(digits("choice", count=1, difficulty=2))
    assert (
        encode(sample, AnswerOnly(), policy).input_ids
        == encode(sample, AnswerOnly(), whole).input_ids
    )


def test_what_a_checkpoint_says_of_videos_is_saved_as_it_was(model, tmp_path):
    said = {"video_processor_type": "Qwen2VLVideoProcessor", "patch_size": 14, "max_frames": 77}
    edit(model / "processor_config.json", video_processor=said)
    loaded(model).save(tmp_path / "again")
    assert (
        json.loads((tmp_path / "again" / "processor_config.json").read_text())["video_processor"]
        == said
    )


@pytest.mark.parametrize(
    "name",
    [
        "./nowhere",
        "../nowhere",
        "/nowhere/at/all",
        "nowhere/",
        "a/b/c",
        "~/nowhere-at-all",
        "C:\\models\\mine",
    ],
)
def test_a_path_that_is_not_there_asks_no_hub(name, monkeypatch):
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("a hub was asked")
    )
    with pytest.raises(UserError, match="cannot be loaded: there is no such folder"):
        find_model(name)


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match=r"is a file; expected the folder that holds it"):
        find_model(str(tmp_path / "model.safetensors"))


def test_a_hub_id_is_fetched_into_a_folder_and_checked_there(model, monkeypatch):
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, **patterns: asked.append((name, patterns)) or str(model),
    )
    policy = load_policy(PolicyConfig(model="lab/tiny"), seed=0)
    assert policy.model.config.model_type == "qwen2_5_vl"
    (name, patterns), *more = asked
    assert (name, more) == ("lab/tiny", [])
    assert {"*.json", "*.safetensors", "*.jinja"} <= set(patterns["allow_patterns"])
    assert not [pattern for pattern in patterns["allow_patterns"] if pattern.endswith((".py", "*"))]
    locate("lab/tiny", weights=False)
    assert "*.safetensors" not in asked[-1][1]["allow_patterns"]
    rewrite(model, without("visual"))
    with pytest.raises(UserError, match="tensors are missing"):
        load_policy(PolicyConfig(model="lab/tiny"), seed=0)


def test_a_hub_that_cannot_be_asked_is_one_sentence():
    with pytest.raises(
        UserError,
        match=(
            r"policy.model: 'lab/tiny' cannot be loaded: no folder of that name is here, and it is "
            r"not in the hub's cache; the hub was not asked, because HF_HUB_OFFLINE is set"
        ),
    ):
        find_model("lab/tiny")


THINKS = {"": "", "<think>": "{{ '<think>\n' }}", "</think>": "{{ '<think>\n\n</think>\n\n' }}"}
"""What the last tag is -> what a template writes behind the assistant's turn."""


def thinking(folder: Path, tag: str) -> Path:
    """A checkpoint whose template begins answers by itself."""
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().removesuffix("{% endif -%}") + THINKS[tag] + "{%- endif -%}")
    return folder


@pytest.mark.parametrize("think", ["required", "optional", "absent", "opened"])
@pytest.mark.parametrize("tag", THINKS)
def test_a_template_that_thinks_by_itself_fits_one_style_or_says_which(model, tag, think):
    policy, style = loaded(thinking(model, tag)), Style(think=think)
    assert template_thought(policy.processor) == tag
    wanted = {"": think, "<think>": "opened", "</think>": "absent"}[tag]
    if think != wanted:
        with pytest.raises(
            UserError,
            match=(
                rf"prompt: the chat template .* with think: {think}; set prompt.think to {wanted}"
            ),
        ):
            check_template(style, policy.processor)
        return
    check_template(style, policy.processor)
    text = encode(next(digits("add", count=1)), style, policy).text.rpartition("assistant")[2]
    assert text.count("<think>") == (1 if tag or think == "opened" else 0)


@pytest.mark.parametrize(
    "template",
    [
        "{% for x in %}",
        "{{ raise_exception('no pictures') }}",
        "{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}",
        "{% for m in messages %}{{ m['content'] }}{% endfor %}",
        "a question",
    ],
)
def test_a_template_that_cannot_be_used_is_one_sentence(model, template, tmp_path):
    (model / "chat_template.jinja").write_text(template)
    done = gpg_vl("train", "digits_count", f"policy.model={model}", f"folder={tmp_path / 'runs'}")
    assert done.returncode == 2
    assert re.search(
        r"^gpg-vl: policy\.model: its chat template (cannot be used|makes .* of a picture and a "
        r"question)",
        done.stderr,
    )


def test_a_worked_solution_does_not_open_the_thought_again():
    sample = next(digits("add", count=1))
    worked = SimpleNamespace(
        **{
            **{name: getattr(sample, name) for name in sample.__slots__},
            "solution": "<think>so</think><answer>2</answer>",
        }
    )
    assert (
        solution(worked, Style(think="opened"), SimpleNamespace()) == "so</think><answer>2</answer>"
    )
    assert solution(worked, Style(), SimpleNamespace()) == worked.solution  # type: ignore[arg-type]


@pytest.mark.parametrize("command", ["train", "rollout", "sft"])
def test_commands_end_with_the_sentence_and_2(command, model, tmp_path):
    rewrite(model, without("visual"))
    done = gpg_vl(command, "digits_count", f"policy.model={model}", f"folder={tmp_path / 'runs'}")
    assert done.returncode == 2
    assert "tensors are missing" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["train", "sft", "rollout"])
def test_it_is_reported_before_torch_is_imported(command, model):
    cut_short(model)
    program = (
        "import sys; from typer.testing import CliRunner; from gpg_vl.cli import app;done = "
        f"CliRunner().invoke(app, [{command!r}, 'digits_count', "
        f"'policy.model={model}']);print(done.exit_code, 'is cut or damaged' in done.stderr, "
        "{'torch', 'transformers'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "2 True set()\n"


def stops_of(config: Config) -> list[str]:
    found = audit(Experiment.resolve(config), head=5)
    return [finding.text for finding in found if finding.level == "stop"]


def test_the_audit_stops_at_a_model_that_cannot_be_loaded_and_at_a_template_that_does_not_fit(
    model,
):
    config = load("digits_count", [f"policy.model={thinking(model, '<think>')}"])
    stops = stops_of(config)
    assert any("set prompt.think to opened" in text for text in stops)
    cut_short(model)
    stops = stops_of(config)
    assert any("is cut or damaged" in text for text in stops)


def test_the_audit_fetches_no_weights(model, monkeypatch):
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, **patterns: asked.append(patterns) or str(model),
    )
    (model / "model.safetensors").unlink()
    list(audit(Experiment.resolve(load("digits_count", ["policy.model=lab/tiny"])), head=5))
    assert asked
    assert not any("*.safetensors" in patterns["allow_patterns"] for patterns in asked)


def test_a_damaged_model_is_not_served(model):
    cut_short(model)
    done = gpg_vl("serve", "digits", f"policy.model={model}", "--show")
    assert done.returncode == 2
    assert "is cut or damaged" in done.stderr


def test_a_benchmark_whose_prompt_does_not_fit_the_template_is_named(model, tmp_path):
    done = gpg_vl("evaluate", "digits", "--model", thinking(model, "<think>"))
    assert done.returncode == 2
    assert "digits: prompt: the chat template opens <think> by itself" in done.stderr
