"""An engine that is shown no pictures, named in a config by its file."""

from gpg_vl.rollout.gate.altered_prompts import with_grey_pictures
from gpg_vl.rollout.transformers_engine import TransformersEngine


class Blind(TransformersEngine):
    """Sees grey, and has weights of its own, as far as anybody knows."""

    renewed = True

    def __init__(self, policy) -> None:
        super().__init__(policy)

    def generate(self, asked, sampling, seeds):
        return super().generate([with_grey_pictures(prompt, self.policy) for prompt in asked], sampling, seeds)
