"""Watching a run: metrics to JSONL, W&B and the console, episodes on disk, and the plot at the end."""
