"""The metrics in a run directory."""

import json
from collections.abc import Mapping
from pathlib import Path

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
        rows = [_row(line) for line in lines]
        if None in rows:
            number = self._path.read_bytes()[:offset].count(b"\n") + rows.index(None) + 1
            raise UserError(
                f"{self._path}: line {number} is damaged; restore the file from a copy, or delete that line, "
                "which loses the metrics of one step"
            )
        return [row for row in rows if row is not None], end

    def truncate(self, last_step: int) -> None:
        """Drop the rows after `last_step`: a resumed run plays those steps again."""
        rows = [row for row in self.read() if row["step"] <= last_step]
        with atomic_file(self._path) as aside:
            aside.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _row(line: bytes) -> dict[str, float] | None:
    """The row in a line, or None if it holds none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_row = isinstance(row, dict) and "step" in row and all(isinstance(number, int | float) for number in row.values())
    return row if is_row else None
