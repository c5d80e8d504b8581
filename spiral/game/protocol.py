"""The game protocol. One instance is one match: it has no global state, is never reused, and draws from its own RNG."""

from collections.abc import Callable, Iterable
from typing import Protocol, Self, runtime_checkable

from spiral.types import GameSpec


class IllegalAction(ValueError):
    """Raised by `Game.step` for an action that the rules forbid. The message is shown to the player who retries."""


@runtime_checkable
class Game(Protocol):
    """A match of a two-player zero-sum game, constructed from a seed. Seed and actions determine the match.

    A game implements its rules only. Retries, forfeits, the turn cap, timeouts, prompts and parsing belong to the
    framework.
    """

    spec: GameSpec

    def role_to_move(self) -> int | None:
        """The role (0 or 1) that acts next, or None once the match is over."""
        ...

    def observe(self, role: int) -> str:
        """What `role` may see now. Pure: calling it, any number of times, changes nothing."""
        ...

    def legal_actions(self) -> tuple[str, ...] | None:
        """Every action open to the role to move, or None if actions are free text or cannot be listed.

        A game with too many actions to list (bids, say) may list a selection and set `lists_selection = True`.
        """
        ...

    def step(self, action: str) -> None:
        """Play `action` for the role to move. Raises IllegalAction, leaving the state unchanged."""
        ...

    def returns(self) -> tuple[float, float]:
        """The payoff of each role in the game's own units, once the match is over. The two sum to zero."""
        ...


def try_step(game: Game, action: str) -> str | None:
    """Play `action` if it is legal. Returns None, or the reason why it is illegal."""
    try:
        game.step(action)
    except IllegalAction as refused:
        return str(refused)
    return None


def refuse_unlisted(game: Game, action: str) -> None:
    """Raise IllegalAction unless `action` is listed. Games that list their legal actions call this first in `step`."""
    legal = game.legal_actions() or ()
    if action not in legal:
        shown = action if len(action) <= 60 else f"{action[:60]}..."
        raise IllegalAction(f"{shown!r} is not one of: {', '.join(legal) or 'none, the match is over'}.")


@runtime_checkable
class ExactGame(Game, Protocol):
    """A game small enough to enumerate: all chance is in the deal, and the rest is a finite tree."""

    def info_state(self, role: int) -> str:
        """The information state of `role`: equal in two states exactly when `role` cannot distinguish them."""
        ...

    def clone(self) -> Self:
        """An independent copy."""
        ...

    def deals(self) -> Iterable[tuple[float, Self]]:
        """Every possible deal, as (probability, a new match with that deal). The probabilities sum to 1."""
        ...


@runtime_checkable
class SearchableGame(Game, Protocol):
    """A game that provides a tree-search player."""

    def mcts_bot(self, simulations: int, seed: int) -> Callable[[Game], str] | None:
        """A Monte-Carlo tree search with `simulations` per move; None if it would see hidden information."""
        ...
