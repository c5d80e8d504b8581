"""The lengths of matches: how many turns they have, and how many tokens each turn has."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spiral.config import UserError
from spiral.types import Episode, Match


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of a turn's prompt and of its completion."""

    prompt: int
    completion: int


class Workload:
    """Matches by game, and `others` for every other game: the lengths of the policy's turns, in order."""

    def __init__(
        self, by_game: Mapping[str, Sequence[tuple[Lengths, ...]]], others: Sequence[tuple[Lengths, ...]] = ()
    ) -> None:
        self._by_game = by_game
        self._others = others

    def of(self, match: Match) -> tuple[Lengths, ...]:
        """The turns of `match`: those of a known match of its game, drawn with its seed. Raises UserError."""
        known = self._by_game.get(match.game, self._others)
        if not known:
            raise UserError(f"no recorded match of {match.game}: --calibrate with a run that plays it")
        return random.Random(match.seed).choice(known)


def lengths(episode: Episode) -> tuple[Lengths, ...]:
    """The lengths of the turns that the policy sampled."""
    return tuple(
        Lengths(len(turn.prompt_ids), len(turn.completion.token_ids))
        for turn in episode.turns
        if turn.completion is not None
    )
