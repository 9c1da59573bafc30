"""Sample groups of answers: engines, rounds of sampling, and the gate that checks engines."""

ALIASES = {
    "server": "gpg_vl.rollout.vllm.server_engine:ServerEngine",
    "transformers": "gpg_vl.rollout.transformers_engine:TransformersEngine",
    "vllm": "gpg_vl.rollout.vllm.in_process:VllmEngine",
}
"""Short names of the shipped engines."""
