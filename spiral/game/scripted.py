"""Scripted players: players that are not language models, found by their label.

random, perfect, mcts:100       NAME or NAME:ARGUMENT of a player registered in the entry-point group `spiral.players`
package.module:attribute        an unregistered player on the import path, optionally followed by :ARGUMENT

A label stands for a factory, `factory(game, game_id, seed, argument) -> Script`, which raises ValueError if it cannot
play that game. `game` is any match of it, perhaps one that is under way. Factories are cheap to call: a player that has
to compute something does so at its first move. The built-in ones are at the end of this file.
"""

import random
import re
from collections.abc import Callable

from spiral import plugins
from spiral.config import UserError
from spiral.game.protocol import ExactGame, Game, IllegalAction, SearchableGame
from spiral.types import POLICY

GROUP = "spiral.players"
FORMS = "random, perfect, mcts:NUMBER, module:attribute"
DEFAULT_SIMULATIONS = 100

Script = Callable[[Game], str]
"""Called with a match whenever its role is to move; returns the action."""

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(:.*)?")

# Random messages for games of free text; some of them are commands in TextArena's games.
TALK = (
    "Hello! What do you think?",
    "offer 1 wheat for 1 wood: shall we?",
    "[Accept]",
    "[Propose] CCAACCCC",
    "[Propose] $1.20",
    "[Offer: 1 Wheat -> 1 Wood]",
    "[Bid on Item 0: 20]",
)


class _CannotPlay(ValueError):
    """The player exists but refuses the game or the argument."""


def is_script(label: str) -> bool:
    """Whether `label` has the form of a scripted player: a registered name, or `module:attribute`."""
    name = label.partition(":")[0]
    return not _is_policy(name) and (name in plugins.registered(GROUP) or _IMPORT_PATH.fullmatch(label) is not None)


def scripted_players(game: Game, game_id: str) -> tuple[str, ...]:
    """The registered players, sorted, that can play `game`, a match of `game_id`, when given no argument."""

    def can_play(name: str) -> bool:
        try:
            _construct(name, game_id, game, "")
        except ValueError:
            return False
        return True

    return tuple(name for name in plugins.registered(GROUP) if can_play(name))


def require_playable(label: str, game_id: str, game: Game) -> None:
    """Raise ValueError, in one line, unless `label` is a scripted player that can play `game`, a match of `game_id`."""
    try:
        _construct(label, game_id, game, "")
    except _CannotPlay as error:
        able = ", ".join(scripted_players(game, game_id)) or "none"
        raise ValueError(f"{error}; players that can: {able}") from error


def script(label: str, game_id: str, game: Game, seed: str) -> Script:
    """The scripted player `label` for one role of `game`, a match of `game_id`. It draws from an RNG seeded by `seed`.

    Raises ValueError if it cannot play. The script itself raises UserError, in one line that names the player, if the
    player raises an exception or returns anything but a string.
    """
    play = _construct(label, game_id, game, seed)

    def checked(match: Game) -> str:
        try:
            action = play(match)
        except Exception as error:  # whatever a plug-in raises
            raise UserError(f"player {label!r} raised in {game_id}: {_reason(error)}") from error
        if not isinstance(action, str):
            raise UserError(f"player {label!r} returned a {type(action).__name__} in {game_id}, expected a string")
        return action

    return checked


def _construct(label: str, game_id: str, game: Game, seed: str) -> Script:
    """Call the factory behind `label`. Raises ValueError, and of those _CannotPlay if the factory raised it."""
    name, _, argument = label.partition(":")
    if _is_policy(name):
        raise ValueError(f"player {label!r} is a language model; expected a scripted player: {FORMS}")
    if name not in plugins.registered(GROUP) and _IMPORT_PATH.fullmatch(label):
        attribute, _, argument = argument.partition(":")
        name = f"{name}:{attribute}"
    factory = plugins.load_plugin(GROUP, name, "player")
    try:
        play = factory(game, game_id, seed, argument)
    except ValueError as error:
        raise _CannotPlay(f"player {label!r} cannot play {game_id}: {_reason(error)}") from error
    except Exception as error:  # whatever a plug-in raises
        raise ValueError(f"player {label!r} cannot be constructed for {game_id}: {_reason(error)}") from error
    if not callable(play):
        raise ValueError(f"the factory of player {label!r} returned a {type(play).__name__}, expected a function")
    return play  # type: ignore[no-any-return]


def _is_policy(name: str) -> bool:
    """`policy` and `policy@VERSION` are reserved: they stand for the model being trained and its past versions."""
    return name.partition("@")[0] == POLICY


def _reason(error: Exception) -> str:
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())


# --- the built-in players


def random_player(game: Game, game_id: str, seed: str, argument: str) -> Script:
    """`random`: any legal action, all with equal probability."""
    _require_no_argument(argument)
    if game.legal_actions() is None:
        raise ValueError("the game does not list its legal actions")
    rng = random.Random(seed)
    return lambda match: rng.choice(match.legal_actions() or ())


def perfect_player(game: Game, game_id: str, seed: str, argument: str) -> Script:
    """`perfect`: minimax, or an equilibrium strategy, in games that can be enumerated."""
    _require_no_argument(argument)
    if not (game.spec.exact and isinstance(game, ExactGame)):
        raise ValueError("the game cannot be enumerated")
    rng = random.Random(seed)

    def play(match: Game) -> str:
        from spiral.game.perfect import perfect_policy

        role, actions = match.role_to_move(), match.legal_actions() or ()
        assert role is not None and isinstance(match, ExactGame)
        return rng.choices(actions, perfect_policy(game_id)[role, match.info_state(role)])[0]

    return play


def mcts_player(game: Game, game_id: str, seed: str, argument: str) -> Script:
    """`mcts:NUMBER`: Monte-Carlo tree search with NUMBER simulations per move, in games that provide one."""
    if argument and not (argument.isdecimal() and int(argument) > 0):
        raise ValueError(f"mcts:NUMBER takes a positive number of simulations per move, not {argument!r}")
    bot = None
    if isinstance(game, SearchableGame):
        bot = game.mcts_bot(int(argument or DEFAULT_SIMULATIONS), random.Random(seed).getrandbits(31))
    if bot is None:
        raise ValueError("tree search is for OpenSpiel games of perfect information")
    return bot


def _require_no_argument(argument: str) -> None:
    if argument:
        raise ValueError(f"it takes no argument, got {argument!r}")


def take_random_turn(game: Game, rng: random.Random) -> str:
    """Play and return a random legal action, or a random message in a game of free text.

    Raises IllegalAction if the game accepts none.
    """
    legal = game.legal_actions()
    candidates = [rng.choice(legal)] if legal else rng.sample(TALK, len(TALK))
    for action in candidates[:-1]:
        try:
            game.step(action)
            return action
        except IllegalAction:
            pass
    game.step(candidates[-1])
    return candidates[-1]
