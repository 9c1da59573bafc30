"""Sampling groups of answers: engines, and the drawing of rounds until enough groups speak."""

ALIASES = {
    "server": "gpg_vl.rollout.vllm.server_engine:ServerEngine",
    "transformers": "gpg_vl.rollout.transformers_engine:TransformersEngine",
    "vllm": "gpg_vl.rollout.vllm.in_process:VllmEngine",
}
