"""Find a game by its id.

kuhn_poker                  a plugin: anything registered in the entry-point group `spiral.games`
textarena/TicTacToe-v0      a TextArena environment
openspiel/leduc_poker       an OpenSpiel game
package.module:Class        a class that can be imported but is not registered
"""

import difflib
import importlib
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from spiral.game.protocol import Game

GROUP = "spiral.games"
_known_to_be_games: set[type] = set()


@cache
def _plugins() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def game_ids() -> tuple[str, ...]:
    """The ids of all registered plugins, sorted."""
    return tuple(sorted(_plugins()))


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
    if ":" in game_id:
        module_name, _, class_name = game_id.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            raise ValueError(f"game {game_id!r} cannot be imported: {error}") from error
        if not callable(found):
            raise ValueError(f"game {game_id!r} is a {type(found).__name__}, expected a class")
        return found  # type: ignore[no-any-return]
    if game_id in _plugins():
        return _plugins()[game_id].load()  # type: ignore[no-any-return]
    near = difflib.get_close_matches(game_id, _plugins(), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(game_ids())}."
    forms = "textarena/NAME, openspiel/NAME, package.module:Class"
    raise ValueError(f"unknown game {game_id!r}; {hint} Other forms: {forms} (see `spiral games`)")


def make(game_id: str, seed: int) -> Game:
    """A fresh match of the game `game_id`, dealt from `seed`. Raises ValueError for an id that names no game."""
    game = _constructor(game_id)(seed)
    if type(game) not in _known_to_be_games:  # isinstance takes as long as a turn of a small game
        if not isinstance(game, Game):
            raise ValueError(f"game {game_id!r} makes a {type(game).__name__}, which lacks methods of spiral.game.Game")
        _known_to_be_games.add(type(game))
    return game


def all_game_ids() -> tuple[str, ...]:
    """Plugins, then the TextArena and the OpenSpiel games that can run here."""
    from spiral.game import openspiel, textarena

    return (
        *game_ids(),
        *(f"textarena/{name}" for name in textarena.supported_names()),
        *(f"openspiel/{name}" for name in openspiel.supported_names()),
    )
