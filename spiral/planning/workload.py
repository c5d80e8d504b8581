"""The lengths of matches: how many turns they have, and how many tokens each turn has."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spiral.config import UserError
from spiral.storage.episode_files import EpisodeFiles
from spiral.types import Episode, Match


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of a turn's prompt and of its completion."""

    prompt: int
    completion: int


class Workload:
    """Recorded matches, by game: the lengths of the policy's turns, in order."""

    def __init__(self, by_game: Mapping[str, Sequence[tuple[Lengths, ...]]]) -> None:
        self._by_game = by_game

    @classmethod
    def recorded(cls, run_dirs: Sequence[Path]) -> "Workload":
        """All matches that these runs trained on and still have. Raises UserError if there are none."""
        by_game: dict[str, list[tuple[Lengths, ...]]] = defaultdict(list)
        for run_dir in run_dirs:
            files = EpisodeFiles(run_dir)
            files.choose(None)
            for step in files.steps():
                for episode in files.read(step):
                    by_game[episode.match.game].append(lengths(episode))
        return cls(by_game)

    def of(self, match: Match) -> tuple[Lengths, ...]:
        """The turns of `match`: those of a recorded match of its game, drawn with its seed. Raises UserError."""
        if match.game not in self._by_game:
            raise UserError(f"no recorded match of {match.game}: --calibrate with a run that plays it")
        return random.Random(match.seed).choice(self._by_game[match.game])


def lengths(episode: Episode) -> tuple[Lengths, ...]:
    """The lengths of the turns that the policy sampled."""
    return tuple(
        Lengths(len(turn.prompt_ids), len(turn.completion.token_ids))
        for turn in episode.turns
        if turn.completion is not None
    )
