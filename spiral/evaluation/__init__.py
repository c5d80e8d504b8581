"""Evaluation: paired matches against fixed players, and exact exploitability."""
