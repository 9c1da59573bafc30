"""The loop, the update, the warm-up, checkpoints."""
