"""Turn rewards into weights: GPG on one page, and its neighbours. Nothing here needs a model."""

ESTIMATORS = {
    "gpg": "gpg_vl.methods.gpg:Gpg",
    "grpo": "gpg_vl.methods.grpo:Grpo",
    "dr_grpo": "gpg_vl.methods.grpo:DrGrpo",
    "rloo": "gpg_vl.methods.rloo:Rloo",
    "reinforce": "gpg_vl.methods.reinforce:Reinforce",
}
"""Short names of the shipped methods."""
