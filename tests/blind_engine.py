"""An engine that gets grey pictures, named in a config by its file."""

from gpg_vl.rollout.gate.altered_prompts import with_grey_pictures
from gpg_vl.rollout.transformers_engine import TransformersEngine


class Blind(TransformersEngine):
    """Sees grey, and always asks to be verified, like an engine with weights of its own."""

    needs_verification = True

    def __init__(self, policy) -> None:
        super().__init__(policy)

    def generate(self, asked, sampling, seeds):
        return super().generate(
            [with_grey_pictures(prompt, self.policy) for prompt in asked], sampling, seeds
        )
