"""The model that is trained: loading, encoding questions, log-probabilities."""
