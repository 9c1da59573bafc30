"""Check that a rollout engine sees and scores what the trainer does: the vision gate."""
