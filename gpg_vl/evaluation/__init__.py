"""Held-out questions: records, figures with intervals, comparisons."""
