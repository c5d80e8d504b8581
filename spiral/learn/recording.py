"""Recording the episodes of a step, with what the learner made of each turn."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiral.learn.samples import ScoredTurn
from spiral.storage.background import BackgroundWriter
from spiral.storage.episode_files import EpisodeFiles
from spiral.types import Episode


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedStep:
    """The episodes of `step`, in match-id order, and the turns of them that were trained on.

    `ratios` holds pi / mu of each of `turns` in the first pass.
    """

    step: int
    episodes: Sequence[Episode]
    turns: Sequence[ScoredTurn]
    ratios: NDArray[np.float32]

    def write(self, run_dir: Path, keep: int) -> None:
        """Write the episode file of the step, and then remove those of older steps than the newest `keep` (0: none)."""
        num_turns = [len(episode.turns) for episode in self.episodes]
        begins = dict(zip((e.match.id for e in self.episodes), accumulate(num_turns, initial=0), strict=False))
        rows = [begins[turn.match.id] + turn.number for turn in self.turns]
        advantages, ratios = (np.full(sum(num_turns), np.nan, np.float32) for _ in range(2))
        advantages[rows] = [turn.advantage for turn in self.turns]
        ratios[rows] = self.ratios
        files = EpisodeFiles(run_dir)
        files.write(self.step, self.episodes, advantages, ratios)
        files.prune(keep)


class EpisodeRecorder(BackgroundWriter):
    """Writes episode files in a thread, and keeps those of the newest `keep` steps (0: all)."""

    def __init__(self, keep: int) -> None:
        super().__init__("episodes")
        self._keep = keep

    def record(self, run_dir: Path, trained: TrainedStep) -> None:
        """Start to write the episode file of a step, once the previous one is written."""
        self.begin(lambda: trained.write(run_dir, self._keep))
