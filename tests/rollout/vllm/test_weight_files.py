"""Weight files and their folder, tried from the wrong side; and which tensors are sent and
accepted. Weights of a few numbers, and of a tiny model."""

import os
import re
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from gpg_vl.config.schema import LoraConfig, PolicyConfig
from gpg_vl.errors import EngineLostError, UserError
from gpg_vl.policy.load import load_policy
from gpg_vl.rollout.vllm import weight_files
from gpg_vl.rollout.vllm.weight_files import WeightFiles
from gpg_vl.rollout.vllm.weights import (
    HEAD,
    Weights,
    check_received,
    checksum,
    checksums,
    trainable_weights,
)

HOST = socket.gethostname()


class Small(nn.Module):
    """A model with an embedding, one layer and a head, which may be the embedding."""

    def __init__(self, *, tied: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 2)
        self.layer = nn.Linear(2, 2)
        self.lm_head = nn.Linear(2, 3, bias=False)
        if tied:
            self.lm_head.weight = self.embedding.weight

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding


def policy(
    *, tied: bool = True, frozen: tuple[str, ...] = (), dtype: torch.dtype = torch.float32
) -> Any:
    model = Small(tied=tied)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen) if frozen else True)
    return SimpleNamespace(model=model, dtype=dtype, adapters=None)


LAYER = {"layer.weight", "layer.bias"}


# --- what is sent ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tied", "frozen", "names", "all_names"),
    [
        (True, (), {"embedding.weight", *LAYER, HEAD}, {"embedding.weight", *LAYER, HEAD}),
        (True, ("layer",), {"embedding.weight", HEAD}, {"embedding.weight", *LAYER, HEAD}),
        (True, ("embedding",), LAYER, {"embedding.weight", *LAYER, HEAD}),
        (False, (), {"embedding.weight", *LAYER, HEAD}, {"embedding.weight", *LAYER, HEAD}),
        (False, ("lm_head",), {"embedding.weight", *LAYER}, {"embedding.weight", *LAYER, HEAD}),
        (False, ("embedding",), {*LAYER, HEAD}, {"embedding.weight", *LAYER, HEAD}),
    ],
)
def test_what_is_trained_is_sent_and_all_of_it_where_all_is_lost(tied, frozen, names, all_names):
    trained = policy(tied=tied, frozen=frozen)
    assert set(trainable_weights(trained)) == names
    assert len(trainable_weights(trained)) == len(names)
    assert set(trainable_weights(trained, include_frozen=True)) == all_names


def test_a_tensor_is_sent_in_the_engines_type_and_the_trained_one_stays():
    trained = policy(dtype=torch.bfloat16)
    sent = trainable_weights(trained)
    assert sent["layer.weight"].dtype == torch.bfloat16
    assert not sent["layer.weight"].requires_grad
    assert torch.equal(sent["layer.weight"], trained.model.layer.weight.detach().bfloat16())
    assert torch.equal(sent[HEAD], sent["embedding.weight"])
    assert trained.model.layer.weight.dtype == torch.float32


def test_a_head_of_its_own_is_sent_as_it_is():
    trained = policy(tied=False)
    assert torch.equal(trainable_weights(trained)[HEAD], trained.model.lm_head.weight)


def test_only_what_trains_is_sent_and_a_tied_head_under_its_own_name(policy_of):
    policy = policy_of(vision="frozen", projector="frozen")
    sent = trainable_weights(policy)
    assert not [name for name in sent if ".visual." in name]
    assert sent[HEAD].data_ptr() == policy.model.get_input_embeddings().weight.data_ptr()
    assert {name for name in sent if name != HEAD} == {
        name for name, it in policy.model.named_parameters() if it.requires_grad
    }
    assert set(trainable_weights(policy, include_frozen=True)) == {
        HEAD,
        *dict(policy.model.named_parameters()),
    }
    narrow = trainable_weights(policy_of(dtype="bfloat16"))
    assert {it.dtype for it in narrow.values()} == {torch.bfloat16}
    assert {it.dtype for it in narrow.parameters.values()} == {torch.float32}, (
        "converted one by one, when they are read"
    )


def test_a_frozen_language_model_sends_no_head(policy_of):
    assert HEAD not in trainable_weights(policy_of(language="frozen"))


