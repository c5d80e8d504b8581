"""Scratch directories: private to one process, and removed by it or, if it was killed, by the next one."""

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
import weakref
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "spiral-"
LOCK = ".lock"


class ScratchDir:
    """A new directory in `parent` that only this user can enter, at the random path `path`.

    It contains a file on which this process holds a lock for as long as it lives. Directories of processes that have
    died are removed from `parent` first. Raises OSError if `parent` cannot be created or written to.
    """

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        remove_stale(parent)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        # The lock file gets its name once it is locked, so that no other process takes this directory for a stale one.
        # The descriptor is closed in programs that this process starts (PEP 446).
        lock = os.open(self.path / f"{LOCK}.new", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(lock, _boot_id())
        fcntl.flock(lock, fcntl.LOCK_EX)
        (self.path / f"{LOCK}.new").rename(self.path / LOCK)
        self._remove = weakref.finalize(self, _remove, self.path, lock, os.getpid())

    def close(self) -> None:
        """Remove the directory with everything in it, as the end of the process would. May be called again."""
        self._remove()


def _remove(path: Path, lock: int, owner: int) -> None:
    if os.getpid() == owner:  # not in a fork of it
        shutil.rmtree(path, ignore_errors=True)
    os.close(lock)


def remove_stale(parent: Path) -> int:
    """Remove the scratch directories in `parent` whose processes have died, and nothing else; return how many are left.

    Only those of this user and of this machine are removed: other machines may have theirs on the same network
    filesystem, and not every one of these shows the locks of other machines.
    """
    num_left = 0
    for path in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # it is in use, another user's, or being removed by another process
            if _is_ours(path):
                num_left += 1
                _remove_if_unlocked(path)
                num_left -= 1
    return num_left


def _is_ours(path: Path) -> bool:
    """Whether `path` is a directory (not a link to one) of this user, with a name that mkdtemp gives."""
    status = path.lstat()
    has_the_name = re.fullmatch(rf"{PREFIX}[a-z0-9_]{{8}}", path.name) is not None
    return has_the_name and stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def _remove_if_unlocked(path: Path) -> None:
    """Remove a scratch directory of this machine. Raises OSError if its process lives, or if it is none."""
    lock = os.open(path / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.read(lock, 100) == _boot_id():
            shutil.rmtree(path)
    finally:
        os.close(lock)


def _boot_id() -> bytes:
    """A name of this machine since it was started. Containers have that of their machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_bytes()
