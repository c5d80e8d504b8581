"""The lock of a run directory: only one process writes to a run, and others can tell whether one does."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spiral.errors import UserError

NAME = ".lock"
PATIENCE_S = 0.5
"""How long the lock is tried for: `is_locked`, in another process, holds it for a moment."""


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the lock of `run_dir`, which ends with the process. Raises UserError if another process has it."""
    deadline = time.monotonic() + PATIENCE_S
    with (run_dir / NAME).open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise UserError(f"run directory {run_dir} is in use by another process") from error
                time.sleep(0.05)
        yield


def is_locked(run_dir: Path) -> bool:
    """Whether a process writes to `run_dir`; one on another machine is seen if the filesystem passes locks on."""
    try:
        with (run_dir / NAME).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or no locks
        return False
    return False
