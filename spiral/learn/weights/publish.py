"""Publishing weights: each policy version becomes a directory that generators load."""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from spiral.atomic import atomic_directory
from spiral.config import Config

SHARED_MEMORY = Path("/dev/shm")


def publish_dirs(config: Config) -> tuple[Path, ...]:
    """The directories this run publishes to, best first: in shared memory, then in the run directory.

    If `weights.dir` is set, the only one is a subdirectory of it. All of them belong to the run: it removes old
    versions and, at its end, the directories. The names follow from the run directory, so that a resumed run finds and
    removes what a killed one left.
    """
    tag = hashlib.sha256(str(config.run_dir.resolve()).encode()).hexdigest()[:12]
    if config.weights.dir is not None:
        return (config.weights.dir / f"spiral-{tag}",)
    shared = (SHARED_MEMORY / f"spiral-{os.getuid()}-{tag}",) if os.access(SHARED_MEMORY, os.W_OK) else ()
    return (*shared, config.run_dir.resolve() / "weights")


def publish(write: Callable[[Path], None], num_bytes: int, directories: Sequence[Path], version: int) -> Path:
    """Let `write` fill v<version>/ in the first of `directories` with enough room, and return its path.

    The previous version is kept, because generators may still be loading it; all others are removed. `num_bytes` is
    the size of the weights.
    """
    _remove(directories, r"v\d{6,}\.\d+\.tmp")  # left by a killed process
    directory = next((d for d in directories[:-1] if _free_bytes(d) > 3 * num_bytes), directories[-1])
    location = directory / f"v{version:06d}"
    with full_disk_is_oserror(directory), atomic_directory(location, if_exists="replace") as temporary:
        write(temporary)
    # A higher version was left by a killed run that this one resumes from an earlier checkpoint.
    _remove(directories, r"v\d{6,}", lambda name: not version - 1 <= int(name[1:]) <= version)
    return location


@contextmanager
def full_disk_is_oserror(directory: Path) -> Iterator[None]:
    """Raise OSError (ENOSPC) for a full disk, which torch and safetensors report as exceptions of their own types."""
    try:
        yield
    except Exception as error:
        if "no space left" not in str(error).lower() and "file write failed" not in str(error).lower():
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory)) from error


def _remove(directories: Iterable[Path], pattern: str, unwanted: Callable[[str], bool] = lambda name: True) -> None:
    """Remove the entries of `directories` whose name matches `pattern` and is `unwanted`."""
    for path in [path for directory in directories for path in directory.glob("v*")]:
        if re.fullmatch(pattern, path.name) and unwanted(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _free_bytes(directory: Path) -> int:
    return shutil.disk_usage(next(path for path in (directory, *directory.parents) if path.exists())).free
