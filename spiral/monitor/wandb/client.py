"""Settings of the wandb client for the whole process."""

import wandb


def silence() -> None:
    """Keep wandb from writing to the terminal, where the run's table is; its errors are raised, and in its logs."""
    wandb.setup(settings=wandb.Settings(silent=True))
