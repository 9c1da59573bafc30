"""The loop, the update, the warm-up, checkpoints."""

ESTIMATORS = {
    "gpg": "gpg_vl.estimators:Gpg",
    "grpo": "gpg_vl.estimators:Grpo",
    "dr_grpo": "gpg_vl.estimators:DrGrpo",
    "rloo": "gpg_vl.estimators:Rloo",
    "reinforce": "gpg_vl.estimators:Reinforce",
}
"""Short names of the shipped methods."""
