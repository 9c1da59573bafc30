"""The loop, the update, the warm-up, checkpoints."""

ESTIMATORS = {
    "gpg": "gpg_vl.methods.gpg:Gpg",
    "grpo": "gpg_vl.methods.grpo:Grpo",
    "dr_grpo": "gpg_vl.methods.grpo:DrGrpo",
    "rloo": "gpg_vl.methods.rloo:Rloo",
    "reinforce": "gpg_vl.methods.reinforce:Reinforce",
}
"""Short names of the shipped methods."""
