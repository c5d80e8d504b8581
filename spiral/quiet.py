"""Silence for libraries that print what an exception says as well."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stderr_discarded() -> Iterator[None]:
    """Discard what this process writes to file descriptor 2, C++ libraries included. Exceptions are raised as usual."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
