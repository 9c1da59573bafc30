"""What a vLLM loads to take the trainer's weights: a weight-transfer backend named `gpg_vl`, found through the `vllm.general_plugins` entry
point in every process of a server.

Weights come as tensors (in the trainer's own process) or as a safetensors file inside the one folder that the environment variable
GPG_VL_HANDOVER names; nothing outside it is ever opened. They go through vLLM's own checkpoint loading, layer by layer, so whatever vLLM
makes of weights when it loads them (fused, sharded, repacked) is made again.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gpg_vl.rollout.vllm.weights import check_received

BACKEND = "gpg_vl"
FOLDER_VARIABLE = "GPG_VL_HANDOVER"


def register() -> None:
    """The entry point: let vLLM know the backend. May be called again."""
    factory: Any = import_module("vllm.distributed.weight_transfer.factory").WeightTransferEngineFactory
    if BACKEND not in factory._registry:
        factory.register_engine(BACKEND, landing())


def allowed_file(path: str, folder: str | None) -> Path:
    """The file at a path, if it lies inside the configured folder.

    Raises:
        ValueError: it does not, or no folder is configured.
    """
    if not folder:
        raise ValueError(f"{FOLDER_VARIABLE} is not set: this server takes weights from nowhere")
    file = Path(path).resolve()
    if not file.is_relative_to(Path(folder).resolve()) or file.suffix != ".safetensors":
        raise ValueError(f"{path} is not a .safetensors file inside {FOLDER_VARIABLE}={folder}")
    return file


def read_tensors(file: Path) -> Iterator[tuple[str, Any]]:
    """The tensors of a safetensors file, one at a time."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118  # it is no mapping
            yield name, opened.get_tensor(name)


@cache
def landing() -> Any:
    """The backend's class. vLLM's base classes are only there where vLLM is."""
    base: Any = import_module("vllm.distributed.weight_transfer.base")
    reload: Any = import_module("vllm.model_executor.model_loader.reload")

    @dataclass
    class Nothing(base.WeightTransferInitInfo):
        """There is nothing to set up."""

    @dataclass
    class HandOver(base.WeightTransferUpdateInfo):
        """One whole hand-over."""

        names: list[str]
        """What comes."""
        path: str = ""
        """A file inside the configured folder."""
        tensors: Any = None
        """In the trainer's own process: a mapping of names to tensors instead of a file."""
        digests: dict[str, str] = field(default_factory=dict)
        """SHA-256 of tensors, where they are to be checked."""

    class Landing(base.WeightTransferEngine):
        """Receives weights. A whole hand-over is one `update_weights`, looked through before the first weight is touched."""

        init_info_cls = Nothing
        update_info_cls = HandOver

        def init_transfer_engine(self, init_info: Nothing) -> None:
            del init_info

        def start_weight_update(self) -> None:
            pass

        def update_weights(self, update_info: dict[str, Any]) -> None:
            self.receive_weights(self.parse_update_info(update_info))

        def receive_weights(self, update_info: HandOver) -> None:
            check_received(coming_with(update_info), update_info.names, update_info.digests)
            reload.initialize_layerwise_reload(self.model)
            self.model.load_weights(coming_with(update_info))
            refuse_partial_layers(self.model)
            reload.finalize_layerwise_reload(self.model, self.model_config)

        def finish_weight_update(self) -> None:
            pass

        def shutdown(self) -> None:
            pass

    return Landing


def coming_with(update: Any) -> Iterator[tuple[str, Any]]:
    """The tensors of a hand-over, one at a time."""
    if update.tensors is not None:
        return iter(update.tensors.items())
    return read_tensors(allowed_file(update.path, os.environ.get(FOLDER_VARIABLE)))


def refuse_partial_layers(model: Any) -> None:
    """Make sure that no layer of vLLM's was filled in part: it would be completed with uninitialised memory.

    Embeddings and heads are padded to a multiple of the vocabulary and never count as whole.

    Raises:
        ValueError: there is one, for instance a fused attention projection of which only the queries came.
    """
    padded: Any = import_module("vllm.model_executor.layers.vocab_parallel_embedding").VocabParallelEmbedding
    layerwise: Any = import_module("vllm.model_executor.model_loader.reload.layerwise")
    for name, layer in model.named_modules():
        info = layerwise.get_layerwise_info(layer)
        if info.can_load() and info.load_numel and not isinstance(layer, padded):
            raise ValueError(f"only {info.load_numel} of {info.load_numel_total} numbers of {name} came")


def nccl_sender(url: str, workers: int, device: Any) -> Any:
    """vLLM's own trainer side of its NCCL transfer to one server: the trainer is rank 0, the server's workers follow.

    Tests play vLLM's part here; `tests/gpu/vllm_smoke.py` runs the real one where there are two GPUs.
    """
    nccl: Any = import_module("vllm.distributed.weight_transfer.nccl_engine")
    clients: Any = import_module("vllm.distributed.weight_transfer.clients")
    torch: Any = import_module("torch")
    with socket.create_connection((urlsplit(url).hostname or "", urlsplit(url).port or 80)) as line, socket.socket() as free:
        here = line.getsockname()[0]  # the address of this machine as the server reaches it
        free.bind((here, 0))
        port = free.getsockname()[1]
    init = nccl.NCCLTrainerInitInfo(master_address=here, master_port=port, world_size=workers + 1, rank=0)
    client, nothing = clients.HTTPVLLMWeightSyncClient(url), tensor_source({})
    with torch.cuda.device(device):
        return nccl.NCCLTrainerWeightTransferEngine.trainer_init(init, client=client, source=nothing)


def send(sender: Any, tensors: Mapping[str, Any], device: Any) -> None:
    """Send tensors through an NCCL group: start, broadcast, finish."""
    torch: Any = import_module("torch")
    sender.source = tensor_source(tensors)
    with torch.cuda.device(device):  # vLLM takes its streams from whatever device is the thread's own
        sender.send_weights()


def tensor_source(tensors: Mapping[str, Any]) -> Any:
    """Named tensors as vLLM's transfer reads them."""
    base: Any = import_module("vllm.distributed.weight_transfer.base")

    class Tensors(base.WeightSource):
        """Named tensors."""

        def metadata(self) -> list[Any]:
            return [base.ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]

        def __iter__(self) -> Iterator[tuple[str, Any]]:
            return iter(tensors.items())

    return Tensors()
