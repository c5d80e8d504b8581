"""Players that are no language model. A script is called with a match and gives the action for the role to move.

random          any legal action, with equal probability
perfect         minimax or an equilibrium, in games that can be enumerated
mcts:NUMBER     Monte-Carlo tree search with so many simulations a move, in OpenSpiel's games of perfect information
"""

import random
import re
from collections.abc import Callable

from spiral.game.protocol import ExactGame, Game, IllegalAction, SearchableGame

# What a player of a game of talk says at random; commands of some of TextArena's games are among it.
TALK = (
    "Hello! What do you think?",
    "offer 1 wheat for 1 wood: shall we?",
    "[Accept]",
    "[Propose] CCAACCCC",
    "[Propose] $1.20",
    "[Offer: 1 Wheat -> 1 Wood]",
    "[Bid on Item 0: 20]",
)

Script = Callable[[Game], str]

LABEL = re.compile(r"random|perfect|mcts:[1-9]\d*")
FORMS = "random, perfect, mcts:NUMBER"


def scripted_players(game: Game) -> tuple[str, ...]:
    """The scripts that can play `game`, of `random`, `perfect` and `mcts`."""
    listed = game.legal_actions() is not None
    exact = game.spec.exact and isinstance(game, ExactGame)
    searchable = isinstance(game, SearchableGame) and game.mcts_bot(1, 0) is not None
    return ("random",) * listed + ("perfect",) * exact + ("mcts",) * searchable


def require_playable(label: str, game_id: str, game: Game) -> None:
    """Raise ValueError unless the script `label` exists and can play `game_id`, of which `game` is a match."""
    if not LABEL.fullmatch(label):
        raise ValueError(f"unknown player {label!r}; known: {FORMS}")
    if label.partition(":")[0] not in scripted_players(game):
        can = ", ".join(scripted_players(game)) or "none"
        raise ValueError(f"player {label!r} cannot play {game_id}; scripts that can: {can}")


def script(label: str, game_id: str, game: Game, seed: str) -> Script:
    """The script behind a label, for matches of `game_id`, of which `game` is one. Its draws come from `seed`.

    Raises ValueError like `require_playable`.
    """
    require_playable(label, game_id, game)
    name, _, number = label.partition(":")
    rng = random.Random(seed)
    if name == "random":
        return lambda match: rng.choice(match.legal_actions() or ())
    if name == "mcts":
        bot = game.mcts_bot(int(number), rng.getrandbits(31)) if isinstance(game, SearchableGame) else None
        assert bot is not None
        return bot
    from spiral.game.perfect import perfect_policy

    table = perfect_policy(game_id)

    def play(match: Game) -> str:
        role, actions = match.role_to_move(), match.legal_actions() or ()
        assert role is not None and isinstance(match, ExactGame)
        return rng.choices(actions, table[role, match.info_state(role)])[0]

    return play


def take_random_turn(game: Game, rng: random.Random) -> str:
    """Play any legal action, or in a game of talk say something. Returns it. Raises IllegalAction if none is taken."""
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
