"""What a run directory says about a run's speed."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiral.config import Config, UserError, load_config
from spiral.monitor.files import MetricsFile
from spiral.planning.forecast import WARM_UP
from spiral.planning.workload import Lengths, Workload, lengths
from spiral.storage.episode_files import EpisodeFiles

QUANTILES = (0.1, 0.5, 0.9)
"""Of the times that matches take: the first end while all seats are taken, the last when few still are."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A run: its config, the rows of its steps after the warm-up, and the tokens that each of them trained on.

    `match_s` holds the QUANTILES of the seconds that a match of these steps took; `matches` has all matches by game.
    """

    config: Config
    rows: list[dict[str, float]]
    tokens: list[int]
    match_s: NDArray[np.float64]
    matches: dict[str, list[tuple[Lengths, ...]]]

    @classmethod
    def of(cls, run_dir: Path) -> "Measured":
        """Read a run directory. Raises UserError if it is none, or too short."""
        config = load_config(str(run_dir / "config.yaml"), [])
        files = EpisodeFiles(run_dir)
        files.choose(None)
        # What is left to play at the end of a run fills the seats less and less.
        last = config.steps - config.rollout.max_staleness
        rows = {int(row["step"]): row for row in MetricsFile(run_dir).read() if WARM_UP < row["step"] < last}
        matches: dict[str, list[tuple[Lengths, ...]]] = defaultdict(list)
        counted: dict[int, int] = {}
        durations: list[float] = []
        for step in files.steps():
            episodes = files.read(step)
            played = [lengths(episode) for episode in episodes]
            for episode, turns in zip(episodes, played, strict=True):
                matches[episode.match.game].append(turns)
            if step in rows:
                counted[step] = sum(turn.prompt + turn.completion for turns in played for turn in turns)
                durations += [episode.duration_s for episode in episodes]
        if len(counted) < 2:
            raise UserError(f"{run_dir} is too short to measure speeds: at least {WARM_UP + 4} steps with episodes")
        match_s: NDArray[np.float64] = np.quantile(np.array(durations), QUANTILES).astype(np.float64)
        return cls(config, [rows[step] for step in counted], list(counted.values()), match_s, dict(matches))

    def mean(self, name: str) -> float:
        """The mean of a metric over the rows."""
        return float(np.mean([row[name] for row in self.rows]))

    def over_time(self, name: str) -> float:
        """The mean of a metric that is a mean over a step, each weighted with the time of its step."""
        return float(np.average([row[name] for row in self.rows], weights=[row["perf/step_s"] for row in self.rows]))


def workload_of(runs: Sequence[Measured]) -> Workload:
    """The matches of these runs."""
    by_game: dict[str, list[tuple[Lengths, ...]]] = defaultdict(list)
    for run in runs:
        for game, matches in run.matches.items():
            by_game[game] += matches
    return Workload(by_game)
