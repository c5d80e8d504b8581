"""The entries of `spiral games`: what each game is like, found out by playing it at random."""

import random
import statistics
from dataclasses import dataclass

from spiral.game.registry import make
from spiral.game.scripted import scripted_players, take_random_turn

NUM_MATCHES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One game. `players` are scripted players; `mean_turns` is the mean over a few random matches."""

    id: str
    title: str
    source: str
    exact: bool
    free_text: bool
    lists_actions: bool
    players: tuple[str, ...]
    mean_turns: float


def describe(game_id: str) -> Entry:
    """Play a few random matches of a game and describe it. Raises ValueError for an unknown id."""
    game = make(game_id, 0)
    spec, prefix = game.spec, game_id.partition("/")[0]
    return Entry(
        id=game_id,
        title=spec.title,
        source=prefix if "/" in game_id else "plugin",
        exact=spec.exact,
        free_text=spec.free_text,
        lists_actions=game.legal_actions() is not None,
        players=scripted_players(game, game_id),
        mean_turns=statistics.mean(_num_turns(game_id, seed) for seed in range(NUM_MATCHES)),
    )


def _num_turns(game_id: str, seed: int) -> int:
    game, rng, turns = make(game_id, seed), random.Random(seed), 0
    while game.role_to_move() is not None and turns < game.spec.max_turns:
        take_random_turn(game, rng)
        turns += 1
    return turns
