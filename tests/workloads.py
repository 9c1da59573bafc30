"""Make the workload of a model of 10^9 parameters, for memory that is computed by hand."""

from collections.abc import Mapping
from pathlib import Path

from gpg_vl.config import loading
from gpg_vl.policy.adapter_files import PREFIX, AdapterFiles
from gpg_vl.policy.sizes import Matrix, Size, Stack
from gpg_vl.preflight.memory import Machine, Workload

MODEL = Size(
    parameters={"language": 800_000_000, "projector": 50_000_000, "vision": 150_000_000},
    projector=(Matrix("0", 400, 400), Matrix("2", 400, 1000)),
    language=Stack(
        layers=10,
        matrices=(
            Matrix("down_proj", 2000, 1000),
            Matrix("gate_proj", 1000, 2000),
            Matrix("k_proj", 1000, 500),
            Matrix("o_proj", 1000, 1000),
            Matrix("q_proj", 1000, 1000),
            Matrix("up_proj", 1000, 2000),
            Matrix("v_proj", 1000, 500),
        ),
        width=1000,
        inner=2000,
        queries=1000,
        keys=500,
    ),
    tower=Stack(
        layers=4,
        matrices=(
            Matrix("fc1", 100, 200),
            Matrix("fc2", 200, 100),
            Matrix("proj", 100, 100),
            Matrix("qkv", 100, 300),
        ),
        width=100,
        inner=200,
        queries=100,
        keys=100,
        inner_kept=2,
        is_tower=True,
        layer_norm=True,
    ),
    vocabulary=1000,
    tied=True,
    patches=4,
    patch=14,
)
"""Language, projector and tower; a head of 1000 x 1000 that is the embedding. The matrices of the
language model's layers have 90 million numbers."""


def run_of(
    *knobs: str, gb: float | None = None, processes: int = 1, kl: float = 0.0, size: Size = MODEL
) -> Workload:
    """Return a workload of 32 groups, each of 500 tokens.

    That is a picture of 100 tokens, a text of 256, and 8 answers of 18.
    """
    given = ["policy.model=/somewhere", "policy.max_pixels=78400", "policy.vision=frozen", *knobs]
    return Workload(
        config=loading.load("digits", given),
        size=size,
        machine=Machine(gb=gb, processes=processes),
        kl=kl,
    )


def adapter_on(
    ends: Mapping[str, tuple[int, int]], *, whole: tuple[str, ...] = (), rank: int = 4
) -> AdapterFiles:
    """Return an adapter on disk.

    Args:
        ends: inputs and outputs of the adapted matrices, by their names.
        whole: names of the parameters that it holds as a whole.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (inputs, outputs) in ends.items():
        shapes[f"{PREFIX}{name}.lora_A.weight"] = (rank, inputs)
        shapes[f"{PREFIX}{name}.lora_B.weight"] = (outputs, rank)
    shapes |= dict.fromkeys((f"{PREFIX}{name}" for name in whole), (400, 400))
    return AdapterFiles(folder=Path("/adapter"), settings={"r": rank}, shapes=shapes)
