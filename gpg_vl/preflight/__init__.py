"""Before a run: what it needs, whether it can learn, what the policy answers."""
