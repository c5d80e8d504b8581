"""The cache of models that are built on this machine."""

from collections.abc import Callable
from pathlib import Path

from spiral import machine
from spiral.storage.atomic import atomic_directory


def cache_dir() -> Path:
    """The directory of built models: $SPIRAL_CACHE/models, else under the user's cache directory."""
    return machine.cache_dir() / "models"


def build_once(directory: Path, write: Callable[[Path], None]) -> Path:
    """Return `directory`, filled by `write` if it does not exist yet. A cached model is complete or absent."""
    if not directory.exists():
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        with atomic_directory(directory, if_exists="keep") as aside:
            write(aside)
    return directory