def test_a_checksum_is_of_the_bytes():
    """SHA-256 of eight zero bytes, and of 1.0 and 2.0 in float32, little endian."""
    assert (
        checksum(torch.zeros(2))
        == "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc"
    )
    assert (
        checksum(torch.tensor([1.0, 2.0]))
        == checksum(torch.tensor([[1.0], [2.0]]))
        != checksum(torch.tensor([2.0, 1.0]))
    )
    turned = torch.arange(6.0).view(2, 3).T
    assert checksum(turned) == checksum(turned.contiguous()) != checksum(torch.arange(6.0))
    assert checksum(torch.zeros(2)) != checksum(torch.zeros(3)) != checksum(torch.zeros(2).double())
    assert checksums({"a": torch.zeros(2), "b": torch.ones(2)}) == {
        "a": checksum(torch.zeros(2)),
        "b": checksum(torch.ones(2)),
    }


A, B, OTHER = torch.tensor([1.0, 2.0]), torch.tensor([3.0]), torch.tensor([4.0])


@pytest.mark.parametrize(
    ("coming", "message"),
    [
        ([("a", A), ("b", B)], ""),
        ([("b", B), ("a", A)], ""),
        ([("a", A)], "1 announced tensors did not come, b among them"),
        ([], "2 announced tensors did not come, a among them"),
        ([("a", A), ("b", B), ("c", B)], "c came, but was not announced"),
        ([("a", A), ("a", A), ("b", B)], "a came, but was not announced or came before"),
        ([("a", A), ("b", B), ("b", B)], "b came, but was not announced or came before"),
        ([("a", OTHER), ("b", B)], "a is not what was sent: its checksum differs"),
        ([("a", A), ("b", OTHER)], "b is not what was sent: its checksum differs"),
        ([("a", B), ("b", A)], "a is not what was sent: its checksum differs"),
    ],
)
def test_each_tensor_arrives_once_and_is_what_was_sent(coming, message):
    wanted = {"a": checksum(A), "b": checksum(B)}
    if not message:
        check_received(iter(coming), ["a", "b"], wanted)
        return
    with pytest.raises(ValueError, match=message):
        check_received(iter(coming), ["a", "b"], wanted)


def test_what_has_no_checksum_is_not_compared():
    check_received(iter([("a", OTHER), ("b", B)]), ["a", "b"], {"b": checksum(B)})


