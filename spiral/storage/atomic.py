"""Files and directories that are complete or absent: written aside, then renamed into place."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; replace `path` with it when the block ends without an exception."""
    aside = path.with_name(f"{path.name}.tmp")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_directory(
    path: Path, *, if_exists: Literal["fail", "replace", "keep"] = "fail", durable: bool = False
) -> Iterator[Path]:
    """Yield an empty directory beside `path`; move it to `path` when the block ends without an exception.

    If there are files at `path` by then, the rename fails with OSError; `replace` removes them first, and `keep` leaves
    them (equal contents from another process). `durable` forces the contents to disk before the rename, so that the
    rename never reaches the disk first.
    """
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # two processes may build the same directory
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        if durable:
            for written in [*aside.rglob("*"), aside]:
                _fsync(written)
        if if_exists == "keep" and path.exists():
            return
        if if_exists == "replace":
            shutil.rmtree(path, ignore_errors=True)
        aside.rename(path)
        if durable:
            _fsync(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def full_disk_is_oserror(directory: Path) -> Iterator[None]:
    """Raise OSError (ENOSPC) for a full disk, which torch and safetensors report as exceptions of their own types."""
    try:
        yield
    except Exception as error:
        if "no space left" not in str(error).lower() and "file write failed" not in str(error).lower():
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory)) from error


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
