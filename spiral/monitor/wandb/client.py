"""Settings of the wandb client for the whole process, and its errors."""

from collections.abc import Iterator
from contextlib import contextmanager

import wandb

from spiral.config import UserError
from spiral.errors import summary


def silence() -> None:
    """Keep wandb from writing to the terminal, where the run's table is; its errors are raised, and in its logs."""
    wandb.setup(settings=wandb.Settings(silent=True))


@contextmanager
def errors_of(what: str) -> Iterator[None]:
    """Raise what W&B's client raises as a UserError: it has errors of its own, of several modules, and ValueError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what}: {summary(error)}") from error
