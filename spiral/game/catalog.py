"""What there is to play, and what can be said of each game without a model."""

import random
import statistics
from dataclasses import dataclass

from spiral.game.registry import make
from spiral.game.scripted import scripted_players, take_random_turn

NUM_MATCHES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One game. `mean_turns` is of a few matches at random."""

    id: str
    title: str
    source: str
    exact: bool
    free_text: bool
    lists_actions: bool
    players: tuple[str, ...]
    mean_turns: float


def describe(game_id: str) -> Entry:
    """Play a few matches and say what the game is like. Raises ValueError for an id that names no game."""
    game = make(game_id, 0)
    spec, prefix = game.spec, game_id.partition("/")[0]
    return Entry(
        id=game_id,
        title=spec.title,
        source=prefix if "/" in game_id else "plugin",
        exact=spec.exact,
        free_text=spec.free_text,
        lists_actions=game.legal_actions() is not None,
        players=scripted_players(game),
        mean_turns=statistics.mean(_num_turns(game_id, seed) for seed in range(NUM_MATCHES)),
    )


def _num_turns(game_id: str, seed: int) -> int:
    game, rng, turns = make(game_id, seed), random.Random(seed), 0
    while game.role_to_move() is not None and turns < game.spec.max_turns:
        take_random_turn(game, rng)
        turns += 1
    return turns
