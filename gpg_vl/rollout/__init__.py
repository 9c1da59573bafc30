"""Sampling groups of answers: engines, and the drawing of rounds until enough groups speak."""

ALIASES = {
    "transformers": "gpg_vl.rollout.transformers_engine:TransformersEngine",
    "vllm": "gpg_vl.rollout.vllm_engine:VllmEngine",
}
