"""Register a weight-transfer backend named `gpg_vl` with vLLM.

vLLM loads this module in every process of a server, through the entry point `vllm.general_plugins`.
It imports nothing of `gpg_vl.policy`.

Weights arrive as tensors (in the trainer's own process) or as a safetensors file inside the one
folder that the environment variable GPG_VL_HANDOVER names; no file outside it is ever opened. They
go through vLLM's own checkpoint loading, layer by layer, so whatever vLLM makes of weights when it
loads them (fused, sharded, repacked) is made again.
"""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gpg_vl.rollout.vllm.weights import Weights, check_received

BACKEND = "gpg_vl"
FOLDER_VARIABLE = "GPG_VL_HANDOVER"


def register() -> None:
    """Register the backend with vLLM (the entry point); later calls do nothing."""
    module: Any = import_module("vllm.distributed.weight_transfer.factory")
    factory = module.WeightTransferEngineFactory
    if BACKEND not in factory._registry:
        factory.register_engine(BACKEND, weight_receiver())


def allowed_file(path: str, folder: str | None) -> Path:
    """Return the file at a path, if it is inside the configured folder.

    Raises:
        ValueError: it is not, or no folder is configured.
    """
    if not folder:
        raise ValueError(f"{FOLDER_VARIABLE} is not set: this server takes weights from nowhere")
    file = Path(path).resolve()  # follows links, so a link cannot lead outside
    if not file.is_relative_to(Path(folder).resolve()) or file.suffix != ".safetensors":
        raise ValueError(f"{path} is not a .safetensors file inside {FOLDER_VARIABLE}={folder}")
    return file


def read_tensors(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of a safetensors file, one at a time."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118  # it is no mapping
            yield name, opened.get_tensor(name)


@cache
def weight_receiver() -> Any:
    """Return the class of the backend; its base classes exist only where vLLM is installed."""
    base: Any = import_module("vllm.distributed.weight_transfer.base")
    reload: Any = import_module("vllm.model_executor.model_loader.reload")

    @dataclass
    class NoSetup(base.WeightTransferInitInfo):
        """Needs no information to set up."""

    @dataclass
    class WeightUpdate(base.WeightTransferUpdateInfo):
        """One whole weight sync."""

        names: list[str]
        """Names of all tensors."""
        path: str = ""
        """A file inside the configured folder."""
        tensors: Any = None
        """Tensors by name, in the trainer's own process; None = in the file."""
        checksums: dict[str, str] = field(default_factory=dict)
        """SHA-256 of the tensors that are to be compared."""

    class WeightReceiver(base.WeightTransferEngine):
        """Receives weights: one `update_weights` per sync; a file is checked before loading."""

        init_info_cls = NoSetup
        update_info_cls = WeightUpdate

        def init_transfer_engine(self, init_info: NoSetup) -> None:
            del init_info

        def start_weight_update(self) -> None:
            pass

        def update_weights(self, update_info: dict[str, Any]) -> None:
            self.receive_weights(self.parse_update_info(update_info))

        def receive_weights(self, update_info: WeightUpdate) -> None:
            if update_info.tensors is None:
                # Only a file can lose or alter a tensor. Those of this process would be compared
                # with themselves, and each read would convert one once more.
                check_received(sent_tensors(update_info), update_info.names, update_info.checksums)
            reload.initialize_layerwise_reload(self.model)
            self.model.load_weights(sent_tensors(update_info))
            refuse_partial_layers(self.model)
            reload.finalize_layerwise_reload(self.model, self.model_config)

        def finish_weight_update(self) -> None:
            pass

        def shutdown(self) -> None:
            pass

    return WeightReceiver


def sent_tensors(update: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of a weight sync, one at a time."""
    if update.tensors is not None:
        return iter(update.tensors.items())
    return read_tensors(allowed_file(update.path, os.environ.get(FOLDER_VARIABLE)))


def refuse_partial_layers(model: Any) -> None:
    """Check that each of vLLM's layers was filled as a whole or not at all.

    vLLM would complete a partly filled layer with uninitialised memory. Embeddings and heads are
    padded to a multiple of the vocabulary and never count as whole, so they are not checked.

    Raises:
        ValueError: a layer was filled in part, for instance a fused attention projection of which
            only the queries were sent.
    """
    embeddings: Any = import_module("vllm.model_executor.layers.vocab_parallel_embedding")
    layerwise: Any = import_module("vllm.model_executor.model_loader.reload.layerwise")
    for name, layer in model.named_modules():
        info = layerwise.get_layerwise_info(layer)
        is_padded = isinstance(layer, embeddings.VocabParallelEmbedding)
        if info.can_load() and info.load_numel and not is_padded:
            raise ValueError(
                f"only {info.load_numel} of {info.load_numel_total} numbers of {name} came"
            )


def nccl_sender(url: str, workers: int, device: Any) -> Any:
    """Return the trainer side of vLLM's NCCL transfer to one server.

    The trainer is rank 0 of the group, the server's workers follow. The tests replace vLLM's part;
    `tests/gpu/vllm_smoke.py` runs the real one where there are two GPUs.
    """
    nccl: Any = import_module("vllm.distributed.weight_transfer.nccl_engine")
    clients: Any = import_module("vllm.distributed.weight_transfer.clients")
    torch: Any = import_module("torch")
    address, port = _free_address(url)
    init = nccl.NCCLTrainerInitInfo(
        master_address=address, master_port=port, world_size=workers + 1, rank=0
    )
    client = clients.HTTPVLLMWeightSyncClient(url)
    no_tensors = tensor_source(Weights({}, torch.float32))
    with torch.cuda.device(device):
        return nccl.NCCLTrainerWeightTransferEngine.trainer_init(
            init, client=client, source=no_tensors
        )


def _free_address(url: str) -> tuple[str, int]:
    """Return this machine's address as the server reaches it, and a free port there."""
    parts = urlsplit(url)
    server = (parts.hostname or "", parts.port or 80)
    with socket.create_connection(server) as connection, socket.socket() as free:
        address = connection.getsockname()[0]
        free.bind((address, 0))
        return address, free.getsockname()[1]


def send(sender: Any, weights: Weights, device: Any) -> None:
    """Send weights through an NCCL group: start, broadcast, finish."""
    torch: Any = import_module("torch")
    sender.source = tensor_source(weights)
    # vLLM takes its streams from the current device of the thread.
    with torch.cuda.device(device):
        sender.send_weights()


def tensor_source(weights: Weights) -> Any:
    """Return weights in the form that vLLM's transfer reads: names and shapes, then each tensor."""
    base: Any = import_module("vllm.distributed.weight_transfer.base")

    class Tensors(base.WeightSource):
        """Named tensors."""

        def metadata(self) -> list[Any]:
            return [
                base.ParamMeta(name, weights.dtype, shape) for name, shape in weights.shapes.items()
            ]

        def __iter__(self) -> Iterator[tuple[str, Any]]:
            return iter(weights.items())

    return Tensors()
