"""What a game is. One instance is one match: no globals, never reused, all randomness from its own seeded RNG."""

from collections.abc import Callable, Iterable
from typing import Protocol, Self, runtime_checkable

from spiral.types import GameSpec


class IllegalAction(ValueError):
    """Raised by `Game.step` for an action the rules do not allow. The message is shown to the player who retries."""


@runtime_checkable
class Game(Protocol):
    """A match of a two-player zero-sum game, constructed from a seed: same seed and same actions, same match.

    The game knows its rules and nothing else: retries, forfeits, the turn cap, time-outs, prompts and parsing belong to
    the framework.
    """

    spec: GameSpec

    def role_to_move(self) -> int | None:
        """The role (0 or 1) that acts next, or None once the match is over."""
        ...

    def observe(self, role: int) -> str:
        """What `role` may see now. Pure: it can be called any number of times and changes nothing."""
        ...

    def legal_actions(self) -> tuple[str, ...] | None:
        """Every action the role to move may take, or None if actions are free text or cannot be listed.

        Where there are endlessly many (bids, say) a game may list some and set `lists_selection = True`.
        """
        ...

    def step(self, action: str) -> None:
        """Play `action` for the role to move. Raises IllegalAction, and then leaves the state as it was."""
        ...

    def returns(self) -> tuple[float, float]:
        """The payoff of each role in the game's own units, once the match is over. The two sum to zero."""
        ...


def try_step(game: Game, action: str) -> str | None:
    """Hand `action` to the game. Returns None if it takes it, or the reason why it is illegal."""
    try:
        game.step(action)
    except IllegalAction as refused:
        return str(refused)
    return None


def refuse_unlisted(game: Game, action: str) -> None:
    """What `step` begins with in a game that lists its legal actions: raises IllegalAction for any other."""
    legal = game.legal_actions() or ()
    if action not in legal:
        shown = action if len(action) <= 60 else f"{action[:60]}..."
        raise IllegalAction(f"{shown!r} is not one of: {', '.join(legal) or 'none, the match is over'}.")


@runtime_checkable
class ExactGame(Game, Protocol):
    """A game small enough to enumerate: all chance happens in the deal, and the rest is a finite tree."""

    def info_state(self, role: int) -> str:
        """A string that is the same in two states exactly when `role` cannot tell them apart."""
        ...

    def clone(self) -> Self:
        """An independent copy."""
        ...

    def deals(self) -> Iterable[tuple[float, Self]]:
        """Every way the match can begin: (probability, a match freshly dealt that way). The probabilities sum to 1."""
        ...


@runtime_checkable
class SearchableGame(Game, Protocol):
    """A game that brings a player by tree search."""

    def mcts_bot(self, simulations: int, seed: int) -> Callable[[Game], str] | None:
        """A player that simulates so many matches before each action; None where it would see what is hidden."""
        ...
