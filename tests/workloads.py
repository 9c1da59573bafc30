"""Make the workload of a model of 10^9 parameters, for memory that is computed by hand."""

from gpg_vl.config import loading
from gpg_vl.policy.sizes import Size, Stack
from gpg_vl.preflight.memory import Machine, Workload

MODEL = Size(
    parameters={"language": 800_000_000, "projector": 50_000_000, "vision": 150_000_000},
    language=Stack(layers=10, width=1000, inner=2000, queries=1000, keys=500),
    tower=Stack(
        layers=4,
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
"""Language, projector and tower; a head of 1000 x 1000 that is the embedding."""


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
