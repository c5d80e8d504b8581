"""The cache of models that are built on this machine."""

import os
from collections.abc import Callable
from pathlib import Path

from spiral.atomic import atomic_directory


def cache_dir() -> Path:
    """The directory of built models: $SPIRAL_CACHE/models, else under the user's cache directory."""
    base = os.environ.get("SPIRAL_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "spiral"
    return Path(base).expanduser() / "models"


def build_once(directory: Path, write: Callable[[Path], None]) -> Path:
    """Return `directory`, filled by `write` if it does not exist yet. A cached model is complete or absent."""
    if not directory.exists():
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        with atomic_directory(directory, if_exists="keep") as aside:
            write(aside)
    return directory
