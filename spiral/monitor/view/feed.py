"""What the screens read of a run directory, again and again while the run goes on."""

import math
from pathlib import Path
from typing import NamedTuple

from spiral.errors import UserError
from spiral.monitor.files import MetricsFile
from spiral.monitor.runs import state_of
from spiral.storage.episode_files import EpisodeFiles
from spiral.types import Episode

Figures = tuple[float | None, float | None]
"""The advantage of a turn and its importance ratio; None if it was not trained on."""


class PlayedMatch(NamedTuple):
    """An episode, with the figures of each of its turns."""

    episode: Episode
    figures: list[Figures]

    @property
    def num_illegal(self) -> int:
        """Turns whose action was not legal."""
        return sum(not turn.legal for turn in self.episode.turns)


class RunFeed:
    """A run directory, read on from where it was read to before."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rows: list[dict[str, float]] = []
        self.problem: str | None = None
        """Why metrics.jsonl cannot be read on."""
        self._keys: set[str] = set()
        self._metrics = MetricsFile(directory)
        self._episodes = EpisodeFiles(directory)
        self._offset, self._inode = 0, 0

    def poll(self) -> bool:
        """Read the rows that are new. Returns whether anything has changed."""
        try:
            status = (self.directory / "metrics.jsonl").stat()
        except OSError:
            return False
        resumed = status.st_ino != self._inode or status.st_size < self._offset  # a resumed run writes the file anew
        if not resumed and status.st_size == self._offset:
            return False
        before = len(self.rows)
        if resumed:
            self.rows, self._keys, self._offset, self._inode = [], set(), 0, status.st_ino
        try:
            new, self._offset = self._metrics.read_on(self._offset)
        except UserError as error:
            self.problem = str(error)
            return False
        self.problem = None
        self.rows += new
        self._keys.update(*new)
        return resumed or len(self.rows) > before

    @property
    def keys(self) -> list[str]:
        """All metrics of the run, sorted, without `step`."""
        return sorted(self._keys - {"step"})

    def series(self, key: str) -> list[tuple[float, float]]:
        """(step, value) of a metric in every row that has a finite one."""
        return [(row["step"], row[key]) for row in self.rows if math.isfinite(row.get(key, math.nan))]

    def state(self) -> str:
        """running, finished, interrupted or failed."""
        return state_of(self.directory, self.rows)[0]

    def steps(self) -> list[int]:
        """The steps whose episodes can be looked at."""
        return self._episodes.steps()

    def matches(self, step: int) -> list[PlayedMatch]:
        """The matches that `step` trained on. Raises UserError if they are gone, or damaged."""
        from spiral.storage.episode_table import to_scored_episodes

        return [PlayedMatch(*scored) for scored in to_scored_episodes(self._episodes.table(step))]
