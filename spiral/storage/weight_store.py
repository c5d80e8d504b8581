"""Where a process keeps policy versions for the engines of its machine: directories in shared memory, if they fit."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Set
from dataclasses import replace
from pathlib import Path

from spiral.config import Config, UserError
from spiral.storage.atomic import atomic_directory, full_disk_is_oserror
from spiral.storage.shared_memory import SHARED_MEMORY, ScratchDir
from spiral.storage.weight_files import Files, checksum, verify, write_files
from spiral.types import PAST, WeightsRef

VERSIONS_AT_ONCE = 3  # two are kept while the next is written; with learner.weight_ema there is an average beside them


class WeightStore:
    """The newest policy versions, each in a directory v<version>/ that holds its weights.

    The average of the weights at that version is in v<version>-average/, and past selves are in past<version>/.

    They are inside a ScratchDir: in `weights.dir`, which is created if necessary, else in shared memory or, if that has
    no room for them, in the temporary directory of this machine. The previous version is kept, because
    engines may still be loading it; all others are removed. Past selves stay until `keep_past` leaves them out twice.
    """

    def __init__(self, config: Config) -> None:
        self._configured = config.weights.dir
        self._num_at_once = VERSIONS_AT_ONCE + (config.learner.weight_ema is not None) + config.league.past_places
        self._past: Set[int] = frozenset()
        self._scratch: dict[Path, ScratchDir] = {}  # by parent

    def publish(
        self, write: Callable[[Path], None], num_bytes: int, version: int, averaged: bool = False
    ) -> tuple[Path, str]:
        """Let `write` fill the directory of a version; `num_bytes` is about the size of its weights.

        Returns the directory and its checksum. A directory of the same version is replaced. Raises OSError, with ENOSPC
        for a full disk, and UserError if `weights.dir` cannot be used.
        """
        directory = self._directory(num_bytes)
        location = directory / _name(version, averaged)
        with full_disk_is_oserror(directory), atomic_directory(location, if_exists="replace") as aside:
            write(aside)
        self._remove_all_but(version)
        return location, checksum(location)

    def receive(self, weights: WeightsRef, files: Files) -> WeightsRef:
        """Write a version that is on another machine, unless it is here already; returns where it is here.

        Raises RunInterrupted if `files` are not those of `weights`, and what `publish` raises.
        """
        name = _past_name(weights.version) if weights.is_past_self else _name(weights.version, weights.averaged)
        for scratch in self._scratch.values():
            here = replace(weights, location=str(scratch.path / name))
            if Path(here.location).exists() and checksum(Path(here.location)) == weights.checksum:
                return here
        location = self._directory(sum(content.nbytes for content in files.values())) / name
        here = replace(weights, location=str(location))
        write_files(files, location)
        verify(here)
        if not weights.is_past_self:
            self._remove_all_but(weights.version)
        return here

    def keep_past(self, versions: Set[int]) -> None:
        """Remove the past selves that are neither among `versions` nor were so the last time: no engine loads them."""
        kept = {_past_name(version) for version in versions | self._past}
        self._past = versions
        for scratch in self._scratch.values():
            for path in scratch.path.glob(f"{PAST}*"):
                if path.name not in kept:
                    shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Remove all versions."""
        for scratch in self._scratch.values():
            scratch.close()
        self._scratch.clear()

    def _directory(self, num_bytes: int) -> Path:
        """The scratch directory for a new version of that size."""
        if self._configured is not None:
            try:
                return self._scratch_in(self._configured).path
            except OSError as error:
                raise UserError(
                    f"weights.dir: {self._configured} cannot be used on {os.uname().nodename}: {error.strerror}"
                ) from error
        has_room = _free_bytes(SHARED_MEMORY) + self._held_bytes(SHARED_MEMORY) > self._num_at_once * num_bytes
        return self._scratch_in(SHARED_MEMORY if has_room else Path(tempfile.gettempdir())).path

    def _scratch_in(self, parent: Path) -> ScratchDir:
        if parent not in self._scratch:
            self._scratch[parent] = ScratchDir(parent)
        return self._scratch[parent]

    def _held_bytes(self, parent: Path) -> int:
        scratch = self._scratch.get(parent)
        return sum(file.stat().st_size for file in scratch.path.rglob("*") if file.is_file()) if scratch else 0

    def _remove_all_but(self, version: int) -> None:
        """Remove all but this version and the one before. There are higher ones if a checkpoint was loaded since."""
        for path in [path for scratch in self._scratch.values() for path in scratch.path.glob("v*")]:
            found = re.fullmatch(r"v(\d{6,})(-average)?", path.name)
            if found and not version - 1 <= int(found[1]) <= version:
                shutil.rmtree(path, ignore_errors=True)


def _name(version: int, averaged: bool) -> str:
    """The name of the directory of a version."""
    return f"v{version:06d}{'-average' if averaged else ''}"


def _past_name(version: int) -> str:
    """The name of the directory of a past self."""
    return f"{PAST}{version:06d}"


def _free_bytes(directory: Path) -> int:
    """Free space for this process; 0 for a directory that it may not write to."""
    return shutil.disk_usage(directory).free if os.access(directory, os.W_OK) else 0
