"""Weights & Biases: a view of a run's files. Nothing else imports wandb or wandb_workspaces.

`sink` and `upload` bring a W&B run to what metrics.jsonl and evaluations/ say; `workspace` saves the dashboard.
"""
