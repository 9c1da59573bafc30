"""An engine whose second process loses its server after the first step, named in a config by its
file."""

from gpg_vl.errors import EngineLostError
from gpg_vl.rollout.transformers_engine import TransformersEngine


class LostOnOne(TransformersEngine):
    """Leaves one process of several alone."""

    def __init__(self, policy, rank: int) -> None:
        super().__init__(policy)
        self.rank = rank

    def generate(self, asked, sampling, seeds):
        if self.rank == 1 and self.version == 1:
            raise EngineLostError("no answer in 900 s")
        return super().generate(asked, sampling, seeds)
