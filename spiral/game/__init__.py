"""Games: the protocol, the registry that finds them, and the adapters that bring other people's."""

from spiral.game.protocol import ExactGame, Game, IllegalAction, refuse_unlisted, try_step
from spiral.game.registry import game_ids, make
from spiral.game.text import one_line
from spiral.types import GameSpec

__all__ = [
    "ExactGame",
    "Game",
    "GameSpec",
    "IllegalAction",
    "game_ids",
    "make",
    "one_line",
    "refuse_unlisted",
    "try_step",
]