# --- the folder -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode", [0o710, 0o720, 0o740, 0o701, 0o702, 0o704, 0o770, 0o707, 0o777, 0o750, 0o755]
)
def test_a_folder_that_anybody_else_may_enter_read_or_write_is_refused(mode, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(
        UserError,
        match=re.escape(
            f"other users may enter {folder}, and change weights there; chmod 700 {folder}"
        ),
    ):
        WeightFiles(str(folder))
    assert folder.stat().st_mode & 0o777 == mode, "nobody's folder is changed"


@pytest.mark.parametrize("mode", [0o700, 0o1700])
def test_a_folder_of_ones_own_is_taken(mode, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    folder.chmod(mode)
    WeightFiles(str(folder))


def test_a_new_folder_is_private_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        WeightFiles(str(tmp_path / "new"))
        WeightFiles(str(tmp_path / "deep" / "er"))
    finally:
        os.umask(before)
    assert (
        (tmp_path / "new").stat().st_mode & 0o777
        == (tmp_path / "deep" / "er").stat().st_mode & 0o777
        == 0o700
    )


def test_a_link_is_refused_though_it_leads_to_a_private_folder(tmp_path):
    (tmp_path / "own").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    with pytest.raises(UserError, match="is a link or belongs to another user"):
        WeightFiles(str(tmp_path / "link"))


def test_a_link_to_nowhere_and_a_file_are_refused(tmp_path):
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    (tmp_path / "file").write_text("")
    for name in ("nowhere", "file", "file/below"):
        with pytest.raises(UserError, match=r"cannot be made: .*; name a folder of your own"):
            WeightFiles(str(tmp_path / name))
    with pytest.raises(UserError, match="cannot be made: File exists"):
        WeightFiles(str(tmp_path / "file"))


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "weights"
    folder.mkdir(mode=0o700)
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    with pytest.raises(UserError, match="is a link or belongs to another user"):
        WeightFiles(str(folder))


def test_only_what_killed_processes_of_this_machine_left_is_cleared_away(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir(mode=0o700)
    dead, init, own = 2**22 + 1, 1, os.getpid()
    kept = [
        f"{HOST}-{own}-ab12.safetensors",
        f"{HOST}-{init}-ab12.safetensors",  # lives, and is nobody's child
        f"other{HOST}-{dead}-ab12.safetensors",
        f"{HOST}-{dead}-ab12.bin",
        f"{HOST}-self-ab12.safetensors",  # /proc/self exists
        f"{HOST}-word-ab12.safetensors",  # /proc/word does not, and is no process
        f"{HOST}-{dead}.safetensors",
    ]
    for name in [*kept, f"{HOST}-{dead}-ab12.safetensors", f"{HOST}-{dead}-cd-34.safetensors"]:
        (folder / name).write_bytes(b"")
    WeightFiles(str(folder))
    assert sorted(path.name for path in folder.iterdir()) == sorted(kept)


def test_another_process_that_is_quicker_is_no_mistake(tmp_path, monkeypatch):
    folder = tmp_path / "weights"
    folder.mkdir(mode=0o700)
    gone = folder / f"{HOST}-{2**22 + 1}-0.safetensors"
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([gone]))
    WeightFiles(str(folder))


# --- weight files ---------------------------------------------------------------------------------


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_weights_are_written_once_and_anew_after_they_were_removed(tmp_path):
    """A file that has been removed holds the weights of an earlier step: asked again, the
    present ones are written."""
    sender, trained = WeightFiles(str(tmp_path / "a")), policy()
    first = sender.get(trained, include_frozen=False, with_checksums=True)
    assert sender.get(trained, include_frozen=False, with_checksums=True) is first
    assert files_in(tmp_path / "a") == [first.path]
    with torch.no_grad():
        trained.model.layer.weight.add_(1)
    sender.remove()
    assert files_in(tmp_path / "a") == []
    second = sender.get(trained, include_frozen=False, with_checksums=True)
    assert second.path != first.path
    assert torch.equal(load_file(second.path)["layer.weight"], trained.model.layer.weight)
    assert second.checksums["layer.weight"] != first.checksums["layer.weight"]
    assert second.checksums == checksums(load_file(second.path))
    sender.remove()
    sender.remove()


def test_each_kind_of_file_is_written_once_and_all_are_removed(tmp_path):
    sender, trained = WeightFiles(str(tmp_path / "a")), policy(frozen=("layer",))
    wishes = [(frozen, checked) for frozen in (False, True) for checked in (False, True)]
    made = {
        wish: sender.get(trained, include_frozen=wish[0], with_checksums=wish[1]) for wish in wishes
    }
    assert len({file.path for file in made.values()}) == 4
    for (frozen, checked), file in made.items():
        names = {"embedding.weight", HEAD} | (LAYER if frozen else set())
        assert set(file.names) == set(load_file(file.path)) == names
        assert set(file.checksums) == (names if checked else set())
        assert file.path.parent == tmp_path / "a"
        assert file.path.stat().st_mode & 0o077 == 0
        assert re.fullmatch(
            rf"{re.escape(HOST)}-{os.getpid()}-[0-9a-f]{{8}}\.safetensors", file.path.name
        )
    sender.remove()
    assert files_in(tmp_path / "a") == []


def test_a_file_that_is_gone_already_is_no_error(tmp_path):
    sender = WeightFiles(str(tmp_path / "a"))
    sender.get(policy(), include_frozen=False, with_checksums=False).path.unlink()
    sender.remove()


@pytest.mark.parametrize(("dtype", "needed"), [(torch.float32, 18 * 4), (torch.bfloat16, 18 * 2)])
def test_a_folder_must_have_room_for_every_number(dtype, needed, tmp_path, monkeypatch):
    """3 x 2 in the embedding and again in the head, 2 x 2 and 2 in the layer: 18 numbers."""
    sender, trained = WeightFiles(str(tmp_path / "a")), policy(dtype=dtype)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=needed - 1))
    with pytest.raises(
        EngineLostError,
        match=(
            r"rollout\.engine\.handover: .*/a has 0\.00 GiB left, the weights need .*; make room "
            "there, or name another folder"
        ),
    ):
        sender.get(trained, include_frozen=False, with_checksums=False)
    assert files_in(tmp_path / "a") == []
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=needed))
    assert sender.get(trained, include_frozen=False, with_checksums=False).path.exists()


