"""Publishing weights: a policy version becomes a directory that generators load."""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from spiral.config import Config

SHARED_MEMORY = Path("/dev/shm")


def publish_dirs(config: Config) -> tuple[Path, ...]:
    """Where this run may publish, best first: shared memory, then the run directory; or only `weights.dir`, if set.

    The names follow from the run directory, so that a resumed run clears what a killed one left behind.
    """
    if config.weights.dir is not None:
        return (config.weights.dir,)
    tag = hashlib.sha256(str(config.run_dir.resolve()).encode()).hexdigest()[:12]
    shared = (SHARED_MEMORY / f"spiral-{os.getuid()}-{tag}",) if os.access(SHARED_MEMORY, os.W_OK) else ()
    return (*shared, config.run_dir.resolve() / "weights")


def publish(write: Callable[[Path], None], num_bytes: int, directories: Sequence[Path], version: int) -> Path:
    """Let `write` fill v<version> in the first of `directories` with room. The version before stays, others go."""
    directory = next((d for d in directories[:-1] if _free_bytes(d) > 3 * num_bytes), directories[-1])
    location, aside = directory / f"v{version:06d}", directory / f"v{version:06d}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    with full_disk_is_oserror(directory):
        write(aside)
    shutil.rmtree(location, ignore_errors=True)
    aside.rename(location)
    # Later versions can only be what a killed run left behind before this one resumed.
    for other in (path for d in directories for path in d.glob("v??????")):
        if not version - 1 <= int(other.name[1:]) <= version:
            shutil.rmtree(other, ignore_errors=True)
    return location


@contextmanager
def full_disk_is_oserror(directory: Path) -> Iterator[None]:
    """Torch and safetensors report a full disk each in a type of their own; make it the OSError that it is."""
    try:
        yield
    except Exception as error:
        if "no space left" not in str(error).lower() and "file write failed" not in str(error).lower():
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory)) from error


def _free_bytes(directory: Path) -> int:
    return shutil.disk_usage(next(path for path in (directory, *directory.parents) if path.exists())).free
