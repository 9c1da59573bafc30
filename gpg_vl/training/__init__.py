"""Train: set a run up, step through it, save it, resume it."""
