"""What a vLLM takes weights from, and what it does before it loads them. No vLLM."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from gpg_vl.rollout.vllm import plugin
from gpg_vl.rollout.vllm.weights import Weights, checksums


def test_a_server_reads_weights_inside_its_folder_only(tmp_path):
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "secret.safetensors").write_bytes(b"")
    (inside / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    assert (
        plugin.allowed_file(str(inside / "1.safetensors"), str(inside)) == inside / "1.safetensors"
    )
    for path in (
        "secret.safetensors",
        "in/../secret.safetensors",
        "in/link.safetensors",
        "in/model.bin",
    ):
        with pytest.raises(ValueError, match="is not a \\.safetensors file inside"):
            plugin.allowed_file(str(tmp_path / path), str(inside))
    with pytest.raises(ValueError, match="takes weights from nowhere"):
        plugin.allowed_file(str(inside / "1.safetensors"), None)


@pytest.fixture
def receive(monkeypatch) -> Any:
    """Receives a weight sync; returns what was done, in order."""
    done: list[str] = []
    modules = {
        "vllm.distributed.weight_transfer.base": SimpleNamespace(
            WeightTransferInitInfo=object,
            WeightTransferUpdateInfo=object,
            WeightTransferEngine=object,
        ),
        "vllm.model_executor.model_loader.reload": SimpleNamespace(
            initialize_layerwise_reload=lambda model: done.append("begin"),
            finalize_layerwise_reload=lambda model, config: done.append("end"),
        ),
    }
    monkeypatch.setattr(plugin, "import_module", modules.__getitem__)
    monkeypatch.setattr(plugin, "refuse_partial_layers", lambda model: done.append("whole"))
    check = plugin.check_received

    def checked(tensors: Any, names: Any, expected: Any) -> None:
        done.append("check")
        check(tensors, names, expected)

    monkeypatch.setattr(plugin, "check_received", checked)
    kind = plugin.weight_receiver.__wrapped__()  # not the one that a test before has cached
    model = SimpleNamespace(
        load_weights=lambda tensors: done.extend(name for name, _ in tensors),
    )

    def received(**update: Any) -> list[str]:
        done.clear()
        receiver = kind()
        receiver.model, receiver.model_config = model, None
        receiver.receive_weights(kind.update_info_cls(**update))
        return done

    return received


def test_a_file_is_checked_before_a_weight_changes(receive, tmp_path, monkeypatch):
    monkeypatch.setenv(plugin.FOLDER_VARIABLE, str(tmp_path))
    tensors, path = {"a": torch.ones(2)}, tmp_path / "1.safetensors"
    save_file(tensors, path)
    update = {"names": ["a"], "path": str(path), "checksums": checksums(tensors)}
    assert receive(**update) == ["check", "begin", "a", "whole", "end"]
    with pytest.raises(ValueError, match="1 announced tensors did not come, b among them"):
        receive(**{**update, "names": ["a", "b"]})


def test_tensors_of_this_process_are_read_once(receive):
    """Each read converts one to the engine's type."""
    sent = Weights({"a": torch.ones(2)}, torch.bfloat16)
    assert receive(names=["a"], tensors=sent) == ["begin", "a", "whole", "end"]
