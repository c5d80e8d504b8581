"""watchdog.jsonl: what the watchdog has said and done, also in steps that a rollback has undone."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from spiral.config import UserError
from spiral.config.watchdog import Action
from spiral.storage.atomic import atomic_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line: something said after `step`, or an `action` taken then. A rollback goes back to step `to`."""

    step: int
    text: str
    action: Action | None = None
    to: int | None = None


class WatchdogLog:
    """The file in a run directory, on disk before the run goes on."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "watchdog.jsonl"

    def append(self, entry: Entry) -> None:
        with self._path.open("a") as file:
            _write(file, [entry])

    def read(self) -> list[Entry]:
        """All complete lines, oldest first. Raises UserError if one is damaged."""
        if not self._path.exists():
            return []
        *lines, _ = self._path.read_bytes().split(b"\n")
        return [self._parse(number, line) for number, line in enumerate(lines, start=1)]

    def truncate(self, last_step: int) -> None:
        """Drop what was said and done after `last_step` since the last rollback: a resumed run takes those steps again.

        What came before a rollback stays: it is why the run is where it is.
        """
        entries = self.read()
        while entries and entries[-1].action != "rollback" and entries[-1].step > last_step:
            entries.pop()
        if self._path.exists():
            with atomic_file(self._path) as aside, aside.open("w") as file:
                _write(file, entries)

    def _parse(self, number: int, line: bytes) -> Entry:
        try:
            return Entry(**json.loads(line))
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{self._path}: line {number} is damaged; delete that line") from error


def _write(file: TextIO, entries: Iterable[Entry]) -> None:
    file.writelines(json.dumps(asdict(entry)) + "\n" for entry in entries)
    file.flush()
    os.fsync(file.fileno())
