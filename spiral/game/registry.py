"""Find a game by its id.

kuhn_poker                  registered in the entry-point group `spiral.games`
textarena/TicTacToe-v0      a TextArena environment
openspiel/leduc_poker       an OpenSpiel game
package.module:Class        an unregistered class on the import path
"""

from collections.abc import Callable
from functools import cache

from spiral import plugins
from spiral.game.protocol import Game

GROUP = "spiral.games"
_known_to_be_games: set[type] = set()


def game_ids() -> tuple[str, ...]:
    """The ids of all registered games, sorted."""
    return tuple(plugins.registered(GROUP))


@cache
def _constructor(game_id: str) -> Callable[[int], Game]:
    if game_id.startswith("textarena/"):
        from spiral.game.textarena import TextArenaGame

        name = game_id.removeprefix("textarena/")
        return lambda seed: TextArenaGame(name, seed)
    if game_id.startswith("openspiel/"):
        from spiral.game.openspiel import OpenSpielGame

        name = game_id.removeprefix("openspiel/")
        return lambda seed: OpenSpielGame(name, seed)
    if ":" not in game_id and game_id not in game_ids():
        hint = plugins.did_you_mean(game_id, game_ids())
        forms = "textarena/NAME, openspiel/NAME, package.module:Class"
        raise ValueError(f"unknown game {game_id!r}; {hint} Other forms: {forms} (see `spiral games`)")
    found = plugins.load_plugin(GROUP, game_id, "game")
    if not callable(found):
        raise ValueError(f"game {game_id!r} is a {type(found).__name__}, expected a class")
    return found  # type: ignore[no-any-return]


def make(game_id: str, seed: int) -> Game:
    """A new match of the game `game_id`, dealt from `seed`.

    Raises ValueError, in one line, for an unknown id and for a game that cannot be imported or takes no seed.
    """
    constructor = _constructor(game_id)
    try:
        game = constructor(seed)
    except TypeError as error:
        raise ValueError(f"game {game_id!r} cannot be constructed from a seed: {error}") from error
    if type(game) not in _known_to_be_games:  # isinstance takes as long as a turn of a small game
        if not isinstance(game, Game):
            raise ValueError(
                f"game {game_id!r} constructs a {type(game).__name__}, which lacks methods of spiral.game.Game"
            )
        _known_to_be_games.add(type(game))
    return game


def all_game_ids() -> tuple[str, ...]:
    """Every game that can be played here: the registered ones, then TextArena's, then OpenSpiel's."""
    from spiral.game import openspiel, textarena

    return (
        *game_ids(),
        *(f"textarena/{name}" for name in textarena.supported_names()),
        *(f"openspiel/{name}" for name in openspiel.supported_names()),
    )
