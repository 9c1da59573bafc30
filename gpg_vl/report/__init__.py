"""Show a run: on the terminal, to trackers, on a model card."""
