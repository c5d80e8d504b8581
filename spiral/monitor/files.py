"""The metrics in a run directory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spiral.config import UserError
from spiral.storage.atomic import atomic_file

Row = Mapping[str, float]
EVALUATIONS = "evaluations"
"""Folder of a run directory with a few episodes of each evaluation, in files like those of `episodes/`."""


class MetricsFile:
    """metrics.jsonl: one object per step, flat keys, appended and flushed row by row."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "metrics.jsonl"

    def append(self, row: Row) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def read(self) -> list[dict[str, float]]:
        """All rows, without an incomplete last line, which the process that wrote it leaves if it is killed.

        Raises UserError if a complete line is not a row.
        """
        return self.read_on(0)[0]

    def read_on(self, offset: int) -> tuple[list[dict[str, float]], int]:
        """The complete rows from a byte offset on, and the offset of what follows them. Raises as `read` does."""
        if not self._path.exists():
            return [], offset
        with self._path.open("rb") as file:
            file.seek(offset)
            *lines, rest = file.read().split(b"\n")
            end = file.tell() - len(rest)
        return [self._row(number, line) for number, line in enumerate(lines, start=1)], end

    def truncate(self, last_step: int) -> None:
        """Drop the rows after `last_step`: a resumed run plays those steps again."""
        rows = [row for row in self.read() if row["step"] <= last_step]
        with atomic_file(self._path) as aside:
            aside.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def _row(self, number: int, line: bytes) -> dict[str, float]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not _is_row(row):
            raise UserError(
                f"{self._path}: line {number} is damaged; restore the file from a copy, or delete that line, "
                "which loses the metrics of one step"
            )
        return row  # type: ignore[no-any-return]


def _is_row(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and "step" in value
        and all(isinstance(number, int | float) for number in value.values())
    )