@pytest.mark.parametrize("written", [b"", b"half"])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (
            SafetensorError("I/O error: No space left on device (os error 28)"),
            r"No space left on device \(os error 28\)",
        ),
    ],
)
def test_what_could_not_be_written_whole_is_gone_and_may_be_asked_again(
    written, error, message, tmp_path, monkeypatch
):
    sender, whole = WeightFiles(str(tmp_path / "a")), weight_files.save_file

    def full(tensors: Any, path: Path) -> None:
        if written:
            path.write_bytes(written)
        raise error

    monkeypatch.setattr(weight_files, "save_file", full)
    with pytest.raises(EngineLostError, match=rf"/a has .* {message}; make room there"):
        sender.get(policy(), include_frozen=False, with_checksums=False)
    assert files_in(tmp_path / "a") == []
    monkeypatch.setattr(weight_files, "save_file", whole)
    assert sender.get(policy(), include_frozen=False, with_checksums=False).path.exists()


def test_weights_are_read_one_by_one():
    """What is not read is not turned into another format."""
    sent = Weights({"a": A, "b": B}, torch.float64)
    assert (list(sent), len(sent), sent["b"].dtype) == (["a", "b"], 2, torch.float64)


# --- adapters -------------------------------------------------------------------------------------

ADAPTED = {"language": "lora", "projector": "frozen", "vision": "frozen"}
LAYER_0 = "model.language_model.layers.0"


def moved(policy: Any) -> Any:
    """New adapters change nothing: B is 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return policy


def test_an_adapter_is_sent_merged_with_what_vllm_fuses_with_its_matrix(policy_of):
    """Queries, keys and values are one matrix there, of which it takes all or none."""
    targets = LoraConfig(targets=("q_proj", "up_proj"))
    trained = moved(policy_of("qwen2_5_vl", **ADAPTED, lora=targets))
    sent = trainable_weights(trained)
    attention = {f"self_attn.{name}_proj.weight" for name in "qkvo"}
    biases = {f"self_attn.{name}_proj.bias" for name in "qkv"}
    mlp = {f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
    in_first = {name.removeprefix(f"{LAYER_0}.") for name in sent if name.startswith(LAYER_0)}
    assert in_first == attention | biases | mlp
    assert not [name for name in sent if ".layers." not in name], "nor the head"
    (_, layer), *_ = trained.adapters.layers()
    delta = 32 / 16 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    base = layer.base_layer.weight
    torch.testing.assert_close(sent[f"{LAYER_0}.self_attn.q_proj.weight"], base + delta)
    assert (sent[f"{LAYER_0}.self_attn.q_proj.weight"] - base).abs().max() > 1e-3


@pytest.mark.parametrize("more", [{}, {"quantise": "nf4"}, {"vision": "lora", "projector": "full"}])
def test_all_of_a_model_with_adapters_is_what_it_is_saved_as(more, policy_of, tmp_path):
    trained = moved(policy_of("qwen2_5_vl", **{**ADAPTED, **more}, dtype="bfloat16"))
    sent = trainable_weights(trained, include_frozen=True)
    trained.save_whole(tmp_path)
    saved = load_policy(PolicyConfig(dtype="bfloat16", weights="bfloat16"), seed=0, path=tmp_path)
    loaded = dict(saved.model.named_parameters())
    assert set(sent) == {HEAD, *loaded}
    assert sent.size == 2 * sum(tensor.numel() for tensor in sent.values())
    for name, tensor in loaded.items():
        assert torch.equal(sent[name], tensor), name


def test_an_adapter_is_added_in_float32_and_rounded_once(policy_of):
    """Also where the gate asks for it, which computes in bfloat16."""
    trained = moved(policy_of("qwen2_5_vl", **ADAPTED, dtype="bfloat16"))
    (name, layer), *_ = trained.adapters.layers()
    delta = 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    expected = (layer.base_layer.weight.float() + delta).bfloat16()
    with trained.autocast():
        assert torch.equal(trainable_weights(trained)[f"{name}.weight"], expected)
    assert not torch.equal(expected, layer.base_layer.weight + delta.bfloat16())


def test_matrices_in_4_bits_are_sent_as_they_are_computed_with(policy_of):
    """A server has loaded the plain ones of the base model."""
    frozen = {**ADAPTED, "language": "frozen", "vision": "lora", "quantise": "nf4"}
    trained = policy_of("qwen2_5_vl", **frozen)
    sent = trainable_weights(trained)
    name = f"{LAYER_0}.mlp.gate_proj"
    held = trained.model.get_submodule(name).weight
    assert torch.equal(sent[f"{name}.weight"], dequantize_4bit(held.data, held.quant_state))
    assert not torch.equal(sent[f"{name}.weight"], policy_of().model.get_submodule(name).weight)
